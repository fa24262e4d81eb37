//! Certificate signing requests (PKCS#10, RFC 2986): what we accept of them, and how the agent makes one.
//!
//! From a request only the public key is kept, and only after its owner proved to hold the private one.
//! [`VerifiedCsr`] has no room for names, usages or CA flags; what was asked for stands in [`Asked`],
//! for the log alone.

use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::key::{KeyError, KeyKind, PrivateKey, SignatureAlgorithm, verify};
use crate::spiffe_id::SpiffeId;
use crate::{der, name, pem, template};

/// Largest request that is looked at, in bytes of PEM.
pub const MAX_PEM: usize = 16 * 1024;
/// How many of the names asked for are kept for the log.
const MAX_NAMES: usize = 8;
/// pkcs-9-at-extensionRequest.
const OID_EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CsrError {
    /// Larger than [`MAX_PEM`].
    #[error("the CSR is {0} bytes long, at most {MAX_PEM} are allowed")]
    Size(usize),
    /// Nothing there.
    #[error("the CSR is empty")]
    Empty,
    /// Not one PEM block, or something around it.
    #[error("the CSR is not a single PEM block: {0}")]
    Pem(#[from] pem::PemError),
    /// Not a PKCS#10 request.
    #[error("the CSR is not a PKCS#10 certification request")]
    Malformed,
    /// Bytes behind the request.
    #[error("the CSR has {0} bytes behind its end")]
    Trailing(usize),
    /// A public key that certificates may not hold.
    #[error("the CSR's public key: {0}")]
    Key(#[from] KeyError),
    /// A signature algorithm outside the allow-list, or one that does not fit the key.
    #[error("the CSR's signature algorithm ({0}) is not allowed or does not fit its {1} key")]
    Algorithm(String, KeyKind),
    /// The proof of possession fails.
    #[error("the CSR's signature does not verify with its own key")]
    Signature,
}

/// A public key whose owner proved to hold the private one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    spki: Vec<u8>,
    kind: KeyKind,
    asked: Asked,
}

/// What the request asked for. It decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Subject alternative names, typed and escaped, the first few.
    pub names: Vec<String>,
    /// Whether it asked to be a CA.
    pub ca: bool,
    /// A subject that names something.
    pub subject: Option<String>,
}

impl Asked {
    /// Whether anything but the identity that is granted (or nothing at all) was asked for.
    pub fn differs_from(&self, granted: &SpiffeId) -> bool {
        let other_name = self.names.iter().any(|asked| asked.strip_prefix("URI:") != Some(granted.as_str()));
        other_name || self.ca || self.subject.is_some()
    }
}

impl VerifiedCsr {
    /// Reads, judges and verifies a request in PEM.
    pub fn from_pem(text: &str) -> Result<Self, CsrError> {
        if text.len() > MAX_PEM {
            return Err(CsrError::Size(text.len()));
        }
        if text.trim().is_empty() {
            return Err(CsrError::Empty);
        }
        Self::from_der(&pem::only(text)?.der)
    }

    /// Reads, judges and verifies a request in DER.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CsrError> {
        if bytes.len() > MAX_PEM {
            return Err(CsrError::Size(bytes.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(bytes).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Trailing(rest.len()));
        }
        let info = &request.certification_request_info;
        if info.version != X509Version::V1 || request.signature_value.unused_bits != 0 {
            return Err(CsrError::Malformed);
        }
        let kind = KeyKind::of(&info.subject_pki)?;
        let oid = &request.signature_algorithm.algorithm;
        let algorithm = SignatureAlgorithm::of_oid(oid.as_bytes())
            .filter(|algorithm| {
                matches!(
                    (kind, algorithm),
                    (KeyKind::Rsa(_), SignatureAlgorithm::Rsa(_))
                        | (KeyKind::P256 | KeyKind::P384, SignatureAlgorithm::Ecdsa(_))
                        | (KeyKind::Ed25519, SignatureAlgorithm::Ed25519)
                )
            })
            .ok_or_else(|| CsrError::Algorithm(oid.to_string(), kind))?;
        let key = info.subject_pki.subject_public_key.data.as_ref();
        let signature = request.signature_value.data.as_ref();
        // The wrapping is not under the signature: it must be the one encoding that DER allows.
        if der::sequence(&[info.raw, &algorithm.identifier(), &der::bit_string(signature)]) != bytes {
            return Err(CsrError::Malformed);
        }
        if !verify(kind, key, algorithm, info.raw, signature) {
            return Err(CsrError::Signature);
        }
        Ok(Self { spki: info.subject_pki.raw.to_vec(), kind, asked: asked_for(&request) })
    }

    /// DER SubjectPublicKeyInfo, byte for byte as it came.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// For the log.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }
}

fn asked_for(request: &X509CertificationRequest<'_>) -> Asked {
    let mut asked = Asked::default();
    let subject = &request.certification_request_info.subject;
    // Istio's agent sends one empty organization: that names nothing.
    if subject.iter_attributes().any(|attribute| !attribute.attr_value().data.is_empty()) {
        asked.subject = Some(name::display(subject.as_raw()));
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                let room = MAX_NAMES.saturating_sub(asked.names.len());
                asked.names.extend(names.general_names.iter().take(room).map(name::display_general));
            }
            ParsedExtension::BasicConstraints(constraints) => asked.ca |= constraints.ca,
            _ => {}
        }
    }
    asked
}

/// A request for `key` that asks for `identity`: empty subject, one critical URI name, as ztunnel's.
pub fn create(key: &PrivateKey, identity: &SpiffeId) -> Result<String, KeyError> {
    let extensions = der::sequence(&[&template::uri_name(identity)]);
    let attribute = der::sequence(&[&der::oid(OID_EXTENSION_REQUEST), &der::set(&[&extensions])]);
    let info = der::sequence(&[
        &der::unsigned(&[0]),
        name::EMPTY,
        key.spki(),
        &der::context_constructed(0, &[&attribute]),
    ]);
    let signature = der::bit_string(&key.sign(&info)?);
    let request = der::sequence(&[&info, key.algorithm_identifier(), &signature]);
    Ok(pem::encode("CERTIFICATE REQUEST", &request))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn identity() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/default/sa/reviews").unwrap()
    }

    fn good() -> (PrivateKey, Vec<u8>) {
        let key = PrivateKey::generate_p256().unwrap();
        let text = create(&key, &identity()).unwrap();
        let der = pem::only(&text).unwrap().der;
        (key, der)
    }

    #[test]
    fn only_the_key_is_kept_of_a_request() {
        let (key, der) = good();
        let csr = VerifiedCsr::from_der(&der).unwrap();
        assert_eq!((csr.spki(), csr.kind()), (key.spki(), KeyKind::P256));
        assert!(!csr.asked().differs_from(&identity()));
        let other = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/admin").unwrap();
        assert!(csr.asked().differs_from(&other));
    }

    #[test]
    fn case_15_any_flipped_bit_is_refused() {
        let (_, der) = good();
        for at in 0..der.len() {
            let mut bad = der.clone();
            bad[at] ^= 1;
            assert!(VerifiedCsr::from_der(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        assert_eq!(VerifiedCsr::from_pem(" \n"), Err(CsrError::Empty));
        assert!(matches!(VerifiedCsr::from_pem("garbage"), Err(CsrError::Pem(_))));
        assert_eq!(VerifiedCsr::from_pem(&"x".repeat(MAX_PEM + 1)), Err(CsrError::Size(MAX_PEM + 1)));
        let (_, mut der) = good();
        assert_eq!(VerifiedCsr::from_der(&der[..der.len() - 1]), Err(CsrError::Malformed));
        der.push(0);
        assert_eq!(VerifiedCsr::from_der(&der), Err(CsrError::Trailing(1)));
        let text = pem::encode("CERTIFICATE REQUEST", &der[..der.len() - 1]);
        assert!(VerifiedCsr::from_pem(&text).is_ok());
        assert!(matches!(VerifiedCsr::from_pem(&format!("{text}x")), Err(CsrError::Pem(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(VerifiedCsr::from_der(&bytes).is_err());
        }
    }
}
