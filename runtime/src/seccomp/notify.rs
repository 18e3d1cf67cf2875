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

/// What becomes of a call, for programs of this build's own architecture. Those of others (32 bits) are not asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// The call's name. One that the architecture does not have cannot be made there.
    pub(crate) name: &'static str,
    /// Applies when one of these holds, or always when there are none.
    pub(crate) any_of: &'static [Condition],
    pub(crate) action: Action,
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
    let native = native()?;
    let allow = bpf::answer(libc::SECCOMP_RET_ALLOW);
    let mut codes: BTreeMap<u32, Code> = BTreeMap::new();
    for Rule { name, any_of, action } in rules {
        let Some(number) = numbers::number(name, native) else { continue };
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
    let section = bpf::by_number(&ranges(&codes, &allow, &allow));
    let program = bpf::by_architecture(&[(native.audit(), section)], libc::SECCOMP_RET_ALLOW);
    if program.len() > bpf::INSTRUCTIONS_MAX {
        return Err(unsupported(format!("a seccomp filter of {} instructions", program.len())));
    }
    Ok(Filter { program, flags: 0 })
}

/// The name that `rules` use for the call `number`, by number.
pub(crate) fn names(rules: &[Rule]) -> Result<BTreeMap<u32, &'static str>, RuntimeError> {
    let native = native()?;
    let numbered = rules.iter().map(|rule| (numbers::number(rule.name, native), rule.name));
    Ok(numbered.filter_map(|(number, name)| Some((number?, name))).collect())
}

fn native() -> Result<Architecture, RuntimeError> {
    Architecture::native().ok_or_else(|| unsupported("seccomp on this architecture".to_owned()))
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
            Rule { name: "getuid", any_of: &[], action: Action::Notify },
            Rule { name: "openat", any_of: CREATE, action: Action::Notify },
            Rule { name: "openat2", any_of: &[], action: Action::Refuse(38) },
            Rule { name: "no_such_call", any_of: &[], action: Action::Notify },
        ];
        let (filter, native) = (filter(&rules).unwrap(), native().unwrap());
        for (name, second, expected) in [
            ("getuid", 0, NOTIFY),
            ("getgid", 0, ALLOW),
            ("read", 0, ALLOW),
            ("openat", 0, ALLOW),
            ("openat", 0o101, NOTIFY),
            ("openat2", 0, libc::SECCOMP_RET_ERRNO | 38),
        ] {
            let number = numbers::number(name, native).unwrap();
            let answer = bpf::interpret(&filter.program, native.audit(), number, [0, second, 0, 0, 0, 0]);
            assert_eq!(answer, expected, "{name} {second:#o}");
        }
        assert_eq!(bpf::interpret(&filter.program, 0x1234, 102, [0; 6]), ALLOW);
        assert_eq!(bpf::interpret(&filter.program, native.audit(), 4000, [0; 6]), ALLOW);
        let names = names(&rules).unwrap();
        assert_eq!(names.len(), 3);
    }
}
