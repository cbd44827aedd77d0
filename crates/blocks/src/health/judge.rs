//! What health says, decided from what is known: facts of a component make an item, items make a verdict.
//!
//! | F: NOT_OK | H: OK | U: UNDEFINED | Verdict |
//! |---|---|---|---|
//! | some | any | any | failed |
//! | none | none | some | unverified: nothing could be checked |
//! | none | any other | | fine |
//!
//! Owns: statuses and codes, what is listed and in which order, what a stranger may see.
//! Never: pings, waits or reads a clock; `exam` does. Start at [`judge`] and [`report`]. Tests: below.

use std::time::Duration;

use outrigger_core::shown::shown;
use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::{Class, Failure, State, Status};
use outrigger_lifecycle::subscription;

use super::proof::{Proof, SHARED_FOR};
use crate::component::Pending;
use crate::registry::Rejected;

/// What was seen longer ago says nothing any more.
pub const AGE_LIMIT: Duration = Duration::from_secs(15);

/// Whether something works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Ok,
    NotOk,
    /// It could not be checked.
    Undefined,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NotOk => "NOT_OK",
            Self::Undefined => "UNDEFINED",
        }
    }

    /// What is bad comes first.
    fn rank(self) -> u8 {
        match self {
            Self::NotOk => 0,
            Self::Undefined => 1,
            Self::Ok => 2,
        }
    }
}

/// All that is known of a component.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// `state`, `pubsub`: the building block.
    pub block: String,
    /// `state.redis/v1`.
    pub full_type: String,
    pub optional: bool,
    pub status: Status,
    pub last_used: Moment,
    pub waiters: usize,
    /// Lazy and unused.
    pub is_dormant: bool,
    pub has_ping: bool,
    /// Secret stores that it waits for.
    pub missing_stores: Vec<String>,
    /// The last ping that somebody asked for, or that succeeded.
    pub proof: Option<Proof>,
    /// When a ping was asked for in order to judge.
    pub asked_at: Option<Moment>,
    pub impediment: Option<Failure>,
    pub subscriptions: Vec<Subscription>,
    /// A changed definition that has not taken its place. No obstacle while the old one serves.
    pub pending: Option<Pending>,
}

/// What is known of a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    pub topic: String,
    pub state: subscription::State,
    pub attempt: u32,
    pub error: Option<String>,
}

impl Subscription {
    /// It should run and does not. One that is idle was paused: gate, drain, an open breaker.
    fn is_failing(&self) -> bool {
        matches!(
            self.state,
            subscription::State::Starting | subscription::State::Retrying
        )
    }
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    pub name: String,
    pub block: String,
    pub standing: Standing,
    pub code: Option<&'static str>,
    pub optional: bool,
    pub message: Option<String>,
    /// Absent where there is none, and for strangers.
    pub detail: Option<Detail>,
}

/// What else is known; durations are distances into the past, but for the next attempt.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Detail {
    pub full_type: String,
    pub state: &'static str,
    pub class: Option<&'static str>,
    pub attempt: u32,
    pub next_retry: Option<Duration>,
    pub since: Duration,
    pub checked: Option<Duration>,
    pub last_ok: Option<Duration>,
    pub last_ready: Option<Duration>,
    pub ping: Option<Ping>,
    pub waiters: usize,
    pub subscriptions: Vec<Subscription>,
    pub pending: Option<PendingRevision>,
}

/// What is told of a changed definition that has not taken its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingRevision {
    /// Empty where the resource does not tell any more.
    pub full_type: String,
    pub state: &'static str,
    pub class: Option<&'static str>,
    pub message: Option<String>,
    pub attempt: u32,
    pub next_retry: Option<Duration>,
    pub since: Duration,
}

impl PendingRevision {
    fn of(pending: &Pending, now: Moment) -> Self {
        let status = &pending.status;
        let failure = status.failure.as_ref();
        Self {
            full_type: pending.full_type.clone(),
            state: status.state.name(),
            class: failure.map(|failure| failure.class.name()),
            message: failure.map(|failure| shown(&failure.message)),
            attempt: status.attempt,
            next_retry: status.next_attempt.map(|at| at.since(now)),
            since: now.since(status.down_since.unwrap_or(status.since)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    pub ago: Duration,
    pub latency: Duration,
    pub failures: u32,
}

impl Item {
    /// Something without a connection of its own.
    pub fn plain(
        name: impl Into<String>,
        block: impl Into<String>,
        standing: Standing,
        code: Option<&'static str>,
        message: Option<String>,
    ) -> Self {
        Self {
            name: name.into(),
            block: block.into(),
            standing,
            code,
            optional: false,
            message,
            detail: None,
        }
    }

    /// A resource that never became a component.
    pub fn rejected(rejected: &Rejected) -> Self {
        let type_name = &rejected.type_name;
        let block = type_name
            .split_once('.')
            .map_or("unknown", |(block, _)| block);
        Self {
            detail: Some(Detail {
                full_type: rejected.full_type(),
                state: State::Rejected.name(),
                class: Some(Class::Config.name()),
                ..Detail::default()
            }),
            optional: rejected.optional,
            ..Self::plain(
                rejected.name.as_str(),
                block,
                Standing::NotOk,
                Some(REJECTED),
                Some(shown(&rejected.reason)),
            )
        }
    }

    /// What strangers may see: statuses and codes.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            message: None,
            detail: None,
            ..self
        }
    }
}

const UNAVAILABLE: &str = "ERR_COMPONENT_UNAVAILABLE";
const CONNECTING: &str = "ERR_COMPONENT_CONNECTING";
const REJECTED: &str = "ERR_COMPONENT_REJECTED";
const AUTH: &str = "ERR_COMPONENT_AUTH";
const STORE_NOT_READY: &str = "ERR_SECRET_STORE_NOT_READY";
const SECRET_NOT_FOUND: &str = "ERR_SECRET_NOT_FOUND";
const PING_FAILED: &str = "ERR_PING_FAILED";
const PING_TIMEOUT: &str = "ERR_PING_TIMEOUT";
const SUBSCRIPTION_NOT_ACTIVE: &str = "ERR_SUBSCRIPTION_NOT_ACTIVE";
/// The driver has no ping, or nothing of ours can check it.
pub(super) const NO_PING: &str = "ERR_PING_NOT_IMPLEMENTED";
const NOT_INITIALIZED: &str = "ERR_COMPONENT_NOT_INITIALIZED";

/// When the component last did what it was asked: a ping, in the background or live, or a call.
fn last_ok(facts: &Facts) -> Option<Moment> {
    let passed = facts.proof.as_ref().filter(|proof| proof.outcome.is_ok());
    let used = (facts.last_used > Moment::START).then_some(facts.last_used);
    facts
        .status
        .last_ok
        .max(used)
        .max(passed.map(|proof| proof.at))
}

/// Whether a ready component has not been heard of for too long, so that it has to be pinged before it is judged.
pub fn is_stale(facts: &Facts, now: Moment) -> bool {
    facts.status.state == State::Ready && last_ok(facts).is_none_or(|at| now.since(at) > AGE_LIMIT)
}

/// Says how a component does.
pub fn judge(facts: &Facts, now: Moment) -> Item {
    let trouble = trouble(facts, now);
    let status = &facts.status;
    let (standing, code, message, class) = match trouble {
        None => (Standing::Ok, None, None, None),
        Some(Trouble {
            standing,
            code,
            message,
            class,
        }) => (standing, Some(code), message, class),
    };
    let ago = |at: Moment| now.since(at);
    let proven = facts.proof.as_ref();
    let proven = proven.filter(|proof| last_ok(facts).is_none_or(|at| proof.at >= at));
    let checked = match status.state {
        State::Ready => proven.map(|proof| proof.at).or_else(|| last_ok(facts)),
        State::Pending => None,
        State::Connecting | State::Unavailable | State::Rejected | State::Closing => {
            Some(status.since)
        }
    };
    Item {
        name: facts.name.clone(),
        block: facts.block.clone(),
        standing,
        code,
        optional: facts.optional,
        message: message.map(|message| shown(&message)),
        detail: Some(Detail {
            full_type: facts.full_type.clone(),
            state: status.state.name(),
            class: class.map(Class::name),
            attempt: status.attempt,
            next_retry: status.next_attempt.map(|at| at.since(now)),
            since: ago(status
                .down_since
                .filter(|_| status.state != State::Ready)
                .unwrap_or(status.since)),
            checked: checked.map(ago),
            last_ok: last_ok(facts).map(ago),
            last_ready: status.last_ready.map(ago),
            ping: facts.proof.as_ref().map(|proof| Ping {
                ago: ago(proof.at),
                latency: proof.took,
                failures: status.ping_failures,
            }),
            waiters: facts.waiters,
            subscriptions: facts
                .subscriptions
                .iter()
                .map(|subscription| Subscription {
                    error: subscription.error.as_deref().map(shown),
                    ..subscription.clone()
                })
                .collect(),
            pending: facts
                .pending
                .as_ref()
                .map(|pending| PendingRevision::of(pending, now)),
        }),
    }
}

struct Trouble {
    standing: Standing,
    code: &'static str,
    message: Option<String>,
    class: Option<Class>,
}

impl Trouble {
    fn not_ok(code: &'static str, message: impl Into<String>, class: Option<Class>) -> Self {
        Self {
            standing: Standing::NotOk,
            code,
            message: Some(message.into()),
            class,
        }
    }

    fn undefined(code: &'static str) -> Self {
        Self {
            standing: Standing::Undefined,
            code,
            message: None,
            class: None,
        }
    }
}

/// What stands in the way; the first obstacle counts.
fn trouble(facts: &Facts, now: Moment) -> Option<Trouble> {
    let failure = facts.status.failure.as_ref();
    match facts.status.state {
        State::Ready => not_serving(facts, now),
        State::Pending if facts.is_dormant => Some(Trouble::undefined(NOT_INITIALIZED)),
        State::Pending if !facts.missing_stores.is_empty() => {
            let stores = facts.missing_stores.join(", ");
            let message = format!("waiting for secret store {stores}");
            Some(Trouble::not_ok(
                STORE_NOT_READY,
                message,
                Some(Class::Secret),
            ))
        }
        State::Closing => Some(Trouble::not_ok(UNAVAILABLE, "being closed", None)),
        State::Rejected | State::Pending | State::Connecting | State::Unavailable => {
            let code = match (facts.status.state, failure.map(|failure| failure.class)) {
                (State::Rejected, _) => REJECTED,
                (_, Some(Class::Auth)) => AUTH,
                (_, Some(Class::Secret)) => SECRET_NOT_FOUND,
                (_, Some(_)) | (State::Unavailable, None) => UNAVAILABLE,
                (_, None) => CONNECTING,
            };
            let message = match failure {
                Some(failure) => failure.message.clone(),
                None => "the first attempt to connect has not ended".to_owned(),
            };
            Some(Trouble::not_ok(
                code,
                message,
                failure.map(|failure| failure.class),
            ))
        }
    }
}

/// What keeps a component from serving although it is connected.
fn not_serving(facts: &Facts, now: Moment) -> Option<Trouble> {
    if let Some(failure) = &facts.impediment {
        return Some(Trouble::not_ok(
            PING_FAILED,
            failure.message.as_str(),
            Some(failure.class),
        ));
    }
    if facts.has_ping
        && let Some(trouble) = unproven(facts, now)
    {
        return Some(trouble);
    }
    let failing: Vec<&Subscription> = facts
        .subscriptions
        .iter()
        .filter(|subscription| subscription.is_failing())
        .collect();
    if !failing.is_empty() {
        let told = failing.iter().map(|subscription| {
            let error = subscription.error.as_deref().unwrap_or_default();
            let separator = if error.is_empty() { "" } else { ": " };
            format!(
                "subscription to topic {} is {}{separator}{error}",
                subscription.topic,
                subscription.state.name()
            )
        });
        let told: Vec<String> = told.collect();
        return Some(Trouble::not_ok(
            SUBSCRIPTION_NOT_ACTIVE,
            told.join("; "),
            None,
        ));
    }
    (!facts.has_ping).then(|| Trouble::undefined(NO_PING))
}

/// Why it is not known that a connected component answers.
fn unproven(facts: &Facts, now: Moment) -> Option<Trouble> {
    let last_ok = last_ok(facts);
    let failed = facts.proof.as_ref().and_then(|proof| {
        let is_last = last_ok.is_none_or(|at| at < proof.at);
        proof.outcome.as_ref().err().filter(|_| is_last)
    });
    if let Some(failure) = failed {
        let code = if failure.class == Class::Timeout {
            PING_TIMEOUT
        } else {
            PING_FAILED
        };
        return Some(Trouble::not_ok(
            code,
            failure.message.as_str(),
            Some(failure.class),
        ));
    }
    let late = |message: String| Some(Trouble::not_ok(PING_TIMEOUT, message, Some(Class::Timeout)));
    let is_answered = facts
        .asked_at
        .is_none_or(|asked| last_ok.is_some_and(|at| at + SHARED_FOR > asked));
    if !is_answered {
        return late("no answer to a ping in time".to_owned());
    }
    match last_ok {
        Some(at) if now.since(at) <= AGE_LIMIT => None,
        Some(at) => late(format!(
            "not heard of for {} seconds",
            now.since(at).as_secs()
        )),
        None => late("not heard of yet".to_owned()),
    }
}

/// What may be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Components,
    App,
    Actors,
    ControlPlane,
    NameResolution,
}

impl Subject {
    pub const ALL: [Self; 5] = [
        Self::Components,
        Self::App,
        Self::Actors,
        Self::ControlPlane,
        Self::NameResolution,
    ];

    /// The word of `include`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Components => "components",
            Self::App => "app",
            Self::Actors => "actors",
            Self::ControlPlane => "controlplane",
            Self::NameResolution => "nameresolution",
        }
    }

    /// The member of the answer.
    pub fn member(self) -> &'static str {
        match self {
            Self::Components => "componentsHealth",
            Self::App => "appHealth",
            Self::Actors => "actorsHealth",
            Self::ControlPlane => "controlplaneHealth",
            Self::NameResolution => "nameresolutionHealth",
        }
    }
}

/// What it amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Fine,
    Failed,
    /// Nothing could be checked.
    Unverified,
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub verdict: Verdict,
    /// What is listed, by what was asked.
    pub groups: Vec<(Subject, Vec<Item>)>,
}

impl Report {
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|(_, items)| items.is_empty())
    }

    /// What strangers may see of it.
    #[must_use]
    pub fn bare(self) -> Self {
        let bare = |(subject, items): (Subject, Vec<Item>)| {
            (subject, items.into_iter().map(Item::bare).collect())
        };
        Self {
            groups: self.groups.into_iter().map(bare).collect(),
            ..self
        }
    }
}

/// How items are counted and listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// What is well is listed too.
    pub verbose: bool,
    /// What has `ignoreErrors` is listed, but does not count.
    pub ignore_optional: bool,
}

/// Judges everything together. Listed is what is not OK, then what is undefined, each by name.
pub fn report(mut groups: Vec<(Subject, Vec<Item>)>, reading: Reading) -> Report {
    let verdict = {
        let counted = || {
            let items = groups.iter().flat_map(|(_, items)| items);
            items.filter(|item| !(reading.ignore_optional && item.optional))
        };
        let has = |standing| counted().any(|item| item.standing == standing);
        if has(Standing::NotOk) {
            Verdict::Failed
        } else if has(Standing::Undefined) && !has(Standing::Ok) {
            Verdict::Unverified
        } else {
            Verdict::Fine
        }
    };
    for (_, items) in &mut groups {
        items.retain(|item| reading.verbose || item.standing != Standing::Ok);
        items.sort_by(|a, b| {
            (a.standing.rank(), &a.name, &a.block).cmp(&(b.standing.rank(), &b.name, &b.block))
        });
    }
    Report { verdict, groups }
}

#[cfg(test)]
mod tests;
