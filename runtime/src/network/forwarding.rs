//! Forwarding of the host's own interfaces, which answers from elsewhere need on their way to a network of its own.
//!
//! Where it is on already (docker, Kubernetes and routers have it on) nothing is done. Else it is switched on for the
//! interfaces that lead to others, for as long as there are builds: the last one to end switches it off again. So that
//! the host is a router for nobody else meanwhile, a table of rules drops what comes in on such an interface and is
//! not for a build. The table is also the memory of which interfaces these are, as builds may be killed; a lock on the
//! network namespace itself keeps builds apart that begin and end at the same time.

use std::fs::{self, File};
use std::io;

use rustix::fs::FlockOperation;

use super::filter::{self, Action, Family, Hook, Match, Table};
use super::netlink::Netlink;
use super::{admission, route};

/// What the names of all interfaces begin with that lead to a build's network.
pub(super) const LINK_PREFIX: &str = "wharf";

/// What is said of an interface that needs no forwarding any more.
const ENDED: &str = "ended";

/// The table that stands for forwarding that is on because of builds; its chains are named after the interfaces.
const TABLE: &str = "wharf-forwarding";

/// The network namespace that this thread is in.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Forwarding of one protocol while it is held.
#[derive(Debug)]
pub(super) struct Forwarding {
    family: Family,
    /// Whether builds switched it on, so that the last one switches it off.
    switched: bool,
    /// Whether the host's firewall had to be told to let it pass.
    admitted: bool,
}

impl Forwarding {
    /// Sees to it that what arrives at any of `links` is forwarded to and from `own`, the caller's interface, which it
    /// keeps for as long as it keeps this.
    pub(super) fn hold(family: Family, own: &str, links: &[String]) -> io::Result<Self> {
        let _lock = lock()?;
        let mut netlink = Netlink::netfilter()?;
        let admitted = admission::admit(&mut netlink, family, own)?;
        if admitted {
            let links = route::links(&mut Netlink::route()?)?;
            let is_gone = |name: &str| !links.iter().any(|link| link.name == name);
            admission::dismiss(&mut netlink, family, is_gone)?;
        }
        let held = Self { family, switched: false, admitted };
        let known = filter::chains(&mut netlink, family, TABLE)?;
        let off: Vec<&String> = links.iter().filter(|link| !is_on(family, link)).collect();
        if known.is_empty() && off.is_empty() {
            return Ok(held);
        }
        let held = Self { switched: true, ..held };
        for link in off {
            if !known.contains(link) {
                let mut table = Table::lasting(family, TABLE);
                table.chain(link, Hook::Forward);
                table.rule(link, &[Match::In(link), Match::NotOutPrefix(LINK_PREFIX)], Action::Drop);
                table.make(&mut netlink)?;
            }
            switch(family, link, true)?;
        }
        Ok(held)
    }

    /// Lets go of it. `own` is the caller's interface, which goes by itself, but later; `netlink` any socket for rules.
    pub(super) fn release(&self, own: &route::Link, netlink: &mut Netlink) -> io::Result<()> {
        if !self.switched && !self.admitted {
            return Ok(());
        }
        let _lock = lock()?;
        if self.admitted {
            admission::dismiss(netlink, self.family, |name| name == own.name)?;
        }
        if !self.switched {
            return Ok(());
        }
        let mut links = Netlink::route()?;
        route::set_alias(&mut links, own.index, ENDED)?;
        let needs = |link: &route::Link| link.name.starts_with(LINK_PREFIX) && link.alias != ENDED;
        if route::links(&mut links)?.iter().any(needs) {
            return Ok(());
        }
        // Somebody may have made a router of this host meanwhile.
        if !is_on(self.family, "all") {
            for link in filter::chains(netlink, self.family, TABLE)? {
                // The interface may have gone.
                let _ = switch(self.family, &link, false);
            }
        }
        filter::remove_table(netlink, self.family, TABLE)
    }
}

/// Where the kernel has its settings of an interface; `all` stands for all of them.
fn setting(family: Family, link: &str) -> String {
    match (family, link) {
        (Family::Ip4 | Family::Both, _) => format!("/proc/sys/net/ipv4/conf/{link}/forwarding"),
        (Family::Ip6, "all") => "/proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
        // The plain setting of one interface says whether it believes routers; this one came with Linux 6.17.
        (Family::Ip6, _) => format!("/proc/sys/net/ipv6/conf/{link}/force_forwarding"),
    }
}

fn is_on(family: Family, link: &str) -> bool {
    let read = |link| fs::read_to_string(setting(family, link)).is_ok_and(|text| text.trim() == "1");
    // In IPv6 the setting of all interfaces is what counts.
    read(link) || family == Family::Ip6 && read("all")
}

/// Switches forwarding of one interface on or off; `on` where it is on is fine even if nothing can be written.
pub(super) fn switch(family: Family, link: &str, on: bool) -> io::Result<()> {
    match fs::write(setting(family, link), if on { "1" } else { "0" }) {
        Err(_) if on && is_on(family, link) => Ok(()),
        // Where /proc/sys is read-only, as in containers, the interface itself can be asked.
        Err(error) if family == Family::Ip4 => {
            let switched = route::index(link)
                .ok_or(io::ErrorKind::NotFound.into())
                .and_then(|index| route::set_forwarding(&mut Netlink::route()?, index, on));
            switched.map_err(|_: io::Error| error)
        }
        result => result,
    }
}

/// Keeps other builds of this network namespace away until it is dropped.
fn lock() -> io::Result<File> {
    let namespace = File::open(NAMESPACE)?;
    loop {
        match rustix::fs::flock(&namespace, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(|()| namespace)?),
        }
    }
}
