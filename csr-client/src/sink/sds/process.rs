//! The process at the other end of a Unix socket, so that its end can be told from a pause.
//!
//! A pid alone is used again; with the start time it names one process for as long as the machine runs.

use serde::{Deserialize, Serialize};

/// A process that was seen alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    started: u64,
}

impl Process {
    /// The process with this pid; `None` if it cannot be seen from here, such as from another pid namespace
    /// (pid 0) or after its end.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        if pid <= 0 {
            return None;
        }
        let (state, started) = read_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        // A zombie has ended; only its parent has not looked yet.
        (state != 'Z').then_some(Self { pid, started })
    }

    /// Whether it is still there.
    pub(super) fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// State and start time. The second field, the name in parentheses, may itself hold spaces and parentheses.
fn read_stat(stat: &str) -> Option<(char, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3; 18 more stand before field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_lives_until_it_ends() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.lives());
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.lives(), "the same pid started at another time is another process");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!process.lives());
    }

    #[test]
    fn unknown_pids_and_odd_names() {
        assert_eq!(Process::of(0), None);
        assert_eq!(Process::of(-1), None);
        let stat = format!("7 (a ) b) S {} 4242 0", ["1"; 18].join(" "));
        assert_eq!(read_stat(&stat), Some(('S', 4242)));
        assert_eq!(read_stat("nonsense"), None);
    }
}
