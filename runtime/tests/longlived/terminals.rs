//! Terminals of the container's own.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use serde_json::json;
use wharf_runtime::{Cancel, ExecRequest, ExitStatus, Running, Stdio, resize};

use crate::everywhere;
use crate::world::{OK, World, end, read_until, shell, words};

fn terminal<'a>() -> Stdio<'a> {
    Stdio::Terminal { rows: 24, columns: 80 }
}

fn master(process: &mut Running<'_>) -> File {
    let master = process.take_terminal().unwrap();
    assert!(process.take_terminal().is_none());
    master.into()
}

#[test]
fn a_terminal_is_the_containers_own() {
    everywhere("terminals::a_terminal_is_the_containers_own", || {
        let Some(world) = World::new() else { return };
        let user = ("/process/user", json!({"uid": 1000, "gid": 1000}));
        for (script, changes, expected) in [
            ("tty; stty size", vec![], "/dev/pts/0\r\n24 80\r\n"),
            ("test -c /dev/console && echo console >/dev/console", vec![], "console\r\n"),
            ("echo tty >/dev/tty; ls /dev/pts", vec![], "tty\r\n0     ptmx\r\n"),
            ("tty; echo x >/dev/pts/0; echo y >/dev/stdout", vec![user], "/dev/pts/0\r\nx\r\ny\r\n"),
            ("readlink /dev/ptmx; stat -c %a /dev/pts/ptmx", vec![], "pts/ptmx\r\n666\r\n"),
        ] {
            let cancel = Cancel::new().unwrap();
            let spec = shell(&format!("{script}; echo END; read x"), &changes);
            let mut container = world
                .start(&spec, terminal(), None, &cancel)
                .unwrap_or_else(|error| panic!("{script}: {}", words(&error)));
            let mut master = master(&mut container.process);
            assert_eq!(read_until(&mut master, "END\r\n"), format!("{expected}END\r\n"), "{script}");
            master.write_all(b"\n").unwrap();
            assert_eq!(end(&mut container.process), OK, "{script}");
        }
    });
}

#[test]
fn keys_sizes_and_hanging_up_reach_the_command() {
    everywhere("terminals::keys_sizes_and_hanging_up_reach_the_command", || {
        let Some(world) = World::new() else { return };
        let cancel = Cancel::new().unwrap();
        let script = "trap 'stty size; exit 3' WINCH; trap 'echo key' INT; echo ready; read x; echo $x; while :; do sleep 0.05; done";
        let spec = shell(script, &[]);
        let mut container = world.start(&spec, terminal(), None, &cancel).unwrap();
        let mut master = master(&mut container.process);
        read_until(&mut master, "ready\r\n");
        master.write_all(b"word\n").unwrap();
        read_until(&mut master, "word\r\nword\r\n");
        master.write_all(b"\x03").unwrap();
        read_until(&mut master, "key\r\n");
        resize(master.as_fd(), 50, 132).unwrap();
        read_until(&mut master, "50 132\r\n");
        assert_eq!(end(&mut container.process), ExitStatus::Exited(3));

        let spec = shell("echo ready; sleep 1000", &[]);
        let mut container = world.start(&spec, terminal(), None, &cancel).unwrap();
        let mut master = self::master(&mut container.process);
        read_until(&mut master, "ready\r\n");
        drop(master);
        assert_eq!(end(&mut container.process), ExitStatus::Signaled(libc::SIGHUP));
    });
}

#[test]
fn what_is_executed_has_a_terminal_there_too() {
    everywhere("terminals::what_is_executed_has_a_terminal_there_too", || {
        let Some(world) = World::new() else { return };
        let cancel = Cancel::new().unwrap();
        for (has_one, expected) in [(false, "/dev/pts/0\r\n"), (true, "/dev/pts/1\r\n")] {
            let stdio =
                if has_one { terminal() } else { Stdio::Given { stdin: None, stdout: None, stderr: None } };
            let spec = shell("sleep 1000", &[]);
            let container = world.start(&spec, stdio, None, &cancel).unwrap();
            let spec = shell("tty; stty size; echo END; read x; exit 4", &[]);
            let request = ExecRequest {
                process: spec.process().as_ref().unwrap(),
                seccomp: None,
                stdio: Stdio::Terminal { rows: 10, columns: 20 },
                cancel: &cancel,
            };
            let mut process = container.inside.exec(request).unwrap();
            let mut master = master(&mut process);
            assert_eq!(read_until(&mut master, "END\r\n"), format!("{expected}10 20\r\nEND\r\n"));
            master.write_all(b"\n").unwrap();
            assert_eq!(end(&mut process), ExitStatus::Exited(4));
        }
    });
}

#[test]
fn without_a_devpts_there_is_none() {
    let Some(world) = World::new() else { return };
    let cancel = Cancel::new().unwrap();
    let spec =
        shell("true", &[("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]))]);
    let Err(error) = world.start(&spec, terminal(), None, &cancel) else { panic!("a terminal from nowhere") };
    assert_eq!(
        words(&error),
        "cannot make a terminal: the container has no mount of type `devpts` at /dev/pts"
    );
}
