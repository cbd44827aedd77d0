//! A text that must not be seen.

use std::fmt;

/// Holds a password, token or key. Printing it shows nothing; reading it is a visible act.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Compares in time that depends on the lengths only, so that a token cannot be guessed bytewise.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0_u8, |seen, (x, y)| seen | (x ^ y)) == 0
}

/// Replaces the password inside every `scheme://user:password@host` of a text, for messages of drivers
/// that quote their connection string.
pub fn redact_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after
            .find(|c: char| c.is_whitespace() || "/\"'`<>".contains(c))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                out.push_str(user.split_once(':').map_or(user, |(name, _)| name));
                out.push_str(":***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    redact_words(&out)
}

/// The same for `user:password@host` without a scheme.
fn redact_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        let starts = |c: char| c.is_whitespace() || "/\"'`<>()[],;=".contains(c);
        let start = before
            .char_indices()
            .rfind(|(_, c)| starts(*c))
            .map_or(0, |(at, c)| at + c.len_utf8());
        let (head, word) = before.split_at(start);
        out.push_str(head);
        match word.split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                out.push_str(user);
                out.push_str(":***");
            }
            _ => out.push_str(word),
        }
        out.push('@');
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_a_secret_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "(hidden)");
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        assert_eq!(
            redact_urls("dial amqp://guest:p@ss@h:5672/x failed, see http://docs/y"),
            "dial amqp://guest:***@h:5672/x failed, see http://docs/y"
        );
        assert_eq!(redact_urls("no url"), "no url");
        assert_eq!(
            redact_urls("connecting to [usr:Top@h:1]:6379: lookup usr:Top@h, ask a@b or t:x"),
            "connecting to [usr:***@h:1]:6379: lookup usr:***@h, ask a@b or t:x"
        );
        assert_eq!(
            redact_urls("lookup :Top@h: no such host"),
            "lookup :***@h: no such host"
        );
    }

    #[test]
    fn constant_time_equality_is_equality() {
        assert!(equal_in_constant_time(b"abc", b"abc"));
        assert!(!equal_in_constant_time(b"abc", b"abd"));
        assert!(!equal_in_constant_time(b"abc", b"abcd"));
    }
}
