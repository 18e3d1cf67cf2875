//! From a cache into an empty mount.

use std::io;
use std::os::fd::BorrowedFd;

use wharf_cache::Ids;
use wharf_cache::mounts::{ArchiveError, Fingerprint, Packed};

use super::MountEntry;
use crate::remote::Backend;

/// Why a mount could not be brought, or packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Its archive cannot be had, or is not what it should be; or it cannot be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its files cannot be looked at.
    #[error("cannot look at the files of the cache mount")]
    Look(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] wharf_cache::StoreError),
    /// More than was allowed.
    #[error("it has {size} bytes, and `mounts-max-size` allows {max}")]
    TooLarge {
        /// Bytes that it has.
        size: u64,
        /// Bytes that are allowed.
        max: u64,
    },
    /// Other builds use it.
    #[error("other builds are using it")]
    InUse,
}

/// Unpacks a mount into the empty directory `root`, where files belong to users by `ids`, and which is empty again if that fails. What of it must be remembered is
/// returned.
pub fn import(
    entry: &MountEntry,
    backend: &dyn Backend,
    (root, ids): (BorrowedFd<'_>, Ids),
    size_bytes_max: u64,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Packed, MountError> {
    entry.check()?;
    // The files, not what somebody says of them; what is around them is little.
    let size = entry.chunks.plain_size();
    let max = size_bytes_max.saturating_add(size_bytes_max / 2);
    if entry.size > size_bytes_max || size > max {
        return Err(MountError::TooLarge { size: entry.size.max(size), max: size_bytes_max });
    }
    entry.chunks.unpack(root, ids, &|chunk| {
        if is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        backend.blob(&chunk.digest, chunk.size).map_err(io::Error::other)
    })?;
    let fingerprint = Fingerprint::of(root).map_err(MountError::Look)?;
    Ok(Packed { fingerprint: fingerprint.digest(), archive: entry.chunks.identity() })
}
