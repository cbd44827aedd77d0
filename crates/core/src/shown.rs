//! Messages of drivers as they are shown: short, and without credentials.

use crate::secret::redact_urls;

/// Characters of a message.
const LONGEST: usize = 512;
/// What stands for what was left out.
const HIDDEN: &str = "***";
/// Names whose values are nobody's business, in lower case.
const SECRETS: [&str; 12] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "token",
    "accesskey",
    "accountkey",
    "apikey",
    "api_key",
    "access_key",
    "sharedaccesskey",
];
const SCHEMES: [&str; 2] = ["bearer ", "basic "];

/// What is left of a message for those who may read it.
pub fn shown(message: &str) -> String {
    let clean = clean(message);
    if clean.chars().count() <= LONGEST {
        return clean;
    }
    let mut cut: String = clean.chars().take(LONGEST - 1).collect();
    cut.push('…');
    cut
}

/// The whole of a message, without credentials.
pub fn clean(message: &str) -> String {
    without_schemes(&without_pairs(&redact_urls(message)))
}

/// Hides the value of every `password=value` and `"password":"value"`.
fn without_pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, value)) = pair(rest) {
        out.push_str(before);
        out.push_str(HIDDEN);
        rest = value;
    }
    out.push_str(rest);
    out
}

/// The first pair of a secret's name and its value: all up to the value, and all behind it.
fn pair(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find(['=', ':'])?;
        let (name, behind) = text.split_at(at);
        let is_equals = behind.starts_with('=');
        let behind = behind.get(1..)?;
        let bare = behind.trim_start_matches(' ');
        let is_quoted = bare.starts_with(['"', '\'']);
        // "invalid password: connection refused" is a sentence.
        let is_pair = is_equals || is_quoted || behind.len() == bare.len();
        let name = name.trim_end_matches([' ', '"', '\'']).to_ascii_lowercase();
        let is_secret = SECRETS.iter().any(|secret| name.ends_with(secret));
        if is_pair && is_secret && !bare.is_empty() {
            let start = text.len() - bare.len();
            let length = value_length(bare);
            if length > 0 {
                return Some((text.get(..start)?, bare.get(length..)?));
            }
        }
        from = at + 1;
    }
}

fn value_length(value: &str) -> usize {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value
            .get(1..)
            .and_then(|inner| inner.find(quote))
            .map_or(value.len(), |end| end + 2),
        _ => value
            .find(|c: char| c.is_whitespace() || ";,&)]}\"'".contains(c))
            .unwrap_or(value.len()),
    }
}

/// Hides what follows `Bearer` and `Basic`.
fn without_schemes(text: &str) -> String {
    // The lower case of ASCII has the same places.
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(found) = lower.get(done..).and_then(|rest| {
        let ends = SCHEMES
            .iter()
            .filter_map(|scheme| rest.find(scheme).map(|at| at + scheme.len()));
        ends.min()
    }) {
        let start = done + found;
        let length = text.get(start..).map_or(0, value_length);
        out.push_str(text.get(done..start).unwrap_or_default());
        if length >= 8 {
            out.push_str(HIDDEN);
            done = start + length;
        } else {
            done = start;
        }
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_are_hidden_and_sentences_stay() {
        for (message, expected) in [
            (
                "dial amqp://guest:hunter2@h:5672 failed",
                "dial amqp://guest:***@h:5672 failed",
            ),
            (
                "host=db password=hunter2 user=a",
                "host=db password=*** user=a",
            ),
            ("Pwd='a b';Server=x", "Pwd=***;Server=x"),
            (r#"{"token": "abc", "a": 1}"#, r#"{"token": ***, "a": 1}"#),
            ("redisPassword:hunter2, db:0", "redisPassword:***, db:0"),
            (
                "invalid password: connection refused",
                "invalid password: connection refused",
            ),
            (
                "WRONGPASS invalid username-password pair",
                "WRONGPASS invalid username-password pair",
            ),
            (
                "sent Authorization: Bearer eyJhbGciOi, got 401",
                "sent Authorization: Bearer ***, got 401",
            ),
            ("a basic error", "a basic error"),
            ("password=", "password="),
        ] {
            assert_eq!(shown(message), expected);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let shown = shown(&"ü".repeat(2_000));
        assert_eq!(shown.chars().count(), LONGEST);
        assert!(shown.ends_with("ü…"));
    }

    proptest! {
        #[test]
        fn no_password_is_shown_whatever_stands_around_it(
            before in "[a-zA-Zäß :=\"']{0,20}",
            separator in "(=| = |=\"|:\")",
            secret in "[A-Z]{6,20}7",
            after in "[ ;,]?[a-z äß]{0,20}",
        ) {
            let text = format!("{before} password{separator}{secret}{after}");
            prop_assert!(!shown(&text).contains(&secret), "{}", shown(&text));
        }

        #[test]
        fn no_message_is_too_long_or_panics(text in ".{0,1500}") {
            prop_assert!(shown(&text).chars().count() <= LONGEST);
        }
    }
}
