//! `ca-server` under test, and its operator's verbs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::process::{Line, Process};
use super::site::{ISSUER, Site};
use crate::programs::program;
use crate::token_issuer::KEY_SET_FILE;

/// A running CA.
#[derive(Debug)]
pub struct Ca {
    /// The program.
    pub process: Process,
    /// The issuing port.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub monitoring: SocketAddr,
    /// The operators' socket.
    pub admin: PathBuf,
}

/// Flags, without their dashes, that differ from the good ones.
pub type Changes<'a> = &'a [(&'a str, &'a str)];

impl Site {
    /// `ca-server VERB` with the contract's flags, changed; relative paths mean this site's folder.
    pub fn ca_command(&self, verb: &str, changes: Changes<'_>) -> Command {
        let mut flags = BTreeMap::from([
            ("cacerts", "cacerts"),
            ("trust-domain", "cluster.local"),
            ("jwks", KEY_SET_FILE),
            ("token-issuer", ISSUER),
            ("audience", "istio-ca"),
            ("data", "data"),
            ("listen", "127.0.0.1:0"),
            ("monitoring", "127.0.0.1:0"),
            ("log-format", "json"),
        ]);
        flags.extend(changes.iter().copied());
        let mut command = Command::new(program("ca-server"));
        command.current_dir(self.folder()).env_clear().arg(verb);
        for (flag, value) in flags {
            command.arg(format!("--{flag}={value}"));
        }
        command
    }

    /// Starts a CA and waits until it is ready.
    pub async fn ca(&self, changes: Changes<'_>) -> Ca {
        self.ca_of(self.ca_command("run", changes)).await
    }

    /// Starts a CA by a command of one's own making and waits until it is ready.
    pub async fn ca_of(&self, command: Command) -> Ca {
        let process = Process::start("ca-server", command);
        let address = |line: Line| line.json["addr"].as_str().unwrap().parse().unwrap();
        let monitoring = address(process.message("monitoring listening").await);
        let admin = process.message("admin listening").await;
        let admin = self.path(admin.json["path"].as_str().unwrap());
        let listen = address(process.message("issuing listening").await);
        process.message("ready").await;
        Ca { process, listen, monitoring, admin }
    }

    /// Runs `ca-server VERB`, which ends by itself; answers its exit code and standard error.
    pub async fn ca_ends(&self, verb: &str, changes: Changes<'_>) -> (i32, String) {
        let (status, log) = Process::start("ca-server", self.ca_command(verb, changes)).ended().await;
        let text: String = log.into_iter().map(|line| line.text + "\n").collect();
        (status.code().unwrap(), text)
    }

    /// An operator's verb that needs no running server, such as `log verify --data data`.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("ca-server"));
        command.current_dir(self.folder()).env_clear().args(arguments).output().unwrap()
    }
}

impl Ca {
    /// An operator's verb, asked of this server.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("ca-server"));
        command.env_clear().env("SIGNET_ADMIN_SOCKET", &self.admin).args(arguments).output().unwrap()
    }

    /// The JSON that a verb prints; it must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&done(self.operator(&[arguments, &["-o", "json"]].concat()))).unwrap()
    }

    /// Records of the issuance log, with these flags of `log list`.
    pub fn records(&self, flags: &[&str]) -> Vec<Value> {
        records(self.operator(&[&["log", "list", "-o", "json"], flags].concat()))
    }
}

/// The standard output of a verb that must succeed.
pub fn done(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "exit code {:?}: {stderr}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and standard error of a verb that must fail.
pub fn failed(output: &Output) -> (i32, String) {
    assert!(!output.status.success(), "it succeeded: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The records that `log list -o json` printed, one a line.
pub fn records(output: Output) -> Vec<Value> {
    done(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
