//! OCI seccomp profiles as BPF filters.
//!
//! A ready-made compiler was turned down for three reasons: one filter here gives different answers to different
//! calls (EPERM, ENOSYS, allow), serves the architecture's 32-bit programs too, and is searched instead of scanned.

mod bpf;
pub(crate) mod notify;
mod numbers;
mod profile;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use crate::RuntimeError;
use bpf::Code;
use numbers::Architecture;

pub(crate) use bpf::{Comparison, Condition, Width};
pub(crate) use profile::{chroot_profile, default_profile};

/// A filter ready to be installed.
#[derive(Debug)]
pub(crate) struct Filter {
    /// The program.
    pub(crate) program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// The filter for `profile`. The last few are remembered: the steps of a build mostly share one profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Arc<Filter>, RuntimeError> {
    static COMPILED: Mutex<Vec<(LinuxSeccomp, Arc<Filter>)>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, filter)) = compiled.iter().find(|(known, _)| known == profile) {
        return Ok(Arc::clone(filter));
    }
    let filter = Arc::new(translate(profile)?);
    if compiled.len() == COMPILED_MAX {
        compiled.remove(0);
    }
    compiled.push((profile.clone(), Arc::clone(&filter)));
    Ok(filter)
}

/// How many filters are remembered; a build uses one per set of capabilities.
const COMPILED_MAX: usize = 8;

/// The most conditions on one rule: a call has six arguments.
const CONDITIONS_MAX: usize = 6;

fn translate(profile: &LinuxSeccomp) -> Result<Filter, RuntimeError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut sections = Vec::new();
    for architecture in architectures(profile)? {
        sections.push((architecture.audit(), section(profile, architecture, default)?));
    }
    let program = bpf::by_architecture(&sections, libc::SECCOMP_RET_KILL_PROCESS);
    if program.len() > bpf::INSTRUCTIONS_MAX {
        return Err(unsupported(format!("a seccomp profile of {} instructions", program.len())));
    }
    Ok(Filter { program, flags: flags(profile)? })
}

fn architectures(profile: &LinuxSeccomp) -> Result<Vec<Architecture>, RuntimeError> {
    let native =
        Architecture::native().ok_or_else(|| unsupported("seccomp on this architecture".to_owned()))?;
    let mut architectures = vec![native];
    for architecture in profile.architectures().iter().flatten() {
        let known = match architecture {
            Arch::ScmpArchX86_64 => Architecture::X86_64,
            Arch::ScmpArchX86 => Architecture::X86,
            Arch::ScmpArchAarch64 => Architecture::Aarch64,
            Arch::ScmpArchArm => Architecture::Arm,
            // Programs of these cannot run here; x32 ones see a kernel without x32.
            _ => continue,
        };
        if !architectures.contains(&known) {
            architectures.push(known);
        }
    }
    Ok(architectures)
}

/// The part of the filter for one architecture.
fn section(profile: &LinuxSeccomp, architecture: Architecture, default: u32) -> Result<Code, RuntimeError> {
    let mut rules: BTreeMap<u32, Vec<(Vec<Condition>, u32)>> = BTreeMap::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret().or(profile.default_errno_ret()))?;
        for name in syscall.names() {
            // A name that the architecture does not have cannot be called there.
            let Some(number) = numbers::number(name, architecture) else { continue };
            let alternatives = conditions(name, syscall.args().as_deref().unwrap_or_default())?;
            let entry = rules.entry(number).or_default();
            entry.extend(alternatives.iter().map(|conditions| (conditions.clone(), action)));
        }
    }

    let unlisted = bpf::answer(default);
    let missing = bpf::answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs());
    let codes: BTreeMap<u32, Code> = rules
        .into_iter()
        .map(|(number, rules)| {
            let code = rules.into_iter().rev().fold(unlisted.clone(), |otherwise, (conditions, action)| {
                if conditions.is_empty() {
                    bpf::answer(action)
                } else {
                    bpf::when(&conditions, action, otherwise)
                }
            });
            (number, code)
        })
        .collect();

    // Calls that are newer than the profile do not exist, as on an older kernel: programs then take their older way,
    // which a refusal would not make them do. A profile that refuses by name leaves unknown calls alone.
    let permissive = matches!(default, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
    let beyond = if permissive || codes.is_empty() { &unlisted } else { &missing };
    let mut ranges = ranges(&codes, &unlisted, beyond);
    if architecture == Architecture::X86_64 {
        ranges.push((X32_BIT, &missing));
    }
    Ok(bpf::by_number(&ranges))
}

/// The code of every number: `unlisted` between those of `codes`, `beyond` above them. Neighbours that are the same are one.
fn ranges<'a>(codes: &'a BTreeMap<u32, Code>, unlisted: &'a Code, beyond: &'a Code) -> Vec<(u32, &'a Code)> {
    let mut ranges: Vec<(u32, &Code)> = Vec::new();
    let mut add = |start: u32, code| match ranges.last() {
        Some((_, last)) if same(last, code) => {}
        _ => ranges.push((start, code)),
    };
    let mut next = 0;
    for (&number, code) in codes {
        if number > next || next == 0 {
            add(next, if number == 0 { code } else { unlisted });
        }
        add(number, code);
        next = number + 1;
    }
    add(next, beyond);
    ranges
}

/// Calls with this bit are those of the x32 ABI; the same calls under other numbers.
const X32_BIT: u32 = 0x4000_0000;

fn same(a: &Code, b: &Code) -> bool {
    let key = |code: &sock_filter| (code.code, code.jt, code.jf, code.k);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

/// What must hold for a rule to apply: one of the lists, wholly. Conditions on different arguments go together;
/// when an argument is named twice, each condition stands for itself.
fn conditions(name: &str, arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, RuntimeError> {
    let conditions =
        arguments.iter().map(|argument| condition(name, argument)).collect::<Result<Vec<_>, _>>()?;
    let mut indices: Vec<u32> = conditions.iter().map(|condition| condition.argument).collect();
    indices.sort_unstable();
    indices.dedup();
    if indices.len() < conditions.len() {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn condition(name: &str, argument: &LinuxSeccompArg) -> Result<Condition, RuntimeError> {
    if argument.index() >= CONDITIONS_MAX {
        return Err(unsupported(format!("a seccomp rule on argument {}", argument.index())));
    }
    let value = argument.value();
    let comparison = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Comparison::MaskedEqual { mask: value, value: argument.value_two().unwrap_or(0) }
        }
    };
    Ok(Condition { argument: argument.index() as u32, width: width(name, argument.index()), comparison })
}

/// How the kernel takes an argument. A profile's numbers are 64 bits wide, and one that refuses by what is greater or less
/// would let through what the kernel then cuts off.
fn width(name: &str, argument: usize) -> Width {
    match (name, argument) {
        ("socket" | "socketpair", 0..=2) | ("personality", 0) => Width::Word,
        _ => Width::Register,
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, RuntimeError> {
    let data = errno.unwrap_or(libc::EPERM.unsigned_abs()) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(unsupported("the seccomp action SCMP_ACT_NOTIFY".to_owned()));
        }
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<u32, RuntimeError> {
    // Without a word to the contrary a container is not slowed down by the mitigation that seccomp brought along.
    let Some(flags) = profile.flags() else { return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32) };
    let mut bits = 0;
    for flag in flags {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // The process has one thread when the filter is installed.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(unsupported(
                    "the seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".to_owned(),
                ));
            }
        };
    }
    Ok(bits)
}

fn unsupported(what: String) -> RuntimeError {
    RuntimeError::Unsupported { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::CapabilitySet;
    use crate::chroot::Confinement;
    use oci_spec::runtime::{Capability, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    #[track_caller]
    fn check(filter: &Filter, architecture: Architecture, name: &str, first: u64, expected: u32) {
        let number = numbers::number(name, architecture).expect("known name");
        let answer = bpf::interpret(&filter.program, architecture.audit(), number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(answer, expected, "{name}({first:#x}) on {architecture:?}");
    }

    #[test]
    fn the_default_profile_answers_as_documented() {
        let Some(native) = Architecture::native() else { return };
        let filter = translate(&default_profile(CapabilitySet::default())).unwrap();
        for (name, first, expected) in [
            ("read", 0, ALLOW),
            ("execve", 0, ALLOW),
            ("ptrace", 0, ALLOW),
            ("mount", 0, EPERM),
            ("unshare", 0, EPERM),
            ("setns", 0, EPERM),
            ("keyctl", 0, EPERM),
            ("chroot", 0, EPERM),
            ("bpf", 0, EPERM),
            ("io_uring_setup", 0, EPERM),
            ("process_madvise", 0, EPERM),
            ("migrate_pages", 0, EPERM),
            ("move_pages", 0, EPERM),
            ("kcmp", 0, EPERM),
            ("clone3", 0, ENOSYS),
            ("clone", libc::SIGCHLD as u64, ALLOW),
            ("clone", libc::CLONE_NEWUSER as u64, EPERM),
            ("clone", (libc::CLONE_NEWNS | libc::SIGCHLD) as u64, EPERM),
            ("socket", libc::AF_INET as u64, ALLOW),
            ("socket", libc::AF_ALG as u64, EPERM),
            ("socket", 39, ALLOW),
            ("socket", libc::AF_VSOCK as u64, EPERM),
            ("socket", 1 << 32 | libc::AF_ALG as u64, EPERM),
            ("socket", 5 << 32 | libc::AF_VSOCK as u64, EPERM),
            ("socket", 1 << 63 | libc::AF_INET as u64, ALLOW),
            ("socket", 41, ALLOW),
            ("personality", 0, ALLOW),
            ("personality", 0xffff_ffff, ALLOW),
            ("personality", 0x004_0000, EPERM),
            ("personality", u64::MAX, ALLOW),
            ("clone", 1 << 32 | libc::CLONE_NEWUSER as u64, EPERM),
        ] {
            check(&filter, native, name, first, expected);
        }
        assert_eq!(bpf::interpret(&filter.program, native.audit(), 4000, [0; 6]), ENOSYS);
        assert_eq!(bpf::interpret(&filter.program, 0x1234, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn without_namespaces_nothing_of_ipc_exists() {
        let Some(native) = Architecture::native() else { return };
        let profile = chroot_profile(CapabilitySet::default(), true, Confinement::probe());
        let filter = translate(&profile).unwrap();
        for name in ["shmget", "shmat", "msgget", "msgsnd", "semget", "semctl", "mq_open", "mq_unlink"] {
            check(&filter, native, name, 0, ENOSYS);
        }
        if native == Architecture::X86_64 {
            check(&filter, Architecture::X86, "ipc", 0, ENOSYS);
        }
        check(&filter, native, "read", 0, ALLOW);
    }

    #[test]
    fn a_capability_opens_its_calls() {
        let Some(native) = Architecture::native() else { return };
        let admin = CapabilitySet::default().with(Capability::SysAdmin).with(Capability::SysChroot);
        let filter = translate(&default_profile(admin)).unwrap();
        for name in ["mount", "unshare", "clone3", "setns", "chroot", "bpf"] {
            check(&filter, native, name, 0, ALLOW);
        }
        check(&filter, native, "clone", libc::CLONE_NEWUSER as u64, ALLOW);
        check(&filter, native, "reboot", 0, EPERM);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn programs_of_32_bits_are_served_and_x32_is_absent() {
        let filter = translate(&default_profile(CapabilitySet::default())).unwrap();
        check(&filter, Architecture::X86, "socketcall", 0, ALLOW);
        check(&filter, Architecture::X86, "mount", 0, EPERM);
        check(&filter, Architecture::X86, "clone", libc::CLONE_NEWNS as u64, EPERM);
        let x32_read = X32_BIT;
        assert_eq!(bpf::interpret(&filter.program, Architecture::X86_64.audit(), x32_read, [0; 6]), ENOSYS);
    }

    #[test]
    fn a_profile_that_refuses_by_name_admits_the_rest() {
        let Some(native) = Architecture::native() else { return };
        let argument = |index: usize, value: u64| {
            LinuxSeccompArgBuilder::default().index(index).value(value).build().unwrap()
        };
        let refuse = |name: &str, arguments: Vec<LinuxSeccompArg>| {
            LinuxSyscallBuilder::default()
                .names(vec![name.to_owned(), "no_such_call".to_owned()])
                .action(LinuxSeccompAction::ScmpActErrno)
                .errno_ret(13u32)
                .args(arguments)
                .build()
                .unwrap()
        };
        let profile = LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActAllow)
            .syscalls(vec![
                refuse("read", vec![]),
                refuse("write", vec![argument(0, 1), argument(0, 2)]),
                refuse("lseek", vec![argument(0, 1), argument(1, 0)]),
                refuse("fsync", vec![argument(0, 1), argument(1, 7)]),
            ])
            .build()
            .unwrap();
        let filter = translate(&profile).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | 13;
        for (name, first, expected) in [
            ("read", 0, refused),
            ("write", 1, refused),
            ("write", 2, refused),
            ("write", 3, ALLOW),
            ("lseek", 1, refused),
            ("lseek", 2, ALLOW),
            ("fsync", 1, ALLOW),
            ("openat2", 0, ALLOW),
        ] {
            check(&filter, native, name, first, expected);
        }
        assert_eq!(bpf::interpret(&filter.program, native.audit(), 4000, [0; 6]), ALLOW);
    }

    #[test]
    fn a_profile_is_compiled_once() {
        let profile = default_profile(CapabilitySet::default());
        let (first, second) = (compile(&profile).unwrap(), compile(&profile.clone()).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }
}
