//! A document within a document: YAML in the text of a value.
//!
//! Its nodes carry lines far beyond those of any file, so that they can be told from those around them wherever they
//! end up; [`Inset::place`] makes places in the file of them.

use crate::yaml::{Content, Node, Position, Scalar, Style};

/// Lines from here on are those of the text.
const FIRST: u32 = 1 << 31;

/// Where the text stands.
pub(crate) struct Inset {
    at: Position,
    block: Option<Block>,
    /// Where the nodes seem to be, and where they are.
    paths: (&'static str, &'static str),
}

/// A text whose lines are those of the file, further to the right. It stands at the first of them that is not blank.
struct Block {
    blank_lines: u32,
    lines: u32,
}

impl Inset {
    pub(crate) fn new(at: Position, scalar: &Scalar, paths: (&'static str, &'static str)) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let is_blank = |line: &&str| line.trim().is_empty();
        let block = (scalar.style == Style::Block).then(|| Block {
            blank_lines: count(scalar.text.lines().take_while(is_blank).count()),
            lines: count(scalar.text.lines().count()),
        });
        Self { at, block, paths }
    }

    /// A node of the text, as it is told from those around it.
    pub(crate) fn mark(node: &mut Node) {
        node.at.line = node.at.line.saturating_add(FIRST);
        match &mut node.content {
            Content::Scalar(_) => {}
            Content::List(items) => items.iter_mut().for_each(Self::mark),
            Content::Map(entries) => {
                for entry in entries {
                    entry.at.line = entry.at.line.saturating_add(FIRST);
                    Self::mark(&mut entry.value);
                }
            }
        }
    }

    pub(super) fn is_exact(&self, at: Position) -> bool {
        at.line < FIRST || self.block.is_some()
    }

    /// Where a node is in the file, and the path to it.
    pub(super) fn place(&self, at: Position, path: &str) -> (Position, String) {
        let Some(line) = at.line.checked_sub(FIRST) else {
            return (at, path.to_owned());
        };
        let (seeming, real) = self.paths;
        let path = path
            .strip_prefix(seeming)
            .map_or_else(|| path.to_owned(), |rest| format!("{real}{rest}"));
        let inner = Position {
            line,
            column: at.column,
        };
        (self.position(inner), path)
    }

    /// Exact within a block, whose lines are those of the file; the beginning of the value otherwise.
    pub(crate) fn position(&self, inner: Position) -> Position {
        let Some(block) = &self.block else {
            return self.at;
        };
        let line = inner.line.min(block.lines).saturating_sub(1);
        Position {
            line: (self.at.line.saturating_add(line)).saturating_sub(block.blank_lines),
            column: inner
                .column
                .saturating_add(self.at.column.saturating_sub(1)),
        }
    }
}
