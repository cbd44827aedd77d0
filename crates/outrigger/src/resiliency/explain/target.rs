//! What applies to a target: what is told of each, and of actor types.

use outrigger_config::diagnostic::{Diagnostic, Place};
use outrigger_config::resiliency::BreakerScope;
use outrigger_core::nearest::nearest;
use outrigger_resiliency::{ComponentKind, Default, Flow, OnOpen, Plan, RetryRule, Slot};

use super::facts::{self, Fact, Teller};
use super::scenario::{self, Named, Scenario};
use super::worst::{Case, Layers};
use super::{Asked, Known, Subject, app, component, warnings, words};

/// What applies to one way in which a target is used.
#[derive(Debug)]
pub(super) struct Section {
    pub title: String,
    pub flow: Flow,
    /// The kinds of component for which this holds; empty where they do not matter.
    pub kinds: Vec<ComponentKind>,
    /// Which calls are meant.
    pub meant: String,
    /// The entry that was found, or what becomes of it that there is none.
    pub entry: String,
    pub place: Option<Place>,
    pub facts: Vec<Fact>,
    pub keys: Vec<String>,
    pub scenarios: Vec<Scenario>,
    /// What the other side may add to the times.
    pub pushback: Option<String>,
    pub warnings: Vec<Diagnostic>,
}

/// Everything that is told of a target, and what is to be known besides.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub sections: Vec<Section>,
    pub notes: Vec<String>,
}

pub(super) fn tell(known: &Known, asked: &Asked) -> Told {
    match asked.subject {
        Subject::App => app::tell(known, asked),
        Subject::Actor => actor(known, asked),
        Subject::Component => component::tell(known, asked),
    }
}

/// The retry that is built in: how it comes to be there, or why it is not.
pub(super) type BuiltIn<'a> = Result<&'a Slot<RetryRule>, String>;

/// What a section is made of.
pub(super) struct Parts<'a> {
    pub title: String,
    pub flow: Flow,
    pub kinds: Vec<ComponentKind>,
    pub meant: String,
    pub plan: &'a Plan,
    pub default: Default,
    pub matching: Option<&'static str>,
    /// With what it retries; absent where there is nothing of the kind.
    pub built_in: Option<(BuiltIn<'a>, &'static str)>,
    /// The time-out bounds what is built in, too.
    pub spans_built_in: bool,
    pub cases: Vec<Named>,
    pub keys: Vec<String>,
    /// How the other side can ask for longer pauses, where it can.
    pub pushback: Option<&'static str>,
}

impl Parts<'_> {
    pub(super) fn section(self, known: &Known) -> Section {
        let plan = self.plan;
        let teller = Teller {
            book: &known.book,
            plan,
            default: self.default,
            is_of_any_type: self.kinds.len() != 1,
            matching: self.matching,
        };
        let mut facts = teller.facts();
        if self.flow == Flow::Inbound && plan.breaker.is_some() {
            facts.push(Fact {
                label: "while it is open",
                key: "onOpen",
                name: None,
                value: Some(words::on_open(plan.on_open.unwrap_or(OnOpen::Hold)).to_owned()),
                why: match plan.on_open {
                    Some(_) => "`onOpen` says so".to_owned(),
                    None => "nothing names `onOpen`".to_owned(),
                },
                resource: None,
                place: None,
            });
        }
        let built_in = self.built_in.as_ref();
        facts.extend(built_in.map(|(slot, what)| facts::built_in(slot.clone(), what)));
        let slot = built_in.and_then(|(slot, _)| slot.as_ref().ok().copied());
        let layers = Layers::of(plan, slot.map(|slot| &slot.rule.retry), self.spans_built_in);
        let scenarios = scenario::all(plan, self.flow, layers, &self.cases);
        let subject = warnings::Subject {
            plan,
            built_in: slot,
            spans_built_in: self.spans_built_in,
            flow: self.flow,
            kinds: &self.kinds,
        };
        let warnings = warnings::of(&subject, &known.findings);
        let place = plan
            .entry
            .as_ref()
            .and_then(|entry| entry.source.place.clone());
        let entry = match &plan.entry {
            Some(_) => {
                "an entry of `spec.targets` names it: only what it names applies, no default"
            }
            None if known.book.is_empty() => "no Resiliency resource is for this app",
            None => {
                "no entry of `spec.targets` names it: default policies apply, each kind by itself"
            }
        };
        Section {
            title: self.title,
            flow: self.flow,
            kinds: self.kinds,
            meant: self.meant,
            entry: entry.to_owned(),
            place,
            facts,
            keys: if plan.breaker.is_some() {
                self.keys
            } else {
                Vec::new()
            },
            scenarios,
            pushback: self.pushback.and_then(|what| {
                let retry = &plan.retry.as_ref()?.rule.retry;
                let most =
                    Some(retry.max_pushback).filter(|most| retry.is_any() && !most.is_zero())?;
                Some(format!(
                    "{what} may lengthen each pause, up to {}",
                    words::duration(most)
                ))
            }),
            warnings,
        }
    }
}

fn actor(known: &Known, asked: &Asked) -> Told {
    let mut told = Told::default();
    let name = &asked.name;
    let actor = known.book.actor(name);
    let not_found = known.book.actor_not_found_retry();
    let built_in: BuiltIn<'_> = match &not_found {
        _ if actor.plan.is_named => Err("off, because an entry names the actor type".to_owned()),
        None => Err("switched off by `builtin: {actorNotFound: off}`".to_owned()),
        Some(slot) => Ok(slot),
    };
    let (of_type, of_id) = (
        name.clone(),
        format!("{name}-<actor id>, one for each actor"),
    );
    let keys = match actor.scope {
        BreakerScope::Type => vec![of_type],
        BreakerScope::Id => vec![of_id],
        BreakerScope::Both => vec![of_type, of_id],
    };
    let mut cases = vec![(Case::AtOnce, "every attempt fails at once")];
    if built_in.is_ok() {
        cases.push((Case::Unreachable, "the actor is not found, or is moving"));
    }
    cases.push((Case::Hanging, "the actor does not answer"));
    let parts = Parts {
        title: format!("Calls of actors of type `{name}`"),
        flow: Flow::Outbound,
        kinds: Vec::new(),
        meant: "retry and breaker: calls that this sidecar makes; time-out: calls, reminders and timers of actors that its app hosts".to_owned(),
        plan: &actor.plan,
        default: Default::Actor,
        matching: None,
        built_in: Some((built_in, "when the actor is not found or is moving, within each attempt")),
        spans_built_in: false,
        cases,
        keys,
        pushback: None,
    };
    told.sections.push(parts.section(known));
    if !actor.plan.is_named {
        told.notes.extend(close(
            name,
            known.book.actor_targets(),
            "an entry of `targets.actors`",
        ));
    }
    told
}

/// Two short names are always close.
const SHORTEST: usize = 3;

/// What to say when a name is close to that of a target.
pub(super) fn close<'a>(
    name: &str,
    targets: impl Iterator<Item = &'a str>,
    what: &str,
) -> Option<String> {
    let close = nearest(name, targets).filter(|_| name.chars().count() >= SHORTEST)?;
    Some(format!(
        "there is {what} that is called `{close}`: is that what you mean?"
    ))
}
