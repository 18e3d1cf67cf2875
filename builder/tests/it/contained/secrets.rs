//! Where a secret's bytes are after a build, and while it runs: nowhere but in the step that was given it.

use std::fs;
use std::io::Read as _;
use std::process::Command;

use super::{Place, in_each_sandbox, listing};
use crate::harness::{Outcome, processes, wait_until};
use crate::interrupt::start_until;

const SECRET: &str = "correct-horse-battery-staple";

/// Everything below the place's directories that has the secret in it, unpacked where it is packed, but for the file that it
/// was given in.
fn holders(place: &Place) -> Vec<String> {
    let holds = |content: &[u8]| content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    let files = listing(&place.path(""));
    let found = files.into_iter().filter(|(path, content)| {
        let is_packed = content.starts_with(&[0x1f, 0x8b]) || content.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let program = if content.starts_with(&[0x1f, 0x8b]) { "gzip" } else { "zstd" };
        let unpacked = || Command::new(program).arg("-dc").arg(path).output().map(|output| output.stdout);
        holds(content) || is_packed && unpacked().is_ok_and(|content| holds(&content))
    });
    let given = place.path("secret");
    found.map(|(path, _)| path).filter(|path| *path != given).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_secret_is_nowhere_after_a_build() {
    in_each_sandbox(|place| {
        fs::write(place.path("secret"), SECRET).unwrap();
        let arguments = [
            "--secret",
            "id=s,src=secret",
            "-t",
            "app",
            "-o",
            "type=image",
            "-o",
            "type=oci,tar=false,dest=layout",
            "-o",
            "files",
            "--cache-to",
            "type=local,dest=cache,mode=max",
            "--metadata-file",
            "metadata.json",
            "--explain",
        ];
        let lines = "RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S --mount=type=cache,target=/c \
                     [ -s /run/secrets/s ] && [ -n \"$S\" ] && echo ran >/c/x\n\
                     RUN --mount=type=secret,id=s,target=/tmp/s cat /tmp/s | sha256sum >/digest\n\
                     RUN --mount=type=secret,id=s,env=S test \"$S\" && mkdir /d && ln -s /run/secrets/s /d/s\n";
        let outcome = place.build(&arguments, lines).success();
        assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
        assert_eq!(holders(place), Vec::<String>::new(), "{}", place.sandbox);
        for asked in [&["history", "inspect"][..], &["history", "logs"]] {
            let said = Outcome::of(place.wharf_command(asked)).success();
            assert!(!(said.text() + &said.stderr).contains(SECRET));
        }
    });
}

#[test]
fn a_secret_is_nowhere_after_a_step_that_failed_or_crashed() {
    in_each_sandbox(|place| {
        fs::write(place.path("secret"), SECRET).unwrap();
        let mounts = "--mount=type=secret,id=s --mount=type=secret,id=s,env=S";
        let arguments = ["--no-cache", "--secret", "id=s,src=secret", "-o", "files"];
        for script in ["test -z \"$S\"", "cat /run/secrets/s >/dev/null; kill -KILL $$", "kill -SEGV $$"] {
            place.build(&arguments, &format!("RUN {mounts} {script}\n")).fails_with(1, &[]);
            assert_eq!(holders(place), Vec::<String>::new(), "{script} in {}", place.sandbox);
        }
        // No core, neither a file nor one that a program of the host is given, even if the step would like one.
        let script = "cd /tmp && ulimit -c unlimited 2>/dev/null; sh -c 'kill -SEGV $$'; \
                      [ -z \"$(ls /tmp)\" ] && [ \"$(ulimit -Hc)\" != unlimited ]";
        place.build(&arguments, &format!("RUN {mounts} {script}\n")).success();
        // Nor if the user would: who gives a secret means that.
        let asked = [&arguments[..], &["--ulimit", "core=-1"]].concat();
        place.build(&asked, &format!("RUN {mounts} {script}\n")).success();
        assert_eq!(holders(place), Vec::<String>::new(), "{}", place.sandbox);
        place.is_sound();
    });
}

#[test]
fn a_secret_is_in_no_list_of_processes() {
    in_each_sandbox(|place| {
        if !place.is_one_process() {
            return;
        }
        fs::write(place.path("secret"), SECRET).unwrap();
        place.wharf.dockerfile(
            "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null && echo step $((40+2)) && sleep 1000\n",
        );
        let command = place.command(&["--secret", "id=s,src=secret"]);
        let (mut child, mut said) = start_until(command, "step 42");
        assert_eq!(processes(SECRET), Vec::<String>::new(), "{}", place.sandbox);
        // Nor on the disk, while the step has it and when it and the builder are killed.
        assert_eq!(holders(place), Vec::<String>::new(), "{}", place.sandbox);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(holders(place), Vec::<String>::new(), "{}", place.sandbox);
        wait_until("the next build works", || place.build(&[], "RUN true\n").code == Some(0));
        place.is_sound();
    });
}
