//! Proof that a record is in the log: the record, its path to the root, and a checkpoint that signs the root.
//!
//! Whoever holds a proof and the log's verifier key needs nothing else, and trusts nobody else.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use tlog_tiles::{Hash, check_record, prove_record, record_hash};

use super::checkpoint::{CheckpointError, LogVerifier, SignedCheckpoint};
use super::index::IndexError;
use super::read::LogReader;
use super::record::{Record, RecordError};
use super::segments::SegmentError;
use super::signer::SignError;
use super::tree::{StoredHashes, hashes_path};

/// A proof, to be kept or sent as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The bytes of the record, as base64.
    pub record: String,
    /// Its place in the log.
    pub index: u64,
    /// Size of the tree that the path leads through; that of the checkpoint.
    pub tree_size: u64,
    /// RFC 6962 audit path from the leaf up: 32 bytes each, as base64.
    pub audit_path: Vec<String>,
    /// The signed note.
    pub checkpoint: String,
}

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// No record has this serial number.
    #[error("no certificate with this serial number is recorded")]
    NotFound,
    /// The record could not be looked up.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No checkpoint covers the record, and none could be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The record cannot be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The hashes cannot be read.
    #[error("cannot read the hashes of the log")]
    Hashes(#[source] io::Error),
    /// The hashes do not go as far as the checkpoint.
    #[error("cannot make the audit path of record {index}")]
    Path {
        /// Which record.
        index: u64,
        /// What the tree said.
        #[source]
        source: tlog_tiles::Error,
    },
    /// The program is ending.
    #[error("cannot finish the proof")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A field is not base64, or has a wrong length.
    #[error("the proof has no valid {0}")]
    Field(&'static str),
    /// The checkpoint is not the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The path does not lead from the record to the checkpoint's root.
    #[error("the proof does not lead from record {index} to the root of the checkpoint")]
    Path {
        /// Which record.
        index: u64,
        /// What the tree said.
        #[source]
        source: tlog_tiles::Error,
    },
    /// What was proven is no record.
    #[error("what the proof proves cannot be read")]
    Record(#[source] RecordError),
}

/// Proves the record `index`, which `checkpoint` covers.
pub(super) fn prove(
    reader: &LogReader,
    index: u64,
    checkpoint: &SignedCheckpoint,
) -> Result<Proof, ProveError> {
    let body = reader.body(index)?.ok_or(ProveError::NotFound)?;
    let hashes = StoredHashes::open(&hashes_path(reader.dir())).map_err(ProveError::Hashes)?;
    let path =
        prove_record(checkpoint.size, index, &hashes).map_err(|source| ProveError::Path { index, source })?;
    Ok(Proof {
        record: BASE64.encode(body),
        index,
        tree_size: checkpoint.size,
        audit_path: path.iter().map(|hash| BASE64.encode(hash.0)).collect(),
        checkpoint: checkpoint.note.clone(),
    })
}

/// Checks a proof and gives the record that it proves.
///
/// # Errors
/// It proves nothing to whoever trusts `verifier`.
pub fn check_proof(proof: &Proof, verifier: &LogVerifier) -> Result<Record, CheckError> {
    let checkpoint = SignedCheckpoint::verify(&proof.checkpoint, verifier)?;
    if checkpoint.size != proof.tree_size {
        return Err(CheckError::Field("tree size: it is not the checkpoint's"));
    }
    let body = BASE64.decode(&proof.record).map_err(|_| CheckError::Field("record"))?;
    let path = proof
        .audit_path
        .iter()
        .map(|hash| BASE64.decode(hash).ok().and_then(|hash| hash.try_into().ok()).map(Hash))
        .collect::<Option<Vec<Hash>>>()
        .ok_or(CheckError::Field("audit path"))?;
    check_record(&path, checkpoint.size, Hash(checkpoint.root), proof.index, record_hash(&body))
        .map_err(|source| CheckError::Path { index: proof.index, source })?;
    let record = Record::decode(&body).map_err(CheckError::Record)?;
    if record.index != proof.index || record.log_id != verifier.log_id() {
        return Err(CheckError::Field("record: it belongs elsewhere"));
    }
    Ok(record)
}
