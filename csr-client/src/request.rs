//! One attempt to get a certificate: evidence, a fresh key, one call with a deadline, and a judgement of
//! the answer before anybody sees it.
//!
//! The connection is made for the attempt and dropped after it. Certificates are hours apart, and so each
//! attempt trusts the roots of its own moment. Connecting is in `channel`, judging in `answer`; when to
//! attempt is the business of `identity`.

pub(crate) mod answer;
mod channel;
mod refusal;

use crate::reason::Reason;
pub use answer::AnswerError;
pub(crate) use answer::adopt;
pub use channel::ConnectError;
use channel::{Anchors, connect};
pub use refusal::Refusal;

use crate::config::Config;
use crate::evidence::{EvidenceError, Token};
use crate::identity::{Served, Svid};
use crate::trust::{Trust, Version};
use signet_certs::bundle::Bundles;
use signet_certs::chain::ChainError;
use signet_certs::crl::Crls;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::{csr, spiffe_id::SpiffeId};
use signet_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use signet_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use signet_service::logging::with_causes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

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
    /// What is held, where that may take the place of a token.
    held: Option<watch::Receiver<Served>>,
    /// Whether it was what the CA believed last.
    by_certificate: Arc<AtomicBool>,
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
    /// Neither the token nor the certificate did.
    #[error("neither the token nor the certificate does (the certificate: {})", with_causes(.certificate))]
    Neither {
        /// Why the token does not: that is what can be mended.
        #[source]
        token: Box<Self>,
        /// Why the certificate does not.
        certificate: Box<Self>,
    },
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
    /// The connection ended, or what came on it is no gRPC.
    #[error("the connection to the CA broke ({0})")]
    Broken(String),
    /// More than [`MAX_ANSWER`].
    #[error("the CA's answer was dropped: it is longer than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer does not hold what we asked for.
    #[error("the CA's answer was dropped")]
    Answer(#[from] AnswerError),
    /// Peers with the roots that we hold, and that the answer does not replace, would refuse the certificate.
    #[error("the CA's answer was dropped: it is not good under the roots that are held")]
    NotUnderHeldRoots(#[source] ChainError),
    /// The answer's roots would replace those that the CA itself is believed by.
    #[error("the CA's answer was dropped: with its roots alone the CA itself could not be reached again")]
    Roots(#[source] ConnectError),
    /// Reading it made the code of the attempt panic; the log has where.
    #[error("what the CA sent could not be dealt with: a fault in this program")]
    Fault,
}

impl RequestError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Evidence(error) => error.reason(),
            Self::Neither { token, .. } => token.reason(),
            Self::Key(_) => Reason::Key,
            Self::Connect(_) => Reason::Connect,
            Self::Refused(_) => Reason::Refused,
            Self::Deadline(_) => Reason::Deadline,
            Self::Broken(_) => Reason::Broken,
            Self::TooLarge => Reason::AnswerTooLarge,
            Self::Answer(error) => error.reason(),
            Self::NotUnderHeldRoots(_) => Reason::AnswerNotUnderHeldRoots,
            Self::Roots(_) => Reason::AnswerRoots,
            Self::Fault => Reason::Fault,
        }
    }

    /// Whether other evidence might do.
    fn is_of_evidence(&self) -> bool {
        match self {
            Self::Evidence(_) => true,
            Self::Refused(refusal) => refusal.code() == Code::Unauthenticated,
            _ => false,
        }
    }

    /// Names the trouble, so that the same one can be told from another.
    pub(crate) fn trouble(&self) -> String {
        match self {
            // The message may have a request's id in it.
            Self::Refused(refusal) => refusal.trouble(),
            Self::Neither { token, certificate } => token.trouble() + "; " + &certificate.trouble(),
            other => with_causes(other),
        }
    }

    /// A refusal that asks to wait.
    #[cfg(test)]
    pub(crate) fn refused_with_hint(hint: Duration) -> Self {
        let mut details = tonic_types::ErrorDetails::new();
        details.set_retry_info(Some(hint));
        let status =
            <Status as tonic_types::StatusExt>::with_error_details(Code::ResourceExhausted, "later", details);
        Self::Refused(Refusal::of(&status))
    }

    /// Whether the CA was not even asked: then asking again soon costs nobody anything.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Evidence(_))
    }

    /// How long the CA asks us to wait.
    pub fn hint(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Neither { token, certificate } => certificate.hint().or(token.hint()),
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
            held: None,
            by_certificate: Arc::default(),
        }
    }

    /// May show the certificate of `held` where the token is gone or refused.
    pub fn showing(self, held: watch::Receiver<Served>) -> Self {
        Self { held: Some(held), ..self }
    }

    /// One attempt, and one more with the certificate that is held if only the token is at fault and that is
    /// allowed. `trust` is what is held already: it decides whom to believe at the other end.
    pub async fn obtain(&self, trust: Option<&Trust>) -> Result<Answer, RequestError> {
        let token = match self.attempt(trust, None).await {
            Ok(answer) => {
                self.by_certificate.store(false, Ordering::Relaxed);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let Some(svid) = self.certificate().filter(|_| token.is_of_evidence()) else { return Err(token) };
        match self.attempt(trust, Some(&svid)).await {
            Ok(answer) => {
                tracing::warn!(error = %with_causes(&token), "the token did not do; the certificate did");
                self.by_certificate.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            // Said by whoever knows whether it was said before.
            Err(certificate) => {
                Err(RequestError::Neither { token: Box::new(token), certificate: Box::new(certificate) })
            }
        }
    }

    async fn attempt(&self, trust: Option<&Trust>, shown: Option<&Svid>) -> Result<Answer, RequestError> {
        let limit = self.ca.timeout;
        let attempt = async {
            // Before the CA is bothered: what is ours to have.
            let token = match shown {
                Some(_) => None,
                None => Some(Token::read(&self.token).await?),
            };
            let key = PrivateKey::generate_p256()?;
            let csr = csr::create(&key, &self.spiffe_id)?;
            let (channel, first_contact) = self.connect_with(trust, shown).await?;
            let response = self.call(channel, csr, token).await?;
            let now = SystemTime::now();
            let version = Version::of(response.metadata());
            let chain = response.into_inner().cert_chain;
            let judged = answer::judge(&chain, &key, &self.spiffe_id, now)?;
            let bundles = Bundles::of(self.spiffe_id.trust_domain().clone(), judged.roots);
            let svid = Svid::new(judged.leaf, judged.intermediates, key.to_pkcs8_pem(), now);
            let answer =
                Answer { svid, trust: Trust { version, bundles, crls: Crls::default(), first_contact } };
            self.rehearse(trust, &answer.trust).await.map_err(RequestError::Roots)?;
            Ok(answer)
        };
        tokio::time::timeout(limit, attempt).await.unwrap_or(Err(RequestError::Deadline(limit)))
    }

    /// The call itself.
    async fn call(
        &self,
        channel: Channel,
        csr: String,
        token: Option<Token>,
    ) -> Result<Response<IstioCertificateResponse>, RequestError> {
        // Istio's agent sends the key also when it has no signer to name.
        let signer = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(String::new())) };
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(prost_types::Struct { fields: [("CertSigner".to_owned(), signer)].into() }),
        });
        self.describe(request.metadata_mut());
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.header());
        }
        let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        client.create_certificate(request).await.map_err(|status| failure(&status))
    }

    /// Before roots go: whether the CA can be reached with those of `next` alone. A CA that says otherwise, by
    /// mistake or on purpose, would never be believed again.
    pub(crate) async fn rehearse(&self, held: Option<&Trust>, next: &Trust) -> Result<(), ConnectError> {
        let own = self.spiffe_id.trust_domain();
        let Some(held) = held.and_then(|held| held.bundles.get(own)) else { return Ok(()) };
        let next = next.bundles.get(own).cloned().unwrap_or_default();
        if next.contains_all(held) {
            return Ok(());
        }
        connect(&self.ca, &Anchors::only(&next), None).await.map(drop)
    }

    /// Adds who we are: our cluster, our instance, and the token of this moment, unless the connection shows
    /// our certificate in its place.
    pub(crate) async fn identify(&self, headers: &mut MetadataMap) -> Result<(), EvidenceError> {
        self.describe(headers);
        if self.believed_certificate().is_none() {
            headers.insert("authorization", Token::read(&self.token).await?.header());
        }
        Ok(())
    }

    fn describe(&self, headers: &mut MetadataMap) {
        // The configuration lets only visible ASCII pass.
        if let Ok(cluster) = MetadataValue::try_from(self.ca.cluster_id.as_str()) {
            headers.insert("clusterid", cluster);
        }
        if let Some(instance) = &self.instance {
            headers.insert(INSTANCE_HEADER, instance.clone());
        }
    }

    /// The certificate that may be shown: one that has not ended.
    fn certificate(&self) -> Option<Arc<Svid>> {
        self.held.as_ref()?.borrow().valid_svid(SystemTime::now()).cloned()
    }

    /// The same, if it was what the CA believed last.
    fn believed_certificate(&self) -> Option<Arc<Svid>> {
        self.certificate().filter(|_| self.by_certificate.load(Ordering::Relaxed))
    }

    /// The limit of one attempt.
    pub(crate) fn timeout(&self) -> Duration {
        self.ca.timeout
    }

    /// A connection that believes what is held now, with the name of what that began with.
    pub(crate) async fn connect(&self, trust: Option<&Trust>) -> Result<(Channel, String), ConnectError> {
        self.connect_with(trust, self.believed_certificate().as_deref()).await
    }

    async fn connect_with(
        &self,
        trust: Option<&Trust>,
        shown: Option<&Svid>,
    ) -> Result<(Channel, String), ConnectError> {
        let anchors = Anchors::find(&self.ca.root, trust, self.spiffe_id.trust_domain()).await?;
        Ok((connect(&self.ca, &anchors, shown).await?, anchors.first_contact))
    }
}

/// What a status says: the CA's refusal, or that no answer could be read.
fn failure(status: &Status) -> RequestError {
    // What is raised at this end has a source, which none that travelled has; only the limit's has none.
    if status.code() == Code::OutOfRange && status.message().contains("decoded message length too large") {
        RequestError::TooLarge
    } else if std::error::Error::source(status).is_some() {
        RequestError::Broken(refusal::short(status.message()))
    } else {
        RequestError::Refused(Refusal::of(status))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Authority, FakeCa, HOUR, Lie, Pki, reviews, validity};
    use signet_certs::csr::VerifiedCsr;
    use std::sync::Arc;
    use tonic_types::{ErrorDetails, StatusExt};

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
        std::fs::write(&config.token, "an.other.token").unwrap();
        let second = requester.obtain(Some(&first.trust)).await.unwrap();
        assert_ne!(*first.svid.key_pem(), *second.svid.key_pem());
        ca.seen.recv().await.unwrap();
        let seen = ca.seen.recv().await.unwrap();
        assert_eq!(seen.headers.get("authorization").unwrap(), "Bearer an.other.token");
        assert!(seen.headers.get("x-signet-instance").is_none());
        std::fs::remove_file(&config.token).unwrap();
        assert_eq!(requester.obtain(None).await.unwrap_err().reason(), "token_unreadable");
    }

    #[tokio::test]
    async fn a_missing_token_is_said_and_not_hidden_by_a_ca_that_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = FakeCa::start().await.config(folder.path());
        // A port that nobody else takes and that is no CA.
        let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.ca.url = format!("https://{}", away.local_addr().unwrap());
        std::fs::remove_file(&config.token).unwrap();
        let error = Requester::new(&config, None).obtain(None).await.unwrap_err();
        assert_eq!(error.reason(), "token_unreadable");
        assert!(error.is_ours());
        let called = tokio::time::timeout(Duration::from_millis(50), away.accept()).await;
        assert!(called.is_err(), "the CA was not even asked");
    }

    #[tokio::test]
    async fn trouble_of_token_and_certificate_is_one_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        let holder = crate::identity::Holder::new(crate::testing::trust_domain(), None);
        let requester = Requester::new(&config, None).showing(holder.subscribe());
        holder.take_answer(requester.obtain(None).await.unwrap());
        let held = holder.served().trust;
        std::fs::remove_file(&config.token).unwrap();
        let mut request = 0;
        ca.behave(move |_| {
            request += 1;
            let mut details = ErrorDetails::new();
            details.set_error_info("RENEWAL_OFF", "signet", []);
            details.set_request_info(request.to_string(), "");
            details.set_retry_info(Some(Duration::from_secs(7)));
            Err(Status::with_error_details(Code::Unauthenticated, format!("no, {request}"), details))
        });
        let first = requester.obtain(held.as_deref()).await.unwrap_err();
        let second = requester.obtain(held.as_deref()).await.unwrap_err();
        let text = with_causes(&first);
        assert!(text.contains("cannot read the token") && text.contains("RENEWAL_OFF"), "{text}");
        assert_eq!(first.trouble(), second.trouble(), "said once");
        assert_eq!((first.reason().code(), first.hint()), ("token_unreadable", Some(Duration::from_secs(7))));
        assert!(!first.is_ours(), "the CA was asked");
        ca.recover();
        requester.obtain(held.as_deref()).await.unwrap();
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
    async fn each_lie_on_the_wire_ends_within_its_limit_and_has_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let mut config = ca.config(folder.path());
        config.ca.timeout = Duration::from_millis(500);
        let requester = Requester::new(&config, None);
        for (lie, reason) in [
            (Lie::Huge, "answer_too_large"),
            (Lie::Endless, "deadline"),
            (Lie::Many, "deadline"),
            (Lie::Reset, "broken"),
        ] {
            ca.lie(lie);
            let error = requester.obtain(None).await.unwrap_err();
            assert_eq!(error.reason(), reason, "{lie:?}: {}", with_causes(&error));
        }
        ca.recover();
        ca.behave(|_| Ok(vec!["x".repeat(MAX_ANSWER)]));
        assert_eq!(requester.obtain(None).await.unwrap_err().reason(), "answer_too_large");
        ca.recover();
        requester.obtain(None).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_whose_roots_would_lose_the_ca_itself_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let requester = Requester::new(&ca.config(folder.path()), None);
        let held = requester.obtain(None).await.unwrap().trust;
        // Another PKI in every respect: it fits together, and the CA is not under it.
        let other = Arc::new(Pki::new());
        let lying = other.clone();
        ca.behave(move |request| {
            let csr = VerifiedCsr::from_pem(&request.csr).unwrap();
            Ok(lying.chain(&lying.leaf(csr.spki(), &reviews(), validity(HOUR))))
        });
        let error = requester.obtain(Some(&held)).await.unwrap_err();
        assert_eq!(error.reason(), "answer_roots", "{}", with_causes(&error));
        // With its own root among them, as in a rotation, they are taken.
        let own = ca.pki.root.certificate.to_pem();
        ca.behave(move |request| {
            let csr = VerifiedCsr::from_pem(&request.csr).unwrap();
            let mut chain = other.chain(&other.leaf(csr.spki(), &reviews(), validity(HOUR)));
            chain[2] += &own;
            Ok(chain)
        });
        assert_eq!(requester.obtain(Some(&held)).await.unwrap().trust.bundles.iter().count(), 1);
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
