//! File handles: a connection is one, and most systems let a program have a thousand until it asks for more.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Limits;

/// For everything but connections and watches: files, sockets of monitoring and admin.
const OTHERS: u64 = 256;

/// Asks for as many as the system allows, and says if that is not enough for the configured connections.
pub(crate) fn ask_for(limits: &Limits) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot have more file handles");
    }
    let needed = limits.connections as u64 + OTHERS;
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "the system allows fewer file handles than the configured connections need: raise it (ulimit -n, \
             LimitNOFILE) or lower connections"
        );
    }
}
