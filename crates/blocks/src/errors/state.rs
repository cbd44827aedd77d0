//! State stores.

use outrigger_component_api::{ComponentError, ErrorKind};
use outrigger_core::error::{ApiError, Detail, GrpcCode};

use super::pairs;
use super::policy;

const CATEGORY: &str = "state";

/// `app_id` shows up over HTTP and not over gRPC.
pub fn not_found(store: &str, app_id: Option<&str>) -> ApiError {
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_STATE_STORE_NOT_FOUND",
        CATEGORY,
        "DAPR_STATE_NOT_FOUND",
        format!("state store {store} is not found"),
        Vec::new(),
        app_id.map(|app_id| pairs([("appID", app_id)])),
    )
}

/// No state store is loaded at all.
pub fn not_configured(store: &str, app_id: Option<&str>) -> ApiError {
    ApiError::rich(
        500,
        GrpcCode::FailedPrecondition,
        "ERR_STATE_STORE_NOT_CONFIGURED",
        CATEGORY,
        "DAPR_STATE_NOT_CONFIGURED",
        format!("state store {store} is not configured"),
        Vec::new(),
        app_id.map(|app_id| pairs([("appID", app_id)])),
    )
}

/// `||` in a key.
pub fn illegal_key(store: &str, key: &str) -> ApiError {
    let message = format!("input key/keyPrefix '{key}' can't contain '||'");
    let details = vec![
        Detail::BadRequest {
            violations: vec![(key.to_owned(), message.clone())],
        },
        Detail::ResourceInfo {
            resource_type: "state",
            resource_name: store.to_owned(),
            owner: String::new(),
            description: String::new(),
        },
    ];
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_MALFORMED_REQUEST",
        CATEGORY,
        "DAPR_STATE_ILLEGAL_KEY",
        message,
        details,
        None,
    )
}

pub fn transactions_not_supported(store: &str) -> ApiError {
    let message = format!("state store {store} doesn't support transactions");
    let details = vec![
        Detail::Help {
            links: vec![(
                "Check the list of state stores and the features they support".to_owned(),
                "https://docs.dapr.io/reference/components-reference/supported-state-stores/"
                    .to_owned(),
            )],
        },
        Detail::ResourceInfo {
            resource_type: "state",
            resource_name: store.to_owned(),
            owner: String::new(),
            description: message.clone(),
        },
    ];
    ApiError::rich(
        500,
        GrpcCode::Unimplemented,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        CATEGORY,
        "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
        message,
        details,
        None,
    )
}

pub fn too_many_operations(store: &str, count: usize, max: usize) -> ApiError {
    let message = format!(
        "the transaction contains {count} operations, which is more than what the state store supports: {max}"
    );
    let details = vec![Detail::ResourceInfo {
        resource_type: "state",
        resource_name: store.to_owned(),
        owner: String::new(),
        description: message.clone(),
    }];
    let metadata = pairs([
        ("currentOpsTransaction", &count.to_string()),
        ("maxOpsPerTransaction", &max.to_string()),
    ]);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS",
        CATEGORY,
        "DAPR_STATE_TOO_MANY_TRANSACTIONS",
        message,
        details,
        Some(metadata),
    )
}

pub fn query_not_supported(store: &str) -> ApiError {
    query_failed(
        store,
        "ERR_STATE_STORE_NOT_SUPPORTED",
        "DAPR_STATE_QUERYING_NOT_SUPPORTED",
        "state store does not support querying".to_owned(),
    )
}

pub fn query(store: &str, cause: &str) -> ApiError {
    query_failed(
        store,
        "ERR_STATE_QUERY",
        "DAPR_STATE_QUERY_FAILED",
        format!("state store {store} query failed: {cause}"),
    )
}

fn query_failed(
    store: &str,
    code: &'static str,
    reason: &'static str,
    message: String,
) -> ApiError {
    let details = vec![Detail::ResourceInfo {
        resource_type: "state",
        resource_name: store.to_owned(),
        owner: String::new(),
        description: String::new(),
    }];
    ApiError::rich(
        500,
        GrpcCode::Internal,
        code,
        CATEGORY,
        reason,
        message,
        details,
        None,
    )
}

/// The body of a save or transaction cannot be read.
pub fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_MALFORMED_REQUEST",
        "common",
        message,
    )
}

/// A save item over gRPC without key.
pub fn empty_key() -> ApiError {
    ApiError::basic(
        400,
        GrpcCode::InvalidArgument,
        "ERR_STATE_SAVE",
        CATEGORY,
        "state key cannot be empty",
    )
}

pub fn get(store: &str, key: &str, cause: &str) -> ApiError {
    ApiError::basic(
        500,
        GrpcCode::Internal,
        "ERR_STATE_GET",
        CATEGORY,
        format!("fail to get {key} from state store {store}: {cause}"),
    )
}

pub fn bulk_get(cause: &str) -> ApiError {
    // Dapr: a rejection by a policy has no code of its own here.
    let code = if policy::is_rejection(cause) {
        GrpcCode::Unknown
    } else {
        GrpcCode::Internal
    };
    ApiError::legacy(500, code, "ERR_STATE_BULK_GET", CATEGORY, cause)
}

fn with_etag(error: &ComponentError, tag: &'static str, message: String) -> ApiError {
    let (http, grpc) = match error.kind {
        ErrorKind::EtagMismatch => (409, GrpcCode::Aborted),
        ErrorKind::EtagInvalid => (400, GrpcCode::InvalidArgument),
        ErrorKind::Connection(_)
        | ErrorKind::Failed
        | ErrorKind::Invalid
        | ErrorKind::Unsupported => (500, GrpcCode::Internal),
    };
    ApiError::basic(http, grpc, tag, CATEGORY, message)
}

pub fn save(store: &str, error: &ComponentError) -> ApiError {
    with_etag(
        error,
        "ERR_STATE_SAVE",
        format!("failed saving state in state store {store}: {error}"),
    )
}

pub fn delete(key: &str, error: &ComponentError) -> ApiError {
    with_etag(
        error,
        "ERR_STATE_DELETE",
        format!("failed deleting state with key {key}: {error}"),
    )
}

pub fn bulk_delete(store: &str, error: &ComponentError) -> ApiError {
    with_etag(
        error,
        "ERR_STATE_BULK_DELETE",
        format!("failed deleting state in state store {store}: {error}"),
    )
}

pub fn transaction(error: &ComponentError) -> ApiError {
    ApiError::basic(
        500,
        GrpcCode::Internal,
        "ERR_STATE_TRANSACTION",
        CATEGORY,
        format!("error while executing state transaction: {error}"),
    )
}

pub fn operation_not_supported(operation: &str) -> ApiError {
    ApiError::basic(
        400,
        GrpcCode::Unimplemented,
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        CATEGORY,
        format!("operation type {operation} not supported"),
    )
}
