//! Paths of requests: cleaned for routing, decoded for people and apps.

use std::borrow::Cow;

use outrigger_wire::grpc::percent_decode;

/// One slash for several, `.` and `..` resolved, no slash at the end; escapes stay.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    let is_clean = path.starts_with('/')
        && (path.len() == 1 || !path.ends_with('/'))
        && !path.contains("//")
        && !(path.contains("/.") && path.split('/').any(|part| matches!(part, "." | "..")));
    if is_clean {
        return Cow::Borrowed(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = String::with_capacity(path.len());
    for part in parts {
        out.push('/');
        out.push_str(part);
    }
    if out.is_empty() {
        out.push('/');
    }
    Cow::Owned(out)
}

/// The path without escapes, not cleaned.
pub(crate) fn decoded(path: &str) -> Cow<'_, str> {
    if path.contains('%') {
        Cow::Owned(percent_decode(path.as_bytes()))
    } else {
        Cow::Borrowed(path)
    }
}

/// A parameter of a path or a query: a plus sign is a blank.
pub(crate) fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_cleaned_like_those_of_go() {
        for (path, expected) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("//a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("", "/"),
            ("/a%2Fb", "/a%2Fb"),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        assert!(matches!(clean("/v1.0/state/s/k"), Cow::Borrowed(_)));
    }

    #[test]
    fn parameters_are_unescaped_once() {
        assert_eq!(unescaped("a+b%2Fc%2520"), "a b/c%20");
        assert_eq!(decoded("/a+b%20c"), "/a+b c");
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(path in "[a./%]{0,20}") {
            let once = clean(&path).into_owned();
            prop_assert_eq!(clean(&once).into_owned(), once.clone());
        }
    }
}
