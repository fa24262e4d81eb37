//! Why evidence is refused: the exact cause for our log, a stable code and what the caller can mend for the
//! answer. Values from a token are escaped and cut here ([`shown`]); no error carries a token.

use std::fmt::Write;

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

    /// Whether it is our trouble and not the caller's: the same token may be good a little later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::KeysUnavailable { .. })
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
