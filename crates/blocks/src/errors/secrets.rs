//! Secret stores.

use outrigger_core::error::{ApiError, GrpcCode};

const CATEGORY: &str = "secret";

pub fn not_configured() -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::FailedPrecondition,
        "ERR_SECRET_STORES_NOT_CONFIGURED",
        CATEGORY,
        "secret store is not configured",
    )
}

// Dapr: 401 over HTTP for a store that does not exist; clients know it.
pub fn not_found(store: &str) -> ApiError {
    ApiError::legacy(
        401,
        GrpcCode::InvalidArgument,
        "ERR_SECRET_STORE_NOT_FOUND",
        CATEGORY,
        format!("failed finding secret store with key {store}"),
    )
}

pub fn denied(key: &str, store: &str) -> ApiError {
    ApiError::legacy(
        403,
        GrpcCode::PermissionDenied,
        "ERR_PERMISSION_DENIED",
        CATEGORY,
        format!("access denied by policy to get {key:?} from {store:?}"),
    )
}

pub fn get(key: &str, store: &str, cause: &str) -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_SECRET_GET",
        CATEGORY,
        format!("failed getting secret with key {key} from secret store {store}: {cause}"),
    )
}

pub fn bulk_get(store: &str, cause: &str) -> ApiError {
    ApiError::legacy(
        500,
        GrpcCode::Internal,
        "ERR_SECRET_GET",
        CATEGORY,
        format!("failed getting secrets from secret store {store}: {cause}"),
    )
}
