//! Children, and what the kernel tells of them.
//!
//! Owns: starting, ending by id, processor time, resident memory, free ports.
//! Never: leaves a child behind; who drops a [`Process`] ends it.
//! Start at [`Process::start`].

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How often something is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_micros(250);
/// How much of a log an error shows.
const LAST_LINES: usize = 12;

pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    pub(crate) started: Instant,
}

impl Process {
    /// Starts a child whose output goes into `folder`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Process {
            child,
            name: name.to_owned(),
            log,
            started,
        })
    }

    /// Waits until `question` has an answer. An early end of the child is an error, and so is a wait over `limit`.
    pub(crate) fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut question: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(answer) = question() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.last_words());
            }
            if Instant::now() > end {
                bail!(
                    "{} is not ready after {limit:?}:\n{}",
                    self.name,
                    self.last_words()
                );
            }
            pause(LOOK_EVERY);
        }
    }

    /// The processor time of all living threads so far.
    ///
    /// `stat` would count those that have ended as well, but only in hundredths of a second.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end between being listed and being read.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
            total += Duration::from_nanos(nanos.context("schedstat has no figures")?);
        }
        Ok(total)
    }

    /// Resident memory in MB.
    pub(crate) fn resident(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: f64 = kilobytes
            .context("the kernel tells no resident memory")?
            .parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    /// Asks the child to end, and waits for it.
    pub(crate) fn end(mut self, limit: Duration) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.wait(limit).map(|_| ())
    }

    /// Waits for the child's own end, and returns what it printed.
    pub(crate) fn output(mut self, limit: Duration) -> Result<String> {
        let status = self.wait(limit)?;
        ensure!(
            status.success(),
            "{} failed: {}",
            self.name,
            self.last_words()
        );
        Ok(fs::read_to_string(&self.log)?)
    }

    fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "{} has not ended after {limit:?}: {}",
                self.name,
                self.last_words()
            );
            pause(Duration::from_millis(10));
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let start = lines.len().saturating_sub(LAST_LINES);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn pause(length: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "this thread conducts; it serves nobody"
    )]
    std::thread::sleep(length);
}

/// The share of the machine's time that is in use during `length`, in per cent.
pub(crate) fn busy(length: Duration) -> Result<f64> {
    let before = machine_time(&fs::read_to_string("/proc/stat")?)?;
    pause(length);
    let after = machine_time(&fs::read_to_string("/proc/stat")?)?;
    Ok(100.0 * (after.0 - before.0) / (after.1 - before.1).max(1.0))
}

/// Time in use and all time since the machine's start, in the kernel's ticks.
fn machine_time(stat: &str) -> Result<(f64, f64)> {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, waiting for a disk, and more that is use.
    let [_, _, _, idle, waiting, ..] = ticks.as_slice() else {
        bail!("the kernel tells no times");
    };
    let all: f64 = ticks.iter().take(8).sum();
    Ok((all - idle - waiting, all))
}

/// A port that nobody uses, below those that the kernel gives to outgoing connections.
pub(crate) fn free_port() -> Result<u16> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..10_000 {
        let place = std::process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + u16::try_from(place % 20_000)?;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// A folder that ends with its owner.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outrigger-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_busy_when_it_is_not_idle() {
        assert_eq!(
            machine_time("cpu  1 2 3 40 50 6 7 8 0 0\ncpu0 1\n").unwrap(),
            (27.0, 117.0)
        );
        assert!(machine_time("").is_err());
    }

    #[test]
    fn a_child_that_fails_tells_why() {
        let folder = Folder::new("process-test").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck; exit 3"]);
        let process = Process::start("sh", &mut command, folder.path()).unwrap();
        let error = process
            .output(Duration::from_secs(10))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such luck"), "{error}");
    }

    #[test]
    fn a_free_port_is_given_once() {
        assert_ne!(free_port().unwrap(), free_port().unwrap());
    }
}
