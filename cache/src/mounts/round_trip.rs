//! Tests: what is packed comes back as it was, and what somebody else made of it does no harm.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::tests::noise;
use super::*;
use crate::scratch::Scratch;
use crate::{Digest, Ids};

/// Where chunks go and come from.
#[derive(Default)]
struct Remote {
    blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
}

impl Remote {
    fn pack(&self, dir: &Path, known: &HashMap<Digest, Chunk>) -> Result<Archive, ArchiveError> {
        let root = File::open(dir).unwrap();
        Archive::pack(root.as_fd(), Ids::Kernel, &|plain| known.get(plain).cloned(), &|chunk, blob| {
            assert_eq!((Digest::of(&blob), blob.len() as u64), (chunk.digest, chunk.size));
            self.blobs.lock().unwrap().insert(chunk.digest, blob);
            Ok(())
        })
    }

    fn unpack(&self, archive: &Archive, dir: &Path) -> Result<(), ArchiveError> {
        fs::create_dir_all(dir).unwrap();
        let root = File::open(dir).unwrap();
        archive.unpack(root.as_fd(), Ids::Kernel, &|chunk| {
            let blobs = self.blobs.lock().unwrap();
            let blob = blobs.get(&chunk.digest).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(io::Cursor::new(blob.clone())))
        })
    }

    /// An archive whose chunks hold these bytes, whatever they are.
    fn archive(&self, plain: &[u8]) -> Archive {
        let chunk = |plain: &[u8]| {
            let blob = zstd::bulk::compress(plain, 1).unwrap();
            let (digest, size) = (Digest::of(&blob), blob.len() as u64);
            self.blobs.lock().unwrap().insert(digest, blob);
            Chunk { digest, size, plain: Digest::of(plain), plain_size: plain.len() as u64 }
        };
        Archive { chunks: plain.chunks(1 << 20).map(chunk).collect() }
    }
}

/// Everything that is to survive, as text.
fn dump(dir: &Path) -> Vec<String> {
    let root = File::open(dir).unwrap();
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    let top = crate::walk::stat_of(root.as_fd()).unwrap();
    lines.push(format!(". {:o} {}:{} {:?}", top.mode, top.uid, top.gid, top.mtime));
    for visited in crate::walk::Walk::new(root.as_fd(), Ids::Kernel).unwrap() {
        let visited = visited.unwrap();
        let stat = visited.entry.stat;
        let path = dir.join(&visited.path);
        let first = inodes.entry(stat.ino).or_insert_with(|| visited.path.clone()).clone();
        let bytes = match stat.kind {
            crate::walk::FileKind::File => Digest::of(&fs::read(&path).unwrap()).hex(),
            crate::walk::FileKind::Symlink => fs::read_link(&path).unwrap().display().to_string(),
            _ => String::new(),
        };
        let xattrs = crate::walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name).unwrap();
        lines.push(format!(
            "{:?} {:?} {:o} {}:{} {:?} {bytes} first {first:?} {xattrs:?}",
            visited.path, stat.kind, stat.mode, stat.uid, stat.gid, stat.mtime,
        ));
    }
    lines
}

fn rich_tree(dir: &Path) {
    fs::create_dir_all(dir.join("mod/cache/download")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("mod/cache/large"), noise(1, 9 << 20)).unwrap();
    fs::write(dir.join("mod/.wh.not-a-whiteout"), "kept").unwrap();
    fs::write(dir.join("nothing"), "").unwrap();
    fs::write(dir.join("setuid"), "#!").unwrap();
    fs::set_permissions(dir.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(dir.join("n".repeat(250)), "long").unwrap();
    fs::hard_link(dir.join("setuid"), dir.join("mod/link")).unwrap();
    symlink("../../outside", dir.join("mod/dangling")).unwrap();
    symlink("mod", dir.join("to-dir")).unwrap();
    File::create(dir.join("sparse")).unwrap().set_len(3 << 20).unwrap();
    let root = File::open(dir).unwrap();
    rustix::fs::mknodat(&root, "fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
    let name = std::ffi::OsStr::new("setuid");
    let file = File::open(dir.join(name)).unwrap();
    let _ = rustix::fs::fsetxattr(&file, "user.note", b"a\n=b", XattrFlags::empty());
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(3_000_000));
        rustix::fs::chownat(&root, "nothing", Some(uid), Some(gid), AtFlags::empty()).unwrap();
        rustix::fs::fchown(&root, Some(uid), Some(Gid::from_raw(1000))).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o1777)).unwrap();
    for (path, seconds) in [("nothing", -5), ("mod/cache/large", 1_500_000_000), ("mod", 12), (".", 77)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&root, path, &times, AtFlags::empty()).unwrap();
    }
}

#[test]
fn a_mount_comes_back_as_it_was() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.path("from"), scratch.path("to"));
    rich_tree(&from);
    let remote = Remote::default();
    let archive = remote.pack(&from, &HashMap::new()).unwrap();
    assert_eq!(archive.size(), archive.chunks.iter().map(|chunk| chunk.size).sum::<u64>());
    assert!(archive.plain_size() > 12 << 20);
    remote.unpack(&archive, &to).unwrap();
    assert_eq!(dump(&to), dump(&from));
    // The same files give the same archive, and nothing of it is made again.
    let again = Remote::default();
    let known = archive.chunks.iter().map(|chunk| (chunk.plain, chunk.clone())).collect();
    assert_eq!(again.pack(&to, &known).unwrap(), archive);
    assert!(again.blobs.lock().unwrap().is_empty());
    assert_eq!(again.pack(&to, &HashMap::new()).unwrap().identity(), archive.identity());
}

#[test]
fn what_a_cache_does_not_need_stays_behind() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.path("from"), scratch.path("to"));
    fs::create_dir(&from).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let root = File::open(&from).unwrap();
    let device = rustix::fs::mknodat(&root, "null", FileType::CharacterDevice, Mode::RUSR, 0x103);
    fs::write(from.join("kept"), "").unwrap();
    let remote = Remote::default();
    remote.unpack(&remote.pack(&from, &HashMap::new()).unwrap(), &to).unwrap();
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["kept"], "{device:?}");
}

#[test]
fn a_small_change_makes_few_new_chunks() {
    let scratch = Scratch::new();
    let dir = scratch.path("dir");
    fs::create_dir(&dir).unwrap();
    for number in 0..30 {
        fs::write(dir.join(format!("{number}.zip")), noise(number, 500_000)).unwrap();
    }
    let remote = Remote::default();
    let before = remote.pack(&dir, &HashMap::new()).unwrap();
    fs::write(dir.join("15-more.zip"), noise(200, 1000)).unwrap();
    let known: HashMap<_, _> = before.chunks.iter().map(|chunk| (chunk.plain, chunk.clone())).collect();
    let fresh = Remote::default();
    let after = fresh.pack(&dir, &known).unwrap();
    assert!(fresh.blobs.lock().unwrap().len() <= 5, "of {} chunks", after.chunks.len());
    assert!(before.chunks.len() >= 10);
}

#[test]
fn a_chunk_that_cannot_be_stored_ends_the_packing() {
    let scratch = Scratch::new();
    let dir = scratch.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("large"), noise(3, 40 << 20)).unwrap();
    let root = File::open(&dir).unwrap();
    let full =
        Archive::pack(root.as_fd(), Ids::Kernel, &|_| None, &|_, _| Err(io::ErrorKind::StorageFull.into()));
    assert!(matches!(full, Err(ArchiveError::Chunk { operation: "store", .. })), "{full:?}");
}

/// Unpacks `archive`, which must fail, with a message that has `reason` in it, and leave nothing.
#[track_caller]
fn refused(remote: &Remote, archive: &Archive, reason: &str) {
    let scratch = Scratch::new();
    let dir = scratch.path("a/b");
    let error = remote.unpack(archive, &dir).expect_err(reason);
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        text = format!("{text}: {source}");
        cause = source;
    }
    assert!(text.contains(reason), "{text}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{reason}");
    assert_eq!(fs::read_dir(scratch.path("a")).unwrap().count(), 1, "{reason}");
    let root = fs::metadata(&dir).unwrap();
    assert_eq!(root.mode() & 0o7777, 0o755, "{reason}");
}

#[test]
fn chunks_that_lie_are_refused() {
    let scratch = Scratch::new();
    let dir = scratch.path("dir");
    rich_tree(&dir);
    let remote = Remote::default();
    let good = remote.pack(&dir, &HashMap::new()).unwrap();
    let change = |change: &dyn Fn(&mut Vec<Chunk>)| {
        let mut chunks = good.chunks.clone();
        change(&mut chunks);
        Archive { chunks }
    };
    refused(&remote, &change(&|chunks| chunks[2].digest = Digest::of(b"elsewhere")), "fetch chunk");
    refused(&remote, &change(&|chunks| chunks[1].size -= 1), "expected");
    refused(&remote, &change(&|chunks| chunks[1].size += 1), "expected");
    refused(&remote, &change(&|chunks| chunks[1].plain = Digest::of(b"")), "other bytes");
    refused(&remote, &change(&|chunks| chunks[1].plain_size += 1), "other bytes");
    refused(&remote, &change(&|chunks| chunks[1].plain_size -= 1), "decompress chunk");
    refused(&remote, &change(&|chunks| chunks.truncate(2)), "cannot read the cache mount");
    refused(&remote, &change(&Vec::clear), "has 0 chunks");
    refused(&remote, &change(&|chunks| chunks.swap(0, 1)), "not a tar header");
    let damaged = Remote::default();
    *damaged.blobs.lock().unwrap() = remote.blobs.lock().unwrap().clone();
    damaged.blobs.lock().unwrap().get_mut(&good.chunks[3].digest).unwrap()[100] ^= 1;
    refused(&damaged, &good, "expected");
    // A bomb: a blob that unpacks to more than it says.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let chunk = Chunk {
        digest: Digest::of(&bomb),
        size: bomb.len() as u64,
        plain: Digest::of(b""),
        plain_size: 4 << 20,
    };
    damaged.blobs.lock().unwrap().insert(chunk.digest, bomb);
    refused(&damaged, &Archive { chunks: vec![chunk] }, "decompress chunk");
}

#[test]
fn archives_that_lie_are_refused() {
    use tar::EntryType;
    let check = |entries: &[(&str, EntryType, &str)], reason: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, kind, link) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        let remote = Remote::default();
        refused(&remote, &remote.archive(&archive.into_inner().unwrap()), reason);
    };
    use EntryType::{Block, Char, Directory, Link, Regular, Symlink};
    check(&[("../escape", Regular, "")], "leads upward");
    check(&[("a", Directory, ""), ("a/../../escape", Regular, "")], "leads upward");
    check(&[("disk", Block, "")], "a device in a cache mount");
    check(&[("disk", Char, "")], "a device in a cache mount");
    check(&[("./", Symlink, "/")], "must be a directory");
    check(&[("up", Symlink, "../.."), ("up/escape", Regular, ""), ("disk", Block, "")], "a device");
    check(&[("top", Symlink, "/"), ("top/linked", Link, "/etc/passwd")], "does not exist");
    check(&[("hard", Link, "../../../etc/passwd")], "leads upward");
    let remote = Remote::default();
    refused(&remote, &remote.archive(&noise(0, 2048)), "in a tar header");
    refused(&remote, &remote.archive(&vec![0; 1 << 20]), "follow the end");
}

#[test]
fn a_fingerprint_tells_changes() {
    let scratch = Scratch::new();
    let dir = scratch.path("dir");
    rich_tree(&dir);
    let of = || Fingerprint::of(File::open(&dir).unwrap().as_fd()).unwrap();
    let mut last = of();
    assert_eq!(of(), last);
    assert_eq!(last.size_bytes(), (9 << 20) + (3 << 20) + 4 + 2 + 4);
    let mut check = |what: &str, change: &dyn Fn()| {
        change();
        let now = of();
        assert_ne!(now.digest(), last.digest(), "{what}");
        last = now;
    };
    check("the same bytes", &|| fs::write(dir.join("nothing"), "").unwrap());
    check("other bytes, same size and time", &|| {
        let time = fs::metadata(dir.join("setuid")).unwrap().modified().unwrap();
        fs::write(dir.join("setuid"), "!#").unwrap();
        File::options().write(true).open(dir.join("setuid")).unwrap().set_modified(time).unwrap();
    });
    check("a name", &|| fs::rename(dir.join("empty"), dir.join("full")).unwrap());
    check("a mode", &|| fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap());
}

#[test]
fn a_file_with_several_names_counts_once() {
    let scratch = Scratch::new();
    let dir = scratch.path("tree");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("one"), noise(1, 1 << 20)).unwrap();
    for name in ["two", "three"] {
        fs::hard_link(dir.join("one"), dir.join(name)).unwrap();
    }
    fs::write(dir.join("other"), noise(2, 10)).unwrap();
    let root = File::open(&dir).unwrap();
    assert_eq!(Fingerprint::of(root.as_fd()).unwrap().size_bytes(), (1 << 20) + 10);
}

#[test]
fn what_was_packed_is_remembered_with_the_instance() {
    let scratch = Scratch::new();
    let store = Store::open(&scratch.path("store")).unwrap();
    let name = MountName::new("id", None, [None; 3]);
    let request = MountRequest { name: &name, sharing: Sharing::Shared, first: 0, fresh: false };
    let take = || store.try_mount::<StoreError>(&request, &|_| Ok(())).unwrap().unwrap();
    assert!(matches!(store.try_exclusive_mount(&name, 0).unwrap(), Exclusive::Gone));
    let used = take();
    assert_eq!(used.packed(), None);
    assert!(matches!(store.try_exclusive_mount(&name, 0).unwrap(), Exclusive::InUse));
    drop(used);
    let Exclusive::Taken(mount) = store.try_exclusive_mount(&name, 0).unwrap() else { panic!("in use") };
    let packed = Packed { fingerprint: Digest::of(b"1"), archive: Digest::of(b"2") };
    let instance = fs::read_dir(scratch.path("store/mounts")).unwrap().next().unwrap().unwrap().path();
    let used = || fs::metadata(&instance).unwrap().modified().unwrap();
    let before = used();
    mount.remember_packed(&packed);
    drop(mount);
    // To be packed is no use.
    assert_eq!(used(), before);
    assert_eq!(take().packed(), Some(packed));
    let file = instance.join("packed");
    for damage in ["", "sha256:00 sha256:11\n", "\u{0}"] {
        fs::write(&file, damage).unwrap();
        assert_eq!(take().packed(), None, "{damage:?}");
    }
}
