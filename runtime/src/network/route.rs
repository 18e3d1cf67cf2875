//! Interfaces, addresses and routes (rtnetlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{CREATE, Message, Netlink, attributes, number, text};

/// Of `linux/veth.h`: what describes the other end.
const VETH_INFO_PEER: u16 = 1;

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
    let mut route = Route { destination, bits: header[1], link: None, unicast };
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
