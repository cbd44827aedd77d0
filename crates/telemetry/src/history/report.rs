//! When what was down, for how long and why: read off the changes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use outrigger_core::json::Value;

use super::entry::{self, time_text};
use crate::journal::{Change, Kind};

/// A time for which something was not there.
#[derive(Clone, PartialEq, Debug)]
pub struct Outage {
    pub kind: Kind,
    pub subject: String,
    pub from: SystemTime,
    /// None while it lasts.
    pub to: Option<SystemTime>,
    pub cause: Option<String>,
    /// Calls that were refused meanwhile.
    pub refused: Option<u64>,
}

impl Outage {
    pub fn duration(&self) -> Option<Duration> {
        Some(self.to?.duration_since(self.from).unwrap_or_default())
    }
}

/// How long a component took to come back.
#[derive(Clone, PartialEq, Debug)]
pub struct Recovery {
    pub component: String,
    pub count: usize,
    pub mean: Duration,
    pub p95: Duration,
}

/// All that is told of a time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    pub changes: Vec<Change>,
    pub outages: Vec<Outage>,
    pub recovery: Vec<Recovery>,
}

/// What a state means for who needs the thing.
enum Meaning {
    Up,
    Down,
    /// It is gone on purpose: no outage goes on.
    Gone,
    /// On its way, or nothing that matters.
    Neither,
}

fn meaning(change: &Change) -> Meaning {
    match (change.kind, change.to.as_str()) {
        (Kind::Component, "ready")
        | (Kind::Gate, "open")
        | (Kind::Subscription, "active")
        | (Kind::Process, "running")
        | (Kind::Breaker, "closed") => Meaning::Up,
        (Kind::Component, "unavailable" | "rejected")
        | (Kind::Subscription, "retrying")
        | (Kind::Process, "lost" | "ended")
        | (Kind::Breaker, "open") => Meaning::Down,
        // What was never open has not closed.
        (Kind::Gate, _) if matches!(change.from.as_str(), "open" | "discover") => Meaning::Down,
        (Kind::Component, "closing") | (Kind::Subscription, "closed" | "idle") => Meaning::Gone,
        _ => Meaning::Neither,
    }
}

/// Reads a report off changes in their order, those since a moment.
pub fn report(changes: Vec<Change>, since: Option<SystemTime>) -> Report {
    let mut open: BTreeMap<(Kind, String), usize> = BTreeMap::new();
    let mut outages: Vec<Outage> = Vec::new();
    for change in &changes {
        let key = (change.kind, change.subject.clone());
        match meaning(change) {
            Meaning::Down => {
                if let Some(outage) = open.get(&key).and_then(|place| outages.get_mut(*place)) {
                    outage.cause = outage.cause.take().or_else(|| change.cause.clone());
                } else {
                    open.insert(key, outages.len());
                    outages.push(Outage {
                        kind: change.kind,
                        subject: change.subject.clone(),
                        from: change.at,
                        to: None,
                        cause: change.cause.clone(),
                        refused: None,
                    });
                }
            }
            Meaning::Up | Meaning::Gone => {
                if let Some(outage) = open.remove(&key).and_then(|place| outages.get_mut(place)) {
                    outage.to = Some(change.at);
                    outage.refused = change.refused;
                }
            }
            Meaning::Neither => {}
        }
    }
    let is_wanted = |at: SystemTime| since.is_none_or(|since| at >= since);
    outages.retain(|outage| outage.to.is_none_or(is_wanted));
    let recovery = recovery(&outages);
    let changes = changes
        .into_iter()
        .filter(|change| is_wanted(change.at))
        .collect();
    Report {
        changes,
        outages,
        recovery,
    }
}

fn recovery(outages: &[Outage]) -> Vec<Recovery> {
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for outage in outages {
        if let (Kind::Component, Some(duration)) = (outage.kind, outage.duration()) {
            times.entry(&outage.subject).or_default().push(duration);
        }
    }
    let told = times.into_iter().filter_map(|(component, mut times)| {
        times.sort_unstable();
        let count = times.len();
        let total: Duration = times.iter().sum();
        // Of few outages the longest is the 95th percentile.
        let rank = (count * 95).div_ceil(100).max(1);
        Some(Recovery {
            component: component.to_owned(),
            count,
            mean: total / u32::try_from(count).ok()?,
            p95: *times.get(rank - 1)?,
        })
    });
    told.collect()
}

impl Report {
    /// As the API gives it.
    pub fn value(&self, app_id: &str, now: SystemTime, limit: usize) -> Value {
        let skip = self.changes.len().saturating_sub(limit);
        let begins = self.changes.first().map(|change| change.at);
        let first_outage = self.outages.first().map(|outage| outage.from);
        let from = begins.into_iter().chain(first_outage).min().unwrap_or(now);
        let skipped_outages = self.outages.len().saturating_sub(limit);
        Value::object([
            ("appId", Value::string(app_id)),
            ("from", Value::String(time_text(from))),
            ("to", Value::String(time_text(now))),
            (
                "changes",
                Value::Array(self.changes.iter().skip(skip).map(entry::value).collect()),
            ),
            (
                "outages",
                Value::Array(
                    self.outages
                        .iter()
                        .skip(skipped_outages)
                        .map(outage)
                        .collect(),
                ),
            ),
            (
                "recovery",
                Value::Array(self.recovery.iter().map(recovered).collect()),
            ),
        ])
    }
}

fn millis(duration: Duration) -> Value {
    Value::integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn outage(outage: &Outage) -> Value {
    let subject = (!outage.subject.is_empty()).then(|| Value::string(outage.subject.as_str()));
    let members = [
        ("kind", Some(Value::string(outage.kind.name()))),
        ("subject", subject),
        ("from", Some(Value::String(time_text(outage.from)))),
        ("to", outage.to.map(|to| Value::String(time_text(to)))),
        ("durationMs", outage.duration().map(millis)),
        ("cause", outage.cause.as_deref().map(Value::string)),
        (
            "refused",
            outage.refused.map(|count| Value::Number(count.to_string())),
        ),
    ];
    let present = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

fn recovered(recovery: &Recovery) -> Value {
    Value::object([
        ("component", Value::string(recovery.component.as_str())),
        (
            "count",
            Value::integer(u32::try_from(recovery.count).unwrap_or(u32::MAX)),
        ),
        ("meanMs", millis(recovery.mean)),
        ("p95Ms", millis(recovery.p95)),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
    }

    fn change(second: u64, kind: Kind, subject: &str, from: &str, to: &str) -> Change {
        Change {
            at: at(second),
            kind,
            subject: subject.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            after: None,
            cause: (to == "unavailable").then(|| "connection refused".to_owned()),
            class: None,
            refused: (to == "ready").then_some(3),
        }
    }

    #[test]
    fn an_outage_lasts_from_the_loss_to_the_return() {
        let component = |second, from, to| change(second, Kind::Component, "orders", from, to);
        let report = report(
            vec![
                component(0, "", "connecting"),
                component(1, "connecting", "ready"),
                component(10, "ready", "unavailable"),
                component(11, "unavailable", "connecting"),
                component(12, "connecting", "unavailable"),
                component(22, "unavailable", "ready"),
                component(40, "ready", "unavailable"),
            ],
            None,
        );
        assert_eq!(report.outages.len(), 2);
        let [first, second] = &report.outages[..] else {
            panic!("{report:?}")
        };
        assert_eq!(first.duration(), Some(Duration::from_secs(12)));
        assert_eq!(first.cause.as_deref(), Some("connection refused"));
        assert_eq!(first.refused, Some(3));
        assert_eq!((second.to, second.duration()), (None, None));
        assert_eq!(report.recovery.len(), 1);
        assert_eq!(report.recovery[0].count, 1);
    }

    #[test]
    fn a_process_that_was_killed_and_a_gate_that_closed_are_outages_and_a_first_start_is_none() {
        let report = report(
            vec![
                change(0, Kind::Process, "", "", "running"),
                change(1, Kind::Gate, "", "wait_port", "discover"),
                change(2, Kind::Gate, "", "discover", "open"),
                change(5, Kind::Gate, "", "open", "wait_port"),
                change(7, Kind::Gate, "", "wait_port", "discover"),
                change(8, Kind::Gate, "", "discover", "open"),
                change(9, Kind::Process, "", "running", "lost"),
                change(30, Kind::Process, "", "lost", "running"),
            ],
            None,
        );
        let told: Vec<_> = report
            .outages
            .iter()
            .map(|outage| (outage.kind, outage.duration().unwrap().as_secs()))
            .collect();
        assert_eq!(told, [(Kind::Gate, 3), (Kind::Process, 21)]);
    }

    #[test]
    fn the_mean_and_the_95th_percentile_are_those_of_the_outages() {
        let mut changes = Vec::new();
        for number in 0..20_u64 {
            let start = number * 100;
            changes.push(change(start, Kind::Component, "c", "ready", "unavailable"));
            changes.push(change(
                start + number + 1,
                Kind::Component,
                "c",
                "unavailable",
                "ready",
            ));
        }
        let report = report(changes, None);
        let recovery = &report.recovery[0];
        assert_eq!(recovery.count, 20);
        assert_eq!(recovery.mean, Duration::from_millis(10_500));
        assert_eq!(recovery.p95, Duration::from_secs(19));
    }

    #[test]
    fn what_ended_before_is_not_told_and_what_still_lasted_is() {
        let report = report(
            vec![
                change(0, Kind::Component, "a", "ready", "unavailable"),
                change(5, Kind::Component, "a", "unavailable", "ready"),
                change(6, Kind::Component, "b", "ready", "unavailable"),
                change(20, Kind::Component, "b", "unavailable", "ready"),
            ],
            Some(at(10)),
        );
        assert_eq!(report.outages.len(), 1);
        assert_eq!((report.outages[0].from, report.changes.len()), (at(6), 1));
    }
}
