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

/// The same with perl.
#[track_caller]
fn check_calls(cases: &[(&str, &str)]) {
    for (script, expected) in cases {
        let Some(world) = World::new() else { return };
        if !world.add_perl() {
            return;
        }
        let outcome = world.shell("", script);
        assert_eq!(outcome.stdout, *expected, "{script}\nstderr: {}", outcome.stderr);
    }
}

#[test]
fn rare_calls_are_answered_too() {
    if !inside("rare_calls_are_answered_too") {
        return;
    }
    let bind =
        |path: &str| format!("socket(S,1,1,0); bind(S,pack(q(Sa108),1,q({path}))) or print qq(no: $!\n);");
    let long = "n".repeat(90);
    let openat2 = |path: &str, flags: &str, resolve: &str| {
        format!(
            "$p=qq({path}\\0); $how=pack(q(QQQ),{flags},0640,{resolve}); $fd=syscall(437,-100,$p,$how,24); print $fd<0 ? qq(no: $!\n) : qq(made\n);"
        )
    };
    let create = "0101";
    let as_app = |perl: &str| format!("su app -c 'cd /tmp; perl -e '\\''{perl}'\\'");
    check_calls(&[
        (
            &format!(
                "umask 027; {}; stat -c '%u:%g %a' tmp/s; su app -c 'chmod 777 /tmp/s && stat -c %a /tmp/s'",
                as_app(&bind("/tmp/s"))
            ),
            "1000:1000 750\n777\n",
        ),
        (&format!("{}; stat -c %u tmp/{long}", as_app(&bind(&long))), "1000\n"),
        (&as_app(&bind("/s")), "no: Permission denied\n"),
        (&format!("perl -e '{}'; stat -c %u s", bind("s")), "0\n"),
        (&format!("{}; {}", as_app(&bind("s")), as_app(&bind("s"))), "no: Address already in use\n"),
        (
            "mkfifo p; chown 33:44 p; perl -e 'utime 1000,1000,q(p)'; stat -c '%u:%g %Y' p
             perl -e 'open(P,q(+<),q(p)); utime 2000,2000,*P; utime undef,undef,*P'; stat -c %u:%g p
             perl -e '$p=qq(p\\0); $t=pack(q(qq),3000,3000); syscall(132,$p,$t)'; stat -c '%u:%g %Y' p
             perl -e '$p=qq(p\\0); $t=pack(q(q4),1,2,4000,5); syscall(235,$p,$t)'; stat -c '%u:%g %Y' p",
            "33:44 1000\n33:44\n33:44 3000\n33:44 4000\n",
        ),
        (
            &format!("{}; stat -c '%u:%g %a' tmp/f", as_app(&openat2("f", create, "0x8"))),
            "made\n1000:1000 640\n",
        ),
        (&format!("{}; stat -c %u tmp/f", as_app(&openat2("/f", create, "0x10"))), "made\n1000\n"),
        (&as_app(&openat2("../f", create, "0x8")), "no: Invalid cross-device link\n"),
        (
            &format!("{}; ls f 2>/dev/null", as_app(&openat2("../f", create, "0x4"))),
            "no: Permission denied\n",
        ),
        (&format!("echo >tmp/f; {}", as_app(&openat2("f", create, "0x8"))), "no: Permission denied\n"),
        (
            &format!(
                "cd tmp; ln -s a l; ln -s /tmp/l m; ln -s /f n; {}; {}; stat -c %u a; ls /tmp/f 2>/dev/null; {}; stat -c %u f",
                as_app(&openat2("m", create, "0x4")),
                as_app(&openat2("m", create, "0x2")),
                as_app(&openat2("n", create, "0x10"))
            ),
            "no: Too many levels of symbolic links\nmade\n1000\nmade\n1000\n",
        ),
        (
            "echo x >f; chmod 600 f; su app -c 'perl -e \"open(F,q(+<),q(/f)) or print qq(no\\n); truncate(q(/f),0) or print qq(no\\n)\"'; cat f",
            "no\nno\nx\n",
        ),
    ]);
}

#[test]
fn programs_bring_their_owners() {
    if !inside("programs_bring_their_owners") {
        return;
    }
    let script = "cp usr/bin/perl sid; chmod 4755 sid; echo 'print qq($<:$>\\n)' >p";
    let told = "su app -c '/sid /p'";
    check_calls(&[
        (&format!("{script}; {told}"), "1000:0\n"),
        (
            &format!("{script}; chmod 4750 sid; {told} 2>&1; chgrp 44 sid; chmod 4750 sid; {told}"),
            "sh: /sid: Permission denied\n1000:0\n",
        ),
        ("echo 'id -u; id -u' >bad; chmod 4755 bad; su app -c /bad", "1000\n1000\n"),
        ("cp bin/true t; chmod 700 t; su app -c /t 2>&1", "sh: /t: Permission denied\n"),
        (
            "cp bin/busybox id; chmod 4755 id
         su app -c 'perl -e \"\\$p=qq(/id\\\\0); syscall(59,\\$p,1,0); print \\$>\"'",
            "1000",
        ),
    ]);
}

#[test]
fn modes_hold_for_other_users() {
    if !inside("modes_hold_for_other_users") {
        return;
    }
    check(&[
        (
            "cd tmp; ln -s /tmp/d/f l; mkdir d; chmod 777 d; su app -c 'echo x >/tmp/l'; stat -c %u:%g d/f",
            "1000:1000\n",
        ),
        (
            "cd tmp; ln -s ../f l; su app -c 'echo x >/tmp/l' 2>&1; ls /f 2>/dev/null",
            "sh: can't create /tmp/l: Permission denied\n",
        ),
        ("mkdir d; cd d; ln -s l m; ln -s m l; echo x 2>/dev/null >l; echo $?", "1\n"),
        ("mkdir d; chmod 2777 d; chown 0:44 d; ln -s d/f l; echo x >l; stat -c %u:%g d/f", "0:44\n"),
        (
            "su app -c 'mv /etc/group /etc/g; mv /etc/group /tmp/g; rm -f /etc/group; rm -f /etc/missing; ln /etc/group /etc/x; rmdir /root' 2>&1; ls etc",
            "mv: can't rename '/etc/group': Permission denied\nmv: can't rename '/etc/group': Permission denied\nrm: can't remove '/etc/group': Permission denied\nln: /etc/x: Permission denied\nrmdir: '/root': Permission denied\ngroup\npasswd\n",
        ),
        (
            "touch tmp/f; su app -c 'rm -f /tmp/f; mv /tmp/f /tmp/g; touch /tmp/h; mv /tmp/h /tmp/i; rm /tmp/i' 2>&1; ls tmp",
            "rm: can't remove '/tmp/f': Operation not permitted\nmv: can't rename '/tmp/f': Operation not permitted\nf\n",
        ),
        (
            "mkdir d e; chmod 777 d; mkdir d/f; su app -c 'mkdir /tmp/x; mv /d/f /d/g && mv /d/g /tmp/x/g' 2>&1 | head -n 1; ls d",
            "mv: can't rename '/d/g': Permission denied\ng\n",
        ),
        ("su app -c 'touch /tmp/f; ln /tmp/f /tmp/g; mv /tmp/g /tmp/h; rm -r /tmp/f /tmp/h'; ls tmp", ""),
        (
            "su app -c 'touch /tmp/f; chmod 2755 /tmp/f; stat -c %a /tmp/f'; chown 1000:5 tmp/f; su app -c 'chmod 2755 /tmp/f; stat -c %a /tmp/f'",
            "2755\n755\n",
        ),
        ("su app -c 'echo 1 >/proc/self/oom_score_adj && echo x | cat >/dev/null && echo yes'", "yes\n"),
        ("su app -c 'echo x | (echo a | cat >/dev/stdout) | cat'", "a\n"),
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
