//! Steps for other architectures than the machine's own: whether their programs run, and making them run by QEMU.
//!
//! The kernel hands a program that is not its own to whoever is registered for it. The machine may have such a registration;
//! else a static QEMU is registered for the steps of this process alone, in a user namespace (Linux 6.7): where the sandbox has
//! one, there; in the sandbox `root` in one of its own, in which every id is what it is outside, and which only the command of
//! a foreign step enters, when all that takes the machine's root has been done for it.

mod architecture;
mod foresee;
mod probe;
mod registry;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::architecture::Architecture;
pub use self::foresee::Foreseen;
use self::registry::{FLAGS, Registry};
use crate::Sandbox;

/// Where QEMU is looked for besides the places that are given.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"];

/// Runs programs of other architectures, as far as that can be done.
#[derive(Debug)]
pub struct Emulation {
    sandbox: Sandbox,
    /// Where QEMU is looked for first.
    places: Vec<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    registry: Option<Registry>,
    known: BTreeMap<String, Result<Runs, EmulationError>>,
}

/// How programs of an architecture run here.
#[derive(Debug, Clone)]
pub enum Runs {
    /// The processor runs them.
    Natively,
    /// Somebody runs them whom the machine has registered.
    ByTheMachine,
    /// QEMU runs them.
    ByQemu(Qemu),
}

/// A QEMU that was registered.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// The program.
    pub path: PathBuf,
    /// The user namespace that it is registered in, if it is not the one that this process is in.
    namespace: Option<Arc<OwnedFd>>,
}

impl Qemu {
    /// The user namespace that a process has to enter.
    pub fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespace.as_ref().map(|namespace| namespace.as_fd())
    }
}

/// Why programs of an architecture do not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmulationError {
    /// Nobody knows the architecture.
    #[error("programs for {0} do not run on this machine, and wharf knows of no emulator for them")]
    Unknown(String),
    /// There is no QEMU.
    #[error("programs for {architecture} do not run on this machine, and there is no `{program}`")]
    NoQemu {
        /// The architecture.
        architecture: String,
        /// What was looked for.
        program: String,
    },
    /// The sandbox can register nobody.
    #[error(
        "programs for {0} do not run on this machine: nobody is registered for them, and the sandbox chroot cannot register \
         QEMU"
    )]
    NotRegistered(String),
    /// The kernel does not let anybody be registered.
    #[error("programs for {architecture} do not run on this machine, and QEMU cannot be registered for them")]
    Refused {
        /// The architecture.
        architecture: String,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// QEMU was registered, and does not run them.
    #[error("programs for {architecture} do not run on this machine, and `{}` does not run them either", path.display())]
    Broken {
        /// The architecture.
        architecture: String,
        /// What was registered last.
        path: PathBuf,
    },
    /// It could not be found out.
    #[error("cannot find out whether programs for {architecture} run here")]
    Probe {
        /// The architecture.
        architecture: String,
        /// Why.
        source: Arc<io::Error>,
    },
}

impl EmulationError {
    /// What to do.
    pub fn help(&self) -> String {
        const REGISTER: &str =
            "register QEMU with the machine (as root: `apt install qemu-user-static binfmt-support`)";
        const PACKAGE: &str = "install the package qemu-user-static (since Debian 13: qemu-user)";
        match self {
            Self::Unknown(_) => {
                "build it on a machine of that architecture, or cross-compile it in a stage that is `FROM \
                                 --platform=$BUILDPLATFORM`"
                    .to_owned()
            }
            Self::NoQemu { .. } => {
                format!("{PACKAGE}, or cross-compile in a stage that is `FROM --platform=$BUILDPLATFORM`")
            }
            Self::NotRegistered(_) => format!("{REGISTER}, or use another sandbox (`wharf doctor`)"),
            Self::Refused { .. } => format!("it takes Linux 6.7 and a user namespace; else {REGISTER}"),
            Self::Broken { .. } => {
                format!("{PACKAGE}: it has to be a static one, as a step sees no library of the machine")
            }
            Self::Probe { .. } => {
                "the store has to be on a file system that programs can be run from".to_owned()
            }
        }
    }
}

impl Emulation {
    /// For the processes of a `sandbox`. `places` are directories where QEMU may be.
    pub fn new(sandbox: Sandbox, places: Vec<PathBuf>) -> Self {
        Self { sandbox, places, state: Mutex::default() }
    }

    /// How programs of `architecture`, as OCI images name it, run here. `all` are those that will be asked for: where one
    /// of them has to be registered, what the machine has registered counts no more. `dir` names a directory of the
    /// caller's alone for a while; it is made and removed.
    pub fn of(&self, architecture: &str, all: &[&str], dir: &Path) -> Result<Runs, EmulationError> {
        if architecture == native() {
            return Ok(Runs::Natively);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = state.known.get(architecture) {
            return known.clone();
        }
        let mut wanted: Vec<&str> = all.iter().copied().filter(|name| *name != native()).collect();
        wanted.push(architecture);
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|name| !state.known.contains_key(*name));
        self.find_out(&mut state, &wanted, dir);
        let known = state.known.get(architecture).cloned();
        known.unwrap_or_else(|| Err(EmulationError::Unknown(architecture.to_owned())))
    }

    /// Finds out about the architectures `wanted`.
    fn find_out(&self, state: &mut State, wanted: &[&str], dir: &Path) {
        let mut left = Vec::new();
        for &name in wanted {
            let Some(architecture) = Architecture::named(name) else {
                state.known.insert(name.to_owned(), Err(EmulationError::Unknown(name.to_owned())));
                continue;
            };
            match probe::runs(architecture, None, dir) {
                Ok(true) if is_of_the_processor(name) => {
                    state.known.insert(name.to_owned(), Ok(Runs::Natively));
                }
                Ok(runs) => left.push((architecture, runs)),
                Err(source) => {
                    let error =
                        EmulationError::Probe { architecture: name.to_owned(), source: Arc::new(source) };
                    state.known.insert(name.to_owned(), Err(error));
                }
            }
        }
        // A registry of another namespace takes nothing away from what runs outside of it.
        let registers_here = matches!(self.sandbox, Sandbox::Rootless | Sandbox::RootlessSingle);
        let needs_registry = left.iter().any(|(_, runs)| !runs);
        let has_none = state.registry.is_none();
        for (architecture, runs) in left {
            let stays = runs && !(registers_here && needs_registry && has_none);
            let known = if stays {
                Ok(Runs::ByTheMachine)
            } else {
                self.register(&mut state.registry, architecture, dir).map(Runs::ByQemu)
            };
            state.known.insert(architecture.name.to_owned(), known);
        }
    }

    /// Registers a QEMU that runs programs of `architecture`.
    fn register(
        &self,
        registry: &mut Option<Registry>,
        architecture: &Architecture,
        dir: &Path,
    ) -> Result<Qemu, EmulationError> {
        let name = || architecture.name.to_owned();
        let refused =
            |source: io::Error| EmulationError::Refused { architecture: name(), source: source.into() };
        let candidates = self.candidates(architecture);
        let Some(last) = candidates.last() else {
            let program = format!("qemu-{}-static", architecture.qemu);
            return Err(EmulationError::NoQemu { architecture: name(), program });
        };
        let registry = match registry {
            Some(registry) => registry,
            None => registry.insert(
                match self.sandbox {
                    Sandbox::Root => Registry::apart(),
                    Sandbox::Rootless | Sandbox::RootlessSingle => Registry::here(),
                    Sandbox::Chroot => return Err(EmulationError::NotRegistered(name())),
                }
                .map_err(refused)?,
            ),
        };
        for path in &candidates {
            for flags in FLAGS {
                registry.add(architecture, path, flags).map_err(refused)?;
                let runs = probe::runs(architecture, registry.namespace(), dir);
                if matches!(runs, Ok(true)) {
                    return Ok(Qemu { path: path.clone(), namespace: registry.shared_namespace() });
                }
                registry.remove(architecture).map_err(refused)?;
                if let Err(source) = runs {
                    return Err(EmulationError::Probe { architecture: name(), source: source.into() });
                }
            }
        }
        Err(EmulationError::Broken { architecture: name(), path: last.clone() })
    }

    /// The programs that may be a QEMU for `architecture`, the likeliest first.
    fn candidates(&self, architecture: &Architecture) -> Vec<PathBuf> {
        let names = [format!("qemu-{}-static", architecture.qemu), format!("qemu-{}", architecture.qemu)];
        let places = || self.places.iter().cloned().chain(PLACES.map(PathBuf::from));
        let paths = names.iter().flat_map(|name| places().map(move |place| place.join(name)));
        let mut found: Vec<PathBuf> = Vec::new();
        for path in paths.filter(|path| path.is_absolute() && path.is_file()) {
            if !found.contains(&path) {
                found.push(path);
            }
        }
        found
    }
}

/// The architecture of this program, as images name it.
fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "mips64" => "mips64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Whether the processor of this machine may run programs of `architecture` by itself, if they run.
fn is_of_the_processor(architecture: &str) -> bool {
    matches!((native(), architecture), ("amd64", "386") | ("arm64", "arm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_named_with_what_to_do() {
        let dir = std::env::temp_dir().join(format!("wharf-emulation-{}", std::process::id()));
        let emulation = Emulation::new(Sandbox::Chroot, Vec::new());
        assert!(matches!(emulation.of(native(), &[], &dir), Ok(Runs::Natively)));
        let error = emulation.of("pdp11", &[native()], &dir).unwrap_err();
        assert!(matches!(&error, EmulationError::Unknown(name) if name == "pdp11"), "{error}");
        assert!(error.help().contains("$BUILDPLATFORM"));
        let error = EmulationError::NoQemu {
            architecture: "arm64".to_owned(),
            program: "qemu-aarch64-static".to_owned(),
        };
        assert!(
            error.to_string().contains("qemu-aarch64-static") && error.help().contains("qemu-user-static")
        );
    }
}
