//! Commands: a string is split into words as a shell would, and nothing else of a shell is done.

use super::super::node::{Node, Path, Value};
use super::super::source::Place;
use super::{Cx, text};
use crate::diagnostic::excerpt;

/// A list of words.
pub(super) fn words(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let words = match node.value {
        Value::Null => return Some(node),
        Value::String(line) => split(&line, place, path, cx)?,
        Value::List(items) => {
            let checked: Vec<Node> = items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| text(item, &path.index(index), cx))
                .collect();
            return Some(Node::list(checked, place));
        }
        _ => {
            let message = format!("must be a string or a list of strings, and this is {}", node.kind());
            return cx.refuse(place, path, &message);
        }
    };
    Some(Node::list(words.into_iter().map(|word| Node::string(word, place)).collect(), place))
}

/// `CMD-SHELL …`, `CMD …` or `NONE`.
pub(super) fn test(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    if let Value::String(line) = node.value {
        let words = match line.trim() {
            "NONE" => vec![Node::string("NONE", place)],
            _ => vec![Node::string("CMD-SHELL", place), Node::string(line, place)],
        };
        return Some(Node::list(words, place));
    }
    if !matches!(node.value, Value::List(_)) {
        return cx.refuse(place, path, &format!("must be a string or a list, and this is {}", node.kind()));
    }
    let node = words(node, path, cx)?;
    let texts: Vec<&str> = node.as_list()?.iter().filter_map(Node::as_str).collect();
    let wrong = match texts.as_slice() {
        [] | ["NONE" | "CMD", _, ..] | ["NONE"] | ["CMD-SHELL", _] => None,
        ["CMD" | "CMD-SHELL"] => Some("has no command".to_owned()),
        ["CMD-SHELL", ..] => Some("takes one string after CMD-SHELL".to_owned()),
        [first, ..] => Some(format!("must begin with CMD, CMD-SHELL or NONE, not \"{}\"", excerpt(first))),
    };
    match wrong {
        Some(message) => cx.refuse(place, path, &message),
        None => Some(node),
    }
}

/// A line in words, as a shell would split it, and which of them are operators of a shell.
pub(in super::super) struct Words {
    pub(in super::super) words: Vec<String>,
    operators: Vec<String>,
}

/// Why a line is none of words.
pub(in super::super) fn split_words(line: &str) -> Result<Words, String> {
    /// What means something to a shell that is not there.
    const OPERATORS: [&str; 8] = ["&&", "||", "|", ";", "&", ">", ">>", "<"];
    let mut split = Words { words: Vec::new(), operators: Vec::new() };
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut quoted_word = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', Some('"') | None) => match chars.next() {
                // A line that goes on.
                Some('\n') if quote.is_none() => {}
                Some('n') => word.get_or_insert_default().push('\n'),
                Some('t') => word.get_or_insert_default().push('\t'),
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("ends with a backslash".to_owned()),
            },
            (char, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                quoted_word = true;
                word.get_or_insert_default();
            }
            (char, None) if char.is_whitespace() => {
                if let Some(done) = word.take() {
                    if !quoted_word && OPERATORS.contains(&done.as_str()) {
                        split.operators.push(done.clone());
                    }
                    split.words.push(done);
                }
                quoted_word = false;
            }
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    if let Some(open) = quote {
        return Err(format!("has a {open} that is not closed"));
    }
    split.words.extend(word);
    Ok(split)
}

fn split(line: &str, place: Place, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Vec<String>> {
    match split_words(line) {
        Err(reason) => cx.refuse(place, path, &reason),
        Ok(split) => {
            for operator in split.operators {
                let message = format!("{path}: {operator} is a word like others: no shell reads this");
                cx.problems.warning(place, message).hint =
                    Some("write [\"sh\", \"-c\", \"…\"] to have one".into());
            }
            Some(split.words)
        }
    }
}
