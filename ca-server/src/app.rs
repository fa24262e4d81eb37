//! The server put together: what starts in which order, what runs, what ends.
//!
//! Everything that can be wrong is found before anything is served. The order of the end is that of the
//! beginning turned round: no new connections, requests in flight, then the log.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use signet_certs::cacerts::CA_CRL;
use signet_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use signet_proto::signet::trust::v1::trust_distribution_server::TrustDistributionServer;
use signet_service::clock_watch::{Clocks, MachineClocks};
use signet_service::logging::with_causes;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::api::admission::{Crowd, Failures, Parking, Turns, turns};
use crate::api::entrance::Entrance;
use crate::api::headers::RequestIds;
use crate::api::health_checks::HealthChecks;
use crate::api::istio::CertificateService;
use crate::api::refusals::Refusals;
use crate::api::trust_watch::TrustService;
use crate::api::{admin, listener, monitoring};
use crate::attestation::client_certificate::ClientCertificates;
use crate::attestation::{Attestation, AttestationSetupError};
use crate::authority::expiry::{self, Forecast, Warner};
use crate::authority::kept::Kept;
use crate::authority::pool::SigningPool;
use crate::authority::reload::{self, Authorities, Issuing, TakeError, Wish};
use crate::authority::serving::{ServingCertificate, ServingError};
use crate::authority::signers::Signers;
use crate::authority::start::{self, StartError};
use crate::authority::state::{self, StateError};
use crate::authority::wish::Rules;
use crate::authority::{Issuer, follow, loader};
use crate::blocks::{BlockError, Blocks};
use crate::clock::{self, Clock, Standing};
use crate::config::Config;
use crate::data_folder::{self, DataFolder, DataFolderError};
use crate::file_handles;
use crate::health::Health;
use crate::issuance_log::{self, IssuanceLog};
use crate::issue::Issuance;
use crate::metrics::Metrics;
use crate::sealing::{KekError, Sealer};
use crate::shutdown;
use crate::store::{SledStore, Store, StoreError};
use crate::trust;
use crate::trust::consumers::Consumers;
use crate::trust::publisher::{PublishError, Publisher};

/// Largest request, in bytes: a CSR of the largest size and its wrapping.
const MAX_REQUEST: usize = 64 * 1024;
/// Largest set of headers, in bytes: a token of the largest size and its company.
const MAX_HEADERS: u32 = 32 * 1024;
/// Requests at once on one connection.
const MAX_STREAMS: u32 = 1024;
/// Connections end after this time, so that clients see new serving certificates.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Of the places for requests, those for refusals that are held back.
const PARKED: usize = 8;
/// How often gRPC's health is told; each look writes and syncs a small file.
const HEALTH_EVERY: Duration = Duration::from_secs(5);
/// How often it is noted how far blocks have come.
const MARK_EVERY: Duration = Duration::from_secs(60);

/// Why the server did not start, or ended.
#[derive(Debug, Error)]
pub enum AppError {
    /// The data folder cannot be used.
    #[error("opening the data folder")]
    DataFolder(#[from] DataFolderError),
    /// The key that seals keys cannot be used.
    #[error("preparing to seal keys")]
    Kek(#[from] KekError),
    /// The store cannot be used.
    #[error("opening the store")]
    Store(#[from] StoreError),
    /// The issuance log cannot be used.
    #[error("opening the issuance log")]
    Log(#[from] issuance_log::OpenError),
    /// Who is blocked is not known.
    #[error("reading who is blocked")]
    Blocks(#[from] BlockError),
    /// There is no CA to start with.
    #[error("loading the CA")]
    Start(#[from] StartError),
    /// The trust object's version is unknown.
    #[error("publishing the trust bundles")]
    Publish(#[from] PublishError),
    /// The authorities cannot be read.
    #[error("reading the authorities")]
    State(#[from] StateError),
    /// The authority cannot be kept or recorded.
    #[error("activating the authority")]
    Activate(#[from] TakeError),
    /// Tokens cannot be verified.
    #[error("preparing to verify tokens")]
    Attestation(#[from] AttestationSetupError),
    /// There is no serving certificate.
    #[error("preparing the serving certificate")]
    Serving(#[from] ServingError),
    /// TLS cannot be set up.
    #[error("setting up TLS")]
    Tls(#[from] rustls::Error),
    /// An address or socket cannot be listened on.
    #[error("listening on {0}")]
    Listen(String, #[source] io::Error),
    /// gRPC ended with an error.
    #[error("serving gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// Threads or signals are not to be had.
    #[error("asking the system for threads and signals")]
    System(#[source] io::Error),
}

/// What runs, for those who look at it.
pub struct Running {
    /// When it started.
    pub started: SystemTime,
    /// As configured, with the ports that were really taken.
    pub addresses: Addresses,
    /// As configured.
    pub config: Config,
    /// The issuing sequence.
    pub issuance: Arc<Issuance>,
    /// Places for requests.
    pub places: Arc<Crowd>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The trust object.
    pub publisher: Arc<Publisher>,
    /// What consumers say.
    pub consumers: Consumers,
    /// Our own certificate.
    pub serving: Arc<ServingCertificate>,
    /// The last answer of readiness.
    pub health: Health,
    /// State.
    pub store: Arc<dyn Store>,
    /// What the plugged-in folder asks for in vain.
    pub wish: watch::Receiver<Option<Wish>>,
}

impl Running {
    /// When our certificates end.
    pub fn forecast(&self, now: SystemTime) -> Vec<Forecast> {
        expiry::forecast(&self.issuance.issuer.load(), self.serving.leaf().as_ref(), now)
    }

    /// How the clock stands.
    pub fn standing(&self) -> Standing {
        self.issuance.clock.standing(self.issuance.log.latest_checkpoint().time)
    }
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Issuing.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub monitoring: SocketAddr,
    /// Operators.
    pub admin: PathBuf,
}

/// Threads for connections and tokens: half of the cores, because the signing pool has as many threads as
/// cores, and threads that take turns on a core cost more than they bring.
pub fn runtime_threads() -> usize {
    cores().div_ceil(2)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Which CA a server with this configuration would begin with, for people. Nothing is opened.
pub fn would_begin_with(config: &Config) -> String {
    let (data, cacerts) = (config.data.display(), config.cacerts.display());
    if data_folder::has_authority(&config.data) {
        format!(
            "it would begin with the CA that is active in {data}; {cacerts} is a wish, judged against that"
        )
    } else if loader::read(&config.cacerts).is_empty() {
        format!("nothing is plugged in at {cacerts}: it would make a self-signed CA in {data}")
    } else {
        format!("it would begin with the CA in {cacerts}")
    }
}

/// Runs the server until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), AppError> {
    run_until(config, Arc::new(MachineClocks), shutdown::requested()).await
}

/// Runs the server by these clocks until `end`, which says what asked for it.
pub async fn run_until(
    mut config: Config,
    clocks: Arc<dyn Clocks>,
    end: impl Future<Output = io::Result<&'static str>>,
) -> Result<(), AppError> {
    file_handles::ask_for(&config.limits);
    let mut domains = BTreeSet::from([config.trust_domain.clone()]);
    domains.extend(config.token_issuers.iter().map(|issuer| issuer.trust_domain.clone()));
    let attestation = Attestation::new(std::mem::take(&mut config.token_issuers))?;

    let sealer = Sealer::from_file(config.key_encryption_key_file.as_deref())?;
    let folder = DataFolder::open(&config.data)?.sealed_by(sealer);
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&folder.state_dir())?);
    let watched = Arc::new(clock::resume(clocks, store.as_ref())?);
    let options = issuance_log::Options { clock: watched.clone(), ..issuance_log::Options::default() };
    let log = Arc::new(IssuanceLog::open(&folder, store.clone(), &options)?);
    let clock = Arc::new(Clock::new(watched, config.clock_settle));
    // What is made at the start is dated by it too: the newest the log knows of, if the clock is behind that.
    let started = clock.reckoned();
    let metrics = Arc::new(Metrics::default());
    let blocks = Arc::new(Blocks::open(store.clone(), log.clone(), longest_life(&config))?);
    let uncounted = blocks.clone();
    tokio::task::spawn_blocking(move || uncounted.count_unknown(started));

    let kept = Kept::new(folder.path(), folder.sealer());
    let plugged = loader::read(&config.cacerts);
    let active = state::active(store.as_ref())?;
    let start =
        start::choose(active.as_ref(), &kept, &plugged, &config.cacerts, &config.trust_domain, started)?;
    reload::tell_notes(&start.cacerts);
    loader::tell_of_readable_key(&config.cacerts);
    let bundles = trust::same_for_all(&domains, &start.cacerts.roots);
    let publisher = Arc::new(Publisher::open(store.as_ref(), bundles, start.cacerts.crls(), started)?);
    let issuing = Issuing {
        mode: config.issuing_intermediate,
        organization: config.trust_domain.to_string(),
        lifetime: config.lifetimes.default,
        store: store.clone(),
    };
    if active.is_some() {
        issuing.assume(&start.cacerts, started)?;
    }
    // Plugged-in CRLs would have to wait for the end of whatever it signs.
    let crls_come = start.cacerts.crl.is_none() && plugged.contains(CA_CRL);
    let issuing_ca = if crls_come {
        None
    } else {
        match issuing.make(&start.cacerts, &log, &publisher.current(), started).await {
            Err(_) if !start.signs => None,
            made => made?,
        }
    };
    let issuer = Arc::new(Issuer::new(start.cacerts, issuing_ca, publisher.current()));
    reload::activate(&kept, store.clone(), &log, issuer.clone(), start.source, started).await?;
    let issuer = Arc::new(ArcSwap::from(issuer));
    let serving = Arc::new(ServingCertificate::new(config.serving.clone(), issuer.clone()));
    match serving.renew(&log, started).await {
        // Nobody can connect until there is a successor, and it is tried again.
        Err(error) if !start.signs => {
            tracing::error!(error = with_causes(&error), "serving certificate not made");
        }
        made => made?,
    }

    let mut authorities = Authorities {
        folder: config.cacerts.clone(),
        rules: Rules { domains, serving: config.serving.clone() },
        issuing,
        kept,
        store: store.clone(),
        log: log.clone(),
        publisher: publisher.clone(),
        serving: serving.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        issuer: issuer.clone(),
        source: start.source,
        wish: watch::Sender::new(None),
        put_off: false,
        crls_wait: false,
    };
    let seen = plugged.digest();
    authorities.consider(plugged).await;
    let wish = authorities.wish.subscribe();
    let folders = follow::follow(config.cacerts.clone(), seen).map_err(AppError::System)?;

    let issuing = bind(config.listen).await?;
    let observing = bind(config.monitoring).await?;
    let operating = admin::bind(&config.admin_socket, config.admin_group)
        .map_err(|error| AppError::Listen(config.admin_socket.display().to_string(), error))?;
    let local = |listener: &TcpListener| listener.local_addr().map_err(AppError::System);
    let addresses = Addresses {
        listen: local(&issuing)?,
        monitoring: local(&observing)?,
        admin: config.admin_socket.clone(),
    };

    // One more than there are turns: readiness is asked about while the server is busy, too.
    let pool = SigningPool::start(cores(), turns::MOST * cores() + 1).map_err(AppError::System)?;
    let client_certificates = config.renewal_by_certificate.map(|max_age| {
        let signers = Signers::new(issuer.clone(), store.clone());
        ClientCertificates::new(max_age, log.clone(), signers)
    });
    let issuance = Arc::new(Issuance {
        clock,
        attestation,
        client_certificates,
        blocks,
        turns: Turns::new(cores(), config.limits.queue),
        lifetimes: config.lifetimes,
        issuer,
        pool,
        log,
    });
    let running = Arc::new(Running {
        started,
        addresses,
        issuance,
        places: Crowd::new(config.limits.in_flight, config.limits.in_flight_per_address),
        metrics,
        publisher,
        consumers: Consumers::new(store.clone()),
        serving,
        health: Health::default(),
        store,
        wish,
        config,
    });
    let authorities = tokio::spawn(authorities.run(folders));
    let served = serve(running.clone(), issuing, observing, operating, end).await;
    authorities.abort();
    served?;

    let (log, blocks) = (running.issuance.log.clone(), running.issuance.blocks.clone());
    // Blocks for the last batch and its checkpoint.
    let close = move || {
        mark(&blocks);
        log.close();
    };
    let _ = tokio::task::spawn_blocking(close).await;
    drop(folder);
    Ok(())
}

/// No certificate in the log that has not ended is older, unless configuration allowed longer ones before: an
/// issuing intermediate lives four default lifetimes, and an hour at the least.
fn longest_life(config: &Config) -> Duration {
    const CONTRACT: Duration = Duration::from_secs(90 * 86_400);
    config.lifetimes.maximum.max(config.lifetimes.default * 4).max(CONTRACT)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|error| AppError::Listen(address.to_string(), error))
}

async fn serve(
    running: Arc<Running>,
    issuing: TcpListener,
    observing: TcpListener,
    operating: tokio::net::UnixListener,
    end: impl Future<Output = io::Result<&'static str>>,
) -> Result<(), AppError> {
    let (stop, stopped) = watch::channel(false);
    let ends = |stopped: watch::Receiver<bool>| async move { shutdown::begun(stopped).await };
    let Addresses { listen, monitoring, admin } = &running.addresses;
    let (health_reporter, health_service) = tonic_health::server::health_reporter();

    let background = [
        tokio::spawn(renew_serving(running.clone())),
        tokio::spawn(refresh_keys(running.clone())),
        tokio::spawn(report_health(running.clone(), health_reporter)),
        tokio::spawn(warn_of_expiry(running.clone())),
        tokio::spawn(watch_clock(running.clone())),
        tokio::spawn(mark_blocks(running.clone())),
    ];
    let monitor = axum::serve(observing, monitoring::router(running.clone()));
    let monitor = tokio::spawn(monitor.with_graceful_shutdown(ends(stopped.clone())).into_future());
    let operators = axum::serve(operating, admin::service(running.clone()));
    let operators = tokio::spawn(operators.with_graceful_shutdown(ends(stopped.clone())).into_future());

    let (accepted, connections) = listener::ready();
    let tls = listener::tls_config(running.serving.clone())?;
    let limits = running.config.limits;
    let accepting =
        tokio::spawn(listener::accept_forever(issuing, tls, limits, running.metrics.clone(), accepted));
    let ids = Arc::new(RequestIds::new(std::process::id()));
    let refusals = Arc::new(Refusals::new(
        running.metrics.clone(),
        Failures::new(limits.failures_per_address),
        Parking::new(limits.in_flight / PARKED, limits.park),
    ));
    let certificates = IstioCertificateServiceServer::new(CertificateService {
        issuance: running.issuance.clone(),
        metrics: running.metrics.clone(),
        refusals: refusals.clone(),
    });
    let certificates = Entrance {
        inner: certificates.max_decoding_message_size(MAX_REQUEST),
        places: running.places.clone(),
        ids: ids.clone(),
        refusals: refusals.clone(),
        metrics: running.metrics.clone(),
        deadline: limits.deadline,
    };
    let trust = TrustDistributionServer::new(TrustService {
        issuance: running.issuance.clone(),
        publisher: running.publisher.clone(),
        consumers: running.consumers.clone(),
        ids,
        metrics: running.metrics.clone(),
        refusals,
        places: Crowd::new(limits.watches, limits.watches_per_address),
        stopped: stopped.clone(),
    });
    let grpc = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_connection_age(CONNECTION_AGE)
        .add_service(certificates)
        .add_service(trust.max_decoding_message_size(MAX_REQUEST))
        .add_service(HealthChecks(health_service))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), ends(stopped.clone()));
    let mut grpc = tokio::spawn(grpc);

    tracing::info!(addr = %monitoring, "monitoring listening");
    tracing::info!(path = %admin.display(), "admin listening");
    tracing::info!(addr = %listen, issuer = running.issuance.issuer.load().id(), "issuing listening");

    let ended_early = tokio::select! {
        signal = end => {
            let signal = signal.map_err(AppError::System)?;
            tracing::info!(signal, "draining");
            None
        }
        ended = &mut grpc => Some(ended),
    };
    let _ = stop.send(true);
    accepting.abort();
    let ended = match ended_early {
        Some(ended) => ended,
        None => match tokio::time::timeout(running.config.drain, &mut grpc).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!("requests were still in flight when the time to drain was over");
                grpc.abort();
                Ok(Ok(()))
            }
        },
    };
    for task in background {
        task.abort();
    }
    monitor.abort();
    operators.abort();
    // A socket file that stays would look like a server.
    let _ = std::fs::remove_file(admin);
    tracing::info!("stopped");
    ended.map_or(Ok(()), |served| Ok(served?))
}

async fn renew_serving(running: Arc<Running>) {
    running.serving.renew_forever(&running.issuance.log, &running.issuance.clock).await;
}

async fn refresh_keys(running: Arc<Running>) {
    running.issuance.attestation.refresh_forever().await;
}

async fn warn_of_expiry(running: Arc<Running>) {
    let look = || running.issuance.clock.now().ok().map(|now| running.forecast(now));
    Warner::default().run(look).await;
}

async fn watch_clock(running: Arc<Running>) {
    running.issuance.clock.run(&running.issuance.log, &running.store).await;
}

/// So that a start after a crash reads no more of the log than a minute's worth for them.
async fn mark_blocks(running: Arc<Running>) {
    let mut ticks = tokio::time::interval(MARK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let blocks = running.issuance.blocks.clone();
        let _ = tokio::task::spawn_blocking(move || mark(&blocks)).await;
    }
}

fn mark(blocks: &Blocks) {
    if let Err(error) = blocks.mark() {
        tracing::warn!(error = with_causes(&error), "how far the rows of blocks have come is not noted");
    }
}

/// Tells gRPC's health service what readiness says, every few seconds.
async fn report_health(running: Arc<Running>, reporter: tonic_health::server::HealthReporter) {
    let mut ticks = tokio::time::interval(HEALTH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if running.health.check(&running).await.is_ok() {
            reporter.set_serving::<IstioCertificateServiceServer<CertificateService>>().await;
            reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        } else {
            reporter.set_not_serving::<IstioCertificateServiceServer<CertificateService>>().await;
            reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        }
    }
}
