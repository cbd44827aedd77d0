//! Durations as Dapr takes them: in Go's notation, or a bare number of milliseconds.

use std::time::Duration;

use outrigger_core::duration::{GoDuration, format_go};

use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};

/// Reads a duration. Warns about a number without unit, which few take for milliseconds, and about a negative one;
/// `negative` tells what that means.
pub(super) fn read(field: &Field<'_>, negative: &str) -> Option<GoDuration> {
    let duration = field.duration_or_milliseconds()?;
    let bare = field.text().and_then(|text| text.parse::<i64>().ok());
    let warn = |code, message: String, help: String| {
        let told = Diagnostic::warning(code, field.place(), message);
        field.reader().tell(told.help(help));
    };
    let name = field.name();
    if duration.nanoseconds < 0 {
        let message = format!("`{name}` is negative, which means {negative}");
        warn(
            "CFG-DURATION-NEGATIVE",
            message,
            "leave it out if that is meant".to_owned(),
        );
    } else if let Some(number) = bare.filter(|number| *number > 0) {
        let means = format_go(duration.clamped());
        let message = format!("`{name}` has no unit, {number} is {means}");
        let help = if number < 1_000 {
            format!("write `{number}ms` or `{number}s`")
        } else {
            format!("write `{means}`")
        };
        warn("CFG-DURATION-UNIT", message, help);
    }
    Some(duration)
}

/// A duration that may be missing; an empty text is as good as none.
pub(super) fn optional(
    object: &Object<'_>,
    name: &'static str,
    negative: &str,
) -> Option<GoDuration> {
    let field = object.field(name)?;
    let is_empty = |field: &Field<'_>| {
        field
            .node
            .as_scalar()
            .is_some_and(|scalar| scalar.text.is_empty())
    };
    if is_empty(&field) {
        return None;
    }
    read(&field, negative)
}

/// As [`optional`], with a default; a negative one is taken as none at all.
pub(super) fn or(object: &Object<'_>, name: &'static str, default: Duration) -> Duration {
    optional(object, name, "0s").map_or(default, GoDuration::clamped)
}
