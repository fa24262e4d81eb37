//! Tests of the whole path from evidence to caller. [`signer`] mints tokens, [`server`] serves key sets;
//! [`refusals`] has each reason alone, and here is what a good token gives.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::signer::{Signer, base64url};
use super::token::{ALGORITHMS, Algorithm};
use super::*;

mod refusals;
pub(super) mod server;
pub(super) mod signer;

pub(super) const ISSUER: &str = "https://kubernetes.default.svc";
const UID: &str = "9eebccd2-12bf-40a6-b262-65fe0487d453";
const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// What is signed; a test changes one thing.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) header: Value,
    pub(super) claims: Value,
}

/// A draft as kube-apiserver makes them, for the key `kid`.
pub(super) fn draft(algorithm: Algorithm, kid: &str) -> Draft {
    Draft {
        header: json!({ "alg": algorithm.name(), "kid": kid }),
        claims: json!({
            "aud": ["istio-ca"], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": ISSUER,
            "jti": "0d5b8a2e-0000-4000-8000-000000000000", "sub": "system:serviceaccount:shop:reviews",
            "kubernetes.io": {
                "namespace": "shop",
                "serviceaccount": { "name": "reviews", "uid": "sa-uid" },
                "pod": { "name": "reviews-v1.0", "uid": UID },
                "node": { "name": "node-1", "uid": "node-uid" },
            },
        }),
    }
}

type Change<'a> = &'a dyn Fn(&mut Draft);

impl Draft {
    fn input(&self) -> String {
        format!("{}.{}", base64url(self.header.to_string()), base64url(self.claims.to_string()))
    }

    /// Signed by `signer` with its own algorithm, whatever the header says.
    pub(super) fn sign(&self, signer: &Signer) -> String {
        sign_input(&self.input(), signer, signer.algorithm())
    }
}

fn sign_input(input: &str, signer: &Signer, algorithm: Algorithm) -> String {
    format!("{input}.{}", base64url(signer.sign(algorithm, input.as_bytes())))
}

/// An issuer with one key, `k1`, whose set is in a file.
struct World {
    signer: Signer,
    attestation: Attestation,
    _folder: TempDir,
}

pub(super) fn write_keys(path: &Path, keys: &[Value]) {
    fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

pub(super) fn issuer(name: &str, jwks: KeySource) -> TokenIssuer {
    TokenIssuer {
        issuer: name.to_owned(),
        jwks,
        audiences: vec!["istio-ca".to_owned(), "signet".to_owned()],
        api_server_audiences: vec![ISSUER.to_owned()],
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        namespaces: Some(vec!["shop".to_owned(), "bank".to_owned()]),
    }
}

impl World {
    fn new(signer: Signer) -> World {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        write_keys(&file, &[signer.jwk("k1")]);
        let attestation = Attestation::new(vec![issuer(ISSUER, KeySource::File(file))]).unwrap();
        World { signer, attestation, _folder: folder }
    }

    fn draft(&self) -> Draft {
        draft(self.signer.algorithm(), "k1")
    }

    /// What becomes of the good draft with one change.
    async fn changed(&self, change: impl FnOnce(&mut Draft)) -> Result<Caller, AttestationError> {
        let mut draft = self.draft();
        change(&mut draft);
        self.attest(&draft.sign(&self.signer)).await
    }

    async fn attest(&self, token: &str) -> Result<Caller, AttestationError> {
        self.attestation.attest(&evidence(token), now()).await
    }
}

pub(super) fn evidence(token: &str) -> Evidence {
    Evidence { token: Some(token.into()), instance: None, cluster: None, certificates: None }
}

#[tokio::test]
async fn a_good_token_says_who_sends_it() {
    let world = World::new(Signer::p256());
    let caller = world.attest(&world.draft().sign(&world.signer)).await.unwrap();
    assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!((caller.namespace.as_str(), caller.service_account.as_str()), ("shop", "reviews"));
    assert_eq!(caller.instance.as_deref(), Some(UID));
    assert_eq!(caller.expires, now() + Duration::from_secs(3600));
    let id = sha256(b"0d5b8a2e-0000-4000-8000-000000000000");
    let expected = EvidenceEntry {
        renewal: None,
        kind: "token".to_owned(),
        issuer: ISSUER.to_owned(),
        token_id_hash: id.to_vec(),
        pod_name: "reviews-v1.0".to_owned(),
        pod_uid: UID.to_owned(),
        node_name: "node-1".to_owned(),
        node_uid: "node-uid".to_owned(),
    };
    assert_eq!(caller.evidence, expected);
}

#[tokio::test]
async fn each_allowed_algorithm_verifies() {
    for (signer, names) in [
        (Signer::rsa().clone(), &["RS256", "RS384", "RS512"][..]),
        (Signer::p256(), &["ES256"]),
        (Signer::p384(), &["ES384"]),
        (Signer::ed25519(), &["EdDSA"]),
    ] {
        let world = World::new(signer);
        for (name, algorithm) in ALGORITHMS.iter().filter(|(name, _)| names.contains(name)) {
            let token = sign_input(&draft(*algorithm, "k1").input(), &world.signer, *algorithm);
            world.attest(&token).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[tokio::test]
async fn what_tokens_may_leave_out_or_say_otherwise_is_taken() {
    let world = World::new(Signer::p256());
    let kubernetes = |draft: &mut Draft, member: &str, value: Value| {
        draft.claims["kubernetes.io"][member] = value;
    };
    let changes: [(&str, Change<'_>); 12] = [
        ("aud as a text", &|draft| draft.claims["aud"] = json!("istio-ca")),
        ("another audience beside ours", &|draft| draft.claims["aud"] = json!(["other", "signet"])),
        ("no nbf", &|draft| draft.claims["nbf"] = json!(null)),
        ("no iat", &|draft| draft.claims["iat"] = json!(null)),
        ("fractions", &|draft| draft.claims["exp"] = json!(NOW as f64 + 0.5)),
        ("no kid, one key", &|draft| draft.header["kid"] = json!(null)),
        ("claims unknown to us", &|draft| draft.claims["email"] = json!({ "a": [1, 2] })),
        ("header members unknown to us", &|draft| draft.header["typ"] = json!("JWT")),
        ("no node", &|draft| kubernetes(draft, "node", json!(null))),
        ("a node without uid", &|draft| kubernetes(draft, "node", json!({ "name": "node-1" }))),
        ("another namespace of the list", &|draft| {
            draft.claims["sub"] = json!("system:serviceaccount:bank:reviews");
            kubernetes(draft, "namespace", json!("bank"));
        }),
        ("the longest names", &|draft| {
            let account = format!("{}.{}", "a".repeat(126), "b".repeat(126));
            draft.claims["sub"] = json!(format!("system:serviceaccount:shop:{account}"));
            kubernetes(draft, "serviceaccount", json!({ "name": account }));
        }),
    ];
    for (what, change) in changes {
        world.changed(change).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[tokio::test]
async fn times_are_held_against_ten_seconds_of_skew_on_both_sides() {
    let world = World::new(Signer::p256());
    for (claim, good, bad, reason) in [
        ("exp", NOW as f64 - 9.5, NOW as f64 - 10.0, "TOKEN_EXPIRED"),
        ("nbf", NOW as f64 + 10.0, NOW as f64 + 10.5, "TOKEN_NOT_YET_VALID"),
        ("iat", NOW as f64 + 10.0, NOW as f64 + 10.5, "TOKEN_NOT_YET_VALID"),
    ] {
        world.changed(|draft| draft.claims[claim] = json!(good)).await.unwrap();
        let error = world.changed(|draft| draft.claims[claim] = json!(bad)).await.unwrap_err();
        assert_eq!(error.reason().code(), reason, "{claim}");
    }
    // No lifetime is too long, as long as a clock can tell it.
    let caller = world.changed(|draft| draft.claims["exp"] = json!(NOW + 1_000_000_000)).await.unwrap();
    assert_eq!(caller.expires, now() + Duration::from_secs(1_000_000_000));
}

#[tokio::test]
async fn the_instance_is_the_pod_s_and_else_what_the_agent_says_if_well_formed() {
    let world = World::new(Signer::p256());
    let instance = async |pod: Value, own: Option<&str>| {
        let mut draft = world.draft();
        draft.claims["kubernetes.io"]["pod"] = pod;
        let mut evidence = evidence(&draft.sign(&world.signer));
        evidence.instance = own.map(str::to_owned);
        world.attestation.attest(&evidence, now()).await.unwrap().instance
    };
    let pod = json!({ "name": "reviews", "uid": UID });
    assert_eq!(instance(pod, Some("own")).await.as_deref(), Some(UID));
    assert_eq!(instance(json!(null), None).await, None);
    let longest = "a".repeat(64);
    for good in ["own", "A.b_c-9", &longest] {
        assert_eq!(instance(json!(null), Some(good)).await.as_deref(), Some(good));
    }
    for bad in ["", "a b", "a/b", "ä", "a\n", &"a".repeat(65)] {
        assert_eq!(instance(json!(null), Some(bad)).await, None, "{bad:?}");
    }
}

#[tokio::test]
async fn a_cluster_s_name_is_kept_if_a_log_can_have_it() {
    let world = World::new(Signer::p256());
    let mut evidence = evidence(&world.draft().sign(&world.signer));
    for (sent, kept) in
        [("Kubernetes", true), ("cn-1_a/b", true), ("", false), ("a\nb", false), ("a b", false)]
    {
        evidence.cluster = Some(sent.to_owned());
        let cluster = world.attestation.attest(&evidence, now()).await.unwrap().cluster;
        assert_eq!(cluster.as_deref(), kept.then_some(sent));
    }
    evidence.cluster = Some("a".repeat(254));
    assert_eq!(world.attestation.attest(&evidence, now()).await.unwrap().cluster, None);
}

#[tokio::test]
async fn a_token_without_an_id_is_known_by_its_own_hash() {
    let world = World::new(Signer::p256());
    for none in [json!(null), json!("")] {
        let mut draft = world.draft();
        draft.claims["jti"] = none;
        let token = draft.sign(&world.signer);
        let hash = sha256(token.as_bytes());
        assert_eq!(world.attest(&token).await.unwrap().evidence.token_id_hash, hash);
    }
}

#[tokio::test]
async fn an_issuer_s_keys_trust_domain_and_namespaces_are_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let signers = [Signer::p256(), Signer::p256()];
    let names = ["https://one.example.org", "https://two.example.org"];
    // Both call their key k1; the second has k2 besides, and may vouch for every namespace.
    let other = Signer::p256();
    let sets = [vec![signers[0].jwk("k1")], vec![signers[1].jwk("k1"), other.jwk("k2")]];
    let issuers = (0..2).map(|n| {
        let file = folder.path().join(names[n].replace('/', "_"));
        write_keys(&file, &sets[n]);
        let mut issuer = issuer(names[n], KeySource::File(file));
        issuer.trust_domain = TrustDomain::parse(["one.test", "two.test"][n]).unwrap();
        issuer.namespaces = issuer.namespaces.filter(|_| n == 0);
        issuer
    });
    let attestation = Attestation::new(issuers.collect()).unwrap();
    let token = |issuer: &str, kid: &str, signer: &Signer| {
        let mut draft = draft(Algorithm::Es256, kid);
        draft.claims["iss"] = json!(issuer);
        draft.claims["sub"] = json!("system:serviceaccount:lab:reviews");
        draft.claims["kubernetes.io"]["namespace"] = json!("lab");
        evidence(&draft.sign(signer))
    };
    let attest = async |evidence: Evidence| attestation.attest(&evidence, now()).await;

    let caller = attest(token(names[1], "k1", &signers[1])).await.unwrap();
    assert_eq!(caller.identity.as_str(), "spiffe://two.test/ns/lab/sa/reviews");
    assert_eq!(
        attest(token(names[0], "k1", &signers[0])).await.unwrap_err().reason().code(),
        "TOKEN_NAMESPACE"
    );
    for (evidence, reason) in [
        (token(names[0], "k1", &signers[1]), "TOKEN_SIGNATURE"),
        (token(names[1], "k1", &signers[0]), "TOKEN_SIGNATURE"),
        (token(names[0], "k2", &other), "TOKEN_KEY_UNKNOWN"),
        (token("https://three.example.org", "k1", &signers[0]), "TOKEN_ISSUER"),
    ] {
        assert_eq!(attest(evidence).await.unwrap_err().reason().code(), reason);
    }
}

#[test]
fn faults_of_the_configuration_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let new = |names: &[&str]| {
        let issuers = names.iter().map(|name| issuer(name, KeySource::File(file.clone())));
        Attestation::new(issuers.collect())
    };
    let fault = || match new(&["a"]) {
        Err(AttestationSetupError::Keys { issuer, source }) => format!("{issuer}: {source}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(), format!("a: reading key set {}", file.display()));
    for bad in ["", r#"{"keys":[]}"#] {
        fs::write(&file, bad).unwrap();
        assert_eq!(fault(), format!("a: parsing key set {}", file.display()));
    }
    fs::write(&file, vec![b' '; 1024 * 1024 + 1]).unwrap();
    assert_eq!(fault(), format!("a: reading key set {}", file.display()));
    write_keys(&file, &[Signer::p256().jwk("k1")]);
    assert!(new(&["a", "b"]).is_ok());
    assert!(matches!(new(&["a", "a"]), Err(AttestationSetupError::DuplicateIssuer(name)) if name == "a"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// JSON of any shape, but with the names that we look for.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("system:serviceaccount:shop:reviews")),
        Just(json!("istio-ca")),
        Just(json!("shop")),
    ];
    let name = "exp|nbf|iat|aud|sub|jti|kubernetes\\.io|namespace|serviceaccount|pod|node|name|uid|iss|x";
    leaf.prop_recursive(4, 32, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[test]
fn no_bytes_panic_and_no_made_up_claims_pass() {
    let world = World::new(Signer::p256());
    let runtime = runtime();
    let refused = |token: &str| runtime.block_on(world.attest(token)).is_err();
    proptest!(|(text in ".{0,80}", parts in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..60)))| {
        prop_assert!(refused(&text));
        prop_assert!(refused(&parts.each_ref().map(base64url).join(".")));
        let signed = [base64url(world.draft().header.to_string()), base64url(&parts[0])].join(".");
        prop_assert!(refused(&sign_input(&signed, &world.signer, Algorithm::Es256)));
        let _ = KeySet::parse(&parts[0]);
    });
    let claims = "exp|nbf|iat|aud|sub|jti|kubernetes\\.io";
    proptest!(|(claim in claims, value in json_value(), all in json_value())| {
        let mut draft = world.draft();
        draft.claims[claim.as_str()] = value;
        if let Ok(caller) = runtime.block_on(world.attest(&draft.sign(&world.signer))) {
            prop_assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/reviews");
        }
        draft.claims = all;
        prop_assert!(refused(&draft.sign(&world.signer)));
    });
    proptest!(|(keys in prop::collection::vec(json_value(), 0..3))| {
        let _ = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
    });
}
