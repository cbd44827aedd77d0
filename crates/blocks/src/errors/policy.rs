//! Rejections and time-outs by policies, with statuses of their own. Ours: only where `errors: precise` asks for them.

use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_resiliency::Refusal;

/// In the words of Go's library, which Dapr's clients see.
pub const TIMED_OUT: &str = "context deadline exceeded";

/// Whether a breaker said this.
pub fn is_rejection(cause: &str) -> bool {
    matches!(cause, "circuit breaker is open" | "too many requests")
}

const CATEGORY: &str = "resiliency";

/// The breaker lets no call through.
pub fn circuit_open(refusal: &Refusal) -> ApiError {
    let message = match &refusal.last {
        Some(last) => format!("{refusal}; last failure: {last}"),
        None => refusal.to_string(),
    };
    let mut error = ApiError::legacy(
        503,
        GrpcCode::Unavailable,
        "ERR_RESILIENCY_CIRCUIT_OPEN",
        CATEGORY,
        message,
    );
    error.retry_after = u32::try_from(refusal.retry_after_seconds()).ok();
    error
}

/// No attempt ended within its time.
pub fn timed_out() -> ApiError {
    ApiError::legacy(
        504,
        GrpcCode::DeadlineExceeded,
        "ERR_RESILIENCY_TIMEOUT",
        CATEGORY,
        TIMED_OUT,
    )
}
