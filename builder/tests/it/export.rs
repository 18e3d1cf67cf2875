//! Other people's programs read what is exported.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Outcome, Registry, Wharf, busybox_layout, debian_layout, have, tool};
use crate::tree::{Look, check_equal, tree};

/// A context whose image has files to look for.
fn context() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("hello", "hello\n").dockerfile(
        "FROM busybox\nCOPY hello /\nRUN ln /hello /hard && ln -s /hello /soft && rm /bin/vi\n\
         CMD [\"cat\", \"/hello\"]\n",
    );
    Some(wharf)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn skopeo_and_umoci_read_every_kind_of_image() {
    let Some(wharf) = context() else { return };
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    let outputs = [
        "type=image",
        "type=oci,dest=oci.tar",
        "type=oci,tar=false,dest=layout",
        "type=docker,dest=docker.tar",
    ];
    let outputs = outputs.iter().flat_map(|output| ["-o", output]);
    wharf.build(&["-t", "app:v1"].into_iter().chain(outputs).collect::<Vec<_>>()).success();

    let at = |name: &str| wharf.path(name).display().to_string();
    let references = [
        format!("oci:{}:docker.io/library/app:v1", at("store")),
        format!("oci-archive:{}:v1", at("oci.tar")),
        format!("oci:{}:v1", at("layout")),
        format!("docker-archive:{}:docker.io/library/app:v1", at("docker.tar")),
    ];
    let configs = references.map(|reference| json(&tool("skopeo", &["inspect", "--config", &reference])));
    assert_eq!(configs[0]["config"]["Cmd"], serde_json::json!(["cat", "/hello"]));
    assert!(configs.iter().all(|config| *config == configs[0]), "the exporters made different images");

    tool("umoci", &["unpack", "--image", &format!("{}:v1", at("layout")), &at("bundle")]);
    let rootfs = wharf.path("bundle/rootfs");
    let links = ["hello", "hard"].map(|name| fs::metadata(rootfs.join(name)).unwrap().ino());
    assert_eq!(links[0], links[1]);
    assert_eq!(fs::read_link(rootfs.join("soft")).unwrap().to_str(), Some("/hello"));
    assert!(fs::symlink_metadata(rootfs.join("bin/vi")).is_err(), "the whiteout is missing");
}

#[test]
fn files_come_as_a_tar_or_as_they_are() {
    let Some(wharf) = context() else { return };
    wharf.build(&["-o", "out", "-o", "type=tar,dest=rootfs.tar"]).success();
    assert_eq!(fs::read_to_string(wharf.path("out/hello")).unwrap(), "hello\n");
    let [hello, hard] = ["out/hello", "out/hard"].map(|name| fs::metadata(wharf.path(name)).unwrap().ino());
    assert_eq!(hello, hard);
    assert!(fs::symlink_metadata(wharf.path("out/bin/vi")).is_err());
    let tar = wharf.path("rootfs.tar").display().to_string();
    let listing = tool("tar", &["-tf", &tar]);
    assert!(listing.lines().any(|line| line.trim_start_matches("./") == "hello"), "{listing}");

    let streamed = wharf.build(&["-o", "-"]).success().stdout;
    assert!(streamed == fs::read(tar).unwrap(), "a streamed tar has other bytes than one in a file");
}

/// Everything a file can be, made in two layers; the second changes the first.
/// Busybox can set no attribute, so another image's perl does.
const EVERYTHING: &str = r#"FROM busybox
RUN --mount=type=bind,from=debian,target=/debian <<'EOF'
set -e
mkdir -m 2775 /all && cd /all
echo plain >plain && chown 12:34 plain && chmod 640 plain
ln plain hard && mkdir sub && ln plain sub/hard
ln -s plain soft && ln -s /nowhere dangling && chown -h 5:6 soft
echo setuid >setuid && chmod 6755 setuid
mkfifo -m 600 pipe
mkdir -m 1777 sticky && mkdir empty
truncate -s 5M sparse && echo end >>sparse
touch "$(printf 'long%.0s' $(seq 60))" "$(printf 'not utf-8 \377\nnewline')"
mkdir -p "$(printf 'deep-directory-name/%.0s' $(seq 20))" && echo x >deep-directory-name/gone
/debian/lib/*-linux-gnu/ld-linux*.so.* --library-path "$(echo /debian/lib/*-linux-gnu)" /debian/usr/bin/perl -e 'my ($number, @text) = @ARGV; syscall($number + 0, @text, 4, 0) == 0 or die $!' \
    $(test $(uname -m) = aarch64 && echo 5 || echo 188) /all/plain user.colour blue
EOF
RUN rm /all/deep-directory-name/gone /bin/vi && rm -r /all/empty && mkdir -m 700 /all/empty && chmod 600 /all/sparse
COPY --chown=nobody here /all/copied
"#;

#[test]
fn every_exporter_gives_the_same_files() {
    let (Some(_), Some(_), Some(wharf)) = (busybox_layout(), debian_layout(), Wharf::new()) else { return };
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    wharf.file("here", "x").dockerfile(EVERYTHING);
    let name = format!("{}/app:v1", registry.address);
    let outputs = [
        "type=registry",
        "type=oci,dest=oci.tar",
        "type=oci,tar=false,dest=layout",
        "type=docker,dest=docker.tar",
        "type=tar,dest=rootfs.tar",
        "type=local,dest=files",
    ];
    let outputs = outputs.iter().flat_map(|output| ["-o", output]);
    wharf.build(&["-t", &name].into_iter().chain(outputs).collect::<Vec<_>>()).success();

    let at = |name: &str| wharf.path(name).display().to_string();
    let unpack = |image: &str, bundle: &str| {
        tool("umoci", &["unpack", "--image", image, &at(bundle)]);
        tree(&wharf.path(bundle).join("rootfs"), Look::Everything)
    };
    let expected = unpack(&format!("{}:v1", at("layout")), "bundle");
    let find = |name: &str| expected[std::ffi::OsStr::new(name)].as_str();
    for (name, words) in [
        ("all", "directory mode 2775 of 0:0"),
        ("all/plain", " mode 640 of 12:34 user.colour=blue is \"all/hard\""),
        ("all/soft", "-> plain"),
        ("all/setuid", " mode 6755 "),
        ("all/pipe", "fifo"),
        ("all/empty", " mode 700 "),
        ("all/copied", " of 65534:65534"),
    ] {
        assert!(find(name).contains(words), "{name}: {}", find(name));
    }

    let through = |reference: &str, to: &str| {
        tool("skopeo", &["copy", "-q", "--src-tls-verify=false", reference, &format!("oci:{}:v1", at(to))]);
        unpack(&format!("{}:v1", at(to)), &format!("{to}-bundle"))
    };
    for (reference, to) in [
        (format!("oci:{}:{name}", at("store")), "from-store"),
        (format!("oci-archive:{}:v1", at("oci.tar")), "from-oci"),
        (format!("docker-archive:{}:{name}", at("docker.tar")), "from-docker"),
        (format!("docker://{name}"), "from-registry"),
    ] {
        check_equal(to, &expected, &through(&reference, to));
    }

    fs::create_dir(wharf.path("extracted")).unwrap();
    let extract = [
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-xpf",
        &at("rootfs.tar"),
        "-C",
        &at("extracted"),
    ];
    tool("tar", &extract);
    check_equal("rootfs.tar", &expected, &tree(&wharf.path("extracted"), Look::Everything));
    let files = tree(&wharf.path("bundle/rootfs"), Look::Files);
    check_equal("files", &files, &tree(&wharf.path("files"), Look::Files));
}

/// Builds into an empty store and returns the digests of manifest and config.
fn digests(wharf: &Wharf, store: &str, arguments: &[&str], epoch: Option<&str>) -> [String; 2] {
    let file = wharf.path("metadata.json");
    let metadata = ["-t", "app", "--metadata-file", file.to_str().unwrap()];
    let mut command = wharf.build_command(store, &[&metadata[..], arguments].concat());
    command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
    Outcome::of(command).success();
    let metadata = json(&fs::read_to_string(file).unwrap());
    ["containerimage.digest", "containerimage.config.digest"]
        .map(|key| metadata[key].as_str().unwrap().to_owned())
}

#[test]
fn one_variable_makes_the_image_the_same_anywhere() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("src/one", "1").file("src/sub/two", "2").file("archived", "a");
    let context = wharf.context().display().to_string();
    tool("tar", &["-C", &context, "-czf", &format!("{context}/archive.tgz"), "archived"]);
    wharf.dockerfile(
        "FROM busybox AS made\nRUN date +%s%N >/dev/null; mkdir /made && date >/dev/null && echo x >/made/file\n\
         FROM busybox\nWORKDIR /some/where\nCOPY src src\nADD archive.tgz /archive\nADD src/one .\n\
         COPY --from=made /made /made\nCOPY <<one <<two /texts/\n1\none\n2\ntwo\n\
         RUN <<EOF\nln src/one hard\ntouch new\nrm /bin/vi\nEOF\nRUN chmod 700 /made\nCMD [\"true\"]\n",
    );
    let epoch = Some("1700000000");
    let first = digests(&wharf, "one", &[], epoch);
    // Other times of files and of building; the same store, and an empty one.
    for name in ["src/one", "src/sub/two", "Dockerfile"] {
        fs::write(wharf.context().join(name), fs::read(wharf.context().join(name)).unwrap()).unwrap();
    }
    assert_eq!(digests(&wharf, "two", &[], epoch), first);
    assert_eq!(digests(&wharf, "one", &["--no-cache"], epoch), first);
    assert_eq!(
        digests(&wharf, "three", &["--jobs=1", "--build-arg=SOURCE_DATE_EPOCH=1700000000"], None),
        first
    );
    assert_eq!(digests(&wharf, "one", &[], epoch), first);
    assert_ne!(digests(&wharf, "one", &[], Some("1700000001")), first);
    let created = &json(&tool(
        "skopeo",
        &["inspect", &format!("oci:{}:docker.io/library/app:latest", wharf.path("two").display())],
    ))["Created"];
    assert_eq!(created, "2023-11-14T22:13:20Z");
    // What the file says is a default, with the seconds in the argument; labels are given from outside.
    let with_default = "ARG SOURCE_DATE_EPOCH=1700000002\nFROM busybox\nARG SOURCE_DATE_EPOCH\nLABEL a=file b=file\n\
                        RUN test $SOURCE_DATE_EPOCH = 1700000002 && touch /new\n";
    wharf.dockerfile(with_default);
    digests(&wharf, "four", &["--label=a=given", "--label", "c"], None);
    let image = format!("oci:{}:docker.io/library/app:latest", wharf.path("four").display());
    let config = json(&tool("skopeo", &["inspect", "--config", &image]));
    assert_eq!(config["created"], "2023-11-14T22:13:22Z");
    assert_eq!(config["config"]["Labels"], json(r#"{"a": "given", "b": "file", "c": ""}"#));
    for bad in ["yesterday", "-1", "1.5"] {
        let mut command = wharf.build_command("one", &[]);
        command.env("SOURCE_DATE_EPOCH", bad);
        Outcome::of(command).fails_with(2, &["SOURCE_DATE_EPOCH", bad]);
    }
}

#[test]
fn a_push_and_a_pull_keep_the_digest() {
    let (Some(wharf), Some(registry)) = (context(), Registry::start()) else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let name = format!("{}/team/app:v1", registry.address);
    let [metadata, iid] = ["metadata.json", "iid"].map(|file| wharf.path(file).display().to_string());
    wharf.build(&["-t", &name, "--push", "--metadata-file", &metadata, "--iidfile", &iid]).success();
    let metadata = json(&fs::read_to_string(metadata).unwrap());
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let inspected = tool("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(json(&inspected)["Digest"], digest);
    assert_eq!(fs::read_to_string(iid).unwrap(), metadata["containerimage.config.digest"].as_str().unwrap());

    // A second push sends no blob again.
    registry.log();
    wharf.build(&["-t", &name, "--push"]).success();
    let log = registry.log();
    let request = |method: &str, line: &str| line.contains(&format!("http.request.method={method} "));
    let uploads = log.lines().filter(|line| request("POST", line) || request("PATCH", line));
    assert_eq!(uploads.collect::<Vec<_>>(), Vec::<&str>::new());
    let put = |line: &&str| request("PUT", line) && !line.contains("/v2/team/app/manifests/");
    assert_eq!(log.lines().find(put), None);
    assert!(log.contains("HEAD"), "nothing was asked: {log}");

    // Another store pulls it, by tag and by digest.
    for from in [name.clone(), format!("{}/team/app@{digest}", registry.address)] {
        wharf.dockerfile(&format!("FROM {from}\nRUN test \"$(cat /hello)\" = hello\n"));
        wharf.build_in("other", &["--no-cache"]).success();
    }
    // The same image under another name is the same image.
    wharf.dockerfile(&format!("FROM {name}\n"));
    assert_eq!(digests(&wharf, "other", &[], None)[0], digest);
    // With the registry gone, what was pulled is still there.
    drop(registry);
    wharf.build_in("other", &[]).success().steps().check_ran(&[]);
}
