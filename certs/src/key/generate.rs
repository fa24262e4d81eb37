//! Making new keys: RSA by aws-lc-rs, since ring cannot, everything else by ring.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{self as ring_signature, EcdsaKeyPair, EcdsaSigningAlgorithm};
use thiserror::Error;
use zeroize::Zeroizing;

use super::read::wrapped;
use super::{KeyError, KeyKind, PrivateKey};
use crate::der;

/// A kind of key that is made here. RSA has three sizes and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKey {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 3072 bits.
    Rsa3072,
    /// RSA of 4096 bits.
    Rsa4096,
}

/// A text that names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected p256, p384, ed25519, rsa2048, rsa3072 or rsa4096")]
pub struct NewKeyError;

impl NewKey {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::P256, Self::P384, Self::Ed25519, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        })
    }
}

impl FromStr for NewKey {
    type Err = NewKeyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or(NewKeyError)
    }
}

impl PrivateKey {
    /// A new key of this kind. RSA of 4096 bits takes seconds.
    pub fn generate(kind: NewKey) -> Result<Self, KeyError> {
        Self::from_pkcs8(match kind {
            NewKey::P256 => ecdsa(&ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING)?,
            NewKey::P384 => ecdsa(&ring_signature::ECDSA_P384_SHA384_ASN1_SIGNING)?,
            NewKey::Ed25519 => ed25519()?,
            NewKey::Rsa2048 => rsa(KeySize::Rsa2048)?,
            NewKey::Rsa3072 => rsa(KeySize::Rsa3072)?,
            NewKey::Rsa4096 => rsa(KeySize::Rsa4096)?,
        })
    }
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let document =
        EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| KeyError::Random)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

/// In the first version of PKCS#8, with the seed alone (RFC 8410, 7): ring writes the second, which OpenSSL
/// does not read.
fn ed25519() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(seed.as_mut()).map_err(|_| KeyError::Random)?;
    let seed = Zeroizing::new(der::octet_string(seed.as_ref()));
    Ok(wrapped(&KeyKind::Ed25519.algorithm(), &seed))
}

fn rsa(size: KeySize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let pair = aws_lc_rs::rsa::KeyPair::generate(size).map_err(|_| KeyError::Random)?;
    let document: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Random)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_kind_is_made_reads_back_and_signs() {
        for (new, kind) in [
            (NewKey::P256, KeyKind::P256),
            (NewKey::P384, KeyKind::P384),
            (NewKey::Ed25519, KeyKind::Ed25519),
            (NewKey::Rsa2048, KeyKind::Rsa(2048)),
            (NewKey::Rsa3072, KeyKind::Rsa(3072)),
            (NewKey::Rsa4096, KeyKind::Rsa(4096)),
        ] {
            let key = PrivateKey::generate(new).unwrap();
            assert_eq!((key.kind(), KeyKind::of_spki(key.spki())), (kind, Ok(kind)), "{new}");
            let again = PrivateKey::from_pem(key.to_pkcs8_pem().as_bytes()).unwrap();
            assert_eq!(again.spki(), key.spki(), "{new}");
            assert!(!again.sign(b"message").unwrap().is_empty(), "{new}");
        }
        let [one, other] = [NewKey::Ed25519; 2].map(|kind| PrivateKey::generate(kind).unwrap());
        assert_ne!(one.spki(), other.spki());
    }

    #[test]
    fn kinds_are_known_by_their_names_and_no_others() {
        for kind in NewKey::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for bad in ["", "P256", "rsa", "rsa1024", "rsa8192", "p521", "4096"] {
            assert_eq!(bad.parse::<NewKey>(), Err(NewKeyError), "{bad}");
        }
    }
}
