//! The same bytes from the same inputs, whoever builds, where and with how many threads; and `wharf verify`, which names what
//! is not the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::{Outcome, Wharf, busybox_layout, have, tool};
use crate::sandboxes::{BUILDERS, Builder, ROOT, World};

/// All that could go another way: stages that run at once, links, attributes, an archive, a cache.
const DOCKERFILE: &str = "FROM busybox AS made
RUN --mount=type=cache,target=/cache mkdir -p /made/dir && echo text >/made/dir/file && ln /made/dir/file /made/hard && \\
    ln -s dir/file /made/soft && date >/cache/when && seq 1 50000 >/made/many && chmod 4755 /made/many && mkfifo /made/fifo
COPY tree /made/tree
FROM busybox AS other
RUN mkdir /other && for name in z y x w v; do echo $name >/other/$name; done
ADD archive.tar /unpacked/
FROM busybox
COPY --from=made /made /made
COPY --from=other /other /unpacked /other/
COPY tree /tree
COPY --chmod=750 tree/b /b
RUN rm /made/hard /other/z && touch /made/new && mkdir -m 2770 /kept && rm -r /made/tree && mkdir /made/tree
ENV WHERE=here
LABEL of=image
";

const COMPRESSIONS: [&str; 4] = ["gzip", "zstd", "estargz", "uncompressed"];

/// An archive with links and an attribute.
const ARCHIVE: &str = "import sys, tarfile, io
with tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT) as tar:
    for name, kind in (('dir', tarfile.DIRTYPE), ('dir/file', tarfile.REGTYPE), ('hard', tarfile.LNKTYPE), ('soft', tarfile.SYMTYPE)):
        it = tarfile.TarInfo(name)
        it.type, it.mode, it.mtime, it.linkname = kind, 0o755, 1234567890.5, 'dir/file' if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ''
        if kind == tarfile.REGTYPE:
            it.size, it.pax_headers = 4, {'SCHILY.xattr.user.k': 'v'}
        tar.addfile(it, io.BytesIO(b'text'))
";

/// Fills a context with the same files, made in the order of `names`, which are as old as `age` says.
fn fill(context: &Path, names: [&str; 3], age: &str) {
    let tree = context.join("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    for name in names {
        fs::write(tree.join(name), format!("the file {name}\n")).unwrap();
    }
    fs::set_permissions(tree.join("b"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("below/c", tree.join("link")).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    let archive = context.join("archive.tar").to_str().unwrap().to_owned();
    tool("python3", &["-c", ARCHIVE, &archive]);
    let all = context.to_str().unwrap();
    tool("find", &[all, "-exec", "touch", "-h", "-d", age, "{}", "+"]);
}

/// The digest of the manifest in a layout.
fn digest_in(layout: &Path) -> String {
    let index: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn every_way_to_build_gives_one_digest() {
    let Some(world) = World::new() else { return };
    if !have(&["python3"]) {
        return;
    }
    let contexts =
        [("first", ["a", "b", "below/c"], "2024-05-06"), ("second", ["below/c", "b", "a"], "2031-01-02")];
    for (name, names, age) in contexts {
        let context = world.path(name);
        fill(&context, names, age);
        tool("chmod", &["-R", "a+rX", context.to_str().unwrap()]);
    }
    let chroot = Builder { name: "chroot", user: None, forced: Some("chroot"), sandbox: "chroot" };
    let base = format!("busybox=oci-layout://{}", world.path("busybox").display());
    let mut found: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    let builders = [&ROOT, &ROOT, &chroot, &chroot].into_iter().chain(&BUILDERS);
    for (number, builder) in builders.enumerate() {
        let (context, jobs, mask) = match number % 2 {
            0 => ("first", "1", "022"),
            _ => ("second", "8", "077"),
        };
        let dest = |compression: &str| format!("out/{number}-{compression}");
        let outputs =
            COMPRESSIONS.map(|it| format!("--output=type=oci,tar=false,dest={},compression={it}", dest(it)));
        let mut arguments = vec!["build", "--no-cache", "--jobs", jobs, "--build-context", &base];
        arguments.extend(outputs.iter().map(String::as_str));
        arguments.push(context);
        world.wharf_after(&format!("umask {mask}"), builder, &arguments).success();
        for compression in COMPRESSIONS {
            let who = format!("{} with {jobs} jobs in {context}", builder.name);
            found.entry(compression).or_default().push((digest_in(&world.path(&dest(compression))), who));
        }
    }
    for (compression, digests) in found {
        for (digest, who) in &digests {
            assert_eq!(*digest, digests[0].0, "{compression}: {who} and {}", digests[0].1);
        }
    }
}

/// `wharf verify ARGUMENTS context`, in a store that knows nothing of the image.
fn verify(wharf: &Wharf, store: &str, arguments: &[&str]) -> Outcome {
    let base = format!("busybox=oci-layout://{}", busybox_layout().unwrap().display());
    wharf.run_in(
        store,
        &[&["verify", "--progress", "plain", "--build-context", &base], arguments, &["context"]].concat(),
    )
}

fn reproducible() -> Option<Wharf> {
    // Where it is in no repository.
    let (wharf, _) = (Wharf::for_everybody()?, busybox_layout()?);
    if !have(&["python3"]) {
        return None;
    }
    fill(&wharf.context(), ["a", "b", "below/c"], "2024-05-06");
    Some(wharf)
}

#[test]
fn an_honest_image_is_verified_in_every_form() {
    let Some(wharf) = reproducible() else { return };
    let check = |name: &str, output: &str, places: &[&str], flags: &[&str]| {
        let built = ["-o", output, "--source-date-epoch", "1700000000", "-t", name];
        wharf.build(&built).success();
        for place in places {
            let outcome = verify(&wharf, "other", &[flags, &[place]].concat()).success();
            assert!(outcome.text().starts_with("same: the rebuild gives sha256:"), "{}", outcome.text());
            assert!(
                outcome.stderr.contains("SOURCE_DATE_EPOCH is 1700000000, the time at which the image says")
            );
        }
    };
    for compression in COMPRESSIONS {
        let output = format!("type=oci,tar=false,dest={compression},compression={compression}");
        check(
            "app",
            &output,
            &[&format!("oci-layout://{compression}"), &format!("oci:{compression}:latest")],
            &[],
        );
    }
    check("app", "type=oci,dest=oci.tar", &["oci-archive:oci.tar"], &[]);
    check("app", "type=docker,dest=docker.tar", &["docker-archive:docker.tar"], &[]);
    check("app", "type=oci,tar=false,dest=docker,oci-mediatypes=false", &["oci:docker"], &[]);
    let levels = "type=oci,tar=false,dest=nine,compression=gzip,compression-level=9";
    check("app", levels, &["oci:nine"], &["--compression-level", "9"]);
    // Here it is recorded with the layer what made it.
    wharf
        .build(&[
            "-o",
            "type=image,name=nine,compression-level=9,force-compression=true",
            "--source-date-epoch=7",
        ])
        .success();
    let outcome = verify(&wharf, "store", &["nine", "--format", "json"]).success();
    let report: serde_json::Value = serde_json::from_str(&outcome.text()).unwrap();
    assert_eq!(report["compressor"]["image"], report["compressor"]["rebuilt"]);
    assert!(report["compressor"]["image"].as_str().unwrap().starts_with("gzip-9.libdeflate-"), "{report}");
}

#[test]
fn an_index_is_verified_platform_by_platform() {
    let Some(wharf) = reproducible() else { return };
    let dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY tree /tree\nLABEL arch=$TARGETARCH\n";
    wharf.dockerfile(dockerfile);
    let both = ["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,tar=false,dest=index"];
    wharf.build(&[&both[..], &["--source-date-epoch=1700000000"]].concat()).success();
    verify(&wharf, "other", &["oci:index"]).success();
    verify(&wharf, "other", &["--platform", "linux/arm64", "oci:index"]).success();
    wharf.dockerfile(&format!("{dockerfile}LABEL {}\n", "arch=of-$TARGETARCH"));
    let outcome = verify(&wharf, "other", &["oci:index", "--all"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for words in [
        "linux/amd64, config /config/Labels/arch: is `amd64`",
        "linux/arm64, config /config/Labels/arch: is `arm64`",
    ] {
        assert!(outcome.text().contains(words), "{}", outcome.text());
    }
}

#[test]
fn what_is_planted_is_named() {
    let Some(wharf) = reproducible() else { return };
    wharf.build(&["-o", "type=oci,tar=false,dest=honest", "--source-date-epoch", "1700000000"]).success();
    let layer = "layer 4 (COPY tree /tree # buildkit): `tree/a`: ";
    let tree = "layer 4 (COPY tree /tree # buildkit): `tree/";
    for (edit, first) in [
        ("byte", format!("{layer}byte 2 is 0x58 in the image and 0x65 in the rebuild")),
        // The config still says what the files were.
        ("lie", format!("{layer}byte 2 is 0x58 in the image and 0x65 in the rebuild")),
        ("mode", format!("{layer}mode is `0600` in the image and `0644` in the rebuild")),
        ("mtime", format!("{layer}mtime is `5` in the image and `1700000000` in the rebuild")),
        ("uid", format!("{layer}uid is `7` in the image and `0` in the rebuild")),
        ("xattr", format!("{layer}xattr user.planted is `v` in the image and not set in the rebuild")),
        ("extra", format!("{tree}extra`: is only in the image")),
        ("removed", format!("{tree}a`: is only in the rebuild")),
        ("order", format!("{tree}b`: stands where the rebuild has `tree/a`")),
        ("zeros", "all entries are the same, but the tar is not, from byte ".to_owned()),
        (
            "gzip",
            "layer 4 (COPY tree /tree # buildkit): the files are the same, compressed otherwise: by a compressor that is \
             not known here"
                .to_owned(),
        ),
        ("layer", "layer 7 (RUN planted): is only in the image".to_owned()),
        ("inserted", "layer 4 (RUN planted): is only in the image".to_owned()),
        ("missing", ": is only in the rebuild".to_owned()),
        (
            "env",
            "config /config/Env/1: is `WHERE=there` in the image and `WHERE=here` in the rebuild".to_owned(),
        ),
        (
            "label",
            "config /config/Labels/planted: is `yes` in the image and not set in the rebuild".to_owned(),
        ),
        (
            "history",
            "/created_by: is `LABEL other` in the image and `LABEL of=image` in the rebuild".to_owned(),
        ),
        (
            "annotation",
            "manifest /annotations/planted: is `yes` in the image and not set in the rebuild".to_owned(),
        ),
        ("none", "config: says the same in other bytes, from byte ".to_owned()),
    ] {
        let plant = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/plant.py");
        let [honest, planted] = ["honest", edit].map(|name| wharf.path(name).to_str().unwrap().to_owned());
        tool("python3", &[plant.to_str().unwrap(), &honest, &planted, edit]);
        let outcome = verify(&wharf, "store", &["--use-cache", &format!("oci:{edit}")]);
        assert_eq!(outcome.code, Some(1), "{edit}: {}", outcome.stderr);
        let text = outcome.text();
        let told = text.lines().find_map(|line| line.strip_prefix("first: ")).unwrap_or_default();
        assert!(told.contains(&first), "{edit}: {text}");
        // One more entry in the history, and in the manifest.
        if ["layer", "inserted"].contains(&edit) {
            assert!(text.contains("and 2 more\n"), "{edit}: {text}");
        }
        if edit == "missing" {
            assert!(told.contains("config /history/") && !text.contains("more\n"), "{edit}: {text}");
        }
    }
}

#[test]
fn what_cannot_be_verified_is_no_difference() {
    let Some(wharf) = reproducible() else { return };
    wharf.build(&["-t", "app", "--source-date-epoch", "1700000000"]).success();
    wharf.dockerfile("FROM busybox\nRUN false\n");
    verify(&wharf, "store", &["app"]).fails_with(6, &["RUN false"]);
    wharf.dockerfile("FROM busybox\nRNU false\n");
    verify(&wharf, "store", &["app"]).fails_with(3, &["RNU"]);
    verify(&wharf, "store", &["--offline", "nobody-has-it"])
        .fails_with(2, &["there is no image `nobody-has-it`"]);
    verify(&wharf, "store", &["oci:context"]).fails_with(4, &["no index.json"]);
}

#[test]
fn the_last_commit_says_when() {
    let Some(wharf) = reproducible() else { return };
    if !have(&["git"]) {
        return;
    }
    let build = |arguments: &[&str]| wharf.build(&[&["--source-date-epoch=git"], arguments].concat());
    build(&[]).fails_with(4, &["SOURCE_DATE_EPOCH=git", "there is no repository"]);
    let context = wharf.context().to_str().unwrap().to_owned();
    let git = |arguments: &[&str]| tool("git", &[&["-C", &context][..], arguments].concat());
    git(&["init", "-q"]);
    build(&[]).fails_with(4, &["it has no commit yet"]);
    git(&["add", "."]);
    let author = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "it"];
    let output = std::process::Command::new("git")
        .args(["-C", &context])
        .args(author)
        .env("GIT_COMMITTER_DATE", "1600000000 +0000")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    build(&["-t", "app", "--rewrite-timestamp"]).success();
    let created = wharf.run(&["inspect", "--format", "{{.Created}}", "app"]).success().text();
    assert_eq!(created.trim(), "2020-09-13T12:26:40Z");
    wharf.build(&["--rewrite-timestamp"]).fails_with(2, &["no time to set"]);
    wharf
        .build(&["--source-date-epoch=5", "--build-arg", "SOURCE_DATE_EPOCH=6"])
        .fails_with(2, &["say different times"]);
}
