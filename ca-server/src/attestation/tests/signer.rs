//! Keys that sign tokens, of every kind that we verify.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as AwsRsaKeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use serde_json::{Value, json};

use crate::attestation::token::Algorithm;

/// A token issuer's private key.
#[derive(Clone)]
pub(in crate::attestation) enum Signer {
    Rsa { key: Arc<RsaKeyPair>, spki: Arc<[u8]> },
    Ecdsa { key: Arc<EcdsaKeyPair>, algorithm: Algorithm },
    Ed25519(Arc<Ed25519KeyPair>),
}

pub(in crate::attestation) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// One RSA key for all tests: making one is slow.
    pub(in crate::attestation) fn rsa() -> &'static Signer {
        static KEY: LazyLock<Signer> = LazyLock::new(|| {
            let key = AwsRsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(aws_lc_rs::signature::KeyPair::public_key(&key));
            Signer::Rsa {
                key: Arc::new(RsaKeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()),
                spki: spki.unwrap().as_ref().into(),
            }
        });
        &KEY
    }

    pub(in crate::attestation) fn p256() -> Signer {
        Signer::ecdsa(Algorithm::Es256)
    }

    pub(in crate::attestation) fn p384() -> Signer {
        Signer::ecdsa(Algorithm::Es384)
    }

    fn ecdsa(algorithm: Algorithm) -> Signer {
        let kind = match algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            _ => &ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap();
        Signer::Ecdsa { key: Arc::new(key), algorithm }
    }

    pub(in crate::attestation) fn ed25519() -> Signer {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Arc::new(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()))
    }

    /// What it signs with by default.
    pub(in crate::attestation) fn algorithm(&self) -> Algorithm {
        match self {
            Signer::Rsa { .. } => Algorithm::Rs256,
            Signer::Ecdsa { algorithm, .. } => *algorithm,
            Signer::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// The public key; DER of a SubjectPublicKeyInfo, of RSA keys only.
    pub(in crate::attestation) fn spki(&self) -> &[u8] {
        match self {
            Signer::Rsa { spki, .. } => spki,
            _ => panic!("no test needs it"),
        }
    }

    /// The public key for a key set, without `alg`.
    pub(in crate::attestation) fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Signer::Rsa { key, .. } => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": base64url(public.n), "e": base64url(public.e) })
            }
            Signer::Ecdsa { key, algorithm } => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
                let curve = if *algorithm == Algorithm::Es256 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
            }
            Signer::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key()) })
            }
        };
        jwk["use"] = json!("sig");
        jwk["kid"] = json!(kid);
        jwk
    }

    /// A signature; `algorithm` counts for RSA only, the other kinds of key have one each.
    pub(in crate::attestation) fn sign(&self, algorithm: Algorithm, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Rsa { key, .. } => {
                let padding: &dyn ring::signature::RsaEncoding = match algorithm {
                    Algorithm::Rs384 => &RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, input, &mut signature).unwrap();
                signature
            }
            Signer::Ecdsa { key, .. } => key.sign(&random, input).unwrap().as_ref().to_vec(),
            Signer::Ed25519(key) => key.sign(input).as_ref().to_vec(),
        }
    }
}
