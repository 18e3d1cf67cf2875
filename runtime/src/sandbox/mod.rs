//! The ladder of sandboxes: how much of the kernel's help a step can be confined with.
//!
//! In the sandboxes that take a user namespace the whole process enters it, before it has threads; from there on it is
//! root with the right to mount, and everything else is as in the sandbox `root`.

mod checks;
mod choose;
mod ids;
mod listener;
mod namespace;
mod obstacle;
mod place;
mod remedy;
mod report;
mod share;

use std::fmt;
use std::str::FromStr;

pub(crate) use checks::Scratch;
pub use checks::try_overlay;
pub use choose::{NoSandbox, enter};
pub(crate) use ids::UserNamespace;
pub use ids::in_user_namespace;
pub use obstacle::{Call, Cause, HelperProblem, Obstacle, errno_name};
pub use remedy::{Remedy, RemedyKind};
pub use report::{Fact, Report, Rung, examine};
pub use share::{join, user_namespace};

/// A sandbox, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sandbox {
    /// Namespaces and mounts by CAP_SYS_ADMIN where this process is.
    Root,
    /// The same in a user namespace that maps many ids.
    Rootless,
    /// The same in a user namespace that maps one id; what needs other ids is emulated.
    RootlessSingle,
    /// No namespaces and no mounts: a directory as root, confined by Landlock and seccomp. Takes uid 0.
    Chroot,
}

impl Sandbox {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::Root, Self::Rootless, Self::RootlessSingle, Self::Chroot];

    /// The name that `--sandbox` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Rootless => "rootless",
            Self::RootlessSingle => "rootless-single",
            Self::Chroot => "chroot",
        }
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sandbox {
    type Err = UnknownSandbox;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|sandbox| sandbox.name() == name);
        found.ok_or_else(|| UnknownSandbox { name: name.to_owned() })
    }
}

/// A name that no sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no sandbox: there are root, rootless, rootless-single and chroot")]
pub struct UnknownSandbox {
    /// The name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for sandbox in Sandbox::ALL {
            assert_eq!(sandbox.name().parse(), Ok(sandbox));
        }
        assert!("docker".parse::<Sandbox>().is_err());
    }
}
