//! Publish and subscribe.

use outrigger_core::Metadata;
use outrigger_core::error::{ApiError, Detail, GrpcCode};

use super::pairs;

const CATEGORY: &str = "pubsub";

fn resource(pubsub: &str, message: &str) -> Vec<Detail> {
    vec![Detail::ResourceInfo {
        resource_type: "pubsub",
        resource_name: pubsub.to_owned(),
        owner: String::new(),
        description: message.to_owned(),
    }]
}

/// Also when no pub/sub component exists at all. Over HTTP the request's metadata is shown.
pub fn not_found(pubsub: &str, metadata: Option<Metadata>) -> ApiError {
    let message = format!("pubsub {pubsub} is not found");
    ApiError::rich(
        404,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_NOT_FOUND",
        CATEGORY,
        "DAPR_PUBSUB_NOT_FOUND",
        message,
        Vec::new(),
        metadata,
    )
}

pub fn name_empty(metadata: Option<Metadata>) -> ApiError {
    let message = "pubsub name is empty";
    ApiError::rich(
        404,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_EMPTY",
        CATEGORY,
        "DAPR_PUBSUB_NAME_EMPTY",
        message,
        resource("", message),
        metadata,
    )
}

pub fn topic_empty(pubsub: &str, metadata: Option<Metadata>) -> ApiError {
    let message = format!("topic is empty in pubsub {pubsub}");
    let details = resource(pubsub, &message);
    ApiError::rich(
        404,
        GrpcCode::InvalidArgument,
        "ERR_TOPIC_NAME_EMPTY",
        CATEGORY,
        "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
        message,
        details,
        metadata,
    )
}

pub fn forbidden(pubsub: &str, topic: &str, app_id: &str) -> ApiError {
    let message = format!("topic {topic} is not allowed for app id {app_id}");
    let details = resource(pubsub, &message);
    let metadata = pairs([("topic", topic), ("error", &message)]);
    ApiError::rich(
        403,
        GrpcCode::PermissionDenied,
        "ERR_PUBSUB_FORBIDDEN",
        CATEGORY,
        "DAPR_PUBSUB_FORBIDDEN",
        message,
        details,
        Some(metadata),
    )
}

pub fn publish(pubsub: &str, topic: &str, cause: &str) -> ApiError {
    let message = format!("error when publishing to topic {topic} in pubsub {pubsub}: {cause}");
    let details = resource(pubsub, &message);
    let metadata = pairs([("topic", topic), ("error", cause)]);
    ApiError::rich(
        500,
        GrpcCode::Internal,
        "ERR_PUBSUB_PUBLISH_MESSAGE",
        CATEGORY,
        "DAPR_PUBSUB_PUBLISH_MESSAGE",
        message,
        details,
        Some(metadata),
    )
}

/// `rawPayload` that is no boolean.
pub fn bad_metadata(pubsub: &str, value: &str, metadata: Metadata) -> ApiError {
    let message = format!(
        "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is '{value}'"
    );
    let details = resource(pubsub, &message);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_REQUEST_METADATA",
        CATEGORY,
        "DAPR_PUBSUB_METADATA_DESERIALIZATION",
        message,
        details,
        Some(metadata),
    )
}

pub fn not_an_event(pubsub: &str, app_id: &str, cause: &str) -> ApiError {
    let message = "cannot create cloudevent";
    let metadata = pairs([("appID", app_id), ("error", cause)]);
    ApiError::rich(
        500,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_CLOUD_EVENTS_SER",
        CATEGORY,
        "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
        message,
        resource(pubsub, message),
        Some(metadata),
    )
}

pub fn envelope(pubsub: &str, topic: &str, app_id: &str, cause: &str) -> ApiError {
    let message = format!(
        "error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {cause}"
    );
    let details = resource(pubsub, &message);
    let metadata = pairs([("appID", app_id), ("error", cause)]);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_EVENTS_SER",
        CATEGORY,
        "DAPR_PUBSUB_MARSHAL_ENVELOPE",
        message,
        details,
        Some(metadata),
    )
}

pub fn entries(pubsub: &str, topic: &str, app_id: &str, cause: &str) -> ApiError {
    let message = format!(
        "error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {cause}"
    );
    let details = resource(pubsub, &message);
    let metadata = pairs([("appID", app_id), ("error", cause)]);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_EVENTS_SER",
        CATEGORY,
        "DAPR_PUBSUB_MARSHAL_EVENTS",
        message,
        details,
        Some(metadata),
    )
}

pub fn unreadable_entries(pubsub: &str, topic: &str, app_id: &str, cause: &str) -> ApiError {
    let message =
        format!("error when unmarshaling the request for topic {topic} pubsub {pubsub}: {cause}");
    let details = resource(pubsub, &message);
    ApiError::rich(
        400,
        GrpcCode::InvalidArgument,
        "ERR_PUBSUB_EVENTS_SER",
        CATEGORY,
        "DAPR_PUBSUB_UNMARSHAL_EVENTS",
        message,
        details,
        Some(pairs([("appID", app_id)])),
    )
}
