//! A few seconds of `make soak`: reloads, a restart and a kill, slow clients and bad input, and nothing is lost.

use std::time::Duration;

use signet_tests::load::soak::{Plan, run};

#[tokio::test]
async fn everything_at_once_for_a_few_seconds_loses_nothing() {
    let plan = Plan { rate: 50, ..Plan::of(Duration::from_secs(12)) };
    let mut rows = Vec::new();
    let faults = Box::pin(run(&plan, |row| rows.push(row))).await.unwrap();
    assert!(faults.is_empty(), "{faults:#?}\n{}", rows.join("\n"));
    assert!(rows.last().unwrap().ends_with("lives of the CA 3"), "one restart and one kill: {rows:#?}");
}
