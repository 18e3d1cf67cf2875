//! Steps in a user namespace with a single id: what the supervisor answers.
//!
//! The test runs itself once more inside such a namespace, which `unshare` makes. Needs a static busybox and user
//! namespaces; says so and passes where one is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

mod records;
mod world;

use std::process::Command;

use world::World;

/// Set for the run inside.
const INSIDE: &str = "WHARF_TEST_SINGLE_ID";

/// Runs the test `name` once more in a user namespace with a single id and returns false; returns true in there.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let available = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        println!("SKIP: unshare cannot make a user namespace");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if stdout.contains("SKIP") {
        println!("{stdout}");
    }
    assert!(output.status.success(), "{stdout}\n{stderr}");
    false
}

/// Runs each script in a world of its own and compares what it prints.
#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (script, expected) in cases {
        let Some(world) = World::new() else { return };
        let outcome = world.shell("", script);
        assert_eq!(outcome.stdout, *expected, "{script}\nstderr: {}", outcome.stderr);
    }
}

#[test]
fn owners_are_remembered() {
    if !inside("owners_are_remembered") {
        return;
    }
    check(&[
        ("touch f; chown 33:44 f; stat -c '%u:%g %a' f", "33:44 644\n"),
        ("touch f; chown 33 f; chown :44 f; stat -c %u:%g f; chown 0:0 f; stat -c %u:%g f", "33:44\n0:0\n"),
        ("mkdir d; chown 33:44 d; mv d e; stat -c %u:%g e", "33:44\n"),
        ("ln -s nowhere l; chown -h 33:44 l; mv l m; stat -c %u:%g m; readlink m", "33:44\nnowhere\n"),
        ("mkfifo p; chown 33:44 p; touch -d @1000 p; stat -c '%u:%g %X %Y' p", "33:44 1000 1000\n"),
        ("ln -s x l; chown -h 33:44 l; touch -h -d @1000 l; stat -c '%u:%g %Y' l", "33:44 1000\n"),
        ("touch f; chmod 6755 f; chown 33 f; stat -c %a f", "755\n"),
        ("touch f; ln -s f l; chown 33 l; stat -c %u f; stat -c %u l", "33\n0\n"),
        ("mkdir -p a/b; touch a/f; cd a/b; chown 33 ../f; stat -c %u ../f /a/f", "33\n33\n"),
        ("mkdir a; ln -s /a /b; touch a/f; cd /b; chown 33 ../b/f; stat -c %u f", "33\n"),
        ("touch f; chown 33 <f; exec 3<f; chown 44 /proc/self/fd/3; stat -c %u f", "44\n"),
        (
            "touch f; chown 33:44 f; cp -p f g; stat -c %u:%g g; ls -ln g | tr -s ' ' | cut -d' ' -f3,4",
            "33:44\n33 44\n",
        ),
        ("chown 33 nowhere; echo $?", "1\n"),
        ("mkdir -p t/u; touch t/u/f; chown -R 33:44 t; stat -c %u:%g t t/u t/u/f", "33:44\n33:44\n33:44\n"),
        ("stat -c %u:%g /proc /dev/null /", "0:0\n0:0\n0:0\n"),
        ("chown 4:1 /dev/null; echo $?; stat -c %u:%g /dev/null", "1\n0:0\n"),
        ("stat -L -c %u:%g /proc/self/fd/0", "0:0\n"),
        ("ln -s /dev/stdout log; chown 33 log && stat -L -c %u log", "33\n"),
        ("touch f; ln f g; chown 33 f; stat -c %u g; rm f; touch f; stat -c %u f", "33\n0\n"),
    ]);
}

#[test]
fn devices_are_remembered() {
    if !inside("devices_are_remembered") {
        return;
    }
    check(&[
        ("mknod n c 1 3; stat -c '%F %t:%T %a %u:%g' n", "character special file 1:3 644 0:0\n"),
        (
            "mknod -m 600 n b 8 17; chown 3:6 n; stat -c '%F %t:%T %a %u:%g' n",
            "block special file 8:11 600 3:6\n",
        ),
        (
            "mknod n c 1 3; chmod 666 n; mv n m; stat -c '%F %a' m; test -c m && echo yes",
            "character special file 666\nyes\n",
        ),
        ("mkfifo n; stat -c '%F' n", "fifo\n"),
        ("touch n; mknod n c 1 3 2>&1", "mknod: n: File exists\n"),
        ("su app -c 'mknod /tmp/n c 1 3' 2>&1", "mknod: /tmp/n: Operation not permitted\n"),
    ]);
}

#[test]
fn processes_become_other_users() {
    if !inside("processes_become_other_users") {
        return;
    }
    check(&[
        ("id", "uid=0(root) gid=0(root)\n"),
        ("su app -c id", "uid=1000(app) gid=1000(app) groups=1000(app),44(video)\n"),
        ("su app -c 'su root -c id' </dev/null 2>&1 | head -c 2", "su"),
        (
            "su app -c 'touch /tmp/f; mkdir /tmp/d; ln -s x /tmp/l; mkfifo /tmp/p'; cd tmp; stat -c %u:%g f d l p",
            "1000:1000\n1000:1000\n1000:1000\n1000:1000\n",
        ),
        (
            "su app -c 'touch /f' 2>&1; ls f 2>&1",
            "touch: /f: Permission denied\nls: f: No such file or directory\n",
        ),
        (
            "su app -c 'echo x >>/etc/passwd' 2>&1; grep -c x:$ etc/passwd",
            "sh: can't create /etc/passwd: Permission denied\n0\n",
        ),
        (
            "touch f; su app -c 'chown app f; chmod 777 f' 2>&1",
            "chown: f: Operation not permitted\nchmod: f: Operation not permitted\n",
        ),
        (
            "su app -c 'touch /tmp/f; chown :44 /tmp/f; chgrp 5 /tmp/f' 2>&1; stat -c %g tmp/f",
            "chgrp: /tmp/f: Operation not permitted\n44\n",
        ),
        (
            "chmod 600 etc/group; su app -c 'test -r /etc/group || echo no'; test -r etc/group && echo yes",
            "no\nyes\n",
        ),
        (
            "mkdir d; chown 0:44 d; chmod 2775 d; touch d/f; mkdir d/e; stat -c '%u:%g %a' d/f d/e",
            "0:44 644\n0:44 2755\n",
        ),
        ("umask 027; su app -c 'touch /tmp/f; mkdir /tmp/d'; stat -c %a tmp/f tmp/d", "640\n750\n"),
        ("ulimit -x; su app -c 'sh -c id' | cut -d' ' -f1", "unlimited\nuid=1000(app)\n"),
    ]);
}

#[test]
fn the_user_of_the_step_is_emulated() {
    if !inside("the_user_of_the_step_is_emulated") {
        return;
    }
    let Some(world) = World::new() else { return };
    let outcome = world.shell("app", "id; touch /tmp/f; stat -c %u:%g /tmp/f; touch /f 2>&1");
    let expected = "uid=1000(app) gid=1000(app) groups=44(video)\n1000:1000\ntouch: /f: Permission denied\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
}

#[test]
fn many_processes_and_dying_ones_do_not_hold_each_other_up() {
    if !inside("many_processes_and_dying_ones_do_not_hold_each_other_up") {
        return;
    }
    check(&[
        (
            "for i in $(seq 300); do (touch f$i; chown $i f$i; su app -c true) & done; wait; stat -c %u f7 f300",
            "7\n300\n",
        ),
        (
            "for i in $(seq 50); do (while :; do chown 5 etc; stat etc; done) >/dev/null & pids=\"$pids $!\"; done
             sleep 0.2; kill -9 $pids; wait 2>/dev/null; touch f; chown 8 f; stat -c %u f",
            "8\n",
        ),
    ]);
}
