//! Issuing over TLS by the real server, records durable: a fixed number of requests kept in flight on one
//! connection for a fixed time, by CSRs and tokens made beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signet_certs::csr;
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::{Failure, Process, Stage, percentile};

/// Callers, each with its own token and CSR.
const CALLERS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const TIME: Duration = Duration::from_secs(4);

/// What came of one setting.
pub struct Issued {
    /// Requests kept in flight.
    pub in_flight: usize,
    /// Certificates a second.
    pub per_second: f64,
    /// The server's processor time for a thousand.
    pub cpu_per_thousand: Duration,
    /// Median.
    pub p50: Duration,
    /// 99 of 100 are faster.
    pub p99: Duration,
}

/// Callers with their requests, ready to send.
pub struct Callers(Vec<(IstioCertificateRequest, MetadataValue<Ascii>)>);

impl Callers {
    /// Makes them.
    pub fn new(stage: &Stage) -> Result<Self, Failure> {
        let trust_domain = TrustDomain::parse("cluster.local")?;
        let mut callers = Vec::with_capacity(CALLERS);
        for number in 0..CALLERS {
            let name = format!("caller-{number}");
            let id = SpiffeId::workload(&trust_domain, "load", &name)?;
            let csr = csr::create(&PrivateKey::generate_p256()?, &id)?;
            let request = IstioCertificateRequest { csr, validity_duration: 86_400, metadata: None };
            callers.push((request, format!("Bearer {}", stage.token(&name)?).parse()?));
        }
        Ok(Self(callers))
    }

    pub(super) fn request(&self, number: usize) -> Request<IstioCertificateRequest> {
        let (message, authorization) = &self.0[number % self.0.len()];
        let mut request = Request::new(message.clone());
        request.metadata_mut().insert("authorization", authorization.clone());
        request
    }
}

/// One connection to the CA.
pub async fn connect(stage: &Stage, address: &str) -> Result<Channel, Failure> {
    Ok(endpoint(stage, address)?.connect().await?)
}

/// How to connect to the CA.
pub(super) fn endpoint(stage: &Stage, address: &str) -> Result<Endpoint, Failure> {
    let root = Certificate::from_pem(std::fs::read(stage.path("root/root-cert.pem"))?);
    let tls = ClientTlsConfig::new().ca_certificate(root).domain_name("localhost");
    Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?)
}

/// Asks for one certificate, as the caller of this number.
pub async fn ask(channel: Channel, callers: &Callers, number: usize) -> Result<Vec<String>, tonic::Status> {
    let request = callers.request(number);
    Ok(IstioCertificateServiceClient::new(channel).create_certificate(request).await?.into_inner().cert_chain)
}

/// Keeps this many requests in flight for a while; any failure ends the run.
pub async fn measure(
    ca: &Process,
    channel: &Channel,
    callers: &Arc<Callers>,
    in_flight: usize,
) -> Result<Issued, Failure> {
    load(channel, callers, in_flight, WARM_UP).await?;
    let (began, before) = (Instant::now(), ca.cpu()?);
    let mut latencies = load(channel, callers, in_flight, TIME).await?;
    let (took, cpu) = (began.elapsed(), ca.cpu()? - before);
    latencies.sort_unstable();
    Ok(Issued {
        in_flight,
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        cpu_per_thousand: cpu.mul_f64(1000.0 / latencies.len() as f64),
        p50: percentile(&latencies, 0.5),
        p99: percentile(&latencies, 0.99),
    })
}

async fn load(
    channel: &Channel,
    callers: &Arc<Callers>,
    in_flight: usize,
    time: Duration,
) -> Result<Vec<Duration>, Failure> {
    let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let mut client = IstioCertificateServiceClient::new(channel.clone());
        let (next, over, callers) = (next.clone(), over.clone(), callers.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let request = callers.request(next.fetch_add(1, Ordering::Relaxed));
                let began = Instant::now();
                client.create_certificate(request).await?;
                latencies.push(began.elapsed());
            }
            Ok::<_, tonic::Status>(latencies)
        });
    }
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}
