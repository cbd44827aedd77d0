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
    /// It ended because the thing was there again, not because it or the process was there no more.
    pub has_recovered: bool,
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

/// What is down while the changes are read.
#[derive(Default)]
struct Reading {
    all: Vec<Outage>,
    /// Those that last, by their place.
    open: BTreeMap<(Kind, String), usize>,
}

impl Reading {
    fn take(&mut self, change: &Change) {
        if change.kind == Kind::Process {
            self.end_of_process(change.at);
        }
        let meaning = meaning(change);
        let key = (change.kind, change.subject.clone());
        let place = match meaning {
            Meaning::Down => Some(*self.open.entry(key).or_insert(self.all.len())),
            Meaning::Up | Meaning::Gone => self.open.remove(&key),
            Meaning::Neither => self.open.get(&key).copied(),
        };
        let Some(place) = place else { return };
        if place == self.all.len() {
            self.all.push(began(change));
        }
        let Some(outage) = self.all.get_mut(place) else {
            return;
        };
        // A count is that of the whole outage so far, so that one that is lost or read twice does no harm.
        outage.refused = outage.refused.max(change.refused);
        match meaning {
            Meaning::Down => outage.cause = outage.cause.take().or_else(|| change.cause.clone()),
            Meaning::Up => (outage.to, outage.has_recovered) = (Some(change.at), true),
            Meaning::Gone => outage.to = Some(change.at),
            Meaning::Neither => {}
        }
    }

    /// Nobody knows how it went on with what was down; the next process tells of it what it finds down itself.
    fn end_of_process(&mut self, at: SystemTime) {
        let all = &mut self.all;
        self.open.retain(|(kind, _), place| {
            if *kind == Kind::Process {
                return true;
            }
            if let Some(outage) = all.get_mut(*place) {
                // What was told last may be later than the last sign of life.
                outage.to = Some(at.max(outage.from));
            }
            false
        });
    }
}

fn began(change: &Change) -> Outage {
    // The line that began it may be kept no more. A tally knows how long it had lasted.
    let since = change.after.filter(|_| change.is_tally());
    let from = since.and_then(|since| change.at.checked_sub(since));
    Outage {
        kind: change.kind,
        subject: change.subject.clone(),
        from: from.unwrap_or(change.at),
        to: None,
        cause: None,
        refused: None,
        has_recovered: false,
    }
}

/// Reads a report off changes in their order, those since a moment. The last may be counts that are written nowhere yet.
pub fn report(changes: Vec<Change>, since: Option<SystemTime>) -> Report {
    let mut reading = Reading::default();
    for change in &changes {
        reading.take(change);
    }
    let mut outages = reading.all;
    let is_wanted = |at: SystemTime| since.is_none_or(|since| at >= since);
    outages.retain(|outage| outage.to.is_none_or(is_wanted));
    let recovery = recovery(&outages);
    let changes = changes
        .into_iter()
        .filter(|change| is_wanted(change.at) && !change.is_tally())
        .collect();
    Report {
        changes,
        outages,
        recovery,
    }
}

fn recovery(outages: &[Outage]) -> Vec<Recovery> {
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for outage in outages.iter().filter(|outage| outage.has_recovered) {
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

    fn tally(second: u64, subject: &str, state: &str, refused: u64) -> Change {
        Change {
            after: Some(Duration::from_secs(2)),
            cause: None,
            refused: Some(refused),
            ..change(second, Kind::Component, subject, state, state)
        }
    }

    #[test]
    fn refused_calls_are_told_while_the_outage_lasts_and_add_up_to_what_the_end_says() {
        let mut changes = vec![
            change(1, Kind::Component, "orders", "connecting", "ready"),
            change(10, Kind::Component, "orders", "ready", "unavailable"),
            tally(12, "orders", "unavailable", 1),
            tally(14, "orders", "unavailable", 2),
        ];
        let lasting = report(changes.clone(), None);
        assert_eq!(lasting.outages[0].refused, Some(2));
        assert_eq!(lasting.changes.len(), 2, "a mere count is no change");
        // What a sidecar counts while it is asked is told twice, and counts once.
        changes.push(tally(14, "orders", "unavailable", 2));
        changes.push(change(
            22,
            Kind::Component,
            "orders",
            "unavailable",
            "ready",
        ));
        let over = report(changes.clone(), None);
        assert_eq!((over.outages.len(), over.outages[0].refused), (1, Some(3)));
        // The beginning has been driven out of the file.
        let rest = report(changes.split_off(2), None);
        let outage = &rest.outages[0];
        assert_eq!((outage.from, outage.refused), (at(10), Some(3)));
    }

    #[test]
    fn what_is_down_when_its_process_ends_has_not_come_back() {
        for end in ["lost", "ended"] {
            let down = |second, kind, subject, from, to| change(second, kind, subject, from, to);
            let told = report(
                vec![
                    down(0, Kind::Process, "", "", "running"),
                    down(1, Kind::Component, "old", "ready", "unavailable"),
                    tally(3, "old", "unavailable", 5),
                    down(4, Kind::Gate, "", "open", "closed"),
                    down(5, Kind::Subscription, "bus/a", "active", "retrying"),
                    down(6, Kind::Breaker, "a b", "closed", "open"),
                    down(7, Kind::Component, "kept", "ready", "unavailable"),
                    down(10, Kind::Process, "", "running", end),
                    down(20, Kind::Process, "", end, "running"),
                    down(21, Kind::Component, "kept", "connecting", "unavailable"),
                    down(31, Kind::Component, "kept", "unavailable", "ready"),
                ],
                None,
            );
            let lasting = told.outages.iter().filter(|outage| outage.to.is_none());
            assert_eq!(lasting.count(), 0, "{told:?}");
            let of = |subject: &str| -> Vec<_> {
                let all = told.outages.iter();
                let own = all.filter(|outage| outage.subject == subject);
                own.map(|outage| (outage.duration().unwrap().as_secs(), outage.refused))
                    .collect()
            };
            assert_eq!(of("old"), [(9, Some(5))]);
            assert_eq!(of("kept"), [(3, None), (10, Some(3))]);
            assert_eq!(told.recovery.len(), 1, "{told:?}");
            let recovery = &told.recovery[0];
            assert_eq!(
                (recovery.component.as_str(), recovery.count),
                ("kept", 1),
                "only what came back has recovered"
            );
        }
    }

    #[test]
    fn what_is_taken_away_is_down_no_more_and_has_not_come_back() {
        let told = report(
            vec![
                change(0, Kind::Component, "old", "ready", "unavailable"),
                change(9, Kind::Component, "old", "unavailable", "closing"),
            ],
            None,
        );
        assert_eq!(
            told.outages[0].duration(),
            Some(Duration::from_secs(9)),
            "{told:?}"
        );
        assert!(told.recovery.is_empty());
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
