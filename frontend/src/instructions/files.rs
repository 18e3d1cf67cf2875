//! COPY and ADD.

use super::flags::{Flags, Kind, Spec};
use super::{Add, Copy, Paths, Reader, blamed};
use crate::Diagnostic;
use crate::parser::json::{self, JsonForm};
use crate::parser::{Mapped, Node, heredoc_word};

const COPY_FLAGS: [Spec; 6] = [
    ("chmod", Kind::One),
    ("chown", Kind::One),
    ("exclude", Kind::List),
    ("from", Kind::One),
    ("link", Kind::Bool),
    ("parents", Kind::Bool),
];

const ADD_FLAGS: [Spec; 7] = [
    ("checksum", Kind::One),
    ("chmod", Kind::One),
    ("chown", Kind::One),
    ("exclude", Kind::List),
    ("keep-git-dir", Kind::Bool),
    ("link", Kind::Bool),
    ("unpack", Kind::Bool),
];

impl Reader {
    pub(super) fn copy(&mut self, node: &Node) -> Option<Copy> {
        let flags = Flags::read(node, &COPY_FLAGS, self);
        let paths = self.paths(node, "COPY");
        let (flags, mut paths) = (flags?, paths?);
        set_common(&mut paths, &flags);
        let from = flags.one("from");
        if let Some(from) = &from
            && from.text.contains('$')
        {
            self.tell(Diagnostic::variable_in_from_flag(from.span.clone()));
            return None;
        }
        Some(Copy { paths, from, parents: flags.bool("parents").unwrap_or(false) })
    }

    pub(super) fn add(&mut self, node: &Node) -> Option<Add> {
        let flags = Flags::read(node, &ADD_FLAGS, self);
        let paths = self.paths(node, "ADD");
        let (flags, mut paths) = (flags?, paths?);
        set_common(&mut paths, &flags);
        Some(Add {
            paths,
            checksum: flags.one("checksum"),
            keep_git_dir: flags.bool("keep-git-dir"),
            unpack: flags.bool("unpack"),
        })
    }

    /// Sources and destination.
    fn paths(&mut self, node: &Node, name: &str) -> Option<Paths> {
        let (mut words, is_json) = match json::parse(node.mapped_args()) {
            JsonForm::Strings(strings) => (strings, true),
            JsonForm::NotStrings(place) => {
                self.tell(Diagnostic::json_not_strings(place));
                return None;
            }
            JsonForm::No => (node.mapped_args().split_blanks().iter().map(Mapped::token).collect(), false),
        };
        let dest = words.pop();
        let Some(dest) = dest.filter(|_| !words.is_empty()) else {
            self.tell(Diagnostic::no_destination(blamed(node), name));
            return None;
        };
        let mut paths = Paths::default();
        if is_json {
            paths.sources = words;
        } else {
            if heredoc_word(&dest.text).is_some() {
                self.tell(Diagnostic::heredoc_destination(dest.span, name));
                return None;
            }
            // Operators and bodies come in the same order.
            let mut bodies = node.heredocs.iter();
            for word in words {
                let operator = heredoc_word(&word.text);
                match operator.and_then(|operator| bodies.find(|body| body.name == operator.name)) {
                    Some(body) => paths.heredocs.push(body.clone()),
                    None => paths.sources.push(word),
                }
            }
        }
        paths.dest = Some(dest);
        Some(paths)
    }
}

fn set_common(paths: &mut Paths, flags: &Flags) {
    paths.chmod = flags.one("chmod");
    paths.chown = flags.one("chown");
    paths.exclude = flags.list("exclude");
    paths.link = flags.bool("link").unwrap_or(false);
}
