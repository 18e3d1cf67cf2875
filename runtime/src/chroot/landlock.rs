//! Landlock rules: what of the host a process cannot reach although it is root there.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use crate::RuntimeError;
use crate::sys::{self, LandlockRights};

/// What of a step's confinement this kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// The version of Landlock; 0 is none.
    version: u32,
}

impl Confinement {
    /// Asks the kernel, once.
    pub fn probe() -> Self {
        static VERSION: OnceLock<u32> = OnceLock::new();
        Self { version: *VERSION.get_or_init(|| sys::landlock_version().unwrap_or(0)) }
    }

    /// What there would be if the kernel had no newer Landlock than that of `version`.
    pub fn at_most(self, version: u32) -> Self {
        Self { version: self.version.min(version) }
    }

    /// The version of Landlock, where there is one.
    pub fn landlock(self) -> Option<u32> {
        (self.version > 0).then_some(self.version)
    }

    /// What this kernel does not keep steps from, and what would.
    pub fn lacks(self) -> Vec<&'static str> {
        MISSING.iter().filter(|(since, _)| self.version < *since).map(|(_, what)| *what).collect()
    }

    /// Whether processes cannot signal others outside their rules.
    pub(crate) fn scopes_signals(self) -> bool {
        self.version >= SCOPES
    }

    /// Whether processes cannot trace others outside their rules.
    pub(crate) fn scopes_tracing(self) -> bool {
        // The first version has too little for rules of files, so none are set up there.
        self.version >= 2
    }

    /// The rules of the process that watches over a step in `root`, in which its descendants are: it can signal those
    /// alone.
    pub(crate) fn watcher(self, root: BorrowedFd<'_>) -> Result<Option<OwnedFd>, RuntimeError> {
        if !self.scopes_signals() {
            return Ok(None);
        }
        // Rules that do not speak of moving files between directories forbid it.
        let files = 1 << REFER;
        let rules = ruleset(&LandlockRights { files, network: 0, scoped: SCOPE_SIGNAL })?;
        allow_beneath(&rules, root, files)?;
        Ok(Some(rules))
    }

    /// The rules of a step: the files below `root` alone, none of them a new device.
    pub(crate) fn step(self, root: BorrowedFd<'_>, network: bool) -> Result<Option<OwnedFd>, RuntimeError> {
        let files = match self.version {
            // The first version refuses to move files between directories, which no build can do without.
            0 | 1 => return Ok(None),
            2 => bits(REFER),
            3 | 4 => bits(TRUNCATE),
            _ => bits(IOCTL_DEVICE),
        };
        let rights = LandlockRights {
            files,
            network: if self.version >= PORTS && !network { BIND_TCP | CONNECT_TCP } else { 0 },
            scoped: if self.scopes_signals() { SCOPE_SIGNAL | SCOPE_ABSTRACT_SOCKET } else { 0 },
        };
        let rules = ruleset(&rights)?;
        allow_beneath(&rules, root, files & !(MAKE_CHARACTER_DEVICE | MAKE_BLOCK_DEVICE))?;
        Ok(Some(rules))
    }
}

/// Since which version, and what there is not before.
const MISSING: [(u32, &str); 5] = [
    (1, "Landlock (Linux 5.13): steps are kept in by their lack of capabilities and by seccomp alone"),
    (2, "Landlock's rules on files (Linux 5.19): steps are kept from files outside by chroot alone"),
    (PORTS, "Landlock's rules on ports (Linux 6.7): `--network=none` rests on seccomp alone"),
    (5, "Landlock's rules on devices (Linux 6.10)"),
    (
        SCOPES,
        "Landlock's scopes (Linux 6.12): a step can connect to abstract sockets of this place, and is kept from signalling \
         its programs by wharf alone",
    ),
];

const PORTS: u32 = 4;
const SCOPES: u32 = 6;

// `LANDLOCK_ACCESS_FS_*`; all up to the one of a version.
const MAKE_CHARACTER_DEVICE: u64 = 1 << 6;
const MAKE_BLOCK_DEVICE: u64 = 1 << 11;
const REFER: u32 = 13;
const TRUNCATE: u32 = 14;
const IOCTL_DEVICE: u32 = 15;

// `LANDLOCK_ACCESS_NET_*`.
const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;

// `LANDLOCK_SCOPE_*`.
const SCOPE_ABSTRACT_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

fn bits(highest: u32) -> u64 {
    (1 << (highest + 1)) - 1
}

fn ruleset(rights: &LandlockRights) -> Result<OwnedFd, RuntimeError> {
    sys::landlock_ruleset(rights).map_err(|source| failed("make Landlock rules", source))
}

fn allow_beneath(rules: &OwnedFd, root: BorrowedFd<'_>, rights: u64) -> Result<(), RuntimeError> {
    sys::landlock_allow_beneath(rules.as_fd(), root, rights)
        .map_err(|source| failed("make Landlock rules for the step's directory", source))
}

fn failed(step: &str, source: std::io::Error) -> RuntimeError {
    RuntimeError::Step { step: step.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_by_version() {
        let check = |version, count| assert_eq!(Confinement { version }.lacks().len(), count, "{version}");
        for (version, count) in [(0, 5), (1, 4), (2, 3), (4, 2), (5, 1), (6, 0), (9, 0)] {
            check(version, count);
        }
    }
}
