//! Key sets (RFC 7517): which public keys an issuer has, and what each may verify.
//!
//! A key decides which algorithms it can be used with; a token's header only chooses among those. Keys that
//! cannot be used are left out and reported, so that one new kind of key in a set takes no other away.
//! Verifying is the only way to a [`VerifiedPayload`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::error::Unspecified;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;
use signet_certs::key::RsaPublicKey;

use super::error::{AttestationError, shown};
use super::token::{Algorithm, Jws, Object};
use super::verified::{self, Verified};

/// Most keys in a set; issuers that rotate have two or three.
const MAX_KEYS: usize = 64;

/// An issuer's keys; at least one.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    verified: Verified,
}

/// A public key with what it may be used for.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// Its `alg`: the only algorithm that it is for.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa(RsaPublicKey),
    P256(UnparsedPublicKey<Vec<u8>>),
    P384(UnparsedPublicKey<Vec<u8>>),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

/// A token's payload whose signature was verified.
pub(super) struct VerifiedPayload<'j>(&'j [u8]);

/// A key that was left out of a set, and why.
#[derive(Debug)]
pub(super) struct Skipped {
    /// Its `kid`, escaped and cut.
    pub(super) id: String,
    pub(super) why: String,
}

/// Why a text is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not a JSON object with a list `keys`. The reader's own words would repeat what it found, which may be a
    /// private key.
    #[error("expected a JSON object with a list \"keys\" (line {line}, column {column})")]
    Json {
        /// Where it is not.
        line: usize,
        /// Where it is not.
        column: usize,
    },
    /// Too many keys.
    #[error("expected at most {MAX_KEYS} keys, found {0}")]
    TooMany(usize),
    /// No key that can be used.
    #[error("no key that can be used{}", list(.0))]
    Empty(
        /// The others, and why not.
        Vec<String>,
    ),
}

fn list(skipped: &[String]) -> String {
    if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join("; ")) }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

/// The members that we read; `x5c`, private parts and others are ignored.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a key set; also answers which keys were left out.
    pub(super) fn parse(json: &[u8]) -> Result<(KeySet, Vec<Skipped>), JwksError> {
        let Object(RawSet { keys: raw }) = serde_json::from_slice(json)
            .map_err(|error| JwksError::Json { line: error.line(), column: error.column() })?;
        if raw.len() > MAX_KEYS {
            return Err(JwksError::TooMany(raw.len()));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(raw.len());
        let mut skipped = Vec::new();
        for raw in raw {
            let id = shown(raw["kid"].as_str().unwrap_or("(no kid)"));
            match Key::parse(raw) {
                // A token could mean either.
                Ok(key) if key.id.is_some() && keys.iter().any(|other| other.id == key.id) => {
                    skipped.push(Skipped { id, why: "an earlier key has this kid".to_owned() });
                }
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(Skipped { id, why }),
            }
        }
        if keys.is_empty() {
            return Err(JwksError::Empty(skipped.iter().map(Skipped::to_string).collect()));
        }
        Ok((KeySet { keys, verified: Verified::default() }, skipped))
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key that a token with this `kid` means; a token without one means the only key.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.keys.as_slice()) {
            (Some(_), keys) => keys.iter().find(|key| key.id.as_deref() == id),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// The payload of `jws`, if its key is here and verifies it; `issuer` names the set in errors.
    pub(super) fn verify<'j>(
        &self,
        jws: &'j Jws<'_>,
        issuer: &str,
    ) -> Result<VerifiedPayload<'j>, AttestationError> {
        let key_id = || jws.key_id().map(shown);
        let key = self
            .find(jws.key_id())
            .ok_or_else(|| AttestationError::KeyUnknown { issuer: issuer.to_owned(), key_id: key_id() })?;
        let digest = verified::digest(jws);
        if self.verified.has(&digest) {
            return Ok(VerifiedPayload(&jws.payload));
        }
        match key.verify(jws.algorithm, jws.signing_input.as_bytes(), &jws.signature) {
            None => Err(AttestationError::Algorithm {
                expected: format!(
                    "one that key {} of issuer {issuer:?} is for",
                    key_id().unwrap_or_default()
                ),
                found: jws.algorithm.name().to_owned(),
            }),
            Some(Err(Unspecified)) => {
                Err(AttestationError::Signature { issuer: issuer.to_owned(), key_id: key_id() })
            }
            Some(Ok(())) => {
                self.verified.keep(digest);
                Ok(VerifiedPayload(&jws.payload))
            }
        }
    }
}

impl<'j> VerifiedPayload<'j> {
    /// The bytes that the signature covers.
    pub(super) fn bytes(&self) -> &'j [u8] {
        self.0
    }
}

impl Key {
    fn parse(raw: Value) -> Result<Key, String> {
        if !raw.is_object() {
            return Err("expected a JSON object".to_owned());
        }
        let Object(raw): Object<RawKey> =
            serde_json::from_value(raw).map_err(|error| match error.to_string() {
                missing if missing.starts_with("missing field") => shown(&missing),
                _ => "a member is not of its type".to_owned(),
            })?;
        if raw.r#use.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("its use is not sig".to_owned());
        }
        if raw.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err("its key_ops have no verify".to_owned());
        }
        let material = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => Material::rsa(&number("n", raw.n)?, &number("e", raw.e)?)?,
            ("EC", Some("P-256")) => {
                Material::P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(raw.x, raw.y, 32)?))
            }
            ("EC", Some("P-384")) => {
                Material::P384(UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point(raw.x, raw.y, 48)?))
            }
            ("OKP", Some("Ed25519")) => {
                Material::Ed25519(UnparsedPublicKey::new(&ED25519, bytes("x", raw.x, 32)?))
            }
            (kind, curve) => {
                let curve = curve.map(|curve| format!(" {}", shown(curve))).unwrap_or_default();
                return Err(format!("keys of kind {}{curve} are not known here", shown(kind)));
            }
        };
        let only = match raw.alg.as_deref() {
            None => None,
            Some(name) => Some(
                Algorithm::named(name)
                    .filter(|algorithm| material.fits(*algorithm))
                    .ok_or_else(|| format!("its alg {} is not allowed for its kind", shown(name)))?,
            ),
        };
        Ok(Key { id: raw.kid, only, material })
    }

    /// Nothing if the key is not for this algorithm.
    fn verify(
        &self,
        algorithm: Algorithm,
        input: &[u8],
        signature: &[u8],
    ) -> Option<Result<(), Unspecified>> {
        if self.only.is_some_and(|only| only != algorithm) || !self.material.fits(algorithm) {
            return None;
        }
        Some(match &self.material {
            Material::Rsa(key) => {
                let hash_bits = match algorithm {
                    Algorithm::Rs384 => 384,
                    Algorithm::Rs512 => 512,
                    _ => 256,
                };
                if key.verify(hash_bits, input, signature) { Ok(()) } else { Err(Unspecified) }
            }
            Material::P256(key) | Material::P384(key) | Material::Ed25519(key) => {
                key.verify(input, signature)
            }
        })
    }
}

impl Material {
    fn rsa(n: &[u8], e: &[u8]) -> Result<Material, String> {
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(format!("expected an RSA modulus of 2048 to 8192 bits, found {bits}"));
        }
        // As everywhere in Signet. The smallest odd number of three bytes is 65537.
        if !(3..=4).contains(&e.len()) || e.last().is_some_and(|last| last % 2 == 0) {
            return Err("expected an odd RSA exponent of at least 65537 and at most 32 bits".to_owned());
        }
        RsaPublicKey::new(n, e).map(Material::Rsa).ok_or_else(|| "it is no RSA key".to_owned())
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Material::Rsa(_) => {
                matches!(algorithm, Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512)
            }
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.id, self.why)
    }
}

/// An uncompressed point of SEC 1 from its coordinates of `length` bytes each.
fn point(x: Option<String>, y: Option<String>, length: usize) -> Result<Vec<u8>, String> {
    let mut point = vec![4];
    point.extend(bytes("x", x, length)?);
    point.extend(bytes("y", y, length)?);
    Ok(point)
}

fn bytes(member: &str, value: Option<String>, length: usize) -> Result<Vec<u8>, String> {
    let bytes = decode(member, value)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(format!("expected {member} of {length} bytes, found {}", bytes.len()))
    }
}

/// A positive number, big-endian; some write leading zeros, which ring refuses.
fn number(member: &str, value: Option<String>) -> Result<Vec<u8>, String> {
    let bytes = decode(member, value)?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn decode(member: &str, value: Option<String>) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("it has no {member}"))?;
    URL_SAFE_NO_PAD.decode(value).map_err(|_| format!("its {member} is not base64url without padding"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::super::tests::signer::{Signer, base64url};
    use super::*;

    fn parse(keys: &[Value]) -> Result<(KeySet, Vec<Skipped>), JwksError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// Why this key alone makes no set.
    fn refusal(key: &Value) -> String {
        match parse(std::slice::from_ref(key)) {
            Err(JwksError::Empty(why)) => why.join(""),
            other => panic!("{key} gives {other:?}"),
        }
    }

    fn with(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    #[test]
    fn each_kind_of_key_is_read() {
        let keys = [Signer::rsa(), &Signer::p256(), &Signer::p384(), &Signer::ed25519()]
            .map(|signer| signer.jwk(signer.algorithm().name()));
        let (set, skipped) = parse(&keys).unwrap();
        assert_eq!((set.len(), skipped.len()), (4, 0));
        for name in ["RS256", "ES256", "ES384", "EdDSA"] {
            assert!(set.find(Some(name)).is_some(), "{name}");
        }
        assert!(set.find(Some("RS384")).is_none());
        assert!(set.find(None).is_none(), "one of four would be a guess");
    }

    #[test]
    fn a_key_that_cannot_be_used_is_left_out_with_its_reason() {
        let good = Signer::p256().jwk("good");
        let (ec, rsa) = (Signer::p256().jwk("bad"), Signer::rsa().jwk("bad"));
        let ed = Signer::ed25519().jwk("bad");
        for (bad, why) in [
            (json!({ "kty": "oct", "kid": "bad", "k": "c2VjcmV0" }), "kind oct are not known"),
            (json!({ "kid": "bad" }), "missing field `kty`"),
            (json!("bad"), "expected a JSON object"),
            (json!(["EC", "bad"]), "expected a JSON object"),
            (with(ec.clone(), "use", json!("enc")), "use is not sig"),
            (with(ec.clone(), "key_ops", json!(["sign"])), "no verify"),
            (with(ec.clone(), "crv", json!("P-521")), "kind EC P-521 are not known"),
            (with(ec.clone(), "crv", json!(null)), "kind EC are not known"),
            (with(ec.clone(), "crv", json!("P-384")), "expected x of 48 bytes, found 32"),
            (with(ec.clone(), "y", json!("AAAA")), "expected y of 32 bytes, found 3"),
            (with(ec.clone(), "x", json!("=")), "x is not base64url"),
            (with(ec.clone(), "x", json!(null)), "it has no x"),
            (with(ec.clone(), "alg", json!("RS256")), "alg RS256 is not allowed"),
            (with(rsa.clone(), "alg", json!("ES256")), "alg ES256 is not allowed"),
            (with(rsa.clone(), "alg", json!("PS256")), "alg PS256 is not allowed"),
            (with(ed.clone(), "x", json!("AAAA")), "expected x of 32 bytes, found 3"),
            (with(rsa.clone(), "n", json!(base64url([0x7f; 256]))), "found 2047"),
            (with(rsa.clone(), "n", json!(base64url([0xff; 1025]))), "found 8200"),
            (with(rsa.clone(), "n", json!("")), "found 0"),
            (with(rsa.clone(), "e", json!("Aw")), "exponent"),
            (with(rsa.clone(), "e", json!("AQAA")), "exponent"),
            (with(rsa.clone(), "e", json!("AQAAAAE")), "exponent"),
        ] {
            assert!(refusal(&bad).contains(why), "{bad}: {}", refusal(&bad));
            let (set, skipped) = parse(&[bad, good.clone()]).unwrap();
            assert!(set.find(Some("good")).is_some());
            assert_eq!((set.len(), skipped.len()), (1, 1));
        }
        // One thing changed from a good default: the default is good.
        for good in [ec, rsa, ed] {
            parse(&[good]).unwrap();
        }
    }

    #[test]
    fn leading_zeros_of_a_modulus_do_not_count() {
        let key = Signer::rsa().jwk("k");
        let n = URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap();
        let (set, _) = parse(&[with(key, "n", json!(base64url([&[0], &n[..]].concat())))]).unwrap();
        let input = b"header.payload";
        let signature = Signer::rsa().sign(Algorithm::Rs256, input);
        let key = set.find(Some("k")).unwrap();
        assert_eq!(key.verify(Algorithm::Rs256, input, &signature), Some(Ok(())));
    }

    #[test]
    fn a_second_key_of_the_same_id_is_left_out() {
        let (first, second) = (Signer::p256(), Signer::p256());
        let (set, skipped) = parse(&[first.jwk("k"), second.jwk("k")]).unwrap();
        assert_eq!(skipped[0].to_string(), "k: an earlier key has this kid");
        let verifies = |signer: &Signer| {
            let signature = signer.sign(Algorithm::Es256, b"x");
            set.find(Some("k")).unwrap().verify(Algorithm::Es256, b"x", &signature)
        };
        assert_eq!((verifies(&first), verifies(&second)), (Some(Ok(())), Some(Err(Unspecified))));
    }

    #[test]
    fn a_key_verifies_with_its_own_algorithm_only() {
        let (set, _) = parse(&[with(Signer::rsa().jwk("k"), "alg", json!("RS384"))]).unwrap();
        let signature = Signer::rsa().sign(Algorithm::Rs256, b"x");
        assert_eq!(set.find(None).unwrap().verify(Algorithm::Rs256, b"x", &signature), None);
        let signature = Signer::rsa().sign(Algorithm::Rs384, b"x");
        assert_eq!(set.find(None).unwrap().verify(Algorithm::Rs384, b"x", &signature), Some(Ok(())));
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in
            ["", "{}", "[]", r#"{"keys":{}}"#, r#"[[]]"#, r#"{"keys":[]} x"#, r#"{"keys":[],"keys":[]}"#]
        {
            assert!(matches!(KeySet::parse(text.as_bytes()), Err(JwksError::Json { .. })), "{text}");
        }
        assert_eq!(parse(&[]).unwrap_err().to_string(), "no key that can be used");
        let key = Signer::p256();
        let many: Vec<Value> = (0..=MAX_KEYS).map(|n| key.jwk(&n.to_string())).collect();
        assert!(matches!(parse(&many), Err(JwksError::TooMany(65))));
        assert_eq!(parse(&many[1..]).unwrap().0.len(), MAX_KEYS);
    }

    #[test]
    fn what_a_key_set_says_of_a_private_key_is_not_repeated() {
        for text in [
            r#"{"keys": "5ec7e7"}"#,
            r#"{"keys": ["5ec7e7"]}"#,
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "d": "5ec7e7"}]}"#,
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": ["5ec7e7"], "y": "5ec7e7"}]}"#,
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "5ec7e7", "y": "5ec7e7"}]}"#,
        ] {
            let error = KeySet::parse(text.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("5ec7e7"), "{error:?}");
        }
    }
}
