//! `csr-client` under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use signet_certs::chain::Certificate;

use super::ca::Changes;
use super::http;
use super::process::Process;
use super::site::Site;
use crate::programs::program;

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The program.
    pub process: Process,
    /// Metrics and readiness.
    pub monitoring: SocketAddr,
    /// Where sidecars find their secrets.
    pub sds: PathBuf,
    /// Where files are written.
    pub output: PathBuf,
}

impl Site {
    /// `csr-client VERB` for a service account with the contract's flags, changed. Its token is written; its
    /// folder `NAME` is this site's.
    pub fn agent_command(
        &self,
        verb: &str,
        ca: SocketAddr,
        service_account: &str,
        changes: Changes<'_>,
    ) -> Command {
        let token = self.token_file(service_account);
        let (ca, output) = (ca.to_string(), format!("{service_account}/certs"));
        let mut flags = BTreeMap::from([
            ("ca", ca.as_str()),
            ("ca-root", "root/root-cert.pem"),
            ("token", token.to_str().unwrap()),
            ("trust-domain", "cluster.local"),
            ("namespace", "default"),
            ("service-account", service_account),
            ("output-certs", output.as_str()),
            ("ttl", "1h"),
        ]);
        flags.extend(changes.iter().copied());
        let mut command = Command::new(program("csr-client"));
        command.current_dir(self.folder()).env_clear().arg(verb);
        for (flag, value) in flags {
            command.arg(format!("--{flag}={value}"));
        }
        command
    }

    /// `csr-client run` as [`Site::agent`] starts it.
    pub fn agent_run(&self, ca: SocketAddr, service_account: &str, changes: Changes<'_>) -> Command {
        let sds = format!("{service_account}/sds.sock");
        let more = [("sds-socket", sds.as_str()), ("monitoring", "127.0.0.1:0"), ("log-format", "json")];
        self.agent_command("run", ca, service_account, &[&more, changes].concat())
    }

    /// Starts an agent and waits until it serves secrets, which may be none yet.
    pub async fn agent(&self, ca: SocketAddr, service_account: &str, changes: Changes<'_>) -> Agent {
        self.agent_of(service_account, self.agent_run(ca, service_account, changes)).await
    }

    /// The same with a command of one's own making.
    pub async fn agent_of(&self, service_account: &str, command: Command) -> Agent {
        let process = Process::start(&format!("csr-client of {service_account}"), command);
        let monitoring = process.message("monitoring listening").await;
        let monitoring = monitoring.json["addr"].as_str().unwrap().parse().unwrap();
        process.message("sds listening").await;
        let output = self.path(&format!("{service_account}/certs"));
        let sds = self.path(&format!("{service_account}/sds.sock"));
        Agent { process, monitoring, sds, output }
    }
}

impl Agent {
    /// Waits for the first certificate; answers its serial number.
    pub async fn certificate(&self) -> String {
        self.certificate_after(0).await
    }

    /// Waits for a certificate that is logged from line `from` on; answers its serial number.
    pub async fn certificate_after(&self, from: usize) -> String {
        let wanted = |line: &super::process::Line| line.message() == "new certificate";
        let line = self.process.line_from(from, "a new certificate", wanted).await;
        line.json["serial"].as_str().unwrap().to_owned()
    }

    /// Whether `/ready` says so.
    pub fn is_ready(&self) -> bool {
        http::get(self.monitoring, "/ready").0 == 200
    }

    /// The certificates in one of its files.
    pub fn file(&self, name: &str) -> Vec<Certificate> {
        Certificate::all_from_pem(&std::fs::read(self.output.join(name)).unwrap()).unwrap()
    }

    /// `csr-client secret`, looking from this agent's socket.
    pub fn secret(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("csr-client"));
        command.env_clear().arg("secret").arg("--sds-socket").arg(&self.sds).args(arguments).output().unwrap()
    }
}
