//! The operators' socket: HTTP with JSON on a Unix socket of mode 0600, for root, our own user and one
//! configured group. The verbs of `operator/` are its clients.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_certs::name;
use signet_certs::serial::Serial;
use signet_service::logging::with_causes;
use tokio::net::{UnixListener, UnixStream};

use crate::app::Running;
use crate::authority::reload::Wish;
use crate::authority::{issuing, state};
use crate::issuance_log::{Page, ProveError};
use crate::operator::query::RecordQuery;
use crate::reason::Reason;
use crate::trust::consumers::Fact;

/// Consumers in one answer.
const MAX_FACTS: usize = 100_000;

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
}

/// Takes the socket's path: a stale file is replaced, a live server's is refused.
pub fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there"));
        }
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// The routes, behind the check of who calls.
pub fn service(
    running: Arc<Running>,
) -> axum::extract::connect_info::IntoMakeServiceWithConnectInfo<Router, Peer> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/authorities", get(authorities))
        .route("/v1/authorities/{id}", get(authority))
        .route("/v1/consumers", get(consumers))
        .route("/v1/log/records", get(records))
        .route("/v1/log/checkpoint", get(checkpoint))
        .route("/v1/log/verify", post(verify))
        .route("/v1/log/proof/{serial}", get(prove))
        .route("/v1/blocks", get(super::blocks::list).post(super::blocks::add))
        .route("/v1/blocks/{id}/end", post(super::blocks::end))
        .route("/v1/backup", post(super::backup::take))
        .route("/v1/clock/accept", post(accept_clock))
        .layer(middleware::from_fn_with_state(running.config.admin_group, only_operators))
        .with_state(running)
        .into_make_service_with_connect_info::<Peer>()
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        peer(stream.io())
    }
}

fn peer(stream: &UnixStream) -> Peer {
    // A peer that cannot be told is nobody.
    match stream.peer_cred() {
        Ok(credentials) => Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() },
        Err(_) => Peer { uid: u32::MAX, gid: u32::MAX, pid: None },
    }
}

async fn only_operators(
    State(group): State<Option<u32>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if may_operate(peer, rustix::process::getuid().as_raw(), group) {
        return next.run(request).await;
    }
    let reason = Reason::NotAnOperator.code();
    tracing::warn!(uid = peer.uid, gid = peer.gid, reason, "operator refused");
    failure(StatusCode::FORBIDDEN, "only root, the server's own user and its admin group may ask".to_owned())
}

fn may_operate(peer: Peer, own_uid: u32, group: Option<u32>) -> bool {
    peer.uid == 0 || peer.uid == own_uid || group.is_some_and(|group| is_member(peer, group))
}

/// The kernel tells only the peer's first group; the others stand in its process's status.
fn is_member(peer: Peer, group: u32) -> bool {
    let others = || {
        let status = fs::read_to_string(format!("/proc/{}/status", peer.pid?)).ok()?;
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"))?.to_owned();
        Some(groups.split_whitespace().any(|id| id == group.to_string()))
    };
    peer.gid == group || others().unwrap_or(false)
}

#[derive(Debug, Serialize)]
struct Failure {
    error: String,
}

pub(super) fn failure(code: StatusCode, error: String) -> Response {
    (code, Json(Failure { error })).into_response()
}

pub(super) fn internal(error: &dyn std::error::Error) -> Response {
    failure(StatusCode::INTERNAL_SERVER_ERROR, with_causes(error))
}

/// Disk work, away from the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))
}

pub(super) async fn rows(running: &Running) -> Result<Vec<state::Row>, Response> {
    let store = running.store.clone();
    blocking(move || state::list(store.as_ref())).await?.map_err(|error| internal(&error))
}

async fn facts(running: &Running) -> Result<Vec<Fact>, Response> {
    let consumers = running.consumers.clone();
    blocking(move || consumers.list(MAX_FACTS)).await?.map_err(|error| internal(&error))
}

async fn status(State(running): State<Arc<Running>>) -> Response {
    let ready = running.health.check(&running).await;
    let now = running.issuance.clock.reckoned();
    let issuer = running.issuance.issuer.load_full();
    let cacerts = issuer.cacerts();
    let certificate = |certificate: &Certificate| {
        let facts = certificate.facts();
        json!({
            "subject": name::display(&facts.subject),
            "serial": facts.serial.to_string(),
            "not_before": rfc3339(facts.validity.not_before),
            "not_after": rfc3339(facts.validity.not_after),
        })
    };
    let absent = issuing::wanted(cacerts, running.config.issuing_intermediate).err();
    let absent = absent.map(|absent| absent.to_string());
    let trust = running.publisher.current();
    let log = running.issuance.log.stats();
    let keys = running.issuance.attestation.key_sets();
    let consumers = running.consumers.clone();
    let consumers = match blocking(move || consumers.count()).await {
        Ok(Ok(count)) => count,
        Ok(Err(error)) => return internal(&error),
        Err(response) => return response,
    };
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started": rfc3339(running.started),
        "uptime_seconds": now.duration_since(running.started).unwrap_or_default().as_secs(),
        "ready": ready.is_ok(),
        "not_ready_because": ready.err(),
        "clock": running.standing(),
        "trust_domain": running.config.trust_domain.as_str(),
        "cluster": running.config.cluster_id,
        "listen": running.addresses.listen.to_string(),
        "monitoring": running.addresses.monitoring.to_string(),
        "issuer": {
            "id": issuer.id(),
            "key": cacerts.ca.key.kind().to_string(),
            "certificate": certificate(&cacerts.ca.certificate),
            "cacerts": running.config.cacerts.display().to_string(),
            "issuing_intermediate": match (issuer.issuing(), absent) {
                (Some(issuing), _) => certificate(issuing.certificate()),
                (None, absent) => json!({ "absent": absent.unwrap_or_else(|| "not made at present".to_owned()) }),
            },
        },
        "wish": *running.wish.borrow(),
        "expiry": running.forecast(now),
        "roots": cacerts.roots.iter().map(&certificate).collect::<Vec<_>>(),
        "serving": running.serving.leaf().map(|leaf| certificate(&leaf)),
        "trust": {
            "epoch": trust.epoch,
            "sequence": trust.sequence,
            "digest": hex(&trust.digest),
            "trust_domains": trust.bundles.iter().map(|(domain, _)| domain.as_str()).collect::<Vec<_>>(),
        },
        "log": {
            "origin": running.issuance.log.verifier().origin(),
            "records": log.records,
            "checkpoint_size": log.checkpoint_size,
            "indexed": log.indexed_through,
            "poisoned": log.poisoned,
            "last_sync_microseconds": log.last_sync.as_micros() as u64,
        },
        "token_issuers": keys.iter().map(|keys| json!({
            "issuer": keys.issuer,
            "source": keys.source,
            "keys": keys.keys,
            "last_success": keys.last_success.map(rfc3339),
            "last_error": keys.last_error,
        })).collect::<Vec<_>>(),
        "issued": running.metrics.issued_count(),
        "in_flight": running.places.taken(),
        "waiting": running.issuance.turns.waiting(),
        "trust_watches": running.metrics.watches_now(),
        "consumers": consumers,
        "blocks": running.issuance.blocks.count(),
    }))
    .into_response()
}

/// The rows, and behind them what the plugged-in folder asks for in vain.
async fn authorities(State(running): State<Arc<Running>>) -> Response {
    let rows = match rows(&running).await {
        Ok(rows) => rows,
        Err(response) => return response,
    };
    let wish = running.wish.borrow().clone().map(|wish| Listed::Wish { state: "refused", wish });
    Json(rows.into_iter().map(Listed::Row).chain(wish).collect::<Vec<_>>()).into_response()
}

/// A line of `authority list`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Listed {
    Row(state::Row),
    Wish {
        state: &'static str,
        #[serde(flatten)]
        wish: Wish,
    },
}

async fn authority(State(running): State<Arc<Running>>, UrlPath(id): UrlPath<String>) -> Response {
    let rows = match rows(&running).await {
        Ok(rows) => rows,
        Err(response) => return response,
    };
    let mut found: Vec<_> = rows.into_iter().filter(|row| row.id.starts_with(&id)).collect();
    match (found.pop(), found.len()) {
        (Some(row), 0) => Json(row).into_response(),
        (None, _) => failure(StatusCode::NOT_FOUND, format!("there is no authority {id:?}")),
        (Some(_), more) => {
            failure(StatusCode::BAD_REQUEST, format!("{} authorities begin with {id:?}", more + 1))
        }
    }
}

async fn consumers(State(running): State<Arc<Running>>) -> Response {
    match facts(&running).await {
        Ok(facts) => Json(facts).into_response(),
        Err(response) => response,
    }
}

async fn records(State(running): State<Arc<Running>>, Query(query): Query<RecordQuery>) -> Response {
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(what) => return failure(StatusCode::BAD_REQUEST, what),
    };
    let reader = running.issuance.log.reader().clone();
    match blocking(move || reader.records(&filter, query.from, query.page())).await {
        Ok(Ok(page)) => Json(page_json(&page)).into_response(),
        Ok(Err(error)) => internal(&error),
        Err(response) => response,
    }
}

/// A page as operators get it, from a server or from a stopped server's folder.
pub fn page_json(page: &Page) -> Value {
    json!({ "records": page.records, "next": page.next })
}

async fn checkpoint(State(running): State<Arc<Running>>) -> Response {
    match running.issuance.log.checkpoint().await {
        Ok(checkpoint) => Json(json!({ "checkpoint": checkpoint.note })).into_response(),
        Err(error) => internal(&error),
    }
}

#[derive(Debug, Deserialize)]
struct AcceptRequest {
    reason: Option<String>,
}

/// An operator says that the wall clock is right as it is.
async fn accept_clock(
    State(running): State<Arc<Running>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<AcceptRequest>,
) -> Response {
    let reason = request.reason.unwrap_or_else(|| "asked for over the admin socket".to_owned());
    let accepted = running.issuance.clock.accept(&running.issuance.log, format!("uid:{}", peer.uid), reason);
    match accepted.await {
        Ok(stepped) => {
            let by = stepped.map(|stepped| stepped.by.to_string());
            Json(json!({ "accepted": by, "clock": running.standing() })).into_response()
        }
        Err(error) => failure(StatusCode::SERVICE_UNAVAILABLE, with_causes(&error)),
    }
}

#[derive(Debug, Deserialize)]
struct VerifyRequest {
    since: Option<String>,
}

async fn verify(State(running): State<Arc<Running>>, Json(request): Json<VerifyRequest>) -> Response {
    let log = running.issuance.log.clone();
    match blocking(move || log.verify(request.since.as_deref())).await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => failure(StatusCode::CONFLICT, with_causes(&error)),
        Err(response) => response,
    }
}

async fn prove(State(running): State<Arc<Running>>, UrlPath(serial): UrlPath<String>) -> Response {
    let Some(serial) = Serial::parse(&serial) else {
        return failure(StatusCode::BAD_REQUEST, "a serial number is written in hex digits".to_owned());
    };
    let log = &running.issuance.log;
    match log.prove(serial.as_bytes()).await {
        Ok(proof) => Json(json!({ "proof": proof, "vkey": log.verifier().vkey() })).into_response(),
        Err(error @ ProveError::NotFound) => failure(StatusCode::NOT_FOUND, error.to_string()),
        Err(error) => internal(&error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_is_ours_alone_and_a_live_one_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(bind(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists(), "a crash leaves the file");
        bind(&path, None).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert_eq!(bind(&file, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }

    #[test]
    fn root_our_user_and_one_group_may_operate() {
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        assert!(may_operate(peer(0, 0), 1000, None));
        assert!(may_operate(peer(1000, 5), 1000, None));
        assert!(!may_operate(peer(1001, 5), 1000, None));
        assert!(may_operate(peer(1001, 5), 1000, Some(5)));
        assert!(!may_operate(peer(1001, 5), 1000, Some(6)));
    }
}
