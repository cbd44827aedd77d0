//! The Resiliency resource as plain data.
//!
//! A resource is taken as a whole or not at all. Names in targets are not resolved here, because a target may use the
//! policies of another resource.

mod codes;
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

/// A checked Resiliency resource.
#[derive(Clone, Debug, PartialEq)]
pub struct ResiliencyResource {
    pub name: String,
    pub namespace: Option<Namespace>,
    pub policies: Policies,
    pub targets: Targets,
    /// App ids; empty means every app.
    pub scopes: Vec<String>,
    pub place: Place,
    pub fingerprint: Fingerprint,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub back_off: RetryBackOff,
    /// `maxRetries`: -1. Absent means without end; 0 means one attempt.
    pub max_retries: Option<u32>,
    /// `matching.httpStatusCodes`.
    pub http_codes: CodeMatch,
    /// `matching.gRPCStatusCodes`.
    pub grpc_codes: CodeMatch,
    pub place: Place,
}

/// `policy`: constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryBackOff {
    /// `duration`: 5s. Not positive means without pause.
    Constant { pause: Duration },
    /// `maxInterval`: 60s.
    Exponential { max_interval: Duration },
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
    pub place: Place,
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
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PolicyNames {
    pub timeout: Option<String>,
    pub retry: Option<String>,
    pub circuit_breaker: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppTarget {
    pub policies: PolicyNames,
    /// `circuitBreakerCacheSize`: 100.
    pub cache_size: usize,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentTarget {
    pub inbound: PolicyNames,
    pub outbound: PolicyNames,
    pub place: Place,
}
