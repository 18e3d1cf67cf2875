//! What layers mean, and what is written into them.

use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::process::Command;

use expect_test::{Expect, expect};

use super::*;

/// Unpacks layers and shows the file system that they give; first each snapshot alone, for what overlayfs must not see.
#[track_caller]
fn check(layers: &[&[Item]], expected: Expect) {
    let blobs: Vec<_> = layers.iter().map(|items| Blob::gzip(&tar(items))).collect();
    let dumps = [Ids::Kernel, Ids::Recorded].map(|ids| {
        let world = World::with(ids);
        let chain = world.apply(&blobs).unwrap();
        world.dump(&chain)
    });
    expected.assert_eq(&dumps[0]);
    assert_eq!(dumps[0], dumps[1], "owners that are recorded");
}

#[test]
fn whiteouts_hide_what_is_below() {
    check(
        &[
            &[
                dir("d", 0o750),
                file("d/a", "1"),
                file("d/b", "2"),
                file("gone", "x"),
                dir("tree", 0o755),
                file("tree/x", ""),
            ],
            &[file("d/.wh.a", ""), file("d/c", "3"), file(".wh.gone", ""), file(".wh.tree", "")],
        ],
        expect![[r#"
            d Dir 750
            d/b File 644 "2"
            d/c File 644 "3"
        "#]],
    );
}

#[test]
fn opaque_hides_only_what_is_below() {
    check(
        &[
            &[dir("d", 0o755), file("d/old", ""), dir("d/sub", 0o755), file("d/sub/old", "")],
            &[
                dir("d", 0o700),
                file("d/before", ""),
                file("d/.wh..wh..opq", ""),
                file("d/after", ""),
                file("d/.wh.old", ""),
            ],
        ],
        expect![[r#"
            d Dir 700
            d/after File 644 ""
            d/before File 644 ""
        "#]],
    );
    check(
        &[
            &[dir("d", 0o755), file("d/old", ""), file("old", "")],
            &[dir("d", 0o755), file(".wh..wh..opq", ""), file("new", "")],
        ],
        expect![[r#"
            d Dir 755
            new File 644 ""
        "#]],
    );
}

#[test]
fn whiteouts_of_nothing_leave_nothing() {
    check(
        &[
            &[
                dir("d", 0o755),
                file("d/.wh.x", ""),
                file(".wh.y", ""),
                file(".wh..wh.aufs", ""),
                file(".wh..wh.plnk/1.2", ""),
            ],
            &[dir("e", 0o755), file("e/.wh.x", ""), file("d/.wh.never", "")],
        ],
        expect![[r#"
            d Dir 755
            e Dir 755
        "#]],
    );
}

#[test]
fn directories_nobody_lists_look_as_below() {
    let below = Item { mode: 0o1770, owner: (5, 6), ..dir("d", 0) };
    check(
        &[&[below, dir("d/e", 0o711)], &[file("d/e/f", "1"), file("d/new/g", "2")]],
        expect![[r#"
            d Dir 1770 5:6
            d/e Dir 711
            d/e/f File 644 "1"
            d/new Dir 755
            d/new/g File 644 "2"
        "#]],
    );
}

#[test]
fn the_roots_metadata_is_inherited() {
    let world = World::new();
    let root = Item { owner: (3, 4), ..dir(".", 0o711) };
    let chain = world.apply(&[Blob::gzip(&tar(&[root])), Blob::gzip(&tar(&[file("a", "")]))]).unwrap();
    let stat = walk::stat_of(world.store.view(&chain).unwrap().as_fd()).unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o711, 3, 4));
}

#[test]
fn a_link_keeps_a_file_that_its_layer_takes_away() {
    let below = [
        dir("d", 0o750),
        Item { owner: (5, 6), mode: 0o640, ..file("d/low", "deep") },
        file("a", "1"),
        file("b", "2"),
        dir("o", 0o755),
        file("o/x", "3"),
    ];
    check(
        &[
            &below,
            &[
                hard_link("kept", "a"),
                hard_link("kept2", "a"),
                file(".wh.a", ""),
                hard_link("from-d", "d/low"),
                file(".wh.d", ""),
                hard_link("before", "b"),
                file("b", "new"),
                hard_link("from-o", "o/x"),
                dir("o", 0o755),
                file("o/.wh..wh..opq", ""),
            ],
        ],
        expect![[r#"
            b File 644 "new"
            before File 644 "2"
            from-d File 640 5:6 "deep"
            from-o File 644 "3"
            kept File 644 "1"
            kept2 File 644 "1" = kept
            o Dir 755
        "#]],
    );
}

#[test]
fn implied_directories_are_found_through_symlinks_below() {
    let below = [
        dir("usr", 0o755),
        dir("usr/bin", 0o711),
        file("usr/bin/old", "1"),
        file("usr/bin/gone", "2"),
        dir("usr/bin/sub", 0o700),
        symlink("bin", "usr/bin"),
        symlink("abs", "/usr/bin"),
        symlink("nowhere", "missing"),
        symlink("to-file", "usr/bin/old"),
    ];
    check(
        &[
            &below,
            &[
                file("bin/new", "3"),
                file("bin/.wh.gone", ""),
                hard_link("bin/link", "usr/bin/old"),
                file("bin/sub/deep", "4"),
                file("abs/other", "5"),
                file("usr/bin/listed", "6"),
                file("nowhere/x", "7"),
                file("to-file/y", "8"),
            ],
        ],
        expect![[r#"
            abs Symlink 777 -> /usr/bin
            bin Symlink 777 -> usr/bin
            nowhere Dir 755
            nowhere/x File 644 "7"
            to-file Dir 755
            to-file/y File 644 "8"
            usr Dir 755
            usr/bin Dir 711
            usr/bin/link File 644 "1"
            usr/bin/listed File 644 "6"
            usr/bin/new File 644 "3"
            usr/bin/old File 644 "1" = usr/bin/link
            usr/bin/other File 644 "5"
            usr/bin/sub Dir 700
            usr/bin/sub/deep File 644 "4"
        "#]],
    );
    // A directory that the layer lists takes the symlink's place.
    check(
        &[&below[..6], &[dir("bin", 0o755), file("bin/x", "")]],
        expect![[r#"
        bin Dir 755
        bin/x File 644 ""
        usr Dir 755
        usr/bin Dir 711
        usr/bin/gone File 644 "2"
        usr/bin/old File 644 "1"
        usr/bin/sub Dir 700
    "#]],
    );
}

#[test]
fn hard_links_reach_into_lower_layers() {
    check(
        &[
            &[
                dir("d", 0o711),
                Item { mode: 0o4755, owner: (7, 8), ..file("d/low", "text") },
                symlink("l", "d/low"),
            ],
            &[
                hard_link("x", "d/low"),
                hard_link("d/y", "/d/low"),
                hard_link("sym", "l"),
                hard_link("again", "x"),
            ],
        ],
        expect![[r#"
            again File 4755 7:8 "text"
            d Dir 711
            d/low File 4755 7:8 "text" = again
            d/y File 4755 7:8 "text" = again
            l Symlink 777 -> d/low
            sym Symlink 777 -> d/low
            x File 4755 7:8 "text" = again
        "#]],
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(
        &[
            &[dir("x", 0o755), file("x/below", "")],
            &[
                dir("x", 0o755),
                file("x/early", ""),
                file("x", "now a file"),
                dir("x", 0o700),
                file("x/late", ""),
                file("same", "1"),
                hard_link("other", "same"),
                file("same", "2"),
                file("parent", ""),
                file("parent/child", ""),
                file(".wh.gone", ""),
                file("gone/back", ""),
            ],
        ],
        expect![[r#"
            gone Dir 755
            gone/back File 644 ""
            other File 644 "1"
            parent Dir 755
            parent/child File 644 ""
            same File 644 "2"
            x Dir 700
            x/late File 644 ""
        "#]],
    );
}

#[test]
fn all_metadata_is_kept() {
    let xattrs =
        vec![("security.capability".into(), b"\x01\0\0\x02\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())];
    let overlay =
        vec![("trusted.overlay.redirect".into(), b"/etc".to_vec()), ("user.x".into(), b"1".to_vec())];
    check(
        &[&[
            Item { mode: 0o6755, owner: (1000, 4_000_000), xattrs, ..file("setuid", "") },
            Item { mode: 0o1777, ..dir("tmp", 0o1777) },
            Item { xattrs: overlay, ..dir("marked", 0o755) },
            Item { rdev: (1, 3), mode: 0o666, ..item("null", TypeFlag::CharDevice) },
            Item { rdev: (7, 300), mode: 0o660, owner: (0, 6), ..item("loop", TypeFlag::BlockDevice) },
            Item { mode: 0o600, ..item("pipe", TypeFlag::Fifo) },
            Item { owner: (9, 9), ..symlink("sym", "/nowhere") },
            file(b"\xff\xfe", "odd name"),
        ]],
        expect![[r#"
            loop BlockDevice 660 0:6 (7, 300)
            marked Dir 755 user.x="1"
            null CharDevice 666 (1, 3)
            pipe Fifo 600
            setuid File 6755 1000:4000000 "" security.capability="\u{1}\0\0\u{2}\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
            sym Symlink 777 9:9 -> /nowhere
            tmp Dir 1777
            �� File 644 "odd name"
        "#]],
    );
}

/// Changes a file system and shows the layer that comes of it.
#[track_caller]
fn check_layer(change: impl FnOnce(PathBuf), expected: Expect) {
    let world = World::new();
    let base = world.step(&Chain::default(), |root| {
        std::fs::create_dir_all(root.join("etc/conf.d")).unwrap();
        std::fs::write(root.join("etc/a"), "aaaa").unwrap();
        std::fs::write(root.join("etc/b"), "bbbb").unwrap();
        std::fs::write(root.join("etc/conf.d/c"), "cccc").unwrap();
        std::fs::hard_link(root.join("etc/a"), root.join("etc/a2")).unwrap();
        make_symlink("a", root.join("etc/l")).unwrap();
        std::fs::create_dir_all(root.join("var/lib")).unwrap();
        std::fs::write(root.join("var/lib/d"), "dddd").unwrap();
    });
    let chain = world.step(&base, change);
    let layer = make_layer(&world.store, &chain, None, Variant::default()).unwrap();
    assert_eq!(make_layer(&world.store, &chain, None, Variant::default()).unwrap(), layer);
    expected.assert_eq(&world.list(&layer));

    let first = make_layer(&world.store, &base, None, Variant::default()).unwrap();
    let other = World::new();
    let unpacked = other.apply(&[Blob::of(&world, &first), Blob::of(&world, &layer)]).unwrap();
    assert_eq!(other.dump(&unpacked), world.dump(&chain));
}

/// What a step that belongs to nobody's records writes as one changes neither owner nor kind, and does not travel.
#[test]
fn what_a_step_forges_is_no_record() {
    let put = |path: PathBuf, name: &str, value: &[u8]| {
        let file = std::fs::File::open(path).unwrap();
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    check_layer(
        |root| {
            std::fs::write(root.join("etc/forged"), "1").unwrap();
            put(root.join("etc/forged"), "user.wharf.owner", b"7:7");
            put(root.join("etc/forged"), "user.wharf.node", b"b:8:0");
            put(root.join("etc/forged"), "user.other", b"1");
            put(root.join("etc"), "user.wharf.owner", b"7:7");
        },
        expect![[r#"
            etc/ Dir 755 0:0
            etc/forged File 644 0:0 1 bytes user.other="1"
        "#]],
    );
}

#[test]
fn a_layer_holds_the_changes() {
    check_layer(
        |root| {
            std::fs::remove_file(root.join("etc/b")).unwrap();
            std::fs::write(root.join("etc/conf.d/new"), "1").unwrap();
            std::fs::set_permissions(root.join("var/lib/d"), std::fs::Permissions::from_mode(0o600)).unwrap();
        },
        expect![[r#"
            etc/ Dir 755 0:0
            etc/.wh.b File 0 0:0
            etc/conf.d/ Dir 755 0:0
            etc/conf.d/new File 644 0:0 1 bytes
            var/ Dir 755 0:0
            var/lib/ Dir 755 0:0
            var/lib/d File 600 0:0 4 bytes
        "#]],
    );
}

/// The one difference that stackings make. Overlayfs copies a file up under the name by which it is changed; the others
/// are then names of the old one. In a plain directory all names are changed, and become files of their own.
#[test]
fn a_file_with_several_names_below_is_changed() {
    let change = |root: PathBuf| {
        std::fs::set_permissions(root.join("etc/a"), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    match stacking() {
        Stacking::Overlay => check_layer(
            change,
            expect![[r#"
                etc/ Dir 755 0:0
                etc/a File 600 0:0 4 bytes
            "#]],
        ),
        Stacking::Copy => check_layer(
            change,
            expect![[r#"
                etc/ Dir 755 0:0
                etc/a File 600 0:0 4 bytes
                etc/a2 File 600 0:0 4 bytes
            "#]],
        ),
    }
}

#[test]
fn mere_copies_are_left_out_but_edits_never() {
    check_layer(
        |root| {
            // Opened for writing, and nothing written.
            drop(std::fs::OpenOptions::new().append(true).open(root.join("var/lib/d")).unwrap());
            // Same size, same time, other bytes.
            let path = root.join("etc/conf.d/c");
            let time = std::fs::metadata(&path).unwrap().modified().unwrap();
            std::fs::write(&path, "CCCC").unwrap();
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        },
        expect![[r#"
            etc/ Dir 755 0:0
            etc/conf.d/ Dir 755 0:0
            etc/conf.d/c File 644 0:0 4 bytes
        "#]],
    );
}

#[test]
fn replaced_directories_are_opaque() {
    check_layer(
        |root| {
            std::fs::remove_dir_all(root.join("etc")).unwrap();
            std::fs::create_dir(root.join("etc")).unwrap();
            std::fs::write(root.join("etc/new"), "").unwrap();
            std::fs::set_permissions(root.join("var"), std::fs::Permissions::from_mode(0o700)).unwrap();
        },
        expect![[r#"
            etc/ Dir 755 0:0
            etc/.wh..wh..opq File 0 0:0
            etc/new File 644 0:0
            var/ Dir 700 0:0
        "#]],
    );
}

/// Overlayfs makes a directory opaque where a file was, and one that was renamed; neither hides anything.
#[test]
fn directories_that_hide_no_directory_are_not_opaque() {
    check_layer(
        |root| {
            std::fs::remove_file(root.join("etc/conf.d/c")).unwrap();
            std::fs::create_dir(root.join("etc/conf.d/c")).unwrap();
            std::fs::create_dir(root.join("var/made")).unwrap();
            std::fs::rename(root.join("var/made"), root.join("var/new")).unwrap();
            std::fs::write(root.join("var/new/file"), "").unwrap();
        },
        expect![[r#"
            etc/ Dir 755 0:0
            etc/conf.d/ Dir 755 0:0
            etc/conf.d/c/ Dir 755 0:0
            var/ Dir 755 0:0
            var/new/ Dir 755 0:0
            var/new/file File 644 0:0
        "#]],
    );
}

#[test]
fn hard_links_within_a_layer() {
    check_layer(
        |root| {
            std::fs::write(root.join("z"), "zz").unwrap();
            std::fs::hard_link(root.join("z"), root.join("etc/y")).unwrap();
            std::fs::hard_link(root.join("var/lib/d"), root.join("d2")).unwrap();
        },
        expect![[r#"
            d2 File 644 0:0 4 bytes
            etc/ Dir 755 0:0
            etc/y File 644 0:0 2 bytes
            var/ Dir 755 0:0
            var/lib/ Dir 755 0:0
            var/lib/d HardLink 644 0:0 -> d2
            z HardLink 644 0:0 -> etc/y
        "#]],
    );
}

#[test]
fn the_root_counts_only_when_it_changed() {
    check_layer(
        |root| std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o711)).unwrap(),
        expect![[r#"
            ./ Dir 711 0:0
        "#]],
    );
}

#[test]
fn a_step_that_changed_nothing_gives_the_empty_layer() {
    let world = World::new();
    let base = world.step(&Chain::default(), |root| std::fs::write(root.join("a"), "").unwrap());
    let chain = world.step(&base, |_| ());
    let layer = make_layer(&world.store, &chain, None, Variant::default()).unwrap();
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(layer.diff_id.0.to_string(), empty);
    let plain = Variant { compression: Compression::None, clamp_time_s: None };
    let layer = make_layer(&world.store, &chain, None, plain).unwrap();
    assert_eq!((layer.digest.to_string().as_str(), layer.size), (empty, 1024));
    assert_eq!(layer.media_type, "application/vnd.oci.image.layer.v1.tar");
}

#[test]
fn names_that_mean_deletion_are_refused() {
    let world = World::new();
    let chain = world.step(&Chain::default(), |root| std::fs::write(root.join(".wh.a"), "").unwrap());
    let error = make_layer(&world.store, &chain, None, Variant::default()).unwrap_err();
    assert!(error.to_string().contains("`.wh.a`"), "{error}");
}

fn sample(world: &World, seconds: u64) -> Chain {
    world.step(&Chain::default(), |root| {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(seconds, 5_000_000);
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::write(root.join("dir/file"), "content\n").unwrap();
        make_symlink("file", root.join("dir/link")).unwrap();
        std::fs::hard_link(root.join("dir/file"), root.join("hard")).unwrap();
        for path in ["dir/file", "dir"] {
            std::fs::File::open(root.join(path)).unwrap().set_modified(time).unwrap();
        }
        let times = super::super::unpack::timestamps((seconds as i64, 0));
        let link = root.join("dir/link");
        rustix::fs::utimensat(rustix::fs::CWD, &link, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    })
}

/// The bytes of layers are part of what users keep: a change here gives every image new digests.
#[test]
fn the_bytes_of_a_layer_are_pinned() {
    let world = World::new();
    let chain = sample(&world, 1_700_000_000);
    let layer = make_layer(&world.store, &chain, None, Variant::default()).unwrap();
    expect![[r#"
        diffID sha256:a4e1cc429582b24d75f011e52093af34d77c8b3c454cffce1e39012b628e8d72
        digest sha256:d5aa16c331ef0d2689eab8710a2afbf814e82823a3e69e3074da7e7924175709
        size 265
    "#]]
    .assert_eq(&format!("diffID {}\ndigest {}\nsize {}\n", layer.diff_id.0, layer.digest, layer.size));
}

#[test]
fn clamped_layers_do_not_depend_on_later_times() {
    let layer = |seconds| {
        let world = World::new();
        let chain = sample(&world, seconds);
        let clamped = Variant { clamp_time_s: Some(1000), ..Variant::default() };
        make_layer(&world.store, &chain, None, clamped).unwrap()
    };
    assert_eq!(layer(1_700_000_000), layer(1_800_000_000));
    assert_ne!(layer(999), layer(998));
}

#[test]
fn the_number_of_threads_does_not_show() {
    let world = World::new();
    let chain = world.step(&Chain::default(), |root| {
        // Several pieces and a bit, of bytes that neither repeat nor compress alike.
        let mut bytes = Vec::new();
        for number in 0_u32..2_000_000 {
            bytes.extend((number.wrapping_mul(2_654_435_761) >> (number >> 16)).to_le_bytes());
        }
        std::fs::write(root.join("large"), bytes).unwrap();
    });
    for compression in [
        Compression::default(),
        Compression::Estargz { level: None },
        Compression::Zstd { level: None },
        Compression::None,
    ] {
        let variant = Variant { compression, clamp_time_s: None };
        let mut layers = Vec::new();
        for threads in [1, 2, 7] {
            // The row is replaced each time: without its blob a layer is made anew.
            if let Some(layer) = layers.last() {
                let layer: &Layer = layer;
                std::fs::remove_file(world.store.root().join("blobs/sha256").join(layer.digest.hex()))
                    .unwrap();
            }
            layers.push(make_layer_with(&world.store, &chain, None, variant, threads).unwrap());
        }
        assert_eq!(layers[0], layers[1]);
        assert_eq!(layers[0], layers[2]);
        if compression == Compression::default() {
            let blob = world.store.root().join("blobs/sha256").join(layers[0].digest.hex());
            let blob = std::fs::File::open(blob).unwrap();
            match Command::new("gzip").arg("-t").stdin(blob).status() {
                Ok(status) => assert!(status.success()),
                Err(_) => println!("SKIP: gzip is not installed"),
            }
        }
        let other = World::new();
        let unpacked = other.apply(&[Blob::of(&world, &layers[0])]).unwrap();
        assert_eq!(other.dump(&unpacked), world.dump(&chain));
    }
}

/// The key of a layer names what compressed it: the version must be that of the library that is built in.
#[test]
fn the_version_of_the_compressor_is_the_one_that_is_built() {
    let lock = include_str!("../../../../Cargo.lock");
    let version =
        lock.split("name = \"libdeflate-sys\"\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
    let key = Variant::default().key();
    let named = key.split("libdeflate-").nth(1).unwrap().split(".pieces").next().unwrap();
    assert!(version.strip_prefix(named).is_some_and(|rest| rest.starts_with('.')), "{key} is not {version}");
    assert_eq!(key, "gzip-4.libdeflate-1.26.pieces-2");
    let zstd = Variant { compression: Compression::Zstd { level: None }, clamp_time_s: Some(1) };
    assert_eq!(zstd.key(), "zstd-3.libzstd-1.5.7.pieces-2@1");
    for key in [key, zstd.key(), Variant::PULLED.to_owned()] {
        assert!(Variant::is_key(&key), "{key}");
    }
}

#[test]
fn known_layers_are_not_unpacked_again() {
    let world = World::new();
    let blobs: Vec<_> = ["a", "b", "c"].iter().map(|name| Blob::gzip(&tar(&[file(name, "")]))).collect();
    let first = world.apply(&blobs[..2]).unwrap();
    let all = world.apply(&blobs).unwrap();
    assert_eq!(all.0[..2], first.0);
    assert_eq!(world.apply(&blobs).unwrap(), all);
    assert_eq!(world.snapshots(), 3);
    // A snapshot that was unpacked is the layer it came from.
    let layer = make_layer(&world.store, &all, None, Variant::default()).unwrap();
    assert_eq!(layer.digest, blobs[2].source.digest);
}

#[test]
fn layers_in_the_store_are_not_fetched() {
    let world = World::new();
    let blob = Blob::gzip(&tar(&[file("a", "1")]));
    world.store.blobs().put(&blob.bytes).unwrap();
    let fail = |_| Err(std::io::Error::other("asked for"));
    apply_layers(&world.store, &[blob.source], SystemTime::UNIX_EPOCH, &fail).unwrap();
}

#[test]
fn every_compression_of_layers_is_read() {
    let tar = tar(&[file("a", "1")]);
    let world = World::new();
    let base = "application/vnd.oci.image.layer.v1.tar";
    let zstd = zstd::stream::encode_all(&tar[..], 3).unwrap();
    let stacked = tar_with("b");
    let chain = world
        .apply(&[Blob::new(&tar, zstd, &format!("{base}+zstd")), Blob::new(&stacked, stacked.clone(), base)])
        .unwrap();
    assert_eq!(world.dump(&chain), "a File 644 \"1\"\nb File 644 \"\"\n");
}

fn tar_with(name: &str) -> Vec<u8> {
    tar(&[file(name, "")])
}

#[test]
fn other_tools_read_our_tars() {
    if Command::new("tar").arg("--version").output().is_err() {
        println!("SKIP: tar is not installed");
        return;
    }
    let world = World::new();
    let long = "n".repeat(200);
    let chain = world.step(&sample(&world, 1_700_000_000), |root| {
        std::fs::write(root.join(&long), "1").unwrap();
        std::fs::write(root.join("é"), "2").unwrap();
    });
    let mut archive = Vec::new();
    write_tree(world.store.view(&chain).unwrap().as_fd(), Ids::Kernel, Some(1_600_000_000), &mut archive)
        .unwrap();
    let scratch = Scratch::new();
    std::fs::write(scratch.path("out.tar"), &archive).unwrap();
    let output = Command::new("tar")
        .args(["--numeric-owner", "--utc", "-tvf"])
        .arg(scratch.path("out.tar"))
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    expect![[r#"
        drwxr-xr-x 0/0               0 2020-09-13 12:26 dir/
        -rw-r--r-- 0/0               8 2020-09-13 12:26 dir/file
        lrwxrwxrwx 0/0               0 2020-09-13 12:26 dir/link -> file
        hrw-r--r-- 0/0               0 2020-09-13 12:26 hard link to dir/file
        -rw-r--r-- 0/0               1 2020-09-13 12:26 LONG
        -rw-r--r-- 0/0               1 2020-09-13 12:26 é
    "#]]
    .assert_eq(&String::from_utf8(output.stdout).unwrap().replace(&long, "LONG"));

    // And the tar crate, which reads headers and PAX in its own way.
    let mut reader = ::tar::Archive::new(&archive[..]);
    let paths: Vec<_> =
        reader.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    let names: Vec<_> =
        ["dir/", "dir/file", "dir/link", "hard", &long, "é"].iter().map(PathBuf::from).collect();
    assert_eq!(paths, names);
}
