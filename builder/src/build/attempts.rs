//! A build that finds something of the store gone goes on without it.
//!
//! Whoever noticed the loss has dropped what was left (rows, a blob with other bytes), so that solving again misses
//! there and makes or brings it anew; what else was done is in the cache by then.

use wharf_runtime::Cancel;

use super::{Build, ToLoad, interrupted, sources_with};
use crate::context::ContextSpec;
use crate::error::{Failure, Kind};

/// How often a build is solved at most. One attempt finds one damaged blob, and there are few that a build reads; more
/// losses than this are not an accident that it can get ahead of.
const ATTEMPTS_MAX: u32 = 10;

impl Build<'_> {
    /// Does `attempt` until nothing is lost on the way.
    pub(super) fn until_nothing_is_lost<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut attempts = 1;
        let done = loop {
            match attempt(self) {
                Err(failure) if failure.lost && attempts < ATTEMPTS_MAX && self.can_begin_again() => {
                    self.begin_again(&failure)?;
                }
                done => break done,
            }
            attempts += 1;
        };
        done.map_err(|failure| match failure.kind {
            // What could not be had because nobody waited for it any more.
            Kind::Source | Kind::Environment if self.signals.interrupted() => interrupted(),
            _ => failure,
        })
    }

    fn can_begin_again(&self) -> bool {
        // Of what was read from standard input there is no more.
        let is_read_twice = self.to_load != ToLoad::Nothing && self.request.context == ContextSpec::Stdin;
        !is_read_twice && !self.signals.interrupted()
    }

    /// Says once what was found damaged. Returns whether something was.
    pub(super) fn tell_damages(&self) -> bool {
        let damages = self.sources.store.take_damages();
        damages.iter().for_each(|damage| self.progress.warn(format!("warning: {damage}")));
        !damages.is_empty()
    }

    /// Prepares the next attempt: nothing that the last one remembers of the store is used, and what stopped its steps stops no
    /// others.
    fn begin_again(&mut self, failure: &Failure) -> Result<(), Failure> {
        if !self.tell_damages() {
            // Somebody else has dropped it, and knows why.
            self.progress.warn(format!(
                "warning: something of the store went away while the build used it, and the build was begun again: {}",
                failure.message
            ));
        }
        self.cancel = Cancel::new()
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot begin again", &error))?;
        self.signals.redirect(&self.cancel);
        self.sources.registry.redirect(&self.cancel);
        let registry = self.sources.registry.clone();
        self.sources = sources_with(registry, &self.sources.store, &self.request, &self.cancel);
        if self.to_load == ToLoad::Nothing {
            self.to_load = self.to_load_again;
        }
        self.recorder.begin_again();
        Ok(())
    }
}
