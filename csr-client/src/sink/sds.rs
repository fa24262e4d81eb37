//! Secret discovery on a Unix socket, as Istio's agent serves it: `default` and `ROOTCA`.
//!
//! This file owns the socket and the service. Who may connect is in `connections`, what a request means in
//! `subscription`, who has what in `subscribers`, one stream's course in `stream`.

mod connections;
pub(crate) mod fuzzing;
mod process;
mod stream;
mod subscribers;
mod subscription;
#[cfg(test)]
mod tests;

pub(crate) use process::Process;
pub(crate) use stream::OBSERVER;
pub use subscribers::Subscribers;
#[cfg(test)]
pub(crate) use subscribers::{Delivery, StreamFacts};
pub(crate) use subscribers::{Key as SubscriberKey, RootDigests, Subscriber};
pub(crate) use subscription::{Resource, TYPE_URL};

use crate::identity::Served;
use crate::metrics::Metrics;
use signet_certs::spiffe_id::TrustDomain;
use signet_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

/// Largest request that is read.
const MAX_REQUEST: usize = 64 * 1024;
/// Most bytes of a request's headers.
const MAX_HEADERS: u32 = 16 * 1024;
/// Most streams of one connection: an Envoy opens one for each secret.
const MOST_OF_A_CONNECTION: u32 = 64;
/// Most streams that have not said yet what they want.
const MOST_SILENT: usize = 256;

/// Why secrets cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SdsError {
    /// Another agent answers there.
    #[error("{path} is served by another process", path = .0.display())]
    Taken(PathBuf),
    /// Something that is not a socket has the name.
    #[error("{path} exists and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("cannot listen on {path}", path = path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("serving secrets failed")]
    Serve(#[from] tonic::transport::Error),
}

/// A bound socket. Its file is removed when it is dropped, unless another one has its name by then.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Device and number of its file.
    file: (u64, u64),
    listener: Option<UnixListener>,
}

impl Socket {
    /// Binds; takes over a socket that nobody answers on, refuses one that is alive.
    ///
    /// Any process of the pod may connect (0666), as with Istio's agent; a folder that is made for it is
    /// 0750.
    pub async fn bind(path: &Path) -> Result<Self, SdsError> {
        let failed = |source| SdsError::Listen { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(failed)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SdsError::NotASocket(path.to_owned())),
            Ok(_) => match UnixStream::connect(path).await {
                // Nobody listens: what a killed agent leaves.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                // One that has no room for another caller is stopped or busy, and alive.
                Ok(_) => return Err(SdsError::Taken(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SdsError::Taken(path.to_owned()));
                }
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = number(path).map_err(failed)?;
        let socket = Self { path: path.to_owned(), file, listener: Some(listener) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if number(&self.path).is_ok_and(|file| file == self.file) {
            // Already gone is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn number(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// What a stream needs to know.
#[derive(Debug, Clone)]
pub struct Source {
    /// What is served.
    pub served: watch::Receiver<Served>,
    /// Whose roots `ROOTCA` holds.
    pub trust_domain: TrustDomain,
    /// Whether `default` ends with the roots.
    pub include_roots_in_chain: bool,
}

/// Serves until `stop`; then streams end and the socket's file goes.
pub async fn serve(
    mut socket: Socket,
    source: Source,
    subscribers: Arc<Subscribers>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), SdsError> {
    let Some(listener) = socket.listener.take() else { return Ok(()) };
    tracing::info!(path = %socket.path.display(), "sds listening");
    let silent = Arc::new(Semaphore::new(MOST_SILENT));
    let service = Service { source, subscribers, metrics, silent, stop: stop.clone() };
    let service = SecretDiscoveryServiceServer::new(service).max_decoding_message_size(MAX_REQUEST);
    Server::builder()
        // For calls of other kinds: `stream` has its own limit, since its answer begins before its request.
        .timeout(stream::FIRST_REQUEST)
        .max_concurrent_streams(MOST_OF_A_CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(MAX_REQUEST as u32)
        .initial_connection_window_size(MAX_REQUEST as u32)
        .add_service(service)
        .serve_with_incoming_shutdown(connections::incoming(listener), stop.cancelled())
        .await?;
    Ok(())
}

struct Service {
    source: Source,
    subscribers: Arc<Subscribers>,
    metrics: Arc<Metrics>,
    /// A place for each stream whose first request has not come.
    silent: Arc<Semaphore>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let silent = self.silent.clone().try_acquire_owned();
        let silent = silent.map_err(|_| Status::resource_exhausted("too many streams without a request"))?;
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let process = peer.and_then(|peer| peer.pid()).and_then(Process::of);
        // One place: the next response is made when the reader has taken the last one, from what is served
        // then, so that a slow reader costs one response and not a queue.
        let (answers, receiver) = mpsc::channel(1);
        let (source, subscribers) = (self.source.clone(), self.subscribers.clone());
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        tokio::spawn(async move {
            let peer = stream::Peer { subscribers: &subscribers, metrics, process };
            let run = stream::run(request.into_inner(), silent, answers.clone(), source, peer);
            let end = tokio::select! {
                result = run => result,
                () = stop.cancelled() => Err(Status::unavailable("the agent is stopping")),
            };
            if let Err(status) = end {
                // A reader that has gone needs no last word.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("DeltaSecrets is not served; use StreamSecrets"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("FetchSecrets is not served; use StreamSecrets"))
    }
}
