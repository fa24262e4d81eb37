#![allow(clippy::unwrap_used)]
use clap::Command;

use super::*;

fn load_from(flags: &[&str], file: Option<&str>, environment: &[(&str, &str)]) -> Result<Config, Faults> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.toml");
    let mut all: Vec<String> = ["run"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
        all.push(format!("--config={}", path.display()));
    }
    let matches = Command::new("run").args(arguments()).try_get_matches_from(all).unwrap();
    // The files that are named here are not there.
    load_settings(&matches, |name| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

const NEEDED: &[&str] = &["--token-issuer=https://k8s", "--jwks=/keys.json"];

#[test]
fn two_flags_are_enough_and_the_rest_has_safe_defaults() {
    let config = load_from(NEEDED, None, &[]).unwrap();
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.lifetimes.default, Duration::from_secs(86_400));
    assert_eq!(config.lifetimes.maximum, Duration::from_secs(90 * 86_400));
    let issuer = &config.token_issuers[0];
    assert_eq!(issuer.audiences, ["istio-ca"]);
    assert_eq!(issuer.api_server_audiences, ["https://k8s"]);
    assert_eq!(config.admin_socket, PathBuf::from("/var/lib/signet/admin.sock"));
    for service in ["istiod", "istiod-remote", "istio-pilot"] {
        assert!(config.serving.dns.contains(&format!("{service}.istio-system.svc")), "{service}");
    }
    assert!(config.serving.dns.contains(&"localhost".to_owned()));
}

#[test]
fn renewal_by_certificate_is_off_until_it_is_asked_for() {
    let renewal = |flags: &[&str]| {
        load_from(&[NEEDED, flags].concat(), None, &[]).map(|config| config.renewal_by_certificate)
    };
    assert_eq!(renewal(&[]).unwrap(), None);
    assert_eq!(renewal(&["--max-age-since-token=1h"]).unwrap(), None);
    assert_eq!(renewal(&["--renewal-by-certificate=on"]).unwrap(), Some(Duration::from_secs(86_400)));
    let both = ["--renewal-by-certificate=on", "--max-age-since-token=1h"];
    assert_eq!(renewal(&both).unwrap(), Some(Duration::from_secs(3600)));
    let faults = renewal(&["--renewal-by-certificate=yes", "--max-age-since-token=soon"]).unwrap_err();
    let text = faults.to_string();
    assert!(text.contains("renewal_by_certificate") && text.contains("must be on or off"), "{text}");
    assert!(text.contains("max_age_since_token"), "{text}");
}

#[test]
fn istio_s_variables_are_heard() {
    let environment = [
        ("TRUST_DOMAIN", "td"),
        ("MAX_WORKLOAD_CERT_TTL", "48h"),
        ("TOKEN_AUDIENCES", "a,b"),
        ("ISTIOD_CUSTOM_HOST", "ca.corp,10.0.0.1"),
        ("POD_NAMESPACE", "mesh"),
        ("REVISION", "canary"),
    ];
    let config = load_from(NEEDED, None, &environment).unwrap();
    assert_eq!(config.trust_domain.as_str(), "td");
    assert_eq!(config.lifetimes.maximum, Duration::from_secs(48 * 3600));
    assert_eq!(config.token_issuers[0].audiences, ["a", "b"]);
    assert!(config.serving.dns.contains(&"ca.corp".to_owned()));
    assert!(config.serving.dns.contains(&"istiod-canary.mesh.svc".to_owned()));
    assert!(config.serving.ip.contains(&"10.0.0.1".parse().unwrap()));
}

#[test]
fn the_sample_with_every_key_loads_and_has_every_key() {
    let sample = include_str!("../../../deploy/config/full.toml");
    let config = load_from(&[], Some(sample), &[]).unwrap();
    assert_eq!(config.token_issuers.len(), 2);
    let table: toml::Table = toml::from_str(sample).unwrap();
    for setting in arguments() {
        let key = setting.get_id().as_str();
        let commented = sample.contains(&format!("# {key} = "));
        assert!(key == "config" || table.contains_key(key) || commented, "{key} is not in full.toml");
    }
}

#[test]
fn case_51_all_faults_are_reported_at_once_with_key_and_place() {
    let file = r#"
        trust_domain = "Upper"
        listen = "here"
        queue = 0
        log_level = "loud"
        unknown = 1
        default_ttl = "48h"
        max_ttl = "24h"
        serving_names = ["not a name"]
        admin_group = "wheel"
        [[token_issuers]]
        issuer = "a"
        jwks = "http://example.com/keys"
        [[token_issuers]]
        issuer = "b"
        jwks = "/f"
        audience = "x"
        [[token_issuers]]
        issuer = "c"
        jwks = "/f"
        audiences = ["api"]
        api_server_audiences = ["api"]
        [[token_issuers]]
        issuer = "d"
        jwks = "/f"
        jwks_ca = "/ca"
    "#;
    let text = load_from(&["--deadline=soon"], Some(file), &[]).unwrap_err().to_string();
    for expected in [
        "trust_domain (",
        "listen (",
        "queue (",
        "log_level (",
        "unknown (",
        "default_ttl (",
        "serving_names (",
        "admin_group (",
        "over https only",
        "unknown field `audience`",
        "ours and the API server's",
        "jwks_ca is only for",
        "deadline (--deadline)",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn contradictions_are_found() {
    let fault = |flags: &[&str]| load_from(flags, None, &[]).unwrap_err().to_string();
    assert!(fault(&[]).contains("nobody can be believed"));
    assert!(fault(&["--token-issuer="]).contains("nobody can be believed"), "an empty text is none");
    assert!(fault(&["--jwks=", "--token-issuer="]).contains("nobody can be believed"));
    assert!(fault(&["--jwks=/k"]).contains("token_issuer (--token-issuer): is needed with jwks"));
    assert!(fault(&["--token-issuer=i"]).contains("jwks (--jwks): is needed"));
    let same = [NEEDED, &["--listen=127.0.0.1:1", "--monitoring=127.0.0.1:1"]].concat();
    assert!(fault(&same).contains("the same address"));
    let hidden = [NEEDED, &["--data=/d", "--admin-group=7"]].concat();
    assert!(fault(&hidden).contains("admin_group (--admin-group): needs an admin_socket outside"));
    assert!(load_from(&[&hidden[..], &["--admin-socket=/run/s"]].concat(), None, &[]).is_ok());
    let beside = [NEEDED, &["--data=/d", "--key-encryption-key-file=/d/kek"]].concat();
    assert!(fault(&beside).contains("key_encryption_key_file (--key-encryption-key-file): is in the data"));
    let elsewhere = [NEEDED, &["--data=/d", "--key-encryption-key-file=/data/kek"]].concat();
    let config = load_from(&elsewhere, None, &[]).unwrap();
    assert_eq!(config.key_encryption_key_file, Some(PathBuf::from("/data/kek")));
    let long = format!("--admin-socket=/{}", "x".repeat(120));
    assert!(fault(&[NEEDED, &[long.as_str()]].concat()).contains("admin_socket"));
}

#[test]
fn an_issuer_is_configured_once() {
    let file = "[[token_issuers]]\nissuer = \"https://k8s\"\njwks = \"/f\"\n";
    let text = load_from(NEEDED, Some(file), &[]).unwrap_err().to_string();
    assert!(text.contains("token_issuers[0]") && text.contains("configured twice"), "{text}");
}

#[test]
fn a_fault_repeats_no_secret() {
    let fault = |flags: &[&str]| load_from(flags, None, &[]).unwrap_err().to_string();
    let hex = "5ec7e7".repeat(10) + "5ec7";
    let base64 = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=";
    for key in [hex.as_str(), base64] {
        let text = fault(&[NEEDED, &[&format!("--key-encryption-key-file={key}")]].concat());
        assert!(text.contains("is the key itself") && !text.contains(key), "{text}");
    }
    for url in ["https://me:5ec7e7@k8s/keys", "http://me:5ec7e7@k8s/keys", "https://me:5ec7e7@[/keys"] {
        let text = fault(&["--token-issuer=https://k8s", &format!("--jwks={url}")]);
        assert!(text.contains("jwks") && !text.contains("5ec7e7"), "{text}");
    }
}
