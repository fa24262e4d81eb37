//! CreateCertificate, as Istio's agents and ztunnel call it: shape in, answer out, one log line for each
//! decision.

use std::sync::Arc;

use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateService;
use signet_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::entrance::Admitted;
use super::headers;
use super::refusals::Refusals;
use crate::issue::{self, Issuance, Issued};
use crate::metrics::Metrics;
use crate::policy::Asked;

/// The service.
pub struct CertificateService {
    /// The issuing sequence.
    pub issuance: Arc<Issuance>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who refuses.
    pub refusals: Arc<Refusals>,
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        // Every request of this service comes through its entrance.
        let Some(admitted) = request.extensions().get::<Admitted>().cloned() else {
            return Err(Status::internal("the request did not come through the entrance"));
        };
        let asked = match admitted.is_read() {
            Ok(()) => self.issuance.issue(typed(request, admitted.id.clone(), admitted.deadline)).await,
            Err(overload) => Err(overload.into()),
        };
        match asked {
            Ok(issued) => {
                self.metrics.issued(admitted.began.elapsed(), issued.not_after);
                log_issued(&admitted.id, &issued);
                Ok(answer(issued))
            }
            Err(error) => Err(self.refusals.refuse(admitted.refused(), &error).await),
        }
    }
}

/// What the message and its headers ask for.
pub(crate) fn typed(
    request: Request<IstioCertificateRequest>,
    id: String,
    deadline: Instant,
) -> issue::Request {
    let evidence = headers::evidence_of(&request);
    let message = request.into_inner();
    let impersonated = message.metadata.and_then(|metadata| {
        match metadata.fields.get("ImpersonatedIdentity")?.kind.clone()? {
            prost_types::value::Kind::StringValue(text) => Some(text),
            other => Some(format!("{other:?}")),
        }
    });
    issue::Request {
        id,
        deadline,
        evidence,
        csr: message.csr,
        asked: Asked { lifetime: message.validity_duration, impersonated },
    }
}

fn answer(issued: Issued) -> Response<IstioCertificateResponse> {
    let trust = issued.trust;
    let mut response = Response::new(IstioCertificateResponse { cert_chain: issued.chain });
    let headers = response.metadata_mut();
    headers.insert("x-signet-trust-epoch", MetadataValue::from(trust.epoch));
    headers.insert("x-signet-trust-sequence", MetadataValue::from(trust.sequence));
    if let Ok(digest) = MetadataValue::try_from(hex(&trust.digest)) {
        headers.insert("x-signet-trust-digest", digest);
    }
    response
}

fn log_issued(id: &str, issued: &Issued) {
    let identity = issued.identity.as_str();
    if let Some(asked) = &issued.ignored {
        tracing::info!(
            request_id = id,
            identity,
            names = ?asked.names,
            subject = asked.subject,
            ca = asked.ca,
            "what the CSR asked for is ignored"
        );
    }
    tracing::info!(
        request_id = id,
        reason = "ISSUED",
        identity,
        serial = %issued.serial,
        not_after = rfc3339(issued.not_after),
        index = issued.index,
        "certificate issued"
    );
}
