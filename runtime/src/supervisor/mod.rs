//! Answers for the kernel: some system calls of a step come to a thread of the builder instead.
//!
//! The step's process installs a filter ([`crate::seccomp::notify`]) whose listener it sends over a socket. [`Supervisor`]
//! is a thread that takes the listener and answers every call that comes, with a [`Handler`], until nobody is left
//! who could make one. One call is answered at a time, and no answer waits for anything but the file system, so no
//! process holds up another.
//!
//! **What this is not: a boundary.** A call that goes on after it was looked at ([`Answer::Continue`]) can have changed
//! meanwhile, and programs of other architectures are not asked about. A step that tricks its supervisor changes what it
//! is shown, not what the kernel lets it do. What has to hold is the other direction: the supervisor may have rights
//! that the step has not, so it touches files only through the step's own root ([`paths`]), believes no address, name or
//! number, keeps nothing without a limit, and acts on a process only while its call is known to wait.

pub(crate) mod call;
pub(crate) mod emulation;
pub(crate) mod ownership;
pub(crate) mod paths;

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use self::call::{Call, Processes};
use crate::RuntimeError;
use crate::seccomp::notify::{self, Names, Rule};
use crate::sys;

/// What a supervisor answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The call succeeds with this value.
    Value(i64),
    /// The kernel does the call as if nobody had asked.
    Continue,
    /// The call succeeds with a new descriptor for this file. The kernel makes it and answers in one step.
    Descriptor {
        /// The file.
        file: OwnedFd,
        /// Whether `exec` closes it.
        close_on_exec: bool,
    },
}

/// Knows the answers.
pub(crate) trait Handler {
    /// Answers `call`; an error number is the call's failure. Must not wait for any process.
    fn answer(&mut self, call: &Call<'_>) -> Result<Answer, Errno>;

    /// Whether it makes files for the step, with the step's umask. A place may forbid a thread an umask of its own.
    fn makes_files(&self) -> bool {
        true
    }
}

/// A socket that the listener comes over: the supervisor's end and the step's.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|source| step("make a socket for the supervisor", source))
}

/// A thread that answers the calls of a step. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// Closed, it ends the thread.
    running: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Answers the calls of `rules` with `handler`. `socket` is the supervisor's end of a [`channel`].
    pub(crate) fn start(
        socket: OwnedFd,
        rules: &[Rule],
        mut handler: impl Handler + Send + 'static,
    ) -> Result<Self, RuntimeError> {
        let names = notify::names(rules);
        let processes = Processes::open()?;
        let (stop, running) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|source| step("make a pipe for the supervisor", source))?;
        let supervise = move || {
            // Its failure is the step's too: the listener goes, and every call that nobody answers fails.
            let _ = serve(&socket, &stop, &names, &processes, &mut handler);
        };
        let thread = std::thread::Builder::new().name("supervisor".to_owned());
        let thread = thread.spawn(supervise).map_err(|source| RuntimeError::Step {
            step: "start the supervisor's thread".to_owned(),
            source,
        })?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }
}

impl Supervisor {
    /// Whether nobody is left who could ask.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.running = None;
        // A panic has been told of already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn step(what: &str, source: Errno) -> RuntimeError {
    RuntimeError::Step { step: what.to_owned(), source: source.into() }
}

/// Takes the listener and answers until nobody can call any more, or until `stop` is closed at its other end.
fn serve(
    socket: &OwnedFd,
    stop: &OwnedFd,
    names: &Names,
    processes: &Processes,
    handler: &mut dyn Handler,
) -> io::Result<()> {
    // The umask is the thread's own, so that files can be made for a step with the step's.
    if handler.makes_files() {
        sys::notify::own_umask()?;
    }
    if wait(socket.as_fd(), stop.as_fd())? == Ready::Stop {
        return Ok(());
    }
    let Some((_, listener)) = receive_descriptor(socket.as_fd(), RecvFlags::empty())? else { return Ok(()) };
    let listener = listener.as_fd();
    // An older kernel takes a little longer.
    let _ = sys::notify::wake_synchronously(listener);
    while wait(listener, stop.as_fd())? == Ready::First {
        let Some(notification) = sys::notify::receive(listener)? else { continue };
        let answer = match names.get(&(notification.architecture, notification.number)) {
            Some(name) => handler.answer(&Call::new(listener, notification, name, processes)),
            None => Ok(Answer::Continue),
        };
        let id = notification.id;
        // A caller that was killed meanwhile needs no answer.
        let _ = match answer {
            Ok(Answer::Value(value)) => sys::notify::respond(listener, id, value, 0),
            Ok(Answer::Continue) => sys::notify::let_continue(listener, id),
            Ok(Answer::Descriptor { file, close_on_exec }) => {
                let added = sys::notify::respond_with_descriptor(listener, id, file.as_fd(), close_on_exec);
                // As when the kernel itself finds no room for one more.
                added.or_else(|error| {
                    let errno = error.raw_os_error().unwrap_or(libc::EMFILE);
                    sys::notify::respond(listener, id, 0, errno)
                })
            }
            Err(errno) => sys::notify::respond(listener, id, 0, errno.raw_os_error()),
        };
    }
    Ok(())
}

/// What [`wait`] saw.
#[derive(Debug, PartialEq, Eq)]
enum Ready {
    First,
    Stop,
}

/// Waits until something can be read from `first`, or until it is over.
fn wait(first: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<Ready> {
    let mut polled =
        [PollFd::from_borrowed_fd(first, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                // Whoever goes on calling cannot keep this from ending.
                let [first, stop] = polled.map(|polled| polled.revents());
                let goes_on = stop.is_empty() && first.contains(PollFlags::IN);
                return Ok(if goes_on { Ready::First } else { Ready::Stop });
            }
        }
    }
}

/// A descriptor that comes over a [`channel`], with the byte that says what it is; none when nobody is left to send one.
pub(crate) fn receive_descriptor(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<Option<(u8, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptors.next().map(|descriptor| (byte[0], descriptor)))
}
