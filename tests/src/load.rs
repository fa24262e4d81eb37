//! The load program's measurements: what one certificate costs at the least ([`floor`]), what the real
//! server makes of it over TLS ([`issuing`]), and what the programs take when idle ([`footprint`]).
//!
//! Figures are of this machine at this moment, client and server on the same cores: compare them within one
//! run only. `make bench` prints them all.

pub mod crowd;
pub mod flood;
pub mod floor;
pub mod footprint;
pub mod issuing;
pub mod process;
pub mod reload;
pub mod rsa;
pub mod soak;
pub mod stalled;
pub mod wire;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::programs::program;
use crate::token_issuer::{Algorithm, Subject, TokenIssuer};

pub use process::{Process, memory_of};

/// Anything that ends the run.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Whose tokens the CA under load believes.
pub const TOKEN_ISSUER: &str = "https://load.example";

/// A folder with everything that a CA needs: root, intermediate, token keys.
pub struct Stage {
    folder: tempfile::TempDir,
    issuer: TokenIssuer,
}

impl Stage {
    /// Makes it, with the ceremony program.
    pub fn new() -> Result<Self, Failure> {
        Self::with_intermediates(&["ca"])
    }

    /// Makes it with several intermediates of one root. The CA loads the one in `ca`.
    pub fn with_intermediates(names: &[&str]) -> Result<Self, Failure> {
        Self::with(names, &[])
    }

    /// Makes it with intermediates of this making.
    pub fn with(names: &[&str], flags: &[&str]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        ceremony(&["root-ca", "--out"], &[&path("root")])?;
        for name in names {
            let command = [&["intermediate", "--name", name], flags, &["--root"]].concat();
            ceremony(&command, &[&path("root"), Path::new("--out"), &path(name)])?;
        }
        let issuer = TokenIssuer::generate(Algorithm::Rs256)?;
        std::fs::write(path("jwks.json"), issuer.key_set().to_string())?;
        Ok(Self { folder, issuer })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The root's certificate, in PEM.
    pub fn root(&self) -> Result<Vec<u8>, Failure> {
        Ok(std::fs::read(self.path("root/root-cert.pem"))?)
    }

    /// The issuer of tokens.
    pub fn token_issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    /// A good token of the workload `name`.
    pub fn token(&self, name: &str) -> Result<String, Failure> {
        let subject = Subject::new("load", name);
        let draft = self.issuer.draft(TOKEN_ISSUER, "istio-ca", &subject, SystemTime::now());
        Ok(self.issuer.sign(&draft)?)
    }

    /// Starts the CA on free ports and waits until it listens.
    pub fn start_ca(&self) -> Result<Process, Failure> {
        self.start_ca_on("127.0.0.1:0")
    }

    /// Starts the CA with this issuing port and waits until it listens.
    pub fn start_ca_on(&self, listen: &str) -> Result<Process, Failure> {
        let mut command = Command::new(program("ca-server"));
        command
            .args(["run", "--trust-domain", "cluster.local", "--token-issuer", TOKEN_ISSUER])
            .args(["--listen", listen, "--monitoring", "127.0.0.1:0", "--log-format", "json"])
            .arg("--cacerts")
            .arg(self.path("ca"))
            .arg("--jwks")
            .arg(self.path("jwks.json"))
            .arg("--data")
            .arg(self.path("data"));
        Process::start(command, "issuing listening")
    }

    /// Starts the agent of the workload `name` with these flags and waits for its first certificate; its socket is
    /// `NAME.sock`.
    pub fn start_agent(&self, name: &str, address: &str, flags: &[&str]) -> Result<Process, Failure> {
        let token = self.path(&format!("{name}.token"));
        std::fs::write(&token, self.token(name)?)?;
        let mut command = Command::new(program("csr-client"));
        command
            .args(["run", "--ca", address, "--trust-domain", "cluster.local", "--namespace", "load"])
            .args(["--service-account", name, "--monitoring", "127.0.0.1:0", "--log-format", "json"])
            .args(flags)
            .arg("--ca-root")
            .arg(self.path("ca/root-cert.pem"))
            .arg("--token")
            .arg(token)
            .arg("--sds-socket")
            .arg(self.path(&format!("{name}.sock")))
            .arg("--state")
            .arg(self.path(&format!("{name}-state")));
        Process::start(command, "new certificate")
    }
}

fn ceremony(arguments: &[&str], paths: &[&Path]) -> Result<(), Failure> {
    let status = Command::new(program("certs"))
        .args(arguments)
        .args(paths)
        .stdout(std::process::Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("certs {arguments:?} failed").into()) }
}

/// The value at a share of the way from the smallest to the largest.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}
