//! `ca-server`: the server, and the operator's verbs as a client of a running one.

use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::fs::Mode;
use signet_ca_server::operator::backup::{self, BackupArgs, RestoreArgs};
use signet_ca_server::operator::block::{self, BlockVerb};
use signet_ca_server::operator::{self, AuthorityVerb, ClockVerb, LogVerb, OperatorError, Target};
use signet_ca_server::{app, config};
use signet_service::core_dumps;

#[derive(Parser)]
#[command(name = "ca-server", version, about = "Signet's certificate authority")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the server
    Run(Settings),
    /// Read and check the configuration and everything it names; start nothing
    Check(Settings),
    /// How the running server stands; exit code 1 if it is not ready
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// The CA keys
    Authority {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: AuthorityVerb,
    },
    /// The issuance log
    Log {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: LogVerb,
    },
    /// Who gets no certificate any more
    Block {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: BlockVerb,
    },
    /// The wall clock, which is not believed after a step
    Clock {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: ClockVerb,
    },
    /// Copy what cannot be made again (log, keys, state) into a folder, and verify the copy
    Backup {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: BackupArgs,
    },
    /// Verify a backup and put it into a new data folder
    Restore {
        #[command(flatten)]
        args: RestoreArgs,
    },
}

/// Filled from the table of settings.
#[derive(Args)]
struct Settings {}

fn main() -> ExitCode {
    if let Err(error) = core_dumps::forbid() {
        eprintln!("ca-server: core dumps cannot be forbidden: {error}");
    }
    // Nothing that we write is for others, but what says so itself: the admin socket of a group.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let command = Cli::command().mut_subcommand("run", with_settings).mut_subcommand("check", with_settings);
    let matches = command.get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.verb {
        Verb::Run(_) | Verb::Check(_) => {
            // The subcommand was just matched.
            let Some((verb, flags)) = matches.subcommand() else { return ExitCode::from(2) };
            match config::load(flags, |name| std::env::var(name).ok(), verb == "run") {
                Ok(config) if verb == "check" => {
                    println!("the configuration and everything it names are in order");
                    println!("{}", app::would_begin_with(&config));
                    ExitCode::SUCCESS
                }
                Ok(config) => run(config),
                Err(refused) => fail(&refused.faults, if refused.only_files { 1 } else { 2 }),
            }
        }
        Verb::Status { target } => ask(async { operator::status(&target).await }),
        Verb::Authority { target, verb } => {
            ask(async { operator::authority(&target, verb).await.map(|()| true) })
        }
        Verb::Log { target, verb } => ask(async { operator::log(&target, verb).await.map(|()| true) }),
        Verb::Block { target, verb } => ask(async { block::block(&target, verb).await.map(|()| true) }),
        Verb::Clock { target, verb } => ask(async { operator::clock(&target, verb).await }),
        Verb::Backup { target, args } => ask(async { backup::backup(&target, args).await.map(|()| true) }),
        Verb::Restore { args } => ask(async { backup::restore(args).await.map(|()| true) }),
    }
}

fn with_settings(command: Command) -> Command {
    command.args(config::arguments())
}

fn run(config: config::Config) -> ExitCode {
    let _log = signet_service::logging::start(config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(app::runtime_threads())
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(app::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn ask(answer: impl Future<Output = Result<bool, OperatorError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 2),
    };
    match runtime.block_on(answer) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever reads us, such as `head`, has seen enough.
        Err(OperatorError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// The error and its causes, one a line, on standard error.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("ca-server: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        eprintln!("  because: {cause}");
        next = cause.source();
    }
    ExitCode::from(code)
}
