//! The builder's own process and the programs of the host that work for it, unconfined.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command};

/// What a program of the host and all that it started live by: dropped, or gone with the builder, it takes them along.
#[derive(Debug)]
pub struct Lifeline {
    _pipe: OwnedFd,
}

/// Starts `command` in a process group of its own. The group is killed when its lifeline ends, so that a killed builder
/// leaves no program behind that goes on writing, or waits for somebody.
pub fn spawn_on_host(command: &mut Command) -> io::Result<(Child, Lifeline)> {
    let (child, pipe) = crate::sys::spawn_group_with_lifeline(command)?;
    Ok((child, Lifeline { _pipe: pipe }))
}

/// Goes on with `work` in a copy of this process, in a session of its own, which ends with the status that `work` gives; this
/// process goes on as well. Only while the process has one thread.
pub fn in_background(work: impl FnOnce() -> u8) -> io::Result<()> {
    let in_session = || {
        // Who has just been made leads no group, so it cannot fail.
        let _ = crate::sys::setsid();
        i32::from(work())
    };
    crate::sys::fork(in_session).map(drop)
}

/// Starts `command` in a session of its own, with these descriptors from 3 on. It has none of this process's others but the
/// standard streams that the command says, and does not end with this process.
pub fn spawn_apart(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<Child> {
    crate::sys::spawn_apart(command, descriptors)
}

/// The descriptor that this process was started with ([`spawn_apart`]), once: whoever has it closes it.
pub fn take_given_descriptor() -> io::Result<OwnedFd> {
    crate::sys::take_given_descriptor()
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
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn what_is_started_apart_has_what_it_is_given_and_nothing_else() {
        // What another program would have left open for whoever comes after it.
        let (left_open, _other) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&left_open, rustix::io::FdFlags::empty()).unwrap();
        let (mut answer, write) = std::io::pipe().unwrap();
        let (_read, second) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "ls -C /proc/self/fd >&3; ps -o sid= -p $$ >&3; echo $$ >&3"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn_apart(&mut command, &[write.as_fd(), second.as_fd()]).unwrap();
        drop(write);
        let mut said = String::new();
        answer.read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        // 5 is the directory that `ls` reads.
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(lines[1], lines[2], "it leads its session");
        assert!(spawn_apart(&mut Command::new("/no/such/program"), &[second.as_fd()]).is_err());
    }

    #[test]
    fn it_runs_and_dies_with_its_lifeline_and_takes_what_it_started_along() {
        let (mut child, lifeline) = spawn_on_host(&mut Command::new("true")).unwrap();
        assert!(child.wait().unwrap().success());
        drop(lifeline);
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo; exec sleep 1000"]).stdout(Stdio::piped());
        // Not with the thread that started it.
        let (mut child, lifeline) =
            std::thread::spawn(move || spawn_on_host(&mut command).unwrap()).join().unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(lifeline);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        // The other one had the pipe as well.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
        assert!(spawn_on_host(&mut Command::new("/no/such/program")).is_err());
    }
}
