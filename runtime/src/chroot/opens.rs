//! What is answered when a step opens something that is only a placeholder.

use std::ffi::CStr;

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// The device that this place has there.
    Device(&'static CStr),
    /// The terminal of the step, if it has one.
    Terminal,
    /// What the process's own descriptor of this number leads to.
    Descriptor(u32),
    /// The secret at this index.
    Secret(usize),
}
