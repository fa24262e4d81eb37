//! Structured logs to standard error, as text or as JSON lines.

use crate::config::Log;
use std::error::Error;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

/// Starts logging for the process; a second call changes nothing.
pub fn start(log: Log) {
    let builder = fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::from_level(log.level));
    // Logging that was started already, by a test, stays.
    let _ = if log.json {
        tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(builder.with_ansi(false).finish())
    };
}

/// An error with its causes, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
