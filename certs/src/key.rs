//! Keys: what kinds are known, how a private key is read, kept, and used to sign.
//!
//! This module alone decides which library does what: ring for everything it does well, aws-lc-rs for
//! RSA signatures (a third of ring's time at 4096 bits) and for RSA keys that are kept to verify with. A private key never prints.
//! How a key file becomes PKCS#8 that the libraries take stands in `key/read`.

mod generate;
mod naming;
mod read;

use std::fmt;

use aws_lc_rs::signature::ParsedPublicKey;
use ring::rand::SystemRandom;
use ring::signature::{self as ring_signature, EcdsaKeyPair, Ed25519KeyPair, KeyPair, VerificationAlgorithm};
use thiserror::Error;
use x509_parser::asn1_rs::{Oid, Tag};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use crate::pem::PemError;
use crate::{der, pem};

use read::Clean;

pub use generate::{NewKey, NewKeyError};

// Encoded object identifiers (contents octets).
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const OID_RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const OID_RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
const OID_ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const OID_ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not PEM, or damaged PEM.
    #[error("the private key cannot be read: {0}")]
    Pem(PemError),
    /// PEM without a private key, or of a form that is not known.
    #[error("expected a private key as PKCS#8, PKCS#1 or SEC1 in PEM, found {0}")]
    Form(String),
    /// More than one private key; the lines on which they begin.
    #[error("expected one private key, found several, at the lines {lines}", lines = listed(.0))]
    Several(Vec<usize>),
    /// Encrypted; there is nobody to ask for the password.
    #[error("the private key is encrypted")]
    Encrypted,
    /// Right by its label, and not readable.
    #[error("the private key is damaged: {0}")]
    Damaged(String),
    /// A kind of key that is not allowed.
    #[error("expected RSA (2048 to 4096 bits), P-256, P-384 or Ed25519, found {0}")]
    Kind(String),
    /// RSA that may only make PSS signatures.
    #[error("expected an RSA key (rsaEncryption), found one for RSASSA-PSS alone")]
    Pss,
    /// An EC key that spells its curve out in place of naming it.
    #[error("expected an EC key that names its curve, found explicit curve parameters")]
    ExplicitParameters,
    /// An EC key that cannot be used before its public key is written beside it.
    #[error("expected an EC key with its public part, uncompressed, found none")]
    NoPublicPart,
    /// RSA with a modulus out of bounds.
    #[error("expected an RSA key of 2048 to 4096 bits, found {0}")]
    RsaSize(usize),
    /// RSA with an exponent that is even, below 65537 or over 32 bits.
    #[error("expected an odd RSA exponent of at least 65537 and at most 32 bits")]
    RsaExponent,
    /// The library refused the key: its parts do not fit each other.
    #[error("the private key cannot be used: {0}")]
    Rejected(String),
    /// The signature operation failed.
    #[error("the key could not sign")]
    Sign,
    /// The system's random numbers are not available.
    #[error("no random numbers from the system")]
    Random,
}

fn listed(lines: &[usize]) -> String {
    lines.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// A kind of public key that certificates here may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits.
    Rsa(usize),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

impl KeyKind {
    /// Judges a DER SubjectPublicKeyInfo by the allow-list: kind, size, exponent, form of the point.
    pub fn of_spki(spki: &[u8]) -> Result<Self, KeyError> {
        match SubjectPublicKeyInfo::from_der(spki) {
            Ok(([], info)) => Self::of(&info),
            _ => Err(KeyError::Kind("an unreadable public key".to_owned())),
        }
    }

    pub(crate) fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let unreadable = |_| KeyError::Kind("an unreadable public key".to_owned());
        let point = info.subject_public_key.data.as_ref();
        if info.subject_public_key.unused_bits != 0 {
            return Err(KeyError::Kind("a public key with unused bits".to_owned()));
        }
        let kind = match info.algorithm.algorithm.as_bytes() {
            OID_RSA => match info.parsed().map_err(unreadable)? {
                PublicKey::RSA(rsa) => judge_rsa(rsa.modulus, rsa.exponent)?,
                _ => return Err(KeyError::Kind("an unreadable public key".to_owned())),
            },
            OID_EC => {
                let curve = named_curve(&info.algorithm);
                let (kind, length) = match curve.as_ref().map(|oid| oid.as_bytes()) {
                    Some(OID_P256) => (Self::P256, 65),
                    Some(OID_P384) => (Self::P384, 97),
                    _ => return Err(naming::not_allowed(&info.algorithm)),
                };
                if point.len() != length || point[0] != 4 {
                    let found = "a point that is compressed or of the wrong length";
                    return Err(KeyError::Kind(found.to_owned()));
                }
                kind
            }
            OID_ED25519 if point.len() == 32 => Self::Ed25519,
            _ => return Err(naming::not_allowed(&info.algorithm)),
        };
        // The parser passes over parameters that no standard allows; peers would not.
        if info.raw != spki(&kind.algorithm(), point) {
            return Err(KeyError::Kind("a public key with other parameters than its kind has".to_owned()));
        }
        Ok(kind)
    }

    /// DER AlgorithmIdentifier of the public key.
    fn algorithm(self) -> Vec<u8> {
        match self {
            Self::Rsa(_) => der::sequence(&[&der::oid(OID_RSA), &[5, 0]]),
            Self::P256 => der::sequence(&[&der::oid(OID_EC), &der::oid(OID_P256)]),
            Self::P384 => der::sequence(&[&der::oid(OID_EC), &der::oid(OID_P384)]),
            Self::Ed25519 => der::sequence(&[&der::oid(OID_ED25519)]),
        }
    }
}

/// The curve that an EC key names; the parser takes any parameters, explicit ones too, for an OID.
fn named_curve<'a>(algorithm: &'a AlgorithmIdentifier<'a>) -> Option<Oid<'a>> {
    let parameters = algorithm.parameters.as_ref().filter(|any| any.tag() == Tag::Oid)?;
    parameters.as_oid().ok()
}

fn judge_rsa(modulus: &[u8], exponent: &[u8]) -> Result<KeyKind, KeyError> {
    let modulus = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=4096).contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    let exponent = &exponent[exponent.iter().take_while(|byte| **byte == 0).count()..];
    let value = exponent.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    if exponent.len() > 4 || value < 65_537 || value % 2 == 0 {
        return Err(KeyError::RsaExponent);
    }
    Ok(KeyKind::Rsa(bits))
}

/// A signature algorithm of the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 or SHA-512, by the number of bits.
    Rsa(u16),
    /// ECDSA with SHA-256 or SHA-384.
    Ecdsa(u16),
    /// Ed25519.
    Ed25519,
}

impl SignatureAlgorithm {
    /// By the contents octets of its OID; nothing for what is not allowed (SHA-1, PSS, …).
    pub(crate) fn of_oid(oid: &[u8]) -> Option<Self> {
        Some(match oid {
            OID_RSA_SHA256 => Self::Rsa(256),
            OID_RSA_SHA384 => Self::Rsa(384),
            OID_RSA_SHA512 => Self::Rsa(512),
            OID_ECDSA_SHA256 => Self::Ecdsa(256),
            OID_ECDSA_SHA384 => Self::Ecdsa(384),
            OID_ED25519 => Self::Ed25519,
            _ => return None,
        })
    }

    /// The verifier for a key of this kind; nothing if the two do not fit.
    fn verifier(self, kind: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (kind, self) {
            (KeyKind::Rsa(_), Self::Rsa(256)) => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa(_), Self::Rsa(384)) => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa(_), Self::Rsa(512)) => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::P256, Self::Ecdsa(256)) => &ring_signature::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Self::Ecdsa(384)) => &ring_signature::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, Self::Ecdsa(256)) => &ring_signature::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Self::Ecdsa(384)) => &ring_signature::ECDSA_P384_SHA384_ASN1,
            (KeyKind::Ed25519, Self::Ed25519) => &ring_signature::ED25519,
            _ => return None,
        })
    }

    /// The DER AlgorithmIdentifier.
    pub(crate) fn identifier(self) -> Vec<u8> {
        match self {
            Self::Rsa(256) => der::sequence(&[&der::oid(OID_RSA_SHA256), &[5, 0]]),
            Self::Rsa(384) => der::sequence(&[&der::oid(OID_RSA_SHA384), &[5, 0]]),
            Self::Rsa(_) => der::sequence(&[&der::oid(OID_RSA_SHA512), &[5, 0]]),
            Self::Ecdsa(256) => der::sequence(&[&der::oid(OID_ECDSA_SHA256)]),
            Self::Ecdsa(_) => der::sequence(&[&der::oid(OID_ECDSA_SHA384)]),
            Self::Ed25519 => der::sequence(&[&der::oid(OID_ED25519)]),
        }
    }
}

/// Verifies `signature` over `message`; false also where algorithm and key do not fit each other.
pub(crate) fn verify(
    kind: KeyKind,
    public_key: &[u8],
    algorithm: SignatureAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    algorithm.verifier(kind).is_some_and(|verifier| {
        ring_signature::UnparsedPublicKey::new(verifier, public_key).verify(message, signature).is_ok()
    })
}

/// An RSA public key that was read once, for whoever verifies with it again and again: ring would read it
/// anew each time, which takes as long as verifying.
pub struct RsaPublicKey([ParsedPublicKey; 3]);

impl RsaPublicKey {
    /// From modulus and exponent, both big-endian; nothing if they are no key of 2048 to 8192 bits.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        use aws_lc_rs::signature as rsa;
        let der = der::sequence(&[&der::unsigned(modulus), &der::unsigned(exponent)]);
        let parsed = |algorithm| ParsedPublicKey::new(algorithm, &der).ok();
        Some(Self([
            parsed(&rsa::RSA_PKCS1_2048_8192_SHA256)?,
            parsed(&rsa::RSA_PKCS1_2048_8192_SHA384)?,
            parsed(&rsa::RSA_PKCS1_2048_8192_SHA512)?,
        ]))
    }

    /// Whether this is its RSASSA-PKCS1-v1_5 signature with SHA-256, SHA-384 or SHA-512, by the number of bits.
    pub fn verify(&self, hash_bits: u16, message: &[u8], signature: &[u8]) -> bool {
        let key = match hash_bits {
            256 => &self.0[0],
            384 => &self.0[1],
            512 => &self.0[2],
            _ => return false,
        };
        key.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RsaPublicKey")
    }
}

enum Inner {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(aws_lc_rs::rsa::KeyPair),
}

/// A private key that can sign. Debug prints "(private key)".
pub struct PrivateKey {
    inner: Inner,
    kind: KeyKind,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
    algorithm_identifier: Vec<u8>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(private key)")
    }
}

impl PrivateKey {
    /// A new P-256 key.
    pub fn generate_p256() -> Result<Self, KeyError> {
        let algorithm = &ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let document =
            EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| KeyError::Random)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads the one private key of a PEM text, whatever else stands around it: PKCS#8, PKCS#1 or SEC1.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        Self::from_clean(read::pem(text)?)
    }

    /// From PKCS#8 DER.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let clean = read::pkcs8(&pkcs8);
        drop(pkcs8);
        Self::from_clean(clean?)
    }

    fn from_clean(Clean { algorithm, pkcs8 }: Clean) -> Result<Self, KeyError> {
        let rejected = |error: ring::error::KeyRejected| KeyError::Rejected(error.to_string());
        let random = SystemRandom::new();
        let (inner, kind, algorithm, spki) = match algorithm {
            OID_RSA => {
                let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&pkcs8)
                    .map_err(|error| KeyError::Rejected(error.to_string()))?;
                let public = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().to_vec();
                let spki = spki(&der::sequence(&[&der::oid(OID_RSA), &[5, 0]]), &public);
                let kind = KeyKind::of_spki(&spki)?;
                (Inner::Rsa(pair), kind, SignatureAlgorithm::Rsa(256), spki)
            }
            OID_P256 => {
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING,
                    &pkcs8,
                    &random,
                )
                .map_err(rejected)?;
                let spki = spki(&KeyKind::P256.algorithm(), pair.public_key().as_ref());
                (Inner::Ecdsa(pair), KeyKind::P256, SignatureAlgorithm::Ecdsa(256), spki)
            }
            OID_P384 => {
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ring_signature::ECDSA_P384_SHA384_ASN1_SIGNING,
                    &pkcs8,
                    &random,
                )
                .map_err(rejected)?;
                let spki = spki(&KeyKind::P384.algorithm(), pair.public_key().as_ref());
                (Inner::Ecdsa(pair), KeyKind::P384, SignatureAlgorithm::Ecdsa(384), spki)
            }
            OID_ED25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(rejected)?;
                let spki = spki(&KeyKind::Ed25519.algorithm(), pair.public_key().as_ref());
                (Inner::Ed25519(pair), KeyKind::Ed25519, SignatureAlgorithm::Ed25519, spki)
            }
            _ => return Err(KeyError::Kind("another kind of private key".to_owned())),
        };
        Ok(Self { inner, kind, pkcs8, spki, algorithm_identifier: algorithm.identifier() })
    }

    /// PKCS#8 PEM, for writing to a file of mode 0600 and for secret discovery; nowhere else.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    /// PKCS#8 DER, for handing the key to TLS in this process; nowhere else.
    pub fn to_pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// DER SubjectPublicKeyInfo of the public half.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// DER AlgorithmIdentifier of the signatures that [`Self::sign`] makes.
    pub fn algorithm_identifier(&self) -> &[u8] {
        &self.algorithm_identifier
    }

    /// A signature as certificates carry it (ECDSA as DER).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.inner {
            Inner::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::Sign),
            Inner::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Inner::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = aws_lc_rs::rand::SystemRandom::new();
                pair.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map(|()| signature)
                    .map_err(|_| KeyError::Sign)
            }
        }
    }
}

fn spki(algorithm: &[u8], public_key: &[u8]) -> Vec<u8> {
    der::sequence(&[algorithm, &der::bit_string(public_key)])
}

/// A key identifier for a SubjectPublicKeyInfo: RFC 7093, section 2, method 1.
pub fn key_identifier(spki: &[u8]) -> Vec<u8> {
    let bits = match SubjectPublicKeyInfo::from_der(spki) {
        Ok((_, info)) => info.subject_public_key.data.into_owned(),
        Err(_) => spki.to_vec(),
    };
    ring::digest::digest(&ring::digest::SHA256, &bits).as_ref()[..20].to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_generated_key_signs_what_its_public_half_verifies() {
        let key = PrivateKey::generate_p256().unwrap();
        assert_eq!(KeyKind::of_spki(key.spki()), Ok(KeyKind::P256));
        let signature = key.sign(b"message").unwrap();
        let (_, info) = SubjectPublicKeyInfo::from_der(key.spki()).unwrap();
        let public = info.subject_public_key.data.as_ref();
        assert!(verify(KeyKind::P256, public, SignatureAlgorithm::Ecdsa(256), b"message", &signature));
        assert!(!verify(KeyKind::P256, public, SignatureAlgorithm::Ecdsa(256), b"massage", &signature));
        assert!(!verify(KeyKind::P256, public, SignatureAlgorithm::Rsa(256), b"message", &signature));
        let again = PrivateKey::from_pem(key.to_pkcs8_pem().as_bytes()).unwrap();
        assert_eq!(again.spki(), key.spki());
    }

    #[test]
    fn a_private_key_does_not_print() {
        let key = PrivateKey::generate_p256().unwrap();
        assert_eq!(format!("{key:?}"), "(private key)");
    }

    #[test]
    fn what_is_no_usable_key_is_named() {
        assert_eq!(PrivateKey::from_pem(b"").unwrap_err(), KeyError::Form("no PEM block".into()));
        let encrypted = pem::encode("ENCRYPTED PRIVATE KEY", &[1]);
        assert_eq!(PrivateKey::from_pem(encrypted.as_bytes()).unwrap_err(), KeyError::Encrypted);
        let certificate = pem::encode("CERTIFICATE", &[1]);
        let error = PrivateKey::from_pem(certificate.as_bytes()).unwrap_err();
        assert_eq!(error, KeyError::Form("CERTIFICATE".into()));
        let damaged = pem::encode("PRIVATE KEY", &[0x30, 3, 2]);
        assert!(matches!(PrivateKey::from_pem(damaged.as_bytes()), Err(KeyError::Damaged(_))));
        let cut = damaged.replace("-----END", "");
        assert!(matches!(PrivateKey::from_pem(cut.as_bytes()), Err(KeyError::Pem(_))));
    }

    #[test]
    fn parameters_that_a_kind_does_not_have_are_refused() {
        let key = PrivateKey::generate_p256().unwrap();
        let (_, info) = SubjectPublicKeyInfo::from_der(key.spki()).unwrap();
        let point = info.subject_public_key.data.as_ref();
        let with = |parts: &[&[u8]], key: &[u8]| KeyKind::of_spki(&spki(&der::sequence(parts), key));
        let (ec, ed) = (der::oid(OID_EC), der::oid(OID_ED25519));
        assert_eq!(with(&[&ec, &der::oid(OID_P256)], point), Ok(KeyKind::P256));
        assert_eq!(with(&[&ed], &[7; 32]), Ok(KeyKind::Ed25519));
        let named_by_octets = with(&[&ec, &der::octet_string(OID_P256)], point);
        assert_eq!(named_by_octets, Err(KeyError::ExplicitParameters));
        assert!(with(&[&ec], point).is_err());
        assert!(with(&[&ed, &[5, 0]], &[7; 32]).is_err());
    }

    #[test]
    fn rsa_sizes_and_exponents_are_bounded_on_both_sides() {
        let modulus = |bits: usize| {
            let mut bytes = vec![0xff; bits / 8];
            bytes[0] = if bits.is_multiple_of(8) { 0x80 } else { 1 };
            bytes
        };
        let e = [1, 0, 1];
        assert_eq!(judge_rsa(&modulus(2048), &e), Ok(KeyKind::Rsa(2048)));
        assert_eq!(judge_rsa(&modulus(4096), &e), Ok(KeyKind::Rsa(4096)));
        assert_eq!(judge_rsa(&modulus(2040), &e), Err(KeyError::RsaSize(2040)));
        assert_eq!(judge_rsa(&modulus(4104), &e), Err(KeyError::RsaSize(4104)));
        assert_eq!(judge_rsa(&[], &e), Err(KeyError::RsaSize(0)));
        for bad in [&[3][..], &[1, 0, 0], &[1, 0, 2], &[], &[1, 0, 0, 0, 1], &[0; 9]] {
            assert_eq!(judge_rsa(&modulus(2048), bad), Err(KeyError::RsaExponent), "{bad:?}");
        }
    }
}
