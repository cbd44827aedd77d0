//! The files, apps and calls that the bench and the counting of instructions share.
//!
//! Owns: five components, how sidecars find each other, 1 KB bodies, each measured call as a [`Job`].
//! Start at [`Scene::new`].

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::{Job, Protocol, Report};
use crate::process::{Folder, Process, free_port, pause};
use crate::sidecar::{Role, Sidecar, Subject};

const BODY: usize = 1024;
/// How long after its own time a load may end before it counts as hung.
const LOAD_LIMIT: Duration = Duration::from_secs(600);
/// How often a pair is called, ten times a second, before it must answer.
const PATIENCE: usize = 200;

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    StateGet,
    StateSet,
    Publish,
    Invoke(Protocol),
}

/// How the calling sidecar finds the called one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    /// What sidecars do when they are told nothing.
    Mdns,
    Sqlite,
}

impl FromStr for Names {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mdns" => Ok(Names::Mdns),
            "sqlite" => Ok(Names::Sqlite),
            _ => bail!("names are resolved by `mdns` or `sqlite`"),
        }
    }
}

pub(crate) struct Scene {
    folder: Folder,
    names: Names,
    /// The called app. Others on this network may measure too.
    called: String,
}

impl Scene {
    pub(crate) fn new(name: &str, names: Names) -> Result<Self> {
        let scene = Scene {
            folder: Folder::new(name)?,
            names,
            called: format!("called-{}", std::process::id()),
        };
        let resources = scene.file("resources");
        fs::create_dir_all(&resources)?;
        fs::write(resources.join("components.yaml"), scene.components())?;
        fs::write(scene.file("secrets.json"), "{}")?;
        fs::write(scene.config(), scene.configuration())?;
        let text = "x".repeat(BODY);
        fs::write(
            scene.file("state.json"),
            format!(r#"[{{"key":"key","value":"{text}"}}]"#),
        )?;
        fs::write(
            scene.file("body.json"),
            format!(r#"{{"text":"{}"}}"#, "x".repeat(BODY - 11)),
        )?;
        Ok(scene)
    }

    /// Gives whatever is called a time-out, a retry and a breaker.
    pub(crate) fn add_policies(&self) -> Result<()> {
        let policies = "timeout: t, retry: r, circuitBreaker: b";
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: bench}}\nspec:\n  policies:\n    \
             timeouts: {{t: 30s}}\n    retries: {{r: {{duration: 1s, maxRetries: 3}}}}\n    \
             circuitBreakers: {{b: {{trip: consecutiveFailures > 5}}}}\n  targets:\n    \
             apps: {{{}: {{{policies}}}}}\n    components:\n      \
             store: {{outbound: {{{policies}}}}}\n      pubsub: {{outbound: {{{policies}}}}}\n",
            self.called
        );
        Ok(fs::write(
            self.file("resources").join("resiliency.yaml"),
            text,
        )?)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.file("config.yaml")
    }

    fn components(&self) -> String {
        let secrets = self.file("secrets.json").display().to_string();
        let database = self.file("state.db").display().to_string();
        [
            component("store", "state.in-memory", None),
            component("pubsub", "pubsub.in-memory", None),
            component("environment", "secretstores.local.env", None),
            component(
                "file",
                "secretstores.local.file",
                Some(("secretsFile", secrets)),
            ),
            component(
                "table",
                "state.sqlite",
                Some(("connectionString", database)),
            ),
        ]
        .join("---\n")
    }

    fn configuration(&self) -> String {
        let head = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: bench\n";
        let database = self.file("names.db").display().to_string();
        match self.names {
            Names::Mdns => format!("{head}spec: {{}}\n"),
            Names::Sqlite => format!(
                "{head}spec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    \
                 configuration:\n      connectionString: {database}\n"
            ),
        }
    }

    /// A sidecar with five components and no app.
    pub(crate) fn sidecar(&self, subject: &Subject) -> Result<Sidecar> {
        let (config, resources) = (self.config(), self.file("resources"));
        let folder = self.path();
        Sidecar::start(
            subject,
            &Role {
                app_id: "calling",
                app: None,
                resources: Some(&resources),
                config: &config,
                folder,
            },
        )
    }

    /// A sidecar with an app and no components.
    fn sidecar_of_app(&self, subject: &Subject, app: (Protocol, u16)) -> Result<Sidecar> {
        let config = self.config();
        let folder = self.path();
        Sidecar::start(
            subject,
            &Role {
                app_id: &self.called,
                app: Some(app),
                resources: None,
                config: &config,
                folder,
            },
        )
    }

    /// Two sidecars and an app; `calling` and `called` may be different subjects. Ready to be called through.
    pub(crate) fn pair(
        &self,
        calling: &Subject,
        called: &Subject,
        app: &Echo,
    ) -> Result<(Sidecar, Sidecar)> {
        let mut called = self.sidecar_of_app(called, (app.protocol, app.port))?;
        let mut calling = self.sidecar(calling)?;
        called.wait()?;
        calling.wait()?;
        let call = self.job(Call::Invoke(app.protocol), &calling);
        // Names spread, and apps are found to be there, when they do.
        for _ in 0..PATIENCE {
            if self.load(&call).is_ok() {
                return Ok((calling, called));
            }
            pause(Duration::from_millis(100));
        }
        self.load(&call)
            .context("the pair of sidecars does not come to serve")?;
        Ok((calling, called))
    }

    /// The load that makes one call.
    pub(crate) fn job(&self, call: Call, sidecar: &Sidecar) -> Job {
        match call {
            Call::StateGet => Job::new(Protocol::Http, sidecar.http, "/v1.0/state/store/key"),
            Call::StateSet => self.post(sidecar.http, "/v1.0/state/store", "state.json"),
            Call::Publish => self.post(sidecar.http, "/v1.0/publish/pubsub/topic", "body.json"),
            Call::Invoke(Protocol::Http) => self.post(
                sidecar.http,
                &format!("/v1.0/invoke/{}/method/echo", self.called),
                "body.json",
            ),
            Call::Invoke(Protocol::Grpc) => self.grpc(sidecar.grpc),
        }
    }

    /// The same load, straight to the app.
    pub(crate) fn direct(&self, app: &Echo) -> Job {
        match app.protocol {
            Protocol::Http => self.post(app.port, "/echo", "body.json"),
            Protocol::Grpc => self.grpc(app.port),
        }
    }

    fn post(&self, port: u16, path: &str, file: &str) -> Job {
        Job {
            method: "POST",
            header: Some("Content-Type: application/json".to_owned()),
            body: Some(self.file(file)),
            ..Job::new(Protocol::Http, port, path)
        }
    }

    fn grpc(&self, port: u16) -> Job {
        Job {
            method: "POST",
            header: Some(format!("dapr-app-id: {}", self.called)),
            body: Some(self.file("body.json")),
            ..Job::new(Protocol::Grpc, port, "/bench.Echo/Echo")
        }
    }

    /// Runs the load generator.
    pub(crate) fn load(&self, job: &Job) -> Result<Report> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").args(job.words());
        Report::from_text(&Process::start("load", &mut command, self.path())?.output(LOAD_LIMIT)?)
    }

    /// Starts the app.
    pub(crate) fn echo(&self, protocol: Protocol) -> Result<Echo> {
        let port = free_port()?;
        let word = if protocol == Protocol::Grpc {
            "grpc"
        } else {
            "http"
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["echo", word]).arg(port.to_string());
        let mut process = Process::start(&format!("echo-{word}"), &mut command, self.path())?;
        let limit = Duration::from_secs(10);
        process.wait_for(limit, || TcpStream::connect(("127.0.0.1", port)).ok())?;
        Ok(Echo {
            protocol,
            port,
            _process: process,
        })
    }
}

pub(crate) struct Echo {
    protocol: Protocol,
    port: u16,
    _process: Process,
}

fn component(name: &str, kind: &str, property: Option<(&str, String)>) -> String {
    let property = property
        .map(|(name, value)| format!("  metadata:\n    - name: {name}\n      value: {value}\n"));
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\nspec:\n  \
         type: {kind}\n  version: v1\n{}",
        property.unwrap_or_default()
    )
}
