//! Every reason for which the server refuses something, in one place: a refusal cannot be made with another.
//!
//! A new one is a line here and one in `deploy/REASONS.md`, which a test compares, and an arm in
//! `tests/tests/end_to_end/reasons.rs`, which does not compile until it says how to produce it over the wire.

/// What is refused; each place has its own metric, whose series stand at zero from the start, so that an alert
/// sees the first refusal as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A request for a certificate: `signet_refusals_total`.
    Certificate,
    /// A trust watch: `signet_trust_watches_refused_total`.
    Watch,
    /// A connection to the issuing port: `signet_connections_refused_total`.
    Connection,
    /// An acknowledgement: `signet_acknowledgements_refused_total`.
    Acknowledgement,
    /// A change of the CA files: `signet_cacerts_reloads_total`, which has the codes of `certs lint` as well.
    CaFiles,
    /// An operator's question on the admin socket: only logged.
    Operator,
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident $code:literal at $places:ident;)*) => {
        /// Why something is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$meta])* $name,)*
        }

        impl Reason {
            /// All of them, in the order of the document.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code: in the answer, in the log, and as a metric's label.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What it can be a reason against.
            pub const fn places(self) -> &'static [Place] {
                match self {
                    $(Self::$name => $places,)*
                }
            }
        }
    };
}

const EVIDENCE: &[Place] = &[Place::Certificate, Place::Watch];
const CERTIFICATE: &[Place] = &[Place::Certificate];
const ROOM: &[Place] = &[Place::Certificate, Place::Watch, Place::Connection];
const ROOM_TO_STAND: &[Place] = &[Place::Certificate, Place::Connection];
const CONNECTION: &[Place] = &[Place::Connection];
const ACKNOWLEDGEMENT: &[Place] = &[Place::Acknowledgement];
const CA_FILES: &[Place] = &[Place::CaFiles];
const OPERATOR: &[Place] = &[Place::Operator];

reasons! {
    /// No token.
    TokenMissing "TOKEN_MISSING" at EVIDENCE;
    /// Longer than any token that an issuer makes.
    TokenTooLarge "TOKEN_TOO_LARGE" at EVIDENCE;
    /// No JWS in compact form.
    TokenMalformed "TOKEN_MALFORMED" at EVIDENCE;
    /// An algorithm that is not allowed for the key.
    TokenAlgorithm "TOKEN_ALGORITHM" at EVIDENCE;
    /// An issuer that is not configured.
    TokenIssuer "TOKEN_ISSUER" at EVIDENCE;
    /// A key that the issuer's key set does not have.
    TokenKeyUnknown "TOKEN_KEY_UNKNOWN" at EVIDENCE;
    /// Not signed with that key.
    TokenSignature "TOKEN_SIGNATURE" at EVIDENCE;
    /// Its time is over.
    TokenExpired "TOKEN_EXPIRED" at EVIDENCE;
    /// Its time has not come.
    TokenNotYetValid "TOKEN_NOT_YET_VALID" at EVIDENCE;
    /// For somebody else.
    TokenAudience "TOKEN_AUDIENCE" at EVIDENCE;
    /// For the API server too.
    TokenApiServerAudience "TOKEN_API_SERVER_AUDIENCE" at EVIDENCE;
    /// Not of a service account.
    TokenSubject "TOKEN_SUBJECT" at EVIDENCE;
    /// The `kubernetes.io` claim is absent or contradicts the subject.
    TokenClaims "TOKEN_CLAIMS" at EVIDENCE;
    /// A namespace that the issuer may not vouch for.
    TokenNamespace "TOKEN_NAMESPACE" at EVIDENCE;
    /// The issuer's keys are not to be had.
    TokenKeysUnavailable "TOKEN_KEYS_UNAVAILABLE" at EVIDENCE;
    /// An operator blocked the caller.
    Blocked "BLOCKED" at EVIDENCE;
    /// A client certificate without a token, where that is not allowed.
    RenewalOff "RENEWAL_OFF" at EVIDENCE;
    /// A client certificate that no CA key of ours signed.
    CertificateIssuer "CERTIFICATE_ISSUER" at EVIDENCE;
    /// A client certificate that our log does not have.
    CertificateUnknown "CERTIFICATE_UNKNOWN" at EVIDENCE;
    /// A client certificate whose time is over.
    CertificateEnded "CERTIFICATE_ENDED" at EVIDENCE;
    /// A client certificate whose time has not come.
    CertificateNotYetValid "CERTIFICATE_NOT_YET_VALID" at EVIDENCE;
    /// The issuer of the token at the chain's beginning does not vouch for the caller any more.
    CertificateTokenIssuer "CERTIFICATE_TOKEN_ISSUER" at EVIDENCE;
    /// The last token is too long ago.
    TokenTooLongAgo "TOKEN_TOO_LONG_AGO" at EVIDENCE;
    /// The log could not be read.
    CertificateLookup "CERTIFICATE_LOOKUP" at EVIDENCE;
    /// The message does not read.
    RequestInvalid "REQUEST_INVALID" at CERTIFICATE;
    /// The CSR is no good.
    CsrInvalid "CSR_INVALID" at CERTIFICATE;
    /// More than the maximum was asked for.
    LifetimeTooLong "LIFETIME_TOO_LONG" at CERTIFICATE;
    /// Less than nothing was asked for.
    LifetimeNegative "LIFETIME_NEGATIVE" at CERTIFICATE;
    /// Somebody else's identity was asked for.
    Impersonation "IMPERSONATION" at CERTIFICATE;
    /// As much in flight as the server takes.
    OverloadServer "OVERLOAD_SERVER" at ROOM;
    /// As much in flight as one address may have.
    OverloadAddress "OVERLOAD_ADDRESS" at ROOM;
    /// The address has spent its share of failed attestations.
    OverloadFailures "OVERLOAD_FAILURES" at EVIDENCE;
    /// What was to come had not come when its place was needed.
    OverloadSlow "OVERLOAD_SLOW" at ROOM_TO_STAND;
    /// The queue before the signing pool is full.
    OverloadQueue "OVERLOAD_QUEUE" at CERTIFICATE;
    /// The turn did not come in time.
    OverloadDeadline "OVERLOAD_DEADLINE" at CERTIFICATE;
    /// No answer in time, or no whole message.
    Deadline "DEADLINE" at CERTIFICATE;
    /// Nobody knows what time it is.
    ClockStepped "CLOCK_STEPPED" at EVIDENCE;
    /// The record could not be made durable.
    LogUnavailable "LOG_UNAVAILABLE" at CERTIFICATE;
    /// The CA's own chain is not valid now.
    IssuerEnded "ISSUER_ENDED" at CERTIFICATE;
    /// Signing failed.
    Signing "SIGNING" at CERTIFICATE;
    /// No TLS came about.
    Handshake "HANDSHAKE" at CONNECTION;
    /// More in one statement than is taken.
    AcknowledgementTooLarge "ACKNOWLEDGEMENT_TOO_LARGE" at ACKNOWLEDGEMENT;
    /// The statement could not be written down.
    AcknowledgementNotKept "ACKNOWLEDGEMENT_NOT_KEPT" at ACKNOWLEDGEMENT;
    /// The active CA's files are gone.
    Empty "EMPTY" at CA_FILES;
    /// A root would be lost that leaves may chain to.
    RootRemoved "ROOT_REMOVED" at CA_FILES;
    /// Leaves would chain to another root.
    AnchorChanged "ANCHOR_CHANGED" at CA_FILES;
    /// What the CA would sign does not verify.
    Rehearsal "REHEARSAL" at CA_FILES;
    /// A safe change could not be written down.
    NotKept "NOT_KEPT" at CA_FILES;
    /// CRLs come before certificates under an issuing intermediate have ended.
    CrlsWait "CRLS_WAIT" at CA_FILES;
    /// Neither root, nor the server's user, nor of its group.
    NotAnOperator "NOT_AN_OPERATOR" at OPERATOR;
    /// A backup has keys in it.
    NotTheOwner "NOT_THE_OWNER" at OPERATOR;
}

impl Reason {
    /// Those that can be a reason there.
    pub fn at(place: Place) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |reason| reason.places().contains(&place))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::change::ReasonCode;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_is_one_and_a_code() {
        assert_eq!(
            Reason::ALL.iter().map(|one| one.code()).collect::<BTreeSet<_>>().len(),
            Reason::ALL.len()
        );
        for reason in Reason::ALL {
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{reason}");
            assert!(!reason.places().is_empty(), "{reason}");
        }
    }

    #[test]
    fn changes_that_need_a_rotation_have_the_names_that_they_have_in_lint() {
        assert_eq!(Reason::RootRemoved.code(), ReasonCode::RootRemoved.name());
        assert_eq!(Reason::AnchorChanged.code(), ReasonCode::AnchorChanged.name());
    }

    /// Its lines, as code and what stands behind it.
    fn documented() -> Vec<(String, String)> {
        let text = include_str!("../../deploy/REASONS.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        rows.map(|(code, rest)| (code.to_owned(), rest.trim_matches(['|', ' ']).to_owned())).collect()
    }

    #[test]
    fn the_document_has_a_line_that_says_what_to_mend_for_each_code_and_for_no_other() {
        let rows = documented();
        let said: Vec<_> = rows.iter().map(|(code, _)| code.as_str()).collect();
        let listed = Reason::ALL.iter().map(|reason| reason.code());
        let agent = said.iter().position(|code| code.chars().any(char::is_lowercase)).unwrap_or(said.len());
        let findings = signet_certs::cacerts::finding_codes();
        let all: Vec<_> = listed.chain(findings).collect();
        assert_eq!(said[..agent], all, "codes and their order in deploy/REASONS.md");
        for (code, mend) in rows {
            assert!(mend.len() > 20, "{code}: {mend:?} says too little");
        }
    }
}
