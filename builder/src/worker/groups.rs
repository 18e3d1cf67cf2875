//! The control groups that steps run in: limits of memory, processor and processes, where the place allows them.

use std::sync::OnceLock;

use wharf_runtime::cgroup::{Effort, Group, GroupError, Limits, NoGroups, StepGroups};

/// How many processes and threads a step may have where nobody says: more than any build needs, and few enough that one
/// that forks for ever leaves the machine usable.
pub const PIDS_DEFAULT: u64 = 8192;

/// What the steps of a build may take, each by itself. No part of any key: it changes how a step runs, not what it makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepLimits {
    /// What was asked for. Without a word about processes there are [`PIDS_DEFAULT`].
    pub asked: Limits,
    /// Whether as many processes as the machine takes were asked for.
    pub unlimited_pids: bool,
    /// The control group to make those of the steps in.
    pub parent: Option<String>,
}

impl StepLimits {
    /// Where the groups of steps are made; none where there is nothing to limit, or nobody asked and it cannot be done.
    fn find(&self) -> Result<Option<StepGroups>, NoGroups> {
        let parent = self.parent.as_deref();
        let mut limits = self.asked.clone();
        if limits.pids.is_none() && !self.unlimited_pids {
            limits.pids = Some(PIDS_DEFAULT);
        }
        let effort = if self.is_asked() { Effort::Lasting } else { Effort::Passing };
        match StepGroups::find(limits.clone(), parent, effort) {
            Ok(_) if limits == Limits::default() && parent.is_none() => Ok(None),
            Ok(groups) => Ok(Some(groups)),
            // The default limit is for where it can be had.
            Err(_) if !self.is_asked() => Ok(None),
            Err(_) if limits != self.asked && self.asked != Limits::default() => {
                StepGroups::find(self.asked.clone(), parent, effort).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    fn is_asked(&self) -> bool {
        self.asked != Limits::default() || self.parent.is_some()
    }
}

/// Why steps cannot be limited as was asked.
#[derive(Debug, thiserror::Error)]
pub enum CannotLimit {
    /// No group can be made.
    #[error(transparent)]
    NoGroups(#[from] NoGroups),
    /// A group does not take what was asked.
    #[error(transparent)]
    Value(#[from] GroupError),
}

impl CannotLimit {
    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoGroups(error) => error.hint(),
            Self::Value(_) => None,
        }
    }
}

/// Makes the groups of a build's steps.
#[derive(Debug)]
pub struct Groups<'a> {
    limits: &'a StepLimits,
    found: OnceLock<Option<StepGroups>>,
}

impl<'a> Groups<'a> {
    /// Fails when a limit was asked for that cannot be had here. Limits that nobody asked for are looked into when there is
    /// a step to run.
    pub fn new(limits: &'a StepLimits) -> Result<Self, CannotLimit> {
        if !limits.is_asked() {
            return Ok(Self { limits, found: OnceLock::new() });
        }
        let found = limits.find()?;
        // What the kernel takes is seen when it is written.
        found.as_ref().map(StepGroups::make).transpose()?;
        Ok(Self { limits, found: OnceLock::from(found) })
    }

    /// The group of a step.
    pub(super) fn make(&self) -> Result<Option<Group>, GroupError> {
        let groups = self.found.get_or_init(|| self.limits.find().ok().flatten());
        match groups.as_ref().map(StepGroups::make).transpose() {
            Err(_) if !self.limits.is_asked() => Ok(None),
            made => made,
        }
    }
}
