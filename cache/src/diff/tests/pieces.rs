//! Layers of which most was compressed for another: the bytes are those of a store that remembers nothing.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

const FORMS: [Compression; 3] = [
    Compression::Gzip { level: None },
    Compression::Zstd { level: None },
    Compression::Estargz { level: None },
];

/// Bytes that neither repeat nor compress alike, others for each seed.
fn content(seed: u32, size: usize) -> Vec<u8> {
    let words = (0..u32::try_from(size / 4 + 1).unwrap())
        .map(|number| number.wrapping_add(seed << 12).wrapping_mul(2_654_435_761) >> (number >> 12 & 31));
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.truncate(size);
    bytes
}

fn write(root: &Path, name: &str, seed: u32, size: usize) {
    std::fs::write(root.join(name), content(seed, size)).unwrap();
}

/// Ten MB: files of all sizes, and one that is larger than a piece.
fn tree(root: &Path) {
    for number in 0..80 {
        let name = format!("dir{}", number % 7);
        std::fs::create_dir_all(root.join(&name)).unwrap();
        write(root, &format!("{name}/file{number}"), number, 1000 << (number % 10));
    }
    write(root, "large", 77, 2_500_000);
    write(root, "zz", 78, 100);
}

fn variant(compression: Compression) -> Variant {
    Variant { compression, clamp_time_s: Some(0) }
}

/// Makes the layer of the files that `make` gives, and tells the members that it is made of.
fn layer(world: &World, compression: Compression, make: &dyn Fn(&Path)) -> (Layer, Vec<Vec<u8>>) {
    let chain = world.step(&Chain::default(), |root| make(&root));
    let layer = make_layer(&world.store, &chain, None, variant(compression)).unwrap();
    (layer, keys(world))
}

/// The keys of all members that are remembered.
fn keys(world: &World) -> Vec<Vec<u8>> {
    let list = |transaction: &rusqlite::Transaction<'_>| {
        transaction.prepare("SELECT key FROM members")?.query_map([], |row| row.get(0))?.collect()
    };
    world.store.read("list members", list).unwrap()
}

/// Where a layer's blob is.
fn path_of(world: &World, layer: &Layer) -> PathBuf {
    world.store.root().join("blobs/sha256").join(layer.digest.hex())
}

/// Makes a layer of `tree`, and one of what `change` makes of it, which is to need at most `fresh` new members and to be the
/// same that a store gives that has made no other.
#[track_caller]
fn check(change: &dyn Fn(&Path), fresh: usize) {
    for compression in [FORMS[0], FORMS[1]] {
        let world = World::new();
        let (_, before) = layer(&world, compression, &tree);
        assert!(before.len() > 4, "{} members", before.len());
        let changed = |root: &Path| {
            tree(root);
            change(root);
        };
        let (made, after) = layer(&world, compression, &changed);
        let alone = World::new();
        assert_eq!(made, layer(&alone, compression, &changed).0, "{compression:?}");
        let new = after.len() - before.len();
        assert!(new <= fresh, "{new} new members of {compression:?}");
        read_by_others(&path_of(&world, &made), compression, made.diff_id);
    }
}

/// What other programs decompress has the diffID.
fn read_by_others(blob: &Path, compression: Compression, diff_id: DiffId) {
    let python = "import gzip,sys,hashlib; sys.stdout.write(hashlib.sha256(gzip.open(sys.argv[1]).read()).hexdigest())";
    let output = match compression {
        Compression::Zstd { .. } => {
            Command::new("sh").args(["-c", "zstd -dqc \"$0\" | sha256sum"]).arg(blob).output()
        }
        _ => Command::new("python3").args(["-c", python]).arg(blob).output(),
    };
    match output {
        Ok(output) if output.status.success() && !output.stderr.starts_with(b"sh:") => {
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(&text[..64], diff_id.0.hex());
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("SKIP: {error}"),
    }
}

/// As [`super::layers::the_bytes_of_a_layer_are_pinned`], where the tar is cut.
#[test]
fn the_pieces_of_a_layer_are_pinned() {
    let digests = FORMS.map(|form| layer(&World::new(), form, &tree).0.digest.to_string()).join("\n");
    expect_test::expect![[r#"
        sha256:3ebc7e7e7ebad4502f8886aa80ec56335a3999620dfd4b0842986520c3d7610f
        sha256:92ae4032ec3d007c76d552bb1cefafc33bd3a7f44d537fdeba9d92669ee1b54b
        sha256:85d4cb971c44f126f9922aca01a56230ed1244b0d7e494bcea81d63da37f686f"#]]
    .assert_eq(&digests);
}

#[test]
fn an_unchanged_tree_needs_nothing_new() {
    check(&|_| (), 0);
}

#[test]
fn only_what_is_near_a_change_is_compressed_again() {
    check(&|root| write(root, "dir3/file10", 500, 2000), 1);
    check(&|root| write(root, "dir0/added", 501, 5000), 2);
    check(&|root| std::fs::remove_file(root.join("dir2/file9")).unwrap(), 2);
    check(&|root| std::fs::rename(root.join("dir2/file9"), root.join("dir5/other")).unwrap(), 4);
    // The headers of a file are not in the pieces that its bytes are in.
    check(&|root| std::fs::rename(root.join("large"), root.join("larger")).unwrap(), 2);
    check(
        &|root| {
            let mut bytes = content(77, 2_500_000);
            bytes[1000] ^= 1;
            std::fs::write(root.join("large"), bytes).unwrap();
        },
        1,
    );
}

/// However many threads make it.
#[test]
fn what_a_layer_has_several_times_is_copied_whole() {
    let repeated = |root: &Path| {
        for name in ["a", "b", "c"] {
            write(root, name, 5, 9_000_000);
        }
        // Other pieces lie between those that are alike.
        write(root, "b1", 6, 900_000);
    };
    for compression in FORMS {
        let (made, _) = layer(&World::new(), compression, &repeated);
        for threads in [1, 2, 9] {
            let world = World::new();
            let chain = world.step(&Chain::default(), |root| repeated(&root));
            let again = make_layer_with(&world.store, &chain, None, variant(compression), threads).unwrap();
            assert_eq!(again, made);
            read_by_others(&path_of(&world, &again), compression, again.diff_id);
        }
    }
}

#[test]
fn members_are_not_trusted() {
    let changed = |root: &Path| {
        tree(root);
        write(root, "dir3/file10", 500, 2000);
    };
    for compression in FORMS {
        let (expected, _) = layer(&World::new(), compression, &changed);
        type Damage = fn(&World, &Path);
        let damages: [Damage; 4] = [
            |_, blob| std::fs::remove_file(blob).unwrap(),
            |_, blob| std::fs::File::options().write(true).open(blob).unwrap().set_len(1000).unwrap(),
            |_, blob| {
                let size = std::fs::metadata(blob).unwrap().len();
                std::fs::write(blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
            },
            |world, _| {
                let lie = |transaction: &rusqlite::Transaction<'_>| {
                    transaction
                        .execute("UPDATE members SET start = -start, size = size << (start % 50)", [])
                        .map(drop)
                        .map_err(StoreError::database("lie"))
                };
                world.store.write("lie", lie).unwrap();
            },
        ];
        for damage in damages {
            let world = World::new();
            let (first, _) = layer(&world, compression, &tree);
            damage(&world, &path_of(&world, &first));
            assert_eq!(layer(&world, compression, &changed).0, expected);
            // What was found wrong has been replaced.
            let again = |root: &Path| {
                changed(root);
                write(root, "zz", 9, 10);
            };
            let before = keys(&world).len();
            assert!(layer(&world, compression, &again).1.len() <= before + 2);
        }
    }
}

#[test]
fn members_go_with_their_blob() {
    use crate::gc::Goal;
    let world = World::new();
    let (_, kept) = layer(&world, Compression::default(), &tree);
    assert!(!kept.is_empty());
    let store = Store::open_with(world.store.root(), world.store.setup()).unwrap();
    let World { store: maker, _scratch } = world;
    drop(maker);
    store.collect(Goal::Everything, &|_| true).unwrap();
    let world = World { store, _scratch };
    assert_eq!(world.blobs(), 0);
    assert_eq!(keys(&world), Vec::<Vec<u8>>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_does_not_show(
        files in proptest::collection::btree_map("[a-d]{1,3}", (0_u32..50, 0_usize..1_200_000), 4..14),
        changes in proptest::collection::btree_map("[a-d]{1,3}", proptest::option::of((0_u32..50, 0_usize..600_000)), 1..4),
    ) {
        let first = |root: &Path| files.iter().for_each(|(name, (seed, size))| write(root, name, *seed, *size));
        let second = |root: &Path| {
            first(root);
            for (name, change) in &changes {
                match change {
                    Some((seed, size)) => write(root, name, *seed, *size),
                    None => drop(std::fs::remove_file(root.join(name))),
                }
            }
        };
        for compression in FORMS {
            let world = World::new();
            layer(&world, compression, &first);
            prop_assert_eq!(layer(&world, compression, &second).0, layer(&World::new(), compression, &second).0);
        }
    }
}

#[test]
fn a_key_names_its_compression() {
    let level = Some(7);
    for compression in [
        Compression::Gzip { level },
        Compression::Zstd { level },
        Compression::Estargz { level },
        Compression::None,
    ] {
        let key = Variant { compression, clamp_time_s: Some(9) }.key();
        assert_eq!(Variant::compression_of_key(&key), Some(compression), "{key}");
    }
}
