//! A daprd-compatible sidecar, started with daprd's flags.
//!
//! Owns: the command line, and the questions that show when it serves.
//! Never: knows which of the compatible binaries it starts, but for the words that come first.
//! Start at [`Sidecar::start`].

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::Protocol;
use crate::process::{Process, free_port};

/// How long a sidecar may take to serve, and a call to find its way. Under valgrind everything is slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// A binary and the words with which it becomes a sidecar.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) words: Vec<String>,
}

impl Subject {
    pub(crate) fn outrigger(binary: &Path) -> Self {
        let words = vec!["sidecar".to_owned()];
        Subject {
            name: "outrigger".to_owned(),
            program: binary.to_owned(),
            words,
        }
    }

    pub(crate) fn compatible(binary: &Path) -> Self {
        let name = binary
            .file_name()
            .unwrap_or(binary.as_os_str())
            .to_string_lossy()
            .into_owned();
        Subject {
            name,
            program: binary.to_owned(),
            words: Vec::new(),
        }
    }
}

/// What differs between the sidecars of a scene.
#[derive(Clone, Copy)]
pub(crate) struct Role<'a> {
    pub(crate) app_id: &'a str,
    pub(crate) app: Option<(Protocol, u16)>,
    pub(crate) resources: Option<&'a Path>,
    pub(crate) config: &'a Path,
    /// For files that only this run may see.
    pub(crate) folder: &'a Path,
}

pub(crate) struct Sidecar {
    pub(crate) process: Process,
    pub(crate) http: u16,
    pub(crate) grpc: u16,
}

impl Sidecar {
    /// Starts a sidecar, and waits for nothing.
    pub(crate) fn start(subject: &Subject, role: &Role<'_>) -> Result<Self> {
        let (http, grpc) = (free_port()?, free_port()?);
        let mut command = Command::new(&subject.program);
        command
            .args(&subject.words)
            .args(["--app-id", role.app_id])
            .arg("--config")
            .arg(role.config);
        let ports = [
            ("--dapr-http-port", http),
            ("--dapr-grpc-port", grpc),
            ("--dapr-internal-grpc-port", free_port()?),
            ("--metrics-port", free_port()?),
        ];
        for (flag, port) in ports {
            command.arg(flag).arg(port.to_string());
        }
        if let Some(resources) = role.resources {
            command.arg("--resources-path").arg(resources);
        }
        if let Some((protocol, port)) = role.app {
            let protocol = if protocol == Protocol::Grpc {
                "grpc"
            } else {
                "http"
            };
            command
                .args(["--app-protocol", protocol, "--app-port"])
                .arg(port.to_string());
        }
        // The address that it tells its peers; nothing here leaves the machine.
        command
            .env("DAPR_HOST_IP", "127.0.0.1")
            .current_dir(role.folder);
        let name = format!("{}-{}", subject.name, role.app_id);
        Ok(Sidecar {
            process: Process::start(&name, &mut command, role.folder)?,
            http,
            grpc,
        })
    }

    /// Waits for the first answer of the API, and says how long after its start it came, in milliseconds.
    pub(crate) fn first_answer(&mut self) -> Result<f64> {
        let port = self.http;
        self.process
            .wait_for(PATIENCE, || get(port, "/v1.0/metadata").ok())?;
        Ok(self.process.started.elapsed().as_secs_f64() * 1e3)
    }

    /// Waits until everything is initialised.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let port = self.http;
        self.process
            .wait_for(PATIENCE, || get(port, "/v1.0/healthz/outbound").ok())
    }
}

/// One request; anything but success is an error.
fn get(port: u16, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 2"),
        "the answer is no success"
    );
    Ok(())
}
