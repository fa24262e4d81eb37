//! What the tests share: a small PKI that can also sign nonsense, and a CA over real TLS that does what a
//! test tells it to, lies included.

#![allow(clippy::unwrap_used)]

mod liar;

use crate::config::{Ca, CaRoot, Config, Monitoring, Renewal};
use crate::identity::Svid;
use crate::trust::{Trust, Version};
use liar::Liar;
pub(crate) use liar::Lie;
use prost::Message;
use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::chain::Certificate;
use signet_certs::crl::Crls;
use signet_certs::csr::VerifiedCsr;
use signet_certs::key::PrivateKey;
use signet_certs::profile::Profile;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_certs::template::{Names, Template};
use signet_certs::validity::Validity;
use signet_certs::{clock, name};
use signet_proto::envoy::config::core::v3::data_source::Specifier;
use signet_proto::envoy::config::core::v3::{DataSource, Node};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use signet_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::google::rpc;
use signet_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use signet_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use signet_proto::signet::trust::v1 as proto;
use signet_proto::signet::trust::v1::trust_distribution_server::{
    TrustDistribution, TrustDistributionServer,
};
use signet_service::logging::Log;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::DropGuard;
use tonic::metadata::MetadataMap;
use tonic::transport::{Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

pub(crate) fn reviews() -> SpiffeId {
    SpiffeId::workload(&trust_domain(), "default", "reviews").unwrap()
}

/// Valid from two minutes ago until `left` from now, as CAs set it.
pub(crate) fn validity(left: Duration) -> Validity {
    let now = clock::whole_seconds(SystemTime::now());
    Validity { not_before: now - Duration::from_secs(120), not_after: now + left }
}

pub(crate) fn ended() -> Validity {
    let now = clock::whole_seconds(SystemTime::now());
    Validity { not_before: now - HOUR, not_after: now - Duration::from_secs(2) }
}

/// A key and its certificate.
pub(crate) struct Authority {
    key: PrivateKey,
    pub(crate) certificate: Certificate,
}

/// A root and an intermediate under it.
pub(crate) struct Pki {
    pub(crate) root: Authority,
    pub(crate) intermediate: Authority,
}

impl Authority {
    pub(crate) fn root(common_name: &str) -> Self {
        let key = PrivateKey::generate_p256().unwrap();
        let subject = name::ca_name("Signet", None, common_name);
        let issuer = (subject.clone(), signet_certs::key::key_identifier(key.spki()));
        let names = Names::Subject(subject);
        let certificate = sign(&key, issuer, Profile::Root, names, key.spki(), validity(24 * HOUR));
        Self { key, certificate }
    }

    pub(crate) fn sign(
        &self,
        profile: Profile,
        names: Names,
        spki: &[u8],
        validity: Validity,
    ) -> Certificate {
        let issuer = (self.certificate.facts().subject.clone(), self.certificate.key_id());
        sign(&self.key, issuer, profile, names, spki, validity)
    }
}

impl Authority {
    /// An empty CRL, DER, of `lifetime` from now.
    pub(crate) fn crl(&self, lifetime: Duration) -> Vec<u8> {
        let time = |time: SystemTime| {
            let time = time::OffsetDateTime::from(time);
            let (month, day) = (u8::from(time.month()), time.day());
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            let text = format!("{}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z", time.year());
            der(0x18, &[text.as_bytes()])
        };
        let (now, name) = (SystemTime::now(), &self.certificate.facts().subject);
        let algorithm = self.key.algorithm_identifier();
        let tbs = der(0x30, &[algorithm, name, &time(now), &time(now + lifetime)]);
        let bits = der(0x03, &[&[0], self.key.sign(&tbs).unwrap().as_slice()]);
        der(0x30, &[&tbs, algorithm, &bits])
    }

    /// `certificate` with bytes of it replaced by others, as many, and signed again.
    pub(crate) fn sign_changed(&self, certificate: &Certificate, from: &[u8], to: &[u8]) -> Certificate {
        let der = certificate.der();
        let at = der.windows(from.len()).position(|window| window == from).unwrap();
        let mut der = der.to_vec();
        der[at..at + to.len()].copy_from_slice(to);
        assert_eq!(from.len(), to.len());
        // Two headers stand before the signed part: its own length is in the second.
        let begin = header(&der);
        let tbs = &der[begin..begin + header(&der[begin..]) + content(&der[begin..])];
        seal(&self.key, tbs)
    }
}

/// Bytes of the header of a DER value.
fn header(der: &[u8]) -> usize {
    2 + if der[1] < 0x80 { 0 } else { usize::from(der[1] & 0x7f) }
}

/// Bytes of its content.
fn content(der: &[u8]) -> usize {
    match der[1] {
        short @ ..0x80 => usize::from(short),
        _ => der[2..header(der)].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    }
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with_intermediate(validity(24 * HOUR))
    }

    pub(crate) fn with_intermediate(validity: Validity) -> Self {
        let root = Authority::root("Root");
        let key = PrivateKey::generate_p256().unwrap();
        let names = Names::Subject(name::ca_name("Signet", None, "Intermediate"));
        let profile = Profile::Intermediate { path_length: 0 };
        let certificate = root.sign(profile, names, key.spki(), validity);
        Self { root, intermediate: Authority { key, certificate } }
    }

    pub(crate) fn leaf(&self, spki: &[u8], id: &SpiffeId, validity: Validity) -> Certificate {
        self.intermediate.sign(Profile::Workload, Names::SpiffeId(id.clone()), spki, validity)
    }

    /// What a good CA answers, each part an element.
    pub(crate) fn chain(&self, leaf: &Certificate) -> Vec<String> {
        vec![leaf.to_pem(), self.intermediate.certificate.to_pem(), self.root.certificate.to_pem()]
    }

    /// What a good CA answers to `request`.
    pub(crate) fn answer(&self, request: &IstioCertificateRequest) -> Vec<String> {
        let csr = VerifiedCsr::from_pem(&request.csr).unwrap();
        let lifetime = Duration::from_secs(request.validity_duration.unsigned_abs());
        self.chain(&self.leaf(csr.spki(), &reviews(), validity(lifetime)))
    }

    /// A certificate as `request` would have put it together.
    pub(crate) fn svid(&self, validity: Validity) -> Svid {
        let key = PrivateKey::generate_p256().unwrap();
        let leaf = self.leaf(key.spki(), &reviews(), validity);
        let intermediates = vec![self.intermediate.certificate.clone()];
        Svid::new(leaf, intermediates, key.to_pkcs8_pem(), SystemTime::now())
    }

    fn serving(&self) -> Identity {
        let key = PrivateKey::generate_p256().unwrap();
        let names = Names::Hosts { dns: vec!["localhost".into()], ip: vec!["127.0.0.1".parse().unwrap()] };
        let leaf = self.intermediate.sign(Profile::Serving, names, key.spki(), validity(HOUR));
        let chain = leaf.to_pem() + &self.intermediate.certificate.to_pem();
        Identity::from_pem(chain, key.to_pkcs8_pem().as_bytes())
    }
}

pub(crate) fn trust(roots: &[&Authority], version: Option<(u64, u64)>) -> Trust {
    let roots = roots.iter().map(|root| root.certificate.clone()).collect();
    Trust {
        version: version.map(|(epoch, sequence)| Version { epoch, sequence }),
        bundles: Bundles::of(trust_domain(), TrustBundle::new(roots)),
        crls: Default::default(),
        first_contact: "test".into(),
    }
}

/// The same as the CA would state it.
pub(crate) fn statement(roots: &[&Authority], epoch: u64, sequence: u64) -> proto::Trust {
    let trust = trust(roots, None);
    let bundle = trust.bundles.get(&trust_domain()).unwrap();
    let roots = bundle.roots().iter().map(|root| root.der().to_vec()).collect();
    let bundles = vec![proto::TrustBundle { trust_domain: "cluster.local".into(), roots }];
    proto::Trust { epoch, sequence, digest: trust.bundles.digest().to_vec(), bundles, ..Default::default() }
}

/// The statement with these CRLs in it.
pub(crate) fn with_crls(statement: proto::Trust, crls: &[Vec<u8>]) -> proto::Trust {
    let digest = Crls::from_der(crls.to_vec()).unwrap().digest();
    proto::Trust { crls: crls.to_vec(), crls_digest: digest.map(Vec::from).unwrap_or_default(), ..statement }
}

fn sign(
    key: &PrivateKey,
    (issuer, issuer_key_id): (Vec<u8>, Vec<u8>),
    profile: Profile,
    names: Names,
    spki: &[u8],
    validity: Validity,
) -> Certificate {
    let template = Template {
        profile,
        serial: Serial::random().unwrap(),
        validity,
        names,
        spki: spki.to_vec(),
        issuer,
        issuer_key_id,
        signature_algorithm: key.algorithm_identifier().to_vec(),
    };
    // Past `check`, which would refuse the ended certificates that some tests need.
    seal(key, &template.encode().unwrap())
}

fn seal(key: &PrivateKey, tbs: &[u8]) -> Certificate {
    let signature = key.sign(tbs).unwrap();
    let bits = der(0x03, &[&[0], signature.as_slice()]);
    Certificate::from_der(der(0x30, &[tbs, key.algorithm_identifier(), &bits])).unwrap()
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = vec![tag, 0x82, length[0], length[1]];
    match length {
        [0, low] if low < 0x80 => out = vec![tag, low],
        [0, low] => out = vec![tag, 0x81, low],
        _ => {}
    }
    out.extend(content);
    out
}

/// What the CA does with one request.
pub(crate) type Behaviour = Box<dyn FnMut(&IstioCertificateRequest) -> Result<Vec<String>, Status> + Send>;

/// One request as the CA saw it.
pub(crate) struct Seen {
    pub(crate) headers: MetadataMap,
    pub(crate) request: IstioCertificateRequest,
}

/// A CA on a port of its own; it ends when it is dropped.
pub(crate) struct FakeCa {
    pub(crate) pki: Arc<Pki>,
    pub(crate) address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    /// What the wire says instead of any of it.
    lie: Arc<Mutex<Option<Lie>>>,
    /// Every certificate request, in order.
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    /// What the trust watch says; `None`: there is no such RPC.
    pub(crate) trust: watch::Sender<Option<proto::Trust>>,
    /// Every message on the trust watch.
    pub(crate) stated: mpsc::UnboundedReceiver<proto::WatchRequest>,
    _stop: DropGuard,
}

impl FakeCa {
    /// A CA that issues what is asked.
    pub(crate) async fn start() -> Self {
        let pki = Arc::new(Pki::new());
        let good = pki.clone();
        let behaviour: Behaviour = Box::new(move |request| Ok(good.answer(request)));
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (see, seen) = mpsc::unbounded_channel();
        let (state, stated) = mpsc::unbounded_channel();
        let trust = watch::Sender::new(None);
        let service = Service { behaviour: behaviour.clone(), see, trust: trust.clone(), state };
        let lie = Arc::new(Mutex::new(None));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = tokio_util::sync::CancellationToken::new();
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(pki.serving()))
            .unwrap()
            .add_service(Liar {
                honest: IstioCertificateServiceServer::new(service.clone()),
                lie: lie.clone(),
            })
            .add_service(TrustDistributionServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                result = server => result.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        Self { pki, address, behaviour, lie, seen, trust, stated, _stop: stop.drop_guard() }
    }

    /// From now on the CA does this.
    pub(crate) fn behave(
        &self,
        behaviour: impl FnMut(&IstioCertificateRequest) -> Result<Vec<String>, Status> + Send + 'static,
    ) {
        *self.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    /// From now on this is what every certificate request is answered.
    pub(crate) fn lie(&self, lie: Lie) {
        *self.lie.lock().unwrap() = Some(lie);
    }

    /// From now on the CA issues what is asked.
    pub(crate) fn recover(&self) {
        *self.lie.lock().unwrap() = None;
        let pki = self.pki.clone();
        self.behave(move |request| Ok(pki.answer(request)));
    }

    /// A configuration for this CA, with everything in `folder`.
    pub(crate) fn config(&self, folder: &Path) -> Config {
        std::fs::write(folder.join("token"), "header.claims.signature\n").unwrap();
        std::fs::write(folder.join("ca-root.pem"), self.pki.root.certificate.to_pem()).unwrap();
        Config {
            ca: Ca {
                url: format!("https://{}", self.address),
                name: "127.0.0.1".into(),
                root: CaRoot::File(folder.join("ca-root.pem")),
                cluster_id: "Kubernetes".into(),
                timeout: Duration::from_secs(5),
            },
            renew_with_certificate: false,
            token: folder.join("token"),
            spiffe_id: reviews(),
            ttl: HOUR,
            renewal: Renewal { ratio: 0.5, jitter: 0.0 },
            sds_socket: Some(folder.join("sds")),
            output_certs: Some(folder.join("certs")),
            include_roots_in_chain: false,
            state: Some(folder.join("state")),
            monitoring: Monitoring { address: "127.0.0.1:0".parse().unwrap(), asked: true },
            log: Log { json: false, level: tracing::Level::INFO },
        }
    }
}

#[derive(Clone)]
struct Service {
    behaviour: Arc<Mutex<Behaviour>>,
    see: mpsc::UnboundedSender<Seen>,
    trust: watch::Sender<Option<proto::Trust>>,
    state: mpsc::UnboundedSender<proto::WatchRequest>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let result = (self.behaviour.lock().unwrap())(&request);
        let _ = self.see.send(Seen { headers, request });
        match result {
            // No answer at all.
            Ok(chain) if chain.is_empty() => std::future::pending().await,
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(status) => Err(status),
        }
    }
}

#[tonic::async_trait]
impl TrustDistribution for Service {
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut trust = self.trust.subscribe();
        if trust.borrow().is_none() {
            return Err(Status::unimplemented("unknown service"));
        }
        let (answers, receiver) = mpsc::channel(1);
        let mut requests = request.into_inner();
        let state = self.state.clone();
        tokio::spawn(async move {
            trust.mark_changed();
            loop {
                tokio::select! {
                    message = requests.message() => match message {
                        Ok(Some(message)) => drop(state.send(message)),
                        _ => return,
                    },
                    _ = trust.changed() => {
                        let trust = trust.borrow_and_update().clone();
                        // Taken away: the stream ends.
                        if trust.is_none() {
                            return;
                        }
                        let _ = answers.send(Ok(proto::WatchResponse { trust })).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// An Envoy as far as one stream shows it.
pub(crate) struct Envoy {
    requests: mpsc::Sender<DiscoveryRequest>,
    pub(crate) answers: Streaming<DiscoveryResponse>,
}

impl Envoy {
    /// Opens a stream as `node` and asks for these names.
    pub(crate) async fn open(socket: &Path, node: &str, names: &[&str]) -> Self {
        let first = DiscoveryRequest {
            node: Some(Node { id: node.to_owned(), ..Default::default() }),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        Self::open_with(socket, first).await.unwrap()
    }

    /// The same, as soon as somebody listens.
    pub(crate) async fn open_when_there(socket: &Path, node: &str, names: &[&str]) -> Self {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::task::yield_now().await;
        }
        Self::open(socket, node, names).await
    }

    pub(crate) async fn open_with(socket: &Path, first: DiscoveryRequest) -> Result<Self, Status> {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(channel);
        let answers = client.stream_secrets(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// The next response's secrets by name, with its nonce.
    pub(crate) async fn next(&mut self) -> Sent {
        let answer = self.answers.message().await.unwrap().unwrap();
        let secrets = answer.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap());
        Sent { secrets: secrets.collect(), nonce: answer.nonce }
    }

    /// Applies a response, or asks with its nonce for other names.
    pub(crate) async fn accept(&self, names: &[&str], nonce: &str) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let nonce = nonce.to_owned();
        let request = DiscoveryRequest { resource_names: names, response_nonce: nonce, ..Default::default() };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn reject(&self, names: &[&str], nonce: &str, reason: &str) {
        let error = Some(rpc::Status { code: 3, message: reason.to_owned(), details: vec![] });
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let nonce = nonce.to_owned();
        let request = DiscoveryRequest {
            resource_names: names,
            response_nonce: nonce,
            error_detail: error,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

/// One response.
pub(crate) struct Sent {
    pub(crate) secrets: Vec<Secret>,
    pub(crate) nonce: String,
}

impl Sent {
    pub(crate) fn names(&self) -> Vec<&str> {
        self.secrets.iter().map(|secret| secret.name.as_str()).collect()
    }

    /// Chain and key of `default`, as PEM.
    pub(crate) fn certificate(&self) -> (String, String) {
        let found = self.secrets.iter().find_map(|secret| match &secret.r#type {
            Some(secret::Type::TlsCertificate(found)) => Some(found),
            _ => None,
        });
        let found = found.unwrap();
        (inline(&found.certificate_chain), inline(&found.private_key))
    }

    /// The certificates of `ROOTCA`.
    pub(crate) fn roots(&self) -> Vec<Certificate> {
        let found = self.secrets.iter().find_map(|secret| match &secret.r#type {
            Some(secret::Type::ValidationContext(found)) => Some(found),
            _ => None,
        });
        Certificate::all_from_pem(inline(&found.unwrap().trusted_ca).as_bytes()).unwrap()
    }

    /// Serial of the leaf of `default`.
    pub(crate) fn serial(&self) -> Serial {
        Certificate::from_pem(self.certificate().0.as_bytes()).unwrap().facts().serial.clone()
    }
}

fn inline(source: &Option<DataSource>) -> String {
    match source.as_ref().unwrap().specifier.as_ref().unwrap() {
        Specifier::InlineBytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?} is not inline bytes"),
    }
}
