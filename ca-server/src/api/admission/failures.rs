//! What an address may get wrong: each failed attestation costs it, and whoever has spent its share is refused
//! before its next token is looked at. The share comes back with time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Overload;
use super::crowd::Source;

/// So many seconds' worth can be spent at once.
const BURST: u32 = 10;
/// Addresses that are remembered: about 3 MB.
const REMEMBERED: usize = 1 << 16;

/// Failed attestations by address.
#[derive(Debug)]
pub struct Failures {
    /// One failure is forgiven after this time.
    each: Duration,
    /// What stands against an address may take this long to be forgiven.
    most: Duration,
    /// When everything that stands against an address will have been forgiven.
    forgiven: Mutex<HashMap<Source, Instant>>,
}

impl Failures {
    /// An address may fail so often a second, and ten times as often at once.
    pub fn new(per_second: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, most: each * per_second.saturating_mul(BURST), forgiven: Mutex::default() }
    }

    /// Whether the address may try once more.
    pub fn may_try(&self, address: IpAddr, now: Instant) -> Result<(), Overload> {
        let forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        let against = forgiven.get(&address.into()).map_or(Duration::ZERO, |until| *until - now);
        if against > self.most - self.each { Err(Overload::Failures) } else { Ok(()) }
    }

    /// The address has failed.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        // Those with least against them are forgotten first.
        for at_least in [Duration::ZERO, self.most / 2, self.most] {
            if forgiven.len() >= REMEMBERED {
                forgiven.retain(|_, until| *until > now + at_least);
            }
        }
        let until = forgiven.entry(address.into()).or_insert(now);
        *until = (*until).max(now) + self.each;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        number.to_be_bytes().into()
    }

    #[test]
    fn an_address_that_has_spent_its_share_is_refused_until_some_of_it_is_forgiven() {
        let (failures, now) = (Failures::new(2), Instant::now());
        for _ in 0..20 {
            assert_eq!(failures.may_try(address(1), now), Ok(()));
            failures.failed(address(1), now);
        }
        assert_eq!(failures.may_try(address(1), now), Err(Overload::Failures));
        assert_eq!(failures.may_try(address(2), now), Ok(()));
        let later = now + Duration::from_millis(500);
        assert_eq!(failures.may_try(address(1), later), Ok(()));
        failures.failed(address(1), later);
        assert_eq!(failures.may_try(address(1), later), Err(Overload::Failures));
        assert_eq!(failures.may_try(address(1), later + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn as_many_addresses_are_remembered_as_there_is_room_for_and_the_worst_the_longest() {
        let (failures, now) = (Failures::new(1), Instant::now());
        for _ in 0..10 {
            failures.failed(address(0), now);
        }
        for number in 1..=2 * REMEMBERED as u32 {
            failures.failed(address(number), now);
        }
        assert!(failures.forgiven.lock().unwrap_or_else(PoisonError::into_inner).len() <= REMEMBERED);
        assert_eq!(failures.may_try(address(0), now), Err(Overload::Failures));
    }
}
