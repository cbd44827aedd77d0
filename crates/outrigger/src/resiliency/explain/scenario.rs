//! What a target's policies add up to, case by case.

use outrigger_resiliency::{Flow, OnOpen, Plan};

use super::words;
use super::worst::{Case, End, Layers, Sum};

/// One way in which everything fails.
#[derive(Debug)]
pub(super) struct Scenario {
    pub key: &'static str,
    pub label: &'static str,
    /// With pauses of the usual length.
    pub usual: Sum,
    /// With the shortest and with the longest pauses, where chance has a say.
    pub range: Option<[Sum; 2]>,
    /// With a breaker that has seen nothing yet, where it ends the call before its time.
    pub rejected: Option<Sum>,
}

/// A case, and what it is called.
pub(super) type Named = (Case, &'static str);

pub(super) fn all(plan: &Plan, flow: Flow, layers: Layers<'_>, cases: &[Named]) -> Vec<Scenario> {
    // A message that waits for its breaker goes on afterwards.
    let waits = flow == Flow::Inbound && plan.on_open.unwrap_or(OnOpen::Hold) == OnOpen::Hold;
    let one = |(case, label): &Named| {
        let usual = layers.run(*case, 0.5);
        let range = layers
            .has_chance(*case)
            .then(|| [0.0, 1.0].map(|dice| layers.run(*case, dice)));
        let rejected = plan.breaker.as_ref().filter(|_| !waits).and_then(|slot| {
            let sum = layers.with_breaker(&slot.rule).run(*case, 0.5);
            (sum.end == End::Rejected).then_some(sum)
        });
        Scenario {
            key: match case {
                Case::AtOnce => "failure",
                Case::Unreachable => "unreachable",
                Case::Hanging => "hanging",
            },
            label,
            usual,
            range,
            rejected,
        }
    };
    cases.iter().map(one).collect()
}

impl Scenario {
    /// In words: the main line, and what is to be added to it.
    pub(super) fn lines(&self) -> Vec<String> {
        let usual = &self.usual;
        let mut first = sentence(usual);
        if self.range.is_some() && usual.end == End::Answer {
            first.push_str(" with usual pauses");
        }
        let mut lines = vec![first];
        if let Some([shortest, longest]) = &self.range
            && usual.end == End::Answer
        {
            lines.push(format!("with the longest pauses: {}", sentence(longest)));
            lines.push(format!("with the shortest pauses: {}", sentence(shortest)));
        }
        if let Some(sum) = &self.rejected {
            lines.push(format!(
                "with a breaker that was closed: {}, then `circuit breaker is open` {}",
                attempts(sum),
                after(sum)
            ));
        }
        lines
    }
}

fn sentence(sum: &Sum) -> String {
    match sum.end {
        End::Answer => format!("{}, an answer {}", attempts(sum), after(sum)),
        End::Rejected => format!("{}, a rejection {}", attempts(sum), after(sum)),
        End::Endless => format!(
            "attempts without end (over {} within {}), until the caller leaves",
            sum.calls,
            words::duration(sum.time)
        ),
        End::Stuck => {
            "no limit: nothing ends the first attempt but the other side or the caller".to_owned()
        }
    }
}

/// `16 attempts (4 x 4)`.
fn attempts(sum: &Sum) -> String {
    let text = words::count(sum.calls, "attempt");
    let each = sum.calls.checked_div(sum.attempts).unwrap_or(1);
    if sum.attempts > 1 && each > 1 && each * sum.attempts == sum.calls {
        format!("{text} ({} x {each})", sum.attempts)
    } else {
        text
    }
}

fn after(sum: &Sum) -> String {
    if sum.time.is_zero() {
        "at once".to_owned()
    } else {
        format!("after {}", words::duration(sum.time))
    }
}
