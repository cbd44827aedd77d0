//! Which policies apply to a call, and running it under them: retry around breaker around time-out.
//!
//! Owns: the merged Resiliency resources, the lookup of policies, the breakers that live, the run of one operation, and
//! what its caller and operator are told of it.
//! Never: knows a protocol or a building block; decides (that is `outrigger-policy`).
//! Start at [`Resiliency::app`] and [`Operation`]; at [`Book`] for what applies where.

mod book;
mod breakers;
mod operation;
mod plan;
pub mod report;
mod service;
mod target;
#[cfg(test)]
mod tests;
mod view;

pub use book::{ActorPlan, AppPlan, Book, Default, MethodPlan, SERVICE_RETRIES};
pub use operation::{
    Ending, Judged, Key, Operation, Pass, Refusal, Step, limited, tell_recovery, tell_retry,
};
pub use outrigger_config::resiliency::OnOpen;
pub use plan::{BreakerRule, ComponentKind, Entry, Flow, Origin, Plan, RetryRule, Slot, Source};
pub use report::Reason;
pub use service::{App, Choice, Resiliency};
pub use target::Target;
pub use view::{BreakerView, RefusedResource, TargetView, View};
