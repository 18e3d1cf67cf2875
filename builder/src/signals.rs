//! Ctrl-C and its kin.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use wharf_runtime::Cancel;

/// Stops listening when dropped.
#[derive(Debug)]
pub struct Listening(Handle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Triggers `cancel` at the first SIGINT, SIGTERM or SIGHUP; the second ends the process at once (its steps die with
/// it).
pub fn cancel_on_termination(cancel: &Cancel) -> io::Result<Listening> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let cancel = cancel.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if cancel.is_cancelled() {
                // Nothing can be done about a handler that cannot be emulated; the signal was for us anyway.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            cancel.cancel();
        }
    })?;
    Ok(Listening(handle))
}
