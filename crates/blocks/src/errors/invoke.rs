//! Service invocation, health and the app.

use outrigger_core::error::{ApiError, GrpcCode};

const CATEGORY: &str = "service-invocation";

/// A path that is no route and names no app.
pub fn no_target() -> ApiError {
    ApiError::legacy(
        404,
        GrpcCode::NotFound,
        "ERR_DIRECT_INVOKE",
        CATEGORY,
        "failed getting app id either from the URL path or the header dapr-app-id",
    )
}

pub fn failed(target: &str, cause: &str) -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_DIRECT_INVOKE",
        CATEGORY,
        format!("failed to invoke, id: {target}, err: {cause}"),
    )
}

/// The callee's policy says no.
pub fn denied(target: &str, cause: &str) -> ApiError {
    ApiError {
        http: 403,
        grpc: GrpcCode::PermissionDenied,
        ..failed(target, cause)
    }
}

/// The app has not been ready yet; ours, where Dapr answers 500.
pub fn app_not_ready() -> ApiError {
    let mut error = ApiError::legacy(
        503,
        GrpcCode::Unavailable,
        "ERR_APP_NOT_READY",
        CATEGORY,
        "the application is not ready yet",
    );
    error.retry_after = Some(1);
    error
}

/// The sidecar is stopping and takes no new calls for its app.
pub fn draining() -> ApiError {
    let mut error = ApiError::legacy(
        503,
        GrpcCode::Unavailable,
        "ERR_SIDECAR_DRAINING",
        CATEGORY,
        "the sidecar is stopping and takes no new calls",
    );
    error.retry_after = Some(1);
    error
}

pub fn not_ready(targets: &[String]) -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_HEALTH_NOT_READY",
        "health",
        format!("dapr is not ready: [{}]", targets.join(" ")),
    )
}

pub fn outbound_not_ready() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_OUTBOUND_HEALTH_NOT_READY",
        "health",
        "dapr outbound is not ready",
    )
}

pub fn app_id_mismatch() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_HEALTH_APPID_NOT_MATCH",
        "health",
        "dapr app-id does not match",
    )
}
