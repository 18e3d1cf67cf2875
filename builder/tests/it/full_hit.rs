//! When nothing has changed nothing is done, and nothing is looked at that no COPY reads: told by the system calls.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use wharf::context::Tree;
use wharf::context::digest::{TreeKind, content_digest};
use wharf::context::files::Files;
use wharf_cache::Store;
use wharf_solver::llb::CopyAction;

use crate::harness::{Outcome, Registry, Scratch, Wharf, busybox_layout, have};

/// Longer than what a file system may take for one moment: digests of files are remembered after it.
const SETTLED: Duration = Duration::from_millis(50);

/// The system calls of a build, a line each, descriptors with the paths that they are of.
struct Calls(Vec<String>);

/// Builds with `arguments` under strace.
#[track_caller]
fn trace(wharf: &Wharf, store: &str, arguments: &[&str]) -> Calls {
    let build = wharf.build_command("store", arguments);
    let log = wharf.path("strace.log");
    // The fixture names the store first.
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "4096", "-o"]).arg(&log).arg("--").arg(build.get_program());
    command.arg("--root").arg(wharf.path(store)).args(build.get_args().skip(2));
    command
        .current_dir(build.get_current_dir().unwrap())
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null());
    Outcome::of(command).success().steps().check_ran(&[]);
    let log = fs::read(log).unwrap();
    Calls(String::from_utf8_lossy(&log).lines().map(str::to_owned).collect())
}

impl Calls {
    /// How many there are. What is cut in two because another thread came between is one.
    fn count(&self) -> usize {
        self.0.iter().filter(|line| line.contains('(') && !line.contains("resumed>")).count()
    }

    #[track_caller]
    fn check_none(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        let found: Vec<_> = self.0.iter().filter(|line| is_it(line)).take(5).collect();
        assert!(found.is_empty(), "{what}: {found:#?}");
    }

    /// The paths that were opened, of whatever kind.
    fn opened(&self) -> BTreeSet<&str> {
        let opens = |line: &&String| line.contains("open") && line.ends_with('>');
        let path = |line: &'_ str| -> Option<(usize, usize)> { Some((line.rfind('<')? + 1, line.len() - 1)) };
        let found = self.0.iter().filter(opens);
        found.filter_map(|line| path(line).map(|(start, end)| &line[start..end])).collect()
    }
}

/// A context with files that are read, not read, and ignored.
fn context(wharf: &Wharf) {
    for path in ["src/a", "src/deep/b", "src/gone/x", "src/deep/x.log", "lone", "unread/x", "unwanted"] {
        wharf.file(path, path);
    }
    wharf.file(".dockerignore", "src/gone\n**/*.log\n");
}

#[test]
fn a_full_hit_touches_nothing() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    if !have(&["strace"]) {
        return;
    }
    let base = format!("{}/base:v1", registry.address);
    wharf.dockerfile("FROM busybox\nCMD [\"true\"]\n").build(&["-t", &base, "--push"]).success();

    context(&wharf);
    wharf.dockerfile(&format!(
        "FROM {base} AS one\nCOPY src /src\nRUN cat /src/a >/one\n\
         FROM {base}\nCOPY --from=one /one /\nCOPY lone /lone\n\
         RUN --mount=type=bind,source=src/deep,target=/mnt cat /one /mnt/b >/both\nCMD [\"sh\"]\n"
    ));
    wharf.build_in("other", &["-t", "app"]).success();
    thread::sleep(SETTLED);
    wharf.build_in("other", &["-t", "app"]).success().steps().check_ran(&[]);
    drop(registry);

    let calls = trace(&wharf, "other", &["-t", "app"]);
    let starts = calls.0.iter().filter(|line| line.contains("execve(")).count();
    assert_eq!(starts, 1, "nothing but wharf itself is started");
    calls.check_none("no process is started", |line| {
        let is_start = ["clone(", "clone3(", "fork("].iter().any(|call| line.contains(call));
        is_start && !line.contains("CLONE_THREAD")
    });
    calls.check_none("nothing is mounted", |line| {
        ["mount(", "mount_setattr(", "fsopen(", "open_tree("].iter().any(|call| line.contains(call))
    });
    calls.check_none("nobody is asked over the network", |line| line.contains("AF_INET"));
    calls.check_none("nothing waits for the disk", |line| {
        ["fsync(", "fdatasync(", "syncfs("].iter().any(|call| line.contains(call))
    });
    calls.check_none("what no COPY reads is not looked at", |line| {
        line.contains("unread") || line.contains("unwanted")
    });

    let context = wharf.context();
    let read = ["", "Dockerfile", ".dockerignore", "src", "src/deep"];
    let read: HashSet<PathBuf> = read.iter().map(|name| context.join(name).components().collect()).collect();
    let (store, mut in_context) = (wharf.path("other"), 0);
    for path in calls.opened() {
        let path = Path::new(path);
        if path.starts_with(&context) {
            in_context += 1;
            assert!(read.contains(path), "{} was opened: its digest is known", path.display());
        }
        let snapshots = store.join("snapshots");
        assert!(!path.starts_with(&snapshots) || path == snapshots, "{} was opened", path.display());
        if path.parent() == Some(&*store.join("blobs/sha256")) {
            let bytes = fs::read(path).unwrap();
            assert_eq!(bytes.first(), Some(&b'{'), "{} is a layer, and was opened", path.display());
        }
    }
    assert!(in_context >= 4, "strace shows no paths");
}

/// Calls of a full hit with this Dockerfile.
#[track_caller]
fn calls_of(wharf: &Wharf, dockerfile: &str) -> usize {
    wharf.dockerfile(dockerfile);
    wharf.build(&["-t", "app"]).success();
    thread::sleep(SETTLED);
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
    trace(wharf, "store", &["-t", "app"]).count()
}

#[test]
fn a_full_hit_takes_few_calls_for_each_instruction_and_file() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    if !have(&["strace"]) {
        return;
    }
    let runs = |count: usize| {
        let each = |number| format!("RUN true {number}\nENV NAME_{number}=x\n");
        format!("FROM busybox\n{}", (0..count).map(each).collect::<String>())
    };
    let (few, many) = (calls_of(&wharf, &runs(5)), calls_of(&wharf, &runs(25)));
    // Three or four for each of two instructions, and what the threads of a busy machine wait for each other.
    assert!(many < few + 20 * 12, "{few} calls with 5 steps, {many} with 25");

    let files = |count: usize| {
        for number in 0..count {
            wharf.file(&format!("files/{}/{number}", number / 100), "x");
        }
        calls_of(&wharf, "FROM busybox\nCOPY files /files\n")
    };
    let (few, many) = (files(100), files(1100));
    assert!(many < few + 1000 * 5 / 4, "{few} calls with 100 files, {many} with 1100");
}

#[test]
fn an_edit_that_no_time_shows_is_seen() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("context")).unwrap();
    let store = Store::open(&scratch.path("store")).unwrap();
    let root = File::open(scratch.path("context")).unwrap();
    let tree = Tree { root: root.as_fd(), ids: wharf_cache::Ids::Kernel, ignore: None, without: None };
    let copy = CopyAction { src: "/f".to_owned(), ..CopyAction::default() };
    let digest = || content_digest(&tree, TreeKind::Local(&store), &copy, &mut Files::default()).unwrap();
    let mut seen = HashSet::new();
    // Of equal size and with one time of modification; many fall into one step of the file system's clock.
    for number in 0..400 {
        let path = scratch.path("context/f");
        fs::write(&path, format!("{number:08}")).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let now = digest();
        assert!(seen.insert(now.content), "edit {number} was not seen");
        assert_eq!(now.stamps, None, "edit {number} is too young to be told by its stamp");
    }
    thread::sleep(SETTLED);
    let (first, second) = (digest(), digest());
    assert!(first == second && first.stamps.is_some());
}
