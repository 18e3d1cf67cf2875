//! Archives that end too early or never, layouts whose files are none: what `load`, `import` and `oci-layout://` say.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tar::EntryType;

use crate::harness::{Outcome, Wharf};
use crate::images_hostile::{
    LAYER, Pack, SOURCE, check, config, descriptor, docker, index, layer, layout, layout_of, manifest, sha256,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn sound() -> Pack {
    let layer = layer();
    layout_of(&config(&[sha256(&layer)]), &[descriptor(LAYER, &layer)], &[&layer])
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", &sha256(bytes)[7..])
}

#[test]
fn what_is_cut_off_anywhere_is_refused() {
    let Some(wharf) = Wharf::new() else { return };
    for (name, whole) in [("docker", docker(&sha256(&layer())).bytes()), ("layout", sound().bytes())] {
        // The two blocks at the end may be missing, as with every tar.
        let end = whole.len() - 1024;
        for cut in (0..end).step_by(512) {
            check(&wharf, &format!("{name} cut off at {cut}"), &whole[..cut], &["bad.tar"]);
        }
        for cut in [end, end + 512, whole.len()] {
            fs::write(wharf.path("good.tar"), &whole[..cut]).unwrap();
            wharf.run_in(&format!("{name}-{cut}"), &["load", "-q", "--input", "good.tar"]).success();
        }
    }
}

#[test]
fn entries_that_are_no_files() {
    let Some(wharf) = Wharf::new() else { return };
    let layer = layer();
    let path = blob(&layer);
    for (what, kind) in
        [("fifo", EntryType::Fifo), ("device", EntryType::Char), ("sparse", EntryType::GNUSparse)]
    {
        let mut pack = sound().without(&path);
        pack.0.push((path.clone(), kind, Vec::new()));
        check(&wharf, what, &pack.bytes(), &["is missing"]);
    }
    for target in ["/etc/passwd", "../../../../etc/passwd", "../../index.json"] {
        let linked = sound().without(&path).link(&path, target);
        check(&wharf, target, &linked.bytes(), &["sha256:"]);
    }
    let other = sound().with(&path, vec![b'x'; layer.len()]);
    check(&wharf, "a blob that is there twice", &other.bytes(), &["digest"]);
    // A link within it is as good as the file, and so is the same file once more.
    let linked = sound().without(&path).with("elsewhere", layer.clone()).link(&path, "../../elsewhere");
    for (number, pack) in [linked, sound().with(&path, layer.clone())].into_iter().enumerate() {
        fs::write(wharf.path("good.tar"), pack.bytes()).unwrap();
        wharf.run_in(&format!("good-{number}"), &["load", "-q", "--input", "good.tar"]).success();
    }
    // An index that names itself can only lie about the digest.
    let lie = sha256(b"itself");
    let itself = index(&[json!({"mediaType": INDEX, "digest": lie, "size": 300})]);
    let pack = layout(&[], json!({"mediaType": INDEX, "digest": lie, "size": itself.len()}));
    let pack = pack.with(&format!("blobs/sha256/{}", &lie[7..]), itself);
    check(&wharf, "an index that names itself", &pack.bytes(), &["digest"]);
}

#[test]
fn pipes_that_do_not_end() {
    let Some(wharf) = Wharf::new() else { return };
    for (program, arguments, words) in [
        ("yes", &[][..], &["is not a tar"][..]),
        ("cat", &["/dev/urandom"], &["is not a tar"]),
        ("cat", &["/dev/zero"], &["no entries"]),
    ] {
        for verb in [&["load", "-q"][..], &["import", "-q", "-", "x:1"]] {
            let mut source = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
            let mut command = wharf.command("store", verb);
            command.stdin(source.stdout.take().unwrap());
            let outcome = Outcome::of(command);
            source.kill().unwrap();
            source.wait().unwrap();
            outcome.fails_with(SOURCE, words);
        }
    }
    assert_eq!(wharf.leftovers("store"), [""; 0]);
    assert_eq!(wharf.run(&["images", "-q"]).success().text(), "");
}

#[test]
fn tars_that_cannot_be_imported() {
    let Some(wharf) = Wharf::new() else { return };
    let whole = Pack::default().with("a", vec![b'a'; 2000]).with("b", "b").bytes();
    let refused = |what: &str, bytes: &[u8]| {
        fs::write(wharf.path("bad.tar"), bytes).unwrap();
        let outcome = wharf.run(&["import", "-q", "bad.tar", "x:1"]);
        assert_eq!(outcome.code, Some(SOURCE), "{what}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("bad.tar") || outcome.stderr.contains("layer"),
            "{what}: {}",
            outcome.stderr
        );
        assert_eq!(wharf.run(&["images", "-q"]).success().text(), "", "{what}");
        assert_eq!(wharf.leftovers("store"), [""; 0], "{what}");
    };
    for cut in [0, 100, 600, 1024, 2000, 2400, 3072] {
        refused(&format!("cut off at {cut}"), &whole[..cut]);
    }
    refused("a text", b"this is a text");
    let mut damaged = whole.clone();
    damaged[10] ^= 1;
    refused("a damaged header", &damaged);
}

/// Writes an archive's files into a directory.
fn lay_out(pack: &Pack, dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for (name, kind, bytes) in &pack.0 {
        let path = dir.join(name);
        match kind {
            EntryType::Symlink => symlink(std::str::from_utf8(bytes).unwrap(), path).unwrap(),
            EntryType::Fifo => {
                rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
            }
            _ => fs::write(path, bytes).unwrap(),
        }
    }
}

#[test]
fn layouts_whose_files_are_none() {
    let Some(wharf) = Wharf::new() else { return };
    let layer = layer();
    let (config, layers) = (config(&[sha256(&layer)]), [descriptor(LAYER, &layer)]);
    let manifest = manifest(&config, &layers);
    let dir = wharf.path("layout");
    let tagged = |pack: Pack| {
        // `oci-layout://` goes by the tag.
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
        pack.without("index.json").with("index.json", index(&[entry]))
    };
    let build = |store: &str| {
        let context = format!("base=oci-layout://{}:1", dir.display());
        wharf.file("x", "x").dockerfile("FROM base\nCOPY x /\n");
        wharf.build_in(store, &["--build-context", &context, "-t", "app", "-o", "type=oci,dest=out.tar"])
    };
    lay_out(&tagged(sound()), &dir);
    build("sound").success();
    fs::remove_file(wharf.path("out.tar")).unwrap();
    let fifo = |path: &str| {
        let mut pack = tagged(sound()).without(path);
        pack.0.push((path.to_owned(), EntryType::Fifo, Vec::new()));
        pack
    };
    let mut rows = Vec::new();
    for bytes in [&layer, &config, &manifest] {
        let path = blob(bytes);
        let changed = [&bytes[..bytes.len() - 1], b"?"].concat();
        rows.push((format!("no {path}"), tagged(sound()).without(&path)));
        rows.push((format!("a fifo {path}"), fifo(&path)));
        rows.push((format!("another {path}"), tagged(sound()).without(&path).with(&path, changed)));
        rows.push((format!("a short {path}"), tagged(sound()).without(&path).with(&path, &bytes[1..])));
        rows.push((
            format!("a long {path}"),
            tagged(sound()).without(&path).with(&path, [&bytes[..], b"x"].concat()),
        ));
        rows.push((format!("elsewhere {path}"), tagged(sound()).without(&path).link(&path, "/etc/passwd")));
        rows.push((format!("endless {path}"), tagged(sound()).without(&path).link(&path, "/dev/zero")));
        rows.push((
            format!("in circles {path}"),
            tagged(sound()).without(&path).link(&path, &format!("../../{path}")),
        ));
    }
    rows.push(("no index".to_owned(), sound().without("index.json")));
    rows.push(("an index of text".to_owned(), sound().without("index.json").with("index.json", "text")));
    rows.push(("a fifo for an index".to_owned(), fifo("index.json")));
    for (number, (row, pack)) in rows.into_iter().enumerate() {
        lay_out(&pack, &dir);
        let store = format!("store-{number}");
        let outcome = build(&store);
        assert_eq!(outcome.code, Some(SOURCE), "{row}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{row}: {}", outcome.stderr);
        assert!(!wharf.path("out.tar").exists(), "{row}");
        assert_eq!(wharf.leftovers(&store), [""; 0], "{row}");
        let outcome = wharf.run_in(&store, &["load", "-q", "--input", "layout"]);
        assert_eq!(outcome.code, Some(SOURCE), "{row}: {}", outcome.stderr);
        // And when it is whole again, so is the image.
        lay_out(&tagged(sound()), &dir);
        build(&store).success();
        fs::remove_file(wharf.path("out.tar")).unwrap();
    }
}
