//! Admission: what is taken at once, in two steps. Before attestation a request has only its address, and
//! nothing that it claims buys anything: [`Crowd`] bounds what stands at a door, [`Failures`] what an address
//! may get wrong. After it a caller waits for its turn to be signed: [`Turns`], in the order of [`order`].
//!
//! Whoever is refused learns when to come again; [`Parking`] holds those who could not read that. Places are
//! given back by dropping them.

pub mod crowd;
pub mod failures;
pub mod order;
pub mod parking;
pub mod turns;

use std::time::Duration;

use thiserror::Error;

pub use self::crowd::{Crowd, Place};
pub use self::failures::Failures;
pub use self::order::{Asker, Need};
pub use self::parking::Parking;
pub use self::turns::{Turn, Turns};

use crate::reason::Reason;

/// When to come again, at the least; clients add their own jitter.
const HINT: Duration = Duration::from_secs(1);

/// Why a request is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Overload {
    /// The server has as many requests as it takes.
    #[error("as many requests are in flight as the server takes")]
    Server,
    /// The address has as many requests as it may.
    #[error("as many requests are in flight as one address may have")]
    Address,
    /// The address has sent too many tokens that were refused.
    #[error("too many requests of the address could not be attested")]
    Failures,
    /// The message was not there when its place was needed for others.
    #[error("the message had not come when its place was needed")]
    Slow,
    /// As many wait for their turn as may, and all of them before this one.
    #[error("the queue of requests that wait to be signed is full")]
    Queue,
    /// The turn did not come before the deadline, or would not.
    #[error("the request's turn does not come before its deadline")]
    Deadline,
}

impl Overload {
    /// Stable code.
    pub fn reason(self) -> Reason {
        match self {
            Self::Server => Reason::OverloadServer,
            Self::Address => Reason::OverloadAddress,
            Self::Failures => Reason::OverloadFailures,
            Self::Slow => Reason::OverloadSlow,
            Self::Queue => Reason::OverloadQueue,
            Self::Deadline => Reason::OverloadDeadline,
        }
    }

    /// When to come again.
    pub fn retry_after(self) -> Duration {
        HINT
    }
}
