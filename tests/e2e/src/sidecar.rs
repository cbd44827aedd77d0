//! One sidecar with ports, resources and an environment of its own.

use std::path::Path;
use std::time::Duration;

use outrigger_testkit::{PrivateDir, ports, wait};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::{self, Answer, Request};
use crate::process::{Ended, Launch, Process, Signal};
use crate::{Component, s};

/// What a sidecar is to be started with.
#[derive(Debug)]
pub struct Plan {
    app_id: String,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    folder: PrivateDir,
}

impl Plan {
    /// A sidecar with no resources.
    pub fn new(app_id: &str) -> Self {
        Self {
            app_id: app_id.to_owned(),
            flags: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            folder: PrivateDir::new("e2e"),
        }
    }

    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    #[must_use]
    pub fn app(self, port: u16) -> Self {
        self.flag(&format!("--app-port={port}"))
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A program that starts the sidecar in its place.
    #[must_use]
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    #[must_use]
    pub fn with(self, component: &Component) -> Self {
        let name = format!("component-{}.yaml", self.files());
        self.file(&name, component.yaml())
    }

    /// A resource file.
    #[must_use]
    pub fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        self.folder.write(name, text);
        self
    }

    /// Where its resource files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn files(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path());
        entries.map_or(0, Iterator::count)
    }

    /// Starts it, and waits for nothing.
    pub fn start(self) -> Sidecar {
        let ports = Ports::free();
        let mut arguments = vec!["sidecar".to_owned(), format!("--app-id={}", self.app_id)];
        arguments.push(format!("--resources-path={}", self.folder.path().display()));
        arguments.extend(ports.flags());
        arguments.extend(self.flags);
        let launch = Launch {
            wrapper: self.wrapper,
            arguments,
            environment: self.environment,
            folder: None,
        };
        Sidecar {
            process: Process::start(&launch),
            ports,
            launch,
            folder: self.folder,
        }
    }

    /// Starts it, and waits until it serves calls.
    pub async fn serving(self) -> Sidecar {
        let sidecar = self.start();
        sidecar.serves(s(15)).await;
        sidecar
    }
}

/// Where a sidecar listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub http: u16,
    pub grpc: u16,
    pub internal: u16,
    pub public: u16,
    pub metrics: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        let free = ports::free;
        Self {
            http: free(),
            grpc: free(),
            internal: free(),
            public: free(),
            metrics: free(),
        }
    }

    pub(crate) fn flags(&self) -> [String; 5] {
        [
            format!("--dapr-http-port={}", self.http),
            format!("--dapr-grpc-port={}", self.grpc),
            format!("--dapr-internal-grpc-port={}", self.internal),
            format!("--dapr-public-port={}", self.public),
            format!("--metrics-port={}", self.metrics),
        ]
    }

    pub fn all(&self) -> [u16; 5] {
        [
            self.http,
            self.grpc,
            self.internal,
            self.public,
            self.metrics,
        ]
    }
}

/// A running sidecar. Killed when it is dropped.
#[derive(Debug)]
pub struct Sidecar {
    pub process: Process,
    pub ports: Ports,
    launch: Launch,
    // Declared last: removed after everything else is gone.
    folder: PrivateDir,
}

impl Sidecar {
    /// Starts it again as it was started first, on the same ports. One that still runs is killed.
    pub fn start_again(&mut self) {
        self.process = Process::start(&self.launch);
    }

    /// Its resources.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a resource file.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        self.folder.write(name, text);
    }

    pub fn since_start(&self) -> Duration {
        self.process.started.elapsed()
    }

    /// # Panics
    /// When there is no answer.
    pub async fn call(&self, request: Request) -> Answer {
        let answer = http::call(self.ports.http, &request).await;
        answer.unwrap_or_else(|error| {
            panic!(
                "{} {}: {error}\n{}",
                request.method,
                request.path,
                self.process.output()
            )
        })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Request::get(path)).await
    }

    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call(Request::post(path, body)).await
    }

    /// Publishes a text.
    pub async fn publish(&self, pubsub: &str, topic: &str, text: &str) -> Answer {
        let path = format!("/v1.0/publish/{pubsub}/{topic}");
        self.post(&path, Value::from(text).to_string()).await
    }

    /// Saves a text as state and reads it again.
    ///
    /// # Panics
    /// When that does not work.
    pub async fn assert_state_works(&self, store: &str) {
        let path = format!("/v1.0/state/{store}");
        let saved = self
            .post(&path, r#"[{"key":"proof","value":"kept"}]"#)
            .await;
        saved.assert(204, "");
        let read = self.get(&format!("{path}/proof")).await;
        assert_eq!((read.status, read.text().as_str()), (200, "\"kept\""));
    }

    /// Waits until its HTTP port accepts, which is no sign of anything else.
    pub async fn accepts(&self) {
        wait::until("the HTTP port", s(5), async || {
            TcpStream::connect(("127.0.0.1", self.ports.http)).await
        })
        .await;
    }

    /// Waits until it serves calls; how long that took from its start.
    pub async fn serves(&self, limit: Duration) -> Duration {
        self.until_status("/v1.0/healthz/outbound", 204, limit)
            .await
    }

    /// Waits until a path answers with this status; how long that took from its start.
    pub async fn until_status(&self, path: &str, status: u16, limit: Duration) -> Duration {
        let request = Request::get(path);
        wait::until(
            format!("{status} of {path}"),
            limit,
            async || match http::call(self.ports.http, &request).await {
                Ok(answer) if answer.status == status => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                Err(error) => Err(error.to_string()),
            },
        )
        .await;
        self.since_start()
    }

    pub async fn metadata(&self) -> Value {
        self.get("/v1.0/metadata").await.json()
    }

    /// The state of the gate in front of the app.
    pub async fn gate(&self) -> String {
        let metadata = self.metadata().await;
        let gate = metadata["extended"]["outrigger.dev/gate"].as_str();
        gate.unwrap_or_default().to_owned()
    }

    /// What it tells of all its components.
    ///
    /// # Panics
    /// When it tells nothing.
    pub async fn components(&self) -> Vec<Value> {
        let metadata = self.metadata().await;
        let text = metadata["extended"]["outrigger.dev/components"].as_str();
        let text = text.unwrap_or_else(|| panic!("no components in {metadata}"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What it tells of a component; null when it tells nothing.
    pub async fn component(&self, name: &str) -> Value {
        let all = self.components().await;
        all.into_iter()
            .find(|one| one["name"] == name)
            .unwrap_or_default()
    }

    /// What it tells of a subscription; null when it tells nothing.
    pub async fn subscription(&self, pubsub: &str, topic: &str) -> Value {
        let component = self.component(pubsub).await;
        let all = component["subscriptions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        all.into_iter()
            .find(|one| one["topic"] == topic)
            .unwrap_or_default()
    }

    /// Waits for the state of a component; what it tells then.
    pub async fn until(&self, component: &str, state: &str, limit: Duration) -> Value {
        wait::until(format!("{component} {state}"), limit, async || {
            let seen = self.component(component).await;
            if seen["state"] == state {
                Ok(seen)
            } else {
                Err(seen)
            }
        })
        .await
    }

    /// Waits for the state of a subscription; what it tells then.
    pub async fn until_topic(
        &self,
        pubsub: &str,
        topic: &str,
        state: &str,
        limit: Duration,
    ) -> Value {
        wait::until(format!("{pubsub}/{topic} {state}"), limit, async || {
            let seen = self.subscription(pubsub, topic).await;
            if seen["state"] == state {
                Ok(seen)
            } else {
                Err(seen)
            }
        })
        .await
    }

    /// Reads its resources again.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Tells it to end; how it ended and how long that took.
    pub async fn stop(&mut self, limit: Duration) -> (Ended, Duration) {
        let before = self.since_start();
        self.process.signal(Signal::TERM);
        let ended = self.process.ended(limit).await;
        let took = ended.took.saturating_sub(before);
        (ended, took)
    }
}
