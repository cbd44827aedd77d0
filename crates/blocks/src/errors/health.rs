//! Questions about health that cannot be answered as they were asked. Ours: Dapr has no such questions.

use outrigger_core::error::{ApiError, GrpcCode};

const CATEGORY: &str = "health";

fn bad(tag: &'static str, message: String) -> ApiError {
    ApiError::legacy(400, GrpcCode::InvalidArgument, tag, CATEGORY, message)
}

/// `include` names something that has no health.
pub fn unknown_include(word: &str, known: &str) -> ApiError {
    bad(
        "ERR_HEALTH_INCLUDE_UNKNOWN",
        format!("include: {word:?} is not known; known are {known}"),
    )
}

/// `for` names something that is not there.
pub fn unknown_target(target: &str, expected: &str) -> ApiError {
    bad(
        "ERR_HEALTH_TARGET_UNKNOWN",
        format!("for: {target:?} is not known; {expected}"),
    )
}

pub fn bad_parameter(name: &str, value: &str, expected: &str) -> ApiError {
    bad(
        "ERR_HEALTH_PARAMETER_INVALID",
        format!("{name}: {value:?} is not {expected}"),
    )
}

pub fn not_alone() -> ApiError {
    bad(
        "ERR_HEALTH_PARAMETER_INVALID",
        "for: cannot be combined with components or include".to_owned(),
    )
}

pub fn no_component(name: &str) -> ApiError {
    ApiError::legacy(
        404,
        GrpcCode::NotFound,
        "ERR_COMPONENT_NOT_FOUND",
        CATEGORY,
        format!("there is no component {name:?}"),
    )
}
