//! A caller that knows nothing but the wire contract: generated stubs over TLS.

use std::net::SocketAddr;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use signet_certs::chain::Certificate as Read;
use signet_certs::csr;
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::SpiffeId;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::ca::Ca;
use super::site::{IDENTITY, Site};

/// One request. [`Site::ask`] makes a good one; tests change one thing.
#[derive(Debug, Clone)]
pub struct Ask {
    /// PEM.
    pub csr: String,
    /// Seconds.
    pub lifetime: i64,
    /// Keys and values of the request's metadata.
    pub metadata: Vec<(&'static str, Kind)>,
    /// Sent as a bearer token, if there is one.
    pub token: Option<String>,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// `cert_chain`, element by element.
    pub chain: Vec<String>,
    /// The response's metadata.
    pub headers: MetadataMap,
}

impl Answer {
    /// The leaf, read.
    pub fn leaf(&self) -> Read {
        Read::from_pem(self.chain[0].as_bytes()).unwrap()
    }

    /// The leaf's serial number as people write it.
    pub fn serial(&self) -> String {
        self.leaf().facts().serial.to_string()
    }

    /// Seconds since 1970: from and to.
    pub fn validity(&self) -> (i64, i64) {
        let validity = self.leaf().facts().validity;
        (signet_certs::clock::to_unix(validity.not_before), signet_certs::clock::to_unix(validity.not_after))
    }
}

impl Site {
    /// A good request of the default workload.
    pub fn ask(&self) -> Ask {
        self.ask_for(&self.token("sleep"))
    }

    /// A good request with this token.
    pub fn ask_for(&self, token: &str) -> Ask {
        Ask {
            csr: csr_of(&PrivateKey::generate_p256().unwrap()),
            lifetime: 3600,
            metadata: Vec::new(),
            token: Some(token.to_owned()),
            headers: Vec::new(),
        }
    }

    /// Trust in this site's root, for connections to its CA.
    pub fn tls(&self) -> ClientTlsConfig {
        let root = Certificate::from_pem(self.read("root/root-cert.pem"));
        ClientTlsConfig::new().ca_certificate(root).domain_name("istiod.istio-system.svc")
    }
}

/// A request for this key and the default workload.
pub fn csr_of(key: &PrivateKey) -> String {
    csr::create(key, &SpiffeId::parse(IDENTITY).unwrap()).unwrap()
}

/// A connection to a CA.
#[derive(Debug, Clone)]
pub struct Caller {
    channel: Channel,
}

impl Caller {
    /// Connects to `ca` with trust in its root and no client certificate.
    pub async fn to(site: &Site, ca: &Ca) -> Self {
        Self::connect(ca.listen, site.tls()).await.unwrap()
    }

    /// Connects with a client certificate.
    pub async fn with_certificate(site: &Site, ca: &Ca, chain: &str, key: &str) -> Self {
        let tls = site.tls().identity(Identity::from_pem(chain, key));
        Self::connect(ca.listen, tls).await.unwrap()
    }

    /// Connects from another address of this machine than usual.
    pub async fn from(site: &Site, ca: &Ca, address: [u8; 4]) -> Self {
        let endpoint = Endpoint::from_shared(format!("https://{}", ca.listen)).unwrap();
        let endpoint = endpoint.tls_config(site.tls()).unwrap().local_address(Some(address.into()));
        Self { channel: endpoint.connect().await.unwrap() }
    }

    /// Connects as told.
    pub async fn connect(address: SocketAddr, tls: ClientTlsConfig) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        Ok(Self { channel: endpoint.connect().await? })
    }

    /// The connection, for other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Asks for a certificate.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, Status> {
        let Ask { csr, lifetime, metadata, token, headers } = ask;
        let fields: Vec<_> =
            metadata.into_iter().map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) })).collect();
        let metadata = (!fields.is_empty()).then(|| Struct { fields: fields.into_iter().collect() });
        let message = IstioCertificateRequest { csr, validity_duration: lifetime, metadata };
        let mut request = Request::new(message);
        let bearer = token.map(|token| ("authorization", format!("Bearer {token}")));
        for (name, value) in headers.into_iter().chain(bearer) {
            request.metadata_mut().append(name, value.parse().unwrap());
        }
        let response = IstioCertificateServiceClient::new(self.channel()).create_certificate(request).await?;
        let (headers, message, _) = response.into_parts();
        Ok(Answer { chain: message.cert_chain, headers })
    }
}

/// The stable reason in an error's `google.rpc.ErrorInfo`.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
