//! The owners that a store records, for the steps that change them.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use wharf_cache::owner::{self, Node};
use wharf_cache::{Ids, Store};
use wharf_runtime::{Device, Ownership, Recorded};

/// What a process needs in order to change owners in `store`; nothing where the kernel keeps them.
pub(crate) fn of(store: &Store) -> Option<&'static dyn Ownership> {
    match store.setup().ids {
        Ids::Kernel | Ids::KernelWithoutDevices => None,
        Ids::Recorded => Some(&Records),
    }
}

/// Owners as [`wharf_cache::owner`] records them.
#[derive(Debug)]
struct Records;

impl Ownership for Records {
    fn get(&self, file: BorrowedFd<'_>) -> io::Result<Recorded> {
        let record = owner::get_of(file)?;
        let device = record.node.map(|Node { is_block, rdev }| Device { is_block, number: rdev });
        Ok(Recorded { owner: record.owner, device })
    }

    fn set(&self, file: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
        owner::set_of(file, owner)
    }

    fn make_device(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        device: Device,
        mode: u32,
    ) -> io::Result<()> {
        let node = Node { is_block: device.is_block, rdev: device.number };
        owner::make_node(directory, OsStr::from_bytes(name.to_bytes()), node, mode)
    }

    fn hides(&self, name: &[u8]) -> bool {
        name.starts_with(owner::XATTR_PREFIX.as_bytes())
    }
}
