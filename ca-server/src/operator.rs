//! The operator's verbs: a thin client of a running server's admin socket, and of a stopped server's
//! folder where that can answer too. Tables for people, `-o json` for programs.
//!
//! Exit codes: 0 done, 1 the answer is no (not ready, the log or a backup does not verify, no such thing), 2 it
//! could not be asked or done.

pub mod backup;
pub mod block;
pub mod query;

mod client;
mod show;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use thiserror::Error;

use self::client::{Client, ClientError};
use self::query::RecordQuery;
use crate::api::admin::page_json;
use crate::backup::{BackupError, RestoreError};
use crate::data_folder::{DataFolder, DataFolderError};
use crate::issuance_log::{self, LogReader, LogVerifier};
use crate::sealing::KekError;

/// Where to ask, and how to print.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The running server's socket
    #[arg(
        long,
        global = true,
        env = "SIGNET_ADMIN_SOCKET",
        value_name = "PATH",
        default_value = "/var/lib/signet/admin.sock"
    )]
    admin_socket: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `authority …`
#[derive(Debug, Subcommand)]
pub enum AuthorityVerb {
    /// List the CA keys that were ever active here
    List,
    /// Show one, with its chain
    Show {
        /// Its id, or the beginning of it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

/// `log …`
#[derive(Debug, Subcommand)]
pub enum LogVerb {
    /// List records, oldest first
    List {
        /// Which records.
        #[command(flatten)]
        query: Box<RecordQuery>,
        /// Where from.
        #[command(flatten)]
        folder: Folder,
    },
    /// Read everything again and check it against the hashes and the signed checkpoint
    Verify {
        /// A file with an earlier checkpoint, which the log must continue
        #[arg(long, value_name = "CHECKPOINT")]
        since: Option<PathBuf>,
        /// Where from.
        #[command(flatten)]
        folder: Folder,
    },
    /// Prove that a certificate is in the log
    Prove {
        /// Its serial number in hex
        #[arg(long, value_name = "HEX", value_parser = NonEmptyStringValueParser::new())]
        serial: String,
    },
    /// Print a signed checkpoint of now, to be kept elsewhere
    Checkpoint,
}

/// `clock …`
#[derive(Debug, Subcommand)]
pub enum ClockVerb {
    /// Show whether the wall clock is believed; exit code 1 if it is not
    Show,
    /// Say that the wall clock is right as it is; recorded as an act
    Accept {
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// A stopped server's folder.
#[derive(Debug, Args)]
pub struct Folder {
    /// Read the data folder of a stopped server instead of asking a running one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Why a verb has no answer.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The server did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The stopped server's folder cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// The log in it cannot be read.
    #[error("reading the log")]
    Read(#[from] issuance_log::ReadError),
    /// Its public key cannot be read.
    #[error("reading the log's public key")]
    Key(#[from] issuance_log::VerifierKeyError),
    /// It does not verify.
    #[error("the log does not verify")]
    Verify(#[from] issuance_log::VerifyError),
    /// A proof that the server gave proves nothing.
    #[error("the server's proof does not hold")]
    Proof(#[from] issuance_log::CheckError),
    /// There is no backup.
    #[error("taking a backup")]
    Backup(#[from] BackupError),
    /// The backup is not restored.
    #[error("restoring a backup")]
    Restore(#[from] RestoreError),
    /// The key that keys are sealed with cannot be used.
    #[error("preparing to open sealed keys")]
    Kek(#[from] KekError),
    /// A flag's value is no good.
    #[error("{0}")]
    Flag(String),
    /// A file cannot be read.
    #[error("reading {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The answer is not what this program knows.
    #[error("the server's answer was not understood")]
    Answer(#[source] serde_json::Error),
    /// Nobody reads the output.
    #[error("printing")]
    Print(#[from] io::Error),
}

impl OperatorError {
    /// 1 where the answer is no, 2 where there is none.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused { .. }) | Self::Verify(_) | Self::Proof(_) => 1,
            Self::Restore(error) if error.is_of_the_backup() => 1,
            _ => 2,
        }
    }
}

/// `status`; answers whether the server is ready.
pub async fn status(target: &Target) -> Result<bool, OperatorError> {
    let status = Client::new(&target.admin_socket).get("/v1/status").await?;
    print(target.output, &status, show::status)?;
    Ok(status["ready"] == json!(true))
}

/// `authority …`
pub async fn authority(target: &Target, verb: AuthorityVerb) -> Result<(), OperatorError> {
    let client = Client::new(&target.admin_socket);
    match verb {
        AuthorityVerb::List => print(target.output, &client.get("/v1/authorities").await?, show::authorities),
        AuthorityVerb::Show { id } => {
            let path = format!("/v1/authorities/{}", client::escaped(&id));
            print(target.output, &client.get(&path).await?, show::authority)
        }
    }
}

/// `log …`
pub async fn log(target: &Target, verb: LogVerb) -> Result<(), OperatorError> {
    let client = Client::new(&target.admin_socket);
    match verb {
        LogVerb::List { query, folder } => {
            let query = query.resolved(SystemTime::now()).map_err(OperatorError::Flag)?;
            match folder.data {
                None => {
                    list(target, query, async |query: &RecordQuery| {
                        client.get_with("/v1/log/records", query).await.map_err(Into::into)
                    })
                    .await
                }
                Some(path) => {
                    let folder = DataFolder::open_stopped(&path)?;
                    let reader = LogReader::of_stopped(&folder.log_dir())?;
                    let filter = query.filter().map_err(OperatorError::Flag)?;
                    list(target, query, async |query: &RecordQuery| {
                        Ok(page_json(&reader.records(&filter, query.from, query.page())?))
                    })
                    .await
                }
            }
        }
        LogVerb::Verify { since, folder } => {
            let since = since.map(|path| read(&path)).transpose()?;
            let report = match folder.data {
                None => client.post("/v1/log/verify", &json!({ "since": since })).await?,
                Some(path) => {
                    let folder = DataFolder::open_stopped(&path)?;
                    let verifier = LogVerifier::of_folder(&folder.log_dir())?;
                    let report = issuance_log::verify(&folder.log_dir(), &verifier, since.as_deref())?;
                    serde_json::to_value(report).map_err(OperatorError::Answer)?
                }
            };
            print(target.output, &report, show::verified)
        }
        LogVerb::Prove { serial } => {
            let path = format!("/v1/log/proof/{}", client::escaped(&serial));
            let answer = client.get(&path).await?;
            // Checked here as well: a proof is for those who do not trust the server.
            let proof: issuance_log::Proof =
                serde_json::from_value(answer["proof"].clone()).map_err(OperatorError::Answer)?;
            let vkey = answer["vkey"].as_str().unwrap_or_default();
            let record = issuance_log::check_proof(&proof, &LogVerifier::parse(vkey)?)?;
            let record = serde_json::to_value(record).map_err(OperatorError::Answer)?;
            let shown = json!({ "proof": answer["proof"], "vkey": vkey, "record": record });
            print(target.output, &shown, show::proof)
        }
        LogVerb::Checkpoint => {
            let answer = client.get("/v1/log/checkpoint").await?;
            print(target.output, &answer, |answer, out| {
                out.write_all(answer["checkpoint"].as_str().unwrap_or_default().as_bytes())
            })
        }
    }
}

/// `clock …`; answers whether the clock is believed.
pub async fn clock(target: &Target, verb: ClockVerb) -> Result<bool, OperatorError> {
    let client = Client::new(&target.admin_socket);
    let answer = match verb {
        ClockVerb::Show => json!({ "clock": client.get("/v1/status").await?["clock"] }),
        ClockVerb::Accept { reason } => client.post("/v1/clock/accept", &json!({ "reason": reason })).await?,
    };
    print(target.output, &answer, show::clock)?;
    Ok(answer["clock"]["steady"] == json!(true))
}

/// Page by page, so that neither side holds the whole log. JSON is one record a line.
async fn list(
    target: &Target,
    mut query: RecordQuery,
    page: impl AsyncFn(&RecordQuery) -> Result<Value, OperatorError>,
) -> Result<(), OperatorError> {
    let mut table = show::Records::default();
    let mut left = if query.limit == 0 { usize::MAX } else { query.limit };
    let mut out = io::stdout().lock();
    loop {
        let answer = page(&query).await?;
        for record in answer["records"].as_array().into_iter().flatten() {
            match target.output {
                Output::Json => writeln!(out, "{record}")?,
                Output::Table => table.row(record, &mut out)?,
            }
            left -= 1;
        }
        match answer["next"].as_u64() {
            Some(next) if left > 0 => query.from = next,
            _ => return Ok(()),
        }
        query.limit = if left == usize::MAX { 0 } else { left };
    }
}

fn print(
    output: Output,
    value: &Value,
    table: impl FnOnce(&Value, &mut dyn Write) -> io::Result<()>,
) -> Result<(), OperatorError> {
    let mut out = io::stdout().lock();
    match output {
        Output::Table => table(value, &mut out)?,
        Output::Json => writeln!(out, "{value:#}")?,
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, OperatorError> {
    std::fs::read_to_string(path).map_err(|error| OperatorError::File(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Command;
    use clap::error::ErrorKind;

    #[test]
    fn an_empty_id_or_serial_is_refused_before_it_asks_for_something_else() {
        let refused = |verbs: Command, words: &[&str]| verbs.try_get_matches_from(words).unwrap_err().kind();
        let authority = || AuthorityVerb::augment_subcommands(Command::new("authority"));
        assert_eq!(refused(authority(), &["authority", "show", ""]), ErrorKind::InvalidValue);
        assert!(authority().try_get_matches_from(["authority", "show", "a b"]).is_ok());
        let log = LogVerb::augment_subcommands(Command::new("log"));
        assert_eq!(refused(log, &["log", "prove", "--serial", ""]), ErrorKind::InvalidValue);
    }
}
