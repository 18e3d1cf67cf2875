//! `--plan`: as far as a build goes without running anything.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use wharf_solver::scheduler::{self, Solve};

use super::{Build, limits};
use crate::error::Failure;
use crate::history::RequestSummary;
use crate::history::plan::{self, Plan};
use crate::worker::StoreCache;

impl Build<'_> {
    /// Text → graph → what would become of each step.
    pub(super) fn plan(mut self, summary: &RequestSummary) -> Result<Plan, Failure> {
        self.imports.only_look();
        let planned = self.until_nothing_is_lost(|build| build.plan_once(summary));
        self.tell_damages();
        planned
    }

    fn plan_once(&mut self, summary: &RequestSummary) -> Result<Plan, Failure> {
        self.load()?;
        let targets = self.convert()?;
        let definition = targets.definition();
        self.refuse_forbidden(&targets)?;
        self.load_named(definition)?;
        let (store, files) = (&self.sources.store, &self.recorder.files);
        let stale = AtomicBool::new(false);
        let worker = self.worker(definition, &stale, &|_, _| {})?;
        let begun = Instant::now();
        let planned = scheduler::plan(&Solve {
            definition,
            goals: &targets.heads(),
            resolver: &worker,
            cache: &StoreCache { store, imports: &self.imports, cancel: &self.cancel, stale: &stale },
            progress: self.recorder,
            completed: &|_, _| {},
            cancelled: &|| self.cancel.is_cancelled(),
            cancel: &|| self.cancel.cancel(),
            jobs: self.request.jobs,
            limits: limits(),
            clock: &|| begun.elapsed(),
        });
        planned.result.map_err(|error| self.solve_failure(&targets, error))?;
        let is_here = |image: &str| self.sources.images.is_here(image).unwrap_or(false);
        let past = (store, summary, &self.imports);
        Ok(plan::explain(past, files, definition, &planned.steps, &is_here))
    }
}
