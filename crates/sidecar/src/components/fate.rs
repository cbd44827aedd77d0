//! What becomes of a component that runs once resources have been read again. Pure.
//!
//! Whatever cannot be read or accepted changes nothing: the last good definition stays, and the reason is told.

use std::collections::HashMap;

use outrigger_component_api::Kind;

/// A component that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// Where its definition was read.
    pub file: &'a str,
}

/// What was read, as far as components are concerned.
#[derive(Debug, Default)]
pub(crate) struct Read<'a> {
    /// Those that can be had, by name.
    pub accepted: HashMap<&'a str, Kind>,
    /// Those that cannot, by name, with the reason and its place.
    pub refused: HashMap<&'a str, String>,
    /// Files of which not everything could be read, with the reason and its place.
    pub broken: HashMap<&'a str, String>,
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
        if let Some(reason) = self.refused.get(known.name) {
            return Fate::Refused(reason.clone());
        }
        match self.broken.get(known.file) {
            Some(reason) => Fate::Unreadable(reason.clone()),
            None => Fate::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known<'_> = Known {
        name: "a",
        kind: Kind::State,
        file: "a.yaml",
    };

    fn read<'a>(accepted: &[(&'a str, Kind)], refused: &[&'a str], broken: &[&'a str]) -> Read<'a> {
        let reasons = |names: &[&'a str]| {
            let reason = |name: &&'a str| (*name, format!("{name} is wrong"));
            names.iter().map(reason).collect()
        };
        Read {
            accepted: accepted.iter().copied().collect(),
            refused: reasons(refused),
            broken: reasons(broken),
        }
    }

    #[test]
    fn a_definition_of_the_same_kind_is_a_change_and_one_of_another_kind_an_end() {
        let same = read(&[("a", Kind::State)], &[], &[]);
        assert_eq!(same.fate(KNOWN), Fate::Stays);
        let other = read(&[("a", Kind::PubSub)], &[], &[]);
        assert_eq!(other.fate(KNOWN), Fate::Gone);
        assert_eq!(
            read(&[("b", Kind::State)], &[], &[]).fate(KNOWN),
            Fate::Gone
        );
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let refused = read(&[], &["a"], &[]);
        assert_eq!(refused.fate(KNOWN), Fate::Refused("a is wrong".into()));
        let broken = read(&[], &["b"], &["a.yaml"]);
        let reason = "a.yaml is wrong".to_owned();
        assert_eq!(broken.fate(KNOWN), Fate::Unreadable(reason));
        assert_eq!(read(&[], &[], &["b.yaml"]).fate(KNOWN), Fate::Gone);
    }

    #[test]
    fn of_two_definitions_the_good_one_counts() {
        let moved = read(&[("a", Kind::State)], &["a"], &["a.yaml"]);
        assert_eq!(moved.fate(KNOWN), Fate::Stays);
    }
}
