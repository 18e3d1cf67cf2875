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
    let result = extract_archive(&mut archive, open(&dest).as_fd(), (1, 2)).unwrap();
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
        assert!(extract_archive(&mut archive, open(&dest).as_fd(), (0, 0)).unwrap());
        assert!(std::fs::read(dest.join("sparse")).unwrap() == original, "{format:?}");
        std::fs::remove_dir_all(&dest).unwrap();
    }
}
