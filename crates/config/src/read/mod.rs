//! Typed access to a document's fields, gathering every fault on the way.
//!
//! An [`Object`] is asked for its fields one by one. What is there in a wrong form becomes an error and reads as absent,
//! so that reading goes on; what nobody asked for becomes a warning at the end.

mod field;
mod inset;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use outrigger_core::nearest::nearest;

use crate::diagnostic::{Diagnostic, Place};
use crate::yaml::{
    Content, Entry, Node, Position, Schema, YamlError, duplicates, join, last_of_each,
};
pub(crate) use field::Field;
pub(crate) use inset::Inset;

/// The file and the diagnostics of one document.
pub(crate) struct Reader {
    file: Arc<str>,
    schema: Schema,
    inset: OnceCell<Inset>,
    found: RefCell<Vec<Diagnostic>>,
}

impl Reader {
    pub(crate) fn new(file: &Arc<str>, schema: Schema) -> Self {
        Self {
            file: file.clone(),
            schema,
            inset: OnceCell::new(),
            found: RefCell::default(),
        }
    }

    /// Tells where the nodes of a document within the document are; there may be one.
    pub(crate) fn set_inset(&self, inset: Inset) {
        self.inset.set(inset).ok();
    }

    /// Whether the places of what follows `at` are known, too.
    pub(crate) fn is_exact(&self, at: Position) -> bool {
        self.inset.get().is_none_or(|inset| inset.is_exact(at))
    }

    pub(crate) fn place(&self, node: &Node, path: &str) -> Place {
        self.place_at(node.at, path)
    }

    pub(crate) fn place_at(&self, at: Position, path: &str) -> Place {
        let (at, path) = match self.inset.get() {
            Some(inset) => inset.place(at, path),
            None => (at, path.to_owned()),
        };
        Place {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            path,
        }
    }

    pub(crate) fn tell(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    /// What was found. A map that was looked at twice is told of once.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        let mut seen = HashSet::new();
        found.retain(|told| {
            told.code != "CFG-DUPLICATE" || seen.insert((told.place.line, told.place.column))
        });
        found
    }

    /// The document's root as an object.
    pub(crate) fn root<'a>(&'a self, node: &'a Node) -> Option<Object<'a>> {
        Field {
            reader: self,
            node,
            name: "the document".to_owned(),
            path: String::new(),
        }
        .object()
    }

    /// Tells keys that a map holds twice; resources take the last value, as Dapr does, the Configuration takes none.
    fn tell_duplicates(&self, entries: &[Entry], path: &str) {
        for (entry, first) in duplicates(entries) {
            let place = self.place_at(entry.at, &join(path, &entry.key));
            let first = self.place_at(first, path);
            let message = format!("`{}` stands here a second time", entry.key);
            let help = format!("the first one is in line {}", first.line);
            self.tell(match self.schema {
                Schema::Legacy => Diagnostic::warning("CFG-DUPLICATE", place, message)
                    .help(format!("{help}; this one counts")),
                Schema::Modern => Diagnostic::error("CFG-DUPLICATE", place, message).help(help),
            });
        }
    }

    /// As [`Reader::tell_duplicates`], for a value that is taken as a whole.
    pub(crate) fn tell_all_duplicates(&self, node: &Node, path: &str) {
        match &node.content {
            Content::Scalar(_) => {}
            Content::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.tell_all_duplicates(item, &format!("{path}[{i}]"));
                }
            }
            Content::Map(entries) => {
                self.tell_duplicates(entries, path);
                for entry in entries {
                    self.tell_all_duplicates(&entry.value, &join(path, &entry.key));
                }
            }
        }
    }
}

/// What a document that does not parse is told as.
pub(crate) fn unreadable(file: &Arc<str>, error: &YamlError) -> Diagnostic {
    let place = Place {
        file: file.clone(),
        line: error.at.line,
        column: error.at.column,
        path: String::new(),
    };
    Diagnostic::error(
        "CFG-YAML",
        place,
        format!("the document is not valid YAML: {}", error.message),
    )
}

/// A map whose fields are known.
pub(crate) struct Object<'a> {
    reader: &'a Reader,
    node: &'a Node,
    entries: &'a [Entry],
    path: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Object<'a> {
    pub(crate) fn place(&self) -> Place {
        self.reader.place(self.node, &self.path)
    }

    pub(crate) fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// A field that is there and not null.
    pub(crate) fn field(&self, name: &'static str) -> Option<Field<'a>> {
        self.any_field(name).filter(|field| !field.node.is_null())
    }

    /// Whether the field is there with the value null.
    pub(crate) fn is_null(&self, name: &'static str) -> bool {
        self.any_field(name)
            .is_some_and(|field| field.node.is_null())
    }

    fn any_field(&self, name: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(name);
        let exact = self.entries.iter().rev().find(|entry| entry.key == name);
        let entry = exact.or_else(|| {
            let same = |entry: &&Entry| entry.key.eq_ignore_ascii_case(name);
            if self.reader.schema == Schema::Legacy {
                self.entries.iter().rev().find(same)
            } else {
                None
            }
        })?;
        Some(self.at(entry))
    }

    /// `node` in place of the field's own value.
    pub(crate) fn field_as<'b>(&'b self, name: &'static str, node: &'b Node) -> Field<'b> {
        self.knows(&[name]);
        Field {
            reader: self.reader,
            node,
            name: name.to_owned(),
            path: join(&self.path, name),
        }
    }

    fn at(&self, entry: &'a Entry) -> Field<'a> {
        Field {
            reader: self.reader,
            node: &entry.value,
            name: entry.key.clone(),
            path: join(&self.path, &entry.key),
        }
    }

    /// Every key with its value, for maps whose keys are names of the user.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + '_ {
        last_of_each(self.entries).map(|entry| (entry.key.as_str(), self.at(entry)))
    }

    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        self.field(name)?.text()
    }

    /// A text that is not empty.
    pub(crate) fn word(&self, name: &'static str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// A text that must be there; an error and an empty text if it is not.
    pub(crate) fn required(&self, name: &'static str) -> String {
        let field = self.field(name);
        let told = self.reader.found.borrow().len();
        let text = field.as_ref().and_then(Field::text).unwrap_or_default();
        if text.is_empty() && self.reader.found.borrow().len() == told {
            let mut place = field.map_or_else(|| self.place(), |field| field.place());
            place.path = join(&self.path, name);
            self.reader.tell(
                Diagnostic::error("CFG-REQUIRED", place, format!("`{name}` is missing"))
                    .expected("a text that is not empty"),
            );
        }
        text
    }

    pub(crate) fn boolean(&self, name: &'static str) -> Option<bool> {
        self.field(name)?.boolean()
    }

    pub(crate) fn integer(&self, name: &'static str) -> Option<i64> {
        self.field(name)?.integer()
    }

    pub(crate) fn object(&self, name: &'static str) -> Option<Object<'a>> {
        self.field(name)?.object()
    }

    /// A map that must be there; an error if it is not.
    pub(crate) fn required_object(&self, name: &'static str) -> Option<Object<'a>> {
        let Some(field) = self.field(name) else {
            let mut place = self.place();
            place.path = join(&self.path, name);
            self.reader.tell(Diagnostic::error(
                "CFG-REQUIRED",
                place,
                format!("`{name}` is missing"),
            ));
            return None;
        };
        field.object()
    }

    pub(crate) fn list(&self, name: &'static str) -> Option<Vec<Field<'a>>> {
        self.field(name)?.list()
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        Some(self.list(name)?.iter().filter_map(Field::text).collect())
    }

    /// A map of texts; null reads as an empty text.
    pub(crate) fn text_map(&self, name: &'static str) -> Option<BTreeMap<String, String>> {
        let object = self.object(name)?;
        let text = |field: Field<'_>| {
            if field.node.is_null() {
                Some(String::new())
            } else {
                field.text()
            }
        };
        Some(
            object
                .members()
                .filter_map(|(key, field)| Some((key.to_owned(), text(field)?)))
                .collect(),
        )
    }

    /// Marks fields as known that are of no interest here.
    pub(crate) fn knows(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend(names);
    }

    /// Warns about the fields that nobody asked for.
    pub(crate) fn finish(&self) {
        self.finish_with(|_| None);
    }

    /// As [`Object::finish`], with a better hint for some names.
    pub(crate) fn finish_with(&self, hint: impl Fn(&str) -> Option<&'static str>) {
        let asked = self.asked.borrow();
        let known = |name: &str| match self.reader.schema {
            Schema::Legacy => asked.iter().any(|known| known.eq_ignore_ascii_case(name)),
            Schema::Modern => asked.contains(&name),
        };
        for entry in self.entries.iter().filter(|entry| !known(&entry.key)) {
            let place = self
                .reader
                .place_at(entry.at, &join(&self.path, &entry.key));
            let diagnostic = Diagnostic::warning(
                "CFG-UNKNOWN-FIELD",
                place,
                format!("`{}` is not a known field and has no effect", entry.key),
            );
            self.reader.tell(match hint(&entry.key) {
                Some(hint) => diagnostic.help(hint),
                None => diagnostic.nearest(nearest(&entry.key, asked.iter().copied())),
            });
        }
    }
}
