//! COPY and ADD: the matrix of sources and destinations.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, SeekFrom, XattrFlags};
use wharf_cache::contenthash::is_content_xattr;
use wharf_cache::snapshot::Wanted;
use wharf_cache::walk::{self as cwalk, FileKind, Stat};
use wharf_solver::llb::CopyAction;

use super::target::{Target, io_error, modified_at, set_mode};
use super::{FileError, Shared, Source, mode, resolve_owner};
use crate::context::resolve;
use crate::context::select::{Patterns, Selected};
use crate::context::walk::{Visit, walk};

/// Files up to this size are copied through one buffer; larger ones inside the kernel.
const BUFFER_BYTES: usize = 128 << 10;

/// Copies what `copy` selects in `source` to its destination in `target`.
pub(super) fn copy(
    target: &Target<'_>,
    copy: &CopyAction,
    source: &Source<'_>,
    mut shared: Option<Shared<'_>>,
) -> Result<(), FileError> {
    let owner = resolve_owner(target.root(), copy.owner.as_ref())?;
    let patterns = Patterns::of(copy)?;
    let mut copier = Copier {
        target,
        action: copy,
        source,
        owner: owner.or(source.local.then_some((0, 0))),
        parents_owner: owner.unwrap_or((0, 0)),
        parents_mode: match copy.mode {
            Some(wharf_solver::llb::Mode::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        },
        links: HashMap::new(),
        shared: None,
        buffer: vec![0; BUFFER_BYTES],
    };
    let mut all = source.tree.select(copy)?;
    all.retain(|selected| !patterns.exclude_named(selected));
    for (number, selected) in all.iter().enumerate() {
        // What another source may replace is not shared, and single files are as soon copied.
        if number + 1 == all.len() && selected.stat.kind == FileKind::Dir {
            copier.shared = shared.take();
        }
        // What one source put there another one may have replaced, so links are kept within a source.
        copier.links.clear();
        copier.one(selected, &patterns)?;
    }
    Ok(())
}

struct Copier<'a> {
    target: &'a Target<'a>,
    action: &'a CopyAction,
    source: &'a Source<'a>,
    /// Owner of the copies; `None` keeps theirs.
    owner: Option<(u32, u32)>,
    /// Owner and mode of directories that are made to hold the copies: those above the destination, and the
    /// destination itself when the contents of a directory are copied there.
    parents_owner: (u32, u32),
    parents_mode: u32,
    /// Where the first name of a file with several was copied to.
    links: HashMap<(u64, u64), PathBuf>,
    /// Files that need not be written.
    shared: Option<Shared<'a>>,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    fn one(&mut self, selected: &Selected, patterns: &Patterns) -> Result<(), FileError> {
        let dest = self.target.resolve(&self.action.dest)?;
        let dest_is_dir = dest.stat.is_some_and(|stat| stat.kind == FileKind::Dir);
        if selected.stat.kind == FileKind::Dir {
            return self.directory(selected, &dest.path, patterns);
        }
        if self.action.unpack_archive
            && selected.stat.kind == FileKind::File
            && self.unpack(selected, &dest.path)?
        {
            return Ok(());
        }
        let into_dir = dest_is_dir || self.action.dest.ends_with('/');
        let parent = if into_dir { &*dest.path } else { resolve::parent(&dest.path) };
        self.target.make_dirs(parent, self.parents_mode, self.parents_owner)?;
        let name = selected.named.file_name().unwrap_or(OsStr::new("file"));
        let path = if into_dir { dest.path.join(name) } else { dest.path.clone() };
        let from = self.source.tree.open_dir(resolve::parent(&selected.path));
        let from = from.map_err(|source| io_error("read", &selected.path, source))?;
        let name = selected.path.file_name().unwrap_or(OsStr::new("."));
        self.entry(from.as_fd(), name, &selected.stat, path)
    }

    /// Unpacks an archive; `false` if the file is none.
    fn unpack(&self, selected: &Selected, dest: &Path) -> Result<bool, FileError> {
        let failed = |source| io_error("read", &selected.path, source);
        let parent = self.source.tree.open_dir(resolve::parent(&selected.path)).map_err(failed)?;
        let name = selected.path.file_name().unwrap_or(OsStr::new("."));
        let mut file = open_regular(parent.as_fd(), name, &selected.path)?;
        let archive = |source| FileError::Archive { archive: selected.path.clone(), source };
        if !wharf_cache::diff::is_archive(&mut file).map_err(archive)? {
            return Ok(false);
        }
        self.target.make_dirs(dest, 0o755, self.parents_owner)?;
        let dir = self.target.dir(dest)?;
        wharf_cache::diff::extract_archive(
            &mut file,
            dir.as_fd(),
            self.target.ids(),
            self.owner.unwrap_or((0, 0)),
        )
        .map_err(archive)
    }

    /// Copies what is in a directory. The directory that comes to hold it is as if made for it, whatever the source's own
    /// mode and owner are; one that is there stays as it is.
    fn directory(&mut self, selected: &Selected, dest: &Path, patterns: &Patterns) -> Result<(), FileError> {
        let io = |source| io_error("read", &selected.path, source);
        let dir = self.source.tree.open_dir(&selected.path).map_err(io)?;
        let dest = if self.action.dir_contents_only {
            self.target.make_dirs(dest, self.parents_mode, self.parents_owner)?;
            dest.to_owned()
        } else {
            let dest = dest.join(selected.named.file_name().unwrap_or_default());
            self.target.make_dirs(resolve::parent(&dest), self.parents_mode, self.parents_owner)?;
            self.entry(dir.as_fd(), OsStr::new("."), &selected.stat, dest.clone())?;
            dest
        };
        let filters = patterns.filters(&self.source.tree, &selected.path);
        let mut dirs = vec![(dest.clone(), selected.stat.mtime)];
        let mut failure = None;
        let mut visit = |seen: Visit<'_>| {
            let path = dest.join(seen.path);
            if seen.stat.kind == FileKind::Dir {
                dirs.push((path.clone(), seen.stat.mtime));
            }
            Ok(match self.entry(seen.parent, seen.name, seen.stat, path) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            })
        };
        walk(dir.as_fd(), &filters, &mut visit).map_err(io)?;
        if let Some(error) = failure {
            return Err(error);
        }
        // Making entries in a directory changes its time, so times are set when nothing more comes.
        dirs.iter().rev().try_for_each(|(path, mtime)| self.target.set_times(path, self.mtime(*mtime)))
    }

    /// Copies one entry to a resolved path whose directory exists.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: PathBuf,
    ) -> Result<(), FileError> {
        let owner = self.owner.unwrap_or((stat.uid, stat.gid));
        let mode = match &self.action.mode {
            Some(change) => mode::apply(change, stat.mode, stat.kind == FileKind::Dir)?,
            None => stat.mode,
        };
        match stat.kind {
            FileKind::Dir => return self.make_dir(from, name, owner, mode, &path),
            FileKind::File => return self.file(from, name, stat, owner, mode, path),
            FileKind::Symlink => {
                let to = cwalk::readlink_at(from, name).map_err(|source| io_error("read", &path, source))?;
                self.target.make_room(&path)?;
                self.target.symlink_at(&path, &to, owner)?;
            }
            // A socket means nothing to who did not open it; its name stays, as an empty file.
            FileKind::Socket => {
                let file = self.target.create(&path)?;
                self.target
                    .set_file_owner(&file, owner, mode)
                    .map_err(|source| io_error("create", &path, source))?;
            }
            FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo => {
                self.target.make_room(&path)?;
                self.target.make_node(&path, stat, mode, owner)?;
            }
        }
        self.target.set_times(&path, self.mtime(stat.mtime))
    }

    fn make_dir(
        &self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        owner: (u32, u32),
        mode: u32,
        path: &Path,
    ) -> Result<(), FileError> {
        let failed = |source| io_error("make directory", path, source);
        let parent = self.target.dir(resolve::parent(path))?;
        let dest = path.file_name().unwrap_or(OsStr::new("."));
        match rustix::fs::mkdirat(&*parent, dest, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let there = cwalk::stat_at(parent.as_fd(), dest).map_err(failed)?;
                if there.kind != FileKind::Dir {
                    return Err(FileError::NotADirectory(path.to_owned()));
                }
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.target.ids().set_owner(parent.as_fd(), dest, owner).map_err(failed)?;
        set_mode(parent.as_fd(), dest, mode).map_err(failed)?;
        let xattrs = cwalk::xattrs_at(from, name).map_err(failed)?;
        if !xattrs.is_empty() {
            let made = cwalk::open_dir_at(parent.as_fd(), dest).map_err(failed)?;
            set_xattrs(made.as_fd(), &xattrs).map_err(failed)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        owner: (u32, u32),
        mode: u32,
        path: PathBuf,
    ) -> Result<(), FileError> {
        if stat.nlink > 1
            && let Some(first) = self.links.get(&(stat.dev, stat.ino))
        {
            return self.target.hard_link(first, &path);
        }
        if self.share(stat, owner, mode, &path)? {
            return Ok(());
        }
        let failed = |source| io_error("copy to", &path, source);
        let mut read = open_regular(from, name, &path)?;
        let mut write = self.target.create(&path)?;
        copy_bytes(&mut read, &mut write, stat.size, &mut self.buffer).map_err(failed)?;
        self.target.set_file_owner(&write, owner, mode).map_err(failed)?;
        let xattrs = cwalk::xattrs_of(read.as_fd()).map_err(failed)?;
        set_xattrs(write.as_fd(), &xattrs).map_err(failed)?;
        rustix::fs::futimens(&write, &modified_at(self.mtime(stat.mtime)))
            .map_err(|error| failed(error.into()))?;
        if stat.nlink > 1 {
            self.links.insert((stat.dev, stat.ino), path);
        }
        Ok(())
    }

    /// Makes the file at `path` one with that of an earlier copy, where nothing is and that one is the same.
    fn share(&mut self, stat: &Stat, owner: (u32, u32), mode: u32, path: &Path) -> Result<bool, FileError> {
        let mtime = self.mtime(stat.mtime);
        let Some(Shared { sharing, known }) = &mut self.shared else { return Ok(false) };
        // Further names of a file in the source are made from its first one, which has to be seen for that.
        if stat.nlink > 1 || !sharing.has_earlier() {
            return Ok(false);
        }
        let Some(content) = known.content(stat) else { return Ok(false) };
        if !sharing.is_alone() && !self.target.is_free(path)? {
            return Ok(false);
        }
        Ok(sharing.share(path, &Wanted { content, size: stat.size, mode, owner, mtime }))
    }

    fn mtime(&self, own: (i64, u32)) -> (i64, u32) {
        self.action.timestamp_s.map_or(own, |seconds| (seconds, 0))
    }
}

/// Opens what was a regular file when it was looked at. Anything else in its place might never end.
fn open_regular(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<File, FileError> {
    let failed = |source| io_error("read", path, source);
    let file = cwalk::open_file_at(dir, name).map_err(failed)?;
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(FileError::Replaced(path.to_owned())),
    }
}

/// Copies to the end of `read`, which should have about `size` bytes.
fn copy_bytes(read: &mut File, write: &mut File, size: u64, buffer: &mut [u8]) -> io::Result<()> {
    if size > buffer.len() as u64 {
        return copy_extents(read, write);
    }
    loop {
        let count = read.read(buffer)?;
        if count == 0 {
            return Ok(());
        }
        write.write_all(&buffer[..count])?;
    }
}

/// Copies what a file holds and leaves its holes out.
fn copy_extents(read: &mut File, write: &mut File) -> io::Result<()> {
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(&*read, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data after `at`.
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that does not know holes.
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&*read, SeekFrom::Hole(start)).unwrap_or(u64::MAX);
        rustix::fs::seek(&*read, SeekFrom::Start(start))?;
        rustix::fs::seek(&*write, SeekFrom::Start(start))?;
        // `io::copy` uses copy_file_range where both file systems allow it.
        let copied = io::copy(&mut Read::take(&mut *read, end - start), write)?;
        at = start + copied;
        if copied < end - start {
            break;
        }
    }
    write.set_len(read.metadata()?.len().max(at))
}

/// Sets extended attributes; those the file system does not know are left out, as every builder does, and so are those
/// that mean something to overlayfs.
fn set_xattrs(fd: BorrowedFd<'_>, xattrs: &[(std::ffi::OsString, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_content_xattr(name)) {
        match rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
