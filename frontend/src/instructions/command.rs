//! RUN, CMD, ENTRYPOINT and SHELL.

use super::flags::{Flags, Kind, Spec};
use super::{CommandLine, Reader, Run, blamed};
use crate::Diagnostic;
use crate::diagnostic::excerpt;
use crate::parser::json::{self, JsonForm};
use crate::parser::{Mapped, Node, Token};

const RUN_FLAGS: [Spec; 4] =
    [("device", Kind::List), ("mount", Kind::List), ("network", Kind::One), ("security", Kind::One)];

impl Reader {
    pub(super) fn run(&mut self, node: &Node) -> Option<Run> {
        let flags = Flags::read(node, &RUN_FLAGS, self);
        let command = self.command(node.mapped_args());
        let (flags, command) = (flags?, command?);
        let network = flags.one("network");
        let security = flags.one("security");
        self.one_of("network", network.as_ref(), &["default", "none", "host"])?;
        self.one_of("security", security.as_ref(), &["sandbox", "insecure"])?;
        Some(Run {
            command,
            mounts: flags.list("mount"),
            network,
            security,
            devices: flags.list("device"),
            heredocs: node.heredocs.clone(),
        })
    }

    /// CMD and ENTRYPOINT.
    pub(super) fn plain_command(&mut self, node: &Node) -> Option<CommandLine> {
        self.no_flags(node)?;
        self.command(node.mapped_args())
    }

    pub(super) fn shell(&mut self, node: &Node) -> Option<Vec<String>> {
        self.no_flags(node)?;
        match self.command(node.mapped_args())? {
            CommandLine::Exec(words) if !words.is_empty() => Some(words),
            CommandLine::Shell(text) if !text.text.is_empty() => {
                let hint = "write SHELL [\"executable\", \"parameter\"]";
                self.tell(Diagnostic::not_json(node.args.span.clone(), "SHELL").with_hint(hint));
                None
            }
            _ => {
                self.tell(Diagnostic::at_least_one_argument(blamed(node), "SHELL"));
                None
            }
        }
    }

    /// JSON form if it is one, else the text for a shell.
    pub(super) fn command(&mut self, args: Mapped<'_>) -> Option<CommandLine> {
        match json::parse(args) {
            JsonForm::Strings(words) => {
                Some(CommandLine::Exec(words.into_iter().map(|word| word.text).collect()))
            }
            JsonForm::NotStrings(place) => {
                self.tell(Diagnostic::json_not_strings(place));
                None
            }
            JsonForm::No => Some(CommandLine::Shell(args.token())),
        }
    }

    fn one_of(&mut self, flag: &str, value: Option<&Token>, allowed: &[&str]) -> Option<()> {
        match value {
            Some(value) if !allowed.contains(&value.text.as_str()) => {
                let reason = format!("\"{}\" is none of {}", excerpt(&value.text), allowed.join(", "));
                let problem = Diagnostic::invalid_flag_value(value.span.clone(), flag, &reason);
                self.tell(problem.with_suggestion(&value.text, allowed));
                None
            }
            _ => Some(()),
        }
    }
}
