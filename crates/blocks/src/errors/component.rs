//! Components that do not serve now. Ours, where Dapr exits or says "not found".

use outrigger_core::error::{ApiError, Detail, GrpcCode};
use outrigger_core::shown::clean;
use outrigger_lifecycle::Moment;
use outrigger_lifecycle::connection::{Class, State, Status};

use super::pairs;
use crate::component::Info;

/// Seconds after which callers come again at the latest: a component may be tried out of turn.
const LONGEST_WAIT: u32 = 30;

/// Prefixes of types, those of building blocks that we do not have included.
const BLOCKS: [&str; 10] = [
    "state",
    "pubsub",
    "secretstores",
    "nameresolution",
    "bindings",
    "configuration",
    "crypto",
    "lock",
    "conversation",
    "middleware",
];

/// A configured component that is not ready: worth trying again, and when; or rejected, and why.
pub fn not_ready(info: &Info, status: &Status, now: Moment) -> ApiError {
    let full = info.full_type();
    let failure = status.failure.as_ref();
    let reason = failure.map_or("", |failure| failure.message.as_str());
    if status.state == State::Rejected {
        return rejected(info.name.as_str(), &full, reason);
    }
    let wait = status
        .next_attempt
        .map(|at| at.since(now))
        .unwrap_or_default();
    let seconds = u32::try_from(wait.as_millis().div_ceil(1_000))
        .unwrap_or(u32::MAX)
        .max(1);
    let mut message = format!("component {} ({full}) is {}", info.name, status.state);
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    if status.attempt > 0 {
        message.push_str(&format!("; attempt {}", status.attempt));
    }
    if status.next_attempt.is_some() {
        message.push_str(&format!(", next try in {seconds}s"));
    }
    let class = failure
        .map_or(Class::Transient, |failure| failure.class)
        .name();
    let metadata = pairs([
        ("component", info.name.as_str()),
        ("type", &full),
        ("state", status.state.name()),
        ("class", class),
        ("attempt", &status.attempt.to_string()),
        ("nextRetryMs", &wait.as_millis().to_string()),
    ]);
    let mut error = ApiError::legacy(
        503,
        GrpcCode::Unavailable,
        "ERR_COMPONENT_NOT_READY",
        "common",
        message,
    );
    error.details = vec![
        Detail::ErrorInfo {
            reason: "DAPR_COMPONENT_NOT_READY".into(),
            domain: "dapr.io",
            metadata: Some(metadata),
        },
        Detail::ResourceInfo {
            resource_type: info.kind.prefix(),
            resource_name: info.name.to_string(),
            owner: String::new(),
            description: status.state.name().to_owned(),
        },
        Detail::RetryInfo {
            seconds: seconds.min(LONGEST_WAIT),
        },
    ];
    error.retry_after = Some(seconds.min(LONGEST_WAIT));
    error
}

/// A resource that cannot be used as it is written.
pub fn rejected(name: &str, full_type: &str, reason: &str) -> ApiError {
    let reason = clean(reason);
    let message = format!("component {name} ({full_type}) is rejected: {reason}");
    let mut error = ApiError::legacy(
        500,
        GrpcCode::FailedPrecondition,
        "ERR_COMPONENT_REJECTED",
        "common",
        message,
    );
    let metadata = pairs([
        ("component", name),
        ("type", full_type),
        ("state", "rejected"),
        ("class", Class::Config.name()),
    ]);
    error.details = vec![
        Detail::ErrorInfo {
            reason: "DAPR_COMPONENT_REJECTED".into(),
            domain: "dapr.io",
            metadata: Some(metadata),
        },
        Detail::ResourceInfo {
            resource_type: block_of(full_type),
            resource_name: name.to_owned(),
            owner: String::new(),
            description: "rejected".to_owned(),
        },
    ];
    error
}

/// The building block of a type, as its prefix names it.
fn block_of(full_type: &str) -> &'static str {
    let prefix = full_type.split('.').next().unwrap_or_default();
    BLOCKS
        .into_iter()
        .find(|block| block.eq_ignore_ascii_case(prefix))
        .unwrap_or("component")
}

/// Resources have not been read yet.
pub fn starting() -> ApiError {
    let mut error = ApiError::legacy(
        503,
        GrpcCode::Unavailable,
        "ERR_SIDECAR_STARTING",
        "common",
        "the sidecar is still reading its resources",
    );
    error.retry_after = Some(1);
    error
}
