//! Networks on hosts that are network namespaces of their own: nothing here touches the machine's.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::forwarding::Forwarding;
use super::*;

/// The host's address, and that of somebody elsewhere who is the host's gateway.
const HOST: &str = "198.51.100.1";
const ELSEWHERE: &str = "198.51.100.2";

/// Whether namespaces can be made here.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIP: network namespaces need root");
    }
    root
}

/// Does `work` in another thread, in a network namespace.
fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        sys::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET as u64).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn in_network<T: Send>(network: &Network, work: impl FnOnce() -> T + Send) -> T {
    within(&network.namespace, work)
}

/// A machine and somebody elsewhere; `test` runs on the machine and is given the other's namespace.
fn on_a_host(test: impl FnOnce(&OwnedFd) + Send) {
    if !is_root() {
        return;
    }
    let host = || {
        sys::unshare_network().unwrap();
        // A new namespace begins with what the machine's has.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        sys::loopback_up().unwrap();
        let mut elsewhere = Inside::make().unwrap();
        let mut netlink = Netlink::route().unwrap();
        route::add_wire(&mut netlink, "up0", "up0", elsewhere.namespace.as_fd(), 1400).unwrap();
        for (netlink, address) in [(&mut netlink, HOST), (&mut elsewhere.netlink, ELSEWHERE)] {
            let links = route::links(netlink).unwrap();
            let index = links.iter().find(|link| link.name == "up0").unwrap().index;
            route::add_address(netlink, index, address.parse().unwrap(), 24).unwrap();
            route::set_up(netlink, index).unwrap();
        }
        let index = route::index("up0").unwrap();
        route::add_default_route(&mut netlink, index, ELSEWHERE.parse().unwrap()).unwrap();
        test(&elsewhere.namespace);
    };
    thread::scope(|scope| scope.spawn(host).join().unwrap());
}

/// Tells each of `count` clients which address it has.
fn serve(listener: TcpListener, count: usize) {
    for stream in listener.incoming().take(count) {
        let mut stream = stream.unwrap();
        let peer = stream.peer_addr().unwrap().ip().to_string();
        stream.write_all(peer.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// What a server says to a new client.
fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), LONG)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn open(servers: &[&str]) -> Network {
    let servers: Vec<SocketAddr> = servers.iter().map(|text| name_server(text).unwrap()).collect();
    let network = Network::open(&servers, &std::env::temp_dir()).unwrap();
    assert!(matches!(network.way_out, WayOut::Wire(_)));
    network
}

fn forwards(link: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/forwarding")).unwrap() == "1\n"
}

fn own_links() -> Vec<String> {
    let links = route::links(&mut Netlink::route().unwrap()).unwrap();
    links.into_iter().map(|link| link.name).filter(|name| name.starts_with("wharf")).collect()
}

/// Waits until the kernel has removed all but `count` of the wires, which it does some time after their namespaces.
fn wait_for_links(count: usize) -> Vec<String> {
    for _ in 0..5000 {
        if own_links().len() <= count {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let links = own_links();
    assert_eq!(links.len(), count, "{links:?}");
    links
}

fn guards() -> Vec<String> {
    filter::chains(&mut Netlink::netfilter().unwrap(), filter::Family::Ip4, "wharf-forwarding").unwrap()
}

#[test]
fn it_leads_out_under_the_address_of_the_host() {
    on_a_host(|elsewhere| {
        let server = within(elsewhere, || TcpListener::bind((ELSEWHERE, 80)).unwrap());
        let network = open(&[]);
        thread::scope(|scope| {
            scope.spawn(|| serve(server, 1));
            let seen = in_network(&network, || ask(&format!("{ELSEWHERE}:80")).unwrap());
            assert_eq!(seen, HOST);
        });
        // Packets are as large as those of the way out.
        let inside = in_network(&network, || route::links(&mut Netlink::route().unwrap()).unwrap());
        assert!(inside.iter().any(|link| link.name == "eth0" && link.mtu == 1400), "{inside:?}");
    });
}

#[test]
fn nothing_is_left_behind() {
    on_a_host(|_| {
        assert!(!forwards("up0"));
        let (one, two) = (open(&[]), open(&[]));
        assert_eq!((own_links().len(), guards(), forwards("up0")), (2, vec!["up0".to_owned()], true));
        drop(one);
        assert_eq!((guards(), forwards("up0")), (vec!["up0".to_owned()], true));
        wait_for_links(1);
        drop(two);
        assert_eq!((guards().len(), forwards("up0")), (0, false));
        wait_for_links(0);
    });
}

#[test]
fn a_router_stays_one() {
    on_a_host(|_| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let network = open(&[]);
        assert_eq!(guards().len(), 0);
        drop(network);
        assert!(forwards("up0"));
    });
    // Also where it became one meanwhile.
    on_a_host(|_| {
        let network = open(&[]);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        drop(network);
        assert_eq!((guards().len(), forwards("up0")), (0, true));
    });
}

/// What a killed build leaves: forwarding that is on, and the table that says so.
#[test]
fn what_a_killed_build_left_is_collected() {
    on_a_host(|_| {
        let wire = match open(&[]) {
            Network { way_out: WayOut::Wire(wire), .. } => wire,
            Network { .. } => unreachable!("a wire was asked for"),
        };
        std::mem::forget(wire);
        wait_for_links(0);
        assert_eq!((guards(), forwards("up0")), (vec!["up0".to_owned()], true));
        drop(open(&[]));
        assert_eq!((guards().len(), forwards("up0")), (0, false));
    });
}

/// Says on `eth0` again and again that it is the router to everywhere, until the reader is satisfied.
const ROUTER: &str = r#"
import socket, struct, sys
index = socket.if_nametoindex('eth0')
prefix = socket.inet_pton(socket.AF_INET6, '2001:db8:bad::')
options = struct.pack('!BBBBIII', 3, 4, 64, 0xc0, 3600, 3600, 0) + prefix
packet = struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0) + options
router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
rows = [line.split() for line in open('/proc/thread-self/net/if_inet6')]
own = [row[0] for row in rows if row[5] == 'eth0' and row[0].startswith('fe80')][0]
own = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(own))
bound = False
for attempt in range(400):
    try:
        if not bound:
            router.bind((own, 0, 0, index))
            bound = True
        router.sendto(packet, ('ff02::1', 0, 0, index))
        sent = True
    except OSError:
        # Its address is not settled yet.
        sent = False
    print(int(sent), flush=True)
    if not sys.stdin.readline():
        break
"#;

/// What a step says as a router, in IPv6, does not change the host's routes.
#[test]
fn a_step_is_no_router_of_the_host() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIP: python3 is not installed");
        return;
    }
    for (leads_out, is_guarded) in [(false, true), (true, true), (true, false)] {
        on_a_host(|_| {
            if leads_out {
                let mut netlink = Netlink::route().unwrap();
                let index = route::index("up0").unwrap();
                route::add_address(&mut netlink, index, "2001:db8::1".parse().unwrap(), 64).unwrap();
                route::add_default_route(&mut netlink, index, "2001:db8::2".parse().unwrap()).unwrap();
            }
            let network = open(&[]);
            let link = own_links().remove(0);
            if !is_guarded {
                fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "2").unwrap();
            }
            let python = || {
                let mut command = Command::new("python3");
                command.args(["-c", ROUTER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
            };
            let mut router = in_network(&network, python);
            let mut answers = BufReader::new(router.stdout.take().unwrap()).lines();
            let index = route::index(&link).unwrap();
            let is_believed = || {
                let routes = route::routes(&mut Netlink::route().unwrap()).unwrap();
                routes.iter().any(|it| it.link == Some(index) && it.destination.is_ipv6() && it.is_default())
            };
            let mut sent = 0;
            while sent < 20 && !is_believed() {
                let Some(answer) = answers.next() else { break };
                sent += u32::from(answer.unwrap() == "1");
                thread::sleep(Duration::from_millis(20));
                writeln!(router.stdin.as_mut().unwrap()).unwrap();
            }
            drop(router.stdin.take());
            router.wait().unwrap();
            // It may be believed before the answer that it was sent is read.
            assert!(sent > 0 || is_believed(), "the test proves nothing");
            assert_eq!(is_believed(), !is_guarded, "leads out: {leads_out}");
        });
    }
}

#[test]
fn what_was_begun_is_undone() {
    on_a_host(|_| {
        let links = ["up0", "gone0"].map(str::to_owned);
        Forwarding::hold(filter::Family::Ip4, "wharf0", &links).unwrap_err();
        assert_eq!((guards().len(), forwards("up0")), (0, false));
        // Not while somebody needs it.
        let network = open(&[]);
        Forwarding::hold(filter::Family::Ip4, "wharf0", &links).unwrap_err();
        assert!(guards().contains(&"up0".to_owned()) && forwards("up0"));
        drop(network);
        assert_eq!((guards().len(), forwards("up0")), (0, false));
    });
}

#[test]
fn who_keeps_the_lock_is_named() {
    on_a_host(|_| {
        let held = forwarding::lock(Duration::ZERO).unwrap();
        let error = forwarding::lock(SHORT).unwrap_err().to_string();
        let own = format!("process {} (", std::process::id());
        assert!(error.contains(&own) && error.contains("holds the lock"), "{error}");
        drop(held);
        forwarding::lock(LONG).unwrap();
    });
}

#[test]
fn the_host_and_other_builds_are_kept_apart() {
    on_a_host(|elsewhere| {
        let loopback = TcpListener::bind("127.0.0.1:80").unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:81").unwrap();
        let (one, two) = (open(&[]), open(&[]));
        let gateway = one.host().unwrap();
        assert_ne!(Some(gateway), two.host());
        thread::scope(|scope| {
            scope.spawn(|| serve(everywhere, 1));
            let (refused, seen) = in_network(&one, || {
                let loopback = TcpStream::connect_timeout(&"127.0.0.1:80".parse().unwrap(), SHORT);
                (loopback.is_err(), ask(&format!("{gateway}:81")).unwrap())
            });
            assert!(refused && seen.starts_with("10.213."), "{seen}");
        });
        drop(loopback);
        // Nobody reaches a build from another one or from elsewhere, even with a route.
        let inside = address_of(&one);
        let listener = in_network(&one, || TcpListener::bind((inside, 90)).unwrap());
        let target = SocketAddr::from((inside, 90));
        assert!(in_network(&two, || TcpStream::connect_timeout(&target, SHORT).is_err()));
        within(elsewhere, || {
            let mut netlink = Netlink::route().unwrap();
            let index = route::index("up0").unwrap();
            route::add_default_route(&mut netlink, index, HOST.parse().unwrap()).unwrap();
            assert!(TcpStream::connect_timeout(&target, SHORT).is_err());
        });
        // The host itself does.
        assert!(TcpStream::connect_timeout(&target, LONG).is_ok());
        drop(listener);
    });
}

/// For an answer that should not come.
const SHORT: Duration = Duration::from_millis(300);
/// For one that should, however much else there is to do.
const LONG: Duration = Duration::from_secs(60);

/// The address of the end inside.
fn address_of(network: &Network) -> Ipv4Addr {
    match network.host() {
        Some(IpAddr::V4(host)) => Ipv4Addr::from_bits(host.to_bits() + 1),
        other => panic!("{other:?}"),
    }
}

/// As docker and ufw have it, in a table for one protocol or for both.
#[test]
fn a_firewall_that_drops_lets_it_pass() {
    let nft = |script: &str| {
        let output = Command::new("nft").arg(script).output()?;
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        std::io::Result::Ok(String::from_utf8(output.stdout).unwrap())
    };
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIP: nft is not installed");
        return;
    }
    for table in ["ip filter", "inet firewall"] {
        on_a_host(|elsewhere| {
            nft(&format!(
                "table {table} {{ chain FORWARD {{ type filter hook forward priority 0; policy drop; }}; }}"
            ))
            .unwrap();
            let rules = || nft("list ruleset").unwrap();
            let before = rules();
            let server = within(elsewhere, || TcpListener::bind((ELSEWHERE, 80)).unwrap());
            let (one, two) = (open(&[]), open(&[]));
            thread::scope(|scope| {
                scope.spawn(|| serve(server, 2));
                for network in [&one, &two] {
                    assert_eq!(in_network(network, || ask(&format!("{ELSEWHERE}:80")).unwrap()), HOST);
                }
            });
            // One ends as it should, one is killed, and the next one cleans up after it.
            drop(one);
            let Network { way_out, namespace, .. } = two;
            drop(namespace);
            std::mem::forget(way_out);
            wait_for_links(0);
            assert_ne!(rules(), before);
            drop(open(&[]));
            assert!(rules().contains(before.trim()), "{}", rules());
        });
    }
}

/// While forwarding is on for the sake of builds, the host passes nothing on for others.
#[test]
fn the_host_is_no_router_for_others() {
    on_a_host(|elsewhere| {
        // Behind the host is a third one, and who is elsewhere sends the host what is for it.
        let third = Inside::make().unwrap();
        let mut netlink = Netlink::route().unwrap();
        route::add_wire(&mut netlink, "down0", "down0", third.namespace.as_fd(), 1400).unwrap();
        let index = route::index("down0").unwrap();
        route::add_address(&mut netlink, index, "203.0.113.1".parse().unwrap(), 24).unwrap();
        route::set_up(&mut netlink, index).unwrap();
        let mut inside = third.netlink;
        let index =
            route::links(&mut inside).unwrap().iter().find(|link| link.name == "down0").unwrap().index;
        route::add_address(&mut inside, index, "203.0.113.2".parse().unwrap(), 24).unwrap();
        route::set_up(&mut inside, index).unwrap();
        route::add_default_route(&mut inside, index, "203.0.113.1".parse().unwrap()).unwrap();
        let _server = within(&third.namespace, || TcpListener::bind("203.0.113.2:80").unwrap());
        within(elsewhere, || {
            let mut netlink = Netlink::route().unwrap();
            let index = route::index("up0").unwrap();
            route::add_default_route(&mut netlink, index, HOST.parse().unwrap()).unwrap();
        });
        let reached = |patience| {
            let target = "203.0.113.2:80".parse().unwrap();
            within(elsewhere, || TcpStream::connect_timeout(&target, patience).is_ok())
        };
        let network = open(&[]);
        assert!(forwards("up0") && forwards("down0"));
        assert!(!reached(SHORT));
        drop(network);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        assert!(reached(LONG), "the test proves nothing");
    });
}

#[test]
fn name_servers_are_reached_or_stood_in_for() {
    on_a_host(|_| {
        let check = |servers: &[&str], expected: &[&str]| {
            let network = open(servers);
            let found: Vec<String> = network.nameservers().iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{servers:?}");
        };
        check(&["8.8.8.8", "169.254.169.253"], &["8.8.8.8", "169.254.169.253"]);
        check(&["127.0.0.53", "::1", "8.8.8.8"], &["127.0.0.11", "8.8.8.8"]);
        check(&["8.8.8.8", "fe80::1%up0", "2001:db8::1"], &["8.8.8.8", "127.0.0.11"]);
        check(&[], &[]);
    });
}

/// A question with two bytes of number, and an answer that tells who gave it.
#[test]
fn questions_are_passed_on() {
    on_a_host(|_| {
        let (silent, good) =
            (UdpSocket::bind("127.0.0.2:53").unwrap(), UdpSocket::bind("127.0.0.3:53").unwrap());
        let tcp = TcpListener::bind("127.0.0.3:53").unwrap();
        // Nobody is at the first one, and the second one does not answer.
        let network = open(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 512];
                let (length, from) = good.recv_from(&mut buffer).unwrap();
                buffer[length..length + 4].copy_from_slice(b"good");
                good.send_to(&buffer[..length + 4], from).unwrap();
                let (mut stream, _) = tcp.accept().unwrap();
                for _ in 0..2 {
                    stream.read_exact(&mut buffer[..18]).unwrap();
                    stream.write_all(&buffer[..18]).unwrap();
                }
            });
            in_network(&network, || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.send_to(b"12 0123456789abc", "127.0.0.11:53").unwrap();
                socket.send_to(b"short", "127.0.0.11:53").unwrap();
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"12 0123456789abcgood");
                let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
                for _ in 0..2 {
                    stream.write_all(b"\x00\x1012 0123456789abc").unwrap();
                    stream.read_exact(&mut buffer[..18]).unwrap();
                    assert_eq!(&buffer[..18], b"\x00\x1012 0123456789abc");
                }
            });
        });
        drop(silent);
    });
}

#[test]
fn a_question_that_nobody_takes_fails() {
    on_a_host(|_| {
        let network = open(&["127.0.0.1"]);
        in_network(&network, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"12\x01\x000123456789ab", "127.0.0.11:53").unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"12\x81\x020123456789ab");
        });
    });
}

/// Whoever may set up no interfaces on the host has pasta, which ends with the network.
#[test]
fn pasta_leads_out() {
    if Command::new("pasta").arg("--version").output().is_err() {
        eprintln!("SKIP: pasta is not installed");
        return;
    }
    on_a_host(|elsewhere| {
        let server = within(elsewhere, || TcpListener::bind((ELSEWHERE, 80)).unwrap());
        let loopback = TcpListener::bind("127.0.0.1:80").unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:81").unwrap();
        let dir = std::env::temp_dir();
        let pasta = |inside: &mut Inside, avoid: &[(IpAddr, u8)]| {
            Pasta::start(&inside.namespace, &mut inside.netlink, &dir, avoid).map(WayOut::Pasta)
        };
        let network = Network::with(&[], pasta).unwrap();
        assert_eq!(network.host(), Some(HOST.parse().unwrap()));
        thread::scope(|scope| {
            scope.spawn(|| serve(server, 1));
            scope.spawn(|| serve(everywhere, 1));
            in_network(&network, || {
                assert_eq!(ask(&format!("{ELSEWHERE}:80")).unwrap(), HOST);
                assert_eq!(ask(&format!("{HOST}:81")).unwrap(), HOST);
                let gateway = "10.213.0.1";
                for address in ["127.0.0.1", gateway] {
                    let target = format!("{address}:80").parse().unwrap();
                    assert!(TcpStream::connect_timeout(&target, SHORT).is_err(), "{address}");
                }
            });
        });
        drop((network, loopback));
    });
}
