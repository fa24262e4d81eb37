//! A CA's certificate together with its key: what makes roots, intermediates and leaves.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::chain::{Certificate, CertificateError};
use crate::check::{Bounds, CheckError, check};
use crate::key::{KeyError, PrivateKey, key_identifier};
use crate::profile::Profile;
use crate::serial::Serial;
use crate::sign::sign;
use crate::template::{Names, Template};
use crate::validity::{BACKDATE, Validity};

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum CaError {
    /// The key could not sign, or there were no random numbers.
    #[error("signing the certificate")]
    Key(#[from] KeyError),
    /// What would have been signed is not what was meant.
    #[error("checking the certificate before signing it")]
    Check(#[from] CheckError),
    /// The result does not read back.
    #[error("reading the signed certificate back")]
    Certificate(#[from] CertificateError),
}

/// A CA that can sign.
#[derive(Debug)]
pub struct Ca {
    /// Its own certificate.
    pub certificate: Certificate,
    /// The key that fits it.
    pub key: PrivateKey,
}

impl Ca {
    /// A self-signed root with this subject (raw DER).
    pub fn root(subject: Vec<u8>, validity: Validity, key: PrivateKey) -> Result<Self, CaError> {
        let template = Template {
            profile: Profile::Root,
            serial: Serial::random()?,
            validity,
            names: Names::Subject(subject.clone()),
            spki: key.spki().to_vec(),
            issuer: subject,
            issuer_key_id: key_identifier(key.spki()),
            signature_algorithm: key.algorithm_identifier().to_vec(),
        };
        let checked = check(&template, ca_bounds(validity))?;
        let certificate = Certificate::from_der(sign(&checked, &key)?.to_vec())?;
        Ok(Self { certificate, key })
    }

    /// An intermediate under this CA, which never outlives it.
    pub fn intermediate(
        &self,
        subject: Vec<u8>,
        path_length: u8,
        validity: Validity,
        key: PrivateKey,
    ) -> Result<Self, CaError> {
        let above = self.certificate.facts().validity;
        let validity = Validity { not_after: validity.not_after.min(above.not_after), ..validity };
        let profile = Profile::Intermediate { path_length };
        let template = self.template(profile, Names::Subject(subject), key.spki().to_vec(), validity)?;
        let der = self.sign(&template, ca_bounds(validity))?;
        Ok(Self { certificate: Certificate::from_der(der.to_vec())?, key })
    }

    /// A template whose issuer is this CA, with a new serial.
    pub fn template(
        &self,
        profile: Profile,
        names: Names,
        spki: Vec<u8>,
        validity: Validity,
    ) -> Result<Template, KeyError> {
        Ok(Template {
            profile,
            serial: Serial::random()?,
            validity,
            names,
            spki,
            issuer: self.certificate.facts().subject.clone(),
            issuer_key_id: self.certificate.key_id(),
            signature_algorithm: self.key.algorithm_identifier().to_vec(),
        })
    }

    /// Checks the template and signs the checked bytes.
    pub fn sign(&self, template: &Template, bounds: Bounds) -> Result<CertificateDer<'static>, CaError> {
        Ok(sign(&check(template, bounds)?, &self.key)?)
    }
}

/// A CA's life is what the ceremony says; the check then holds the encoding to just that.
fn ca_bounds(validity: Validity) -> Bounds {
    let now = validity.not_before + BACKDATE;
    Bounds { now, maximum: validity.not_after.duration_since(now).unwrap_or(Duration::ZERO) }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chain::{ChainError, Usage, verify, verify_svid};
    use crate::clock::from_unix;
    use crate::name::ca_name;
    use crate::spiffe_id::SpiffeId;
    use crate::validity::leaf;
    use std::slice::from_ref;
    use std::time::SystemTime;

    pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

    pub(crate) fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    pub(crate) fn life(years: u32) -> Validity {
        Validity { not_before: now() - BACKDATE, not_after: now() + YEAR * years }
    }

    pub(crate) fn root(name: &str) -> Ca {
        Ca::root(ca_name("Signet", None, name), life(10), PrivateKey::generate_p256().unwrap()).unwrap()
    }

    pub(crate) fn intermediate(root: &Ca) -> Ca {
        let subject = ca_name("Signet", Some("cluster1"), "Intermediate CA");
        root.intermediate(subject, 0, life(5), PrivateKey::generate_p256().unwrap()).unwrap()
    }

    fn svid(ca: &Ca, id: &str) -> Certificate {
        let key = PrivateKey::generate_p256().unwrap();
        let names = Names::SpiffeId(SpiffeId::parse(id).unwrap());
        let hour = Duration::from_secs(3600);
        let validity = leaf(now(), hour, [ca.certificate.facts().validity]).unwrap();
        let template = ca.template(Profile::Workload, names, key.spki().to_vec(), validity).unwrap();
        let der = ca.sign(&template, Bounds { now: now(), maximum: hour }).unwrap();
        Certificate::from_der(der.to_vec()).unwrap()
    }

    #[test]
    fn a_leaf_chains_through_its_intermediate_to_its_root_and_to_no_other() {
        let root = root("Root CA");
        let int = intermediate(&root);
        let leaf = svid(&int, "spiffe://td/ns/n/sa/s");
        let (ints, roots) = ([int.certificate.clone()], [root.certificate.clone()]);
        let id = verify_svid(&leaf, &ints, &roots, now()).unwrap();
        assert_eq!(id.as_str(), "spiffe://td/ns/n/sa/s");
        assert!(leaf.is_signed_by(&int.certificate) && !leaf.is_signed_by(&root.certificate));
        assert_eq!(leaf.facts().authority_key_id, int.certificate.facts().subject_key_id);
        let without = verify_svid(&leaf, &[], &roots, now());
        assert!(matches!(without, Err(ChainError::Path(_))), "{without:?}");
        let other = self::root("Root CA");
        assert!(matches!(verify_svid(&leaf, &ints, &[other.certificate], now()), Err(ChainError::Path(_))));
        assert_eq!(verify_svid(&leaf, &ints, &[], now()), Err(ChainError::NoRoot));
        let late = now() + Duration::from_secs(3601);
        assert!(matches!(verify_svid(&leaf, &ints, &roots, late), Err(ChainError::Validity(_))));
    }

    #[test]
    fn a_root_that_has_ended_anchors_nothing() {
        let root = root("Root CA");
        let leaf = svid(&root, "spiffe://td/ns/n/sa/s");
        assert!(verify_svid(&leaf, &[], from_ref(&root.certificate), now()).is_ok());
        let short = Validity { not_after: now() + Duration::from_secs(10), ..life(1) };
        let subject = root.certificate.facts().subject.clone();
        let short = Ca::root(subject, short, root.key).unwrap();
        let later = now() + Duration::from_secs(11);
        assert_eq!(verify_svid(&leaf, &[], &[short.certificate], later), Err(ChainError::NoRoot));
    }

    #[test]
    fn case_19_a_ca_is_no_svid_and_a_serving_certificate_neither() {
        let root = root("Root CA");
        let int = intermediate(&root);
        let roots = [root.certificate.clone()];
        assert!(verify_svid(&int.certificate, &[], &roots, now()).is_err());
        let key = PrivateKey::generate_p256().unwrap();
        let names = Names::Hosts { dns: vec!["localhost".into()], ip: vec![] };
        let validity = leaf(now(), YEAR, []).unwrap();
        let template = int.template(Profile::Serving, names, key.spki().to_vec(), validity).unwrap();
        let der = int.sign(&template, Bounds { now: now(), maximum: YEAR }).unwrap();
        let serving = Certificate::from_der(der.to_vec()).unwrap();
        let ints = [int.certificate];
        assert!(verify(&serving, &ints, &roots, now(), Usage::Server).is_ok());
        assert!(verify(&serving, &ints, &roots, now(), Usage::Client).is_err());
        assert!(matches!(verify_svid(&serving, &ints, &roots, now()), Err(ChainError::NotSvid(_))));
    }

    #[test]
    fn an_intermediate_never_outlives_its_root() {
        let root = root("Root CA");
        let subject = ca_name("Signet", None, "Intermediate CA");
        let int = root.intermediate(subject, 0, life(20), PrivateKey::generate_p256().unwrap()).unwrap();
        assert_eq!(int.certificate.facts().validity.not_after, life(10).not_after);
        assert_eq!(int.certificate.facts().path_length, Some(0));
    }
}
