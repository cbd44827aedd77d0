//! One change as a line of JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use outrigger_core::json::{Numbers, Style, Value, encode, parse_all};

use crate::journal::{Change, Kind};

/// Characters of a cause, of a subject.
const LONGEST: usize = 256;

/// `2026-09-01T10:00:00.123Z`.
pub fn time_text(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The moment that a text names.
pub fn time_of(text: &str) -> Option<SystemTime> {
    let millis = DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis();
    Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).ok()?))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(LONGEST - 1).collect();
    cut.push('…');
    cut
}

fn millis(duration: Duration) -> Value {
    Value::integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// A change with its members in order; what is not known is left out.
pub fn value(change: &Change) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| Value::String(cut(text)));
    let members = [
        ("at", Some(Value::String(time_text(change.at)))),
        ("kind", Some(Value::string(change.kind.name()))),
        ("subject", text(&change.subject)),
        ("from", text(&change.from)),
        ("to", Some(Value::String(cut(&change.to)))),
        ("afterMs", change.after.map(millis)),
        ("cause", change.cause.as_deref().and_then(text)),
        ("class", change.class.as_deref().and_then(text)),
        (
            "refused",
            change.refused.map(|count| Value::Number(count.to_string())),
        ),
    ];
    let present = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

/// A line, with its end.
pub fn line(change: &Change) -> Vec<u8> {
    let mut line = encode(&value(change), Style::Ours, Numbers::Exact);
    line.push(b'\n');
    line
}

/// The change of a line; none if it is torn or of another kind of file.
pub fn read(line: &[u8]) -> Option<Change> {
    let value = parse_all(line).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| match value.get(name) {
        Some(Value::Number(number)) => number.parse::<u64>().ok(),
        _ => None,
    };
    Some(Change {
        at: time_of(&text("at")?)?,
        kind: Kind::named(&text("kind")?)?,
        subject: text("subject").unwrap_or_default(),
        from: text("from").unwrap_or_default(),
        to: text("to")?,
        after: number("afterMs").map(Duration::from_millis),
        cause: text("cause"),
        class: text("class"),
        refused: number("refused"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(subject: &str, cause: Option<&str>) -> Change {
        Change {
            at: UNIX_EPOCH + Duration::from_millis(1_788_170_400_123),
            kind: Kind::Component,
            subject: subject.to_owned(),
            from: "ready".to_owned(),
            to: "unavailable".to_owned(),
            after: Some(Duration::from_millis(80_000)),
            cause: cause.map(str::to_owned),
            class: Some("TRANSIENT".to_owned()),
            refused: Some(7),
        }
    }

    #[test]
    fn a_line_says_what_the_change_says() {
        let change = change("orders", Some("connection refused"));
        let line = line(&change);
        assert!(line.ends_with(b"\n"));
        assert_eq!(read(&line).unwrap(), change);
    }

    #[test]
    fn a_long_cause_is_cut() {
        let long = "x".repeat(10_000);
        let line = line(&change("orders", Some(&long)));
        assert!(line.len() < 1_000, "{}", line.len());
        assert!(read(&line).unwrap().cause.unwrap().ends_with('…'));
    }

    #[test]
    fn torn_lines_are_no_changes() {
        let line = line(&change("orders", None));
        for length in 0..line.len() - 1 {
            assert_eq!(read(&line[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
        }

        #[test]
        fn every_text_comes_back(subject in "\\PC{1,40}", cause in "\\PC{1,60}") {
            let change = change(&subject, Some(&cause));
            prop_assert_eq!(read(&line(&change)).unwrap(), change);
        }
    }
}
