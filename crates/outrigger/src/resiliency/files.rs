//! The files that both commands read, and the documents in them.

use std::collections::BTreeSet;
use std::path::Path;

use outrigger_config::diagnostic::{Diagnostic, Place};
use outrigger_config::yaml::{Content, Node, Schema, documents};
use outrigger_config::{Context, Loaded, SourceFile, load};
use outrigger_core::{AppId, Namespace};
use outrigger_sidecar::{Unreadable, compile_rule, read_configuration, read_resources};

/// More sidecars than this are not told apart.
const MOST_VIEWS: usize = 64;

/// Everything that was read.
pub(super) struct Files {
    texts: Vec<SourceFile>,
    unreadable: Vec<Unreadable>,
    documents: Vec<Document>,
}

/// What a document says of itself.
pub(super) struct Document {
    file: String,
    line: u32,
    /// Empty where there is none, and where it does not parse.
    pub kind: String,
    pub name: String,
    /// `spec.type`.
    pub type_name: String,
    namespace: String,
    scopes: Vec<String>,
}

/// For whom resources are looked at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct View {
    pub app_id: String,
    pub namespace: Option<String>,
}

impl Files {
    /// Reads files, and the resource files of folders, in their order.
    pub(super) fn read(paths: &[String]) -> Result<Self, String> {
        let (mut texts, mut unreadable) = (Vec::new(), Vec::new());
        for path in paths {
            let path = std::slice::from_ref(path);
            if path.iter().all(|path| Path::new(path).is_file()) {
                let found = read_configuration(path)
                    .map_err(|why| why.replacen("configuration file", "file", 1));
                texts.extend(found?);
            } else {
                let (found, not_read) = read_resources(path)?;
                texts.extend(found);
                unreadable.extend(not_read);
            }
        }
        Ok(Self::of(texts, unreadable))
    }

    pub(super) fn of(texts: Vec<SourceFile>, unreadable: Vec<Unreadable>) -> Self {
        Self {
            documents: texts.iter().flat_map(Document::all).collect(),
            texts,
            unreadable,
        }
    }

    /// What a sidecar gets of them.
    pub(super) fn load(&self, view: &View) -> Loaded {
        let context = Context {
            app_id: AppId::from(view.app_id.as_str()),
            namespace: view.namespace.as_deref().map(Namespace::from),
            kubernetes: false,
        };
        load::load(&self.texts, &context, &compile_rule)
    }

    pub(super) fn unreadable(&self) -> impl Iterator<Item = Diagnostic> + '_ {
        self.unreadable
            .iter()
            .map(|(file, why)| Diagnostic::error("unreadable", Place::file(file), why.as_str()))
    }

    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Document> {
        self.documents
            .iter()
            .filter(move |document| document.kind == kind)
    }

    /// Whether a finding has to do with policies: it stands in no document of another kind.
    pub(super) fn is_about_policies(&self, told: &Diagnostic) -> bool {
        const OTHERS: [&str; 6] = [
            "Component",
            "Subscription",
            "HTTPEndpoint",
            "Configuration",
            "MCPServer",
            "WorkflowAccessPolicy",
        ];
        let place = &told.place;
        let of_file = self
            .documents
            .iter()
            .filter(|document| *document.file == *place.file);
        let within = of_file
            .take_while(|document| document.line <= place.line)
            .last();
        within.is_none_or(|document| !OTHERS.contains(&document.kind.as_str()))
    }

    /// One view for each set of Resiliency resources that some sidecar gets; what is given narrows them.
    pub(super) fn views(&self, app_id: Option<&str>, namespace: Option<&str>) -> Vec<View> {
        let resources: Vec<&Document> = self.of_kind("Resiliency").collect();
        let apps: BTreeSet<&str> = match app_id {
            Some(id) => BTreeSet::from([id]),
            None => {
                let named = resources.iter().flat_map(|document| &document.scopes);
                named.map(String::as_str).chain([""]).collect()
            }
        };
        let namespaces: BTreeSet<Option<&str>> = match namespace {
            Some(name) => BTreeSet::from([Some(name)]),
            None => {
                let named = resources
                    .iter()
                    .map(|document| document.namespace.as_str())
                    .filter(|name| !name.is_empty());
                let named: BTreeSet<_> = named.map(Some).collect();
                if named.is_empty() {
                    BTreeSet::from([None])
                } else {
                    named
                }
            }
        };
        let mut seen: BTreeSet<Vec<bool>> = BTreeSet::new();
        let mut views = Vec::new();
        for app_id in apps {
            for namespace in &namespaces {
                let view = View {
                    app_id: app_id.to_owned(),
                    namespace: namespace.map(str::to_owned),
                };
                let set = resources.iter().map(|document| document.is_for(&view));
                if views.len() < MOST_VIEWS && seen.insert(set.collect()) {
                    views.push(view);
                }
            }
        }
        views
    }
}

impl Document {
    fn all((file, text): &SourceFile) -> Vec<Self> {
        documents(text, Schema::Legacy)
            .into_iter()
            .map(|document| Self::new(file, document.line, document.root.ok().as_ref()))
            .collect()
    }

    fn new(file: &str, line: u32, root: Option<&Node>) -> Self {
        let metadata = root.and_then(|root| member(root, "metadata"));
        let spec = root.and_then(|root| member(root, "spec"));
        let scopes = match root
            .and_then(|root| member(root, "scopes"))
            .map(|node| &node.content)
        {
            Some(Content::List(scopes)) => scopes.as_slice(),
            _ => &[],
        };
        Self {
            file: file.to_owned(),
            line,
            kind: text(root, "kind"),
            name: text(metadata, "name"),
            type_name: text(spec, "type"),
            namespace: text(metadata, "namespace"),
            scopes: scopes.iter().filter_map(word).collect(),
        }
    }

    fn is_for(&self, view: &View) -> bool {
        let same_namespace = self.namespace.is_empty()
            || view
                .namespace
                .as_ref()
                .is_none_or(|own| *own == self.namespace);
        same_namespace && (self.scopes.is_empty() || self.scopes.contains(&view.app_id))
    }
}

/// A field, whatever the case of its name.
fn member<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).or_else(|| {
        let mut entries = node.as_map()?.iter().rev();
        entries
            .find(|entry| entry.key.eq_ignore_ascii_case(name))
            .map(|entry| &entry.value)
    })
}

fn text(node: Option<&Node>, name: &str) -> String {
    node.and_then(|node| word(member(node, name)?))
        .unwrap_or_default()
}

fn word(node: &Node) -> Option<String> {
    Some(node.as_scalar()?.text.to_string()).filter(|_| !node.is_null())
}
