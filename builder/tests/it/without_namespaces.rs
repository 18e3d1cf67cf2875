//! The sandbox chroot on the host: the image of root, a word for what cannot be had there, and nothing left of a build
//! that was killed.

use std::process::Command;

use crate::harness::{Outcome, Wharf, busybox_layout, processes, wait_until};

const EPOCH: &str = "1000000000";

/// Everything that stands in for a mount, owners, modes, links and what a step takes away.
const DOCKERFILE: &str = "FROM busybox AS files
RUN mkdir -p /dir/below && touch /dir/below/file && mkfifo /dir/fifo && ln -s x /dir/link && ln /dir/below/file /linked
FROM busybox
COPY --from=files --chown=7:8 /dir /dir
COPY --from=files /linked /
RUN rm /dir/fifo && chown 1000:1001 /linked && chmod 4755 /linked && mkdir -m 2770 /kept
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c --mount=type=secret,id=word --mount=type=bind,target=/b,rw \\
    --mount=type=bind,from=files,target=/f touch /t/x /c/x /b/x && test \"$(cat /run/secrets/word)\" = hush \\
    && test -f /b/Dockerfile && test -p /f/dir/fifo
RUN test ! -e /run/secrets && test ! -e /t && test ! -e /f && echo x >/dev/null && head -c 2 /dev/zero | wc -c >/two
USER 1234:567
RUN test \"$(id -u):$(id -g)\" = 1234:567 && touch /tmp/its
";

fn build(wharf: &Wharf, sandbox: &str, arguments: &[&str]) -> Command {
    let mut command = wharf.build_command(sandbox, arguments);
    command.env("WHARF_SANDBOX", sandbox).env("SOURCE_DATE_EPOCH", EPOCH);
    command
}

#[test]
fn the_image_is_that_of_root() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    std::fs::write(wharf.path("word"), "hush").unwrap();
    wharf.dockerfile(DOCKERFILE);
    let id = |sandbox| {
        Outcome::of(build(&wharf, sandbox, &["-q", "--secret", "id=word,src=word"])).success().text()
    };
    assert_eq!(id("chroot"), id("root"));
    assert_eq!(wharf.leftovers("chroot"), Vec::<String>::new());
}

#[test]
fn what_cannot_be_had_is_said() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    let check = |step: &str, words: &str| {
        wharf.dockerfile(&format!("FROM busybox\nRUN {step}\n"));
        let outcome = Outcome::of(build(&wharf, "chroot", &["--allow", "security.insecure"])).failure();
        assert!(outcome.stderr.contains(words), "{step}: {}", outcome.stderr);
    };
    check("cat /proc/cpuinfo", "has no `/proc`");
    check("mknod /x c 1 3", "in the sandbox chroot no device nodes can be made");
    check("echo /proc/ is not mounted, but required >&2; false", "has no `/proc`");
    check("--security=insecure true", "cannot be had in the sandbox chroot");
    check("echo sudo: effective uid is not 0 >&2; false", "no program gains privileges");
}

/// A program that does without `/proc` what it does with it only in part succeeds all the same.
#[test]
fn a_step_that_succeeds_without_what_it_looked_for_is_named() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    let warnings = |sandbox: &str, step: &str| {
        wharf.dockerfile(&format!("FROM busybox\nRUN {step}\n"));
        let outcome = Outcome::of(build(&wharf, sandbox, &[])).success();
        outcome.stderr.matches("looked for `/proc").count()
    };
    let step = "cat /proc/self/status >/made || cat /proc/cpuinfo || true";
    assert_eq!((warnings("chroot", step), warnings("root", step)), (1, 0));
    assert_eq!(warnings("chroot", "cat /proc/filesystems /proc/mounts || true"), 0);
    assert_eq!(warnings("chroot", "echo /proc/ is not mounted, but required >&2"), 1);
}

#[test]
fn the_name_of_the_host_has_an_address() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    wharf.dockerfile(
        "FROM busybox\nRUN grep -w \"$(uname -n)\" /etc/hosts && grep -w buildkitsandbox /etc/hosts\n",
    );
    Outcome::of(build(&wharf, "chroot", &[])).success();
}

#[test]
fn nothing_of_proc_and_sys_is_in_the_image() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    wharf.dockerfile("FROM busybox\nRUN mkdir /sys/x && touch /sys/x/y /proc/z\nRUN test -z \"$(ls -A /sys /proc | grep -v :)\"\n");
    let out = wharf.path("out").display().to_string();
    Outcome::of(build(&wharf, "chroot", &["-o", &out])).success();
    for name in ["proc", "sys"] {
        let left: Vec<_> =
            std::fs::read_dir(wharf.path("out").join(name)).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_killed_build_leaves_nothing_running() {
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    let marker = format!("{}.7", 500_000 + std::process::id());
    let stubborn = format!("trap '' TERM INT HUP; while :; do sleep {marker}; done");
    wharf.dockerfile(&format!(
        "FROM busybox\nRUN --mount=type=cache,target=/c (setsid sh -c \"{stubborn}\" &); sleep {marker}\n"
    ));
    let mut child = build(&wharf, "chroot", &[]).spawn().unwrap();
    wait_until("the step runs", || processes(&format!("sleep\0{marker}")).len() > 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its processes are gone", || processes(&marker).is_empty());
    wharf.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x /made\n");
    Outcome::of(build(&wharf, "chroot", &[])).success();
    assert_eq!(wharf.leftovers("chroot"), Vec::<String>::new());
}

#[test]
fn a_device_of_the_image_is_none_for_steps() {
    const ARCHIVE: &str = "import tarfile
entry = tarfile.TarInfo('disk')
entry.type, entry.devmajor, entry.devminor = tarfile.BLKTYPE, 7, 0
tarfile.open('disk.tar', 'w').addfile(entry)";
    let (Some(wharf), Some(_)) = (Wharf::new(), busybox_layout()) else { return };
    let made = Command::new("python3").args(["-c", ARCHIVE]).current_dir(wharf.context()).status().unwrap();
    assert!(made.success());
    let id = |sandbox, step: &str| {
        wharf.dockerfile(&format!("FROM busybox\nADD disk.tar /\nRUN {step} && touch /made\n"));
        Outcome::of(build(&wharf, sandbox, &["-q"])).success().text()
    };
    // The config of the image says what was run.
    assert_eq!(id("chroot", "true"), id("root", "true"));
    id("chroot", "test ! -b /disk");
    id("root", "test -b /disk");
}
