//! gRPC's health service on the issuing port, without its `Watch`: that asks for no evidence and never ends, and so
//! anybody could hold any number of them. Kubernetes, Envoy and Istio ask with `Check`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The service, for single checks.
#[derive(Clone)]
pub struct HealthChecks<S>(pub S);

impl<S: NamedService> NamedService for HealthChecks<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for HealthChecks<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == WATCH {
            let status = Status::unimplemented("health is told to those who ask with Check");
            return Either::Left(ready(Ok(status.into_http())));
        }
        Either::Right(self.0.call(request))
    }
}
