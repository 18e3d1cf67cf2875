//! Layers that lie: an error or a harmless result, and in no case a file outside the snapshot.

use super::*;

/// Unpacks one layer on top of a small one, and says why it was refused. Nothing of it may be left.
#[track_caller]
fn refused(blob: &Blob, reason: &str) {
    let world = World::new();
    let below = Blob::gzip(&tar(&[file("below", "")]));
    let error = world.apply(&[below, blob.clone()]).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        write!(text, ": {cause}").unwrap();
        source = cause.source();
    }
    assert!(text.contains(reason), "{text}");
    assert!(world.snapshots() <= 1);
    // Only what is below is missing for a link into it; the blob itself is good.
    let blob_may_stay = reason == "does not exist";
    assert!(blob_may_stay || world.store.blobs().size(&blob.source.digest).unwrap().is_none());
}

#[test]
fn paths_that_leave_the_root() {
    let bad = |item: Item| Blob::gzip(&tar(&[item]));
    refused(&bad(file("../x", "")), "leads upward");
    refused(&bad(file("a/../../x", "")), "leads upward");
    refused(&bad(hard_link("x", "../../etc/passwd")), "leads upward");
    refused(&bad(hard_link("x", "/etc/passwd")), "does not exist");
    refused(&bad(hard_link("x", "x")), "to itself");
    refused(&bad(file("n".repeat(256), "")), "255");
    refused(&bad(file("d/".repeat(2100), "")), "4096");
    refused(&bad(item(".", TypeFlag::File)), "the root must be a directory");
    refused(&Blob::gzip(&tar(&[dir("d", 0o755), hard_link("x", "d")])), "directory");
    refused(&Blob::gzip(&tar(&[symlink("l", "l"), file("l/x", "")])), "symbolic links");
}

#[test]
fn absolute_paths_and_symlinks_stay_inside() {
    let world = World::new();
    let outside = Scratch::new();
    let target = outside.path("").display().to_string();
    let blob = Blob::gzip(&tar(&[
        file("/abs", "1"),
        symlink("out", &target),
        file("out/x", "2"),
        symlink("up", "../../../../../.."),
        file("up/y", "3"),
        symlink("root", "/"),
        hard_link("linked", "root/abs"),
        file("root/etc/z", "4"),
    ]));
    let chain = world.apply(&[blob]).unwrap();
    assert_eq!(std::fs::read_dir(outside.path("")).unwrap().count(), 0);
    let dump = world.dump(&chain);
    for line in ["abs File 644 \"1\"", "y File 644 \"3\"", "linked File 644 \"1\" = abs", "etc/z File"] {
        assert!(dump.lines().any(|found| found.starts_with(line)), "{line} in\n{dump}");
    }
    assert!(dump.contains(&format!("{}x File 644 \"2\"", &target[1..])), "{dump}");
}

#[test]
fn wrong_digests_commit_nothing() {
    let good = Blob::gzip(&tar(&[file("x", "1")]));
    let mut wrong = good.clone();
    wrong.source.digest = Digest::of(b"other");
    refused(&wrong, "has digest");
    let mut wrong = good.clone();
    wrong.source.diff_id = DiffId(Digest::of(b"other"));
    refused(&wrong, "has diffID");
    let mut wrong = good.clone();
    wrong.source.size += 1;
    refused(&wrong, "has size");
    let mut wrong = good.clone();
    wrong.source.size -= 1;
    refused(&wrong, "has size");
    let mut wrong = good.clone();
    wrong.bytes.truncate(20);
    refused(&wrong, "has size");
    let mut wrong = good.clone();
    wrong.bytes[12] ^= 0x55;
    refused(&wrong, "has digest");
}

#[test]
fn broken_streams() {
    let tar = tar(&[file("x", "1")]);
    let gzip = Blob::gzip(&tar);
    let media_type = &gzip.source.media_type;
    let plain = "application/vnd.oci.image.layer.v1.tar";
    refused(&Blob::new(&tar, gzip.bytes[..30].to_vec(), media_type), "cannot read layer");
    refused(&Blob::new(&tar, tar.clone(), media_type), "announced as");
    refused(&Blob::new(&tar, gzip.bytes.clone(), plain), "announced as");
    refused(&Blob::new(&tar, [&gzip.bytes[..], b"garbage"].concat(), media_type), "cannot read layer");
    refused(&Blob::gzip(&tar[..512]), "cannot read layer");
    refused(&Blob::gzip(b"not a tar, but long enough to fill a block".repeat(20).as_slice()), "tar header");
}

#[test]
fn devices_and_fifos_are_only_made() {
    let world = World::new();
    let null = Item { rdev: (1, 3), ..item("dev/null", TypeFlag::CharDevice) };
    let fifo = item("fifo", TypeFlag::Fifo);
    let chain = world.apply(&[Blob::gzip(&tar(&[null, fifo, hard_link("l", "fifo")]))]).unwrap();
    assert!(world.dump(&chain).contains("dev/null CharDevice 644 (1, 3)"));
    let layer =
        make_layer(&world.store, &chain, None, Variant { clamp_time_s: Some(9), ..Variant::default() });
    layer.unwrap();
}

#[test]
fn a_stack_is_kept_up_to_the_layer_that_failed() {
    let world = World::new();
    let good = Blob::gzip(&tar(&[file("a", "")]));
    let bad = Blob::gzip(&tar(&[hard_link("b", "missing")]));
    assert!(world.apply(&[good.clone(), bad]).is_err());
    assert_eq!((world.snapshots(), world.blobs()), (1, 2));
    world.apply(&[good]).unwrap();
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn failing_downloads_are_reported() {
    let world = World::new();
    let sources = [Blob::gzip(&tar(&[file("a", "")])).source, Blob::gzip(&tar(&[file("b", "")])).source];
    let error = apply_layers(&world.store, &sources, SystemTime::UNIX_EPOCH, &|_| {
        Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by peer"))
    })
    .unwrap_err();
    assert!(error.to_string().starts_with("cannot read layer sha256:"), "{error}");
    assert_eq!((world.snapshots(), world.blobs()), (0, 0));
}

mod random {
    use proptest::prelude::*;

    use super::super::super::tar_reader::TarReader;
    use super::super::super::unpack::{Rules, Unpacker};
    use super::*;

    fn path() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "outside"]);
        proptest::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
    }

    fn any_item() -> impl Strategy<Value = Item> {
        use TypeFlag::{BlockDevice, Dir, Fifo, File, HardLink, Symlink};
        let kind = prop::sample::select(vec![File, Dir, Dir, Symlink, Symlink, HardLink, Fifo, BlockDevice]);
        (kind, path(), path(), 0_u32..0o10000).prop_map(|(kind, path, link, mode)| Item {
            link: link.into_bytes(),
            mode,
            data: if kind == File { b"x".to_vec() } else { Vec::new() },
            ..item(path, kind)
        })
    }

    /// What is around the root that is written to.
    fn surroundings(scratch: &Scratch) -> String {
        let names = |dir| {
            let mut names: Vec<_> = std::fs::read_dir(scratch.path(dir))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        };
        format!("{} | {}", names(""), names("outside"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn entries_never_leave_the_root(
            items in proptest::collection::vec(any_item(), 0..12),
            layer in any::<bool>(),
            broken in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let scratch = Scratch::new();
            std::fs::create_dir_all(scratch.path("root")).unwrap();
            std::fs::create_dir_all(scratch.path("outside")).unwrap();
            let mut bytes = tar(&items);
            if let Some((index, byte)) = broken {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let ids = if bytes.len().is_multiple_of(1024) { Ids::Kernel } else { Ids::Recorded };
            let rules = if layer { Rules::Layer } else { Rules::Archive { owner: (0, 0) } };
            let root = open(&scratch.path("root"));
            let mut unpacker = Unpacker::new(root.as_fd(), ids, rules, "it".to_owned()).unwrap();
            // It may well be refused; what counts is where it wrote until then.
            let _ = unpacker.unpack(None, &mut TarReader::new(&bytes[..]));
            let _ = unpacker.set_dir_times();
            prop_assert_eq!(surroundings(&scratch), "outside root | ");
        }
    }
}
