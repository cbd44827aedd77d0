//! One process of the program under test, and everything it prints.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_testkit::wait;
use rustix::process::{Pid, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

pub use rustix::process::Signal;

use crate::binary;

/// How a process is to be.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Programs and arguments ahead of the binary's path.
    pub wrapper: Vec<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub folder: Option<std::path::PathBuf>,
}

/// A running or ended process. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    id: i32,
    pub started: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    readers: JoinSet<()>,
}

/// What a process left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// 128 and the number of the signal, if it was killed by one.
    pub code: i32,
    pub output: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Process {
    /// Starts the binary with an environment that holds nothing of ours but the way to programs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(launch: &Launch) -> Self {
        let program = binary::path().display().to_string();
        let mut words = launch
            .wrapper
            .iter()
            .chain([&program])
            .chain(&launch.arguments);
        let mut command = Command::new(words.next().expect("the program is a word"));
        command.args(words).env_clear().kill_on_drop(true);
        for name in ["PATH", "HOME", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(folder) = &launch.folder {
            command.current_dir(folder);
        }
        let started = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let (lines, mut readers) = (Arc::default(), JoinSet::new());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        read_lines(&mut readers, out.expect("it is piped"), &lines);
        read_lines(&mut readers, err.expect("it is piped"), &lines);
        Self {
            child,
            id: id.expect("it has just started"),
            started,
            lines,
            readers,
        }
    }

    /// Runs a command that ends by itself.
    pub async fn run(arguments: &[&str]) -> Ended {
        Self::run_in(None, arguments).await
    }

    /// The same in a folder.
    pub async fn run_in(folder: Option<&Path>, arguments: &[&str]) -> Ended {
        let launch = Launch {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            folder: folder.map(Path::to_owned),
            ..Launch::default()
        };
        Self::start(&launch).ended(Duration::from_secs(30)).await
    }

    pub fn id(&self) -> i32 {
        self.id
    }

    /// # Panics
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) {
        let id = self.id;
        send(id, signal).unwrap_or_else(|error| panic!("cannot signal {id:?}: {error}"));
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// # Panics
    /// When the process has ended.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait();
        assert!(
            matches!(ended, Ok(None)),
            "the process has ended, {ended:?}:\n{}",
            self.output()
        );
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come in time.
    pub async fn ended(&mut self, limit: Duration) -> Ended {
        let waited = tokio::time::timeout(limit, self.child.wait()).await;
        let Ok(status) = waited else {
            panic!(
                "the process has not ended within {limit:?}:\n{}",
                self.output()
            );
        };
        let took = self.started.elapsed();
        // The last lines; somebody else may hold the pipes open.
        let rest = async { while self.readers.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(2), rest)
            .await
            .ok();
        Ended {
            code: code_of(status.expect("a child can be waited for")),
            output: self.output(),
            took,
        }
    }

    /// Everything printed so far, one line after the other.
    pub fn output(&self) -> String {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n")
    }

    /// Waits for a line that holds this text.
    pub async fn says(&self, text: &str, limit: Duration) -> String {
        wait::until(format!("the line {text:?}"), limit, async || {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let found = lines.iter().find(|line| line.contains(text)).cloned();
            found.ok_or_else(|| lines.join("\n"))
        })
        .await
    }

    /// Resident memory now, in KiB.
    pub fn memory(&self) -> u64 {
        self.status_number("VmRSS:")
    }

    /// The most resident memory that there has been, in KiB.
    pub fn peak_memory(&self) -> u64 {
        self.status_number("VmHWM:")
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id)).map_or(0, Iterator::count)
    }

    fn status_number(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("no {field} of process {}", self.id))
    }
}

/// Signals a process.
///
/// # Errors
/// When there is none with this id.
pub fn send(id: i32, signal: Signal) -> std::io::Result<()> {
    let id = Pid::from_raw(id).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(kill_process(id, signal)?)
}

fn read_lines(
    readers: &mut JoinSet<()>,
    source: impl AsyncRead + Unpin + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
) {
    let lines = Arc::clone(lines);
    readers.spawn(async move {
        let (mut source, mut line) = (BufReader::new(source), Vec::new());
        while let Ok(1..) = source.read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
            line.clear();
        }
    });
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.unwrap_or(-1)
}
