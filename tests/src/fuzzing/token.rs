//! Tokens: whole, or header and payload (two lines of JSON) that the issuer then signs.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, Ed25519KeyPair, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use signet_ca_server::attestation::{Caller, Evidence, KeySource, TokenIssuer};
use signet_ca_server::fuzzing::{Attestor, Jwks};
use signet_certs::spiffe_id::SpiffeId;

use super::{assert_printable, pki};

/// The issuer's public keys, one of each kind. The Ed25519 one has a seed of `5`s; the halves of the others
/// that signed the whole tokens of the corpus are gone.
pub const KEYS: &str = include_str!("keys.json");
/// Who issues the tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";

static ATTESTOR: LazyLock<Attestor> = LazyLock::new(|| Attestor {
    rules: TokenIssuer {
        issuer: ISSUER.to_owned(),
        jwks: KeySource::File("keys.json".into()),
        audiences: vec!["istio-ca".to_owned()],
        api_server_audiences: vec![ISSUER.to_owned()],
        trust_domain: pki::trust_domain(),
        namespaces: None,
    },
    keys: Jwks::parse(KEYS.as_bytes()).unwrap().0,
});

/// Who is believed has a token that one of the issuer's keys signed, for us and for now, and gets the identity
/// that its subject says.
pub fn token(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let token = match text.split_once('\n') {
        Some((header, payload)) => signed(header, payload),
        None => text.to_owned(),
    };
    let evidence = Evidence {
        certificates: None,
        token: Some(token.clone().into()),
        instance: Some("agent-1".to_owned()),
        cluster: Some("Kubernetes".to_owned()),
    };
    match ATTESTOR.attest(&evidence, pki::now()) {
        Ok(caller) => believed(&token, &caller),
        Err(error) => {
            let text = error.to_string();
            assert_printable(&text);
            // Parts of it may be shown, and what is shorter than a signature is no secret.
            assert!(text.len() < 4096 && (token.len() < 64 || !text.contains(&token)));
        }
    }
}

fn signed(header: &str, payload: &str) -> String {
    let key = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

fn believed(token: &str, caller: &Caller) {
    let parts: Vec<_> = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    let [header, payload, signature] = parts.as_slice() else { panic!("three parts") };
    let header: Value = serde_json::from_slice(header).unwrap();
    let claims: Value = serde_json::from_slice(payload).unwrap();
    let (input, _) = token.rsplit_once('.').unwrap();
    verify(&header, input.as_bytes(), signature);

    assert_eq!(claims["iss"], ISSUER);
    let audiences = match &claims["aud"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    assert!(audiences.contains(&"istio-ca".into()) && !audiences.contains(&ISSUER.into()));
    let now = pki::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(claims["exp"].as_f64().unwrap() + 10.0 > now);
    assert!(caller.expires + Duration::from_secs(11) > pki::now());
    let (namespace, account) = (&caller.namespace, &caller.service_account);
    assert_eq!(claims["sub"], format!("system:serviceaccount:{namespace}:{account}"));
    assert_eq!(claims["kubernetes.io"]["namespace"], namespace.as_str());
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    assert_eq!(SpiffeId::parse(&identity).as_ref(), Ok(&caller.identity));
    let evidence = &caller.evidence;
    for text in [&evidence.pod_name, &evidence.pod_uid, &evidence.node_name, &evidence.node_uid] {
        assert_printable(text);
        assert!(text.len() <= 253);
    }
}

/// By other code than the attestation's.
fn verify(header: &Value, input: &[u8], signature: &[u8]) {
    let keys: Value = serde_json::from_str(KEYS).unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    let bytes = |member: &str| URL_SAFE_NO_PAD.decode(key[member].as_str().unwrap()).unwrap();
    let algorithm = header["alg"].as_str().unwrap();
    let raw = |kind: &'static dyn signature::VerificationAlgorithm, public: Vec<u8>| {
        UnparsedPublicKey::new(kind, public).verify(input, signature)
    };
    let verified = match algorithm {
        "EdDSA" => raw(&signature::ED25519, bytes("x")),
        "ES256" => raw(&signature::ECDSA_P256_SHA256_FIXED, [vec![4], bytes("x"), bytes("y")].concat()),
        "ES384" => raw(&signature::ECDSA_P384_SHA384_FIXED, [vec![4], bytes("x"), bytes("y")].concat()),
        _ => {
            let kind = match algorithm {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                other => panic!("{other} is not allowed"),
            };
            RsaPublicKeyComponents { n: bytes("n"), e: bytes("e") }.verify(kind, input, signature)
        }
    };
    assert!(verified.is_ok(), "another look refuses the signature");
}
