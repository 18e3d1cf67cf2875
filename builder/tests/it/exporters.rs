//! What outputs can say of an image or its files, read back by other people's programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Outcome, Registry, Step, Wharf, busybox_layout, have, repository, skip, tool};
use crate::tree::{Look, check_equal, tree};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Files of several sizes, links, a whiteout, an attribute of a directory.
const DOCKERFILE: &str = "FROM busybox\n\
    COPY files /files\n\
    RUN cd /files && ln small hard && ln -s small soft && mkfifo pipe && touch -d @1600000000 small \\\n\
        && chmod 4755 empty && rm /bin/vi\n\
    CMD [\"cat\", \"/files/small\"]\n";

/// A context whose image has all that, with a file of several chunks.
fn context() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    let mut large = String::new();
    let mut state = 1_u32;
    while large.len() < 2_500_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        large += &format!("{state:x}\n");
    }
    wharf.file("files/small", "small\n").file("files/empty", "").file("files/large", &large);
    wharf.file("files/dir/deep/file", "deep\n").dockerfile(DOCKERFILE);
    Some(wharf)
}

/// An OCI layout that wharf wrote.
struct Layout(PathBuf);

impl Layout {
    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        self.0.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    }

    fn read(&self, descriptor: &Value) -> Value {
        json(&fs::read_to_string(self.blob(descriptor)).unwrap())
    }

    fn index(&self) -> Value {
        json(&fs::read_to_string(self.0.join("index.json")).unwrap())
    }

    /// The manifest, or the index above several.
    fn top(&self) -> Value {
        self.read(&self.index()["manifests"][0])
    }

    fn layer_types(&self) -> Vec<String> {
        let manifest = self.top();
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect()
    }
}

fn layout(wharf: &Wharf, name: &str) -> Layout {
    Layout(wharf.path(name))
}

/// Says what the schemas of the image specification say, where they are.
pub(crate) fn check_schemas(layouts: &[PathBuf]) {
    let given = std::env::var_os("WHARF_OCI_SCHEMAS").map(PathBuf::from);
    let beside = ["../shared", "../../shared"].map(|dir| repository().join(dir).join("schemas/oci"));
    let Some(schemas) = given.into_iter().chain(beside).find(|dir| dir.is_dir()) else {
        return skip("the schemas of the OCI image specification are not here (WHARF_OCI_SCHEMAS)");
    };
    let has_validator = Command::new("python3").args(["-c", "import jsonschema, referencing"]).output();
    if !has_validator.is_ok_and(|output| output.status.success()) {
        return skip("python3-jsonschema is not installed");
    }
    let script = repository().join("testdata/check_schemas.py");
    let arguments: Vec<String> =
        [&script, &schemas].into_iter().chain(layouts).map(|it| it.display().to_string()).collect();
    let count = tool("python3", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(count.trim().parse::<usize>().unwrap() >= 4 * layouts.len(), "{count}");
}

/// The files of an image as umoci unpacks them.
fn unpacked(wharf: &Wharf, layout: &Layout) -> BTreeMap<std::ffi::OsString, String> {
    let bundle = layout.0.with_extension("bundle");
    let mut image = format!("{}:v1", layout.0.display());
    if layout.layer_types().iter().any(|media_type| media_type.ends_with("zstd")) {
        // umoci knows no zstd; skopeo unpacks it on the way.
        let through = |from: &str, to: &str| tool("skopeo", &["copy", "-q", "--dest-decompress", from, to]);
        let dir = format!("dir:{}", layout.0.with_extension("dir").display());
        through(&format!("oci:{image}"), &dir);
        image = format!("{}:v1", layout.0.with_extension("plain").display());
        through(&dir, &format!("oci:{image}"));
    }
    tool("umoci", &["unpack", "--image", &image, &bundle.display().to_string()]);
    let mut files = tree(&bundle.join("rootfs"), Look::Everything);
    // What the form of a layer adds.
    for name in ["stargz.index.json", ".no.prefetch.landmark"] {
        files.remove(std::ffi::OsStr::new(name));
    }
    // The root's time changes with them.
    files.remove(std::ffi::OsStr::new(""));
    assert!(wharf.path("context").is_dir());
    files
}

fn outputs<'a>(specs: &[&'a str]) -> Vec<&'a str> {
    specs.iter().flat_map(|spec| ["-o", *spec]).collect()
}

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn one_build_makes_an_image_in_every_form() {
    let Some(wharf) = context() else { return };
    if !have(&["skopeo", "umoci", "python3"]) {
        return;
    }
    let specs = [
        "type=oci,tar=false,dest=gzip",
        "type=oci,tar=false,dest=best,compression-level=9",
        "type=oci,tar=false,dest=zstd,compression=zstd,compression-level=5,force-compression=true",
        "type=oci,tar=false,dest=plain,compression=uncompressed",
        "type=oci,tar=false,dest=estargz,compression=estargz,force-compression=true",
        "type=oci,tar=false,dest=docker,oci-mediatypes=false",
        "type=docker,dest=docker.tar,compression=zstd",
    ];
    let built = wharf.build(&[vec!["-t", "app:v1"], outputs(&specs)].concat()).success();
    assert_eq!(built.steps().that(Step::Ran).len(), 2, "{}", built.stderr);

    // The base's layer stays as it came unless it is forced.
    let (gzip, zstd) = (format!("{OCI}+gzip"), format!("{OCI}+zstd"));
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned();
    for (name, base, new) in [
        ("gzip", &gzip, &gzip),
        ("best", &gzip, &gzip),
        ("zstd", &zstd, &zstd),
        ("plain", &gzip, &OCI.to_owned()),
        ("estargz", &gzip, &gzip),
        ("docker", &docker, &docker),
    ] {
        assert_eq!(layout(&wharf, name).layer_types(), [base, new, new].map(Clone::clone), "{name}");
    }
    let all = ["gzip", "best", "zstd", "plain", "estargz"].map(|name| layout(&wharf, name));
    check_schemas(&all.each_ref().map(|layout| layout.0.clone()));

    // Equal but for the compression.
    let configs = ["gzip", "best", "plain", "docker"]
        .map(|name| layout(&wharf, name).top()["config"]["digest"].clone());
    assert!(configs.iter().all(|config| *config == configs[0]), "{configs:?}");
    let docker = layout(&wharf, "docker");
    assert_eq!(docker.top()["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(docker.top()["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    let sizes =
        ["gzip", "best"].map(|name| layout(&wharf, name).top()["layers"][1]["size"].as_u64().unwrap());
    assert!(sizes[1] < sizes[0], "{sizes:?}");

    let expected = unpacked(&wharf, &all[0]);
    assert!(expected[std::ffi::OsStr::new("files/empty")].contains(" mode 4755 "));
    for layout in &all[1..] {
        check_equal(&layout.0.display().to_string(), &expected, &unpacked(&wharf, layout));
    }
    for reference in
        ["oci:gzip:v1", "oci:zstd:v1", "oci:estargz:v1", "docker-archive:docker.tar:docker.io/library/app:v1"]
    {
        let (transport, rest) = reference.split_once(':').unwrap();
        let reference = format!("{transport}:{}", wharf.path(rest).display());
        let config = json(&tool("skopeo", &["inspect", "--config", &reference]));
        assert_eq!(config["config"]["Cmd"][0], "cat", "{reference}");
        let to = format!("oci:{}:v1", wharf.path("copied").display());
        tool("skopeo", &["copy", "-q", &reference, &to]);
    }

    // Another form is made of what is stored.
    let later = "type=oci,tar=false,dest=later,compression=zstd,compression-level=1";
    let built = wharf.build(&["-t", "app:v1", "-o", later]).success();
    assert!(built.steps().that(Step::Ran).is_empty(), "{}", built.stderr);
    check_equal("later", &expected, &unpacked(&wharf, &layout(&wharf, "later")));
}

#[test]
fn forms_do_not_depend_on_jobs_or_place() {
    let Some(wharf) = context() else { return };
    let specs = ["gzip", "zstd", "estargz", "uncompressed"].map(|compression| {
        let spec = |n: u8| {
            format!("type=oci,dest={compression}{n}.tar,compression={compression},force-compression=true,source-date-epoch=1600000000")
        };
        [spec(1), spec(2)]
    });
    for (number, jobs) in [(0, "1"), (1, "8")] {
        let specs: Vec<&str> = specs.iter().map(|of| of[number].as_str()).collect();
        let arguments = [vec!["--jobs", jobs, "-t", "app:v1"], outputs(&specs)].concat();
        wharf.build_in(&format!("store{number}"), &arguments).success();
    }
    for compression in ["gzip", "zstd", "estargz", "uncompressed"] {
        let [one, two] = [1, 2].map(|n| fs::read(wharf.path(&format!("{compression}{n}.tar"))).unwrap());
        assert!(one == two, "{compression} has other bytes");
    }
}

#[test]
fn estargz_is_read_by_its_table_of_contents() {
    let Some(wharf) = context() else { return };
    if !have(&["python3", "skopeo"]) {
        return;
    }
    wharf.build(&["-t", "app:v1", "-o", "type=oci,tar=false,dest=out,compression=estargz"]).success();
    let out = layout(&wharf, "out");
    let manifest = out.top();
    let script = repository().join("testdata/read_estargz.py").display().to_string();
    let mut names = Vec::new();
    for layer in &manifest["layers"].as_array().unwrap()[1..] {
        let found = json(&tool("python3", &[&script, &out.blob(layer).display().to_string()]));
        let annotations = &layer["annotations"];
        assert_eq!(annotations["containerd.io/snapshot/stargz/toc.digest"], found["table"]);
        assert_eq!(annotations["io.containers.estargz.uncompressed-size"], found["size"].to_string());
        names.extend(
            found["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| format!("{} {}", it[0], it[1]).replace('"', "")),
        );
        if let Some(large) = found["chunks"]["files/large"].as_u64() {
            assert_eq!(large, 3, "a member holds one MiB");
        }
    }
    for name in [
        "reg files/large",
        "dir files/",
        "hardlink files/small",
        "symlink files/soft",
        "fifo files/pipe",
        "reg bin/.wh.vi",
    ] {
        assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
    }

    // What the form adds is no file of an image that is built from it.
    wharf.dockerfile("FROM base\nRUN ls -A / >/list\n");
    let base = format!("base=oci-layout://{}:v1", out.0.display());
    wharf.build_in("other", &["--build-context", &base, "-o", "files"]).success();
    // Its layers are still what they were, and it is said of them.
    wharf.build_in("other", &["--build-context", &base, "-o", "type=oci,tar=false,dest=next"]).success();
    let next = layout(&wharf, "next").top();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(&next["layers"].as_array().unwrap()[1..layers.len()], &layers[1..]);
    let list = fs::read_to_string(wharf.path("files/list")).unwrap();
    assert!(list.contains("files") && !list.contains("stargz") && !list.contains("landmark"), "{list}");
    assert!(!wharf.path("files/stargz.index.json").exists());
}

#[test]
fn a_cache_of_estargz_layers_is_a_cache() {
    let Some(wharf) = context() else { return };
    let place = format!("{}", wharf.path("cache").display());
    let to = format!("type=local,mode=max,dest={place}");
    let out = |name: &str| format!("type=oci,tar=false,dest={name},compression=estargz");
    wharf.build(&["-t", "app:v1", "-o", &out("one"), "--cache-to", &to]).success();
    let from = format!("type=local,src={place}");
    let built = wharf
        .build_in("other", &["-t", "app:v1", "-o", &out("two"), "-o", "files", "--cache-from", &from])
        .success();
    assert!(built.steps().that(Step::Ran).iter().all(|step| !step.contains("RUN")), "{}", built.stderr);
    assert_eq!(layout(&wharf, "one").top(), layout(&wharf, "two").top());
    assert!(!wharf.path("files/.no.prefetch.landmark").exists());

    // A cache may have another form than the image.
    let to = format!("{to},compression=estargz,reset=true");
    wharf.build(&["-t", "app:v1", "-o", "type=oci,dest=gzip.tar", "--cache-to", &to]).success();
    let cache = layout(&wharf, "cache").top();
    let has_table =
        |layer: &Value| layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string();
    assert!(cache["layers"].as_array().unwrap().iter().any(has_table), "{cache:#}");
}

#[test]
fn annotations_go_where_they_are_meant_for() {
    let Some(wharf) = platforms() else { return };
    let of = |object: &Value, key: &str| object["annotations"][key].as_str().map(str::to_owned);
    wharf
        .build(&[
            "--platform=linux/amd64,linux/arm64",
            "-t",
            "app:v1",
            "--annotation=all=a",
            "--annotation=manifest[linux/arm64],index:Some.Key=x:y",
            "--annotation=manifest-descriptor[linux/amd64],index-descriptor:there=t",
            "-o",
            "type=oci,tar=false,dest=out,annotation.all=b,annotation-index.own=o",
            "-o",
            "type=oci,tar=false,dest=plain",
        ])
        .success();
    let out = layout(&wharf, "out");
    let (entry, index) = (out.index()["manifests"][0].clone(), out.top());
    assert_eq!(of(&entry, "there").as_deref(), Some("t"));
    assert_eq!(
        [of(&index, "Some.Key"), of(&index, "own"), of(&index, "all")],
        [Some("x:y".into()), Some("o".into()), None]
    );
    let there = [0, 1].map(|n| of(&index["manifests"][n], "there"));
    assert_eq!(there, [Some("t".to_owned()), None]);
    let manifests = [0, 1].map(|n| out.read(&index["manifests"][n]));
    assert_eq!(manifests.each_ref().map(|it| of(it, "all")), [Some("b".to_owned()), Some("b".to_owned())]);
    assert_eq!(manifests.each_ref().map(|it| of(it, "Some.Key")), [None, Some("x:y".to_owned())]);
    let plain = layout(&wharf, "plain");
    assert_eq!(of(&plain.read(&plain.top()["manifests"][0]), "all").as_deref(), Some("a"));
    check_schemas(&[out.0, plain.0]);

    for (arguments, message) in [
        (&["--annotation=index:a=b"][..], "annotation `a` of the index: there is none above a single image"),
        (
            &["-o", "type=image,annotation-index-descriptor.a=b"],
            "annotation `a` of the index-descriptor: there is none",
        ),
        (&["--annotation=manifest[linux/s390x]:a=b"], "no image is built for linux/s390x"),
        (&["--annotation=a"], "is not [TYPE[,TYPE]:]NAME=VALUE"),
        (&["--annotation=a=b", "-o", "files"], "--annotation: none of the outputs is an image"),
        (&["--annotation=a=b", "-o", "type=image,oci-mediatypes=false"], "has no annotations"),
    ] {
        wharf.build(&[&["--platform=linux/amd64"], arguments].concat()).fails_with(2, &[message]);
    }
}

/// A build whose result differs by platform, without running anything foreign.
fn platforms() -> Option<Wharf> {
    let wharf = Wharf::new()?;
    wharf.file("shared", "shared\n").file("only-amd64", "a\n").file("only-arm64", "b\n");
    wharf.dockerfile(
        "FROM scratch\nARG TARGETARCH\nCOPY shared /both/$TARGETARCH-name\nCOPY only-$TARGETARCH /bin/\n",
    );
    Some(wharf)
}

const BOTH: &str = "--platform=linux/amd64,linux/arm64";

#[test]
fn files_of_several_platforms_go_side_by_side_or_together() {
    let Some(wharf) = platforms() else { return };
    let specs = [
        "type=tar,dest=split.tar",
        "type=tar,dest=merged.tar,platform-split=false",
        "type=local,dest=split",
        "type=local,dest=merged,platform-split=false",
        "type=oci,dest=docker.tar,oci-mediatypes=false",
        "type=cacheonly",
    ];
    wharf.build(&[vec![BOTH], outputs(&specs)].concat()).success();
    let split = [
        "linux_amd64",
        "linux_amd64/bin",
        "linux_amd64/bin/only-amd64",
        "linux_amd64/both",
        "linux_amd64/both/amd64-name",
        "linux_arm64",
        "linux_arm64/bin",
        "linux_arm64/bin/only-arm64",
        "linux_arm64/both",
        "linux_arm64/both/arm64-name",
    ];
    let merged = ["bin", "bin/only-amd64", "bin/only-arm64", "both", "both/amd64-name", "both/arm64-name"];
    let listed = |tar: &str| {
        let text = tool("tar", &["-tf", &wharf.path(tar).display().to_string()]);
        let mut names: Vec<String> =
            text.lines().map(|line| line.trim_start_matches("./").trim_end_matches('/').to_owned()).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names
    };
    assert_eq!(listed("split.tar"), split);
    assert_eq!(listed("merged.tar"), merged);
    assert_eq!(names(&wharf.path("split")), split);
    assert_eq!(names(&wharf.path("merged")), merged);

    wharf.build(&["-o", "type=local,dest=one,platform-split=true"]).success();
    assert_eq!(names(&wharf.path("one")).len(), 5);

    wharf.dockerfile("FROM scratch\nCOPY shared /same\n");
    for kind in ["type=tar,dest=x.tar", "type=local,dest=x"] {
        let spec = format!("{kind},platform-split=false");
        wharf.build(&[BOTH, "-o", &spec]).fails_with(5, &["linux/amd64 and linux/arm64 both have `/same`"]);
    }
    assert!(!wharf.path("x.tar").exists());
    for output in ["type=docker,dest=x.tar", "type=docker"] {
        wharf.build(&[BOTH, "-o", output]).fails_with(2, &["`type=docker` holds one platform"]);
    }
}

/// All paths below a directory, sorted.
fn names(root: &Path) -> Vec<String> {
    let all = tree(root, Look::Everything);
    all.keys().map(|name| name.to_str().unwrap().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_directory_can_be_a_mirror_of_the_result() {
    let Some(wharf) = platforms() else { return };
    let fill = |dest: &Path| {
        fs::create_dir_all(dest.join("stale/deep")).unwrap();
        fs::create_dir_all(dest.join("bin/was-a-directory")).unwrap();
        fs::write(dest.join("stale/deep/file"), "").unwrap();
        fs::write(dest.join("bin/stale"), "").unwrap();
        std::os::unix::fs::symlink("/etc", dest.join("bin/link")).unwrap();
    };
    let expected = ["bin", "bin/only-amd64", "both", "both/amd64-name"];
    let one = "--platform=linux/amd64";
    fill(&wharf.path("out"));
    wharf.build(&[one, "-o", "type=local,dest=out,mode=copy"]).success();
    assert!(wharf.path("out/stale/deep/file").exists());
    wharf.build(&[one, "-o", "type=local,dest=out,mode=delete"]).success();
    assert_eq!(names(&wharf.path("out")), expected);
    assert!(Path::new("/etc/passwd").exists());

    fill(&wharf.path("split"));
    fs::create_dir_all(wharf.path("split/linux_amd64/stale")).unwrap();
    fs::create_dir_all(wharf.path("split/linux_386")).unwrap();
    wharf.build(&[BOTH, "-o", "type=local,dest=split,mode=delete"]).success();
    assert_eq!(names(&wharf.path("split")).len(), 10, "{:?}", names(&wharf.path("split")));
    fill(&wharf.path("merged"));
    wharf.build(&[BOTH, "-o", "type=local,dest=merged,mode=delete,platform-split=false"]).success();
    assert_eq!(names(&wharf.path("merged")).len(), 6);

    // What is elsewhere is not deleted unasked.
    for dest in [".", "..", "/var/tmp/wharf-mirror"] {
        let spec = format!("type=local,dest={dest},mode=delete");
        wharf
            .build(&[one, "-o", &spec])
            .fails_with(2, &["not below the working directory", "buildx.local.delete"]);
    }
    let elsewhere = crate::harness::Scratch::for_everybody();
    fill(&elsewhere.path("out"));
    let spec = format!("type=local,dest={},mode=delete", elsewhere.path("out").display());
    wharf.build(&[one, "--allow", "buildx.local.delete", "-o", &spec]).success();
    assert_eq!(names(&elsewhere.path("out")), expected);
}

#[test]
fn names_in_the_store_and_in_a_registry_are_as_asked() {
    let (Some(wharf), Some(registry)) = (platforms(), Registry::start()) else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let name = format!("{}/team/app", registry.address);
    let metadata = || json(&fs::read_to_string(wharf.path("meta")).unwrap());
    let listed = || wharf.run(&["images"]).success().text();
    let build = |specs: &[&str]| {
        wharf.build(&[vec!["--metadata-file", "meta"], outputs(specs)].concat()).success();
        metadata()["containerimage.digest"].as_str().unwrap().to_owned()
    };

    let digest = build(&[&format!(
        "type=image,name={name},push=true,push-by-digest=true,store=false,registry.insecure=true"
    )]);
    let raw =
        tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}@{digest}")]);
    assert_eq!(json(&raw)["schemaVersion"], 2);
    let tags = Command::new("skopeo")
        .args(["list-tags", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .unwrap();
    let tags = String::from_utf8_lossy(&tags.stdout).into_owned();
    assert!(!tags.contains("latest"), "a tag was made: {tags}");
    assert!(!listed().contains("team/app"), "{}", listed());

    // Docker's media types, through a registry.
    build(&[&format!("type=registry,name={name}:typed,oci-mediatypes=false")]);
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}:typed")]);
    assert_eq!(json(&raw)["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let to = format!("docker-archive:{}:typed:v1", wharf.path("typed.tar").display());
    tool("skopeo", &["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}:typed"), &to]);

    build(&["type=image,\"name=one,two:x\",name-canonical=true,unpack=true"]);
    build(&["type=image,dangling-name-prefix=built/thing,annotation.other=image"]);
    let index = json(&fs::read_to_string(wharf.path("store/index.json")).unwrap());
    let known: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned))
        .collect();
    for name in [
        "docker.io/library/one:latest",
        "docker.io/library/two:x",
        "docker.io/library/one:latest@sha256:",
        "docker.io/library/two:x@sha256:",
        "docker.io/built/thing@sha256:",
    ] {
        let is_there = known.iter().any(|it| it == name || (name.ends_with(':') && it.starts_with(name)));
        assert!(is_there, "{name}: {known:?}");
    }
}

#[test]
fn the_metadata_file_tells_of_the_build() {
    let Some(wharf) = platforms() else { return };
    wharf.dockerfile("FROM scratch as base\nCOPY shared /\n");
    let build = |outputs: &[&str], warnings: &str| {
        let arguments =
            [&["--metadata-file", "meta", "--iidfile", "iid", "-t", "app:v1", "-t", "other"], outputs]
                .concat();
        let mut command = wharf.build_command("store", &arguments);
        command.env("BUILDX_METADATA_WARNINGS", warnings);
        Outcome::of(command).success();
        json(&fs::read_to_string(wharf.path("meta")).unwrap())
    };
    let said = build(&[], "1");
    let image = fs::read_to_string(wharf.path("iid")).unwrap();
    assert_eq!(said["containerimage.config.digest"], image);
    assert_eq!(said["containerimage.descriptor"]["digest"], said["containerimage.digest"]);
    assert_eq!(said["image.name"], "docker.io/library/app:v1,docker.io/library/other:latest");
    let reference = said["buildx.build.ref"].as_str().unwrap();
    wharf.run(&["history", "inspect", reference]).success();
    let warnings = said["buildx.build.warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // base64 of `FromAsCasing: `
    assert!(warnings[0]["short"].as_str().unwrap().starts_with("RnJvbUFzQ2FzaW5nOi"), "{warnings:?}");
    assert_eq!(warnings[0]["range"][0]["start"]["line"], 1);
    assert_eq!(warnings[0]["sourceInfo"]["filename"], "context/Dockerfile");
    let said = build(&["-o", "type=cacheonly"], "0");
    assert!(said.get("buildx.build.warnings").is_none());
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let Some(wharf) = platforms() else { return };
    for (arguments, message) in [
        (&["-o", "type=image,rewrite-timestamp=true"][..], "`rewrite-timestamp=true` has no time to set"),
        (&["-o", "type=tar,dest=x,compression=zstd"], "type `tar` has no key `compression`"),
        (&["-o", "type=cacheonly,dest=x"], "type `cacheonly` has no key `dest`"),
        (&["-o", "type=local,dest=x,mode=move"], "`mode=move` is not copy or delete"),
        (&["-o", "type=docker,context=x"], "wharf knows no Docker contexts"),
        (&["--push", "-o", "type=cacheonly"], "--push: none of the outputs is an image"),
    ] {
        let built = wharf.build(arguments).fails_with(2, &[message]);
        assert!(built.steps().that(Step::Ran).is_empty());
    }
}
