//! A network namespace that the steps of a build share, and a way out of it.
//!
//! Whoever may set up networks gets a *wire* to the host, which translates addresses; others get *pasta*, if it is
//! installed. Namespace, wire and rules end with the process, however it ends. What was changed of the host ([`forwarding`],
//! [`admission`]) is undone in the end, and by the next build if this one is killed. The loopback interface of the host cannot be reached from inside.

mod admission;
mod dns;
mod filter;
mod forwarding;
mod namespace;
mod netlink;
mod pasta;
mod route;
mod router;
mod subnet;
mod wire;

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, Mode, OFlags};

use self::dns::{Forwarder, Sockets};
pub use self::dns::{Known, NameServer, Names, Servers};
pub use self::namespace::NetworkNamespace;
use self::netlink::Netlink;
use self::pasta::Pasta;
pub(crate) use self::pasta::look as look_for_pasta;
pub use self::router::{
    Bridge, Forward, Plug, Published, Router, make_within, remove_interfaces, remove_wire, set_gateways,
};
use self::wire::Wire;
use crate::{RuntimeError, sys};

/// A network of its own, with a way out.
#[derive(Debug)]
pub struct Network {
    _forwarder: Option<Forwarder>,
    way_out: WayOut,
    namespace: OwnedFd,
    nameservers: Vec<IpAddr>,
}

#[derive(Debug)]
enum WayOut {
    Wire(Wire),
    Pasta(Pasta),
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A system call failed.
    #[error("cannot {step}")]
    Step {
        /// What was to be done.
        step: String,
        /// Why it could not be.
        source: io::Error,
    },
    /// Something of the runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The host has routes to everything that could be used.
    #[error("every subnet that steps could have is one that this host has routes to")]
    NoSubnet,
    /// pasta is not there.
    #[error("there is no program `pasta` (package passt)")]
    NoPasta,
    /// The device that pasta works with cannot be used.
    #[error("cannot open {device}, which pasta needs")]
    NoTun {
        /// Its path.
        device: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// pasta could not be used.
    #[error("pasta could not set up a network: {said}")]
    Pasta {
        /// What it said.
        said: String,
    },
    /// Neither way works.
    #[error("{}; {}", causes(wire.as_ref()), causes(pasta.as_ref()))]
    NoWay {
        /// Why there is no wire to the host.
        wire: Box<NetworkError>,
        /// Why there is no pasta.
        pasta: Box<NetworkError>,
    },
}

impl NetworkError {
    /// What would give steps a network of their own.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoPasta => Some("install the package passt, or say `--network host`"),
            Self::NoTun { .. } => {
                Some("let this user open the device (mode 0666, as udev makes it), or say `--network host`")
            }
            Self::NoWay { pasta, .. } => pasta.help(),
            _ => None,
        }
    }
}

impl Network {
    /// Makes a network. `servers` are the name servers of the host; `dir` is a directory that is this process's alone.
    pub fn open(servers: &[SocketAddr], dir: &Path) -> Result<Self, NetworkError> {
        let wire = |inside: &mut Inside, avoid: &[(IpAddr, u8)]| {
            Wire::connect(inside.namespace.as_fd(), &mut inside.netlink, avoid).map(WayOut::Wire)
        };
        let pasta = |inside: &mut Inside, avoid: &[(IpAddr, u8)]| {
            Pasta::start(&inside.namespace, &mut inside.netlink, dir, avoid).map(WayOut::Pasta)
        };
        // What the first attempt leaves is not to be in the way of the second, so each has a namespace of its own.
        Self::with(servers, wire).or_else(|wire| {
            let no_way = |pasta| NetworkError::NoWay { wire: Box::new(wire), pasta: Box::new(pasta) };
            Self::with(servers, pasta).map_err(no_way)
        })
    }

    fn with(
        servers: &[SocketAddr],
        lead_out: impl FnOnce(&mut Inside, &[(IpAddr, u8)]) -> Result<WayOut, NetworkError>,
    ) -> Result<Self, NetworkError> {
        let mut inside = Inside::make()?;
        let addresses: Vec<(IpAddr, u8)> = servers.iter().map(|server| (server.ip(), 32)).collect();
        let way_out = lead_out(&mut inside, &addresses)?;
        let is_reached = |server: &&SocketAddr| way_out.leads_to(server.ip());
        let mut nameservers = Vec::new();
        for server in servers {
            let address = if is_reached(&server) { server.ip() } else { dns::ADDRESS.into() };
            if !nameservers.contains(&address) {
                nameservers.push(address);
            }
        }
        let (_, others): (Vec<&SocketAddr>, Vec<&SocketAddr>) = servers.iter().partition(is_reached);
        let forwarder = if others.is_empty() {
            None
        } else {
            let others = others.into_iter().copied().collect();
            Some(Forwarder::start(inside.sockets, others, None)?)
        };
        Ok(Self { _forwarder: forwarder, way_out, namespace: inside.namespace, nameservers })
    }

    /// Where the namespace can be entered, for as long as this is there and by this process: what a spec of a process
    /// names as its namespace of type `network`.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.namespace.as_raw_fd()).into()
    }

    /// The name servers as those inside reach them, in the order in which the host asks them.
    pub fn nameservers(&self) -> &[IpAddr] {
        &self.nameservers
    }

    /// An address of the host that can be reached from inside.
    pub fn host(&self) -> Option<IpAddr> {
        self.way_out.host()
    }
}

impl WayOut {
    /// An address of the host that can be reached from inside.
    fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Wire(wire) => wire.host.first().copied(),
            Self::Pasta(pasta) => pasta.host,
        }
    }

    /// Whether it leads to a name server of the host.
    fn leads_to(&self, server: IpAddr) -> bool {
        let ipv6 = match self {
            Self::Wire(wire) => wire.host.iter().any(IpAddr::is_ipv6),
            Self::Pasta(pasta) => pasta.ipv6,
        };
        match server {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_unspecified(),
            IpAddr::V6(address) => {
                let local =
                    address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local();
                ipv6 && !local
            }
        }
    }
}

/// A network namespace, and what was made in it.
struct Inside {
    namespace: OwnedFd,
    netlink: Netlink,
    sockets: Sockets,
}

impl Inside {
    /// Makes a namespace with nothing but a loopback interface.
    fn make() -> Result<Self, NetworkError> {
        let (namespace, (netlink, sockets)) = within_new(|| {
            let netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
            let sockets = Sockets::bind().map_err(failed("open a socket for name servers"))?;
            Ok((netlink, sockets))
        })?;
        Ok(Self { namespace, netlink, sockets })
    }
}

/// Does `work` in a new network namespace, whose loopback interface is up. A thread makes it, and leaves nothing else there.
fn within_new<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<(OwnedFd, T), NetworkError> {
    in_thread(|| {
        sys::unshare_network().map_err(failed("make a network namespace"))?;
        sys::loopback_up().map_err(failed("bring up the loopback interface"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(failed("open the network namespace (/proc/thread-self/ns/net)"))?;
        Ok((namespace, work()?))
    })
}

/// Does `work` in a network namespace, in a thread of its own.
fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    in_thread(|| {
        enter(namespace).map_err(failed("enter a network namespace"))?;
        work()
    })
}

/// Has the calling thread, from now on, make its sockets in a network namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sys::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET as u64)?)
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    let thread = thread::Builder::new().name("network".to_owned());
    thread::scope(|scope| {
        let made = thread.spawn_scoped(scope, work).map_err(failed("start a thread"))?;
        let gone = || failed("work in a network namespace")(io::Error::other("the thread panicked"));
        made.join().unwrap_or_else(|_| Err(gone()))
    })
}

/// Where the routes of this host lead, but for those that lead everywhere: addresses, and lengths of their prefixes.
pub fn destinations() -> Result<Vec<(IpAddr, u8)>, NetworkError> {
    let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
    let routes = route::routes(&mut netlink).map_err(failed("list the routes"))?;
    Ok(routes.into_iter().filter(|it| it.bits > 0).map(|it| (it.destination, it.bits)).collect())
}

/// A name server as `resolv.conf` writes it: an address, and after `%` the interface of one that counts only there.
pub fn name_server(text: &str) -> Option<SocketAddr> {
    let (address, interface) = match text.split_once('%') {
        Some((address, interface)) => (address, Some(interface)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let scope = interface.and_then(|interface| interface.parse().ok().or_else(|| route::index(interface)));
    Some(match address {
        IpAddr::V4(address) => (address, dns::PORT).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, dns::PORT, 0, scope.unwrap_or(0)).into(),
    })
}

/// Bytes that nobody can guess.
fn random<const COUNT: usize>() -> Result<[u8; COUNT], NetworkError> {
    let mut bytes = [0; COUNT];
    let mut source = File::open("/dev/urandom").map_err(failed("open /dev/urandom"))?;
    source.read_exact(&mut bytes).map_err(failed("read /dev/urandom"))?;
    Ok(bytes)
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    move |source| NetworkError::Step { step: step.into(), source: source.into() }
}

/// An error and what it comes from, in one line.
/// An error with its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
