//! Steps for other platforms than the machine's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use wharf_runtime::{Emulation, EmulationError, Qemu, Runs, RuntimeError, Sandbox};
use wharf_solver::llb::{Definition, Op, Platform};

/// Emulated steps that took longer together are worth a word.
const LONG: Duration = Duration::from_secs(30);

/// The emulation that the steps of a build share, and what it cost.
#[derive(Debug)]
pub struct ForeignSteps {
    emulation: Emulation,
    spent: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    time: Duration,
    platforms: BTreeSet<Platform>,
}

/// How the programs of one step run.
#[derive(Debug, Clone)]
pub(crate) enum Execution {
    /// As those of the machine do.
    Native,
    /// Emulated: by this QEMU, or by whom the machine has registered.
    Emulated(Option<Qemu>),
    /// They do not, if they are what the platform says. They may be others: there are images that lie.
    Impossible(EmulationError),
}

impl ForeignSteps {
    /// For the steps of a build that runs in `sandbox`. `places` are directories where QEMU may be.
    pub fn new(sandbox: Sandbox, places: &[PathBuf]) -> Self {
        Self { emulation: Emulation::new(sandbox, places.to_vec()), spent: Mutex::default() }
    }

    /// How programs of `platform` run. `definition` says which others will be asked for; `dir` is a directory of the build's.
    pub(crate) fn execution(&self, platform: &Platform, all: &[&str], dir: &Path) -> Execution {
        let dir = dir.join("architecture");
        match self.emulation.of(&platform.architecture, all, &dir) {
            Ok(Runs::Natively) => Execution::Native,
            Ok(Runs::ByTheMachine) => Execution::Emulated(None),
            Ok(Runs::ByQemu(qemu)) => Execution::Emulated(Some(qemu)),
            Err(error) => Execution::Impossible(error),
        }
    }

    /// A step of `platform` took so long.
    pub(super) fn spend(&self, platform: &Platform, time: Duration) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.time += time;
        spent.platforms.insert(platform.clone());
    }

    /// What is to be said at the end.
    pub fn note(&self) -> Option<String> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).note()
    }
}

impl Spent {
    fn note(&self) -> Option<String> {
        if self.time < LONG {
            return None;
        }
        let names: Vec<String> = self.platforms.iter().map(Platform::to_string).collect();
        let mut note =
            format!("note: steps for {} took {} s in an emulator", names.join(", "), self.time.as_secs());
        let _ = write!(
            note,
            "\nhelp: compile on this machine's own platform: `FROM --platform=$BUILDPLATFORM … AS build`, `ARG TARGETARCH`, a \
             cross compiler for it, and `COPY --from=build` into the image"
        );
        Some(note)
    }
}

impl Execution {
    /// What emulates the step, in words; `None` where nothing does.
    pub(crate) fn told(&self, platform: &Platform, machine: &Platform) -> Option<String> {
        let by = match self {
            Self::Native | Self::Impossible(_) => return None,
            Self::Emulated(None) => "what the machine has registered".to_owned(),
            Self::Emulated(Some(qemu)) => format!("`{}`", qemu.path.display()),
        };
        Some(format!("emulated: programs for {platform} are run on {machine} by {by}\n"))
    }

    /// The registered QEMU.
    pub(crate) fn qemu(&self) -> Option<&Qemu> {
        match self {
            Self::Emulated(qemu) => qemu.as_ref(),
            Self::Native | Self::Impossible(_) => None,
        }
    }

    /// Why a process failed for being of another platform, if that is why.
    pub(crate) fn blame(&self, error: &RuntimeError) -> Option<EmulationError> {
        match (self, error) {
            (Self::Impossible(why), RuntimeError::Exec { source, .. })
                if source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) =>
            {
                Some(why.clone())
            }
            _ => None,
        }
    }
}

/// The architectures of the steps of a build.
pub(super) fn architectures(definition: &Definition) -> Vec<&str> {
    let of_steps = definition.iter().filter(|(_, vertex)| matches!(vertex.op, Op::Exec(_)));
    let names = of_steps.filter_map(|(_, vertex)| Some(vertex.platform.as_ref()?.architecture.as_str()));
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_emulation_is_worth_a_word() {
        let platform = |architecture: &str| Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            ..Platform::default()
        };
        let steps = ForeignSteps::new(Sandbox::Chroot, &[]);
        steps.spend(&platform("arm64"), LONG / 2);
        assert_eq!(steps.note(), None);
        steps.spend(&platform("s390x"), LONG / 2);
        let note = steps.note().unwrap();
        assert!(note.starts_with("note: steps for linux/arm64, linux/s390x took 30 s"), "{note}");
        assert!(note.contains("--platform=$BUILDPLATFORM") && note.contains("ARG TARGETARCH"), "{note}");
    }
}
