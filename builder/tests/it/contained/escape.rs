//! Steps that try to get out.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{major, minor};

use super::{Place, Who, in_each_sandbox, listing};
use crate::harness::{Outcome, have, repository, tool};

/// A process outside of the sandbox.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A System V message queue and a segment of shared memory outside.
struct Ipc {
    number: u32,
}

impl Ipc {
    fn make(number: u32) -> Self {
        let key = (0x5741_0000 | number).to_string();
        let script = "import ctypes, sys\nkey, libc = int(sys.argv[1]), ctypes.CDLL(None)\n\
                      assert libc.msgget(key, 0o1666) >= 0 and libc.shmget(key, 1, 0o1666) >= 0";
        tool("python3", &["-c", script, &key]);
        Self { number }
    }

    /// Removes a queue that is there.
    fn remove(base: u32, number: u32) -> bool {
        let key = (base | number).to_string();
        Command::new("ipcrm").args(["-Q", &key]).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Ipc {
    fn drop(&mut self) {
        Self::remove(0x5741_0000, self.number);
        let key = (0x5741_0000 | self.number).to_string();
        let _ = Command::new("ipcrm").args(["-M", &key]).status();
    }
}

/// A directory of the host with a file in it, beside store and context.
fn outside(place: &Place) -> String {
    let outside = place.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("kept"), "the host's").unwrap();
    outside.display().to_string()
}

#[test]
fn no_call_leads_outside() {
    if !have(&["gcc", "python3", "ipcrm"]) {
        return;
    }
    in_each_sandbox(|place| {
        let probe = place.wharf.context().join("probe").display().to_string();
        let source = repository().join("testdata/contained/probe.c").display().to_string();
        tool("gcc", &["-static", "-O1", "-o", &probe, &source]);
        let outside = outside(place);
        let mut victim = Victim::start();
        let ipc = Ipc::make(victim.0.id());
        let name = format!("wharf-victim-{}", victim.0.id());
        let _listening = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let device = fs::metadata(&outside).unwrap().st_dev();
        let arguments =
            format!("{} {name} {outside}/kept {} {}", victim.0.id(), major(device), minor(device));
        for user in ["root", "nobody"] {
            let out = place.path("out").display().to_string();
            let lines = format!(
                "COPY probe /probe\nRUN mkdir -m 777 /found && mkdir -p /tmp && chmod 1777 /tmp\nUSER {user}\n\
                 RUN --network=none cd /tmp && /probe {arguments} >/found/{user}\n\
                 FROM scratch\nCOPY --from=0 /found /\n"
            );
            place.build(&["--no-cache", "-o", &out], &lines).success();
            let found = fs::read_to_string(place.path("out").join(user)).unwrap();
            assert_eq!(found, "", "what worked as {user} in {}", place.sandbox);
            assert!(!Ipc::remove(0x5742_0000, ipc.number), "a queue stayed as {user} in {}", place.sandbox);
        }
        assert_eq!(victim.0.try_wait().unwrap(), None, "the victim was ended in {}", place.sandbox);
        place.is_sound();
    });
}

#[test]
fn no_path_leads_outside() {
    in_each_sandbox(|place| {
        let outside = outside(place);
        // None of these can be more than tried: where the step has no /proc, nothing of it leads anywhere.
        for script in [
            "[ ! -e OUTSIDE ] && [ ! -e /../../../../../../..OUTSIDE ]",
            "cd / && cd ../../../.. && [ ! -e .OUTSIDE ] && [ \"$(ls -a /..)\" = \"$(ls -a /)\" ]",
            "for p in /proc/[0-9]* /proc/self /proc/thread-self; do for d in root cwd; do \
             [ ! -e $p/$d/OUTSIDE ] && [ ! -e $p/$d/../../../../../../../../OUTSIDE ] || exit 1; done; done",
            "for f in /proc/[0-9]*/fd/*; do [ ! -e $f/OUTSIDE ] && [ ! -e $f/../../../../../../../OUTSIDE ] || exit 1; done",
            "for f in /proc/[0-9]*/map_files/*; do [ ! -e $f/OUTSIDE ] || exit 1; done",
            "! cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -q 'variable-of-the[-]builder'",
            "! cat /proc/[0-9]*/mountinfo 2>/dev/null | grep 'outsid[e]'",
            "i=3; while [ $i -lt 64 ]; do ! (eval \": <&$i\") 2>/dev/null || exit 1; i=$((i+1)); done",
            "! mount -t tmpfs none /tmp && ! mount --bind / /tmp && ! mount -o remount,rw /sys",
            "! unshare -m true && ! unshare -U true && ! unshare -r true && ! nsenter -t 1 -m true",
            "ln -s OUTSIDE /link && [ ! -e /link ] && ! ls /link/ && ! cat /link/kept && rm /link",
        ] {
            let line = format!("RUN {}\n", script.replace("OUTSIDE", &outside));
            let mut command = place.command(&["--no-cache"]);
            place.wharf.dockerfile(&format!("FROM busybox\n{line}"));
            command.env("BUILDER_MARK", "variable-of-the-builder");
            // The builder is started with a descriptor of the host.
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec 9<\"$0\" 8>>\"$0/kept\" && exec \"$@\""]).arg(&outside);
            shell.arg(command.get_program()).args(command.get_args());
            shell.current_dir(command.get_current_dir().unwrap());
            shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let outcome = Outcome::of(shell);
            assert_eq!(outcome.code, Some(0), "in {}:\n{}", place.sandbox, outcome.stderr);
        }
        assert_eq!(fs::read_to_string(format!("{outside}/kept")).unwrap(), "the host's");
    });
}

/// Links that a step has made where others mount, copy or work.
#[test]
fn no_link_in_the_image_leads_outside() {
    in_each_sandbox(|place| {
        let outside = outside(place);
        let before = listing(Path::new(&outside));
        place.wharf.file("f", "file of the context");
        fs::write(place.path("secret"), "secret of the user").unwrap();
        let links = [
            outside.clone(),
            format!("../../../../../../../..{outside}"),
            format!("/proc/1/root{outside}"),
            format!("/proc/self/cwd/../../..{outside}"),
        ];
        for (number, link) in links.iter().enumerate() {
            let lines = [
                "RUN --mount=type=cache,target=/evil/c echo x >/evil/c/x",
                "RUN --mount=type=cache,target=/evil echo x >/evil/x",
                "RUN --mount=type=tmpfs,target=/evil/t echo x >/evil/t/x",
                "RUN --mount=type=secret,id=s,target=/evil/s cat /evil/s",
                "RUN --mount=type=secret,id=s,target=/evil/kept cat /evil/kept",
                "RUN --mount=type=bind,target=/evil/f,source=f cat /evil/f",
                "RUN --mount=type=bind,target=/evil/d,rw touch /evil/d/new",
                "RUN --mount=type=ssh,target=/evil/ssh true",
                "WORKDIR /evil/w",
                "COPY f /evil/copied",
                "COPY f /evil/",
                "ADD --chown=7:7 f /evil/kept",
                "RUN --mount=type=cache,target=/a/b/c rm -rf /a/b; mv /a /z; ln -s /evil /a; echo x >/a/x; true",
                "RUN --mount=type=cache,target=/a/b rm -rf /a/b; ln -s /evil /a/b; echo x >/a/b/x; true",
            ];
            // All pairs as root; elsewhere each line with one link.
            let is_tried = |at: usize| place.who == Who::Root || at % links.len() == number;
            for (_, line) in lines.iter().enumerate().filter(|(at, _)| is_tried(*at)) {
                let lines = format!("RUN ln -s {link} /evil && mkdir -p /a/b\n{line}\nRUN true\n");
                let outcome = place.build(&["--secret", "id=s,src=secret"], &lines);
                // Whether it works is another matter.
                assert!(!outcome.stderr.contains("panicked"), "{line}: {}", outcome.stderr);
                assert_eq!(listing(Path::new(&outside)), before, "{line} with {link} in {}", place.sandbox);
            }
        }
        place.is_sound();
    });
}

/// An image whose places of the runtime's own are links to the host.
#[test]
fn no_link_of_an_image_leads_outside() {
    in_each_sandbox(|place| {
        let outside = outside(place);
        let before = listing(Path::new(&outside));
        for names in [
            &["dev", "proc", "sys"][..],
            &["etc"],
            &["etc/hosts", "etc/resolv.conf"],
            &["run", "tmp", "work"],
        ] {
            let tree = place.path("tree");
            for name in names {
                let path = tree.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                symlink(&outside, path).unwrap();
            }
            let archive = place.wharf.context().join("tree.tar").display().to_string();
            tool("tar", &["-C", &tree.display().to_string(), "-cf", &archive, "."]);
            fs::remove_dir_all(&tree).unwrap();
            place.wharf.dockerfile(
                "FROM busybox AS tools\nFROM scratch\nADD tree.tar /\nCOPY --from=tools /bin /bin\nWORKDIR /work\n\
                 RUN --mount=type=secret,id=s,required=false echo x >/tmp/x; echo x >/dev/x; echo x >/etc/x; true\n",
            );
            let outcome = Outcome::of(place.command(&[]));
            assert!(!outcome.stderr.contains("panicked"), "{names:?}: {}", outcome.stderr);
            assert_eq!(listing(Path::new(&outside)), before, "{names:?} in {}", place.sandbox);
        }
        place.is_sound();
    });
}

/// A set-uid program gains what it would outside, but in the sandbox chroot, where no program gains anything.
#[test]
fn set_uid_programs_gain_what_the_sandbox_has() {
    if !have(&["gcc"]) {
        return;
    }
    const WHO: &str = "#include <stdio.h>\n#include <unistd.h>\n\
        int main(void) { printf(\"%d %d %d %d\\n\", getuid(), geteuid(), getgid(), getegid()); }\n";
    in_each_sandbox(|place| {
        let source = place.path("who.c").display().to_string();
        fs::write(&source, WHO).unwrap();
        let program = place.wharf.context().join("who").display().to_string();
        tool("gcc", &["-static", "-o", &program, &source]);
        let gains = !matches!(place.forced, "chroot")
            && !matches!(place.who, Who::Pod("root-seccomp" | "hostusers-false"));
        let expected = if gains { "1234 7 55 8" } else { "1234 1234 55 55" };
        let lines = format!(
            "COPY --chown=7:8 --chmod=6755 who /who\nRUN cp /who /made && chown 7:8 /made && chmod 6755 /made\nUSER 1234:55\n\
             RUN [ \"$(/who)\" = '{expected}' ] && [ \"$(/made)\" = '{expected}' ]\n"
        );
        place.build(&[], &lines).success();
    });
}
