//! Values as Go's flag library reads them.

use outrigger_core::metadata::go_bool;

/// A whole number with its base in front: `10`, `0x1f`, `010`, `-1`.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = magnitude(digits)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn magnitude(digits: &str) -> Option<i128> {
    // Underscores may stand between digits.
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let lower = digits.replace('_', "").to_ascii_lowercase();
    let (radix, digits) = match (lower.get(..2), lower.get(2..)) {
        (Some("0x"), Some(rest)) => (16, rest),
        (Some("0b"), Some(rest)) => (2, rest),
        (Some("0o"), Some(rest)) => (8, rest),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, lower.as_str()),
        _ => (10, lower.as_str()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok()
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    go_bool(text)
}

/// One line of comma-separated values; a value in quotes may hold commas, and `""` for a quote.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut items = Vec::new();
    let mut rest = text;
    loop {
        let (item, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_item(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (item, tail) = rest.split_at(end);
                if item.contains('"') {
                    return None;
                }
                (item.to_owned(), tail)
            }
        };
        items.push(item);
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None if tail.is_empty() => return Some(items),
            None => return None,
        }
    }
}

fn quoted_item(mut rest: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    loop {
        let (part, tail) = rest.split_once('"')?;
        item.push_str(part);
        match tail.strip_prefix('"') {
            Some(next) => {
                item.push('"');
                rest = next;
            }
            None => return Some((item, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_carry_their_base() {
        for (text, number) in [
            ("10", 10),
            ("-1", -1),
            ("+3", 3),
            ("0x1f", 31),
            ("010", 8),
            ("0b11", 3),
            ("0", 0),
            ("1_000", 1000),
        ] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
        for bad in [
            "",
            "x",
            "1.5",
            "0x",
            "--1",
            "5s",
            "_1",
            "1__0",
            "9223372036854775808",
            "٣",
        ] {
            assert_eq!(integer(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_are_comma_separated_and_may_be_quoted() {
        let read = |text: &str| list(text).map(|items| items.join("|"));
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(read("a,b"), Some("a|b".into()));
        assert_eq!(read("a,"), Some("a|".into()));
        assert_eq!(read("\"a,b\",c"), Some("a,b|c".into()));
        assert_eq!(read("\"say \"\"x\"\"\""), Some("say \"x\"".into()));
        for bad in ["a\"b", "\"a", "\"a\"b"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            integer(&text);
            list(&text);
        }

        #[test]
        fn what_is_quoted_is_read_back(items in proptest::collection::vec("[a-c,\"]{1,6}", 1..4)) {
            let line: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.replace('"', "\"\""))).collect();
            prop_assert_eq!(list(&line.join(",")), Some(items));
        }
    }
}
