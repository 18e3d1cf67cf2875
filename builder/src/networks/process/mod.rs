//! The network process of a store: who has which addresses, names and ports, for as long as somebody is connected to it.
//!
//! It is started by who needs it first ([`super::client`]), holds `networks/lock`, listens at `networks/sock`, and ends when
//! nobody has been connected for a while. What it makes of the kernel goes with it, also when it is killed; those that were
//! connected then start another one.

mod addresses;
mod names;
mod ports;
mod proxy;
mod tenant;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use wharf_runtime::sandbox::{self, user_namespace};
use wharf_runtime::{Bridge, Router, Sandbox};

use self::names::Shared;
use self::ports::Kept;
use self::proxy::Room;
use self::tenant::Tenant;
use super::client::socket_path;
use super::protocol::{Answer, Request};
use super::record::{Network, Networks, make_dir};
use super::subnet::Subnet;
use crate::containers::config::Protocol;
use crate::containers::connect::Connection;
use crate::containers::protocol::{FrameKind, Reason};
use crate::error::{Failure, Kind, causes};
use crate::worker::sandbox_files;

/// How long it waits for somebody to connect at all, and for somebody else when the last one has gone.
const FIRST_TIME: Duration = Duration::from_secs(5);
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How often it looks whether there still is a way out.
const ROUND_TIME: Duration = Duration::from_secs(2);

/// How long a process that is just ending is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two tries to get the lock, or a connection.
const PAUSE: Duration = Duration::from_millis(5);

/// Where the name is noted of what stands on the host for the router, in the directory of the networks.
const WIRE: &str = "wire";

/// Connections at most.
const CONNECTIONS_MAX: usize = 4096;

/// Starts the process and goes on without it: it says on standard output whether it listens.
pub fn start(root: &Path, sandbox: Option<Sandbox>, here: bool) -> io::Result<()> {
    wharf_runtime::in_background(|| match begin(root, sandbox, here) {
        Ok(None) => 0,
        Ok(Some((holder, listener))) => {
            tell(&Answer::Done);
            holder.serve(listener);
            0
        }
        Err(failure) => {
            tell(&refusal(&failure));
            failure.kind.exit_code()
        }
    })
}

/// Says how it went, to whoever started this, and nothing more.
fn tell(answer: &Answer) {
    let said = serde_json::to_vec(answer).unwrap_or_default();
    // Whoever waits for it sees that it is closed.
    let _ = io::stdout().write_all(&said).and_then(|()| io::stdout().flush());
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&nothing);
        let _ = rustix::stdio::dup2_stderr(&nothing);
    }
}

/// Takes the lock, enters a sandbox and listens. Nothing, if somebody else listens by now.
fn begin(
    root: &Path,
    sandbox: Option<Sandbox>,
    here: bool,
) -> Result<Option<(Holder, UnixListener)>, Failure> {
    let failed = |error: io::Error| failed("cannot begin to hold networks", &error);
    let path = root.join("networks");
    make_dir(&path).map_err(failed)?;
    let dir = File::open(&path).map_err(failed)?;
    let Some(lock) = take_lock(&path, &dir).map_err(failed)? else {
        tell(&Answer::Done);
        return Ok(None);
    };
    let sandbox = match (here, sandbox) {
        (true, Some(sandbox)) => sandbox,
        (_, wanted) => sandbox::enter(wanted).map_err(|error| {
            Failure::new(Kind::Environment, error.to_string())
                .hint("`wharf doctor` says what would have to change, and how")
        })?,
    };
    let has_own = matches!(sandbox, Sandbox::Rootless | Sandbox::RootlessSingle);
    let user_namespace = if has_own { Some(user_namespace().map_err(failed)?) } else { None };
    let socket = socket_path(&dir);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let holder = Holder {
        networks: Networks::of(root),
        path,
        dir,
        sandbox,
        user_namespace,
        registry: Shared::default(),
        room: Room::of_process(),
        state: Mutex::default(),
        _lock: lock,
    };
    Ok(Some((holder, listener)))
}

/// Waits for the lock of the networks. Nothing, if somebody holds it who listens.
fn take_lock(path: &Path, dir: &File) -> io::Result<Option<File>> {
    let mut options = File::options();
    let lock = options.create(true).write(true).truncate(false).mode(0o600).open(path.join("lock"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) if UnixStream::connect(socket_path(dir)).is_ok() => {
                return Ok(None);
            }
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The process.
#[derive(Debug)]
struct Holder {
    networks: Networks,
    /// The directory of the networks.
    path: PathBuf,
    dir: File,
    sandbox: Sandbox,
    user_namespace: Option<OwnedFd>,
    /// Who is called what; asked without waiting for what is made meanwhile.
    registry: Shared,
    room: Room,
    state: Mutex<State>,
    _lock: File,
}

/// What there is.
#[derive(Debug, Default)]
struct State {
    /// Made for the first container.
    router: Option<Router>,
    /// Why nothing leads out of it.
    note: Option<String>,
    /// Networks that containers are on, or were.
    live: BTreeMap<String, Live>,
    /// Who has which ports.
    ports: BTreeMap<u64, Vec<(Protocol, u16)>>,
    /// What the containers are called.
    names: BTreeMap<u64, String>,
}

/// A network that is there.
#[derive(Debug)]
struct Live {
    network: Network,
    /// The name of its bridge.
    bridge: String,
    /// Those of its gateways in whose subnets the host can send packets.
    reached: Vec<IpAddr>,
    /// Who has which addresses.
    members: BTreeMap<u64, Vec<IpAddr>>,
}

impl Live {
    fn taken(&self) -> impl Iterator<Item = IpAddr> {
        self.members.values().flatten().copied()
    }
}

impl Holder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name servers of this host, as they are now.
    fn servers(&self) -> Vec<SocketAddr> {
        // Without any, names of others are not found.
        sandbox_files::name_servers().unwrap_or_default()
    }

    /// The subnets of networks.
    fn subnets(&self) -> Result<Vec<(IpAddr, u8)>, Failure> {
        let networks = self.networks.list()?;
        let subnets = networks.iter().flat_map(|network| &network.subnets);
        Ok(subnets.map(|it| (it.subnet.address(), it.subnet.bits())).collect())
    }

    /// Sees to it that there is a way out, where there was one.
    fn look_after_router(&self) {
        let mut state = self.lock();
        if let Some(router) = state.router.as_mut().filter(|router| router.has_lost_its_way_out())
            && let Ok(avoid) = self.subnets()
        {
            // What fails now may be done the next time.
            let _ = router.lead_out_again(&self.path, &avoid);
        }
    }

    /// Serves those that connect, until nobody has been there for a while.
    fn serve(&self, listener: UnixListener) {
        let Ok((ended, end)) = io::pipe() else { return };
        thread::scope(|scope| {
            let (mut connections, mut number, mut since) = (0usize, 0u64, None);
            let begun = Instant::now();
            let mut looked = begun;
            loop {
                let left = match (connections, since) {
                    (0, None) => Some((begun + FIRST_TIME).saturating_duration_since(Instant::now())),
                    (0, Some(since)) => {
                        let until: Instant = since + LINGER_TIME;
                        Some(until.saturating_duration_since(Instant::now()))
                    }
                    _ => None,
                };
                if left.is_some_and(|left| left.is_zero()) {
                    break;
                }
                if looked.elapsed() >= ROUND_TIME {
                    self.look_after_router();
                    looked = Instant::now();
                }
                let left = left.map_or(ROUND_TIME, |left| left.min(ROUND_TIME));
                let Ok([has_come, has_gone]) = wait([listener.as_fd(), ended.as_fd()], Some(left)) else {
                    break;
                };
                if has_gone && rustix::io::read(&ended, &mut [0]).is_ok() {
                    connections -= 1;
                    since = Some(Instant::now());
                }
                if !has_come {
                    continue;
                }
                let Ok((stream, _)) = listener.accept() else {
                    // There may be too many open files; soon there may be fewer.
                    thread::sleep(PAUSE);
                    continue;
                };
                if connections >= CONNECTIONS_MAX || !is_ours(&stream) {
                    continue;
                }
                number += 1;
                let Ok(mut end) = end.try_clone() else { continue };
                let work = move || {
                    // A connection that breaks is one that ends.
                    let _ = self.talk(stream, number);
                    let _ = end.write_all(&[0]);
                };
                let thread = thread::Builder::new().name("connection".to_owned());
                if thread.spawn_scoped(scope, work).is_ok() {
                    connections += 1;
                }
            }
            // Whoever connects from now on is refused, and starts another process, which waits for the lock.
            let _ = std::fs::remove_file(socket_path(&self.dir));
            drop(listener);
        });
        let _ = std::fs::remove_file(self.path.join(WIRE));
    }

    /// Serves one connection to its end.
    fn talk(&self, stream: UnixStream, number: u64) -> io::Result<()> {
        let connection = Connection::from(stream);
        let hello = Answer::Hello { sandbox: self.sandbox.name().to_owned() };
        let namespace: Vec<BorrowedFd<'_>> = self.user_namespace.iter().map(|it| it.as_fd()).collect();
        connection.send_with(FrameKind::Answer, &serde_json::to_vec(&hello)?, &namespace)?;
        let mut tenant = None;
        while let Some(frame) = connection.receive()? {
            let request: Request = serde_json::from_slice(&frame.payload)?;
            let descriptor = frame.descriptors.into_iter().next();
            let answer = self.answer(request, descriptor, number, &mut tenant);
            let answer = answer.unwrap_or_else(|failure| refusal(&failure));
            connection.send(FrameKind::Answer, &serde_json::to_vec(&answer)?)?;
        }
        Ok(())
    }

    fn answer<'a>(
        &'a self,
        request: Request,
        descriptor: Option<OwnedFd>,
        number: u64,
        tenant: &mut Option<Tenant<'a>>,
    ) -> Result<Answer, Failure> {
        let nobody = || Failure::new(Kind::Environment, "the container is on no network");
        match request {
            Request::Attach(request) => {
                let no_namespace = || Failure::new(Kind::Environment, "no network namespace came along");
                let namespace = descriptor.ok_or_else(no_namespace)?;
                if self.sandbox == Sandbox::Chroot {
                    let message = "the sandbox chroot has no networks for containers";
                    return Err(Failure::new(Kind::Environment, message).hint("use `--network host`"));
                }
                *tenant = None;
                *tenant = Some(Tenant::attach(self, number, *request, namespace)?);
            }
            Request::Connect(attachment) => tenant.as_mut().ok_or_else(nobody)?.connect(&attachment)?,
            Request::Disconnect { network } => tenant.as_mut().ok_or_else(nobody)?.disconnect(&network)?,
            Request::Rename { name } => tenant.as_mut().ok_or_else(nobody)?.rename(name),
            Request::Detach => {
                *tenant = None;
                return Ok(Answer::Done);
            }
            Request::Forget => {
                self.lock().forget(&self.networks);
                return Ok(Answer::Done);
            }
        }
        let attached = tenant.as_ref().ok_or_else(nobody)?.attached();
        Ok(Answer::Attached(Box::new(attached)))
    }
}

impl State {
    /// The router, which is made if it is not there.
    fn router(&mut self, holder: &Holder) -> Result<&mut Router, Failure> {
        let router = match self.router.take() {
            Some(router) => router,
            None => {
                let avoid = holder.subnets()?;
                let note = holder.path.join(WIRE);
                if let Ok(wire) = std::fs::read_to_string(&note) {
                    // What cannot be removed is in the way of some route at most.
                    let _ = wharf_runtime::remove_wire(&wire);
                }
                let (router, no_way_out) = Router::open(&holder.path, &avoid)
                    .map_err(|error| failed("cannot make a network for containers", &error))?;
                // Without a note nobody removes it before the kernel does.
                let _ = match router.wire() {
                    Some(wire) => std::fs::write(&note, wire),
                    None => std::fs::remove_file(&note),
                };
                self.note = no_way_out.map(|error| {
                    let help = error.help().map_or(String::new(), |help| format!("; {help}"));
                    format!("containers reach each other and nobody else: {}{help}", causes(&error))
                });
                router
            }
        };
        Ok(self.router.insert(router))
    }

    /// A network, which is made if it is not there.
    fn live(&mut self, holder: &Holder, name: &str) -> Result<&mut Live, Failure> {
        let network = holder.networks.named(name)?.ok_or_else(|| {
            Failure::new(Kind::Usage, format!("there is no network `{name}`"))
                .hint(format!("`wharf network create {name}` makes it"))
        })?;
        if self.live.get(name).is_none_or(|live| live.network.id != network.id) {
            self.clear(&network)?;
            let bridge = describe(&network);
            let reached = self
                .router(holder)?
                .add_bridge(bridge.clone())
                .map_err(|error| failed(&format!("cannot make the network `{name}`"), &error))?;
            let live = Live { network, bridge: bridge.name, reached, members: BTreeMap::new() };
            self.live.insert(name.to_owned(), live);
        }
        self.live.get_mut(name).ok_or_else(|| Failure::new(Kind::Environment, "a network has gone"))
    }

    /// Removes networks that nobody is on and that are in the way of a new one: those of its name or its subnets, which it
    /// can only have because their records are gone.
    fn clear(&mut self, new: &Network) -> Result<(), Failure> {
        let subnets: Vec<Subnet> = new.subnets.iter().map(|it| it.subnet).collect();
        let meets = |live: &Live| {
            let mut own = live.network.subnets.iter();
            live.network.name == new.name || own.any(|it| subnets.iter().any(|new| new.overlaps(&it.subnet)))
        };
        if let Some(live) = self.live.values().find(|live| meets(live) && !live.members.is_empty()) {
            let message = format!(
                "the network `{}` cannot be made while containers are on one that was called `{}`",
                new.name, live.network.name
            );
            return Err(Failure::new(Kind::Environment, message).hint("stop them"));
        }
        self.take_away(meets);
        Ok(())
    }

    /// Takes networks away that nobody is on and whose records are gone.
    fn forget(&mut self, networks: &Networks) {
        self.take_away(|live| {
            let is_gone = |found: Option<Network>| found.is_none_or(|found| found.id != live.network.id);
            live.members.is_empty() && networks.named(&live.network.name).is_ok_and(is_gone)
        });
    }

    fn take_away(&mut self, which: impl Fn(&Live) -> bool) {
        let router = &mut self.router;
        self.live.retain(|_, live| {
            let stays = !which(live);
            if let (false, Some(router)) = (stays, router.as_mut()) {
                router.remove_bridge(&live.bridge);
            }
            stays
        });
    }

    /// Somebody has these addresses of a network.
    fn take(&mut self, network: &Network, tenant: u64, name: &str, addresses: &[IpAddr]) {
        if let Some(live) = self.live.get_mut(&network.name) {
            live.members.insert(tenant, addresses.to_vec());
        }
        self.tell_name(tenant, name);
    }

    /// Somebody has left a network.
    fn give_back(&mut self, networks: &Networks, network: &str, tenant: u64) {
        if let Some(live) = self.live.get_mut(network) {
            live.members.remove(&tenant);
        }
        self.forget(networks);
        if !self.live.values().any(|live| live.members.contains_key(&tenant)) {
            self.names.remove(&tenant);
        }
    }

    fn tell_name(&mut self, tenant: u64, name: &str) {
        self.names.insert(tenant, name.to_owned());
    }

    fn tell_ports(&mut self, tenant: u64, kept: &[Kept]) {
        let ports: Vec<_> = kept.iter().map(|kept| (kept.bound.protocol, kept.bound.host)).collect();
        match ports.is_empty() {
            true => _ = self.ports.remove(&tenant),
            false => _ = self.ports.insert(tenant, ports),
        }
    }

    /// What the container is called that has a port.
    fn holder_of(&self, protocol: Protocol, port: u16) -> Option<String> {
        let (tenant, _) = self.ports.iter().find(|(_, ports)| ports.contains(&(protocol, port)))?;
        self.names.get(tenant).cloned()
    }
}

/// The bridge of a network.
fn describe(network: &Network) -> Bridge {
    Bridge {
        name: format!("br-{}", network.id.get(..8).unwrap_or(&network.id)),
        addresses: network.subnets.iter().map(|it| (it.gateway, it.subnet.bits())).collect(),
        internal: network.internal,
        isolated: network.is_isolated(),
        mtu: network.mtu(),
    }
}

/// Whether who connects is of the same user.
fn is_ours(stream: &UnixStream) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Waits until one of these can be read.
fn wait(fds: [BorrowedFd<'_>; 2], left: Option<Duration>) -> io::Result<[bool; 2]> {
    let left = left.map(|left| Timespec {
        tv_sec: left.as_secs() as i64,
        // Not a little too early.
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut polled, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.map(|polled| !polled.revents().is_empty()))
}

fn refusal(failure: &Failure) -> Answer {
    let reason = if failure.kind == Kind::Usage { Reason::Usage } else { Reason::Environment };
    Answer::Failed { reason, message: failure.message.clone(), hints: failure.hints.clone() }
}

fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, doing, error)
}
