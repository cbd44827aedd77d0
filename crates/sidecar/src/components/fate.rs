//! What becomes of a component that runs once resources have been read again. Pure.
//!
//! Whatever cannot be read or accepted changes nothing: the last good definition stays, and the reason is told.

use std::collections::HashMap;

use outrigger_component_api::Kind;
use outrigger_config::ResourceKind;

use crate::faults::Faults;

/// A component that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// Where its definition was read.
    pub file: &'a str,
}

/// What was read, as far as components are concerned.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    /// Those that can be had, by name.
    pub accepted: HashMap<&'a str, Kind>,
    /// Those that could be read and cannot be had, by name, with the reason.
    pub refused: HashMap<&'a str, String>,
    pub faults: &'a Faults,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It goes on, as it is defined now.
    Stays,
    /// Its definition cannot be used, for this reason. It goes on as it is.
    Refused(String),
    /// The same, and nobody but its file is to blame.
    Unreadable(String),
    /// It is no more; another kind of component may have its name.
    Gone,
}

impl Read<'_> {
    pub(crate) fn fate(&self, known: Known<'_>) -> Fate {
        match self.accepted.get(known.name) {
            Some(kind) if *kind == known.kind => return Fate::Stays,
            Some(_) => return Fate::Gone,
            None => {}
        }
        let refused = self.refused.get(known.name).map(String::as_str);
        let refused = refused.or_else(|| self.faults.of_name(ResourceKind::Component, known.name));
        if let Some(reason) = refused {
            return Fate::Refused(reason.to_owned());
        }
        match self.faults.of_file(known.file) {
            Some(reason) => Fate::Unreadable(reason.to_owned()),
            None => Fate::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::Loaded;

    const KNOWN: Known<'_> = Known {
        name: "a",
        kind: Kind::State,
        file: "a.yaml",
    };

    fn fate(accepted: &[(&str, Kind)], refused: &[&str], broken: &[&str]) -> Fate {
        let loaded = Loaded::default();
        let broken = broken.iter();
        let broken: Vec<(String, String)> = broken
            .map(|file| ((*file).to_owned(), "is wrong".to_owned()))
            .collect();
        let faults = Faults::of(&loaded, &broken);
        let refused = refused.iter();
        let read = Read {
            accepted: accepted.iter().copied().collect(),
            refused: refused.map(|name| (*name, "is wrong".to_owned())).collect(),
            faults: &faults,
        };
        read.fate(KNOWN)
    }

    #[test]
    fn a_definition_of_the_same_kind_is_a_change_and_one_of_another_kind_an_end() {
        assert_eq!(fate(&[("a", Kind::State)], &[], &[]), Fate::Stays);
        assert_eq!(fate(&[("a", Kind::PubSub)], &[], &[]), Fate::Gone);
        assert_eq!(fate(&[("b", Kind::State)], &[], &[]), Fate::Gone);
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        assert_eq!(fate(&[], &["a"], &[]), Fate::Refused("is wrong".into()));
        let reason = "is wrong (a.yaml)".to_owned();
        assert_eq!(fate(&[], &["b"], &["a.yaml"]), Fate::Unreadable(reason));
        assert_eq!(fate(&[], &[], &["b.yaml"]), Fate::Gone);
    }

    #[test]
    fn of_two_definitions_the_good_one_counts() {
        let moved = fate(&[("a", Kind::State)], &["a"], &["a.yaml"]);
        assert_eq!(moved, Fate::Stays);
    }
}
