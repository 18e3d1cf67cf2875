//! Every way of stacking gives the same snapshots, layers and file systems: chosen and random steps, done by each and in a
//! plain directory, as root of the machine and of a user namespace.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, XattrFlags};

use super::*;
use crate::contenthash::{hash_file, is_content_xattr};
use crate::diff::{Compression, Variant, make_layer};
use crate::scratch::Scratch;
use crate::store::test_root::TestRoot;
use crate::walk::{self, FileKind, Walk};
use crate::{ChainId, Ids};

/// Layers have no later times; what a step changes has the time of the test.
const CLAMP_S: u64 = 1_000_000;
/// A time that is kept.
const OLD_S: i64 = 1000;

/// One thing done in a root. What cannot be done is not done.
#[derive(Debug, Clone)]
enum Change {
    Write(String, u8),
    /// The same bytes once more, and the old time.
    Rewrite(String),
    Dir(String),
    Remove(String),
    /// Another directory in a directory's place.
    Replace(String),
    Symlink(String, String),
    Link(String, String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Xattr(String),
    Old(String),
    Node(String, bool),
}

/// The stores that are compared, and the model.
struct World {
    stores: Vec<(TestRoot, Store, Chain, Option<ChainId>)>,
    model: Scratch,
}

impl World {
    fn new() -> Self {
        let stores = [Stacking::Overlay, Stacking::Copy].map(|stacking| {
            let root = TestRoot::with(stacking);
            let store = root.open();
            (root, store, Chain::default(), None)
        });
        let model = Scratch::new();
        fs::create_dir(model.path("root")).unwrap();
        Self { stores: stores.into(), model }
    }

    /// Does a step everywhere and compares what comes of it.
    #[track_caller]
    fn step(&mut self, number: usize, change: &dyn Fn(&Path)) {
        change(&self.model.path("root"));
        self.compare(number, change);
    }

    /// The same for a step that has been done to the model.
    #[track_caller]
    fn compare(&mut self, number: usize, change: &dyn Fn(&Path)) {
        let expected = dump(File::open(self.model.path("root")).unwrap().as_fd());
        let mut made = Vec::new();
        for (_, store, chain, parent) in &mut self.stores {
            if number % 3 == 2 {
                // Somebody else has taken the tree of the step before, and thrown it away.
                store.prepare(chain).unwrap().root().unwrap();
            }
            let mut active = store.prepare(chain).unwrap();
            change(&proc_path(active.root().unwrap()));
            let snapshot = active.commit(SystemTime::UNIX_EPOCH).unwrap();
            *chain = chain.with(snapshot.id);
            assert_eq!(dump(store.view(chain).unwrap().as_fd()), expected, "{:?}", store.setup());
            let variant = Variant { compression: Compression::None, clamp_time_s: Some(CLAMP_S) };
            let layer = make_layer(store, chain, *parent, variant).unwrap();
            *parent = Some(ChainId::extend(*parent, layer.diff_id));
            let tar = store.blobs().read(&layer.digest, 1 << 30).unwrap();
            made.push((snapshot.content, layer.diff_id, tar));
        }
        let texts: Vec<_> = made.iter().map(|(_, _, tar)| names(tar)).collect();
        assert_eq!(texts[0], texts[1], "the layers' names");
        assert!(made[0].1 == made[1].1, "the layers differ: {}", texts[0]);
        assert!(made[0].0 == made[1].0, "the contents differ: {}", texts[0]);
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What can be seen of every file but link counts and times.
fn dump(root: BorrowedFd<'_>) -> String {
    let mut out = String::new();
    for visited in Walk::new(root, Ids::Kernel).unwrap() {
        let visited = visited.unwrap();
        let (dir, name, stat) = (visited.dir.as_fd(), &visited.entry.name, visited.entry.stat);
        write!(out, "{} {:?} {:o}", visited.path.display(), stat.kind, stat.mode).unwrap();
        write!(out, " {}:{} {:?}", stat.uid, stat.gid, stat.rdev).unwrap();
        match stat.kind {
            FileKind::File => {
                let digest = hash_file(&mut walk::open_file_at(dir, name).unwrap()).unwrap();
                write!(out, " {} {}", stat.size, &digest.hex()[..8]).unwrap();
            }
            FileKind::Symlink => write!(out, " {:?}", walk::readlink_at(dir, name).unwrap()).unwrap(),
            _ => {}
        }
        let mut xattrs = walk::xattrs_at(dir, name).unwrap();
        xattrs.retain(|(name, _)| is_content_xattr(name));
        writeln!(out, " {xattrs:?}").unwrap();
    }
    out
}

/// The names in a tar, with the type of each entry.
fn names(tar: &[u8]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while let Some(header) = tar.get(at..at + 512).filter(|header| header[0] != 0) {
        let text = |field: &[u8]| {
            String::from_utf8_lossy(field.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
        };
        let kind = header[156];
        if kind != b'x' {
            writeln!(out, "{} {} {}", kind as char, text(&header[..100]), text(&header[157..257])).unwrap();
        }
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap_or(0);
        at += 512 + if kind == b'1' { 0 } else { size.next_multiple_of(512) };
    }
    out
}

fn old(path: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: OLD_S, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether a change comes to the same in the model `root` and wherever else the same has been done.
fn is_sound(root: &Path, change: &Change) -> bool {
    let follows = |path: &str| {
        let mut so_far = root.to_owned();
        path.split('/').any(|name| {
            so_far.push(name);
            so_far.is_symlink()
        })
    };
    let stat = |path: &str| fs::symlink_metadata(root.join(path)).ok();
    // A symlink in a path, or at its end, would lead to the machine's own root. What has several names is changed through
    // one of them only where that makes no difference.
    let is_odd =
        |path: &str| follows(path) || stat(path).is_some_and(|stat| !stat.is_dir() && stat.nlink() > 1);
    match change {
        Change::Write(path, _)
        | Change::Rewrite(path)
        | Change::Mode(path, _)
        | Change::Owner(path, _)
        | Change::Xattr(path)
        | Change::Old(path)
        | Change::Link(_, path) => !is_odd(path),
        // Two names of one file both stay; to overlayfs they may be two files, of which one goes.
        Change::Rename(from, to) => stat(from).zip(stat(to)).is_none_or(|(from, to)| from.ino() != to.ino()),
        _ => true,
    }
}

fn apply(root: &Path, change: &Change) {
    let _ = match change {
        Change::Write(path, byte) => match fs::symlink_metadata(root.join(path)) {
            Ok(stat) if !stat.is_file() => Ok(()),
            _ => fs::write(root.join(path), vec![*byte; usize::from(*byte)]),
        },
        Change::Rewrite(path) => rewrite(&root.join(path)),
        Change::Dir(path) => fs::create_dir(root.join(path)),
        Change::Remove(path) => remove(&root.join(path)),
        Change::Replace(path) => {
            let path = root.join(path);
            remove(&path).and_then(|()| fs::create_dir(&path))
        }
        Change::Symlink(path, target) => symlink(target, root.join(path)),
        Change::Link(path, target) => fs::hard_link(root.join(target), root.join(path)),
        Change::Rename(from, to) if from == to => Ok(()),
        // That of a directory is refused by overlayfs.
        Change::Rename(from, to) if !root.join(from).is_dir() || root.join(from).is_symlink() => {
            fs::rename(root.join(from), root.join(to))
        }
        Change::Rename(..) => Ok(()),
        Change::Mode(path, mode) => fs::set_permissions(root.join(path), Permissions::from_mode(*mode)),
        Change::Owner(path, id) => std::os::unix::fs::lchown(root.join(path), Some(*id), Some(*id)),
        Change::Xattr(path) => {
            rustix::fs::setxattr(root.join(path), "user.x", b"1\n", XattrFlags::empty()).map_err(Into::into)
        }
        Change::Old(path) => old(&root.join(path)),
        Change::Node(path, is_socket) => {
            let kind = if *is_socket { FileType::Socket } else { FileType::Fifo };
            rustix::fs::mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(0o644), 0).map_err(Into::into)
        }
    };
}

fn rewrite(path: &Path) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    if !stat.is_file() {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    fs::write(path, bytes)?;
    File::open(path)?.set_modified(stat.modified()?)
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|_| fs::remove_dir_all(path))
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "a-b", "c.d"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::Write(path, byte)),
        1 => path().prop_map(Change::Rewrite),
        4 => path().prop_map(Change::Dir),
        2 => path().prop_map(Change::Remove),
        1 => path().prop_map(Change::Replace),
        1 => (path(), path()).prop_map(|(path, target)| Change::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Change::Link(path, target)),
        2 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (path(), 0_u32..0o10000).prop_map(|(path, mode)| Change::Mode(path, mode)),
        1 => (path(), 0_u32..3).prop_map(|(path, id)| Change::Owner(path, id)),
        1 => path().prop_map(Change::Xattr),
        1 => path().prop_map(Change::Old),
        1 => (path(), any::<bool>()).prop_map(|(path, is_socket)| Change::Node(path, is_socket)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_give_the_same(
        steps in proptest::collection::vec(proptest::collection::vec(change(), 0..25), 1..6)
    ) {
        let mut world = World::new();
        for (number, step) in steps.iter().enumerate() {
            let model = world.model.path("root");
            let mut done = step.clone();
            done.retain(|change| {
                let is_sound = is_sound(&model, change);
                if is_sound {
                    apply(&model, change);
                }
                is_sound
            });
            world.compare(number, &|root| done.iter().for_each(|change| apply(root, change)));
        }
    }
}

/// The steps on top of a base.
#[track_caller]
fn check(steps: &[&dyn Fn(&Path)]) {
    let mut world = World::new();
    world.step(0, &|root| {
        fs::create_dir_all(root.join("d/sub")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        for name in ["d/x", "d/sub/x", "one", "two", "d-x"] {
            fs::write(root.join(name), name).unwrap();
            old(&root.join(name)).unwrap();
        }
        fs::hard_link(root.join("two"), root.join("two2")).unwrap();
        fs::hard_link(root.join("two"), root.join("two3")).unwrap();
        symlink("one", root.join("link")).unwrap();
        old(&root.join("d")).unwrap();
    });
    for (number, step) in steps.iter().enumerate() {
        world.step(number + 1, step);
    }
}

#[test]
fn chosen_steps_give_the_same() {
    let chmod = |path: PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    check(&[&|_| {}, &|_| {}]);
    // New names of a file below, and files with several names.
    check(&[
        &|root| fs::hard_link(root.join("one"), root.join("one2")).unwrap(),
        &|root| chmod(root.join("d/x"), 0o600),
        &|root| fs::remove_file(root.join("one")).unwrap(),
    ]);
    check(&[&|root| fs::rename(root.join("two"), root.join("z")).unwrap(), &|_| {}]);
    check(&[
        &|root| ["two", "two2", "two3"].into_iter().for_each(|name| chmod(root.join(name), 0o600)),
        &|_| {},
    ]);
    check(&[&|root| {
        let time = fs::metadata(root.join("one")).unwrap().modified().unwrap();
        fs::hard_link(root.join("one"), root.join("backup")).unwrap();
        fs::remove_file(root.join("backup")).unwrap();
        File::open(root.join("d/x")).unwrap().set_modified(time).unwrap();
    }]);
    // A pipe that loses a name is the pipe that it was.
    check(&[
        &|root| apply(root, &Change::Node("pipe".to_owned(), false)),
        &|root| fs::hard_link(root.join("pipe"), root.join("pipe2")).unwrap(),
        &|root| fs::remove_file(root.join("pipe2")).unwrap(),
    ]);
    // Directories in the place of others, of files, and the other way round; inode numbers are used again.
    check(&[&|root| {
        remove(&root.join("empty")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
    }]);
    check(&[
        &|root| {
            fs::rename(root.join("d/x"), root.join("kept")).unwrap();
            remove(&root.join("d")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::rename(root.join("kept"), root.join("d/x")).unwrap();
        },
        &|root| fs::write(root.join("d/y"), "").unwrap(),
    ]);
    check(&[&|root| {
        remove(&root.join("d")).unwrap();
        fs::write(root.join("d"), "").unwrap();
        remove(&root.join("one")).unwrap();
        fs::create_dir_all(root.join("one/x")).unwrap();
    }]);
    // Deep inside a directory whose time stays.
    check(&[&|root| chmod(root.join("d/sub/x"), 0o4755), &|root| remove(&root.join("d/sub/x")).unwrap()]);
    check(&[&|root| {
        let file = File::create(root.join("sparse")).unwrap();
        file.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 70_000).unwrap();
    }]);
    // The root itself.
    check(&[&|root| chmod(root.to_owned(), 0o711), &|_| {}]);
    check(&[
        &|root| {
            rustix::fs::setxattr(root, "user.x", b"1", XattrFlags::empty()).unwrap();
        },
        &|root| fs::write(root.join("d/x"), "").unwrap(),
    ]);
}

#[test]
fn a_user_namespace_gives_the_same() {
    const INSIDE: &str = "WHARF_TEST_USER_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let module = module_path!().split_once("::").unwrap().1;
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .arg(module)
        .env(INSIDE, "1")
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return println!("SKIP: unshare cannot be run: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if String::from_utf8_lossy(&output.stderr).contains("unshare failed") {
        return println!("SKIP: no user namespace can be made here");
    }
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}
