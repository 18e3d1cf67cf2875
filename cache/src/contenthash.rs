//! Content digests of trees: what a step reads, reduced to one BLAKE3 digest that never depends on times.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use crate::ContentDigest;
use crate::walk::Stat;

/// Builds the digest of a tree or selection from its entries, which must come sorted by path bytes, each path
/// once. The encoding is length-framed and versioned: no two different lists of entries give the same digest.
#[derive(Debug)]
pub struct TreeHasher {
    hasher: blake3::Hasher,
}

/// The bytes of an entry as far as they are content: for a regular file its [`ContentDigest`], for a symlink its
/// target.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Directory, device, fifo: nothing.
    None,
    /// Digest of a regular file's bytes, from [`hash_file`].
    File(&'a ContentDigest),
    /// A symlink's target.
    Link(&'a OsStr),
}

impl TreeHasher {
    /// An empty list of entries.
    pub fn new() -> Self {
        todo!()
    }

    /// Adds an entry. `owner` replaces uid and gid of the stat where they do not count as they are (`(0, 0)` for a
    /// build context).
    pub fn entry(
        &mut self,
        path: &OsStr,
        stat: &Stat,
        owner: Option<(u32, u32)>,
        xattrs: &[(std::ffi::OsString, Vec<u8>)],
        payload: Payload<'_>,
    ) {
        let _ = (path, stat, owner, xattrs, payload);
        todo!()
    }

    /// The digest of what was added.
    pub fn finish(&self) -> ContentDigest {
        self.hasher.finalize().into()
    }
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Digest of a file's bytes, read to its end.
pub fn hash_file(file: &mut std::fs::File) -> std::io::Result<ContentDigest> {
    let _ = file;
    todo!()
}

/// Digest of everything below `dir` (its own metadata included under the empty path): paths, type, mode, owner,
/// size, link target, xattrs, device numbers, bytes, and which paths are hard links of one file. Overlay's own
/// whiteouts and opaque marks count as what they mean. Also returns the sum of the regular files' sizes.
pub fn hash_tree(dir: BorrowedFd<'_>) -> std::io::Result<(ContentDigest, u64)> {
    let _ = dir;
    todo!()
}
