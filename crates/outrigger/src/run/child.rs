//! The app's process.

use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_sidecar::Companion;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::output::Output;

/// For its last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct ChildSettings {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) app_id: String,
    pub(super) app_port: Option<u16>,
    pub(super) prefix: String,
    pub(super) stop_timeout: Duration,
}

#[derive(Debug)]
pub(super) struct Child {
    settings: ChildSettings,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: tokio::process::Child,
    /// Its process group, which has its id.
    group: Option<Pid>,
    output: Output,
    code: Option<u8>,
}

impl Child {
    pub(super) fn new(settings: ChildSettings) -> Self {
        Self {
            settings,
            running: None,
        }
    }
}

#[async_trait]
impl Companion for Child {
    async fn start(&mut self, http_port: u16, grpc_port: u16) -> Result<(), String> {
        let settings = &self.settings;
        let cannot = |error: std::io::Error| format!("cannot start {}: {error}", settings.program);
        let (output, out, err) = Output::start(&settings.prefix).map_err(cannot)?;
        let mut command = Command::new(&settings.program);
        command
            .args(&settings.arguments)
            .env("DAPR_HTTP_PORT", http_port.to_string())
            .env("DAPR_GRPC_PORT", grpc_port.to_string())
            .env("APP_ID", &settings.app_id)
            .stdout(out)
            .stderr(err)
            // Ctrl-C reaches us alone: we end the app when its work is done.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(port) = settings.app_port {
            command.env("APP_PORT", port.to_string());
        }
        if std::env::var_os("PYTHONUNBUFFERED").is_none() {
            // Behind a pipe Python would show its lines when it ends.
            command.env("PYTHONUNBUFFERED", "1");
        }
        if std::io::stdin().is_terminal() {
            // In a group of its own it would be stopped when it reads.
            command.stdin(Stdio::null());
        }
        let process = command.spawn().map_err(cannot)?;
        let group = process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        self.running = Some(Running {
            process,
            group,
            output,
            code: None,
        });
        Ok(())
    }

    async fn ended(&mut self) -> u8 {
        match &mut self.running {
            Some(running) => running.ended().await,
            None => std::future::pending().await,
        }
    }

    async fn stop(&mut self, limit: Duration) {
        let limit = limit.min(self.settings.stop_timeout);
        if let Some(running) = &mut self.running {
            running.stop(limit).await;
        }
    }
}

impl Running {
    async fn ended(&mut self) -> u8 {
        if let Some(code) = self.code {
            return code;
        }
        let code = self.process.wait().await.map_or(1, code_of);
        self.code = Some(code);
        self.output.finish(LAST_LINES);
        code
    }

    async fn stop(&mut self, limit: Duration) {
        if self.code.is_some() {
            return;
        }
        self.signal(Signal::TERM);
        if tokio::time::timeout(limit, self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            kill_process_group(group, signal).ok();
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
}
