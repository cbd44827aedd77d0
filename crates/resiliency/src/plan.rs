//! What applies to one target, and where each part of it was said.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::diagnostic::Place;
use outrigger_config::resiliency::{ErrorStyle, OnOpen, PolicyNames};
use outrigger_policy::breaker::Limits;
use outrigger_policy::trip::Trip;
use outrigger_policy::{Allowance, Code, Codes, Retry};

/// The policies of one target.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub timeout: Option<Slot<Duration>>,
    pub retry: Option<Slot<RetryRule>>,
    pub breaker: Option<Slot<Arc<BreakerRule>>>,
    /// Of all attempts and pauses together.
    pub total: Option<Duration>,
    pub budget: Option<Allowance>,
    /// Rejections and time-outs have statuses of their own.
    pub precise: bool,
    /// What becomes of messages that arrive while the breaker is open.
    pub on_open: Option<OnOpen>,
    /// A target entry names it, so defaults and built-in retries are off.
    pub is_named: bool,
    /// That entry.
    pub entry: Option<Arc<Entry>>,
}

/// The entry of a target, or of one of its methods.
#[derive(Clone, Debug)]
pub struct Entry {
    pub source: Arc<Source>,
    /// What it names, whether anything defines it or not; of a method with what it has from its app.
    pub names: PolicyNames,
}

/// One policy with its origin.
#[derive(Clone, Debug)]
pub struct Slot<T> {
    pub name: Arc<str>,
    pub origin: Origin,
    pub source: Arc<Source>,
    pub rule: T,
}

/// Why a policy applies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This target's entry names it.
    Target(String),
    /// Its name makes it the default of a kind of target.
    Default,
    /// It exists without being configured.
    BuiltIn,
}

/// Where a policy is defined.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// The resource's name; empty for what nobody configured.
    pub resource: String,
    pub namespace: String,
    pub place: Option<Place>,
}

/// A retry policy with everything that goes with it.
#[derive(Clone, PartialEq, Debug)]
pub struct RetryRule {
    pub retry: Retry,
    pub total: Option<Duration>,
    pub budget: Option<Allowance>,
    /// Retries tell the other side which attempt they are.
    pub marks: bool,
}

/// A circuit breaker's definition.
#[derive(Clone, PartialEq, Debug)]
pub struct BreakerRule {
    pub limits: Limits,
    pub trip: Trip,
    /// Which failures count.
    pub http: Codes,
    pub grpc: Codes,
    pub ignores_client_errors: bool,
    pub counts_stream_errors: bool,
    pub on_open: Option<OnOpen>,
}

impl BreakerRule {
    /// Whether breakers of the one may go on as breakers of the other.
    pub fn continues(&self, other: &Self) -> bool {
        self.limits == other.limits && self.trip == other.trip
    }

    /// Whether a failure with this status is one to the breaker.
    pub fn counts(&self, code: Option<Code>) -> bool {
        let Some(code) = code else {
            return true;
        };
        let all = self.http == Codes::Every && self.grpc == Codes::Every;
        let matched = all || code.is_among(&self.http, &self.grpc);
        matched && !(self.ignores_client_errors && code.is_clients_fault())
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.timeout.is_none()
            && self.retry.is_none()
            && self.breaker.is_none()
            && self.total.is_none()
    }

    /// Whether a call may be made more than once.
    pub fn retries(&self) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|slot| slot.rule.retry.is_any())
    }

    pub(crate) fn style(&mut self, style: Option<ErrorStyle>) {
        if let Some(style) = style {
            self.precise = style == ErrorStyle::Precise;
        }
    }
}

/// What a call goes to, or comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flow {
    Inbound,
    Outbound,
}

impl Flow {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// As it stands in the names of default policies.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Inbound => "Inbound",
            Self::Outbound => "Outbound",
        }
    }
}

/// The kinds of components, as default policies name them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ComponentKind {
    Statestore,
    Pubsub,
    Binding,
    Secretstore,
    Configuration,
    Lock,
    Crypto,
    Conversation,
}

impl ComponentKind {
    pub const ALL: [Self; 8] = [
        Self::Statestore,
        Self::Pubsub,
        Self::Binding,
        Self::Secretstore,
        Self::Configuration,
        Self::Lock,
        Self::Crypto,
        Self::Conversation,
    ];

    pub fn keyword(self) -> &'static str {
        match self {
            Self::Statestore => "Statestore",
            Self::Pubsub => "Pubsub",
            Self::Binding => "Binding",
            Self::Secretstore => "Secretstore",
            Self::Configuration => "Configuration",
            Self::Lock => "Lock",
            Self::Crypto => "Crypto",
            Self::Conversation => "Conversation",
        }
    }

    /// Whether something comes in from it that is handed to the app.
    pub fn delivers(self) -> bool {
        matches!(self, Self::Pubsub | Self::Binding | Self::Configuration)
    }

    /// The kind of a component's type: `state.redis`.
    pub fn of_type(type_name: &str) -> Option<Self> {
        Some(match type_name.split('.').next()? {
            "state" => Self::Statestore,
            "pubsub" => Self::Pubsub,
            "bindings" => Self::Binding,
            "secretstores" => Self::Secretstore,
            "configuration" => Self::Configuration,
            "lock" => Self::Lock,
            "crypto" => Self::Crypto,
            "conversation" => Self::Conversation,
            _ => return None,
        })
    }
}
