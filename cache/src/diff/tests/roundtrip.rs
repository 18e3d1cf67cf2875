//! Random changes, made by the kernel on an overlay, come out the same after a layer was made and unpacked.

use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::path::Path;

use proptest::prelude::*;

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
    ]
}

/// What cannot be done is not done.
fn apply(root: &Path, change: &Change) {
    let follows = |path: &str| {
        let mut so_far = root.to_owned();
        path.split('/').any(|name| {
            so_far.push(name);
            so_far.is_symlink()
        })
    };
    let _ = match change {
        // A symlink in a path, or at its end, would lead to the machine's own root.
        Change::Write(path, _) | Change::Mode(path, _) | Change::Xattr(path) if follows(path) => Ok(()),
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
            rustix::fs::setxattr(root.join(path), "user.x", b"1\n", none).map_err(Into::into)
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_carry_every_change(steps in proptest::collection::vec(proptest::collection::vec(change(), 0..25), 1..4)) {
        let world = World::new();
        let mut chain = Chain::default();
        let mut parent = None;
        let mut blobs = Vec::new();
        for step in &steps {
            chain = world.step(&chain, |root| step.iter().for_each(|change| apply(&root, change)));
            let layer = make_layer(&world.store, &chain, parent, Variant::default()).unwrap();
            parent = Some(ChainId::extend(parent, layer.diff_id));
            blobs.push(Blob::of(&world, &layer));
        }
        let other = World::new();
        let unpacked = other.apply(&blobs).unwrap();
        prop_assert_eq!(other.dump(&unpacked), world.dump(&chain));
        // What the changes are is known by the same digests, though overlayfs leaves traces that no layer has.
        let contents = |world: &World, chain: &Chain| {
            world.store.snapshots(chain).unwrap().into_iter().map(|it| it.content).collect::<Vec<_>>()
        };
        prop_assert_eq!(contents(&other, &unpacked), contents(&world, &chain));

        // Written whole and extracted, the tree is the same again.
        let mut archive = Vec::new();
        write_tree(world.store.view(&chain).unwrap().as_fd(), Ids::Kernel, None, &mut archive).unwrap();
        let third = World::new();
        let flat = third.apply(&[Blob::gzip(&archive)]).unwrap();
        prop_assert_eq!(third.dump(&flat), world.dump(&chain));
    }
}
