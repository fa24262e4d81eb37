//! Policy: what a caller may have of what it asked for. The shipped rule is one's own identity, nothing
//! else, for a lifetime within bounds.

use std::time::Duration;

use signet_certs::spiffe_id::SpiffeId;
use thiserror::Error;

use crate::attestation::Caller;
use crate::config::Lifetimes;

/// What a request asks for beside a certificate for its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Seconds; 0 leaves the lifetime to us, as an absent field does on the wire.
    pub lifetime: i64,
    /// Another identity, as node proxies ask for it.
    pub impersonated: Option<String>,
}

/// What is given: only a grant can be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The caller's own.
    pub identity: SpiffeId,
    /// From now on.
    pub lifetime: Duration,
}

/// Why nothing is given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// More than the maximum.
    #[error("a lifetime of {asked} s was asked for, at most {maximum} s are allowed")]
    LifetimeTooLong {
        /// Seconds.
        asked: i64,
        /// Seconds.
        maximum: u64,
    },
    /// Below zero.
    #[error("a lifetime of {0} s was asked for")]
    LifetimeNegative(i64),
    /// Any identity but the caller's own.
    #[error("the identity {asked:?} was asked for by {caller}")]
    Impersonation {
        /// What was asked for, cut to 256 characters, if it is a SPIFFE ID.
        asked: String,
        /// Who asked.
        caller: SpiffeId,
    },
}

/// Decides. Pure.
pub fn decide(caller: &Caller, asked: &Asked, lifetimes: Lifetimes) -> Result<Grant, Denied> {
    // Istio's clients send empty texts for what they do not set.
    let other = |name: &&str| !name.is_empty() && *name != caller.identity.as_str();
    if let Some(other) = asked.impersonated.as_deref().filter(other) {
        // This goes to the log: what is no identity may be something secret.
        let shown = if other.starts_with("spiffe://") { other } else { "(no SPIFFE ID)" };
        let asked = shown.chars().take(256).collect();
        return Err(Denied::Impersonation { asked, caller: caller.identity.clone() });
    }
    let lifetime = match u64::try_from(asked.lifetime) {
        Err(_) => return Err(Denied::LifetimeNegative(asked.lifetime)),
        Ok(0) => lifetimes.default,
        Ok(seconds) if seconds > lifetimes.maximum.as_secs() => {
            let maximum = lifetimes.maximum.as_secs();
            return Err(Denied::LifetimeTooLong { asked: asked.lifetime, maximum });
        }
        Ok(seconds) => Duration::from_secs(seconds),
    };
    Ok(Grant { identity: caller.identity.clone(), lifetime })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance_log::EvidenceEntry;
    use std::time::SystemTime;

    pub(crate) fn caller() -> Caller {
        Caller {
            identity: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/reviews").unwrap(),
            namespace: "default".to_owned(),
            service_account: "reviews".to_owned(),
            instance: None,
            evidence: EvidenceEntry::default(),
            issuer_key_ids: Vec::new(),
            expires: SystemTime::UNIX_EPOCH,
            cluster: None,
        }
    }

    const LIFETIMES: Lifetimes =
        Lifetimes { default: Duration::from_secs(86_400), maximum: Duration::from_secs(90 * 86_400) };

    fn lifetime(seconds: i64) -> Result<Duration, Denied> {
        let asked = Asked { lifetime: seconds, ..Asked::default() };
        decide(&caller(), &asked, LIFETIMES).map(|grant| grant.lifetime)
    }

    #[test]
    fn case_23_zero_is_the_default_and_the_maximum_is_the_last_that_passes() {
        let maximum = 90 * 86_400;
        assert_eq!(lifetime(0), Ok(LIFETIMES.default));
        assert_eq!(lifetime(1), Ok(Duration::from_secs(1)));
        assert_eq!(lifetime(maximum), Ok(LIFETIMES.maximum));
        let too_long = Denied::LifetimeTooLong { asked: maximum + 1, maximum: maximum as u64 };
        assert_eq!(lifetime(maximum + 1), Err(too_long));
        assert!(matches!(lifetime(i64::MAX), Err(Denied::LifetimeTooLong { .. })));
        assert_eq!(lifetime(-1), Err(Denied::LifetimeNegative(-1)));
        assert_eq!(lifetime(i64::MIN), Err(Denied::LifetimeNegative(i64::MIN)));
    }

    #[test]
    fn one_s_own_identity_may_be_named_and_no_other() {
        let caller = caller();
        let asking = |text: &str| {
            let asked = Asked { impersonated: Some(text.to_owned()), ..Asked::default() };
            decide(&caller, &asked, LIFETIMES)
        };
        for own in ["", caller.identity.as_str()] {
            assert_eq!(asking(own).unwrap().identity, caller.identity);
        }
        for other in ["spiffe://cluster.local/ns/default/sa/admin", "junk", "spiffe://evil/ns/default/sa/x"] {
            assert!(matches!(asking(other), Err(Denied::Impersonation { .. })), "{other}");
        }
    }
}
