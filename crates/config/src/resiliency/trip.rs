//! The expression that opens a breaker.

use outrigger_core::nearest::nearest;
use outrigger_policy::Counts;
use outrigger_policy::trip::Trip;

use crate::diagnostic::Diagnostic;
use crate::expression::refusal;
use crate::read::Field;

const EXAMPLES: &str =
    "such as `consecutiveFailures > 5` or `requests >= 20 && totalFailures * 2 >= requests`";

/// Reads an expression; absent when it is empty. An error when it does not compile, a warning when with it the breaker
/// does not open as it should.
pub(super) fn read(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let expression = text.trim();
    if expression.is_empty() {
        return None;
    }
    match Trip::compile(expression) {
        Ok(trip) => warn(field, &trip),
        Err(error) => {
            let at = Some((error.line, error.column));
            field
                .reader()
                .tell(refusal(field, &text, &error.message, at));
        }
    }
    Some(expression.to_owned())
}

fn warn(field: &Field<'_>, trip: &Trip) {
    let told = |message: String| Diagnostic::warning("CFG-TRIP", field.place(), message);
    for name in trip.unknown_names() {
        let message =
            format!("`{name}` is not a counter; where it is read, the breaker stays closed");
        field
            .reader()
            .tell(told(message).nearest(nearest(name, Counts::NAMES)));
    }
    if let (Some(caution), []) = (trip.caution(), trip.unknown_names()) {
        let message = format!("with this expression the breaker never opens: {caution}");
        field.reader().tell(told(message).help(EXAMPLES));
    }
}
