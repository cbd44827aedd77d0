//! Taking documents in, one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Compile, Context, Loaded, Refused, Rejected, ResourceKind, sketch};
use crate::component::ComponentResource;
use crate::dependency::cycles;
use crate::diagnostic::{Diagnostic, Place};
use crate::http_endpoint::HttpEndpointResource;
use crate::read::{Reader, unreadable};
use crate::resiliency::ResiliencyResource;
use crate::resource::{self, Header, Sort};
use crate::subscription::SubscriptionResource;
use crate::yaml::{Node, Schema, YamlError};

/// A document that has been read, before it is accepted.
enum Read {
    Component(ComponentResource),
    Subscription(SubscriptionResource),
    HttpEndpoint(HttpEndpointResource),
    Resiliency(ResiliencyResource),
}

impl Loaded {
    /// As [`Loaded::take_unreadable`], looking for a Resiliency resource in what does not parse.
    pub(super) fn take_broken(
        &mut self,
        (file, text): (&Arc<str>, &str),
        line: u32,
        error: &YamlError,
    ) {
        self.take_unreadable(file, line, error);
        if let (Some(name), Some(rejected)) =
            (sketch::resiliency(text, line), self.rejected.last_mut())
        {
            let mut place = rejected.place.clone();
            place.line = line;
            place.column = 1;
            self.refused_resiliencies.push(Refused { name, place });
        }
    }

    fn take_unreadable(&mut self, file: &Arc<str>, line: u32, error: &YamlError) {
        let told = unreadable(file, error);
        self.rejected.push(Rejected {
            name: file_and_line(file, line),
            kind: ResourceKind::Unknown,
            type_name: String::new(),
            version: String::new(),
            ignore_errors: false,
            annotations: BTreeMap::new(),
            reason: told.summary(),
            place: told.place.clone(),
        });
        self.diagnostics.push(told);
    }

    pub(super) fn take(
        &mut self,
        file: &Arc<str>,
        root: &Node,
        context: &Context,
        compile: Compile<'_>,
        notes: bool,
    ) {
        let reader = Reader::new(file, Schema::Legacy);
        let Some(document) = reader.root(root) else {
            let error = YamlError {
                at: root.at,
                message: format!("a resource is a map, this is {}", root.kind()),
            };
            return self.take_unreadable(file, root.at.line, &error);
        };
        let sort = match resource::sort(&document) {
            Sort::Misspelt(told) => return self.diagnostics.push(*told),
            Sort::Ignored(reason) => {
                let is_elsewhere = document
                    .field("kind")
                    .is_some_and(|kind| kind.text().as_deref() == Some("Configuration"));
                if let Some(reason) = reason.filter(|_| notes || is_elsewhere) {
                    let note = Diagnostic::note("CFG-IGNORED", document.place(), reason);
                    let name = document
                        .object("metadata")
                        .and_then(|metadata| metadata.word("name"));
                    self.diagnostics.push(match name {
                        Some(name) if is_elsewhere => note.found(name),
                        _ => note,
                    });
                }
                return;
            }
            sort => sort,
        };
        let header = Header::read(&document);
        if !header.is_for(context) {
            return;
        }
        let read = match sort {
            Sort::Subscription { second } => Read::Subscription(SubscriptionResource::read(
                &document, root, header, second, compile,
            )),
            Sort::HttpEndpoint => {
                Read::HttpEndpoint(HttpEndpointResource::read(&document, root, header, context))
            }
            Sort::Resiliency => Read::Resiliency(ResiliencyResource::read(&document, root, header)),
            Sort::Component | Sort::Ignored(_) | Sort::Misspelt(_) => {
                Read::Component(ComponentResource::read(&document, root, header, context))
            }
        };
        let told = reader.finish();
        match told.iter().find(|told| told.is_error()) {
            Some(first) => {
                let others = told.iter().filter(|told| told.is_error()).count() - 1;
                let reason = if others == 0 {
                    first.summary()
                } else {
                    format!("{} (and {others} more)", first.summary())
                };
                if let Read::Resiliency(resource) = &read {
                    self.refused_resiliencies.push(Refused {
                        name: resource.name.clone(),
                        place: resource.place.clone(),
                    });
                }
                self.rejected
                    .push(read.rejected(file, root.at.line, reason));
            }
            None => self.accept(read, file, root.at.line),
        }
        self.diagnostics.extend(told);
    }

    /// Compares with what is already there.
    fn accept(&mut self, read: Read, file: &Arc<str>, line: u32) {
        let taken = match &read {
            Read::Component(resource) => self
                .components
                .iter()
                .find(|other| other.name == resource.name)
                .map(|first| {
                    (
                        format!("component `{}`", first.name),
                        &resource.place,
                        &first.place,
                    )
                }),
            Read::HttpEndpoint(resource) => self
                .http_endpoints
                .iter()
                .find(|other| other.name == resource.name)
                .map(|first| {
                    (
                        format!("HTTP endpoint `{}`", first.name),
                        &resource.place,
                        &first.place,
                    )
                }),
            Read::Subscription(resource) => match self.repeated(resource) {
                Some(told) => return self.diagnostics.push(told),
                None => None,
            },
            Read::Resiliency(_) => None,
        };
        if let Some((name, place, first)) = taken {
            let message = format!("{name} is defined a second time");
            let told =
                Diagnostic::error("CFG-DUPLICATE", place.clone(), message).help(first_one(first));
            self.rejected
                .push(read.rejected(file, line, told.summary()));
            return self.diagnostics.push(told);
        }
        match read {
            Read::Component(resource) => self.components.push(resource),
            Read::Subscription(resource) => self.subscriptions.push(resource),
            Read::HttpEndpoint(resource) => self.http_endpoints.push(resource),
            Read::Resiliency(resource) => self.resiliencies.push(resource),
        }
    }

    /// Components whose secrets depend on each other can never start.
    pub(super) fn reject_cycles(&mut self, context: &Context) {
        for (name, path) in cycles(&self.components, context) {
            let Some(index) = self
                .components
                .iter()
                .position(|component| component.name.as_str() == name)
            else {
                continue;
            };
            let resource = self.components.remove(index);
            let message = format!("`{name}` needs a secret that needs `{name}` first");
            let told = Diagnostic::error("CFG-CYCLE", resource.secret_store_place.clone(), message)
                .help(path);
            let line = resource.place.line;
            let file = resource.place.file.clone();
            self.rejected
                .push(Read::Component(resource).rejected(&file, line, told.summary()));
            self.diagnostics.push(told);
        }
    }

    /// Of two subscriptions with one name, or to one topic, the first counts.
    fn repeated(&self, resource: &SubscriptionResource) -> Option<Diagnostic> {
        let same_name = |other: &&SubscriptionResource| {
            !resource.name.is_empty() && other.name == resource.name
        };
        let same_topic = |other: &&SubscriptionResource| {
            other.pubsub == resource.pubsub && other.topic == resource.topic
        };
        let (message, first) = if let Some(first) = self.subscriptions.iter().find(same_name) {
            (
                format!(
                    "subscription `{}` is defined a second time and ignored",
                    resource.name
                ),
                first,
            )
        } else {
            let first = self.subscriptions.iter().find(same_topic)?;
            (
                format!(
                    "a second subscription to topic `{}` of `{}` is ignored",
                    resource.topic, resource.pubsub
                ),
                first,
            )
        };
        Some(
            Diagnostic::warning("CFG-DUPLICATE", resource.place.clone(), message)
                .help(first_one(&first.place)),
        )
    }
}

impl Read {
    fn rejected(&self, file: &Arc<str>, line: u32, reason: String) -> Rejected {
        let (name, kind, place) = match self {
            Self::Component(resource) => (
                resource.name.as_str(),
                ResourceKind::Component,
                &resource.place,
            ),
            Self::Subscription(resource) => (
                resource.name.as_str(),
                ResourceKind::Subscription,
                &resource.place,
            ),
            Self::HttpEndpoint(resource) => (
                resource.name.as_str(),
                ResourceKind::HttpEndpoint,
                &resource.place,
            ),
            Self::Resiliency(resource) => (
                resource.name.as_str(),
                ResourceKind::Resiliency,
                &resource.place,
            ),
        };
        let (type_name, version, ignore_errors, annotations) = match self {
            Self::Component(resource) => (
                resource.type_name.clone(),
                resource.version.clone(),
                resource.ignore_errors,
                resource.annotations.clone(),
            ),
            Self::Subscription(_) | Self::HttpEndpoint(_) | Self::Resiliency(_) => {
                Default::default()
            }
        };
        let name = if name.is_empty() {
            file_and_line(file, line)
        } else {
            name.to_owned()
        };
        Rejected {
            name,
            kind,
            type_name,
            version,
            ignore_errors,
            annotations,
            reason,
            place: place.clone(),
        }
    }
}

fn first_one(place: &Place) -> String {
    format!("the first one is in {}:{}", place.file, place.line)
}

/// `pubsub.yaml:12`, without the folder.
fn file_and_line(file: &str, line: u32) -> String {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    format!("{name}:{line}")
}
