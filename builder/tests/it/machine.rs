//! What the machine does not allow is said at once and in its own words.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::harness::{Outcome, Scratch, Wharf, have, skip};

const ENVIRONMENT: i32 = 5;

/// Where another user can reach it.
fn open_place() -> Scratch {
    let scratch = Scratch::for_everybody();
    for (name, mode) in [("context", 0o755), ("home", 0o777)] {
        fs::create_dir(scratch.path(name)).unwrap();
        fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(scratch.path("context/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    scratch
}

/// `wharf --root home/store --sandbox root ARGUMENTS` started by `setpriv PRIVILEGES`.
fn with_privileges(scratch: &Scratch, privileges: &[&str], arguments: &[&str]) -> Outcome {
    let mut command = Command::new("setpriv");
    command.args(privileges).arg(env!("CARGO_BIN_EXE_wharf"));
    command.args(["--root", "home/store", "--sandbox", "root"]).args(arguments);
    command.current_dir(scratch.path("")).stdin(Stdio::null());
    Outcome::of(command)
}

const NOBODY: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn what_a_sandbox_takes_is_said_at_once() {
    if !have(&["setpriv"]) || Wharf::new().is_none() {
        return;
    }
    let scratch = open_place();
    for (privileges, words) in [
        (NOBODY, &["uid 65534", "hint: `wharf doctor` says"][..]),
        (&["--bounding-set=-sys_admin"], &["CAP_SYS_ADMIN", "hint: `wharf doctor` says"]),
    ] {
        for arguments in [&["build", "context"][..], &["build", "-o", "home/out", "context"], &["run", "app"]]
        {
            let code = if arguments[0] == "run" { 125 } else { ENVIRONMENT };
            let outcome = with_privileges(&scratch, privileges, arguments).fails_with(code, words);
            assert_eq!(outcome.stderr.lines().count(), 2, "{}", outcome.stderr);
        }
        assert!(!scratch.path("home/store").exists());
        for arguments in [&["build", "--check", "context"][..], &["build", "--call=targets", "context"]] {
            with_privileges(&scratch, privileges, arguments).success();
        }
    }
    with_privileges(&scratch, NOBODY, &["build", "--no-such-flag", "context"]).fails_with(2, &[]);
}

#[test]
fn a_store_that_cannot_be_written_is_called_so() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nCOPY Dockerfile /\n").build(&["-t", "app"]).success();
    let direct = wharf.command("store", &["images"]);
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$2\" \"$2\" && mount -o remount,bind,ro \"$2\" && exec \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", script]).arg(direct.get_program()).args(direct.get_args());
    let outcome = Outcome::of(command);
    if outcome.stderr.starts_with("mount:") {
        return skip("cannot mount");
    }
    outcome.fails_with(
        ENVIRONMENT,
        &["the store `", "cannot be written", "hint: its file system is mounted read-only"],
    );
}
