//! Real programs for end-to-end tests: a CA, agents and Envoys in a temporary folder, on ports that the
//! system picks, ended with the test.
//!
//! A test takes a [`site::Site`], starts what it needs there, and talks to it as strangers do: [`caller`]
//! speaks the wire contract with generated stubs, [`sds`] is a sidecar's side of secret discovery, [`http`]
//! and [`openssl`] judge from outside. Waiting is for log lines ([`process`]); where a program has no event
//! for it, [`eventually`] is the one place that polls.

// Only tests run this: a panic is how they fail.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

pub mod agent;
pub mod ca;
pub mod caller;
pub mod crl;
pub mod envoy;
pub mod http;
pub mod openssl;
pub mod process;
pub mod sds;
pub mod site;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until there is an answer; panics with `what` when patience is over. Only for what has no
/// event to wait for.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whole seconds since 1970.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}
