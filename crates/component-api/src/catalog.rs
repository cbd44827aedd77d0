//! The component types that a binary offers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use outrigger_core::nearest::nearest;

use crate::{
    ComponentError, Fault, Instance, NameResolver, Open, PubSub, SecretStore, Spec, StateStore,
};

/// Connects one instance. Called again for every attempt.
pub type Opener<T> = Arc<
    dyn Fn(Open) -> Pin<Box<dyn Future<Output = Result<Arc<T>, ComponentError>> + Send>>
        + Send
        + Sync,
>;

/// Turns a resource into settings, without I/O.
pub enum Check {
    State(fn(&Spec, &mut Findings) -> Option<Opener<dyn StateStore>>),
    PubSub(fn(&Spec, &mut Findings) -> Option<Opener<dyn PubSub>>),
    Secrets(fn(&Spec, &mut Findings) -> Option<Opener<dyn SecretStore>>),
    Names(fn(&Spec, &Instance, &mut Findings) -> Option<Opener<dyn NameResolver>>),
}

/// What a check found besides settings.
#[derive(Debug, Default)]
pub struct Findings {
    pub faults: Vec<Fault>,
    /// Properties that the type does not know; they are ignored.
    pub unknown: Vec<String>,
}

/// The kinds of component that the sidecar can hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    State,
    PubSub,
    Secrets,
    Names,
}

impl Kind {
    /// The part of a type before the dot.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::PubSub => "pubsub",
            Self::Secrets => "secretstores",
            Self::Names => "nameresolution",
        }
    }

    /// What Dapr calls the kind where it cannot find a type.
    fn noun(self) -> &'static str {
        match self {
            Self::State => "state store",
            Self::PubSub => "message bus",
            Self::Secrets => "secret store",
            Self::Names => "name resolver",
        }
    }
}

/// One type under one version.
pub struct Entry {
    /// `state.redis`.
    pub type_name: &'static str,
    pub version: &'static str,
    pub kind: Kind,
    /// Must not run twice at once for one resource, as with a file that one process owns.
    pub exclusive: bool,
    pub check: Check,
}

/// Every type that can be configured. The binary builds it once, from the `register` functions.
#[derive(Default)]
pub struct Catalog {
    entries: Vec<Entry>,
}

/// What looking up a type gave.
pub enum Lookup<'a> {
    Found(&'a Entry),
    /// No such type or version: Dapr's words, and the nearest valid name.
    Unknown {
        message: String,
        nearest: Option<&'static str>,
    },
}

impl Catalog {
    pub fn state_store(
        &mut self,
        type_name: &'static str,
        check: fn(&Spec, &mut Findings) -> Option<Opener<dyn StateStore>>,
    ) {
        self.add(type_name, Kind::State, Check::State(check));
    }

    pub fn pubsub(
        &mut self,
        type_name: &'static str,
        check: fn(&Spec, &mut Findings) -> Option<Opener<dyn PubSub>>,
    ) {
        self.add(type_name, Kind::PubSub, Check::PubSub(check));
    }

    pub fn secret_store(
        &mut self,
        type_name: &'static str,
        check: fn(&Spec, &mut Findings) -> Option<Opener<dyn SecretStore>>,
    ) {
        self.add(type_name, Kind::Secrets, Check::Secrets(check));
    }

    pub fn name_resolver(
        &mut self,
        type_name: &'static str,
        check: fn(&Spec, &Instance, &mut Findings) -> Option<Opener<dyn NameResolver>>,
    ) {
        self.add(type_name, Kind::Names, Check::Names(check));
    }

    fn add(&mut self, type_name: &'static str, kind: Kind, check: Check) {
        self.entries.push(Entry {
            type_name,
            version: "v1",
            kind,
            exclusive: false,
            check,
        });
    }

    /// Marks the type added last as one of which two instances must not overlap.
    pub fn exclusive(&mut self) {
        if let Some(entry) = self.entries.last_mut() {
            entry.exclusive = true;
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn type_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.entries.iter().map(|entry| entry.type_name)
    }

    /// Finds a type by name, without regard to case. An empty version, `v0` and `v1` mean the same.
    pub fn find(&self, type_name: &str, version: &str) -> Lookup<'_> {
        let wanted = type_name.to_ascii_lowercase();
        let version = match version.to_ascii_lowercase().as_str() {
            "" | "v0" => "v1".to_owned(),
            other => other.to_owned(),
        };
        if let Some(entry) = self
            .entries
            .iter()
            .find(|entry| entry.type_name == wanted && entry.version == version)
        {
            return Lookup::Found(entry);
        }
        let kinds = [Kind::State, Kind::PubSub, Kind::Secrets, Kind::Names];
        let prefix = wanted.split('.').next().unwrap_or_default();
        let shown = if version == "v1" {
            "v1"
        } else {
            version.as_str()
        };
        let message = match kinds.into_iter().find(|kind| kind.prefix() == prefix) {
            // Dapr: pkg/components/<kind>/registry.go; clients match on these texts.
            Some(kind) => format!("couldn't find {} {wanted}/{shown}", kind.noun()),
            None => format!("incorrect type {type_name}"),
        };
        Lookup::Unknown {
            message,
            nearest: nearest(&wanted, self.type_names()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.state_store("state.redis", |_, _| None);
        catalog
    }

    #[test]
    fn a_type_is_found_without_case_and_with_the_usual_versions() {
        for (name, version) in [
            ("state.redis", "v1"),
            ("State.Redis", ""),
            ("state.redis", "V0"),
        ] {
            assert!(
                matches!(catalog().find(name, version), Lookup::Found(_)),
                "{name} {version}"
            );
        }
    }

    #[test]
    fn an_unknown_type_is_told_with_its_neighbour() {
        let told = |name: &str, version: &str| match catalog().find(name, version) {
            Lookup::Found(_) => ("found".to_owned(), None),
            Lookup::Unknown { message, nearest } => (message, nearest),
        };
        assert_eq!(
            told("state.redsi", "v1"),
            (
                "couldn't find state store state.redsi/v1".into(),
                Some("state.redis")
            )
        );
        assert_eq!(
            told("state.redis", "v9").0,
            "couldn't find state store state.redis/v9"
        );
        assert_eq!(told("stat.redis", "v1").0, "incorrect type stat.redis");
    }
}
