//! Findings as a machine reads them, and which of them belong to a place.

use outrigger_config::diagnostic::{Diagnostic, Place};
use outrigger_core::json::{Numbers, Style, Value, encode};

/// Prints a value: one line.
pub(super) fn line(value: &Value) -> String {
    let text = encode(value, Style::Ours, Numbers::Exact);
    String::from_utf8_lossy(&text).into_owned() + "\n"
}

/// Members in order; what is absent is left out.
pub(super) fn members<const N: usize>(all: [(&str, Option<Value>); N]) -> Value {
    let present = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

pub(super) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(texts.into_iter().map(Value::string).collect())
}

pub(super) fn number(number: impl ToString) -> Value {
    Value::Number(number.to_string())
}

pub(super) fn finding(told: &Diagnostic) -> Value {
    let text = |text: &Option<String>| text.as_deref().map(Value::string);
    let place = &told.place;
    members([
        ("severity", Some(Value::string(told.severity.name()))),
        ("code", Some(Value::string(told.code))),
        ("file", Some(Value::string(&*place.file))),
        ("line", Some(number(place.line))),
        ("column", Some(number(place.column))),
        ("path", Some(Value::string(place.path.as_str()))),
        ("message", Some(Value::string(told.message.as_str()))),
        ("found", text(&told.found)),
        ("expected", text(&told.expected)),
        ("help", text(&told.help)),
    ])
}

/// Whether a finding is about what stands at a place, or about a part of it.
pub(super) fn is_within(told: &Diagnostic, place: &Place) -> bool {
    told.place.file == place.file
        && told.place.line >= place.line
        && told
            .place
            .path
            .strip_prefix(place.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
