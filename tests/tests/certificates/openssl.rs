//! A bench with the `openssl` program: keys, requests and CAs by others' hands, chains by others' eyes.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use signet_certs::ca::Ca;
use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Folder, ROOT_CERT};
use signet_certs::chain::Certificate;
use signet_certs::check::Bounds;
use signet_certs::clock::whole_seconds;
use signet_certs::key::PrivateKey;
use signet_certs::profile::Profile;
use signet_certs::spiffe_id::SpiffeId;
use signet_certs::template::Names;
use signet_certs::validity::{self, BACKDATE, Validity};
use tempfile::TempDir;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/reviews";

/// Extensions of a CA that stands up to `-x509_strict`.
pub(crate) const CA_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE\n\
    keyUsage=critical,keyCertSign,cRLSign\n\
    subjectKeyIdentifier=hash\n\
    authorityKeyIdentifier=keyid\n";

/// Arguments of `openssl genpkey`.
pub(crate) const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub(crate) const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
pub(crate) const ED25519: &[&str] = &["-algorithm", "ED25519"];
pub(crate) const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub(crate) const RSA_3072: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"];
pub(crate) const RSA_4096: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"];

/// A temporary folder in which `openssl` runs.
pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    /// Runs `openssl`, whatever comes of it.
    pub(crate) fn try_openssl(&self, arguments: &[&str]) -> Output {
        Command::new("openssl")
            .current_dir(self.path())
            .args(arguments)
            .output()
            .expect("the program openssl must be installed: it judges our certificates")
    }

    /// Runs `openssl`, which must succeed; answers its standard output.
    pub(crate) fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let Output { status, stdout, stderr } = self.try_openssl(arguments);
        assert!(status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        stdout
    }

    /// A new private key in a file; answers its DER SubjectPublicKeyInfo as OpenSSL writes it.
    pub(crate) fn key(&self, name: &str, kind: &[&str]) -> Vec<u8> {
        self.openssl(&[&["genpkey", "-out", name], kind].concat());
        self.openssl(&["pkey", "-in", name, "-pubout", "-outform", "DER"])
    }

    pub(crate) fn private_key(&self, name: &str) -> PrivateKey {
        PrivateKey::from_pem(&self.read(name)).unwrap()
    }

    /// A certificate for a key in `KEY` with a subject from a request configuration and these
    /// extensions, signed by the CA in `issuer.pem` and `issuer-key.pem`.
    pub(crate) fn certify(&self, out: &str, key: &str, configuration: &str, extensions: &str) {
        self.write("request.cnf", configuration);
        self.write("extensions.cnf", extensions);
        self.openssl(&["req", "-new", "-config", "request.cnf", "-key", key, "-out", "request.pem"]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "issuer.pem",
            "-CAkey",
            "issuer-key.pem",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions.cnf",
            "-out",
            out,
        ]);
    }

    /// A self-signed root in `issuer.pem` with `issuer-key.pem`, by OpenSSL alone.
    pub(crate) fn issuer(&self, kind: &[&str], extensions: &str) {
        self.key("issuer-key.pem", kind);
        self.write("root.cnf", format!("{}[ca]\n{extensions}", request("CN = Corporate Root\n")));
        self.openssl(&[
            "req",
            "-x509",
            "-new",
            "-config",
            "root.cnf",
            "-extensions",
            "ca",
            "-key",
            "issuer-key.pem",
            "-days",
            "3",
            "-out",
            "issuer.pem",
        ]);
    }

    /// The four files of a `cacerts` folder from the signer in `ca.pem` and `ca-key.pem` under
    /// `issuer.pem`.
    pub(crate) fn cacerts(&self) -> Folder {
        let (signer, root) = (self.read("ca.pem"), self.read("issuer.pem"));
        Folder::from([
            (CA_CERT, signer.clone()),
            (CA_KEY, self.read("ca-key.pem")),
            (CERT_CHAIN, [signer, root.clone()].concat()),
            (ROOT_CERT, root),
        ])
    }

    /// What `openssl verify -x509_strict` says: nothing, or its complaint.
    pub(crate) fn verify(&self, purpose: &str, chain: &Chain) -> Result<(), String> {
        let pem = |members: &[Certificate]| members.iter().map(Certificate::to_pem).collect::<String>();
        self.write("verify-leaf.pem", chain.leaf.to_pem());
        self.write("verify-intermediates.pem", pem(&chain.intermediates));
        self.write("verify-root.pem", chain.root.to_pem());
        let untrusted: &[&str] =
            if chain.intermediates.is_empty() { &[] } else { &["-untrusted", "verify-intermediates.pem"] };
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "verify-root.pem"];
        let output = self.try_openssl(&[&arguments, untrusted, &["verify-leaf.pem"]].concat());
        if output.status.success() {
            Ok(())
        } else {
            Err(format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }

    /// OpenSSL for both purposes of an SVID and webpki without our code between.
    #[track_caller]
    pub(crate) fn assert_accepted(&self, chain: &Chain) {
        for purpose in ["sslserver", "sslclient"] {
            assert_eq!(self.verify(purpose, chain), Ok(()), "{purpose}");
        }
        assert_eq!(chain.webpki(), Ok(()));
    }

    /// `openssl x509 -text`.
    pub(crate) fn text(&self, certificate: &Certificate) -> String {
        self.write("text.pem", certificate.to_pem());
        String::from_utf8_lossy(&self.openssl(&["x509", "-in", "text.pem", "-noout", "-text"])).into_owned()
    }
}

/// A request configuration whose subject has these lines.
pub(crate) fn request(subject: &str) -> String {
    format!("[req]\nprompt=no\ndistinguished_name=dn\n[dn]\n{subject}")
}

/// A leaf and what is above it.
pub(crate) struct Chain {
    pub(crate) leaf: Certificate,
    pub(crate) intermediates: Vec<Certificate>,
    pub(crate) root: Certificate,
}

impl Chain {
    /// What webpki says to the chain, for a server and for a client.
    pub(crate) fn webpki(&self) -> Result<(), webpki::Error> {
        let anchors = [webpki::anchor_from_trusted_cert(self.root.der())?];
        let intermediates: Vec<_> = self.intermediates.iter().map(|member| member.der().clone()).collect();
        let leaf = webpki::EndEntityCert::try_from(self.leaf.der())?;
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            leaf.verify_for_usage(algorithms, &anchors, &intermediates, UnixTime::now(), usage, None, None)?;
        }
        Ok(())
    }
}

/// The validity of a CA that lives for two days from now.
pub(crate) fn two_days() -> Validity {
    let now = whole_seconds(SystemTime::now());
    Validity { not_before: now - BACKDATE, not_after: now + HOUR * 48 }
}

/// A workload's certificate over this public key, as the CA makes it.
pub(crate) fn svid(ca: &Ca, spki: &[u8]) -> Certificate {
    let names = Names::SpiffeId(SpiffeId::parse(IDENTITY).unwrap());
    leaf(ca, Profile::Workload, names, spki)
}

/// A leaf of an hour.
pub(crate) fn leaf(ca: &Ca, profile: Profile, names: Names, spki: &[u8]) -> Certificate {
    let now = SystemTime::now();
    let validity = validity::leaf(now, HOUR, [ca.certificate.facts().validity]).unwrap();
    let template = ca.template(profile, names, spki.to_vec(), validity).unwrap();
    let der = ca.sign(&template, Bounds { now, maximum: HOUR }).unwrap();
    Certificate::from_der(der.to_vec()).unwrap()
}
