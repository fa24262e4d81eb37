//! Validity: how long a certificate is good, set by us and never past any certificate above it.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::clock::{rfc3339, whole_seconds};

/// How far NotBefore lies back, so that a peer whose clock is a little behind accepts a fresh leaf.
pub const BACKDATE: Duration = Duration::from_secs(120);

/// From NotBefore to NotAfter, both inclusive and in whole seconds (RFC 5280, 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First good second.
    pub not_before: SystemTime,
    /// Last good second.
    pub not_after: SystemTime,
}

/// Why no validity can be given, or why a certificate is not good now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValidityError {
    /// The last good second of the certificate, or of one above it, is over.
    #[error("ended at {}", rfc3339(*.0))]
    Ended(SystemTime),
    /// The first good second of the certificate, or of one above it, is yet to come.
    #[error("is not valid before {}", rfc3339(*.0))]
    NotYet(SystemTime),
    /// Less than a second.
    #[error("a lifetime of at least one second was expected")]
    Empty,
}

impl Validity {
    /// Whether `now` lies within.
    pub fn at(&self, now: SystemTime) -> Result<(), ValidityError> {
        let now = whole_seconds(now);
        if now > self.not_after {
            Err(ValidityError::Ended(self.not_after))
        } else if now < self.not_before {
            Err(ValidityError::NotYet(self.not_before))
        } else {
            Ok(())
        }
    }
}

/// A leaf's validity: from [`BACKDATE`] before `now` to `lifetime` after it, cut to the earliest NotAfter
/// of `above` (issuer, intermediates, root). An ended or not yet valid certificate above is an error.
pub fn leaf(
    now: SystemTime,
    lifetime: Duration,
    above: impl IntoIterator<Item = Validity>,
) -> Result<Validity, ValidityError> {
    if lifetime.as_secs() == 0 {
        return Err(ValidityError::Empty);
    }
    let now = whole_seconds(now);
    let mut not_after = now + Duration::from_secs(lifetime.as_secs());
    for validity in above {
        validity.at(now)?;
        not_after = not_after.min(validity.not_after);
    }
    if not_after <= now {
        return Err(ValidityError::Ended(not_after));
    }
    Ok(Validity { not_before: now - BACKDATE, not_after })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::from_unix;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: i64 = 1_800_000_000;

    fn member(from: i64, to: i64) -> Validity {
        Validity { not_before: from_unix(NOW + from), not_after: from_unix(NOW + to) }
    }

    #[test]
    fn case_24_a_leaf_ends_exactly_with_the_earliest_member_of_its_chain() {
        let now = from_unix(NOW);
        let root = member(-10, 9_000);
        let free = leaf(now, HOUR, [root]).unwrap();
        assert_eq!(free, Validity { not_before: now - BACKDATE, not_after: now + HOUR });
        let clamped = leaf(now, HOUR, [root, member(-10, 1_800)]).unwrap();
        assert_eq!(clamped.not_after, from_unix(NOW + 1_800));
        assert_eq!(
            leaf(now, HOUR, [root, member(-10, -1)]),
            Err(ValidityError::Ended(from_unix(NOW - 1))),
            "an expired issuer never signs"
        );
        assert_eq!(leaf(now, HOUR, [member(1, 99)]), Err(ValidityError::NotYet(from_unix(NOW + 1))));
        assert_eq!(leaf(now, HOUR, [member(-10, 0)]), Err(ValidityError::Ended(from_unix(NOW))));
    }

    #[test]
    fn case_23_there_is_no_leaf_without_length() {
        assert_eq!(leaf(from_unix(NOW), Duration::from_millis(999), []), Err(ValidityError::Empty));
    }

    #[test]
    fn both_ends_are_inclusive() {
        let validity = member(0, 10);
        assert_eq!(validity.at(from_unix(NOW)), Ok(()));
        assert_eq!(validity.at(from_unix(NOW + 10) + Duration::from_millis(999)), Ok(()));
        assert!(validity.at(from_unix(NOW + 11)).is_err());
        assert!(validity.at(from_unix(NOW - 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_leaf_outlives_anything_above_it(
            lifetime in 1_u64..10_000_000,
            ends in proptest::collection::vec(-100_i64..10_000_000, 0..4),
        ) {
            let above: Vec<_> = ends.iter().map(|end| member(-1_000, *end)).collect();
            match leaf(from_unix(NOW), Duration::from_secs(lifetime), above.clone()) {
                Ok(validity) => {
                    prop_assert!(above.iter().all(|member| validity.not_after <= member.not_after));
                    prop_assert!(validity.not_after > from_unix(NOW));
                    prop_assert!(validity.not_after <= from_unix(NOW) + Duration::from_secs(lifetime));
                }
                Err(_) => prop_assert!(ends.iter().any(|end| *end <= 0)),
            }
        }
    }
}
