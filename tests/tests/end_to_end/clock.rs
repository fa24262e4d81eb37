//! A wall clock that is set while the CA runs, or while it does not. The machine's clock is nobody's to set, so
//! the server runs in this process, by clocks that a test can shift; it is asked over its ports as ever.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use signet_ca_server::{app, config};
use signet_proto::signet::trust::v1::WatchRequest;
use signet_proto::signet::trust::v1::trust_distribution_client::TrustDistributionClient;
use signet_service::clock_watch::{Clocks, MachineClocks, Reading};
use signet_tests::harness::ca::{done, failed, records};
use signet_tests::harness::caller::{Ask, Caller, reason};
use signet_tests::harness::http::{self, metric};
use signet_tests::harness::site::{ISSUER, Site, token_issuer};
use signet_tests::harness::{eventually, unix_now};
use signet_tests::programs::program;
use signet_tests::token_issuer::{KEY_SET_FILE, Subject};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_types::StatusExt;

pub(crate) const HOUR: i64 = 3600;

/// The machine's clocks, with a wall clock that is off by so many seconds.
#[derive(Debug, Default)]
pub(crate) struct Shifted(AtomicI64);

impl Shifted {
    pub(crate) fn by(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clocks for Shifted {
    fn read(&self) -> Reading {
        let reading = MachineClocks.read();
        Reading { wall: shifted(reading.wall, self.0.load(Ordering::SeqCst)), ..reading }
    }
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

/// A server in this process.
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    monitoring: SocketAddr,
    pub(crate) admin: PathBuf,
    end: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), app::AppError>>,
}

impl Server {
    pub(crate) async fn start(site: &Site, clocks: &Arc<Shifted>, changes: &[&str]) -> Self {
        let path = |name: &str| site.path(name).display().to_string();
        let flags = [
            format!("--cacerts={}", path("cacerts")),
            format!("--jwks={}", path(KEY_SET_FILE)),
            format!("--token-issuer={ISSUER}"),
            format!("--data={}", path("data")),
            "--listen=127.0.0.1:0".to_owned(),
            "--monitoring=127.0.0.1:0".to_owned(),
        ];
        let flags = ["run".to_owned()].into_iter().chain(flags);
        let flags = flags.chain(changes.iter().map(|change| (*change).to_owned()));
        let matches = clap::Command::new("run").args(config::arguments()).get_matches_from(flags);
        let config = config::load(&matches, |_| None, true).unwrap();
        let admin = config.admin_socket.clone();
        let (end, wanted) = oneshot::channel::<()>();
        let end_wanted = async {
            let _ = wanted.await;
            Ok("the test")
        };
        let mut ended = tokio::spawn(app::run_until(config, clocks.clone(), end_wanted));
        let socket = admin.clone();
        let up = eventually("the server answers operators", async || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        tokio::select! {
            _ = up => {}
            ended = &mut ended => panic!("the server ended: {ended:?}"),
        }
        let status = tokio::task::block_in_place(|| http::get_json(&admin, "/v1/status"));
        let address = |key: &str| status[key].as_str().unwrap().parse().unwrap();
        Self { listen: address("listen"), monitoring: address("monitoring"), admin, end, ended }
    }

    pub(crate) async fn stop(self) {
        self.end.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
    }

    fn operator(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("ca-server"));
        let command = command.env_clear().env("SIGNET_ADMIN_SOCKET", &self.admin).args(arguments);
        tokio::task::block_in_place(|| command.output().unwrap())
    }

    fn records(&self) -> Vec<Value> {
        records(self.operator(&["log", "list", "-o", "json"]))
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        tokio::task::block_in_place(|| metric(self.monitoring, name)).unwrap()
    }

    async fn becomes(&self, code: u16, text: &str) {
        eventually(text, async || {
            let answer = tokio::task::block_in_place(|| http::get(self.monitoring, "/ready"));
            (answer.0 == code && answer.1.contains(text)).then_some(())
        })
        .await;
    }
}

/// A good request of a workload whose token was made at that time.
fn ask_at(site: &Site, time: SystemTime) -> Ask {
    let subject = Subject::new("default", "sleep");
    let draft = token_issuer().draft(ISSUER, "istio-ca", &subject, time);
    site.ask_for(&token_issuer().sign(&draft).unwrap())
}

/// Asks for a certificate, which is refused on account of the clock.
async fn is_refused(site: &Site, caller: &Caller) {
    let status = caller.ask(site.ask()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "CLOCK_STEPPED"));
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() >= Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_issues_nothing_until_it_is_back() {
    let (site, clocks) = (Site::default(), Arc::<Shifted>::default());
    let server = Server::start(&site, &clocks, &[]).await;
    let caller = Caller::connect(server.listen, site.tls()).await.unwrap();
    caller.ask(site.ask()).await.unwrap();
    server.becomes(200, "ready").await;
    let before = server.records();
    // Within the margin nobody is disturbed.
    clocks.by(9);
    caller.ask(site.ask()).await.unwrap();
    clocks.by(0);
    for jump in [HOUR, -HOUR, 400 * 24 * HOUR] {
        clocks.by(jump);
        // The very next request, whether or not anybody has looked at the clock since.
        is_refused(&site, &caller).await;
        let mut trust = TrustDistributionClient::new(caller.channel());
        let watch = trust.watch(tokio_stream::iter([WatchRequest::default()])).await.unwrap_err();
        assert_eq!((watch.code(), reason(&watch).as_str()), (Code::Unavailable, "CLOCK_STEPPED"));
        server.becomes(503, "the wall clock was stepped by").await;
        assert_eq!(server.metric("signet_clock_steady"), 0.0);
        assert!((server.metric("signet_clock_step_seconds") - jump as f64).abs() < 1.0);
        assert!(server.metric("citadel_server_cert_chain_expiry_seconds") > 0.0, "by what it should say");
        let (code, _) = failed(&server.operator(&["status"]));
        assert_eq!(code, 1);
        let shown = server.operator(&["clock", "show"]);
        assert!(String::from_utf8(shown.stdout).unwrap().contains("NOT BELIEVED, stepped by"));
        clocks.by(0);
        caller.ask(site.ask()).await.unwrap();
        server.becomes(200, "ready").await;
        assert_eq!(server.metric("signet_clock_steady"), 1.0);
        assert_eq!(server.metric("signet_clock_step_seconds"), 0.0);
    }
    assert!(server.metric("signet_refusals_total{reason=\"CLOCK_STEPPED\"}") >= 3.0);
    // Neither our own certificate nor an act is dated by a clock that jumped.
    let after = server.records();
    let leaves = after[before.len()..].iter().filter(|record| record["profile"] == "workload").count();
    assert_eq!((after.len() - before.len(), leaves), (4, 4), "{after:#?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_accepts_a_clock_that_was_set_back_and_certificates_are_dated_by_it() {
    let (site, clocks) = (Site::default(), Arc::<Shifted>::default());
    // Started an hour ahead: nobody takes its own certificate yet.
    clocks.by(HOUR);
    let server = Server::start(&site, &clocks, &[]).await;
    Caller::connect(server.listen, site.tls()).await.unwrap_err();
    clocks.by(0);
    server.becomes(503, "it is behind the log").await;
    let accepted = done(server.operator(&["clock", "accept", "--reason", "the hardware clock was wrong"]));
    assert!(accepted.contains("a step of -3600.0s is accepted"), "{accepted}");
    let act = server.records().into_iter().find(|record| record["act"] == json!("clock-accepted"));
    let act = act.unwrap_or_else(|| panic!("{:#?}", server.records())).to_string();
    for part in ["uid:", "-3600.0s", "the hardware clock was wrong"] {
        assert!(act.contains(part), "{part:?} is not in {act}");
    }
    // Its own certificate is of a time that is not yet, and made anew at once.
    let connect = async || Caller::connect(server.listen, site.tls()).await.ok();
    let caller = eventually("the serving certificate is renewed", connect).await;
    let issued = caller.ask(site.ask()).await.unwrap();
    assert!(
        (issued.validity().0 - (unix_now() - 120)).abs() < 60,
        "two minutes before the time that it is now"
    );
    let again = done(server.operator(&["clock", "accept"]));
    assert!(again.contains("believed") && !again.contains("accepted"), "{again}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_put_right_is_believed_by_itself_after_it_has_settled() {
    let (site, clocks) = (Site::default(), Arc::<Shifted>::default());
    let server = Server::start(&site, &clocks, &["--clock-settle=1s"]).await;
    let caller = Caller::connect(server.listen, site.tls()).await.unwrap();
    server.becomes(200, "ready").await;
    clocks.by(HOUR);
    is_refused(&site, &caller).await;
    let issued = eventually("the clock is accepted", async || {
        caller.ask(ask_at(&site, shifted(SystemTime::now(), HOUR))).await.ok()
    })
    .await;
    assert!((issued.validity().0 - (unix_now() + HOUR - 120)).abs() < 60);
    let acts = server.records().into_iter().filter(|record| record["act"] == json!("clock-accepted"));
    let acts: Vec<_> = acts.collect();
    assert!(acts.len() == 1 && acts[0]["actor"] == json!("ca-server"), "{acts:#?}");
    server.becomes(200, "ready").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_behind_the_log_at_the_start_issues_nothing_until_it_is_right() {
    let (site, clocks) = (Site::default(), Arc::<Shifted>::default());
    // A minute: a certificate of that time is valid now as well, so that we get in to be refused.
    clocks.by(60);
    let server = Server::start(&site, &clocks, &[]).await;
    server.stop().await;
    clocks.by(0);
    let server = Server::start(&site, &clocks, &[]).await;
    let caller = Caller::connect(server.listen, site.tls()).await.unwrap();
    is_refused(&site, &caller).await;
    server.becomes(503, "it is behind the log").await;
    clocks.by(60);
    caller.ask(site.ask_for(&site.token("sleep"))).await.unwrap();
    server.becomes(200, "ready").await;
    server.stop().await;
}
