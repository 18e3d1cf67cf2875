//! The builder's own process and the programs of the host that work for it, unconfined.

use std::io;
use std::process::{Child, Command};

/// Starts `command`; it is killed when the thread that calls this ends, however it does. So a killed builder leaves no
/// program behind that goes on writing.
pub fn spawn_on_host(command: &mut Command) -> io::Result<Child> {
    crate::sys::spawn_dying_with_parent(command)
}

/// Whether this process was started without a standard output. The standard library opens `/dev/null` in its place
/// before `main`, so that later nothing shows that what is written there is lost.
pub fn stdout_was_closed() -> bool {
    crate::sys::stdout_was_closed()
}

/// What would make a file longer than `ulimit -f` allows is an error from now on (EFBIG), and not the end of this process.
/// What is run in a container has the signal as usual.
pub fn survive_long_files() {
    // Without it there is one word less.
    let _ = crate::sys::ignore_signal(libc::SIGXFSZ);
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn it_runs_and_dies_with_its_thread() {
        assert!(spawn_on_host(&mut Command::new("true")).unwrap().wait().unwrap().success());
        let start = || spawn_on_host(Command::new("sleep").arg("1000")).unwrap();
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(spawn_on_host(&mut Command::new("/no/such/program")).is_err());
    }
}
