//! A stream whose writes wait for their turn among the tasks that are ready: the answers that these make leave
//! together, in one record and one system call, where each would have cost its own. Under no load nobody else is
//! ready, and nothing waits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream within.
pub struct Bunched<S> {
    stream: S,
    /// The others had their turn since the last flush.
    waited: bool,
}

impl<S> Bunched<S> {
    /// Bunches what is written to this stream.
    pub fn new(stream: S) -> Self {
        Self { stream, waited: false }
    }

    /// The stream within.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.waited {
            return Poll::Ready(());
        }
        self.waited = true;
        // A task that wakes itself goes to the end of the line.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bunched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.wait(context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.wait(context));
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bunched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_first_write_after_a_flush_goes_to_the_end_of_the_line_and_every_byte_arrives() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut stream = Bunched::new(ours);
        for _ in 0..2 {
            let mut first = Box::pin(stream.write_all(b"first "));
            assert!(poll!(&mut first).is_pending());
            first.await.unwrap();
            let mut second = Box::pin(stream.write_all(b"second "));
            assert!(poll!(&mut second).is_ready(), "one wait is enough for all that goes together");
            drop(second);
            stream.flush().await.unwrap();
        }
        drop(stream);
        let mut read = String::new();
        theirs.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "first second first second ");
    }
}
