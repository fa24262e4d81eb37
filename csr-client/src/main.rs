//! `csr-client`: the agent and its helpers. The library holds everything; here are only the commands.

use clap::{Arg, ArgGroup, ArgMatches, Command};
use signet_csr_client::config::{self, Config, Purpose};
use signet_csr_client::secret::{self, View};
use signet_csr_client::{agent, fetch};
use signet_service::core_dumps;
use signet_service::logging::{self, Logging};
use signet_service::settings::Faults;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

type Outcome = Result<(), Box<dyn Error>>;

/// How long `secret` waits for its answer.
const LOOK: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    if let Err(error) = core_dumps::forbid() {
        eprintln!("csr-client: core dumps cannot be forbidden: {error}");
    }
    let matches = command().get_matches();
    // A second TLS provider anywhere in the tree would otherwise be found out only at the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One worker: the work is a few calls a day, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            match matches.subcommand() {
                Some(("run", flags)) => run(flags).await,
                Some(("fetch", flags)) => fetch(flags).await,
                Some(("secret", flags)) => secret(flags).await,
                // clap lets nothing else through.
                _ => Ok(()),
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("csr-client: {}", logging::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let output = Arg::new("output")
        .short('o')
        .long("output")
        .value_name("FORMAT")
        .value_parser(["table", "json"])
        .default_value("table")
        .help("How to print");
    Command::new("csr-client")
        .about("Gets, renews and serves workload certificates")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("run").about("Run the agent").args(config::arguments()))
        .subcommand(
            Command::new("fetch")
                .about("Get one certificate and show it")
                .args(config::arguments())
                .arg(output.clone()),
        )
        .subcommand(
            Command::new("secret")
                .about("Show what a sidecar holds")
                .arg(
                    Arg::new("sds_socket")
                        .long("sds-socket")
                        .value_name("PATH")
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("Look from the agent's socket"),
                )
                .arg(
                    Arg::new("envoy_admin")
                        .long("envoy-admin")
                        .value_name("ADDR")
                        .help("Look from an Envoy's admin port, host:port"),
                )
                .group(ArgGroup::new("view").args(["sds_socket", "envoy_admin"]).required(true))
                .arg(output),
        )
}

async fn run(flags: &ArgMatches) -> Outcome {
    let (config, _logging) = load(flags, Purpose::Run)?;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let signals = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        signals.cancel();
    });
    Ok(agent::run(&config, stop).await?)
}

async fn fetch(flags: &ArgMatches) -> Outcome {
    let (config, _logging) = load(flags, Purpose::Fetch)?;
    let fetched = fetch::fetch(&config).await?;
    if json(flags) {
        println!("{}", serde_json::to_string_pretty(&fetched)?);
    } else {
        println!("{fetched}");
    }
    Ok(())
}

async fn secret(flags: &ArgMatches) -> Outcome {
    let socket = flags.get_one::<PathBuf>("sds_socket").cloned().map(View::Socket);
    let envoy = flags.get_one::<String>("envoy_admin").cloned().map(View::Envoy);
    let view = socket.or(envoy).ok_or("--sds-socket or --envoy-admin is needed")?;
    let dump = secret::look(&view, LOOK).await?;
    if json(flags) {
        println!("{}", dump.to_json());
    } else {
        print!("{}", dump.to_table(SystemTime::now()));
    }
    Ok(())
}

/// The log is written for as long as its guard is held.
fn load(flags: &ArgMatches, purpose: Purpose) -> Result<(Config, Logging), Faults> {
    let config = config::load(flags, |name| std::env::var(name).ok(), purpose)?;
    let logging = logging::start(config.log);
    Ok((config, logging))
}

fn json(flags: &ArgMatches) -> bool {
    flags.get_one::<String>("output").is_some_and(|format| format == "json")
}
