//! Answers that no gRPC server would give, byte by byte: what a CA that is broken, or is none, can send.

use http_body_util::StreamBody;
use hyper::body::Frame;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::{BoxFuture, Bytes, Context, Poll, Service};
use tonic::server::NamedService;

/// A lie on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lie {
    /// A message that says it is 2 GiB long.
    Huge,
    /// A message that comes in pieces for ever.
    Endless,
    /// One message after another for ever, where one is due.
    Many,
    /// Half of a message, and the stream is reset.
    Reset,
    /// Details of a refusal that are no base64.
    Details,
}

/// A service in whose place a lie may stand.
#[derive(Clone)]
pub(crate) struct Liar<S> {
    pub(crate) honest: S,
    pub(crate) lie: Arc<Mutex<Option<Lie>>>,
}

impl<S: NamedService> NamedService for Liar<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Liar<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.honest.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let lie = *self.lie.lock().unwrap();
        match lie {
            None => Box::pin(self.honest.call(request)),
            Some(lie) => Box::pin(async move { Ok(response(lie)) }),
        }
    }
}

fn response(lie: Lie) -> http::Response<Body> {
    // A frame of gRPC: not compressed, the length, the message.
    let frame = |length: u32, content: &[u8]| [&[0], &length.to_be_bytes()[..], content].concat();
    let response = http::Response::builder().header("content-type", "application/grpc");
    let piece = Ok::<_, tonic::Status>;
    match lie {
        Lie::Huge => {
            let begin = tokio_stream::once(piece(frame(1 << 31, &[0; 1000])));
            response.body(body(begin.chain(tokio_stream::pending()))).unwrap()
        }
        Lie::Endless => {
            let begin = tokio_stream::once(piece(frame(1 << 19, &[])));
            let pieces = tokio_stream::iter(std::iter::repeat_with(|| Ok(vec![0])));
            response.body(body(begin.chain(pieces.throttle(Duration::from_millis(10))))).unwrap()
        }
        Lie::Many => {
            let message = prost::Message::encode_to_vec(&IstioCertificateRequest::default());
            let each = frame(message.len() as u32, &message);
            response.body(body(tokio_stream::iter(std::iter::repeat_with(move || Ok(each.clone()))))).unwrap()
        }
        Lie::Reset => {
            let pieces = [piece(frame(1000, &[0; 10])), Err(tonic::Status::internal("reset"))];
            response.body(body(tokio_stream::iter(pieces))).unwrap()
        }
        Lie::Details => {
            let response = response.header("grpc-status", "16").header("grpc-status-details-bin", "***");
            response.body(Body::empty()).unwrap()
        }
    }
}

fn body(pieces: impl Stream<Item = Result<Vec<u8>, tonic::Status>> + Send + 'static) -> Body {
    let mut pieces = Box::pin(pieces);
    // One piece waits at the most, as with any server.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(piece) = pieces.next().await {
            if sender.send(piece.map(|bytes| Frame::data(Bytes::from(bytes)))).await.is_err() {
                return;
            }
        }
    });
    Body::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)))
}
