//! `/v1/blocks` on the operators' socket: who is blocked, and changes of that. What is named is held against
//! what this CA knows, so that a slip of the pen is an answer and not a block of nobody.

use std::sync::Arc;

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use signet_certs::digest::hex;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::SpiffeId;
use signet_service::logging::with_causes;

use super::admin::{Peer, blocking, failure, internal, rows};
use crate::app::Running;
use crate::blocks::{BlockError, Order, Target};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    kind: String,
    value: String,
    reason: String,
}

/// Why a block is to end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ending {
    reason: String,
}

pub(super) async fn list(State(running): State<Arc<Running>>) -> Response {
    let blocks = running.issuance.blocks.clone();
    match blocking(move || blocks.list()).await {
        Ok(Ok(blocks)) => Json(blocks).into_response(),
        Ok(Err(error)) => internal(&error),
        Err(response) => response,
    }
}

pub(super) async fn add(
    State(running): State<Arc<Running>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let target = match Target::parse(&wanted.kind, &wanted.value) {
        Ok(target) => target,
        Err(what) => return failure(StatusCode::BAD_REQUEST, what),
    };
    let target = match known(&running, target).await {
        Ok(target) => target,
        Err(response) => return response,
    };
    match running.issuance.blocks.add(target, order(&running, peer, wanted.reason)).await {
        Ok(added) => Json(added).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn end(
    State(running): State<Arc<Running>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(id): UrlPath<String>,
    Json(ending): Json<Ending>,
) -> Response {
    let Ok(id) = id.parse() else {
        return failure(
            StatusCode::BAD_REQUEST,
            format!("{id:?} is not the id of a block, which is a number"),
        );
    };
    match running.issuance.blocks.end(id, order(&running, peer, ending.reason)).await {
        Ok(block) => Json(block).into_response(),
        Err(error) => refused(&error),
    }
}

fn order(running: &Running, peer: Peer, reason: String) -> Order {
    Order { actor: format!("uid:{}", peer.uid), reason, now: running.issuance.clock.reckoned() }
}

fn refused(error: &BlockError) -> Response {
    let code = match error {
        BlockError::Reason => StatusCode::BAD_REQUEST,
        BlockError::NotFound(_) => StatusCode::NOT_FOUND,
        BlockError::Full => StatusCode::CONFLICT,
        BlockError::Record(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(code, with_causes(error))
}

/// The target as it is kept, if anything here can be meant by it.
async fn known(running: &Running, target: Target) -> Result<Target, Response> {
    match target {
        Target::Identity(identity) => {
            let trust = running.publisher.current();
            let ours = SpiffeId::parse(&identity).is_ok_and(|identity| {
                trust.bundles.iter().any(|(trust_domain, _)| trust_domain == identity.trust_domain())
            });
            if ours {
                return Ok(Target::Identity(identity));
            }
            let what = format!("{identity} is in no trust domain of this CA, which never issues it");
            Err(failure(StatusCode::BAD_REQUEST, what))
        }
        Target::Serial(serial) => first_of_chain(running, &serial).await,
        Target::IssuerKey(id) => {
            let issuer = running.issuance.issuer.load_full();
            let in_memory = issuer.issuing().map(|issuing| hex(&issuing.certificate().key_id()));
            let known =
                in_memory.as_ref() == Some(&id) || rows(running).await?.iter().any(|row| row.id == id);
            if known {
                return Ok(Target::IssuerKey(id));
            }
            let what = format!("no authority here has the key id {id}: authority list shows them");
            Err(failure(StatusCode::NOT_FOUND, what))
        }
        Target::Pod(_) | Target::Node(_) => Ok(target),
    }
}

/// The serial that a certificate's chain of renewals began with: all of the chain is one holder's.
async fn first_of_chain(running: &Running, serial: &str) -> Result<Target, Response> {
    let bytes = Serial::parse(serial).unwrap_or_else(|| Serial::from_bytes(&[]));
    let record = match running.issuance.log.certificate(bytes.as_bytes()).await {
        Ok(record) => record,
        Err(error) => return Err(internal(&error)),
    };
    let Some(certificate) = record.as_ref().and_then(|record| record.certificate()) else {
        let what = format!("no certificate with the serial number {serial} is recorded here");
        return Err(failure(StatusCode::NOT_FOUND, what));
    };
    if certificate.profile != "workload" {
        let what = format!("{serial} is the {} certificate of the CA itself", certificate.profile);
        return Err(failure(StatusCode::BAD_REQUEST, what));
    }
    let first = certificate.evidence.renewal.as_ref().map_or(&certificate.serial, |renewal| &renewal.first);
    Ok(Target::Serial(Serial::from_bytes(first).to_string()))
}
