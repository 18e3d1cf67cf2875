//! Files of one tree, once more in another that may be in use: `cp`, and volumes that begin with what an image has.
//!
//! What is copied travels as a tar, also where nobody sees it: so all ways of copying read and write by the same rules.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::DiffError;
use super::tar_reader::TarReader;
use super::tar_writer::{TarWriter, WriteSink};
use super::unpack::{Rules, Unpacker};
use crate::Ids;
use crate::walk::{self, Entry, FileKind, Visited, Walk};

/// The most bytes that may follow an archive's end mark. Tapes are padded with far less.
const TRAILING_BYTES_MAX: u64 = 1 << 30;

/// What is handed from the reader to the writer at once.
const PIPE_BUFFER_BYTES: usize = 256 << 10;

/// How files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Who they belong to.
    pub owners: Owners,
    /// Whether devices are made; else they are left out, and told.
    pub devices: bool,
    /// Whether the directory that is copied into becomes like the one whose contents are copied; else it stays as it is.
    pub root: bool,
}

/// Who copies belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whom the originals do.
    AsTheyWere,
    /// All to this user and group.
    All(u32, u32),
    /// Whoever copies: nothing is said.
    Own,
}

/// What is copied.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// The directory that it is in.
    pub dir: BorrowedFd<'a>,
    /// Its name there, and what it is called as a copy; none is the directory's contents.
    pub names: Option<(&'a OsStr, &'a OsStr)>,
    /// How owners are kept there.
    pub ids: Ids,
}

/// What became of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Sockets and devices that were left out.
    pub left_out: Vec<PathBuf>,
}

/// Copies into the directory `to`, whose owners are kept as `ids` says. Nothing that is there, or comes there meanwhile, leads
/// out of it.
pub fn copy(
    from: &Original<'_>,
    to: BorrowedFd<'_>,
    ids: Ids,
    copying: Copying,
) -> Result<Copied, DiffError> {
    let (reader, writer) = io::pipe().map_err(read_error)?;
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(PIPE_BUFFER_BYTES, writer);
            let copied = write_copy(from, &mut out);
            copied.and_then(|copied| out.flush().map(|()| copied).map_err(read_error))
        });
        let unpacked = unpack_stream(reader, to, ids, copying);
        let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (written, unpacked) {
            (Ok(mut written), Ok(unpacked)) => {
                written.left_out.extend(unpacked.left_out);
                Ok(written)
            }
            // Who reads no more has failed, and the writer only noticed.
            (Err(error), Err(unpacked)) => Err(if is_broken_pipe(&error) { unpacked } else { error }),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        }
    })
}

/// Writes what is to be copied as one tar. Says which sockets it left out, as no tar can hold them.
pub fn write_copy(from: &Original<'_>, out: &mut dyn Write) -> Result<Copied, DiffError> {
    let mut tar = TarWriter::new(WriteSink(out), None, OBJECT.to_owned());
    let mut copied = Copied::default();
    let root = match from.names {
        None => Some((walk::open_dir_at(from.dir, OsStr::new(".")).map_err(read_error)?, OsString::new())),
        Some((name, new)) => {
            let stat = from.ids.stat_at(from.dir, name).map_err(read_error)?;
            if stat.kind == FileKind::Dir {
                Some((walk::open_dir_at(from.dir, name).map_err(read_error)?, new.to_owned()))
            } else {
                let dir = Arc::new(from.dir.try_clone_to_owned().map_err(read_error)?);
                let entry = Entry { name: name.to_owned(), stat };
                add(&mut tar, &mut copied, &Visited { path: new.to_owned(), dir, depth: 0, entry })?;
                None
            }
        }
    };
    if let Some((root, mut below)) = root {
        if !below.is_empty() {
            below.push("/");
        }
        tar.begin_tree(below.as_bytes());
        let stat = from.ids.stat_of(root.as_fd()).map_err(read_error)?;
        tar.dir(OsStr::new(""), &stat, &walk::xattrs_of(root.as_fd()).map_err(read_error)?)?;
        for visited in Walk::new(root.as_fd(), from.ids).map_err(read_error)? {
            let visited = visited.map_err(read_error)?;
            // A view of a single snapshot may show the marks that hide nothing.
            if !visited.entry.stat.is_whiteout() {
                add(&mut tar, &mut copied, &visited)?;
            }
        }
    }
    let (mut sink, last) = tar.finish()?;
    sink.write(&last)?;
    Ok(copied)
}

fn add(tar: &mut TarWriter<WriteSink<'_>>, copied: &mut Copied, visited: &Visited) -> Result<(), DiffError> {
    if visited.entry.stat.kind == FileKind::Socket {
        copied.left_out.push(visited.path.clone().into());
        return Ok(());
    }
    tar.visited(visited)
}

/// Unpacks a tar into the directory `to`, as [`copy`] does. Reads the stream to its end.
pub fn unpack_stream(
    stream: impl Read,
    to: BorrowedFd<'_>,
    ids: Ids,
    copying: Copying,
) -> Result<Copied, DiffError> {
    let mut tar = TarReader::new(stream);
    let mut unpacker = Unpacker::new(to, ids, Rules::Copy(copying), OBJECT.to_owned())?;
    unpacker.unpack(None, &mut tar)?;
    tar.finish(TRAILING_BYTES_MAX).map_err(read_error)?;
    unpacker.set_dir_times()?;
    let left_out = std::mem::take(&mut unpacker.left_out).into_iter();
    Ok(Copied { left_out: left_out.map(|path| OsString::from_vec(path).into()).collect() })
}

fn is_broken_pipe(error: &DiffError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn read_error(source: io::Error) -> DiffError {
    DiffError::Read { object: OBJECT.to_owned(), source }
}

/// What is copied, for messages.
const OBJECT: &str = "the files to copy";

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::scratch::Scratch;

    const KEEP: Copying = Copying { owners: Owners::Own, devices: false, root: false };

    fn contents<'a>(dir: &'a File) -> Original<'a> {
        Original { dir: dir.as_fd(), names: None, ids: Ids::Kernel }
    }

    #[test]
    fn a_tree_is_copied_with_all_that_it_has_and_merged_with_what_is_there() {
        let scratch = Scratch::new();
        for name in ["from/dir", "to/dir"] {
            fs::create_dir_all(scratch.path(name)).unwrap();
        }
        fs::write(scratch.path("from/dir/file"), "new").unwrap();
        fs::hard_link(scratch.path("from/dir/file"), scratch.path("from/link")).unwrap();
        fs::set_permissions(scratch.path("from/dir/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/etc/passwd", scratch.path("from/symlink")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(scratch.path("from/socket")).unwrap();
        fs::write(scratch.path("to/dir/file"), "old").unwrap();
        fs::write(scratch.path("to/dir/other"), "stays").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(scratch.path("from/dir")).unwrap().set_modified(old).unwrap();
        let (from, to) = (File::open(scratch.path("from")).unwrap(), File::open(scratch.path("to")).unwrap());
        let copied = copy(&contents(&from), to.as_fd(), Ids::Kernel, KEEP).unwrap();
        assert_eq!(copied.left_out, [PathBuf::from("socket")]);
        let file = fs::metadata(scratch.path("to/dir/file")).unwrap();
        assert_eq!((file.permissions().mode() & 0o7777, file.nlink()), (0o4750, 2));
        assert_eq!(file.ino(), fs::metadata(scratch.path("to/link")).unwrap().ino());
        assert_eq!(fs::read(scratch.path("to/dir/file")).unwrap(), b"new");
        assert_eq!(fs::read(scratch.path("to/dir/other")).unwrap(), b"stays");
        assert_eq!(fs::read_link(scratch.path("to/symlink")).unwrap(), PathBuf::from("/etc/passwd"));
        assert_eq!(fs::metadata(scratch.path("to/dir")).unwrap().modified().unwrap(), old);
    }

    #[test]
    fn directories_and_files_do_not_take_each_others_place() {
        let scratch = Scratch::new();
        for name in ["from/a", "to/b"] {
            fs::create_dir_all(scratch.path(name)).unwrap();
        }
        for name in ["from/b", "to/a"] {
            fs::write(scratch.path(name), "file").unwrap();
        }
        let (from, to) = (File::open(scratch.path("from")).unwrap(), File::open(scratch.path("to")).unwrap());
        for name in ["a", "b"] {
            let name = OsStr::new(name);
            let original = Original { dir: from.as_fd(), names: Some((name, name)), ids: Ids::Kernel };
            let error = copy(&original, to.as_fd(), Ids::Kernel, KEEP).unwrap_err();
            assert!(error.to_string().contains("directory"), "{error}");
        }
        assert!(scratch.path("to/a").is_file() && scratch.path("to/b").is_dir());
    }

    #[test]
    fn links_that_are_there_do_not_lead_out() {
        let scratch = Scratch::new();
        for name in ["from/dir", "to", "outside"] {
            fs::create_dir_all(scratch.path(name)).unwrap();
        }
        fs::write(scratch.path("from/dir/file"), "x").unwrap();
        symlink(scratch.path("outside"), scratch.path("to/dir")).unwrap();
        let (from, to) = (File::open(scratch.path("from")).unwrap(), File::open(scratch.path("to")).unwrap());
        let refused = copy(&contents(&from), to.as_fd(), Ids::Kernel, KEEP);
        assert!(refused.is_err(), "a directory took the place of a link");
        assert_eq!(fs::read_dir(scratch.path("outside")).unwrap().count(), 0);
    }
}
