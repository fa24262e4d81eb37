//! A token's outer form: a JWS in compact serialization (RFC 7515, 7.1), taken apart and not yet believed.
//!
//! The header and the issuer are attacker's text until a key has verified the signature: they may select
//! (algorithm from an allow-list, key, issuer), nothing else. [`super::jwks`] verifies and hands out the
//! payload.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::{AttestationError, shown};

/// Longest token, in bytes. Projected tokens have about one KiB.
pub(super) const MAX_TOKEN: usize = 16 * 1024;

/// A signature algorithm that tokens may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    EdDsa,
}

/// The allow-list, by the names of RFC 7518 and RFC 8037. Whatever is not here is refused: `none`, and MACs,
/// whose "key" would be the public one.
pub(super) const ALGORITHMS: [(&str, Algorithm); 6] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    /// The algorithm of this name, if it is allowed.
    pub(super) fn named(name: &str) -> Option<Algorithm> {
        ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

/// A token taken apart. Nothing in it is verified.
pub(super) struct Jws<'t> {
    pub(super) algorithm: Algorithm,
    key_id: Option<String>,
    /// What the signature is over: header and payload as they were sent.
    pub(super) signing_input: &'t str,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

#[derive(Deserialize)]
struct Issuer {
    iss: Option<String>,
}

impl<'t> Jws<'t> {
    /// Takes `token` apart.
    pub(super) fn parse(token: &'t str) -> Result<Jws<'t>, AttestationError> {
        if token.len() > MAX_TOKEN {
            return Err(AttestationError::TooLarge(token.len()));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AttestationError::Malformed("expected three parts with dots between".to_owned()));
        };
        let signing_input = &token[..header.len() + 1 + payload.len()];
        let header: Header = object("header", &decode("header", header)?)?;
        // RFC 7515, 4.1.11: extensions that must be understood. We know none.
        if header.crit {
            return Err(AttestationError::Malformed("the header has crit".to_owned()));
        }
        let algorithm = Algorithm::named(&header.alg).ok_or_else(|| AttestationError::Algorithm {
            expected: ALGORITHMS.map(|(name, _)| name).join(", "),
            found: shown(&header.alg),
        })?;
        Ok(Jws {
            algorithm,
            key_id: header.kid,
            signing_input,
            payload: decode("payload", payload)?,
            signature: decode("signature", signature)?,
        })
    }

    /// The header's `kid`.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Who the token says made it: good for finding the keys that can tell, and for nothing else.
    pub(super) fn unverified_issuer(&self) -> Result<Option<String>, AttestationError> {
        Ok(object::<Issuer>("payload", &self.payload)?.iss)
    }
}

/// Strict base64url: no padding, no other characters, no stray bits at the end.
fn decode(part: &str, text: &str) -> Result<Vec<u8>, AttestationError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| AttestationError::Malformed(format!("the {part} is not base64url without padding")))
}

/// Reads one JSON object and nothing after it; `part` names it in the error.
pub(super) fn object<T: DeserializeOwned>(part: &str, json: &[u8]) -> Result<T, AttestationError> {
    serde_json::from_slice(json)
        .map(|Object(value)| value)
        // The cause may quote from the token: shown like all that comes from there.
        .map_err(|error| AttestationError::Malformed(format!("the {part}: {}", shown(&error.to_string()))))
}

/// A `T` that is written as a JSON object: derived structs would take an array of their fields as well.
/// Known members that come twice are refused by what serde derives.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// True for a member that is there, whatever its value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
