//! Reading resources, at the start and again when told to.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use outrigger_config::{Configuration, Context, Loaded, load};
use outrigger_lifecycle::Scope;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::components::{Components, ExternalEndpoints, Shared, compile_rule};
use crate::demands::Demands;
use crate::files::read_resources;
use crate::policies::Policies;
use crate::subscriptions::Wanted;

const SCOPE: &str = "dapr.runtime";

/// Everything that follows from resource files.
pub(crate) struct Resources {
    pub folders: Vec<String>,
    pub configuration: Arc<Configuration>,
    pub shared: Arc<Shared>,
    pub components: Components,
    pub endpoints: Arc<ExternalEndpoints>,
    pub wanted: Arc<Wanted>,
    pub demands: Arc<Demands>,
    pub renewed: Arc<Notify>,
    pub policies: Policies,
    pub scope: Scope,
    /// What was told of the files when they were last read; told again once it has changed.
    pub told: HashSet<String>,
}

impl Resources {
    /// Reads the files and makes everything be as they say.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub(crate) async fn load(&mut self) -> Result<(), String> {
        let folders = self.folders.clone();
        let context = self.shared.context.clone();
        // Files may lie on slow disks; nothing else waits for them.
        let read = tokio::task::spawn_blocking(move || read(&folders, &context))
            .await
            .map_err(|error| error.to_string())?;
        let (loaded, unreadable) = read?;
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
        self.components
            .apply(&loaded, &unreadable, &self.configuration);
        self.demands.concern(&self.components);
        let names = self.policies.apply(&loaded, &unreadable, &self.folders)?;
        self.endpoints
            .apply(&self.shared, &loaded.http_endpoints, names, &self.scope);
        self.wanted.declare(&loaded.subscriptions);
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

    /// Reads the files once more. What is wrong with a folder leaves everything as it is.
    pub(crate) async fn refresh(&mut self) {
        if let Err(why) = self.load().await {
            error!(target: SCOPE, err = why, "resources cannot be read, everything stays as it is");
        }
    }

    /// The same, by order: what is not ready is tried at once, and the app is asked again.
    pub(crate) async fn reload(&mut self) {
        info!(target: SCOPE, "reading resources again");
        self.refresh().await;
        self.components.retry();
        self.renewed.notify_one();
    }
}

type Read = (Loaded, Vec<(String, String)>);

fn read(folders: &[String], context: &Context) -> Result<Read, String> {
    let (files, unreadable) = read_resources(folders)?;
    Ok((load::load(&files, context, &compile_rule), unreadable))
}
