//! A temporary folder with everything that a CA and its callers need: a root, an intermediate in `cacerts`,
//! the key set of a token issuer. Good by default; a test changes one thing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use signet_certs::chain::Certificate;
use tempfile::TempDir;

use crate::programs::program;
use crate::token_issuer::{Algorithm, Draft, KEY_SET_FILE, Object, Subject, TokenIssuer, write_token};

/// Who issues the tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The workload that asks, unless a test says otherwise.
pub const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/sleep";

/// One issuer for all tests of a binary: RSA keys take long to make.
pub fn token_issuer() -> &'static TokenIssuer {
    static ISSUER: OnceLock<TokenIssuer> = OnceLock::new();
    ISSUER.get_or_init(|| TokenIssuer::generate(Algorithm::Rs256).unwrap())
}

/// The folder; it goes with this value.
pub struct Site {
    folder: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::with_intermediate_for("3650d")
    }
}

impl Site {
    /// A ceremony as an administrator does it, with an intermediate of this lifetime.
    pub fn with_intermediate_for(lifetime: &str) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        site.certs(&["root-ca", "--out", "root"]);
        site.intermediate("cacerts", lifetime);
        let key_set = token_issuer().key_set().to_string();
        std::fs::write(site.path(KEY_SET_FILE), key_set).unwrap();
        site
    }

    /// Another intermediate of this site's root.
    pub fn intermediate(&self, folder: &str, lifetime: &str) {
        let name = ["intermediate", "--root", "root", "--name", "cluster1"];
        self.certs(&[&name[..], &["--out", folder, "--lifetime", lifetime]].concat());
    }

    /// Runs the program `certs` in the folder.
    pub fn certs(&self, arguments: &[&str]) {
        let output = Command::new(program("certs")).current_dir(self.folder()).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "certs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The certificates in a file.
    pub fn certificates(&self, name: &str) -> Vec<Certificate> {
        Certificate::all_from_pem(self.read(name).as_bytes()).unwrap()
    }

    /// A good token of the default workload, to change one thing in.
    pub fn draft(&self) -> Draft {
        draft("sleep")
    }

    /// A token for a service account in the namespace `default`.
    pub fn token(&self, service_account: &str) -> String {
        token_issuer().sign(&draft(service_account)).unwrap()
    }

    /// Such a token in a file.
    pub fn token_file(&self, service_account: &str) -> PathBuf {
        let path = self.path(&format!("{service_account}.token"));
        write_token(&path, &self.token(service_account)).unwrap();
        path
    }
}

fn draft(service_account: &str) -> Draft {
    let (pod, node) = (Object::named(&format!("{service_account}-0")), Object::named("node-1"));
    let subject = Subject::new("default", service_account).on(pod, node);
    token_issuer().draft(ISSUER, "istio-ca", &subject, SystemTime::now())
}
