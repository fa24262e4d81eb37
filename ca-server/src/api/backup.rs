//! `POST /v1/backup` on the operators' socket: the server sends what it keeps, the operator's program writes
//! it down. Only for those who could read the data folder anyway, because private keys are part of it: root
//! and the server's own user, not the admin group. That one was asked for is recorded before anything leaves.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hyper::body::Bytes;
use signet_service::logging::with_causes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::admin::{Peer, failure};
use crate::app::Running;
use crate::backup::send_running;
use crate::backup::stream::StreamDestination;
use crate::issuance_log::{ActEntry, Entry};
use crate::reason::Reason;

/// Frames that wait for a slow reader.
const FRAMES: usize = 8;

/// Answers with a backup as `backup::stream` has it.
pub(super) async fn take(
    State(running): State<Arc<Running>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Response {
    if !may_have_keys(peer, rustix::process::getuid().as_raw()) {
        tracing::warn!(uid = peer.uid, reason = Reason::NotTheOwner.code(), "backup refused");
        let who = "a backup has private keys in it: only root and the server's own user may take one";
        return failure(StatusCode::FORBIDDEN, who.to_owned());
    }
    let act = ActEntry {
        kind: "backup".to_owned(),
        actor: format!("uid:{}", peer.uid),
        subject: "log, state and keys".to_owned(),
        reason: "asked for over the admin socket".to_owned(),
    };
    if let Err(error) = running.issuance.log.append(Entry::act(running.issuance.clock.reckoned(), act)).await
    {
        let what = format!("{}; a stopped server needs no record (--data)", with_causes(&error));
        return failure(StatusCode::SERVICE_UNAVAILABLE, what);
    }
    let (sender, frames) = channel(FRAMES);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || send(&running, &runtime, sender));
    Body::from_stream(ReceiverStream::new(frames).map(Ok::<Bytes, Infallible>)).into_response()
}

fn may_have_keys(peer: Peer, own_uid: u32) -> bool {
    peer.uid == 0 || peer.uid == own_uid
}

fn send(running: &Running, runtime: &Handle, frames: Sender<Bytes>) {
    let mut stream = StreamDestination::new(frames);
    let sent = send_running(
        &running.config.data,
        &running.issuance.log,
        running.store.as_ref(),
        runtime,
        &mut stream,
    );
    let ended = match &sent {
        Ok(records) => stream.end(Ok(*records)),
        Err(error) => stream.end(Err(with_causes(error))),
    };
    match (sent, ended) {
        (Ok(records), Ok(())) => tracing::info!(records, "sent a backup"),
        (Err(error), _) | (_, Err(error)) => tracing::warn!(error = with_causes(&error), "no backup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_our_own_user_get_keys() {
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        assert!(may_have_keys(peer(0, 0), 1000));
        assert!(may_have_keys(peer(1000, 5), 1000));
        assert!(!may_have_keys(peer(1001, 0), 1000));
        assert!(!may_have_keys(peer(u32::MAX, 1000), 1000));
    }
}
