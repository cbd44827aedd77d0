//! What came of it, for people and for programs, and whether that is good.
//!
//! Owns: the verdict, the table, the JSON.
//! Never: looks at anything but what it is given. Start at [`Report::faults`].

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use serde_json::{Value, json};

use crate::ledger::{Counts, Topic};
use crate::plan::{Fault, Kind, Node, Target};
use crate::samples::{Growth, Sample, median};
use crate::traffic::{Activity, Tally};

/// After a fault was healed everything works again within this time. The slowest is what was stranded without a word:
/// RabbitMQ's heartbeat is missed after 20 s, and then its queue has to be consumed anew.
pub(crate) const RECOVERY: Duration = Duration::from_secs(45);
/// Lost messages and such are named up to so many.
const NAMED: usize = 20;

/// A fault that was carried out.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) fault: Fault,
    pub(crate) begun: Duration,
    pub(crate) healed: Duration,
    /// From the healing to the first success of each activity that it could disturb; none where it did not come.
    pub(crate) recovery: Vec<(Activity, Option<Duration>)>,
}

impl Carried {
    /// Until the last of them; none when one did not come.
    fn slowest(&self) -> Option<Duration> {
        let times = self.recovery.iter().map(|(_, time)| *time);
        times.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) took: Duration,
    pub(crate) carried: Vec<Carried>,
    pub(crate) messages: Vec<(Topic, Counts)>,
    pub(crate) tally: Tally,
    pub(crate) keys: usize,
    pub(crate) unread: usize,
    /// How many odd things clients saw, and the first of them.
    pub(crate) odd_answers: (usize, Vec<String>),
    pub(crate) odd: Vec<String>,
    pub(crate) refused_in_calm: Vec<String>,
    /// How many messages were with the brokers at the end.
    pub(crate) left: usize,
    pub(crate) growth: Vec<(Node, Option<Growth>)>,
    pub(crate) samples: BTreeMap<Node, Vec<Sample>>,
}

impl Report {
    /// Everything that makes it a failure.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (topic, counts) in &self.messages {
            let name = topic.name();
            let mut named = |what: &str, numbers: &[usize]| {
                if let Some(some) = numbers
                    .get(..numbers.len().min(NAMED))
                    .filter(|some| !some.is_empty())
                {
                    faults.push(format!("{name}: {} {what}: {some:?}", numbers.len()));
                }
            };
            named("accepted and lost", &counts.lost);
            named("became dead letters", &counts.dead);
            if counts.strange > 0 {
                faults.push(format!("{name}: {} that nobody published", counts.strange));
            }
            if counts.accepted == 0 {
                faults.push(format!("{name}: nothing was accepted"));
            }
        }
        if self.left > 0 {
            faults.push(format!("{} messages are left with the brokers", self.left));
        }
        if self.unread > 0 {
            faults.push(format!("{} keys cannot be read at the end", self.unread));
        }
        for activity in ["state", "invoke"] {
            if self.count(activity, |what| what == "good") == 0 {
                faults.push(format!("{activity}: nothing succeeded"));
            }
        }
        if self.odd_answers.0 > 0 {
            faults.push(format!("{} odd answers, such as", self.odd_answers.0));
            faults.extend(self.odd_answers.1.iter().take(NAMED).cloned());
        }
        faults.extend(self.odd.iter().cloned());
        faults.extend(
            self.refused_in_calm
                .iter()
                .take(NAMED)
                .map(|told| format!("refused although all was well: {told}")),
        );
        for carried in &self.carried {
            for (activity, time) in &carried.recovery {
                if time.is_none_or(|time| time > RECOVERY) {
                    faults.push(format!(
                        "{activity:?} needed {} after: {}",
                        seconds(*time),
                        carried.fault
                    ));
                }
            }
        }
        for (node, growth) in &self.growth {
            if let Some(growth) = growth.filter(|growth| !growth.is_flat()) {
                faults.push(format!("{node:?} has grown: {growth:?}"));
            }
        }
        faults
    }

    fn count(&self, activity: &str, wanted: impl Fn(&str) -> bool) -> usize {
        let counts = self.tally.iter();
        counts
            .filter(|((name, what), _)| *name == activity && wanted(what))
            .map(|(_, count)| count)
            .sum()
    }

    pub(crate) fn json(&self) -> Value {
        let seconds = |time: Duration| (time.as_secs_f64() * 1e3).round() / 1e3;
        let messages = self.messages.iter().map(|(topic, counts)| {
            let counts = json!({
                "published": counts.published, "accepted": counts.accepted, "refused": counts.refused,
                "unknown": counts.unknown, "delivered": counts.delivered, "duplicated": counts.duplicated,
                "refusedAndDelivered": counts.refused_and_delivered,
                "unknownAndDelivered": counts.unknown_and_delivered,
                "lost": counts.lost, "deadLetters": counts.dead, "strange": counts.strange,
            });
            (topic.name().to_owned(), counts)
        });
        let faults = self.carried.iter().map(|carried| {
            let recovery = carried.recovery.iter();
            let recovery = recovery
                .map(|(activity, time)| (format!("{activity:?}"), json!(time.map(seconds))));
            json!({
                "fault": carried.fault.to_string(), "beginS": seconds(carried.begun),
                "healedS": seconds(carried.healed), "recoveryS": recovery.collect::<serde_json::Map<_, _>>(),
            })
        });
        let answers = self.tally.iter().map(
            |((activity, what), count)| json!({"activity": activity, "answer": what, "count": count}),
        );
        let sidecars = self.growth.iter().map(|(node, growth)| {
            let samples = self.samples.get(node).into_iter().flatten();
            let samples = samples.map(|sample| {
                json!([seconds(sample.at), seconds(sample.age), sample.memory_kib, sample.fds])
            });
            let growth = growth.map(|growth| {
                json!({"memoryKib": [growth.memory_kib.0, growth.memory_kib.1], "fds": [growth.fds.0, growth.fds.1], "flat": growth.is_flat()})
            });
            (
                format!("{node:?}"),
                json!({"growth": growth, "samples": samples.collect::<Vec<_>>()}),
            )
        });
        json!({
            "seed": self.seed,
            "tookS": seconds(self.took),
            "ok": self.faults().is_empty(),
            "wrong": self.faults(),
            "messages": messages.collect::<serde_json::Map<_, _>>(),
            "keys": {"checked": self.keys, "unread": self.unread},
            "answers": answers.collect::<Vec<_>>(),
            "left": self.left,
            "faults": faults.collect::<Vec<_>>(),
            "sidecars": sidecars.collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || "for ever".to_owned(),
        |time| format!("{:.1} s", time.as_secs_f64()),
    )
}

/// What a fault can disturb.
pub(crate) fn disturbed_by(target: Target) -> Vec<Activity> {
    let touches = |activity: &Activity| {
        let server = match activity {
            Activity::Publish(topic, _) | Activity::Deliver(topic, _) => Some(topic.server()),
            Activity::State(_) => Some(crate::plan::Server::Store),
            Activity::Invoke(_) => None,
        };
        let (Activity::Publish(_, at)
        | Activity::Deliver(_, at)
        | Activity::State(at)
        | Activity::Invoke(at)) = activity;
        let is_call = matches!(activity, Activity::Invoke(_));
        match target {
            Target::Server(hurt) | Target::ServerLinks(hurt) => server == Some(hurt),
            Target::Fleet => true,
            Target::Sidecar(node)
            | Target::App(node)
            | Target::AllLinks(node)
            | Target::OutsideLinks(node)
            | Target::AppLink(node) => *at == node || is_call && Node::RECEIVERS.contains(&node),
            Target::PeerLink(_) => is_call,
            Target::ApiLink(node) => *at == node,
        }
    };
    Activity::all().into_iter().filter(touches).collect()
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>10}{:>10}{:>9}{:>9}{:>11}{:>11}{:>7}{:>7}",
            "messages",
            "published",
            "accepted",
            "refused",
            "unknown",
            "delivered",
            "duplicated",
            "lost",
            "dead"
        )?;
        for (topic, counts) in &self.messages {
            writeln!(
                f,
                "  {:<10}{:>10}{:>10}{:>9}{:>9}{:>11}{:>11}{:>7}{:>7}",
                topic.name(),
                counts.published,
                counts.accepted,
                counts.refused,
                counts.unknown,
                counts.delivered,
                counts.duplicated,
                counts.lost.len(),
                counts.dead.len()
            )?;
        }
        writeln!(
            f,
            "keys          {} checked at the end, {} could not be read",
            self.keys, self.unread
        )?;
        writeln!(f, "\nanswers")?;
        for ((activity, what), count) in &self.tally {
            writeln!(f, "  {activity:<16}{what:<40}{count:>8}")?;
        }
        writeln!(
            f,
            "\n{:<48}{:>6}{:>10}{:>10}",
            "recovery after", "times", "median", "worst"
        )?;
        let mut by_fault: BTreeMap<(Kind, Target), Vec<Option<Duration>>> = BTreeMap::new();
        for carried in &self.carried {
            let key = (carried.fault.kind, carried.fault.target);
            by_fault.entry(key).or_default().push(carried.slowest());
        }
        for ((kind, target), times) in by_fault {
            let median = median(times.iter().flatten().copied());
            let worst = if times.contains(&None) {
                None
            } else {
                times.iter().copied().max().flatten()
            };
            writeln!(
                f,
                "  {:<46}{:>6}{:>10}{:>10}",
                format!("{kind:?} {target}"),
                times.len(),
                seconds(median),
                seconds(worst)
            )?;
        }
        writeln!(
            f,
            "\n{:<14}{:>30}{:>26}",
            "sidecar", "memory first/last quarter", "files first/last quarter"
        )?;
        for (node, growth) in &self.growth {
            let (memory, fds) = match growth {
                Some(growth) => (
                    format!("{} / {} KiB", growth.memory_kib.0, growth.memory_kib.1),
                    format!("{} / {}", growth.fds.0, growth.fds.1),
                ),
                None => ("too short a life to tell".to_owned(), String::new()),
            };
            writeln!(f, "  {:<12}{memory:>30}{fds:>26}", format!("{node:?}"))?;
        }
        let faults = self.faults();
        writeln!(
            f,
            "\nseed {}, {:.0} s, {} faults: {}",
            self.seed,
            self.took.as_secs_f64(),
            self.carried.len(),
            if faults.is_empty() {
                "all is well"
            } else {
                "something is wrong"
            }
        )?;
        faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let counts = Counts {
            accepted: 3,
            ..Counts::default()
        };
        Report {
            seed: 1,
            took: Duration::from_secs(9),
            carried: Vec::new(),
            messages: vec![(Topic::Rabbit, counts)],
            tally: ["state", "invoke"]
                .map(|activity| ((activity, "good".to_owned()), 5))
                .into(),
            keys: 1,
            unread: 0,
            odd_answers: (0, Vec::new()),
            odd: Vec::new(),
            refused_in_calm: Vec::new(),
            left: 0,
            growth: Vec::new(),
            samples: BTreeMap::new(),
        }
    }

    fn carried(time: Option<Duration>) -> Carried {
        Carried {
            fault: Fault {
                target: Target::Fleet,
                kind: Kind::Restart,
                hold: Duration::ZERO,
                latency: Duration::ZERO,
            },
            begun: Duration::ZERO,
            healed: Duration::ZERO,
            recovery: vec![(Activity::State(Node::Caller1), time)],
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_told() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let wrong: [fn(&mut Report); 10] = [
            |report| report.messages[0].1.lost = vec![4],
            |report| report.messages[0].1.dead = vec![4],
            |report| report.messages[0].1.accepted = 0,
            |report| report.left = 1,
            |report| report.unread = 1,
            |report| report.odd_answers = (1, vec![String::new()]),
            |report| report.odd = vec!["dead".to_owned()],
            |report| report.refused_in_calm = vec!["no".to_owned()],
            |report| report.carried = vec![carried(None)],
            |report| {
                let growth = Growth {
                    memory_kib: (1_000, 100_000),
                    fds: (1, 1),
                };
                report.growth = vec![(Node::Caller1, Some(growth))];
            },
        ];
        for (number, spoil) in wrong.into_iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.faults().is_empty(), "{number}");
            assert_eq!(report.json()["ok"], false);
            assert!(report.to_string().contains("something is wrong"));
        }
    }

    #[test]
    fn a_fault_disturbs_what_goes_through_it() {
        use crate::plan::Server;
        let store = disturbed_by(Target::Server(Server::Store));
        assert_eq!(store, Node::CALLERS.map(Activity::State));
        let peers = disturbed_by(Target::PeerLink(Node::Receiver1));
        assert_eq!(peers, Node::CALLERS.map(Activity::Invoke));
        let app = disturbed_by(Target::App(Node::Receiver2));
        assert!(app.contains(&Activity::Deliver(Topic::Stream, Node::Receiver2)));
        assert!(!app.contains(&Activity::Deliver(Topic::Stream, Node::Receiver1)));
    }
}
