//! A sidecar and an app as one unit: `outrigger run`.

use std::path::Path;
use std::time::Duration;

use outrigger_testkit::{PrivateDir, ports};

use crate::http::{self, Answer, Request};
use crate::process::{Ended, Launch, Process, Signal};
use crate::sidecar::Ports;
use crate::{Component, s};

/// Where the apps that are scripts lie.
const APPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/apps");

/// What a unit is to be started with.
#[derive(Debug)]
pub struct UnitPlan {
    flags: Vec<String>,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    folder: PrivateDir,
    app_port: Option<u16>,
}

impl UnitPlan {
    fn new(command: Vec<String>) -> Self {
        Self {
            flags: Vec::new(),
            command,
            environment: Vec::new(),
            wrapper: Vec::new(),
            folder: PrivateDir::new("unit"),
            app_port: None,
        }
    }

    /// An app that is a shell script.
    pub fn shell(script: &str) -> Self {
        Self::new(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    /// An app that works on messages: `apps/worker.py`.
    pub fn worker() -> Self {
        let mut plan = Self::new(vec!["python3".to_owned(), app("worker.py")]);
        let port = ports::free();
        plan.app_port = Some(port);
        plan.flag(&format!("--app-port={port}"))
    }

    /// Another command as the app.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(ToString::to_string).collect();
        self
    }

    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A program that starts the unit.
    #[must_use]
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    #[must_use]
    pub fn with(self, component: &Component) -> Self {
        let resources = self.folder.path().join("resources");
        std::fs::create_dir_all(&resources).unwrap();
        std::fs::write(resources.join("component.yaml"), component.yaml()).unwrap();
        self
    }

    pub fn start(self) -> Unit {
        let ports = Ports::free();
        let mut arguments = vec!["run".to_owned(), "--app-id=shop".to_owned()];
        arguments.extend(ports.flags());
        arguments.extend(self.flags);
        arguments.push("--".to_owned());
        arguments.extend(self.command);
        let launch = Launch {
            wrapper: self.wrapper,
            arguments,
            environment: self.environment,
            folder: Some(self.folder.path().to_owned()),
        };
        Unit {
            process: Process::start(&launch),
            ports,
            app_port: self.app_port,
            folder: self.folder,
        }
    }

    /// Starts it, and waits until the app says so.
    pub async fn started(self) -> Unit {
        let unit = self.start();
        unit.process.says("started", s(20)).await;
        unit
    }
}

/// The path of an app that is a script.
pub fn app(name: &str) -> String {
    format!("{APPS}/{name}")
}

/// A running unit. Killed when it is dropped.
#[derive(Debug)]
pub struct Unit {
    pub process: Process,
    pub ports: Ports,
    pub app_port: Option<u16>,
    // Declared last: removed after everything else is gone.
    folder: PrivateDir,
}

impl Unit {
    /// Its current folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// # Panics
    /// When there is no answer.
    pub async fn call(&self, request: Request) -> Answer {
        let answer = http::call(self.ports.http, &request).await;
        answer
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", request.path, self.process.output()))
    }

    /// Publishes a text to the worker.
    pub async fn publish(&self, text: &str) {
        let body = serde_json::Value::from(text).to_string();
        let answer = self
            .call(Request::post("/v1.0/publish/bus/work", body))
            .await;
        answer.assert(204, "");
    }

    /// Waits until the worker gets messages.
    pub async fn subscribed(&self) {
        outrigger_testkit::wait::until("two active subscriptions", s(20), async || {
            let answer = http::call(self.ports.http, &Request::get("/v1.0/metadata")).await;
            let told = answer.map_err(|error| error.to_string())?.text();
            // In a text within the text.
            let active = told.matches(r#"\"state\":\"active\""#).count();
            if active == 2 { Ok(()) } else { Err(told) }
        })
        .await;
    }

    /// The state of the app's gate.
    pub async fn gate(&self) -> String {
        let metadata = self.call(Request::get("/v1.0/metadata")).await.json();
        metadata["extended"]["outrigger.dev/gate"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The number behind a word that it or its app has printed.
    ///
    /// # Panics
    /// When nothing like it is printed.
    pub async fn told(&self, word: &str) -> i32 {
        let line = self.process.says(word, s(20)).await;
        let rest = line.split(word).nth(1).unwrap_or_default();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits
            .parse()
            .unwrap_or_else(|_| panic!("no number behind {word} in {line}"))
    }

    /// Tells it to end; how it ended.
    pub async fn stop(&mut self, limit: Duration) -> Ended {
        self.process.signal(Signal::TERM);
        self.process.ended(limit).await
    }
}
