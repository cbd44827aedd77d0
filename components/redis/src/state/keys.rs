//! Keys that match a SQL `LIKE` pattern.

use outrigger_component_api::{ComponentError, KeysPage};
use redis::Value;

use crate::client::{Client, Link};
use crate::error::Failure;

/// Goes through every key of every primary; Redis has no index over them.
pub(super) async fn like(
    client: &Client,
    pattern: &str,
    page_size: Option<u32>,
    token: Option<&str>,
) -> Result<KeysPage, ComponentError> {
    if pattern.is_empty() {
        return Err(ComponentError::invalid("keys like pattern cannot be empty"));
    }
    let pattern = Pattern::read(pattern);
    let mut keys = Vec::new();
    for link in client.primaries() {
        scan(client, &link, &pattern, &mut keys)
            .await
            .map_err(|failure| failure.during("redis SCAN failed"))?;
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(page(keys, page_size, token))
}

async fn scan(
    client: &Client,
    link: &Link,
    pattern: &Pattern,
    keys: &mut Vec<String>,
) -> Result<(), Failure> {
    let glob = pattern.glob();
    let mut cursor = b"0".to_vec();
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(&cursor).arg("MATCH").arg(&glob);
        command.arg("COUNT").arg(1000);
        let Value::Array(parts) = link.send(&command, client.read_limit()).await? else {
            return Err(Failure::odd("SCAN"));
        };
        let mut parts = parts.into_iter();
        let (Some(Value::BulkString(next)), Some(Value::Array(found))) =
            (parts.next(), parts.next())
        else {
            return Err(Failure::odd("SCAN"));
        };
        keys.extend(
            found
                .into_iter()
                .filter_map(|key| match key {
                    Value::BulkString(key) => String::from_utf8(key).ok(),
                    _ => None,
                })
                .filter(|key| pattern.matches(key)),
        );
        if next == b"0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// The token is the number of keys before the page.
fn page(mut keys: Vec<String>, page_size: Option<u32>, token: Option<&str>) -> KeysPage {
    let start = token
        .and_then(|token| token.parse::<usize>().ok())
        .unwrap_or(0)
        .min(keys.len());
    let mut page = keys.split_off(start);
    let size = match page_size {
        None | Some(0) => page.len(),
        Some(size) => (size as usize).min(page.len()),
    };
    let token = (size < page.len()).then(|| (start + size).to_string());
    page.truncate(size);
    KeysPage { keys: page, token }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Char(char),
    /// `_`
    One,
    /// `%`
    Any,
}

struct Pattern(Vec<Part>);

impl Pattern {
    fn read(text: &str) -> Self {
        let mut parts = Vec::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' => Part::Any,
                '_' => Part::One,
                // A backslash at the end stands for itself.
                '\\' => Part::Char(chars.next().unwrap_or('\\')),
                c => Part::Char(c),
            });
        }
        Self(parts)
    }

    /// What the server is to look for: a little more than the pattern, because its `?` is a byte and not a character.
    fn glob(&self) -> String {
        let mut glob = String::new();
        for part in &self.0 {
            match part {
                Part::Any | Part::One if glob.ends_with('*') && !glob.ends_with("\\*") => {}
                Part::Any | Part::One => glob.push('*'),
                Part::Char(c) => {
                    if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                        glob.push('\\');
                    }
                    glob.push(*c);
                }
            }
        }
        glob
    }

    fn matches(&self, key: &str) -> bool {
        let key: Vec<char> = key.chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on when the present try fails: the last `%`, and one character further.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(part), key.get(at)) {
                (Some(Part::Any), _) => {
                    again = Some((part, at));
                    part += 1;
                }
                (Some(Part::One), Some(_)) => (part, at) = (part + 1, at + 1),
                (Some(Part::Char(wanted)), Some(c)) if wanted == c => {
                    (part, at) = (part + 1, at + 1);
                }
                (None, None) => return true,
                _ => match again {
                    Some((any, from)) if from < key.len() => {
                        again = Some((any, from + 1));
                        (part, at) = (any + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_sql() {
        for (pattern, key, expected) in [
            ("a%", "abc", true),
            ("a%", "ba", false),
            ("%c", "abc", true),
            ("%b%", "abc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("a_c", "aéc", true),
            ("A%", "abc", false),
            ("a\\%", "a%", true),
            ("a\\%", "ab", false),
            ("a\\_c", "a_c", true),
            ("a\\_c", "abc", false),
            ("a\\\\b", "a\\b", true),
            ("a\\", "a\\", true),
            ("%", "", true),
            ("%a%a%", "banana", true),
            ("%x%", "banana", false),
            ("[a]*", "[a]*", true),
            ("%%%b", "aaab", true),
        ] {
            assert_eq!(
                Pattern::read(pattern).matches(key),
                expected,
                "{pattern} {key}"
            );
        }
    }

    #[test]
    fn the_servers_pattern_has_nothing_special_left() {
        let glob = |text: &str| Pattern::read(text).glob();
        assert_eq!(glob("a%_b"), "a*b");
        assert_eq!(glob("[x]?*"), "\\[x\\]\\?\\*");
        assert_eq!(glob("\\*%"), "\\**");
        assert_eq!(glob("a\\\\b"), "a\\\\b");
    }

    #[test]
    fn pages_follow_each_other() {
        let keys = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let all = page(keys(), None, None);
        assert_eq!((all.keys.len(), all.token), (3, None));
        let first = page(keys(), Some(2), None);
        assert_eq!(first.keys, ["a", "b"]);
        let second = page(keys(), Some(2), first.token.as_deref());
        assert_eq!(second.keys, ["c"]);
        assert_eq!(second.token, None);
        assert_eq!(page(keys(), Some(2), Some("9")).keys, Vec::<String>::new());
        assert_eq!(page(keys(), Some(3), Some("x")).token, None);
    }
}
