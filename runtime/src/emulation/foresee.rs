//! How steps for each architecture would run, found out without registering anybody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::architecture::Architecture;
use super::registry::Registry;
use super::{Emulation, EmulationError, is_of_the_processor, native, probe};
use crate::Sandbox;
use crate::sandbox::Scratch;

/// How programs of an architecture would run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreseen {
    /// By the processor.
    Natively,
    /// By whom the machine has registered.
    ByTheMachine,
    /// By this QEMU, which would be registered for the steps alone.
    ByQemu(PathBuf),
}

impl Emulation {
    /// How programs of each architecture that QEMU knows would run, by its name in OCI images. Trials are made on the file
    /// system of `store`, without a lasting effect; the process may be outside of the sandbox.
    pub fn foresee(&self, store: &Path) -> Vec<(&'static str, Result<Foreseen, EmulationError>)> {
        let scratch = Scratch::at(store).map_err(Arc::new);
        let registry = match self.sandbox {
            Sandbox::Chroot => None,
            _ => Some(Registry::can_be_made().map_err(Arc::new)),
        };
        let one = |architecture: &'static Architecture| {
            if architecture.name == native() {
                return Ok(Foreseen::Natively);
            }
            let name = || architecture.name.to_owned();
            let failed = |source: Arc<io::Error>| EmulationError::Probe { architecture: name(), source };
            let dir =
                scratch.as_ref().map_err(|source| failed(Arc::clone(source)))?.path().join("architecture");
            match probe::runs(architecture, None, &dir).map_err(|source| failed(source.into()))? {
                true if is_of_the_processor(architecture.name) => return Ok(Foreseen::Natively),
                true => return Ok(Foreseen::ByTheMachine),
                false => {}
            }
            let candidates = self.candidates(architecture);
            let last = candidates.last().ok_or_else(|| EmulationError::NoQemu {
                architecture: name(),
                program: format!("qemu-{}-static", architecture.qemu),
            })?;
            match &registry {
                None => return Err(EmulationError::NotRegistered(name())),
                Some(Err(source)) => {
                    return Err(EmulationError::Refused { architecture: name(), source: Arc::clone(source) });
                }
                Some(Ok(())) => {}
            }
            let works = |path: &&PathBuf| matches!(probe::would_run(architecture, path, &dir), Ok(true));
            let broken = || EmulationError::Broken { architecture: name(), path: last.clone() };
            candidates.iter().find(works).map(|path| Foreseen::ByQemu(path.clone())).ok_or_else(broken)
        };
        Architecture::all().iter().map(|architecture| (architecture.name, one(architecture))).collect()
    }
}
