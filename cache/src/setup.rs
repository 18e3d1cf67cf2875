//! What the place that a process runs in allows a store to do.

/// How a process works with a store. It is the process's, not the store's: the files in `snapshots/` have one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setup {
    /// How files belong to users.
    pub ids: Ids,
    /// How snapshots are stacked.
    pub stacking: Stacking,
}

/// How files of a store belong to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ids {
    /// The kernel keeps the owner of each file.
    #[default]
    Kernel,
    /// The same, and no device is made: steps could open it, as nothing but the file itself stands between.
    KernelWithoutDevices,
    /// One id is all there is: the owner that a file should have is recorded in its extended attributes.
    Recorded,
}

/// How the snapshots of a chain become one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stacking {
    /// The kernel's overlayfs, mounted detached.
    #[default]
    Overlay,
    /// A directory with copies of the files. Needs no mounts.
    Copy,
}
