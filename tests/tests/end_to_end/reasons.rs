//! Every reason code of the CA, produced over the wire: a new one does not compile here before it is said how.
//! `deploy/REASONS.md` is held against what was answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use signet_ca_server::reason::{Place, Reason};
use signet_proto::signet::trust::v1::{Acknowledgement, HeldRoot, WatchRequest};
use signet_tests::harness::ca::{Ca, Changes};
use signet_tests::harness::caller::{Ask, Caller, reason as reason_of};
use signet_tests::harness::eventually;
use signet_tests::harness::http::{get, metric};
use signet_tests::harness::site::{ISSUER, Site, token_issuer};
use signet_tests::harness::{PATIENCE, unix_now};
use signet_tests::token_issuer::{Algorithm, KEY_SET_FILE, TokenIssuer};
use tonic::{Code, Status};

use super::authorities::rsa_site;
use super::crls::plug_in;
use super::renewal::refused_renewal;
use super::requests::call;
use super::trust_watch::{first, watch};

/// A CA in its own folder.
struct Stage {
    site: Site,
    ca: Ca,
    caller: Caller,
}

impl Stage {
    async fn new(changes: Changes<'_>) -> Self {
        Self::of(Site::default(), changes).await
    }

    async fn of(site: Site, changes: Changes<'_>) -> Self {
        let ca = site.ca(changes).await;
        let caller = Caller::to(&site, &ca).await;
        Self { site, ca, caller }
    }

    /// One whose disk is full as soon as `fills` is called.
    async fn on_a_disk_that_can_fill() -> Self {
        let site = Site::default();
        let server = site.ca_command("run", &[]);
        let mut command = Command::new("sh");
        // A process that ignores SIGXFSZ gets an error of a write beyond its limit, as of a full disk.
        command.current_dir(site.folder()).env_clear().args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        command.arg(server.get_program()).args(server.get_args());
        let ca = site.ca_of(command).await;
        let caller = Caller::to(&site, &ca).await;
        Self { site, ca, caller }
    }

    fn fills(&self) {
        let pid = Pid::from_raw(self.ca.process.id() as i32);
        prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    }

    /// One whose signatures are slow and which has the given limits, asked for more than it can do at once.
    async fn flooded(changes: Changes<'_>, reason: Reason) -> Produced {
        let site = Site::default();
        let slow = ["intermediate", "--root", "root", "--name", "slow", "--key", "rsa4096", "--out", "slow"];
        site.certs(&slow);
        let stage = Self::of(site, &[changes, &[("cacerts", "slow")]].concat()).await;
        let ask = stage.site.ask();
        let answers = join_all((0..600).map(|_| stage.caller.ask(ask.clone()))).await;
        let status =
            answers.into_iter().filter_map(Result::err).find(|status| reason_of(status) == reason.code());
        Produced::Answered(status.unwrap_or_else(|| panic!("nothing was refused for {reason}")), Some(stage))
    }

    /// A request whose message does not come holds a place.
    async fn with_one_in_flight(&self) -> tokio::task::JoinHandle<Status> {
        let caller = self.caller.clone();
        let stalled = tokio::spawn(async move { call(&caller, futures::stream::pending()).await });
        eventually("a place is taken", async || {
            metric(self.ca.monitoring, "signet_in_flight").filter(|taken| *taken == 1.0)
        })
        .await;
        stalled
    }

    async fn refuses(self, ask: Ask) -> Produced {
        let status = self.caller.ask(ask).await.unwrap_err();
        Produced::Answered(status, Some(self))
    }

    /// Waits until the log has a line with this reason.
    async fn logs(self, reason: Reason) -> Produced {
        self.ca.process.line_from(0, reason.code(), |line| line.json["reason"] == reason.code()).await;
        Produced::Logged(Some(self))
    }

    /// Puts the files of one folder in place of the active CA's.
    fn put(&self, from: &Path) {
        for file in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"] {
            std::fs::copy(from.join(file), self.site.path("cacerts").join(file)).unwrap();
        }
    }

    /// The HTTP code that a user of this group gets from the admin socket; needs root to become one.
    fn asked_by_a_stranger(&self, group: &str, method: &str, path: &str) -> String {
        std::fs::set_permissions(self.site.folder(), PermissionsExt::from_mode(0o711)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"])
            .args(["curl", "--silent"]);
        command.args(["--output", "/dev/null", "--write-out", "%{http_code}", "--request", method]);
        command.arg("--unix-socket").arg(&self.ca.admin).arg(format!("http://localhost{path}"));
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What came of it.
enum Produced {
    /// A refusal that says so; of the good CA where there is no other.
    Answered(Status, Option<Stage>),
    /// What is refused without an answer, by the log's word.
    Logged(Option<Stage>),
    /// Not by a program and a disk that work: why not, and which test shows it otherwise.
    Otherwise(&'static str),
}

/// What curl says where it could not connect.
const UNREACHED: &str = "000";
const CLOSED_FOLDER: &str =
    "the temporary folder is closed to other users here; admin.rs and backup.rs decide it in unit tests";
const SECOND_USER: &str = "only root can become another user; admin.rs and backup.rs decide it in unit tests";

/// Has something refused for this reason. `good` is a CA with nothing unusual about it.
async fn produce(reason: Reason, good: &Stage) -> Produced {
    let site = &good.site;
    let refused = async |ask: Ask| Produced::Answered(good.caller.ask(ask).await.unwrap_err(), None);
    let with_token = async |token: String| refused(site.ask_for(&token)).await;
    let with_claim = async |claim: &str, value: Value| {
        let mut draft = site.draft();
        draft.claims[claim] = value;
        refused(site.ask_for(&token_issuer().sign(&draft).unwrap())).await
    };
    match reason {
        Reason::TokenMissing => refused(Ask { token: None, ..site.ask() }).await,
        Reason::TokenTooLarge => {
            let part = "a".repeat(6000);
            with_token(format!("{part}.{part}.{part}")).await
        }
        Reason::TokenMalformed => with_token("garbage".to_owned()).await,
        Reason::TokenAlgorithm => with_token(site.draft().unsigned()).await,
        Reason::TokenIssuer => with_claim("iss", json!("https://elsewhere")).await,
        Reason::TokenKeyUnknown => {
            let mut draft = site.draft();
            draft.header["kid"] = json!("nobody");
            with_token(token_issuer().sign(&draft).unwrap()).await
        }
        Reason::TokenSignature => {
            let mut draft = site.draft();
            let stranger = TokenIssuer::generate(Algorithm::Rs256).unwrap();
            draft.header["kid"] = json!(token_issuer().key_id());
            with_token(stranger.sign(&draft).unwrap()).await
        }
        Reason::TokenExpired => with_claim("exp", json!(unix_now() - 60)).await,
        Reason::TokenNotYetValid => with_claim("nbf", json!(unix_now() + 600)).await,
        Reason::TokenAudience => with_claim("aud", json!(["vault"])).await,
        Reason::TokenApiServerAudience => with_claim("aud", json!(["istio-ca", ISSUER])).await,
        Reason::TokenSubject => with_claim("sub", json!("system:node:node-1")).await,
        Reason::TokenClaims => with_claim("kubernetes.io", Value::Null).await,
        Reason::TokenNamespace => {
            let site = Site::default();
            let rows = format!(
                "[[token_issuers]]\nissuer = \"{ISSUER}\"\njwks = \"{KEY_SET_FILE}\"\naudiences = [\"istio-ca\"]\n\
                 namespaces = [\"vms\"]\n"
            );
            std::fs::write(site.path("ca.toml"), rows).unwrap();
            let mut command = site.ca_command("run", &[("config", "ca.toml")]);
            let by_flags = ["--jwks", "--token-issuer", "--audience"];
            let flags: Vec<_> = command.get_args().map(|flag| flag.to_str().unwrap().to_owned()).collect();
            let flags = flags.iter().filter(|flag| !by_flags.iter().any(|name| flag.starts_with(name)));
            let mut shorter = Command::new(command.get_program());
            shorter.current_dir(site.folder()).env_clear().args(flags);
            std::mem::swap(&mut command, &mut shorter);
            let ca = site.ca_of(command).await;
            let caller = Caller::to(&site, &ca).await;
            let ask = site.ask();
            Stage { site, ca, caller }.refuses(ask).await
        }
        Reason::TokenKeysUnavailable => {
            // A port that was just free: nobody answers there.
            let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let stage = Stage::new(&[("jwks", &format!("http://{nobody}/keys"))]).await;
            let ask = stage.site.ask();
            stage.refuses(ask).await
        }
        Reason::RequestInvalid => refused(Ask { csr: "x".repeat(70_000), ..site.ask() }).await,
        Reason::CsrInvalid => refused(Ask { csr: "garbage".to_owned(), ..site.ask() }).await,
        Reason::Blocked
        | Reason::RenewalOff
        | Reason::CertificateIssuer
        | Reason::CertificateUnknown
        | Reason::CertificateEnded
        | Reason::CertificateNotYetValid
        | Reason::CertificateTokenIssuer
        | Reason::TokenTooLongAgo
        | Reason::CertificateLookup => {
            let (site, ca, status) = refused_renewal(reason).await;
            let caller = Caller::to(&site, &ca).await;
            Produced::Answered(status, Some(Stage { site, ca, caller }))
        }
        Reason::LifetimeTooLong => refused(Ask { lifetime: i64::MAX, ..site.ask() }).await,
        Reason::LifetimeNegative => refused(Ask { lifetime: -1, ..site.ask() }).await,
        Reason::Impersonation => {
            let other = prost_types::value::Kind::StringValue("spiffe://cluster.local/ns/x/sa/y".to_owned());
            refused(Ask { metadata: vec![("ImpersonatedIdentity", other)], ..site.ask() }).await
        }
        Reason::OverloadServer => Stage::flooded(&[("in-flight", "2")], reason).await,
        Reason::OverloadAddress => Stage::flooded(&[("in-flight-per-address", "2")], reason).await,
        Reason::OverloadFailures => {
            let stage = Stage::new(&[("failures-per-address", "1")]).await;
            let bad = stage.site.ask_for("garbage");
            let status = eventually("the share is spent", async || {
                let status = stage.caller.ask(bad.clone()).await.unwrap_err();
                (reason_of(&status) == reason.code()).then_some(status)
            })
            .await;
            Produced::Answered(status, Some(stage))
        }
        Reason::OverloadSlow => {
            let stage = Stage::new(&[("in-flight", "1")]).await;
            let stalled = stage.with_one_in_flight().await;
            let ask = stage.site.ask();
            eventually("another has its place", async || stage.caller.ask(ask.clone()).await.ok()).await;
            Produced::Answered(stalled.await.unwrap(), Some(stage))
        }
        Reason::OverloadQueue => Stage::flooded(&[("queue", "1")], reason).await,
        Reason::OverloadDeadline => Stage::flooded(&[("deadline", "300ms")], reason).await,
        Reason::Deadline => {
            let stage = Stage::new(&[("deadline", "1s")]).await;
            let status = stage.with_one_in_flight().await.await.unwrap();
            Produced::Answered(status, Some(stage))
        }
        Reason::ClockStepped => Produced::Otherwise(
            "the machine's clock is nobody's to set: clock.rs asks a server over its ports that runs by other clocks",
        ),
        Reason::LogUnavailable => {
            let stage = Stage::on_a_disk_that_can_fill().await;
            stage.fills();
            let ask = stage.site.ask();
            stage.refuses(ask).await
        }
        Reason::IssuerEnded => {
            let stage = Stage::of(Site::with_intermediate_for("6s"), &[]).await;
            stage.ca.process.message("not ready").await;
            let ask = stage.site.ask();
            stage.refuses(ask).await
        }
        Reason::Signing => Produced::Otherwise(
            "it takes a broken key, memory or thread: authority/issuer.rs and authority/pool.rs break them in unit \
             tests, api/status.rs says what is answered",
        ),
        Reason::Handshake => {
            let stage = Stage::new(&[]).await;
            let mut stream = TcpStream::connect(stage.ca.listen).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            // The server ends it, with an alert before.
            let _ = stream.read_to_end(&mut Vec::new());
            counted(stage.ca.monitoring, Place::Connection, reason).await;
            // Not logged but at the level debug.
            Produced::Otherwise("nothing can be answered: counted, as was just seen")
        }
        Reason::AcknowledgementTooLarge => {
            let stage = Stage::new(&[]).await;
            stage.acknowledges(257).await;
            stage.logs(reason).await
        }
        Reason::AcknowledgementNotKept => {
            let stage = Stage::on_a_disk_that_can_fill().await;
            stage.fills();
            stage.acknowledges(1).await;
            stage.logs(reason).await
        }
        Reason::Empty => {
            let stage = Stage::new(&[]).await;
            std::fs::remove_dir_all(stage.site.path("cacerts")).unwrap();
            stage.logs(reason).await
        }
        Reason::RootRemoved | Reason::AnchorChanged => {
            let (stage, other) = (Stage::new(&[]).await, Site::default());
            stage.put(&other.path("cacerts"));
            stage.logs(reason).await
        }
        Reason::Rehearsal => Produced::Otherwise(
            "no folder is known that reads as a CA and signs what peers refuse; rehearsal.rs makes one in a unit test",
        ),
        Reason::NotKept => {
            let stage = Stage::on_a_disk_that_can_fill().await;
            stage.site.intermediate("next", "3650d");
            stage.fills();
            stage.put(&stage.site.path("next"));
            stage.logs(reason).await
        }
        Reason::CrlsWait => {
            let stage = Stage::of(rsa_site("1"), &[]).await;
            plug_in(&stage.site, &[&stage.site.crl("root", &[]), &stage.site.crl("cacerts", &[])]);
            stage.logs(reason).await
        }
        Reason::NotAnOperator => {
            if !rustix::process::getuid().is_root() {
                return Produced::Otherwise(SECOND_USER);
            }
            let stage = Stage::new(&[("admin-socket", "admin.sock")]).await;
            // As if somebody had opened the socket to all.
            std::fs::set_permissions(&stage.ca.admin, PermissionsExt::from_mode(0o666)).unwrap();
            match stage.asked_by_a_stranger("65534", "GET", "/v1/status").as_str() {
                UNREACHED => return Produced::Otherwise(CLOSED_FOLDER),
                code => assert_eq!(code, "403"),
            }
            stage.logs(reason).await
        }
        Reason::NotTheOwner => {
            if !rustix::process::getuid().is_root() {
                return Produced::Otherwise(SECOND_USER);
            }
            let stage = Stage::new(&[("admin-socket", "admin.sock"), ("admin-group", "4711")]).await;
            match stage.asked_by_a_stranger("4711", "GET", "/v1/status").as_str() {
                UNREACHED => return Produced::Otherwise(CLOSED_FOLDER),
                code => assert_eq!(code, "200", "it is an operator"),
            }
            assert_eq!(stage.asked_by_a_stranger("4711", "POST", "/v1/backup"), "403");
            stage.logs(reason).await
        }
    }
}

impl Stage {
    /// Watches and states something of so many roots, again and again until the log says that it is not kept: a full disk
    /// is noticed when the store writes behind.
    async fn acknowledges(&self, roots: usize) {
        let (requests, mut answers) = watch(&self.caller, Some(&self.site.token("sleep"))).await.unwrap();
        let trust = first(&mut answers).await;
        let root = HeldRoot { trust_domain: "cluster.local".to_owned(), digest: vec![0; 32], holding: 1 };
        let acknowledgement = Acknowledgement {
            epoch: trust.epoch,
            sequence: trust.sequence,
            digest: trust.digest,
            roots: vec![root; roots],
            ..Acknowledgement::default()
        };
        eventually("that a statement is not kept", async || {
            requests.send(WatchRequest { acknowledgement: Some(acknowledgement.clone()) }).unwrap();
            self.ca
                .process
                .log()
                .iter()
                .any(|line| line.message() == "acknowledgement not kept")
                .then_some(())
        })
        .await;
    }
}

fn series(place: Place) -> Option<&'static str> {
    match place {
        Place::Certificate => Some("signet_refusals_total"),
        Place::Watch => Some("signet_trust_watches_refused_total"),
        Place::Connection => Some("signet_connections_refused_total"),
        Place::Acknowledgement => Some("signet_acknowledgements_refused_total"),
        Place::CaFiles => Some("signet_cacerts_reloads_total"),
        Place::Operator => None,
    }
}

const PLACES: [Place; 6] = [
    Place::Certificate,
    Place::Watch,
    Place::Connection,
    Place::Acknowledgement,
    Place::CaFiles,
    Place::Operator,
];

async fn counted(monitoring: SocketAddr, place: Place, reason: Reason) {
    let Some(series) = series(place) else { return };
    let name = format!("{series}{{reason=\"{reason}\"}}");
    eventually(&name, async || metric(monitoring, &name).filter(|count| *count >= 1.0)).await;
}

/// `ResourceExhausted` as gRPC writes it.
fn written(code: Code) -> String {
    let mut text = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_uppercase());
    }
    text
}

fn documented_code(reason: Reason) -> String {
    let text = include_str!("../../../deploy/REASONS.md");
    let row = text.lines().find_map(|line| line.strip_prefix(&format!("| `{reason}` | ")));
    row.unwrap_or_else(|| panic!("{reason} has no line")).split(" | ").next().unwrap().to_owned()
}

#[tokio::test]
async fn every_reason_is_produced_over_the_wire_counted_and_documented_with_its_code() {
    let good = Stage::new(&[]).await;
    let produced = futures::stream::iter(Reason::ALL.iter().copied())
        .map(async |reason| (reason, produce(reason, &good).await))
        .buffer_unordered(4)
        .collect::<Vec<_>>();
    let produced = Box::pin(produced).await;
    assert_eq!(produced.len(), Reason::ALL.len());
    for (reason, produced) in produced {
        let monitoring = |stage: &Option<Stage>| stage.as_ref().unwrap_or(&good).ca.monitoring;
        match produced {
            Produced::Answered(status, stage) => {
                assert_eq!(reason_of(&status), reason.code(), "{status}");
                assert_eq!(documented_code(reason), written(status.code()), "{reason}");
                counted(monitoring(&stage), Place::Certificate, reason).await;
            }
            Produced::Logged(stage) => counted(monitoring(&stage), reason.places()[0], reason).await,
            Produced::Otherwise(why) => assert!(why.len() > 20, "{reason}"),
        }
    }
    good.caller.ask(good.site.ask()).await.unwrap();
}

#[tokio::test]
async fn every_reason_has_its_series_from_the_start_and_no_other_has() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let (_, text) = get(ca.monitoring, "/metrics");
    for place in PLACES {
        let Some(series) = series(place) else { continue };
        let mut expected: Vec<_> =
            Reason::at(place).map(|reason| format!("{series}{{reason=\"{reason}\"}} 0")).collect();
        if place == Place::CaFiles {
            expected.push(format!("{series}{{reason=\"TAKEN\"}} 0"));
        }
        let mut found: Vec<_> = text.lines().filter(|line| line.starts_with(series)).collect();
        expected.sort();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_trust_watch_is_refused_for_what_its_evidence_lacks_and_for_want_of_room() {
    let stage = Stage::new(&[("watches", "1")]).await;
    let refused = async |token: Option<&str>, reason: Reason| {
        let status = watch(&stage.caller, token).await.unwrap_err();
        assert_eq!(reason_of(&status), reason.code());
        counted(stage.ca.monitoring, Place::Watch, reason).await;
    };
    refused(None, Reason::TokenMissing).await;
    refused(Some(&stage.site.draft().unsigned()), Reason::TokenAlgorithm).await;
    let good = stage.site.token("sleep");
    let (_requests, mut answers) = watch(&stage.caller, Some(&good)).await.unwrap();
    first(&mut answers).await;
    refused(Some(&good), Reason::OverloadServer).await;
}

#[tokio::test]
async fn a_connection_is_refused_for_want_of_room() {
    for (limit, reason) in
        [("connections", Reason::OverloadServer), ("connections-per-address", Reason::OverloadAddress)]
    {
        let site = Site::default();
        let ca = site.ca(&[(limit, "1")]).await;
        let caller = Caller::to(&site, &ca).await;
        let more = tokio::time::timeout(PATIENCE, Caller::connect(ca.listen, site.tls())).await.unwrap();
        assert!(more.is_err(), "{limit}");
        counted(ca.monitoring, Place::Connection, reason).await;
        caller.ask(site.ask()).await.unwrap();
    }
}
