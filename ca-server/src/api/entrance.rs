//! The entrance of the issuing service: what a request gets before its message is read. It takes its place
//! by address, and its deadline begins: whoever sends headers and then half a message holds a place, not for
//! long, and only while nobody else needs it. A message that cannot be read is refused here like everything
//! else, with reason, log line and count.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::admission::{Crowd, Overload, Place};
use super::headers::{self, RequestIds};
use super::listener::PeerAddress;
use super::refusals::{Refusals, Refused};
use crate::issue::IssueError;
use crate::metrics::Metrics;

/// The handler answers by the deadline itself; only a message that does not come takes longer.
const GRACE: Duration = Duration::from_millis(100);

/// A request that was let in; the handler finds it among the request's extensions.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Names the request in logs and records.
    pub id: String,
    /// Where it comes from.
    pub address: IpAddr,
    /// When it came.
    pub began: Instant,
    /// When an answer is of no use any more, to us or to the caller.
    pub deadline: Instant,
    /// Whether the caller understands when to come again.
    pub reads_hints: bool,
    place: Arc<Place>,
    read: Arc<AtomicBool>,
}

impl Admitted {
    /// Says that the message was read: what is answered from now on is the handler's.
    ///
    /// # Errors
    /// Its place was given away just before.
    pub fn is_read(&self) -> Result<(), Overload> {
        self.read.store(true, Ordering::Relaxed);
        self.place.settle()
    }

    /// As those see it who refuse.
    pub fn refused(&self) -> Refused<'_> {
        let Self { id, address, deadline, reads_hints, .. } = self;
        Refused { id, address: *address, deadline: *deadline, reads_hints: *reads_hints }
    }
}

/// The issuing service behind its entrance.
#[derive(Clone)]
pub struct Entrance<S> {
    /// What is behind it.
    pub inner: S,
    /// Places for requests.
    pub places: Arc<Crowd>,
    /// Names for requests.
    pub ids: Arc<RequestIds>,
    /// Who refuses.
    pub refusals: Arc<Refusals>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Longest time a request may take.
    pub deadline: Duration,
}

impl<S: NamedService> NamedService for Entrance<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Entrance<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        self.metrics.csr_received();
        let refusals = self.refusals.clone();
        let (id, address, began) = (self.ids.next(), address(&request), Instant::now());
        let theirs = headers::timeout(request.headers()).unwrap_or(self.deadline);
        let deadline = began + self.deadline.min(theirs);
        let reads_hints = headers::reads_hints(request.headers());
        let entered = refusals.may_try(address).and_then(|()| self.places.enter(address));
        let (place, sent_away) = match entered {
            Ok((place, sent_away)) => (Arc::new(place), sent_away),
            Err(overload) => {
                return Box::pin(async move {
                    let who = Refused { id: &id, address, deadline, reads_hints };
                    Ok(refusals.refuse(who, &IssueError::Overload(overload)).await.into_http())
                });
            }
        };
        let admitted = Admitted { id, address, began, deadline, reads_hints, place, read: Arc::default() };
        request.extensions_mut().insert(admitted.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let error = tokio::select! {
                answered = timeout_at(deadline + GRACE, answer) => match answered {
                    Ok(Ok(response)) => match unread(&admitted, &response) {
                        Some(cause) => IssueError::Unreadable(cause),
                        None => return Ok(response),
                    },
                    Err(_) => IssueError::Deadline,
                },
                () = sent_away => IssueError::Overload(Overload::Slow),
            };
            Ok(refusals.refuse(admitted.refused(), &error).await.into_http())
        })
    }
}

/// Why the message was not read, if an answer says so: the handler never saw it, and the server's own words
/// are for unknown methods and encodings, which they name well.
fn unread(admitted: &Admitted, response: &Response<Body>) -> Option<String> {
    if admitted.read.load(Ordering::Relaxed) {
        return None;
    }
    let status = Status::from_header_map(response.headers())?;
    (status.code() != Code::Unimplemented).then(|| status.message().to_owned())
}

/// Where a call comes from; every connection of the issuing port has an address.
fn address(request: &Request<Body>) -> IpAddr {
    let peer = request.extensions().get::<PeerAddress>();
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip())
}
