//! A program under test: started, its log read as it is written, ended with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::PATIENCE;
use crate::load;

/// The same command in a process that ignores SIGXFSZ: it gets an error of a write beyond its limit, as of a
/// full disk.
pub fn without_xfsz(command: &Command) -> Command {
    let mut wrapped = Command::new("sh");
    wrapped.env_clear().args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// One line of a log.
#[derive(Debug, Clone)]
pub struct Line {
    /// As written.
    pub text: String,
    /// Its JSON; null where it has none.
    pub json: Value,
}

impl Line {
    fn read(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or_default();
        Self { text, json }
    }

    /// The field `message`.
    pub fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }
}

/// A running program. Dropping it ends it at once; a test that fails prints its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: watch::Receiver<Vec<Line>>,
}

impl Process {
    /// Starts `command`; what it writes to standard error is its log.
    pub fn start(name: &str, mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = watch::channel(Vec::new());
        // The thread ends with the program, and with it the channel: that is how its end is noticed.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.send_modify(|lines| lines.push(Line::read(line)));
            }
        });
        Self { name: name.to_owned(), child, log }
    }

    /// Every line so far.
    pub fn log(&self) -> Vec<Line> {
        self.log.borrow().clone()
    }

    /// Waits for the first line from the one numbered `from` on that `wanted` takes.
    pub async fn line_from(&self, from: usize, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        let mut log = self.log.clone();
        let find = |lines: &Vec<Line>| lines.iter().skip(from).find(|line| wanted(line)).cloned();
        let found = match timeout(PATIENCE, log.wait_for(|lines| find(lines).is_some())).await {
            Ok(Ok(lines)) => find(&lines),
            Ok(Err(_)) => panic!("{} ended before it logged {what}", self.name),
            Err(_) => panic!("{} did not log {what}", self.name),
        };
        // The guard of the channel stands for this very answer.
        found.unwrap()
    }

    /// Waits for the first line with this message.
    pub async fn message(&self, message: &str) -> Line {
        self.line_from(0, message, |line| line.message() == message).await
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it used so far.
    pub fn cpu(&self) -> Duration {
        load::process::cpu_of(self.id()).unwrap()
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> u64 {
        load::process::memory_of(self.id()).unwrap()
    }

    /// Sets how large a file may become that it writes; nothing for no limit. It must ignore SIGXFSZ (see
    /// [`without_xfsz`]), and then finds the disk full.
    pub fn limit_files(&self, size: Option<u64>) {
        let limit = Rlimit { current: size, maximum: None };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a crash does (SIGKILL), and waits for that.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; answers how, and its whole log.
    pub async fn ended(mut self) -> (ExitStatus, Vec<Line>) {
        let mut log = self.log.clone();
        let end = async { while log.changed().await.is_ok() {} };
        let ended = timeout(PATIENCE, end).await;
        assert!(ended.is_ok(), "{} did not end", self.name);
        (self.child.wait().unwrap(), self.log())
    }

    /// Asks it to end (SIGTERM) and waits; answers how, and its whole log.
    pub async fn terminated(self) -> (ExitStatus, Vec<Line>) {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log: String = self.log().iter().map(|line| format!("  {}\n", line.text)).collect();
            eprintln!("the log of {}:\n{log}", self.name);
        }
    }
}
