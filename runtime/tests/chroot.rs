//! Processes without namespaces: what they see, what they cannot reach, and that nothing is left of them.
//!
//! Needs root, `chroot` and a static busybox; says so and passes where one is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, UserBuilder};
use wharf_runtime::chroot::{ChrootRequest, Confinement, Content, Devices, Ended, Network, Placement, run};
use wharf_runtime::{Cancel, ExitStatus, RuntimeError, Spec, Stdio, Stream, default_spec};

const APPLETS: &[&str] = &[
    "sh", "true", "cat", "echo", "id", "ls", "pwd", "env", "stat", "sleep", "kill", "mount", "umount",
    "unshare", "readlink", "test", "mkdir", "rmdir", "rm", "touch", "chmod", "mknod", "head", "wc", "ps",
    "grep", "dd", "tr", "nohup", "setsid", "chown", "mktemp", "sort", "mv", "ln", "seq", "chroot", "mkfifo",
    "nc", "ping", "nice", "cp", "tail", "usleep",
];

/// A step's directory and the one beside it, which go when this does.
struct World {
    directory: PathBuf,
    /// What its processes take `/dev` from, if not each has a new one.
    devices: Option<Devices>,
}

const OK: ExitStatus = ExitStatus::Exited(0);

#[derive(Debug)]
struct Outcome {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    missed: Option<PathBuf>,
}

impl World {
    /// None, with a word why, where such processes cannot be made.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: not root");
            return None;
        }
        let Some(busybox) =
            ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists())
        else {
            println!("SKIP: no static busybox at /bin/busybox");
            return None;
        };
        let name = format!("wharf-chroot-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { directory: std::env::temp_dir().join(name), devices: None };
        for directory in ["root/bin", "root/etc", "root/tmp", "root/root", "given"] {
            fs::create_dir_all(world.path(directory)).unwrap();
        }
        fs::set_permissions(world.path("root/tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        fs::copy(busybox, world.path("root/bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", world.path("root/bin").join(applet)).unwrap();
        }
        Some(world)
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    fn open(&self, path: &str) -> OwnedFd {
        File::open(self.path(path)).unwrap().into()
    }

    fn run(
        &self,
        spec: &Spec,
        placements: Vec<Placement>,
        network: Network,
        cancel: &Cancel,
    ) -> Result<Outcome, RuntimeError> {
        self.run_with(Confinement::probe(), spec, placements, network, cancel)
    }

    fn run_with(
        &self,
        confinement: Confinement,
        spec: &Spec,
        placements: Vec<Placement>,
        network: Network,
        cancel: &Cancel,
    ) -> Result<Outcome, RuntimeError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let _ = fs::remove_dir_all(self.path("aside"));
        fs::create_dir(self.path("aside")).unwrap();
        let (root, aside) = (self.open("root"), self.open("aside"));
        let mut sink = |stream, chunk: &[u8]| match stream {
            Stream::Stdout => stdout.extend_from_slice(chunk),
            Stream::Stderr => stderr.extend_from_slice(chunk),
        };
        let request = ChrootRequest {
            group: None,
            spec,
            root: root.as_fd(),
            aside: aside.as_fd(),
            devices: self.devices.as_ref(),
            placements,
            confinement,
            network,
            stdio: Stdio::Captured(&mut sink),
            cancel,
        };
        let Ended { status, missed } = run(request)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Outcome { status, stdout: text(stdout), stderr: text(stderr), missed })
    }

    #[track_caller]
    fn shell(&self, script: &str, placements: Vec<Placement>) -> Outcome {
        match self.run(&shell(script), placements, Network::Host, &Cancel::new().unwrap()) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{script}: {error}: {:?}", std::error::Error::source(&error)),
        }
    }

    #[track_caller]
    fn check(&self, script: &str, stdout: &str) {
        let outcome = self.shell(script, Vec::new());
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (OK, stdout),
            "{script}\nstderr: {}",
            outcome.stderr
        );
    }

    /// Everything in the root: kind, mode, owner, size, time of each path, without the programs.
    fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.path("root"), Path::new(""), &mut found);
        found.sort();
        found
    }
}

fn list(root: &Path, below: &Path, found: &mut Vec<String>) {
    let path = root.join(below);
    let stat = fs::symlink_metadata(&path).unwrap();
    let size = if stat.is_dir() { 0 } else { stat.size() };
    found.push(format!(
        "{} {:o} {}:{} {size} {}.{:09} {}",
        below.display(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ino()
    ));
    if stat.is_dir() && below != Path::new("bin") {
        for entry in fs::read_dir(&path).unwrap() {
            list(root, &below.join(entry.unwrap().file_name()), found);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn shell(script: &str) -> Spec {
    let mut spec = default_spec();
    let process = spec.process_mut().as_mut().unwrap();
    process.set_args(Some(vec!["/bin/sh".into(), "-c".into(), script.into()]));
    spec
}

/// Whether a process of this test's own, named by its arguments, is there.
fn is_running(marker: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
    })
}

#[test]
fn a_command_runs_in_its_directory() {
    let Some(world) = World::new() else { return };
    world.check("echo out; echo err >&2", "out\n");
    world.check("pwd; ls /", "/\nbin\ndev\netc\nproc\nroot\nsys\ntmp\n");
    world.check("cd /..; cd ../../..; ls -d b*", "bin\n");
    world.check("echo x > /tmp/kept", "");
    world.check("cat /tmp/kept", "x\n");
    assert_eq!(world.shell("exit 7", vec![]).status, ExitStatus::Exited(7));
    assert_eq!(world.shell("kill -9 $$", vec![]).status, ExitStatus::Signaled(9));
    let mut spec = shell("true");
    spec.process_mut().as_mut().unwrap().set_args(Some(vec!["missing".into()]));
    let error = world.run(&spec, vec![], Network::Host, &Cancel::new().unwrap()).unwrap_err();
    assert!(matches!(error, RuntimeError::Exec { not_found: true, .. }), "{error}");
    let mut spec = shell("pwd; id -u; id -g; umask; test -w /etc || echo no");
    let process = spec.process_mut().as_mut().unwrap();
    process.set_cwd("/new/place".into());
    process.set_user(UserBuilder::default().uid(1000_u32).gid(1001_u32).build().unwrap());
    let outcome = world.run(&spec, vec![], Network::Host, &Cancel::new().unwrap()).unwrap();
    assert_eq!(outcome.stdout, "/new/place\n1000\n1001\n0022\nno\n", "{}", outcome.stderr);
    assert!(world.path("root/new/place").is_dir());
}

#[test]
fn nothing_is_left_where_nothing_was_changed() {
    let Some(world) = World::new() else { return };
    fs::write(world.path("root/etc/hosts"), "old").unwrap();
    let before = world.listing();
    fs::write(world.path("given/hosts"), "new").unwrap();
    fs::create_dir(world.path("given/cache")).unwrap();
    let placements = vec![
        entry(&world, "/etc/hosts", "hosts", false),
        entry(&world, "/var/cache/deep", "cache", true),
        Placement { target: "/run/secrets/s".into(), content: secret(b"hush") },
        Placement { target: "/srv/link".into(), content: Content::Link("/var/cache/deep".into()) },
    ];
    let outcome =
        world.shell("cat /etc/hosts; echo x > /srv/link/kept; stat -c '%s %a' /run/secrets/s", placements);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (OK, "new4 400\n"), "{}", outcome.stderr);
    assert_eq!(world.listing(), before);
    assert_eq!(fs::read(world.path("given/cache/kept")).unwrap(), b"x\n");
    assert_eq!(fs::read(world.path("root/etc/hosts")).unwrap(), b"old");
}

fn entry(world: &World, target: &str, name: &str, returns: bool) -> Placement {
    Placement {
        target: target.into(),
        content: Content::Entry { from: world.open("given"), name: name.into(), returns },
    }
}

fn secret(value: &[u8]) -> Content {
    Content::Secret { value: value.to_vec(), owner: (0, 0), mode: 0o400 }
}

/// What a step does to a place, what its directory then has (besides what it began with), and what came back.
#[test]
fn games_with_places_leave_nothing_behind() {
    let check = |script: &str, left: &[&str], came_back: &[&str]| {
        let Some(world) = World::new() else { return };
        fs::create_dir_all(world.path("root/a/place")).unwrap();
        fs::write(world.path("root/a/place/below"), "").unwrap();
        fs::create_dir(world.path("given/cache")).unwrap();
        fs::write(world.path("given/cache/old"), "").unwrap();
        let outcome = world.shell(script, vec![entry(&world, "/a/place", "cache", true)]);
        assert_eq!(outcome.status, OK, "{script}: {}", outcome.stderr);
        let names = |path: &str| {
            let mut found = Vec::new();
            names_below(&world.path(path), Path::new(""), &mut found);
            found.sort();
            found
        };
        let mut found = names("root");
        found.retain(|name| !["etc", "root", "tmp"].contains(&name.as_str()) && !name.starts_with("bin"));
        assert_eq!(found, left, "{script}: the root");
        assert_eq!(names("given/cache"), came_back, "{script}: the cache");
    };
    let intact = ["a", "a/place", "a/place/below"];
    check("touch /a/place/new", &intact, &["new", "old"]);
    check("rm -rf /a/place", &intact, &[]);
    check("rm -rf /a/place; mkdir /a/place; touch /a/place/new", &intact, &["new"]);
    check("rm -rf /a/place; touch /a/place", &intact, &[]);
    check("rm -rf /a/place; ln -s /etc /a/place", &intact, &[]);
    check("mv /a/place /b", &intact, &["old"]);
    check(
        "mv /a/place /b; ln -s /etc /a/place; touch /etc/x",
        &["a", "a/place", "a/place/below", "etc/x"],
        &["old"],
    );
    check("mv /a/place '/odd (deleted)'", &intact, &["old"]);
    check(
        "mv /a /b; mkdir /a; ln -s /bin /a/place",
        &["a", "a/place", "b", "b/place", "b/place/below"],
        &["old"],
    );
    check("mv /a /b; ln -s /b /a", &["a", "b", "b/place", "b/place/below"], &["old"]);
    check("rm -rf /a", &[], &[]);
    check("rm -rf /a; mkdir -p /a/place; touch /a/place/new", &["a"], &["new"]);
    check("rm -rf /a; ln -s /etc /a; mkdir /etc/place; touch /etc/place/new", &["a"], &["new"]);
    check(
        "mkdir /a/place/sub; mv /a/place/sub /a/kept",
        &["a", "a/kept", "a/place", "a/place/below"],
        &["old"],
    );
    check("chmod 0 /a", &intact, &["old"]);
}

fn names_below(root: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        found.push(path.display().to_string());
        if entry.file_type().unwrap().is_dir() {
            names_below(root, &path, found);
        }
    }
}

#[test]
fn targets_are_found_inside_the_root() {
    let Some(world) = World::new() else { return };
    symlink("../../../../run/stub", world.path("root/etc/resolv.conf")).unwrap();
    symlink("/../../etc", world.path("root/conf")).unwrap();
    let before = world.listing();
    for (target, seen) in [("/etc/resolv.conf", "/run/stub"), ("/conf/x/y", "/etc/x/y"), ("/../../z", "/z")] {
        fs::write(world.path("given/file"), "it").unwrap();
        let outcome = world.shell(&format!("cat {seen}"), vec![entry(&world, target, "file", true)]);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (OK, "it"), "{target}: {}", outcome.stderr);
        assert_eq!(world.listing(), before, "{target}");
    }
    symlink("loop", world.path("root/loop")).unwrap();
    let before = world.listing();
    for target in ["/loop", "/loop/x", "/", "/bin", "/bin/busybox/x"] {
        fs::write(world.path("given/file"), "it").unwrap();
        let placements = vec![entry(&world, target, "file", true)];
        let result = world.run(&shell("true"), placements, Network::Host, &Cancel::new().unwrap());
        assert!(result.is_err(), "{target}");
        assert_eq!(world.listing(), before, "{target}");
        assert!(world.path("given/file").exists(), "{target}");
    }
}

#[test]
fn what_leads_out_is_refused() {
    let Some(world) = World::new() else { return };
    for script in [
        "chroot /bin /busybox true",
        "mount -t tmpfs x /tmp",
        "unshare -r true",
        "mknod /tmp/disk b 8 0",
        "mknod /tmp/null c 1 3",
        "nice -n -5 true",
    ] {
        let outcome = world.shell(&format!("{script} && echo done"), vec![]);
        assert_eq!(outcome.stdout, "", "{script}: {}", outcome.stderr);
    }
    world.check("mkfifo /tmp/pipe && test -p /tmp/pipe && echo fine", "fine\n");
    let parent = std::process::id();
    for signal in ["0", "TERM", "KILL"] {
        let outcome = world
            .shell(&format!("kill -{signal} {parent} && echo sent; kill -{signal} 1 && echo sent"), vec![]);
        if Confinement::probe().landlock() >= Some(6) {
            assert_eq!(outcome.stdout, "", "{signal}: {}", outcome.stderr);
        }
    }
    // Everybody whom it may signal is its own.
    let marker = format!("{}", 100_000 + std::process::id());
    let mut other = std::process::Command::new("sleep").arg(&marker).spawn().unwrap();
    world.shell("kill -9 -1; true", vec![]);
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// What a step can do to processes outside and to its own, with Landlock's scopes and without.
#[test]
fn only_its_own_processes_are_a_steps_business() {
    let Some(world) = World::new() else { return };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/contained/others.c");
    let probe = world.path("root/bin/others");
    let compiled =
        std::process::Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&probe).arg(&source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("SKIP: gcc is missing");
        return;
    }
    // This process, another thread of it, one of its children, and its group.
    let mut child =
        std::process::Command::new("sleep").arg("60").stdout(std::process::Stdio::null()).spawn().unwrap();
    let (told, thread) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        told.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
        let _ = wait.recv();
    });
    let group = rustix::process::getpgrp().as_raw_nonzero();
    let (own, thread, child_id) = (std::process::id(), thread.recv().unwrap(), child.id());
    for (landlock, arguments) in [(5, "all"), (1, "all"), (0, "all"), (u32::MAX, "scoped")] {
        let confinement = Confinement::probe().at_most(landlock);
        for user in [0, 54_322_u32] {
            let mut spec =
                shell(&format!("exec /bin/others {arguments} {group} {own} {thread} {child_id} $PPID"));
            let process = spec.process_mut().as_mut().unwrap();
            process.set_user(UserBuilder::default().uid(user).gid(user).build().unwrap());
            let cancel = Cancel::new().unwrap();
            let outcome = world.run_with(confinement, &spec, vec![], Network::Host, &cancel).unwrap();
            assert_eq!(outcome.stdout, "end\n", "Landlock {landlock}, user {user}: {}", outcome.stderr);
        }
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(done);
    other.join().unwrap();
}

#[test]
fn descriptors_environment_and_arguments_stay_outside() {
    let Some(world) = World::new() else { return };
    let leaked = File::open("/etc/passwd").unwrap();
    let fd = rustix::io::fcntl_dupfd_cloexec(&leaked, 40).unwrap();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    world.check("for n in 3 4 5 9 40; do (eval \"cat <&$n\") 2>/dev/null && echo leaked $n; done; true", "");
    let outcome = world.shell("env | sort", vec![]);
    assert!(!outcome.stdout.contains("CARGO"), "{}", outcome.stdout);
}

#[test]
fn no_process_outlives_its_step() {
    let Some(world) = World::new() else { return };
    for (index, script) in [
        "sleep M & exit 0",
        "setsid sleep M & exit 0",
        "(setsid sh -c 'trap \"\" TERM HUP INT; (sleep M &) ; sleep M' &) ; exit 0",
        "nohup sh -c 'sleep M' >/dev/null 2>&1 & exit 0",
        "exec 0<&- 1>&- 2>&-; sleep M & kill -9 $$",
        "i=0; while [ $i -lt 200 ]; do i=$((i+1)); sleep M & done; exit 0",
    ]
    .iter()
    .enumerate()
    {
        let marker = format!("{}.{}", 200_000 + std::process::id(), 10 + index);
        world.shell(&script.replace('M', &marker), vec![]);
        assert!(!is_running(&marker), "{script}");
    }
}

/// A process below this one that `is` so, with its parent.
fn find(is: impl Fn(i32, &str) -> bool) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        is(process, &stat).then_some(process)
    })
}

fn parent_of(process: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// As a kernel does that runs out of memory.
#[test]
fn a_watcher_that_is_killed_sets_nobody_free() {
    let Some(world) = World::new() else { return };
    for (index, script) in [
        "sleep M",
        "cat /dev/zero & setsid cat /dev/zero & sleep M & setsid setsid sleep M & wait",
        "setsid sh -c 'trap \"\" TERM HUP INT; while :; do echo x; (sleep 0.M &); done' & sleep M",
    ]
    .iter()
    .enumerate()
    {
        let marker = format!("{}{index}", 500_000 + std::process::id());
        let ended = AtomicBool::new(false);
        let spec = shell(&script.replace('M', &marker));
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                // The watcher is the child of this process that the one with the marker descends from.
                let is_marked = |process: i32, _: &str| {
                    let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
                    arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
                };
                let own = std::process::id().cast_signed();
                while !ended.load(Ordering::SeqCst) {
                    let Some(mut process) = find(is_marked) else { continue };
                    while parent_of(process) != own {
                        process = parent_of(process);
                    }
                    let watcher = rustix::process::Pid::from_raw(process).unwrap();
                    rustix::process::kill_process(watcher, rustix::process::Signal::KILL).unwrap();
                    break;
                }
            });
            let outcome = world.run(&spec, vec![], Network::Host, &Cancel::new().unwrap());
            ended.store(true, Ordering::SeqCst);
            outcome
        });
        assert_eq!(outcome.unwrap().status, ExitStatus::Signaled(9), "{script}");
        assert!(!is_running(&marker) && !is_running(&format!("0.{marker}")), "{script}");
    }
}

/// Not as root, whose number of processes has no limit of its own, so that nobody else runs out of them.
#[test]
fn a_step_that_forks_for_ever_ends() {
    let Some(world) = World::new() else { return };
    let marker = format!("{}.8", 400_000 + std::process::id());
    let mut spec =
        shell(&format!("f() {{ f | f & }}; f 2>/dev/null; usleep 100000; sleep {marker} & exit 0"));
    let process = spec.process_mut().as_mut().unwrap();
    process.set_user(UserBuilder::default().uid(54_323_u32).gid(54_323_u32).build().unwrap());
    let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNproc).soft(150_u64).hard(150_u64);
    process.set_rlimits(Some(vec![limit.build().unwrap()]));
    world.run(&spec, vec![], Network::Host, &Cancel::new().unwrap()).unwrap();
    assert!(!is_running(&marker));
    let is_of_the_step = |entry: fs::DirEntry| entry.metadata().is_ok_and(|found| found.uid() == 54_323);
    assert!(!fs::read_dir("/proc").unwrap().flatten().any(is_of_the_step));
}

#[test]
fn a_cancelled_step_ends_with_all_that_it_started() {
    let Some(world) = World::new() else { return };
    let marker = format!("{}.9", 300_000 + std::process::id());
    let cancel = Cancel::new().unwrap();
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let script = format!("trap '' TERM; setsid sleep {marker} & echo go; while :; do sleep {marker}; done");
    let spec = shell(&script);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_running(&marker) && !ended.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            started.store(true, Ordering::SeqCst);
            cancel.cancel();
        });
        let result = world.run(&spec, vec![], Network::Host, &cancel);
        ended.store(true, Ordering::SeqCst);
        result
    });
    assert!(started.load(Ordering::SeqCst));
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert!(!is_running(&marker));
}

#[test]
fn without_a_network_there_are_local_sockets_alone() {
    let Some(world) = World::new() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("nc 127.0.0.1 {port} </dev/null 2>&1 && echo reached");
    let reach = |network| {
        let outcome = world.run(&shell(&script), vec![], network, &Cancel::new().unwrap()).unwrap();
        outcome.stdout.contains("reached")
    };
    let reached = std::thread::scope(|scope| {
        scope.spawn(|| drop(listener.accept().unwrap()));
        let reached = reach(Network::Host);
        // The listener ends although nobody has come.
        drop(std::net::TcpStream::connect(("127.0.0.1", port)));
        reached
    });
    assert!(reached);
    assert!(!reach(Network::None));
}

#[test]
fn devices_serve_again_unless_something_was_done_to_them() {
    let Some(mut world) = World::new() else { return };
    fs::create_dir(world.path("devices")).unwrap();
    world.devices = Some(Devices::new(world.open("devices")));
    let kept = |world: &World| {
        let mut entries = fs::read_dir(world.path("devices")).unwrap().flatten();
        let kept = entries.next().map(|entry| entry.file_name());
        assert!(entries.next().is_none());
        kept
    };
    world.check("echo gone > /dev/null; echo x > /dev/stdout", "x\n");
    let mut before = kept(&world);
    // Without the time.
    let look = "ls -l /dev /dev/fd | wc -l; ls -ld /dev | cut -c 1-32";
    let whole = world.shell(look, vec![]).stdout;
    assert_eq!(kept(&world), before);
    for harm in [
        "rm /dev/null",
        "touch /dev/x",
        "touch /dev/shm/x",
        "chmod 600 /dev/fd/3",
        "chmod 700 /dev",
        "ln /dev/fd/7 /tmp/seven",
        "mv /dev/fd/1 /dev/fd/x; mv /dev/fd/2 /dev/fd/1; mv /dev/fd/x /dev/fd/2",
        "ln -sf fd/1 /dev/stderr",
        "rm -rf /dev",
    ] {
        world.shell(harm, vec![]);
        assert_eq!(kept(&world), None, "{harm}");
        assert_eq!(world.shell(look, vec![]).stdout, whole, "{harm}");
        assert!(kept(&world).is_some() && kept(&world) != before, "{harm}");
        before = kept(&world);
    }
}

#[test]
fn devices_work() {
    let Some(world) = World::new() else { return };
    world.check("echo gone > /dev/null; cat /dev/null; head -c 4 /dev/zero | wc -c", "4\n");
    world.check("head -c 8 /dev/urandom | wc -c; head -c 8 /dev/random | wc -c", "8\n8\n");
    world.check("echo x > /dev/full || echo full", "full\n");
    world.check("(: < /dev/tty) 2>/dev/null || echo none", "none\n");
    world.check("touch /dev/shm/x && rm /dev/shm/x && echo fine", "fine\n");
}

#[test]
fn descriptors_have_names() {
    let Some(world) = World::new() else { return };
    world.check("echo x > /dev/stdout; echo y | cat /dev/stdin; echo z | cat /dev/fd/0", "x\ny\nz\n");
    assert_eq!(world.shell("echo x > /dev/stderr", vec![]).stderr, "x\n");
    world.check(
        "echo x > /tmp/file; cat /dev/fd/5 5< /tmp/file; (: < /dev/fd/9) 2>/dev/null || echo none",
        "x\nnone\n",
    );
    world.check(
        "ln -s /dev/stdout /tmp/log; cd /tmp; echo x > log; cd /dev; echo y > stdout; echo z > fd/1",
        "x\ny\nz\n",
    );
    // The files that stand for them stay empty.
    world.check("ls -l /dev/fd/1 | tr -s ' ' | grep -c ' 0 '", "1\n");
}

#[test]
fn a_secret_is_given_to_who_may_read_it() {
    let check = |script: &str, user: u32, mode: u32, stdout: &str| {
        let Some(world) = World::new() else { return };
        let mut spec = shell(script);
        let process = spec.process_mut().as_mut().unwrap();
        process.set_user(UserBuilder::default().uid(user).gid(user).build().unwrap());
        let content = Content::Secret { value: b"hush".to_vec(), owner: (0, 0), mode };
        let placement = Placement { target: "/run/secrets/s".into(), content };
        let outcome = world.run(&spec, vec![placement], Network::Host, &Cancel::new().unwrap()).unwrap();
        assert_eq!(outcome.stdout, stdout, "{script}: {}", outcome.stderr);
        assert!(!world.path("root/run/secrets").exists(), "{script}");
        // A name that the step has given it stays, without even its length.
        let other = fs::metadata(world.path("root/run/other")).ok().map(|file| file.len());
        assert_eq!(other, script.contains("/run/other").then_some(0), "{script}");
    };
    check("cat /run/secrets/s /run/secrets/s", 0, 0o400, "hushhush");
    check("cd /run; cat ./secrets/../secrets/s; stat -c %s secrets/s", 0, 0o400, "hush4\n");
    check("cat /run/secrets/s", 1000, 0o444, "hush");
    check("cat /run/secrets/s || echo no", 1000, 0o400, "no\n");
    check(
        "echo x >> /run/secrets/s || echo no; true > /run/secrets/s || echo no; cat /run/secrets/s",
        0,
        0o600,
        "no\nno\nhush",
    );
    check(
        "ln /run/secrets/s /run/other && cat /run/other; cp /run/secrets/s /tmp/s; cat /tmp/s",
        0,
        0o400,
        "hushhush",
    );
    check(
        "exec 3< /run/secrets/s; rm /run/secrets/s; cat <&3; test -e /run/secrets/s || echo gone",
        0,
        0o400,
        "hushgone\n",
    );
}

#[test]
fn a_step_that_looks_for_processes_is_known() {
    let Some(world) = World::new() else { return };
    let outcome = world.shell("cat /proc/cpuinfo || exit 3", vec![]);
    assert_eq!(outcome.missed.as_deref(), Some(Path::new("/proc/cpuinfo")));
    assert_eq!(world.shell("cat /etc/none; exit 3", vec![]).missed, None);
    let probes = "cat /proc/filesystems /proc/mounts /proc/self/attr/current /proc/sys/crypto/fips_enabled";
    assert_eq!(world.shell(&format!("{probes}; exit 3"), vec![]).missed, None);
    let outcome = world.shell(&format!("{probes}; cat /proc/self/status; exit 0"), vec![]);
    assert_eq!((outcome.status, outcome.missed.as_deref()), (OK, Some(Path::new("/proc/self/status"))));
}
