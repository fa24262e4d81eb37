//! The issuing intermediate: under a plugged-in RSA key whose path lengths allow it, a P-256 CA that lives in
//! memory and signs in the slow key's place. Its certificate is recorded like every other, and it is made
//! again at every start, with every other CA, and before it ends.

use std::fmt;
use std::time::{Duration, SystemTime};

use signet_certs::ca::{Ca, CaError};
use signet_certs::cacerts::Cacerts;
use signet_certs::clock::whole_seconds;
use signet_certs::digest::{hex, sha256};
use signet_certs::key::{KeyError, KeyKind, PrivateKey, key_identifier};
use signet_certs::name::ca_name;
use signet_certs::validity::{BACKDATE, Validity};
use thiserror::Error;

use super::issuer::Chain;
use crate::issuance_log::{CertificateEntry, EvidenceEntry};
use crate::trust::Trust;

/// Its life, in lifetimes of the certificates that it signs. Made again when half of it is over, it always has
/// two of them ahead, so that none is cut short on its account.
const LIFETIMES: u32 = 4;
/// Its life at the least: shorter ones would fill the log for nothing.
const SHORTEST: Duration = Duration::from_secs(3600);
/// No name has a longer part (RFC 5280, appendix A.1: ub-organization-name).
const LONGEST_ORGANIZATION: usize = 64;

/// Whether there may be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Where it helps and nothing speaks against it.
    Auto,
    /// Never.
    Off,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The configuration says so.
    Off,
    /// The plugged-in key signs fast enough.
    Fast(KeyKind),
    /// Peers that check CRLs want one for each CA of a chain, and nobody would sign this one's.
    Crl,
    /// A certificate of the chain allows no further CA beneath it.
    PathLength,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off by configuration"),
            Self::Fast(kind) => write!(f, "not needed: the plugged-in key is {kind}"),
            Self::Crl => f.write_str("off: with a CRL, peers want one for each CA of a chain"),
            Self::PathLength => {
                f.write_str("off: the chain's path length leaves no room for it; every signature is RSA's")
            }
        }
    }
}

/// Why it could not be made.
#[derive(Debug, Error)]
pub enum MintError {
    /// There is no key for it.
    #[error("making the key of the issuing intermediate")]
    Key(#[from] KeyError),
    /// The plugged-in CA did not sign it.
    #[error("signing the issuing intermediate")]
    Sign(#[from] CaError),
}

/// A CA in memory, under the plugged-in one.
#[derive(Debug)]
pub struct IssuingCa {
    pub(super) ca: Ca,
    pub(super) chain: Chain,
    parent_key_id: Vec<u8>,
}

/// Whether `cacerts` is better off with one.
pub fn wanted(cacerts: &Cacerts, mode: Mode) -> Result<(), Absent> {
    let kind = cacerts.ca.key.kind();
    if mode == Mode::Off {
        return Err(Absent::Off);
    }
    if !matches!(kind, KeyKind::Rsa(_)) {
        return Err(Absent::Fast(kind));
    }
    if cacerts.crl.is_some() {
        return Err(Absent::Crl);
    }
    if cacerts.has_room_below() { Ok(()) } else { Err(Absent::PathLength) }
}

/// How long one lasts for leaves that live `lifetime` by default.
pub fn life(lifetime: Duration) -> Duration {
    (lifetime * LIFETIMES).max(SHORTEST)
}

/// Makes one for leaves that live `lifetime` by default. `organization` is the mesh's name.
pub fn mint(
    cacerts: &Cacerts,
    organization: &str,
    lifetime: Duration,
    now: SystemTime,
) -> Result<IssuingCa, MintError> {
    let key = PrivateKey::generate_p256()?;
    let organization = Some(organization).filter(|name| name.len() <= LONGEST_ORGANIZATION);
    // Every key has a name of its own, so that no peer confuses two of them.
    let name = format!("Issuing CA {}", &hex(&key_identifier(key.spki()))[..16]);
    let subject = ca_name(organization.unwrap_or("Signet"), None, &name);
    let now = whole_seconds(now);
    let life = life(lifetime);
    let ends = cacerts.validities().map(|validity| validity.not_after).min();
    let not_after = ends.map_or(now + life, |ends| ends.min(now + life));
    let ca = cacerts.ca.intermediate(subject, 0, Validity { not_before: now - BACKDATE, not_after }, key)?;
    let mut members = vec![ca.certificate.clone()];
    members.extend(cacerts.intermediates.iter().cloned());
    let chain = Chain::new(&ca.certificate, members, &cacerts.anchor);
    Ok(IssuingCa { ca, chain, parent_key_id: cacerts.ca.certificate.key_id() })
}

impl IssuingCa {
    /// Its certificate.
    pub fn certificate(&self) -> &signet_certs::chain::Certificate {
        &self.ca.certificate
    }

    /// When the next one is to be made: at half of its life.
    pub fn due(&self) -> SystemTime {
        let Validity { not_before, not_after } = self.ca.certificate.facts().validity;
        let begin = not_before + BACKDATE;
        begin + not_after.duration_since(begin).unwrap_or_default() / 2
    }

    /// Whether the next one is to be made now; also when it is not valid yet, as after a clock was set back.
    pub fn is_due(&self, now: SystemTime) -> bool {
        now >= self.due() || now < self.ca.certificate.facts().validity.not_before
    }

    /// What the log keeps of it.
    pub fn entry(&self, trust: &Trust) -> CertificateEntry {
        let facts = self.ca.certificate.facts();
        CertificateEntry {
            serial: facts.serial.as_bytes().to_vec(),
            identity: String::new(),
            instance: String::new(),
            evidence: EvidenceEntry { kind: "none".to_owned(), ..EvidenceEntry::default() },
            key_hash: sha256(&facts.spki),
            issuer_key_id: self.parent_key_id.clone(),
            not_before: facts.validity.not_before,
            not_after: facts.validity.not_after,
            profile: "issuing-intermediate".to_owned(),
            trust_epoch: trust.epoch,
            trust_sequence: trust.sequence,
            root_digests: Vec::new(),
            cluster: String::new(),
            request_id: String::new(),
            certificate_hash: self.ca.certificate.digest(),
            dns_names: Vec::new(),
            subject_key_id: self.ca.certificate.key_id(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::Issuer;
    use crate::authority::issuer::tests::{issuer, request};
    use crate::authority::tests::{YEAR, cacerts, life, now, root};
    use crate::policy::Grant;
    use aws_lc_rs::encoding::AsDer;
    use signet_certs::chain::{Certificate, verify_svid};
    use signet_certs::check::Bounds;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A plugged-in RSA CA with room for `path_length` CAs beneath it.
    pub(crate) fn rsa_cacerts(path_length: u8) -> Cacerts {
        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let key = PrivateKey::from_pkcs8(Zeroizing::new(pair.as_der().unwrap().as_ref().to_vec())).unwrap();
        let root = root("Root CA");
        let subject = ca_name("Signet", Some("cluster1"), "RSA CA");
        let ca = root.intermediate(subject, path_length, life(YEAR), key).unwrap();
        let (signer, root) = (ca.certificate.clone(), root.certificate);
        Cacerts::of(ca, vec![signer], root.clone(), vec![root])
    }

    fn with_issuing(rsa: Cacerts) -> Issuer {
        let issuing = Arc::new(mint(&rsa, "cluster.local", DAY, now()).unwrap());
        let trust = issuer(cacerts(YEAR)).trust().clone();
        let bundles = signet_certs::bundle::Bundles::of(
            signet_certs::spiffe_id::TrustDomain::parse("cluster.local").unwrap(),
            signet_certs::bundle::TrustBundle::new(rsa.roots.clone()),
        );
        let trust = Trust { bundles, ..trust.as_ref().clone() };
        Issuer::new(Arc::new(rsa), Some(issuing), Arc::new(trust))
    }

    #[test]
    fn a_leaf_chains_through_the_issuing_intermediate_and_is_recorded_as_its() {
        let issuer = with_issuing(rsa_cacerts(1));
        let (csr, identity) = request("spiffe://cluster.local/ns/n/sa/s");
        let grant = Grant { identity: identity.clone(), lifetime: DAY };
        let signed = issuer.sign_workload(&csr, &grant, Bounds { now: now(), maximum: DAY }).unwrap();
        assert_eq!(signed.validity.not_after, now() + DAY);
        let issuing = issuer.issuing().unwrap().certificate();
        assert_eq!(signed.issuer_key_id, issuing.key_id());
        let answer = issuer.answer(&signed, identity.trust_domain());
        assert_eq!(answer.len(), 4, "leaf, issuing intermediate, plugged-in CA, roots");
        let read = |at: usize| Certificate::from_pem(answer[at].as_bytes()).unwrap();
        assert_eq!(&read(1), issuing);
        assert!(read(0).is_signed_by(issuing) && issuing.is_signed_by(&read(2)));
        verify_svid(&read(0), &[read(1), read(2)], &[read(3)], now()).unwrap();
    }

    #[test]
    fn what_would_outlive_it_is_signed_by_the_plugged_in_key() {
        let issuer = with_issuing(rsa_cacerts(1));
        let ends = issuer.issuing().unwrap().certificate().facts().validity.not_after;
        assert_eq!(ends, now() + DAY * LIFETIMES);
        for (lifetime, by) in [
            (DAY * LIFETIMES, issuer.issuing().unwrap().certificate().key_id()),
            (DAY * LIFETIMES + Duration::from_secs(1), issuer.key_id().to_vec()),
        ] {
            let (csr, identity) = request("spiffe://cluster.local/ns/n/sa/s");
            let bounds = Bounds { now: now(), maximum: YEAR };
            let signed =
                issuer.sign_workload(&csr, &Grant { identity: identity.clone(), lifetime }, bounds).unwrap();
            assert_eq!((signed.issuer_key_id.clone(), signed.validity.not_after), (by, now() + lifetime));
            let above = issuer.intermediates(&signed).len();
            assert_eq!(issuer.answer(&signed, identity.trust_domain()).len(), above + 2);
        }
    }

    #[test]
    fn it_is_only_where_it_helps_and_nothing_speaks_against_it() {
        let rsa = rsa_cacerts(1);
        assert_eq!(wanted(&rsa, Mode::Auto), Ok(()));
        assert_eq!(wanted(&rsa, Mode::Off), Err(Absent::Off));
        assert_eq!(wanted(&cacerts(YEAR), Mode::Auto), Err(Absent::Fast(KeyKind::P256)));
        assert_eq!(wanted(&rsa_cacerts(0), Mode::Auto), Err(Absent::PathLength));
        let with_crl = Cacerts { crl: Some(b"CRL".to_vec()), ..rsa };
        assert_eq!(wanted(&with_crl, Mode::Auto), Err(Absent::Crl));
        for absent in [Absent::Off, Absent::Fast(KeyKind::P256), Absent::Crl, Absent::PathLength] {
            assert!(!absent.to_string().is_empty());
        }
    }

    #[test]
    fn each_has_a_name_of_its_own_and_is_due_at_half_of_its_life() {
        let cacerts = rsa_cacerts(1);
        let (a, b) = (mint(&cacerts, "td", DAY, now()).unwrap(), mint(&cacerts, "td", DAY, now()).unwrap());
        let facts = |issuing: &IssuingCa| issuing.certificate().facts().clone();
        assert_ne!((facts(&a).subject, facts(&a).spki), (facts(&b).subject, facts(&b).spki));
        assert_eq!((facts(&a).path_length, facts(&a).validity.not_before), (Some(0), now() - BACKDATE));
        assert_eq!(a.due(), now() + DAY * LIFETIMES / 2);
        assert!(!a.is_due(now()) && a.is_due(a.due()) && a.is_due(now() - DAY));
        let short = mint(&cacerts, &"x".repeat(65), Duration::from_secs(10), now()).unwrap();
        assert_eq!(facts(&short).validity.not_after, now() + SHORTEST);
        let late = mint(&cacerts, "td", YEAR, now()).unwrap();
        assert_eq!(facts(&late).validity.not_after, now() + YEAR, "never past the plugged-in CA");
    }
}
