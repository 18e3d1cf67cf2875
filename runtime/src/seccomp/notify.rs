//! The filter of a supervisor: which calls it is asked about.
//!
//! It stands beside the filter of the step's profile. The kernel takes the stricter answer of the two, so what the
//! profile refuses is refused without asking, and everything that no rule names here is left to the profile.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::bpf::{self, Code};
use super::numbers::{self, Architecture};
use super::{Condition, Filter, ranges, unsupported};
use crate::RuntimeError;

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// The call's name. One that the architecture does not have cannot be made there.
    pub(crate) name: &'static str,
    /// Applies when one of these holds, or always when there are none.
    pub(crate) any_of: &'static [Condition],
    pub(crate) action: Action,
    pub(crate) programs: Programs,
}

/// Whose calls a [`Rule`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Programs of this build's own architecture. Those of 32 bits are not asked.
    Native,
    /// All of them. The call's arguments are numbers that have the same meaning everywhere.
    All,
}

/// What a [`Rule`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The supervisor is asked.
    Notify,
    /// The call fails with this error number.
    Refuse(i32),
}

/// The filter for `rules`, which never change; made when `made` has none yet.
pub(crate) fn filter_once(made: &OnceLock<Arc<Filter>>, rules: &[Rule]) -> Result<Arc<Filter>, RuntimeError> {
    match made.get() {
        Some(filter) => Ok(Arc::clone(filter)),
        None => filter(rules).map(|filter| Arc::clone(made.get_or_init(|| Arc::new(filter)))),
    }
}

/// The filter for `rules`.
pub(crate) fn filter(rules: &[Rule]) -> Result<Filter, RuntimeError> {
    let sections = Architecture::here().iter().map(|&(architecture, programs)| {
        let rules = rules.iter().filter(|rule| programs == Programs::Native || rule.programs == programs);
        (architecture.audit(), section(rules, architecture))
    });
    let sections: Vec<(u32, Code)> = sections.collect();
    if sections.is_empty() {
        return Err(unsupported("seccomp on this architecture".to_owned()));
    }
    let program = bpf::by_architecture(&sections, libc::SECCOMP_RET_ALLOW);
    if program.len() > bpf::INSTRUCTIONS_MAX {
        return Err(unsupported(format!("a seccomp filter of {} instructions", program.len())));
    }
    Ok(Filter { program, flags: 0 })
}

/// The part of the filter for one architecture.
fn section<'a>(rules: impl Iterator<Item = &'a Rule>, architecture: Architecture) -> Code {
    let allow = bpf::answer(libc::SECCOMP_RET_ALLOW);
    let mut codes: BTreeMap<u32, Code> = BTreeMap::new();
    for Rule { name, any_of, action, .. } in rules {
        let Some(number) = numbers::number(name, architecture) else { continue };
        let answer = match action {
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Action::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
        };
        let code = if any_of.is_empty() {
            bpf::answer(answer)
        } else {
            let otherwise = codes.remove(&number).unwrap_or_else(|| allow.clone());
            any_of.iter().fold(otherwise, |otherwise, condition| bpf::when(&[*condition], answer, otherwise))
        };
        codes.insert(number, code);
    }
    bpf::by_number(&ranges(&codes, &allow, &allow))
}

/// The names that `rules` use for calls, by architecture (`AUDIT_ARCH_*`) and number.
pub(crate) type Names = BTreeMap<(u32, u32), &'static str>;

/// The [`Names`] of `rules`.
pub(crate) fn names(rules: &[Rule]) -> Names {
    let mut names = Names::new();
    for &(architecture, _) in Architecture::here() {
        let numbered = rules.iter().map(|rule| (numbers::number(rule.name, architecture), rule.name));
        names.extend(numbered.filter_map(|(number, name)| Some(((architecture.audit(), number?), name))));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Comparison, Width};

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;

    #[test]
    fn only_what_the_rules_say_is_asked_about() {
        const CREATE: &[Condition] = &[Condition {
            argument: 1,
            width: Width::Word,
            comparison: Comparison::MaskedEqual { mask: 0o100, value: 0o100 },
        }];
        let rules = [
            Rule { name: "getuid", any_of: &[], action: Action::Notify, programs: Programs::Native },
            Rule { name: "openat", any_of: CREATE, action: Action::Notify, programs: Programs::Native },
            Rule { name: "openat2", any_of: &[], action: Action::Refuse(38), programs: Programs::Native },
            Rule { name: "kill", any_of: &[], action: Action::Notify, programs: Programs::All },
            Rule { name: "no_such_call", any_of: &[], action: Action::Notify, programs: Programs::Native },
        ];
        let filter = filter(&rules).unwrap();
        let [(native, _), (other, _)] = Architecture::here() else { return };
        for (name, second, expected) in [
            ("getuid", 0, NOTIFY),
            ("getgid", 0, ALLOW),
            ("read", 0, ALLOW),
            ("openat", 0, ALLOW),
            ("openat", 0o101, NOTIFY),
            ("openat2", 0, libc::SECCOMP_RET_ERRNO | 38),
        ] {
            let number = numbers::number(name, *native).unwrap();
            let answer = bpf::interpret(&filter.program, native.audit(), number, [0, second, 0, 0, 0, 0]);
            assert_eq!(answer, expected, "{name} {second:#o}");
        }
        assert_eq!(bpf::interpret(&filter.program, 0x1234, 102, [0; 6]), ALLOW);
        assert_eq!(bpf::interpret(&filter.program, native.audit(), 4000, [0; 6]), ALLOW);
        let ask_other = |name| {
            let number = numbers::number(name, *other).unwrap();
            bpf::interpret(&filter.program, other.audit(), number, [0; 6])
        };
        assert_eq!((ask_other("kill"), ask_other("getuid")), (NOTIFY, ALLOW));
        let kill = (other.audit(), numbers::number("kill", *other).unwrap());
        assert_eq!(names(&rules).get(&kill), Some(&"kill"));
    }
}
