//! Why a sandbox is not available: the primitive that failed, and what in the place makes it fail.

use std::fmt;
use std::path::Path;

use super::place::{Place, read};

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Call {
    /// A process was to be made.
    Fork,
    /// A user namespace was to be made.
    UserNamespace,
    /// User ids were to be mapped.
    UidMap,
    /// Group ids were to be mapped.
    GidMap,
    /// Changing groups was to be forbidden in the user namespace.
    Setgroups,
    /// A mount namespace was to be made.
    MountNamespace,
    /// Something was to be mounted.
    Mount,
    /// The user namespace was to be entered.
    Join,
    /// The root directory was to be changed.
    Chroot,
    /// A process's system calls were to be answered by another.
    Listener,
    /// One was to be answered with a descriptor.
    AnswerDescriptor,
}

impl Call {
    const ALL: [Self; 11] = [
        Self::Fork,
        Self::UserNamespace,
        Self::UidMap,
        Self::GidMap,
        Self::Setgroups,
        Self::MountNamespace,
        Self::Mount,
        Self::Join,
        Self::Chroot,
        Self::Listener,
        Self::AnswerDescriptor,
    ];

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|call| *call as u8 == number).unwrap_or(Self::Fork)
    }

    /// The call, as manuals write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork()",
            Self::UserNamespace => "unshare(CLONE_NEWUSER)",
            Self::UidMap => "write to uid_map",
            Self::GidMap => "write to gid_map",
            Self::Setgroups => "write to setgroups",
            Self::MountNamespace => "unshare(CLONE_NEWNS)",
            Self::Mount => "mount()",
            Self::Join => "setns(CLONE_NEWUSER)",
            Self::Chroot => "chroot()",
            Self::Listener => "seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)",
            Self::AnswerDescriptor => "ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)",
        }
    }

    fn refused(self) -> &'static str {
        match self {
            Self::Fork => "no process can be made",
            Self::UserNamespace => "user namespaces are refused",
            Self::UidMap | Self::GidMap | Self::Setgroups => "ids cannot be mapped in a user namespace",
            Self::MountNamespace => "mount namespaces are refused",
            Self::Mount => "mounting is refused",
            Self::Join => "the user namespace cannot be entered",
            Self::Chroot => "changing the root directory is refused",
            Self::Listener | Self::AnswerDescriptor => "system calls of steps cannot be answered",
        }
    }
}

/// What in the place makes a call fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The seccomp filter that the process is under.
    Seccomp,
    /// `user.max_user_namespaces`, or namespaces nested too deep.
    MaxUserNamespaces,
    /// `kernel.unprivileged_userns_clone` (Debian).
    UnprivilegedUsernsClone,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    AppArmorRestriction,
    /// The AppArmor profile that the process is under.
    AppArmorProfile,
    /// A kernel without user namespaces.
    Kernel,
    /// The process is in a chroot.
    InChroot,
    /// A kernel that is too old for it.
    OldKernel,
    /// Another program answers system calls of this process already.
    Supervised,
    /// A capability of the map's writer.
    MissingCapability(&'static str),
    /// It cannot be told.
    Unknown,
}

/// What is wrong with `newuidmap` or `newgidmap`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelperProblem {
    /// It is not installed.
    Missing,
    /// It has neither the set-user-id bit nor file capabilities, or its file system ignores them.
    NotPrivileged,
    /// no_new_privs takes the bit's effect away.
    NoNewPrivileges,
    /// The capabilities that it needs are not in the bounding set.
    Bounded,
    /// What it said when it failed.
    Failed(String),
}

/// Why a sandbox is not available.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// It takes uid 0.
    NotRoot {
        /// The uid that it is.
        uid: u32,
    },
    /// It takes capabilities that the process does not have.
    Capabilities {
        /// Their names.
        missing: Vec<String>,
    },
    /// It takes capabilities that uid 0 would not have here either.
    Bounded {
        /// Their names.
        missing: Vec<String>,
    },
    /// A call failed.
    Refused {
        /// Which.
        call: Call,
        /// With what error number.
        errno: i32,
        /// And why, as far as that can be told.
        cause: Cause,
    },
    /// The process that tried was killed.
    Killed,
    /// A helper program is of no use.
    Helper {
        /// Its name.
        program: String,
        /// What is wrong with it.
        problem: HelperProblem,
    },
    /// The user has no entry in `/etc/passwd`, so that nothing can be granted to it by name.
    NoPasswdEntry {
        /// The user.
        uid: u32,
    },
    /// The user has no subordinate ids.
    NoSubordinateIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user.
        user: String,
    },
    /// `/proc` is not mounted.
    NoProc,
    /// The process has several threads, and cannot enter a user namespace any more.
    Threads,
}

impl Obstacle {
    pub(super) fn refused(call: Call, errno: i32, place: &Place) -> Self {
        Self::Refused { call, errno, cause: cause(call, errno, place) }
    }

    /// The error number, where a call gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn cause(call: Call, errno: i32, place: &Place) -> Cause {
    let is = |path: &str, value: &str| read(Path::new(path)).trim() == value;
    let refused = matches!(errno, libc::EPERM | libc::EACCES);
    match call {
        Call::Listener if errno == libc::EBUSY => Cause::Supervised,
        Call::Listener | Call::AnswerDescriptor if errno == libc::EINVAL => Cause::OldKernel,
        Call::Listener | Call::AnswerDescriptor if place.filtered => Cause::Seccomp,
        Call::UserNamespace if matches!(errno, libc::EINVAL | libc::ENOSYS) && !place.filtered => {
            Cause::Kernel
        }
        Call::UserNamespace if matches!(errno, libc::ENOSPC | libc::EUSERS) => Cause::MaxUserNamespaces,
        Call::UserNamespace if is("/proc/sys/kernel/unprivileged_userns_clone", "0") => {
            Cause::UnprivilegedUsernsClone
        }
        Call::UserNamespace | Call::MountNamespace | Call::Mount | Call::Chroot
            if place.filtered && (refused || errno == libc::ENOSYS) =>
        {
            Cause::Seccomp
        }
        Call::UserNamespace | Call::MountNamespace | Call::Mount | Call::UidMap | Call::GidMap
            if refused && is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") =>
        {
            Cause::AppArmorRestriction
        }
        Call::Mount | Call::UserNamespace | Call::Chroot if refused && is_confined() => {
            Cause::AppArmorProfile
        }
        Call::UidMap | Call::GidMap if refused && place.uid == 0 => {
            let missing = [
                (oci_spec::runtime::Capability::Setfcap, "CAP_SETFCAP"),
                (oci_spec::runtime::Capability::Setuid, "CAP_SETUID"),
                (oci_spec::runtime::Capability::Setgid, "CAP_SETGID"),
            ];
            let missing = missing.iter().find(|(capability, _)| !place.effective.contains(*capability));
            missing.map_or(Cause::Unknown, |(_, name)| Cause::MissingCapability(name))
        }
        Call::UserNamespace if refused && is_in_chroot() => Cause::InChroot,
        _ => Cause::Unknown,
    }
}

/// Whether an AppArmor profile holds for this process.
fn is_confined() -> bool {
    let profile = read_special("/proc/self/attr/apparmor/current")
        .or_else(|| read_special("/proc/self/attr/current"))
        .unwrap_or_default();
    let profile = profile.trim_end_matches(['\0', '\n']);
    profile.ends_with("(enforce)")
}

/// Files of `/proc` have no size.
fn read_special(path: &str) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether `/` is not the root of a mount, which it is but in a chroot.
fn is_in_chroot() -> bool {
    let mounts = read_special("/proc/self/mountinfo").unwrap_or_default();
    !mounts.is_empty() && !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// The name of an error number that a place answers with.
pub fn errno_name(errno: i32) -> String {
    const NAMES: [(i32, &str); 14] = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EIO, "EIO"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::ENODEV, "ENODEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EUSERS, "EUSERS"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    ];
    let name = NAMES.iter().find(|(number, _)| *number == errno);
    name.map_or_else(|| format!("error {errno}"), |(_, name)| (*name).to_owned())
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot { uid } => write!(f, "it takes uid 0, and this is uid {uid}"),
            Self::Capabilities { missing } => write!(f, "this process lacks {}", missing.join(", ")),
            Self::Bounded { missing } => {
                write!(f, "uid 0 would lack {} here: the bounding set leaves them out", missing.join(", "))
            }
            Self::Refused { call, errno, cause } => {
                write!(f, "{}: {} gives {}", call.refused(), call.name(), errno_name(*errno))?;
                match cause {
                    Cause::Seccomp => f.write_str(" (a seccomp filter is on this process)"),
                    Cause::MaxUserNamespaces => {
                        f.write_str(" (the sysctl user.max_user_namespaces allows no more)")
                    }
                    Cause::UnprivilegedUsernsClone => {
                        f.write_str(" (the sysctl kernel.unprivileged_userns_clone is 0)")
                    }
                    Cause::AppArmorRestriction => {
                        f.write_str(" (the sysctl kernel.apparmor_restrict_unprivileged_userns is 1)")
                    }
                    Cause::AppArmorProfile => f.write_str(" (an AppArmor profile is on this process)"),
                    Cause::Kernel => f.write_str(" (the kernel was built without user namespaces)"),
                    Cause::OldKernel => f.write_str(" (the kernel is too old for it)"),
                    Cause::Supervised => {
                        f.write_str(" (another program answers system calls of this process already)")
                    }
                    Cause::InChroot => f.write_str(" (this process is in a chroot)"),
                    Cause::MissingCapability(name) => write!(f, " (this process lacks {name})"),
                    Cause::Unknown => Ok(()),
                }
            }
            Self::Killed => f.write_str("the process that tried was killed (by a seccomp filter, it seems)"),
            Self::Helper { program, problem } => match problem {
                HelperProblem::Missing => write!(f, "the program {program} is not installed"),
                HelperProblem::NotPrivileged => {
                    write!(f, "{program} has neither the set-user-id bit nor file capabilities that count")
                }
                HelperProblem::NoNewPrivileges => {
                    write!(f, "no_new_privs is set on this process, so that {program} gets no privileges")
                }
                HelperProblem::Bounded => write!(
                    f,
                    "CAP_SETUID and CAP_SETGID are not in the bounding set of this process, so that {program} \
                     cannot get them"
                ),
                HelperProblem::Failed(said) => write!(f, "{program} failed: {said}"),
            },
            Self::NoPasswdEntry { uid } => {
                write!(f, "uid {uid} has no entry in /etc/passwd, which newuidmap goes by")
            }
            Self::NoSubordinateIds { file, user } => {
                write!(f, "the user {user} has no subordinate ids in {file}")
            }
            Self::NoProc => f.write_str("`/proc` is not mounted here, which every sandbox goes by"),
            Self::Threads => f.write_str("the process has threads already"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_their_numbers() {
        for call in Call::ALL {
            assert_eq!(Call::from_number(call as u8), call);
        }
        assert_eq!(Call::from_number(255), Call::Fork);
    }

    #[test]
    fn obstacles_name_what_failed() {
        let refused =
            Obstacle::Refused { call: Call::UserNamespace, errno: libc::EPERM, cause: Cause::Seccomp };
        assert_eq!(
            refused.to_string(),
            "user namespaces are refused: unshare(CLONE_NEWUSER) gives EPERM (a seccomp filter is on this process)"
        );
        assert_eq!(refused.errno(), Some(libc::EPERM));
        assert_eq!(errno_name(4095), "error 4095");
    }
}
