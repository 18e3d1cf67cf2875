//! The client's side of a process's streams: output to wherever it is wanted, and input, sizes and signals to the process.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::{Handle, Signals};

use super::connect::Connection;
use super::directory::Directory;
use super::protocol::{Answer, FrameKind, Request};
use crate::error::{Failure, Kind};

/// Input is passed on in pieces of this size.
const INPUT_BYTES: usize = 32 << 10;

/// Signals that are passed on to the process. Ctrl-Z is left to the client's own shell.
const PASSED_ON: [i32; 9] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCONT, SIGIO];

/// The keys that leave a process to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl DetachKeys {
    /// No keys do.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads `ctrl-p,ctrl-q`: characters, or `ctrl-` and a letter or one of `@[\]^_`, with commas between.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let key = |key: &str| match (key.strip_prefix("ctrl-").unwrap_or_default().as_bytes(), key.as_bytes())
        {
            ([letter @ b'a'..=b'z'], _) => Some(letter - b'a' + 1),
            ([sign @ (b'@' | b'['..=b'_')], _) => Some(sign - b'@'),
            (_, [character]) if character.is_ascii() => Some(*character),
            _ => None,
        };
        let keys = text.split(',').map(|text| {
            key(text).ok_or_else(|| {
                Failure::new(Kind::Usage, format!("--detach-keys: `{text}` is no key"))
                    .hint("keys are characters, or ctrl- with a letter or one of @[\\]^_: `ctrl-p,ctrl-q`")
            })
        });
        if text.is_empty() { Ok(Self::none()) } else { keys.collect::<Result<_, _>>().map(Self) }
    }
}

/// Where a process's streams lead here.
#[expect(missing_debug_implementations, reason = "holds what is written to")]
pub struct Ends<'a> {
    /// What it reads.
    pub stdin: Option<OwnedFd>,
    /// What it prints.
    pub stdout: &'a mut dyn Write,
    /// What it says.
    pub stderr: &'a mut dyn Write,
    /// Whether the process has a terminal: then `stdin` and what it is typed at is one here too.
    pub tty: bool,
    /// What leaves it to itself, when typed at a terminal.
    pub detach: DetachKeys,
    /// Signals for it.
    pub signals: Option<Collected>,
}

/// How following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The process ended, with this status.
    Exited(u8),
    /// The keys were typed.
    Detached,
    /// The monitor hung up without a word.
    HungUp,
}

/// Signals of this process that another one shall have. Collected from the moment this is made.
#[derive(Debug)]
pub struct Collected {
    signals: Signals,
}

impl Collected {
    /// Begins to collect: those that are passed on, and the one that tells of another size of the terminal.
    pub fn begin() -> io::Result<Self> {
        Ok(Self { signals: Signals::new(PASSED_ON.into_iter().chain([SIGWINCH]))? })
    }

    /// Only that one.
    pub fn sizes_alone() -> io::Result<Self> {
        Ok(Self { signals: Signals::new([SIGWINCH])? })
    }
}

/// The streams of a process.
#[derive(Debug)]
pub struct Stream {
    connection: Arc<Connection>,
    /// The container whose first process this is.
    first_of: Option<Directory>,
    /// Waits for the end of a monitor that this process has started.
    monitor: Option<JoinHandle<()>>,
}

impl Stream {
    /// Those of the first process of a container; `monitor` waits for the end of its monitor, if that is this process's child.
    pub(super) fn of_first(
        connection: Connection,
        directory: &Directory,
        monitor: Option<JoinHandle<()>>,
    ) -> Self {
        Self { connection: Arc::new(connection), first_of: Some(directory.clone()), monitor }
    }

    /// Those of a further process.
    pub(super) fn of_further(connection: Connection) -> Self {
        Self { connection: Arc::new(connection), first_of: None, monitor: None }
    }

    /// Follows the process until it ends, or until somebody types the keys that leave it alone. Of a container that is
    /// removed at its end nothing is left when this returns.
    pub fn follow(self, ends: Ends<'_>) -> Result<Ended, Failure> {
        let failed =
            |error: io::Error| Failure::from_error(Kind::Environment, "cannot follow the container", &error);
        let ended = self.run(ends).map_err(failed)?;
        if let (Ended::Exited(_) | Ended::HungUp, Some(monitor)) = (ended, self.monitor) {
            // It has nothing to say.
            let _ = monitor.join();
        }
        Ok(ended)
    }

    fn run(&self, ends: Ends<'_>) -> io::Result<Ended> {
        let Ends { stdin, stdout, stderr, tty, detach, signals } = ends;
        let passes_signals = signals.is_some();
        let _raw = match &stdin {
            Some(stdin) if tty => Raw::enter(stdin)?,
            _ => None,
        };
        let (stop, wake) = io::pipe()?;
        let _signals = signals.map(|signals| self.pass_signals(signals)).transpose()?;
        let input = stdin
            .map(|stdin| {
                let connection = Arc::clone(&self.connection);
                let detach = if tty { detach } else { DetachKeys::none() };
                thread::Builder::new()
                    .name("stdin".to_owned())
                    .spawn(move || pass_input(stdin.into(), stop.as_fd(), &connection, detach))
            })
            .transpose()?;
        let mut ended = self.print(stdout, stderr, passes_signals)?;
        drop(wake);
        // A thread that has panicked has not seen the keys.
        let left = input.is_some_and(|input| input.join().unwrap_or(false));
        if left && ended == Ended::HungUp {
            ended = Ended::Detached;
        }
        Ok(ended)
    }

    /// Prints what comes, until the end.
    fn print(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
        passes_signals: bool,
    ) -> io::Result<Ended> {
        let mut is_read = true;
        loop {
            let frame = match self.connection.receive() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(Ended::HungUp),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Ok(Ended::HungUp);
                }
                Err(error) => return Err(error),
            };
            let out: &mut dyn Write = match frame.kind {
                FrameKind::Stdout => stdout,
                FrameKind::Stderr => stderr,
                FrameKind::Answer => match serde_json::from_slice(&frame.payload)? {
                    Answer::Exited(status) => return Ok(Ended::Exited(status)),
                    Answer::Failed { message, .. } => return Err(io::Error::other(message)),
                    _ => continue,
                },
                _ => continue,
            };
            if !is_read {
                continue;
            }
            match out.write_all(&frame.payload).and_then(|()| out.flush()) {
                Ok(()) => {}
                // What would become of the process if it printed there itself.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && passes_signals => {
                    is_read = false;
                    let _ = self.messenger().send(SIGPIPE);
                }
                // That is no fault of the store's disk.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(io::Error::other(format!("what it prints cannot be written: {error}")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn messenger(&self) -> Messenger {
        Messenger { connection: Arc::clone(&self.connection), first_of: self.first_of.clone() }
    }

    fn pass_signals(&self, collected: Collected) -> io::Result<Closing> {
        let Collected { mut signals } = collected;
        let closing = Closing(signals.handle());
        let connection = Arc::clone(&self.connection);
        let messenger = self.messenger();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let sent = match (signal, terminal_size()) {
                    (SIGWINCH, Some((rows, columns))) => {
                        let [a, b] = rows.to_be_bytes();
                        let [c, d] = columns.to_be_bytes();
                        connection.send(FrameKind::Resize, &[a, b, c, d])
                    }
                    (SIGWINCH, None) => Ok(()),
                    (signal, _) => messenger.send(signal),
                };
                if sent.is_err() {
                    return;
                }
            }
        })?;
        Ok(closing)
    }
}

/// Sends signals to the process.
struct Messenger {
    connection: Arc<Connection>,
    first_of: Option<Directory>,
}

impl Messenger {
    fn send(&self, signal: i32) -> io::Result<()> {
        match &self.first_of {
            // By a way of its own: input that the process does not read is in the way of everything behind it.
            Some(directory) => {
                let asked = File::open(directory.path()).and_then(|place| Connection::open(&place));
                // One that has ended needs none; the end comes with its output.
                let Ok(asked) = asked else { return Ok(()) };
                // What becomes of it is seen. The next one comes after this one.
                let _ = asked.request(&Request::Signal(signal)).and_then(|()| asked.receive_answer());
                Ok(())
            }
            None => self.connection.send(FrameKind::Signal, &[signal as u8]),
        }
    }
}

/// Rows and columns of the terminal of this process.
pub fn terminal_size() -> Option<(u16, u16)> {
    let size =
        tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Ends the thread of the signals.
struct Closing(Handle);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A terminal that passes on every key as it is.
struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// None if it is no terminal.
    fn enter(terminal: &OwnedFd) -> io::Result<Option<Self>> {
        let Ok(before) = tcgetattr(terminal) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal: terminal.try_clone()?, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Passes on what is typed until it ends, or `stop` hangs up, or the keys are typed: then it hangs up and says so.
fn pass_input(mut stdin: File, stop: BorrowedFd<'_>, connection: &Connection, keys: DetachKeys) -> bool {
    let mut keys = Keys { keys: keys.0, seen: 0 };
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let mut both = [PollFd::new(&stdin, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match poll(&mut both, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) if !both[1].revents().is_empty() => return false,
            Ok(_) => {}
        }
        let count = match stdin.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that is gone, or one that belongs to somebody else now.
            Err(_) => 0,
        };
        let (typed, leaves) = keys.take(&buffer[..count]);
        // What was held back of keys is input after all when nothing follows.
        let typed = if count == 0 { keys.rest() } else { typed };
        let sent = if typed.is_empty() { Ok(()) } else { connection.send(FrameKind::Stdin, &typed) };
        if leaves {
            connection.hang_up();
            return true;
        }
        if count == 0 {
            // Nobody listens any more when this fails.
            let _ = connection.send(FrameKind::Stdin, &[]);
            return false;
        }
        if sent.is_err() {
            return false;
        }
    }
}

/// Looks for keys in what is typed.
struct Keys {
    keys: Vec<u8>,
    /// How many of them were typed last.
    seen: usize,
}

impl Keys {
    /// What is to be passed on, and whether all the keys were typed.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend(self.rest());
            match self.keys.first() == Some(byte) {
                true => self.seen = 1,
                false => passed.push(*byte),
            }
        }
        (passed, false)
    }

    /// What was held back.
    fn rest(&mut self) -> Vec<u8> {
        self.keys[..std::mem::take(&mut self.seen)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        let check = |text: &str, expected: &[u8]| {
            assert_eq!(DetachKeys::parse(text).map(|keys| keys.0).ok().as_deref(), Some(expected), "{text}");
        };
        check("ctrl-p,ctrl-q", &[16, 17]);
        check("a", b"a");
        check("ctrl-@,ctrl-[,ctrl-_,ctrl-\\", &[0, 27, 31, 28]);
        check("", &[]);
        for text in ["ctrl-", "ctrl-P", "ab", "a,,b", "ctrl-1", "ä"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").ok(), Some(DetachKeys::default()));
    }

    #[test]
    fn keys_are_seen_and_everything_else_passes() {
        let check = |typed: &[&[u8]], passed: &[u8], leaves: bool| {
            let mut keys = Keys { keys: vec![1, 2, 3], seen: 0 };
            let (mut all, mut left) = (Vec::new(), false);
            for typed in typed {
                let (passed, leaves) = keys.take(typed);
                all.extend(passed);
                left |= leaves;
            }
            assert_eq!((all.as_slice(), left), (passed, leaves), "{typed:?}");
        };
        check(&[b"abc"], b"abc", false);
        check(&[&[1, 2, 3]], &[], true);
        check(&[b"a", &[1], &[2], &[3]], b"a", true);
        check(&[&[1, 2, 9]], &[1, 2, 9], false);
        check(&[&[1, 1, 2, 3]], &[1], true);
        check(&[&[1, 2], b"x", &[1, 2, 3]], &[1, 2, b'x'], true);
        let mut none = Keys { keys: Vec::new(), seen: 0 };
        assert_eq!(none.take(&[16, 17]), (vec![16, 17], false));
    }
}
