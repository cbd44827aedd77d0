//! From resource files to what this app gets of them.

mod accept;
mod sketch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::{AppId, Namespace};

use crate::component::ComponentResource;
use crate::diagnostic::{self, Diagnostic, Place};
use crate::http_endpoint::HttpEndpointResource;
use crate::resiliency::{ResiliencyResource, merge};
use crate::resource;
use crate::subscription::SubscriptionResource;
use crate::yaml::{Schema, documents};

/// For whom resources are loaded.
#[derive(Clone, Debug)]
pub struct Context {
    pub app_id: AppId,
    /// Env `NAMESPACE`; absent when unset or empty, and then no namespace is compared.
    pub namespace: Option<Namespace>,
    /// With `--mode kubernetes`, where secrets without a store come from the store `kubernetes`.
    pub kubernetes: bool,
}

/// Compiles a CEL expression and throws the result away. The error has a message, and the line and column within the
/// expression, both from 1, where they are known.
pub type Compile<'a> = &'a dyn Fn(&str) -> Result<(), (String, Option<(usize, usize)>)>;

/// A file's name, as diagnostics show it, and its text.
pub type SourceFile = (String, String);

/// What this app gets.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// In the order of the files; no name twice.
    pub components: Vec<ComponentResource>,
    /// No name and no pair of pubsub and topic twice.
    pub subscriptions: Vec<SubscriptionResource>,
    /// No name twice.
    pub http_endpoints: Vec<HttpEndpointResource>,
    /// In the order in which they are merged.
    pub resiliencies: Vec<ResiliencyResource>,
    pub rejected: Vec<Rejected>,
    /// Which of `rejected` are Resiliency resources, so that a reload can keep the last good version of each.
    pub refused_resiliencies: Vec<Refused>,
    /// Sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// The kinds of resource that a sidecar loads from its resource files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceKind {
    Component,
    Subscription,
    HttpEndpoint,
    Resiliency,
    /// A document whose kind cannot be told.
    Unknown,
}

impl ResourceKind {
    /// As it is spelt in `kind:`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Subscription => "Subscription",
            Self::HttpEndpoint => "HTTPEndpoint",
            Self::Resiliency => "Resiliency",
            Self::Unknown => "unknown",
        }
    }
}

/// A document that cannot be used as it is; it is looked at again when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// `metadata.name`, or file name and line where no name is known.
    pub name: String,
    pub kind: ResourceKind,
    /// `spec.type` of a component; empty where unknown.
    pub type_name: String,
    /// `spec.version` of a component; empty where unknown.
    pub version: String,
    /// `spec.ignoreErrors` of a component.
    pub ignore_errors: bool,
    /// `metadata.annotations` of a component.
    pub annotations: BTreeMap<String, String>,
    /// One line; never holds a secret.
    pub reason: String,
    pub place: Place,
}

impl Rejected {
    /// `outrigger.dev/<name>`.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        resource::annotation(&self.annotations, name)
    }
}

/// A Resiliency resource that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `metadata.name`; empty where it cannot be read.
    pub name: String,
    pub place: Place,
}

/// Reads resource files: every document is checked by itself, then names are compared.
///
/// `files` come in the order of the folders and of the names within them.
pub fn load(files: &[SourceFile], context: &Context, compile: Compile<'_>) -> Loaded {
    read(files, context, compile, false)
}

/// [`load`], with notes about what is ignored on purpose if `notes` says so.
pub(crate) fn read(
    files: &[SourceFile],
    context: &Context,
    compile: Compile<'_>,
    notes: bool,
) -> Loaded {
    let mut loaded = Loaded::default();
    for (name, text) in files {
        let file: Arc<str> = name.as_str().into();
        for document in documents(text, Schema::Legacy) {
            match &document.root {
                Ok(root) => loaded.take(&file, root, context, compile, notes),
                Err(error) => loaded.take_broken((&file, text), document.line, error),
            }
        }
    }
    loaded.reject_cycles(context);
    loaded
        .diagnostics
        .extend(merge::check(&loaded.resiliencies));
    diagnostic::sort(&mut loaded.diagnostics);
    loaded
}
