//! Variables in a text: `$NAME` and `${NAME}`, as Go expands them.

use crate::Lookup;

/// A text with its variables filled in.
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// For each line of the text, the line it comes from; values may add lines.
    lines: Vec<u32>,
    /// Names that are not set, with line and column.
    pub(crate) unset: Vec<(String, u32, u32)>,
}

impl Expanded {
    /// The line in the file, for a line in the expanded text.
    pub(crate) fn source_line(&self, line: u32) -> u32 {
        let index = usize::try_from(line)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        self.lines
            .get(index)
            .or_else(|| self.lines.last())
            .copied()
            .unwrap_or(line)
    }
}

/// Replaces every variable; one that is not set becomes nothing. A `$` before a blank or at the end stays.
pub(crate) fn expand(text: &str, environment: Lookup<'_>) -> Expanded {
    let mut out = Expanded {
        text: String::with_capacity(text.len()),
        lines: vec![1],
        unset: Vec::new(),
    };
    let (mut line, mut column) = (1_u32, 1_u32);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        let (name, length) = if first == '$' && !after.is_empty() {
            variable(after)
        } else {
            (Variable::None, 0)
        };
        match name {
            Variable::Name(name) => match environment(name) {
                Some(value) => {
                    out.lines
                        .extend(value.bytes().filter(|byte| *byte == b'\n').map(|_| line));
                    out.text.push_str(&value);
                }
                None => out.unset.push((name.to_owned(), line, column)),
            },
            Variable::Broken => {}
            Variable::None => out.text.push(first),
        }
        let (taken, tail) = after.split_at_checked(length).unwrap_or((after, ""));
        for c in std::iter::once(first).chain(taken.chars()) {
            column += 1;
            if c == '\n' {
                (line, column) = (line.saturating_add(1), 1);
                out.lines.push(line);
            }
        }
        rest = tail;
    }
    out
}

enum Variable<'a> {
    Name(&'a str),
    /// A `$` that is no variable.
    None,
    /// Something like `${}`, which vanishes.
    Broken,
}

/// What comes after a `$`, and how many bytes of it belong to the variable.
fn variable(text: &str) -> (Variable<'_>, usize) {
    let is_special = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.find('}') {
            Some(0) => (Variable::Broken, 2),
            Some(end) => (
                inner.get(..end).map_or(Variable::Broken, Variable::Name),
                end + 2,
            ),
            None => (Variable::Broken, 1),
        };
    }
    if text.starts_with(is_special) {
        return (text.get(..1).map_or(Variable::None, Variable::Name), 1);
    }
    let length = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    match text.get(..length) {
        Some(name) if !name.is_empty() => (Variable::Name(name), length),
        _ => (Variable::None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "TWO_LINES" => Some("x\ny".to_owned()),
            "é" => Some("accent".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_as_go_does() {
        for (text, expected) in [
            ("a $A b", "a 1 b"),
            ("${A}B", "1B"),
            ("$AB", ""),
            ("$A-", "1-"),
            ("cost: 5$", "cost: 5$"),
            ("$ x", "$ x"),
            ("$$A", "A"),
            ("$1x", "x"),
            ("${}x", "x"),
            ("${A", "A"),
            ("${é}", "accent"),
            ("$é", "$é"),
        ] {
            assert_eq!(expand(text, &environment).text, expected, "{text}");
        }
    }

    #[test]
    fn lines_lead_back_to_the_file_and_unset_names_are_told() {
        let expanded = expand("a: $TWO_LINES\nb: $GONE\nc", &environment);
        assert_eq!(expanded.text, "a: x\ny\nb: \nc");
        assert_eq!(
            (1..=4)
                .map(|line| expanded.source_line(line))
                .collect::<Vec<_>>(),
            [1, 1, 2, 3]
        );
        assert_eq!(expanded.unset, [("GONE".to_owned(), 2, 4)]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[${}a-c\n *é]{0,40}") {
            expand(&text, &environment);
        }
    }
}
