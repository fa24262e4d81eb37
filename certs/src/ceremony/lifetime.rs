//! Lifetimes as people type them: a number and its unit, such as `3650d` or `12h`.

use std::time::Duration;

use thiserror::Error;

const DAY: u64 = 86_400;
/// A hundred years: far enough for any CA, and far from the end of what certificates can express.
const LONGEST: u64 = 36_500 * DAY;

/// Why a text is no lifetime.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LifetimeError {
    /// Not a number with a unit.
    #[error("expected a whole number with d, h, m or s behind it, such as 3650d")]
    Form,
    /// Zero, or too much.
    #[error("expected at least 1s and at most 36500d")]
    Bounds,
}

/// Reads a lifetime in days (`d`), hours (`h`), minutes (`m`) or seconds (`s`).
pub(crate) fn parse(text: &str) -> Result<Duration, LifetimeError> {
    let units = [('d', DAY), ('h', 3600), ('m', 60), ('s', 1)];
    let (number, seconds) = units
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or(LifetimeError::Form)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LifetimeError::Form);
    }
    // Only digits: what does not parse is too large.
    let number: u64 = number.parse().map_err(|_| LifetimeError::Bounds)?;
    match number.checked_mul(seconds) {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err(LifetimeError::Bounds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        for (text, seconds) in [("3650d", 3650 * DAY), ("12h", 43_200), ("90m", 5_400), ("1s", 1)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_lifetime_is_refused() {
        for bad in ["", "d", "10", "1.5h", "-1d", "+1d", "1 d", "1w", "1h30m", "é"] {
            assert_eq!(parse(bad), Err(LifetimeError::Form), "{bad}");
        }
        for bad in ["0d", "0s", "36501d", "99999999999999999999d", "213503982334602d"] {
            assert_eq!(parse(bad), Err(LifetimeError::Bounds), "{bad}");
        }
        assert!(parse("36500d").is_ok());
    }
}
