//! Nothing secret is in any output, not even at the most talkative level: keys and tokens in all the forms in
//! which they might be written are looked for in everything that the programs say, answer and keep.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use prost_types::value::Kind;
use serde_json::{Value, json};
use signet_certs::key::PrivateKey;
use signet_certs::pem;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Ask, Caller};
use signet_tests::harness::http;
use signet_tests::harness::process::Process;
use signet_tests::harness::sds::{self, Subscription};
use signet_tests::harness::site::Site;
use signet_tests::token_issuer::KEY_SET_FILE;

/// What must not be found, by what it is.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<Vec<u8>>>);

impl Secrets {
    fn add(&mut self, what: &str, forms: impl IntoIterator<Item = Vec<u8>>) {
        self.0.entry(what.to_owned()).or_default().extend(forms);
    }

    /// Bytes in the forms of files, text, certificates' text, and Debug.
    fn bytes(&mut self, what: &str, secret: &[u8]) {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal: Vec<_> = secret.iter().take(8).map(u8::to_string).collect();
        self.add(what, [secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()]);
        self.add(what, [decimal.join(", ").into_bytes(), decimal.join(",").into_bytes()]);
        // Base64 looks otherwise at each of three places; the first and last digits depend on the neighbours.
        for skip in 0..3 {
            let part = &secret[skip..skip + (secret.len() - skip) / 3 * 3];
            self.add(what, [STANDARD_NO_PAD.encode(part).into(), URL_SAFE_NO_PAD.encode(part).into()]);
        }
    }

    /// A private key: the lines of its file, and what makes it private.
    fn key(&mut self, what: &str, text: &str) {
        // The private part stands in the first two lines; behind it is the public one, which may be anywhere.
        let lines = text.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16);
        self.add(what, lines.take(2).map(|line| line.as_bytes().to_vec()));
        let der = pem::only(text).unwrap().der;
        // SEC1 has version 1 and 32 bytes; PKCS#8 of Ed25519 has 32 bytes in 34.
        let begins = [&[2, 1, 1, 4, 32][..], &[4, 34, 4, 32]];
        let found = begins.iter().find_map(|begin| {
            let at = der.windows(begin.len()).position(|window| window == *begin)? + begin.len();
            der.get(at..at + 32)
        });
        self.bytes(what, found.unwrap());
    }

    /// A token: claims and signature, whole and in part.
    fn token(&mut self, what: &str, token: &str) {
        for part in token.split('.').skip(1) {
            let (begin, end) = (&part[..40.min(part.len())], &part[part.len().saturating_sub(40)..]);
            self.add(what, [part, begin, end].map(|form| form.as_bytes().to_vec()));
        }
    }

    /// What of them is in these bytes.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let holds = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form.as_slice());
        let found = self.0.iter().filter(|(_, forms)| forms.iter().any(holds));
        found.map(|(what, _)| what.as_str()).collect()
    }

    fn are_not_in(&self, place: &str, bytes: &[u8]) {
        let found = self.found_in(bytes);
        assert!(found.is_empty(), "{found:?} in {place}: {}", String::from_utf8_lossy(bytes));
    }

    fn are_not_in_log(&self, place: &str, process: &Process) {
        let log = process.log();
        let talks = |level: &str| log.iter().any(|line| line.json["level"] == level);
        assert!(talks("TRACE") || talks("DEBUG"), "{place} does not talk enough to show anything");
        for line in log {
            self.are_not_in(place, line.text.as_bytes());
        }
    }

    /// Every file below but those where a key belongs.
    fn are_not_in_files(&self, folder: &Path, keys: &[&str]) {
        let mut seen = 0;
        for path in files(folder) {
            let content = fs::read(&path).unwrap();
            if keys.iter().any(|key| path.ends_with(key)) {
                assert!(!self.found_in(&content).is_empty(), "no key in {}", path.display());
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
                seen += 1;
            } else {
                self.are_not_in(&path.display().to_string(), &content);
            }
        }
        assert!(seen >= keys.len(), "not every key is in {}", folder.display());
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => found.extend(files(&entry.path())),
            (_, true) => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Good requests with a secret where none belongs, and bad ones.
async fn misplaced(caller: &Caller, good: Ask, token: &str, key: &str) -> Vec<String> {
    let mut said = Vec::new();
    let text = |text: &str| Kind::StringValue(text.to_owned());
    for ask in [
        Ask { csr: token.to_owned(), ..good.clone() },
        Ask { csr: key.to_owned(), ..good.clone() },
        Ask { csr: format!("{}{key}", good.csr), ..good.clone() },
        Ask { metadata: vec![("ImpersonatedIdentity", text(token))], ..good.clone() },
        Ask { metadata: vec![("CertSigner", text(token))], ..good.clone() },
        Ask { token: Some(format!("{token}x")), ..good.clone() },
        Ask { token: Some(token[..token.len() - 9].to_owned()), ..good.clone() },
        Ask { token: None, headers: vec![("authorization", format!("Basic {token}"))], ..good.clone() },
        Ask { token: None, headers: vec![("authorization", token.to_owned())], ..good.clone() },
        Ask { headers: vec![("clusterid", token.to_owned())], ..good.clone() },
        Ask { headers: vec![("x-signet-instance", token.to_owned())], ..good.clone() },
    ] {
        if let Err(status) = caller.ask(ask).await {
            said.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
        }
    }
    assert!(said.len() >= 8, "{said:#?}");
    said
}

#[tokio::test]
async fn keys_and_tokens_are_in_nothing_that_is_said_answered_or_kept() {
    let site = Site::default();
    let mut secrets = Secrets::default();
    // A key set that gives its private parts away, in a key that is taken and in one that is not.
    let mut set: Value = serde_json::from_str(&site.read(KEY_SET_FILE)).unwrap();
    let private = "ZG8gbm90IHNheSB0aGlzIHRvIGFueWJvZHkgYXQgYWxs";
    set["keys"][0]["d"] = json!(private);
    set["keys"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "kty": "EC", "kid": "odd", "crv": "P-256", "d": private }));
    fs::write(site.path(KEY_SET_FILE), set.to_string()).unwrap();
    secrets.add("a private part in the key set", [private.into()]);

    let ca = site.ca(&[("log-level", "trace")]).await;
    let agent = site.agent(ca.listen, "sleep", &[("log-level", "trace")]).await;
    let channel = sds::connect(&agent.sds).await;
    let mut default = Subscription::open(&channel, "sidecar", "default").await;
    let push = default.next().await.unwrap();
    default.ack(&push);
    agent.process.message("the CA states its trust").await;
    let token = site.read("sleep.token").trim().to_owned();
    secrets.token("the workload's token", &token);
    secrets.key("the workload's key", &String::from_utf8(push.private_key()).unwrap());
    for file in ["cacerts/ca-key.pem", "data/log-key.pem", "root/ca-key.pem"] {
        secrets.key(file, &site.read(file));
    }
    let stray = PrivateKey::generate_p256().unwrap();
    secrets.key("a caller's key", &stray.to_pkcs8_pem());

    let caller = Caller::to(&site, &ca).await;
    let token = token.as_str();
    for said in misplaced(&caller, site.ask(), token, &stray.to_pkcs8_pem()).await {
        secrets.are_not_in("an answer", said.as_bytes());
    }
    answers(&site, &ca, token, &secrets);
    let bad = site.path("bad.token");
    fs::write(&bad, format!("{token}x")).unwrap();
    let changes = [("token", bad.to_str().unwrap()), ("log-level", "trace")];
    let fetched = site.agent_command("fetch", ca.listen, "sleep", &changes).output().unwrap();
    assert!(!fetched.status.success());
    let shown = agent.secret(&["-o", "json"]);
    let metrics = http::get(agent.monitoring, "/metrics").1;
    for (place, said) in [
        ("fetch", [fetched.stdout, fetched.stderr].concat()),
        ("secret", [shown.stdout, shown.stderr].concat()),
        ("the agent's metrics", metrics.into_bytes()),
    ] {
        assert!(!said.is_empty());
        secrets.are_not_in(place, &said);
    }
    let backup = site.path("backup");
    assert!(ca.operator(&["backup", backup.to_str().unwrap()]).status.success());
    secrets.are_not_in_log("the CA's log", &ca.process);
    secrets.are_not_in_log("the agent's log", &agent.process);
    // The log's segments, the store and checkpoints; a key only where SECURITY.md says that there is one.
    let keys = ["log-key.pem", "ca-key.pem"];
    secrets.are_not_in_files(&site.path("data"), &keys);
    secrets.are_not_in_files(&backup, &keys);
    secrets.are_not_in_files(&site.path("sleep"), &["certs/key.pem"]);
}

/// What the monitoring port, the admin socket and the operator's verbs answer.
fn answers(site: &Site, ca: &Ca, token: &str, secrets: &Secrets) {
    let mut said = Vec::new();
    for path in
        ["/metrics".to_owned(), format!("/metrics?token={token}"), format!("/{token}"), "/ready".to_owned()]
    {
        said.push(http::get(ca.monitoring, &path).1.into_bytes());
    }
    for path in ["status", "authorities", "consumers", "log/checkpoint"] {
        said.push(http::get_json(&ca.admin, &format!("/v1/{path}")).to_string().into_bytes());
    }
    let id = ca.json(&["authority", "list"])[0]["id"].as_str().unwrap().to_owned();
    for verb in
        [&["status"][..], &["authority", "show", &id], &["log", "verify"], &["log", "list", "-o", "json"]]
    {
        let output = ca.operator(verb);
        assert!(output.status.success(), "{verb:?}");
        said.push([output.stdout, output.stderr].concat());
    }
    // The ceremony's, with a folder that has the key's file twice.
    let program = signet_tests::programs::program("certs");
    for arguments in [
        &["lint", "cacerts"][..],
        &["lint", "cacerts", "-o", "json"],
        &["inspect", "cacerts/ca-key.pem", "root/ca-key.pem", "sleep.token"],
        &["lint", "root"],
    ] {
        let output = std::process::Command::new(&program).current_dir(site.folder()).args(arguments).output();
        let output = output.unwrap();
        said.push([output.stdout, output.stderr].concat());
        assert!(said.last().unwrap().len() > 20, "{arguments:?} says nothing");
    }
    for said in said {
        secrets.are_not_in("an answer", &said);
    }
}

#[tokio::test]
async fn what_is_refused_at_the_start_repeats_no_secret() {
    let site = Site::default();
    let mut secrets = Secrets::default();
    let (key, kek) = (site.read("cacerts/ca-key.pem"), "5ec7e7a1".repeat(8));
    secrets.key("the CA's key", &key);
    secrets.add("the key-encryption key", [kek.clone().into_bytes()]);
    fs::write(site.path("kek"), format!("{kek} and more")).unwrap();
    fs::set_permissions(site.path("kek"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(site.path("private.json"), format!("{{\"keys\": [{{\"kty\": \"EC\", \"d\": \"{kek}\"}}]}}"))
        .unwrap();
    fs::write(site.path("broken.json"), format!("{{\"keys\": \"{kek}\"}}")).unwrap();
    fs::write(
        site.path("faulty.toml"),
        format!("key = \"{kek}\"\nunknown = \"{kek}\"\nqueue = = \"{kek}\"\n"),
    )
    .unwrap();
    for (file, content) in
        [("ca-cert.pem", key.clone()), ("root-cert.pem", key.replace('\n', "")), ("cert-chain.pem", key)]
    {
        fs::create_dir_all(site.path("mixed")).unwrap();
        fs::write(site.path("mixed").join(file), content).unwrap();
    }
    for changes in [
        ("key-encryption-key-file", kek.as_str()),
        ("key-encryption-key-file", "kek"),
        ("jwks", "private.json"),
        ("jwks", "broken.json"),
        ("config", "faulty.toml"),
        ("cacerts", "mixed"),
    ] {
        for verb in ["check", "run"] {
            let (code, said) = site.ca_ends(verb, &[changes, ("log-level", "trace")]).await;
            assert!(code != 0 && said.len() > 20, "{changes:?} {said}");
            secrets.are_not_in(&format!("{verb} with {changes:?}"), said.as_bytes());
        }
    }
}
