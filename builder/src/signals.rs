//! Ctrl-C and its kin.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use wharf_runtime::Cancel;

use crate::progress::print_note;

/// Listens for signals until it is dropped, and all that were made [`beside`](Self::beside) it.
#[derive(Debug)]
pub struct Listening {
    told: Arc<Told>,
    handle: Arc<Closing>,
    /// What is triggered for this one.
    target: Target,
}

type Target = Arc<Mutex<Option<Cancel>>>;

/// What is known of signals.
#[derive(Debug, Default)]
struct Told {
    has_signal: AtomicBool,
    interrupted: AtomicBool,
    targets: Mutex<Vec<Weak<Mutex<Option<Cancel>>>>>,
}

impl Told {
    /// Triggers everything; also what is redirected later.
    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        for target in self.targets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(target) = target.upgrade() {
                trigger(&target);
            }
        }
    }
}

fn trigger(target: &Mutex<Option<Cancel>>) {
    if let Some(cancel) = &*target.lock().unwrap_or_else(PoisonError::into_inner) {
        cancel.cancel();
    }
}

/// Ends the thread that listens.
#[derive(Debug)]
struct Closing(Handle);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Listening {
    fn new(handle: Handle, told: Arc<Told>) -> Self {
        Self { told, handle: Arc::new(Closing(handle)), target: Target::default() }
    }

    /// Lets signals trigger `cancel` from now on; one that came before does so at once.
    pub fn redirect(&self, cancel: &Cancel) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
        if self.interrupted() {
            cancel.cancel();
        }
    }

    /// The same signals trigger `cancel`, too.
    pub fn beside(&self, cancel: &Cancel) -> Self {
        let beside = Self {
            told: Arc::clone(&self.told),
            handle: Arc::clone(&self.handle),
            target: Target::default(),
        };
        beside.listen(cancel);
        beside
    }

    /// The first one's.
    fn listen(&self, cancel: &Cancel) {
        self.told.targets.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&self.target));
        self.redirect(cancel);
    }

    /// Does what a signal would: triggers all, without a word.
    pub fn interrupt(&self) {
        self.told.interrupt();
    }

    /// Whether a signal came.
    pub fn has_signal(&self) -> bool {
        self.told.has_signal.load(Ordering::SeqCst)
    }

    /// Whether a signal came, or somebody did as if.
    pub fn interrupted(&self) -> bool {
        self.told.interrupted.load(Ordering::SeqCst)
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
    Ok((Listening::new(handle, Arc::default()), read.into()))
}

/// Triggers `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process at once (its steps die with
/// it).
pub fn cancel_on_termination(cancel: &Cancel) -> io::Result<Listening> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let told = Arc::new(Told::default());
    let listening = Listening::new(handle, Arc::clone(&told));
    listening.listen(cancel);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut is_second = false;
        for signal in signals.forever() {
            if std::mem::replace(&mut is_second, true) {
                // Nothing can be done about a handler that cannot be emulated; the signal was for us anyway.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            print_note("stopping; the same signal again ends wharf at once");
            told.has_signal.store(true, Ordering::SeqCst);
            told.interrupt();
        }
    })?;
    Ok(listening)
}
