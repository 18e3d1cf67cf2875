//! Lending the caller's terminal to the command.

use std::sync::{Mutex, PoisonError};

use crate::RuntimeError;
use crate::sys::{self, SignalAction};

/// Whether standard input is a terminal.
pub(super) fn is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// While this lives, the keys that interrupt and quit reach the command and leave the caller alone, as in `system(3)`:
/// both are in the terminal's foreground. Several containers can do so at once.
pub(super) struct Foreground(());

struct Lent {
    count: usize,
    actions: Vec<(i32, SignalAction)>,
}

static LENT: Mutex<Lent> = Mutex::new(Lent { count: 0, actions: Vec::new() });

impl Foreground {
    pub(super) fn lend() -> Result<Self, RuntimeError> {
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        if lent.count == 0 {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                let action = sys::ignore_signal(signal).map_err(|source| RuntimeError::Step {
                    step: format!("ignore signal {signal}"),
                    source,
                })?;
                lent.actions.push((signal, action));
            }
        }
        lent.count += 1;
        Ok(Self(()))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        lent.count -= 1;
        if lent.count == 0 {
            for (signal, action) in std::mem::take(&mut lent.actions) {
                // The action was in force before, so it is accepted.
                let _ = sys::restore_signal(signal, &action);
            }
        }
    }
}
