//! What the mesh trusts, as far as this agent knows, and what it says about holding it.
//!
//! Roots come from two places: each answer to a CSR carries them, and the CA's trust watch pushes them when
//! they change. `watch` keeps that stream, `acknowledgement` works out what is really held. Against a CA
//! without the watch the answers alone are enough.

pub(crate) mod acknowledgement;
pub(crate) mod watch;

use crate::reason::Reason;
use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::chain::{Certificate, CertificateError};
use signet_certs::crl::{CrlError, Crls};
use signet_certs::spiffe_id::{SpiffeIdError, TrustDomain};
use signet_proto::signet::trust::v1 as proto;
use tonic::metadata::MetadataMap;

/// Response headers in which Signet's CA says which version of its trust an answer carries.
const EPOCH_HEADER: &str = "x-signet-trust-epoch";
const SEQUENCE_HEADER: &str = "x-signet-trust-sequence";

/// Roots per trust domain, as some CA stated them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Which statement it is; `None` from a CA that does not count them.
    pub version: Option<Version>,
    /// The roots.
    pub bundles: Bundles,
    /// CRLs of CAs under the roots of our own trust domain; only the trust watch brings them.
    pub crls: Crls,
    /// Names the configured roots with which the CA was first reached: `SYSTEM`, or a file's SHA-256 in hex.
    pub first_contact: String,
}

/// Orders what one CA says over time: by epoch, then by sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Rises when the CA's state begins anew.
    pub epoch: u64,
    /// Rises with each change.
    pub sequence: u64,
}

impl Version {
    /// From the headers of an answer, where they are.
    pub(crate) fn of(headers: &MetadataMap) -> Option<Self> {
        let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
        Some(Self { epoch: number(EPOCH_HEADER)?, sequence: number(SEQUENCE_HEADER)? })
    }
}

/// Why a statement of the trust watch is dropped.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A message without content.
    #[error("the message holds no trust")]
    Empty,
    /// Its trust domain is none.
    #[error("it names a malformed trust domain")]
    TrustDomain(#[from] SpiffeIdError),
    /// A root cannot be read.
    #[error("it holds a root that cannot be read")]
    Root(#[from] CertificateError),
    /// An intermediate; taken as a root it would silently become one.
    #[error("it holds a certificate that is not a root")]
    NotARoot,
    /// Nothing for our own trust domain: taking it would leave us with no roots at all.
    #[error("it has no roots for {0}")]
    NoRoots(TrustDomain),
    /// Its digest is of something else: it was put together wrongly, or cut.
    #[error("its digest is not that of its roots")]
    Digest,
    /// A CRL cannot be read: Envoy would refuse the whole secret.
    #[error("it holds a CRL that cannot be read")]
    Crl(#[from] CrlError),
    /// A CRL is not of the root that it names: Envoy would refuse every peer.
    #[error("its CRL {0} names a root as its issuer that did not sign it")]
    CrlForged(usize),
    /// The digest of the CRLs is of something else.
    #[error("its second digest is not that of its CRLs")]
    CrlsDigest,
}

impl TrustError {
    /// A stable word for metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Empty => Reason::TrustEmpty,
            Self::TrustDomain(_) => Reason::TrustTrustDomain,
            Self::Root(_) => Reason::TrustUnreadable,
            Self::NotARoot => Reason::TrustNotARoot,
            Self::NoRoots(_) => Reason::TrustNoRoots,
            Self::Digest => Reason::TrustDigest,
            Self::Crl(_) | Self::CrlForged(_) | Self::CrlsDigest => Reason::TrustCrls,
        }
    }
}

impl Trust {
    /// What is held after an answer: `None` if that does not change.
    ///
    /// An answer speaks for one trust domain only; what is held for others stays. It says nothing of CRLs: those
    /// that are held stay as long as one of their roots does. While the watch stands, only a newer statement than
    /// the watch's counts.
    pub(crate) fn after_answer(held: Option<&Self>, watching: bool, answer: Self) -> Option<Self> {
        let Some(held) = held else { return Some(answer) };
        let newer = answer.version.is_some() && answer.version > held.version;
        if watching && !newer {
            return None;
        }
        let others = held.bundles.iter().filter(|(of, _)| answer.bundles.get(of).is_none());
        let others = others.map(|(of, bundle)| (of.clone(), bundle.clone())).collect();
        let bundles = answer.bundles.merge(&others);
        let stays = |(of, held): (_, &TrustBundle)| {
            let new = answer.bundles.get(of).map(TrustBundle::roots).unwrap_or_default();
            held.roots().iter().any(|root| new.contains(root))
        };
        let crls = if held.bundles.iter().any(stays) { held.crls.clone() } else { Crls::default() };
        let after = Self { bundles, crls, ..answer };
        (after != *held).then_some(after)
    }

    /// Reads a statement of the trust watch; `own` must have roots in it.
    pub(crate) fn read(
        message: proto::WatchResponse,
        own: &TrustDomain,
        first_contact: &str,
    ) -> Result<Self, TrustError> {
        let trust = message.trust.ok_or(TrustError::Empty)?;
        let bundle = |bundle: proto::TrustBundle| -> Result<_, TrustError> {
            let trust_domain = TrustDomain::parse(&bundle.trust_domain)?;
            let roots = bundle.roots.into_iter().map(Certificate::from_der).collect::<Result<Vec<_>, _>>()?;
            if !roots.iter().all(Certificate::is_self_issued) {
                return Err(TrustError::NotARoot);
            }
            Ok((trust_domain, TrustBundle::new(roots)))
        };
        let bundles = trust.bundles.into_iter().map(bundle).collect::<Result<Bundles, _>>()?;
        if bundles.get(own).is_none_or(|bundle| bundle.roots().is_empty()) {
            return Err(TrustError::NoRoots(own.clone()));
        }
        if bundles.digest() != *trust.digest {
            return Err(TrustError::Digest);
        }
        let crls = Crls::from_der(trust.crls)?;
        if crls.digest().as_ref().map_or(&[][..], |digest| digest) != trust.crls_digest {
            return Err(TrustError::CrlsDigest);
        }
        let roots = bundles.get(own).map(TrustBundle::roots).unwrap_or_default();
        if let Some(forged) = crls.forged(roots) {
            return Err(TrustError::CrlForged(forged));
        }
        let version = Some(Version { epoch: trust.epoch, sequence: trust.sequence });
        Ok(Self { version, bundles, crls, first_contact: first_contact.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Authority, HOUR, statement, trust, trust_domain, with_crls};

    fn foreign() -> TrustDomain {
        TrustDomain::parse("other.example").unwrap()
    }

    #[test]
    fn answers_count_fully_without_a_watch_and_only_if_newer_with_one() {
        let (a, b) = (Authority::root("A"), Authority::root("B"));
        let held = trust(&[&a], Some((1, 5)));
        let after = |watching, answer| Trust::after_answer(Some(&held), watching, answer);
        let plain = trust(&[&b], None);
        assert_eq!(Trust::after_answer(None, false, plain.clone()), Some(plain.clone()));
        assert_eq!(after(false, plain.clone()), Some(plain.clone()));
        assert_eq!(after(true, plain), None);
        assert_eq!(after(true, trust(&[&b], Some((1, 5)))), None);
        assert_eq!(after(true, trust(&[&b], Some((1, 6)))), Some(trust(&[&b], Some((1, 6)))));
        assert_eq!(after(true, trust(&[&b], Some((2, 1)))), Some(trust(&[&b], Some((2, 1)))));
        assert_eq!(after(false, held.clone()), None, "nothing changed");
    }

    #[test]
    fn an_answer_speaks_for_its_own_trust_domain_only() {
        let (a, b, c) = (Authority::root("A"), Authority::root("B"), Authority::root("C"));
        let mut held = trust(&[&a], None);
        let theirs = Bundles::of(foreign(), TrustBundle::new(vec![c.certificate.clone()]));
        held.bundles = held.bundles.merge(&theirs);
        let after = Trust::after_answer(Some(&held), false, trust(&[&b], None)).unwrap();
        let expected = [b.certificate.clone()];
        assert_eq!(after.bundles.get(&trust_domain()).unwrap().roots(), expected, "replaced, not merged");
        assert_eq!(after.bundles.get(&foreign()).unwrap().roots(), std::slice::from_ref(&c.certificate));
    }

    #[test]
    fn crls_are_read_or_the_statement_is_dropped() {
        let (a, b) = (Authority::root("A"), Authority::root("B"));
        let read = |trust| {
            let message = proto::WatchResponse { trust: Some(trust) };
            Trust::read(message, &trust_domain(), "x")
        };
        let with = |crls: &[Vec<u8>]| with_crls(statement(&[&a], 1, 1), crls);
        let crls = [a.crl(HOUR), b.crl(HOUR)];
        assert_eq!(read(with(&crls)).unwrap().crls, Crls::from_der(crls.clone()).unwrap());
        assert!(read(with(&[])).unwrap().crls.is_empty());
        let mut cut = with(&crls);
        cut.crls.pop();
        assert!(matches!(read(cut), Err(TrustError::CrlsDigest)));
        let unsaid = proto::Trust { crls_digest: vec![], ..with(&crls) };
        assert!(matches!(read(unsaid), Err(TrustError::CrlsDigest)));
        let mut damaged = with(&crls);
        damaged.crls[1].truncate(40);
        assert!(matches!(read(damaged), Err(TrustError::Crl(CrlError::Unreadable(2)))));
        let forged = read(with(&[Authority::root("A").crl(HOUR)])).unwrap_err();
        assert!(matches!(forged, TrustError::CrlForged(1)));
        assert_eq!(forged.reason(), "crls");
    }

    #[test]
    fn crls_stay_with_an_answer_as_long_as_a_root_does() {
        let (a, b) = (Authority::root("A"), Authority::root("B"));
        let mut held = trust(&[&a], Some((1, 5)));
        held.crls = Crls::from_der([a.crl(HOUR)]).unwrap();
        let after = |answer| Trust::after_answer(Some(&held), false, answer);
        assert_eq!(after(trust(&[&a], Some((1, 5)))), None, "an answer has no CRLs, and takes none");
        assert_eq!(after(trust(&[&a, &b], None)).unwrap().crls, held.crls);
        assert!(after(trust(&[&b], None)).unwrap().crls.is_empty(), "another mesh");
    }

    /// A message may be four MiB long. One after the other, this many took minutes.
    #[test]
    fn very_many_trust_domains_are_read_and_kept_at_once() {
        let root = Authority::root("A");
        let mut many = statement(&[&root], 1, 1);
        let bundle = |at| proto::TrustBundle { trust_domain: format!("td-{at}"), roots: Vec::new() };
        many.bundles.extend((0..100_000).map(bundle));
        let named =
            |at| TrustDomain::parse(&format!("td-{at}")).map(|domain| (domain, TrustBundle::new(Vec::new())));
        let own = (trust_domain(), TrustBundle::new(vec![root.certificate.clone()]));
        let all = Bundles::from_iter((0..100_000).map(|at| named(at).unwrap()).chain([own]));
        many.digest = all.digest().to_vec();
        let message = proto::WatchResponse { trust: Some(many) };
        let held = Trust::read(message, &trust_domain(), "x").unwrap();
        assert_eq!(held.bundles.iter().count(), 100_001);
        let answer = trust(&[&Authority::root("B")], None);
        let after = Trust::after_answer(Some(&held), false, answer).unwrap();
        assert_eq!(after.bundles.iter().count(), 100_001);
    }

    #[test]
    fn statements_are_read_and_damaged_ones_dropped() {
        let good = || statement(&[&Authority::root("A")], 3, 9);
        let read = |trust| {
            let message = proto::WatchResponse { trust };
            Trust::read(message, &trust_domain(), "x")
        };
        assert_eq!(read(Some(good())).unwrap().version, Some(Version { epoch: 3, sequence: 9 }));
        assert!(matches!(read(None), Err(TrustError::Empty)));
        assert!(matches!(read(Some(proto::Trust::default())), Err(TrustError::NoRoots(_))));
        let mut bad = good();
        bad.bundles[0].trust_domain = "UPPER".into();
        assert!(matches!(read(Some(bad)), Err(TrustError::TrustDomain(_))));
        let mut bad = good();
        bad.bundles[0].roots[0].truncate(40);
        assert!(matches!(read(Some(bad)), Err(TrustError::Root(_))));
        let mut less = statement(&[&Authority::root("A"), &Authority::root("B")], 3, 9);
        less.bundles[0].roots.pop();
        assert!(matches!(read(Some(less)), Err(TrustError::Digest)));
        let mut none = good();
        none.bundles[0].roots.clear();
        assert!(matches!(read(Some(none)), Err(TrustError::NoRoots(_))));
    }
}
