//! How a layer tar says that something below is gone (OCI image-spec, layer.md#whiteouts), and how overlayfs does.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::walk::WHITEOUT_SOCKET_MODE as SOCKET_MODE;

/// A file of this prefix and a name says that the name is gone from the layers below.
pub(super) const PREFIX: &[u8] = b".wh.";

/// A file of this name says that nothing of its directory shines through from below.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name in a layer tar means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// An entry of its own.
    Plain,
    /// This sibling is gone.
    Whiteout(&'a [u8]),
    /// All siblings from below are gone.
    Opaque,
    /// Book-keeping of aufs; no content.
    Ignored,
}

impl<'a> Name<'a> {
    /// Reads the last component of a path.
    pub(super) fn parse(name: &'a [u8]) -> Self {
        match name.strip_prefix(PREFIX) {
            None => Self::Plain,
            Some(_) if name == OPAQUE => Self::Opaque,
            Some(rest) if rest.starts_with(PREFIX) || matches!(rest, b"" | b"." | b"..") => Self::Ignored,
            Some(rest) => Self::Whiteout(rest),
        }
    }
}

/// The attribute that makes a directory opaque for an overlayfs that is mounted with `userxattr`.
pub(crate) const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// Marks `name` as gone. Anybody may make the device, but on overlayfs nobody: there the mark is a socket with a mode that
/// sockets do not have.
pub(crate) fn make_whiteout(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => Ok(rustix::fs::mknodat(dir, name, FileType::Socket, SOCKET_MODE.into(), 0)?),
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases: [(&[u8], Name<'_>); 8] = [
            (b"a", Name::Plain),
            (b".wh", Name::Plain),
            (b".wh.a", Name::Whiteout(b"a")),
            (b".wh..a", Name::Whiteout(b".a")),
            (b".wh..wh..opq", Name::Opaque),
            (b".wh..wh.plnk", Name::Ignored),
            (b".wh.", Name::Ignored),
            (b".wh...", Name::Ignored),
        ];
        for (name, meaning) in cases {
            assert_eq!(Name::parse(name), meaning);
        }
    }
}
