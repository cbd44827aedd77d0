//! Reading resources, at the start and again when told to.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use outrigger_config::{
    Context, HttpEndpointResource, Loaded, ResourceKind, Severity, SubscriptionResource, load,
};
use outrigger_lifecycle::Scope;
use tokio::sync::{Mutex, Notify};
use tracing::{error, info, warn};

use crate::components::{Components, ExternalEndpoints, Shared, compile_rule};
use crate::configured::Configured;
use crate::demands::Demands;
use crate::faults::Faults;
use crate::files::read_resources;
use crate::policies::Policies;
use crate::subscriptions::Wanted;
use crate::watch::{Seen, Watched, at_rest, look};

const SCOPE: &str = "dapr.runtime";

/// Files that change while they are read are read so often at most; then it is left to the next look.
const TRIES: u32 = 5;

/// Everything that follows from resource files.
pub(crate) struct Resources {
    pub watched: Watched,
    /// What the files were when they were last read.
    pub seen: Seen,
    pub configured: Configured,
    pub shared: Arc<Shared>,
    pub components: Components,
    pub endpoints: Arc<ExternalEndpoints>,
    pub wanted: Arc<Wanted>,
    pub demands: Arc<Demands>,
    pub renewed: Arc<Notify>,
    pub policies: Policies,
    pub scope: Scope,
    /// Those in force.
    pub http_endpoints: Vec<HttpEndpointResource>,
    pub subscriptions: Vec<SubscriptionResource>,
    /// What was told of the files when they were last read; told again once it has changed.
    pub told: HashSet<String>,
}

impl Resources {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub(crate) async fn begin(&mut self) -> Result<(), String> {
        for tries in 1.. {
            let seen = look(&self.watched).await;
            if self.load(seen, tries < TRIES).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads the files and makes everything be as they say; false if they turn out not to be as they were seen.
    ///
    /// # Errors
    /// When a folder cannot be read.
    async fn load(&mut self, seen: Seen, is_strict: bool) -> Result<bool, String> {
        let configuration = self.configured.read().await;
        let (folders, context) = (self.watched.folders.clone(), self.shared.context.clone());
        // Files may lie on slow disks; nothing else waits for them.
        let read = tokio::task::spawn_blocking(move || read(&folders, &context))
            .await
            .map_err(|error| error.to_string())?;
        if is_strict && look(&self.watched).await != seen {
            return Ok(false);
        }
        self.seen = seen;
        self.configured.take_over(configuration);
        self.take_over(read?)?;
        Ok(true)
    }

    fn take_over(&mut self, (loaded, unreadable): Read) -> Result<(), String> {
        let told = std::mem::take(&mut self.told);
        for diagnostic in &loaded.diagnostics {
            let line = diagnostic.located();
            self.told.insert(line.clone());
            if told.contains(&line) {
                continue;
            }
            // Of a refused Resiliency resource everything is told in one line.
            let is_told = loaded.refused_resiliencies.iter().any(|refused| {
                diagnostic.is_error() && refused.place.file == diagnostic.place.file
            });
            if is_told {
                continue;
            }
            if diagnostic.is_error() {
                error!(target: SCOPE, "{line}");
            } else if diagnostic.code == "CFG-BUILT-IN" {
                warn!(target: SCOPE, place = %diagnostic.place, "{}", diagnostic.message);
            } else if diagnostic.severity == Severity::Note {
                info!(target: SCOPE, "{line}");
            } else {
                warn!(target: SCOPE, "{line}");
            }
        }
        for (file, reason) in &unreadable {
            let line = format!("{file}: {reason}");
            if !told.contains(&line) {
                error!(target: SCOPE, file, err = reason, "resource file cannot be read");
            }
            self.told.insert(line);
        }
        let before = self.topics();
        let faults = Faults::of(&loaded, &unreadable);
        self.components
            .apply(&loaded, &unreadable, &faults, &self.configured.current);
        self.demands.concern(&self.components);
        let names = self
            .policies
            .apply(&loaded, &unreadable, &self.watched.folders)?;
        self.http_endpoints = faults.with_last_good(
            ResourceKind::HttpEndpoint,
            &loaded.http_endpoints,
            &self.http_endpoints,
            |one| (&one.name, &one.place.file),
            |new, old| new.name == old.name,
        );
        self.endpoints
            .apply(&self.shared, &self.http_endpoints, names, &self.scope);
        self.subscriptions = faults.with_last_good(
            ResourceKind::Subscription,
            &loaded.subscriptions,
            &self.subscriptions,
            |one| (&one.name, &one.place.file),
            |new, old| {
                let is_same_topic = new.pubsub == old.pubsub && new.topic == old.topic;
                is_same_topic || (!new.name.is_empty() && new.name == old.name)
            },
        );
        self.wanted.declare(&self.subscriptions);
        if self.topics() != before {
            // There is something new to subscribe through.
            self.renewed.notify_one();
        }
        Ok(())
    }

    /// Names of what may be subscribed through.
    fn topics(&self) -> BTreeSet<String> {
        let table = self.shared.registry.table();
        table.pubsub.keys().cloned().collect()
    }
}

/// Takes the files over once they have come to rest. What is wrong with a folder leaves everything as it is.
pub(crate) async fn refresh(resources: &Mutex<Resources>) {
    for _ in 0..TRIES {
        let (watched, known) = {
            let resources = resources.lock().await;
            (resources.watched.clone(), resources.seen.clone())
        };
        // Whoever ends everything is not held up meanwhile.
        let seen = at_rest(&watched, &known).await;
        match resources.lock().await.load(seen, true).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(why) => {
                error!(target: SCOPE, err = why, "resources cannot be read, everything stays as it is");
                return;
            }
        }
    }
    info!(target: SCOPE, "resource files do not stop changing, they are looked at again later");
}

/// The same, by order: what is not ready is tried at once, and the app is asked again.
pub(crate) async fn reload(resources: &Mutex<Resources>) {
    info!(target: SCOPE, "reading resources again");
    refresh(resources).await;
    let resources = resources.lock().await;
    resources.components.retry();
    resources.renewed.notify_one();
}

type Read = (Loaded, Vec<(String, String)>);

fn read(folders: &[String], context: &Context) -> Result<Read, String> {
    let (files, unreadable) = read_resources(folders)?;
    Ok((load::load(&files, context, &compile_rule), unreadable))
}
