//! From parser events to nodes.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{
    Content, Document, Entry, MAX_DEPTH, MAX_EXPANSION, Meaning, Node, Position, Scalar, Schema,
    Style, YamlError,
};

/// Reads the documents of a chunk that begins on `first_line`; nothing comes after the first error.
pub(super) fn documents(text: &str, first_line: u32, schema: Schema) -> Vec<Document> {
    // What a block scalar at the very end must lose again: the parser completes an unfinished last line.
    let unfinished = (!text.ends_with(['\n', '\r'])).then(|| text.chars().count());
    let breaks = u32::try_from(text.matches(['\n', '\r']).count()).unwrap_or(u32::MAX);
    let mut builder = Builder::new(first_line, first_line.saturating_add(breaks), schema);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((Event::Scalar(text, style, anchor, tag), span)) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let is_last = unfinished.is_some_and(|end| span.end.index() >= end);
                let shorter = text.strip_suffix('\n').filter(|_| is_block && is_last);
                builder.scalar(
                    shorter.unwrap_or(&text),
                    style,
                    anchor,
                    tag.as_deref(),
                    span.start,
                )
            }
            Ok((event, span)) => builder.take(event, span.start),
            Err(error) => Err(YamlError {
                at: builder.position(*error.marker()),
                message: error.info().to_owned(),
            }),
        };
        if let Err(error) = step {
            let line = builder.begun.unwrap_or(first_line);
            builder.done.push(Document {
                line,
                root: Err(error),
            });
            break;
        }
    }
    builder.done
}

/// A list or map that has begun.
struct Open {
    at: Position,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map(MapInProgress),
}

#[derive(Default)]
struct MapInProgress {
    entries: Vec<Entry>,
    /// Maps to merge in, in order.
    merges: Vec<Node>,
    key: Option<Key>,
}

enum Key {
    Name(String, Position),
    Merge(Position),
}

struct Builder {
    first_line: u32,
    /// The parser may stop behind the end.
    last_line: u32,
    schema: Schema,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    expansion: usize,
    /// The line of the first node of the document under way.
    begun: Option<u32>,
    done: Vec<Document>,
}

impl Builder {
    fn new(first_line: u32, last_line: u32, schema: Schema) -> Self {
        Self {
            first_line,
            last_line,
            schema,
            open: Vec::new(),
            anchors: HashMap::new(),
            expansion: 0,
            begun: None,
            done: Vec::new(),
        }
    }

    fn position(&self, marker: Marker) -> Position {
        let line = u32::try_from(marker.line()).unwrap_or(u32::MAX).max(1);
        Position {
            line: self.first_line.saturating_add(line - 1).min(self.last_line),
            column: u32::try_from(marker.col())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        }
    }

    fn take(&mut self, event: Event<'_>, marker: Marker) -> Result<(), YamlError> {
        let at = self.position(marker);
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd
            | Event::Scalar(..) => {}
            Event::DocumentStart(_) => {
                self.begun = None;
                self.anchors.clear();
                self.expansion = 0;
            }
            Event::SequenceStart(anchor, _) => {
                self.push(at, anchor, OpenContent::List(Vec::new()))?
            }
            Event::MappingStart(anchor, _) => {
                self.push(at, anchor, OpenContent::Map(MapInProgress::default()))?
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let content = match open.content {
                        OpenContent::List(items) => Content::List(items),
                        OpenContent::Map(map) => Content::Map(merged(map)?),
                    };
                    self.place(
                        Node {
                            at: open.at,
                            content,
                        },
                        open.anchor,
                    )?;
                }
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(YamlError {
                        at,
                        message: "an alias that contains itself".to_owned(),
                    });
                };
                self.grow(&node, at)?;
                if depth(&node) + self.open.len() > MAX_DEPTH {
                    return Err(too_deep(at));
                }
                self.place(node, 0)?;
            }
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        marker: Marker,
    ) -> Result<(), YamlError> {
        let at = self.position(marker);
        let scalar =
            scalar(text, style, tag, self.schema).map_err(|message| YamlError { at, message })?;
        self.place(
            Node {
                at,
                content: Content::Scalar(scalar),
            },
            anchor,
        )
    }

    fn push(&mut self, at: Position, anchor: usize, content: OpenContent) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.begun.get_or_insert(at.line);
        self.open.push(Open {
            at,
            anchor,
            content,
        });
        Ok(())
    }

    /// Counts what a copy of `node` costs.
    fn grow(&mut self, node: &Node, at: Position) -> Result<(), YamlError> {
        self.expansion = self.expansion.saturating_add(weight(node));
        if self.expansion > MAX_EXPANSION {
            return Err(YamlError {
                at,
                message: "aliases make the document too large".to_owned(),
            });
        }
        Ok(())
    }

    /// Puts a finished node where it belongs: into the list or map around it, or at the root.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        self.begun.get_or_insert(node.at.line);
        if anchor > 0 {
            self.grow(&node, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => {
                if !node.is_null() {
                    self.done.push(Document {
                        line: node.at.line,
                        root: Ok(node),
                    });
                }
            }
            Some(OpenContent::List(items)) => items.push(node),
            Some(OpenContent::Map(map)) => match map.key.take() {
                None => map.key = Some(key(&node)?),
                Some(Key::Name(key, at)) => map.entries.push(Entry {
                    key,
                    at,
                    value: node,
                }),
                Some(Key::Merge(at)) => match node.content {
                    Content::Map(_) => map.merges.push(node),
                    Content::List(items) if items.iter().all(|item| item.as_map().is_some()) => {
                        map.merges.extend(items)
                    }
                    Content::List(_) | Content::Scalar(_) => {
                        return Err(YamlError {
                            at,
                            message: "`<<` takes a map or a list of maps".to_owned(),
                        });
                    }
                },
            },
        }
        Ok(())
    }
}

fn key(node: &Node) -> Result<Key, YamlError> {
    let refused = || YamlError {
        at: node.at,
        message: format!("{} cannot be a key", node.kind()),
    };
    let scalar = node.as_scalar().ok_or_else(refused)?;
    if &*scalar.text == "<<" && scalar.style == Style::Plain {
        return Ok(Key::Merge(node.at));
    }
    scalar
        .meaning
        .key(&scalar.text)
        .map(|name| Key::Name(name, node.at))
        .ok_or_else(refused)
}

/// The map's own entries, then those of merged maps whose keys are not there yet.
fn merged(map: MapInProgress) -> Result<Vec<Entry>, YamlError> {
    let mut entries = map.entries;
    for merge in map.merges {
        let Content::Map(inherited) = merge.content else {
            continue;
        };
        let known: std::collections::HashSet<String> =
            entries.iter().map(|entry| entry.key.clone()).collect();
        entries.extend(
            inherited
                .into_iter()
                .filter(|entry| !known.contains(&entry.key)),
        );
    }
    Ok(entries)
}

fn too_deep(at: Position) -> YamlError {
    YamlError {
        at,
        message: format!("nested too deep, more than {MAX_DEPTH} levels"),
    }
}

fn weight(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(scalar) => 1 + scalar.text.len(),
        Content::List(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Content::Map(entries) => {
            1 + entries
                .iter()
                .map(|entry| entry.key.len() + 1 + weight(&entry.value))
                .sum::<usize>()
        }
    }
}

/// How many levels of lists and maps a node has, itself included.
fn depth(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => 0,
        Content::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Content::Map(entries) => {
            1 + entries
                .iter()
                .map(|entry| depth(&entry.value))
                .max()
                .unwrap_or(0)
        }
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    schema: Schema,
) -> Result<Scalar, String> {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    };
    let meaning = match tag {
        None if style == Style::Plain => Meaning::of(text, schema),
        None => Meaning::Text,
        Some(tag) if tag.is_yaml_core_schema() => tagged(text, &tag.suffix, schema)?,
        // A tag of somebody's own says nothing to us.
        Some(_) => Meaning::Text,
    };
    Ok(Scalar {
        text: Arc::from(text),
        style,
        meaning,
    })
}

/// The meaning of a scalar with a tag such as `!!int`.
fn tagged(text: &str, tag: &str, schema: Schema) -> Result<Meaning, String> {
    let meaning = Meaning::of(text, schema);
    match (tag, meaning) {
        ("str" | "timestamp", _) => Ok(Meaning::Text),
        ("float", Meaning::Int(number)) => Ok(Meaning::Float(number as f64)),
        ("int", Meaning::Int(_))
        | ("float", Meaning::Float(_))
        | ("bool", Meaning::Bool(_))
        | ("null", Meaning::Null) => Ok(meaning),
        ("int" | "float" | "bool" | "null", _) => {
            Err(format!("{} is tagged `!!{tag}`", meaning.kind()))
        }
        ("binary", _) => Err("`!!binary` is not supported".to_owned()),
        _ => Ok(Meaning::Text),
    }
}
