//! Ctrl-C and its kin.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use wharf_runtime::Cancel;

/// Listens for signals until it is dropped.
#[derive(Debug)]
pub struct Listening {
    handle: Handle,
    interrupted: Arc<AtomicBool>,
}

impl Listening {
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

/// Triggers `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process at once (its steps die with
/// it).
pub fn cancel_on_termination(cancel: &Cancel) -> io::Result<Listening> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let cancel = cancel.clone();
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if seen.swap(true, Ordering::Relaxed) {
                // Nothing can be done about a handler that cannot be emulated; the signal was for us anyway.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            cancel.cancel();
        }
    })?;
    Ok(Listening { handle, interrupted })
}
