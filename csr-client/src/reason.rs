//! Every reason for which the agent takes something not, in one place: nothing can be counted under another.
//! A new one is a line here and one in `deploy/REASONS.md`, which a test compares.

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident $code:literal $place:ident;)*) => {
        /// Why something is not taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$meta])* $name,)*
        }

        impl Reason {
            /// All of them, in the order of the document.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable word for logs and metrics.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What it is a reason against.
            pub const fn place(self) -> Place {
                match self {
                    $(Self::$name => Place::$place,)*
                }
            }
        }
    };
}

/// What is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A request that gave no certificate: `signet_agent_request_failures`.
    Request,
    /// A statement of the trust watch that was dropped: `signet_agent_trust_refused`.
    Trust,
}

reasons! {
    /// The token's file cannot be read.
    TokenUnreadable "token_unreadable" Request;
    /// It is a folder or the like.
    TokenNotAFile "token_not_a_file" Request;
    /// It is longer than a token.
    TokenTooLong "token_too_long" Request;
    /// It is empty.
    TokenEmpty "token_empty" Request;
    /// It holds something else, or half of a token.
    TokenMalformed "token_malformed" Request;
    /// No key could be made.
    Key "key" Request;
    /// No connection.
    Connect "connect" Request;
    /// The CA said no.
    Refused "refused" Request;
    /// No answer in time.
    Deadline "deadline" Request;
    /// The answer broke off.
    Broken "broken" Request;
    /// A fault in the agent.
    Fault "fault" Request;
    /// More than any chain.
    AnswerTooLarge "answer_too_large" Request;
    /// No roots in it.
    AnswerShort "answer_short" Request;
    /// Not certificates.
    AnswerUnreadable "answer_unreadable" Request;
    /// Its roots are not roots.
    AnswerNotARoot "answer_not_a_root" Request;
    /// For somebody else.
    AnswerIdentity "answer_identity" Request;
    /// For another key.
    AnswerKey "answer_key" Request;
    /// Its time has not come.
    AnswerNotYetValid "answer_not_yet_valid" Request;
    /// Its time is over.
    AnswerEnded "answer_ended" Request;
    /// Not an X.509-SVID.
    AnswerNotSvid "answer_not_svid" Request;
    /// Not good under its own roots.
    AnswerChain "answer_chain" Request;
    /// Not good under the roots that are held.
    AnswerNotUnderHeldRoots "answer_not_under_held_roots" Request;
    /// Its roots would lock the agent out.
    AnswerRoots "answer_roots" Request;
    /// A message without content.
    TrustEmpty "empty" Trust;
    /// A malformed trust domain.
    TrustTrustDomain "trust_domain" Trust;
    /// A root that does not read.
    TrustUnreadable "unreadable" Trust;
    /// Its roots are not roots.
    TrustNotARoot "not_a_root" Trust;
    /// None for our own trust domain.
    TrustNoRoots "no_roots" Trust;
    /// A digest of something else.
    TrustDigest "digest" Trust;
    /// A CRL that does not read, is not of the root that it names, or a digest of others.
    TrustCrls "crls" Trust;
    /// Its roots would lock the agent out.
    TrustRoots "roots" Trust;
    /// More than any trust object.
    TrustTooLarge "too_large" Trust;
    /// A fault in the agent.
    TrustFault "fault" Trust;
}

impl Reason {
    /// Those that are a reason there.
    pub fn at(place: Place) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |reason| reason.place() == place)
    }
}

impl PartialEq<&str> for Reason {
    fn eq(&self, code: &&str) -> bool {
        self.code() == *code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_line_that_says_what_to_mend_for_each_reason_and_for_no_other() {
        let text = include_str!("../../deploy/REASONS.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let ours: Vec<_> =
            rows.filter(|(code, _)| code.bytes().any(|byte| byte.is_ascii_lowercase())).collect();
        let codes: Vec<_> = ours.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, Reason::ALL.iter().map(|reason| reason.code()).collect::<Vec<_>>());
        assert!(ours.iter().all(|(_, mend)| mend.len() > 20), "{ours:?}");
    }
}
