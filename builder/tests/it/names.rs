//! Containers on networks, through the binary: names, isolation, ports, who comes and goes, and what is left. As root and as
//! an ordinary user, on hosts that are network namespaces.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::{Outcome, Wharf, busybox_layout, have, kill_at_once, processes, skip, wait_until};
use crate::network::Running;

/// The ordinary user.
const UID: &str = "61873";

/// Says the address of a container: a new interface has another number.
const ADDRESS: &str = "ip -4 address show eth0 | grep -o 'inet [0-9./]*'";

/// A host with a store, for root or for a user.
struct Host {
    machine: Running,
    wharf: Wharf,
    user: bool,
}

impl Host {
    fn new(user: bool) -> Option<Self> {
        if !have(&["ip", "nsenter", "unshare", "setpriv"]) {
            return None;
        }
        let (layout, wharf) = (busybox_layout()?, Wharf::for_everybody()?);
        let machine = Running::machine();
        machine.shell("ip link set lo up");
        let host = Self { machine, wharf, user };
        if user {
            host.become_users(layout)?;
        }
        host.wharf.dockerfile("FROM busybox\nCMD [\"sleep\", \"1000\"]\n");
        let layout = format!("busybox=oci-layout://{}", host.layout(layout));
        let context = host.wharf.context();
        host.run(&["build", "-q", "-t", "box", "--build-context", &layout, context.to_str().unwrap()])
            .success();
        Some(host)
    }

    /// Gives the user ids, a device, and a place for the store.
    fn become_users(&self, layout: &std::path::Path) -> Option<()> {
        if !have(&["newuidmap", "cp"]) {
            return None;
        }
        let dir = self.wharf.path("etc");
        fs::create_dir(&dir).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        fs::write(dir.join("passwd"), format!("{passwd}wharfnames:x:{UID}:{UID}::/:/bin/sh\n")).unwrap();
        fs::write(dir.join("subid"), "wharfnames:700000:65536\n").unwrap();
        let (dir, home) = (dir.display(), self.wharf.path("home").display().to_string());
        self.machine.shell(&format!(
            "mount --bind {dir}/passwd /etc/passwd
             mount --bind {dir}/subid /etc/subuid; mount --bind {dir}/subid /etc/subgid
             mkdir {home}; cp -rL {} {home}/layout; chown -R {UID}:{UID} {home}
             if [ -e /dev/net/tun ]; then
                 mknod -m 0666 {dir}/tun c 10 200; chmod 0666 {dir}/tun; mount --bind {dir}/tun /dev/net/tun
             fi",
            layout.display()
        ));
        let probe = self.command("unshare").args(["-Ur", "true"]).output().unwrap();
        if !probe.status.success() {
            skip("ordinary users get no user namespaces here");
            return None;
        }
        Some(())
    }

    fn layout(&self, layout: &std::path::Path) -> String {
        if self.user {
            self.wharf.path("home/layout").display().to_string()
        } else {
            layout.display().to_string()
        }
    }

    fn store(&self) -> String {
        self.wharf.path(if self.user { "home/store" } else { "store" }).display().to_string()
    }

    /// A program on the host, as who has the store.
    fn command(&self, program: &str) -> Command {
        if !self.user {
            return self.machine.inside(program);
        }
        let mut command = self.machine.inside("setpriv");
        command.args([&format!("--reuid={UID}"), &format!("--regid={UID}"), "--clear-groups", program]);
        command.env("HOME", self.wharf.path("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(env!("CARGO_BIN_EXE_wharf"));
        command.args(["--root", &self.store()]).args(arguments).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Outcome::of(command)
    }

    /// What a command prints that succeeds.
    #[track_caller]
    fn print(&self, arguments: &[&str]) -> String {
        self.run(arguments).success().text()
    }

    /// Runs a script in a container that runs.
    fn exec(&self, container: &str, script: &str) -> Outcome {
        self.run(&["exec", container, "sh", "-c", script])
    }

    /// Starts a container that answers each connection to its port 80 with its name.
    fn serve(&self, name: &str, arguments: &[&str]) {
        let script = format!("while true; do echo {name} | nc -l -p 80; done");
        let all = [&["run", "-d", "--name", name], arguments, &["box", "sh", "-c", &script]].concat();
        self.print(&all);
    }

    /// The network process and the monitors of the store.
    fn processes(&self) -> Vec<String> {
        processes(&self.store())
    }

    /// Removes all containers, and sees that nothing is left.
    fn end(self, containers: &[&str]) {
        self.print(&[&["rm", "-f"], containers].concat());
        wait_until("all processes have ended", || self.processes().is_empty());
        wait_until("no interface is left", || !self.links());
        if have(&["nft"]) {
            assert_eq!(self.machine.shell("nft list ruleset"), "");
        }
    }

    fn links(&self) -> bool {
        self.machine.shell("ip -brief link").contains("wharf")
    }
}

/// Does it as root and as an ordinary user, where that can be.
fn on_hosts(test: impl Fn(Host)) {
    for user in [false, true] {
        if let Some(host) = Host::new(user) {
            test(host);
        }
    }
}

#[test]
fn containers_find_each_other_by_name() {
    on_hosts(|host| {
        host.print(&["network", "create", "front"]);
        host.print(&["network", "create", "--internal", "back"]);
        host.serve("web", &["--network", "front", "--network-alias", "www"]);
        host.serve("db", &["--network", "back"]);
        host.serve("lone", &[]);
        for name in ["web", "www", "web.front"] {
            let said = host.print(&["run", "--rm", "--network", "front", "box", "nc", "-w", "5", name, "80"]);
            assert_eq!(said.trim(), "web", "{name}");
        }
        // Others are not found, nor reached.
        let address = host.exec("db", "ip -4 -o address show eth0").success().text();
        let address = address.split("inet ").nth(1).unwrap().split('/').next().unwrap().to_owned();
        host.exec("web", "nslookup db").failure();
        host.exec("web", &format!("nc -w 2 {address} 80 </dev/null")).failure();
        host.exec("lone", "nslookup web").failure();
        // One who comes to a network is found there, one who leaves is not.
        host.print(&["network", "connect", "--alias", "store", "front", "db"]);
        assert_eq!(host.exec("web", "nc -w 60 store 80").success().text().trim(), "db");
        host.print(&["network", "disconnect", "front", "db"]);
        host.exec("web", "nslookup store").failure();
        // A sidecar is where the other one is.
        let said = host.print(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            "box",
            "nc",
            "-w",
            "5",
            "127.0.0.1",
            "80",
        ]);
        assert_eq!(said.trim(), "web");
        let shown = host.print(&["network", "inspect", "front"]);
        assert!(shown.contains("\"Name\": \"web\"") && !shown.contains("\"Name\": \"db\""), "{shown}");
        host.run(&["network", "rm", "front"]).fails_with(2, &["in use by the container `web`"]);
        host.end(&["web", "db", "lone"]);
    });
}

#[test]
fn a_container_comes_to_many_networks_at_once_and_leaves_them() {
    const NETWORKS: [&str; 5] = ["one", "two", "three", "four", "five"];
    let Some(host) = Host::new(false) else { return };
    for network in NETWORKS {
        host.print(&["network", "create", network]);
    }
    host.serve("runs", &[]);
    host.print(&["create", "--name", "waits", "box"]);
    for container in ["runs", "waits"] {
        for (verb, expected) in [("connect", true), ("disconnect", false)] {
            thread::scope(|scope| {
                for network in NETWORKS {
                    let host = &host;
                    scope.spawn(move || host.print(&["network", verb, network, container]));
                }
            });
            let shown = host.print(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", container]);
            for network in NETWORKS {
                assert_eq!(shown.contains(&format!("\"{network}\":")), expected, "{verb} {network}: {shown}");
            }
        }
    }
    host.end(&["runs", "waits"]);
}

#[test]
fn who_leads_out_is_followed_by_another() {
    if !have(&["pasta"]) {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return skip("there is no /dev/net/tun for pasta");
    }
    let Some(host) = Host::new(true) else { return };
    // A way out, at whose end nobody is but the host itself.
    host.machine.shell(
        "ip link add up0 type veth peer name down0; ip link set up0 up; ip link set down0 up
         ip address add 198.51.100.2/24 dev up0; ip route add default via 198.51.100.1",
    );
    host.serve("web", &[]);
    let marker = "--ns-ifname=eth0";
    let parent = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .find_map(|line| Some(line.strip_prefix("PPid:")?.trim().to_owned()))
            .unwrap_or_default()
    };
    let pid_of = |line: &String| line.trim_start_matches("/proc/").split(':').next().unwrap().to_owned();
    let own: Vec<String> = host.processes().iter().map(pid_of).collect();
    // Whoever runs it is a child of the network process, or is it.
    let is_ours = |pid: &String| own.contains(&parent(pid)) || own.contains(&parent(&parent(pid)));
    let find = || processes(marker).iter().map(pid_of).find(is_ours);
    let first = find().expect("nobody leads out");
    kill_at_once(&first);
    wait_until("somebody else leads out", || find().is_some_and(|other| other != first));
    host.end(&["web"]);
}

#[test]
fn published_ports_lead_to_containers() {
    on_hosts(|host| {
        host.serve("web", &["-p", "8080:80", "-p", "9000-9002:90-92", "-p", "53530:53/udp"]);
        let shown = host.print(&["port", "web"]);
        for word in ["80/tcp -> 0.0.0.0:8080", "91/tcp -> 0.0.0.0:9001", "53/udp -> 0.0.0.0:53530"] {
            assert!(shown.contains(word), "{shown}");
        }
        let ask = |port: u16| {
            let script = format!(
                "import socket\ntry: print(socket.create_connection(('127.0.0.1', {port}), 5).recv(99).decode())\n\
                 except OSError: pass"
            );
            let output = host.machine.inside("python3").args(["-c", &script]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        if have(&["python3"]) {
            wait_until("it answers", || ask(8080) == "web");
        }
        let taken = host.run(&["run", "-d", "--name", "late", "-p", "8080:80", "box"]);
        taken.fails_with(125, &["0.0.0.0:8080/tcp is in use by the container `web`"]);
        if host.user {
            let low = host.run(&["run", "--rm", "-p", "79:80", "box", "true"]);
            low.fails_with(125, &["0.0.0.0:79/tcp", "net.ipv4.ip_unprivileged_port_start=79"]);
        }
        // A killed network process is followed by another one, and everything is as it was.
        if have(&["python3"]) {
            let before = host.exec("web", ADDRESS).success().text();
            let is_process = |line: &&String| {
                let pid = line.strip_prefix("/proc/").and_then(|rest| rest.split(':').next()).unwrap();
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains("network-process")
            };
            let found = host.processes();
            let line = found.iter().find(is_process).unwrap();
            let pid = line.strip_prefix("/proc/").unwrap().split(':').next().unwrap();
            kill_at_once(pid);
            wait_until("it answers again", || ask(8080) == "web");
            assert_eq!(host.exec("web", ADDRESS).success().text(), before);
        }
        host.end(&["web", "late"]);
    });
}
