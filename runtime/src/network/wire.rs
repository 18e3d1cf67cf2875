//! A wire from a network namespace to this one (veth) whose traffic leaves the host under the host's own address.
//!
//! There are two ends and so no bridge, and nothing of it has to be collected: the wire goes with the namespace inside,
//! which goes with the last process and descriptor; the rules go with the socket that made them.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::filter::{self, Action, Family, Hook, Match, Table};
use super::forwarding::{self, Forwarding, LINK_PREFIX, switch};
use super::netlink::Netlink;
use super::route::{self, Link, Route};
use super::subnet::{self, Subnet};
use super::{NetworkError, failed, random};

/// What the end inside is called.
const INSIDE: &str = "eth0";

/// The size of packets where no interface leads out.
const MTU_DEFAULT: u32 = 1500;

/// The least that IPv6 works with.
const MTU_MIN: u32 = 1280;

/// The chain of its rules for what passes through it.
const FORWARD: &str = "forward";

/// How often a name or a subnet is chosen that somebody else has or takes at the same moment.
const ATTEMPTS_MAX: u32 = 16;

/// The wire. It goes when the namespace does; dropping this undoes the rest.
#[derive(Debug)]
pub(super) struct Wire {
    /// This end.
    link: Link,
    forwarding: Vec<Forwarding>,
    /// The socket that owns the rules, which are there for as long as it is open.
    rules: Option<Netlink>,
    /// Where the namespace finds this host.
    pub(super) host: Vec<IpAddr>,
    /// Where this host finds the namespace.
    inside: Vec<IpAddr>,
}

impl Wire {
    /// Leads a wire from here into `namespace`, where `inside` is a socket. Its subnet meets none of `avoid`.
    pub(super) fn connect(
        namespace: BorrowedFd<'_>,
        inside: &mut Netlink,
        avoid: &[(IpAddr, u8)],
    ) -> Result<Self, NetworkError> {
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        let links = route::links(&mut netlink).map_err(failed("list the network interfaces"))?;
        let routes = route::routes(&mut netlink).map_err(failed("list the routes"))?;
        let mtu = mtu(&links, &routes);
        let mut wire = Self::add(&mut netlink, namespace, mtu)?;
        let mut rules = Netlink::netfilter().map_err(failed("open a netlink socket"))?;
        // A host without IPv6, or a kernel that cannot forward it without changing what else the host does with it.
        let leads_out = routes.iter().any(|route| route.is_default() && route.destination.is_ipv6());
        let leads_out = wire.guard(&mut rules, leads_out)?;
        let subnet = wire.claim(&mut netlink, &routes, avoid)?;
        let index = find(inside, INSIDE)?.index;
        configure(inside, index, subnet)?;
        wire.lead_out(&mut rules, subnet, &uplinks(&links, &routes, Family::Ip4))?;
        wire.host.push(subnet.host);
        wire.inside.push(subnet.inside);
        if leads_out {
            let subnet = subnet::unique_local(random()?);
            let links = uplinks(&links, &routes, Family::Ip6);
            if wire.lead_out(&mut rules, subnet, &links).is_ok() {
                wire.address(&mut netlink, subnet)?;
                configure(inside, index, subnet)?;
                wire.host.push(subnet.host);
                wire.inside.push(subnet.inside);
            }
        }
        wire.rules = Some(rules);
        Ok(wire)
    }

    /// The interface here.
    pub(super) fn name(&self) -> &str {
        &self.link.name
    }

    /// Lets in what the host's rules redirect there, and out what answers that, whoever in there does so.
    pub(super) fn let_published_in(&mut self) -> Result<(), NetworkError> {
        let name = self.link.name.as_str();
        let Some(rules) = &mut self.rules else { return Ok(()) };
        for host in &self.host {
            let family = Family::of(*host);
            for matches in [[Match::Out(name), Match::Redirected], [Match::In(name), Match::Answer]] {
                filter::insert_rule(rules, family, name, FORWARD, &matches, Action::Accept)
                    .map_err(failed("make packet filter rules (nf_tables)"))?;
            }
        }
        Ok(())
    }

    /// Has the host send what is for a subnet through here.
    pub(super) fn lead_in(&self, address: IpAddr, bits: u8) -> Result<(), NetworkError> {
        let doing = || format!("add a route to {address}/{bits}");
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        let gateway = self.inside.iter().find(|it| it.is_ipv4() == address.is_ipv4());
        let gateway =
            gateway.ok_or_else(|| failed(doing())(std::io::Error::from(std::io::ErrorKind::Unsupported)))?;
        route::add_route(&mut netlink, self.link.index, (address, bits), *gateway).map_err(failed(doing()))
    }

    /// Takes that back; what cannot be taken back goes with the wire.
    pub(super) fn lead_in_no_more(&self, address: IpAddr, bits: u8) {
        let gateway = self.inside.iter().find(|it| it.is_ipv4() == address.is_ipv4());
        if let (Some(gateway), Ok(mut netlink)) = (gateway, Netlink::route()) {
            let _ = route::remove_route(&mut netlink, self.link.index, (address, bits), *gateway);
        }
    }

    /// Makes both ends, the one here under a name that nobody has.
    fn add(netlink: &mut Netlink, namespace: BorrowedFd<'_>, mtu: u32) -> Result<Self, NetworkError> {
        let name = || Ok::<_, NetworkError>(format!("{LINK_PREFIX}{:08x}", u32::from_ne_bytes(random()?)));
        let mut name_now = name()?;
        let mut made = route::add_wire(netlink, &name_now, INSIDE, namespace, mtu);
        for _ in 1..ATTEMPTS_MAX {
            if made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
                name_now = name()?;
                made = route::add_wire(netlink, &name_now, INSIDE, namespace, mtu);
            }
        }
        made.map_err(failed("make a pair of network interfaces (veth)"))?;
        let link = find(netlink, &name_now)?;
        Ok(Self { link, forwarding: vec![], rules: None, host: vec![], inside: vec![] })
    }

    /// Sees to it, before this end is up, that a step is no router to the host: routes and name servers that it
    /// announces are not for the host to use. Says whether IPv6 may be spoken.
    fn guard(&self, rules: &mut Netlink, leads_out: bool) -> Result<bool, NetworkError> {
        let name = self.link.name.as_str();
        if leads_out && forwarding::believe_no_router(name).is_ok() {
            return Ok(true);
        }
        // Where /proc/sys is read-only, as in containers, the packets are dropped.
        if forwarding::disable_ip6(name).is_err() {
            let mut table = Table::owned(Family::Ip6, name);
            table.chain("input", Hook::Input).rule("input", &[Match::In(name)], Action::Drop);
            table.make(rules).map_err(failed(format!("drop what comes in on {name} by IPv6 (nf_tables)")))?;
        }
        Ok(false)
    }

    /// Gives this end an address in a subnet of its own. Where two processes take the same one the older interface
    /// keeps it.
    fn claim(
        &mut self,
        netlink: &mut Netlink,
        routes: &[Route],
        avoid: &[(IpAddr, u8)],
    ) -> Result<Subnet, NetworkError> {
        let mut routes = routes.to_vec();
        route::set_up(netlink, self.link.index).map_err(failed(format!("bring up {}", self.link.name)))?;
        for _ in 0..ATTEMPTS_MAX {
            let seed = u32::from_ne_bytes(random()?);
            let subnet = subnet::choose(seed, &routes, avoid).ok_or(NetworkError::NoSubnet)?;
            self.address(netlink, subnet)?;
            routes = route::routes(netlink).map_err(failed("list the routes"))?;
            let mut others = routes.iter().filter(|route| subnet.meets(route));
            if !others.any(|route| route.link.is_none_or(|link| link < self.link.index)) {
                return Ok(subnet);
            }
            route::remove_address(netlink, self.link.index, subnet.host, subnet.bits)
                .map_err(failed(format!("take the address {} away", subnet.host)))?;
        }
        Err(NetworkError::NoSubnet)
    }

    fn address(&self, netlink: &mut Netlink, subnet: Subnet) -> Result<(), NetworkError> {
        route::add_address(netlink, self.link.index, subnet.host, subnet.bits)
            .map_err(failed(format!("give {} the address {}", self.link.name, subnet.host)))
    }

    /// Has the host pass on what comes from the subnet, under its own address, and what answers that.
    fn lead_out(
        &mut self,
        rules: &mut Netlink,
        subnet: Subnet,
        uplinks: &[String],
    ) -> Result<(), NetworkError> {
        const TRANSLATE: &str = "translate";
        let name = self.link.name.as_str();
        let family = Family::of(subnet.host);
        let mut table = Table::owned(family, name);
        table
            .chain(FORWARD, Hook::Forward)
            .rule(FORWARD, &[Match::In(name), Match::NotSource(subnet.inside)], Action::Drop)
            .rule(FORWARD, &[Match::Out(name), Match::Answer], Action::Accept)
            .rule(FORWARD, &[Match::Out(name)], Action::Drop)
            .chain(TRANSLATE, Hook::Translate)
            .rule(TRANSLATE, &[Match::Source(subnet.inside), Match::NotOut(name)], Action::Masquerade);
        table.make(rules).map_err(failed("make packet filter rules (nf_tables)"))?;
        switch(family, name, true).map_err(failed(format!("switch on forwarding for {name}")))?;
        let forwarding = Forwarding::hold(family, name, uplinks)
            .map_err(failed(format!("switch on forwarding for {}", uplinks.join(", "))))?;
        self.forwarding.push(forwarding);
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // One socket for everything: the kernel takes its time to close one after a change of rules.
        let Some(mut rules) = self.rules.take().or_else(|| Netlink::netfilter().ok()) else { return };
        for forwarding in &self.forwarding {
            // What cannot be undone now, the last build that ends later undoes.
            let _ = forwarding.release(&self.link, &mut rules);
        }
    }
}

/// Sets up the end inside.
fn configure(inside: &mut Netlink, index: u32, subnet: Subnet) -> Result<(), NetworkError> {
    route::add_address(inside, index, subnet.inside, subnet.bits)
        .map_err(failed(format!("give {INSIDE} the address {}", subnet.inside)))?;
    route::set_up(inside, index).map_err(failed(format!("bring up {INSIDE}")))?;
    route::add_default_route(inside, index, subnet.host).map_err(failed("add a default route"))
}

fn find(netlink: &mut Netlink, name: &str) -> Result<Link, NetworkError> {
    let links = route::links(netlink).map_err(failed("list the network interfaces"))?;
    links.into_iter().find(|link| link.name == name).ok_or_else(|| {
        failed(format!("find the interface {name}"))(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
}

/// The largest packets that every way out takes.
fn mtu(links: &[Link], routes: &[Route]) -> u32 {
    let ways_out = routes.iter().filter(|route| route.is_default()).filter_map(|route| route.link);
    let sizes =
        ways_out.filter_map(|index| links.iter().find(|link| link.index == index)).map(|link| link.mtu);
    sizes.min().unwrap_or(MTU_DEFAULT).max(MTU_MIN)
}

/// The interfaces that answers may come in on.
fn uplinks(links: &[Link], routes: &[Route], family: Family) -> Vec<String> {
    let leads = |link: &Link| {
        let mut routes =
            routes.iter().filter(|route| route.unicast && Family::of(route.destination) == family);
        routes.any(|route| route.link == Some(link.index))
    };
    let ours = |link: &Link| link.name.starts_with(LINK_PREFIX);
    let found = links.iter().filter(|link| !link.loopback && !ours(link) && leads(link));
    found.map(|link| link.name.clone()).collect()
}
