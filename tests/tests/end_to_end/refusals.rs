//! Callers that are not believed. Outside each gets Istio's opaque message with our reason code; inside
//! stands the exact cause under the same code; nothing secret is in either, and nobody else is disturbed.

use serde_json::{Value, json};
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Ask, Caller, reason};
use signet_tests::harness::site::{ISSUER, Site, token_issuer};
use signet_tests::harness::unix_now;
use signet_tests::token_issuer::{Algorithm, Draft, TokenIssuer};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A CA that is asked for what it must refuse.
pub(crate) struct Refuser {
    pub(crate) site: Site,
    pub(crate) ca: Ca,
    pub(crate) caller: Caller,
    refused: usize,
}

/// What an answer and the log must say.
pub(crate) struct Expected<'a> {
    pub(crate) code: Code,
    pub(crate) reason: &'a str,
    /// How the message begins.
    pub(crate) message: &'a str,
    /// What the cause in the log contains.
    pub(crate) cause: &'a str,
}

impl Refuser {
    pub(crate) async fn new() -> Self {
        let site = Site::default();
        let ca = site.ca(&[]).await;
        let caller = Caller::to(&site, &ca).await;
        Self { site, ca, caller, refused: 0 }
    }

    /// Asks, holds answer and log against `expected`, then asks for something good.
    pub(crate) async fn refuses(&mut self, what: &str, ask: Ask, expected: &Expected<'_>) -> Status {
        let seen = self.ca.process.log().len();
        let secret = ask.token.clone();
        let status = self.caller.ask(ask).await.err().unwrap_or_else(|| panic!("{what}: it was answered"));
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (expected.code, expected.reason),
            "{what}: {status}"
        );
        assert!(status.message().starts_with(expected.message), "{what}: {}", status.message());
        let wanted = |line: &signet_tests::harness::process::Line| line.message() == "certificate refused";
        let line = self.ca.process.line_from(seen, what, wanted).await;
        assert_eq!(line.json["reason"], expected.reason, "{what}");
        let cause = line.json["cause"].as_str().unwrap();
        assert!(cause.contains(expected.cause), "{what}: {cause}");
        self.refused += 1;
        self.keeps(secret.as_deref());
        let good = self.caller.ask(self.site.ask()).await;
        assert!(good.is_ok(), "after {what}: {good:?}");
        status
    }

    /// No part of the token that proves anything is in the log.
    fn keeps(&self, token: Option<&str>) {
        let parts = token.into_iter().flat_map(|token| token.split('.').skip(1));
        for part in parts.filter(|part| part.len() > 20) {
            let told = self.ca.process.log().into_iter().find(|line| line.text.contains(part));
            assert!(told.is_none(), "a token in the log: {told:?}");
        }
    }
}

fn expected<'a>(reason: &'a str, cause: &'a str) -> Expected<'a> {
    Expected { code: Code::Unauthenticated, reason, message: "request authenticate failure", cause }
}

fn signed(draft: &Draft) -> Option<String> {
    Some(token_issuer().sign(draft).unwrap())
}

#[tokio::test]
async fn case_2_and_9_a_token_that_is_absent_damaged_or_of_another_time_is_refused() {
    let mut refuser = Refuser::new().await;
    let site = Site::default();
    let good = site.draft();
    let with = |claim: &str, value: Value| {
        let mut draft = good.clone();
        draft.claims[claim] = value;
        signed(&draft)
    };
    let mut tampered = signed(&good).unwrap();
    let last = if tampered.pop() == Some('A') { 'Q' } else { 'A' };
    tampered.push(last);
    let now = unix_now();
    let long = format!("{}.{}.{}", "a".repeat(6000), "b".repeat(6000), "c".repeat(6000));
    let cases = [
        ("no token", None, "TOKEN_MISSING", "found none"),
        ("not a token", Some("garbage".to_owned()), "TOKEN_MALFORMED", "three parts"),
        ("not base64", Some("a.!.c".to_owned()), "TOKEN_MALFORMED", "reading the token"),
        ("too large", Some(long), "TOKEN_TOO_LARGE", "at most 16384 bytes"),
        ("expired", with("exp", json!(now - 60)), "TOKEN_EXPIRED", "the token ended at"),
        ("no end", with("exp", Value::Null), "TOKEN_MALFORMED", "no exp"),
        ("early", with("nbf", json!(now + 600)), "TOKEN_NOT_YET_VALID", "nbf"),
        ("of the future", with("iat", json!(now + 600)), "TOKEN_NOT_YET_VALID", "iat"),
        ("changed", Some(tampered), "TOKEN_SIGNATURE", "does not verify"),
    ];
    for (what, token, reason, cause) in cases {
        let ask = Ask { token, ..refuser.site.ask() };
        let status = refuser.refuses(what, ask, &expected(reason, cause)).await;
        assert_eq!(status.message(), "request authenticate failure", "{what}");
    }
    assert_eq!(refuser.refused, 9);
}

#[tokio::test]
async fn case_5_and_9_a_token_for_others_or_of_others_is_refused_and_what_to_mend_is_said() {
    let mut refuser = Refuser::new().await;
    let good = refuser.site.draft();
    let with = |claim: &str, value: Value| {
        let mut draft = good.clone();
        draft.claims[claim] = value;
        signed(&draft)
    };
    let cases = [
        ("no audience", with("aud", json!([])), "TOKEN_AUDIENCE"),
        ("another audience", with("aud", json!(["vault"])), "TOKEN_AUDIENCE"),
        ("the API server's", with("aud", json!([ISSUER])), "TOKEN_API_SERVER_AUDIENCE"),
        (
            "the API server's beside ours",
            with("aud", json!(["istio-ca", ISSUER])),
            "TOKEN_API_SERVER_AUDIENCE",
        ),
    ];
    for (what, token, reason) in cases {
        let ask = Ask { token, ..refuser.site.ask() };
        let status = refuser.refuses(what, ask, &expected(reason, "expected")).await;
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["audience"], "istio-ca", "{what}");
        assert_eq!(info.metadata.len(), 1, "{what}: what was presented stays inside: {info:?}");
    }
    let token = with("iss", json!("https://elsewhere"));
    let ask = Ask { token, ..refuser.site.ask() };
    let status = refuser.refuses("another issuer", ask, &expected("TOKEN_ISSUER", "https://elsewhere")).await;
    assert_eq!(status.get_details_error_info().unwrap().metadata["issuer"], ISSUER);
    assert!(!format!("{status:?}").contains("elsewhere"));
    // One overlap is enough.
    let token = with("aud", json!(["vault", "istio-ca"]));
    refuser.caller.ask(Ask { token, ..refuser.site.ask() }).await.unwrap();
}

#[tokio::test]
async fn case_9_a_token_by_another_key_or_algorithm_is_refused() {
    let mut refuser = Refuser::new().await;
    let good = refuser.site.draft();
    let stranger = TokenIssuer::generate(Algorithm::Es256).unwrap();
    let with = |key: &str, value: &str| {
        let mut draft = good.clone();
        draft.header[key] = json!(value);
        draft
    };
    let unnamed = {
        let mut draft = good.clone();
        draft.header = json!({ "alg": "ES256" });
        stranger.sign(&draft).unwrap()
    };
    let forged = {
        let mut draft = good.clone();
        draft.header = json!({ "alg": "ES256", "kid": token_issuer().key_id() });
        stranger.sign(&draft).unwrap()
    };
    let cases = [
        ("an unknown key", signed(&with("kid", "nobody")).unwrap(), "TOKEN_KEY_UNKNOWN", "nobody"),
        ("alg none", good.unsigned(), "TOKEN_ALGORITHM", "found none"),
        ("a MAC by the public key", token_issuer().sign_hs256(&good), "TOKEN_ALGORITHM", "HS256"),
        ("another algorithm's name", signed(&with("alg", "ES256")).unwrap(), "TOKEN_ALGORITHM", "ES256"),
        ("another hash's name", signed(&with("alg", "RS512")).unwrap(), "TOKEN_ALGORITHM", "RS512"),
        ("another key under a known name", forged, "TOKEN_ALGORITHM", "ES256"),
        ("another key without a name", unnamed, "TOKEN_ALGORITHM", "ES256"),
    ];
    for (what, token, reason, cause) in cases {
        let ask = refuser.site.ask_for(&token);
        refuser.refuses(what, ask, &expected(reason, cause)).await;
    }
}

#[tokio::test]
async fn case_3_and_7_claims_that_disagree_and_subjects_that_are_odd_are_refused() {
    let mut refuser = Refuser::new().await;
    let good = refuser.site.draft();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut draft = good.clone();
        change(&mut draft.claims);
        token_issuer().sign(&draft).unwrap()
    };
    let kubernetes = "kubernetes.io";
    let cases = [
        ("no kubernetes claim", change(&|claims| claims[kubernetes] = Value::Null), "has none"),
        (
            "another namespace",
            change(&|claims| claims[kubernetes]["namespace"] = json!("other")),
            "namespace",
        ),
        (
            "another account",
            change(&|claims| claims[kubernetes]["serviceaccount"]["name"] = json!("admin")),
            "serviceaccount.name",
        ),
        ("a pod without a uid", change(&|claims| claims[kubernetes]["pod"]["uid"] = json!("")), "uid"),
        ("a pod without a name", change(&|claims| claims[kubernetes]["pod"]["name"] = json!("")), "name"),
        ("a uid to break out", change(&|claims| claims[kubernetes]["pod"]["uid"] = json!("a\nb")), "uid"),
    ];
    for (what, token, cause) in cases {
        let ask = refuser.site.ask_for(&token);
        refuser.refuses(what, ask, &expected("TOKEN_CLAIMS", cause)).await;
    }
    for subject in [
        "",
        "sleep",
        "system:node:node-1",
        "system:serviceaccount:default",
        "system:serviceaccount:default:",
        "system:serviceaccount::sleep",
        "system:serviceaccount:default:sleep:more",
        "system:serviceaccount:default:SLEEP",
        "system:serviceaccount:default:sl/eep",
        "system:serviceaccount:..:sleep",
        "system:serviceaccount:default:sleep%2e",
        "system:serviceaccount:default:sle\u{e9}p",
        "system:serviceaccount:default:sleep\n",
    ] {
        let token = change(&|claims| claims["sub"] = json!(subject));
        let ask = refuser.site.ask_for(&token);
        refuser.refuses(subject, ask, &expected("TOKEN_SUBJECT", "expected the subject")).await;
    }
}

#[tokio::test]
async fn an_issuer_s_keys_that_cannot_be_had_are_trouble_of_ours() {
    let site = Site::default();
    // A port that was just free: nobody answers there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ca = site.ca(&[("jwks", &format!("http://{nobody}/keys"))]).await;
    let caller = Caller::to(&site, &ca).await;
    let status = caller.ask(site.ask()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "TOKEN_KEYS_UNAVAILABLE"));
    assert!(status.get_details_retry_info().is_some());
    let line = ca.process.message("certificate refused").await;
    assert_eq!(line.json["reason"], "TOKEN_KEYS_UNAVAILABLE");
}
