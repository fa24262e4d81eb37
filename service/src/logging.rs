//! The log of a program: lines of text or JSON on standard error, written by a thread of its own, so that
//! a slow reader never holds up a request. Lines beyond a bounded backlog are dropped, never waited for.

use std::error::Error;
use std::io::{self, BufWriter, IsTerminal};

use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::settings::Values;

/// Lines that may wait to be written.
const BACKLOG: usize = 16_384;

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// What is let through.
    pub level: Level,
}

impl Log {
    /// Reads the settings `log_format` and `log_level`.
    pub fn of(values: &mut Values) -> Option<Self> {
        let json = values.parsed("log_format", |text| match text {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err(format!("must be text or json, not {text:?}")),
        });
        let level = values.parsed("log_level", |text| {
            text.parse().map_err(|_| format!("must be error, warn, info, debug or trace, not {text:?}"))
        });
        Some(Self { json: json?, level: level? })
    }
}

/// Holds the log open; drop it last, since that writes what still waits.
pub struct Logging(#[expect(dead_code, reason = "held for its Drop")] WorkerGuard);

/// Begins to log. What waits together is written together.
pub fn start(log: Log) -> Logging {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(BACKLOG)
        .lossy(true)
        .finish(BufWriter::new(io::stderr()));
    let lines = tracing_subscriber::fmt()
        .with_max_level(log.level)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    // A second start in one process keeps the first log: tests do that, programs do not.
    let _ = if log.json {
        tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(lines.finish())
    };
    Logging(guard)
}

/// An error and its causes on one line. None of our errors prints its cause itself; of those of libraries that
/// do, what was said just now is not said again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn a_cause_that_its_error_printed_already_is_not_repeated() {
        let layers = ["cannot connect", "tcp connect error", "tcp connect error", "refused (111)"];
        let error = layers.into_iter().rev().fold(None, |below, text| Some(Box::new(Layer(text, below))));
        let text = error.map(|error| with_causes(&*error));
        assert_eq!(text.as_deref(), Some("cannot connect: tcp connect error: refused (111)"));
    }
}
