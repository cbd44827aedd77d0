//! The Resiliency resource as plain data.
//!
//! A resource is taken as a whole or not at all. Names in targets are not resolved here, because a target may use the
//! policies of another resource.

mod advise;
mod annotation;
mod codes;
mod durations;
mod extensions;
pub(crate) mod merge;
mod read;
mod targets;
#[cfg(test)]
mod tests;
mod trip;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use outrigger_core::Namespace;

use crate::diagnostic::Place;
use crate::fingerprint::Fingerprint;
pub use advise::advise;

/// A checked Resiliency resource.
#[derive(Clone, Debug, PartialEq)]
pub struct ResiliencyResource {
    pub name: String,
    pub namespace: Option<Namespace>,
    pub policies: Policies,
    pub targets: Targets,
    /// `errors`: how rejections and time-outs are told; absent where the resource does not say.
    pub errors: Option<ErrorStyle>,
    pub built_in: BuiltIns,
    /// App ids; empty means every app.
    pub scopes: Vec<String>,
    pub place: Place,
    pub fingerprint: Fingerprint,
}

/// `errors`: the statuses of rejections and time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `dapr`: as daprd tells them.
    Dapr,
    /// `precise`: with statuses of their own.
    Precise,
}

/// `builtin`: retries that nobody configured, switched off (0) or limited. Absent where the resource does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BuiltIns {
    /// `service`: `off`, or how many retries.
    pub service: Option<u32>,
    /// `initialization`.
    pub initialization: Option<u32>,
    /// `actor`.
    pub actor: Option<u32>,
    /// `actorNotFound`.
    pub actor_not_found: Option<u32>,
}

/// `spec.policies`, by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Policies {
    pub timeouts: BTreeMap<String, TimeoutPolicy>,
    pub retries: BTreeMap<String, RetryPolicy>,
    pub circuit_breakers: BTreeMap<String, CircuitBreakerPolicy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutPolicy {
    /// Absent when not positive: no time-out.
    pub limit: Option<Duration>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub back_off: RetryBackOff,
    /// `maxRetries`: -1. Absent means without end; 0 means one attempt.
    pub max_retries: Option<u32>,
    /// `maxElapsedTime`: 15m for an exponential back-off, absent for a constant one. Absent means without end.
    pub max_elapsed: Option<Duration>,
    /// `totalTimeout`: of all attempts and pauses together.
    pub total_timeout: Option<Duration>,
    /// `maxPushback`: 60s. A server that asks for a longer pause ends the retries.
    pub max_pushback: Duration,
    /// `budget`.
    pub budget: Option<RetryBudget>,
    /// `attemptMarker`: retries tell the other side which attempt they are.
    pub attempt_marker: bool,
    /// `matching.httpStatusCodes`.
    pub http_codes: CodeMatch,
    /// `matching.gRPCStatusCodes`.
    pub grpc_codes: CodeMatch,
    pub place: Place,
}

/// `policy`: constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryBackOff {
    Constant {
        /// `duration`: 5s. Not positive means without pause.
        pause: Duration,
        /// `jitter`: 0. What is left to chance.
        jitter: Jitter,
    },
    Exponential {
        /// `initialInterval`: 500ms.
        initial: Duration,
        /// `maxInterval`: 60s.
        max_interval: Duration,
        /// `multiplier`: 1.5, and never below 1.
        multiplier: f64,
        /// `randomizationFactor`: 0.5, from 0 to 1.
        randomization: f64,
    },
}

/// `jitter`: a share of the pause from 0 to 1, up or down, or a duration by which it is lengthened at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    Share(f64),
    UpTo(Duration),
}

/// `budget`: how many retries there may be for each call, over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `ratio`: 0.2, what each first attempt adds.
    pub ratio: f64,
    /// `minPerSecond`: 10, what each second adds whatever happens.
    pub min_per_second: f64,
}

/// Which status codes are worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CodeMatch {
    #[default]
    Every,
    Only(Vec<RangeInclusive<u16>>),
}

impl CodeMatch {
    pub fn contains(&self, code: u16) -> bool {
        match self {
            Self::Every => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.contains(&code)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreakerPolicy {
    /// `maxRequests`: 1. How many probes a half-open breaker lets through.
    pub max_requests: u32,
    /// `interval`: 0s. Absent when not positive: the counts of the closed state are never cleared.
    pub interval: Option<Duration>,
    /// `timeout`: 60s. How long the breaker stays open.
    pub timeout: Duration,
    /// `trip`: a CEL expression that compiles; absent means more than five failures in a row.
    pub trip: Option<String>,
    /// `matching.httpStatusCodes`: which failures count.
    pub http_codes: CodeMatch,
    /// `matching.gRPCStatusCodes`.
    pub grpc_codes: CodeMatch,
    /// `ignoreClientErrors`: failures that are the caller's fault do not count.
    pub ignores_client_errors: bool,
    /// `countStreamErrors`: a stream that ends badly counts, however long it ran.
    pub counts_stream_errors: bool,
    /// `onOpen`, where the target does not say.
    pub on_open: Option<OnOpen>,
    pub place: Place,
}

/// `onOpen`: what becomes of a message that arrives while the breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOpen {
    /// It waits.
    Hold,
    /// It goes back to the broker.
    Nack,
    /// It goes to the dead letter topic, as in daprd.
    DeadLetter,
}

/// `spec.targets`, by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Targets {
    /// By app id, HTTPEndpoint name or base URL.
    pub apps: BTreeMap<String, AppTarget>,
    /// By actor type.
    pub actors: BTreeMap<String, ActorTarget>,
    /// By component name.
    pub components: BTreeMap<String, ComponentTarget>,
}

/// Names of policies; absent ones mean none, not the default.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PolicyNames {
    pub timeout: Option<String>,
    pub retry: Option<String>,
    pub circuit_breaker: Option<String>,
    /// `totalTimeout`: of all attempts and pauses together.
    pub total_timeout: Option<TotalTimeout>,
    /// `budget`, in place of the retry policy's.
    pub budget: Option<RetryBudget>,
    /// `errors`, in place of the resource's.
    pub errors: Option<ErrorStyle>,
}

/// `totalTimeout` of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TotalTimeout {
    Limit(Duration),
    /// One of `policies.timeouts`.
    Named(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct AppTarget {
    pub policies: PolicyNames,
    /// `circuitBreakerCacheSize`: 100.
    pub cache_size: usize,
    /// `methods`: the first that matches counts; what it leaves out is as for the app.
    pub methods: Vec<MethodTarget>,
    pub place: Place,
}

/// One of `methods`.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodTarget {
    /// `match`: a path; `*` stands for one segment, and at the end for all that follow.
    pub pattern: String,
    /// `verbs`, in upper case; empty means every one.
    pub verbs: Vec<String>,
    pub policies: PolicyNames,
    /// `breakerKey`: path.
    pub breaker_key: BreakerKey,
    pub place: Place,
}

/// `breakerKey`: what shares one breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BreakerKey {
    /// Each path has its own.
    #[default]
    Path,
    /// All paths of the pattern share one.
    Pattern,
    /// All that name the same breaker share one for the app.
    App,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ActorTarget {
    pub policies: PolicyNames,
    /// `circuitBreakerScope`; present when a breaker is named.
    pub scope: Option<BreakerScope>,
    /// `circuitBreakerCacheSize`: 5000.
    pub cache_size: usize,
    pub place: Place,
}

/// What shares one breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerScope {
    Type,
    Id,
    Both,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ComponentTarget {
    pub inbound: PolicyNames,
    pub outbound: PolicyNames,
    /// `inbound.onOpen`.
    pub on_open: Option<OnOpen>,
    pub place: Place,
}
