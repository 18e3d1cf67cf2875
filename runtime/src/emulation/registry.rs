//! The kernel's table of who runs which programs (`binfmt_misc`): one of a user namespace's own.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::architecture::Architecture;
use crate::sys::{self, Errno};

/// The table. While it is there, processes of its user namespace, and of those below it, run what is registered here and
/// nothing that the machine has registered. It is mounted nowhere and ends with this value.
#[derive(Debug)]
pub(super) struct Registry {
    table: OwnedFd,
    /// The user namespace, if it is not the one that this process is in.
    namespace: Option<Arc<OwnedFd>>,
}

/// How an interpreter is started: with the program as an open file (`O`), with the rights of the program, so that set-uid
/// ones work (`C`), and opened when it is registered, as it is not in the root of a step (`F`). With `P` it is told the name
/// that the program was called by, which only a newer QEMU (6.0) understands.
pub(super) const FLAGS: [&str; 2] = ["POCF", "OCF"];

impl Registry {
    /// An empty one for the user namespace that this process is in.
    pub(super) fn here() -> io::Result<Self> {
        Ok(Self { table: sys::own(new_table()?), namespace: None })
    }

    /// An empty one for a new user namespace, in which every id is what it is here.
    pub(super) fn apart() -> io::Result<Self> {
        Self::in_new_namespace(|pid| {
            for name in ["uid_map", "gid_map"] {
                let own = fs::read_to_string(format!("/proc/self/{name}"))?;
                fs::OpenOptions::new()
                    .write(true)
                    .open(format!("/proc/{pid}/{name}"))?
                    .write_all(identity(&own).as_bytes())?;
            }
            Ok(())
        })
    }

    /// Whether the kernel lets one be made: it is, in a user namespace without ids, and is gone again.
    pub(super) fn can_be_made() -> io::Result<()> {
        Self::in_new_namespace(|_| Ok(())).map(drop)
    }

    fn in_new_namespace(give_ids: impl FnOnce(RawFd) -> io::Result<()>) -> io::Result<Self> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let (answers, answer) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut maker = Maker { wait: wait.as_raw_fd(), answer: answer.as_raw_fd() };
        // With its descriptors shared, what it opens is open here.
        let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_FILES) as u64;
        let (pidfd, _) = sys::clone_container(flags, None, &mut maker, make_table)?;
        let (mut answers, mut go) = (fs::File::from(answers), fs::File::from(go));
        let made = (|| {
            let pid = next_number(&mut answers)?;
            give_ids(pid)?;
            let namespace = fs::File::open(format!("/proc/{pid}/ns/user"))?;
            go.write_all(&[1])?;
            match next_number(&mut answers)? {
                table @ 0.. => {
                    Ok(Self { table: sys::own(table), namespace: Some(Arc::new(namespace.into())) })
                }
                errno => Err(io::Error::from_raw_os_error(-errno)),
            }
        })();
        drop(go);
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
        made
    }

    /// The user namespace to enter, if it is not the one that this process is in.
    pub(super) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespace.as_ref().map(|namespace| namespace.as_fd())
    }

    /// The same, to be kept.
    pub(super) fn shared_namespace(&self) -> Option<Arc<OwnedFd>> {
        self.namespace.clone()
    }

    /// Lets `interpreter` run the programs of `architecture`.
    pub(super) fn add(&self, architecture: &Architecture, interpreter: &Path, flags: &str) -> io::Result<()> {
        self.write("register", &line(architecture, interpreter, flags))
    }

    /// Undoes [`Self::add`].
    pub(super) fn remove(&self, architecture: &Architecture) -> io::Result<()> {
        self.write(&entry(architecture), b"-1")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.table, name, flags, Mode::empty())?;
        // The kernel takes it in one piece or not at all.
        rustix::io::write(&file, bytes)?;
        Ok(())
    }
}

/// The process that makes a table in namespaces of its own. It makes only raw system calls: this process may have threads.
struct Maker {
    wait: RawFd,
    answer: RawFd,
}

fn make_table(maker: &mut Maker, _group: Option<RawFd>) -> ! {
    let made = (|| {
        // The thread that waits for it has its other ends: without that there is nobody to answer.
        sys::die_with_parent()?;
        sys::write(maker.answer, &(std::process::id() as i32).to_ne_bytes())?;
        if sys::read(maker.wait, &mut [0])? == 0 {
            return Err(Errno(libc::EPIPE));
        }
        new_table()
    })();
    let answer = match made {
        Ok(table) => table,
        Err(Errno(errno)) => -errno,
    };
    let _ = sys::write(maker.answer, &answer.to_ne_bytes());
    sys::exit(0)
}

/// Linux 6.7 is the first that has one for a user namespace; older ones have none but the machine's.
fn new_table() -> sys::Result<RawFd> {
    sys::new_mount(c"binfmt_misc", &[], 0)
}

fn next_number(answers: &mut fs::File) -> io::Result<i32> {
    let mut bytes = [0; 4];
    answers.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// The map of ids that makes of each what it is in the namespace that has the map `own`.
fn identity(own: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    };
    own.lines().filter_map(line).collect()
}

fn entry(architecture: &Architecture) -> String {
    format!("wharf-{}", architecture.qemu)
}

/// What is written to `register`. Fields are set apart by a character that no path has.
fn line(architecture: &Architecture, interpreter: &Path, flags: &str) -> Vec<u8> {
    const SEPARATOR: u8 = 1;
    let hex = |bytes: [u8; 20]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
    let (magic, mask) = architecture.magic();
    let (entry, magic, mask) = (entry(architecture), hex(magic), hex(mask));
    let fields: [&[u8]; 7] = [
        entry.as_bytes(),
        b"M",
        b"0",
        magic.as_bytes(),
        mask.as_bytes(),
        interpreter.as_os_str().as_bytes(),
        flags.as_bytes(),
    ];
    let mut line = vec![];
    for field in fields {
        line.push(SEPARATOR);
        line.extend_from_slice(field);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_what_they_are() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\nx\n"), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn a_registration_is_one_line() {
        let line = line(Architecture::named("arm64").unwrap(), Path::new("/q"), "OCF");
        let text = String::from_utf8(line).unwrap().replace('\u{1}', ":");
        assert_eq!(
            text,
            ":wharf-aarch64:M:0:\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:/q:OCF"
        );
    }
}
