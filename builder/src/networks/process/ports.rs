//! Published ports: the sockets of this host that keep them, and who has which.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use wharf_runtime::tell_where_packets_arrive;

use super::proxy::Socket;
use crate::containers::config::{PortUse, Protocol};
use crate::containers::state::BoundPort;
use crate::error::{Failure, Kind};

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// How often a free port is looked for that is free on every address.
const ATTEMPTS_MAX: u32 = 16;

/// A port of this host that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bound: BoundPort,
    pub(super) socket: Arc<Socket>,
}

/// Takes the ports that a container asks for; `before` are those that it had. `default` is the address that is meant where
/// none is named, `held_by` says which container has a port.
pub(super) fn keep(
    asked: &[PortUse],
    before: &[BoundPort],
    default: Option<IpAddr>,
    held_by: &dyn Fn(Protocol, u16) -> Option<String>,
) -> Result<Vec<Kept>, Failure> {
    let mut kept = Vec::new();
    for port in asked {
        let wanted = match port.address.or(default) {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let had = before.iter().find(|it| it.container == port.container && it.protocol == port.protocol);
        kept.extend(keep_one(port, &wanted, had.map(|it| it.host), held_by)?);
    }
    Ok(kept)
}

/// Takes one port on every address, of those that are asked for.
fn keep_one(
    port: &PortUse,
    addresses: &[IpAddr],
    had: Option<u16>,
    held_by: &dyn Fn(Protocol, u16) -> Option<String>,
) -> Result<Vec<Kept>, Failure> {
    let candidates: Vec<u16> = match port.host {
        0 => had.into_iter().chain((0..ATTEMPTS_MAX).map(|_| 0)).collect(),
        first => {
            let range = first..=port.host_last.max(first);
            had.into_iter().filter(|had| range.contains(had)).chain(range.clone()).collect()
        }
    };
    let mut refused = None;
    for candidate in candidates {
        match bind_all(port, addresses, candidate) {
            Ok(kept) => return Ok(kept),
            Err((address, error)) => {
                let is_in_use = error == Errno::ADDRINUSE;
                refused = Some((address, candidate, error));
                if !is_in_use {
                    break;
                }
            }
        }
    }
    let Some((address, number, errno)) = refused else { return Ok(Vec::new()) };
    Err(refuse(port, address, number, errno, held_by))
}

fn bind_all(port: &PortUse, addresses: &[IpAddr], number: u16) -> Result<Vec<Kept>, (IpAddr, Errno)> {
    let mut kept = Vec::<Kept>::new();
    let mut number = number;
    for address in addresses {
        let at = SocketAddr::new(*address, number);
        let made = match port.protocol {
            Protocol::Tcp => tcp(at).map(Socket::Tcp),
            Protocol::Udp => udp(at).map(Socket::Udp),
        };
        let is_extra = !kept.is_empty() && address.is_ipv6();
        match made {
            // A host without IPv6 has no such addresses.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if is_extra => {}
            Err(errno) => return Err((*address, errno)),
            Ok(socket) => {
                let local = match &socket {
                    Socket::Tcp(socket) => socket.local_addr(),
                    Socket::Udp(socket) => socket.local_addr(),
                };
                number = local.map_err(|_| (*address, Errno::IO))?.port();
                let (container, protocol) = (port.container, port.protocol);
                let bound = BoundPort { container, protocol, address: *address, host: number };
                kept.push(Kept { bound, socket: Arc::new(socket) });
            }
        }
    }
    Ok(kept)
}

fn tcp(at: SocketAddr) -> rustix::io::Result<TcpListener> {
    let socket = open(at, SocketType::STREAM)?;
    // One that was just closed is no hindrance; one that somebody listens at is.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn udp(at: SocketAddr) -> rustix::io::Result<UdpSocket> {
    let socket = open(at, SocketType::DGRAM)?;
    bind(&socket, &at)?;
    let socket = UdpSocket::from(socket);
    if at.ip().is_unspecified() {
        // Otherwise answers come from the address that the way to the client begins with.
        let _ = tell_where_packets_arrive(&socket);
    }
    Ok(socket)
}

fn open(at: SocketAddr, kind: SocketType) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Why a port cannot be had, in words.
fn refuse(
    port: &PortUse,
    address: IpAddr,
    number: u16,
    errno: Errno,
    held_by: &dyn Fn(Protocol, u16) -> Option<String>,
) -> Failure {
    let protocol = port.protocol;
    let doing = format!("cannot publish the port {}/{protocol} of the container", port.container);
    let at = SocketAddr::new(address, number);
    match errno {
        Errno::ADDRINUSE => {
            let which = if port.host == 0 {
                format!("no port of {address} is free")
            } else if port.host_last > port.host {
                format!("the ports {} to {} of {address} are in use", port.host, port.host_last)
            } else {
                format!("the port {at}/{protocol} is in use")
            };
            let message = format!("{doing}: {which}");
            match held_by(protocol, number) {
                Some(name) => Failure::new(Kind::Environment, format!("{message} by the container `{name}`"))
                    .hint(format!("stop it (`wharf stop {name}`), or publish another port")),
                None => Failure::new(Kind::Environment, message)
                    .hint("end what listens there (`ss -lnp` shows it), or publish another port"),
            }
        }
        Errno::ACCESS => {
            let message = format!("{doing}: this user may not have the port {at}/{protocol}");
            Failure::new(Kind::Environment, message).hint(format!(
                "publish one from 1024 on, or let users have it: `sysctl net.ipv4.ip_unprivileged_port_start={number}`"
            ))
        }
        Errno::ADDRNOTAVAIL => {
            let message = format!("{doing}: this host does not have the address {address}");
            Failure::new(Kind::Usage, message).hint("`ip address` shows those that it has")
        }
        errno => {
            let doing = format!("{doing} at {at}/{protocol}");
            Failure::from_error(Kind::Environment, &doing, &io::Error::from(errno))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host: u16, host_last: u16, protocol: Protocol) -> PortUse {
        PortUse { container: 80, protocol, address: Some(Ipv4Addr::LOCALHOST.into()), host, host_last }
    }

    fn nobody(_: Protocol, _: u16) -> Option<String> {
        None
    }

    #[test]
    fn ports_are_kept_and_let_go() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let kept = keep(&[port(0, 0, protocol)], &[], None, &nobody).unwrap();
            let number = kept[0].bound.host;
            let again = |last| keep(&[port(number, last, protocol)], &[], None, &nobody);
            let failure = again(number).unwrap_err();
            assert!(
                failure.message.contains(&format!("127.0.0.1:{number}/{protocol} is in use")),
                "{failure}"
            );
            let held = keep(&[port(number, number, protocol)], &[], None, &|_, _| Some("web".to_owned()));
            assert!(held.unwrap_err().message.contains("container `web`"));
            if number < u16::MAX - 20 {
                let next = again(number + 20).unwrap();
                assert!(next[0].bound.host > number);
            }
            let bound = vec![kept[0].bound.clone()];
            drop(kept);
            let same = keep(&[port(0, 0, protocol)], &bound, None, &nobody).unwrap();
            assert_eq!(same[0].bound.host, number);
        }
    }

    #[test]
    fn every_address_means_both_protocols() {
        let every = PortUse { address: None, ..port(0, 0, Protocol::Tcp) };
        let kept = keep(std::slice::from_ref(&every), &[], None, &nobody).unwrap();
        assert!(kept.iter().all(|it| it.bound.host == kept[0].bound.host));
        let kept = keep(&[every], &[], Some(Ipv4Addr::LOCALHOST.into()), &nobody).unwrap();
        assert_eq!((kept.len(), kept[0].bound.address), (1, Ipv4Addr::LOCALHOST.into()));
        let elsewhere = PortUse { address: Some([192, 0, 2, 77].into()), ..port(0, 0, Protocol::Tcp) };
        let failure = keep(&[elsewhere], &[], None, &nobody).unwrap_err();
        assert!(failure.message.contains("does not have the address"), "{failure}");
    }
}
