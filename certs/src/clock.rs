//! Times as certificates and people write them. Nothing here reads a clock: callers pass `now` in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whole seconds since 1970, rounded down; negative before.
pub fn to_unix(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -whole - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// The moment at whole seconds since 1970; the epoch itself where the platform cannot express it.
pub fn from_unix(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment =
        if seconds >= 0 { UNIX_EPOCH.checked_add(distance) } else { UNIX_EPOCH.checked_sub(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

/// Without its part below a second, as certificates carry times.
pub fn whole_seconds(time: SystemTime) -> SystemTime {
    from_unix(to_unix(time))
}

/// RFC 3339 in UTC with whole seconds, such as `2026-11-22T05:00:00Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = to_unix(time);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_survive_the_round_trip_on_both_sides_of_1970() {
        for seconds in [-86_400, -1, 0, 1, 4_102_444_800] {
            assert_eq!(to_unix(from_unix(seconds)), seconds);
        }
        assert_eq!(to_unix(UNIX_EPOCH - Duration::from_millis(1)), -1, "rounded down, not towards zero");
        assert_eq!(rfc3339(from_unix(0)), "1970-01-01T00:00:00Z");
    }
}
