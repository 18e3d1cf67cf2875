//! The matrix of COPY and ADD: what each instruction makes of what there is, read from the layer it gives.
//!
//! Rows are in [`crate::copy_rows`]. All that are to succeed are instructions of one build, each in a directory of its
//! own and with a layer of its own; the layers are read by `testdata/read_layers.py`, which uses Python's tarfile alone.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::copy_rows::{ERRORS, Row, TREE, rows};
use crate::harness::{Wharf, busybox_layout, have, repository, tool};

/// The time of every file there is before a build.
const MARK: Timespec = Timespec { tv_sec: 990_000_000, tv_nsec: 123_456_789 };

/// Makes what a line of a table says: `path=content`, `path->target`, `path=>first name`, `path/`, `path|` (pipe),
/// `path^` (socket), each with `:mode` before it where it matters: `600:path=content`.
fn make(root: &Path, line: &str) {
    let (mode, line) = match line.split_once(':') {
        Some((mode, rest)) if mode.bytes().all(|byte| byte.is_ascii_digit()) => {
            (Some(u32::from_str_radix(mode, 8).unwrap()), rest)
        }
        _ => (None, line),
    };
    let place = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let path = if let Some((name, target)) = line.split_once("->") {
        symlink(target, place(name)).unwrap();
        return;
    } else if let Some((name, first)) = line.split_once("=>") {
        fs::hard_link(root.join(first), place(name)).unwrap();
        return;
    } else if let Some((name, content)) = line.split_once('=') {
        fs::write(place(name), content).unwrap();
        place(name)
    } else if let Some(name) = line.strip_suffix('|') {
        rustix::fs::mknodat(CWD, place(name), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        place(name)
    } else if let Some(name) = line.strip_suffix('^') {
        drop(UnixListener::bind(place(name)).unwrap());
        assert!(fs::symlink_metadata(place(name)).unwrap().file_type().is_socket());
        place(name)
    } else {
        fs::create_dir_all(place(line)).unwrap();
        place(line)
    };
    let default = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode.unwrap_or(default))).unwrap();
}

/// Gives everything below a directory, and it itself, the time [`MARK`].
fn set_times(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| set_times(&entry.unwrap().path()));
    }
    let times = Timestamps { last_access: MARK, last_modification: MARK };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The context: [`TREE`], names that are no text, attributes, a file with a hole, archives of every kind.
fn make_context(wharf: &Wharf) {
    let context = wharf.context();
    TREE.iter().for_each(|line| make(&context, line));
    make(&context, "raw/");
    fs::write(context.join(std::ffi::OsStr::from_bytes(b"raw/\xff\xfe")), "raw").unwrap();
    rustix::fs::setxattr(context.join("xa"), "user.k", b"v", XattrFlags::empty()).unwrap();
    fs::File::create(context.join("sparse")).unwrap().set_len(1 << 20).unwrap();
    fs::set_permissions(context.join("sparse"), fs::Permissions::from_mode(0o644)).unwrap();
    let archive = archive();
    for (name, command) in [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz"), ("zst", "zstd")] {
        fs::write(context.join("t.tar"), &archive).unwrap();
        let path = context.join("t.tar").display().to_string();
        let packed = Command::new(command).args(["-c", "-q", &path]).output().unwrap();
        assert!(packed.status.success());
        fs::write(context.join(format!("packed.{name}")), packed.stdout).unwrap();
    }
    fs::copy(context.join("t.tar"), context.join("u.tar")).unwrap();
    fs::write(context.join("named.tar"), "no archive").unwrap();
    set_times(&context);
}

/// An archive with a root entry, foreign owners, a directory that is not listed and both kinds of link.
fn archive() -> Vec<u8> {
    let mut bytes = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, mode: u32, content: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(77);
        header.set_gid(88);
        header.set_mtime(980_000_000);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        bytes.append_data(&mut header, name, content.as_bytes()).unwrap();
    };
    add(tar::EntryType::Directory, "./", 0o700, "", "");
    add(tar::EntryType::Regular, "a", 0o4711, "A", "");
    add(tar::EntryType::Directory, "dir/", 0o750, "", "");
    add(tar::EntryType::Regular, "dir/b", 0o640, "B", "");
    add(tar::EntryType::Link, "h", 0o644, "", "a");
    add(tar::EntryType::Regular, "imp/c", 0o644, "C", "");
    add(tar::EntryType::Symlink, "l", 0o777, "", "/a");
    bytes.into_inner().unwrap()
}

/// The instructions of a row, in its own directory.
fn instructions(row: &Row) -> String {
    row.instruction.replace('@', &format!("/{}", row.name))
}

/// How many layers the instructions of a row make.
fn layers_of(row: &Row) -> usize {
    row.instruction
        .lines()
        .filter(|line| ["COPY", "ADD", "WORKDIR"].iter().any(|word| line.starts_with(&format!("{word} "))))
        .count()
}

/// The stages that rows copy from, and the one whose layers are read.
const STAGES: &str = "FROM scratch AS src
COPY . /
FROM scratch AS own
COPY --chown=101:102 d /d
COPY --chown=5:6 f /f
FROM busybox AS odd
RUN mkdir /odd && mknod /odd/c c 1 3 && mkfifo -m 640 /odd/p && touch -d @990000000 /odd/c /odd/p
FROM scratch
COPY --from=accounts . /
COPY --from=base --chown=7:8 . /
";

#[test]
fn every_row_gives_its_layer() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    if !have(&["python3", "bzip2", "xz", "zstd"]) {
        return;
    }
    make_context(&wharf);
    let rows = rows();
    let base = wharf.path("base");
    for row in &rows {
        let own = base.join(&row.name);
        fs::create_dir_all(&own).unwrap();
        row.base.iter().for_each(|line| make(&own, &line.replace('@', &format!("/{}", row.name))));
    }
    set_times(&base);
    let accounts = wharf.path("accounts");
    make(&accounts, "etc/passwd=root:x:0:0::/:\napp:x:1000:1001::/:\n");
    make(&accounts, "etc/group=root:x:0:\napp:x:1001:\nstaff:x:50:\n");
    fs::write(wharf.path("image.Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    let at = |name: &str| wharf.path(name).display().to_string();
    wharf.build(&["-f", &at("image.Dockerfile"), "-o", "type=oci,tar=false,dest=image"]).success();

    let mut dockerfile = STAGES.to_owned();
    for row in &rows {
        writeln!(dockerfile, "{}", instructions(row)).unwrap();
    }
    fs::write(wharf.path("Dockerfile"), dockerfile).unwrap();
    let contexts = [
        format!("img=oci-layout://{}", at("image")),
        format!("base={}", at("base")),
        format!("accounts={}", at("accounts")),
    ];
    let mut arguments = vec!["-f".to_owned(), at("Dockerfile"), "-o".to_owned()];
    arguments.push("type=oci,tar=false,dest=layout".to_owned());
    contexts.iter().for_each(|context| arguments.extend(["--build-context".to_owned(), context.clone()]));
    wharf.build(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).success();

    let script = repository().join("testdata/read_layers.py").display().to_string();
    let layouts: serde_json::Value =
        serde_json::from_str(&tool("python3", &[&script, &at("layout")])).unwrap();
    let layers = layouts[0].as_array().unwrap();
    assert_eq!(layers.len(), 2 + rows.iter().map(layers_of).sum::<usize>());
    let mut next = 2;
    let mut wrong = Vec::new();
    for row in &rows {
        next += layers_of(row);
        let found = entries(&layers[next - 1]["entries"], &row.name);
        if found != row.expected {
            wrong.push(format!("{}\n  expected {:#?}\n  found {found:#?}", instructions(row), row.expected));
        }
    }
    println!("{} rows", rows.len());
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The entries of a layer, names relative to the row's directory; this itself is left out.
fn entries(layer: &serde_json::Value, row: &str) -> Vec<String> {
    let own = format!(" {row} ");
    let lines = layer.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
    lines
        .filter(|line| !format!("{line} ").contains(&own))
        .map(|line| line.replace(&format!(" {row}/"), " ").replace(&format!("=>{row}/"), "=>"))
        .collect()
}

#[test]
fn every_error_names_its_cause() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    make_context(&wharf);
    let hidden = fs::File::create(wharf.context().join("whiteout.tar")).unwrap();
    let mut builder = tar::Builder::new(hidden);
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, "dir/.wh.gone", &b""[..]).unwrap();
    builder.finish().unwrap();
    let archive = fs::read(wharf.context().join("packed.gz")).unwrap();
    fs::write(wharf.context().join("short.tar.gz"), &archive[..archive.len() - 20]).unwrap();
    let plain = fs::read(wharf.context().join("t.tar")).unwrap();
    fs::write(wharf.context().join("short.tar"), &plain[..1024]).unwrap();
    wharf.file(".dockerignore", "ignored\n").file("ignored", "").file(".wh.name", "");
    for (number, (instruction, code, words)) in ERRORS.iter().enumerate() {
        let base = if instruction.starts_with("FROM") { "" } else { "FROM busybox\n" };
        fs::write(wharf.path("Dockerfile"), format!("{base}{instruction}\n")).unwrap();
        let at = wharf.path("Dockerfile").display().to_string();
        let output = format!("type=oci,dest=out{number}.tar");
        let line = format!("Dockerfile:{}", base.lines().count() + instruction.lines().count());
        let failed = wharf.build(&["-f", &at, "-o", &output]).fails_with(*code, words);
        assert!(failed.stderr.contains(&line), "{line} is not in:\n{}", failed.stderr);
        assert!(!wharf.path(&format!("out{number}.tar")).exists(), "{instruction}");
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn a_linked_layer_does_not_depend_on_the_base() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    if !have(&["python3"]) {
        return;
    }
    make_context(&wharf);
    make(&wharf.path("base"), "n->tmp");
    let dockerfile = "FROM scratch AS one\nCOPY --link d /n/m\nFROM busybox AS below\nCOPY --from=base . /\n\
                      FROM below AS two\nCOPY --link d /n/m\nFROM below AS three\nCOPY d /n/m\n";
    fs::write(wharf.path("Dockerfile"), dockerfile).unwrap();
    let at = |name: &str| wharf.path(name).display().to_string();
    let base = format!("base={}", at("base"));
    for target in ["one", "two", "three"] {
        let output = format!("type=oci,tar=false,dest={target}");
        let file = at("Dockerfile");
        wharf.build(&["-f", &file, "--target", target, "--build-context", &base, "-o", &output]).success();
    }
    let script = repository().join("testdata/read_layers.py").display().to_string();
    let read: serde_json::Value =
        serde_json::from_str(&tool("python3", &[&script, &at("one"), &at("two"), &at("three")])).unwrap();
    let last = |layout: usize| read[layout].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last(0)["diff_id"], last(1)["diff_id"]);
    assert_eq!(last(0)["entries"][0], "d 755 0:0 n new");
    // The symlink of the base is followed without --link only.
    assert!(last(2)["entries"].as_array().unwrap().iter().any(|line| line == "f 644 0:0 tmp/m/a=aa"));
}
