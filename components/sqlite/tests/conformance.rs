//! The conformance suites, over every kind of database.

use outrigger_component_api::{Catalog, Properties};
use outrigger_testkit::PrivateDir;
use outrigger_testkit::suites::state::Habits;
use outrigger_testkit::suites::{Hold, names, properties, state};

const HABITS: Habits = Habits {
    required: &["connectionString"],
    ttl_limits: Some((-1, 2_147_483_647)),
    ..Habits::STRICT
};

/// A file of its own for each case.
struct File {
    dir: PrivateDir,
}

impl File {
    fn new() -> Self {
        Self {
            dir: PrivateDir::new("sqlite-suite"),
        }
    }

    fn path(&self) -> String {
        self.dir.path().join("s.db").display().to_string()
    }
}

mod state_in_a_file {
    use super::*;

    impl state::Harness for File {
        const TYPE: &'static str = "state.sqlite";
        const HABITS: Habits = HABITS;

        fn register(catalog: &mut Catalog) {
            outrigger_component_sqlite::register(catalog);
        }

        async fn start(_hold: Hold) -> Self {
            Self::new()
        }

        fn properties(&self) -> Properties {
            properties([("connectionString", self.path())])
        }
    }

    outrigger_testkit::state_suite!(File: basic, etag, transactional, ttl, keys_like);
}

mod state_in_a_file_without_wal {
    use super::*;

    struct PlainFile(File);

    impl state::Harness for PlainFile {
        const TYPE: &'static str = "state.sqlite3";
        const HABITS: Habits = HABITS;

        fn register(catalog: &mut Catalog) {
            outrigger_component_sqlite::register(catalog);
        }

        async fn start(_hold: Hold) -> Self {
            Self(File::new())
        }

        fn properties(&self) -> Properties {
            properties([
                ("connectionString", self.0.path()),
                ("disableWAL", "true".to_owned()),
                ("cleanupInterval", "1s".to_owned()),
            ])
        }
    }

    outrigger_testkit::state_suite!(PlainFile: basic, etag, transactional, ttl, keys_like);
}

mod state_in_memory {
    use super::*;

    /// One database that all cases share.
    struct Memory;

    impl state::Harness for Memory {
        const TYPE: &'static str = "state.sqlite";
        const HABITS: Habits = HABITS;

        fn register(catalog: &mut Catalog) {
            outrigger_component_sqlite::register(catalog);
        }

        async fn start(_hold: Hold) -> Self {
            Self
        }

        fn properties(&self) -> Properties {
            properties([("connectionString", ":memory:")])
        }
    }

    outrigger_testkit::state_suite!(Memory: basic, etag, transactional, ttl, keys_like);
}

mod names_in_a_file {
    use super::*;

    struct Hosts(File);

    impl names::Harness for Hosts {
        const TYPE: &'static str = "nameresolution.sqlite";

        fn register(catalog: &mut Catalog) {
            outrigger_component_sqlite::register(catalog);
        }

        async fn start(_hold: Hold) -> Self {
            Self(File::new())
        }

        fn properties(&self) -> Properties {
            properties([
                ("connectionString", self.0.path()),
                ("updateInterval", "2s".to_owned()),
            ])
        }

        fn unknown(&self, _id: &str) -> Option<String> {
            Some("no host found with the given ID".to_owned())
        }
    }

    outrigger_testkit::names_suite!(Hosts: basic, departure);
}
