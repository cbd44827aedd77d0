//! YAML with positions.
//!
//! A file is split into documents before it is parsed, so that a broken one hides no other. Scalars stay as they are
//! written; what they mean depends on who asks ([`Schema`]). Nesting and the growth through aliases are bounded.
//! Start at [`documents`]. JSON is read too, being YAML.

mod build;
mod scalar;
mod split;

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_core::json::Value;

pub(crate) use scalar::old_bool;
pub use scalar::{Meaning, Schema};

/// Nesting beyond this is refused.
pub const MAX_DEPTH: usize = 128;

/// How much aliases may add to one document, in nodes and bytes of text.
pub const MAX_EXPANSION: usize = 1_000_000;

/// Line and column, both from 1; the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// A value and where it begins.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    pub at: Position,
    pub content: Content,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In order of appearance; of two equal keys both are here, and the last one counts.
    Map(Vec<Entry>),
}

/// A scalar as it is written, without quotes.
#[derive(Clone, PartialEq, Debug)]
pub struct Scalar {
    pub text: Arc<str>,
    pub style: Style,
    /// What the text means.
    pub meaning: Meaning,
}

/// How a scalar is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Plain,
    Quoted,
    /// After `|` or `>`.
    Block,
}

/// A key with its value.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub key: String,
    pub at: Position,
    pub value: Node,
}

/// One document of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    /// The line with which it begins.
    pub line: u32,
    pub root: Result<Node, YamlError>,
}

/// Why a document cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct YamlError {
    pub at: Position,
    pub message: String,
}

/// Reads every document of a file. Empty ones are left out.
pub fn documents(text: &str, schema: Schema) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split::chunks(text)
        .into_iter()
        .flat_map(|chunk| build::documents(chunk.text, chunk.line, schema))
        .collect()
}

impl Node {
    /// What the node is, for messages: `a list`.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
            Content::Scalar(scalar) => scalar.meaning.kind(),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.meaning == Meaning::Null)
    }

    pub fn as_scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    pub fn as_map(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Map(entries) => Some(entries),
            Content::List(_) | Content::Scalar(_) => None,
        }
    }

    /// The value of a key; of two equal ones the last.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?
            .iter()
            .rev()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The node as a JSON value.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(scalar) => scalar.meaning.to_json(&scalar.text),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Map(entries) => Value::Object(
                last_of_each(entries)
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }
}

/// Entries whose key was there before, with the position of the first one.
pub(crate) fn duplicates(entries: &[Entry]) -> Vec<(&Entry, Position)> {
    let mut seen: HashMap<&str, Position> = HashMap::new();
    let mut found = Vec::new();
    for entry in entries {
        match seen.get(entry.key.as_str()) {
            Some(first) => found.push((entry, *first)),
            None => {
                seen.insert(&entry.key, entry.at);
            }
        }
    }
    found
}

/// The entries that count: of two equal keys the last.
pub(crate) fn last_of_each(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let last: HashMap<&str, usize> = entries
        .iter()
        .enumerate()
        .map(|(i, entry)| (entry.key.as_str(), i))
        .collect();
    entries
        .iter()
        .enumerate()
        .filter(move |(i, entry)| last.get(entry.key.as_str()) == Some(i))
        .map(|(_, entry)| entry)
}

/// `spec.type`; a key with unusual characters is put into brackets.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (true, false) => format!("[{key}]"),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Node {
        let mut found = documents(text, Schema::Legacy);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0).root.unwrap()
    }

    fn json(text: &str) -> String {
        use outrigger_core::json::{Numbers, Style, encode};
        String::from_utf8(encode(&one(text).to_json(), Style::Ours, Numbers::Exact)).unwrap()
    }

    #[test]
    fn every_value_has_a_position() {
        let root = one("a:\n  - x: 1\n    y: [p, q]\n");
        let list = root.get("a").unwrap();
        let Content::List(items) = &list.content else {
            panic!("{list:?}")
        };
        assert_eq!(items[0].at, Position { line: 2, column: 5 });
        assert_eq!(
            items[0].get("x").unwrap().at,
            Position { line: 2, column: 8 }
        );
        assert_eq!(
            items[0].as_map().unwrap()[1].at,
            Position { line: 3, column: 5 }
        );
    }

    #[test]
    fn a_bad_document_hides_no_other_and_lines_go_on() {
        let found = documents("a: 1\n---\nb: [\n---\nc: 3\n-----\nd: 4\n", Schema::Legacy);
        let told: Vec<(u32, bool)> = found
            .iter()
            .map(|document| (document.line, document.root.is_ok()))
            .collect();
        assert_eq!(told, [(1, true), (3, false), (5, true), (7, true)]);
        assert_eq!(
            found[2].root.as_ref().unwrap().get("c").unwrap().at,
            Position { line: 5, column: 4 }
        );
        assert!(found[1].root.as_ref().unwrap_err().at.line >= 3);
    }

    #[test]
    fn aliases_and_merges_are_expanded() {
        assert_eq!(
            json("a: &x {p: 1, q: 2}\nb: *x\n"),
            r#"{"a":{"p":1,"q":2},"b":{"p":1,"q":2}}"#
        );
        assert_eq!(
            json("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n"),
            r#"{"a":{"p":1,"q":2},"b":{"q":3,"p":1}}"#
        );
        assert_eq!(
            json("b:\n  <<: [{p: 1}, {p: 2, r: 4}]\n"),
            r#"{"b":{"p":1,"r":4}}"#
        );
    }

    #[test]
    fn a_billion_laughs_are_cut_short() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            text.push_str(&format!(
                "a{i}: &a{i} [{}]\n",
                [alias.as_str(); 10].join(", ")
            ));
        }
        let error = documents(&text, Schema::Legacy).remove(0).root.unwrap_err();
        assert!(error.message.contains("aliases"), "{}", error.message);
        let error = documents("a: &a [*a]", Schema::Legacy)
            .remove(0)
            .root
            .unwrap_err();
        assert!(error.message.contains("itself"), "{}", error.message);
    }

    #[test]
    fn nesting_is_bounded() {
        for levels in [MAX_DEPTH + 1, 100_000] {
            let error = documents(&"[".repeat(levels), Schema::Legacy)
                .remove(0)
                .root
                .unwrap_err();
            assert!(
                error.message.contains("deep") || error.message.contains("recursion"),
                "{}",
                error.message
            );
        }
        let error = documents(
            &(0..200).map(|i| " ".repeat(i) + "a:\n").collect::<String>(),
            Schema::Legacy,
        )
        .remove(0)
        .root
        .unwrap_err();
        assert!(error.message.contains("deep"), "{}", error.message);
        assert!(
            documents(&("[".repeat(100) + &"]".repeat(100)), Schema::Legacy)[0]
                .root
                .is_ok()
        );
    }

    #[test]
    fn a_block_text_ends_as_its_document_does() {
        let texts = |text: &str| -> Vec<String> {
            let found = documents(text, Schema::Legacy);
            found
                .into_iter()
                .map(|document| {
                    document
                        .root
                        .unwrap()
                        .get("a")
                        .unwrap()
                        .as_scalar()
                        .unwrap()
                        .text
                        .to_string()
                })
                .collect()
        };
        assert_eq!(texts("a: |\n  x\n---\na: |\n  y\n"), ["x", "y\n"]);
        assert_eq!(texts("a: >\n  x\n  y"), ["x y"]);
        assert_eq!(texts("a: |\n  x\n  \nb: 1"), ["x\n"]);
        assert_eq!(texts("a: |-\n  x"), ["x"]);
        assert_eq!(texts("a: |+\n  x\n\n---\na: 1"), ["x\n", "1"]);
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(
            json("{\n\t\"a\": [1, 2.5, true, null, \"x\\u00e9\\n\"]\n}"),
            "{\"a\":[1,2.5,true,null,\"xé\\n\"]}"
        );
    }

    #[test]
    fn keys_that_repeat_are_found() {
        let root = one("a: 1\nb: 2\na: 3\na: 4\n");
        let found: Vec<(u32, u32)> = duplicates(root.as_map().unwrap())
            .into_iter()
            .map(|(entry, first)| (entry.at.line, first.line))
            .collect();
        assert_eq!(found, [(3, 1), (4, 1)]);
        assert_eq!(json("a: 1\nb: 2\na: 3\n"), r#"{"b":2,"a":3}"#);
    }

    #[test]
    fn keys_mean_what_go_makes_of_them() {
        assert_eq!(
            json("yes: 1\n0x10: 2\n1.50: 3\n"),
            r#"{"true":1,"16":2,"1.5":3}"#
        );
        assert!(documents("? [a]\n: 1\n", Schema::Legacy)[0].root.is_err());
        assert!(documents("~: 1\n", Schema::Legacy)[0].root.is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            documents(&String::from_utf8_lossy(&bytes), Schema::Legacy);
        }

        #[test]
        fn no_punctuation_panics(text in "[-a\\[\\]{}:,&*!|>'\"%@`#? \n\t\\\\~<.0-9]{0,80}") {
            documents(&text, Schema::Modern);
        }
    }
}
