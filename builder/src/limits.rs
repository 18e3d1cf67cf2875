//! How many files the process may have open.

use oci_spec::OciSpecError;
use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open files that the process was started with. Steps get it back: programs that close every descriptor
/// they might have would take long with a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    soft: Option<u64>,
    hard: Option<u64>,
}

impl OpenFiles {
    /// Raises the limit to the hard one, as a tree is read with one descriptor a level and by many threads. Where that is
    /// refused the build goes on with what it has.
    pub fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Self { soft: current, hard: maximum }
    }

    /// Gives a process the limit that this one had.
    pub(crate) fn restore_in(self, spec: &mut Spec) -> Result<(), OciSpecError> {
        let limit = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(self.soft.unwrap_or(u64::MAX))
            .hard(self.hard.unwrap_or(u64::MAX))
            .build()?;
        if let Some(process) = spec.process_mut() {
            process.set_rlimits(Some(vec![limit]));
        }
        Ok(())
    }
}
