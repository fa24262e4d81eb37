//! Why evidence is refused: the exact cause for our log, a stable code and what the caller can mend for the
//! answer. Values from a token are escaped and cut here ([`shown`]); no error carries a token.

use std::fmt::Write;
use std::time::Duration;

use super::claims::SKEW;
use super::keys::KeysError;
use super::token::{ALGORITHMS, MAX_TOKEN};
use crate::reason::Reason;

/// Longest part of a token's value that an error shows, in characters.
const SHOWN: usize = 128;

/// Why [`Attestation::new`](super::Attestation::new) failed.
#[derive(Debug, thiserror::Error)]
pub enum AttestationSetupError {
    /// The keys of an issuer cannot be had from where the configuration says.
    #[error("preparing the keys of token issuer {issuer:?}")]
    Keys {
        /// Which issuer.
        issuer: String,
        /// Names the file or the URL.
        source: KeysError,
    },
    /// A token's `iss` has to select one issuer.
    #[error("token issuer {0:?} is configured twice")]
    DuplicateIssuer(String),
}

/// Why no caller was made of the evidence. Display has the exact cause, for our log only.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// No evidence at all.
    #[error("expected a bearer token, found none")]
    Missing,
    /// A client certificate instead of a token, where that is not enough.
    #[error("expected a bearer token, found a client certificate only: renewal by certificate is off")]
    RenewalOff,
    /// A client certificate that no CA key of ours signed.
    #[error("the client certificate is not signed by an authority that was ever active here")]
    CertificateIssuer,
    /// One that our log does not have, byte for byte, as a workload's.
    #[error("the client certificate is not recorded here as a workload's")]
    CertificateUnknown,
    /// Its time is over.
    #[error("the client certificate ended at {at}")]
    CertificateEnded {
        /// RFC 3339.
        at: String,
    },
    /// Its time has not come.
    #[error("the client certificate is not valid before {from}")]
    CertificateNotYetValid {
        /// RFC 3339.
        from: String,
    },
    /// Its token's issuer is not configured any more, or may not vouch for it any more.
    #[error(
        "the client certificate goes back to a token of {issuer:?}, who does not vouch for {identity} any more"
    )]
    CertificateTokenIssuer {
        /// Whose token it was.
        issuer: String,
        /// The caller.
        identity: String,
    },
    /// Renewed by certificate for too long.
    #[error(
        "the client certificate goes back to a token of {token_time}; at most {} s are allowed", .max_age.as_secs()
    )]
    TokenTooLongAgo {
        /// When a certificate was last issued for a token, RFC 3339.
        token_time: String,
        /// As configured.
        max_age: Duration,
    },
    /// Our log or state cannot be read.
    #[error("the client certificate cannot be looked up: {0}")]
    Lookup(String),
    /// Longer than any token that an issuer makes.
    #[error("expected a token of at most {MAX_TOKEN} bytes, found {0}")]
    TooLarge(usize),
    /// Not a JWS in compact form with a JSON object as its payload.
    #[error("reading the token: {0}")]
    Malformed(String),
    /// An algorithm that is not allowed, or not for the key that the token names.
    #[error("expected algorithm {expected}, found {found}")]
    Algorithm {
        /// What would do.
        expected: String,
        /// The header's `alg`, escaped and cut.
        found: String,
    },
    /// An issuer that is not configured.
    #[error("expected one of the issuers {expected:?}, found {}", .found.as_deref().unwrap_or("none"))]
    Issuer {
        /// The configured ones.
        expected: Vec<String>,
        /// The token's `iss`, escaped and cut.
        found: Option<String>,
    },
    /// The issuer's key set, which is fresh, has no such key.
    #[error("issuer {issuer:?} has no single key with id {}", .key_id.as_deref().unwrap_or("(none given)"))]
    KeyUnknown {
        /// Whose key set.
        issuer: String,
        /// The header's `kid`, escaped and cut.
        key_id: Option<String>,
    },
    /// The signature is not of the key that the token names.
    #[error(
        "the signature does not verify with key {} of issuer {issuer:?}",
        .key_id.as_deref().unwrap_or("(none given)")
    )]
    Signature {
        /// Whose key set.
        issuer: String,
        /// The header's `kid`, escaped and cut.
        key_id: Option<String>,
    },
    /// Its time is over.
    #[error("the token ended at {exp}, now is {now} (seconds since 1970; skew allowed: {} s)", SKEW.as_secs())]
    Expired {
        /// The token's `exp`.
        exp: f64,
        /// The time of the request.
        now: f64,
    },
    /// Its time has not come.
    #[error(
        "the token's {claim} is {at}, now is {now} (seconds since 1970; skew allowed: {} s)",
        SKEW.as_secs()
    )]
    NotYetValid {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// Its value.
        at: f64,
        /// The time of the request.
        now: f64,
    },
    /// Meant for somebody else.
    #[error("expected one of the audiences {expected:?}, found [{found}]")]
    Audience {
        /// The configured ones.
        expected: Vec<String>,
        /// The token's `aud`, escaped and cut.
        found: String,
    },
    /// Good for the API server too: whoever holds it could act there, so it must not travel to us.
    #[error("expected a token for none of the API server's audiences, found [{found}]")]
    ApiServerAudience {
        /// The audiences to ask for instead.
        expected: Vec<String>,
        /// The token's `aud`, escaped and cut.
        found: String,
    },
    /// Not the subject of a Kubernetes service account.
    #[error(
        "expected the subject system:serviceaccount:<namespace>:<name>, found {}",
        .0.as_deref().unwrap_or("none")
    )]
    Subject(
        /// The token's `sub`, escaped and cut.
        Option<String>,
    ),
    /// The `kubernetes.io` claim is absent, ill-formed or contradicts the subject.
    #[error("checking the kubernetes.io claim: {0}")]
    Claims(String),
    /// A namespace that this issuer may not vouch for.
    #[error("issuer {issuer:?} may not vouch for namespace {found}")]
    Namespace {
        /// Who vouched.
        issuer: String,
        /// For what.
        found: String,
    },
    /// We do not have the issuer's keys, or cannot tell whether they are still the current ones.
    #[error("the keys of issuer {issuer:?} cannot be had: {cause}")]
    KeysUnavailable {
        /// Whose keys.
        issuer: String,
        /// How the last attempt ended.
        cause: String,
    },
}

impl AttestationError {
    /// The stable code: in the answer, in the log, and as a metric's label.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing => Reason::TokenMissing,
            Self::RenewalOff => Reason::RenewalOff,
            Self::CertificateIssuer => Reason::CertificateIssuer,
            Self::CertificateUnknown => Reason::CertificateUnknown,
            Self::CertificateEnded { .. } => Reason::CertificateEnded,
            Self::CertificateNotYetValid { .. } => Reason::CertificateNotYetValid,
            Self::CertificateTokenIssuer { .. } => Reason::CertificateTokenIssuer,
            Self::TokenTooLongAgo { .. } => Reason::TokenTooLongAgo,
            Self::Lookup(_) => Reason::CertificateLookup,
            Self::TooLarge(_) => Reason::TokenTooLarge,
            Self::Malformed(_) => Reason::TokenMalformed,
            Self::Algorithm { .. } => Reason::TokenAlgorithm,
            Self::Issuer { .. } => Reason::TokenIssuer,
            Self::KeyUnknown { .. } => Reason::TokenKeyUnknown,
            Self::Signature { .. } => Reason::TokenSignature,
            Self::Expired { .. } => Reason::TokenExpired,
            Self::NotYetValid { .. } => Reason::TokenNotYetValid,
            Self::Audience { .. } => Reason::TokenAudience,
            Self::ApiServerAudience { .. } => Reason::TokenApiServerAudience,
            Self::Subject(_) => Reason::TokenSubject,
            Self::Claims(_) => Reason::TokenClaims,
            Self::Namespace { .. } => Reason::TokenNamespace,
            Self::KeysUnavailable { .. } => Reason::TokenKeysUnavailable,
        }
    }

    /// What the caller can mend, as names and values; one name may come several times. Never what it
    /// presented, and none of our other rules.
    pub fn expected(&self) -> Vec<(&'static str, String)> {
        let each = |name, values: &[String]| values.iter().map(|value| (name, value.clone())).collect();
        match self {
            Self::TooLarge(_) => vec![("maximum_bytes", MAX_TOKEN.to_string())],
            Self::Algorithm { .. } => {
                ALGORITHMS.iter().map(|(name, _)| ("algorithm", (*name).into())).collect()
            }
            Self::Issuer { expected, .. } => each("issuer", expected),
            Self::Audience { expected, .. } | Self::ApiServerAudience { expected, .. } => {
                each("audience", expected)
            }
            _ => Vec::new(),
        }
    }

    /// What we lack, if it is our trouble and not the caller's: the same evidence may be good a little later.
    pub fn unavailable(&self) -> Option<&'static str> {
        match self {
            Self::KeysUnavailable { .. } => Some("the keys of the token's issuer are not available"),
            Self::Lookup(_) => Some("the certificate cannot be looked up"),
            _ => None,
        }
    }
}

/// A value from a token as an error may show it: escaped, and cut to [`SHOWN`] characters.
pub(super) fn shown(value: &str) -> String {
    let mut text = String::new();
    let mut characters = value.chars();
    for character in characters.by_ref().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", character.escape_debug());
    }
    if characters.next().is_some() {
        text.push('…');
    }
    text
}
