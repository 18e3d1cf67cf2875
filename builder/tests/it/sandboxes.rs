//! The sandboxes that take a user namespace: who gets which, what steps see there, and that the image is the same one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Outcome, Scratch, Wharf, busybox_layout, have, tool};

/// An ordinary user of the machine, whom only a test knows.
const UID: u32 = 54_321;

const ENVIRONMENT: i32 = 5;

/// Needs no other ids than the one.
const ONE_ID: &str = "FROM busybox AS files
COPY context-file /kept
RUN mkdir -p /dir/below && touch /dir/below/file /kept2 && ln /kept2 /linked && mkfifo /dir/fifo && ln -s x /dir/link
FROM busybox
COPY --from=files /dir /dir
COPY --from=files /kept /kept2 /
RUN rm -r /dir && mkdir /dir && test -z \"$(ls -A /dir)\" && touch /dir/new
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c --mount=type=secret,id=word \
    --mount=type=bind,target=/b touch /t/x /c/x && test \"$(cat /run/secrets/word)\" = hush && cat /b/context-file >/seen
RUN --network=none echo $(cat /sys/class/net/lo/mtu) >/mtu
";

/// Needs others.
const MANY_IDS: &str = "COPY --chown=7:8 context-file /owned
RUN touch /mine && chown 1000:1001 /mine && chmod 4755 /mine && stat -c '%u:%g' /owned /mine >/owners
USER 1234:567
RUN id -u >/tmp/id && touch /tmp/its && test \"$(id -u):$(id -g)\" = 1234:567
";

/// What a step finds in every sandbox.
const SEEN: &str = "FROM busybox
RUN test \"$(id -u)\" = 0 && test \"$(hostname)\" = buildkitsandbox && test \"$(grep -c . /proc/self/uid_map)\" -ge 1
RUN for name in null zero full random urandom tty; do test -c /dev/$name || exit 1; done; echo x >/dev/null
RUN head -c 4 /dev/zero | wc -c | grep -qx 4 && test -c /dev/pts/ptmx && echo x >/dev/shm/x
RUN ! mount -t tmpfs none /mnt && ! echo 1 >/proc/sys/kernel/sysrq
RUN test -z \"$(ls -A /proc/acpi 2>/dev/null)\" && test ! -s /proc/keys && ! touch /sys/x
RUN grep -qx 'CapBnd:.00000000a80425fb' /proc/self/status && grep -q 'Seccomp:.2' /proc/self/status
RUN test \"$(cat /proc/self/comm)\" = cat && readlink /proc/self/fd/0 && test $$ = 2
";

/// Who builds, and how.
pub(crate) struct Builder {
    pub(crate) name: &'static str,
    /// Whether it is the ordinary user, and what that user has.
    pub(crate) user: Option<User>,
    /// `--sandbox`.
    pub(crate) forced: Option<&'static str>,
    /// The sandbox that it gets.
    pub(crate) sandbox: &'static str,
}

pub(crate) struct User {
    subordinate_ids: bool,
    passwd_entry_and_home: bool,
}

pub(crate) const BUILDERS: [Builder; 5] = [
    Builder { name: "root", user: None, forced: Some("rootless"), sandbox: "rootless" },
    Builder {
        name: "root with one id",
        user: None,
        forced: Some("rootless-single"),
        sandbox: "rootless-single",
    },
    Builder {
        name: "a user with subordinate ids",
        user: Some(User { subordinate_ids: true, passwd_entry_and_home: true }),
        forced: None,
        sandbox: "rootless",
    },
    Builder {
        name: "a user without",
        user: Some(User { subordinate_ids: false, passwd_entry_and_home: true }),
        forced: None,
        sandbox: "rootless-single",
    },
    Builder {
        name: "a user whom nobody knows",
        user: Some(User { subordinate_ids: true, passwd_entry_and_home: false }),
        forced: None,
        sandbox: "rootless-single",
    },
];

/// A place that everybody can work in: `context/`, `etc/`, `home/`.
pub(crate) struct World(Scratch);

impl World {
    pub(crate) fn new() -> Option<Self> {
        let base = busybox_layout()?;
        Wharf::new()?;
        if !have(&["setpriv", "newuidmap", "unshare"]) {
            return None;
        }
        let scratch = Scratch::for_everybody();
        for name in ["context", "etc", "home", "out"] {
            fs::create_dir(scratch.path(name)).unwrap();
        }
        fs::write(scratch.path("context/context-file"), "of the context\n").unwrap();
        fs::write(scratch.path("word"), "hush").unwrap();
        let copy = Command::new("cp").args(["-r"]).arg(base).arg(scratch.path("busybox")).status().unwrap();
        assert!(copy.success());
        tool("chmod", &["-R", "a+rX", scratch.path("busybox").to_str().unwrap()]);
        // With one id, root's own, nobody may write but where everybody may.
        fs::set_permissions(scratch.path("out"), fs::Permissions::from_mode(0o777)).unwrap();
        chown(scratch.path("home"), Some(UID), Some(UID)).unwrap();
        Some(Self(scratch))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    pub(crate) fn dockerfile(&self, text: &str) -> &Self {
        fs::write(self.0.path("context/Dockerfile"), text).unwrap();
        self
    }

    /// `wharf ARGUMENTS` as `builder` starts it, here.
    pub(crate) fn wharf(&self, builder: &Builder, arguments: &[&str]) -> Outcome {
        self.wharf_after("true", builder, arguments)
    }

    /// The same after `command` of the shell that starts it.
    pub(crate) fn wharf_after(&self, command: &str, builder: &Builder, arguments: &[&str]) -> Outcome {
        let shell = ["sh".to_owned(), "-c".to_owned(), format!("{command} && exec \"$@\""), "sh".to_owned()];
        let scratch = |name: &str| self.0.path(name).to_str().unwrap().to_owned();
        let mut all = vec![env!("CARGO_BIN_EXE_wharf").to_owned()];
        if let Some(sandbox) = builder.forced {
            all.extend(["--sandbox".to_owned(), sandbox.to_owned()]);
        }
        let Some(user) = &builder.user else {
            all.extend(["--root".to_owned(), scratch(&format!("store-{}", builder.sandbox))]);
            let arguments = arguments.iter().map(|&it| it.to_owned());
            return self.start(shell.into_iter().chain(all).chain(arguments).collect(), &[]);
        };
        // The machine's own files stay as they are.
        let known = user.passwd_entry_and_home;
        let passwd = format!(
            "root:x:0:0::/root:/bin/sh\n{}",
            if known { format!("ann:x:{UID}:{UID}::{}:/bin/sh\n", scratch("home")) } else { String::new() }
        );
        let ids = if user.subordinate_ids { "ann:200000:65536\n" } else { "" };
        for (name, text) in [("passwd", passwd.as_str()), ("subuid", ids), ("subgid", ids)] {
            fs::write(self.0.path("etc").join(name), text).unwrap();
        }
        let bind = "cd etc && for file in *; do mount --bind $file /etc/$file || exit 99; done; cd .. && exec \"$@\"";
        let ids = [format!("--reuid={UID}"), format!("--regid={UID}"), "--clear-groups".to_owned()];
        let mut started = shell.to_vec();
        started.extend(["unshare", "-m", "sh", "-c", bind, "sh", "setpriv"].map(str::to_owned));
        started.extend(ids);
        if !known {
            all.extend(["--root".to_owned(), scratch("home/unknown")]);
        } else if !user.subordinate_ids {
            all.extend(["--root".to_owned(), scratch("home/single")]);
        }
        started.extend(all);
        started.extend(arguments.iter().map(|&it| it.to_owned()));
        let home = scratch("home");
        let home = [("HOME", &home)];
        self.start(started, if known { &home } else { &[] })
    }

    pub(crate) fn start(&self, words: Vec<String>, variables: &[(&str, &String)]) -> Outcome {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.0.path("")).stdin(Stdio::null());
        command.env_remove("HOME").env_remove("XDG_DATA_HOME").env("SOURCE_DATE_EPOCH", "1000000000");
        command.envs(variables.iter().copied());
        Outcome::of(command)
    }

    fn build(&self, builder: &Builder, arguments: &[&str]) -> Outcome {
        let base = format!("busybox=oci-layout://{}", self.0.path("busybox").display());
        let fixed =
            ["build", "--progress", "plain", "--secret", "id=word,src=word", "--build-context", &base];
        self.wharf(builder, &[&fixed[..], arguments, &["context"]].concat())
    }

    /// The id of what is built.
    #[track_caller]
    fn id(&self, builder: &Builder) -> String {
        self.build(builder, &["--no-cache", "-q"]).success().text()
    }
}

pub(crate) const ROOT: Builder = Builder { name: "root", user: None, forced: Some("root"), sandbox: "root" };

#[test]
fn every_sandbox_builds_the_same_image() {
    let Some(world) = World::new() else { return };
    world.dockerfile(ONE_ID);
    let one = world.id(&ROOT);
    let many_ids = format!("{ONE_ID}{MANY_IDS}");
    let many = world.dockerfile(&many_ids).id(&ROOT);
    for builder in &BUILDERS {
        assert_eq!(world.dockerfile(ONE_ID).id(builder), one, "{}", builder.name);
        if builder.sandbox == "rootless" {
            assert_eq!(world.dockerfile(&many_ids).id(builder), many, "{}", builder.name);
        }
    }
}

#[test]
fn a_step_sees_the_same_everywhere() {
    let Some(world) = World::new() else { return };
    world.dockerfile(SEEN);
    for builder in [&ROOT].into_iter().chain(&BUILDERS) {
        world.build(builder, &["--no-cache"]).success();
    }
}

#[test]
fn the_doctor_knows_who_gets_what() {
    let Some(world) = World::new() else { return };
    for builder in [&ROOT].into_iter().chain(&BUILDERS) {
        let report = world.wharf(builder, &["doctor", "--format", "json"]).success().text();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["sandbox"], builder.sandbox, "{}: {report:#}", builder.name);
        assert_eq!(report["facts"]["stacking"], "overlayfs", "{}", builder.name);
        let leftovers = fs::read_dir(world.0.path("")).unwrap().flatten();
        let trial =
            leftovers.map(|entry| entry.file_name()).find(|name| name.to_string_lossy().contains("trial"));
        assert_eq!(trial, None, "{}", builder.name);
    }
    let without = &BUILDERS[3];
    let text = world.wharf(without, &["doctor"]).success().text();
    for words in
        ["the user ann has no subordinate ids in /etc/subuid", "usermod --add-subuids", "privileged: true"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn outputs_belong_to_the_caller_and_commands_work() {
    let Some(world) = World::new() else { return };
    world.dockerfile(&format!("{ONE_ID}CMD [\"cat\", \"/seen\"]\n"));
    for (number, builder) in BUILDERS.iter().enumerate() {
        let owner = builder.user.as_ref().map_or(0, |_| UID);
        let out = |name: &str| format!("out/{name}-{number}");
        let (files, metadata, archive) =
            (out("files"), out("metadata"), format!("type=oci,dest={}", out("oci.tar")));
        let outputs =
            ["-o", &files, "-o", &archive, "-o", "type=image,name=app", "--metadata-file", &metadata];
        world.build(builder, &outputs).success();
        for name in ["files", "files/kept", "metadata", "oci.tar"] {
            let (first, rest) = name.split_once('/').map_or((name, ""), |(first, rest)| (first, rest));
            let mut path = world.0.path(&out(first));
            if !rest.is_empty() {
                path.push(rest);
            }
            let stat = fs::symlink_metadata(&path).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (owner, owner), "{} of {}", path.display(), builder.name);
        }
        tool("skopeo", &["inspect", &format!("oci-archive:{}", world.0.path(&out("oci.tar")).display())]);
        assert_eq!(world.wharf(builder, &["run", "--rm", "app"]).success().text(), "of the context\n");
        assert!(world.wharf(builder, &["images"]).success().text().contains("app"));
        for arguments in [&["du"][..], &["history"], &["prune", "--all", "--force"], &["rmi", "app"]] {
            world.wharf(builder, arguments).success();
        }
    }
}

#[test]
fn who_is_not_there_is_named() {
    let Some(world) = World::new() else { return };
    let with = |mut builder: Builder, sandbox| {
        builder.forced = Some(sandbox);
        builder
    };
    let user = |subordinate_ids, passwd_entry_and_home| Builder {
        name: "",
        user: Some(User { subordinate_ids, passwd_entry_and_home }),
        forced: None,
        sandbox: "",
    };
    for (builder, words) in [
        (with(user(true, true), "root"), "it takes uid 0, and this is uid 54321"),
        (with(user(true, true), "chroot"), "it takes uid 0"),
        (with(user(false, true), "rootless"), "the user ann has no subordinate ids in /etc/subuid"),
        (with(user(true, false), "rootless"), "uid 54321 has no entry in /etc/passwd"),
    ] {
        let words = ["cannot be had here", words, "hint: `wharf doctor` says"];
        world.wharf(&builder, &["images"]).fails_with(ENVIRONMENT, &words);
        world.wharf(&builder, &["doctor"]).fails_with(ENVIRONMENT, &[]);
    }
    let words = ["no sandbox", "rootless-single"];
    world.wharf(&with(user(true, true), "docker"), &["images"]).fails_with(2, &words);
}

/// Has a listener of its own, which stays, on the program that it becomes.
const UNDER_A_LISTENER: &str = "$filter = pack('SCCL', 6, 0, 0, 0x7fff0000);
$program = pack('Sx6P', 1, $filter);
syscall(157, 38, 1, 0, 0, 0);
$listener = syscall(317, 1, 8, $program);
syscall(72, $listener, 2, 0);
exec @ARGV;";

#[test]
fn a_place_that_answers_calls_itself_is_named() {
    let Some(wharf) = Wharf::new() else { return };
    if !cfg!(target_arch = "x86_64") || !have(&["perl"]) {
        return;
    }
    let under = |arguments: &[&str]| {
        let command = wharf.command("listened", arguments);
        let mut perl = Command::new("perl");
        perl.args(["-e", UNDER_A_LISTENER]).arg(command.get_program()).args(command.get_args());
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        Outcome::of({
            perl.envs(variables);
            perl
        })
    };
    for sandbox in ["rootless-single", "chroot"] {
        let words = [
            "cannot be had here: system calls of steps cannot be answered",
            "gives EBUSY (another program answers system calls of this process already)",
        ];
        under(&["--sandbox", sandbox, "images"]).fails_with(ENVIRONMENT, &words);
    }
    let report = under(&["doctor"]).text();
    assert_eq!(report.matches("gives EBUSY").count(), 2, "{report}");
}

#[test]
fn without_a_home_the_store_is_a_private_directory() {
    let Some(world) = World::new() else { return };
    let home = world.0.path("home");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o555)).unwrap();
    chown(&home, Some(0), Some(0)).unwrap();
    let user = &BUILDERS[2];
    let store = format!("/var/tmp/wharf-{UID}");
    // A question makes nothing, and what somebody else made is nobody's store.
    world.dockerfile("FROM busybox\n").wharf(user, &["build", "--check", "context"]).success();
    assert!(!Path::new(&store).exists());
    fs::create_dir(&store).unwrap();
    let doctor = world.wharf(user, &["doctor"]).success().text();
    assert!(doctor.contains(&format!("/tmp/wharf-{UID}")) && !doctor.contains(&store), "{doctor}");
    fs::remove_dir(&store).unwrap();
    let outcome = world.wharf(user, &["images"]).success();
    assert!(outcome.stderr.contains(&format!("the store is `{store}`")), "{}", outcome.stderr);
    let found = fs::symlink_metadata(&store).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (UID, 0o700));
    // Only this test makes it: nobody else is this user.
    fs::remove_dir_all(Path::new(&store)).unwrap();
}

/// Runs `words` after `script`, in a mount namespace of their own.
fn start_after(world: &World, script: &str, words: &[&str]) -> Outcome {
    let script = format!("{script} && exec \"$@\"");
    let before = ["unshare", "-m", "sh", "-c", &script, "sh"];
    world.start(before.iter().chain(words).map(|&word| word.to_owned()).collect(), &[])
}

const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

#[test]
fn a_step_cannot_change_the_devices_of_the_machine() {
    let Some(world) = World::new() else { return };
    world.dockerfile(
        "FROM busybox\nRUN chmod 0600 /dev/null /proc/keys; chown 7:8 /dev/full; touch -d 2001-01-01 /dev/zero; \
         echo x >/dev/null && head -c 1 /dev/zero >>/dev/null && ! echo x >/dev/full\n",
    );
    let base = format!("busybox=oci-layout://{}", world.0.path("busybox").display());
    for sandbox in ["rootless", "rootless-single"] {
        // Devices that are those of this test alone.
        let look = "stat -c %n:%a:%u:%g:%Y /dev/null /dev/full /dev/zero";
        let script = format!(
            "mount -t tmpfs -o mode=755 dev /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/zero c 1 5 \
             && mknod -m 666 /dev/full c 1 7 && before=$({look}) && \"$@\" && test \"$before\" = \"$({look})\" && set true"
        );
        let store = world.0.path(&format!("store-{sandbox}")).display().to_string();
        let words = [WHARF, "--sandbox", sandbox, "--root", &store, "build", "--no-cache"];
        let words = [&words[..], &["--network", "none", "--build-context", &base, "context"]].concat();
        start_after(&world, &script, &words).success();
    }
}

#[test]
fn a_place_without_proc_or_null_is_told_so() {
    let Some(world) = World::new() else { return };
    world.dockerfile("FROM busybox\nRUN true\n");
    let store = world.0.path("store-less").display().to_string();
    let words = "`/proc` is not mounted here";
    for arguments in [&["images"][..], &["--sandbox", "root", "images"], &["build", "context"]] {
        let arguments = [&[WHARF, "--root", &store], arguments].concat();
        let outcome = start_after(&world, "umount -l /proc", &arguments);
        let outcome = outcome.fails_with(ENVIRONMENT, &[words, "hint: `wharf doctor` says"]);
        assert_eq!(outcome.stderr.matches(words).count(), 1, "{}", outcome.stderr);
    }
    let report = start_after(&world, "umount -l /proc", &[WHARF, "--root", &store, "doctor"]);
    let text = report.fails_with(ENVIRONMENT, &[]).text();
    assert!(text.contains("mount -t proc proc /proc") && !text.contains("privileged"), "{text}");
    assert!(!text.contains("CAP_") && !text.contains("effective 0000000000000000"), "{text}");

    let base = format!("busybox=oci-layout://{}", world.0.path("busybox").display());
    let words = ["build", "--network", "none", "--build-context", &base, "context"];
    let build = [&[WHARF, "--sandbox", "root", "--root", &store], &words[..]].concat();
    let outcome = start_after(&world, "mount -t tmpfs -o mode=755 dev /dev", &build);
    outcome.fails_with(ENVIRONMENT, &["cannot open /dev/null of this machine"]);
}

#[test]
fn a_limit_of_wharf_itself_is_an_error_of_the_machine() {
    let Some(world) = World::new() else { return };
    world.dockerfile("FROM busybox\nRUN true\n");
    let base = format!("busybox=oci-layout://{}", world.0.path("busybox").display());
    let store = world.0.path("store-limited").display().to_string();
    let words =
        [WHARF, "--sandbox", "chroot", "--root", &store, "build", "--build-context", &base, "context"];
    start_after(&world, "ulimit -f 100", &words).fails_with(ENVIRONMENT, &["cannot", "hint"]);
    let outcome = start_after(&world, "ulimit -n 40", &words);
    outcome.fails_with(ENVIRONMENT, &["Too many open files", "ulimit -n"]);
}

#[test]
fn the_sandbox_chroot_is_tried() {
    /// Refuses chroot(2) to itself and what it executes.
    const REFUSE: &str = "import ctypes, os, platform, struct, sys
number = {'x86_64': 161, 'aarch64': 51}[platform.machine()]
code = struct.pack('<HBBIHBBIHBBIHBBI', 0x20, 0, 0, 0, 0x15, 0, 1, number, 6, 0, 0, 0x50001, 6, 0, 0, 0x7fff0000)
code = ctypes.create_string_buffer(code)
filter = ctypes.create_string_buffer(struct.pack('<HxxxxxxQ', 4, ctypes.addressof(code)))
assert ctypes.CDLL(None).prctl(22, 2, filter, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])";
    let Some(world) = World::new() else { return };
    let store = world.0.path("store-tried").display().to_string();
    let words = [WHARF, "--sandbox", "chroot", "--root", &store, "images"];
    let refused = [&["python3", "-c", REFUSE], &words[..]].concat();
    start_after(&world, "true", &words).success();
    start_after(&world, "true", &refused).fails_with(
        ENVIRONMENT,
        &["changing the root directory is refused: chroot() gives EPERM (a seccomp filter is on this process)"],
    );
    let without = [&["setpriv", "--bounding-set=-setpcap"], &words[..]].concat();
    start_after(&world, "true", &without).fails_with(ENVIRONMENT, &["CAP_SETPCAP"]);
}
