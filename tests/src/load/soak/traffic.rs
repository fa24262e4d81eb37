//! Steady requests of many callers over a few connections, and bad ones among them.

use std::sync::Arc;
use std::time::Duration;

use signet_certs::chain::Certificate;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::ledger::Ledger;
use crate::harness::caller::reason;
use crate::load::issuing::{Callers, ask, endpoint};
use crate::load::{Failure, Stage};

const CONNECTIONS: usize = 4;
/// Good requests in flight; more means that the CA does not answer.
const IN_FLIGHT: usize = 512;
/// Between two bad requests.
const BAD: Duration = Duration::from_millis(100);

/// Begins both.
pub(super) fn begin(
    stage: &Stage,
    address: &str,
    rate: u32,
    ledger: &Arc<Ledger>,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let callers = Arc::new(Callers::new(stage)?);
    let endpoint = endpoint(stage, address)?;
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
    tasks.spawn(good(channels, callers.clone(), rate, ledger.clone()));
    tasks.spawn(bad(endpoint.connect_lazy(), callers, ledger.clone()));
    Ok(())
}

async fn good(channels: Vec<Channel>, callers: Arc<Callers>, rate: u32, ledger: Arc<Ledger>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut requests = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        while requests.try_join_next().is_some() {}
        let sent = Instant::now();
        let Ok(place) = places.clone().try_acquire_owned() else {
            ledger.failed(sent, format!("not sent: {IN_FLIGHT} requests have no answer"));
            continue;
        };
        let (channel, callers, ledger) =
            (channels[number % CONNECTIONS].clone(), callers.clone(), ledger.clone());
        requests.spawn(async move {
            let _place = place;
            match ask(channel, &callers, number).await {
                Ok(chain) => match serial(&chain) {
                    Some(serial) => ledger.certificate(serial, sent.elapsed()),
                    None => ledger.failed(sent, "an answer without a certificate".to_owned()),
                },
                Err(status) => ledger.failed(sent, format!("a good request: {}", said(&status))),
            }
        });
    }
}

fn serial(chain: &[String]) -> Option<u128> {
    let leaf = Certificate::from_pem(chain.first()?.as_bytes()).ok()?;
    Some(leaf.facts().serial.as_bytes().iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

fn said(status: &Status) -> String {
    format!("{:?} {} {}", status.code(), reason(status), status.message())
}

async fn bad(channel: Channel, callers: Arc<Callers>, ledger: Arc<Ledger>) {
    let mut client = IstioCertificateServiceClient::new(channel);
    let mut ticks = interval(BAD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0.. {
        ticks.tick().await;
        let mut request: Request<IstioCertificateRequest> = callers.request(number);
        let expected = match number % 4 {
            0 => {
                request.metadata_mut().remove("authorization");
                "TOKEN_MISSING"
            }
            1 => {
                request
                    .metadata_mut()
                    .insert("authorization", tonic::metadata::MetadataValue::from_static("Bearer a.b.c"));
                "TOKEN_MALFORMED"
            }
            2 => {
                request.get_mut().csr = "junk".repeat(100);
                "CSR_INVALID"
            }
            _ => {
                request.get_mut().csr = "x".repeat(100_000);
                "REQUEST_INVALID"
            }
        };
        let sent = Instant::now();
        match client.create_certificate(request).await {
            Ok(_) => ledger.failed(sent, format!("bad input was answered that is {expected}")),
            Err(status) if reason(&status) == expected => ledger.refused(expected),
            Err(status) => ledger.failed(sent, format!("bad input that is {expected}: {}", said(&status))),
        }
    }
}
