//! Private keys from files: PKCS#8, PKCS#1 or SEC1 in PEM become the one form that the libraries take, and
//! what cannot be used is named before a library says only that it refuses.

use x509_parser::asn1_rs::{Any, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

use super::{KeyError, OID_EC, OID_ED25519, OID_P256, OID_P384, OID_RSA, judge_rsa, naming};
use crate::pem::Block;
use crate::{der, name, pem};

/// PKCS#8 as the libraries take it: no attributes, an EC key with its public part and full length.
pub(super) struct Clean {
    /// Contents octets of the algorithm's OID, or of the curve's for EC keys.
    pub(super) algorithm: &'static [u8],
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
}

/// The one private key of a PEM text.
pub(super) fn pem(text: &[u8]) -> Result<Clean, KeyError> {
    let blocks = pem::blocks(text).map_err(KeyError::Pem)?;
    let labels = pem::describe(&blocks);
    let (keys, others): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| block.label.ends_with("PRIVATE KEY"));
    let lines: Vec<_> = keys.iter().map(|key| key.line).collect();
    let mut keys =
        keys.into_iter().map(|Block { label, der, encrypted, .. }| (label, encrypted, Zeroizing::new(der)));
    let (Some((label, encrypted, der)), None) = (keys.next(), keys.next()) else {
        return Err(if lines.is_empty() { KeyError::Form(labels) } else { KeyError::Several(lines) });
    };
    match label.as_str() {
        _ if encrypted => Err(KeyError::Encrypted),
        "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
        "PRIVATE KEY" => pkcs8(&der),
        "RSA PRIVATE KEY" => rsa(&der),
        "RSA-PSS PRIVATE KEY" => Err(KeyError::Pss),
        "EC PRIVATE KEY" => {
            // Some tools name the curve beside the key alone.
            let beside = others.iter().find(|block| block.label == "EC PARAMETERS");
            sec1(&der, beside.and_then(|block| any(&block.der)).map(|(any, _)| any).as_ref())
        }
        _ => Err(KeyError::Form(name::escaped(&label))),
    }
}

/// PKCS#8 DER, with or without attributes.
pub(super) fn pkcs8(der: &[u8]) -> Result<Clean, KeyError> {
    let read = || {
        let (outer, _) = any(der)?;
        let (_version, rest) = any(outer.data)?;
        let (rest, algorithm) = AlgorithmIdentifier::from_der(rest).ok()?;
        Some((algorithm, any(rest)?.0))
    };
    let (algorithm, key) = read().ok_or(KeyError::Damaged("it is not PKCS#8".to_owned()))?;
    match algorithm.algorithm.as_bytes() {
        OID_RSA => rsa(key.data),
        OID_EC => sec1(key.data, algorithm.parameters.as_ref()),
        // Version 2 carries the public half behind the key, which is taken along.
        OID_ED25519 => Ok(Clean { algorithm: OID_ED25519, pkcs8: Zeroizing::new(der.to_vec()) }),
        _ => Err(naming::not_allowed(&algorithm)),
    }
}

/// PKCS#1: version, modulus, public exponent, and the secret rest.
fn rsa(pkcs1: &[u8]) -> Result<Clean, KeyError> {
    let read = || {
        let (outer, _) = any(pkcs1)?;
        let (_version, rest) = any(outer.data)?;
        let (modulus, rest) = any(rest)?;
        Some((modulus, any(rest)?.0))
    };
    let (modulus, exponent) = read().ok_or(KeyError::Damaged("it is not PKCS#1".to_owned()))?;
    judge_rsa(modulus.data, exponent.data)?;
    Ok(Clean { algorithm: OID_RSA, pkcs8: wrapped(&der::sequence(&[&der::oid(OID_RSA), &[5, 0]]), pkcs1) })
}

/// SEC1 (RFC 5915): version, private key, `[0]` the curve where it is not named `beside`, `[1]` the public
/// key.
fn sec1(sec1: &[u8], beside: Option<&Any<'_>>) -> Result<Clean, KeyError> {
    let read = || {
        let (outer, _) = any(sec1)?;
        let (_version, rest) = any(outer.data)?;
        any(rest)
    };
    let (secret, mut rest) = read().ok_or(KeyError::Damaged("it is not SEC1".to_owned()))?;
    let (mut within, mut point) = (None, None);
    while let Some((tagged, behind)) = any(rest) {
        match (tagged.tag().0, any(tagged.data)) {
            (0, Some((parameters, _))) => within = Some(parameters),
            // A bit string begins with the number of its unused bits.
            (1, Some((bits, _))) => point = bits.data.get(1..),
            _ => {}
        }
        rest = behind;
    }
    let parameters = within.as_ref().or(beside);
    let (curve, length) = match parameters.and_then(|any| any.clone().oid().ok()).as_ref().map(Oid::as_bytes)
    {
        Some(OID_P256) => (OID_P256, 32),
        Some(OID_P384) => (OID_P384, 48),
        _ if parameters.is_none() => return Err(KeyError::Damaged("it does not name its curve".to_owned())),
        _ => return Err(naming::curve_not_allowed(parameters)),
    };
    let point = point.filter(|point| point.len() == 1 + 2 * length && point[0] == 4);
    let point = point.ok_or(KeyError::NoPublicPart)?;
    // Some tools drop leading zeros, or keep one too many.
    let secret = &secret.data[secret.data.iter().take_while(|byte| **byte == 0).count()..];
    let missing = length.checked_sub(secret.len());
    let missing =
        missing.ok_or_else(|| KeyError::Damaged("it is longer than its curve allows".to_owned()))?;
    let padded = Zeroizing::new([&vec![0; missing][..], secret].concat());
    let secret = Zeroizing::new(der::octet_string(&padded));
    let public = der::context_constructed(1, &[&der::bit_string(point)]);
    let clean = Zeroizing::new(der::sequence(&[&der::unsigned(&[1]), &secret, &public]));
    let algorithm = der::sequence(&[&der::oid(OID_EC), &der::oid(curve)]);
    Ok(Clean { algorithm: curve, pkcs8: wrapped(&algorithm, &clean) })
}

pub(super) fn wrapped(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(der::octet_string(key));
    Zeroizing::new(der::sequence(&[&der::unsigned(&[0]), algorithm, &key]))
}

/// One DER value and what stands behind it.
fn any(der: &[u8]) -> Option<(Any<'_>, &[u8])> {
    Any::from_der(der).ok().map(|(behind, any)| (any, behind))
}
