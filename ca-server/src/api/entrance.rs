//! The entrance of the issuing service: what a request gets before its message is read. It takes its place
//! by address, and its deadline begins: whoever sends headers and then half a message holds a place, and not
//! for long. A message that cannot be read is refused here like everything else, with reason, log line and
//! count.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use signet_service::logging::with_causes;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::admission::PerAddress;
use super::headers::RequestIds;
use super::listener::PeerAddress;
use super::status;
use crate::issue::IssueError;
use crate::metrics::Metrics;

/// The handler answers by the deadline itself; only a message that does not come takes longer.
const GRACE: Duration = Duration::from_millis(100);

/// A request that was let in; the handler finds it among the request's extensions.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Names the request in logs and records.
    pub id: String,
    /// When it came.
    pub began: Instant,
    /// When an answer is of no use any more.
    pub deadline: Instant,
    read: Arc<AtomicBool>,
}

impl Admitted {
    /// Says that the message was read: what is answered from now on is the handler's.
    pub fn is_read(&self) {
        self.read.store(true, Ordering::Relaxed);
    }
}

/// The issuing service behind its entrance.
#[derive(Clone)]
pub struct Entrance<S> {
    /// What is behind it.
    pub inner: S,
    /// Places for requests.
    pub places: Arc<PerAddress>,
    /// Names for requests.
    pub ids: Arc<RequestIds>,
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
        let address = address(&request);
        let metrics = self.metrics.clone();
        metrics.csr_received();
        let began = Instant::now();
        let deadline = began + self.deadline;
        let admitted = Admitted { id: self.ids.next(), began, deadline, read: Arc::default() };
        let place = match self.places.enter(address) {
            Ok(place) => place,
            Err(overload) => {
                let refused = refuse(&metrics, &admitted.id, address, &IssueError::Overload(overload));
                return Box::pin(async move { Ok(refused.into_http()) });
            }
        };
        request.extensions_mut().insert(admitted.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _place = place;
            let error = match timeout_at(deadline + GRACE, answer).await {
                Ok(Ok(response)) => match unread(&admitted, &response) {
                    Some(cause) => IssueError::Unreadable(cause),
                    None => return Ok(response),
                },
                Err(_) => IssueError::Deadline,
            };
            Ok(refuse(&metrics, &admitted.id, address, &error).into_http())
        })
    }
}

/// Logs and counts a refusal; what the outside learns of it.
pub fn refuse(metrics: &Metrics, id: &str, address: IpAddr, error: &IssueError) -> Status {
    let outside = status::of_issue(error);
    metrics.refused(error, outside.reason);
    let cause = with_causes(error);
    tracing::warn!(request_id = id, reason = outside.reason.code(), %address, cause, "certificate refused");
    outside.into_status()
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
