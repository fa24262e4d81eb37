//! Admission: what is taken at once, in two steps. Before attestation a request has only its address, and
//! nothing that it claims buys anything; after it, a caller waits for its turn to be signed.
//!
//! Whoever is refused learns when to come again. Places are given back by dropping them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

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
    /// As many wait for their turn as may.
    #[error("the queue of requests that wait to be signed is full")]
    Queue,
    /// The turn did not come before the deadline.
    #[error("the deadline passed before the request's turn came")]
    Deadline,
}

impl Overload {
    /// Stable code.
    pub fn reason(self) -> Reason {
        match self {
            Self::Server => Reason::OverloadServer,
            Self::Address => Reason::OverloadAddress,
            Self::Queue => Reason::OverloadQueue,
            Self::Deadline => Reason::OverloadDeadline,
        }
    }

    /// When to come again.
    pub fn retry_after(self) -> Duration {
        HINT
    }
}

/// Counts places per address, up to a bound for one and a bound for all.
#[derive(Debug)]
pub struct PerAddress {
    total: usize,
    each: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// At most `total` places, and `each` for one address.
    pub fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default() })
    }

    /// Takes a place.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Overload> {
        let mut held = self.lock();
        if held.total >= self.total {
            return Err(Overload::Server);
        }
        let of_address = held.by_address.entry(address).or_default();
        if *of_address >= self.each {
            return Err(Overload::Address);
        }
        *of_address += 1;
        held.total += 1;
        Ok(Place { of: self.clone(), address })
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        held.total -= 1;
        if let Some(of_address) = held.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

/// The queue of those who were attested and wait for their turn, first come, first served.
#[derive(Debug)]
pub struct Turns {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
}

/// The right to use the signing pool, to be dropped when the work there has ended.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// As many turns at once as the signing pool has room, and a queue of this length.
    pub fn new(at_once: usize, queue: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once)), waiting: AtomicUsize::new(0), queue }
    }

    /// Waits for a turn, at most until `deadline`.
    pub async fn take(&self, deadline: Instant) -> Result<Turn, Overload> {
        if let Ok(permit) = self.turns.clone().try_acquire_owned() {
            return Ok(Turn { _permit: permit });
        }
        let _waiting = Waiting::begin(&self.waiting, self.queue)?;
        match timeout_at(deadline, self.turns.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit }),
            // The semaphore is never closed; if it were, there would be no turn either.
            Ok(Err(_)) | Err(_) => Err(Overload::Deadline),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize, queue: usize) -> Result<Self, Overload> {
        if waiting.fetch_add(1, Ordering::Relaxed) < queue {
            Ok(Self(waiting))
        } else {
            waiting.fetch_sub(1, Ordering::Relaxed);
            Err(Overload::Queue)
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_bounded_for_one_address_and_for_all_and_come_back() {
        let places = PerAddress::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = places.enter(a).unwrap();
        let _second = places.enter(a).unwrap();
        assert_eq!(places.enter(a).unwrap_err(), Overload::Address);
        let other = places.enter(b).unwrap();
        assert_eq!(places.enter(b).unwrap_err(), Overload::Server);
        drop(first);
        assert_eq!(places.taken(), 2);
        drop(other);
        assert!(!places.lock().by_address.contains_key(&b), "addresses that left are forgotten");
        places.enter(a).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_before_the_deadline_or_is_refused() {
        let turns = Turns::new(1, 1);
        let soon = Instant::now() + Duration::from_secs(1);
        let turn = turns.take(soon).await.unwrap();
        assert_eq!(turns.take(soon).await.unwrap_err(), Overload::Deadline);
        assert_eq!(turns.waiting(), 0);
        let later = Instant::now() + Duration::from_secs(1);
        let waits = turns.take(later);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(turns.take(later).await.unwrap_err(), Overload::Queue);
        drop(turn);
        waits.await.unwrap();
    }
}
