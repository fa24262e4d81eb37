//! Names for the kinds of keys that are not allowed, so that a refusal says what was found.

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::x509::AlgorithmIdentifier;

use super::{KeyError, OID_EC};

/// Curves and algorithms that people bring, by OID.
const KNOWN: [(&str, &str); 14] = [
    ("1.2.840.10045.3.1.1", "an EC key on P-192"),
    ("1.3.132.0.33", "an EC key on P-224"),
    ("1.3.132.0.35", "an EC key on P-521"),
    ("1.3.132.0.10", "an EC key on secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "an EC key on brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "an EC key on brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "an EC key on brainpoolP512r1"),
    ("1.2.156.10197.1.301", "an EC key on SM2"),
    ("1.3.101.113", "an Ed448 key"),
    ("1.3.101.110", "an X25519 key, which cannot sign"),
    ("1.3.101.111", "an X448 key, which cannot sign"),
    ("1.2.840.10040.4.1", "a DSA key"),
    ("1.2.840.113549.1.3.1", "a Diffie-Hellman key, which cannot sign"),
    ("2.16.840.1.101.3.4.3.18", "an ML-DSA-65 key"),
];
const OID_PSS: &str = "1.2.840.113549.1.1.10";

/// The refusal of a key whose algorithm is not on the list.
pub(super) fn not_allowed(algorithm: &AlgorithmIdentifier<'_>) -> KeyError {
    let oid = algorithm.algorithm.to_id_string();
    if oid == OID_PSS {
        return KeyError::Pss;
    }
    if algorithm.algorithm.as_bytes() == OID_EC {
        return curve_not_allowed(algorithm.parameters.as_ref());
    }
    KeyError::Kind(known(&oid).unwrap_or_else(|| format!("an algorithm with OID {oid}")))
}

/// The refusal of an EC key by its parameters: a curve that is not on the list, or none that is named.
pub(super) fn curve_not_allowed(parameters: Option<&Any<'_>>) -> KeyError {
    let named = parameters.filter(|any| any.tag() == Tag::Oid).and_then(|any| any.clone().oid().ok());
    match named.map(|curve| curve.to_id_string()) {
        Some(curve) => KeyError::Kind(
            known(&curve).unwrap_or_else(|| format!("an EC key on the curve with OID {curve}")),
        ),
        None => KeyError::ExplicitParameters,
    }
}

fn known(oid: &str) -> Option<String> {
    KNOWN.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned())
}
