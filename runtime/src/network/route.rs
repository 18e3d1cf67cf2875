//! Interfaces, addresses and routes (rtnetlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{CREATE, Message, Netlink, attributes, number, text};

/// Of `linux/veth.h`: what describes the other end.
const VETH_INFO_PEER: u16 = 1;

/// Of `linux/if_link.h`: whether a bridge passes nothing on between a port and others that are so.
const BRIDGE_PORT_ISOLATED: u16 = 33;

/// `IFA_F_NODAD`: an address that only the two ends of a wire can have need not be looked for.
const WITHOUT_DETECTION: u8 = 0x02;

/// Of `linux/if_link.h` and `linux/ip.h`: settings of an interface for IPv4, by number.
const INET_CONF: u16 = 1;
const INET_CONF_FORWARDING: u16 = 1;

/// Lengths of the structures before the attributes.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) loopback: bool,
    /// What its owner says of it.
    pub(super) alias: String,
}

/// A route of any table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// Where it leads; without one of these bits everywhere.
    pub(super) destination: IpAddr,
    pub(super) bits: u8,
    /// The interface that it leads through.
    pub(super) link: Option<u32>,
    /// Whether it leads to another host.
    pub(super) unicast: bool,
    /// Whether it is of the main table.
    pub(super) main: bool,
}

impl Route {
    pub(super) fn is_default(&self) -> bool {
        self.bits == 0 && self.unicast
    }
}

/// A pair of interfaces that are wired to each other: `name` here, `peer` in the network namespace `namespace`.
pub(super) fn add_wire(
    netlink: &mut Netlink,
    name: &str,
    peer: &str,
    namespace: BorrowedFd<'_>,
    mtu: u32,
) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0));
    message.string(libc::IFLA_IFNAME, name).attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
    message.nested(libc::IFLA_LINKINFO, |info| {
        info.string(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |other| {
                other
                    .raw(&link_header(0, 0))
                    .string(libc::IFLA_IFNAME, peer)
                    .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
                    .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    netlink.request(message)
}

/// A wire from a bridge into a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port<'a> {
    /// The end on the bridge.
    pub(super) name: &'a str,
    /// The bridge.
    pub(super) bridge: u32,
    /// The end in the container.
    pub(super) peer: &'a str,
    /// Its hardware address.
    pub(super) mac: [u8; 6],
    /// Of both ends.
    pub(super) mtu: u32,
}

/// Makes a bridge.
pub(super) fn add_bridge(netlink: &mut Netlink, name: &str, mtu: u32) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0));
    message.string(libc::IFLA_IFNAME, name).attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
    message.nested(libc::IFLA_LINKINFO, |info| {
        info.string(libc::IFLA_INFO_KIND, "bridge");
    });
    netlink.request(message)
}

/// Makes a wire whose one end is up and on a bridge, and whose other end is in the network namespace `namespace`.
pub(super) fn add_port(netlink: &mut Netlink, port: &Port<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let mtu = port.mtu.to_ne_bytes();
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, libc::IFF_UP as u32));
    message
        .string(libc::IFLA_IFNAME, port.name)
        .attribute(libc::IFLA_MTU, &mtu)
        .attribute(libc::IFLA_MASTER, &port.bridge.to_ne_bytes());
    message.nested(libc::IFLA_LINKINFO, |info| {
        info.string(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |other| {
                other
                    .raw(&link_header(0, 0))
                    .string(libc::IFLA_IFNAME, port.peer)
                    .attribute(libc::IFLA_ADDRESS, &port.mac)
                    .attribute(libc::IFLA_MTU, &mtu)
                    .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    netlink.request(message)
}

/// Has a bridge pass nothing on between this port and others that are so.
pub(super) fn isolate_port(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0));
    message.nested(libc::IFLA_LINKINFO, |info| {
        info.string(libc::IFLA_INFO_SLAVE_KIND, "bridge").nested(libc::IFLA_INFO_SLAVE_DATA, |data| {
            data.attribute(BRIDGE_PORT_ISOLATED, &[1]);
        });
    });
    netlink.request(message)
}

/// Removes an interface, and the other end of its wire.
pub(super) fn remove_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.request(Message::new(libc::RTM_DELLINK, 0, &link_header(index, 0)))
}

/// The number of the interface `name` of the socket's network namespace.
pub(super) fn named(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0));
    message.string(libc::IFLA_IFNAME, name);
    let answer = netlink.ask(message)?;
    read_link(&answer).map(|link| link.index).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Brings an interface up.
pub(super) fn set_up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.request(Message::new(libc::RTM_NEWLINK, 0, &link_header(index, libc::IFF_UP as u32)))
}

/// Switches forwarding of what arrives at an interface (IPv4).
pub(super) fn set_forwarding(netlink: &mut Netlink, index: u32, on: bool) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0));
    message.nested(libc::IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET as u16, |family| {
            family.nested(INET_CONF, |settings| {
                settings.attribute(INET_CONF_FORWARDING, &u32::from(on).to_ne_bytes());
            });
        });
    });
    netlink.request(message)
}

/// Says something of an interface that others can read.
pub(super) fn set_alias(netlink: &mut Netlink, index: u32, alias: &str) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0));
    message.attribute(libc::IFLA_IFALIAS, alias.as_bytes());
    netlink.request(message)
}

/// Gives an interface an address in a network of `bits` bits.
pub(super) fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr, bits: u8) -> io::Result<()> {
    let flags = if address.is_ipv6() { WITHOUT_DETECTION } else { 0 };
    let mut header = vec![family(address), bits, flags, libc::RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(libc::RTM_NEWADDR, CREATE, &header);
    message.attribute(libc::IFA_LOCAL, &octets(address)).attribute(libc::IFA_ADDRESS, &octets(address));
    netlink.request(message)
}

/// Takes an address away again.
pub(super) fn remove_address(netlink: &mut Netlink, index: u32, address: IpAddr, bits: u8) -> io::Result<()> {
    let mut header = vec![family(address), bits, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(libc::RTM_DELADDR, 0, &header);
    message.attribute(libc::IFA_LOCAL, &octets(address));
    netlink.request(message)
}

/// Sends what leads nowhere else to `gateway`.
pub(super) fn add_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<()> {
    let mut header = vec![
        family(gateway),
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ];
    header.extend_from_slice(&0u32.to_ne_bytes());
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, &header);
    message.attribute(libc::RTA_GATEWAY, &octets(gateway)).attribute(libc::RTA_OIF, &index.to_ne_bytes());
    netlink.request(message)
}

/// Removes the routes that lead everywhere, of both protocols.
pub(super) fn remove_default_routes(netlink: &mut Netlink) -> io::Result<()> {
    for route in routes(netlink)?.into_iter().filter(|route| route.is_default() && route.main) {
        let mut header =
            vec![family(route.destination), 0, 0, 0, libc::RT_TABLE_MAIN, 0, 0, libc::RTN_UNICAST];
        header.extend_from_slice(&0u32.to_ne_bytes());
        let mut message = Message::new(libc::RTM_DELROUTE, 0, &header);
        if let Some(link) = route.link {
            message.attribute(libc::RTA_OIF, &link.to_ne_bytes());
        }
        netlink.request(message)?;
    }
    Ok(())
}

/// Sends what is for a subnet through an interface to `gateway`; nothing if there is such a route already.
pub(super) fn add_route(
    netlink: &mut Netlink,
    index: u32,
    (address, bits): (IpAddr, u8),
    gateway: IpAddr,
) -> io::Result<()> {
    netlink.request(subnet_route(libc::RTM_NEWROUTE, CREATE, index, (address, bits), gateway))
}

/// Removes what [`add_route`] has made.
pub(super) fn remove_route(
    netlink: &mut Netlink,
    index: u32,
    (address, bits): (IpAddr, u8),
    gateway: IpAddr,
) -> io::Result<()> {
    netlink.request(subnet_route(libc::RTM_DELROUTE, 0, index, (address, bits), gateway))
}

fn subnet_route(kind: u16, how: u16, index: u32, subnet: (IpAddr, u8), gateway: IpAddr) -> Message {
    let (address, bits) = subnet;
    let mut header = vec![
        family(address),
        bits,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ];
    header.extend_from_slice(&0u32.to_ne_bytes());
    let mut message = Message::new(kind, how, &header);
    message
        .attribute(libc::RTA_DST, &masked(address, bits))
        .attribute(libc::RTA_GATEWAY, &octets(gateway))
        .attribute(libc::RTA_OIF, &index.to_ne_bytes());
    message
}

/// The first address of a subnet, as it stands in packets.
fn masked(address: IpAddr, bits: u8) -> Vec<u8> {
    let mut octets = octets(address);
    for (at, octet) in octets.iter_mut().enumerate() {
        let kept = u32::from(bits).saturating_sub(8 * at as u32).min(8);
        *octet &= !(0xffu32 >> kept) as u8;
    }
    octets
}

/// Every interface.
pub(super) fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let answers = netlink.dump(Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)))?;
    Ok(answers.iter().filter_map(|answer| read_link(answer)).collect())
}

/// The number of the interface `name`, if there is one.
pub(super) fn index(name: &str) -> Option<u32> {
    let links = Netlink::route().and_then(|mut netlink| links(&mut netlink)).ok()?;
    links.into_iter().find(|link| link.name == name).map(|link| link.index)
}

/// Every route, those to the host's own addresses among them.
pub(super) fn routes(netlink: &mut Netlink) -> io::Result<Vec<Route>> {
    let answers = netlink.dump(Message::new(libc::RTM_GETROUTE, 0, &[0; ROUTE_HEADER]))?;
    Ok(answers.iter().filter_map(|answer| read_route(answer)).collect())
}

fn read_link(answer: &[u8]) -> Option<Link> {
    let header = answer.first_chunk::<LINK_HEADER>()?;
    let flags = number(&header[8..])?;
    let index = number(&header[4..])?;
    let mut link = Link {
        index,
        name: String::new(),
        mtu: 0,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        alias: String::new(),
    };
    for (kind, value) in attributes(answer, LINK_HEADER) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_MTU => link.mtu = number(value)?,
            _ => {}
        }
    }
    Some(link)
}

fn read_route(answer: &[u8]) -> Option<Route> {
    let header = answer.first_chunk::<ROUTE_HEADER>()?;
    let destination: IpAddr = match i32::from(header[0]) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let unicast = header[7] == libc::RTN_UNICAST;
    let main = header[4] == libc::RT_TABLE_MAIN;
    let mut route = Route { destination, bits: header[1], link: None, unicast, main };
    for (kind, value) in attributes(answer, ROUTE_HEADER) {
        match kind {
            libc::RTA_DST => route.destination = address(value)?,
            libc::RTA_OIF => route.link = number(value),
            _ => {}
        }
    }
    Some(route)
}

/// `struct ifinfomsg`; `flags` are those to set.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [index, flags, flags] {
        header.extend_from_slice(&number.to_ne_bytes());
    }
    header
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// An address as it stands in packets.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
