//! What stands in the annotation `outrigger.dev/resiliency` instead of `spec`, where Kubernetes would remove it.

use std::borrow::Cow;

use crate::diagnostic::Diagnostic;
use crate::read::{Inset, Object};
use crate::yaml::{Content, Entry, Node, Position, Scalar, Schema, documents};

const NAME: &str = "outrigger.dev/resiliency";
const PATHS: (&str, &str) = ("spec", "metadata.annotations[outrigger.dev/resiliency]");
/// Below `spec`, the level whose keys are names of the user.
const NAMES: usize = 2;

/// The `spec` of a resource with its annotation merged over it; absent without a `spec`. A fault of the annotation is
/// told, and the `spec` is as if it were not there.
pub(super) fn merged<'a>(document: &Object<'_>, root: &'a Node) -> Option<Cow<'a, Node>> {
    let spec = member(root, "spec").filter(|spec| !spec.is_null());
    let over = scalar(root).and_then(|(at, scalar)| read(document, at, scalar));
    match (spec, over) {
        (None, over) => over.map(Cow::Owned),
        (Some(spec), Some(over)) if spec.as_map().is_some() => {
            // Merging leaves the last of equal keys only.
            for node in [spec, &over] {
                document.reader().tell_all_duplicates(node, PATHS.0);
            }
            Some(Cow::Owned(merge(spec.clone(), over, 0)))
        }
        // A `spec` that is no map is a fault of its own.
        (Some(spec), _) => Some(Cow::Borrowed(spec)),
    }
}

/// The annotation, if it is a text. What else it may be is told by the header.
fn scalar(root: &Node) -> Option<(Position, &Scalar)> {
    let annotations = member(member(root, "metadata")?, "annotations")?;
    let node = annotations.get(NAME)?;
    Some((node.at, node.as_scalar()?))
}

/// A field as a document's reader finds it.
fn member<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).or_else(|| {
        let same = |entry: &&Entry| entry.key.eq_ignore_ascii_case(name);
        node.as_map()?
            .iter()
            .rev()
            .find(same)
            .map(|entry| &entry.value)
    })
}

fn read(document: &Object<'_>, at: Position, scalar: &Scalar) -> Option<Node> {
    let inset = Inset::new(at, scalar, PATHS);
    let refuse = |at: Position, message: String| {
        let place = document.reader().place_at(inset.position(at), PATHS.1);
        let told = Diagnostic::error("CFG-ANNOTATION", place, message);
        document
            .reader()
            .tell(told.expected("YAML as it stands below `spec`"));
    };
    let mut found = documents(&scalar.text, Schema::Legacy).into_iter();
    let (first, second) = (found.next()?, found.next());
    let mut node = match first.root {
        Ok(node) => node,
        Err(error) => {
            let line = error.at.line;
            let message = format!(
                "the annotation is not valid YAML: {} (line {line} of its text)",
                error.message
            );
            refuse(error.at, message);
            return None;
        }
    };
    if node.as_map().is_none() {
        refuse(
            node.at,
            format!("the annotation is {}, not a map", node.kind()),
        );
        return None;
    }
    if let Some(second) = second {
        let at = Position {
            line: second.line,
            column: 1,
        };
        refuse(at, "the annotation holds more than one document".to_owned());
        return None;
    }
    Inset::mark(&mut node);
    document.reader().set_inset(inset);
    Some(node)
}

/// Maps are merged, everything else is replaced. Like their reader, maps of fields take keys without regard to case.
fn merge(mut base: Node, over: Node, level: usize) -> Node {
    match (&mut base.content, over) {
        (
            Content::Map(entries),
            Node {
                content: Content::Map(others),
                ..
            },
        ) => {
            for other in others {
                put(entries, other, level);
            }
            base
        }
        (_, over) => over,
    }
}

fn put(entries: &mut Vec<Entry>, other: Entry, level: usize) {
    let is_same = |entry: &Entry| {
        entry.key == other.key || level != NAMES && entry.key.eq_ignore_ascii_case(&other.key)
    };
    let there = entries
        .iter()
        .rposition(|entry| entry.key == other.key)
        .or_else(|| entries.iter().rposition(is_same));
    let Some(there) = there else {
        return entries.push(other);
    };
    let before = entries.get(there).map(|entry| entry.value.clone());
    entries.retain(|entry| !is_same(entry));
    let value = match before {
        Some(before) => merge(before, other.value, level + 1),
        None => other.value,
    };
    entries.push(Entry {
        key: other.key,
        at: other.at,
        value,
    });
}
