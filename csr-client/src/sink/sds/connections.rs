//! Who is connected to the socket: at most so many at once, and no haste where accepting fails.
//!
//! Any process of the pod may connect, and each connection costs memory and a file handle.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// Most connections; who comes then waits for one of them to end.
const MOST: usize = 256;
/// Wait after a failure to accept: without file handles, say, the next would fail at once.
const PAUSE: Duration = Duration::from_secs(1);

/// What comes in, until the stream is dropped.
pub(super) fn incoming(listener: UnixListener) -> ReceiverStream<io::Result<Connection>> {
    let (connections, receiver) = mpsc::channel(1);
    let listener = Arc::new(listener);
    tokio::spawn(async move {
        let next = || {
            let listener = listener.clone();
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        tokio::select! {
            () = accept(next, &connections) => {}
            () = connections.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept<F: Future<Output = io::Result<UnixStream>>>(
    next: impl Fn() -> F,
    connections: &mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(MOST));
    // It is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match next().await {
            Ok(stream) => {
                if connections.send(Ok(Connection { stream, _place: place })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the sds socket is not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A connection with its place.
pub(super) struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn without_file_handles_accepting_does_not_spin() {
        let tried = Cell::new(0);
        let failing = || {
            tried.set(tried.get() + 1);
            async { Err(io::Error::other("no file handles")) }
        };
        let (connections, mut receiver) = mpsc::channel(1);
        let accepting = accept(failing, &connections);
        assert!(tokio::time::timeout(PAUSE + PAUSE / 2, accepting).await.is_err(), "it goes on");
        assert_eq!(tried.get(), 2);
        // And takes who comes when there are some again.
        let recovered = || async { UnixStream::pair().map(|(ours, _)| ours) };
        tokio::select! {
            () = accept(recovered, &connections) => {}
            connection = receiver.recv() => assert!(connection.unwrap().is_ok()),
        }
    }

    #[tokio::test]
    async fn connections_are_bounded_and_a_place_comes_back_with_the_end_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (connections, mut receiver) = mpsc::channel::<io::Result<Connection>>(2 * MOST);
        let listener = UnixListener::bind(&path).unwrap();
        let next = || async { listener.accept().await.map(|(stream, _)| stream) };
        let callers = async {
            let mut callers = Vec::new();
            for _ in 0..MOST + 1 {
                callers.push(UnixStream::connect(&path).await.unwrap());
            }
            let mut taken = Vec::new();
            while taken.len() < MOST {
                taken.push(receiver.recv().await.unwrap().unwrap());
            }
            let one_more = tokio::time::timeout(Duration::from_millis(200), receiver.recv()).await;
            assert!(one_more.is_err(), "it waits");
            taken.pop();
            assert!(receiver.recv().await.unwrap().is_ok());
        };
        tokio::select! {
            () = accept(next, &connections) => {}
            () = callers => {}
        }
    }
}
