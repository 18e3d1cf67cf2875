//! Several images at once, for commands that are about containers.

use std::sync::Arc;
use std::thread;

use wharf_cache::Store;
use wharf_runtime::Cancel;

use super::transfer::{all_or, in_store_of, one_or_usual, parse_name};
use super::{Config, failed, find_leased, tagged};
use crate::cli::registries::{credentials, options};
use crate::error::{Failure, Kind};
use crate::images::ImagesError;
use crate::images::places::{InRegistry, IntoStore, Source, Target};
use crate::images::transfer::{Choice, Transfer};
use crate::progress::{Mode, Progress};
use crate::registry::{OciRegistry, Reference, Registry, RegistryOptions};
use crate::source::transfer_events;

/// What images are moved with.
struct Mover<'a> {
    registry: Arc<dyn Registry>,
    cancel: &'a Cancel,
    progress: Progress,
}

impl<'a> Mover<'a> {
    fn new(config: &Config, cancel: &'a Cancel, mode: Mode) -> Result<Self, Failure> {
        let registries = options(config, credentials(&[], &[])?, Vec::new())?;
        let registries = RegistryOptions { cancel: Some(cancel.clone()), ..registries };
        let registry = Arc::new(OciRegistry::new(registries));
        Ok(Self { registry, cancel, progress: Progress::start(mode, std::io::stderr()) })
    }

    fn transfer(
        &self,
        name: &str,
        source: &dyn Source,
        target: &dyn Target,
        choice: &Choice,
    ) -> Result<(), Failure> {
        let cancel = self.cancel;
        let done: Result<_, ImagesError> = self.progress.internal_with(name, |vertex| {
            let progress = &transfer_events(vertex, &self.progress);
            Transfer { source, target, choice, cancel, progress, strict: true }.run()
        });
        done.map(drop).map_err(|error| match cancel.is_cancelled() {
            true => Failure::new(Kind::Cancelled, format!("{name}: interrupted")),
            false => failed(&format!("{name} failed"), error),
        })
    }

    /// Does `work` for each, all at once.
    fn each<T: Sync>(
        &self,
        all: &[T],
        work: impl Fn(&T) -> Result<(), Failure> + Sync,
    ) -> Vec<Result<(), Failure>> {
        let work = &work;
        let done = thread::scope(|scope| {
            let threads: Vec<_> = all.iter().map(|one| scope.spawn(move || work(one))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        self.progress.finish();
        done
    }
}

/// Brings images, each with its platform, from their registries into the store.
pub(in crate::cli) fn bring_all(
    store: &Store,
    config: &Config,
    cancel: &Cancel,
    mode: Mode,
    images: &[(&str, Option<&str>)],
) -> Vec<Result<(), Failure>> {
    let mover = match Mover::new(config, cancel, mode) {
        Ok(mover) => mover,
        Err(failure) => return vec![Err(failure)],
    };
    mover.each(images, |(name, platform)| {
        let reference = parse_name(name)?;
        let names: Vec<Reference> = tagged(&reference).into_iter().collect();
        let source = InRegistry { registry: mover.registry.clone(), reference: reference.clone() };
        let target = IntoStore { store, names: &names };
        mover.transfer(&format!("pulling {reference}"), &source, &target, &one_or_usual(*platform)?)
    })
}

/// Pushes images of the store to the registries of their names.
pub(in crate::cli) fn push_all(
    store: &Store,
    config: &Config,
    cancel: &Cancel,
    mode: Mode,
    names: &[&str],
) -> Vec<Result<(), Failure>> {
    let mover = match Mover::new(config, cancel, mode) {
        Ok(mover) => mover,
        Err(failure) => return vec![Err(failure)],
    };
    mover.each(names, |name| {
        let reference = parse_name(name)?;
        let image = find_leased(store, &reference.to_string())?;
        let source = in_store_of(store, image);
        let target = InRegistry { registry: mover.registry.clone(), reference: reference.clone() };
        mover.transfer(&format!("pushing {reference}"), &source, &target, &all_or(None)?)
    })
}
