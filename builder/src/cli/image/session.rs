//! What commands that move images have in common: a store, registries, progress, and a way to be stopped.

use std::sync::Arc;

use wharf_cache::Store;
use wharf_runtime::{Cancel, Sandbox};

use super::{Config, Place, Wanted, failed};
use crate::cli::prune::settle;
use crate::cli::registries::{credentials, options};
use crate::cli::with_store;
use crate::error::{Failure, Kind};
use crate::images::ImagesError;
use crate::images::places::Target;
use crate::images::places::{Document, Source};
use crate::images::transfer::{Choice, Transfer};
use crate::progress::{Mode, Progress};
use crate::registry::{OciRegistry, Registry, RegistryOptions, Transfer as Moved};
use crate::signals;
use crate::source::transfer_events;

/// A command at work.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) store: &'a Store,
    pub(super) sandbox: Sandbox,
    pub(super) cancel: Cancel,
    pub(super) registry: Arc<dyn Registry>,
    progress: Progress,
}

impl Session<'_> {
    /// Does `work` with the store, and keeps that under its limit afterwards. What happens is shown unless `quiet`.
    pub(super) fn run<T>(
        wanted: &Wanted,
        config: &Config,
        quiet: bool,
        work: impl FnOnce(&Session<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let registries = options(config, credentials(&[], &[])?, Vec::new())?;
        Self::run_with(wanted, config, quiet, registries, work)
    }

    /// The same, with registries talked to like this.
    pub(super) fn run_with<T>(
        wanted: &Wanted,
        config: &Config,
        quiet: bool,
        registries: RegistryOptions,
        work: impl FnOnce(&Session<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let place = Place::enter(wanted)?;
        with_store(&place, |store| {
            let done = Self::run_in(store, place.sandbox, quiet, registries, work);
            settle(store, config);
            done
        })
    }

    /// The same with a store that is open.
    pub(super) fn run_in<T>(
        store: &Store,
        sandbox: Sandbox,
        quiet: bool,
        registries: RegistryOptions,
        work: impl FnOnce(&Session<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let cannot_start = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(Kind::Environment, "cannot start", error)
        };
        let cancel = Cancel::new().map_err(|error| cannot_start(&error))?;
        let _signals = signals::cancel_on_termination(&cancel).map_err(|error| cannot_start(&error))?;
        let registries = RegistryOptions { cancel: Some(cancel.clone()), ..registries };
        let mode = if quiet { Mode::Quiet } else { Mode::Auto };
        let session = Session {
            store,
            sandbox,
            cancel,
            registry: Arc::new(OciRegistry::new(registries)),
            progress: Progress::start(mode, std::io::stderr()),
        };
        let done = work(&session);
        session.progress.finish();
        done
    }

    /// Shows `work` as a step.
    pub(super) fn step<T>(
        &self,
        name: &str,
        work: impl FnOnce(&(dyn Fn(Moved) + Sync)) -> Result<T, ImagesError>,
    ) -> Result<T, Failure> {
        let done = self.progress.internal_with(name, |vertex| work(&transfer_events(vertex, &self.progress)));
        done.map_err(|error| {
            // What comes after it is printed below the progress.
            self.progress.finish();
            match self.cancel.is_cancelled() {
                true => Failure::new(Kind::Cancelled, format!("{name}: interrupted")),
                false => failed(&format!("{name} failed"), error),
            }
        })
    }

    /// Shows no more steps.
    pub(super) fn end_progress(&self) {
        self.progress.finish();
    }

    /// Copies an image as a step.
    pub(super) fn transfer(
        &self,
        name: &str,
        source: &dyn Source,
        target: &dyn Target,
        choice: &Choice,
        strict: bool,
    ) -> Result<Document, Failure> {
        self.step(name, |progress| {
            Transfer { source, target, choice, cancel: &self.cancel, progress, strict }.run()
        })
    }
}
