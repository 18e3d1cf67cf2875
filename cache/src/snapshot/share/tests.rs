//! What is shared, what is parted, and that nothing but link counts tells.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, IFlags, XattrFlags};

use super::*;
use crate::diff::{Compression, OPAQUE_XATTR, Variant, make_layer, make_whiteout};
use crate::store::test_root::TestRoot;
use crate::walk::{Visited, Walk};

const OP: Key = Key([1; 32]);
const PLACE: Key = Key([2; 32]);

/// A store in which copies of the same files are made.
struct World {
    root: TestRoot,
    store: Store,
    copies: u8,
}

impl World {
    fn new(stacking: Stacking) -> Self {
        let root = TestRoot::with(stacking);
        let store = root.open();
        Self { root, store, copies: 0 }
    }

    /// Copies `files` files into directories, as far as they cannot be shared.
    fn begin(&self, files: usize) -> Active {
        let mut active = self.store.prepare(&Chain::default()).unwrap();
        let root =
            PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&active.upper())));
        let mut sharing = active.sharing(&OP, &PLACE).unwrap().unwrap();
        let time = UNIX_EPOCH + Duration::new(1000, 5);
        for dir in ["d", "d/sub"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        for number in 0..files {
            let path = PathBuf::from(if number % 2 == 0 { "d" } else { "d/sub" }).join(number.to_string());
            let text = format!("text {number}");
            let mode = if number % 3 == 0 { 0o4755 } else { 0o640 };
            let owner = (u32::from(number % 5 == 0), 7);
            let content = blake3::hash(text.as_bytes()).into();
            let wanted = Wanted { content, size: text.len() as u64, mode, owner, mtime: (1000, 5) };
            if number > 0 && sharing.share(&path, &wanted) {
                continue;
            }
            let path = root.join(path);
            fs::write(&path, text).unwrap();
            std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            if number == 0 {
                rustix::fs::setxattr(&path, "user.k", b"v", XattrFlags::empty()).unwrap();
                fs::hard_link(&path, path.with_file_name("twin")).unwrap();
            }
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        for dir in ["d/sub", "d", "."] {
            File::open(root.join(dir)).unwrap().set_modified(time).unwrap();
        }
        active.shares(sharing);
        active
    }

    /// The same to the end. `meanwhile` happens before files are linked.
    fn copy_while(&mut self, files: usize, meanwhile: impl FnOnce(&Store)) -> SnapshotId {
        let active = self.begin(files);
        meanwhile(&self.store);
        self.copies += 1;
        // The last is taken first.
        let id = active.commit(UNIX_EPOCH + Duration::from_secs(self.copies.into())).unwrap().id;
        let record = Record { outputs: vec![Chain(vec![id])] };
        self.store.put_record(&[Key([self.copies + 10; 32])], &OP, &record).unwrap();
        id
    }

    fn copy(&mut self) -> SnapshotId {
        self.copy_while(100, |_| ())
    }

    fn part(&self, id: SnapshotId) {
        self.store.part_shared(&Chain(vec![id])).unwrap();
    }

    fn path(&self, id: SnapshotId, path: &str) -> PathBuf {
        self.root.path().join(format!("snapshots/{id}/{path}"))
    }

    /// How many regular files have so many names.
    fn counts(&self, id: SnapshotId) -> Vec<(u64, usize)> {
        let dir = self.store.open_snapshot(id).unwrap();
        let mut counts = std::collections::BTreeMap::new();
        for visited in Walk::new(dir.as_fd(), Ids::Kernel).unwrap() {
            let stat = visited.unwrap().entry.stat;
            if stat.kind == FileKind::File {
                *counts.entry(u64::from(stat.nlink)).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// A line for each file: all that a layer holds of it, and its times to the nanosecond.
    fn dump(&self, id: SnapshotId) -> Vec<String> {
        let dir = self.store.open_snapshot(id).unwrap();
        self.dump_of(&dir, id)
    }

    fn dump_of(&self, dir: &OwnedFd, id: SnapshotId) -> Vec<String> {
        let root = walk::stat_of(dir.as_fd()).unwrap().mtime;
        let lines = Walk::new(dir.as_fd(), Ids::Kernel).unwrap().map(|visited| {
            let visited = visited.unwrap();
            let path = self.path(id, "fs").join(&visited.path);
            let stat = visited.entry.stat;
            let text = if stat.kind == FileKind::File { fs::read(&path).unwrap() } else { Vec::new() };
            let xattrs = walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name).unwrap();
            let Stat { kind, mode, uid, gid, size, mtime, .. } = stat;
            format!("{path:?} {kind:?} {mode:o} {uid} {gid} {size} {mtime:?} {xattrs:?} {text:?}")
                .replace(&id.to_string(), "ID")
        });
        let mut lines: Vec<_> = lines.collect();
        lines.push(format!("{root:?}"));
        lines
    }

    fn layer(&self, id: SnapshotId) -> crate::DiffId {
        let variant = Variant { compression: Compression::None, clamp_time_s: None };
        make_layer(&self.store, &Chain(vec![id]), None, variant).unwrap().diff_id
    }
}

/// What is of one snapshot alone: 99 files and one with two names.
const ALONE: [(u64, usize); 2] = [(1, 99), (2, 2)];

#[test]
fn what_a_process_sees_is_parted() {
    let mut world = World::new(Stacking::Overlay);
    let (a, b, c) = (world.copy(), world.copy(), world.copy());
    for id in [a, b, c] {
        assert_eq!(world.counts(id), [(2, 2), (3, 99)]);
    }
    let expected = (world.dump(b), world.layer(a));
    assert_eq!(world.dump(a), expected.0);
    world.part(b);
    assert_eq!(world.counts(b), ALONE);
    assert_eq!([world.counts(a), world.counts(c)], [[(2, 2), (3, 99)]; 2], "those before are still there");
    assert_eq!((world.dump(b), world.layer(b)), expected);
    assert!(!world.path(b, "files").exists() && world.path(c, "files").exists());
    // Another process remembers no digest.
    let store = world.root.open();
    store.verify_snapshot(b, &Chain::default()).unwrap();
    // Once more, and in a chain.
    world.store.part_shared(&Chain(vec![a, b, c])).unwrap();
    assert_eq!([world.counts(a), world.counts(b), world.counts(c)], [ALONE; 3]);
    assert_eq!(world.dump(a), expected.0);
    assert_eq!(world.root.names("tmp").len(), 2, "nothing but the directories of two stores");
}

#[test]
fn nothing_is_taken_from_what_a_process_has_seen() {
    let mut world = World::new(Stacking::Overlay);
    let a = world.copy();
    world.part(a);
    let b = world.copy();
    assert_eq!([world.counts(a), world.counts(b)], [ALONE; 2]);
    // The last that nobody has seen.
    let c = world.copy();
    assert_eq!(
        [world.counts(a), world.counts(b), world.counts(c)],
        [ALONE.to_vec(), vec![(2, 101)], vec![(2, 101)]]
    );
    // Seen between the choice of the files and their linking: then they are of those that nobody sees any more.
    let d = world.copy_while(100, |store| store.part_shared(&Chain(vec![c])).unwrap());
    assert_eq!([world.counts(c), world.counts(d)], [ALONE.to_vec(), vec![(2, 2), (3, 99)]]);
    assert_eq!(world.dump(d), world.dump(c));
    assert_eq!(world.layer(d), world.layer(c));
}

#[test]
fn who_reads_on_sees_what_was() {
    let mut world = World::new(Stacking::Overlay);
    let (a, b) = (world.copy(), world.copy());
    let stats = |dir: &OwnedFd| -> Vec<_> {
        let visited = Walk::new(dir.as_fd(), Ids::Kernel).unwrap().map(|visited| {
            let Visited { path, entry, .. } = visited.unwrap();
            (path, entry.stat.mtime, entry.stat.ctime, entry.stat.nlink)
        });
        visited.collect()
    };
    let root = |id| world.store.open_snapshot(id).unwrap();
    let view = world.store.view(&Chain(vec![b])).unwrap();
    let before = [root(a), root(b), view].map(|dir| (stats(&dir), dir));
    world.part(b);
    for (before, dir) in &before {
        assert_eq!(&stats(dir), before);
        assert_eq!(walk::stat_of(dir.as_fd()).unwrap().mtime, (1000, 5));
    }
    assert_ne!(stats(&root(b)), before[1].0);
    assert_eq!(world.dump(b), world.dump_of(&before[1].1, b));
    // It goes with the snapshot.
    assert_eq!(fs::read_dir(world.path(b, "")).unwrap().count(), 2);
    world.store.drop_snapshot(b).unwrap();
    assert!(!world.path(b, "").exists());
}

#[test]
fn the_marks_of_a_diff_are_parted_with_it() {
    let world = World::new(Stacking::Overlay);
    for is_opaque in [false, true] {
        let active = world.store.prepare(&Chain::default()).unwrap();
        let upper = active.upper();
        let root = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&upper)));
        fs::create_dir_all(root.join("closed/below")).unwrap();
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o1711)).unwrap();
        std::os::unix::fs::symlink("gone", root.join("link")).unwrap();
        std::os::unix::fs::chown(root.join("closed/below"), Some(7), Some(8)).unwrap();
        rustix::fs::mknodat(upper, "fifo", rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        make_whiteout(upper, "gone".as_ref()).unwrap();
        let opaque = [root.join("closed"), root.clone()];
        for dir in &opaque[..1 + usize::from(is_opaque)] {
            rustix::fs::setxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty()).unwrap();
        }
        rustix::fs::setxattr(&root, "user.k", b"v", XattrFlags::empty()).unwrap();
        let id = active.commit(UNIX_EPOCH).unwrap().id;
        fs::write(world.path(id, LIST), "").unwrap();
        let (dump, layer) = (world.dump(id), world.layer(id));
        let marks = || walk::xattrs_of(world.store.open_snapshot(id).unwrap().as_fd()).unwrap();
        let before = (walk::stat_of(world.store.open_snapshot(id).unwrap().as_fd()).unwrap().ino, marks());
        world.part(id);
        assert_eq!((world.dump(id), world.layer(id), marks()), (dump, layer, before.1));
        assert_ne!(walk::stat_of(world.store.open_snapshot(id).unwrap().as_fd()).unwrap().ino, before.0);
    }
}

#[test]
fn what_a_kill_leaves_is_parted_again() {
    let mut world = World::new(Stacking::Overlay);
    let (a, b) = (world.copy(), world.copy());
    let (list, expected) = (fs::read(world.path(b, LIST)).unwrap(), world.dump(a));
    for (round, left) in [list, Vec::new(), b"damaged".to_vec()].into_iter().enumerate() {
        world.part(b);
        assert_eq!((world.counts(b), world.dump(b)), (ALONE.to_vec(), expected.clone()));
        assert_eq!(fs::read_dir(world.path(b, "")).unwrap().count(), 2 + round);
        // The copy has taken its place, and there is a list.
        fs::write(world.path(b, LIST), left).unwrap();
    }
    // What the list says of other files is not taken.
    let c = world.copy();
    assert_eq!(world.dump(c), expected);
}

#[test]
fn what_is_parted_takes_more_of_the_disk() {
    let mut world = World::new(Stacking::Overlay);
    let (_, b) = (world.copy(), world.copy());
    let bytes = || {
        let items = world.store.items().unwrap();
        items.iter().find(|item| item.name == b.to_string()).map(|item| item.bytes).unwrap()
    };
    let before = bytes();
    world.part(b);
    assert!(bytes() > before * 3 / 2, "{before} and {}", bytes());
}

#[test]
fn an_earlier_snapshot_that_vanishes_is_lost() {
    let mut world = World::new(Stacking::Overlay);
    let a = world.copy();
    for vanish in [
        |world: &World, id| fs::remove_file(world.path(id, "fs/d/sub/99")).unwrap(),
        |world: &World, id| world.store.drop_snapshot(id).unwrap(),
    ] {
        let active = world.begin(100);
        vanish(&world, a);
        let lost = active.commit(UNIX_EPOCH).unwrap_err();
        assert!(matches!(&lost, SnapshotError::Store(StoreError::Lost { id }) if *id == a), "{lost:?}");
    }
    let b = world.copy();
    assert_eq!(world.counts(b), ALONE);
}

#[test]
fn placing_goes_on_where_it_failed() {
    let mut world = World::new(Stacking::Overlay);
    let a = world.copy();
    let mut active = world.begin(100);
    let (path, aside) = (world.path(a, "fs/d/sub/99"), world.root.path().join("aside"));
    fs::rename(&path, &aside).unwrap();
    active.place_shared().unwrap_err();
    fs::rename(&aside, &path).unwrap();
    let b = active.commit(UNIX_EPOCH).unwrap().id;
    assert_eq!(world.counts(b), [(2, 101)]);
    let directories = |id| world.dump(id).into_iter().filter(|line| line.contains("Dir")).collect::<Vec<_>>();
    assert_eq!(directories(b).len(), 2);
    assert!(directories(b).iter().all(|line| line.contains("(1000, 5)")), "{:?}", directories(b));
}

#[test]
fn what_cannot_be_linked_is_copied() {
    let mut world = World::new(Stacking::Overlay);
    let a = world.copy();
    let expected = world.copy_while(10, |_| ());
    let files: Vec<_> = (1..10)
        .map(|number| {
            File::open(world.path(a, &format!("fs/d/{}{number}", if number % 2 == 0 { "" } else { "sub/" })))
        })
        .map(Result::unwrap)
        .collect();
    let set = |flags| files.iter().try_for_each(|file| rustix::fs::ioctl_setflags(file, flags));
    if set(IFlags::IMMUTABLE).is_err() {
        let _ = set(IFlags::empty());
        return println!("SKIP: no file can be made immutable here");
    }
    let few = world.copy_while(10, |_| ());
    set(IFlags::empty()).unwrap();
    assert_eq!((world.counts(few), world.dump(few)), (vec![(1, 9), (2, 2)], world.dump(expected)));
    assert!(!world.path(few, LIST).exists(), "nothing is shared");
}

#[test]
fn few_files_that_are_shared_are_parted_too() {
    let mut world = World::new(Stacking::Overlay);
    let a = world.copy();
    let few = world.copy_while(10, |_| ());
    assert_eq!(world.counts(few), [(2, 11)]);
    assert_eq!(fs::metadata(world.path(few, "files")).unwrap().len(), 0);
    let after = world.copy();
    assert_eq!(fs::metadata(world.path(after, "fs/d/sub/99")).unwrap().nlink(), 2, "the longer list counts");
    world.part(few);
    assert_eq!(world.counts(few), [(1, 9), (2, 2)]);
    // A list that nobody can read is one.
    fs::write(world.path(a, "files"), "damaged").unwrap();
    world.part(a);
    assert_eq!(world.counts(a), ALONE);
    // Without one nothing is looked at.
    assert_eq!(rustix::fs::access(world.path(a, "files"), rustix::fs::Access::EXISTS), Err(Errno::NOENT));
    rustix::fs::linkat(CWD, world.path(a, "fs/d/2"), CWD, world.root.path().join("name"), AtFlags::empty())
        .unwrap();
    world.part(a);
    assert_eq!(world.counts(a), [(1, 98), (2, 3)]);
}

#[test]
fn where_processes_see_copies_files_stay_shared() {
    let mut world = World::new(Stacking::Copy);
    let (a, b) = (world.copy(), world.copy());
    world.part(b);
    assert_eq!([world.counts(a), world.counts(b)], [[(2, 101)]; 2]);
}
