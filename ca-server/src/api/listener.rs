//! The issuing port: our own accept loop, with bounded connections and handshakes and a time limit each.
//!
//! A client certificate is asked for and neither demanded nor judged: possession is TLS's business, who
//! the caller is decides attestation. No session is ever resumed, because resumption skips the verifier.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::admission::{Crowd, Overload, Place, SentAway};
use super::bunched::Bunched;
use crate::attestation::client_certificate::Presented;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::reason::Reason;

/// After a failed accept, which means that we are out of file handles or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that stand between handshake and gRPC.
const READY: usize = 64;
/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Client certificates that are kept for a connection, and their bytes together.
const MAX_PRESENTED: usize = 4;
const MAX_PRESENTED_BYTES: usize = 16 * 1024;

/// Of the handshakes that are not finished, those of one address.
const HANDSHAKES_OF_ONE: usize = 4;

/// Where a connection comes from, and the certificates that it presented, the leaf first, if they are few and
/// small enough to be ours; tonic hands it to every call.
#[derive(Debug, Clone)]
pub struct PeerAddress(pub SocketAddr, pub Option<Presented>, Arc<Place>);

impl PeerAddress {
    /// Somebody on this connection was attested: it makes room for nobody any more.
    pub fn is_attested(&self) {
        // Where its place was given away just before, it ends by itself.
        let _ = self.2.settle();
    }
}

/// An accepted connection with its place.
pub struct Connection {
    /// What was read of it while the handshake's time ran, and how much of that is still to be read.
    first: [u8; PREFACE],
    unread: usize,
    stream: Bunched<TlsStream<TcpStream>>,
    address: SocketAddr,
    place: Arc<Place>,
    sent_away: SentAway,
}

/// TLS 1.2 and 1.3 on ring with the certificate that `certificate` has at the time.
pub fn tls_config(certificate: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(provider::default_provider());
    let clients = Arc::new(AnyClient(provider.clone()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Accepts until the receiver is dropped. Whoever connects and does not finish its handshake, and say the first
/// words of HTTP/2, stands in a crowd: it makes room for the next, and nobody waits for it. So does a connection
/// on which nobody was attested yet, where there are as many as there may be.
pub async fn accept_forever(
    listener: TcpListener,
    config: ServerConfig,
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let places = Crowd::new(limits.connections, limits.connections_per_address);
    let handshakes = Crowd::new(limits.handshakes, limits.handshakes.div_ceil(HANDSHAKES_OF_ONE));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Others wait in the kernel's queue meanwhile; for a handshake a moment at the most.
        let entered = match places.enter(address.ip()) {
            Ok(place) => handshakes.wait(address.ip()).await.map(|handshake| (place, handshake)),
            Err(overload) => Err(overload),
        };
        let ((place, displaced), (handshake, sent_away)) = match entered {
            Ok(entered) => entered,
            Err(overload) => {
                metrics.connection_refused(overload.reason());
                continue;
            }
        };
        let (acceptor, connections, metrics) = (acceptor.clone(), connections.clone(), metrics.clone());
        tokio::spawn(async move {
            let handshaken = tokio::select! {
                handshaken = shake_hands(&acceptor, stream, limits.handshake_timeout) => handshaken,
                () = sent_away => {
                    metrics.connection_refused(Overload::Slow.reason());
                    return;
                }
            };
            drop(handshake);
            match handshaken {
                Ok((stream, first)) => {
                    let (place, sent_away) = (Arc::new(place), displaced);
                    let stream = Bunched::new(stream);
                    let connection = Connection { first, unread: PREFACE, stream, address, place, sent_away };
                    // The receiver is gone when the server ends.
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(error) => {
                    metrics.connection_refused(Reason::Handshake);
                    tracing::debug!(%address, %error, "TLS handshake failed");
                }
            }
        });
    }
}

/// A channel for accepted connections.
pub fn ready() -> (mpsc::Sender<io::Result<Connection>>, mpsc::Receiver<io::Result<Connection>>) {
    mpsc::channel(READY)
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    limit: Duration,
) -> io::Result<(TlsStream<TcpStream>, [u8; PREFACE])> {
    stream.set_nodelay(true)?;
    let shaken = async {
        let mut stream = acceptor.accept(stream).await?;
        let mut first = [0; PREFACE];
        stream.read_exact(&mut first).await?;
        Ok((stream, first))
    };
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
    tokio::time::timeout(limit, shaken).await.map_err(timed_out)?
}

impl Connected for Connection {
    type ConnectInfo = PeerAddress;

    fn connect_info(&self) -> PeerAddress {
        let presented = self.stream.get_ref().get_ref().1.peer_certificates().filter(|all| {
            all.len() <= MAX_PRESENTED
                && all.iter().map(|one| one.len()).sum::<usize>() <= MAX_PRESENTED_BYTES
        });
        PeerAddress(self.address, presented.map(Presented::from), self.place.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.sent_away).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.unread > 0 {
            let from = PREFACE - self.unread;
            let part = self.unread.min(buffer.remaining());
            buffer.put_slice(&self.first[from..from + part]);
            self.unread -= part;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Takes any client certificate whose key the client proves to hold, and none as well.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl AnyClient {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.0.signature_verification_algorithms
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
