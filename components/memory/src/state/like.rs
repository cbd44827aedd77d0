//! SQL's `LIKE`: `%` stands for any text, `_` for one character, `\` takes the meaning of what follows away.

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(char),
    /// `_`
    One,
    /// `%`
    Any,
}

/// A pattern, parsed once for many keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '%' if parts.last() == Some(&Part::Any) => {}
                '%' => parts.push(Part::Any),
                '_' => parts.push(Part::One),
                // A backslash at the end stands for itself.
                '\\' => parts.push(Part::Literal(rest.next().unwrap_or('\\'))),
                c => parts.push(Part::Literal(c)),
            }
        }
        Self { parts }
    }

    /// Case counts. In the worst case as many steps as key and pattern have characters multiplied.
    pub(super) fn matches(&self, key: &str) -> bool {
        let mut key = key.chars();
        let mut parts = self.parts.as_slice();
        // Where to go on when a guess about the last `%` was wrong: let it stand for one more character.
        let mut again = None;
        loop {
            if let [Part::Any, rest @ ..] = parts {
                parts = rest;
                again = Some((rest, key.clone()));
                continue;
            }
            let next = key.next();
            let is_fitting = match (parts.first(), next) {
                (None, None) => return true,
                (Some(Part::One), Some(_)) => true,
                (Some(Part::Literal(expected)), Some(found)) => *expected == found,
                _ => false,
            };
            if is_fitting {
                parts = parts.get(1..).unwrap_or_default();
                continue;
            }
            let Some((rest, from)) = &mut again else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            (parts, key) = (rest, from.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_sql() {
        for (pattern, key, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "A", false),
            ("a%", "a", true),
            ("%b%", "abc", true),
            ("%b", "abab", true),
            ("a%b%c", "a-b-b-c-c", true),
            ("a%b%c", "a-c-b", false),
            ("_", "ä", true),
            ("_", "", false),
            ("%", "", true),
            ("%_", "", false),
            (r"\%", "%", true),
            (r"\%", "a", false),
            (r"\", r"\", true),
            (r"a\\b", r"a\b", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let parsed = Pattern::parse(pattern);
            assert_eq!(parsed.matches(key), matches, "{pattern} and {key}");
        }
    }

    /// The definition, without cleverness.
    fn plainly(parts: &[Part], key: &[char]) -> bool {
        match (parts, key) {
            ([], []) => true,
            ([Part::Any, rest @ ..], _) => {
                (0..=key.len()).any(|taken| plainly(rest, &key[taken..]))
            }
            ([Part::One, rest @ ..], [_, key @ ..]) => plainly(rest, key),
            ([Part::Literal(c), rest @ ..], [k, key @ ..]) => c == k && plainly(rest, key),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_agrees_with_the_definition(pattern in r"[ab%_\\]{0,8}", key in r"[ab%]{0,8}") {
            let pattern = Pattern::parse(&pattern);
            let chars: Vec<char> = key.chars().collect();
            prop_assert_eq!(pattern.matches(&key), plainly(&pattern.parts, &chars));
        }
    }
}
