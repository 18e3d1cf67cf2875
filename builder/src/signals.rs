//! Ctrl-C and its kin.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use wharf_runtime::Cancel;

use crate::progress::print_note;

/// Listens for signals until it is dropped.
#[derive(Debug)]
pub struct Listening {
    handle: Handle,
    interrupted: Arc<AtomicBool>,
    /// What signals trigger.
    target: Arc<Mutex<Option<Cancel>>>,
}

impl Listening {
    /// Lets signals trigger `cancel` from now on; one that came before does so at once.
    pub fn redirect(&self, cancel: &Cancel) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
        if self.interrupted() {
            cancel.cancel();
        }
    }

    /// Whether a signal came.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// Collects the signals that a foreground container should get: their numbers, a byte each, can be read from the
/// descriptor. Keys of a terminal are not among them; they reach the container by themselves.
pub fn pass_on() -> io::Result<(Listening, OwnedFd)> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])?;
    let handle = signals.handle();
    let (read, write) = std::io::pipe()?;
    let mut write = write;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // When nobody reads any more the container has ended.
            if u8::try_from(signal).is_ok_and(|number| write.write_all(&[number]).is_err()) {
                return;
            }
        }
    })?;
    Ok((Listening { handle, interrupted: Arc::default(), target: Arc::default() }, read.into()))
}

/// Triggers `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process at once (its steps die with
/// it).
pub fn cancel_on_termination(cancel: &Cancel) -> io::Result<Listening> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let interrupted = Arc::new(AtomicBool::new(false));
    let target = Arc::new(Mutex::new(Some(cancel.clone())));
    let (seen, triggered) = (Arc::clone(&interrupted), Arc::clone(&target));
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if seen.swap(true, Ordering::Relaxed) {
                // Nothing can be done about a handler that cannot be emulated; the signal was for us anyway.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            print_note("stopping; the same signal again ends wharf at once");
            if let Some(cancel) = &*triggered.lock().unwrap_or_else(PoisonError::into_inner) {
                cancel.cancel();
            }
        }
    })?;
    Ok(Listening { handle, interrupted, target })
}
