//! Archives as `ADD` extracts them.

use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::path::Path;

use expect_test::{Expect, expect};

use super::*;

#[track_caller]
fn check(bytes: &[u8], before: impl FnOnce(&Path), expected: Expect) {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("archive"), bytes).unwrap();
    let dest = scratch.path("root/dest");
    std::fs::create_dir_all(&dest).unwrap();
    before(&dest);
    let mut archive = std::fs::File::open(scratch.path("archive")).unwrap();
    let result = extract_archive(&mut archive, open(&dest).as_fd(), Ids::Kernel, (1, 2)).unwrap();
    expected.assert_eq(&format!("{result}\n{}", dump(open(&scratch.path("root")).as_fd())));
}

#[test]
fn entries_get_the_owner_and_the_destination_stays() {
    let items = [
        dir(".", 0o700),
        Item { owner: (77, 88), mode: 0o4711, ..file("a", "1") },
        dir("there", 0o700),
        file("there/b", "2"),
        file("implied/c", "3"),
        file(".wh.a", "4"),
        hard_link("d", "a"),
        symlink("l", "a"),
    ];
    check(
        &tar(&items),
        |dest| {
            std::fs::create_dir(dest.join("there")).unwrap();
            std::fs::set_permissions(dest.join("there"), std::fs::Permissions::from_mode(0o751)).unwrap();
        },
        expect![[r#"
            true
            dest Dir 755
            dest/.wh.a File 644 1:2 "4"
            dest/a File 4711 1:2 "1"
            dest/d File 4711 1:2 "1" = dest/a
            dest/implied Dir 755 1:2
            dest/implied/c File 644 1:2 "3"
            dest/l Symlink 777 1:2 -> a
            dest/there Dir 700 1:2
            dest/there/b File 644 1:2 "2"
        "#]],
    );
}

#[test]
fn symlinks_are_followed_within_the_destination() {
    check(
        &tar(&[file("abs/x", "1"), file("up/y", "2"), file("file", "new")]),
        |dest| {
            make_symlink("/lib", dest.join("abs")).unwrap();
            make_symlink("../..", dest.join("up")).unwrap();
            std::fs::write(dest.join("../outside"), "kept").unwrap();
            make_symlink("../outside", dest.join("file")).unwrap();
        },
        expect![[r#"
            true
            dest Dir 755
            dest/abs Symlink 777 -> /lib
            dest/file File 644 1:2 "new"
            dest/lib Dir 755 1:2
            dest/lib/x File 644 1:2 "1"
            dest/up Symlink 777 -> ../..
            dest/y File 644 1:2 "2"
            outside File 644 "kept"
        "#]],
    );
}

#[test]
fn archives_are_told_by_content() {
    let tar = tar(&[file("a", "1")]);
    let zstd = zstd::stream::encode_all(&tar[..], 1).unwrap();
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&tar[..], 1).read_to_end(&mut xz).unwrap();
    let mut bzip2 = Vec::new();
    bzip2::read::BzEncoder::new(&tar[..], bzip2::Compression::fast()).read_to_end(&mut bzip2).unwrap();
    for bytes in [&tar, &Blob::gzip(&tar).bytes, &zstd, &xz, &bzip2] {
        check(
            bytes,
            |_| (),
            expect![[r#"
            true
            dest Dir 755
            dest/a File 644 1:2 "1"
        "#]],
        );
    }
    let not_tar = Blob::gzip(b"text").bytes;
    for (bytes, expected) in [
        (&tar[..], true),
        (&tar[..512], true),
        (&not_tar, true),
        (&tar[..100], false),
        (b"FROM scratch", false),
        (&[0; 1024], false),
        (b"", false),
    ] {
        assert_eq!(may_be_archive(bytes), expected);
    }
    for bytes in [&b""[..], b"text", &not_tar, &not_tar[..10], &[0; 1024], &tar[..100]] {
        check(
            bytes,
            |_| (),
            expect![[r#"
            false
            dest Dir 755
        "#]],
        );
    }
}

/// Whether an archive can be extracted; `None` if it is none.
fn extracts(bytes: &[u8]) -> Option<Result<(), String>> {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("archive"), bytes).unwrap();
    std::fs::create_dir(scratch.path("dest")).unwrap();
    let mut archive = std::fs::File::open(scratch.path("archive")).unwrap();
    match extract_archive(&mut archive, open(&scratch.path("dest")).as_fd(), Ids::Kernel, (1, 2)) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// A file of several compressed blocks, the end of the archive, and zeros that fill a record, as writers leave them.
fn compressed() -> [(&'static str, Vec<u8>); 4] {
    let text: String = (0..40_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    let mut tar = tar(&[file("a", &text)]);
    tar.resize(tar.len().next_multiple_of(10240), 0);
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&tar[..], 1).read_to_end(&mut xz).unwrap();
    let mut bzip2 = Vec::new();
    bzip2::read::BzEncoder::new(&tar[..], bzip2::Compression::fast()).read_to_end(&mut bzip2).unwrap();
    let mut zstd = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut zstd, &tar).unwrap();
    let zstd = zstd.finish().unwrap();
    [("gzip", Blob::gzip(&tar).bytes), ("xz", xz), ("bzip2", bzip2), ("zstd", zstd)]
}

#[test]
fn a_compressed_stream_is_checked_to_its_end() {
    for (format, whole) in compressed() {
        assert_eq!(extracts(&whole), Some(Ok(())), "{format}");
        for cut in 1..8 {
            let result = extracts(&whole[..whole.len() - cut]);
            assert!(matches!(result, Some(Err(_))), "{format} without the last {cut} bytes: {result:?}");
        }
        let mut flipped = whole.clone();
        // The checksum's last byte of gzip and zstd, within the index or the end mark of the others.
        let at = whole.len() - if format == "gzip" { 5 } else { 3 };
        flipped[at] ^= 4;
        let result = extracts(&flipped);
        assert!(matches!(result, Some(Err(_))), "{format}: {result:?}");
    }
}

#[test]
fn zeros_may_follow_gzip_and_nothing_else() {
    let [(_, whole), ..] = compressed();
    let after = |more: &[u8]| extracts(&[&whole[..], more].concat()).map(|result| result.is_ok());
    assert_eq!(after(&[0; 512]), Some(true));
    assert_eq!(after(&whole), Some(true));
    assert_eq!(after(&[&[0; 512], &whole[..]].concat()), Some(true));
    assert_eq!(after(b"more"), Some(false));
    assert_eq!(after(&[&[0; 512], &b"more"[..]].concat()), Some(false));
}

#[test]
fn what_overlayfs_takes_for_a_deletion_is_refused() {
    let device = Item { rdev: (0, 0), ..item("gone", TypeFlag::CharDevice) };
    let error = extracts(&tar(&[device])).unwrap().unwrap_err();
    assert!(error.contains("gone") && error.contains("character device 0:0"), "{error}");
}

#[test]
fn sparse_files_of_every_format() {
    if std::process::Command::new("tar").arg("--version").output().is_err() {
        println!("SKIP: tar is not installed");
        return;
    }
    let scratch = Scratch::new();
    {
        use std::io::{Seek, SeekFrom, Write};
        let mut sparse = std::fs::File::create(scratch.path("sparse")).unwrap();
        for index in 0..40_u64 {
            sparse.seek(SeekFrom::Start(index * 100_000)).unwrap();
            sparse.write_all(b"data").unwrap();
        }
        sparse.set_len(5_000_000).unwrap();
    }
    let original = std::fs::read(scratch.path("sparse")).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let made = std::process::Command::new("tar")
            .args(["--sparse", "-cf"])
            .arg(scratch.path("sparse.tar"))
            .args(format)
            .arg("-C")
            .arg(scratch.path(""))
            .arg("sparse")
            .status()
            .unwrap();
        assert!(made.success());
        assert!(std::fs::metadata(scratch.path("sparse.tar")).unwrap().len() < 1_000_000);
        let dest = scratch.path("dest");
        std::fs::create_dir_all(&dest).unwrap();
        let mut archive = std::fs::File::open(scratch.path("sparse.tar")).unwrap();
        assert!(extract_archive(&mut archive, open(&dest).as_fd(), Ids::Kernel, (0, 0)).unwrap());
        assert!(std::fs::read(dest.join("sparse")).unwrap() == original, "{format:?}");
        std::fs::remove_dir_all(&dest).unwrap();
    }
}
