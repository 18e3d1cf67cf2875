//! Random changes, made by the kernel on an overlay, come out the same after a layer was made and unpacked.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};

use super::*;

#[derive(Debug, Clone)]
enum Change {
    Write(String, u8),
    Dir(String),
    Remove(String),
    Symlink(String, String),
    HardLink(String, String),
    Rename(String, String),
    Mode(String, u32),
    Xattr(String),
    Owner(String, (u32, u32)),
    Node(String, FileKind),
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "a-b", "c.d"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::Write(path, byte)),
        3 => path().prop_map(Change::Dir),
        2 => path().prop_map(Change::Remove),
        1 => (path(), path()).prop_map(|(path, target)| Change::Symlink(path, target)),
        1 => (path(), path()).prop_map(|(path, target)| Change::HardLink(path, target)),
        1 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (path(), 0_u32..0o10000).prop_map(|(path, mode)| Change::Mode(path, mode)),
        1 => path().prop_map(Change::Xattr),
        2 => (path(), 0..3_u32, 0..3_u32).prop_map(|(path, uid, gid)| Change::Owner(path, (uid, gid))),
        1 => (path(), prop::sample::select(vec![
            FileKind::CharDevice, FileKind::BlockDevice, FileKind::Fifo])).prop_map(|(path, kind)| Change::Node(path, kind)),
    ]
}

/// What cannot be done is not done.
fn apply(root: &Path, ids: Ids, change: &Change) {
    let follows = |path: &str| {
        let mut so_far = root.to_owned();
        path.split('/').any(|name| {
            so_far.push(name);
            so_far.is_symlink()
        })
    };
    let _ = match change {
        Change::Owner(path, _) | Change::Node(path, _)
            if path.rsplit_once('/').is_some_and(|(dir, _)| follows(dir)) =>
        {
            Ok(())
        }
        // A symlink in a path, or at its end, would lead to the machine's own root.
        Change::Write(path, _) | Change::Mode(path, _) | Change::Xattr(path) if follows(path) => Ok(()),
        // A pipe would be waited for, and a device is the machine's.
        Change::Write(path, _) if is_other(root, ids, path) => Ok(()),
        Change::Write(path, byte) => std::fs::write(root.join(path), vec![*byte; usize::from(*byte)]),
        Change::Dir(path) => std::fs::create_dir(root.join(path)),
        Change::Remove(path) => {
            let path = root.join(path);
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path))
        }
        Change::Symlink(path, target) => make_symlink(target, root.join(path)),
        Change::HardLink(path, target) => std::fs::hard_link(root.join(target), root.join(path)),
        Change::Rename(from, to) => std::fs::rename(root.join(from), root.join(to)),
        Change::Mode(path, mode) => {
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(*mode))
        }
        Change::Xattr(path) => {
            let none = rustix::fs::XattrFlags::empty();
            match std::fs::symlink_metadata(root.join(path)) {
                // Only these have such attributes, and the stand-in of a device is none of them.
                Ok(metadata) if metadata.is_dir() => {
                    rustix::fs::setxattr(root.join(path), "user.x", b"1\n", none).map_err(Into::into)
                }
                _ => Ok(()),
            }
        }
        Change::Owner(path, owner) => in_parent(root, path, |dir, name| ids.set_owner(dir, name, *owner)),
        Change::Node(path, kind) => {
            in_parent(root, path, |dir, name| ids.make_node(dir, name, *kind, NOBODYS_DEVICE))
        }
    };
}

/// A number that is for local use.
const NOBODYS_DEVICE: (u32, u32) = (60, 8);

/// Whether something is at `path` that is no file, or stands for something else.
fn is_other(root: &Path, ids: Ids, path: &str) -> bool {
    let mut kind = None;
    let looked = in_parent(root, path, |dir, name| {
        kind = Some(ids.stat_at(dir, name)?.kind);
        Ok(())
    });
    looked.is_ok() && kind.is_some_and(|kind| kind != FileKind::File)
}

fn in_parent(
    root: &Path,
    path: &str,
    change: impl FnOnce(BorrowedFd<'_>, &OsStr) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let path = root.join(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    change(rustix::fs::open(parent, flags, Mode::empty())?.as_fd(), name)
}

/// Does the steps in a store of its own; the layers that they give have no times.
fn build(ids: Ids, steps: &[Vec<Change>]) -> (World, Chain, Vec<Blob>) {
    let world = World::with(ids);
    let (mut chain, mut parent, mut blobs) = (Chain::default(), None, Vec::new());
    let variant = Variant { clamp_time_s: Some(0), ..Variant::default() };
    for step in steps {
        chain = world.step(&chain, |root| step.iter().for_each(|change| apply(&root, ids, change)));
        let layer = make_layer(&world.store, &chain, parent, variant).unwrap();
        parent = Some(ChainId::extend(parent, layer.diff_id));
        blobs.push(Blob::of(&world, &layer));
    }
    (world, chain, blobs)
}

fn contents(world: &World, chain: &Chain) -> Vec<crate::ContentDigest> {
    world.store.snapshots(chain).unwrap().into_iter().map(|snapshot| snapshot.content).collect()
}

/// The same changes without setgid bits: what is made in a directory that has one gets the directory's group by the kernel,
/// and by a step's supervisor where owners are recorded. There is none here.
fn without_setgid(mut steps: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
    for change in steps.iter_mut().flatten() {
        if let Change::Mode(_, mode) = change {
            *mode &= !0o2000;
        }
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_carry_every_change(steps in proptest::collection::vec(proptest::collection::vec(change(), 0..25), 1..4)) {
        let (world, chain, blobs) = build(Ids::Kernel, &steps);
        let other = World::new();
        let unpacked = other.apply(&blobs).unwrap();
        prop_assert_eq!(other.dump(&unpacked), world.dump(&chain));
        // What the changes are is known by the same digests, though overlayfs leaves traces that no layer has.
        prop_assert_eq!(contents(&other, &unpacked), contents(&world, &chain));

        // Written whole and extracted, the tree is the same again.
        let mut archive = Vec::new();
        write_tree(world.store.view(&chain).unwrap().as_fd(), Ids::Kernel, None, &mut archive).unwrap();
        let third = World::new();
        let flat = third.apply(&[Blob::gzip(&archive)]).unwrap();
        prop_assert_eq!(third.dump(&flat), world.dump(&chain));
    }

    #[test]
    fn recorded_owners_give_the_same_layers(steps in proptest::collection::vec(proptest::collection::vec(change(), 0..25), 1..4)) {
        let steps = without_setgid(steps);
        let (world, chain, blobs) = build(Ids::Kernel, &steps);
        let (recorded, recorded_chain, recorded_blobs) = build(Ids::Recorded, &steps);
        prop_assert_eq!(recorded.dump(&recorded_chain), world.dump(&chain));
        prop_assert_eq!(contents(&recorded, &recorded_chain), contents(&world, &chain));
        for (blob, other) in blobs.iter().zip(&recorded_blobs) {
            prop_assert_eq!(&blob.source, &other.source);
        }
        // The same when they are unpacked, from which they are made again.
        let other = World::with(Ids::Recorded);
        let unpacked = other.apply(&blobs).unwrap();
        prop_assert_eq!(other.dump(&unpacked), world.dump(&chain));
        prop_assert_eq!(contents(&other, &unpacked), contents(&world, &chain));
        // A file that was made again as it was is one more change only as long as its time is known: what is remade is
        // held against what is remade where the kernel has the owners.
        let remade = |world: &World, chain: &Chain| {
            let (mut parent, mut diff_ids) = (None, Vec::new());
            for number in 0..chain.0.len() {
                let chain = Chain(chain.0[..=number].to_vec());
                let variant = Variant { clamp_time_s: Some(0), ..Variant::default() };
                let layer = remake_layer(&world.store, &chain, parent, variant).unwrap();
                parent = Some(ChainId::extend(parent, layer.diff_id));
                diff_ids.push(layer.diff_id);
            }
            diff_ids
        };
        let kernels = World::new();
        let unpacked_there = kernels.apply(&blobs).unwrap();
        prop_assert_eq!(remade(&other, &unpacked), remade(&kernels, &unpacked_there));
        let whole = |world: &World, chain: &Chain| {
            let mut archive = Vec::new();
            let view = world.store.view(chain).unwrap();
            write_tree(view.as_fd(), world.store.setup().ids, Some(0), &mut archive).unwrap();
            Digest::of(&archive)
        };
        prop_assert_eq!(whole(&other, &unpacked), whole(&world, &chain));
        prop_assert_eq!(whole(&recorded, &recorded_chain), whole(&world, &chain));
    }
}
