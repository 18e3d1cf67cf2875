//! A machine of its own for containers: processes, mounts, a network, a store, and root or an ordinary user to use them. What is left
//! there is seen exactly, whatever else runs beside it, and all of it ends with its value.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::groups::Groups;
use crate::harness::{DEADLINE, Outcome, Scratch, busybox_layout, have, skip, tool, wait_until};

/// The ordinary user, whom only an island knows.
const UID: u32 = 54_321;

/// The first process: it has nothing to do but to see its children off.
const FIRST: &str = "
import os, time
print('ready', flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.02)
";

/// What is made once in a store.
const STAYS: [&str; 5] =
    ["containers/lock", "containers/names", "networks/bridge.json", "networks/lock", "networks/records.lock"];

/// Who uses the island.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    /// Without privileges, with subordinate ids.
    User,
}

/// A machine of its own.
#[derive(Debug)]
pub(crate) struct Island {
    who: Who,
    unshare: Child,
    /// Its first process, as the test sees it.
    first: String,
    scratch: Scratch,
    /// What there was before the first command.
    before: Option<Traces>,
    /// What its commands run in. Removed when its processes have ended.
    groups: Groups,
}

/// What an island consists of, apart from the images and records of builds in its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traces {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    network: BTreeSet<String>,
    rules: String,
    files: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Island {
    /// With the image `bb`, a busybox. `None`, and a line that says so, where there can be none.
    pub(crate) fn new(who: Who) -> Option<Self> {
        let base = busybox_layout()?;
        let island = Self::empty(who)?;
        island.copy(base, "busybox");
        island.context("bb", &[("Dockerfile", "FROM busybox\n")]);
        let context = format!("busybox=oci-layout://{}", island.path("busybox"));
        island.wharf(&["build", "-q", "-t", "bb", "--build-context", &context, &island.path("bb")]).success();
        Some(island.started())
    }

    /// With an empty store.
    pub(crate) fn empty(who: Who) -> Option<Self> {
        let tools = ["ip", "mount", "nft", "nsenter", "python3", "setpriv", "unshare"];
        if !rustix::process::geteuid().is_root() {
            skip("machines for containers are made by root");
            return None;
        }
        if !have(&tools) || who == Who::User && !have(&["newuidmap", "newgidmap", "pasta"]) {
            return None;
        }
        // Short, and where everybody gets to.
        let scratch = Scratch::for_everybody();
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let mut unshare = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "python3",
                "-c",
                FIRST,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "there is no island");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let first = fs::read_to_string(children).unwrap().trim().to_owned();
        let island = Self { who, unshare, first, scratch, before: None, groups: Groups::new() };
        island.shell(
            "ip link set lo up
             # A way out, on which nobody answers. The kernel would give it more addresses at some later time.
             ip link add out type veth peer name nowhere
             ip link set out addrgenmode none; ip link set nowhere addrgenmode none
             ip link set out up; ip link set nowhere up
             ip address add 198.51.100.2/24 dev out
             ip route add default via 198.51.100.1",
        );
        island.people();
        fs::create_dir(island.path("home")).unwrap();
        chown(island.path("home"), Some(island.uid()), Some(island.uid())).unwrap();
        Some(island)
    }

    /// The files by which the machine knows its user, and the device that pasta needs.
    fn people(&self) {
        let home = self.path("home");
        for (name, text) in [
            ("passwd", format!("root:x:0:0::/root:/bin/sh\nann:x:{UID}:{UID}::{home}:/bin/sh\n")),
            ("group", format!("root:x:0:\nann:x:{UID}:\n")),
            ("subuid", "ann:300000:65536\n".to_owned()),
            ("subgid", "ann:300000:65536\n".to_owned()),
        ] {
            fs::write(self.scratch.path(name), text).unwrap();
            self.shell(&format!("mount --bind {} /etc/{name}", self.path(name)));
        }
        if Path::new("/dev/net/tun").exists() {
            let tun = self.path("tun");
            self.shell(&format!("mknod -m 0666 {tun} c 10 200; mount --bind {tun} /dev/net/tun"));
        }
    }

    /// From here on everything that is there must go away again.
    pub(crate) fn started(mut self) -> Self {
        self.before = Some(self.traces());
        self
    }

    fn uid(&self) -> u32 {
        if self.who == Who::User { UID } else { 0 }
    }

    /// A path of the island.
    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.path(name).display().to_string()
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.scratch.path("home/store")
    }

    /// Shows a directory of the machine around it, read-only.
    pub(crate) fn bind(&self, from: &Path, name: &str) {
        let to = self.path(name);
        fs::create_dir_all(&to).unwrap();
        let from = from.display();
        self.shell(&format!("mount --bind {from} {to}; mount -o remount,bind,ro {to}"));
    }

    /// Copies a directory of the machine around it, for everybody to read.
    pub(crate) fn copy(&self, from: &Path, name: &str) {
        let to = self.path(name);
        tool("cp", &["-r", &from.display().to_string(), &to]);
        tool("chmod", &["-R", "a+rX", &to]);
    }

    /// Writes a directory with these files.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.scratch.path(name).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.path(name)
    }

    /// `program ARGUMENTS`, by root, in the island.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        const ENTER: &str =
            r#"for entry in $ENTRIES; do echo 0 > "$entry"; done; unset ENTRIES; exec nsenter "$@""#;
        let entries: Vec<String> = self.groups.entries().map(|entry| entry.display().to_string()).collect();
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh", "--net", "--mount", "--pid", "--target", &self.first, "--wd=."]);
        command.args(["--", program]).env("ENTRIES", entries.join(" "));
        command.args(arguments).current_dir(self.scratch.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `wharf ARGUMENTS`, to be started, with these variables.
    pub(crate) fn wharf_command(&self, variables: &[&str], arguments: &[&str]) -> Command {
        let uid = self.uid().to_string();
        let home = self.path("home");
        let environment = format!("HOME={home}");
        let root = self.store().display().to_string();
        let mut all = vec!["-u", "XDG_RUNTIME_DIR", "-u", "XDG_DATA_HOME", "-u", "XDG_CONFIG_HOME"];
        all.extend(["-u", "SOURCE_DATE_EPOCH", "-u", "WHARF_ROOT", "-u", "WHARF_SANDBOX", &environment]);
        all.extend(variables);
        // Whoever becomes somebody else starts the program itself: until then root's rights lead to it, wherever the checkout is.
        all.extend(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        all.extend([env!("CARGO_BIN_EXE_wharf"), "--root", &root]);
        all.extend(arguments);
        self.command("env", &all)
    }

    /// `wharf ARGUMENTS`.
    pub(crate) fn wharf(&self, arguments: &[&str]) -> Outcome {
        self.wharf_with(&[], arguments)
    }

    /// `wharf ARGUMENTS` with these variables, `NAME=VALUE`.
    pub(crate) fn wharf_with(&self, variables: &[&str], arguments: &[&str]) -> Outcome {
        let mut outcome = Outcome::of(self.wharf_command(variables, arguments));
        outcome.command = arguments.join(" ");
        outcome
    }

    /// Runs a script by root and gives what it prints.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.command("sh", &["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is there now.
    #[track_caller]
    pub(crate) fn traces(&self) -> Traces {
        // Not the processes that look.
        let processes = self.shell("ps -e -o pid=,ppid=,args= | awk -v me=$$ '$1 != me && $2 != me'");
        let store = self.store();
        let files = self.shell(&format!(
            "cd {} 2>/dev/null && find tmp locks containers volumes networks -mindepth 1 2>/dev/null || true",
            store.display()
        ));
        let network =
            "ip -o link | cut -d: -f2; ip -o address | awk '{ print $2, $3, $4 }'; ip rule; ip route
             echo forwards: $(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding)";
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        Traces {
            processes: lines(processes),
            mounts: lines(self.shell("cut -d' ' -f5- /proc/1/mountinfo")),
            network: lines(self.shell(network)),
            rules: self.shell("nft list ruleset"),
            files: lines(files),
            groups: self.groups.made(),
        }
    }

    /// Waits until nothing is left that was not there before the first command: processes, mounts, interfaces and addresses, rules of
    /// the packet filter, control groups, files of containers, volumes and networks.
    #[track_caller]
    pub(crate) fn check_nothing_left(&self) {
        self.check_nothing_left_but(&[]);
    }

    /// The same, but files whose names begin with one of `files` may be.
    #[track_caller]
    pub(crate) fn check_nothing_left_but(&self, files: &[&str]) {
        let before = self.before.as_ref().expect("`started` says what was there before");
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut now = self.traces();
            // What was there at first may be gone by itself: a process that was just ending, a mount of the machine around.
            now.processes.retain(|process| !before.processes.contains(process));
            now.mounts.retain(|mount| !before.mounts.contains(mount));
            now.files.retain(|file| !STAYS.contains(&file.as_str()) && !before.files.contains(file));
            now.files.retain(|file| !files.iter().any(|allowed| file.starts_with(allowed)));
            let nothing_new = now.processes.is_empty() && now.mounts.is_empty() && now.files.is_empty();
            let is_as_before =
                (&now.network, &now.rules, &now.groups) == (&before.network, &before.rules, &before.groups);
            if nothing_new && is_as_before {
                return;
            }
            assert!(Instant::now() < deadline, "this is left: {now:#?}\nand before there was: {before:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The body of what an HTTP server says at `url`, as somebody on the island sees it; `None` if it says nothing, or not 200.
    pub(crate) fn get(&self, url: &str) -> Option<String> {
        const GET: &str = "import sys, urllib.request
sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())";
        let output = self.command("python3", &["-c", GET, url]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // Its first process ends with it, and with that all others and their mounts.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // The files of the user's subordinate ids are root's to remove, once nothing is mounted on them.
        let end = format!("/proc/{}", self.first);
        wait_until("the island is gone", || !Path::new(&end).exists());
    }
}

#[test]
fn a_container_leaves_nothing() {
    for who in [Who::Root, Who::User] {
        let Some(island) = Island::new(who) else { continue };
        assert_eq!(island.wharf(&["run", "--rm", "bb", "echo", "hello"]).success().text(), "hello\n");
        island.check_nothing_left();
    }
}

#[test]
fn what_is_left_is_seen() {
    let Some(island) = Island::new(Who::Root) else { return };
    // Where no group can be made, a file is one more that is seen.
    let group = island.groups.any().map_or("home/store/volumes/left".into(), |group| group.join("left"));
    let (make, remove) = (format!("mkdir {}", group.display()), format!("rmdir {}", group.display()));
    for (what, undo) in [
        ("sleep 1000 >/dev/null 2>&1 &", "kill $(pidof sleep)"),
        ("mount -t tmpfs none home", "umount home"),
        ("ip link add left type bridge", "ip link del left"),
        ("nft add table ip left", "nft delete table ip left"),
        ("touch home/store/volumes/left", "rm home/store/volumes/left"),
        (&make, &remove),
    ] {
        let before = island.traces();
        island.shell(what);
        assert_ne!(before, island.traces(), "{what}");
        island.shell(undo);
        assert_eq!(before, island.traces(), "{what}");
    }
}
