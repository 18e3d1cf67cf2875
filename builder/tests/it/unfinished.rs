//! Archives that do not come to an end: nobody reads them, or the process is killed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fault_rows::fault;
use crate::faults::world;
use crate::harness::{Outcome, Wharf, busybox_layout, tool, wait_until};
use crate::interrupt::start_until;

#[test]
fn one_interrupt_ends_what_waits_for_a_reader() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\n").build(&["-t", "app"]).success();
    let fifo = wharf.path("fifo");
    tool("mkfifo", &[&fifo.display().to_string()]);
    let build = |output: &str| wharf.build_command("store", &["-o", output]);
    for is_open in [false, true] {
        for (name, word, command) in [
            ("tar", "exporting to tar", build("type=tar,dest=fifo")),
            ("oci", "exporting to oci", build("type=oci,dest=fifo")),
            ("docker", "exporting to docker", build("type=docker,dest=fifo")),
            ("export", "exporting app", wharf.command("store", &["export", "-o", "fifo", "app"])),
            ("save", "writing the archive", wharf.command("store", &["save", "-o", "fifo", "app"])),
            ("copy", "copying app", wharf.command("store", &["copy", "app", "oci-archive:fifo"])),
        ] {
            // Opened for reading, and never read from.
            let reader = is_open
                .then(|| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap());
            let (mut child, mut said) = start_until(command, word);
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            wait_until(&format!("{name}: it ends"), || child.try_wait().unwrap().is_some());
            let mut rest = String::new();
            std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(130), "{name} {is_open}: {rest}");
            assert!(rest.contains("interrupted"), "{name} {is_open}: {rest}");
            drop(reader);
        }
    }
    // Whoever reads gets all of it.
    let mut command = wharf.command("store", &["export", "-q", "-o", "fifo", "app"]);
    let child = command.spawn().unwrap();
    fs::write(wharf.path("copy.tar"), fs::read(&fifo).unwrap()).unwrap();
    Outcome::from_output(&command, child.wait_with_output().unwrap()).success();
    assert!(tool("tar", &["-tf", &wharf.path("copy.tar").display().to_string()]).contains("bin/busybox"));
    assert_eq!(wharf.leftovers("store"), [""; 0]);
}

/// Names in the fixture's directory and in the layout there that are nobody's.
fn temporary_files(wharf: &Wharf) -> Vec<String> {
    let places = [wharf.path(""), wharf.path("layout"), wharf.path("layout/blobs/sha256")];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".wharf-")).collect()
}

#[test]
fn what_is_killed_leaves_nothing_beside_its_target() {
    let Some((wharf, server)) = world() else { return };
    let probe = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(wharf.path(""));
    if probe.is_err() {
        crate::harness::skip("files without a name need a file system that has them");
        return;
    }
    let source = format!("docker://{}/base:v1", server.host());
    let stall = json!([fault("GET .*/blobs/sha256", -1, json!({"do": "stall", "seconds": 1000}))]);
    fs::write(wharf.path("old.tar"), "old").unwrap();
    for target in ["oci:layout", "oci-archive:new.tar", "docker-archive:new.tar", "oci-archive:old.tar"] {
        server.set(&stall);
        let mut child = wharf.command("store", &["copy", &source, target]).spawn().unwrap();
        wait_until("a blob is on its way", || !server.asked("GET /v2/base/blobs/").is_empty());
        // What has come of it goes to its place piece by piece.
        std::thread::sleep(std::time::Duration::from_millis(300));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(temporary_files(&wharf), [""; 0], "{target}");
    }
    assert!(!wharf.path("new.tar").exists());
    assert_eq!(fs::read_to_string(wharf.path("old.tar")).unwrap(), "old");
    server.set(&json!([]));
    for target in ["oci:layout", "oci-archive:new.tar", "oci-archive:old.tar"] {
        wharf.run(&["copy", "-q", &source, target]).success();
    }
    assert!(fs::metadata(wharf.path("old.tar")).unwrap().len() > 1000);
    assert_eq!(temporary_files(&wharf), [""; 0]);
}
