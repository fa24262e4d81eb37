//! Doors for the fuzz targets (`tests/src/fuzzing`): what reads bytes from outside and is private to this
//! crate. No interface for anybody else; it changes with what is behind it.

use clap::Command;
use prost::Message;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_service::settings::Faults;
use tokio::time::Instant;

pub use crate::attestation::fuzzing::{Attestor, Jwks};
use crate::config::{self, Config};
use crate::data_folder::DataFolder;
use crate::issuance_log::{OpenError, Record};
use crate::issue;

/// The configuration in the file `path`, as a server would read it with neither flags nor environment, but
/// without a look at the files that it names.
///
/// # Errors
/// All that must be mended.
pub fn configuration(path: &str) -> Result<Config, Faults> {
    let flags = Command::new("run").args(config::arguments());
    let flags = flags.get_matches_from(["run", "--config", path]);
    config::load_settings(&flags, |_| None)
}

/// What a message of CreateCertificate asks for; without evidence, since there are no headers.
pub fn request(message: IstioCertificateRequest) -> issue::Request {
    crate::api::istio::typed(tonic::Request::new(message), "fuzzing-1".to_owned(), Instant::now())
}

/// Brings the log of a folder into order as [`IssuanceLog::open`](crate::issuance_log::IssuanceLog::open) does,
/// without starting its threads; how many records it has then.
///
/// # Errors
/// It is not in order.
pub fn recovered(folder: &DataFolder) -> Result<u64, OpenError> {
    crate::issuance_log::recovered_size(folder)
}

/// The bytes that a log would keep for this record.
pub fn encoded(record: Record) -> Vec<u8> {
    record.entry.into_proto(&record.log_id, record.index).encode_to_vec()
}
