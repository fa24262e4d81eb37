//! What a CA says when it refuses, cut to what a log line may hold: the CA may be confused, or worse.

use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;
use tonic_types::StatusExt;

/// Most characters of one text.
const MAX_TEXT: usize = 256;
/// Most expectations.
const MOST_EXPECTED: usize = 8;

/// A CA's refusal.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: tonic::Code,
    message: String,
    /// The CA's own stable reason code, where it sends one.
    reason: Option<String>,
    /// What the CA expects, by name, sorted.
    expected: BTreeMap<String, String>,
    hint: Option<Duration>,
}

impl Refusal {
    /// From the status that travelled.
    pub(super) fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let expected = info.map(|info| info.metadata.iter()).into_iter().flatten();
        let expected: BTreeMap<_, _> = expected.map(|(name, value)| (short(name), short(value))).collect();
        Self {
            code: status.code(),
            message: short(status.message()),
            reason: info.map(|info| short(&info.reason)).filter(|reason| !reason.is_empty()),
            expected: expected.into_iter().take(MOST_EXPECTED).collect(),
            hint: details.retry_info().and_then(|info| info.retry_delay),
        }
    }

    /// The gRPC code.
    pub(super) fn code(&self) -> tonic::Code {
        self.code
    }

    /// How long the CA asks us to wait.
    pub(super) fn hint(&self) -> Option<Duration> {
        self.hint
    }

    /// Code and reason, which stay the same from one refusal to the next.
    pub(super) fn trouble(&self) -> String {
        format!("{:?} {}", self.code, self.reason.as_deref().unwrap_or_default())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CA refused ({}", self.code as i32)?;
        if let Some(reason) = &self.reason {
            write!(f, ", {reason}")?;
        }
        write!(f, "): {}", self.message)?;
        for (at, (key, value)) in self.expected.iter().enumerate() {
            write!(f, "{}{key} {value:?}", if at == 0 { "; it expects " } else { ", " })?;
        }
        Ok(())
    }
}

/// The begin of a text, on one line.
pub(super) fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|one| if one.is_control() { ' ' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_of_any_size_is_one_short_line() {
        let mut details = ErrorDetails::new();
        let long = "x\n".repeat(100_000);
        let expected: HashMap<_, _> =
            (0..1000).map(|number| (format!("{number}{long}"), long.clone())).collect();
        details.set_error_info(&long, "signet", expected);
        let refusal = Refusal::of(&Status::with_error_details(Code::Internal, &long, details));
        let text = refusal.to_string();
        assert!(text.len() < (2 + 2 * MOST_EXPECTED) * (MAX_TEXT + 20), "{}", text.len());
        assert!(!text.contains('\n'));
    }
}
