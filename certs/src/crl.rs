//! CRLs as they are passed on to whoever checks peers: read, kept apart and in order, with a digest. What they
//! mean for one chain is judged in [`crate::cacerts`].

use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::chain::Certificate;
use crate::clock::from_unix;
use crate::digest::sha256;
use crate::pem::{self, PemError};
use crate::validity::Validity;

/// Of a CRL in PEM.
pub(crate) const LABEL: &str = "X509 CRL";

/// Why this is no CRL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CrlError {
    /// Not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Not DER of a CRL (RFC 5280, section 5), or something behind it.
    #[error("CRL {0} cannot be read")]
    Unreadable(usize),
}

/// CRLs in DER: each once, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crls(Vec<Vec<u8>>);

/// How long a CRL is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The name of its CA, DER.
    pub issuer: Vec<u8>,
    /// From this update to the next.
    pub validity: Validity,
    /// SHA-256 of the CRL.
    pub digest: [u8; 32],
}

impl Crls {
    /// From DER; they are counted from 1 in an error.
    ///
    /// # Errors
    /// One of them is no CRL.
    pub fn from_der(ders: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, CrlError> {
        let mut crls: Vec<_> = ders.into_iter().collect();
        let bad =
            crls.iter().position(|der| !matches!(CertificateRevocationList::from_der(der), Ok(([], _))));
        if let Some(at) = bad {
            return Err(CrlError::Unreadable(at + 1));
        }
        crls.sort_unstable();
        crls.dedup();
        Ok(Self(crls))
    }

    /// From the PEM blocks `X509 CRL` of a text; others are passed over.
    ///
    /// # Errors
    /// The text is damaged, or one of them is no CRL.
    pub fn from_pem(text: &[u8]) -> Result<Self, CrlError> {
        let blocks = pem::blocks(text)?.into_iter().filter(|block| block.label == LABEL);
        Self::from_der(blocks.map(|block| block.der.to_vec()))
    }

    /// All as one PEM text.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|der| pem::encode(LABEL, der)).collect()
    }

    /// Each in DER.
    pub fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// SHA-256 over the SHA-256 of each; nothing where there are none.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let each: Vec<_> = self.0.iter().map(|der| sha256(der)).collect();
        (!each.is_empty()).then(|| sha256(each.as_flattened()))
    }

    /// Of each that says when the next one comes (RFC 5280, section 5.1.2.5): from then on, whoever checks by OpenSSL's
    /// rules refuses every chain that it is for.
    pub fn terms(&self) -> impl Iterator<Item = Term> {
        self.parsed().filter_map(|(der, crl)| {
            let not_after = from_unix(crl.next_update()?.timestamp());
            let not_before = from_unix(crl.last_update().timestamp());
            let validity = Validity { not_before, not_after };
            Some(Term { issuer: crl.issuer().as_raw().to_vec(), validity, digest: sha256(der) })
        })
    }

    /// The first that names one of `cas` as its issuer and is signed by none of that name, counted from 1 in their
    /// order: a peer would refuse it, and every chain with it. Who signed those of other CAs cannot be told.
    pub fn forged(&self, cas: &[Certificate]) -> Option<usize> {
        let forged = self.parsed().position(|(_, crl)| {
            let algorithm = crl.signature_algorithm.algorithm.as_bytes();
            let mut named = cas.iter().filter(|ca| ca.facts().subject == crl.issuer().as_raw()).peekable();
            let signed = |ca: &Certificate| {
                ca.verifies(algorithm, crl.tbs_cert_list.as_ref(), &crl.signature_value.data)
            };
            named.peek().is_some() && !named.any(signed)
        });
        forged.map(|at| at + 1)
    }

    fn parsed(&self) -> impl Iterator<Item = (&[u8], CertificateRevocationList<'_>)> {
        // They were read before.
        self.0
            .iter()
            .filter_map(|der| Some((der.as_slice(), CertificateRevocationList::from_der(der).ok()?.1)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ca::Ca;
    use crate::ca::tests::{YEAR, now, root};
    use crate::der;

    /// An empty CRL of `ca`, good for a year from now.
    fn crl(ca: &Ca) -> Vec<u8> {
        let (algorithm, name) = (ca.key.algorithm_identifier(), &ca.certificate.facts().subject);
        let tbs = der::sequence(&[algorithm, name, &der::time(now()), &der::time(now() + YEAR)]);
        der::sequence(&[&tbs, algorithm, &der::bit_string(&ca.key.sign(&tbs).unwrap())])
    }

    #[test]
    fn order_repetition_and_what_stands_between_do_not_change_them() {
        let (a, b) = (crl(&root("A")), crl(&root("B")));
        let one = Crls::from_der([a.clone(), b.clone(), a.clone()]).unwrap();
        let text = format!("# B\n{}and\n{}", pem::encode(LABEL, &b), pem::encode(LABEL, &a));
        assert_eq!(Crls::from_pem(text.as_bytes()).unwrap(), one);
        assert_eq!(Crls::from_pem(one.to_pem().as_bytes()).unwrap(), one);
        assert_eq!(one.ders().count(), 2);
        let less = Crls::from_der([a]).unwrap();
        assert!(one.digest().is_some() && one.digest() != less.digest());
        let none = Crls::from_der([]).unwrap();
        assert_eq!((none.digest(), none.is_empty(), none.to_pem()), (None, true, String::new()));
    }

    #[test]
    fn what_is_no_crl_is_named() {
        let ca = root("A");
        let good = crl(&ca);
        let behind = [&good[..], b"x"].concat();
        for bad in [behind, good[..good.len() - 1].to_vec(), ca.certificate.der().to_vec(), vec![]] {
            assert_eq!(Crls::from_der([good.clone(), bad]), Err(CrlError::Unreadable(2)));
        }
        assert!(matches!(Crls::from_pem(b"-----BEGIN X509 CRL-----\n"), Err(CrlError::Pem(_))));
    }

    #[test]
    fn one_that_its_ca_did_not_sign_is_forged_and_of_strangers_nothing_is_said() {
        let (a, again, b) = (root("A"), root("A"), root("B"));
        let crls = Crls::from_der([crl(&a)]).unwrap();
        let forged =
            |cas: &[&Ca]| crls.forged(&cas.iter().map(|ca| ca.certificate.clone()).collect::<Vec<_>>());
        assert_eq!(forged(&[&a]), None);
        assert_eq!(forged(&[&again, &b]), Some(1));
        assert_eq!(forged(&[&again, &a]), None, "two of one name, as while a root is replaced");
        assert_eq!(forged(&[&b]), None);
        let term = crls.terms().next().unwrap();
        assert_eq!(
            (term.issuer, term.validity.not_after),
            (a.certificate.facts().subject.clone(), now() + YEAR)
        );
    }
}
