//! Whether steps can have a supervisor that answers their system calls, tried in a process that goes at once.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

use super::obstacle::{Call, Obstacle};
use super::place::Place;
use crate::sys::{self, Errno};

/// A call and an error number, or 0.
const ANSWER_BYTES: usize = 5;

/// Tries it without a lasting effect.
pub(super) fn try_listener(place: &Place) -> Result<(), Obstacle> {
    let broken = |errno| Obstacle::refused(Call::Fork, errno, place);
    let (result, answer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| broken(errno.raw_os_error()))?;
    let pid = sys::fork(move || trial(answer))
        .map_err(|error| broken(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
    let mut bytes = [0; ANSWER_BYTES];
    let read = File::from(result).read_exact(&mut bytes);
    sys::wait_for(pid);
    let [call, errno @ ..] = bytes;
    match (read, i32::from_ne_bytes(errno)) {
        // A filter may kill who makes a call.
        (Err(_), _) => Err(Obstacle::Killed),
        (Ok(()), 0) => Ok(()),
        (Ok(()), errno) => Err(Obstacle::refused(Call::from_number(call), errno, place)),
    }
}

fn trial(answer: OwnedFd) -> i32 {
    let (call, errno) = match listen_and_answer() {
        Ok(()) => (Call::Listener, 0),
        Err((call, Errno(errno))) => (call, errno),
    };
    let [a, b, c, d] = errno.to_ne_bytes();
    i32::from(File::from(answer).write_all(&[call as u8, a, b, c, d]).is_err())
}

fn listen_and_answer() -> Result<(), (Call, Errno)> {
    let listening = |errno| (Call::Listener, errno);
    sys::set_no_new_privileges().map_err(listening)?;
    let listener = sys::notify::install_listening(&sys::notify::ALLOW_ALL).map_err(listening)?;
    sys::notify::try_to_answer(listener).map_err(|errno| (Call::AnswerDescriptor, errno))
}

#[cfg(test)]
#[test]
fn a_trial_changes_nothing() {
    let place = Place::look();
    let before = place.clone();
    assert_eq!((try_listener(&place), try_listener(&place)), (Ok(()), Ok(())));
    assert_eq!(Place::look().no_new_privileges, before.no_new_privileges);
}
