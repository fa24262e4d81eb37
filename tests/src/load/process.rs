//! A program under load: started, waited for by its own log, measured through the kernel, ended by its id.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// A running program; dropping it ends it.
pub struct Process {
    child: Child,
    /// What its log line said behind `addr`.
    pub address: String,
    /// What its line "monitoring listening" said, if it came before.
    pub monitoring: String,
    /// From exec to that line.
    pub started_in: Duration,
}

impl Process {
    /// Starts a program that logs JSON lines, and waits for the line with this message.
    pub fn start(mut command: Command, message: &str) -> Result<Self, Failure> {
        let began = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no standard error")?);
        let (mut seen, mut monitoring) = (String::new(), String::new());
        let address = loop {
            let mut line = String::new();
            if log.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                return Err(format!("the program ended with {status}:\n{seen}").into());
            }
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let addr = || said["addr"].as_str().unwrap_or_default().to_owned();
            if said["message"] == message {
                break addr();
            }
            if said["message"] == "monitoring listening" {
                monitoring = addr();
            }
            seen.push_str(&line);
        };
        let started_in = began.elapsed();
        // The rest of its log is read and dropped, so that it is never held up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { child, address, monitoring, started_in })
    }

    /// Processor time that it used so far.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(self.child.id())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64, Failure> {
        memory_of(self.child.id())
    }

    /// Threads.
    pub fn threads(&self) -> Result<u64, Failure> {
        status_of(self.child.id(), "Threads:")
    }

    /// Open file handles.
    pub fn handles(&self) -> Result<u64, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count() as u64)
    }

    /// Ends it as a crash does (SIGKILL), and waits for that.
    pub fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Processor time that a process used so far, its own and the kernel's for it.
pub fn cpu_of(id: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // Fields 14 and 15, counted from 1; the second is a name in brackets that may hold spaces.
    let behind = stat.rsplit_once(')').ok_or("/proc stat without a name")?.1;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Resident memory of a process in bytes.
pub fn memory_of(id: u32) -> Result<u64, Failure> {
    Ok(status_of(id, "VmRSS:")? * 1024)
}

/// A number in a process's status, as the kernel has it.
fn status_of(id: u32, name: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.ok_or_else(|| format!("no {name} in /proc"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id())
            && let Some(id) = Pid::from_raw(id)
        {
            // It may have ended by itself.
            let _ = kill_process(id, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
