//! Paths of requests, encoded as Go's `net/url` does it, since apps see the result.

use std::fmt::Write as _;

use http::uri::PathAndQuery;

/// The request target for a decoded method path and a query.
///
/// # Errors
/// Go's words for a percent sign that begins no escape.
pub(crate) fn target(prefix: &str, method: &str, query: &str) -> Result<PathAndQuery, String> {
    let mut out = String::with_capacity(prefix.len() + method.len() + query.len() + 2);
    out.push_str(prefix);
    if !method.starts_with('/') && !method.is_empty() {
        out.push('/');
    }
    if method.contains('%') {
        check_escapes(method)?;
    }
    if method.bytes().all(is_path_byte) {
        out.push_str(method);
    } else {
        // Where one byte needs an escape, all that Go would escape get one.
        for byte in unescaped(method) {
            if is_plain(byte) {
                out.push(char::from(byte));
            } else {
                write!(out, "%{byte:02X}").ok();
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    if !query.is_empty() {
        out.push('?');
        out.push_str(query);
    }
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(out)).map_err(|error| error.to_string())
}

fn check_escapes(path: &str) -> Result<(), String> {
    for (place, _) in path.match_indices('%') {
        let rest = path.get(place..).unwrap_or_default();
        let escape = rest
            .as_bytes()
            .get(1..3)
            .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        if !escape {
            let shown: String = rest.chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

pub(crate) fn unescaped(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%')
            .then(|| after.split_first_chunk::<2>())
            .flatten();
        let byte = escaped_byte(escape);
        match byte {
            Some((byte, tail)) => {
                out.push(byte);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn escaped_byte<'a>(escape: Option<(&[u8; 2], &'a [u8])>) -> Option<(u8, &'a [u8])> {
    let (pair, tail) = escape?;
    let digits = std::str::from_utf8(pair).ok()?;
    Some((u8::from_str_radix(digits, 16).ok()?, tail))
}

/// Bytes that Go accepts in an already encoded path.
fn is_path_byte(byte: u8) -> bool {
    is_plain(byte) || matches!(byte, b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%')
}

/// Bytes that Go leaves alone when it encodes a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'~'
                | b'$'
                | b'&'
                | b'+'
                | b','
                | b'/'
                | b':'
                | b';'
                | b'='
                | b'@'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_encoded_as_in_go() {
        for (method, query, expected) in [
            ("a/b", "", "/a/b"),
            ("", "", "/"),
            ("a b", "q=1", "/a%20b?q=1"),
            ("a+b", "", "/a+b"),
            ("a%2Fb", "", "/a%2Fb"),
            ("ü", "", "/%C3%BC"),
            ("a!b c", "", "/a%21b%20c"),
            ("a!b", "", "/a!b"),
        ] {
            assert_eq!(
                target("", method, query).unwrap().as_str(),
                expected,
                "{method}"
            );
        }
        assert_eq!(
            target("", "a%b", "").unwrap_err(),
            "invalid URL escape \"%b\""
        );
        assert_eq!(target("/base/", "x", "").unwrap().as_str(), "/base//x");
    }

    proptest! {
        #[test]
        fn no_method_panics(method in "\\PC{0,20}", query in "[a-z=&]{0,10}") {
            target("", &method, &query).ok();
        }
    }
}
