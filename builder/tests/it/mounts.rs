//! RUN in full: mounts of every type, networks, security modes, limits, secrets and SSH agents.

mod caches;
mod secrets;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;

use expect_test::{Expect, expect};

use crate::harness::{Outcome, Wharf, busybox_layout, tool};

/// A fixture with a base image.
fn wharf() -> Option<Wharf> {
    busybox_layout()?;
    Wharf::new()
}

/// Builds `FROM busybox` and these lines, which check themselves what they see.
#[track_caller]
fn check(wharf: &Wharf, arguments: &[&str], lines: &str) -> Outcome {
    wharf.dockerfile(&format!("FROM busybox\n{lines}")).build(arguments).success()
}

/// The names that these lines add to the base, as `tar` reads them.
#[track_caller]
fn added(wharf: &Wharf, lines: &str) -> Vec<String> {
    let list = |lines: &str| {
        check(wharf, &["-o", "type=tar,dest=files.tar"], lines);
        tool("tar", &["tf", wharf.path("files.tar").to_str().unwrap()])
    };
    let before = list("RUN true\n");
    let after = list(lines);
    after.lines().filter(|line| !before.lines().any(|old| old == *line)).map(str::to_owned).collect()
}

/// Whether the only step, `line`, runs again when `change` has happened.
#[track_caller]
fn runs_again(wharf: &Wharf, line: &str, before: &[&str], change: impl FnOnce(), after: &[&str]) -> bool {
    check(wharf, before, line).steps().check_ran(&[line]);
    check(wharf, before, line).steps().check_ran(&[]);
    change();
    let outcome = check(wharf, after, line);
    let ran = outcome.steps().that(crate::harness::Step::Ran).len();
    ran == 1
}

#[test]
fn binds_show_files_and_take_no_writes() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "a").file("sub/b.txt", "b");
    symlink("sub", wharf.context().join("link")).unwrap();
    check(
        &wharf,
        &[],
        "RUN --mount=target=/ctx [ $(cat /ctx/a.txt /ctx/sub/b.txt) = ab ]\n\
         RUN --mount=target=/ctx ! touch /ctx/x && ! rm /ctx/a.txt && ! mount -o remount,rw /ctx\n\
         RUN --mount=source=a.txt,target=/tmp/f [ $(cat /tmp/f) = a ] && ! (echo x >/tmp/f)\n\
         RUN --mount=src=/sub,dst=/s [ $(ls /s) = b.txt ]\n\
         RUN --mount=src=link/b.txt,dst=/s [ $(cat /s) = b ]\n\
         RUN --mount=target=/ctx,rw touch /ctx/x && rm /ctx/a.txt && [ ! -e /ctx/a.txt ]\n\
         RUN --mount=source=a.txt,target=/f,rw echo changed >/f && [ $(cat /f) = changed ]\n\
         FROM busybox AS other\n\
         RUN mkdir -p /d/e && echo other >/d/e/f && ln -s /d/e /d/link\n\
         FROM scratch AS empty\n\
         FROM busybox\n\
         RUN --mount=from=other,target=/o [ $(cat /o/d/e/f) = other ] && ! touch /o/x\n\
         RUN --mount=from=other,source=/d/link/f,target=/o [ $(cat /o) = other ]\n\
         RUN --mount=from=other,source=d,target=/o,rw rm -r /o/e && touch /o/new && [ \"$(ls /o | xargs)\" = 'link new' ]\n\
         RUN --mount=from=other,source=d,target=/o [ -f /o/e/f ] && [ ! -e /o/new ]\n\
         RUN --mount=from=busybox,source=/bin/busybox,target=/x/busybox /x/busybox true\n\
         RUN --mount=from=empty,target=/e [ -z \"$(ls /e)\" ]\n\
         WORKDIR /w\n\
         RUN --mount=target=ctx,source=sub [ -f /w/ctx/b.txt ]\n",
    );
    assert_eq!(fs::read_to_string(wharf.context().join("a.txt")).unwrap(), "a");
    assert!(!wharf.context().join("x").exists());
}

#[test]
fn a_step_with_every_right_cannot_write_to_the_context() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "a");
    check(
        &wharf,
        &["--allow", "security.insecure"],
        "RUN --security=insecure --mount=target=/ctx mount -o remount,rw /ctx || mount -o remount,bind,rw /ctx; \
         echo changed >/ctx/a.txt; touch /ctx/x; true\n",
    );
    assert_eq!(fs::read_to_string(wharf.context().join("a.txt")).unwrap(), "a");
    assert!(!wharf.context().join("x").exists());
}

#[test]
fn a_bound_context_is_what_a_copy_would_be() {
    let Some(wharf) = wharf() else { return };
    wharf.file("kept", "k").file("ignored", "i").file("sub/ignored", "i").file("sub/kept", "k");
    wharf.file(".dockerignore", "**/ignored\n");
    let kept = wharf.context().join("sub/kept");
    chown(&kept, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o640)).unwrap();
    let lines = "RUN --mount=target=/ctx [ ! -e /ctx/ignored ] && [ ! -e /ctx/sub/ignored ] && [ -f /ctx/kept ]\n\
                 RUN --mount=source=sub,target=/s [ \"$(stat -c '%u %g %a' /s/kept)\" = '0 0 640' ]\n\
                 RUN --mount=source=sub/kept,target=/s [ \"$(stat -c '%u %g %a' /s)\" = '0 0 640' ]\n";
    check(&wharf, &[], lines);
    // A step could talk through it to whoever listens.
    let _listener = UnixListener::bind(wharf.context().join("socket")).unwrap();
    fs::remove_file(wharf.context().join(".dockerignore")).unwrap();
    fs::remove_dir_all(wharf.context().join("sub")).unwrap();
    check(&wharf, &[], "RUN --mount=target=/ctx [ -f /ctx/kept ] && ! echo x | nc local:/ctx/socket\n");
    let gone = "FROM busybox\nRUN --mount=source=ignored,target=/x true\n";
    wharf.file(".dockerignore", "ignored\n").dockerfile(gone);
    wharf.build(&[]).fails_with(1, &["\"/ignored\": not found"]);
}

#[test]
fn mount_points_leave_nothing_behind() {
    let Some(wharf) = wharf() else { return };
    wharf.file("f", "f");
    let check = |lines: &str, expected: &[&str]| assert_eq!(added(&wharf, lines), expected, "{lines}");
    check("RUN --mount=target=/new/ctx --mount=source=f,target=/a/b/c true\n", &[]);
    check("RUN --mount=type=tmpfs,target=/t touch /t/x\n", &[]);
    check("RUN --mount=type=cache,target=/c/d touch /c/d/x\n", &[]);
    check("RUN --mount=type=cache,target=/c/d touch /c/x\n", &["c/", "c/x"]);
    check(
        "RUN mkdir /kept && touch /kept/x\nRUN --mount=type=tmpfs,target=/kept [ ! -e /kept/x ]\n",
        &["kept/", "kept/x"],
    );
    check("RUN --mount=type=secret,id=none --mount=type=ssh [ ! -e /run ]\n", &[]);
}

#[test]
fn mounts_nest_and_the_later_of_two_is_seen() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "a").file("sub/b.txt", "b");
    check(
        &wharf,
        &[],
        "RUN --mount=type=tmpfs,target=/m/in/deep --mount=type=cache,target=/m/in --mount=type=tmpfs,target=/m \
         touch /m/in/deep/x && grep -c ' /m' /proc/self/mountinfo | grep -x 3\n\
         RUN --mount=type=tmpfs,target=/m --mount=source=a.txt,target=/m/a --mount=target=/m/ctx \
         [ $(cat /m/a /m/ctx/sub/b.txt) = ab ]\n\
         RUN --mount=source=a.txt,target=/f --mount=source=sub/b.txt,target=/f [ $(cat /f) = b ]\n\
         RUN --mount=source=.,target=/tmp/test --mount=source=sub/b.txt,target=/tmp/b.txt \
         [ $(cat /tmp/test/a.txt /tmp/b.txt) = ab ]\n",
    );
}

#[test]
fn a_tmpfs_has_a_size() {
    let Some(wharf) = wharf() else { return };
    check(
        &wharf,
        &[],
        "RUN --mount=type=tmpfs,target=/t,size=128m grep ' /t ' /proc/self/mountinfo | grep size=131072k\n\
         RUN --mount=type=tmpfs,target=/t,size=65536 ! dd if=/dev/zero of=/t/x bs=1k count=128\n\
         RUN --mount=type=tmpfs,target=/t [ $(stat -c %a /t) = 1777 ] && echo x >/t/x\n\
         RUN --mount=type=tmpfs,target=/dev/shm,size=1m df -k /dev/shm | grep -E ' 1024 '\n\
         RUN --mount=type=tmpfs,target=/t [ ! -e /t/x ]\n",
    );
}

#[test]
fn links_on_the_way_to_a_mount_stay_inside() {
    let Some(wharf) = wharf() else { return };
    let outside = wharf.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "host").unwrap();
    symlink(&outside, wharf.context().join("evil")).unwrap();
    symlink("../outside", wharf.context().join("up")).unwrap();
    let outside = outside.display();
    check(
        &wharf,
        &[],
        &format!(
            "RUN mkdir -p $(dirname {outside}) && ln -s {outside} /link && ln -s ../../../../.. /up\n\
             RUN --mount=type=tmpfs,target=/link/t touch /link/t/x\n\
             RUN --mount=type=tmpfs,target=/up/etc/t [ -d /etc/t ]\n\
             RUN --mount=type=cache,target=/link/../../c true\n\
             RUN ln -s /proc/1/root/tmp /p\n\
             RUN --mount=type=tmpfs,target=/p/x true\n"
        ),
    );
    assert_eq!(fs::read_dir(wharf.path("outside")).unwrap().count(), 1, "something was made outside");
    for source in ["evil/secret", "up/secret", "../outside/secret", "evil"] {
        wharf.dockerfile(&format!("FROM busybox\nRUN --mount=source={source},target=/x cat /x\n"));
        let outcome = wharf.build(&[]).failure();
        assert!(outcome.stderr.contains("not found"), "{}", outcome.stderr);
    }
    wharf.dockerfile(
        "FROM busybox AS a\nRUN ln -s /etc/shadow /s && ln -s /proc/self/root/etc /p\n\
         FROM busybox\nRUN --mount=from=a,source=/s,target=/x cat /x\n",
    );
    wharf.build(&[]).fails_with(1, &["not found"]);
}

#[test]
fn keys_hold_what_steps_read() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "a").file("b.txt", "b");
    let write = |name: &'static str| {
        let path = wharf.context().join(name);
        move || fs::write(path, "changed").unwrap()
    };
    let line = "RUN --mount=source=a.txt,target=/f cat /f";
    assert!(runs_again(&wharf, line, &[], write("a.txt"), &[]), "a bound file changed");
    assert!(
        !runs_again(&wharf, "RUN --mount=src=a.txt,dst=/g cat /g", &[], write("b.txt"), &[]),
        "another one"
    );
    let line = "RUN --mount=source=a.txt,target=/h,rw echo more >>/h && cat /h";
    assert!(!runs_again(&wharf, line, &[], write("b.txt"), &[]), "what a step writes is not what it reads");
    let both = "RUN --mount=source=a.txt,target=/f --mount=source=b.txt,target=/g cat /f /g";
    let again = || fs::write(wharf.context().join("b.txt"), "again").unwrap();
    assert!(runs_again(&wharf, both, &[], again, &[]), "the second of two");
    // What a step sees of the machine and not of the build.
    let host = |address: &'static str| ["--add-host", address];
    let line = "RUN cat /etc/hosts";
    assert!(!runs_again(&wharf, line, &host("a:1.1.1.1"), || (), &host("a:2.2.2.2")), "an address");
    let line = "RUN cat /etc/hosts #";
    assert!(runs_again(&wharf, line, &host("a:1.1.1.1"), || (), &host("b:1.1.1.1")), "a name");
    let proxy = |value: &'static str| ["--build-arg", value];
    let line = "RUN echo $HTTP_PROXY";
    assert!(!runs_again(&wharf, line, &proxy("HTTP_PROXY=a"), || (), &proxy("HTTP_PROXY=b")), "a proxy");
    let limit = |value: &'static str| ["--ulimit", value];
    let line = "RUN ulimit -n";
    assert!(runs_again(&wharf, line, &limit("nofile=77"), || (), &limit("nofile=78")), "a limit");
}

/// As for COPY: what was built from other files than its key says is not kept.
#[test]
fn files_that_change_under_a_bind_are_noticed() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "before");
    let go = wharf.path("go");
    tool("mkfifo", &[go.to_str().unwrap()]);
    wharf.dockerfile("FROM busybox\nRUN --mount=target=/ctx touch /started; until grep after /ctx/a.txt; do sleep 0.02; done\n");
    let child = wharf.build_command("store", &[]).spawn().unwrap();
    crate::harness::wait_until("the step runs", || !crate::harness::processes("until grep after").is_empty());
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(wharf.context().join("a.txt"), "after").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("changed while the build ran"), "{said}");
    let steps = wharf.build(&[]).success().steps();
    assert_eq!(steps.that(crate::harness::Step::Ran).len(), 1, "{steps:?}");
}

/// Builds, and compares what is said from the first problem on.
#[track_caller]
fn check_error(wharf: &Wharf, code: i32, line: &str, expected: Expect) {
    wharf.dockerfile(&format!("FROM busybox\n{line}\n"));
    let outcome = wharf.build(&[]).fails_with(code, &[]);
    let start = outcome.stderr.find("\nerror: ").map_or(0, |at| at + 1);
    expected.assert_eq(&outcome.stderr[start..]);
}

#[test]
fn errors_point_at_the_mount() {
    let Some(wharf) = wharf() else { return };
    check_error(
        &wharf,
        1,
        "RUN --mount=type=tmpfs,target=/t --mount=source=nope,target=/x cat /x",
        expect![[r#"
            error: failed to calculate checksum of the files to copy: "/nope": not found
             --> context/Dockerfile:2:42
              |
            2 | RUN --mount=type=tmpfs,target=/t --mount=source=nope,target=/x cat /x
              |                                          ^^^^^^^^^^^^^^^^^^^^^
            ERROR: [2/2] RUN --mount=type=tmpfs,target=/t --mount=source=nope,target=/x cat /x: failed to calculate checksum of the files to copy: "/nope": not found
        "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=from=busybox,source=/nope,target=/x true",
        expect![[r#"
        error: "/nope": not found in the files that `from` names
         --> context/Dockerfile:2:13
          |
        2 | RUN --mount=from=busybox,source=/nope,target=/x true
          |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        ERROR: [stage-0 2/2] RUN --mount=from=busybox,source=/nope,target=/x true: "/nope": not found in the files that `from` names
    "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=type=cache,source=nope,target=/x true",
        expect![[r#"
        error: the cache "/x" holds no "/nope"
         --> context/Dockerfile:2:13
          |
        2 | RUN --mount=type=cache,source=nope,target=/x true
          |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: `source=` names a directory that is in the cache already, from a step before or from `from=`
        ERROR: [stage-0 2/2] RUN --mount=type=cache,source=nope,target=/x true: the cache "/x" holds no "/nope"
    "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=type=secret,id=token,required cat /run/secrets/token",
        expect![[r#"
            error: secret token: not found
             --> context/Dockerfile:2:13
              |
            2 | RUN --mount=type=secret,id=token,required cat /run/secrets/token
              |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              |
              = help: give it with `--secret id=token,src=FILE` or `--secret id=token,env=VARIABLE`
            ERROR: [2/2] RUN --mount=type=secret,id=token,required cat /run/secrets/token: secret token: not found
        "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=type=secret,id=token,env=TOKEN,required echo $TOKEN",
        expect![[r#"
            error: secret token: not found
             --> context/Dockerfile:2:13
              |
            2 | RUN --mount=type=secret,id=token,env=TOKEN,required echo $TOKEN
              |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              |
              = help: give it with `--secret id=token,src=FILE` or `--secret id=token,env=VARIABLE`
            ERROR: [2/2] RUN --mount=type=secret,id=token,env=TOKEN,required echo ****: secret token: not found
        "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=type=ssh,required ssh-add -l",
        expect![[r#"
        error: ssh default: not found
         --> context/Dockerfile:2:13
          |
        2 | RUN --mount=type=ssh,required ssh-add -l
          |             ^^^^^^^^^^^^^^^^^
          |
          = help: forward your agent with `--ssh default`, or give a key with `--ssh default=FILE`
        ERROR: [2/2] RUN --mount=type=ssh,required ssh-add -l: ssh default: not found
    "#]],
    );
    check_error(
        &wharf,
        1,
        "RUN --mount=target=/etc/passwd true",
        expect![[r#"
            error: cannot mount at /etc/passwd: it is a file, and a directory is to be mounted
             --> context/Dockerfile:2:13
              |
            2 | RUN --mount=target=/etc/passwd true
              |             ^^^^^^^^^^^^^^^^^^
            ERROR: [2/2] RUN --mount=target=/etc/passwd true: cannot mount at /etc/passwd: it is a file, and a directory is to be mounted
        "#]],
    );
    check_error(
        &wharf,
        3,
        "RUN --network=host --security=insecure true",
        expect![[r#"
        error: network.host is not allowed
         --> context/Dockerfile:2:15
          |
        2 | RUN --network=host --security=insecure true
          |               ^^^^
          |
          = help: allow it with `--allow network.host`
        error: security.insecure is not allowed
         --> context/Dockerfile:2:31
          |
        2 | RUN --network=host --security=insecure true
          |                               ^^^^^^^^
          |
          = help: allow it with `--allow security.insecure`: the step then has every right that wharf has
        ERROR: cannot build from `context/Dockerfile`: 2 errors
    "#]],
    );
    check_error(
        &wharf,
        3,
        "RUN --device=vendor.com/gpu=all true",
        expect![[r#"
        error: RUN --device (CDI devices) is not supported
         --> context/Dockerfile:2:14
          |
        2 | RUN --device=vendor.com/gpu=all true
          |              ^^^^^^^^^^^^^^^^^^
          |
          = help: `--security=insecure` gives a step the right to make and use any device
        ERROR: cannot build from `context/Dockerfile`
    "#]],
    );
}

#[test]
fn wrong_mounts_are_refused_and_odd_ones_taken() {
    let Some(wharf) = wharf() else { return };
    for (mount, words) in [
        ("", "unexpected key"),
        ("rw", "requires a target"),
        ("target=/x,typ=bind", "unexpected key 'typ'"),
        ("target=/x,type=bnd", "did you mean bind?"),
        ("target=/x,foo=bar", "unexpected key 'foo'"),
        ("target=/x,target", "must be a key=value pair"),
        ("target=/", "invalid mount target"),
        ("target=/x/..", "invalid mount target"),
        ("type=cache", "cache mount requires a target"),
        ("type=tmpfs,target=/x,size=x", "invalid value for size"),
        ("target=/x,size=1", "size not allowed"),
        ("target=/x,uid=1", "uid not allowed"),
        ("target=/x,sharing=locked", "sharing"),
        ("type=cache,target=/x,sharing=some", "unsupported sharing value"),
        ("type=cache,target=/x,mode=9", "invalid value for mode"),
        ("type=secret", "invalid secret mount"),
        ("type=secret,id=a,src=b", "both source and id"),
        ("type=secret,id=a,from=b", "should not have a from"),
        ("type=ssh,src=a", "should not have a source"),
        ("target=/x,from=0", "can't be the number of a stage"),
        ("target=/x,from=$Y", "doesn't support variable expansion"),
    ] {
        wharf.dockerfile(&format!("FROM busybox\nARG Y=z\nRUN --mount={mount} true\n"));
        let outcome = wharf.build(&[]).fails_with(3, &[words]);
        assert!(outcome.stderr.contains("Dockerfile:3:"), "{}", outcome.stderr);
    }
    check(
        &wharf,
        &[],
        "RUN --mount=type=TMPFS,dst=/x,src=/nope [ -d /x ]\n\
         RUN --mount=type=tmpfs,destination=/x,ro ! touch /x/y\n",
    );
}

#[test]
fn networks_are_the_hosts_or_others() {
    let Some(wharf) = wharf() else { return };
    let only_loopback = "[ \"$(ls /sys/class/net | xargs)\" = lo ]";
    check(&wharf, &[], &format!("RUN --network=none {only_loopback} && ip a | grep -q 'UP'\n"));
    check(
        &wharf,
        &["--network", "none"],
        &format!("RUN {only_loopback} && echo global\nRUN --network=default {only_loopback}\n"),
    );
    let namespace = fs::read_link("/proc/self/ns/net").unwrap();
    let is_host = format!("[ $(readlink /proc/self/ns/net) = '{}' ]", namespace.display());
    // One for all steps of a build.
    let keep = "readlink /proc/self/ns/net";
    check(
        &wharf,
        &[],
        &format!(
            "RUN ! {is_host} && {keep} >/one\nRUN --network=default [ \"$({keep})\" = \"$(cat /one)\" ]\n"
        ),
    );
    check(&wharf, &["--allow", "network.host"], &format!("RUN --network=host {is_host}\n"));
    check(
        &wharf,
        &["--network=host"],
        &format!("RUN {is_host} && echo global\nRUN --network=none ! {is_host}\n"),
    );
    check_error(
        &wharf,
        3,
        "RUN --network=host true",
        expect![[r#"
        error: network.host is not allowed
         --> context/Dockerfile:2:15
          |
        2 | RUN --network=host true
          |               ^^^^
          |
          = help: allow it with `--allow network.host`
        ERROR: cannot build from `context/Dockerfile`
    "#]],
    );
}

#[test]
fn security_is_the_default_unless_it_is_allowed_away() {
    let Some(wharf) = wharf() else { return };
    let confined = "grep -q 'CapBnd:.00000000a80425fb' /proc/self/status && grep -q 'Seccomp:.2' /proc/self/status \
                    && ! touch /sys/x 2>/dev/null && ! mount -t tmpfs t /mnt";
    check(&wharf, &[], &format!("RUN {confined}\nRUN --security=sandbox {confined}\n"));
    // As many as this process has itself.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let free =
        format!("grep -q 'CapEff:.{bounding}' /proc/self/status && grep -q 'Seccomp:.0' /proc/self/status");
    check(
        &wharf,
        &["--allow", "security.insecure"],
        &format!(
            "RUN --security=insecure {free} && mkdir /mnt && mount -t tmpfs t /mnt && grep ' /sys ' /proc/mounts | grep rw\n\
             RUN --security=insecure dd if=/dev/zero of=/d bs=1M count=4 && mke2fs -F /d && mkdir -p /m && \
             mount -o loop /d /m && touch /m/x && umount /m && rm /d\n\
             RUN --security=insecure mknod /null c 1 3 && echo x >/null\n\
             RUN mknod /null2 c 1 3 && ! (echo x >/null2)\n\
             USER nobody\nRUN --security=insecure grep 'CapAmb:.{bounding}' /proc/self/status\n"
        ),
    );
}

#[test]
fn limits_and_hosts_are_as_the_command_line_says() {
    let Some(wharf) = wharf() else { return };
    check(
        &wharf,
        &[
            "--ulimit",
            "nofile=1062:1063",
            "--shm-size",
            "128m",
            "--add-host",
            "a=10.0.0.1",
            "--add-host",
            "b:host-gateway",
        ],
        "RUN [ $(ulimit -Sn) = 1062 ] && [ $(ulimit -Hn) = 1063 ]\n\
         RUN grep ' /dev/shm ' /proc/mounts | grep size=131072k\n\
         RUN grep -E '^10.0.0.1\\sa$' /etc/hosts && grep -E '^[0-9.]+\\sb$' /etc/hosts\n\
         RUN [ $(hostname) = buildkitsandbox ] && grep buildkitsandbox /etc/hosts\n",
    );
    check(
        &wharf,
        &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=mine"],
        "RUN [ $(hostname) = mine ] && grep mine /etc/hosts\n",
    );
    for (flag, value) in [
        ("--ulimit", "nofile=2:1"),
        ("--shm-size", "x"),
        ("--add-host", "a"),
        ("--allow", "everything"),
        ("--network", "bridge"),
        ("--memory", "x"),
        ("--pids-limit", "x"),
        ("--secret", "id=x,src=/no/such"),
        ("--ssh", "x=/no/such"),
    ] {
        wharf.build(&[flag, value]).fails_with(2, &[flag.trim_start_matches("--")]);
    }
}

#[test]
fn users_have_their_groups() {
    let Some(wharf) = wharf() else { return };
    check(
        &wharf,
        &[],
        "RUN printf 'app:x:1000:1001::/home/app:/bin/sh\\n' >>/etc/passwd && \
         printf 'app:x:1001:\\nvideo:x:44:app\\naudio:x:45:nobody,app\\n' >>/etc/group\n\
         RUN [ \"$(id -u) $(id -g)\" = '0 0' ]\n\
         USER app\n\
         RUN [ \"$(id -u) $(id -g) $(id -G)\" = '1000 1001 1001 44 45' ] && [ $HOME = /home/app ]\n\
         USER app:video\n\
         RUN [ \"$(id -u) $(id -g)\" = '1000 44' ]\n\
         USER 1000:7\n\
         RUN [ \"$(id -u) $(id -g)\" = '1000 7' ]\n\
         USER 4242\n\
         RUN [ \"$(id -u) $(id -g) $(id -G)\" = '4242 0 0' ]\n",
    );
    wharf.dockerfile("FROM busybox\nUSER nobody-here\nRUN true\n");
    wharf.build(&[]).fails_with(1, &["unable to find user nobody-here"]);
}

#[test]
fn heredocs_run() {
    let Some(wharf) = wharf() else { return };
    let lines = "RUN <<EOF\necho one >/a\necho two >>/a\nEOF\n\
                 RUN [ \"$(xargs </a)\" = 'one two' ]\n\
                 RUN echo '<<EOF' >/fake\n\
                 RUN [ $(cat /fake) = '<<EOF' ]\n\
                 RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" >\"/b\" }\nEOF\n\
                 RUN [ $(cat /b) = awk ] && [ ! -e /dev/pipes ]\n\
                 RUN cat <<A | tr a-z A-Z >/c && cat <<B >>/c\na\nA\nb\nB\n\
                 RUN [ \"$(xargs </c)\" = 'A b' ]\n\
                 RUN <<-EOF\n\techo indented >/d\n\tEOF\n\
                 RUN [ $(cat /d) = indented ]\n\
                 RUN 3<<EOF cat <&3 >/e\nthree\nEOF\n\
                 RUN [ $(cat /e) = three ]\n\
                 RUN <<'EOF' cat >/f\n$HOME\nEOF\n\
                 RUN [ \"$(cat /f)\" = '$HOME' ]\n";
    check(&wharf, &[], lines);
    wharf.dockerfile(
        "FROM busybox AS base\nONBUILD RUN <<EOF\necho trigger >/t\nEOF\n\
         ONBUILD RUN --mount=type=cache,target=/c touch /c/x && ls /c >/cached\n\
         FROM base\nRUN [ $(cat /t) = trigger ] && [ $(cat /cached) = x ] && [ ! -e /c ]\n",
    );
    wharf.build(&[]).success();
}

#[test]
fn mounts_take_variables() {
    let Some(wharf) = wharf() else { return };
    wharf.file("a.txt", "a");
    wharf.dockerfile(
        "ARG META=/meta\nFROM busybox AS base\nENV DIR=/dir\nARG SIZE=1m\nARG META\n\
         RUN --mount=type=tmpfs,target=$DIR/t,size=$SIZE grep \" $DIR/t \" /proc/mounts | grep size=1024k\n\
         RUN --mount=type=cache,id=$META,target=$META touch /meta/x\n\
         RUN --mount=type=cache,id=/meta,target=/c [ -e /c/x ]\n\
         RUN --mount=source=${SIZE:+a.txt},target=/f [ $(cat /f) = a ]\n\
         FROM base\nRUN --mount=type=tmpfs,target=$DIR/t [ -d /dir/t ]\n",
    );
    wharf.build(&[]).success();
    wharf.dockerfile("FROM busybox AS base\nARG X=base\nFROM busybox\nRUN --mount=from=$X,target=/x true\n");
    wharf.build(&[]).failure();
}

#[test]
fn mounts_stand_in_for_what_a_step_has_of_itself() {
    let Some(wharf) = wharf() else { return };
    wharf.file("hosts", "10.9.8.7 mine\n");
    check(
        &wharf,
        &[],
        "RUN --mount=source=hosts,target=/etc/hosts [ \"$(cat /etc/hosts)\" = '10.9.8.7 mine' ]\n\
         RUN --mount=type=tmpfs,target=/etc/hosts touch /etc/hosts/x\n\
         RUN --mount=type=tmpfs,target=/etc/resolv.conf touch /etc/resolv.conf/x\n\
         RUN --mount=type=tmpfs,target=/sys [ -z \"$(ls /sys)\" ]\n\
         RUN --mount=type=tmpfs,target=/sys/fs [ -z \"$(ls /sys/fs)\" ]\n\
         RUN --mount=type=tmpfs,target=/dev/shm touch /dev/shm/x\n\
         RUN --mount=source=hosts,target=/dev/null grep mine /dev/null\n\
         RUN --mount=source=hosts,target=/proc/cpuinfo grep mine /proc/cpuinfo\n\
         RUN grep localhost /etc/hosts && [ ! -d /etc/resolv.conf ]\n",
    );
}

#[test]
fn mounts_that_cannot_be_are_pointed_at() {
    let Some(wharf) = wharf() else { return };
    wharf.file("file", "x");
    for (mount, words) in [
        ("type=tmpfs,target=/proc", "cannot mount at /proc: `/proc` is the kernel's"),
        ("type=tmpfs,target=/proc/sys", "cannot mount at /proc/sys: `/proc` is the kernel's"),
        ("type=cache,target=/proc/x", "cannot mount at /proc/x: `/proc` is the kernel's"),
        ("type=tmpfs,target=/sys/no-such", "cannot mount at /sys/no-such: nothing can be made in `/sys`"),
        ("type=tmpfs,target=/dev/null", "cannot mount at /dev/null: it is a file"),
        ("type=tmpfs,target=/dev/ptmx", "cannot mount at /dev/ptmx: it is a file"),
        ("source=file,target=/dev/stdin", "cannot mount at /dev/stdin: it is a link into `/proc`"),
        ("type=tmpfs,target=/dev/fd", "cannot mount at /dev/fd: it is a link into `/proc`"),
        ("type=tmpfs,target=/etc/passwd", "cannot mount at /etc/passwd: it is a file"),
        ("source=file,target=/etc", "cannot mount at /etc: it is a directory"),
    ] {
        wharf.dockerfile(&format!("FROM busybox\nRUN --mount={mount} true\n"));
        let outcome = wharf.build(&[]).fails_with(1, &[words, "Dockerfile:2:13"]);
        assert!(!outcome.stderr.contains("os error"), "{}", outcome.stderr);
    }
}
