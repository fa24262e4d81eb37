//! `backup` and `restore`.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use signet_certs::clock::rfc3339;

use super::client::{Client, ClientError};
use super::{OperatorError, Output, Target, print, show};
use crate::backup::stream::{Decoder, Frame};
use crate::backup::{BackupError, BackupFolder, Destination, VerifiedBackup, send_stopped};
use crate::data_folder::DataFolder;
use crate::sealing::Sealer;

/// `backup …`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A folder that is empty or not there yet
    dir: PathBuf,
    /// Back up the data folder of a stopped server instead of asking a running one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// `restore …`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup's folder
    backup: PathBuf,
    /// The new data folder, which is empty or not there yet
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The key that the keys in the backup are sealed with
    #[arg(long, env = "SIGNET_KEY_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    key_encryption_key_file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// `backup`
pub async fn backup(target: &Target, args: BackupArgs) -> Result<(), OperatorError> {
    let mut folder = BackupFolder::create(&args.dir)?;
    let records = match args.data {
        Some(data) => send_stopped(&DataFolder::open_stopped(&data)?, &mut folder)?,
        None => {
            let stream = Client::new(&target.admin_socket).post_for_stream("/v1/backup").await?;
            receive(stream, &mut folder).await?
        }
    };
    let manifest = folder.finish(records, SystemTime::now())?;
    let mut shown = serde_json::to_value(&manifest).map_err(OperatorError::Answer)?;
    shown["folder"] = args.dir.display().to_string().into();
    shown["keys"] = manifest
        .keys(&args.dir)?
        .into_iter()
        .map(|(name, sealed)| json!({ "name": name, "sealed": sealed }))
        .collect();
    print(target.output, &shown, show::backup)
}

/// Writes down what the server sends; how many records it says that there are.
async fn receive(mut stream: Incoming, folder: &mut BackupFolder) -> Result<u64, OperatorError> {
    let mut decoder = Decoder::default();
    while let Some(part) = stream.frame().await {
        let part = part.map_err(|error| ClientError::Exchange(error.into()))?;
        decoder.push(part.data_ref().map_or(&[], |data| &data[..]));
        while let Some(frame) = decoder.next()? {
            match frame {
                Frame::File(name) => folder.begin(&name)?,
                Frame::Piece(bytes) => folder.write(&bytes)?,
                Frame::End(records) => return Ok(records),
                Frame::Failed(what) => return Err(BackupError::Server(what).into()),
            }
        }
    }
    Err(BackupError::CutShort.into())
}

/// `restore`
pub async fn restore(args: RestoreArgs) -> Result<(), OperatorError> {
    let sealer = Sealer::from_file(args.key_encryption_key_file.as_deref())?;
    let backup = VerifiedBackup::open(&args.backup)?;
    let restored = backup.restore(&args.data, sealer, SystemTime::now()).await?;
    let shown: Value = json!({
        "folder": args.data.display().to_string(),
        "origin": backup.manifest().log.origin,
        "made_at": backup.manifest().made_at,
        "records": restored.records,
        "epoch": restored.epoch,
        "backed_up": {
            "size": restored.backed_up.size,
            "time": rfc3339(restored.backed_up.time),
            "checkpoint": restored.backed_up.note,
        },
        "checkpoint": restored.checkpoint.note,
    });
    print(args.output, &shown, show::restored)
}
