//! The trust watch and its acknowledgements, by a consumer that we did not write.

use rustix::process::Signal;
use serde_json::{Value, json};
use signet_proto::signet::trust::v1::trust_distribution_client::TrustDistributionClient;
use signet_proto::signet::trust::v1::{
    Acknowledgement, HeldRoot, Holding, Subscribers, Trust, WatchRequest, WatchResponse,
};
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Caller, reason};
use signet_tests::harness::http::get_json;
use signet_tests::harness::site::{IDENTITY, Site, token_issuer};
use signet_tests::harness::{PATIENCE, eventually, unix_now};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};

pub(crate) type Requests = mpsc::UnboundedSender<WatchRequest>;

pub(crate) async fn watch(
    caller: &Caller,
    token: Option<&str>,
) -> Result<(Requests, Streaming<WatchResponse>), Status> {
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let answers = TrustDistributionClient::new(caller.channel()).watch(request).await?;
    Ok((requests, answers.into_inner()))
}

pub(crate) async fn first(answers: &mut Streaming<WatchResponse>) -> Trust {
    let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap();
    answer.unwrap().unwrap().trust.unwrap()
}

fn facts(ca: &Ca) -> Value {
    get_json(&ca.admin, "/v1/consumers")
}

fn statement(trust: &Trust, holding: Holding) -> WatchRequest {
    let root = signet_certs::digest::sha256(&trust.bundles[0].roots[0]);
    let trust_domain = trust.bundles[0].trust_domain.clone();
    let acknowledgement = Acknowledgement {
        epoch: trust.epoch,
        sequence: trust.sequence,
        digest: trust.digest.clone(),
        roots: vec![HeldRoot { trust_domain, digest: root.to_vec(), holding: holding.into() }],
        serving_serial: vec![0x4a, 0xbc],
        subscribers: Some(Subscribers {
            connected: 2,
            acknowledged: 1,
            rejected: 1,
            unknown: 0,
            files_written: true,
        }),
        errors: vec!["no such file".to_owned()],
    };
    WatchRequest { acknowledgement: Some(acknowledgement) }
}

#[tokio::test]
async fn an_open_watch_does_not_hold_up_the_end_of_the_server() {
    let site = Site::default();
    let ca = site.ca(&[("drain", "1h")]).await;
    let caller = Caller::to(&site, &ca).await;
    let (_requests, mut answers) = watch(&caller, Some(&site.token("sleep"))).await.unwrap();
    first(&mut answers).await;
    ca.process.signal(Signal::TERM);
    // Clean, and long before the time to drain is over.
    let end = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap();
    assert!(matches!(end, Ok(None)), "{end:?}");
    let (status, log) = ca.process.ended().await;
    assert!(status.success() && log.iter().all(|line| !line.text.contains("still in flight")), "{log:?}");
}

#[tokio::test]
async fn the_first_answer_comes_at_once_and_is_what_certificates_are_answered_with() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let (_requests, mut answers) = watch(&caller, Some(&site.token("sleep"))).await.unwrap();
    let trust = first(&mut answers).await;
    let answer = caller.ask(site.ask()).await.unwrap();
    let header = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(trust.epoch.to_string(), header("x-signet-trust-epoch"));
    assert_eq!(trust.sequence.to_string(), header("x-signet-trust-sequence"));
    let digest: String = trust.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, header("x-signet-trust-digest"));
    let [bundle] = &trust.bundles[..] else { panic!("{trust:?}") };
    assert_eq!(bundle.trust_domain, "cluster.local");
    let roots: Vec<_> =
        site.certificates("root/root-cert.pem").iter().map(|root| root.der().to_vec()).collect();
    assert_eq!(bundle.roots, roots);
}

#[tokio::test]
async fn whoever_is_not_believed_watches_nothing() {
    let site = Site::default();
    let ca = site.ca(&[("watches", "1")]).await;
    let caller = Caller::to(&site, &ca).await;
    for (token, expected) in [(None, "TOKEN_MISSING"), (Some("garbage"), "TOKEN_MALFORMED")] {
        let status = watch(&caller, token).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, expected));
        assert_eq!(status.message(), "request authenticate failure");
        let refused = |line: &signet_tests::harness::process::Line| line.json["reason"] == expected;
        let line = ca.process.line_from(0, expected, refused).await;
        assert_eq!(line.message(), "trust watch refused");
    }
    let token = site.token("sleep");
    let (_requests, mut answers) = watch(&caller, Some(&token)).await.unwrap();
    first(&mut answers).await;
    let status = watch(&caller, Some(&token)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn what_a_consumer_states_is_kept_under_its_evidence_replaced_and_survives_a_restart() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let (requests, mut answers) = watch(&caller, Some(&site.token("sleep"))).await.unwrap();
    let trust = first(&mut answers).await;
    for (holding, text) in
        [(Holding::Held, "held"), (Holding::NotHeld, "not held"), (Holding::Unknown, "unknown")]
    {
        requests.send(statement(&trust, holding)).unwrap();
        let kept = async || (facts(&ca)[0]["roots"][0]["holding"] == text).then_some(());
        eventually("the statement is kept", kept).await;
    }
    let fact = facts(&ca)[0].clone();
    let uid = &site.draft().claims["kubernetes.io"]["pod"]["uid"];
    assert_eq!((&fact["identity"], &fact["instance"]), (&IDENTITY.into(), uid));
    assert_eq!((&fact["epoch"], &fact["sequence"]), (&trust.epoch.into(), &trust.sequence.into()));
    assert_eq!(fact["serving_serial"], "4abc");
    let subscribers =
        json!({ "connected": 2, "acknowledged": 1, "rejected": 1, "unknown": 0, "files_written": true });
    assert_eq!((&fact["subscribers"], &fact["errors"]), (&subscribers, &json!(["no such file"])));

    ca.process.terminated().await;
    let ca = site.ca(&[]).await;
    assert_eq!(facts(&ca), json!([fact]));
}

#[tokio::test]
async fn a_watch_ends_with_the_token_that_opened_it() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let mut draft = site.draft();
    draft.claims["exp"] = json!(unix_now() + 2);
    let token = token_issuer().sign(&draft).unwrap();
    let (_requests, mut answers) = watch(&caller, Some(&token)).await.unwrap();
    first(&mut answers).await;
    let end = tokio::time::timeout(PATIENCE, answers.message()).await.expect("the stream ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    assert!(unix_now() >= draft.claims["exp"].as_i64().unwrap(), "not before the token");
    caller.ask(site.ask()).await.unwrap();
}
