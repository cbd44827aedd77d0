//! Single values in their typed forms.

use std::ops::RangeInclusive;

use outrigger_core::duration::{GoDuration, parse_go};
use outrigger_core::json::Value;
use outrigger_core::nearest::nearest;

use super::{Object, Reader};
use crate::diagnostic::{Diagnostic, Place, shown};
use crate::yaml::{Content, Meaning, Node, Schema, old_bool};

/// A value and its path.
pub(crate) struct Field<'a> {
    pub(super) reader: &'a Reader,
    pub(crate) node: &'a Node,
    pub(super) name: String,
    pub(super) path: String,
}

impl<'a> Field<'a> {
    pub(crate) fn place(&self) -> Place {
        self.reader.place(self.node, &self.path)
    }

    pub(crate) fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// The key, with the index of an item behind it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Records that the value has the wrong form.
    fn refuse(&self, expected: &str) {
        self.reader.tell(self.refusal(expected));
    }

    fn refusal(&self, expected: &str) -> Diagnostic {
        let found = match self.node.as_scalar() {
            Some(scalar) if scalar.meaning != Meaning::Null => shown(self.name(), &scalar.text),
            _ => Some(self.node.kind().to_owned()),
        };
        let message = format!("`{}` is {}, not {expected}", self.name(), self.node.kind());
        let mut diagnostic =
            Diagnostic::error("CFG-TYPE", self.place(), message).expected(expected);
        diagnostic.found = found;
        diagnostic
    }

    /// Records that the value, whatever its form, cannot be used.
    pub(crate) fn unusable(&self, code: &'static str, message: impl Into<String>, expected: &str) {
        self.reader.tell(
            self.diagnostic(Diagnostic::error, code, message.into())
                .expected(expected),
        );
    }

    /// Records that the value is ignored.
    pub(crate) fn ignored(&self, code: &'static str, message: impl Into<String>, expected: &str) {
        self.reader.tell(
            self.diagnostic(Diagnostic::warning, code, message.into())
                .expected(expected),
        );
    }

    fn diagnostic(
        &self,
        new: fn(&'static str, Place, String) -> Diagnostic,
        code: &'static str,
        message: String,
    ) -> Diagnostic {
        let mut diagnostic = new(code, self.place(), message);
        diagnostic.found = self
            .node
            .as_scalar()
            .and_then(|scalar| shown(self.name(), &scalar.text));
        diagnostic
    }

    pub(crate) fn text(&self) -> Option<String> {
        let text = self
            .node
            .as_scalar()
            .and_then(|scalar| match self.reader.schema {
                Schema::Legacy => scalar.meaning.text(&scalar.text),
                Schema::Modern => {
                    (scalar.meaning != Meaning::Null).then(|| scalar.text.to_string())
                }
            });
        if text.is_none() && !self.node.is_null() {
            self.refuse("a text");
        }
        text
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        let value =
            self.node
                .as_scalar()
                .and_then(|scalar| match (scalar.meaning, self.reader.schema) {
                    (Meaning::Bool(value), _) => Some(value),
                    (Meaning::Text, Schema::Modern) => old_bool(&scalar.text),
                    _ => None,
                });
        if value.is_none() {
            self.refuse("`true` or `false`");
        }
        value
    }

    /// A whole number; `1.0` is one.
    pub(crate) fn integer(&self) -> Option<i64> {
        let number = self
            .node
            .as_scalar()
            .and_then(|scalar| match scalar.meaning {
                Meaning::Int(number) => i64::try_from(number).ok(),
                // Dapr: the Configuration's reader cuts a fraction off, the resources' one does not take it.
                Meaning::Float(number) if number.abs() < 9e15 => {
                    let is_whole = number.fract() == 0.0 || self.reader.schema == Schema::Modern;
                    is_whole.then_some(number as i64)
                }
                _ => None,
            });
        if number.is_none() {
            self.refuse("a whole number");
        }
        number
    }

    /// A count: whole, not negative, at most 2^32 - 1.
    pub(crate) fn count(&self) -> Option<u32> {
        let number = self.integer()?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            self.unusable(
                "CFG-RANGE",
                format!("`{}` is out of range", self.name()),
                "a whole number from 0 to 4294967295",
            );
        }
        count
    }

    /// A number within bounds, whole or not.
    pub(crate) fn number(&self, bounds: RangeInclusive<f64>, expected: &str) -> Option<f64> {
        let number = match self.node.as_scalar().map(|scalar| scalar.meaning) {
            Some(Meaning::Int(number)) => number as f64,
            Some(Meaning::Float(number)) => number,
            _ => {
                self.refuse("a number");
                return None;
            }
        };
        if !bounds.contains(&number) {
            let message = format!("`{}` is out of range", self.name());
            self.unusable("CFG-RANGE", message, expected);
            return None;
        }
        Some(number)
    }

    pub(crate) fn object(&self) -> Option<Object<'a>> {
        match &self.node.content {
            Content::Map(entries) => {
                self.reader.tell_duplicates(entries, &self.path);
                Some(Object {
                    reader: self.reader,
                    node: self.node,
                    entries,
                    path: self.path.clone(),
                    asked: std::cell::RefCell::default(),
                })
            }
            Content::List(_) => {
                let help = "each entry is a key of its own, such as `name: ...`, without a dash";
                self.reader.tell(self.refusal("a map").help(help));
                None
            }
            Content::Scalar(_) => {
                self.refuse("a map");
                None
            }
        }
    }

    pub(crate) fn list(&self) -> Option<Vec<Field<'a>>> {
        match &self.node.content {
            Content::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(i, node)| Field {
                        reader: self.reader,
                        node,
                        name: format!("{}[{i}]", self.name),
                        path: format!("{}[{i}]", self.path),
                    })
                    .collect(),
            ),
            Content::Map(_) | Content::Scalar(_) => {
                self.refuse("a list");
                None
            }
        }
    }

    /// A duration in Go's notation.
    pub(crate) fn duration(&self) -> Option<GoDuration> {
        let text = self.text()?;
        let duration = parse_go(&text);
        if duration.is_none() {
            self.unusable(
                "CFG-DURATION",
                format!("`{}` is not a duration", self.name()),
                DURATION,
            );
        }
        duration
    }

    /// A duration in Go's notation, or a bare number of milliseconds.
    pub(crate) fn duration_or_milliseconds(&self) -> Option<GoDuration> {
        let text = self.text()?;
        let bare = text.parse::<i64>().ok().map(|number| GoDuration {
            nanoseconds: number.saturating_mul(1_000_000),
        });
        let duration = bare.or_else(|| parse_go(&text));
        if duration.is_none() {
            self.unusable(
                "CFG-DURATION",
                format!("`{}` is not a duration", self.name()),
                DURATION,
            );
        }
        duration
    }

    /// One of a few words, compared without case if `fold` says so.
    pub(crate) fn choice<T: Copy>(&self, fold: bool, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text || fold && word.eq_ignore_ascii_case(&text));
        if found.is_none() {
            let names: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let mut diagnostic = self
                .diagnostic(
                    Diagnostic::error,
                    "CFG-WORD",
                    format!("`{}` has no such value", self.name()),
                )
                .expected(names.join(" or "));
            diagnostic = diagnostic.nearest(nearest(&text, words.iter().map(|(word, _)| *word)));
            self.reader.tell(diagnostic);
        }
        found.map(|(_, value)| *value)
    }

    /// The value as it stands.
    pub(crate) fn json(&self) -> Value {
        self.reader.tell_all_duplicates(self.node, &self.path);
        self.node.to_json()
    }
}

const DURATION: &str = "a number with a unit such as `5s` or `250ms`";
