//! Other users and groups where there is one: what the kernel refuses a step in a user namespace with a single id.
//!
//! Every process of the step is user 0 of the namespace and every file belongs to it, whatever the step does. What it
//! asked for is remembered instead: for processes in [`identities`], for files by [`Ownership`]; and whoever asks is told
//! what was asked for. So package managers, `useradd`, `tar -x`, `install -o`, `su` and `sudo` do what they do elsewhere,
//! and the layer has the owners that it would have had.
//!
//! | calls | answer |
//! |---|---|
//! | `setuid` and its relations, `getuid` and its, `execve` of set-id programs | [`ids`], by the kernel's rules |
//! | `chown`, `chmod`, `access`, times of links | [`owner`] |
//! | `stat` and its relations | [`stat`]: owners and devices as recorded |
//! | `open` to make something or to write, `mkdir`, `symlink`, `mknod`, `bind` | [`create`]: who makes it owns it; devices are recorded |
//! | `rename`, `link`, `unlink`, `rmdir`, `truncate` | [`change`]: if the modes of directory and file let it |
//! | extended attributes | [`attributes`]: those that records consist of are not there |
//!
//! What is not done: a process that has become another user still reads every file that exists, as the kernel knows but
//! one user; and programs of 32 bits are not asked about.

mod attributes;
mod change;
mod create;
mod credentials;
mod identities;
mod ids;
mod owner;
mod rules;
mod stat;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::call::{Call, OpenHow};
use super::ownership::Ownership;
use super::paths::{self, Links};
use super::{Answer, Handler};
use crate::RuntimeError;
use crate::seccomp::{self, Filter};

pub(crate) use credentials::Credentials;
pub(crate) use identities::{FIRST, LIMIT};
pub(crate) use rules::RULES;

use identities::Identities;
use ids::Execution;
use owner::Times;

/// `AT_FDCWD` as an argument.
const CWD: i32 = libc::AT_FDCWD;

/// The filter for [`RULES`], which never changes.
pub(crate) fn filter() -> Result<Arc<Filter>, RuntimeError> {
    static FILTER: OnceLock<Arc<Filter>> = OnceLock::new();
    seccomp::notify::filter_once(&FILTER, RULES)
}

/// What the supervisor of one step knows.
pub(crate) struct Emulation<'a> {
    ownership: &'a dyn Ownership,
    identities: Identities,
    /// What threads are about to execute, by their numbers.
    executions: HashMap<i32, Execution>,
}

impl<'a> Emulation<'a> {
    /// For a step that begins as `first`.
    pub(crate) fn new(ownership: &'a dyn Ownership, first: Credentials) -> Self {
        Self { ownership, identities: Identities::new(first), executions: HashMap::new() }
    }
}

impl Handler for Emulation<'_> {
    fn answer(&mut self, call: &Call<'_>) -> Result<Answer, Errno> {
        self.settle(call)?;
        let links = |index| Links::unless_kept(call.word(index));
        match call.name {
            "stat" => self.stat(call, &path(call, 0, Links::Follow), 1),
            "lstat" => self.stat(call, &path(call, 0, Links::Keep), 1),
            "fstat" => self.stat(call, &Target::Descriptor(call.int(0)), 1),
            "newfstatat" => self.stat(call, &path_at(call, links(3), 3), 2),
            "statx" => self.statx(call, &path_at(call, links(2), 2)),

            "chown" => self.chown(call, &path(call, 0, Links::Follow), 1),
            "lchown" => self.chown(call, &path(call, 0, Links::Keep), 1),
            "fchown" => self.chown(call, &Target::Descriptor(call.int(0)), 1),
            "fchownat" => self.chown(call, &path_at(call, links(4), 4), 2),
            "chmod" => self.chmod(call, &path(call, 0, Links::Follow), 1),
            "fchmod" => self.chmod(call, &Target::Descriptor(call.int(0)), 1),
            "fchmodat" => self.chmod(call, &path_from(call, Links::Follow, 0), 2),
            "fchmodat2" => self.chmod(call, &path_at(call, links(3), 3), 2),
            "utimensat" if call.argument(1) == 0 => {
                self.set_times(call, &Target::Descriptor(call.int(0)), 2, Times::Nanoseconds)
            }
            "utimensat" => self.set_times(call, &path_at(call, links(3), 3), 2, Times::Nanoseconds),
            "futimesat" => self.set_times(call, &path_from(call, Links::Follow, 0), 2, Times::Microseconds),
            "utimes" => self.set_times(call, &path(call, 0, Links::Follow), 1, Times::Microseconds),
            "utime" => self.set_times(call, &path(call, 0, Links::Follow), 1, Times::Seconds),
            "access" => self.access(call, &path(call, 0, Links::Follow), 1, 0),
            "faccessat" => self.access(call, &path_from(call, Links::Follow, 0), 2, 0),
            "faccessat2" => self.access(call, &path_at(call, links(3), 3), 2, call.word(3)),

            "open" => self.open(call, CWD, 0, OpenHow::new(call.argument(1), call.argument(2))),
            "openat" => self.open(call, call.int(0), 1, OpenHow::new(call.argument(2), call.argument(3))),
            "openat2" => self.open(call, call.int(0), 1, OpenHow::read(call, call.argument(2))?),
            "creat" => self.open(call, CWD, 0, OpenHow::creat(call.argument(1))),
            "mkdir" => self.mkdir(call, CWD, 0),
            "mkdirat" => self.mkdir(call, call.int(0), 1),
            "symlink" => self.symlink(call, CWD, 1),
            "symlinkat" => self.symlink(call, call.int(1), 2),
            "mknod" => self.mknod(call, CWD, 0),
            "mknodat" => self.mknod(call, call.int(0), 1),
            "bind" => self.bind(call),

            "truncate" => self.truncate(call),
            "rename" => self.rename(call, (CWD, 0), (CWD, 1)),
            "renameat" | "renameat2" => self.rename(call, (call.int(0), 1), (call.int(2), 3)),
            "link" => self.link(call, CWD, 1),
            "linkat" => self.link(call, call.int(2), 3),
            "unlink" | "rmdir" => self.remove(call, CWD, 0),
            "unlinkat" => self.remove(call, call.int(0), 1),

            "getxattr" | "lgetxattr" | "fgetxattr" | "removexattr" | "lremovexattr" | "fremovexattr" => {
                self.read_attribute(call)
            }
            "setxattr" | "lsetxattr" | "fsetxattr" => self.set_attribute(call),
            "listxattr" => self.list_attributes(call, &path(call, 0, Links::Follow)),
            "llistxattr" => self.list_attributes(call, &path(call, 0, Links::Keep)),
            "flistxattr" => self.list_attributes(call, &Target::Descriptor(call.int(0))),

            "execve" => self.execute(call, &path(call, 0, Links::Follow)),
            "execveat" => self.execute(call, &path_at(call, links(4), 4)),
            _ => self.ids(call),
        }
    }
}

/// The file that a call is about.
#[derive(Debug)]
enum Target {
    Descriptor(i32),
    Path { fd: i32, address: u64, links: Links, flags: u32 },
}

/// The path that argument `index` points to, from the working directory on.
fn path(call: &Call<'_>, index: usize, links: Links) -> Target {
    Target::Path { fd: CWD, address: call.argument(index), links, flags: 0 }
}

/// The path that the second argument points to, from the descriptor on that the first one is, with `flags` (`AT_*`).
fn path_from(call: &Call<'_>, links: Links, flags: u32) -> Target {
    Target::Path { fd: call.int(0), address: call.argument(1), links, flags }
}

/// The same with flags in argument `flags`.
fn path_at(call: &Call<'_>, links: Links, flags: usize) -> Target {
    path_from(call, links, call.word(flags))
}

impl Target {
    /// Opens it as a place.
    fn open(&self, call: &Call<'_>) -> Result<OwnedFd, Errno> {
        match *self {
            Self::Descriptor(fd) => paths::descriptor(call, fd),
            Self::Path { fd, address, links, flags } => {
                // No path at all is as good as an empty one, where that is allowed.
                let path = if address == 0 { CString::default() } else { call.string(address)? };
                paths::resolve(call, fd, &path, links, flags)
            }
        }
    }
}
