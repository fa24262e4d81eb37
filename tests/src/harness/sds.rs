//! A sidecar's side of secret discovery: one stream for one secret, as Envoy opens them.

use std::path::Path;

use hyper_util::rt::TokioIo;
use prost::Message;
use signet_certs::chain::Certificate;
use signet_proto::envoy::config::core::v3::data_source::Specifier;
use signet_proto::envoy::config::core::v3::{DataSource, Node};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use signet_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use signet_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::google::rpc;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tower::service_fn;

use super::PATIENCE;

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A connection to an agent's socket.
pub async fn connect(socket: &Path) -> Channel {
    connect_by(socket, Endpoint::from_static("http://agent")).await
}

/// A connection whose streams hold no more than this many bytes that were not read.
pub async fn connect_narrow(socket: &Path, window: u32) -> Channel {
    connect_by(socket, Endpoint::from_static("http://agent").initial_stream_window_size(window)).await
}

async fn connect_by(socket: &Path, endpoint: Endpoint) -> Channel {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// A stream that is subscribed to one secret.
pub struct Subscription {
    name: String,
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    accepted: String,
}

/// What was pushed.
#[derive(Debug, Clone)]
pub struct Push {
    nonce: String,
    version: String,
    /// The secret.
    pub secret: Secret,
}

impl Subscription {
    /// Subscribes to `name` as the node `node`.
    pub async fn open(channel: &Channel, node: &str, name: &str) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let node = Node { id: node.to_owned(), cluster: "tests".to_owned(), metadata: None };
        let first = DiscoveryRequest {
            node: Some(node),
            resource_names: vec![name.to_owned()],
            type_url: TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(first).unwrap();
        let mut client = SecretDiscoveryServiceClient::new(channel.clone());
        let responses = client.stream_secrets(UnboundedReceiverStream::new(outgoing)).await.unwrap();
        Self { name: name.to_owned(), requests, responses: responses.into_inner(), accepted: String::new() }
    }

    /// The next push, or how the stream ended.
    pub async fn next(&mut self) -> Result<Push, Status> {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("a push within patience");
        let response = message?.ok_or_else(|| Status::ok("the stream ended"))?;
        assert_eq!((response.type_url.as_str(), response.resources.len()), (TYPE_URL, 1));
        let secret = Secret::decode(response.resources[0].value.as_slice()).unwrap();
        Ok(Push { nonce: response.nonce, version: response.version_info, secret })
    }

    /// Takes a push.
    pub fn ack(&mut self, push: &Push) {
        self.accepted = push.version.clone();
        self.answer(push, None);
    }

    /// Refuses a push.
    pub fn nack(&mut self, push: &Push, message: &str) {
        self.answer(push, Some(rpc::Status { code: 13, message: message.to_owned(), ..Default::default() }));
    }

    fn answer(&self, push: &Push, error_detail: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            version_info: self.accepted.clone(),
            resource_names: vec![self.name.clone()],
            type_url: TYPE_URL.to_owned(),
            response_nonce: push.nonce.clone(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).unwrap();
    }
}

impl Push {
    /// The certificates in it: a chain or roots.
    pub fn certificates(&self) -> Vec<Certificate> {
        let source = match self.secret.r#type.as_ref().unwrap() {
            Type::TlsCertificate(pair) => pair.certificate_chain.as_ref(),
            Type::ValidationContext(context) => context.trusted_ca.as_ref(),
        };
        Certificate::all_from_pem(&inline(source)).unwrap()
    }

    /// The private key in it, PEM.
    pub fn private_key(&self) -> Vec<u8> {
        match self.secret.r#type.as_ref().unwrap() {
            Type::TlsCertificate(pair) => inline(pair.private_key.as_ref()),
            Type::ValidationContext(_) => panic!("roots have no private key"),
        }
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> String {
        self.certificates()[0].facts().serial.to_string()
    }
}

/// The bytes of a source, which must have them within.
pub fn inline(source: Option<&DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        other => panic!("expected inline bytes, found {other:?}"),
    }
}
