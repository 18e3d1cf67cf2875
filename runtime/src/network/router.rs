//! A network namespace that is the router of containers' networks: a bridge for each network, and one way out for all.
//!
//! Nothing of it is in the host's namespace but the wire's other end, routes through it and rules, which go with it. So what
//! a killed process leaves goes by itself, but for forwarding that is on ([`super::forwarding`]). For who may set up
//! networks and for ordinary users it is the same thing; only the way out differs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::filter::{self, Action, Family, Hook, Match, Table};
use super::forwarding::LINK_PREFIX;
use super::netlink::Netlink;
use super::pasta::Pasta;
use super::route::{self, Link, Port};
use super::wire::Wire;
use super::{NetworkError, WayOut, failed, in_thread, within, within_new};

/// What leads out of the router is called.
const UPLINK: &str = "eth0";

/// The size of packets where nothing leads out.
const MTU_DEFAULT: u32 = 1500;

/// The table of the router's rules, in its own namespace.
const TABLE: &str = "wharf";

/// The router.
#[derive(Debug)]
pub struct Router {
    /// Sockets in its namespace.
    netlink: Netlink,
    rules: Netlink,
    bridges: Vec<Bridge>,
    /// Ports so far, as each has a name of its own.
    ports: u64,
    mtu: u32,
    way_out: Option<WayOut>,
    namespace: OwnedFd,
}

/// The bridge of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The name of the interface, at most 15 letters.
    pub name: String,
    /// Its addresses, which are the gateways of the network, and the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether nothing leads out of it.
    pub internal: bool,
    /// Whether those who are on it do not reach each other.
    pub isolated: bool,
    /// The size of packets, if not that of the way out.
    pub mtu: Option<u32>,
}

/// The end of a wire in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// The name of the interface.
    pub interface: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses and the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A port of the host that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Whether it is of UDP, not of TCP.
    pub udp: bool,
    /// The host's address: one, or all of its protocol.
    pub from: SocketAddr,
    /// The container's.
    pub to: SocketAddr,
}

/// Rules of the host that are there for as long as this.
#[derive(Debug)]
pub struct Published {
    rules: Netlink,
    tables: Vec<(Family, String)>,
}

impl Router {
    /// Makes one, and says why nothing leads out of it if nothing does. `dir` is a directory that is this process's alone;
    /// `avoid` are subnets that its own are not to meet.
    pub fn open(dir: &Path, avoid: &[(IpAddr, u8)]) -> Result<(Self, Option<NetworkError>), NetworkError> {
        let wire = |router: &mut Self| {
            let mut wire = Wire::connect(router.namespace.as_fd(), &mut router.netlink, avoid)?;
            wire.let_published_in()?;
            Ok(WayOut::Wire(wire))
        };
        let pasta = |router: &mut Self| {
            Pasta::start(&router.namespace, &mut router.netlink, dir, avoid).map(WayOut::Pasta)
        };
        let wire = match Self::with(wire) {
            Ok(router) => return Ok((router, None)),
            Err(why) => why,
        };
        // What the first attempt leaves is not to be in the way of the second, so each has a namespace of its own.
        match Self::with(pasta) {
            Ok(router) => Ok((router, None)),
            Err(pasta) => {
                let why = NetworkError::NoWay { wire: Box::new(wire), pasta: Box::new(pasta) };
                Ok((Self::make()?, Some(why)))
            }
        }
    }

    fn with(lead_out: impl FnOnce(&mut Self) -> Result<WayOut, NetworkError>) -> Result<Self, NetworkError> {
        let mut router = Self::make()?;
        router.way_out = Some(lead_out(&mut router)?);
        let links = router.links()?;
        let uplink = links.iter().find(|link| link.name == UPLINK);
        router.mtu = uplink.map_or(MTU_DEFAULT, |link| link.mtu);
        if let Some(uplink) = uplink {
            router.forward(uplink.index)?;
        }
        Ok(router)
    }

    fn make() -> Result<Self, NetworkError> {
        let (namespace, (netlink, rules)) = within_new(|| {
            let netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
            let rules = Netlink::netfilter().map_err(failed("open a netlink socket"))?;
            // Where /proc/sys is read-only nothing is forwarded by IPv6.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
            Ok((netlink, rules))
        })?;
        let (bridges, ports, mtu, way_out) = (Vec::new(), 0, MTU_DEFAULT, None);
        Ok(Self { netlink, rules, bridges, ports, mtu, way_out, namespace })
    }

    /// Whether what led out has ended by itself.
    pub fn has_lost_its_way_out(&self) -> bool {
        matches!(&self.way_out, Some(WayOut::Pasta(pasta)) if pasta.has_ended())
    }

    /// Leads out again, by pasta; what is given is as for [`Self::open`].
    pub fn lead_out_again(&mut self, dir: &Path, avoid: &[(IpAddr, u8)]) -> Result<(), NetworkError> {
        // A socket can be told only once what it is to hear of.
        let open = || Netlink::route().map_err(failed("open a netlink socket"));
        let mut netlink = within(self.namespace.as_fd(), open)?;
        let pasta = Pasta::start(&self.namespace, &mut netlink, dir, avoid)?;
        self.way_out = Some(WayOut::Pasta(pasta));
        let uplink = self.index(UPLINK)?;
        self.forward(uplink)?;
        self.write_rules()
    }

    /// Where those on its bridges can be reached from.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// An address of the host that can be reached from inside.
    pub fn host(&self) -> Option<IpAddr> {
        self.way_out.as_ref().and_then(WayOut::host)
    }

    /// The name of what stands for it on the host, if there is such an interface: for [`remove_wire`], by who comes after a
    /// process that was killed.
    pub fn wire(&self) -> Option<&str> {
        match &self.way_out {
            Some(WayOut::Wire(wire)) => Some(wire.name()),
            _ => None,
        }
    }

    /// Makes a network. Gives those of its addresses in whose subnets the host can send packets.
    pub fn add_bridge(&mut self, bridge: Bridge) -> Result<Vec<IpAddr>, NetworkError> {
        let name = bridge.name.as_str();
        let mtu = bridge.mtu.unwrap_or(self.mtu);
        route::add_bridge(&mut self.netlink, name, mtu).map_err(failed(format!("make the bridge {name}")))?;
        let made = self.set_up_bridge(&bridge);
        if made.is_err() {
            self.remove_bridge(&bridge.name);
        }
        made
    }

    fn set_up_bridge(&mut self, bridge: &Bridge) -> Result<Vec<IpAddr>, NetworkError> {
        let index = self.index(&bridge.name)?;
        for (address, bits) in &bridge.addresses {
            route::add_address(&mut self.netlink, index, *address, *bits)
                .map_err(failed(format!("give the bridge {} the address {address}", bridge.name)))?;
        }
        route::set_up(&mut self.netlink, index).map_err(failed(format!("bring up {}", bridge.name)))?;
        self.forward(index)?;
        self.bridges.push(bridge.clone());
        self.write_rules()?;
        let mut reached = Vec::new();
        if let Some(WayOut::Wire(wire)) = &self.way_out {
            // Where somebody else has such a route, that stays.
            let led = bridge.addresses.iter().filter(|(address, bits)| wire.lead_in(*address, *bits).is_ok());
            reached.extend(led.map(|(address, _)| *address));
        }
        Ok(reached)
    }

    /// Removes a network.
    pub fn remove_bridge(&mut self, name: &str) {
        let Some(at) = self.bridges.iter().position(|bridge| bridge.name == name) else {
            let _ = self.index(name).map(|index| route::remove_link(&mut self.netlink, index));
            return;
        };
        let bridge = self.bridges.remove(at);
        if let Some(WayOut::Wire(wire)) = &self.way_out {
            for (address, bits) in bridge.addresses {
                wire.lead_in_no_more(address, bits);
            }
        }
        // What is left of it goes with the router.
        let _ = self.index(name).map(|index| route::remove_link(&mut self.netlink, index));
        let _ = self.write_rules();
    }

    /// Puts a container, whose network namespace is `inside`, on the network of a bridge. Gives the name of the port.
    pub fn plug(
        &mut self,
        bridge: &str,
        inside: BorrowedFd<'_>,
        plug: &Plug,
    ) -> Result<String, NetworkError> {
        let found = self.bridges.iter().find(|it| it.name == bridge);
        let (mtu, isolated) = found.map_or((self.mtu, false), |it| (it.mtu.unwrap_or(self.mtu), it.isolated));
        let bridge = self.index(bridge)?;
        self.ports += 1;
        let name = format!("port{}", self.ports);
        let port = Port { name: &name, bridge, peer: &plug.interface, mac: plug.mac, mtu };
        route::add_port(&mut self.netlink, &port, inside)
            .map_err(failed(format!("make the interface {} of the container", plug.interface)))?;
        let set_up = || {
            let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
            let name = &plug.interface;
            let index =
                route::named(&mut netlink, name).map_err(failed(format!("find the interface {name}")))?;
            for (address, bits) in &plug.addresses {
                route::add_address(&mut netlink, index, *address, *bits)
                    .map_err(failed(format!("give {} the address {address}", plug.interface)))?;
            }
            route::set_up(&mut netlink, index).map_err(failed(format!("bring up {}", plug.interface)))
        };
        let done = within(inside, set_up).and_then(|()| match isolated {
            true => self.isolate(&name),
            false => Ok(()),
        });
        if let Err(error) = done {
            self.unplug(&name);
            return Err(error);
        }
        Ok(name)
    }

    /// Takes a container off a network; `port` is what [`Self::plug`] gave. It is fine if it is gone already.
    pub fn unplug(&mut self, port: &str) {
        let _ = self.index(port).map(|index| route::remove_link(&mut self.netlink, index));
    }

    fn isolate(&mut self, port: &str) -> Result<(), NetworkError> {
        let index = self.index(port)?;
        route::isolate_port(&mut self.netlink, index).map_err(failed("keep a container apart from others"))
    }

    fn forward(&mut self, index: u32) -> Result<(), NetworkError> {
        route::set_forwarding(&mut self.netlink, index, true)
            .map_err(failed("switch on forwarding in the network of containers"))
    }

    fn links(&mut self) -> Result<Vec<Link>, NetworkError> {
        route::links(&mut self.netlink).map_err(failed("list the network interfaces"))
    }

    fn index(&mut self, name: &str) -> Result<u32, NetworkError> {
        route::named(&mut self.netlink, name).map_err(failed(format!("find the interface {name}")))
    }

    /// Writes all rules anew, at once. Networks are kept apart; those that are not internal have a way out, and find the
    /// host where their gateway is.
    fn write_rules(&mut self) -> Result<(), NetworkError> {
        const FORWARD: &str = "forward";
        const ARRIVE: &str = "arrive";
        const LEAVE: &str = "leave";
        let hosts: Vec<IpAddr> = match &self.way_out {
            Some(WayOut::Wire(wire)) => wire.host.clone(),
            Some(WayOut::Pasta(pasta)) => pasta.host.into_iter().collect(),
            None => Vec::new(),
        };
        for family in [Family::Ip4, Family::Ip6] {
            let host = hosts.iter().find(|host| Family::of(**host) == family);
            let mut table = Table::anew(family, TABLE);
            table.chain(FORWARD, Hook::Forward).chain(ARRIVE, Hook::Arrive).chain(LEAVE, Hook::Translate);
            table.rule(FORWARD, &[Match::Answer], Action::Accept);
            for bridge in &self.bridges {
                let name = bridge.name.as_str();
                // Where bridged packets pass here (br_netfilter). Those that are kept apart are not to meet by way of the
                // gateway.
                if !bridge.isolated {
                    table.rule(FORWARD, &[Match::In(name), Match::Out(name)], Action::Accept);
                }
                if bridge.internal {
                    continue;
                }
                table.rule(FORWARD, &[Match::In(name), Match::Out(UPLINK)], Action::Accept);
                table.rule(FORWARD, &[Match::In(UPLINK), Match::Out(name)], Action::Accept);
                let gateways = bridge.addresses.iter().map(|(address, _)| *address);
                for gateway in gateways.filter(|gateway| Family::of(*gateway) == family) {
                    if let Some(host) = host {
                        let to_gateway = [Match::In(name), Match::Destination(gateway)];
                        table.rule(ARRIVE, &to_gateway, Action::Redirect(*host, None));
                    }
                }
            }
            table.rule(FORWARD, &[], Action::Drop);
            table.rule(LEAVE, &[Match::Out(UPLINK)], Action::Masquerade);
            let made = table.make(&mut self.rules);
            // A host without IPv6 has no table for it, and nothing to keep apart.
            if family == Family::Ip4 {
                made.map_err(failed("make packet filter rules (nf_tables)"))?;
            } else if self.bridges.iter().any(|it| it.addresses.iter().any(|(it, _)| it.is_ipv6())) {
                made.map_err(failed("make packet filter rules for IPv6 (nf_tables)"))?;
            }
        }
        Ok(())
    }

    /// Has the host forward what arrives from others at its ports; `name` is this table's alone. What the host itself, or a
    /// container, sends there is not forwarded: somebody has to listen.
    pub fn publish(&self, name: &str, forwards: &[Forward]) -> Result<Published, NetworkError> {
        const ARRIVE: &str = "arrive";
        let Some(WayOut::Wire(wire)) = &self.way_out else {
            return Err(failed("forward ports")(std::io::Error::from(std::io::ErrorKind::Unsupported)));
        };
        let rules = Netlink::netfilter().map_err(failed("open a netlink socket"))?;
        let mut published = Published { rules, tables: Vec::new() };
        for family in [Family::Ip4, Family::Ip6] {
            let of_family =
                |it: &&Forward| Family::of(it.to.ip()) == family && Family::of(it.from.ip()) == family;
            let forwards: Vec<&Forward> = forwards.iter().filter(of_family).collect();
            if forwards.is_empty() {
                continue;
            }
            let mut table = Table::owned(family, name);
            table.chain(ARRIVE, Hook::Arrive);
            for forward in forwards {
                let mut matches = vec![Match::NotIn(wire.name()), Match::Local];
                if !forward.from.ip().is_unspecified() {
                    matches.push(Match::Destination(forward.from.ip()));
                }
                matches.extend([Match::Protocol { udp: forward.udp }, Match::ToPort(forward.from.port())]);
                table.rule(ARRIVE, &matches, Action::Redirect(forward.to.ip(), Some(forward.to.port())));
            }
            table.make(&mut published.rules).map_err(failed("make packet filter rules (nf_tables)"))?;
            published.tables.push((family, name.to_owned()));
        }
        Ok(published)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        for (family, name) in &self.tables {
            // The kernel does it as well, when the socket is closed, but later.
            let _ = filter::remove_table(&mut self.rules, *family, name);
        }
    }
}

/// Removes what a router that is gone has left on the host, with the routes through it: the kernel does so too, but takes its
/// time. It is fine if it is gone.
pub fn remove_wire(name: &str) -> Result<(), NetworkError> {
    if !name.starts_with(LINK_PREFIX) {
        return Ok(());
    }
    let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
    remove_if_there(&mut netlink, name)
}

/// Removes what a router that is gone has left in a container.
pub fn remove_interfaces(inside: BorrowedFd<'_>, names: &[&str]) -> Result<(), NetworkError> {
    within(inside, || {
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        names.iter().try_for_each(|name| remove_if_there(&mut netlink, name))
    })
}

fn remove_if_there(netlink: &mut Netlink, name: &str) -> Result<(), NetworkError> {
    let removed = route::named(netlink, name).and_then(|index| route::remove_link(netlink, index));
    match removed {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        removed => removed.map_err(failed(format!("remove the interface {name}"))),
    }
}

/// Has a container's network namespace send what leads nowhere else to these gateways, one of each protocol at most, each
/// through an interface, and to nobody else.
pub fn set_gateways(inside: BorrowedFd<'_>, gateways: &[(&str, IpAddr)]) -> Result<(), NetworkError> {
    within(inside, || {
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        route::remove_default_routes(&mut netlink).map_err(failed("remove a default route"))?;
        for (interface, gateway) in gateways {
            let index = route::named(&mut netlink, interface)
                .map_err(failed(format!("find the interface {interface}")))?;
            route::add_default_route(&mut netlink, index, *gateway)
                .map_err(failed(format!("add a default route to {gateway}")))?;
        }
        Ok(())
    })
}

/// Makes something, such as a socket, in a network namespace.
pub fn make_within<T: Send>(
    namespace: BorrowedFd<'_>,
    make: impl FnOnce() -> std::io::Result<T> + Send,
) -> std::io::Result<T> {
    let made = in_thread(|| Ok(super::enter(namespace).and_then(|()| make())));
    made.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
