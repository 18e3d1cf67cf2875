//! Files that a new snapshot has in common with an earlier one of the same operation: further names of the same inodes.
//!
//! Beside the files of a snapshot that was copied from a directory of the host lies a *list* of them (`snapshots/<id>/files`):
//! what each holds, and its inode and change time when the snapshot was committed. When the operation runs again, a file that
//! would be made with the same bytes, mode, owner and times under the same path is linked, not written.
//!
//! - Nobody writes to a file of a snapshot, so that both may have it. Who changes the upper directory after that makes
//!   new files; working trees of steps are overlays, which copy up, or directories with copies.
//! - Which files are shared is found out while the copy goes on, and they get their names when it has ended: nobody but the
//!   overlay may make entries in an upper directory as long as that is mounted.
//! - A change time cannot be set: an inode that has the one of the list holds what the list says. A further name changes it too,
//!   and after a boot nothing is known of what reached the disk: such a file is read before it is shared.
//! - An inode gets one name in a snapshot, and always the same: files that are only equal never become hard links of each other,
//!   neither in a snapshot nor in a chain of several. What has several names is copied.
//! - An overlay shows the link count of a file below it, and that count would tell a step what else is in the store. So a
//!   snapshot is *parted* before a process sees it ([`Store::part_shared`]): a copy of all its files takes the place of
//!   `fs`, at once, and the list goes. Whatever has taken files has a list, be it an empty one.
//! - No published directory is changed: who reads the files that were there reads on, or takes some. They stay beside the
//!   copy as long as the snapshot, and no process sees them any more.
//!
//! Without a list, or with one that is damaged, files are copied.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::copy::copy_exactly;
use super::{Active, DIRECTORY, SnapshotError, SnapshotId, missing};
use crate::contenthash::{hash_file, is_content_xattr};
use crate::gc::lease::Leased;
use crate::state::Record;
use crate::walk::{self, FileKind, Stat};
use crate::{Chain, ContentDigest, Ids, Key, Stacking, Store, StoreError, diff, store};

/// The name of a list, beside the files.
const LIST: &str = "files";

/// What the names of files begin with that processes must not see any more.
const BEFORE: &str = "before-";

/// What a list begins with; the number changes with its form.
const FORMAT: &[u8; 8] = b"wharf-f1";

/// Fewer files are as soon copied.
const FILES_MIN: usize = 64;

/// More are not listed.
const FILES_MAX: usize = 1 << 18;

/// A list may have this many bytes.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// A file is given no more names than this: some file systems have a limit of 65,000.
const NAMES_MAX: u32 = 32_000;

/// So many earlier snapshots of an operation are looked at.
const EARLIER_MAX: usize = 16;

const BOOT_ID_BYTES: usize = 36;

/// Where the files of a list came from, and in which boot it was written (zeros if that was not known).
const HEAD_BYTES: usize = FORMAT.len() + 32 + BOOT_ID_BYTES;

type Time = (i64, u32);

/// The files of a snapshot that is being made, as far as an earlier one has them.
#[derive(Debug)]
pub struct Sharing {
    ids: Ids,
    place: Key,
    boot: Option<[u8; BOOT_ID_BYTES]>,
    earlier: Option<Earlier>,
    upper: Directories,
    is_alone: bool,
    /// What the files hold that are shared, by inode. An inode gets one name.
    shared: HashMap<u64, ContentDigest>,
    /// Paths of those that have no name in the new snapshot yet.
    waiting: Vec<PathBuf>,
}

/// What a file has to be to be taken for the one that would be made.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Digest of its bytes; it has no extended attributes.
    pub content: ContentDigest,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: (u32, u32),
    /// Its modification time.
    pub mtime: Time,
}

/// An earlier snapshot and its list.
#[derive(Debug)]
struct Earlier {
    id: SnapshotId,
    dir: Directories,
    files: HashMap<OsString, Listed>,
}

/// A file of a list.
#[derive(Debug, Clone, Copy)]
struct Listed {
    content: ContentDigest,
    ino: u64,
    /// `None` if it proves nothing any more.
    ctime: Option<Time>,
}

/// Opens directories below a root; the last one stays open.
#[derive(Debug)]
struct Directories {
    root: OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl Active {
    /// Makes ready to share files with what `op` gave before. `place` stands for where it reads them; of several earlier
    /// snapshots the last from there is taken. `None` where files would be shared with a directory that a step writes to.
    pub fn sharing(&self, op: &Key, place: &Key) -> Result<Option<Sharing>, SnapshotError> {
        let is_alone = self.chain.0.is_empty();
        if self.store.setup().stacking == Stacking::Copy && !is_alone {
            return Ok(None);
        }
        let boot = boot_id();
        let upper = self.upper.try_clone().map_err(|source| self.error("open the changes of", source))?;
        Ok(Some(Sharing {
            ids: self.store.setup().ids,
            place: *place,
            boot,
            earlier: Earlier::find(&self.store, op, place, boot)?,
            upper: Directories::below(upper),
            is_alone,
            shared: HashMap::new(),
            waiting: Vec::new(),
        }))
    }

    /// Says which files are shared, and has all be listed for the next time. Nothing may be changed after that.
    pub fn shares(&mut self, sharing: Sharing) {
        self.sharing = Some(sharing);
    }

    /// Gives the files that are shared their names. The working tree has ended.
    pub(super) fn place_shared(&mut self) -> Result<(), SnapshotError> {
        let Some(sharing) = &mut self.sharing else { return Ok(()) };
        let (placed, earlier) = (sharing.place(), sharing.earlier.as_ref().map(|earlier| earlier.id));
        placed.map_err(|source| match earlier {
            // Somebody has dropped it.
            Some(id) if source.kind() == io::ErrorKind::NotFound => missing(id).into(),
            _ => self.error("link the files of", source),
        })
    }

    /// Puts the list beside the files, if there are as many as are worth it; an empty one if there are not and
    /// some are shared, so that they can be parted.
    pub(super) fn write_list(&self, list: List, has_shared: bool) -> Result<(), SnapshotError> {
        let is_worth_it = (FILES_MIN..=FILES_MAX).contains(&list.files);
        if !is_worth_it && !has_shared {
            return Ok(());
        }
        let path = format!("{}/snapshot/{LIST}", self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file =
            match rustix::fs::openat(self.store.process().fd(), path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => File::from(file),
                Err(errno) if has_shared => return Err(self.error("list the files of", errno.into())),
                // It only would have saved time.
                Err(_) => return Ok(()),
            };
        if is_worth_it && file.write_all(&list.finish()).is_err() {
            file.set_len(0).map_err(|source| self.error("list the files of", source))?;
        }
        Ok(())
    }
}

impl Store {
    /// Sees to it that no snapshot of `chain` has files in common with another one, now or later: to be called before
    /// a process is shown its files.
    pub fn part_shared(&self, chain: &Chain) -> Result<(), SnapshotError> {
        if self.setup().stacking == Stacking::Copy {
            // A process is shown copies.
            return Ok(());
        }
        chain.0.iter().try_for_each(|id| self.part(*id))
    }

    /// Who is killed leaves a directory of the process, or a list, for which everything is done again.
    fn part(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let failed =
            |source| SnapshotError::Io { operation: "part the files of", object: id.to_string(), source };
        let list = match open_list(self, id) {
            Err(Errno::NOENT) => return Ok(()),
            list => list.map_err(|errno| failed(errno.into()))?,
        };
        let lock = rustix::io::retry_on_intr(|| rustix::fs::flock(&list, FlockOperation::LockExclusive));
        lock.map_err(|errno| failed(errno.into()))?;
        if list.metadata().map_err(failed)?.nlink() == 0 {
            // Somebody else has done it meanwhile.
            return Ok(());
        }
        let files = self.open_snapshot(id)?;
        let copy = self.process().unique_name();
        self.replace_by_copy(id, &files, &copy).map_err(failed).inspect_err(|_| self.discard(&copy))?;
        // It takes more of the disk now.
        self.forget_snapshot_size(id)?;
        match rustix::fs::unlinkat(self.snapshots_dir(), format!("{id}/{LIST}"), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Puts a copy in the place of `files`, those of the snapshot, which stay beside it. Until it is whole it is `copy` in the
    /// directory of the process.
    fn replace_by_copy(&self, id: SnapshotId, files: &OwnedFd, copy: &str) -> io::Result<()> {
        let (process, snapshots) = (self.process().fd(), self.snapshots_dir());
        rustix::fs::mkdirat(process, copy, Mode::RWXU)?;
        let root = rustix::fs::openat(process, copy, DIRECTORY, Mode::empty())?;
        copy_exactly(files.as_fd(), root.as_fd(), self.setup().ids)?;
        self.process().leases().note_growth();
        // No power cut leaves less than was there.
        rustix::fs::syncfs(&root)?;
        let beside = format!("{id}/{BEFORE}{:016x}", store::random_u64()?);
        rustix::fs::renameat(process, copy, &snapshots, &beside)?;
        Ok(renameat_with(&snapshots, &beside, &snapshots, format!("{id}/fs"), RenameFlags::EXCHANGE)?)
    }
}

impl Sharing {
    /// Whether nothing lies below the files that are made, so that what is not among them is not there.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Has the file at `path`, where nothing is, be shared, which makes it when the working tree has ended: until then nobody
    /// may look for it there or make it. `false` if it has to be written.
    pub fn share(&mut self, path: &Path, wanted: &Wanted) -> bool {
        let Some(earlier) = &mut self.earlier else { return false };
        let Some(listed) = earlier.files.get(path.as_os_str()).copied() else { return false };
        let is_shared = listed.content == wanted.content
            && !self.shared.contains_key(&listed.ino)
            // Whatever is in the way will be so for who writes the file too, or is the earlier snapshot's alone.
            && earlier.has(path, &listed, wanted, self.ids).unwrap_or(false)
            && self.upper.is_free(path).unwrap_or(false);
        if is_shared {
            self.shared.insert(listed.ino, listed.content);
            self.waiting.push(path.to_owned());
        }
        is_shared
    }

    /// Gives what waits for it a name in the new snapshot. Directories keep their times. After a failure it can be tried again.
    fn place(&mut self) -> io::Result<()> {
        let Some(earlier) = &mut self.earlier else { return Ok(()) };
        // Those of a directory may have been copied before and after what is in a directory in it.
        self.waiting.sort_unstable_by(|a, b| a.parent().cmp(&b.parent()));
        for paths in self.waiting.chunk_by(|a, b| a.parent() == b.parent()) {
            let Some(parent) = paths[0].parent() else { continue };
            let (from, to) = (earlier.dir.open(parent)?, self.upper.open(parent)?);
            let before = walk::stat_of(to)?;
            let mut names = paths.iter().filter_map(|path| path.file_name());
            let placed = names.try_for_each(|name| link_or_copy(from, to, name, self.ids, &mut self.shared));
            diff::set_dir_time(to, &before)?;
            placed?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// What the files hold that were shared, by inode.
    pub(super) fn shared(&self) -> &HashMap<u64, ContentDigest> {
        &self.shared
    }

    /// An empty list for the files.
    pub(super) fn list(&self) -> List {
        let mut bytes = Vec::from(*FORMAT);
        bytes.extend(self.place.0);
        bytes.extend(self.boot.unwrap_or([0; BOOT_ID_BYTES]));
        List { bytes, files: 0 }
    }

    /// Whether an earlier snapshot was found, so that it is worth knowing what files hold.
    pub fn has_earlier(&self) -> bool {
        self.earlier.is_some()
    }
}

/// Makes the file `name` of `from` one of `to`: the same, or a copy where it can have no further name.
fn link_or_copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    ids: Ids,
    shared: &mut HashMap<u64, ContentDigest>,
) -> io::Result<()> {
    match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
        // There may have been an attempt before, or a later source had another file for the same place.
        Ok(()) | Err(Errno::EXIST) => return Ok(()),
        Err(errno) if errno == Errno::NOENT || store::is_disk_full(&errno.into()) => return Err(errno.into()),
        Err(_) => {}
    }
    let stat = ids.stat_at(from, name)?;
    shared.remove(&stat.ino);
    let copied = diff::copy_file(from, name, &stat, to, name, ids);
    if copied.is_err() {
        rustix::fs::unlinkat(to, name, AtFlags::empty())?;
    }
    copied
}

impl Earlier {
    /// The last snapshot of `op` with a list, if there is one from the same `place` that. It is kept as long as the process lives.
    fn find(
        store: &Store,
        op: &Key,
        place: &Key,
        boot: Option<[u8; BOOT_ID_BYTES]>,
    ) -> Result<Option<Self>, StoreError> {
        let choose = || choose(store, op, place);
        let Some(id) = store.find_and_lease(choose, |id| vec![Leased::Snapshot(*id)])? else {
            return Ok(None);
        };
        // What cannot be read is no reason to fail.
        let Some(files) = open_list(store, id).ok().and_then(|list| read_list(&list, boot)) else {
            return Ok(None);
        };
        // Of files that were parted meanwhile none has an inode of the list.
        let Ok(dir) = store.open_snapshot(id) else { return Ok(None) };
        Ok(Some(Self { id, dir: Directories::below(dir), files }))
    }

    /// Whether the file that was listed is there, and what is wanted.
    fn has(&mut self, path: &Path, listed: &Listed, wanted: &Wanted, ids: Ids) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
        let dir = self.dir.open(parent)?;
        let stat = ids.stat_at(dir, name)?;
        if stat.ino != listed.ino || stat.nlink >= NAMES_MAX || !wanted.is(&stat) {
            return Ok(false);
        }
        if listed.ctime == Some(stat.ctime) { Ok(true) } else { holds(dir, name, &listed.content) }
    }
}

impl Wanted {
    fn is(&self, stat: &Stat) -> bool {
        stat.kind == FileKind::File
            && (stat.size, stat.mode, stat.mtime) == (self.size, self.mode, self.mtime)
            && (stat.uid, stat.gid) == self.owner
    }
}

/// Whether a file has these bytes and nothing else.
fn holds(dir: BorrowedFd<'_>, name: &OsStr, content: &ContentDigest) -> io::Result<bool> {
    let mut file = walk::open_file_at(dir, name)?;
    let xattrs = walk::xattrs_of(file.as_fd())?;
    Ok(!xattrs.iter().any(|(name, _)| is_content_xattr(name)) && hash_file(&mut file)? == *content)
}

impl Directories {
    fn below(root: OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// Whether nothing is at `path`, also if its directory is not there.
    fn is_free(&mut self, path: &Path) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
        match self.open(parent).and_then(|dir| walk::stat_at(dir, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map(|_| false),
        }
    }

    fn open(&mut self, path: &Path) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let dir = diff::open_dir_below(self.root.as_fd(), path.as_os_str().as_bytes())?;
            self.last = Some((path.to_owned(), dir.ok_or(io::ErrorKind::NotFound)?));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, dir)| dir.as_fd()))
    }
}

/// The list of a snapshot while its files are hashed: for each the length of its path (u32), the path, the digest of its
/// bytes, its inode (u64) and change time (i64, u32), all little-endian; at the end the BLAKE3 of all that.
#[derive(Debug)]
pub(crate) struct List {
    bytes: Vec<u8>,
    files: usize,
}

impl List {
    /// Adds a regular file without extended attributes.
    pub(crate) fn add(&mut self, path: &OsStr, stat: &Stat, content: &ContentDigest) {
        self.entry(path, stat, content);
    }

    /// Adds a further name of a file.
    pub(crate) fn add_name(&mut self, path: &OsStr, stat: &Stat) {
        if stat.kind == FileKind::File {
            self.entry(path, stat, &ContentDigest([0; 32]));
        }
    }

    fn entry(&mut self, path: &OsStr, stat: &Stat, content: &ContentDigest) {
        self.files += 1;
        if self.files > FILES_MAX {
            return;
        }
        // The kernel takes no path of more than 4096 bytes.
        self.bytes.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.extend(content.0);
        self.bytes.extend(stat.ino.to_le_bytes());
        self.bytes.extend(stat.ctime.0.to_le_bytes());
        self.bytes.extend(stat.ctime.1.to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let digest = blake3::hash(&self.bytes);
        self.bytes.extend(digest.as_bytes());
        self.bytes
    }
}

fn open_list(store: &Store, id: SnapshotId) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(store.snapshots_dir(), format!("{id}/{LIST}"), flags, Mode::empty()).map(File::from)
}

/// The files of a list that have one name.
fn read_list(file: &File, boot: Option<[u8; BOOT_ID_BYTES]>) -> Option<HashMap<OsString, Listed>> {
    let mut bytes = Vec::new();
    file.take(LIST_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let (listed, digest) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(listed) != *digest {
        return None;
    }
    let (head, mut rest) = listed.split_at_checked(HEAD_BYTES)?;
    let is_this_boot = boot.is_some_and(|boot| head.ends_with(&boot));
    let mut files = HashMap::new();
    let mut names: HashMap<u64, u32> = HashMap::new();
    while !rest.is_empty() {
        let len = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let (path, after) = rest.split_at_checked(len)?;
        rest = after;
        let content = ContentDigest(take(&mut rest)?);
        let ino = u64::from_le_bytes(take(&mut rest)?);
        let ctime = (i64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        let listed = Listed { content, ino, ctime: is_this_boot.then_some(ctime) };
        files.insert(OsStr::from_bytes(path).to_owned(), listed);
        *names.entry(ino).or_default() += 1;
    }
    files.retain(|_, listed| names[&listed.ino] == 1);
    Some(files)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// The last snapshot of an operation with a list, if there is one from the same `place` that.
fn choose(store: &Store, op: &Key, place: &Key) -> Result<Option<SnapshotId>, StoreError> {
    let mut last = None;
    for id in earlier_snapshots(store, op)? {
        let mut head = [0; HEAD_BYTES];
        let read = open_list(store, id).ok().map(|mut file| file.read_exact(&mut head));
        if !matches!(read, Some(Ok(()))) || !head.starts_with(FORMAT) {
            continue;
        }
        if head[FORMAT.len()..].starts_with(&place.0) {
            return Ok(Some(id));
        }
        last = last.or(Some(id));
    }
    Ok(last)
}

/// What an operation gave, the last first.
fn earlier_snapshots(store: &Store, op: &Key) -> Result<Vec<SnapshotId>, StoreError> {
    let mut found: Vec<(i64, SnapshotId)> = store.read("look up what an operation gave", |transaction| {
        let mut records = transaction.prepare_cached("SELECT DISTINCT outputs FROM records WHERE op = ?1")?;
        let mut created =
            transaction.prepare_cached("SELECT created_ns FROM snapshots WHERE id = ?1 AND NOT lazy")?;
        let mut found = Vec::new();
        let mut rows = records.query([&op.0])?;
        while let Some(row) = rows.next()? {
            let record = Record::decode(row.get(0)?);
            let top = record.and_then(|record| record.outputs.first()?.0.last().copied());
            let Some(id) = top else { continue };
            if let Some(created) = created.query_row([id.row_id()], |row| row.get(0)).optional()? {
                found.push((created, id));
            }
        }
        Ok(found)
    })?;
    found.sort_unstable_by_key(|(created, _)| std::cmp::Reverse(*created));
    Ok(found.into_iter().take(EARLIER_MAX).map(|(_, id)| id).collect())
}

/// Which boot this is, where that can be told.
fn boot_id() -> Option<[u8; BOOT_ID_BYTES]> {
    std::fs::read("/proc/sys/kernel/random/boot_id").ok()?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
