//! The view from an Envoy's admin port: `/config_dump`, its keys spelled as istioctl spells them.
//!
//! Envoy lists a secret as active also when it refused it and goes on with the last good one; its
//! `/certs` and the statistic `sds.<name>.update_rejected` tell that apart, this dump does not.

use super::SecretError;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest dump that is read.
const MAX_DUMP: usize = 16 << 20;
const PATH: &str = "/config_dump?mask=dynamic_active_secrets,dynamic_warming_secrets";
/// The lists of the dump that are shown, as Envoy spells them.
const LISTS: [&str; 2] = ["dynamic_active_secrets", "dynamic_warming_secrets"];

/// Asks for active and warming secrets.
pub(super) async fn look(address: &str, limit: Duration) -> Result<Value, SecretError> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let failed = |what: String| SecretError::Envoy(address.to_owned(), what);
    let body = tokio::time::timeout(limit, get(address)).await;
    let body = body.unwrap_or_else(|_| Err("no answer in time".into())).map_err(failed)?;
    let dump = serde_json::from_slice(&body).map_err(|error| SecretError::Malformed(error.to_string()))?;
    Ok(pick(&dump))
}

/// The two lists, gathered from whatever parts of the dump have them.
fn pick(dump: &Value) -> Value {
    let parts = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut picked = Map::new();
    for list in LISTS {
        let entries: Vec<_> =
            parts.iter().filter_map(|part| part[list].as_array()).flatten().map(camel_case).collect();
        if !entries.is_empty() {
            picked.insert(camel(list), entries.into());
        }
    }
    picked.into()
}

async fn get(address: &str) -> Result<Bytes, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let exchange = async move {
        let request = Request::get(PATH).header("host", address).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(format!("HTTP status {status}"));
        }
        let body = Limited::new(response.into_body(), MAX_DUMP).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    };
    // The connection does the reading and writing; it ends when the exchange has dropped its sender.
    let (result, _) = tokio::join!(exchange, connection);
    result
}

/// The same value with all keys in camel case.
fn camel_case(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (camel(key), camel_case(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(camel_case).collect(),
        other => other.clone(),
    }
}

fn camel(key: &str) -> String {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut all, word| {
        let mut letters = word.chars();
        all.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        all.extend(letters);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::pick;
    use serde_json::json;

    #[test]
    fn active_and_warming_secrets_are_picked_from_any_part() {
        let dump = json!({ "configs": [{}, {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [{
                "name": "default", "version_info": "v1", "last_updated": "2026-11-22T05:22:50.822Z",
                "secret": { "@type": "t", "tls_certificate": { "certificate_chain": { "inline_bytes": "QQ==" } } },
            }],
            "dynamic_warming_secrets": [{ "name": "ROOTCA", "version_info": "uninitialized" }],
        }] });
        assert_eq!(
            pick(&dump),
            json!({
                "dynamicActiveSecrets": [{
                    "name": "default", "versionInfo": "v1", "lastUpdated": "2026-11-22T05:22:50.822Z",
                    "secret": { "@type": "t", "tlsCertificate": { "certificateChain": { "inlineBytes": "QQ==" } } },
                }],
                "dynamicWarmingSecrets": [{ "name": "ROOTCA", "versionInfo": "uninitialized" }],
            })
        );
        assert_eq!(pick(&json!({})), json!({}));
    }
}
