//! The network of steps, on machines that are network namespaces: a host, and somebody elsewhere who is its way out.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Outcome, Scratch, Wharf, busybox_layout, have, skip, wait_until};

/// The host's address, and that of its gateway elsewhere.
pub(crate) const HOST: &str = "198.51.100.1";
pub(crate) const ELSEWHERE: &str = "198.51.100.2";

/// A server that tells its clients their address, and says when it listens: `serve.py ADDRESS PORT`.
const SERVE: &str = r#"
import socket, sys
server = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen()
print('ready', flush=True)
while True:
    client, peer = server.accept()
    client.sendall(('you are ' + peer[0] + '\n').encode())
    client.close()
"#;

/// A name server that knows one name: `dns.py ADDRESS NAME RESULT`.
const NAMES: &str = r#"
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
name = b''.join(bytes([len(part)]) + part.encode() for part in sys.argv[2].split('.')) + b'\0'
print('ready', flush=True)
while True:
    question, peer = server.recvfrom(4096)
    end = question.index(b'\0', 12) + 1
    asked, kind = question[12:end], question[end:end + 2]
    known = asked.lower() == name and kind == b'\0\1'
    answer = b'\xc0\x0c\0\1\0\1\0\0\0\5\0\4' + socket.inet_aton(sys.argv[3]) if known else b''
    code = 0 if asked.lower() == name else 3
    server.sendto(question[:2] + bytes([0x81, 0x80 | code]) + b'\0\1' + (b'\0\1' if known else b'\0\0')
                  + b'\0\0\0\0' + question[12:end + 4] + answer, peer)
"#;

/// Ends with its value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a program that prints a line when it is ready.
    fn start(command: &mut Command) -> Self {
        use std::io::{BufRead as _, BufReader};
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{command:?} ended");
        Self(child)
    }

    /// Something with a network and mounts of its own. It is no router, also where the machine is one.
    pub(crate) fn machine() -> Self {
        Self::start(Command::new("unshare").args([
            "--net",
            "--mount",
            "sh",
            "-c",
            "echo 0 >/proc/sys/net/ipv4/ip_forward; echo ready; exec sleep 1000",
        ]))
    }

    /// A host, and somebody elsewhere who is its way out.
    pub(crate) fn host_and_elsewhere() -> (Self, Self) {
        let (host, elsewhere) = (Self::machine(), Self::machine());
        host.shell(&format!(
            "ip link set lo up; ip link add up0 type veth peer name up0 netns {}
             ip address add {HOST}/24 dev up0; ip link set up0 up",
            elsewhere.0.id()
        ));
        elsewhere.shell(&format!("ip address add {ELSEWHERE}/24 dev up0; ip link set up0 up"));
        host.shell(&format!("ip route add default via {ELSEWHERE}"));
        (host, elsewhere)
    }

    /// Gives the host this `/etc/resolv.conf`, which is kept at `path`.
    pub(crate) fn resolv_conf(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        self.shell(&format!("mount --bind {} $(readlink -f /etc/resolv.conf)", path.display()));
    }

    /// The interfaces, routes, rules and settings of the host that wharf leaves there.
    pub(crate) fn leftovers(&self) -> String {
        let forwarding = self.shell("cat /proc/sys/net/ipv4/conf/up0/forwarding");
        let links = self.shell("ip -brief link | grep wharf || true; ip route | grep wharf || true");
        let rules = if have(&["nft"]) { self.shell("nft list ruleset") } else { String::new() };
        format!("{}{links}{rules}", forwarding.replace("0\n", ""))
    }

    /// `program`, run there.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.0.id().to_string(), "--wd=.", program]);
        command
    }

    /// Runs a script there and gives what it prints.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.inside("sh").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A host with a store, and somebody elsewhere.
struct Host {
    host: Running,
    elsewhere: Running,
    wharf: Wharf,
    scratch: Scratch,
}

impl Host {
    fn new() -> Option<Self> {
        if !have(&["ip", "nsenter", "python3"]) {
            return None;
        }
        let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return None };
        let (host, elsewhere) = Running::host_and_elsewhere();
        let scratch = Scratch::for_everybody();
        fs::write(scratch.path("serve.py"), SERVE).unwrap();
        fs::write(scratch.path("names.py"), NAMES).unwrap();
        let host = Self { host, elsewhere, wharf, scratch };
        host.resolv_conf("");
        Some(host)
    }

    /// What the host has for `/etc/resolv.conf`.
    fn resolv_conf(&self, text: &str) {
        self.host.resolv_conf(&self.scratch.path("resolv.conf"), text);
    }

    fn python(&self, machine: &Running, script: &str, arguments: &[&str]) -> Running {
        Running::start(machine.inside("python3").arg(self.scratch.path(script)).args(arguments))
    }

    /// `command` on the host.
    fn on_host(&self, command: &Command) -> Command {
        let mut inside = self.host.inside(command.get_program().to_str().unwrap());
        inside.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
        inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside
    }

    /// Builds `FROM busybox` and these instructions.
    fn build(&self, arguments: &[&str], instructions: &str) -> Outcome {
        self.wharf.dockerfile(&format!("FROM busybox\n{instructions}\n"));
        Outcome::of(self.on_host(&self.wharf.build_command("store", arguments)))
    }

    fn leftovers(&self) -> String {
        self.host.leftovers()
    }

    fn has_no_leftovers(&self) -> bool {
        self.leftovers().is_empty()
    }
}

#[test]
fn steps_reach_others_and_not_the_loopback_of_the_host() {
    let Some(host) = Host::new() else { return };
    let _server = host.python(&host.elsewhere, "serve.py", &[ELSEWHERE, "80"]);
    let _loopback = host.python(&host.host, "serve.py", &["127.0.0.1", "81"]);
    let _everywhere = host.python(&host.host, "serve.py", &["0.0.0.0", "82"]);
    let built = host.build(
        &["--add-host", "up:host-gateway"],
        &format!(
            "RUN [ \"$(nc {ELSEWHERE} 80)\" = 'you are {HOST}' ]\n\
             RUN ! nc 127.0.0.1 81\n\
             RUN nc up 82 | grep 'you are 10.213.'\n\
             RUN ! nc up 81\n\
             RUN grep up0 /proc/net/dev && exit 1; grep eth0 /proc/net/dev"
        ),
    );
    built.success();
    wait_until("nothing is left", || host.has_no_leftovers());
    // What is said of one step, or of all, counts.
    let mine = format!("[ \"$(nc {ELSEWHERE} 80)\" = 'you are {HOST}' ]");
    let nobody = "[ \"$(ls /sys/class/net)\" = lo ] && ! nc 198.51.100.2 80";
    host.build(&["--allow", "network.host"], &format!("RUN --network=host nc 127.0.0.1 81 && {mine}"))
        .success();
    host.build(&[], &format!("RUN --network=none {nobody}\nRUN {mine}")).success();
    host.build(&["--network", "none"], &format!("RUN {nobody}\nRUN --network=default {nobody}")).success();
    let gateway = "nc up 81 && grep '^127.0.0.1.up$' /etc/hosts";
    host.build(&["--network=host", "--add-host=up:host-gateway"], &format!("RUN {gateway}")).success();
    assert!(host.has_no_leftovers());
}

#[test]
fn names_are_found() {
    let Some(host) = Host::new() else { return };
    let look_up = "RUN nslookup db.example | grep -A1 '^Name:.*db.example' | grep 192.0.2.7";
    let check = |server: &Running, address: &str, conf: &str, expected: &str| {
        host.resolv_conf(conf);
        let _names = host.python(server, "names.py", &[address, "db.example", "192.0.2.7"]);
        let grep = format!("RUN [ \"$(cat /etc/resolv.conf)\" = \"$(printf '{expected}')\" ]");
        host.build(&["--no-cache"], &format!("{grep}\n{look_up}")).success();
    };
    let elsewhere = format!("nameserver {ELSEWHERE}\n");
    check(&host.elsewhere, ELSEWHERE, &elsewhere, &format!("nameserver {ELSEWHERE}"));
    check(
        &host.host,
        "127.0.0.1",
        "search x.example\nnameserver 127.0.0.1\noptions ndots:1\n",
        "search x.example\\noptions ndots:1\\nnameserver 127.0.0.11",
    );
    // One that says nothing is the host itself (resolv.conf(5)).
    check(&host.host, "127.0.0.1", "", "nameserver 127.0.0.11");
    // Those on the network of the host see its own.
    host.build(&["--network", "host"], "RUN [ -z \"$(grep nameserver /etc/resolv.conf)\" ]").success();
}

#[test]
fn builds_that_end_in_any_way_leave_nothing() {
    let Some(host) = Host::new() else { return };
    host.build(&[], "RUN false").failure();
    wait_until("nothing is left", || host.has_no_leftovers());

    // Two at once, one of which is killed.
    let dir = host.wharf.path("context");
    fs::write(
        dir.join("Dockerfile"),
        "FROM busybox\nRUN --mount=type=cache,target=/c while :; do sleep 1; done\n",
    )
    .unwrap();
    let mut builds: Vec<Child> = (0..2)
        .map(|number| {
            let id = format!("N={number}");
            host.on_host(&host.wharf.build_command("store", &["--build-arg", &id, "--no-cache"]))
                .spawn()
                .unwrap()
        })
        .collect();
    let links =
        || host.host.shell("ip -brief link | grep -c ^wharf || true").trim().parse::<usize>().unwrap();
    wait_until("both have a network", || links() == 2);
    // nsenter executes the program in its own place.
    builds[0].kill().unwrap();
    builds[0].wait().unwrap();
    wait_until("the killed one has none", || links() == 1);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&builds[1]),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    builds[1].wait().unwrap();
    wait_until("nothing is left", || host.has_no_leftovers());

    // One that is killed alone leaves forwarding on, and that the host is no router; the next one takes it away.
    let mut last = host.on_host(&host.wharf.build_command("store", &["--no-cache"])).spawn().unwrap();
    wait_until("it has a network", || links() == 1);
    wait_until("forwarding is on", || host.leftovers().starts_with('1'));
    last.kill().unwrap();
    last.wait().unwrap();
    wait_until("its interface is gone", || links() == 0);
    if have(&["nft"]) {
        let rules = host.host.shell("nft list ruleset");
        assert!(rules.contains("iifname \"up0\" oifname != \"wharf*\" drop"), "{rules}");
    }
    host.build(&[], "RUN true").success();
    wait_until("nothing is left", || host.has_no_leftovers());
}

#[test]
fn a_host_without_an_unused_subnet_says_so() {
    let Some(host) = Host::new() else { return };
    for subnet in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
        host.host.shell(&format!("ip route add {subnet} dev up0"));
    }
    let _loopback = host.python(&host.host, "serve.py", &["127.0.0.1", "81"]);
    let built = host.build(&[], "RUN nc 127.0.0.1 81\nRUN true").success();
    let note = "note: steps are on the network of this host: every subnet";
    assert_eq!(built.stderr.matches(note).count(), 1, "{}", built.stderr);
    host.host.shell("ip route del 192.168.0.0/16");
    let built = host.build(&["--no-cache"], "RUN ip address | grep 192.168.213").success();
    assert!(!built.stderr.contains("note:"), "{}", built.stderr);
}

#[test]
fn ipv6_leads_out_where_the_host_has_it() {
    let Some(host) = Host::new() else { return };
    if !fs::exists("/proc/sys/net/ipv6/conf/lo/force_forwarding").unwrap() {
        skip("IPv6 of single interfaces is forwarded by Linux 6.17 and later");
        return;
    }
    let address = |machine: &Running, address: &str| {
        machine.shell(&format!("ip address add {address}/64 dev up0 nodad"));
    };
    address(&host.host, "2001:db8::1");
    address(&host.elsewhere, "2001:db8::2");
    host.host.shell("ip route add default via 2001:db8::2");
    let _server = host.python(&host.elsewhere, "serve.py", &["2001:db8::2", "80"]);
    host.build(&[], "RUN [ \"$(nc 2001:db8::2 80)\" = 'you are 2001:db8::1' ]").success();
    let left = || host.host.shell("cat /proc/sys/net/ipv6/conf/up0/force_forwarding");
    wait_until("nothing is left", || host.has_no_leftovers() && left() == "0\n");
}

/// As in a container that may set up networks, but not write settings.
#[test]
fn settings_that_cannot_be_written_are_no_obstacle() {
    let Some(host) = Host::new() else { return };
    let _server = host.python(&host.elsewhere, "serve.py", &[ELSEWHERE, "80"]);
    host.host.shell("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
    let built = host.build(&[], &format!("RUN nc {ELSEWHERE} 80 | grep {HOST}")).success();
    assert!(!built.stderr.contains("note:"), "{}", built.stderr);
    wait_until("nothing is left", || host.has_no_leftovers());
}

#[test]
fn containers_have_the_same() {
    let Some(host) = Host::new() else { return };
    let _server = host.python(&host.elsewhere, "serve.py", &[ELSEWHERE, "80"]);
    let _loopback = host.python(&host.host, "serve.py", &["127.0.0.1", "81"]);
    host.build(&["-t", "app"], "RUN true").success();
    let script = format!("nc {ELSEWHERE} 80; nc 127.0.0.1 81 || echo none");
    let run = host.wharf.command("store", &["run", "--rm", "app", "sh", "-c", &script]);
    let outcome = Outcome::of(host.on_host(&run)).success();
    assert_eq!(outcome.text(), format!("you are {HOST}\nnone\n"));
    wait_until("nothing is left", || host.has_no_leftovers());
}
