//! Tokens and the key sets that they are verified with.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use signet_certs::key::PrivateKey;
use signet_tests::fuzzing::{ISSUER, KEYS};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Bench, seed};

const NOW: u64 = 1_800_000_000;

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    json!({
        "aud": ["istio-ca"], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": ISSUER,
        "jti": "7a1b", "sub": "system:serviceaccount:default:reviews",
        "kubernetes.io": {
            "namespace": "default", "serviceaccount": { "name": "reviews", "uid": "u-1" },
            "pod": { "name": "reviews-1", "uid": "p-1" }, "node": { "name": "node-1", "uid": "n-1" },
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

pub(super) fn tokens(bench: &Bench) -> String {
    let header = r#"{"alg":"EdDSA","kid":"ed25519"}"#;
    for (name, claims) in [
        ("good", claims()),
        ("one-audience", with(|claims| claims["aud"] = json!("istio-ca"))),
        ("both-audiences", with(|claims| claims["aud"] = json!(["istio-ca", ISSUER]))),
        ("no-audience", with(|claims| claims["aud"] = json!(null))),
        ("ended", with(|claims| claims["exp"] = json!(NOW - 11))),
        ("fractions", with(|claims| claims["exp"] = json!(1.8e9))),
        ("endless", with(|claims| claims["exp"] = json!(1e300))),
        ("not-yet", with(|claims| claims["nbf"] = json!(NOW + 11))),
        ("another-issuer", with(|claims| claims["iss"] = json!("https://other"))),
        ("no-service-account", with(|claims| claims["sub"] = json!("admin"))),
        ("claims-differ", with(|claims| claims["kubernetes.io"]["namespace"] = json!("other"))),
        (
            "dots-in-names",
            with(|claims| {
                claims["sub"] = json!("system:serviceaccount:default:a.b-c.d");
                claims["kubernetes.io"]["serviceaccount"]["name"] = json!("a.b-c.d");
            }),
        ),
        ("no-pod", with(|claims| claims["kubernetes.io"]["pod"] = json!(null))),
        ("odd-uid", with(|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("a b\n"))),
    ] {
        seed("token", &format!("to-sign-{name}"), format!("{header}\n{claims}"));
    }
    seed(
        "token",
        "to-sign-twice",
        format!("{header}\n{}", claims().to_string().replacen('{', "{\"exp\":1,", 1)),
    );
    for (name, header) in [
        ("none", r#"{"alg":"none"}"#),
        ("critical", r#"{"alg":"EdDSA","kid":"ed25519","crit":[]}"#),
        ("no-key-id", r#"{"alg":"EdDSA"}"#),
        ("key-of-another-kind", r#"{"alg":"EdDSA","kid":"p-256"}"#),
        ("symmetric", r#"{"alg":"HS256","kid":"ed25519"}"#),
    ] {
        seed("token", &format!("to-sign-{name}"), format!("{header}\n{}", claims()));
    }
    let mut keys = vec![json!({
        "kty": "OKP", "crv": "Ed25519", "kid": "ed25519", "use": "sig",
        "x": base64url(Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap().public_key()),
    })];
    let whole = |name: &str, algorithm: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let header = json!({ "alg": algorithm, "kid": name }).to_string();
        let input = format!("{}.{}", base64url(header), base64url(claims().to_string()));
        seed("token", &format!("signed-{name}"), format!("{input}.{}", base64url(sign(input.as_bytes()))));
    };
    let rsa = PrivateKey::from_pem(&bench.read("rsa-2048")).unwrap();
    let (_, info) = SubjectPublicKeyInfo::from_der(rsa.spki()).unwrap();
    let Ok(PublicKey::RSA(public)) = info.parsed() else { panic!("an RSA key") };
    let n = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
    keys.push(json!({ "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": base64url(n), "e": "AQAB" }));
    whole("rsa", "RS256", &|input| rsa.sign(input).unwrap());
    for (name, curve, algorithm, kind) in [
        ("p-256", "P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("p-384", "P-384", "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let pem = PrivateKey::from_pem(&bench.read(name)).unwrap().to_pkcs8_pem();
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(kind, der.secret_pkcs8_der(), &random).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
        keys.push(json!({ "kty": "EC", "crv": curve, "kid": name, "x": base64url(x), "y": base64url(y) }));
        whole(name, algorithm, &|input| key.sign(&random, input).unwrap().as_ref().to_vec());
    }
    serde_json::to_string_pretty(&json!({ "keys": keys })).unwrap() + "\n"
}

pub(super) fn key_sets() {
    seed("jwks", "all-kinds", KEYS);
    let stranger = base64url(Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap().public_key());
    let okp = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": stranger });
    for (name, keys) in [
        ("stranger", json!([okp])),
        (
            "stranger-for-another-algorithm",
            json!([{ "kty": "OKP", "crv": "Ed25519", "alg": "ES256", "x": stranger }]),
        ),
        ("same-id-twice", json!([okp, okp])),
        (
            "without-id",
            json!([{ "kty": "OKP", "crv": "Ed25519", "x": stranger, "use": "sig", "key_ops": ["verify"] }]),
        ),
        ("symmetric", json!([{ "kty": "oct", "k": "c2VjcmV0", "kid": "s" }])),
        ("no-keys", json!([])),
        ("no-objects", json!([1, "a", null, ["OKP"]])),
        ("short", json!([{ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }])),
        (
            "rsa-exponents",
            json!([{ "kty": "RSA", "n": base64url([0xff; 256]), "e": "Aw" },
            { "kty": "RSA", "n": base64url([0x00; 300]), "e": "AQAB" },
            { "kty": "RSA", "n": base64url([0xff; 256]), "e": "AAAAAQAB" }]),
        ),
        (
            "other-use",
            json!([{ "kty": "OKP", "crv": "Ed25519", "x": stranger, "use": "enc" }, { "kty": "OKP", "crv": "X25519", "x": stranger }]),
        ),
    ] {
        seed("jwks", name, json!({ "keys": keys, "other": 1 }).to_string());
    }
}
