//! Resiliency resources, taken over as they are read; the last good version of one that is refused stays.

use std::sync::Arc;

use outrigger_config::{Diagnostic, Loaded, ResiliencyResource};
use outrigger_resiliency::{RefusedResource, Resiliency};
use tracing::{error, info, warn};

const SCOPE: &str = "dapr.runtime";

/// What is in force, and where it goes.
pub(crate) struct Policies {
    resiliency: Arc<Resiliency>,
    /// `--resiliency-strict`.
    strict: bool,
    /// `None` before the first reading.
    current: Option<Vec<ResiliencyResource>>,
}

impl Policies {
    pub(crate) fn new(resiliency: Arc<Resiliency>, strict: bool) -> Self {
        Self {
            resiliency,
            strict,
            current: None,
        }
    }

    /// Takes over what was read; the names of what is in force.
    ///
    /// # Errors
    /// When a resource is refused at the start, and that is to end it.
    pub(crate) fn apply(
        &mut self,
        loaded: &Loaded,
        unreadable: &[(String, String)],
        folders: &[String],
    ) -> Result<Vec<String>, String> {
        let is_start = self.current.is_none();
        let last = self.current.take().unwrap_or_default();
        let mut next = loaded.resiliencies.clone();
        let mut refused = Vec::new();
        for resource in &loaded.refused_resiliencies {
            let (reasons, is_form) = reasons(loaded, &resource.place.file);
            let told = reasons.join("; ");
            if is_form {
                error!(target: SCOPE, "Could not parse resiliency file {}: {told}", resource.place.file);
            } else {
                error!(target: SCOPE, "Could not read resiliency policy {}: {told}", resource.name);
            }
            let kept = keep(&last, &mut next, &resource.name, &resource.place.file);
            refused.push(RefusedResource {
                name: resource.name.clone(),
                place: resource.place.to_string(),
                reasons,
                last_good_in_force: kept,
            });
        }
        for (file, reason) in unreadable {
            if keep(&last, &mut next, "", file) {
                refused.push(RefusedResource {
                    name: String::new(),
                    place: file.clone(),
                    reasons: vec![reason.clone()],
                    last_good_in_force: true,
                });
            }
        }
        // A file that is no YAML any more does not even say what it holds.
        for diagnostic in loaded
            .diagnostics
            .iter()
            .filter(|one| one.code == "CFG-YAML")
        {
            let file = &*diagnostic.place.file;
            if keep(&last, &mut next, "", file) {
                error!(target: SCOPE, "Could not parse resiliency file {file}: {}", diagnostic.located());
                refused.push(RefusedResource {
                    name: String::new(),
                    place: diagnostic.place.to_string(),
                    reasons: vec![diagnostic.located()],
                    last_good_in_force: true,
                });
            }
        }
        // What was kept takes its old place.
        next.sort_by_cached_key(|resource| order(folders, &resource.place.file));
        if is_start && self.strict && !refused.is_empty() {
            let names: Vec<&str> = refused.iter().map(|one| one.place.as_str()).collect();
            return Err(format!(
                "refused Resiliency resources, and --resiliency-strict: {}",
                names.join(", ")
            ));
        }
        for resource in &next {
            let known = last
                .iter()
                .any(|old| old.name == resource.name && old.fingerprint == resource.fingerprint);
            if !known {
                self.tell(resource);
            }
        }
        if last != next || is_start {
            self.resiliency.apply(&next);
            if !is_start {
                info!(target: SCOPE, "resiliency policies changed and apply from now on");
            }
        }
        if !is_start && !refused.is_empty() {
            warn!(target: SCOPE, refused = refused.len(), "refused Resiliency resources: their last good versions stay in force");
        }
        self.resiliency.show_refused(refused);
        let names = next.iter().map(|resource| resource.name.clone()).collect();
        self.current = Some(next);
        Ok(names)
    }

    fn tell(&self, resource: &ResiliencyResource) {
        info!(target: SCOPE, "Loading Resiliency configuration: {}", resource.name);
        self.resiliency.count_loaded(
            &resource.name,
            resource
                .namespace
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
                .as_str(),
        );
    }
}

/// Keeps the last good versions of what a place defines now in a way that cannot be used; whether there were any.
fn keep(
    last: &[ResiliencyResource],
    next: &mut Vec<ResiliencyResource>,
    name: &str,
    file: &str,
) -> bool {
    let meant = |old: &&ResiliencyResource| {
        if name.is_empty() {
            &*old.place.file == file
        } else {
            old.name == name
        }
    };
    let kept: Vec<ResiliencyResource> = last
        .iter()
        .filter(meant)
        .filter(|old| !next.iter().any(|new| new.name == old.name))
        .cloned()
        .collect();
    let any = !kept.is_empty();
    next.extend(kept);
    any
}

/// Everything that is wrong in a file, and whether it is its form, for which Dapr has words of its own.
fn reasons(loaded: &Loaded, file: &str) -> (Vec<String>, bool) {
    let of_file: Vec<&Diagnostic> = loaded
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.is_error() && &*diagnostic.place.file == file)
        .collect();
    let is_form = of_file
        .iter()
        .any(|diagnostic| matches!(diagnostic.code, "CFG-TYPE" | "CFG-YAML"));
    let told = of_file.into_iter().map(Diagnostic::located).collect();
    (told, is_form)
}

/// Folders in the order of the flags, files by name.
fn order(folders: &[String], file: &str) -> (usize, String) {
    let folder = folders
        .iter()
        .position(|folder| file.starts_with(folder.as_str()));
    (folder.unwrap_or(folders.len()), file.to_owned())
}
