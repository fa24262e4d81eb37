//! Key sets of token issuers.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;
use signet_ca_server::fuzzing::Jwks;

use super::assert_printable;

/// A token that the key with this public half signed, under the key id `k`.
static STRANGER: LazyLock<(String, String)> = LazyLock::new(|| {
    let key = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"k"}"#),
        URL_SAFE_NO_PAD.encode("{}")
    );
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes())));
    (URL_SAFE_NO_PAD.encode(key.public_key()), token)
});

/// Every key is counted or left out with a reason, and a token verifies only with a key that is there.
pub fn jwks(data: &[u8]) {
    let (set, skipped) = match Jwks::parse(data) {
        Ok(parsed) => parsed,
        Err(what) => return assert_printable(&what),
    };
    // What is ignored may hold a broken escape, which a value cannot.
    let Ok(json) = serde_json::from_slice::<Value>(data) else { return };
    let keys = json["keys"].as_array().unwrap();
    assert!((1..=64).contains(&set.count()));
    assert_eq!(set.count() + skipped.len(), keys.len());
    skipped.iter().for_each(|text| assert_printable(text));
    let (public, token) = &*STRANGER;
    if set.verifies(token) {
        let is_it = |key: &Value| key["x"] == public.as_str() && key["kid"] == "k" && key["kty"] == "OKP";
        assert!(keys.iter().any(is_it), "a key that is not there verifies");
    }
}
