//! The variables of an expression that opens a breaker.

use outrigger_core::nearest::nearest;

use crate::diagnostic::Diagnostic;
use crate::read::Field;

/// The variables of a `trip` expression.
const COUNTERS: [&str; 5] = [
    "requests",
    "totalSuccesses",
    "totalFailures",
    "consecutiveSuccesses",
    "consecutiveFailures",
];

/// Warns about variables that do not exist: with one of them the breaker never opens.
pub(super) fn warn_of_unknown_counters(field: &Field<'_>, expression: &str) {
    for name in identifiers(expression)
        .into_iter()
        .filter(|name| !COUNTERS.contains(name))
    {
        let told = Diagnostic::warning(
            "CFG-TRIP",
            field.place(),
            format!("`{name}` is not a counter, the breaker never opens"),
        );
        field.reader().tell(told.nearest(nearest(name, COUNTERS)));
    }
}

/// Names that stand alone: neither called, nor members, nor inside quotes. Each once.
fn identifiers(expression: &str) -> Vec<&str> {
    const WORDS: [&str; 4] = ["true", "false", "null", "in"];
    let mut found: Vec<&str> = Vec::new();
    let mut rest = expression;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = if is_name(first) {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else if first == '"' || first == '\'' {
            rest.chars()
                .skip(1)
                .position(|c| c == first)
                .and_then(|i| rest.char_indices().nth(i + 2))
                .map_or(rest.len(), |(end, _)| end)
        } else {
            first.len_utf8()
        };
        let (word, tail) = rest.split_at(length);
        let is_called = tail.trim_start().starts_with('(');
        let is_variable = is_name(first) && !first.is_ascii_digit() && before != '.' && !is_called;
        if is_variable && !WORDS.contains(&word) && !found.contains(&word) {
            found.push(word);
        }
        before = word
            .chars()
            .next_back()
            .filter(|c| !c.is_whitespace())
            .unwrap_or(before);
        rest = tail;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn variables_of_an_expression_are_found() {
        assert_eq!(
            identifiers("consecutiveFailures > 5 && double(requests) / 2.0e3 > 0.5"),
            ["consecutiveFailures", "requests"]
        );
        assert_eq!(
            identifiers("nosuch.requests > 1 || 'quoted name' == \"x\" || true"),
            ["nosuch"]
        );
        assert_eq!(identifiers("size ( requests )"), ["requests"]);
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in "\\PC*") {
            identifiers(&text);
        }
    }
}
