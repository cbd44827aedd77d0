//! The properties of both building blocks.
//!
//! Owns: names, defaults and limits. Never: does I/O.

use std::time::Duration;

use outrigger_component_api::{Findings, Properties, Reader};

use crate::connection_string::ConnectionString;
use crate::database::{Journal, Plan};

/// What the state store is told.
#[derive(Clone, Debug)]
pub(crate) struct StateSettings {
    pub(crate) plan: Plan,
    pub(crate) table: String,
    pub(crate) metadata_table: String,
    /// `None` switches the cleanup off.
    pub(crate) cleanup_interval: Option<Duration>,
}

/// What the name resolver is told.
#[derive(Clone, Debug)]
pub(crate) struct NameSettings {
    pub(crate) plan: Plan,
    pub(crate) table: String,
    pub(crate) metadata_table: String,
    /// A row counts as alive for so long after its last refresh; whole seconds.
    pub(crate) update_interval: Duration,
    pub(crate) cleanup_interval: Option<Duration>,
}

impl StateSettings {
    pub(crate) fn read(properties: &Properties, findings: &mut Findings) -> Option<Self> {
        let mut reader = Reader::standard(properties);
        let plan = plan(
            &mut reader,
            Defaults {
                timeout: Duration::from_secs(20),
                busy_timeout: Duration::from_secs(2),
            },
        );
        let table = identifier(&mut reader, "tableName", "state");
        let metadata_table = identifier(&mut reader, "metadataTableName", "metadata");
        let cleanup_interval = cleanup_interval(&mut reader, Duration::ZERO);
        if !reader.finish(findings) {
            return None;
        }
        Some(Self {
            plan: plan?,
            table,
            metadata_table,
            cleanup_interval,
        })
    }
}

impl NameSettings {
    pub(crate) fn read(properties: &Properties, findings: &mut Findings) -> Option<Self> {
        let mut reader = Reader::standard(properties);
        let plan = plan(
            &mut reader,
            Defaults {
                timeout: Duration::from_secs(1),
                busy_timeout: Duration::from_millis(800),
            },
        );
        let table = identifier(&mut reader, "tableName", "hosts");
        let metadata_table = identifier(&mut reader, "metadataTableName", "metadata");
        let update_interval = reader.duration_or("updateInterval", Duration::from_secs(5));
        let timeout = plan.as_ref().map_or(Duration::ZERO, |plan| plan.timeout);
        if update_interval.subsec_nanos() != 0 {
            reader.fault("updateInterval", "whole seconds");
        } else if update_interval < timeout + Duration::from_secs(1) {
            reader.fault("updateInterval", "at least 1s more than `timeout`");
        }
        let cleanup_interval = cleanup_interval(&mut reader, Duration::from_secs(3600));
        if !reader.finish(findings) {
            return None;
        }
        Some(Self {
            plan: plan?,
            table,
            metadata_table,
            update_interval,
            cleanup_interval,
        })
    }
}

struct Defaults {
    timeout: Duration,
    busy_timeout: Duration,
}

fn plan(reader: &mut Reader<'_>, defaults: Defaults) -> Option<Plan> {
    let text = reader.required(("connectionString", &["url"]));
    let connection = match ConnectionString::parse(&text) {
        Ok(connection) => Some(connection),
        Err(expected) => {
            reader.fault("connectionString", expected);
            None
        }
    };
    let timeout = reader.duration_or(("timeout", &["timeoutInSeconds"]), defaults.timeout);
    if timeout < Duration::from_secs(1) {
        reader.fault("timeout", "at least 1s");
    }
    let busy = reader.duration_or("busyTimeout", defaults.busy_timeout);
    let without_wal = reader.boolean("disableWAL", false);
    let connection = connection?;
    let journal = if connection.in_memory {
        Some(Journal::Memory)
    } else if connection.read_only {
        None
    } else if without_wal {
        Some(Journal::Delete)
    } else {
        Some(Journal::Wal)
    };
    Some(Plan {
        connection,
        journal,
        timeout,
        busy_timeout: Duration::from_millis(u64::try_from(busy.as_millis()).unwrap_or(u64::MAX)),
    })
}

fn identifier(reader: &mut Reader<'_>, name: &'static str, default: &str) -> String {
    let text = reader.text(name).unwrap_or_else(|| default.to_owned());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if text.is_empty() || !text.bytes().all(plain) {
        reader.fault(name, "letters, digits and `_` only");
    }
    text
}

fn cleanup_interval(reader: &mut Reader<'_>, default: Duration) -> Option<Duration> {
    let interval = reader.duration_or(("cleanupInterval", &["cleanupIntervalInSeconds"]), default);
    (!interval.is_zero()).then_some(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state<const N: usize>(pairs: [(&str, &str); N]) -> Result<StateSettings, Vec<String>> {
        let mut findings = Findings::default();
        StateSettings::read(&Properties::from(pairs), &mut findings)
            .ok_or_else(|| findings.faults.iter().map(ToString::to_string).collect())
    }

    fn names<const N: usize>(pairs: [(&str, &str); N]) -> Result<NameSettings, Vec<String>> {
        let mut findings = Findings::default();
        NameSettings::read(&Properties::from(pairs), &mut findings)
            .ok_or_else(|| findings.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_defaults_are_daprs() {
        let state = state([("connectionString", "a.db")]).unwrap();
        assert_eq!(
            (state.table.as_str(), state.metadata_table.as_str()),
            ("state", "metadata")
        );
        assert_eq!(state.plan.timeout, Duration::from_secs(20));
        assert_eq!(state.plan.busy_timeout, Duration::from_secs(2));
        assert_eq!(state.plan.journal, Some(Journal::Wal));
        assert_eq!(state.cleanup_interval, None);
        let names = names([("connectionString", "a.db")]).unwrap();
        assert_eq!(
            (names.table.as_str(), names.metadata_table.as_str()),
            ("hosts", "metadata")
        );
        assert_eq!(names.plan.timeout, Duration::from_secs(1));
        assert_eq!(names.plan.busy_timeout, Duration::from_millis(800));
        assert_eq!(names.update_interval, Duration::from_secs(5));
        assert_eq!(names.cleanup_interval, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn names_and_aliases_are_found_in_any_case() {
        let state = state([
            ("URL", "a.db"),
            ("timeoutinseconds", "1200"),
            ("cleanupIntervalInSeconds", "10"),
            ("BusyTimeout", "1500us"),
            ("disablewal", "yes"),
        ])
        .unwrap();
        assert_eq!(state.plan.timeout, Duration::from_secs(1200));
        assert_eq!(state.plan.busy_timeout, Duration::from_millis(1));
        assert_eq!(state.plan.journal, Some(Journal::Delete));
        assert_eq!(state.cleanup_interval, Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_cleanup_interval_of_nothing_switches_it_off() {
        for off in ["0", "-1", "", "0s"] {
            let state = state([("url", "a.db"), ("cleanupInterval", off)]).unwrap();
            assert_eq!(state.cleanup_interval, None, "{off:?}");
        }
    }

    #[test]
    fn the_journal_follows_the_kind_of_database() {
        let journal = |text: &str| {
            state([("url", text), ("disableWAL", "true")])
                .unwrap()
                .plan
                .journal
        };
        assert_eq!(journal(":memory:"), Some(Journal::Memory));
        assert_eq!(journal("a.db?mode=ro"), None);
        assert_eq!(journal("a.db?immutable=1"), None);
        assert_eq!(journal("a.db"), Some(Journal::Delete));
    }

    #[test]
    fn what_cannot_be_used_is_told_by_name() {
        for (pairs, property) in [
            ([("x", "y"), ("timeout", "2s")], "connectionString"),
            ([("url", "a.db"), ("timeout", "500ms")], "timeout"),
            ([("url", "a.db"), ("timeout", "-1")], "timeout"),
            ([("url", "a.db"), ("tableName", "my-state")], "tableName"),
            ([("url", "a.db"), ("tableName", "")], "tableName"),
            (
                [("url", "a.db"), ("metadataTableName", "ä")],
                "metadataTableName",
            ),
            (
                [("url", "a.db?_pragma=busy_timeout(1)"), ("timeout", "2s")],
                "connectionString",
            ),
        ] {
            let faults = state(pairs).unwrap_err();
            assert!(
                faults.iter().any(|fault| fault.contains(property)),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn the_update_interval_leaves_room_for_the_timeout() {
        for (interval, timeout, usable) in [
            ("2s", "1s", true),
            ("1s", "1s", false),
            ("5s", "4500ms", false),
            ("2500ms", "1s", false),
            ("10", "9", true),
        ] {
            let read = names([
                ("url", "a.db"),
                ("updateInterval", interval),
                ("timeout", timeout),
            ]);
            assert_eq!(read.is_ok(), usable, "{interval} {timeout}");
        }
    }
}
