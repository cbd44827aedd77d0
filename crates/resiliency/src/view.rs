//! What an operator sees: the policies in force, target by target, and the breakers that live.

use std::sync::Arc;
use std::time::Duration;

use outrigger_policy::breaker::State;

use crate::breakers::Seen;
use crate::plan::{Origin, Plan, RetryRule, Slot};
use crate::service::Resiliency;
use crate::target::Target;

/// Everything at one moment.
#[derive(Debug)]
pub struct View {
    pub resources: Vec<String>,
    pub refused: Vec<RefusedResource>,
    /// The retry of service invocation that nobody configured, or what became of it.
    pub service_retry: Option<Slot<RetryRule>>,
    pub targets: Vec<TargetView>,
}

/// A resource that could not be taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedResource {
    /// Empty where it cannot be read.
    pub name: String,
    /// File, line and column.
    pub place: String,
    pub reasons: Vec<String>,
    /// An earlier version of it still applies.
    pub last_good_in_force: bool,
}

#[derive(Debug)]
pub struct TargetView {
    /// `app_a`, `Statestore_s`.
    pub label: String,
    pub flow: &'static str,
    pub target: Arc<Target>,
    pub breakers: Vec<BreakerView>,
}

#[derive(Debug)]
pub struct BreakerView {
    pub name: String,
    pub state: State,
    pub counts: outrigger_policy::Counts,
    /// How long ago the state, or the window of the closed state, began.
    pub for_so_long: Duration,
    /// In how long a probe may be made, of an open breaker.
    pub next_probe: Option<Duration>,
    pub last_error: Option<String>,
}

impl TargetView {
    pub fn plan(&self) -> &Plan {
        self.target.plan()
    }
}

impl Origin {
    /// In a few words.
    pub fn text(&self) -> String {
        match self {
            Self::Target(entry) => format!("target {entry}"),
            Self::Default => "default policy".to_owned(),
            Self::BuiltIn => "built-in".to_owned(),
        }
    }
}

impl Resiliency {
    /// The policies in force and the breakers that live.
    pub fn view(&self) -> View {
        self.touch_named();
        let now = self.now();
        let targets = self.targets().into_iter().map(|target| {
            let breaker = |seen: Seen| BreakerView {
                name: seen.name,
                state: seen.state,
                counts: seen.counts,
                for_so_long: now.since(seen.since),
                next_probe: seen.next_probe.map(|at| at.since(now)),
                last_error: seen.last,
            };
            TargetView {
                label: target.label().to_owned(),
                flow: target.flow.name(),
                breakers: target
                    .cells
                    .iter()
                    .flat_map(|cells| cells.seen(now))
                    .map(breaker)
                    .collect(),
                target,
            }
        });
        View {
            resources: self.resources(),
            refused: self.refused(),
            service_retry: self.service_retry(),
            targets: targets.collect(),
        }
    }

    /// How many breakers there are in each state: closed, half-open, open.
    pub fn census(&self) -> [usize; 3] {
        let (mut all, now) = ([0; 3], self.now());
        for target in self.targets() {
            if let Some(cells) = &target.cells {
                for (sum, count) in all.iter_mut().zip(cells.census_at(now)) {
                    *sum += count;
                }
            }
        }
        all
    }
}
