//! The issuer: the active authority as one snapshot. Key, certificate, chain and roots belong together, so
//! a request that took a snapshot can never mix two authorities.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use signet_certs::ca::{Ca, CaError};
use signet_certs::cacerts::Cacerts;
use signet_certs::chain::{Certificate, CertificateError, ChainError, Usage, verify, verify_svid};
use signet_certs::check::Bounds;
use signet_certs::csr::VerifiedCsr;
use signet_certs::digest::{hex, sha256};
use signet_certs::key::KeyError;
use signet_certs::pem;
use signet_certs::profile::Profile;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::TrustDomain;
use signet_certs::template::Names;
use signet_certs::validity::{self, Validity, ValidityError};
use thiserror::Error;

use super::issuing::IssuingCa;
use crate::config::Serving;
use crate::policy::Grant;
use crate::trust::Trust;

/// Of the leaves behind an issuer's first, one in this many is verified before it leaves.
const VERIFIED_SHARE: u64 = 256;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum SigningError {
    /// The issuer, or a certificate above it, has ended or is not valid yet.
    #[error("the chain of the issuer is not valid now")]
    Chain(#[from] ValidityError),
    /// What would have been signed was not what was granted, or the key failed.
    #[error("signing a certificate")]
    Ca(#[from] CaError),
    /// No template came about.
    #[error("making the template of a certificate")]
    Template(#[from] KeyError),
    /// The signed certificate does not verify: the key or the memory under it is at fault.
    #[error("verifying a certificate that was just signed")]
    Verify(#[from] ChainError),
    /// The same, in its encoding.
    #[error("reading a certificate that was just signed")]
    Read(#[from] CertificateError),
    /// This trust domain is not ours to sign in.
    #[error("there are no roots for the trust domain {0}")]
    TrustDomain(TrustDomain),
}

/// A signed certificate, not recorded yet.
#[derive(Debug)]
pub struct Signed {
    /// Its bytes.
    pub der: CertificateDer<'static>,
    /// Never used before.
    pub serial: Serial,
    /// From and to.
    pub validity: Validity,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key_hash: [u8; 32],
    /// Subject key identifier of the CA that signed it.
    pub issuer_key_id: Vec<u8>,
    by: By,
}

/// Which of an issuer's CAs signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Plugged,
    Issuing,
}

impl Signed {
    /// SHA-256 of its bytes.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// PEM with a trailing newline.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }
}

/// What stands between a CA's leaves and the root: what they are answered with, and judged by.
#[derive(Debug)]
pub(super) struct Chain {
    key_id: Vec<u8>,
    certificates: Vec<Certificate>,
    pem: Vec<String>,
    /// Validities of all certificates above a leaf, the root's too.
    validities: Vec<Validity>,
    signed: AtomicU64,
}

impl Chain {
    /// Of the CA `signer`, with these certificates beneath `anchor`.
    pub(super) fn new(signer: &Certificate, certificates: Vec<Certificate>, anchor: &Certificate) -> Self {
        Self {
            key_id: signer.key_id(),
            pem: certificates.iter().map(Certificate::to_pem).collect(),
            validities: certificates.iter().chain([anchor]).map(|member| member.facts().validity).collect(),
            certificates,
            signed: AtomicU64::new(0),
        }
    }
}

/// The roots of a trust domain, in the forms in which they are answered and recorded.
#[derive(Debug)]
struct Roots {
    pem: String,
    digests: Vec<[u8; 32]>,
    certificates: Vec<Certificate>,
}

/// A signing snapshot.
#[derive(Debug)]
pub struct Issuer {
    cacerts: Arc<Cacerts>,
    id: String,
    plugged: Chain,
    issuing: Option<Arc<IssuingCa>>,
    trust: Arc<Trust>,
    roots: BTreeMap<TrustDomain, Roots>,
}

impl Issuer {
    /// A snapshot of this CA, whose leaves are answered with `trust`; `issuing` stands under it and signs what
    /// ends with it or before.
    pub fn new(cacerts: Arc<Cacerts>, issuing: Option<Arc<IssuingCa>>, trust: Arc<Trust>) -> Self {
        let roots = trust.bundles.iter().map(|(trust_domain, bundle)| {
            let roots = Roots {
                pem: bundle.to_pem(),
                digests: bundle.roots().iter().map(Certificate::digest).collect(),
                certificates: bundle.roots().to_vec(),
            };
            (trust_domain.clone(), roots)
        });
        let plugged = Chain::new(&cacerts.ca.certificate, cacerts.intermediates.clone(), &cacerts.anchor);
        Self { id: hex(&plugged.key_id), roots: roots.collect(), plugged, issuing, cacerts, trust }
    }

    /// Its subject key identifier, hex: how operators name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its subject key identifier.
    pub fn key_id(&self) -> &[u8] {
        &self.plugged.key_id
    }

    /// The CA behind it.
    pub fn cacerts(&self) -> &Arc<Cacerts> {
        &self.cacerts
    }

    /// The CA under it that signs in its place, if there is one.
    pub fn issuing(&self) -> Option<&Arc<IssuingCa>> {
        self.issuing.as_ref()
    }

    /// What its leaves are answered with.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// SHA-256 of each root of a trust domain.
    pub fn root_digests(&self, trust_domain: &TrustDomain) -> &[[u8; 32]] {
        self.roots.get(trust_domain).map(|roots| roots.digests.as_slice()).unwrap_or_default()
    }

    /// Signs a leaf for the key of `csr` and what was granted, and nothing else; never past any certificate
    /// of the chain. The first one, and a share after it, is verified as a peer would.
    pub fn sign_workload(
        &self,
        csr: &VerifiedCsr,
        grant: &Grant,
        bounds: Bounds,
    ) -> Result<Signed, SigningError> {
        let trust_domain = grant.identity.trust_domain();
        let roots =
            self.roots.get(trust_domain).ok_or_else(|| SigningError::TrustDomain(trust_domain.clone()))?;
        let names = Names::SpiffeId(grant.identity.clone());
        let signed = self.sign(Profile::Workload, names, csr.spki(), grant.lifetime, bounds)?;
        let (_, chain) = self.signer(signed.by);
        if chain.signed.fetch_add(1, Ordering::Relaxed).is_multiple_of(VERIFIED_SHARE) {
            let leaf = Certificate::from_der(signed.der.to_vec())?;
            verify_svid(&leaf, &chain.certificates, &roots.certificates, bounds.now)?;
        }
        Ok(signed)
    }

    /// Signs the certificate of our own port and verifies it.
    pub fn sign_serving(
        &self,
        spki: &[u8],
        serving: &Serving,
        now: SystemTime,
    ) -> Result<Signed, SigningError> {
        let names = Names::Hosts { dns: serving.dns.clone(), ip: serving.ip.clone() };
        let bounds = Bounds { now, maximum: serving.lifetime };
        let signed = self.sign(Profile::Serving, names, spki, serving.lifetime, bounds)?;
        let leaf = Certificate::from_der(signed.der.to_vec())?;
        verify(&leaf, self.intermediates(&signed), &self.cacerts.roots, now, Usage::Server)?;
        Ok(signed)
    }

    /// The certificates between a leaf that this issuer signed and the root.
    pub fn intermediates(&self, leaf: &Signed) -> &[Certificate] {
        &self.signer(leaf.by).1.certificates
    }

    /// What a caller is answered with: the leaf, each intermediate an element of its own, and one last
    /// element with all roots.
    pub fn answer(&self, leaf: &Signed, trust_domain: &TrustDomain) -> Vec<String> {
        let roots = self.roots.get(trust_domain).map(|roots| roots.pem.clone()).unwrap_or_default();
        let intermediates = &self.signer(leaf.by).1.pem;
        let mut chain = Vec::with_capacity(intermediates.len() + 2);
        chain.push(leaf.to_pem());
        chain.extend(intermediates.iter().cloned());
        chain.push(roots);
        chain
    }

    /// Whether every certificate above a leaf is valid at `now`.
    pub fn valid_at(&self, now: SystemTime) -> Result<(), ValidityError> {
        self.cacerts.validities().try_for_each(|validity| validity.at(now))
    }

    /// Whether each of its keys can sign. Takes as long as their signatures.
    pub fn keys_sign(&self) -> bool {
        let keys = [Some(&self.cacerts.ca.key), self.issuing.as_ref().map(|issuing| &issuing.ca.key)];
        keys.into_iter().flatten().all(|key| key.sign(b"signet readiness").is_ok())
    }

    fn signer(&self, by: By) -> (&Ca, &Chain) {
        match (by, &self.issuing) {
            (By::Issuing, Some(issuing)) => (&issuing.ca, &issuing.chain),
            _ => (&self.cacerts.ca, &self.plugged),
        }
    }

    /// The issuing intermediate, unless what is asked for would outlive it.
    fn choose(&self, until: SystemTime) -> By {
        let ends = |issuing: &Arc<IssuingCa>| issuing.ca.certificate.facts().validity.not_after;
        if self.issuing.as_ref().is_some_and(|issuing| until <= ends(issuing)) {
            By::Issuing
        } else {
            By::Plugged
        }
    }

    fn sign(
        &self,
        profile: Profile,
        names: Names,
        spki: &[u8],
        lifetime: Duration,
        bounds: Bounds,
    ) -> Result<Signed, SigningError> {
        let by = self.choose(bounds.now + lifetime);
        let (ca, chain) = self.signer(by);
        let validity = validity::leaf(bounds.now, lifetime, chain.validities.iter().copied())?;
        let template = ca.template(profile, names, spki.to_vec(), validity)?;
        let der = ca.sign(&template, bounds)?;
        let issuer_key_id = chain.key_id.clone();
        Ok(Signed { der, serial: template.serial, validity, key_hash: sha256(spki), issuer_key_id, by })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::tests::{YEAR, cacerts, now};
    use signet_certs::bundle::{Bundles, TrustBundle};
    use signet_certs::csr;
    use signet_certs::key::PrivateKey;
    use signet_certs::spiffe_id::SpiffeId;

    const HOUR: Duration = Duration::from_secs(3600);

    pub(crate) fn issuer(cacerts: Cacerts) -> Issuer {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let bundles = Bundles::of(domain, TrustBundle::new(cacerts.roots.clone()));
        let trust =
            Trust { epoch: 1, sequence: 1, digest: bundles.digest(), bundles, crls: Default::default() };
        Issuer::new(Arc::new(cacerts), None, Arc::new(trust))
    }

    pub(crate) fn request(id: &str) -> (VerifiedCsr, SpiffeId) {
        let key = PrivateKey::generate_p256().unwrap();
        let id = SpiffeId::parse(id).unwrap();
        (VerifiedCsr::from_pem(&csr::create(&key, &id).unwrap()).unwrap(), id)
    }

    fn sign(issuer: &Issuer, lifetime: Duration, at: SystemTime) -> Result<Signed, SigningError> {
        let (csr, identity) = request("spiffe://cluster.local/ns/n/sa/s");
        issuer.sign_workload(&csr, &Grant { identity, lifetime }, Bounds { now: at, maximum: YEAR })
    }

    #[test]
    fn an_answer_is_leaf_intermediate_and_all_roots_in_one_element() {
        let issuer = issuer(cacerts(YEAR));
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let answer = issuer.answer(&sign(&issuer, HOUR, now()).unwrap(), &domain);
        assert_eq!(answer.len(), 3);
        assert!(answer.iter().all(|element| element.ends_with("-----END CERTIFICATE-----\n")));
        let leaf = Certificate::from_pem(answer[0].as_bytes()).unwrap();
        let intermediates = Certificate::all_from_pem(answer[1].as_bytes()).unwrap();
        let roots = Certificate::all_from_pem(answer[2].as_bytes()).unwrap();
        verify_svid(&leaf, &intermediates, &roots, now()).unwrap();
        assert_eq!(issuer.root_digests(&domain), [roots[0].digest()]);
    }

    #[test]
    fn case_24_a_leaf_ends_with_its_issuer_and_an_ended_issuer_signs_nothing() {
        let issuer = issuer(cacerts(HOUR));
        assert_eq!(sign(&issuer, HOUR * 2, now()).unwrap().validity.not_after, now() + HOUR);
        assert_eq!(sign(&issuer, HOUR / 2, now()).unwrap().validity.not_after, now() + HOUR / 2);
        let late = now() + HOUR + Duration::from_secs(1);
        assert!(matches!(sign(&issuer, HOUR, late), Err(SigningError::Chain(_))));
        assert!(issuer.valid_at(now()).is_ok() && issuer.valid_at(late).is_err());
    }

    #[test]
    fn case_18_the_leaf_says_what_was_granted_whatever_the_request_says() {
        let issuer = issuer(cacerts(YEAR));
        let (csr, _) = request("spiffe://cluster.local/ns/kube-system/sa/admin");
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/n/sa/s").unwrap();
        let grant = Grant { identity, lifetime: HOUR };
        let bounds = Bounds { now: now(), maximum: HOUR };
        let leaf = issuer.sign_workload(&csr, &grant, bounds).unwrap();
        let leaf = Certificate::from_der(leaf.der.to_vec()).unwrap();
        assert_eq!(leaf.facts().uris, ["spiffe://cluster.local/ns/n/sa/s"]);
        assert_eq!(leaf.facts().spki, csr.spki());
    }

    #[test]
    fn another_trust_domain_s_identity_is_not_signed() {
        let issuer = issuer(cacerts(YEAR));
        let (csr, identity) = request("spiffe://elsewhere/ns/n/sa/s");
        let bounds = Bounds { now: now(), maximum: HOUR };
        let refused = issuer.sign_workload(&csr, &Grant { identity, lifetime: HOUR }, bounds);
        assert!(matches!(refused, Err(SigningError::TrustDomain(_))));
    }

    #[test]
    fn a_key_that_does_not_fit_is_found_with_the_first_leaf() {
        let (mine, other) = (cacerts(YEAR), cacerts(YEAR));
        let mixed = Cacerts { ca: Ca { certificate: mine.ca.certificate, key: other.ca.key }, ..mine };
        assert!(matches!(sign(&issuer(mixed), HOUR, now()), Err(SigningError::Verify(_))));
    }

    #[test]
    fn the_serving_certificate_has_its_names_and_verifies() {
        let issuer = issuer(cacerts(YEAR));
        let key = PrivateKey::generate_p256().unwrap();
        let serving =
            Serving { dns: vec!["localhost".into()], ip: vec!["127.0.0.1".parse().unwrap()], lifetime: HOUR };
        let signed = issuer.sign_serving(key.spki(), &serving, now()).unwrap();
        let leaf = Certificate::from_der(signed.der.to_vec()).unwrap();
        assert_eq!(
            (leaf.facts().dns.as_slice(), leaf.facts().ip.as_slice()),
            (&serving.dns[..], &serving.ip[..])
        );
    }
}
