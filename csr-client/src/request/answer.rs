//! Judges an answer as a stranger would, before it may replace anything.
//!
//! A CA that is confused, or somebody who got in between, must not be able to take a good certificate away.
//! The shape is Istio's: leaf first, intermediates, and all roots as the last element.

use signet_certs::bundle::TrustBundle;
use signet_certs::chain::{self, Certificate, CertificateError, ChainError};
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::SpiffeId;
use std::time::SystemTime;

/// Why an answer is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Less than a leaf and roots.
    #[error("it has {0} elements, where a leaf and roots are the least")]
    Short(usize),
    /// An element is not made of certificates.
    #[error("element {at} is not made of certificates")]
    Unreadable {
        /// Counted from 0.
        at: usize,
        /// What is wrong.
        #[source]
        source: CertificateError,
    },
    /// The last element holds an intermediate; taken as a root it would silently become one.
    #[error("its last element holds a certificate that is not a root")]
    NotARoot,
    /// Somebody else's certificate.
    #[error("it names {found} and not {expected}")]
    OtherIdentity {
        /// Whom it names.
        found: SpiffeId,
        /// Who we are.
        expected: SpiffeId,
    },
    /// Not for our key.
    #[error("its key is not the one that we asked for")]
    OtherKey,
    /// Not a valid X.509-SVID under its own roots.
    #[error("it is not good under the roots that came with it")]
    Chain(#[from] ChainError),
}

impl AnswerError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Short(_) => "answer_short",
            Self::Unreadable { .. } => "answer_unreadable",
            Self::NotARoot => "answer_not_a_root",
            Self::OtherIdentity { .. } => "answer_identity",
            Self::OtherKey => "answer_key",
            Self::Chain(_) => "answer_chain",
        }
    }
}

/// The parts of a good answer.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) leaf: Certificate,
    /// Without roots, which some CAs repeat here.
    pub(crate) intermediates: Vec<Certificate>,
    pub(crate) roots: TrustBundle,
}

/// Takes an answer apart and checks that it is for `key` and `identity` and good at `now`.
pub(crate) fn judge(
    elements: &[String],
    key: &PrivateKey,
    identity: &SpiffeId,
    now: SystemTime,
) -> Result<Judged, AnswerError> {
    let [first, middle @ .., last] = elements else { return Err(AnswerError::Short(elements.len())) };
    let read = |at, text: &String| {
        Certificate::all_from_pem(text.as_bytes()).map_err(|source| AnswerError::Unreadable { at, source })
    };
    let mut members = read(0, first)?;
    for (at, element) in middle.iter().enumerate() {
        members.extend(read(at + 1, element)?);
    }
    let roots = read(elements.len() - 1, last)?;
    if !roots.iter().all(Certificate::is_self_issued) {
        return Err(AnswerError::NotARoot);
    }
    let leaf = members.remove(0);
    members.retain(|member| !roots.contains(member));
    let found = chain::verify_svid(&leaf, &members, &roots, now)?;
    if found != *identity {
        return Err(AnswerError::OtherIdentity { found, expected: identity.clone() });
    }
    if leaf.facts().spki != key.spki() {
        return Err(AnswerError::OtherKey);
    }
    Ok(Judged { leaf, intermediates: members, roots: TrustBundle::new(roots) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Authority, HOUR, Pki, ended, reviews, trust_domain, validity};
    use signet_certs::profile::Profile;
    use signet_certs::template::Names;

    struct Case {
        pki: Pki,
        key: PrivateKey,
    }

    impl Case {
        fn new() -> Self {
            Self { pki: Pki::new(), key: PrivateKey::generate_p256().unwrap() }
        }

        fn good(&self) -> Vec<String> {
            self.pki.chain(&self.pki.leaf(self.key.spki(), &reviews(), validity(HOUR)))
        }

        fn judge(&self, elements: &[String]) -> Result<Judged, AnswerError> {
            judge(elements, &self.key, &reviews(), SystemTime::now())
        }

        fn reason(&self, elements: &[String]) -> &'static str {
            self.judge(elements).unwrap_err().reason()
        }
    }

    #[test]
    fn a_good_answer_is_taken_apart() {
        let case = Case::new();
        let judged = case.judge(&case.good()).unwrap();
        assert_eq!(judged.leaf.facts().spki, case.key.spki());
        assert_eq!(judged.intermediates, std::slice::from_ref(&case.pki.intermediate.certificate));
        assert_eq!(judged.roots.roots(), std::slice::from_ref(&case.pki.root.certificate));
    }

    #[test]
    fn other_layouts_that_cas_are_known_for_are_read() {
        let case = Case::new();
        let [leaf, intermediate, root] = <[String; 3]>::try_from(case.good()).unwrap();
        let other = Authority::root("Other").certificate.to_pem();
        let repeated = [leaf.clone(), intermediate.clone(), root.clone(), root.clone() + &other];
        let judged = case.judge(&repeated).unwrap();
        assert_eq!(
            (judged.intermediates.len(), judged.roots.roots().len()),
            (1, 2),
            "the root is no intermediate"
        );
        assert_eq!(case.judge(&[leaf + &intermediate, root]).unwrap().intermediates.len(), 1);
    }

    #[test]
    fn case_37_lies_are_kept_out() {
        let case = Case::new();
        let good = case.good();
        let with = |leaf: &Certificate| case.pki.chain(leaf);
        let spki = case.key.spki();

        assert_eq!(case.reason(&[]), "answer_short");
        assert_eq!(case.reason(&good[..1]), "answer_short");
        assert_eq!(case.reason(&["garbage".into(), good[2].clone()]), "answer_unreadable");
        assert_eq!(case.reason(&[good[0].clone(), String::new()]), "answer_unreadable");

        let someone = SpiffeId::workload(&trust_domain(), "default", "someone").unwrap();
        assert_eq!(case.reason(&with(&case.pki.leaf(spki, &someone, validity(HOUR)))), "answer_identity");
        let other_key = PrivateKey::generate_p256().unwrap();
        let leaf = case.pki.leaf(other_key.spki(), &reviews(), validity(HOUR));
        assert_eq!(case.reason(&with(&leaf)), "answer_key");
        assert_eq!(case.reason(&with(&case.pki.leaf(spki, &reviews(), ended()))), "answer_chain");
        let mut early = validity(2 * HOUR);
        early.not_before = early.not_after - HOUR;
        assert_eq!(case.reason(&with(&case.pki.leaf(spki, &reviews(), early))), "answer_chain");

        let other = Authority::root("Other").certificate.to_pem();
        assert_eq!(case.reason(&[good[0].clone(), good[1].clone(), other]), "answer_chain");
        assert_eq!(case.reason(&[good[0].clone(), good[2].clone()]), "answer_chain", "no intermediate");
        assert_eq!(case.reason(&good[..2]), "answer_not_a_root", "an intermediate must not become a root");

        let hosts = Names::Hosts { dns: vec!["reviews".into()], ip: vec![] };
        let server = case.pki.intermediate.sign(Profile::Serving, hosts, spki, validity(HOUR));
        assert_eq!(case.reason(&with(&server)), "answer_chain", "no SPIFFE ID");
        let profile = Profile::Intermediate { path_length: 0 };
        let ca = case.pki.root.sign(profile, Names::SpiffeId(reviews()), spki, validity(HOUR));
        assert_eq!(case.reason(&with(&ca)), "answer_chain", "a CA is no leaf");
    }
}
