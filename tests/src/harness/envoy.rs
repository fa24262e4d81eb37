//! A real Envoy under test.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use super::process::Process;
use super::site::Site;
use super::{eventually, http};
use crate::programs::tool;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The program.
    pub process: Process,
    /// Its admin port.
    pub admin: SocketAddr,
}

impl Site {
    /// Starts an Envoy in this site's folder and waits until its listeners are open, which they are once
    /// all secrets have come. Ports in `configuration` may be 0.
    pub async fn envoy(&self, name: &str, configuration: &str) -> Envoy {
        let (file, admin) = (self.path(&format!("{name}.yaml")), self.path(&format!("{name}.admin")));
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(tool("envoy", "bin/envoy"));
        command.current_dir(self.folder()).arg("-c").arg(&file).arg("--admin-address-path").arg(&admin);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "50"]);
        let process = Process::start(&format!("envoy of {name}"), command);
        let address = async || std::fs::read_to_string(&admin).ok()?.trim().parse().ok();
        let admin = eventually("an admin port", address).await;
        let envoy = Envoy { process, admin };
        eventually("a live Envoy", async || (http::get(admin, "/ready").0 == 200).then_some(())).await;
        envoy
    }
}

impl Envoy {
    /// Where the listener of this name is open.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        eventually("an open listener", async || {
            let (_, text) = http::get(self.admin, "/listeners?format=json");
            let listeners: Value = serde_json::from_str(&text).ok()?;
            let all = listeners["listener_statuses"].as_array()?;
            let address = &all.iter().find(|one| one["name"] == name)?["local_address"]["socket_address"];
            format!("{}:{}", address["address"].as_str()?, address["port_value"]).parse().ok()
        })
        .await
    }
}
