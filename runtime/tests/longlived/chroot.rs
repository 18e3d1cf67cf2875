//! Containers without namespaces.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use serde_json::{Value, json};
use wharf_runtime::chroot::{ChrootContainer, ChrootRequest, Confinement, Network, start};
use wharf_runtime::{Cancel, ExecRequest, ExitStatus, RuntimeError, Spec, Stdio};

use crate::world::{World, end, marker, processes_with, read_until, shell, until, words};

struct Place {
    world: World,
    root: File,
    aside: File,
}

impl Place {
    fn new() -> Option<Self> {
        let world = World::new()?;
        let aside = world.directory.with_extension("aside");
        let _ = std::fs::remove_dir_all(&aside);
        std::fs::create_dir(&aside).unwrap();
        let (root, aside) = (File::open(&world.directory).unwrap(), File::open(aside).unwrap());
        Some(Self { world, root, aside })
    }

    fn start<'a>(
        &'a self,
        spec: &'a Spec,
        stdio: Stdio<'a>,
        cancel: &'a Cancel,
    ) -> Result<ChrootContainer<'a, 'a>, RuntimeError> {
        start(ChrootRequest {
            spec,
            root: self.root.as_fd(),
            aside: self.aside.as_fd(),
            devices: None,
            group: None,
            placements: vec![],
            confinement: Confinement::probe(),
            network: Network::Host,
            stdio,
            cancel,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.world.directory.with_extension("aside"));
    }
}

fn nothing<'a>() -> Stdio<'a> {
    Stdio::Given { stdin: None, stdout: None, stderr: None }
}

fn exec(container: &ChrootContainer<'_, '_>, script: &str, changes: &[(&str, Value)]) -> (String, String) {
    let (spec, cancel) = (shell(script, changes), Cancel::new().unwrap());
    let mut printed = Vec::new();
    let mut sink = |_, chunk: &[u8]| printed.extend_from_slice(chunk);
    let process = spec.process().as_ref().unwrap();
    let request = ExecRequest { process, seccomp: None, stdio: Stdio::Captured(&mut sink), cancel: &cancel };
    let status = match container.inside.exec(request).and_then(|mut process| process.wait()) {
        Ok(status) => format!("{status:?}"),
        Err(error) => words(&error),
    };
    (status, String::from_utf8(printed).unwrap())
}

#[test]
fn a_container_is_entered_and_ends_with_all() {
    let Some(place) = Place::new() else { return };
    let (cancel, marker) = (Cancel::new().unwrap(), marker());
    let spec = shell(&format!("echo here >/tmp/file; sleep {marker}"), &[]);
    let container = place.start(&spec, nothing(), &cancel).unwrap();
    assert!(until(|| exec(&container, "cat /tmp/file", &[]).1 == "here\n"));
    let user = ("/process/user", json!({"uid": 1000, "gid": 1000}));
    for (script, changes, status, printed) in [
        ("id -u; exit 3", vec![user], "Exited(3)", "1000\n"),
        ("echo x >/dev/null; echo y >/dev/stdout", vec![], "Exited(0)", "y\n"),
        (
            "",
            vec![("/process/args", json!(["missing"]))],
            "cannot execute `missing`: No such file or directory (os error 2)",
            "",
        ),
        ("ls /etc/passwd 2>/dev/null; ls -d /tmp", vec![], "Exited(0)", "/tmp\n"),
    ] {
        assert_eq!(exec(&container, script, &changes), (status.to_owned(), printed.to_owned()), "{script}");
    }
    // A process that was executed ends when it is told, with all that it has started, and with the container.
    let script = format!("setsid sleep {marker} & sleep {marker} & sleep {marker}");
    let spec = shell(&script, &[]);
    let stop = Cancel::new().unwrap();
    let request = |cancel| ExecRequest {
        process: spec.process().as_ref().unwrap(),
        seccomp: None,
        stdio: nothing(),
        cancel,
    };
    let mut process = container.inside.exec(request(&stop)).unwrap();
    assert!(until(|| processes_with(&marker) == 4));
    assert_eq!(
        container.inside.members.list().unwrap().iter().filter(|it| it.arguments.contains(&marker)).count(),
        4
    );
    stop.cancel();
    assert!(matches!(process.wait(), Err(RuntimeError::Cancelled)));
    assert_eq!(processes_with(&marker), 1);
    let mut process = container.inside.exec(request(&cancel)).unwrap();
    assert!(until(|| processes_with(&marker) == 4));
    container.process.kill();
    assert_eq!(end(&mut process), ExitStatus::Signaled(9));
    drop(process);
    assert_eq!(container.finish().unwrap().status, ExitStatus::Signaled(9));
    assert_eq!(processes_with(&marker), 0);
    assert!(!place.world.directory.join("dev").exists(), "a mount point is left");
}

#[test]
fn a_terminal_comes_from_the_place() {
    let Some(place) = Place::new() else { return };
    if !std::path::Path::new("/dev/ptmx").exists() {
        return println!("SKIP: no /dev/ptmx");
    }
    let cancel = Cancel::new().unwrap();
    let spec = shell("test -t 0 && echo terminal; stty size; echo x >/dev/tty; echo END; read x", &[]);
    let mut container = place.start(&spec, Stdio::Terminal { rows: 5, columns: 9 }, &cancel).unwrap();
    let mut master = File::from(container.process.take_terminal().unwrap());
    assert_eq!(read_until(&mut master, "END\r\n"), "terminal\r\n5 9\r\nx\r\nEND\r\n");
    master.write_all(b"\n").unwrap();
    assert_eq!(container.finish().unwrap().status, ExitStatus::Exited(0));
}
