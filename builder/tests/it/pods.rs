//! The same Dockerfile in every kind of pod and as users of the host: one image, and a word for where there is none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use expect_test::{expect, expect_file};

use crate::harness::{
    Outcome, Scratch, busybox_layout, debian_layout, have, install, repository, skip, tool,
};

/// The clock of all builds.
const EPOCH: &str = "1700000000";
/// The secret that no output may have.
const SECRET: &str = "a secret of the build";
/// A user of the host that only a test knows.
const USER: u32 = 4711;
/// The ordinary user of pods.
const POD_USER: u32 = 1000;

/// Somewhere to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Root on the host: the reference.
    Host,
    /// A kind of pod.
    Pod(&'static str),
    /// An ordinary user of the host, with or without subordinate ids.
    User { subordinate_ids: bool },
}

/// What all places read, and where each of them writes.
struct Things {
    scratch: Scratch,
}

impl Things {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("pods and users are made by root");
            return None;
        }
        let layout = debian_layout()?;
        let scratch = Scratch::for_everybody();
        let root = scratch.path("");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let context = repository().join("testdata/pods/context");
        tool("cp", &["-r", &text(&context), &text(&scratch.path("context"))]);
        // Wherever the checkout is, and whoever may read it: everybody gets to these.
        tool("cp", &["-r", &text(layout), &text(&scratch.path("base"))]);
        tool("chmod", &["-R", "a+rX", &text(&scratch.path("base"))]);
        install(Path::new(env!("CARGO_BIN_EXE_wharf")), &scratch.path("wharf"));
        fs::write(scratch.path("token"), SECRET).unwrap();
        fs::create_dir(scratch.path("out")).unwrap();
        fs::set_permissions(scratch.path("out"), fs::Permissions::from_mode(0o1777)).unwrap();
        Some(Self { scratch })
    }

    fn path(&self, name: &str) -> String {
        text(&self.scratch.path(name))
    }

    /// A command that runs `arguments` of wharf at `place`. `None`, and a line that says why, where there is no such place.
    fn wharf(&self, place: Place, arguments: &[&str]) -> Option<Command> {
        let program = self.path("wharf");
        let mut command = match place {
            Place::Host => Command::new(program),
            Place::Pod(kind) => self.pod(kind, &program)?,
            Place::User { subordinate_ids } => self.user(subordinate_ids, &program)?,
        };
        command.args(arguments).stdin(Stdio::null());
        command.env("SOURCE_DATE_EPOCH", EPOCH).env_remove("WHARF_SANDBOX").env_remove("WHARF_ROOT");
        Some(command)
    }

    fn pod(&self, kind: &str, program: &str) -> Option<Command> {
        let pod = pod_program()?;
        let mut command = Command::new("python3");
        command.arg(pod).arg(kind).args(["--net", "--env", &format!("SOURCE_DATE_EPOCH={EPOCH}")]);
        let mut bind = |from: &str, to: &str, mode: &str| {
            command.args(["--bind", &format!("{from}:{to}{mode}")]);
        };
        for (name, mode) in [("base", ":ro"), ("context", ":ro"), ("token", ":ro"), ("out", "")] {
            bind(&self.path(name), &self.path(name), mode);
        }
        bind(program, program, ":ro");
        // Without files of the host there is nobody in the pod either.
        for path in self.identities(POD_USER, "/build", None)? {
            bind(&format!("{}{path}", self.path("")), &path, ":ro");
        }
        command.args(["--", program]);
        Some(command)
    }

    /// In a mount namespace of its own the machine has a user more.
    fn user(&self, subordinate_ids: bool, program: &str) -> Option<Command> {
        if !have(&["unshare", "setpriv", "mount"]) || subordinate_ids && !have(&["newuidmap", "newgidmap"]) {
            return None;
        }
        let home = self.scratch.path("home");
        fs::create_dir_all(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        let ids = subordinate_ids.then_some("builder:400000:65536\n");
        let paths = self.identities(USER, &text(&home), ids)?;
        let binds = paths.iter().map(|path| format!("mount --bind {}{path} {path} && ", self.path("")));
        let script = format!(
            "{}exec setpriv --reuid {USER} --regid {USER} --clear-groups -- \"$@\"",
            binds.collect::<String>()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", program]);
        command
            .env("HOME", &home)
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .current_dir(&home);
        Some(command)
    }

    /// Writes the files by which a place knows root, the user `builder` and its subordinate ids, whomever the machine has:
    /// their paths, to be covered by what is at the same path below the fixture.
    fn identities(&self, uid: u32, home: &str, ids: Option<&str>) -> Option<Vec<String>> {
        fs::create_dir_all(self.scratch.path("etc")).unwrap();
        let passwd = format!("root:x:0:0::/root:/bin/sh\nbuilder:x:{uid}:{uid}::{home}:/bin/sh\n");
        let group = format!("root:x:0:\nbuilder:x:{uid}:\n");
        let nobody = ids.unwrap_or_default();
        let mut paths = Vec::new();
        for (name, lines) in
            [("passwd", &passwd[..]), ("group", &group), ("subuid", nobody), ("subgid", nobody)]
        {
            let path = format!("/etc/{name}");
            if Path::new(&path).exists() {
                fs::write(self.scratch.path("etc").join(name), lines).unwrap();
                paths.push(path);
            } else if !lines.is_empty() {
                skip(format_args!("{path} is not there to be covered"));
                return None;
            }
        }
        Some(paths)
    }

    /// Builds the image at `place`.
    fn build(&self, place: Place) -> Option<Outcome> {
        let metadata = self.path("out/metadata.json");
        let archive = format!("type=oci,dest={}", self.path("out/image.tar"));
        let base = format!("debian=oci-layout://{}", self.path("base"));
        let secret = format!("id=token,src={}", self.path("token"));
        let context = self.path("context");
        let store = match place {
            Place::Pod(_) => "/build/store".to_owned(),
            Place::Host => self.path("store"),
            Place::User { .. } => self.path("home/store"),
        };
        let arguments = [
            "--root",
            &store,
            "build",
            "--progress",
            "plain",
            "--network",
            "host",
            "--build-context",
            &base,
            "--secret",
            &secret,
            "-o",
            &archive,
            "--metadata-file",
            &metadata,
            &context,
        ];
        Some(Outcome::of(self.wharf(place, &arguments)?))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

/// The program that makes pods, which lies beside the project where there is one; `None`, and a line that says so, where
/// there is none.
pub(crate) fn pod_program() -> Option<PathBuf> {
    if !have(&["runc", "python3"]) {
        return None;
    }
    let found =
        repository().ancestors().map(|above| above.join("shared/pods/pod.py")).find(|path| path.is_file());
    if found.is_none() {
        skip("pods are made by shared/pods/pod.py, which is not above the repository");
    }
    found
}

/// The layers of an image: a line an entry with all that an image can show of it, as python sees it.
fn listing(archive: &str) -> String {
    const SCRIPT: &str = r#"
import hashlib, io, json, sys, tarfile
image = tarfile.open(sys.argv[1])
read = lambda digest: image.extractfile("blobs/" + digest.replace(":", "/")).read()
manifest = json.loads(read(json.load(image.extractfile("index.json"))["manifests"][0]["digest"]))
for number, layer in enumerate(manifest["layers"]):
    files = tarfile.open(fileobj=io.BytesIO(read(layer["digest"])))
    for it in files:
        content = hashlib.sha256(files.extractfile(it).read()).hexdigest()[:12] if it.isreg() else ""
        print(number, it.name, it.type.decode(), oct(it.mode), it.uid, it.gid, it.size, it.mtime, it.linkname, content,
              sorted(key for key in it.pax_headers if "xattr" in key))
print(read(manifest["config"]["digest"]).decode())
"#;
    tool("python3", &["-c", SCRIPT, archive])
}

/// What root on the host builds: the digest, and the layers.
fn reference() -> Option<&'static (String, String)> {
    static REFERENCE: OnceLock<Option<(String, String)>> = OnceLock::new();
    let made = REFERENCE.get_or_init(|| {
        let things = Things::new()?;
        things.build(Place::Host)?.success();
        Some((digest(&things), listing(&things.path("out/image.tar"))))
    });
    made.as_ref()
}

fn digest(things: &Things) -> String {
    digest_in(&things.scratch.path("out/metadata.json"))
}

/// The digest in a metadata file.
fn digest_in(metadata: &Path) -> String {
    let metadata = fs::read_to_string(metadata).unwrap();
    let (_, rest) = metadata.split_once("\"containerimage.digest\": \"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// The image that is built at `place` is the one that root builds on the host.
#[track_caller]
fn check(place: Place) {
    let Some((expected, layers)) = reference() else { return };
    let Some(things) = Things::new() else { return };
    let Some(outcome) = things.build(place) else { return };
    let outcome = outcome.success();
    if digest(&things) != *expected {
        let found = listing(&things.path("out/image.tar"));
        let lines = |of: &str, not: &str, sign: char| {
            let other: std::collections::HashSet<&str> = not.lines().collect();
            let only = of.lines().filter(|line| !other.contains(line)).take(60);
            only.map(|line| format!("{sign}{line}\n")).collect::<String>()
        };
        let difference = lines(layers, &found, '-') + &lines(&found, layers, '+');
        panic!("{place:?} gives another image:\n{difference}\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains(SECRET));
}

#[test]
fn root_builds_the_same_image_twice() {
    check(Place::Host);
}

#[test]
fn a_privileged_pod_builds_the_image() {
    check(Place::Pod("privileged"));
}

#[test]
fn a_pod_of_root_builds_the_image() {
    check(Place::Pod("root"));
}

#[test]
fn a_pod_of_root_with_the_default_seccomp_profile_builds_the_image() {
    check(Place::Pod("root-seccomp"));
}

#[test]
fn a_pod_in_a_user_namespace_builds_the_image() {
    check(Place::Pod("hostusers-false"));
}

#[test]
fn a_pod_of_an_ordinary_user_builds_the_image() {
    check(Place::Pod("nonroot"));
}

#[test]
fn a_user_with_subordinate_ids_builds_the_image() {
    check(Place::User { subordinate_ids: true });
}

#[test]
fn a_user_without_subordinate_ids_builds_the_image() {
    check(Place::User { subordinate_ids: false });
}

#[test]
fn a_restricted_pod_is_told_what_it_lacks() {
    let Some(things) = Things::new() else { return };
    let Some(outcome) = things.build(Place::Pod("restricted")) else { return };
    let outcome = outcome.fails_with(5, &[]);
    expect![[r#"
        ERROR: there is no sandbox for steps here: root: it takes uid 0, and this is uid 1000; rootless: no_new_privs is set on this process, so that newuidmap gets no privileges; rootless-single: user namespaces are refused: unshare(CLONE_NEWUSER) gives EPERM (a seccomp filter is on this process); chroot: it takes uid 0, and this is uid 1000
        hint: `wharf doctor` says what would have to change, and how
    "#]].assert_eq(&outcome.stderr);
}

/// What of a report is so because of the machine, not because of the place.
const OF_THE_MACHINE: [&str; 6] = ["kernel", "apparmor", "cgroup", "network", "pasta", "store-file-system"];

/// A report, text or JSON, without its part on architectures: who runs their steps is a matter of what the machine has
/// installed and registered.
fn without_architectures(report: &str) -> String {
    let mut is_left_out = false;
    let mut kept = String::new();
    for line in report.lines() {
        is_left_out |= line == "Architectures of steps:" || line == "  \"architectures\": {";
        if !is_left_out {
            kept += line;
            kept.push('\n');
        }
        is_left_out &= !matches!(line, "" | "  },");
    }
    kept
}

/// A report, text or JSON, as it is everywhere.
fn normalized(report: &str, things: &Things) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let mut lines = String::new();
    for line in without_architectures(report).replace(&things.path(""), "SCRATCH").replace(all, "ALL").lines()
    {
        let entry = line.trim_start().trim_start_matches('"');
        let value = OF_THE_MACHINE.iter().find_map(|name| {
            let rest = entry.strip_prefix(*name).filter(|rest| rest.starts_with([' ', '"']))?;
            Some(rest.trim_start_matches(['"', ':', ' ']).trim_end_matches(['"', ',']))
        });
        match value {
            Some(value) => lines += &line.replace(value, "(of the machine)"),
            None => lines += line,
        }
        lines.push('\n');
    }
    lines
}

#[test]
fn the_doctor_says_in_each_place_what_was_reviewed() {
    if !have(&["newuidmap", "newgidmap"]) {
        return;
    }
    for (name, place, code) in [
        ("privileged", Place::Pod("privileged"), 0),
        ("root", Place::Pod("root"), 0),
        ("root-seccomp", Place::Pod("root-seccomp"), 0),
        ("hostusers-false", Place::Pod("hostusers-false"), 0),
        ("nonroot", Place::Pod("nonroot"), 0),
        ("restricted", Place::Pod("restricted"), 5),
        ("user-with-subordinate-ids", Place::User { subordinate_ids: true }, 0),
        ("user-without-subordinate-ids", Place::User { subordinate_ids: false }, 0),
    ] {
        let Some(things) = Things::new() else { return };
        for format in ["text", "json"] {
            let Some(command) = things.wharf(place, &["doctor", "--format", format]) else { continue };
            let outcome = Outcome::of(command);
            assert_eq!(outcome.code, Some(code), "{place:?}: {}", outcome.stderr);
            let reviewed = repository().join(format!("testdata/pods/doctor/{name}.{format}"));
            expect_file![reviewed].assert_eq(&normalized(&outcome.text(), &things));
        }
    }
}

/// What `make dist` has made, if it was run.
fn dist() -> Option<PathBuf> {
    let dist = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("dist");
    if !dist.join("usr/local/bin/wharf").is_file() {
        skip("the static program is not made: `make dist`");
        return None;
    }
    Some(dist)
}

#[test]
fn the_image_of_wharf_builds_images_in_every_pod() {
    let (Some(things), Some(dist), Some(pod)) = (Things::new(), dist(), pod_program()) else { return };
    let Some(busybox) = busybox_layout().filter(|_| have(&["umoci"])) else { return };
    // The image, by wharf itself, and its files, by somebody else.
    let static_wharf = text(&dist.join("usr/local/bin/wharf"));
    let layout = things.path("image");
    let mut command = Command::new(&static_wharf);
    command.args([
        "--root",
        &things.path("store"),
        "build",
        "--build-context",
        &format!("dist={}", dist.display()),
    ]);
    command.arg("--file").arg(repository().join("builder/image/Dockerfile"));
    command
        .args(["--target=wharf", "-o", &format!("type=oci,tar=false,name=wharf:latest,dest={layout}")])
        .arg(repository());
    Outcome::of(command).success();
    tool("umoci", &["unpack", "--image", &format!("{layout}:latest"), &things.path("bundle")]);
    // What it builds.
    tool("cp", &["-r", &text(busybox), &things.path("busybox")]);
    tool("chmod", &["-R", "a+rX", &things.path("busybox")]);
    fs::create_dir(things.scratch.path("small")).unwrap();
    let steps =
        "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo made >/made && chown 1:2 /made\nCOPY Dockerfile /\n";
    fs::write(things.scratch.path("small/Dockerfile"), steps).unwrap();
    let mut digests = Vec::new();
    for kind in ["privileged", "root", "root-seccomp", "hostusers-false", "nonroot"] {
        let mut command = Command::new("python3");
        command.arg(&pod).arg(kind).arg("--runtime").arg(repository().join("testdata/pods/image-runtime"));
        command.env("IMAGE_ROOT", things.path("bundle/rootfs"));
        command.args([
            "--env",
            &format!("SOURCE_DATE_EPOCH={EPOCH}"),
            "--bind",
            &format!("{}:/out", things.path("out")),
        ]);
        for name in ["busybox", "small"] {
            command.args(["--bind", &format!("{}:/{name}:ro", things.path(name))]);
        }
        command.args([
            "--",
            "/usr/local/bin/wharf",
            "--root",
            "/build/store",
            "build",
            "--progress",
            "plain",
            "--network=none",
        ]);
        command.args([
            "--build-context",
            "busybox=oci-layout:///busybox",
            "-o",
            // A file that another pod has made is another user's.
            &format!("type=oci,dest=/out/{kind}.tar"),
        ]);
        let metadata = format!("/out/{kind}.json");
        command.args(["--metadata-file", &metadata, "/small"]);
        Outcome::of(command).success();
        digests.push((kind, digest_in(&things.scratch.path("out").join(format!("{kind}.json")))));
    }
    assert!(digests.iter().all(|(_, digest)| *digest == digests[0].1), "{digests:?}");
}

#[test]
fn manifests_are_of_the_kinds_of_pods_that_are_tested() {
    // As the program that makes pods has them.
    let expected = "\
kind=hostusers-false uid=0 capabilities=default no_new_privs=False seccomp=True userns=True
kind=nonroot uid=1000 capabilities=none no_new_privs=False seccomp=False userns=False
kind=privileged uid=0 capabilities=all no_new_privs=False seccomp=False userns=False
kind=restricted uid=1000 capabilities=none no_new_privs=True seccomp=True userns=False
kind=root uid=0 capabilities=default no_new_privs=False seccomp=False userns=False
kind=root-seccomp uid=0 capabilities=default no_new_privs=False seccomp=True userns=False
";
    let has_yaml =
        Command::new("/usr/bin/python3").args(["-c", "import yaml"]).stderr(Stdio::null()).status();
    if !has_yaml.is_ok_and(|status| status.success()) {
        return skip("needs package python3-yaml");
    }
    let script = repository().join("testdata/pods/manifests.py");
    assert_eq!(
        tool("/usr/bin/python3", &[&text(&script), &text(&repository().join("docs/kubernetes"))]),
        expected
    );
    for name in ["github-actions.yml", "gitlab-ci.yml"] {
        let read = "import sys, yaml; yaml.safe_load(open(sys.argv[1]))";
        tool("/usr/bin/python3", &["-c", read, &text(&repository().join("docs/ci").join(name))]);
    }
}
