//! Finding out whether programs of an architecture run: by running one as a step would, in a root where nothing else is.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::architecture::Architecture;
use crate::sys;

/// How often the program is started anew that some process still has open for writing: one that was forked while it was
/// written, and is about to execute something else.
const ATTEMPTS_MAX: u32 = 100;

/// Pause before that.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether the program runs, and is given the arguments that it was called with. `dir` is made for it and removed.
pub(super) fn runs(
    architecture: &Architecture,
    namespace: Option<BorrowedFd<'_>>,
    dir: &Path,
) -> io::Result<bool> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let ran = try_to_run(architecture, namespace, dir, None);
    fs::remove_dir_all(dir)?;
    ran
}

/// Whether `qemu` would run the program if it was registered for it: it is started as the kernel would start it, opened
/// outside of the root in which it runs.
pub(super) fn would_run(architecture: &Architecture, qemu: &Path, dir: &Path) -> io::Result<bool> {
    let qemu = fs::File::open(qemu)?;
    fs::create_dir(dir)?;
    let ran = try_to_run(architecture, None, dir, Some(&qemu));
    fs::remove_dir_all(dir)?;
    ran
}

fn try_to_run(
    architecture: &Architecture,
    namespace: Option<BorrowedFd<'_>>,
    dir: &Path,
    qemu: Option<&fs::File>,
) -> io::Result<bool> {
    const NAME: &str = "program";
    const PATH: &CStr = c"/program";
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(dir.join(NAME))?;
    file.write_all(&architecture.program())?;
    drop(file);
    let root = fs::File::open(dir)?;
    let namespace = namespace.map(|namespace| namespace.as_raw_fd());
    let start = || {
        let mut command = Command::new(format!("/{NAME}"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::spawn_in(&mut command, namespace, root.as_raw_fd(), qemu.map(|qemu| (qemu.as_raw_fd(), PATH)))
    };
    let mut attempts = 0;
    let mut child = loop {
        match start() {
            Ok(child) => break child,
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                thread::sleep(PAUSE);
            }
            Err(error) if does_not_run(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    };
    // Its name is its only argument, unless `spawn_in` gives it two more.
    let arguments = if qemu.is_some() { 3 } else { 1 };
    Ok(child.wait()?.code() == Some(arguments))
}

/// Whether it is the program that is at fault: nobody runs it, or who would is not in its root, or is not allowed to.
fn does_not_run(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOEXEC | libc::ENOENT | libc::EACCES | libc::ELIBBAD | libc::EINVAL | libc::ELOOP)
    )
}
