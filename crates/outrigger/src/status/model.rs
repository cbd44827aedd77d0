//! What a sidecar tells about itself, read with patience: whatever is absent or odd is left out.
//!
//! Owns: the members of `GET /outrigger/v1/status`, and rates between two readings.
//! Never: holds a text with control characters, or one without an end.

use outrigger_core::json::Value;

use crate::client::text::{clean, first};
use crate::client::{counts, number};

/// Characters of a text that are kept.
const LONGEST: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    pub(crate) app_id: String,
    pub(crate) namespace: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) pid: Option<u64>,
    pub(crate) uptime_ms: Option<u64>,
    pub(crate) phase: String,
    pub(crate) phase_since_ms: Option<u64>,
    pub(crate) gate: Option<String>,
    pub(crate) gate_since_ms: Option<u64>,
    pub(crate) app: Option<App>,
    pub(crate) drain: Option<Drain>,
    pub(crate) inflight: Vec<(String, u64)>,
    pub(crate) components: Vec<Component>,
    pub(crate) breakers: Vec<Breaker>,
    pub(crate) counters: Counters,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct App {
    pub(crate) port: Option<u64>,
    pub(crate) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Drain {
    pub(crate) id: Option<String>,
    pub(crate) cause: Option<String>,
    pub(crate) exits: bool,
    pub(crate) drained: bool,
    pub(crate) for_ms: Option<u64>,
    /// What is left; absent without an end.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) busy: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) state: String,
    pub(crate) since_ms: Option<u64>,
    pub(crate) attempt: Option<u64>,
    pub(crate) class: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) next_retry_ms: Option<u64>,
    pub(crate) last_ok_ms: Option<u64>,
    pub(crate) optional: bool,
    pub(crate) pending_revision: Option<Revision>,
    pub(crate) subscriptions: Vec<Subscription>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Revision {
    pub(crate) state: Option<String>,
    pub(crate) message: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Subscription {
    pub(crate) topic: String,
    pub(crate) state: String,
    pub(crate) since_ms: Option<u64>,
    pub(crate) attempt: Option<u64>,
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Breaker {
    pub(crate) target: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) state: String,
    pub(crate) for_ms: Option<u64>,
    pub(crate) next_probe_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
}

/// Monotonic since the start of the sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters(Vec<(&'static str, u64)>);

/// Members of `counters`, and what they are called here.
const COUNTERS: [(&str, &str); 7] = [
    ("httpRequests", "http"),
    ("grpcRequests", "grpc"),
    ("published", "published"),
    ("delivered", "delivered"),
    ("failed", "failed"),
    ("released", "released"),
    ("refused", "refused"),
];

impl Counters {
    pub(crate) fn all(&self) -> &[(&'static str, u64)] {
        &self.0
    }
}

/// For each second between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rates(Vec<(&'static str, f64)>);

impl Rates {
    /// Absent where one of the two is of another process, or nothing lies between them.
    pub(crate) fn between(before: &Status, after: &Status) -> Option<Self> {
        let elapsed = after.uptime_ms?.checked_sub(before.uptime_ms?)?;
        if elapsed == 0 || before.pid != after.pid {
            return None;
        }
        let rate = |(name, count): &(&'static str, u64)| {
            let (_, earlier) = before.counters.0.iter().find(|(other, _)| other == name)?;
            let more = count.checked_sub(*earlier)?;
            Some((*name, more as f64 * 1_000.0 / elapsed as f64))
        };
        Some(Self(after.counters.0.iter().filter_map(rate).collect()))
    }

    pub(crate) fn all(&self) -> &[(&'static str, f64)] {
        &self.0
    }

    pub(crate) fn of(&self, name: &str) -> Option<f64> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, rate)| *rate)
    }
}

impl Status {
    /// `None`: this is no status.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        Some(Self {
            app_id: text(value, "appId")?,
            namespace: text(value, "namespace"),
            version: text(value, "version"),
            pid: count(value, "pid"),
            uptime_ms: count(value, "uptimeMs"),
            phase: text(value, "phase")?,
            phase_since_ms: count(value, "phaseSinceMs"),
            gate: text(value, "gate"),
            gate_since_ms: count(value, "gateSinceMs"),
            app: object(value, "app").map(App::read),
            drain: object(value, "drain").map(Drain::read),
            inflight: counts(value.get("inflight")),
            components: list(value, "components", Component::read),
            breakers: list(value, "breakers", Breaker::read),
            counters: Counters::read(value.get("counters")),
        })
    }
}

impl App {
    fn read(value: &Value) -> Self {
        Self {
            port: count(value, "port"),
            protocol: text(value, "protocol"),
        }
    }
}

impl Drain {
    fn read(value: &Value) -> Self {
        Self {
            id: text(value, "id"),
            cause: text(value, "cause"),
            exits: flag(value, "exits").unwrap_or(false),
            drained: flag(value, "drained").unwrap_or(false),
            for_ms: count(value, "forMs"),
            deadline_ms: count(value, "deadlineMs"),
            busy: flag(value, "busy"),
        }
    }
}

impl Component {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            name: text(value, "name")?,
            kind: text(value, "type"),
            state: text(value, "state")?,
            since_ms: count(value, "sinceMs"),
            attempt: count(value, "attempt"),
            class: text(value, "class"),
            message: text(value, "message"),
            next_retry_ms: count(value, "nextRetryMs"),
            last_ok_ms: count(value, "lastOkMs"),
            optional: flag(value, "optional").unwrap_or(false),
            pending_revision: object(value, "pendingRevision").map(Revision::read),
            subscriptions: list(value, "subscriptions", Subscription::read),
        })
    }
}

impl Revision {
    fn read(value: &Value) -> Self {
        Self {
            state: text(value, "state"),
            message: text(value, "message"),
        }
    }
}

impl Subscription {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            topic: text(value, "topic")?,
            state: text(value, "state")?,
            since_ms: count(value, "sinceMs"),
            attempt: count(value, "attempt"),
            error: text(value, "error"),
        })
    }
}

impl Breaker {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            target: text(value, "target"),
            name: text(value, "breaker"),
            state: text(value, "state")?,
            for_ms: count(value, "forMs"),
            next_probe_ms: count(value, "nextProbeMs"),
            last_error: text(value, "lastError"),
        })
    }
}

impl Counters {
    fn read(value: Option<&Value>) -> Self {
        let of = |name: &str| value?.get(name).and_then(number);
        let all = COUNTERS.iter();
        Self(
            all.filter_map(|(member, name)| Some((*name, of(member)?)))
                .collect(),
        )
    }
}

/// An empty text says nothing.
fn text(value: &Value, name: &str) -> Option<String> {
    let text = value.get(name)?.as_str()?;
    (!text.is_empty()).then(|| clean(first(text, LONGEST)))
}

fn count(value: &Value, name: &str) -> Option<u64> {
    value.get(name).and_then(number)
}

fn flag(value: &Value, name: &str) -> Option<bool> {
    value.get(name)?.as_bool()
}

fn object<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| value.as_object().is_some())
}

fn list<T>(value: &Value, name: &str, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let all = value
        .get(name)
        .and_then(Value::as_array)
        .unwrap_or_default();
    all.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;

    fn read(json: &str) -> Option<Status> {
        Status::read(&parse_all(json.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_odd_is_left_out() {
        let status = read(
            r#"{"appId":"a\u001b[1m","phase":"ready","pid":-1,"uptimeMs":1.5,"drain":[],"inflight":{"invoke":1,"x":"y"},
                "components":[{"name":"no state"},7,{"name":"ok","state":"ready","type":null,"optional":"yes"}],
                "breakers":{},"counters":{"httpRequests":3,"odd":1}}"#,
        )
        .unwrap();
        assert_eq!(status.app_id, "a?[1m");
        assert_eq!(
            (status.pid, status.uptime_ms, &status.drain),
            (None, None, &None)
        );
        assert_eq!(status.inflight, [("invoke".to_owned(), 1)]);
        assert_eq!(status.components.len(), 1);
        assert!(status.breakers.is_empty());
        assert_eq!(status.counters.all(), [("http", 3)]);
        assert_eq!(read(r#"{"appId":"a"}"#), None);
        assert_eq!(read("[]"), None);
    }

    #[test]
    fn rates_need_two_readings_of_one_process() {
        let status = |pid: u64, uptime: u64, http: u64| {
            read(&format!(
                r#"{{"appId":"a","phase":"ready","pid":{pid},"uptimeMs":{uptime},"counters":{{"httpRequests":{http}}}}}"#
            ))
            .unwrap()
        };
        let rate = |before: &Status, after: &Status| Rates::between(before, after)?.of("http");
        let before = status(1, 1_000, 10);
        assert_eq!(rate(&before, &status(1, 3_000, 15)), Some(2.5));
        assert_eq!(rate(&before, &status(1, 1_000, 15)), None);
        assert_eq!(rate(&before, &status(2, 3_000, 15)), None);
        assert_eq!(rate(&before, &status(1, 500, 15)), None);
        assert_eq!(rate(&before, &status(1, 3_000, 5)), None);
    }
}
