//! Clients that are slow or no clients at all: silent connections, handshakes byte by byte, junk in place of TLS, trust
//! watches that nobody reads, messages that do not come. Each begins again when it was cut off.

use std::sync::Arc;
use std::time::Duration;

use signet_proto::signet::trust::v1::trust_distribution_client::TrustDistributionClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::ledger::Ledger;
use crate::harness::caller::reason;
use crate::load::issuing::endpoint;
use crate::load::{Failure, Stage};

/// Of each kind.
const EACH: usize = 8;
/// Before it begins again, and between two bytes.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a watch is held without reading.
const WATCH: Duration = Duration::from_secs(20);

/// Begins all.
pub(super) fn begin(
    stage: &Stage,
    address: &str,
    ledger: &Arc<Ledger>,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let endpoint = endpoint(stage, address)?;
    let token = stage.token("watcher")?;
    for _ in 0..EACH {
        tasks.spawn(connections(address.to_owned(), b"", ledger.clone()));
        // The begin of a handshake message of 512 bytes that is never whole.
        tasks.spawn(connections(
            address.to_owned(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            ledger.clone(),
        ));
        tasks.spawn(connections(address.to_owned(), b"GET / HTTP/1.1\r\n\r\n", ledger.clone()));
        tasks.spawn(watches(endpoint.connect_lazy(), token.clone(), ledger.clone()));
        tasks.spawn(halves(endpoint.connect_lazy(), ledger.clone()));
    }
    Ok(())
}

/// Sends this byte by byte, then nothing, until the other side ends it.
async fn connections(address: String, bytes: &'static [u8], ledger: Arc<Ledger>) {
    loop {
        let began = Instant::now();
        match TcpStream::connect(&address).await {
            Ok(mut stream) => {
                for byte in bytes {
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    sleep(PAUSE / 10).await;
                }
                // An alert, an end or an error: whatever ends it.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            Err(error) => ledger.failed(began, format!("a connection: {error}")),
        }
        sleep(PAUSE).await;
    }
}

async fn watches(channel: Channel, token: String, ledger: Arc<Ledger>) {
    loop {
        let mut request = Request::new(futures::stream::pending());
        if let Ok(bearer) = format!("Bearer {token}").parse() {
            request.metadata_mut().insert("authorization", bearer);
        }
        let began = Instant::now();
        match TrustDistributionClient::new(channel.clone()).watch(request).await {
            // Held, and never read.
            Ok(_answers) => sleep(WATCH).await,
            Err(status) => ledger.failed(began, format!("a trust watch: {status}")),
        }
        sleep(PAUSE).await;
    }
}

/// Requests whose message does not come: they hold a place until the deadline.
async fn halves(channel: Channel, ledger: Arc<Ledger>) {
    loop {
        let began = Instant::now();
        match half(channel.clone()).await {
            Err(status) if reason(&status) == "DEADLINE" => ledger.refused("DEADLINE"),
            Err(status) => ledger.failed(began, format!("a message that does not come: {status}")),
            Ok(()) => ledger.failed(began, "a message that does not come was answered".to_owned()),
        }
        sleep(PAUSE).await;
    }
}

async fn half(channel: Channel) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(
        "/istio.v1.auth.IstioCertificateService/CreateCertificate",
    );
    let codec = tonic_prost::ProstCodec::<prost_types::Value, ()>::default();
    let never = Request::new(futures::stream::pending());
    client.client_streaming(never, path, codec).await.map(|_| ())
}
