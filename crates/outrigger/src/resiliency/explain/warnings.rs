//! What is doubtful about the policies of one target.

use outrigger_config::diagnostic::{self, Diagnostic, Place};
use outrigger_policy::Counts;
use outrigger_resiliency::{BreakerRule, ComponentKind, Flow, Plan, RetryRule, Slot};

use super::words;
use super::worst::{Case, End, Layers};
use crate::resiliency::found::is_within;

/// What is looked at.
pub(super) struct Subject<'a> {
    pub plan: &'a Plan,
    pub built_in: Option<&'a Slot<RetryRule>>,
    pub spans_built_in: bool,
    pub flow: Flow,
    pub kinds: &'a [ComponentKind],
}

/// Failures in a row beyond which a breaker is taken for one that never opens.
const MANY: u32 = 10_000;

/// Findings of the files that concern these policies, and what shows only when they come together.
pub(super) fn of(subject: &Subject<'_>, findings: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut told: Vec<Diagnostic> = findings
        .iter()
        .filter(|one| concerns(subject, one))
        .cloned()
        .collect();
    multiplied(subject, &mut told);
    endless(subject, &mut told);
    cut_short(subject, &mut told);
    never_opens(subject, &mut told);
    given_up(subject, &mut told);
    diagnostic::sort(&mut told);
    told
}

fn concerns(subject: &Subject<'_>, told: &Diagnostic) -> bool {
    // With the numbers of this target it is told below.
    if told.code == "CFG-MULTIPLIED" {
        return false;
    }
    let plan = subject.plan;
    let sources = [
        plan.timeout.as_ref().map(|slot| &slot.source),
        plan.retry.as_ref().map(|slot| &slot.source),
        plan.breaker.as_ref().map(|slot| &slot.source),
        subject.built_in.map(|slot| &slot.source),
        plan.entry.as_ref().map(|entry| &entry.source),
    ];
    let mut places = sources
        .into_iter()
        .flatten()
        .filter_map(|source| source.place.as_ref());
    let of_built_in = |slot: &&Slot<RetryRule>| {
        let path = format!(".retries.{}", slot.name);
        slot.source.place.is_none() && told.place.path.ends_with(&path)
    };
    places.any(|place| is_within(told, place)) || subject.built_in.as_ref().is_some_and(of_built_in)
}

fn multiplied(subject: &Subject<'_>, told: &mut Vec<Diagnostic>) {
    let (Some(outer), Some(inner)) = (&subject.plan.retry, subject.built_in) else {
        return;
    };
    if !outer.rule.retry.is_any() || !inner.rule.retry.is_any() {
        return;
    }
    let layers = Layers::of(
        subject.plan,
        Some(&inner.rule.retry),
        subject.spans_built_in,
    );
    let sum = layers.run(Case::Unreachable, 0.0);
    let attempts = match sum.end {
        End::Endless => "attempts without end".to_owned(),
        _ => format!("up to {}", words::count(sum.calls, "attempt")),
    };
    let message = format!(
        "`{}` multiplies with `{}`: {attempts}",
        outer.name, inner.name
    );
    let help = if subject.spans_built_in {
        "`builtin: {service: off}` switches the inner ones off, and so does naming the app as a target"
    } else {
        "`builtin: {actorNotFound: off}` switches the inner ones off, and so does naming the actor type as a target"
    };
    told.push(warning("CFG-MULTIPLIED", place(outer), message).help(help));
}

/// Those with a constant pause are among the findings of the files.
fn endless(subject: &Subject<'_>, told: &mut Vec<Diagnostic>) {
    let Some(slot) = &subject.plan.retry else {
        return;
    };
    let retry = &slot.rule.retry;
    let is_endless =
        retry.max_retries.is_none() && retry.max_elapsed.is_none() && subject.plan.total.is_none();
    if is_endless && !told.iter().any(|one| one.code == "CFG-ENDLESS") {
        let message = format!("the retries of `{}` never end", slot.name);
        let help = "set `maxRetries`, `maxElapsedTime` or `totalTimeout`";
        told.push(warning("CFG-ENDLESS", place(slot), message).help(help));
    }
}

/// A time-out or total time that leaves no room for what it bounds.
fn cut_short(subject: &Subject<'_>, told: &mut Vec<Diagnostic>) {
    let plan = subject.plan;
    let Some(timeout) = &plan.timeout else {
        return;
    };
    if let Some(total) = plan.total.filter(|total| *total <= timeout.rule) {
        let message = format!(
            "the total time of {} ends before the first attempt's time-out of {}: an attempt that hangs is never retried",
            words::duration(total),
            words::duration(timeout.rule)
        );
        told.push(warning("CFG-TOTAL-SHORT", place(timeout), message));
    }
    let Some(inner) = subject.built_in.filter(|_| subject.spans_built_in) else {
        return;
    };
    let alone = Layers {
        retry: None,
        timeout: None,
        total: None,
        breaker: None,
        built_in: Some(&inner.rule.retry),
        spans_built_in: true,
    };
    let needed = alone.run(Case::Unreachable, 0.5);
    if needed.end == End::Answer && needed.time >= timeout.rule {
        let message = format!(
            "the time-out of {} spans the built-in retries, which take {}: they are cut short",
            words::duration(timeout.rule),
            words::duration(needed.time)
        );
        told.push(warning("CFG-BUILT-IN-CUT", place(timeout), message));
    }
}

fn never_opens(subject: &Subject<'_>, told: &mut Vec<Diagnostic>) {
    let Some(slot) = &subject.plan.breaker else {
        return;
    };
    let rule: &BreakerRule = &slot.rule;
    let opens = |failures: u32| {
        let counts = Counts {
            requests: failures,
            total_failures: failures,
            consecutive_failures: failures,
            ..Counts::default()
        };
        rule.trip.holds(&counts).unwrap_or(false)
    };
    // Each one where a breaker is likely to open, then in steps.
    let mut failures = (1..=100).chain((200..=MANY).step_by(100));
    if rule.trip.caution().is_none() && !failures.any(opens) {
        let message = format!(
            "`{}` does not open when everything fails: `{}` does not hold for {MANY} failures in a row",
            slot.name,
            rule.trip.text()
        );
        told.push(warning("CFG-TRIP", place(slot), message));
    }
}

fn given_up(subject: &Subject<'_>, told: &mut Vec<Diagnostic>) {
    let Some(slot) = &subject.plan.retry else {
        return;
    };
    if subject.flow == Flow::Inbound && subject.kinds == [ComponentKind::Pubsub] {
        let message = format!(
            "`{}` has the last word: a message whose attempts are used up does not come again",
            slot.name
        );
        let help = "without a dead letter topic of the subscription, or one of the broker's own, it is lost";
        told.push(warning("CFG-GIVEN-UP", place(slot), message).help(help));
    }
}

fn warning(code: &'static str, place: Place, message: String) -> Diagnostic {
    Diagnostic::warning(code, place, message)
}

fn place<T>(slot: &Slot<T>) -> Place {
    slot.source.place.clone().unwrap_or_default()
}
