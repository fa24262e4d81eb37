//! One attempt to get a certificate: evidence, a fresh key, one call with a deadline, and a judgement of
//! the answer before anybody sees it.
//!
//! The connection is made for the attempt and dropped after it. Certificates are hours apart, and so each
//! attempt trusts the roots of its own moment. Connecting is in `channel`, judging in `answer`; when to
//! attempt is the business of `identity`.

pub(crate) mod answer;
mod channel;

pub use answer::AnswerError;
pub use channel::ConnectError;
use channel::{Anchors, connect};

use crate::config::Config;
use crate::evidence::{EvidenceError, Token};
use crate::identity::Svid;
use crate::trust::{Trust, Version};
use signet_certs::bundle::Bundles;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::{csr, spiffe_id::SpiffeId};
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use signet_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

/// Header that names this agent beneath its identity, so that a CA can tell two agents of one identity
/// apart.
const INSTANCE_HEADER: &str = "x-signet-instance";
/// Largest answer that is read: a chain and some hundred roots.
const MAX_ANSWER: usize = 1 << 20;

/// Makes attempts.
#[derive(Debug, Clone)]
pub struct Requester {
    ca: crate::config::Ca,
    token: PathBuf,
    spiffe_id: SpiffeId,
    ttl: Duration,
    instance: Option<MetadataValue<Ascii>>,
}

/// A verified answer.
#[derive(Debug)]
pub struct Answer {
    /// Certificate and key.
    pub svid: Svid,
    /// The roots that came along, for our trust domain.
    pub trust: Trust,
}

/// Why an attempt gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No token.
    #[error("there is no evidence to show")]
    Evidence(#[from] EvidenceError),
    /// No key or CSR could be made.
    #[error("cannot make a key and its request")]
    Key(#[from] KeyError),
    /// No connection.
    #[error("cannot connect to the CA")]
    Connect(#[from] ConnectError),
    /// The CA refused.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer within the limit.
    #[error("the CA did not answer within {0:?}")]
    Deadline(Duration),
    /// The answer does not hold what we asked for.
    #[error("the CA's answer was dropped")]
    Answer(#[from] AnswerError),
}

/// What a CA says when it refuses.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: tonic::Code,
    message: String,
    /// The CA's own stable reason code, where it sends one.
    reason: Option<String>,
    /// What the CA expects, by name, sorted.
    expected: BTreeMap<String, String>,
    hint: Option<Duration>,
}

impl Refusal {
    fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()).filter(|reason| !reason.is_empty()),
            expected: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            hint: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CA refused ({}", self.code as i32)?;
        if let Some(reason) = &self.reason {
            write!(f, ", {reason}")?;
        }
        write!(f, "): {}", self.message)?;
        for (at, (key, value)) in self.expected.iter().enumerate() {
            write!(f, "{}{key} {value:?}", if at == 0 { "; it expects " } else { ", " })?;
        }
        Ok(())
    }
}

impl RequestError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Evidence(_) => "evidence",
            Self::Key(_) => "key",
            Self::Connect(_) => "connect",
            Self::Refused(_) => "refused",
            Self::Deadline(_) => "deadline",
            Self::Answer(error) => error.reason(),
        }
    }

    /// How long the CA asks us to wait.
    pub fn hint(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.hint,
            _ => None,
        }
    }
}

impl Requester {
    /// For this configuration; `instance` is the agent's id, if it keeps one.
    pub fn new(config: &Config, instance: Option<&str>) -> Self {
        // An id that cannot stand in a header was not made by us; then we are nobody in particular.
        let instance = instance.and_then(|id| MetadataValue::try_from(id).ok());
        Self {
            ca: config.ca.clone(),
            token: config.token.clone(),
            spiffe_id: config.spiffe_id.clone(),
            ttl: config.ttl,
            instance,
        }
    }

    /// One attempt. `trust` is what is held already: it decides whom to believe at the other end.
    pub async fn obtain(&self, trust: Option<&Trust>) -> Result<Answer, RequestError> {
        let limit = self.ca.timeout;
        let attempt = async {
            let key = PrivateKey::generate_p256()?;
            let csr = csr::create(&key, &self.spiffe_id)?;
            let (response, first_contact) = self.call(csr, trust).await?;
            let now = SystemTime::now();
            let version = Version::of(response.metadata());
            let chain = response.into_inner().cert_chain;
            let judged = answer::judge(&chain, &key, &self.spiffe_id, now)?;
            let bundles = Bundles::of(self.spiffe_id.trust_domain().clone(), judged.roots);
            Ok(Answer {
                svid: Svid::new(judged.leaf, judged.intermediates, key.to_pkcs8_pem(), now),
                trust: Trust { version, bundles, first_contact },
            })
        };
        tokio::time::timeout(limit, attempt).await.unwrap_or(Err(RequestError::Deadline(limit)))
    }

    /// The call itself; returns with the answer what the connection's trust began with.
    async fn call(
        &self,
        csr: String,
        trust: Option<&Trust>,
    ) -> Result<(Response<IstioCertificateResponse>, String), RequestError> {
        let (channel, first_contact) = self.connect(trust).await?;
        // Istio's agent sends the key also when it has no signer to name.
        let signer = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(String::new())) };
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(prost_types::Struct { fields: [("CertSigner".to_owned(), signer)].into() }),
        });
        self.identify(request.metadata_mut()).await?;
        let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        match client.create_certificate(request).await {
            Ok(response) => Ok((response, first_contact)),
            Err(status) => Err(RequestError::Refused(Refusal::of(&status))),
        }
    }

    /// Adds who we are: the token of this moment, our cluster, our instance.
    pub(crate) async fn identify(&self, headers: &mut MetadataMap) -> Result<(), EvidenceError> {
        let token = Token::read(&self.token).await?;
        headers.insert("authorization", token.header());
        // The configuration lets only visible ASCII pass.
        if let Ok(cluster) = MetadataValue::try_from(self.ca.cluster_id.as_str()) {
            headers.insert("clusterid", cluster);
        }
        if let Some(instance) = &self.instance {
            headers.insert(INSTANCE_HEADER, instance.clone());
        }
        Ok(())
    }

    /// The limit of one attempt.
    pub(crate) fn timeout(&self) -> Duration {
        self.ca.timeout
    }

    /// A connection that believes what is held now, with the name of what that began with.
    pub(crate) async fn connect(&self, trust: Option<&Trust>) -> Result<(Channel, String), ConnectError> {
        let anchors = Anchors::find(&self.ca.root, trust, self.spiffe_id.trust_domain()).await?;
        Ok((connect(&self.ca, &anchors).await?, anchors.first_contact))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Authority, FakeCa, HOUR};
    use tonic::Code;
    use tonic_types::ErrorDetails;

    #[tokio::test]
    async fn an_attempt_sends_what_istio_s_agent_sends() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        let requester = Requester::new(&ca.config(folder.path()), Some("an-instance"));
        let answer = requester.obtain(None).await.unwrap();
        let seen = ca.seen.recv().await.unwrap();
        let header = |name: &str| seen.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(header("authorization"), "Bearer header.claims.signature");
        assert_eq!(header("clusterid"), "Kubernetes");
        assert_eq!(header("x-signet-instance"), "an-instance");
        assert_eq!(seen.request.validity_duration, 3600);
        let signer = &seen.request.metadata.unwrap().fields["CertSigner"];
        assert_eq!(signer.kind, Some(prost_types::value::Kind::StringValue(String::new())));
        assert_eq!(answer.svid.chain_pem().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(answer.svid.lifetime().not_after <= SystemTime::now() + HOUR);
        assert_eq!(answer.trust.version, None);
    }

    #[tokio::test]
    async fn each_attempt_has_a_key_of_its_own_and_the_token_of_its_moment() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        let requester = Requester::new(&config, None);
        let first = requester.obtain(None).await.unwrap();
        std::fs::write(&config.token, "another").unwrap();
        let second = requester.obtain(Some(&first.trust)).await.unwrap();
        assert_ne!(*first.svid.key_pem(), *second.svid.key_pem());
        ca.seen.recv().await.unwrap();
        let seen = ca.seen.recv().await.unwrap();
        assert_eq!(seen.headers.get("authorization").unwrap(), "Bearer another");
        assert!(seen.headers.get("x-signet-instance").is_none());
        std::fs::remove_file(&config.token).unwrap();
        assert_eq!(requester.obtain(None).await.unwrap_err().reason(), "evidence");
    }

    #[tokio::test]
    async fn refusals_carry_code_reason_expectation_and_hint() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let requester = Requester::new(&ca.config(folder.path()), None);
        for code in [Code::ResourceExhausted, Code::Internal, Code::Unavailable, Code::Unauthenticated] {
            ca.behave(move |_| {
                let mut details = ErrorDetails::new();
                let expected = [("audience".to_owned(), "istio-ca".to_owned())];
                details.set_error_info("TOKEN_AUDIENCE", "signet", expected);
                details.set_retry_info(Some(Duration::from_secs(7)));
                Err(Status::with_error_details(code, "request authenticate failure", details))
            });
            let error = requester.obtain(None).await.unwrap_err();
            assert_eq!(error.hint(), Some(Duration::from_secs(7)));
            assert_eq!(error.reason(), "refused");
            let number = code as i32;
            let expected = format!(
                "the CA refused ({number}, TOKEN_AUDIENCE): request authenticate failure; \
                 it expects audience \"istio-ca\""
            );
            assert_eq!(error.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_ca_that_does_not_answer_ends_the_attempt_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        ca.behave(|_| Ok(vec![]));
        let mut config = ca.config(folder.path());
        config.ca.timeout = Duration::from_millis(300);
        let error = Requester::new(&config, None).obtain(None).await.unwrap_err();
        assert_eq!(error.reason(), "deadline");
    }

    #[tokio::test]
    async fn the_ca_is_believed_by_the_bundle_and_by_its_file_only_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let mut config = ca.config(folder.path());
        let requester = Requester::new(&config, None);
        let good = requester.obtain(None).await.unwrap().trust;
        // The bundle does not know the CA's root; the file does, and is the one that it began with.
        let other = Authority::root("Other");
        let mut strange = crate::testing::trust(&[&other], None);
        strange.first_contact.clone_from(&good.first_contact);
        assert_eq!(requester.obtain(Some(&strange)).await.unwrap_err().reason(), "connect");
        // A file that was replaced since then counts again.
        strange.first_contact = "another file".into();
        assert!(requester.obtain(Some(&strange)).await.is_ok());
        // A lost file is not missed after the first contact, and needed for it.
        std::fs::remove_file(folder.path().join("ca-root.pem")).unwrap();
        assert!(requester.obtain(Some(&good)).await.is_ok());
        assert!(requester.obtain(None).await.unwrap_err().to_string().contains("cannot connect"));
        // The name is verified.
        config.ca.name = "other.example".into();
        assert_eq!(Requester::new(&config, None).obtain(Some(&good)).await.unwrap_err().reason(), "connect");
    }

    #[tokio::test]
    async fn the_version_of_the_trust_is_read_from_the_headers() {
        let mut headers = MetadataMap::new();
        assert_eq!(Version::of(&headers), None);
        headers.insert("x-signet-trust-epoch", "3".parse().unwrap());
        assert_eq!(Version::of(&headers), None);
        headers.insert("x-signet-trust-sequence", "12".parse().unwrap());
        assert_eq!(Version::of(&headers), Some(Version { epoch: 3, sequence: 12 }));
    }
}
