//! Ctrl-C and its kin.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, flag, low_level};
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
    /// Set by the handler itself.
    has_signal: Arc<AtomicBool>,
    interrupted: AtomicBool,
    targets: Mutex<Vec<Weak<Mutex<Option<Cancel>>>>>,
    course: Mutex<Course>,
}

/// What the next signal does.
#[derive(Default)]
enum Course {
    /// It triggers everything.
    #[default]
    Interrupt,
    /// It ends the process: one came before.
    End,
    /// It is somebody else's.
    HandedOver(Box<dyn Fn() + Send>),
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "Interrupt",
            Self::End => "End",
            Self::HandedOver(_) => "HandedOver",
        })
    }
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
struct Closing {
    handle: Handle,
    flags: Vec<SigId>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.handle.close();
        for id in self.flags.drain(..) {
            low_level::unregister(id);
        }
    }
}

impl Listening {
    fn new(closing: Closing, told: Arc<Told>) -> Self {
        Self { told, handle: Arc::new(closing), target: Target::default() }
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

    /// From now on a signal does nothing but call `heir`, which must not block; so does one that came before, at once. None
    /// gets lost between the two.
    pub fn hand_over(&self, heir: impl Fn() + Send + 'static) {
        let mut course = self.told.course.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*course, Course::End) {
            heir();
        }
        *course = Course::HandedOver(Box::new(heir));
    }

    /// Whether a signal came, also if nothing was done about it yet: who asks before this is dropped misses none.
    pub fn has_signal(&self) -> bool {
        self.told.has_signal.load(Ordering::SeqCst)
    }

    /// Whether a signal came, or somebody did as if.
    pub fn interrupted(&self) -> bool {
        self.told.interrupted.load(Ordering::SeqCst)
    }
}

/// Triggers `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process at once (steps of builds
/// die with it, containers do not).
pub fn cancel_on_termination(cancel: &Cancel) -> io::Result<Listening> {
    const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
    let told = Arc::new(Told::default());
    let mut signals = Signals::new(ENDING)?;
    let mut closing = Closing { handle: signals.handle(), flags: Vec::new() };
    for signal in ENDING {
        closing.flags.push(flag::register(signal, Arc::clone(&told.has_signal))?);
    }
    let listening = Listening::new(closing, Arc::clone(&told));
    listening.listen(cancel);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let mut course = told.course.lock().unwrap_or_else(PoisonError::into_inner);
            match &*course {
                Course::Interrupt => *course = Course::End,
                Course::End => {
                    // Nothing can be done about a handler that cannot be emulated; the signal was for us anyway.
                    let _ = low_level::emulate_default_handler(signal);
                }
                Course::HandedOver(heir) => {
                    heir();
                    continue;
                }
            }
            drop(course);
            print_note("stopping; the same signal again ends wharf at once");
            told.interrupt();
        }
    })?;
    Ok(listening)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_at_once_and_handed_over_once() {
        let listening = cancel_on_termination(&Cancel::new().unwrap()).unwrap();
        assert!(!listening.has_signal());
        low_level::raise(SIGHUP).unwrap();
        assert!(listening.has_signal());
        let (sender, received) = std::sync::mpsc::channel();
        listening.hand_over(move || _ = sender.send(()));
        let patience = std::time::Duration::from_secs(60);
        received.recv_timeout(patience).unwrap();
        low_level::raise(SIGHUP).unwrap();
        received.recv_timeout(patience).unwrap();
        drop(listening);
        received.try_recv().unwrap_err();
    }
}
