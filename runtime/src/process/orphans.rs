//! What is left of a step whose watcher was killed.
//!
//! The watcher ends a step's processes where there is no pid namespace to do it. Whoever kills it, a kernel out of memory
//! above all, must not set them free: they become children of the builder then, who ends them before it looks at what the
//! step has written.

use std::io;

use super::descendants::Descendants;
use super::failed;
use crate::cgroup::Group;
use crate::{RuntimeError, sys};

/// The processes that can come to this one.
#[derive(Debug)]
pub(super) struct Orphans<'a> {
    group: Option<&'a Group>,
}

impl<'a> Orphans<'a> {
    /// From now on those that a watcher leaves do. `group` is the control group that they are in.
    pub(super) fn adopt(group: Option<&'a Group>) -> Result<Self, RuntimeError> {
        sys::adopt_orphans().map_err(failed("adopt what a step may leave"))?;
        Ok(Self { group })
    }

    /// Ends them all. Those of other steps have a watcher, or are to end as well.
    pub(super) fn end(&self) -> Result<(), RuntimeError> {
        if let Some(group) = self.group {
            group.kill();
        }
        if Descendants::left_behind().end() {
            return Ok(());
        }
        let source =
            io::Error::new(io::ErrorKind::TimedOut, "there are new ones faster than they can be ended");
        Err(failed("end the processes that the step has left")(source))
    }
}
