//! Errors become gRPC here and nowhere else.
//!
//! Outside goes a code, a stable reason and what the caller can mend; the exact cause stands in our log.
//! Messages are as opaque as Istio's where operators search for them.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::admission::Overload;
use crate::attestation::AttestationError;
use crate::issue::IssueError;
use crate::policy::Denied;
use crate::reason::Reason;

/// Who says so, in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "signet";
/// Istio's words.
const UNAUTHENTICATED: &str = "request authenticate failure";
/// A clock that was stepped is not back within a second.
const CLOCK_RETRY: Duration = Duration::from_secs(10);

/// What the outside learns of an error.
#[derive(Debug, PartialEq)]
pub struct Outside {
    /// gRPC code.
    pub code: Code,
    /// Also the label of the metric and the field of the log.
    pub reason: Reason,
    message: String,
    expected: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
}

impl Outside {
    fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), expected: Vec::new(), retry_after: None }
    }

    fn retry(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// As the client gets it.
    pub fn into_status(self) -> Status {
        let expected: HashMap<String, String> =
            self.expected.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.code(), DOMAIN, expected);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

/// What the outside learns when a certificate is refused.
pub fn of_issue(error: &IssueError) -> Outside {
    let again = Duration::from_secs(1);
    match error {
        IssueError::Clock(_) => of_stepped_clock(),
        IssueError::Attestation(error) => of_attestation(error),
        // As opaque as any refusal of evidence: who is blocked learns that, and not by what.
        IssueError::Blocked(_) => Outside::new(Code::Unauthenticated, Reason::Blocked, UNAUTHENTICATED),
        IssueError::Overload(overload) => of_overload(*overload),
        IssueError::Csr(error) => {
            Outside::new(Code::InvalidArgument, Reason::CsrInvalid, format!("CSR signing error ({error})"))
        }
        IssueError::Denied(denied) => of_denied(denied),
        IssueError::Unreadable(_) => {
            let expected = "an IstioCertificateRequest of at most 64 KiB was expected";
            Outside::new(Code::InvalidArgument, Reason::RequestInvalid, expected)
        }
        IssueError::Signing(crate::authority::issuer::SigningError::Chain(_)) => {
            Outside::new(Code::Internal, Reason::IssuerEnded, "CSR signing error (the CA cannot sign now)")
        }
        IssueError::Signing(_) | IssueError::Pool(_) => {
            Outside::new(Code::Internal, Reason::Signing, "CSR signing error (the CA cannot sign now)")
                .retry(again)
        }
        IssueError::Record(_) => {
            Outside::new(Code::Unavailable, Reason::LogUnavailable, "the certificate could not be recorded")
                .retry(again)
        }
        IssueError::Deadline => {
            Outside::new(Code::Unavailable, Reason::Deadline, "the request took too long").retry(again)
        }
    }
}

/// What the outside learns while the CA does not know what time it is.
pub fn of_stepped_clock() -> Outside {
    Outside::new(Code::Unavailable, Reason::ClockStepped, "the CA does not believe its clock")
        .retry(CLOCK_RETRY)
}

/// What the outside learns when evidence is refused.
pub fn of_attestation(error: &AttestationError) -> Outside {
    if let Some(lacking) = error.unavailable() {
        return Outside::new(Code::Unavailable, error.reason(), lacking).retry(Duration::from_secs(1));
    }
    let outside = Outside::new(Code::Unauthenticated, error.reason(), UNAUTHENTICATED);
    Outside { expected: error.expected(), ..outside }
}

/// What the outside learns when there is no room.
pub fn of_overload(overload: Overload) -> Outside {
    Outside::new(Code::ResourceExhausted, overload.reason(), "too many requests")
        .retry(overload.retry_after())
}

fn of_denied(denied: &Denied) -> Outside {
    let lifetime = |reason, expected: Vec<_>| {
        let message = format!("CSR signing error ({denied})");
        Outside { expected, ..Outside::new(Code::InvalidArgument, reason, message) }
    };
    match denied {
        Denied::LifetimeTooLong { maximum, .. } => {
            lifetime(Reason::LifetimeTooLong, vec![("maximum_seconds", maximum.to_string())])
        }
        Denied::LifetimeNegative(_) => lifetime(Reason::LifetimeNegative, Vec::new()),
        Denied::Impersonation { .. } => Outside::new(
            Code::Unauthenticated,
            Reason::Impersonation,
            "request impersonation authentication failure",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::csr::CsrError;

    #[test]
    fn codes_are_istio_s_and_details_say_what_can_be_mended() {
        let too_long = Denied::LifetimeTooLong { asked: 100, maximum: 60 };
        let status = of_issue(&IssueError::Denied(too_long)).into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("CSR signing error ("));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("LIFETIME_TOO_LONG", "signet"));
        assert_eq!(info.metadata["maximum_seconds"], "60");
    }

    #[test]
    fn authentication_stays_opaque() {
        let status = of_issue(&IssueError::Attestation(AttestationError::Missing)).into_status();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "request authenticate failure")
        );
        assert_eq!(status.get_details_error_info().unwrap().reason, "TOKEN_MISSING");
        let blocked = crate::blocks::Blocked { id: 7, kind: "node" };
        let status = of_issue(&IssueError::Blocked(blocked)).into_status();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "request authenticate failure")
        );
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata.len()), ("BLOCKED", 0));
    }

    #[test]
    fn shedding_carries_a_hint() {
        let status = of_issue(&IssueError::Overload(Overload::Queue)).into_status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
        let status = of_issue(&IssueError::Csr(CsrError::Empty)).into_status();
        assert!(status.get_details_retry_info().is_none(), "a bad CSR stays bad");
    }

    #[test]
    fn a_certificate_that_is_not_recorded_is_told_to_come_again() {
        let busy = IssueError::Record(crate::issuance_log::AppendError::Busy);
        let status = of_issue(&busy).into_status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_details_retry_info().is_some());
    }
}
