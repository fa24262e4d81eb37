//! What a request on a stream means: the state-of-the-world rules of secret discovery, as Istio's agent
//! applies them, without any I/O.
//!
//! A rejection is never answered (that would loop), no names end the watch, a stream that we do not know
//! gets everything, an outdated nonce gets nothing, and the present nonce acknowledges and may add names.

use signet_proto::envoy::service::discovery::v3::DiscoveryRequest;
use tonic::Status;

/// The only resource type here.
pub(crate) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A secret by its name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// `ROOTCA`. It stands first: where both are due, peers' roots come before the leaf that needs them.
    Roots,
    /// `default`.
    Certificate,
}

impl Resource {
    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Roots => "ROOTCA",
            Self::Certificate => "default",
        }
    }

    fn parse(name: &str) -> Result<Self, Status> {
        match name {
            "ROOTCA" => Ok(Self::Roots),
            "default" => Ok(Self::Certificate),
            other => Err(Status::invalid_argument(format!("unknown secret {other:?}"))),
        }
    }
}

/// What one request means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Send all of these, whatever was sent before.
    Asked(Vec<Resource>),
    /// The response with this nonce was applied; send these, which are new in the watch.
    Accepted { nonce: String, added: Vec<Resource> },
    /// The response with this nonce was refused, for this reason.
    Rejected { nonce: String, reason: String },
    /// A response that is no longer the last one was applied; nothing to send.
    AcceptedLate { nonce: String },
    /// Nothing is watched any more.
    Unsubscribed,
}

/// What one stream watches.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    watched: Vec<Resource>,
    /// Of the last response.
    nonce: Option<String>,
}

impl Subscription {
    /// Takes a request in. `Err` ends the stream.
    pub(super) fn take(&mut self, request: DiscoveryRequest) -> Result<Meaning, Status> {
        if !request.type_url.is_empty() && request.type_url != TYPE_URL {
            return Err(Status::invalid_argument(format!("unknown type {:?}", request.type_url)));
        }
        let nonce = request.response_nonce;
        if let Some(error) = request.error_detail {
            return Ok(Meaning::Rejected { nonce, reason: error.message });
        }
        let mut names = Vec::new();
        for name in &request.resource_names {
            let resource = Resource::parse(name)?;
            if !names.contains(&resource) {
                names.push(resource);
            }
        }
        if names.is_empty() {
            *self = Self::default();
            return Ok(Meaning::Unsubscribed);
        }
        if nonce.is_empty() || self.watched.is_empty() {
            self.watched.clone_from(&names);
            return Ok(Meaning::Asked(names));
        }
        if self.nonce.as_ref() != Some(&nonce) {
            return Ok(Meaning::AcceptedLate { nonce });
        }
        let added = names.iter().filter(|name| !self.watched.contains(name)).copied().collect();
        self.watched = names;
        Ok(Meaning::Accepted { nonce, added })
    }

    /// A response went out.
    pub(super) fn answered(&mut self, nonce: &str) {
        self.nonce = Some(nonce.to_owned());
    }

    /// What is watched now.
    pub(super) fn watched(&self) -> &[Resource] {
        &self.watched
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Resource::{Certificate, Roots};
    use super::*;
    use signet_proto::google::rpc;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..Default::default()
        }
    }

    /// A stream that watches `default` and was answered with nonce `n1`.
    fn established() -> Subscription {
        let mut subscription = Subscription::default();
        subscription.take(request(&["default"], "")).unwrap();
        subscription.answered("n1");
        subscription
    }

    #[test]
    fn case_38_a_first_request_gets_what_it_names_in_its_order() {
        let mut subscription = Subscription::default();
        let meaning = subscription.take(request(&["default", "ROOTCA", "default"], "")).unwrap();
        assert_eq!(meaning, Meaning::Asked(vec![Certificate, Roots]));
    }

    #[test]
    fn case_38_a_reconnect_with_an_old_nonce_gets_everything() {
        let mut subscription = Subscription::default();
        let meaning = subscription.take(request(&["default"], "nonce-of-another-stream")).unwrap();
        assert_eq!(meaning, Meaning::Asked(vec![Certificate]));
    }

    #[test]
    fn case_38_an_acknowledgement_gets_only_what_it_adds() {
        let mut subscription = established();
        let accepted = |added| Meaning::Accepted { nonce: "n1".into(), added };
        assert_eq!(subscription.take(request(&["default"], "n1")).unwrap(), accepted(vec![]));
        assert_eq!(subscription.take(request(&["default", "ROOTCA"], "n1")).unwrap(), accepted(vec![Roots]));
        assert_eq!(subscription.take(request(&["ROOTCA"], "n1")).unwrap(), accepted(vec![]));
        assert_eq!(subscription.watched(), [Roots]);
    }

    #[test]
    fn case_38_an_outdated_nonce_adds_nothing() {
        let mut subscription = established();
        subscription.answered("n2");
        let meaning = subscription.take(request(&["default", "ROOTCA"], "n1")).unwrap();
        assert_eq!(meaning, Meaning::AcceptedLate { nonce: "n1".into() });
        assert_eq!(subscription.watched(), [Certificate]);
    }

    #[test]
    fn case_38_a_rejection_is_not_a_question() {
        let mut subscription = established();
        let error = rpc::Status { code: 3, message: "bad key".into(), details: vec![] };
        let nack = DiscoveryRequest { error_detail: Some(error), ..request(&["default", "ROOTCA"], "n1") };
        let rejected = Meaning::Rejected { nonce: "n1".into(), reason: "bad key".into() };
        assert_eq!(subscription.take(nack).unwrap(), rejected);
        assert_eq!(subscription.watched(), [Certificate]);
    }

    #[test]
    fn case_38_no_names_end_the_watch_and_a_new_one_starts_over() {
        let mut subscription = established();
        assert_eq!(subscription.take(request(&[], "n1")).unwrap(), Meaning::Unsubscribed);
        assert!(subscription.watched().is_empty());
        let meaning = subscription.take(request(&["default"], "n1")).unwrap();
        assert_eq!(meaning, Meaning::Asked(vec![Certificate]));
    }

    #[test]
    fn case_39_other_names_and_types_end_the_stream() {
        for name in ["ALL", "file-root:system", "spiffe://cluster.local", ""] {
            let status = Subscription::default().take(request(&["default", name], "")).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{name}");
        }
        let other =
            DiscoveryRequest { type_url: "type.googleapis.com/other".into(), ..request(&["default"], "") };
        let status = Subscription::default().take(other).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let ours = DiscoveryRequest { type_url: TYPE_URL.into(), ..request(&["default"], "") };
        assert!(Subscription::default().take(ours).is_ok());
    }
}
