//! Whole containers: a busybox root, the default spec, and what a command sees and leaves.
//!
//! Needs root, mount rights and a static busybox; says so and passes where one is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::{Value, json};
use wharf_runtime::{
    Bind, Cancel, ExitStatus, Request, RuntimeError, Spec, Stdio, Stream, default_seccomp, default_spec,
    resolve_user, run,
};

const APPLETS: &[&str] = &[
    "sh", "true", "cat", "echo", "id", "ls", "pwd", "env", "stat", "sleep", "kill", "mount", "umount",
    "unshare", "hostname", "readlink", "test", "mkdir", "rm", "touch", "chmod", "mknod", "head", "wc", "ps",
    "grep", "dd", "tr", "yes", "printf", "nohup", "setsid", "chown", "su", "mktemp", "ip", "sort", "mv",
    "seq", "sync", "tty", "basename",
];

/// A root file system in a directory that goes when this does.
struct World {
    directory: PathBuf,
}

impl World {
    /// None, with a word why, where containers cannot be made.
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
        let name =
            format!("wharf-container-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { directory: std::env::temp_dir().join(name) };
        for directory in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(world.path(directory)).unwrap();
        }
        fs::copy(busybox, world.path("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", world.path("bin").join(applet)).unwrap();
        }
        fs::write(
            world.path("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(world.path("etc/group"), "root:x:0:\napp:x:1000:\nvideo:x:44:app\n").unwrap();
        if let Err(error) = world.mount() {
            println!("SKIP: open_tree: {error}");
            return None;
        }
        Some(world)
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// The root as a detached mount.
    fn mount(&self) -> Result<OwnedFd, rustix::io::Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, &self.directory, flags)
    }

    fn run(&self, spec: &Spec) -> Result<Outcome, RuntimeError> {
        self.run_with(spec, Vec::new(), &Cancel::new().unwrap())
    }

    fn run_with(&self, spec: &Spec, binds: Vec<Bind>, cancel: &Cancel) -> Result<Outcome, RuntimeError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let root = self.mount().unwrap();
        let mut sink = |stream, chunk: &[u8]| match stream {
            Stream::Stdout => stdout.extend_from_slice(chunk),
            Stream::Stderr => stderr.extend_from_slice(chunk),
        };
        let stdio = Stdio::Captured(&mut sink);
        let status = run(Request {
            spec,
            root: root.as_fd(),
            binds,
            stdio,
            ownership: None,
            user_namespace: None,
            cancel,
        })?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Outcome { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs `script` in a shell with the default spec and `changes` to it.
    #[track_caller]
    fn shell(&self, script: &str, changes: &[(&str, Value)]) -> Outcome {
        match self.run(&shell(script, changes)) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{script}: {error}: {:?}", std::error::Error::source(&error)),
        }
    }

    #[track_caller]
    fn check(&self, script: &str, changes: &[(&str, Value)], status: ExitStatus, stdout: &str) {
        let outcome = self.shell(script, changes);
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (status, stdout),
            "{script}\nstderr: {}",
            outcome.stderr
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Changes to the default spec: JSON pointers and values.
type Changes<'a> = Vec<(&'a str, Value)>;

const OK: ExitStatus = ExitStatus::Exited(0);

fn shell(script: &str, changes: &[(&str, Value)]) -> Spec {
    let mut all = vec![("/process/args", json!(["/bin/sh", "-c", script]))];
    all.extend_from_slice(changes);
    spec(&all)
}

/// The default spec with the values at some JSON pointers replaced; `/-` at the end of one appends.
fn spec(changes: &[(&str, Value)]) -> Spec {
    let mut value = serde_json::to_value(default_spec()).unwrap();
    value["hostname"] = json!("box");
    for (pointer, new) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match value.pointer_mut(parent).unwrap() {
            Value::Array(array) => array.push(new.clone()),
            parent => parent[key] = new.clone(),
        }
    }
    serde_json::from_value(value).unwrap()
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

#[test]
fn statuses_and_streams_arrive() {
    let Some(world) = World::new() else { return };
    for (script, status, stdout) in [
        ("true", OK, ""),
        ("exit 7", ExitStatus::Exited(7), ""),
        ("exit 255", ExitStatus::Exited(255), ""),
        ("kill -9 $$", ExitStatus::Signaled(9), ""),
        ("kill -TERM $$; sleep 9", ExitStatus::Signaled(15), ""),
        ("kill -SEGV $$; sleep 9", ExitStatus::Signaled(11), ""),
        ("echo a; echo b; exit 3", ExitStatus::Exited(3), "a\nb\n"),
        ("cat", OK, ""), // stdin is empty
        ("no-such-command", ExitStatus::Exited(127), ""),
        ("tty", ExitStatus::Exited(1), "not a tty\n"),
        // PID 1 is not the command, and passes on what it is sent.
        ("trap 'echo got; exit 4' TERM; kill -TERM 1; sleep 9 & wait", ExitStatus::Exited(4), "got\n"),
        ("kill -9 1; echo lives", OK, "lives\n"),
        // PID 1 reaps, and ends what is left behind.
        ("(sh -c 'true &'; true) & sleep 0.1; ps -o stat | grep -c Z", ExitStatus::Exited(1), "0\n"),
        ("sleep 1000 & echo x", OK, "x\n"),
        ("setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & sleep 0.05; echo y", OK, "y\n"),
    ] {
        world.check(script, &[], status, stdout);
    }
    let outcome = world.shell("echo out; echo err >&2; exit 1", &[]);
    let expected =
        Outcome { status: ExitStatus::Exited(1), stdout: "out\n".to_owned(), stderr: "err\n".to_owned() };
    assert_eq!(outcome, expected);
}

#[test]
fn the_command_gets_what_the_spec_says_and_nothing_else() {
    let Some(world) = World::new() else { return };
    let user = |uid: u32, gid: u32, groups: &[u32]| {
        ("/process/user", json!({"uid": uid, "gid": gid, "additionalGids": groups}))
    };
    let env = |env: &[&str]| ("/process/env", json!(env));
    let cwd = |cwd: &str| ("/process/cwd", json!(cwd));
    let cases: Vec<(&str, Changes<'_>, &str)> = vec![
        ("env | grep -v -e ^PWD -e ^SHLVL | sort", vec![env(&["PATH=/bin", "A=b c"])], "A=b c\nPATH=/bin\n"),
        ("pwd", vec![cwd("/tmp")], "/tmp\n"),
        ("pwd; stat -c '%a %u' .", vec![cwd("/srv/deep")], "/srv/deep\n755 0\n"),
        ("umask", vec![], "0022\n"),
        ("umask", vec![("/process/user", json!({"uid": 0, "gid": 0, "umask": 0o77}))], "0077\n"),
        ("id -u; id -g; id -G", vec![], "0\n0\n0\n"),
        ("id -u; id -g; id -G", vec![user(1000, 1001, &[44, 29])], "1000\n1001\n1001 29 44\n"),
        (
            "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr '\\t' ' '",
            vec![],
            concat!(
                "CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\n",
                "CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n"
            ),
        ),
        (
            "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr '\\t' ' '",
            vec![user(1000, 1000, &[])],
            concat!(
                "CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n",
                "CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n"
            ),
        ),
        (
            "grep -E 'Cap(Prm|Amb)' /proc/self/status | tr '\\t' ' '",
            vec![
                user(1000, 1000, &[]),
                ("/process/capabilities/inheritable", json!(["CAP_KILL"])),
                ("/process/capabilities/ambient", json!(["CAP_KILL"])),
            ],
            "CapPrm: 0000000000000020\nCapAmb: 0000000000000020\n",
        ),
        (
            "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '",
            vec![],
            "NoNewPrivs: 0\nSeccomp: 2\n",
        ),
        (
            "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '",
            vec![("/process/noNewPrivileges", json!(true)), user(1000, 1000, &[])],
            "NoNewPrivs: 1\nSeccomp: 2\n",
        ),
        (
            "grep Seccomp: /proc/self/status | tr '\\t' ' '",
            vec![("/linux/seccomp", Value::Null)],
            "Seccomp: 0\n",
        ),
        (
            "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status | tr '\\t' ' '",
            vec![],
            "SigBlk: 0000000000000000\nSigIgn: 0000000000000000\nSigCgt: 0000000000000000\n",
        ),
        ("ls -1 /proc/self/fd", vec![], "0\n1\n2\n3\n"), // 3 is the directory itself
        ("readlink /proc/self/fd/0", vec![], "/dev/null\n"),
        ("echo x > /dev/stdout; echo y > /dev/fd/1", vec![user(1000, 1000, &[])], "x\ny\n"),
        (
            "ulimit -n; ulimit -Hn",
            vec![("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]))],
            "77\n99\n",
        ),
        ("cat /proc/self/oom_score_adj", vec![("/process/oomScoreAdj", json!(500))], "500\n"),
        ("hostname", vec![], "box\n"),
        (
            "echo $$; cat /proc/1/comm; tr '\\0' '\\n' < /proc/1/cmdline | head -n 1",
            vec![],
            "2\nwharf-init\nwharf-init\n",
        ),
        (
            "for f in environ mem exe fd/3 root/etc/passwd cwd/etc/passwd; do head -c 1 /proc/1/$f 2>/dev/null | wc -c; done",
            vec![],
            "0\n0\n0\n0\n0\n0\n",
        ),
    ];
    for (script, changes, stdout) in cases {
        let outcome = world.shell(script, &changes);
        assert_eq!(outcome.stdout, stdout, "{script}\nstderr: {}", outcome.stderr);
    }
    assert!(world.path("srv/deep").is_dir(), "a working directory that was missing stays");
}

#[test]
fn limits_that_the_spec_does_not_name_are_the_callers() {
    let Some(world) = World::new() else { return };
    let limits = |text: &str| {
        text.lines().filter(|line| line.starts_with("Max")).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = limits(&fs::read_to_string("/proc/self/limits").unwrap());
    assert_eq!(limits(&world.shell("cat /proc/self/limits", &[]).stdout), own);
}

#[test]
fn the_file_system_is_the_containers_own() {
    let Some(world) = World::new() else { return };
    for (script, status, stdout) in [
        ("ls -1 / | tr '\\n' ' '", OK, "bin dev etc proc root sys tmp "),
        (
            "stat -c '%t:%T %a %F' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
            OK,
            concat!(
                "1:3 666 character special file\n1:5 666 character special file\n1:7 666 character special file\n",
                "1:8 666 character special file\n1:9 666 character special file\n5:0 666 character special file\n"
            ),
        ),
        (
            "for l in ptmx fd stdin stdout stderr core; do readlink /dev/$l; done",
            OK,
            "pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore\n",
        ),
        ("echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c", OK, "3\n2\n"),
        ("echo x > /dev/full", ExitStatus::Exited(1), ""),
        ("chmod 600 /dev/null; stat -c %a /dev/null", OK, "600\n"),
        ("test -c /dev/pts/ptmx && test -d /dev/mqueue && stat -c '%a %U' /dev/shm", OK, "1777 root\n"),
        ("touch /dev/shm/x && ls /dev/shm", OK, "x\n"),
        // Not to be looked into.
        (
            "cat /proc/kcore | wc -c; cat /proc/timer_list /proc/keys | wc -c; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | wc -w",
            OK,
            "0\n0\n0\n",
        ),
        // Not to be written to.
        ("touch /sys/x", ExitStatus::Exited(1), ""),
        ("echo 1 > /proc/sys/kernel/panic", ExitStatus::Exited(1), ""),
        ("echo h > /proc/sysrq-trigger", ExitStatus::Exited(1), ""),
        ("mkdir /sys/fs/cgroup/x", ExitStatus::Exited(1), ""),
        // A device node of its own cannot be opened, on whatever mount.
        ("mknod /tmp/n c 1 3 && cat /tmp/n", ExitStatus::Exited(1), ""),
        ("mknod /dev/n c 1 3 && cat /dev/n", ExitStatus::Exited(1), ""),
        ("mknod /dev/shm/n c 1 3 && cat /dev/shm/n", ExitStatus::Exited(1), ""),
        // Mounts and namespaces are for the host.
        ("mount -t tmpfs x /tmp", ExitStatus::Exited(1), ""),
        ("umount /proc", ExitStatus::Exited(1), ""),
        ("unshare -U true", ExitStatus::Exited(1), ""),
        ("unshare -m true", ExitStatus::Exited(1), ""),
        // The old root is gone.
        ("grep -c wharf-container /proc/self/mountinfo; ls /proc/1/root/", ExitStatus::Exited(1), ""),
    ] {
        let outcome = world.shell(script, &[]);
        if !stdout.is_empty() {
            assert_eq!(outcome.stdout, stdout, "{script}\nstderr: {}", outcome.stderr);
        }
        assert_eq!(
            outcome.status, status,
            "{script}\nstdout: {}\nstderr: {}",
            outcome.stdout, outcome.stderr
        );
    }
    let host = fs::metadata("/dev/null").unwrap();
    assert_eq!(host.mode() & 0o777, 0o666, "the host's /dev/null");
}

#[test]
fn a_read_only_root_is_read_only() {
    let Some(world) = World::new() else { return };
    let changes = [("/root", json!({"path": "ignored", "readonly": true}))];
    world.check("touch /x || echo refused; touch /dev/shm/x && echo fine", &changes, OK, "refused\nfine\n");
}

#[test]
fn a_privileged_container_may_do_everything() {
    let Some(world) = World::new() else { return };
    let all = json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_RESOURCE"]);
    let changes = [
        ("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}])),
        ("/process/capabilities/bounding", all.clone()),
        ("/process/capabilities/permitted", all.clone()),
        ("/process/capabilities/effective", all),
        ("/linux/seccomp", Value::Null),
        ("/linux/maskedPaths", json!([])),
        ("/linux/readonlyPaths", json!([])),
    ];
    let script = "mknod /tmp/z c 1 5 && head -c 2 /tmp/z | wc -c; mount -t tmpfs x /tmp && echo mounted; \
                  unshare -m true && echo unshared; stat -c %F /dev/null";
    world.check(script, &changes, OK, "2\nmounted\nunshared\ncharacter special file\n");
}

#[test]
fn the_seccomp_profile_follows_the_capabilities() {
    let Some(world) = World::new() else { return };
    let admin = default_seccomp(&[oci_spec::runtime::Capability::SysAdmin].into_iter().collect());
    let changes = [("/linux/seccomp", serde_json::to_value(admin).unwrap())];
    // The call passes the filter now, and is refused for lack of the capability.
    world.check(
        "unshare -m true 2>&1; echo $?",
        &changes,
        OK,
        "unshare: unshare(0x20000): Operation not permitted\n1\n",
    );
    let refusing = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let script = "mkdir /tmp/x 2>&1";
    let changes = [("/linux/seccomp", refusing)];
    world.check(
        script,
        &changes,
        ExitStatus::Exited(1),
        "mkdir: can't create directory '/tmp/x': No space left on device\n",
    );
}

#[test]
fn mounts_of_the_spec_and_of_the_caller_appear() {
    let Some(world) = World::new() else { return };
    let outside =
        world.path("../").canonicalize().unwrap().join(format!("wharf-bind-{}", std::process::id()));
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("file"), "hello\n").unwrap();
    let spec = shell(
        "cat /etc/hosts /in/file; touch /in/x || echo ro; touch /rw/new; ls /tmp/t; touch /tmp/t/x && \
         cat /given/file /tmp/t/in/file; mknod /rw/sub/n c 1 3 && cat /rw/sub/n || echo nodev; stat -c %a /tmp/t",
        &[
            ("/mounts/-", bind(&outside.join("file"), "/etc/hosts", &["bind", "ro"])),
            ("/mounts/-", bind(&outside, "/in", &["rbind", "ro", "nosuid"])),
            ("/mounts/-", bind(&outside, "/rw", &["bind"])),
            (
                "/mounts/-",
                json!({"destination": "/tmp/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}),
            ),
            ("/mounts/-", bind(&outside, "/tmp/t/in", &["bind", "ro"])),
        ],
    );
    let given = OwnedFd::from(File::open(&outside).unwrap());
    let result = world.run_with(
        &spec,
        vec![Bind { target: PathBuf::from("/given"), tree: given, read_only: false, no_exec: false }],
        &Cancel::new().unwrap(),
    );
    let outcome = result.unwrap();
    let expected = "hello\nhello\nro\nin\nhello\nhello\nnodev\n700\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
    assert!(outside.join("new").exists() && !outside.join("x").exists());
    for stub in ["in", "rw", "given", "tmp/t", "etc/hosts", "proc", "sys", "dev"] {
        assert!(!world.path(stub).exists(), "{stub} is left");
    }
    fs::remove_dir_all(&outside).unwrap();

    let missing =
        spec_error(&world, &shell("true", &[("/mounts/-", bind(Path::new("/no/such"), "/x", &["bind"]))]));
    assert_eq!(missing, "cannot bind /no/such: No such file or directory (os error 2)");
}

#[track_caller]
fn spec_error(world: &World, spec: &Spec) -> String {
    let error = world.run(spec).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[test]
fn links_in_the_image_stay_inside() {
    let Some(world) = World::new() else { return };
    let outside = std::env::temp_dir().join(format!("wharf-outside-{}", std::process::id()));
    fs::create_dir_all(&outside).unwrap();
    symlink(&outside, world.path("link")).unwrap();
    symlink("../../../../run/resolv.conf", world.path("etc/resolv.conf")).unwrap();
    let file = world.path("etc/passwd");
    let changes = [
        ("/mounts/-", bind(&file, "/link/inner/file", &["bind", "ro"])),
        ("/mounts/-", bind(&file, "/etc/resolv.conf", &["bind", "ro"])),
    ];
    world.check("cat /link/inner/file /etc/resolv.conf | grep -c ^root", &changes, OK, "2\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!world.path("run").exists() && !world.path(outside.strip_prefix("/").unwrap()).exists());
    fs::remove_dir_all(&outside).unwrap();
}

#[test]
fn stubs_go_unless_the_command_changed_them() {
    let Some(world) = World::new() else { return };
    let before = fs::metadata(world.path("etc")).unwrap();
    let hosts = world.path("etc/passwd");
    let changes = [("/mounts/-", bind(&hosts, "/etc/hosts", &["bind", "ro"]))];
    world.check("test -s /etc/hosts", &changes, OK, "");
    assert!(!world.path("etc/hosts").exists());
    let after = fs::metadata(world.path("etc")).unwrap();
    assert_eq!(
        (after.mtime(), after.mtime_nsec()),
        (before.mtime(), before.mtime_nsec()),
        "the time of /etc"
    );

    // Neither a stub that was there before nor one whose directory was filled goes.
    fs::create_dir(world.path("var")).unwrap();
    let cache = json!({"destination": "/opt/a/cache", "type": "tmpfs", "source": "tmpfs"});
    world.check("touch /opt/a/kept", &[("/mounts/-", cache)], OK, "");
    assert!(world.path("opt/a/kept").exists() && !world.path("opt/a/cache").exists());
    let there = json!({"destination": "/var", "type": "tmpfs", "source": "tmpfs"});
    world.check("touch /var/x", &[("/mounts/-", there)], OK, "");
    assert!(world.path("var").exists() && !world.path("var/x").exists());

    // They go after a failure as well.
    let failing = spec(&[("/process/args", json!(["/no/such"]))]);
    world.run(&failing).unwrap_err();
    assert!(!world.path("proc").exists());
}

#[test]
fn what_cannot_be_executed_is_an_error() {
    let Some(world) = World::new() else { return };
    fs::write(world.path("tmp/text"), "no program\n").unwrap();
    fs::write(world.path("bin/data"), "#!/no/such/interpreter\n").unwrap();
    for path in ["tmp/text", "bin/data"] {
        fs::set_permissions(world.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::write(world.path("tmp/plain"), "").unwrap();
    for (command, not_found, message) in [
        ("missing", true, "No such file or directory (os error 2)"),
        ("/missing", true, "No such file or directory (os error 2)"),
        ("/etc/passwd/x", true, "Not a directory (os error 20)"),
        ("/tmp/plain", false, "Permission denied (os error 13)"),
        ("/tmp", false, "Permission denied (os error 13)"),
        ("plain", false, "Permission denied (os error 13)"),
        ("/tmp/text", false, "Exec format error (os error 8)"),
        ("data", true, "No such file or directory (os error 2)"),
    ] {
        let env = ("/process/env", json!(["PATH=/bin:/tmp:/etc/passwd"]));
        match world.run(&spec(&[("/process/args", json!([command])), env])) {
            Err(RuntimeError::Exec { command: named, not_found: kind, source }) => {
                let source = if command == "/etc/passwd/x" { message.to_owned() } else { source.to_string() };
                assert_eq!((named.as_str(), kind, source.as_str()), (command, not_found, message));
            }
            other => panic!("{command}: {other:?}"),
        }
    }
    fs::write(world.path("file"), "").unwrap();
    let cwd = shell("true", &[("/process/cwd", json!("/file"))]);
    assert_eq!(
        spec_error(&world, &cwd),
        "cannot enter the working directory /file: Not a directory (os error 20)"
    );
    let mount = json!({"destination": "/x", "type": "nofs", "source": "x"});
    assert_eq!(
        spec_error(&world, &shell("true", &[("/mounts/-", mount)])),
        "cannot mount nofs at /x: No such device (os error 19)"
    );
}

#[test]
fn the_network_is_the_hosts_or_none() {
    let Some(world) = World::new() else { return };
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let script = "readlink /proc/self/ns/net; ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1";
    let shared = world.shell(script, &[]);
    assert_eq!(shared.stdout.lines().next(), host.to_str(), "{}", shared.stderr);
    let own = world.shell(script, &[("/linux/namespaces/-", json!({"type": "network"}))]);
    let lines: Vec<&str> = own.stdout.lines().collect();
    assert_ne!(lines.first().copied(), host.to_str());
    assert_eq!(lines.get(1..), Some(&["lo", "1"][..]), "{}", own.stderr);
    let joined = world
        .shell(script, &[("/linux/namespaces/-", json!({"type": "network", "path": "/proc/self/ns/net"}))]);
    assert_eq!(joined.stdout.lines().next(), host.to_str());
}

#[test]
fn other_namespaces_are_not_the_hosts() {
    let Some(world) = World::new() else { return };
    for name in ["mnt", "pid", "ipc", "uts", "cgroup"] {
        let path = format!("/proc/self/ns/{name}");
        let inside = world.shell(&format!("readlink {path}"), &[]).stdout;
        assert_ne!(inside.trim_end(), fs::read_link(&path).unwrap().to_str().unwrap(), "{name}");
    }
    let user = world.shell("readlink /proc/self/ns/user", &[]).stdout;
    assert_eq!(user.trim_end(), fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap());
}

/// What was forked while the program was written has it open for a moment.
#[test]
fn a_program_that_was_just_written_runs() {
    let Some(world) = World::new() else { return };
    let writer = || fs::File::options().append(true).open(world.path("bin/busybox")).unwrap();
    let open = writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(open);
        });
        world.check("echo ran", &[], OK, "ran\n");
    });
    let _open = writer();
    let error = world.run(&shell("true", &[])).unwrap_err();
    let RuntimeError::Exec { source, not_found: false, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ExecutableFileBusy);
}

#[test]
fn output_is_complete() {
    let Some(world) = World::new() else { return };
    let root = world.mount().unwrap();
    let (bytes, sum) = (RefCell::new(0u64), RefCell::new(0u64));
    let mut sink = |stream, chunk: &[u8]| {
        assert_eq!(stream, Stream::Stdout);
        *bytes.borrow_mut() += chunk.len() as u64;
        *sum.borrow_mut() += chunk.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    };
    let spec = shell("dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' 'a'", &[]);
    let stdio = Stdio::Captured(&mut sink);
    let cancel = Cancel::new().unwrap();
    let status = run(Request {
        spec: &spec,
        root: root.as_fd(),
        binds: vec![],
        stdio,
        ownership: None,
        user_namespace: None,
        cancel: &cancel,
    })
    .unwrap();
    assert_eq!((status, bytes.into_inner(), sum.into_inner()), (OK, 64 << 20, (64 << 20) * 97));
}

#[test]
fn cancelling_ends_it() {
    let Some(world) = World::new() else { return };
    let cancel = Cancel::new().unwrap();
    let marker = format!("{}.5", 100_000 + std::process::id());
    let spec =
        shell(&format!("trap '' TERM INT; echo ready; sleep {marker} & sleep {marker}; sleep {marker}"), &[]);
    let root = world.mount().unwrap();
    let other = cancel.clone();
    let mut sink = |_, _: &[u8]| other.cancel();
    let stdio = Stdio::Captured(&mut sink);
    let result = run(Request {
        spec: &spec,
        root: root.as_fd(),
        binds: vec![],
        stdio,
        ownership: None,
        user_namespace: None,
        cancel: &cancel,
    });
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert_eq!(processes_with(&marker), 0);
    assert!(!world.path("proc").exists());

    let result = world.run_with(&spec, vec![], &cancel);
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
}

#[test]
fn a_panic_of_the_caller_ends_it() {
    let Some(world) = World::new() else { return };
    let marker = format!("{}.25", 200_000 + std::process::id());
    let spec = shell(&format!("echo ready; sleep {marker}"), &[]);
    let root = world.mount().unwrap();
    let cancel = Cancel::new().unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut sink = |_, _: &[u8]| std::panic::resume_unwind(Box::new("enough"));
        let stdio = Stdio::Captured(&mut sink);
        run(Request {
            spec: &spec,
            root: root.as_fd(),
            binds: vec![],
            stdio,
            ownership: None,
            user_namespace: None,
            cancel: &cancel,
        })
    }));
    assert!(result.is_err());
    assert_eq!(processes_with(&marker), 0);
    assert!(!world.path("proc").exists());
}

/// How many processes have `marker` among their arguments.
fn processes_with(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments
        .filter(|arguments| arguments.split(|&byte| byte == 0).any(|word| word == marker.as_bytes()))
        .count()
}

/// Waits for something that nobody announces; a minute means that it never comes.
fn until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

const HOLD: &str = "WHARF_RUNTIME_TEST_HOLD";

/// Not a test by itself: the program that [`the_death_of_the_caller_ends_it`] kills.
#[test]
fn hold_a_container() {
    let Ok(marker) = std::env::var(HOLD) else { return };
    let Some(world) = World::new() else { return };
    println!("DIRECTORY {}", world.directory.display());
    let root = world.mount().unwrap();
    let spec = shell(&format!("echo ready; sleep {marker} & sleep {marker}"), &[]);
    let mut sink = |_, _: &[u8]| println!("READY");
    let stdio = Stdio::Captured(&mut sink);
    let cancel = Cancel::new().unwrap();
    let _ = run(Request {
        spec: &spec,
        root: root.as_fd(),
        binds: vec![],
        stdio,
        ownership: None,
        user_namespace: None,
        cancel: &cancel,
    });
}

#[test]
fn the_death_of_the_caller_ends_it() {
    if World::new().is_none() {
        return;
    }
    let marker = format!("{}.125", 300_000 + std::process::id());
    let mut caller = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_container", "--nocapture", "--test-threads=1"])
        .env(HOLD, &marker)
        .stdout(ProcessStdio::piped())
        .spawn()
        .unwrap();
    let mut directory = None;
    for line in BufReader::new(caller.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, path)) = line.split_once("DIRECTORY ") {
            directory = Some(PathBuf::from(path));
        }
        if line.contains("READY") {
            break;
        }
    }
    let both = until(|| processes_with(&marker) == 2);
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert!(both, "the container did not start");
    assert!(until(|| processes_with(&marker) == 0), "processes are left");
    fs::remove_dir_all(directory.unwrap()).unwrap();
}

#[test]
fn many_at_once_in_a_busy_process() {
    // A root for each, as each step of a build has one.
    let worlds: Vec<World> = (0..8).map_while(|_| World::new()).collect();
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for seed in 0..3usize {
            let busy = &busy;
            scope.spawn(move || {
                let mut kept = Vec::new();
                while busy.load(Ordering::Relaxed) {
                    kept.push(vec![seed as u8; 1 + (kept.len() * 7919) % 100_000]);
                    if kept.len() > 50 {
                        kept.clear();
                    }
                }
            });
        }
        let runners: Vec<_> = worlds
            .iter()
            .enumerate()
            .map(|(thread, world)| {
                scope.spawn(move || {
                    for round in 0..10 {
                        let script = format!("echo {thread} {round}; sleep 0.01; exit {round}");
                        world.check(&script, &[], ExitStatus::Exited(round), &format!("{thread} {round}\n"));
                    }
                })
            })
            .collect();
        let results: Vec<_> = runners.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        busy.store(false, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
}

#[test]
fn nothing_of_a_container_is_left() {
    let Some(world) = World::new() else { return };
    let descriptors = || {
        fs::read_dir("/proc/self/task/self/fd").or_else(|_| fs::read_dir("/proc/self/fd")).unwrap().count()
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().matches("wharf-container").count();
    world.check("true", &[], OK, "");
    let before = mounts();
    for _ in 0..3 {
        world.check("sleep 1000 &", &[], OK, "");
    }
    assert_eq!(mounts(), before);
    // Other tests open descriptors at the same time, so a leak would have to be a big one to be told apart.
    assert!(descriptors() < 500);
}

#[test]
fn a_root_can_be_a_directory_and_used_again() {
    let Some(world) = World::new() else { return };
    let directory = OwnedFd::from(File::open(&world.directory).unwrap());
    let detached = world.mount().unwrap();
    for root in [&directory, &directory, &detached, &detached] {
        let spec = shell("true", &[]);
        let mut sink = |_, _: &[u8]| {};
        let stdio = Stdio::Captured(&mut sink);
        let cancel = Cancel::new().unwrap();
        let status = run(Request {
            spec: &spec,
            root: root.as_fd(),
            binds: vec![],
            stdio,
            ownership: None,
            user_namespace: None,
            cancel: &cancel,
        });
        assert_eq!(status.unwrap(), OK);
    }
}

#[test]
fn an_overlay_shows_no_trace_of_mount_points() {
    let Some(world) = World::new() else { return };
    let layers = std::env::temp_dir().join(format!("wharf-layers-{}", std::process::id()));
    for directory in ["upper", "work"] {
        fs::create_dir_all(layers.join(directory)).unwrap();
    }
    let overlay = || {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [
            ("lowerdir", &world.directory),
            ("upperdir", &layers.join("upper")),
            ("workdir", &layers.join("work")),
        ] {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let before = fs::metadata(world.path("etc")).unwrap();
    for round in 0..3 {
        let root = match overlay() {
            Ok(root) => root,
            Err(error) => return println!("SKIP: overlay: {error}"),
        };
        let script = format!("touch /tmp/{round}; test -s /etc/hosts");
        let spec =
            shell(&script, &[("/mounts/-", bind(&world.path("etc/passwd"), "/etc/hosts", &["bind", "ro"]))]);
        let mut sink = |_, _: &[u8]| {};
        let stdio = Stdio::Captured(&mut sink);
        let cancel = Cancel::new().unwrap();
        let status = run(Request {
            spec: &spec,
            root: root.as_fd(),
            binds: vec![],
            stdio,
            ownership: None,
            user_namespace: None,
            cancel: &cancel,
        });
        assert_eq!(status.unwrap(), OK);
    }
    let mut changed: Vec<String> = fs::read_dir(layers.join("upper"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    changed.sort();
    assert_eq!(changed, ["etc", "tmp"]);
    assert_eq!(fs::read_dir(layers.join("upper/etc")).unwrap().count(), 0);
    let after = fs::metadata(layers.join("upper/etc")).unwrap();
    assert_eq!(
        (after.mtime(), after.mtime_nsec()),
        (before.mtime(), before.mtime_nsec()),
        "the time of /etc"
    );
    assert_eq!(fs::read_dir(layers.join("upper/tmp")).unwrap().count(), 3);
    fs::remove_dir_all(&layers).unwrap();
}

const INHERIT: &str = "WHARF_RUNTIME_TEST_INHERIT";

/// Not a test by itself: the program whose streams [`streams_can_be_the_callers`] looks at.
#[test]
fn lend_streams_to_a_container() {
    if std::env::var_os(INHERIT).is_none() {
        return;
    }
    let Some(world) = World::new() else { return };
    let root = world.mount().unwrap();
    let spec = shell("cat; echo err >&2; ls /proc/self/fd | wc -l; exit 5", &[]);
    let cancel = Cancel::new().unwrap();
    let stdio = Stdio::Inherit { signals: None };
    let status = run(Request {
        spec: &spec,
        root: root.as_fd(),
        binds: vec![],
        stdio,
        ownership: None,
        user_namespace: None,
        cancel: &cancel,
    });
    println!("{status:?}");
}

#[test]
fn streams_can_be_the_callers() {
    use std::io::Write as _;
    if World::new().is_none() {
        return;
    }
    let mut caller = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lend_streams_to_a_container", "--nocapture", "--test-threads=1"])
        .env(INHERIT, "1")
        .stdin(ProcessStdio::piped())
        .stdout(ProcessStdio::piped())
        .stderr(ProcessStdio::piped())
        .spawn()
        .unwrap();
    caller.stdin.take().unwrap().write_all(b"given\n").unwrap();
    let output = caller.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("given\n4\nOk(Exited(5))\n"), "{stdout}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"));
}

#[test]
fn users_come_from_the_root() {
    let Some(world) = World::new() else { return };
    let root = world.mount().unwrap();
    let app = resolve_user(root.as_fd(), "app").unwrap();
    assert_eq!(
        (app.uid, app.gid, app.additional_gids, app.home.as_str()),
        (1000, 1000, vec![44], "/home/app")
    );
    fs::remove_file(world.path("etc/passwd")).unwrap();
    symlink("/etc/group", world.path("etc/passwd")).unwrap();
    assert!(resolve_user(root.as_fd(), "app").is_err(), "a link was followed out of the root");
}
