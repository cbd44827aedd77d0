//! Fields that Dapr does not know, wherever they may stand.

use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};
use crate::yaml::Meaning;

use super::codes::{self, GRPC, HTTP};
use super::{BuiltIns, CodeMatch, ErrorStyle, OnOpen, RetryBudget};

/// Both lists of `matching`.
pub(super) fn matching(object: &Object<'_>) -> (CodeMatch, CodeMatch) {
    let Some(matching) = object.object("matching") else {
        return (CodeMatch::Every, CodeMatch::Every);
    };
    let codes = |name, protocol| {
        matching
            .field(name)
            .map(|field| codes::read(&field, protocol))
            .unwrap_or_default()
    };
    let both = (
        codes("httpStatusCodes", HTTP),
        codes("gRPCStatusCodes", GRPC),
    );
    matching.finish();
    both
}

pub(super) fn errors(object: &Object<'_>) -> Option<ErrorStyle> {
    let words = [("dapr", ErrorStyle::Dapr), ("precise", ErrorStyle::Precise)];
    object.field("errors")?.choice(false, &words)
}

pub(super) fn on_open(object: &Object<'_>) -> Option<OnOpen> {
    let words = [
        ("hold", OnOpen::Hold),
        ("nack", OnOpen::Nack),
        ("deadLetter", OnOpen::DeadLetter),
    ];
    object.field("onOpen")?.choice(false, &words)
}

/// `budget`, which is also called `retryBudget`.
pub(super) fn budget(object: &Object<'_>) -> Option<RetryBudget> {
    let (own, other) = (object.field("budget"), object.field("retryBudget"));
    if let (Some(_), Some(other)) = (&own, &other) {
        let told = Diagnostic::warning(
            "CFG-DUPLICATE",
            other.place(),
            "`retryBudget` is another name of `budget`, which counts",
        );
        other.reader().tell(told);
    }
    let fields = own.or(other)?.object()?;
    let number = |name, default| {
        fields
            .field(name)
            .and_then(|field| field.number(0.0..=f64::MAX, "a number from 0"))
            .unwrap_or(default)
    };
    let budget = RetryBudget {
        ratio: number("ratio", 0.2),
        min_per_second: number("minPerSecond", 10.0),
    };
    fields.finish();
    Some(budget)
}

pub(super) fn built_in(object: &Object<'_>) -> BuiltIns {
    let Some(fields) = object.object("builtin") else {
        return BuiltIns::default();
    };
    let retries = |name| fields.field(name).and_then(|field| retries(&field));
    let built_in = BuiltIns {
        service: retries("service"),
        initialization: retries("initialization"),
        actor: retries("actor"),
        actor_not_found: retries("actorNotFound"),
    };
    fields.finish();
    built_in
}

/// `off`, which YAML takes for a boolean, or a number.
fn retries(field: &Field<'_>) -> Option<u32> {
    let scalar = field.node.as_scalar();
    match scalar.map(|scalar| (scalar.meaning, &*scalar.text)) {
        Some((Meaning::Bool(false), _) | (Meaning::Text, "off")) => Some(0),
        Some((Meaning::Int(_) | Meaning::Float(_), _)) => field.count(),
        _ => {
            let message = format!(
                "`{}` is neither `off` nor a number of retries",
                field.name()
            );
            field.unusable("CFG-WORD", message, "`off` or a whole number from 0");
            None
        }
    }
}
