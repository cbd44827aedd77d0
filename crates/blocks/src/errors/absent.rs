//! Building blocks of which nothing is configured.

use outrigger_core::error::{ApiError, GrpcCode};

pub fn configuration_not_configured() -> ApiError {
    ApiError::basic(
        500,
        GrpcCode::FailedPrecondition,
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
        "configuration",
        "configuration stores not configured",
    )
}

pub fn crypto_not_configured() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
        "crypto",
        "crypto providers not configured",
    )
}

pub fn lock_not_configured() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::FailedPrecondition,
        "ERR_LOCK_STORE_NOT_CONFIGURED",
        "lock",
        "lock store is not configured",
    )
}

/// Lock requests are looked at before the store is.
pub fn lock_expiry(store: &str) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_MALFORMED_REQUEST",
        "common",
        format!("ExpiryInSeconds is not positive in lock store {store}"),
    )
}

pub fn conversation_not_found(name: &str) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_CONVERSATION_NOT_FOUND",
        "conversation",
        format!("failed finding conversation component {name}"),
    )
}

pub fn output_binding(name: &str, cause: &str) -> ApiError {
    ApiError::basic(
        500,
        GrpcCode::Internal,
        "ERR_INVOKE_OUTPUT_BINDING",
        "binding",
        format!("error invoking output binding {name}: {cause}"),
    )
}

pub fn unimplemented() -> ApiError {
    ApiError::legacy(
        501,
        GrpcCode::Unimplemented,
        "ERR_API_UNIMPLEMENTED",
        "common",
        "this API is currently not implemented",
    )
}

pub fn bad_request(cause: &str) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_BAD_REQUEST",
        "common",
        format!("invalid request: {cause}"),
    )
}

pub fn malformed(cause: &str) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_MALFORMED_REQUEST",
        "common",
        format!("failed deserializing HTTP body: {cause}"),
    )
}

pub fn no_placement() -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::Unavailable,
        "ERR_ACTOR_NO_PLACEMENT",
        "actor",
        "placement service is not configured",
    )
}

pub fn reserved_actor_type(actor_type: &str) -> ApiError {
    let message = format!(
        "actor type {actor_type:?} is reserved for the Dapr workflow runtime; direct actor API access is not permitted"
    );
    ApiError::legacy(
        403,
        GrpcCode::PermissionDenied,
        "ERR_ACTOR_TYPE_RESERVED",
        "actor",
        message,
    )
}

/// A request to the scheduler that lacks something. `what` is `Job`, `Name` or `Schedule`.
pub fn job_lacks(what: &str, reason: &'static str, app_id: &str, namespace: &str) -> ApiError {
    let metadata = super::pairs([("appID", app_id), ("namespace", namespace)]);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        reason,
        "job",
        reason,
        format!("{what} is empty"),
        Vec::new(),
        Some(metadata),
    )
}

/// A job's name belongs into the path.
pub fn job_named_in_body(app_id: &str) -> ApiError {
    let reason = "DAPR_SCHEDULER_JOB_NAME";
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        reason,
        "job",
        reason,
        "Set the job name in the url only",
        Vec::new(),
        Some(super::pairs([("appID", app_id)])),
    )
}

/// There is no scheduler. Dapr finds that out after half a minute; we know it at once.
pub fn no_scheduler(doing: &str, reason: &'static str, app_id: &str, namespace: &str) -> ApiError {
    let metadata = super::pairs([("appID", app_id), ("namespace", namespace)]);
    let message = format!("failed to {doing} due to: scheduler service is not configured");
    ApiError::rich(
        500,
        GrpcCode::Internal,
        reason,
        "job",
        reason,
        message,
        Vec::new(),
        Some(metadata),
    )
}

/// An app has to be there to receive updates.
pub fn no_app_channel() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_APP_CHANNEL_NIL",
        "common",
        "app channel is not initialized. cannot subscribe to configuration updates",
    )
}
