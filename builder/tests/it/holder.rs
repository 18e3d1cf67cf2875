//! The network process alone: what it makes for network namespaces that nobody runs in, on hosts that are network namespaces
//! themselves. What containers have of it is in `names.rs`.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wharf::containers::config::{Attachment, ContainerId, PortUse, Protocol};
use wharf::networks::client::{Connection, Holder, Start};
use wharf::networks::protocol::{AttachRequest, Attached};
use wharf_runtime::{NetworkNamespace, Sandbox, make_within};

use crate::harness::{Wharf, have, kill_at_once, processes, wait_until};
use crate::network::{ELSEWHERE, HOST, Running};

/// For an answer that should not come.
const SHORT: Duration = Duration::from_millis(400);
/// For one that should, however much else there is to do.
const LONG: Duration = Duration::from_secs(60);

/// A host with a store and somebody elsewhere.
struct World {
    wharf: Wharf,
    host: Running,
    elsewhere: Running,
}

/// Somebody on networks.
struct Guest {
    connection: Connection,
    namespace: NetworkNamespace,
    attached: Attached,
}

impl World {
    fn new() -> Option<Self> {
        if !have(&["ip", "nsenter", "unshare"]) {
            return None;
        }
        let wharf = Wharf::new()?;
        let (host, elsewhere) = Running::host_and_elsewhere();
        // What the host asks for other names is nobody.
        host.resolv_conf(&wharf.path("resolv.conf"), "nameserver 127.0.0.99\n");
        Some(Self { wharf, host, elsewhere })
    }

    fn create(&self, arguments: &[&str]) {
        let all: Vec<&str> = ["network", "create"].iter().chain(arguments).copied().collect();
        self.wharf.run(&all).success();
    }

    /// Starts the network process on the host.
    fn start(&self) {
        self.start_with_descriptors(4096);
    }

    /// The same, with no more than so many open files.
    fn start_with_descriptors(&self, count: u32) {
        let root = self.wharf.path("store");
        let mut command = self.host.inside("sh");
        command.args(["-ec", &format!("ulimit -n {count}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_wharf")]);
        command.arg("--root").arg(root).arg("network-process").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "\"done\"");
    }

    fn connect(&self) -> Connection {
        Holder::connect(&self.wharf.path("store"), Start::Here(Sandbox::Root)).unwrap()
    }

    /// Puts somebody new on these networks, with these ports.
    fn guest(&self, name: &str, networks: &[&str], ports: &[PortUse]) -> Guest {
        let connection = self.connect();
        let namespace = NetworkNamespace::new().unwrap();
        let attached = connection.attach(&request(name, networks, ports), namespace.as_fd()).unwrap();
        Guest { connection, namespace, attached }
    }

    /// Does something on a machine.
    fn on<T: Send>(&self, machine: &Running, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", machine.0.id())).unwrap();
        make_within(namespace.as_fd(), work)
    }

    /// The process of this store, if it runs.
    fn process(&self) -> Option<u32> {
        let found = processes(self.wharf.path("store").to_str().unwrap());
        found.first()?.strip_prefix("/proc/")?.split(':').next()?.parse().ok()
    }

    fn leftovers(&self) -> String {
        self.host.leftovers()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It would end by itself, some seconds later.
        if let Some(pid) = self.process() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

impl Guest {
    fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        make_within(self.namespace.as_fd(), work)
    }

    fn address(&self, network: &str) -> Ipv4Addr {
        let endpoint = self.attached.endpoints.iter().find(|it| it.network == network).unwrap();
        endpoint.ipv4.unwrap().0
    }

    /// Whether it gets to somebody who listens.
    fn reaches(&self, to: impl Into<SocketAddr>) -> bool {
        let to = to.into();
        self.within(|| TcpStream::connect_timeout(&to, LONG)).is_ok()
    }

    fn is_kept_from(&self, to: impl Into<SocketAddr>) -> bool {
        let to = to.into();
        self.within(|| TcpStream::connect_timeout(&to, SHORT)).is_err()
    }

    /// The addresses that it finds for a name; none where nobody answers.
    fn find(&self, name: &str) -> Vec<Ipv4Addr> {
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(label.len() as u8);
            question.extend(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let socket = self.within(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let server = self.attached.dns[0];
        socket.send_to(&question, (server, 53)).unwrap();
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).unwrap();
        // Each answer of one address is sixteen bytes long, as its name refers to the question's.
        let mut found: Vec<Ipv4Addr> = answer[question.len()..length]
            .chunks_exact(16)
            .map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]))
            .collect();
        found.sort();
        found
    }

    /// Answers everybody who comes to a port of TCP with who they are, and to the same of UDP, until it is dropped.
    fn serve(&self, port: u16) -> Server {
        let tcp = self.within(move || TcpListener::bind(("::", port))).unwrap();
        let udp = self.within(move || UdpSocket::bind(("0.0.0.0", port))).unwrap();
        Server::start(tcp, udp)
    }
}

struct Server {
    stop: std::sync::Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Server {
    fn start(tcp: TcpListener, udp: UdpSocket) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (of_tcp, of_udp) = (stop.clone(), stop.clone());
        let tcp = move || {
            while !of_tcp.load(Ordering::SeqCst) {
                match tcp.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = write!(stream, "{}", peer.ip().to_canonical());
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        };
        let udp = move || {
            let mut buffer = [0; 100];
            while !of_udp.load(Ordering::SeqCst) {
                if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            }
        };
        Self { stop, threads: vec![thread::spawn(tcp), thread::spawn(udp)] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn request(name: &str, networks: &[&str], ports: &[PortUse]) -> AttachRequest {
    let attachments = networks.iter().map(|network| Attachment {
        network: (*network).to_owned(),
        aliases: vec![format!("{name}-alias"), "everybody".to_owned()],
        ..Attachment::default()
    });
    let id: String =
        name.bytes().map(|byte| format!("{byte:02x}")).chain([String::from("0").repeat(64)]).collect();
    let new = AttachRequest::new(&ContainerId(id[..64].to_owned()), name);
    AttachRequest { attachments: attachments.collect(), ports: ports.to_vec(), ..new }
}

fn port(container: u16, protocol: Protocol, address: Option<&str>, host: u16, host_last: u16) -> PortUse {
    PortUse { container, protocol, address: address.map(|it| it.parse().unwrap()), host, host_last }
}

/// What a server of TCP says.
fn ask(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, LONG)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// What a server of UDP says.
fn ask_udp(to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(SHORT))?;
    // Nobody else is listened to.
    socket.connect(to)?;
    let mut buffer = [0; 100];
    for _ in 0..100 {
        socket.send(b"?")?;
        if let Ok(length) = socket.recv(&mut buffer) {
            return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

#[test]
fn networks_are_kept_apart_and_have_names() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.create(&["back", "--internal", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.64/26"]);
    world.start();
    let web = world.guest("web", &["front"], &[]);
    let app = world.guest("app", &["front", "back"], &[]);
    let db = world.guest("db", &["back"], &[]);
    let (lone, other) = (world.guest("lone", &["bridge"], &[]), world.guest("other", &["bridge"], &[]));
    let servers = [&web, &app, &db, &lone, &other].map(|guest| guest.serve(80));

    assert_eq!(db.address("back"), Ipv4Addr::new(10, 77, 0, 65));
    assert!(web.reaches((app.address("front"), 80)) && db.reaches((app.address("back"), 80)));
    assert!(lone.reaches((other.address("bridge"), 80)));
    for (from, to) in
        [(&web, db.address("back")), (&web, app.address("back")), (&web, lone.address("bridge"))]
    {
        assert!(from.is_kept_from((to, 80)), "{to}");
    }
    assert!(db.is_kept_from((web.address("front"), 80)) && lone.is_kept_from((web.address("front"), 80)));

    let check = |guest: &Guest, name: &str, expected: &[Ipv4Addr]| {
        assert_eq!(guest.find(name), expected, "{name}");
    };
    check(&web, "app", &[app.address("front")]);
    check(&web, "APP-alias", &[app.address("front")]);
    check(&web, "app.front", &[app.address("front")]);
    check(&web, "646200000000", &[]);
    check(&db, "646200000000", &[db.address("back")]);
    check(&web, "everybody", &[web.address("front"), app.address("front")]);
    check(&web, "db", &[]);
    check(&app, "db", &[db.address("back")]);
    check(&lone, "other", &[]);

    // The way out, under the host's address; none for those who are inside alone.
    let elsewhere = world.on(&world.elsewhere, || TcpListener::bind((ELSEWHERE, 80))).unwrap();
    let udp = world.on(&world.elsewhere, || UdpSocket::bind((ELSEWHERE, 80))).unwrap();
    let elsewhere = Server::start(elsewhere, udp);
    let to: SocketAddr = format!("{ELSEWHERE}:80").parse().unwrap();
    for guest in [&web, &app, &lone] {
        assert_eq!(guest.within(|| ask(to)).unwrap(), HOST);
    }
    assert!(db.is_kept_from(to));
    // The host is where the gateway is.
    let on_host = world.on(&world.host, || TcpListener::bind("0.0.0.0:81")).unwrap();
    let gateway = web.attached.endpoints[0].gateway.unwrap();
    assert!(web.reaches((gateway, 81)) && web.reaches((web.attached.host.unwrap(), 81)));
    drop((servers, elsewhere, on_host));

    for guest in [web, app, db, lone, other] {
        drop(guest.connection);
    }
    wait_until("the process has ended", || world.process().is_none());
    wait_until("nothing is left", || world.leftovers().is_empty());
}

#[test]
fn ports_are_published() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.create(&["inner", "--internal"]);
    world.start();
    let ports = [
        port(80, Protocol::Tcp, None, 8080, 8080),
        port(80, Protocol::Udp, None, 8080, 8080),
        port(80, Protocol::Tcp, Some("127.0.0.1"), 0, 0),
    ];
    let web = world.guest("web", &["front"], &ports);
    let server = web.serve(80);
    let bound = &web.attached.ports;
    let has = |address: &str, protocol, host: u16| {
        let address: IpAddr = address.parse().unwrap();
        bound.iter().any(|it| it.address == address && it.protocol == protocol && it.host == host)
    };
    assert!(has("0.0.0.0", Protocol::Tcp, 8080) && has("0.0.0.0", Protocol::Udp, 8080), "{bound:?}");
    let free = bound.iter().find(|it| it.address.is_loopback()).unwrap().host;
    assert_ne!(free, 0);

    // From elsewhere the address of who asks is kept; on the host it is the gateway's.
    let to: SocketAddr = format!("{HOST}:8080").parse().unwrap();
    assert_eq!(world.on(&world.elsewhere, || ask(to)).unwrap(), ELSEWHERE);
    assert_eq!(world.on(&world.elsewhere, || ask_udp(to)).unwrap(), ELSEWHERE);
    let gateway = web.attached.endpoints[0].gateway.unwrap().to_string();
    let local = |text: &str| text.parse::<SocketAddr>().unwrap();
    for to in [to, local("127.0.0.1:8080"), local("[::1]:8080"), SocketAddr::from(([127, 0, 0, 1], free))] {
        assert_eq!(world.on(&world.host, || ask(to)).unwrap(), gateway, "{to}");
    }
    // Whichever address of the host is asked, that one answers.
    for to in ["127.0.0.1:8080", "127.0.0.2:8080", &format!("{HOST}:8080")] {
        assert_eq!(world.on(&world.host, || ask_udp(local(to))).unwrap(), gateway, "{to}");
    }
    assert!(world.on(&world.elsewhere, || ask(SocketAddr::from(([198, 51, 100, 1], free)))).is_err());
    // The host reaches it by its address, and those elsewhere do not even with a route.
    let inside = SocketAddr::from((web.address("front"), 80));
    assert!(world.on(&world.host, || ask(inside)).is_ok());
    world.elsewhere.shell(&format!("ip route add default via {HOST}"));
    assert!(world.on(&world.elsewhere, || TcpStream::connect_timeout(&inside, SHORT)).is_err());
    // Others, also on other networks, reach it by the host's address.
    let other = world.guest("other", &["bridge"], &[]);
    assert!(other.within(|| ask(to)).is_ok() && web.within(|| ask(to)).is_ok());

    // What is taken is refused, and who has it is said; of a range another one is taken.
    let connection = world.connect();
    let namespace = NetworkNamespace::new().unwrap();
    let attach = |ports: &[PortUse], networks: &[&str]| {
        connection.attach(&request("late", networks, ports), namespace.as_fd())
    };
    let failure = attach(&ports[..1], &["front"]).unwrap_err();
    assert!(failure.message.contains("0.0.0.0:8080/tcp is in use by the container `web`"), "{failure}");
    let _listener = world.on(&world.host, || TcpListener::bind("0.0.0.0:8081")).unwrap();
    let failure = attach(&[port(80, Protocol::Tcp, None, 8081, 8081)], &["front"]).unwrap_err();
    assert!(
        failure.message.contains("8081/tcp is in use") && !failure.message.contains("by the"),
        "{failure}"
    );
    let attached = attach(&[port(80, Protocol::Tcp, None, 8080, 8083)], &["front"]).unwrap();
    assert_eq!(attached.ports[0].host, 8082);
    let attached = attach(&[port(80, Protocol::Tcp, None, 9090, 9090)], &["inner"]).unwrap();
    assert!(attached.ports.is_empty() && attached.notes[0].contains("not published"), "{attached:?}");

    drop(server);
    drop((web.connection, other.connection, connection));
    wait_until("the process has ended", || world.process().is_none());
    wait_until("nothing is left", || world.leftovers().is_empty());
}

#[test]
fn who_is_on_networks_comes_and_goes() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.create(&["back", "--ipv6"]);
    world.create(&["gone"]);
    world.start();
    let mut web = world.guest("web", &["front"], &[port(80, Protocol::Tcp, None, 8080, 8080)]);
    let server = web.serve(80);
    let db = world.guest("db", &["back"], &[]);
    assert!(db.find("web").is_empty());
    let attachment = Attachment { network: "back".to_owned(), ipv4: None, ..Attachment::default() };
    web.attached = web.connection.connect(&attachment).unwrap();
    assert_eq!(web.attached.endpoints.len(), 2);
    assert_eq!(db.find("web"), [web.address("back")]);
    let ipv6 = web.attached.endpoints[1].ipv6.unwrap().0;
    assert!(db.reaches((web.address("back"), 80)) && db.reaches((ipv6, 80)));
    assert!(web.connection.connect(&attachment).unwrap_err().message.contains("already"));
    web.attached = web.connection.rename("www").unwrap();
    assert!(web.attached.endpoints[0].names.contains(&"www".to_owned()));
    assert_eq!((db.find("www").len(), db.find("web").len()), (1, 0));
    // The way out, and where ports lead, is another network now.
    let to: SocketAddr = format!("{HOST}:8080").parse().unwrap();
    assert_eq!(world.on(&world.elsewhere, || ask(to)).unwrap(), ELSEWHERE);
    web.attached = web.connection.disconnect("front").unwrap();
    assert_eq!(world.on(&world.elsewhere, || ask(to)).unwrap(), ELSEWHERE);
    assert!(web.connection.disconnect("front").unwrap_err().message.contains("not on the network"));
    web.connection.disconnect("back").unwrap();
    assert!(db.find("www").is_empty());
    assert!(world.on(&world.elsewhere, || ask(to)).is_err());

    // What cannot be had is refused, and nothing is left of it.
    let connection = world.connect();
    let namespace = NetworkNamespace::new().unwrap();
    let links =
        || make_within(namespace.as_fd(), || std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let before = links().lines().count();
    let refused = |networks: &[&str], word: &str| {
        let failure = connection.attach(&request("x", networks, &[]), namespace.as_fd()).unwrap_err();
        assert!(failure.message.contains(word), "{failure}");
        assert_eq!(links().lines().count(), before);
    };
    refused(&["front", "nowhere"], "no network `nowhere`");
    refused(&["front", "host"], "cannot be one of several");
    refused(&["front", "front"], "already");
    let mut asked = request("x", &["back"], &[]);
    asked.attachments[0].ipv4 = db.attached.endpoints[0].ipv4.map(|it| it.0);
    let failure = connection.attach(&asked, namespace.as_fd()).unwrap_err();
    assert!(failure.message.contains("is in use"), "{failure}");
    drop(server);
    drop((web.connection, db.connection, connection));
    wait_until("the process has ended", || world.process().is_none());
    wait_until("nothing is left", || world.leftovers().is_empty());
}

#[test]
fn clients_leave_room_for_containers() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.start_with_descriptors(256);
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| port(80, protocol, None, 8080, 8080));
    let web = world.guest("web", &["front"], &ports);
    // It takes connections, and says nothing.
    let listener = web.within(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], 8080));
    let connect = || {
        let clients: io::Result<Vec<_>> = (0..200).map(|_| TcpStream::connect_timeout(&to, LONG)).collect();
        let talkers: io::Result<Vec<_>> = (0..200)
            .map(|_| {
                let talker = UdpSocket::bind("127.0.0.1:0")?;
                talker.send_to(b"?", to).map(|_| talker)
            })
            .collect();
        Ok((clients?, talkers?))
    };
    let clients = world.on(&world.host, connect).unwrap();
    let established = || {
        let table = world.host.shell("cat /proc/net/tcp");
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row[1].ends_with(":1F90") && row[3] == "01");
        rows.map(|row| row[5].to_owned()).collect::<Vec<_>>()
    };
    wait_until("those who have no place are sent away", || established().len() <= 64);
    // It is asked from time to time whether they are still there.
    wait_until("all are watched", || established().iter().all(|timer| timer.starts_with("02:")));
    assert!(!established().is_empty());
    let other = world.guest("other", &["front"], &[port(80, Protocol::Tcp, None, 8081, 8081)]);
    assert_eq!(other.find("web"), [web.address("front")]);
    drop((clients, listener));
    let server = other.serve(80);
    wait_until("there is room again", || {
        world.on(&world.host, || ask(SocketAddr::from(([127, 0, 0, 1], 8081)))).is_ok_and(|it| !it.is_empty())
    });
    drop(server);
}

#[test]
fn a_container_may_be_a_name_server() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.start();
    let knower = world.guest("knower", &["front"], &[]);
    let own = knower.within(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    let _own_too = knower.within(|| TcpListener::bind("0.0.0.0:53")).unwrap();
    own.set_read_timeout(Some(LONG)).unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = own.recv_from(&mut buffer).unwrap();
        let mut answer = buffer[..length].to_vec();
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 77]);
        own.send_to(&answer, peer).unwrap();
        peer.ip()
    });
    // Whoever chooses it asks it from where it is, and still finds others by name; it finds names as before.
    let connection = world.connect();
    let namespace = NetworkNamespace::new().unwrap();
    let dns = vec![knower.address("front").into(), "127.0.0.11".parse().unwrap()];
    let asked = AttachRequest { dns, ..request("asker", &["front"], &[]) };
    let attached = connection.attach(&asked, namespace.as_fd()).unwrap();
    let asker = Guest { connection, namespace, attached };
    assert_eq!(asker.find("somebody.example"), [Ipv4Addr::new(192, 0, 2, 77)]);
    assert_eq!(thread.join().unwrap(), IpAddr::V4(asker.address("front")));
    assert_eq!(asker.find("knower"), [knower.address("front")]);
    assert_eq!(knower.find("asker"), [asker.address("front")]);
}

#[test]
fn a_network_that_is_removed_goes_while_others_stay() {
    let Some(world) = World::new() else { return };
    world.create(&["one", "--subnet", "10.77.0.0/24"]);
    world.create(&["two", "--subnet", "10.78.0.0/24"]);
    world.start();
    let (stays, one, two) =
        (world.guest("stays", &["bridge"], &[]), world.guest("one", &["one"], &[]), world.connect());
    let namespace = NetworkNamespace::new().unwrap();
    two.attach(&request("two", &["two"], &[]), namespace.as_fd()).unwrap();
    let routes = || world.host.shell("ip route");
    assert!(routes().contains("10.77.0.0/24") && routes().contains("10.78.0.0/24"));
    // Left before it is removed, and after.
    one.connection.detach().unwrap();
    assert!(routes().contains("10.77.0.0/24"), "it may be wanted again");
    for name in ["one", "two"] {
        world.wharf.run(&["network", "rm", name]).success();
    }
    assert!(!routes().contains("10.77.0.0/24") && routes().contains("10.78.0.0/24"));
    two.detach().unwrap();
    assert!(!routes().contains("10.78.0.0/24"));
    drop((stays, one, two));
}

#[test]
fn who_is_kept_apart_does_not_meet_by_way_of_the_gateway() {
    let Some(world) = World::new() else { return };
    world.create(&["apart", "--opt", "com.docker.network.bridge.enable_icc=0"]);
    world.start();
    let (one, other) = (world.guest("one", &["apart"], &[]), world.guest("other", &["apart"], &[]));
    let (from, to) = (one.address("apart"), other.address("apart"));
    let gateway = one.attached.endpoints[0].gateway.unwrap();
    for (guest, to) in [(&one, to), (&other, from)] {
        let descriptor = guest.namespace.as_fd().as_raw_fd();
        let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
        let script = format!("nsenter --net={path} ip route add {to} via {gateway}");
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let _server = other.serve(80);
    assert!(one.is_kept_from((to, 80)));
    assert!(world.on(&world.host, || TcpStream::connect_timeout(&SocketAddr::from((to, 80)), LONG)).is_ok());
}

#[test]
fn a_killed_process_is_followed_by_another() {
    let Some(world) = World::new() else { return };
    world.create(&["front"]);
    world.start();
    let mut first = request("first", &["front"], &[port(80, Protocol::Tcp, Some("127.0.0.1"), 0, 0)]);
    let _filler = world.guest("filler", &["front"], &[]);
    let web = NetworkNamespace::new().unwrap();
    let connection = world.connect();
    let attached = connection.attach(&first, web.as_fd()).unwrap();
    let pid = world.process().unwrap();
    kill_at_once(&pid.to_string());
    // What it has forked ends a moment later, and has the lock and the socket until then.
    let lock = std::fs::File::open(world.wharf.path("store/networks/lock")).unwrap();
    wait_until("nobody holds the networks", || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    drop(lock);
    assert!(connection.detach().unwrap_err().message.contains("does not answer"));
    world.start();
    first.previous = attached.endpoints.clone();
    first.previous_ports = attached.ports.clone();
    let connection = world.connect();
    let again = connection.attach(&first, web.as_fd()).unwrap();
    assert_eq!(again, attached, "the same addresses and ports");
    // The host finds the way to it, at once.
    let listener = make_within(web.as_fd(), || TcpListener::bind("0.0.0.0:80")).unwrap();
    let inside = SocketAddr::from((again.endpoints[0].ipv4.unwrap().0, 80));
    world.on(&world.host, || TcpStream::connect_timeout(&inside, LONG)).unwrap();
    drop(listener);
    drop(connection);
    wait_until("the process has ended", || world.process().is_none());
    wait_until("nothing is left", || world.leftovers().is_empty());
}
