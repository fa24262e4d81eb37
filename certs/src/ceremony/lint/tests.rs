#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::Value;
use signet_certs::bundle::TrustBundle;
use signet_certs::ca::Ca;
use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT};
use signet_certs::clock::from_unix;
use signet_certs::key::{NewKey, PrivateKey};
use signet_certs::name::ca_name;
use signet_certs::validity::{BACKDATE, Validity};
use std::fs;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    from_unix(1_800_000_000)
}

fn life(days: u32) -> Validity {
    Validity { not_before: now() - BACKDATE, not_after: now() + DAY * days }
}

fn key() -> PrivateKey {
    PrivateKey::generate_p256().unwrap()
}

fn root(name: &str) -> Ca {
    Ca::root(ca_name("Signet", None, name), life(100), key()).unwrap()
}

fn intermediate(root: &Ca, days: u32) -> Ca {
    root.intermediate(ca_name("Signet", Some("c1"), "Intermediate CA"), 0, life(days), key()).unwrap()
}

fn folder(signer: &Ca, chain: &[&Ca], roots: &[&Ca]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pem = |list: &[&Ca]| list.iter().map(|ca| ca.certificate.to_pem()).collect::<String>();
    fs::write(folder.path().join(CA_CERT), pem(&[signer])).unwrap();
    fs::write(folder.path().join(CA_KEY), signer.key.to_pkcs8_pem().as_bytes()).unwrap();
    fs::write(folder.path().join(CERT_CHAIN), pem(chain)).unwrap();
    fs::write(folder.path().join(ROOT_CERT), pem(roots)).unwrap();
    folder
}

fn options(folder: &TempDir, against: Option<&TempDir>, output: Format) -> Options {
    let path = |folder: &TempDir| folder.path().to_owned();
    Options { folder: path(folder), against: against.map(path), leaf_lifetime: DAY, output }
}

fn lint(folder: &TempDir, against: Option<&TempDir>) -> (Value, bool) {
    let linted = run(&options(folder, against, Format::Json), now()).unwrap();
    (serde_json::from_str(&linted.output).unwrap(), linted.code == ExitCode::SUCCESS)
}

#[test]
fn a_good_folder_shows_the_answer_element_by_element_and_its_speed() {
    let (top, other) = (root("Root CA"), root("Other"));
    let signer = intermediate(&top, 50);
    let folder = folder(&signer, &[&signer, &top], &[&top, &other]);
    let (json, good) = lint(&folder, None);
    assert!(good && json["loads"] == true && json["form"] == "cacerts" && json["change"] == Value::Null);
    let elements = json["answer"]["elements"].as_array().unwrap();
    let kinds: Vec<_> = elements.iter().map(|element| element["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["leaf", "intermediate", "roots"]);
    assert_eq!(elements[1]["pem"], signer.certificate.to_pem());
    let bundle = TrustBundle::new(vec![top.certificate.clone(), other.certificate.clone()]);
    assert_eq!(elements[2]["pem"], bundle.to_pem());
    assert!(json["speed"]["signatures_per_second"].as_u64().unwrap() > 100, "{json:#}");
    let text = run(&options(&folder, None, Format::Text), now()).unwrap().output;
    for part in [
        ": the CA would load this folder\n",
        "element 3    roots: O=Signet, CN=",
        "secret default, certificate_chain: elements 1 to 3 joined",
        "intermediates: element 2, one certificate each",
        "signatures a second on one core here",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("FAULT") && !text.contains("note"), "{text}");
}

#[test]
fn under_an_rsa_ca_with_room_the_answer_has_an_issuing_intermediate() {
    let top = root("Root CA");
    for (path_length, expected) in [
        (1, &["leaf", "issuing-intermediate", "intermediate", "roots"][..]),
        (0, &["leaf", "intermediate", "roots"]),
    ] {
        let key = PrivateKey::generate(NewKey::Rsa2048).unwrap();
        let subject = ca_name("Signet", Some("c"), "Intermediate CA");
        let life = top.certificate.facts().validity;
        let signer = top.intermediate(subject, path_length, life, key).unwrap();
        let (json, good) = lint(&folder(&signer, &[&signer, &top], &[&top]), None);
        let elements = json["answer"]["elements"].as_array().unwrap();
        let kinds: Vec<_> = elements.iter().map(|element| element["kind"].as_str().unwrap()).collect();
        assert!(good && kinds == expected, "{json:#}");
    }
}

#[test]
fn a_fault_says_on_what_why_and_what_to_do() {
    let top = root("Root CA");
    let signer = intermediate(&top, 50);
    let folder = folder(&signer, &[&signer], &[&root("Root CA")]);
    let (json, good) = lint(&folder, None);
    assert!(!good && json["loads"] == false && json["answer"] == Value::Null && json["speed"] == Value::Null);
    let fault = &json["faults"][0];
    assert_eq!((&fault["code"], &fault["file"]), (&"CHAIN_KEY_MISMATCH".into(), &CA_CERT.into()));
    let serial = signer.certificate.facts().serial.to_string();
    let named = serde_json::json!({
        "subject": "O=Signet, L=c1, CN=Intermediate CA", "serial": serial, "file": CA_CERT, "line": 1,
    });
    assert_eq!(fault["certificate"], named);
    let text = run(&options(&folder, None, Format::Text), now()).unwrap().output;
    for part in [
        "would not load this folder: 1 fault\n",
        "\nFAULT CHAIN_KEY_MISMATCH in ca-cert.pem\n",
        "  why ",
        "  do ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_change_is_safe_needs_a_rotation_or_is_refused() {
    let (top, other) = (root("Root CA"), root("Other"));
    let (one, two, theirs) = (intermediate(&top, 50), intermediate(&top, 60), intermediate(&other, 50));
    let old = folder(&one, &[&one], &[&top]);
    let broken = folder(&two, &[&one], &[&top]);
    for (new, against, verdict, good, code) in [
        (folder(&one, &[&one, &top], &[&top]), &old, "same", true, None),
        (folder(&two, &[&two], &[&top, &other]), &old, "safe", true, Some("ROOT_ADDED")),
        (folder(&theirs, &[&theirs], &[&top, &other]), &old, "needs_rotation", false, Some("ANCHOR_CHANGED")),
        (folder(&two, &[&one], &[&top]), &old, "refused", false, Some("DOES_NOT_LOAD")),
        (folder(&two, &[&two], &[&top]), &broken, "unknown", false, Some("OLD_DOES_NOT_LOAD")),
    ] {
        let (json, exit) = lint(&new, Some(against));
        assert_eq!((&json["change"]["verdict"], exit), (&verdict.into(), good), "{json:#}");
        assert_eq!(json["change"]["reasons"][0]["code"].as_str(), code);
        let text = run(&options(&new, Some(against), Format::Text), now()).unwrap().output;
        assert!(text.contains(&format!("\nAgainst {}\n  verdict", against.path().display())), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words.contains("cannot take a root away"), verdict == "needs_rotation", "{text}");
    }
}

#[test]
fn a_ca_that_ends_before_two_leaves_could_follow_is_pointed_out() {
    let top = root("Root CA");
    for (days, notes) in [(1, 1), (2, 0)] {
        let signer = intermediate(&top, days);
        let (json, good) = lint(&folder(&signer, &[&signer], &[&top]), None);
        assert!(good);
        assert_eq!(json["notes"].as_array().unwrap().len(), notes, "{json:#}");
    }
}

#[test]
fn what_is_no_folder_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let (json, good) = lint(&folder, None);
    assert!(!good, "an empty folder does not load: {json:#}");
    assert_eq!(json["faults"].as_array().unwrap().len(), 4);
    let mut options = options(&folder, None, Format::Text);
    options.folder.push("nowhere");
    assert!(matches!(run(&options, now()), Err(LintError::NotFolder(_))));
}
