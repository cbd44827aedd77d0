//! A server's processes, owned by a test.
//!
//! Some servers start behind a wrapper, change their user and leave helpers behind. So a server's processes are known
//! by what no other process has, a mark in their environment (which some overwrite) or their private folder as working
//! folder (which others leave), and only those are ever signalled. A guard process ends them too when the test process
//! dies without running its destructors: it waits on a pipe that closes then.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{PrivateDir, wait};

const MARK: &str = "OUTRIGGER_TESTKIT_SERVER";

/// Ends every process with the mark `$0` or the folder `$1` once its input closes, then removes the folder. It looks more
/// than once, because a process may have been starting another one.
const GUARD: &str = r#"cat > /dev/null
for round in 1 2 3; do
  for p in /proc/[0-9]*; do
    if [ "$(readlink "$p/cwd")" = "$1" ] || grep -qszx "OUTRIGGER_TESTKIT_SERVER=$0" "$p/environ"; then
      kill -9 "${p#/proc/}"
    fi
  done
  sleep 0.1
done
cd / && rm -rf "$1""#;

/// What to run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// What a developer has to do who lacks it.
    pub(crate) install: &'static str,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(crate) struct Process {
    program: Program,
    mark: String,
    child: Mutex<Option<Child>>,
    guard: Child,
    // Declared last: removed after everything else is gone.
    dir: PrivateDir,
}

impl Process {
    pub(crate) fn new(program: Program, dir: PrivateDir) -> Self {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let guard = Command::new("sh")
            .args(["-c", GUARD, &mark])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `sh`: {error}"));
        Self {
            program,
            mark,
            child: Mutex::new(None),
            guard,
            dir,
        }
    }

    /// A command that talks to the server and ends with it: it has the server's environment, mark and folder.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .envs(self.program.environment.iter().map(|(k, v)| (k, v)))
            .env(MARK, &self.mark)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the program unless it runs.
    ///
    /// # Panics
    /// When the program is not installed.
    pub(crate) fn spawn(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = child.as_mut()
            && matches!(running.try_wait(), Ok(None))
        {
            return;
        }
        let log = || {
            let path = self.dir.path().join("output.log");
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .expect("the server's folder can be written to")
        };
        let started = self
            .command(self.program.name)
            .args(&self.program.arguments)
            .stdout(log())
            .stderr(log())
            .process_group(0)
            .spawn();
        *child = Some(started.unwrap_or_else(|error| {
            panic!(
                "this test needs a real server and `{}` did not start ({error}): {}",
                self.program.name, self.program.install
            )
        }));
    }

    /// What the program printed, for the message of a failure.
    pub(crate) fn output(&self) -> String {
        let text = fs::read(self.dir.path().join("output.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The ids of the server's processes, zombies left out.
    pub(crate) fn members(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.mark);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let id: i32 = entry.file_name().to_str()?.parse().ok()?;
                let is_marked = || {
                    let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                    environment
                        .split(|byte| *byte == 0)
                        .any(|variable| variable == mark.as_bytes())
                };
                let is_inside = fs::read_link(entry.path().join("cwd"))
                    .is_ok_and(|folder| folder == self.dir.path());
                (is_inside || is_marked()).then(|| Pid::from_raw(id))?
            })
            .collect()
    }

    /// Signals every member; one that has just ended is fine.
    pub(crate) fn signal(&self, signal: Signal) {
        for member in self.members() {
            kill_process(member, signal).ok();
        }
    }

    /// SIGKILL; returns when all are gone.
    pub(crate) async fn kill(&self) {
        self.signal(Signal::KILL);
        self.gone(Duration::from_secs(10)).await;
    }

    /// SIGTERM; returns when all are gone.
    pub(crate) async fn stop(&self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        self.gone(Duration::from_secs(30)).await;
    }

    async fn gone(&self, deadline: Duration) {
        let what = format!("the end of {}", self.program.name);
        wait::until(what, deadline, async || {
            let left = self.members();
            // A process that is ending has left its folder before it can be waited for.
            if left.is_empty() && self.is_reaped() {
                Ok(())
            } else {
                Err(left)
            }
        })
        .await;
    }

    fn is_reaped(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child
            .as_mut()
            .is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A wrapper may start one more process between two looks.
        for _ in 0..10 {
            self.signal(Signal::KILL);
            if self.members().is_empty() {
                break;
            }
        }
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child {
            // Nobody else may wait for ever for what could not be recognized.
            child.kill().ok();
            child.wait().ok();
        }
        // Nothing is left for the guard to do.
        self.guard.kill().ok();
        self.guard.wait().ok();
    }
}
