//! `csr-client secret`: what a sidecar holds, with the columns of `istioctl proxy-config secret`.
//!
//! It looks from our socket, as an observer that counts for nothing, or from an Envoy's admin port, which
//! shows what Envoy took. Both become the JSON that istioctl prints ([`Dump`]); `table` reads that.
//! Private keys are never shown.

mod envoy;
mod socket;
mod table;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Where to look.
#[derive(Debug, Clone)]
pub enum View {
    /// The agent's own socket.
    Socket(PathBuf),
    /// An Envoy's admin address, `host:port`.
    Envoy(String),
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nobody answers on the socket.
    #[error("cannot reach an agent at {path}", path = path.display())]
    Agent {
        /// The socket.
        path: PathBuf,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The agent ended the stream.
    #[error("the agent refused to answer")]
    Refused(#[from] tonic::Status),
    /// The agent has nothing to show.
    #[error("the agent has no secrets yet")]
    Nothing,
    /// Nobody answers at the admin address.
    #[error("cannot ask the Envoy at {0}: {1}")]
    Envoy(String, String),
    /// An answer that is not what it should be.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
}

/// Secrets in the shape that `istioctl proxy-config secret -o json` prints.
#[derive(Debug, Clone)]
pub struct Dump(Value);

impl Dump {
    /// The JSON, indented.
    pub fn to_json(&self) -> String {
        format!("{:#}", self.0)
    }

    /// The table, judged at `now`.
    pub fn to_table(&self, now: SystemTime) -> String {
        table::render(&self.0, now)
    }
}

/// Looks once; gives up after `limit`.
pub async fn look(view: &View, limit: Duration) -> Result<Dump, SecretError> {
    let mut dump = match view {
        View::Socket(path) => socket::look(path, limit).await?,
        View::Envoy(address) => envoy::look(address, limit).await?,
    };
    redact(&mut dump);
    Ok(Dump(dump))
}

/// Replaces whatever a private key holds.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "privateKey" {
                    *value = json!({ "inlineBytes": STANDARD.encode("[redacted]") });
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::Holder;
    use crate::request::Answer;
    use crate::sink::sds::{Socket, Source, Subscribers, serve};
    use crate::testing::{HOUR, Pki, ended, trust, trust_domain, validity};
    use axum::Router;
    use axum::routing::get;
    use signet_certs::chain::Certificate;
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Cells of a row, which are at least two spaces apart.
    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[tokio::test]
    async fn our_socket_as_istioctl_shows_it_and_leaving_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds");
        let pki = Pki::new();
        let holder = Holder::new(trust_domain(), None);
        let subscribers = Arc::new(Subscribers::default());
        let stop = CancellationToken::new();
        let source = Source {
            served: holder.subscribe(),
            trust_domain: trust_domain(),
            include_roots_in_chain: false,
        };
        let socket = Socket::bind(&path).await.unwrap();
        tokio::spawn(serve(socket, source, subscribers.clone(), Arc::default(), stop.clone()));
        let view = View::Socket(path.clone());
        let nothing = look(&view, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(nothing, SecretError::Nothing));

        let svid = pki.svid(validity(HOUR));
        let facts = svid.leaf().facts().clone();
        holder.take_answer(Answer { svid, trust: trust(&[&pki.root], None) });
        let dump = look(&view, LIMIT).await.unwrap();
        let table = dump.to_table(SystemTime::now());
        let lines: Vec<_> = table.lines().collect();
        let headers =
            ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
        assert_eq!(cells(lines[0]), headers);
        let serial = facts.serial.to_string();
        let (after, before) = (
            signet_certs::clock::rfc3339(facts.validity.not_after),
            signet_certs::clock::rfc3339(facts.validity.not_before),
        );
        assert_eq!(cells(lines[1]), ["default", "Cert Chain", "ACTIVE", "true", &serial, &after, &before]);
        assert_eq!(&cells(lines[2])[..4], ["ROOTCA", "CA", "ACTIVE", "true"]);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].find("SERIAL"), lines[1].find(&serial), "columns are aligned");
        let later = dump.to_table(SystemTime::now() + 2 * HOUR);
        assert_eq!(cells(later.lines().nth(1).unwrap())[3], "false");

        let json: Value = serde_json::from_str(&dump.to_json()).unwrap();
        let entries = json["dynamicActiveSecrets"].as_array().unwrap();
        let certificate = &entries.iter().find(|entry| entry["name"] == "default").unwrap()["secret"];
        let chain = certificate["tlsCertificate"]["certificateChain"]["inlineBytes"].as_str().unwrap();
        let leaf = Certificate::from_pem(&STANDARD.decode(chain).unwrap()).unwrap();
        assert_eq!(leaf.facts().serial, facts.serial);
        assert_eq!(certificate["tlsCertificate"]["privateKey"]["inlineBytes"], "W3JlZGFjdGVkXQ==");
        let roots = &entries.iter().find(|entry| entry["name"] == "ROOTCA").unwrap()["secret"];
        assert!(roots["validationContext"]["trustedCa"]["inlineBytes"].is_string());
        assert!(subscribers.snapshot().is_empty(), "an observer is no subscriber");
        drop(stop.drop_guard());
        let absent = View::Socket(folder.path().join("absent"));
        assert!(matches!(look(&absent, LIMIT).await, Err(SecretError::Agent { .. })));
    }

    /// An admin port that answers this to everything.
    async fn admin(status: u16, body: String) -> View {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        let router = Router::new().route("/config_dump", get(move || async move { (status, body) }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        View::Envoy(address.to_string())
    }

    #[tokio::test]
    async fn an_envoy_s_admin_port_with_ended_warming_and_file_secrets() {
        let pki = Pki::new();
        let svid = pki.svid(ended());
        let dump = json!({ "configs": [{
            "dynamic_active_secrets": [
                { "name": "default", "secret": { "tls_certificate": {
                    "certificate_chain": { "inline_string": svid.chain_pem() },
                    "private_key": { "inline_string": svid.key_pem().as_str() },
                } } },
            ],
            "dynamic_warming_secrets": [
                { "name": "ROOTCA", "version_info": "uninitialized", "secret": { "name": "ROOTCA" } },
            ],
        }] });
        let dump = look(&admin(200, dump.to_string()).await, LIMIT).await.unwrap();
        assert!(!dump.to_json().contains("PRIVATE KEY"), "whatever Envoy shows");
        let table = dump.to_table(SystemTime::now());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            &cells(lines[1])[..5],
            ["default", "Cert Chain", "ACTIVE", "false", &svid.serial().to_string()]
        );
        assert_eq!(cells(lines[2]), ["ROOTCA", "CA", "WARMING", "false", "NA", "NA", "NA"]);
    }

    #[tokio::test]
    async fn answers_that_are_none_are_refused() {
        let error = |view: View| async move { look(&view, LIMIT).await.unwrap_err() };
        assert!(matches!(error(admin(200, "<html>".into()).await).await, SecretError::Malformed(_)));
        assert!(error(admin(503, String::new()).await).await.to_string().contains("503"));
        assert!(matches!(error(View::Envoy("127.0.0.1:1".into())).await, SecretError::Envoy(..)));
    }
}
