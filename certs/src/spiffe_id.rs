//! SPIFFE IDs and trust domains by the grammar of the SPIFFE-ID specification, section 2.
//!
//! Both types can only hold what the grammar allows, so nothing behind them escapes or compares text
//! again. What Istio makes of a Kubernetes service account is [`SpiffeId::workload`].

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest trust domain name, in bytes (SPIFFE-ID, 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest SPIFFE ID, in bytes (SPIFFE-ID, 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;
const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// Does not begin with `spiffe://`.
    #[error("expected an ID that begins with spiffe://")]
    Scheme,
    /// No trust domain.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A character that trust domains cannot have (upper case, `:` of a port, `@`, …).
    #[error("trust domain: only a-z, 0-9, '.', '-' and '_' are allowed, found {0:?}")]
    TrustDomainCharacter(char),
    /// Longer than [`MAX_TRUST_DOMAIN`].
    #[error("the trust domain is {0} bytes long, at most 255 are allowed")]
    TrustDomainLength(usize),
    /// Empty segment, which includes a trailing slash.
    #[error("the path has an empty segment or ends with a slash")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the path has a segment of dots")]
    DotSegment,
    /// A character that paths cannot have (`%`, `?`, `#`, space, …).
    #[error("path: only letters, digits, '.', '-' and '_' are allowed, found {0:?}")]
    PathCharacter(char),
    /// Longer than [`MAX_SPIFFE_ID`].
    #[error("the ID is {0} bytes long, at most 2048 are allowed")]
    Length(usize),
}

/// A trust domain's name, such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a bare name, without `spiffe://`.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::EmptyTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeIdError::TrustDomainLength(name.len()));
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(c) => Err(SpiffeIdError::TrustDomainCharacter(c)),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

/// A SPIFFE ID: a trust domain and a path, which may be empty (the trust domain's own ID).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses `spiffe://<trust domain>[/<segment>…]`.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(SpiffeIdError::Length(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let trust_domain = TrustDomain::parse(domain)?;
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self { text: text.to_owned(), trust_domain })
    }

    /// What Istio calls a workload: `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if text.len() > MAX_SPIFFE_ID {
            return Err(SpiffeIdError::Length(text.len()));
        }
        Ok(Self { text, trust_domain: trust_domain.clone() })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or nothing.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.0.len()..]
    }
}

/// One path segment by the grammar; a `/` within is a character that segments cannot have.
fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    match segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
        Some(c) => Err(SpiffeIdError::PathCharacter(c)),
        None => Ok(()),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specification_s_examples_parse() {
        for good in [
            "spiffe://staging.example.com/payments/mysql",
            "spiffe://k8s-west.example.com/ns/staging/sa/default",
            "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453",
            "spiffe://example.com",
            "spiffe://a_b-c.d/A.b_c-1",
        ] {
            assert_eq!(SpiffeId::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn each_departure_from_the_grammar_is_refused_by_name() {
        use SpiffeIdError::*;
        let long = "a".repeat(256);
        for (bad, why) in [
            ("http://td/x".to_owned(), Scheme),
            ("SPIFFE://td/x".to_owned(), Scheme),
            ("spiffe://".to_owned(), EmptyTrustDomain),
            ("spiffe:///ns/a".to_owned(), EmptyTrustDomain),
            ("spiffe://Td/x".to_owned(), TrustDomainCharacter('T')),
            ("spiffe://td:8080/x".to_owned(), TrustDomainCharacter(':')),
            ("spiffe://u@td/x".to_owned(), TrustDomainCharacter('@')),
            ("spiffe://td?q".to_owned(), TrustDomainCharacter('?')),
            (format!("spiffe://{long}/x"), TrustDomainLength(256)),
            ("spiffe://td/".to_owned(), EmptySegment),
            ("spiffe://td/a//b".to_owned(), EmptySegment),
            ("spiffe://td/a/".to_owned(), EmptySegment),
            ("spiffe://td/a/../b".to_owned(), DotSegment),
            ("spiffe://td/a/.".to_owned(), DotSegment),
            ("spiffe://td/a%20b".to_owned(), PathCharacter('%')),
            ("spiffe://td/a?b".to_owned(), PathCharacter('?')),
            ("spiffe://td/a#b".to_owned(), PathCharacter('#')),
            ("spiffe://td/ä".to_owned(), PathCharacter('ä')),
            ("spiffe://td/a\0".to_owned(), PathCharacter('\0')),
        ] {
            assert_eq!(SpiffeId::parse(&bad), Err(why), "{bad}");
        }
        assert!(matches!(SpiffeId::parse(&format!("spiffe://td/{}", "a".repeat(2048))), Err(Length(_))));
    }

    #[test]
    fn case_22_lengths_at_the_limit_pass_and_one_more_does_not() {
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
        let td = TrustDomain::parse("td").unwrap();
        let room = MAX_SPIFFE_ID - "spiffe://td/ns/n/sa/".len();
        assert!(SpiffeId::workload(&td, "n", &"s".repeat(room)).is_ok());
        assert!(SpiffeId::workload(&td, "n", &"s".repeat(room + 1)).is_err());
    }

    #[test]
    fn a_workload_s_names_cannot_add_segments() {
        let td = TrustDomain::parse("cluster.local").unwrap();
        let id = SpiffeId::workload(&td, "default", "reviews").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/default/sa/reviews");
        assert_eq!((id.trust_domain(), id.path()), (&td, "/ns/default/sa/reviews"));
        for bad in ["", ".", "..", "a/b", "a,b", "a b", "a%2fb"] {
            assert!(SpiffeId::workload(&td, bad, "s").is_err(), "{bad}");
            assert!(SpiffeId::workload(&td, "n", bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same_and_never_panics(text in "(spiffe://)?[ -~/]{0,60}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text.clone());
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
