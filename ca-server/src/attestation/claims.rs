//! A token's claims: read once the signature is verified, then held against time, audience and themselves.
//!
//! The shapes are those of Kubernetes' projected service-account tokens. Names and uids are bounded in length
//! and characters here, before anything makes a SPIFFE ID or a log record of them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};

use super::error::{AttestationError, shown};
use super::jwks::VerifiedPayload;
use super::token::{Object, object};

/// How far our clock and an issuer's may be apart. Machines that keep time by NTP differ by far less; more
/// would only lengthen the life of a stolen token.
pub(super) const SKEW: Duration = Duration::from_secs(10);

/// The claims that we read. Others are ignored; one of these that comes twice is refused.
#[derive(Deserialize)]
pub(super) struct Claims {
    /// NumericDate (RFC 7519, 2): seconds since 1970, fractions allowed.
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    aud: Option<Audiences>,
    sub: Option<String>,
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Object<Kubernetes>>,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: Option<String>,
    serviceaccount: Option<Object<Reference>>,
    pod: Option<Object<Reference>>,
    node: Option<Object<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    name: Option<String>,
    uid: Option<String>,
}

/// `aud`: one text, or a list of them (RFC 7519, 4.1.3).
struct Audiences(Vec<String>);

/// Who the claims speak of. Everything in it is well-formed.
pub(super) struct Workload<'c> {
    pub(super) namespace: &'c str,
    pub(super) service_account: &'c str,
    pub(super) pod: Option<Named<'c>>,
    pub(super) node: Option<Named<'c>>,
}

/// A Kubernetes object by name and uid.
#[derive(Clone, Copy)]
pub(super) struct Named<'c> {
    pub(super) name: &'c str,
    /// Empty for a node that the API server did not find when it made the token.
    pub(super) uid: &'c str,
}

impl Claims {
    /// Reads the claims of a verified payload.
    pub(super) fn read(payload: &VerifiedPayload<'_>) -> Result<Claims, AttestationError> {
        object("payload", payload.bytes())
    }

    /// When the token ends, if `now` is within its time. The skew is not added.
    pub(super) fn check_times(&self, now: SystemTime) -> Result<SystemTime, AttestationError> {
        let skew = SKEW.as_secs_f64();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let exp = self.exp.ok_or_else(|| AttestationError::Malformed("the payload has no exp".to_owned()))?;
        if now >= exp + skew {
            return Err(AttestationError::Expired { exp, now });
        }
        for (claim, at) in [("nbf", self.nbf), ("iat", self.iat)] {
            match at {
                Some(at) if at > now + skew => return Err(AttestationError::NotYetValid { claim, at, now }),
                _ => {}
            }
        }
        Duration::try_from_secs_f64(exp)
            .ok()
            .and_then(|since| UNIX_EPOCH.checked_add(since))
            .ok_or_else(|| AttestationError::Malformed("exp is beyond all times".to_owned()))
    }

    /// Whether the token is for one of `ours` and for none of the `api_server`'s.
    pub(super) fn check_audiences(
        &self,
        ours: &[String],
        api_server: &[String],
    ) -> Result<(), AttestationError> {
        let found = self.aud.as_ref().map_or(&[][..], |Audiences(found)| found);
        let has = |wanted: &[String]| found.iter().any(|audience| wanted.contains(audience));
        let all = || shown(&found.join(", "));
        // First, so that a token that is for both is told apart from one that is for neither.
        if has(api_server) {
            return Err(AttestationError::ApiServerAudience { expected: ours.to_vec(), found: all() });
        }
        if !has(ours) {
            return Err(AttestationError::Audience { expected: ours.to_vec(), found: all() });
        }
        Ok(())
    }

    /// The service account and pod; subject and `kubernetes.io` have to agree.
    pub(super) fn workload(&self) -> Result<Workload<'_>, AttestationError> {
        let subject = self.sub.as_deref();
        let (namespace, service_account) = subject
            .and_then(|subject| subject.strip_prefix("system:serviceaccount:")?.split_once(':'))
            .filter(|(namespace, account)| is_label(namespace) && is_subdomain(account))
            .ok_or_else(|| AttestationError::Subject(subject.map(shown)))?;

        let disagrees = |what: &str, subject: &str, found: Option<&str>| {
            let found = found.map_or("none".to_owned(), shown);
            AttestationError::Claims(format!("expected {what} {subject} as in the subject, found {found}"))
        };
        let Some(Object(kubernetes)) = &self.kubernetes else {
            return Err(AttestationError::Claims("the token has none".to_owned()));
        };
        let found = kubernetes.namespace.as_deref();
        if found != Some(namespace) {
            return Err(disagrees("namespace", namespace, found));
        }
        let found = kubernetes.serviceaccount.as_ref().and_then(|Object(account)| account.name.as_deref());
        if found != Some(service_account) {
            return Err(disagrees("serviceaccount.name", service_account, found));
        }
        let pod = kubernetes.pod.as_ref().map(|Object(pod)| pod.named("pod")).transpose()?;
        if pod.is_some_and(|pod| pod.uid.is_empty()) {
            return Err(AttestationError::Claims("the pod has no uid".to_owned()));
        }
        let node = kubernetes.node.as_ref().map(|Object(node)| node.named("node")).transpose()?;
        Ok(Workload { namespace, service_account, pod, node })
    }

    /// The token's own id, if it has one.
    pub(super) fn id(&self) -> Option<&str> {
        self.jti.as_deref().filter(|id| !id.is_empty())
    }
}

impl Workload<'_> {
    /// The workload's SPIFFE ID.
    pub(super) fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId::workload(trust_domain, self.namespace, self.service_account).expect(
            "DNS-1123 names are path segments, and with a trust domain of 255 they make 600 bytes at most",
        )
    }
}

impl Reference {
    fn named(&self, kind: &str) -> Result<Named<'_>, AttestationError> {
        let name = self.name.as_deref().unwrap_or_default();
        if !is_subdomain(name) {
            return Err(AttestationError::Claims(format!(
                "the {kind}'s name is ill-formed: {}",
                shown(name)
            )));
        }
        let uid = self.uid.as_deref().unwrap_or_default();
        if !uid.is_empty() && !is_id(uid) {
            return Err(AttestationError::Claims(format!("the {kind}'s uid is ill-formed: {}", shown(uid))));
        }
        Ok(Named { name, uid })
    }
}

/// What tells instances apart: a uid, or an agent's own id.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// A DNS-1123 label, as namespaces are.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_name(text)
}

/// A DNS-1123 subdomain as Kubernetes has it: its parts are bounded together, not each.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_name)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

impl<'de> Deserialize<'de> for Audiences {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audiences;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, one: &str) -> Result<Audiences, E> {
                Ok(Audiences(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Audiences, A::Error> {
                let mut audiences = Vec::new();
                while let Some(audience) = many.next_element()? {
                    audiences.push(audience);
                }
                Ok(Audiences(audiences))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}
