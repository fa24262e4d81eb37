//! The view from our own socket: one stream as an observer, closed after the first answers.

use super::SecretError;
use crate::sink::sds::{OBSERVER, Resource, TYPE_URL};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};
use signet_certs::clock::rfc3339;
use signet_proto::envoy::config::core::v3::data_source::Specifier;
use signet_proto::envoy::config::core::v3::{DataSource, Node};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use signet_proto::envoy::service::discovery::v3::DiscoveryRequest;
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tonic::transport::Endpoint;

/// Waits for both secrets until `limit`, then shows what came.
pub(super) async fn look(path: &Path, limit: Duration) -> Result<Value, SecretError> {
    let failed = |source| SecretError::Agent { path: path.to_owned(), source };
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).map_err(failed)?;
    let channel = endpoint.connect_timeout(limit).connect().await.map_err(failed)?;
    let yes = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
    let node = Node {
        id: "csr-client-secret".to_owned(),
        metadata: Some(prost_types::Struct { fields: [(OBSERVER.to_owned(), yes)].into() }),
        ..Default::default()
    };
    let names = [Resource::Certificate, Resource::Roots].map(|resource| resource.name().to_owned());
    let request = DiscoveryRequest {
        node: Some(node),
        resource_names: names.into(),
        type_url: TYPE_URL.into(),
        ..Default::default()
    };
    // The request side stays open: its end would end the stream.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let mut found: Vec<Value> = Vec::new();
    let collect = async {
        let mut answers = client.stream_secrets(requests).await?.into_inner();
        while found.len() < 2 {
            let Some(answer) = answers.message().await? else { break };
            for any in answer.resources {
                let secret = Secret::decode(any.value.as_slice())
                    .map_err(|error| SecretError::Malformed(error.to_string()))?;
                found.push(entry(&secret, &answer.version_info));
            }
        }
        Ok::<(), SecretError>(())
    };
    // What came before the limit is worth showing.
    tokio::time::timeout(limit, collect).await.unwrap_or(Ok(()))?;
    if found.is_empty() {
        return Err(SecretError::Nothing);
    }
    Ok(json!({ "dynamicActiveSecrets": found }))
}

fn entry(secret: &Secret, version: &str) -> Value {
    let mut body = json!({ "@type": TYPE_URL, "name": secret.name });
    match &secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            // `redact` fills the key in; its content is not even taken over.
            body["tlsCertificate"] =
                json!({ "certificateChain": inline(&certificate.certificate_chain), "privateKey": {} });
        }
        Some(secret::Type::ValidationContext(context)) => {
            body["validationContext"] = json!({ "trustedCa": inline(&context.trusted_ca) });
        }
        None => {}
    }
    let updated = rfc3339(SystemTime::now());
    json!({ "name": secret.name, "versionInfo": version, "lastUpdated": updated, "secret": body })
}

fn inline(source: &Option<DataSource>) -> Value {
    match source.as_ref().and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => json!({ "inlineBytes": STANDARD.encode(bytes) }),
        Some(Specifier::InlineString(text)) => json!({ "inlineString": text }),
        Some(Specifier::Filename(name)) => json!({ "filename": name }),
        None => json!({}),
    }
}
