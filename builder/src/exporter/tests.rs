//! Whole exports of small images made by hand, read back by other people's tools.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use wharf_cache::snapshot::Layer;
use wharf_cache::{Chain, DiffId, Digest, Ids, Store};
use wharf_frontend::image::{History, ImageConfig};
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::form::ImageForm;
use super::spec::LocalMode;
use super::{
    Artifact, Built, BuiltImage, Destination, ExportError, Tree, assemble, docker, local, metadata, oci,
    store,
};

const NAME: &str = "docker.io/library/app:v1";

/// A directory of its own for each test, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wharf-exporter-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A gzip layer with one file, as a blob of `store`.
fn layer(store: &Store, file: &str, content: &str, media_type: &str) -> Layer {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, file, content.as_bytes()).unwrap();
    let tar = tar.into_inner().unwrap();

    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).unwrap();
    let blob = gzip.finish().unwrap();
    let digest = store.blobs().put(&blob).unwrap();
    let size = blob.len() as u64;
    Layer {
        diff_id: DiffId(Digest::of(&tar)),
        digest,
        size,
        media_type: media_type.to_owned(),
        annotations: BTreeMap::new(),
    }
}

fn image(store: &Store) -> Artifact {
    let base = layer(store, "base", "from below", "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let new = layer(store, "new", "on top", "application/vnd.oci.image.layer.v1.tar+gzip");
    let entry = |created: Option<&str>, created_by: &str| History {
        created: created.map(str::to_owned),
        created_by: created_by.to_owned(),
        ..History::default()
    };
    let history =
        vec![entry(Some("2020-01-01T00:00:00Z"), "ADD base /"), entry(None, "COPY new / # buildkit")];
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
    let built = Built {
        config: ImageConfig { history, ..ImageConfig::default() },
        base_history: 1,
        base_layers: vec![base],
        layers: vec![(new, UNIX_EPOCH + Duration::from_secs(1_700_000_000))],
        source_date_epoch: None,
        platform,
        inline_cache: None,
        form: ImageForm::default(),
    };
    Artifact::image(assemble(&built, UNIX_EPOCH))
}

/// What `program` prints, or `None` where it is not installed.
fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIP: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What skopeo says of an image, checked against what was exported.
fn check_skopeo(reference: &str, artifact: &Artifact) {
    let image = artifact.only_image().unwrap();
    let Some(text) = tool("skopeo", &["inspect", reference]) else { return };
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(said["Created"], "2023-11-14T22:13:20Z");
    assert_eq!(said["Architecture"], "amd64");
    assert_eq!(said["Layers"].as_array().unwrap().len(), image.layers.len());
    let config = tool("skopeo", &["inspect", "--raw", "--config", reference]).unwrap();
    assert_eq!(config.as_bytes(), image.config);
}

/// Unpacks `layout:tag` and looks for the files of both layers.
fn check_umoci(layout: &Path, tag: &str, scratch: &Scratch) {
    let bundle = scratch.path("bundle");
    let image = format!("{}:{tag}", layout.display());
    if tool("umoci", &["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]).is_some() {
        assert_eq!(fs::read_to_string(bundle.join("rootfs/base")).unwrap(), "from below");
        assert_eq!(fs::read_to_string(bundle.join("rootfs/new")).unwrap(), "on top");
    }
}

/// The bytes that `export` writes to a file, the same twice.
fn bytes_of(path: &Path, export: impl Fn(&mut (dyn Write + Send)) -> Result<(), ExportError>) -> Vec<u8> {
    let mut exports = (0..2).map(|_| {
        Destination::File(path.to_owned()).write(&Cancel::new().unwrap(), &export).unwrap();
        fs::read(path).unwrap()
    });
    let (first, second) = (exports.next().unwrap(), exports.next().unwrap());
    assert!(first == second, "two exports of one image differ");
    second
}

#[test]
fn an_oci_archive_is_read_by_skopeo() {
    let scratch = Scratch::new("oci");
    let store = scratch.store();
    let image = image(&store);
    let path = scratch.path("image.tar");
    let names = [NAME.to_owned(), "registry.example/team/app:v2".to_owned()];
    let bytes = bytes_of(&path, |out| oci::write_archive(&store, &image, &names, out));

    let mut archive = tar::Archive::new(&bytes[..]);
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
    let paths: Vec<_> = entries.map(|entry| entry.path().unwrap().display().to_string()).collect();
    assert!(paths.is_sorted() && paths.len() == 8, "{paths:?}");
    check_skopeo(&format!("oci-archive:{}:v1", path.display()), &image);
    check_skopeo(&format!("oci-archive:{}:v2", path.display()), &image);

    bytes_of(&path, |out| oci::write_archive(&store, &image, &[], out));
    check_skopeo(&format!("oci-archive:{}", path.display()), &image);
}

#[test]
fn a_docker_archive_is_read_by_skopeo() {
    let scratch = Scratch::new("docker");
    let store = scratch.store();
    let image = image(&store);
    let path = scratch.path("image.tar");
    bytes_of(&path, |out| docker::write_archive(&store, &image, &[NAME.to_owned()], out));
    check_skopeo(&format!("docker-archive:{}:{NAME}", path.display()), &image);
    check_skopeo(&format!("oci-archive:{}:v1", path.display()), &image);
}

#[test]
fn an_oci_directory_is_unpacked_by_umoci_and_keeps_other_images() {
    let scratch = Scratch::new("directory");
    let store = scratch.store();
    let image = image(&store);
    let layout = scratch.path("layout");
    for name in [NAME, "docker.io/library/app:v2", NAME] {
        oci::write_directory(&store, &image, &[name.to_owned()], &layout).unwrap();
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    check_skopeo(&format!("oci:{}:v2", layout.display()), &image);
    check_umoci(&layout, "v1", &scratch);

    fs::write(layout.join("index.json"), "[]").unwrap();
    let error = oci::write_directory(&store, &image, &[], &layout).unwrap_err();
    assert!(error.to_string().ends_with("is not an image index: it is not an object"), "{error}");
}

#[test]
fn an_image_in_the_store_is_read_by_skopeo_and_umoci() {
    let scratch = Scratch::new("store");
    let store = scratch.store();
    let image = image(&store);
    store::put(&store, &image, &[NAME.to_owned()], SystemTime::now()).unwrap();
    let named = store.images().unwrap();
    assert_eq!(named.len(), 1);
    assert_eq!((named[0].name.as_deref(), named[0].digest), (Some(NAME), image.descriptor().digest));
    check_skopeo(&format!("oci:{}:{NAME}", scratch.path("store").display()), &image);

    store::put(&store, &image, &[], SystemTime::now()).unwrap();
    assert!(store.images().unwrap().iter().all(|it| it.digest == image.descriptor().digest));
}

#[test]
fn a_missing_or_wrong_layer_leaves_no_archive() {
    let scratch = Scratch::new("missing");
    let store = scratch.store();
    let image = image(&store).images()[0].clone();
    let path = scratch.path("image.tar");
    let export = |image: &BuiltImage| {
        let image = &Artifact::image(image.clone());
        Destination::File(path.clone())
            .write(&Cancel::new().unwrap(), |out| oci::write_archive(&store, image, &[], out))
            .unwrap_err()
    };

    let mut missing = image.clone();
    missing.layers[0].digest = Digest::of(b"not there");
    assert_eq!(
        export(&missing).to_string(),
        format!("blob {} is not in the store", missing.layers[0].digest)
    );
    let mut longer = image.clone();
    longer.layers[1].size += 1;
    assert!(matches!(export(&longer), ExportError::BlobSize { .. }));
    assert!(!path.exists());
}

#[test]
fn scripts_are_told_digests_and_names() {
    let scratch = Scratch::new("metadata");
    let image = image(&scratch.store());
    let (iid, json) = (scratch.path("iid"), scratch.path("metadata.json"));
    metadata::write_iidfile(&iid, &image).unwrap();
    assert_eq!(fs::read_to_string(iid).unwrap(), Digest::of(&image.images()[0].config).to_string());

    let names = [NAME.to_owned(), "b".to_owned()];
    let compressor = || "gzip-4.libdeflate-1.26.pieces-2".to_owned();
    let about =
        |names| metadata::About { names, build: "1234".to_owned(), warnings: None, compressor: compressor() };
    metadata::write_metadata_file(&json, Some(&image), &about(&names)).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(said["containerimage.digest"], Digest::of(&image.images()[0].manifest).to_string());
    assert_eq!(said["containerimage.config.digest"], Digest::of(&image.images()[0].config).to_string());
    assert_eq!(said["containerimage.descriptor"]["size"], image.images()[0].manifest.len());
    assert_eq!(said["containerimage.descriptor"]["platform"]["os"], "linux");
    assert_eq!(said["image.name"], format!("{NAME},b"));

    metadata::write_metadata_file(&json, None, &about(&[])).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(said, serde_json::json!({ "buildx.build.ref": "1234" }));
}

/// The tree below `path`, one line an entry: kind and mode, mtime, path, and content, target or number of links.
fn list(path: &Path) -> String {
    let mut command = Command::new("find");
    command.arg(path).args(["-mindepth", "1", "-printf", "%M %Ts %n /%P %l\n"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.sort_by_key(|line| line.split(' ').nth(3).map(str::to_owned));
    lines.join("\n")
}

fn export_local(from: &Path, to: &Path, epoch: Option<u64>) -> Result<local::Written, ExportError> {
    local::write(&[tree(fs::File::open(from).unwrap().into())], Ids::Kernel, epoch, to, LocalMode::Copy)
}

fn tree(root: OwnedFd) -> Tree {
    Tree { root, platform: "linux/amd64".to_owned(), below: None }
}

/// Runs a shell script in `directory`.
fn shell(directory: &Path, script: &str) {
    fs::create_dir_all(directory).unwrap();
    let status = Command::new("sh").args(["-ec", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

#[test]
fn local_files_keep_modes_times_and_links_and_merge_with_what_is_there() {
    let scratch = Scratch::new("local");
    let (from, to) = (scratch.path("from"), scratch.path("deep/to"));
    shell(
        &from,
        "umask 022; mkdir -p dir/sub; echo a >dir/file; chmod 4755 dir/file; ln dir/file dir/sub/hard; ln -s /etc/passwd link
         mkfifo pipe; chmod 0500 dir/sub; find . -exec touch -h -d @1000000000 {} +",
    );
    shell(
        &to,
        "mkdir -p dir/kept; echo old >dir/file; echo mine >mine; touch -d @5 mine dir/kept; ln -s /nowhere pipe",
    );
    let written = export_local(&from, &to, None).unwrap();
    assert_eq!((written.entries, written.size, written.notes.len()), (6, 2, 0));
    let expected = "\
drwxr-xr-x 1000000000 4 /dir
-rwsr-xr-x 1000000000 2 /dir/file
drwxr-xr-x 5 2 /dir/kept
dr-x------ 1000000000 2 /dir/sub
-rwsr-xr-x 1000000000 2 /dir/sub/hard
lrwxrwxrwx 1000000000 1 /link /etc/passwd
-rw-r--r-- 5 1 /mine
prw-r--r-- 1000000000 1 /pipe";
    assert_eq!(list(&to), expected);

    // Again, over the read-only directory and the links of before; and with later times clamped.
    export_local(&from, &to, Some(999)).unwrap();
    let clamped = expected.replace("1000000000", "999");
    assert_eq!(list(&to), clamped);
}

#[test]
fn local_files_never_leave_the_directory() {
    let scratch = Scratch::new("escape");
    let (from, to, outside) = (scratch.path("from"), scratch.path("to"), scratch.path("outside"));
    shell(&outside, "echo safe >file");
    shell(&from, "mkdir -p dir; echo evil >dir/file; echo evil >alias");
    shell(&to, "ln -s ../outside dir; ln -s ../outside/file alias");
    export_local(&from, &to, None).unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "safe\n");
    assert_eq!(fs::read_to_string(to.join("dir/file")).unwrap(), "evil\n");
    assert_eq!(fs::read_to_string(to.join("alias")).unwrap(), "evil\n");
}

#[test]
fn a_full_directory_in_the_way_of_a_file_is_left_alone() {
    let scratch = Scratch::new("in-the-way");
    let (from, to) = (scratch.path("from"), scratch.path("to"));
    shell(&from, "echo new >a; echo new >b");
    shell(&to, "mkdir a b; echo work >b/work");
    let error = export_local(&from, &to, None).unwrap_err();
    let expected =
        format!("cannot write `{}`: a directory that is not empty is in the way", to.join("b").display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "new\n");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2, "a temporary file was left");
}

#[test]
fn a_tree_that_is_too_deep_is_an_error() {
    let scratch = Scratch::new("deep");
    let (from, to) = (scratch.path("from"), scratch.path("to"));
    shell(&from, "i=0; while [ $i -lt 258 ]; do mkdir d; cd d; i=$((i+1)); done");
    let error = export_local(&from, &to, None).unwrap_err();
    assert!(matches!(error, ExportError::TooDeep { max: 256, .. }), "{error}");
}

#[test]
fn a_snapshots_file_system_is_one_tar_and_one_directory() {
    let scratch = Scratch::new("rootfs");
    let store = scratch.store();
    let active = store.prepare(&Chain::default()).unwrap();
    let upper = PathBuf::from(format!("/proc/self/fd/{}", active.upper().as_raw_fd()));
    shell(&upper, "mkdir dir; echo a >dir/file; ln dir/file hard; ln -s dir/file soft");
    let snapshot = active.commit(UNIX_EPOCH).unwrap();
    let trees = [tree(store.view(&Chain(vec![snapshot.id])).unwrap())];

    let path = scratch.path("rootfs.tar");
    let bytes = bytes_of(&path, |out| super::tar::write(&trees, Ids::Kernel, Some(7), out));
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .inspect(|entry| assert_eq!(entry.header().mtime().unwrap(), 7))
        .map(|entry| entry.path().unwrap().display().to_string().trim_end_matches('/').to_owned())
        .collect();
    entries.retain(|path| !path.is_empty() && path != ".");
    assert_eq!(entries, ["dir", "dir/file", "hard", "soft"]);

    let written = local::write(&trees, Ids::Kernel, Some(7), &scratch.path("out"), LocalMode::Copy).unwrap();
    assert_eq!((written.entries, written.size), (4, 2));
    assert_eq!(fs::read_to_string(scratch.path("out/soft")).unwrap(), "a\n");
}
