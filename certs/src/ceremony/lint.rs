//! `certs lint`: whether the CA would load a folder, every fault and note by name, what each client would
//! receive, what changes against another folder, and how fast this issuer signs.
//!
//! The judging is the library's (`cacerts`, `change`), so that the CA says the same. Here it is put together
//! for people and, as JSON, for programs; `lint/text` writes it for people.

mod answer;
mod speed;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use serde::Serialize;
use signet_certs::cacerts::{Fault, Form, Judged, Note};
use signet_certs::change::{self, Verdict};
use thiserror::Error;

use super::read_folder::read_folder;
use answer::Answer;
use speed::Speed;

/// What `lint` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of CA files: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem (and perhaps ca-crl.pem),
    /// or tls.crt, tls.key, ca.crt
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Folder that is loaded now: says what changes, and whether that is safe at once
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Lifetime of leaves; a CA that ends sooner than twice this is pointed out
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = signet_certs::duration::parse)]
    leaf_lifetime: Duration,
    /// For people, or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Why nothing was judged.
#[derive(Debug, Error)]
pub(crate) enum LintError {
    /// A path that is no folder.
    #[error("expected a folder, found none at {}", .0.display())]
    NotFolder(PathBuf),
}

/// The judgement of a folder.
#[derive(Debug, Serialize)]
struct Lint {
    folder: String,
    loads: bool,
    /// Which files it came from; nothing where it does not load.
    form: Option<&'static str>,
    faults: Vec<Fault>,
    notes: Vec<Note>,
    /// What clients receive; nothing where it does not load.
    answer: Option<Answer>,
    /// What changes; nothing unless that was asked.
    change: Option<Change>,
    speed: Option<Speed>,
}

/// What changes against the folder that is loaded now.
#[derive(Debug, Serialize)]
struct Change {
    against: String,
    verdict: Outcome,
    reasons: Vec<Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Nothing changes.
    Same,
    /// Safe at once.
    Safe,
    /// Consumers have to get the new trust first.
    NeedsRotation,
    /// The CA would not take it, and go on with what it has.
    Refused,
    /// The folder to compare with does not load itself.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Reason {
    code: &'static str,
    text: String,
}

/// What was seen, and the exit code: 0 where the folder would load and a change is safe, 1 otherwise.
pub(crate) struct Linted {
    /// To print, in the wanted format.
    pub(crate) output: String,
    /// For scripts.
    pub(crate) code: ExitCode,
}

/// Judges the folder at `now`.
pub(crate) fn run(options: &Options, now: SystemTime) -> Result<Linted, LintError> {
    let lint = judge(options, now)?;
    let good = lint.loads
        && lint.change.as_ref().is_none_or(|change| matches!(change.verdict, Outcome::Same | Outcome::Safe));
    let output = match options.output {
        Format::Text => text::of(&lint),
        Format::Json => {
            serde_json::to_string_pretty(&lint)
                .expect("only a map with other keys than strings has no JSON, and there is none")
                + "\n"
        }
    };
    Ok(Linted { output, code: if good { ExitCode::SUCCESS } else { ExitCode::FAILURE } })
}

fn judge(options: &Options, now: SystemTime) -> Result<Lint, LintError> {
    let judged = judged(&options.folder, now)?;
    let old = options.against.as_deref().map(|old| self::judged(old, now)).transpose()?;
    let change = options.against.as_deref().zip(old).map(|(path, old)| compare(path, &old, &judged));
    let mut notes = judged.notes.clone();
    notes.extend(judged.ends_soon(options.leaf_lifetime, now));
    let loaded = judged.cacerts.as_ref();
    Ok(Lint {
        folder: options.folder.display().to_string(),
        loads: loaded.is_some(),
        form: loaded.map(|cacerts| match cacerts.form {
            Form::Cacerts => "cacerts",
            Form::TlsSecret => "tls_secret",
        }),
        answer: loaded.map(Answer::of),
        speed: loaded.map(|cacerts| Speed::measured(cacerts, speed::MEASURED)),
        faults: judged.faults,
        notes,
        change,
    })
}

fn judged(path: &Path, now: SystemTime) -> Result<Judged, LintError> {
    if !path.is_dir() {
        return Err(LintError::NotFolder(path.to_owned()));
    }
    Ok(Judged::of(&read_folder(path), now))
}

fn compare(path: &Path, old: &Judged, new: &Judged) -> Change {
    let one = |verdict, code, text: &str| (verdict, vec![Reason { code, text: text.to_owned() }]);
    let (verdict, reasons) = match (&old.cacerts, &new.cacerts) {
        (_, None) => {
            one(Outcome::Refused, "DOES_NOT_LOAD", "the folder has faults; the CA goes on with what it has")
        }
        (None, Some(_)) => {
            one(Outcome::Unknown, "OLD_DOES_NOT_LOAD", "the folder to compare with does not load itself")
        }
        (Some(old), Some(new)) => {
            let change = change::compare(old, new);
            let verdict = match change.verdict {
                Verdict::Same => Outcome::Same,
                Verdict::Safe => Outcome::Safe,
                Verdict::NeedsRotation => Outcome::NeedsRotation,
            };
            let reason = |reason: change::Reason| Reason { code: reason.code.name(), text: reason.text };
            (verdict, change.reasons.into_iter().map(reason).collect())
        }
    };
    Change { against: path.display().to_string(), verdict, reasons }
}

#[cfg(test)]
mod tests;
