//! A file's documents, before any of them is parsed.

/// A stretch of a file and the line on which it begins, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk<'a> {
    pub text: &'a str,
    pub line: u32,
}

/// Splits before every line that begins with `---`; the line break before it belongs to neither side. A line of more dashes, which some use as a rule, splits too and
/// belongs to no document; `-----BEGIN CERTIFICATE-----` does not split.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut line) = (0, 1);
    let mut at = 0;
    for (i, row) in text.split_inclusive('\n').enumerate() {
        let number = u32::try_from(i + 1).unwrap_or(u32::MAX);
        let end = at + row.len();
        match separator(row) {
            // What comes before may be directives, which belong to this document.
            Some(Separator::Start) if !is_preamble(text.get(start..at).unwrap_or_default()) => {
                push(
                    &mut chunks,
                    text.get(start..at).map(without_last_break),
                    line,
                );
                (start, line) = (at, number);
            }
            Some(Separator::Rule) => {
                push(
                    &mut chunks,
                    text.get(start..at).map(without_last_break),
                    line,
                );
                (start, line) = (end, number + 1);
            }
            Some(Separator::Start) | None => {}
        }
        at = end;
    }
    push(&mut chunks, text.get(start..), line);
    chunks
}

fn push<'a>(chunks: &mut Vec<Chunk<'a>>, text: Option<&'a str>, line: u32) {
    if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
        chunks.push(Chunk { text, line });
    }
}

/// Dapr: pkg/internal/loader/disk splits at the line break and the dashes together.
fn without_last_break(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

enum Separator {
    /// `---`, perhaps with something behind it.
    Start,
    /// Four dashes or more.
    Rule,
}

fn separator(row: &str) -> Option<Separator> {
    let rest = row.trim_start_matches('-');
    let dashes = row.len() - rest.len();
    if dashes < 3 || !rest.is_empty() && !rest.starts_with([' ', '\t', '\r', '\n']) {
        return None;
    }
    Some(if dashes == 3 {
        Separator::Start
    } else {
        Separator::Rule
    })
}

/// Nothing but `%` directives and comments, and at least one directive.
fn is_preamble(text: &str) -> bool {
    let mut rows = text
        .lines()
        .filter(|row| !row.trim().is_empty() && !row.starts_with('#'))
        .peekable();
    rows.peek().is_some() && rows.all(|row| row.starts_with('%'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<(u32, &str)> {
        chunks(text)
            .into_iter()
            .map(|chunk| (chunk.line, chunk.text))
            .collect()
    }

    #[test]
    fn lines_of_dashes_split_and_certificates_do_not() {
        assert_eq!(split("a\n---\nb\n"), [(1, "a"), (2, "---\nb\n")]);
        assert_eq!(
            split("---\na\n--- # next\nb"),
            [(1, "---\na"), (3, "--- # next\nb")]
        );
        assert_eq!(split("a\r\n---\r\nb"), [(1, "a\r"), (2, "---\r\nb")]);
        assert_eq!(split("a\n------\nb"), [(1, "a"), (3, "b")]);
        assert_eq!(split("a\n-----BEGIN X-----\nb").len(), 1);
        assert_eq!(split("a: |\n  ---\n  b").len(), 1);
        assert_eq!(split("\n\n---\n---\n").len(), 2);
        assert_eq!(split("%YAML 1.2\n---\na\n"), [(1, "%YAML 1.2\n---\na\n")]);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_lines_are_right(text in "[-a%# \r\n]{0,60}") {
            for chunk in chunks(&text) {
                let before: usize = text.split_inclusive('\n').take(chunk.line as usize - 1).map(str::len).sum();
                prop_assert!(text.get(before..).unwrap().starts_with(chunk.text));
            }
        }
    }
}
