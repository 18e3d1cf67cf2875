//! What is shared, what is parted, and that nothing but link counts tells.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, XattrFlags};

use super::*;
use crate::diff::{Compression, Variant, make_layer};
use crate::store::test_root::TestRoot;

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

    /// Copies `files` files into directories, as far as they cannot be shared. `meanwhile` happens before they are linked.
    fn copy_while(&mut self, files: usize, meanwhile: impl FnOnce(&Store)) -> SnapshotId {
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
        let root = walk::stat_of(dir.as_fd()).unwrap().mtime;
        let lines = Walk::new(dir.as_fd(), Ids::Kernel).unwrap().map(|visited| {
            let visited = visited.unwrap();
            let path = self.path(id, "fs").join(&visited.path);
            let (stat, text) = (visited.entry.stat, fs::read(&path).unwrap_or_default());
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
    assert_eq!([world.counts(a), world.counts(c)], [[(2, 101)], [(2, 101)]]);
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
    // Seen between the choice of the files and their linking.
    let d = world.copy_while(100, |store| store.part_shared(&Chain(vec![c])).unwrap());
    assert_eq!([world.counts(c), world.counts(d)], [ALONE; 2]);
    assert_eq!(world.dump(d), world.dump(c));
    assert_eq!(world.layer(d), world.layer(c));
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
