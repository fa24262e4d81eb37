//! Judges an answer as a stranger would, before it may replace anything.
//!
//! A CA that is confused, or somebody who got in between, must not be able to take a good certificate away.
//! The shape is Istio's: leaf first, intermediates, and all roots as the last element.

use crate::identity::Svid;
use crate::reason::Reason;
use signet_certs::bundle::TrustBundle;
use signet_certs::chain::{self, Certificate, CertificateError, ChainError};
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::SpiffeId;
use signet_certs::validity::ValidityError;
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
    #[error("it is for another key than ours")]
    OtherKey,
    /// Not good at this moment: either it or a clock is wrong.
    #[error("it is not good now by this machine's clock; if the CA is right, the clock is wrong")]
    Time(#[source] ValidityError),
    /// Not a leaf with an identity and its usages.
    #[error("its first certificate is none for a workload")]
    NotSvid(#[source] ChainError),
    /// Not a valid X.509-SVID under its own roots.
    #[error("it is not good under the roots that came with it")]
    Chain(#[source] ChainError),
}

impl From<ChainError> for AnswerError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Validity(error) => Self::Time(error),
            ChainError::NotSvid(_) | ChainError::SpiffeId(_) => Self::NotSvid(error),
            ChainError::NoRoot | ChainError::Path(_) => Self::Chain(error),
        }
    }
}

impl AnswerError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Short(_) => Reason::AnswerShort,
            Self::Unreadable { .. } => Reason::AnswerUnreadable,
            Self::NotARoot => Reason::AnswerNotARoot,
            Self::OtherIdentity { .. } => Reason::AnswerIdentity,
            Self::OtherKey => Reason::AnswerKey,
            Self::Time(ValidityError::NotYet(_)) => Reason::AnswerNotYetValid,
            Self::Time(_) => Reason::AnswerEnded,
            Self::NotSvid(_) => Reason::AnswerNotSvid,
            Self::Chain(_) => Reason::AnswerChain,
        }
    }
}

/// More certificates than this on the way from a leaf to its root are refused by peers.
const LONGEST_PATH: usize = 6;

/// The parts of a good answer.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) leaf: Certificate,
    /// From the leaf up, each once, without roots: what some CAs repeat, reorder or add is not passed on.
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
    is_ours(&leaf, found, key, identity)?;
    let intermediates = path(&leaf, members, &roots, now);
    Ok(Judged { leaf, intermediates, roots: TrustBundle::new(roots) })
}

/// Takes over a certificate that was kept: as strict as for an answer, under roots that are held already.
pub(crate) fn adopt(
    mut members: Vec<Certificate>,
    key: &PrivateKey,
    identity: &SpiffeId,
    roots: &TrustBundle,
    now: SystemTime,
) -> Result<Svid, AnswerError> {
    if members.is_empty() {
        return Err(AnswerError::Short(0));
    }
    let leaf = members.remove(0);
    members.retain(|member| !member.is_self_issued());
    let found = chain::verify_svid(&leaf, &members, roots.roots(), now)?;
    is_ours(&leaf, found, key, identity)?;
    // When it came is not known; NotBefore is not later than that.
    let received = leaf.facts().validity.not_before;
    Ok(Svid::new(leaf, members, key.to_pkcs8_pem(), received))
}

fn is_ours(
    leaf: &Certificate,
    found: SpiffeId,
    key: &PrivateKey,
    identity: &SpiffeId,
) -> Result<(), AnswerError> {
    if found != *identity {
        return Err(AnswerError::OtherIdentity { found, expected: identity.clone() });
    }
    if leaf.facts().spki != key.spki() {
        return Err(AnswerError::OtherKey);
    }
    Ok(())
}

/// The members that lead from `leaf` to a root, in this order. Where the first that fits does not lead there
/// (cross-signed CAs), all of them stay as they came.
fn path(
    leaf: &Certificate,
    members: Vec<Certificate>,
    roots: &[Certificate],
    now: SystemTime,
) -> Vec<Certificate> {
    let mut path: Vec<Certificate> = Vec::new();
    while path.len() < LONGEST_PATH {
        let below = path.last().unwrap_or(leaf);
        let above = members.iter().find(|member| below.is_signed_by(member) && !path.contains(member));
        let Some(above) = above.cloned() else { break };
        path.push(above);
    }
    if chain::verify_svid(leaf, &path, roots, now).is_ok() { path } else { members }
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

        fn reason(&self, elements: &[String]) -> Reason {
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
        assert_eq!(case.reason(&with(&case.pki.leaf(spki, &reviews(), ended()))), "answer_ended");
        let mut early = validity(2 * HOUR);
        early.not_before = early.not_after - HOUR;
        assert_eq!(case.reason(&with(&case.pki.leaf(spki, &reviews(), early))), "answer_not_yet_valid");

        let other = Authority::root("Other").certificate.to_pem();
        assert_eq!(case.reason(&[good[0].clone(), good[1].clone(), other]), "answer_chain");
        assert_eq!(case.reason(&[good[0].clone(), good[2].clone()]), "answer_chain", "no intermediate");
        assert_eq!(case.reason(&good[..2]), "answer_not_a_root", "an intermediate must not become a root");

        let hosts = Names::Hosts { dns: vec!["reviews".into()], ip: vec![] };
        let server = case.pki.intermediate.sign(Profile::Serving, hosts, spki, validity(HOUR));
        assert_eq!(case.reason(&with(&server)), "answer_not_svid", "no SPIFFE ID");
        let profile = Profile::Intermediate { path_length: 0 };
        let ca = case.pki.root.sign(profile, Names::SpiffeId(reviews()), spki, validity(HOUR));
        assert_eq!(case.reason(&with(&ca)), "answer_not_svid", "a CA is no leaf");
    }

    #[test]
    fn usages_and_names_that_no_peer_would_take_are_kept_out() {
        let case = Case::new();
        let spki = case.key.spki();
        let good = case.pki.leaf(spki, &reviews(), validity(HOUR));
        // Both lie in the extensions, which have their length: what is put in has the length of what goes.
        let usage = [0x06, 0x03, 0x55, 0x1d, 0x0f];
        let changed = |from: &[u8], to: &[u8]| case.pki.intermediate.sign_changed(&good, from, to);
        let unsigned = changed(&usage, &[0x06, 0x03, 0x55, 0x1d, 0x7f]);
        assert_eq!(case.reason(&case.pki.chain(&unsigned)), "answer_not_svid", "no key usage");
        let server = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
        let email = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04];
        assert_eq!(
            case.reason(&case.pki.chain(&changed(&server, &email))),
            "answer_chain",
            "no server usage"
        );
        let client = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
        assert_eq!(
            case.reason(&case.pki.chain(&changed(&client, &email))),
            "answer_chain",
            "no client usage"
        );
        // `spiffe://cluster.local/ns/default/sa/reviews` becomes two names of the same length together.
        let uri = reviews();
        let (first, second) = uri.as_str().split_at(22);
        let two = [&[0x86, 22], first.as_bytes(), &[0x86, second.len() as u8 - 2], &second.as_bytes()[2..]];
        let one = [&[0x86, uri.as_str().len() as u8], uri.as_str().as_bytes()].concat();
        assert_eq!(
            case.reason(&case.pki.chain(&changed(&one, &two.concat()))),
            "answer_not_svid",
            "two names"
        );
        let chain = case.pki.chain(&changed(b"default", b"defaulu"));
        assert_eq!(
            case.reason(&chain),
            "answer_identity",
            "what is changed is signed, or nothing is shown here"
        );
    }

    #[test]
    fn what_is_repeated_reordered_or_added_to_a_chain_is_not_passed_on() {
        let case = Case::new();
        let good = case.good();
        let stranger = Pki::new().intermediate.certificate.to_pem();
        let [leaf, intermediate, root] = <[String; 3]>::try_from(good).unwrap();
        let path = std::slice::from_ref(&case.pki.intermediate.certificate);
        for middle in [
            vec![leaf.clone(), intermediate.clone()],
            vec![intermediate.clone(), intermediate.clone()],
            vec![stranger.clone(), intermediate.clone()],
            vec![intermediate.clone(), leaf.clone(), stranger],
        ] {
            let elements = [vec![leaf.clone()], middle, vec![root.clone()]].concat();
            assert_eq!(case.judge(&elements).unwrap().intermediates, path);
        }
        // Only the leaf has its place: whoever reads the answer takes the first certificate for it.
        assert_eq!(case.reason(&[intermediate, leaf, root]), "answer_not_svid");
    }

    #[test]
    fn a_kept_certificate_is_judged_like_an_answer() {
        let case = Case::new();
        let roots = TrustBundle::new(vec![case.pki.root.certificate.clone()]);
        let intermediate = &case.pki.intermediate.certificate;
        let kept = |leaf: &Certificate| vec![leaf.clone(), intermediate.clone()];
        let leaf = case.pki.leaf(case.key.spki(), &reviews(), validity(HOUR));
        let adopt = |members, key: &PrivateKey, roots: &TrustBundle| {
            adopt(members, key, &reviews(), roots, SystemTime::now()).map_err(|error| error.reason())
        };
        let mut with_root = kept(&leaf);
        with_root.push(case.pki.root.certificate.clone());
        for members in [kept(&leaf), with_root] {
            let svid = adopt(members, &case.key, &roots).unwrap();
            assert_eq!(svid.chain_pem(), leaf.to_pem() + &intermediate.to_pem());
            assert_eq!(svid.lifetime().received, leaf.facts().validity.not_before);
        }
        assert_eq!(adopt(vec![], &case.key, &roots).unwrap_err(), "answer_short");
        let other = PrivateKey::generate_p256().unwrap();
        assert_eq!(adopt(kept(&leaf), &other, &roots).unwrap_err(), "answer_key");
        let strange = TrustBundle::new(vec![Authority::root("Other").certificate]);
        assert_eq!(adopt(kept(&leaf), &case.key, &strange).unwrap_err(), "answer_chain");
        let old = case.pki.leaf(case.key.spki(), &reviews(), ended());
        assert_eq!(adopt(kept(&old), &case.key, &roots).unwrap_err(), "answer_ended");
        let someone = SpiffeId::workload(&trust_domain(), "default", "someone").unwrap();
        let theirs = case.pki.leaf(case.key.spki(), &someone, validity(HOUR));
        assert_eq!(adopt(kept(&theirs), &case.key, &roots).unwrap_err(), "answer_identity");
    }
}
