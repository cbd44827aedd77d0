//! One process of the app: how it is started, signalled and asked for its exit code.

use std::fs::Permissions;
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use super::exec;
use super::output::Output;

/// For its last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    /// What the app is told; the ports come with the start.
    pub(super) environment: Vec<(&'static str, String)>,
    /// What it is told unless somebody has told it otherwise.
    pub(super) defaults: Vec<(&'static str, String)>,
    /// Ahead of each of its lines; without one it writes where we do.
    pub(super) prefix: Option<String>,
}

#[derive(Debug)]
pub(super) struct Process {
    child: std::process::Child,
    /// Also that of its group.
    id: Pid,
    output: Option<Output>,
    code: Option<u8>,
}

impl Program {
    /// # Errors
    /// Why it cannot be started.
    pub(super) fn start(&self, ports: (u16, u16)) -> Result<Process, String> {
        self.check()?;
        let cannot = |error: std::io::Error| format!("cannot start {}: {error}", self.name);
        let mut command = exec::command(&self.name, &self.arguments);
        command
            .env("DAPR_HTTP_PORT", ports.0.to_string())
            .env("DAPR_GRPC_PORT", ports.1.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Ctrl-C reaches us alone: we end the app when its work is done.
            .process_group(0);
        for (name, value) in &self.defaults {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        if std::io::stdin().is_terminal() {
            // In a group of its own it would be stopped when it reads.
            command.stdin(Stdio::null());
        }
        let output = match &self.prefix {
            Some(prefix) => {
                let (output, out, err) = Output::start(prefix).map_err(cannot)?;
                command.stdout(out).stderr(err);
                Some(output)
            }
            None => None,
        };
        let child = command.spawn().map_err(cannot)?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Process {
            child,
            id: id.ok_or("the app has no process id")?,
            output,
            code: None,
        })
    }

    /// Tells what a start in another process's name would not tell.
    fn check(&self) -> Result<(), String> {
        let found = |path: &Path| {
            path.is_file()
                && std::fs::metadata(path).is_ok_and(|file| is_program(&file.permissions()))
        };
        let path = Path::new(&self.name);
        if self.name.contains('/') {
            return match path.try_exists() {
                Ok(true) if found(path) => Ok(()),
                Ok(true) => Err(format!("cannot start {}: it is no program", self.name)),
                _ => Err(format!("cannot start {}: there is no such file", self.name)),
            };
        }
        let folders = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let mut places = std::env::split_paths(&folders).map(|folder: PathBuf| folder.join(path));
        if places.any(|place| found(&place)) {
            return Ok(());
        }
        Err(format!(
            "cannot start {}: there is no such program in the path",
            self.name
        ))
    }
}

fn is_program(permissions: &Permissions) -> bool {
    permissions.mode() & 0o111 != 0
}

impl Process {
    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// Its exit code, if it has ended; it is reaped then.
    pub(super) fn code(&mut self) -> Option<u8> {
        if self.code.is_none() {
            self.code = match self.child.try_wait() {
                Ok(status) => status.map(code_of),
                // Somebody else has waited for it.
                Err(_) => Some(1),
            };
        }
        self.code
    }

    pub(super) fn is_reaped(&self) -> bool {
        self.code.is_some()
    }

    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_reaped() {
            kill_process(self.id, signal).ok();
        }
    }

    pub(super) fn signal_group(&self, signal: Signal) {
        kill_process_group(self.id, signal).ok();
    }

    pub(super) fn has_group(&self) -> bool {
        test_kill_process_group(self.id) != Err(rustix::io::Errno::SRCH)
    }

    /// Waits a moment for its last lines.
    pub(super) fn finish_output(&self) {
        if let Some(output) = &self.output {
            output.finish(LAST_LINES);
        }
    }
}

/// As a shell tells it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_from_128() {
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(11)), 139);
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
    }

    #[test]
    fn what_cannot_be_run_is_told_before_anything_starts() {
        let program = |name: &str| Program {
            name: name.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            defaults: Vec::new(),
            prefix: None,
        };
        assert_eq!(program("sh").check(), Ok(()));
        assert_eq!(program("/bin/sh").check(), Ok(()));
        for (name, why) in [
            ("/no/such/program", "no such file"),
            ("/etc/passwd", "no program"),
            ("/tmp", "no program"),
            ("no-such-program-anywhere", "in the path"),
        ] {
            let told = program(name).check().unwrap_err();
            assert!(told.contains(why) && told.contains(name), "{told}");
        }
    }
}
