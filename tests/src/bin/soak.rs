//! `soak`: everything at once for MINUTES (30), with a row for each; `make soak` calls it. Exit code 1 if anything grew,
//! failed or was lost that should not.

use std::process::ExitCode;
use std::time::Duration;

use signet_tests::load::Failure;
use signet_tests::load::soak::{Plan, run};

fn main() -> ExitCode {
    match soak() {
        Ok(faults) if faults.is_empty() => {
            println!("soak: good");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in faults {
                println!("soak: {fault}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(1)
        }
    }
}

fn soak() -> Result<Vec<String>, Failure> {
    let minutes: f64 = match std::env::var("MINUTES") {
        Ok(text) => text.parse().map_err(|_| format!("MINUTES: expected a number, found {text:?}"))?,
        Err(_) => 30.0,
    };
    if !(0.1..=24.0 * 60.0).contains(&minutes) {
        return Err(format!("MINUTES: expected 0.1 to 1440, found {minutes}").into());
    }
    let plan = Plan::of(Duration::from_secs_f64(minutes * 60.0));
    println!(
        "{} requests a second for {:.0} s; CA files changed every {:.0} s, the CA restarted or killed every {:.0} s",
        plan.rate,
        plan.time.as_secs_f64(),
        plan.reload.as_secs_f64(),
        plan.restart.as_secs_f64(),
    );
    // One thread for the clients: the programs have the rest of the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&plan, |line| println!("{line}")))
}
