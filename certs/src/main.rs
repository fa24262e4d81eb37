//! `certs`: the ceremony that makes the CAs of a mesh, and a look into certificate files. It works
//! offline, for people.
//!
//! Here are the command line and the exit codes: 0 done, 1 refused or failed, 2 wrong usage. What the
//! commands do stands in `ceremony/`: start with `authority` for making CAs, `inspect` for looking.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::ceremony::{authority, inspect, lint, workload};

mod ceremony {
    pub(crate) mod authority;
    mod description;
    pub(crate) mod inspect;
    pub(crate) mod lint;
    mod new_files;
    mod options;
    mod read_folder;
    mod root_folder;
    mod text;
    pub(crate) mod workload;
}

/// Makes the CAs of a mesh and shows what certificate files hold. Works offline.
#[derive(Parser)]
#[command(name = "certs", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a self-signed root in a folder that the CA can load
    RootCa(authority::RootOptions),
    /// Make an intermediate under a root, in a folder that the CA can load
    Intermediate(authority::IntermediateOptions),
    /// Make a key and a certificate for a workload that cannot ask a CA; no CA records it
    Workload(workload::Options),
    /// Show certificates, CSRs, bundles, key files (never a key) and cacerts folders
    Inspect(inspect::Options),
    /// Say whether the CA would load a folder, every fault by name, and what clients would receive
    Lint(lint::Options),
}

fn main() -> ExitCode {
    let now = SystemTime::now();
    match Arguments::parse().command {
        Command::RootCa(options) => finish(authority::root(&options, now)),
        Command::Intermediate(options) => finish(authority::intermediate(&options, now)),
        Command::Workload(options) => finish(workload::make(&options, now)),
        Command::Lint(options) => match lint::run(&options, now) {
            Ok(linted) => match print(&linted.output) {
                ExitCode::SUCCESS => linted.code,
                failure => failure,
            },
            Err(error) => {
                complain(&error);
                ExitCode::from(2)
            }
        },
        Command::Inspect(options) => {
            let inspected = inspect::run(&options, now);
            for error in &inspected.errors {
                complain(error);
            }
            let shown = print(&inspected.output);
            if inspected.errors.is_empty() { shown } else { ExitCode::FAILURE }
        }
    }
}

fn finish<E: Error>(result: Result<String, E>) -> ExitCode {
    match result {
        Ok(report) => print(&report),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints without a panic where the reader has gone, as `head` does.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The error with its causes, each once.
fn complain(error: &dyn Error) {
    let mut line = format!("certs: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
}
