//! The label `path` of HTTP metrics.
//!
//! Three ways, as in Dapr: with *increased cardinality* (the default) the path itself, less the parts that never repeat
//! (keys, ids); with *path matching* the pattern that the path fits, by the rules of Go's `ServeMux`; without either, nothing.

use std::borrow::Cow;

/// Paths that stand for themselves whatever is configured.
const STATIC: [&str; 4] = [
    "/dapr/config",
    "/dapr/metrics",
    "/dapr/subscribe",
    "/healthz",
];

#[derive(Debug, Default)]
pub(crate) struct Paths {
    patterns: Vec<Pattern>,
    increased: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    segments: Vec<Segment>,
    /// Ends in a slash: what lies below matches too.
    subtree: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `{name}`
    One,
    /// `{name...}`
    Rest,
    /// `{$}`
    End,
}

impl Paths {
    pub(crate) fn new(patterns: &[String], increased: bool) -> Self {
        let mut all: Vec<Pattern> = Vec::new();
        for text in patterns {
            let text = normalised(text).into_owned();
            if !text.starts_with("/v1.0/invoke/") {
                all.push(Pattern::parse(format!(
                    "/v1.0/invoke/{{app_id}}/method{text}"
                )));
            }
            all.push(Pattern::parse(text));
        }
        all.dedup();
        Self {
            patterns: all,
            increased,
        }
    }

    /// For a request to our API.
    pub(crate) fn of_server<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if self.patterns.is_empty() {
            if self.increased {
                shortened(path)
            } else {
                self.label(Cow::Borrowed(""))
            }
        } else {
            self.label(normalised(path))
        }
    }

    /// For a request to the app.
    pub(crate) fn of_client<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        let label = self.label(Cow::Borrowed(path));
        if !self.increased && self.patterns.is_empty() {
            return label;
        }
        match label {
            Cow::Borrowed(label) => shortened(label),
            Cow::Owned(label) => Cow::Owned(shortened(&label).into_owned()),
        }
    }

    fn label<'a>(&'a self, path: Cow<'a, str>) -> Cow<'a, str> {
        if STATIC.contains(&&*path) {
            return path;
        }
        if let Some(pattern) = self.best(&path) {
            return Cow::Borrowed(pattern);
        }
        let short = shortened(&path).into_owned();
        if short != *path
            && let Some(pattern) = self.best(&short).filter(|pattern| *pattern != "/")
        {
            return Cow::Borrowed(pattern);
        }
        if self.increased {
            Cow::Owned(short)
        } else {
            Cow::Borrowed("")
        }
    }

    /// The most specific pattern that the path fits.
    fn best(&self, path: &str) -> Option<&str> {
        if path.is_empty() || self.patterns.is_empty() {
            return None;
        }
        let path = normalised(path);
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let fitting = self.patterns.iter().filter(|pattern| pattern.fits(&parts));
        fitting
            .max_by(|a, b| a.rank().cmp(&b.rank()))
            .map(|pattern| pattern.text.as_str())
    }
}

impl Pattern {
    fn parse(text: String) -> Self {
        let body = text.trim_start_matches('/');
        let subtree = text.ends_with('/');
        let segments = body
            .trim_end_matches('/')
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| {
                match part
                    .strip_prefix('{')
                    .and_then(|inner| inner.strip_suffix('}'))
                {
                    Some("$") => Segment::End,
                    Some(name) if name.ends_with("...") => Segment::Rest,
                    Some(_) => Segment::One,
                    None => Segment::Literal(part.to_owned()),
                }
            })
            .collect();
        Self {
            text,
            segments,
            subtree,
        }
    }

    fn fits(&self, parts: &[&str]) -> bool {
        let mut rest = parts;
        for segment in &self.segments {
            match (segment, rest.split_first()) {
                (Segment::Rest, _) => return true,
                (Segment::End, part) => {
                    return part.is_none_or(|(part, rest)| part.is_empty() && rest.is_empty());
                }
                (Segment::Literal(text), Some((part, after))) if text == part => rest = after,
                (Segment::One, Some((part, after))) if !part.is_empty() => rest = after,
                _ => return false,
            }
        }
        rest.is_empty() || self.subtree
    }

    /// Patterns that fit the same path are ordered by what they say of it, from the left.
    fn rank(&self) -> Vec<u8> {
        let mut rank: Vec<u8> = self
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(_) | Segment::End => 3,
                Segment::One => 2,
                Segment::Rest => 1,
            })
            .collect();
        rank.push(u8::from(!self.subtree));
        rank
    }
}

/// One slash for several, and one in front.
fn normalised(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() + 1);
    out.push('/');
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The path without the parts that would make a series of every request.
fn shortened(path: &str) -> Cow<'_, str> {
    if path.is_empty() {
        return Cow::Borrowed(path);
    }
    match normalised(path) {
        Cow::Borrowed(path) => short(path),
        Cow::Owned(path) => Cow::Owned(short(&path).into_owned()),
    }
}

fn short(path: &str) -> Cow<'_, str> {
    let parts: Vec<&str> = path
        .strip_prefix('/')
        .unwrap_or(path)
        .splitn(6, '/')
        .collect();
    match parts.as_slice() {
        ["actors", kind, _, rest @ ..] => {
            let rest: String = rest.iter().flat_map(|part| ["/", part]).collect();
            Cow::Owned(format!("actors/{kind}/{{id}}{rest}"))
        }
        [version, "state" | "secrets", name, ..] => {
            let length = 1
                + version.len()
                + 1
                + parts.get(1).map_or(0, |block| block.len())
                + 1
                + name.len();
            path.get(..length)
                .map_or(Cow::Borrowed(path), Cow::Borrowed)
        }
        [version, "actors", kind, _, verb, ..] => {
            Cow::Owned(format!("/{version}/actors/{kind}/{{id}}/{verb}"))
        }
        [version, "workflows", component, _] => {
            Cow::Owned(format!("/{version}/workflows/{component}/{{instanceId}}"))
        }
        [version, "workflows", component, name, verb] if verb.starts_with("start") => {
            Cow::Owned(format!("/{version}/workflows/{component}/{name}/start"))
        }
        [version, "workflows", component, _, "raiseEvent", event] if !event.is_empty() => {
            Cow::Owned(format!(
                "/{version}/workflows/{component}/{{instanceId}}/raiseEvent/{{eventName}}"
            ))
        }
        [version, "workflows", component, _, verb, ..] => Cow::Owned(format!(
            "/{version}/workflows/{component}/{{instanceId}}/{verb}"
        )),
        _ => Cow::Borrowed(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_left_out() {
        for (path, label) in [
            ("/v1.0/state/store/key", "/v1.0/state/store"),
            ("/v1.0/state/store", "/v1.0/state/store"),
            ("/v1.0/actors/T/1/timer/n", "/v1.0/actors/T/{id}/timer"),
            (
                "/v1.0/workflows/dapr/1/raiseEvent/e",
                "/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}",
            ),
            (
                "/v1.0/workflows/dapr/name/start",
                "/v1.0/workflows/dapr/name/start",
            ),
            (
                "/v1.0/workflows/dapr/i",
                "/v1.0/workflows/dapr/{instanceId}",
            ),
            ("actors/T/1/method/m", "actors/T/{id}/method/m"),
            ("m/1/x", "/m/1/x"),
            ("/v1.0//publish/p/t", "/v1.0/publish/p/t"),
            ("", ""),
        ] {
            assert_eq!(shortened(path), label, "{path}");
        }
    }

    #[test]
    fn without_cardinality_only_fixed_paths_keep_their_label() {
        let paths = Paths::new(&[], false);
        assert_eq!(paths.of_server("/v1.0/state/a/b"), "");
        assert_eq!(paths.of_client("/dapr/subscribe"), "/dapr/subscribe");
    }

    #[test]
    fn the_most_specific_pattern_counts() {
        let patterns =
            ["/orders/{id}", "/orders/all", "/items/", "/files/{path...}"].map(str::to_owned);
        let paths = Paths::new(&patterns, false);
        assert_eq!(paths.of_client("orders/7"), "/orders/{id}");
        assert_eq!(paths.of_server("/orders/all"), "/orders/all");
        assert_eq!(paths.of_server("/items/a/b"), "/items/");
        assert_eq!(paths.of_server("/files/a/b"), "/files/{path...}");
        assert_eq!(paths.of_server("/other"), "");
        assert_eq!(
            paths.of_server("/v1.0/invoke/app/method/orders/7"),
            "/v1.0/invoke/{app_id}/method/orders/{id}"
        );
        assert_eq!(Paths::new(&patterns, true).of_server("/other"), "/other");
    }
}
