//! CA files that change while the server runs: what is safe is taken under load, everything else is refused
//! with its reason, and the good state stays, across restarts too.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use signet_tests::harness::ca::{Ca, done};
use signet_tests::harness::caller::{Answer, Caller};
use signet_tests::harness::eventually;
use signet_tests::harness::http::{get, metric};
use signet_tests::harness::process::Process;
use signet_tests::harness::site::Site;
use signet_tests::load::reload::{Way, measure};

/// Every answer is whole and of one issuer, however the files are changed. How soon the new issuer is at work
/// is a figure of `make bench`.
async fn reloaded_under_load(way: Way) {
    let reloaded = measure(way, 1_000, Duration::from_millis(3)).await.unwrap();
    assert_eq!((reloaded.answers, reloaded.failed, reloaded.mixed), (1_000, 0, 0), "{reloaded:?}");
    assert!(reloaded.changes >= 3, "{reloaded:?}");
}

#[tokio::test]
async fn case_31_files_that_are_written_over_under_load() {
    reloaded_under_load(Way::Overwrite).await;
}

#[tokio::test]
async fn case_31_a_link_that_is_swapped_under_load() {
    reloaded_under_load(Way::Swap).await;
}

#[tokio::test]
async fn case_31_files_that_are_copied_slowly_under_load() {
    reloaded_under_load(Way::SlowCopy).await;
}

/// Puts the four files of one folder in place of another's.
fn put(site: &Site, from: &str) {
    for file in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"] {
        fs::copy(site.path(from).join(file), site.path("cacerts").join(file)).unwrap();
    }
}

/// The wish that `authority list` shows, once it is refused for this.
pub(crate) async fn refused(ca: &Ca, code: &str) -> Value {
    eventually(&format!("refused: {code}"), async || {
        let list = ca.json(&["authority", "list"]);
        let wish = list.as_array()?.iter().find(|row| row["state"] == "refused")?.clone();
        let codes = wish["reasons"].as_array()?;
        codes.iter().any(|reason| reason["code"] == code).then_some(wish.clone())
    })
    .await
}

pub(crate) async fn nothing_refused(ca: &Ca) {
    eventually("nothing is refused", async || {
        metric(ca.monitoring, "signet_cacerts_refused").filter(|n| *n == 0.0)
    })
    .await;
}

async fn issued(site: &Site, ca: &Ca) -> Answer {
    Caller::to(site, ca).await.ask(site.ask()).await.unwrap()
}

fn issuer_of(answer: &Answer) -> Vec<u8> {
    signet_certs::chain::Certificate::from_pem(answer.chain[1].as_bytes()).unwrap().key_id()
}

fn key_id(site: &Site, folder: &str) -> Vec<u8> {
    site.certificates(&format!("{folder}/ca-cert.pem")).remove(0).key_id()
}

#[tokio::test]
async fn a_new_intermediate_signs_is_recorded_and_is_active_after_a_restart() {
    let site = Site::default();
    site.intermediate("next", "3650d");
    let ca = site.ca(&[]).await;
    assert_eq!(issuer_of(&issued(&site, &ca).await), key_id(&site, "cacerts"));
    put(&site, "next");
    ca.process.message("CA files taken").await;
    assert_eq!(issuer_of(&issued(&site, &ca).await), key_id(&site, "next"));
    assert_eq!(metric(ca.monitoring, "signet_cacerts_reloads_total{reason=\"TAKEN\"}"), Some(1.0));
    let list = ca.json(&["authority", "list"]);
    let states: Vec<_> = list.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert!(states.len() == 2 && states.contains(&"active") && states.contains(&"old"), "{list}");
    let acts = ca.records(&["--kind", "act"]);
    assert_eq!(acts.len(), 2, "{acts:?}");
    // Nothing of it hangs on the folder any more.
    ca.process.terminated().await;
    fs::remove_dir_all(site.path("cacerts")).unwrap();
    let ca = site.ca(&[]).await;
    assert_eq!(issuer_of(&issued(&site, &ca).await), key_id(&site, "next"));
    refused(&ca, "EMPTY").await;
    assert_eq!(ca.records(&["--kind", "act"]).len(), 2, "a restart is no act");
}

#[tokio::test]
async fn one_root_more_is_taken_and_reaches_who_asks() {
    let (site, other) = (Site::default(), Site::default());
    let ca = site.ca(&[]).await;
    let before = issued(&site, &ca).await;
    let both = site.read("root/root-cert.pem") + &other.read("root/root-cert.pem");
    fs::write(site.path("cacerts/root-cert.pem"), both).unwrap();
    ca.process.message("CA files taken").await;
    let after = issued(&site, &ca).await;
    let roots = |answer: &Answer| answer.chain.last().unwrap().matches("BEGIN CERTIFICATE").count();
    assert_eq!((roots(&before), roots(&after)), (1, 2));
    let sequence =
        |answer: &Answer| answer.headers.get("x-signet-trust-sequence").unwrap().to_str().unwrap().to_owned();
    assert_eq!((sequence(&before), sequence(&after)), ("1".to_owned(), "2".to_owned()));
    assert_eq!(issuer_of(&before), issuer_of(&after));
}

#[tokio::test]
async fn case_32_another_root_is_refused_in_the_log_a_metric_and_the_list_and_the_old_state_stays() {
    let (site, other) = (Site::default(), Site::default());
    let ca = site.ca(&[]).await;
    for file in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"] {
        fs::copy(other.path("cacerts").join(file), site.path("cacerts").join(file)).unwrap();
    }
    let wish = refused(&ca, "ANCHOR_CHANGED").await;
    let wished: String = key_id(&other, "cacerts").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(wish["id"], wished);
    let line = ca.process.line_from(0, "the refusal", |line| line.json["reason"] == "ANCHOR_CHANGED").await;
    assert_eq!(line.message(), "CA files not taken; the CA goes on with what it has");
    for code in ["ANCHOR_CHANGED", "ROOT_REMOVED"] {
        assert!(
            metric(ca.monitoring, &format!("signet_cacerts_reloads_total{{reason=\"{code}\"}}")).is_some()
        );
    }
    let table = done(ca.operator(&["authority", "list"]));
    assert!(table.contains("refused") && table.contains("asks for what is not taken"), "{table}");
    let status = done(ca.operator(&["status"]));
    assert!(status.contains("ready         yes") && status.contains("REFUSED"), "{status}");
    let before = issuer_of(&issued(&site, &ca).await);
    // Also after a restart, which finds the copy.
    ca.process.terminated().await;
    let ca = site.ca(&[]).await;
    refused(&ca, "ANCHOR_CHANGED").await;
    assert_eq!(issuer_of(&issued(&site, &ca).await), before);
    // A wish that is withdrawn is forgotten.
    fs::remove_dir_all(site.path("cacerts")).unwrap();
    site.intermediate("cacerts", "3650d");
    ca.process.message("CA files taken").await;
    nothing_refused(&ca).await;
}

#[tokio::test]
async fn case_30_broken_files_are_refused_one_by_one_and_good_ones_taken_after_each() {
    let site = Site::default();
    site.intermediate("next", "3650d");
    site.intermediate("again", "3650d");
    let ca = site.ca(&[]).await;
    type Damage = (&'static str, fn(&Site));
    let damages: [Damage; 6] = [
        ("half a certificate", |site| {
            let text = site.read("cacerts/ca-cert.pem");
            fs::write(site.path("cacerts/ca-cert.pem"), &text[..text.len() / 2]).unwrap();
        }),
        ("a key of another certificate", |site| {
            fs::copy(site.path("root/ca-key.pem"), site.path("cacerts/ca-key.pem")).unwrap();
        }),
        ("a file that went", |site| fs::remove_file(site.path("cacerts/cert-chain.pem")).unwrap()),
        ("ten megabytes", |site| {
            fs::write(site.path("cacerts/root-cert.pem"), vec![b'x'; 10 << 20]).unwrap();
        }),
        ("a root that is a leaf", |site| {
            fs::copy(site.path("again/ca-cert.pem"), site.path("cacerts/root-cert.pem")).unwrap();
        }),
        ("an empty key", |site| fs::write(site.path("cacerts/ca-key.pem"), "").unwrap()),
    ];
    let mut good = ["next", "again"].into_iter().cycle();
    for (what, damage) in damages {
        let seen = ca.process.log().len();
        damage(&site);
        let refusal =
            |line: &signet_tests::harness::process::Line| line.message().starts_with("CA files not taken");
        ca.process.line_from(seen, what, refusal).await;
        issued(&site, &ca).await;
        assert_eq!(metric(ca.monitoring, "signet_cacerts_refused"), Some(1.0), "{what}");
        let seen = ca.process.log().len();
        let next = good.next().unwrap();
        put(&site, next);
        ca.process.line_from(seen, what, |line| line.message() == "CA files taken").await;
        assert_eq!(issuer_of(&issued(&site, &ca).await), key_id(&site, next), "{what}");
    }
    let (status, log) = ca.process.terminated().await;
    assert!(status.success());
    assert!(log.iter().all(|line| !line.text.contains("panicked")), "{log:?}");
}

#[tokio::test]
async fn a_server_whose_ca_has_ended_starts_not_ready_and_a_successor_mends_it() {
    let site = Site::with_intermediate_for("3s");
    site.intermediate("next", "3650d");
    let ca = site.ca(&[]).await;
    let ended = async || (get(ca.monitoring, "/ready").0 == 503).then_some(());
    eventually("the CA has ended", ended).await;
    ca.process.terminated().await;
    let process = Process::start("ca-server", site.ca_command("run", &[]));
    process.message("issuing listening").await;
    let line = process.message("monitoring listening").await;
    let monitoring = line.json["addr"].as_str().unwrap().parse().unwrap();
    let (code, said) = get(monitoring, "/ready");
    assert!(code == 503 && said.contains("ended at"), "{said}");
    put(&site, "next");
    process.message("CA files taken").await;
    process.message("ready").await;
    assert_eq!(get(monitoring, "/ready").0, 200);
}

#[tokio::test]
async fn a_folder_with_odd_characters_is_followed() {
    let site = Site::default();
    site.intermediate("next", "3650d");
    let odd = "ca certs; $(x) 'ü'\n";
    fs::rename(site.path("cacerts"), site.path(odd)).unwrap();
    let ca = site.ca(&[("cacerts", odd)]).await;
    for file in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem"] {
        fs::copy(site.path("next").join(file), site.path(odd).join(file)).unwrap();
    }
    ca.process.message("CA files taken").await;
    assert_eq!(issuer_of(&issued(&site, &ca).await), key_id(&site, "next"));
}

#[tokio::test]
async fn a_thousand_roots_are_taken() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let mut roots = site.read("root/root-cert.pem");
    for number in 0..1000 {
        roots.push_str(&extra_root(number));
    }
    fs::write(site.path("cacerts/root-cert.pem"), roots).unwrap();
    ca.process.message("CA files taken").await;
    let answer = issued(&site, &ca).await;
    assert_eq!(answer.chain.last().unwrap().matches("BEGIN CERTIFICATE").count(), 1001);
}

fn extra_root(number: usize) -> String {
    use signet_certs::ca::Ca;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use signet_certs::validity::{BACKDATE, Validity};
    let now = signet_certs::clock::from_unix(signet_tests::harness::unix_now());
    let validity = Validity { not_before: now - BACKDATE, not_after: now + Duration::from_secs(86_400) };
    let subject = ca_name("Signet", None, &format!("Root {number}"));
    Ca::root(subject, validity, PrivateKey::generate_p256().unwrap()).unwrap().certificate.to_pem()
}
