//! The calls that the emulation is asked about.

use crate::seccomp::notify::{Action, Programs, Rule};
use crate::seccomp::{Comparison, Condition, Width};

use super::identities::LIMIT;

/// A bit in an argument.
const fn has(argument: u32, bits: u64) -> Condition {
    Condition {
        argument,
        width: Width::Word,
        comparison: Comparison::MaskedEqual { mask: bits, value: bits },
    }
}

/// An argument of type `int`.
const fn is(argument: u32, value: u64) -> Condition {
    Condition { argument, width: Width::Word, comparison: Comparison::Equal(value) }
}

const CREATES: u64 = libc::O_CREAT as u64;
const TEMPORARY: u64 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
const WRITES: u64 = libc::O_WRONLY as u64;
const READS_AND_WRITES: u64 = libc::O_RDWR as u64;
const EMPTIES: u64 = libc::O_TRUNC as u64;
const ALWAYS: &[Condition] = &[];

const fn ask(name: &'static str) -> Rule {
    ask_if(name, ALWAYS)
}

const fn ask_if(name: &'static str, any_of: &'static [Condition]) -> Rule {
    Rule { name, any_of, action: Action::Notify, programs: Programs::Native }
}

/// Programs take their older way then, which is asked about.
const fn missing(name: &'static str) -> Rule {
    Rule { name, any_of: ALWAYS, action: Action::Refuse(libc::ENOSYS), programs: Programs::Native }
}

/// All of them.
pub(crate) const RULES: &[Rule] = &[
    // Who a process is.
    ask("getuid"),
    ask("geteuid"),
    ask("getgid"),
    ask("getegid"),
    ask("getresuid"),
    ask("getresgid"),
    ask("getgroups"),
    ask("setuid"),
    ask("setgid"),
    ask("setreuid"),
    ask("setregid"),
    ask("setresuid"),
    ask("setresgid"),
    ask("setfsuid"),
    ask("setfsgid"),
    ask("setgroups"),
    ask("execve"),
    ask("execveat"),
    ask_if("prctl", &[is(0, libc::PR_SET_KEEPCAPS as u64)]),
    // Where that is kept.
    ask_if("prlimit64", &[is(1, LIMIT as u64)]),
    ask_if("getrlimit", &[is(0, LIMIT as u64)]),
    ask_if("setrlimit", &[is(0, LIMIT as u64)]),
    // Whom a file belongs to.
    ask("chown"),
    ask("lchown"),
    ask("fchown"),
    ask("fchownat"),
    ask("chmod"),
    ask("fchmod"),
    ask("fchmodat"),
    ask("fchmodat2"),
    ask("utimensat"),
    ask("futimesat"),
    ask("utimes"),
    ask("utime"),
    ask("access"),
    ask("faccessat"),
    ask("faccessat2"),
    ask("stat"),
    ask("lstat"),
    ask("fstat"),
    ask("newfstatat"),
    ask("statx"),
    // What comes to be.
    ask_if(
        "open",
        &[has(1, CREATES), has(1, TEMPORARY), has(1, WRITES), has(1, READS_AND_WRITES), has(1, EMPTIES)],
    ),
    ask_if(
        "openat",
        &[has(2, CREATES), has(2, TEMPORARY), has(2, WRITES), has(2, READS_AND_WRITES), has(2, EMPTIES)],
    ),
    ask("openat2"),
    ask("creat"),
    ask("mkdir"),
    ask("mkdirat"),
    ask("symlink"),
    ask("symlinkat"),
    ask("mknod"),
    ask("mknodat"),
    ask("bind"),
    // What becomes another, or goes.
    ask("truncate"),
    ask("rename"),
    ask("renameat"),
    ask("renameat2"),
    ask("link"),
    ask("linkat"),
    ask("unlink"),
    ask("unlinkat"),
    ask("rmdir"),
    // What records consist of.
    ask("getxattr"),
    ask("lgetxattr"),
    ask("fgetxattr"),
    ask("setxattr"),
    ask("lsetxattr"),
    ask("fsetxattr"),
    ask("listxattr"),
    ask("llistxattr"),
    ask("flistxattr"),
    ask("removexattr"),
    ask("lremovexattr"),
    ask("fremovexattr"),
    missing("getxattrat"),
    missing("setxattrat"),
    missing("listxattrat"),
    missing("removexattrat"),
];
