//! Text → one tree a document.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::super::limits;
use super::super::node::{Map, Node, Tag, Value};
use super::super::source::{Place, Problems, SourceId};
use super::{merge_keys, scalar};
use crate::diagnostic::excerpt;

/// The documents of a file; empty ones are `Null`. What is wrong goes to `problems`, and then there are none.
pub(in super::super) fn read(text: &str, source: SourceId, problems: &mut Problems) -> Vec<Node> {
    let mut reader = Reader {
        source,
        text,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        budget: limits::NODES_MAX,
        documents: Vec::new(),
    };
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: limits::DEPTH_MAX,
        block_nesting_limit: limits::DEPTH_MAX,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => reader.event(event, &span),
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
                Err((reader.at(at, at), syntax_message(text, at, &error)))
            }
        };
        if let Err((place, message)) = step {
            problems.error(on_text(text, place), message);
            return Vec::new();
        }
    }
    let mut documents = reader.documents;
    documents.iter_mut().for_each(|document| merge_keys::apply(document, problems));
    if problems.has_errors() { Vec::new() } else { documents }
}

fn syntax_message(text: &str, at: usize, error: &granit_parser::ScanError) -> String {
    let line_start = text[..floor(text, at)].rfind('\n').map_or(0, |at| at + 1);
    if text[line_start..].trim_start_matches(' ').starts_with('\t') {
        return "a tab cannot indent YAML: use spaces".to_owned();
    }
    format!("this is no YAML: {}", excerpt(&error.info()))
}

/// The same place, if it is one in the text; what a parser says of the end of a file may lie behind it.
fn on_text(text: &str, place: Place) -> Place {
    let start = floor(text, place.start as usize);
    let end = floor(text, place.end as usize).max(start);
    if start == 0 && end == 0 {
        // A diagnostic at `0..0` has no place.
        let first = text.chars().next().map_or(0, char::len_utf8);
        return Place { start: 0, end: first as u32, ..place };
    }
    Place { start: start as u32, end: end as u32, ..place }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// What is being read.
struct Reader<'a> {
    source: SourceId,
    text: &'a str,
    open: Vec<Open>,
    /// Finished nodes that have an anchor, with the number of nodes in each.
    anchors: BTreeMap<usize, (Node, usize)>,
    /// How many nodes there may still be, those of aliases counted each time.
    budget: usize,
    documents: Vec<Node>,
}

/// A collection that is not yet closed.
struct Open {
    anchor: usize,
    tag: Tag,
    start: usize,
    budget_before: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { map: Map, merges: Vec<Node>, key: Option<(String, Place)> },
}

type Step = Result<(), (Place, String)>;

impl Reader<'_> {
    fn at(&self, start: usize, end: usize) -> Place {
        let bounded = |at: usize| at.min(self.text.len()) as u32;
        Place { source: self.source, start: bounded(start), end: bounded(end.max(start)) }
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Step {
        let range = span.byte_range().unwrap_or(0..0);
        let place = self.at(range.start, range.end);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag_of(tag.as_deref(), place)?;
                let value = match (style, &tag) {
                    (ScalarStyle::Plain, Meaning::Merge(_)) => scalar::plain(&text),
                    _ => Value::String(text.into_owned()),
                };
                let tag = match tag {
                    Meaning::Merge(tag) => tag,
                    Meaning::Text => Tag::None,
                };
                let before = self.budget;
                self.finish(Node { value, place, tag }, anchor, before)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(anchor, tag.as_deref(), place, Kind::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let kind = Kind::Map { map: Map::default(), merges: Vec::new(), key: None };
                self.start(anchor, tag.as_deref(), place, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let value = match open.kind {
                    Kind::List(items) => Value::List(items),
                    Kind::Map { mut map, merges, .. } => {
                        merge_keys::keep(&mut map, merges);
                        Value::Map(map)
                    }
                };
                // Its first line is enough to know it by.
                let whole = self.text.get(open.start..range.start.max(open.start)).unwrap_or_default();
                let first_line = whole.lines().next().unwrap_or_default().trim_end();
                let place = self.at(open.start, open.start + first_line.len());
                self.finish(Node { value, place, tag: open.tag }, open.anchor, open.budget_before)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some((_, size)) if *size > self.budget => Err((place, too_many())),
                Some((node, size)) => {
                    let node = node.clone();
                    self.budget -= size;
                    let before = self.budget;
                    self.finish(node, 0, before)
                }
                None => Err((place, "this alias stands within its own anchor".to_owned())),
            },
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, anchor: usize, tag: Option<&granit_parser::Tag>, place: Place, kind: Kind) -> Step {
        if self.open.len() >= limits::DEPTH_MAX {
            return Err((place, format!("nested deeper than {} levels", limits::DEPTH_MAX)));
        }
        if matches!(self.open.last(), Some(Open { kind: Kind::Map { key: None, .. }, .. })) {
            return Err((place, "a key must be a string".to_owned()));
        }
        let tag = match tag_of(tag, place)? {
            Meaning::Merge(tag) => tag,
            Meaning::Text => Tag::None,
        };
        let start = place.start as usize;
        self.open.push(Open { anchor, tag, start, budget_before: self.budget, kind });
        Ok(())
    }

    /// Puts a node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, budget_before: usize) -> Step {
        let Some(left) = self.budget.checked_sub(1) else { return Err((node.place, too_many())) };
        self.budget = left;
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), budget_before - self.budget));
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.documents.push(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map { map, merges, key }) => match key.take() {
                None => *key = Some((key_text(&node)?, node.place)),
                Some((name, _)) if name == "<<" => merges.push(node),
                Some((name, at)) => {
                    if map.contains(&name) {
                        return Err((at, format!("the key {} stands here twice", excerpt(&name))));
                    }
                    map.insert(name, at, node);
                }
            },
        }
        Ok(())
    }
}

fn too_many() -> String {
    format!("more than {} values, those that aliases stand for counted", limits::NODES_MAX)
}

fn key_text(node: &Node) -> Result<String, (Place, String)> {
    match &node.value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err((node.place, format!("a key must be a string, and this is {}", node.kind()))),
    }
}

/// What a tag asks for.
enum Meaning {
    Merge(Tag),
    /// `!!str`: text, whatever it looks like.
    Text,
}

fn tag_of(tag: Option<&granit_parser::Tag>, place: Place) -> Result<Meaning, (Place, String)> {
    let Some(tag) = tag else { return Ok(Meaning::Merge(Tag::None)) };
    match tag.original_parts() {
        ("!", "reset") => Ok(Meaning::Merge(Tag::Reset)),
        ("!", "override") => Ok(Meaning::Merge(Tag::Override)),
        ("!!", "str") | ("!", "") => Ok(Meaning::Text),
        ("!!", "int" | "float" | "bool" | "null" | "map" | "seq") => Ok(Meaning::Merge(Tag::None)),
        _ => Err((
            place,
            format!("the tag {} has no meaning here: only !reset and !override", excerpt(&tag.original())),
        )),
    }
}
