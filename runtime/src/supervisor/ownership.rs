//! What the emulation asks of whoever keeps the owners of files.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

/// What is recorded of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// User and group that it belongs to.
    pub owner: (u32, u32),
    /// The device that it stands for.
    pub device: Option<Device>,
}

/// A device that a file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Block or character device.
    pub is_block: bool,
    /// Major and minor number.
    pub number: (u32, u32),
}

/// Remembers whom files should belong to, where all of them belong to one id.
///
/// Descriptors are `O_PATH` descriptors of anything, symlinks too. No method waits for another process.
pub trait Ownership: Sync {
    /// What is recorded of `file`; user and group 0 when nothing is.
    fn get(&self, file: BorrowedFd<'_>) -> io::Result<Recorded>;

    /// Gives `file` an owner. In all else it is as if the kernel had changed the owner: set-id bits and capabilities go.
    fn set(&self, file: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()>;

    /// Makes something that stands for a device as a new entry `name` of `directory`, with exactly this mode.
    fn make_device(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        device: Device,
        mode: u32,
    ) -> io::Result<()>;

    /// Whether the attribute `name` belongs to the records and is not for programs to see.
    fn hides(&self, name: &[u8]) -> bool;
}
