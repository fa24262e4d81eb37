//! Durations as people write them: `24h`, `90s`, `1h30m`, `250ms`, `3650d`.
//!
//! The grammar is the part of Go's duration strings that Istio's settings use, so that a value copied
//! from a mesh means the same here; days come on top.

use std::time::Duration;

/// A thousand years: whatever is longer was not meant, and cannot be added to every time.
const LONGEST: Duration = Duration::from_secs(365_250 * 86_400);

/// Reads a positive duration, of at most a thousand years; `Err` says what is wrong with the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err("is empty".into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis_per_unit: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("{text:?} is not a duration such as \"24h\", \"90s\" or \"1h30m\"")),
        };
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(millis_per_unit))
            .map(Duration::from_millis)
            .ok_or_else(|| format!("{text:?} is not a duration such as \"24h\", \"90s\" or \"1h30m\""))?;
        total = total.saturating_add(part);
        if total > LONGEST {
            return Err(format!("{text:?} is longer than a thousand years"));
        }
        rest = tail;
    }
    if total.is_zero() {
        return Err("must be more than zero".into());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::parse;
    use std::time::Duration;

    #[test]
    fn units_and_their_sums() {
        for (text, millis) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            (" 5m ", 300_000),
            ("365250d", 31_557_600_000_000),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0s",
            "24",
            "h",
            "-1h",
            "1.5h",
            "1w",
            "1h 30m",
            "99999999999999999999s",
            "5124095576030431h1s",
            "365250d1ms",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
