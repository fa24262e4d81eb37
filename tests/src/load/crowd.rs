//! Many callers at once: who they are, how they ask, and what they see. [`super::flood`] and [`super::stalled`] are
//! made of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_certs::csr;
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::wire::Encoded;
use super::{Failure, Stage, TOKEN_ISSUER};
use crate::token_issuer::{Algorithm, Object, Subject, TokenIssuer};

/// One workload with its token and its request.
#[derive(Debug, Clone)]
pub struct Member {
    request: IstioCertificateRequest,
    authorization: MetadataValue<Ascii>,
}

impl Member {
    /// Each on a pod of its own, its request for certificates of this lifetime.
    pub fn new(stage: &Stage, namespace: &str, name: &str, lifetime: Duration) -> Result<Self, Failure> {
        Self::of(stage.token_issuer(), namespace, name, lifetime)
    }

    /// One whose token nobody believes: another key signed it.
    pub fn impostors(count: usize) -> Result<Vec<Self>, Failure> {
        let issuer = TokenIssuer::generate(Algorithm::Es256)?;
        let member =
            |number| Self::of(&issuer, "load", &format!("impostor-{number}"), Duration::from_secs(60));
        (0..count).map(member).collect()
    }

    fn of(issuer: &TokenIssuer, namespace: &str, name: &str, lifetime: Duration) -> Result<Self, Failure> {
        let (pod, node) = (Object::named(&format!("{namespace}-{name}")), Object::named("node"));
        let subject = Subject::new(namespace, name).on(pod, node);
        let draft = issuer.draft(TOKEN_ISSUER, "istio-ca", &subject, SystemTime::now());
        let authorization = format!("Bearer {}", issuer.sign(&draft)?).parse()?;
        let id = SpiffeId::workload(&TrustDomain::parse("cluster.local")?, namespace, name)?;
        let csr = csr::create(&PrivateKey::generate_p256()?, &id)?;
        let request =
            IstioCertificateRequest { csr, validity_duration: lifetime.as_secs() as i64, metadata: None };
        Ok(Self { request, authorization })
    }

    /// The request as bytes.
    pub fn encoded(&self) -> Result<Encoded, Failure> {
        Ok(Encoded::new(&self.request, self.authorization.to_str()?))
    }

    /// Asks once; how long it took.
    pub async fn ask(&self, channel: &Channel) -> (Result<(), Status>, Duration) {
        let mut request = Request::new(self.request.clone());
        request.metadata_mut().insert("authorization", self.authorization.clone());
        let began = Instant::now();
        let answer = IstioCertificateServiceClient::new(channel.clone()).create_certificate(request).await;
        (answer.map(|_| ()), began.elapsed())
    }
}

/// The stable reason of a refusal.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| status.code().to_string(), |info| info.reason)
}

/// Connections to the CA under this root (PEM), from this address.
pub async fn connections(
    root: &[u8],
    address: &str,
    from: IpAddr,
    count: usize,
) -> Result<Arc<[Channel]>, Failure> {
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        channels.push(endpoint.local_address(Some(from)).connect().await?);
    }
    Ok(channels.into())
}

/// Does `ask` so often a second, whatever becomes of it, until the end; so many are in flight at the most.
pub async fn open_loop<F>(
    per_second: f64,
    until: Instant,
    in_flight: usize,
    mut ask: impl FnMut(usize) -> F,
) -> usize
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(tokio::sync::Semaphore::new(in_flight));
    let (began, mut sent, mut skipped) = (Instant::now(), 0, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while Instant::now() < until {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * per_second) as usize;
        while sent < due {
            match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let asking = ask(sent);
                    tokio::spawn(async move {
                        asking.await;
                        drop(place);
                    });
                }
                Err(_) => skipped += 1,
            }
            sent += 1;
        }
    }
    skipped
}
