//! A build that finds something of the store gone goes on without it.
//!
//! Whoever noticed the loss has dropped what was left (rows, a blob with other bytes), so that solving again misses
//! there and makes or brings it anew; what else was done is in the cache by then.

use wharf_runtime::Cancel;

use super::{Build, Outcome, sources};
use crate::error::{Failure, Kind};

/// How often a build is solved at most. One attempt finds one damaged blob, and there are few that a build reads; more
/// losses than this are not an accident that it can get ahead of.
const ATTEMPTS_MAX: u32 = 10;

impl Build<'_> {
    /// Text → outputs, until nothing is lost on the way.
    pub(super) fn attempts(&mut self) -> Result<Outcome, Failure> {
        for _ in 1..ATTEMPTS_MAX {
            match self.attempt() {
                Err(failure) if failure.lost && !self.signals.interrupted() => self.begin_again(&failure)?,
                done => return done,
            }
        }
        self.attempt()
    }

    /// Prepares the next attempt: nothing that the last one remembers is used, and what stopped its steps stops no
    /// others.
    fn begin_again(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.progress.warn(format!(
            "warning: the store has lost something while it was used, and the build was begun again without it: {}",
            failure.message
        ));
        self.cancel = Cancel::new()
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot begin again", &error))?;
        self.signals.redirect(&self.cancel);
        self.sources = sources(&self.sources.store, &self.request, &self.cancel);
        Ok(())
    }
}
