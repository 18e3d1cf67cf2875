//! Forwarding of the host's own interfaces, which answers from elsewhere need on their way to a network of its own.
//!
//! Where it is on already (docker, Kubernetes and routers have it on) nothing is done. Else it is switched on for the
//! interfaces that lead to others, for as long as there are builds: the last one to end switches it off again. So that
//! the host is a router for nobody else meanwhile, a table of rules drops what comes in on such an interface and is
//! not for a build. The table is also the memory of which interfaces these are, as builds may be killed; a lock on the
//! network namespace itself keeps builds apart that begin and end at the same time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

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

/// How long another build is waited for. It keeps the lock for some milliseconds; but who has no right to set up
/// networks can take it, too, and keep it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two tries to get the lock.
const PAUSE: Duration = Duration::from_millis(5);

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
        let _lock = lock(PATIENCE)?;
        let mut netlink = Netlink::netfilter()?;
        let mut held = Self { family, switched: false, admitted: false };
        match held.take(&mut netlink, own, links) {
            Ok(()) => Ok(held),
            Err(error) => {
                // The reason is worth more than what else goes wrong.
                let _ = held.undo(&mut netlink, own);
                Err(error)
            }
        }
    }

    /// Each change is noted before it is made: a part of one is undone, too.
    fn take(&mut self, netlink: &mut Netlink, own: &str, links: &[String]) -> io::Result<()> {
        let family = self.family;
        self.admitted = true;
        self.admitted = admission::admit(netlink, family, own)?;
        if self.admitted {
            let links = route::links(&mut Netlink::route()?)?;
            let is_gone = |name: &str| !links.iter().any(|link| link.name == name);
            admission::dismiss(netlink, family, is_gone)?;
        }
        let known = filter::chains(netlink, family, TABLE)?;
        let off: Vec<&String> = links.iter().filter(|link| !is_on(family, link)).collect();
        self.switched = !known.is_empty() || !off.is_empty();
        for link in off {
            if !known.contains(link) {
                let mut table = Table::lasting(family, TABLE);
                table.chain(link, Hook::Forward);
                table.rule(link, &[Match::In(link), Match::NotOutPrefix(LINK_PREFIX)], Action::Drop);
                table.make(netlink)?;
            }
            switch(family, link, true)?;
        }
        Ok(())
    }

    /// Lets go of it. `own` is the caller's interface, which goes by itself, but later; `netlink` any socket for rules.
    pub(super) fn release(&self, own: &route::Link, netlink: &mut Netlink) -> io::Result<()> {
        if !self.switched && !self.admitted {
            return Ok(());
        }
        let _lock = lock(PATIENCE)?;
        if self.switched {
            route::set_alias(&mut Netlink::route()?, own.index, ENDED)?;
        }
        self.undo(netlink, &own.name)
    }

    /// Takes back what the interface `own` needed, as far as no other build needs it.
    fn undo(&self, netlink: &mut Netlink, own: &str) -> io::Result<()> {
        if self.admitted {
            admission::dismiss(netlink, self.family, |name| name == own)?;
        }
        if !self.switched {
            return Ok(());
        }
        let needs = |link: &route::Link| {
            link.name.starts_with(LINK_PREFIX) && link.name != own && link.alias != ENDED
        };
        if route::links(&mut Netlink::route()?)?.iter().any(needs) {
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

/// Has the host believe nothing that a router says on the interface `link`. It is fine if it does not know IPv6.
pub(super) fn believe_no_router(link: &str) -> io::Result<()> {
    set_ip6(link, "accept_ra", "0")?;
    set_ip6(link, "autoconf", "0")
}

/// Has the host neither take nor send IPv6 on the interface `link`.
pub(super) fn disable_ip6(link: &str) -> io::Result<()> {
    set_ip6(link, "disable_ipv6", "1")
}

fn set_ip6(link: &str, name: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{link}/{name}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Keeps other builds of this network namespace away until it is dropped. Whoever keeps this one away for longer than
/// `patience` is named in the error.
pub(super) fn lock(patience: Duration) -> io::Result<File> {
    let namespace = File::open(NAMESPACE)?;
    let end = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&namespace, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let reason = format!("{} holds the lock on this network namespace", holder(&namespace));
                return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
            }
            result => return Ok(result.map(|()| namespace)?),
        }
    }
}

/// Who holds the lock on a file, as far as that can be seen: `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
fn holder(file: &File) -> String {
    let found = || {
        let inode = format!(":{}", file.metadata().ok()?.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let held = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let pid = held
            .filter(|fields| fields.get(1) == Some(&"FLOCK"))
            .find(|fields| fields.get(5).is_some_and(|place| place.ends_with(&inode)))
            .and_then(|fields| fields.get(4)?.parse::<u32>().ok())?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("process {pid} ({})", name.trim_end()))
    };
    found().unwrap_or_else(|| "a process that cannot be seen from here".to_owned())
}
