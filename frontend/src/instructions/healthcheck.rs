//! HEALTHCHECK.

use super::duration::parse_duration;
use super::flags::{Flags, Kind, Spec};
use super::{CommandLine, Healthcheck, Reader};
use crate::Diagnostic;
use crate::diagnostic::excerpt;
use crate::parser::Node;

const FLAGS: [Spec; 5] = [
    ("interval", Kind::One),
    ("retries", Kind::One),
    ("start-interval", Kind::One),
    ("start-period", Kind::One),
    ("timeout", Kind::One),
];

/// Docker's shortest interval.
const INTERVAL_NS_MIN: i64 = 1_000_000;

impl Reader {
    pub(super) fn healthcheck(&mut self, node: &Node) -> Option<Healthcheck> {
        let args = node.mapped_args();
        let kind_end = args.text.find(char::is_whitespace).unwrap_or(args.text.len());
        let kind = args.slice(0..kind_end);
        let rest = args.slice(kind_end..args.text.len()).trim();
        match kind.text.to_ascii_uppercase().as_str() {
            "" => self.tell(Diagnostic::at_least_one_argument(node.name.span.clone(), "HEALTHCHECK")),
            // Flags before NONE have no meaning and are not looked at.
            "NONE" if rest.text.is_empty() => return Some(Healthcheck::None),
            "NONE" => self.tell(Diagnostic::healthcheck_none_arguments(rest.span())),
            "CMD" => {
                let flags = Flags::read(node, &FLAGS, self);
                let command = self.command(rest);
                let (flags, command) = (flags?, command?);
                let empty = match &command {
                    CommandLine::Shell(text) => text.text.is_empty(),
                    CommandLine::Exec(words) => words.is_empty(),
                };
                if empty {
                    self.tell(Diagnostic::healthcheck_no_command(kind.span()));
                    return None;
                }
                return self.healthcheck_with(&flags, command);
            }
            _ => self.tell(Diagnostic::healthcheck_unknown_type(kind.span(), kind.text)),
        }
        None
    }

    fn healthcheck_with(&mut self, flags: &Flags, command: CommandLine) -> Option<Healthcheck> {
        let interval_ns = self.interval(flags, "interval");
        let timeout_ns = self.interval(flags, "timeout");
        let start_period_ns = self.interval(flags, "start-period");
        let start_interval_ns = self.interval(flags, "start-interval");
        let retries = self.retries(flags);
        Some(Healthcheck::Cmd {
            command,
            interval_ns: interval_ns?,
            timeout_ns: timeout_ns?,
            start_period_ns: start_period_ns?,
            start_interval_ns: start_interval_ns?,
            retries: retries?,
        })
    }

    fn interval(&mut self, flags: &Flags, name: &'static str) -> Option<i64> {
        let Some(value) = flags.one(name).filter(|value| !value.text.is_empty()) else { return Some(0) };
        match parse_duration(&value.text) {
            Ok(0) => Some(0),
            Ok(nanoseconds) if nanoseconds >= INTERVAL_NS_MIN => Some(nanoseconds),
            Ok(_) => {
                self.tell(Diagnostic::interval_too_short(value.span, name));
                None
            }
            Err(reason) => {
                let hint = "write a number and a unit: 30s, 1m30s, 500ms";
                self.tell(Diagnostic::invalid_flag_value(value.span, name, &reason).with_hint(hint));
                None
            }
        }
    }

    fn retries(&mut self, flags: &Flags) -> Option<i64> {
        let Some(value) = flags.one("retries").filter(|value| !value.text.is_empty()) else {
            return Some(0);
        };
        match value.text.parse::<i32>() {
            Ok(retries) if retries >= 0 => Some(retries.into()),
            Ok(retries) => {
                self.tell(Diagnostic::negative_retries(value.span, retries.into()));
                None
            }
            Err(_) => {
                let reason = format!("\"{}\" is no whole number", excerpt(&value.text));
                self.tell(Diagnostic::invalid_flag_value(value.span, "retries", &reason));
                None
            }
        }
    }
}
