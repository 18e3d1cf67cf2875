//! Passing on what is sent to published ports: a thread a container, and two for each connection of TCP.
//!
//! The sockets that clients talk to are of the host's network namespace, those that containers are talked to with are of the
//! router's. Clients are hostile: connections, and who is talked to by UDP, are limited.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wharf_runtime::{Cancel, Local, Packet, enter_network, receive_packet, send_packet};

use crate::error::{Failure, Kind};

/// Connections to one container at most.
const CONNECTIONS_MAX: usize = 2048;

/// Descriptors that are left for all else that the process does, and at most half of what it may have.
const DESCRIPTORS_ELSE: usize = 4096;

/// How long a connection may be silent until it is seen whether the other side is still there.
const QUESTION_TIME: Duration = Duration::from_secs(60);

/// Those that one container's ports of UDP talk with at most; who was silent for the longest time is forgotten for a new one.
const TALKS_MAX: usize = 512;

/// How long one who talks by UDP may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// How long a container has to take a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The longest packet.
const PACKET_BYTES: usize = 64 << 10;

/// Packets that are taken from one socket before the others have their turn.
const PACKETS_AT_ONCE: usize = 64;

/// The pause when no more connections can be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Where clients come in.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A port of the host, and the container's.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) socket: Arc<Socket>,
    pub(super) to: SocketAddr,
}

/// How many descriptors all of this process may have open; clients are many, and others need some too.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<AtomicUsize>);

/// A part of it, for as long as this is there.
#[derive(Debug)]
struct Taken {
    room: Room,
    count: usize,
}

impl Room {
    /// Lets this process open as many as it may.
    pub(super) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Without that it has those that it had.
        let _ = setrlimit(Resource::Nofile, raised);
        let count = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |count| count as usize);
        Self::of(count.saturating_sub(DESCRIPTORS_ELSE.min(count / 2)))
    }

    fn of(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    fn take(&self, count: usize) -> Option<Taken> {
        let less = |left: usize| left.checked_sub(count);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).ok()?;
        Some(Taken { room: self.clone(), count })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.count, Ordering::SeqCst);
    }
}

/// Passes on until it is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Connections>>,
}

/// The connections that there are, those too that the container has not taken yet.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Vec<Arc<TcpStream>>>,
    closed: bool,
}

/// A place among them.
#[derive(Debug)]
struct Place {
    connections: Arc<Mutex<Connections>>,
    number: u64,
    _taken: Taken,
}

impl Place {
    /// A place for one who is there already, if there is room.
    fn take(connections: &Arc<Mutex<Connections>>, room: &Room, client: Arc<TcpStream>) -> Option<Self> {
        let taken = room.take(2)?;
        let mut these = lock(connections);
        if these.closed || these.open.len() >= CONNECTIONS_MAX {
            return None;
        }
        these.next += 1;
        let number = these.next;
        these.open.insert(number, vec![client]);
        Some(Self { connections: connections.clone(), number, _taken: taken })
    }

    /// The other one has come as well. Says whether the two may talk.
    fn join(&self, server: Arc<TcpStream>) -> bool {
        let mut these = lock(&self.connections);
        let is_open = !these.closed;
        these.open.entry(self.number).or_default().push(server);
        is_open
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.connections).open.remove(&self.number);
    }
}

impl Proxy {
    /// Passes on what comes to `ports`; containers are reached from the network namespace `router`.
    pub(super) fn start(ports: Vec<Port>, router: OwnedFd, room: &Room) -> Result<Self, Failure> {
        let cannot = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(Kind::Environment, "cannot pass on what comes to published ports", error)
        };
        let stop = Cancel::new().map_err(|error| cannot(&error))?;
        let connections = Arc::<Mutex<Connections>>::default();
        let (talks, room) = (Vec::new(), room.clone());
        let work = Work { ports, talks, connections: connections.clone(), room, stop: stop.clone() };
        let thread = thread::Builder::new().name("ports".to_owned()).spawn(move || {
            // Whoever has made the namespace may enter it.
            if enter_network(router.as_fd()).is_ok() {
                work.run();
            }
        });
        let thread = Some(thread.map_err(|error| cannot(&error))?);
        Ok(Self { stop, thread, connections })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        let mut connections = lock(&self.connections);
        connections.closed = true;
        for stream in connections.open.values().flatten() {
            // Its threads end by that.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(connections);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    ports: Vec<Port>,
    talks: Vec<Talk>,
    connections: Arc<Mutex<Connections>>,
    room: Room,
    stop: Cancel,
}

/// A client of a port of UDP.
struct Talk {
    /// The number of the port.
    port: usize,
    client: SocketAddr,
    /// The address of this host that it talks to.
    at: Option<Local>,
    /// Hears of the container alone.
    socket: UdpSocket,
    last: Instant,
    _taken: Taken,
}

impl Work {
    fn run(mut self) {
        let mut buffer = vec![0; PACKET_BYTES];
        loop {
            // Without poll nothing goes on.
            let Ok(ready) = self.wait() else { return };
            if self.stop.is_cancelled() {
                return;
            }
            let now = Instant::now();
            let (ports, talks) = ready.split_at(self.ports.len());
            for (talk, _) in self.talks.iter_mut().zip(talks).filter(|(_, ready)| **ready) {
                answer(&self.ports, talk, &mut buffer, now);
            }
            self.talks.retain(|talk| now.duration_since(talk.last) < SILENCE_MAX);
            for number in (0..self.ports.len()).filter(|number| ports[*number]) {
                match &*self.ports[number].socket.clone() {
                    Socket::Tcp(listener) => self.accept(listener, self.ports[number].to),
                    Socket::Udp(socket) => self.take_packets(number, socket, &mut buffer, now),
                }
            }
        }
    }

    /// Which ports, and which talks after them, there is something to read from.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut polled: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|port| match &*port.socket {
                Socket::Tcp(listener) => PollFd::new(listener, PollFlags::IN),
                Socket::Udp(socket) => PollFd::new(socket, PollFlags::IN),
            })
            .collect();
        polled.extend(self.talks.iter().map(|talk| PollFd::new(&talk.socket, PollFlags::IN)));
        polled.push(PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN));
        let silence = Timespec { tv_sec: SILENCE_MAX.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut polled, (!self.talks.is_empty()).then_some(&silence)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect())
    }

    fn accept(&self, listener: &TcpListener, to: SocketAddr) {
        match listener.accept() {
            Ok((client, _)) => {
                let client = Arc::new(client);
                let place = Place::take(&self.connections, &self.room, client.clone());
                let Some(place) = place else { return };
                // Where no thread can be had the connection is closed.
                let _ = thread::Builder::new().name("connection".to_owned()).spawn(move || {
                    // Either side may go away at any time.
                    let _ = connect(&client, to, &place);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // There are too many open files, or the like: soon there may be fewer.
            Err(_) => thread::sleep(PAUSE),
        }
    }

    fn take_packets(&mut self, number: usize, socket: &UdpSocket, buffer: &mut [u8], now: Instant) {
        for _ in 0..PACKETS_AT_ONCE {
            let Ok(Packet { length, from: client, at }) = receive_packet(socket, buffer) else { return };
            let is_same = |talk: &Talk| (talk.port, talk.client, talk.at) == (number, client, at);
            let at = match self.talks.iter().position(is_same) {
                Some(at) => at,
                None => match self.begin_talk(number, client, at, now) {
                    Ok(at) => at,
                    // As on any network, packets may be lost.
                    Err(_) => continue,
                },
            };
            self.talks[at].last = now;
            let _ = self.talks[at].socket.send(&buffer[..length]);
        }
    }

    fn begin_talk(
        &mut self,
        port: usize,
        client: SocketAddr,
        at: Option<Local>,
        now: Instant,
    ) -> io::Result<usize> {
        let to = self.ports[port].to;
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut taken = self.room.take(1);
        if taken.is_none() || self.talks.len() >= TALKS_MAX {
            let oldest = self.talks.iter().enumerate().min_by_key(|(_, talk)| talk.last);
            if let Some((oldest, _)) = oldest {
                self.talks.swap_remove(oldest);
            }
            taken = taken.or_else(|| self.room.take(1));
        }
        let taken = taken.ok_or(io::ErrorKind::QuotaExceeded)?;
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(to)?;
        self.talks.push(Talk { port, client, at, socket, last: now, _taken: taken });
        Ok(self.talks.len() - 1)
    }
}

/// Hands what a container says to its client.
fn answer(ports: &[Port], talk: &mut Talk, buffer: &mut [u8], now: Instant) {
    let Some(Socket::Udp(socket)) = ports.get(talk.port).map(|port| &*port.socket) else { return };
    for _ in 0..PACKETS_AT_ONCE {
        // A container that does not listen is an error of one packet.
        let Ok(length) = talk.socket.recv(buffer) else { return };
        talk.last = now;
        let _ = send_packet(socket, &buffer[..length], talk.client, talk.at);
    }
}

/// Connects a client to a container, until both have said all.
fn connect(client: &TcpStream, to: SocketAddr, place: &Place) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = Arc::new(TcpStream::connect_timeout(&to, CONNECT_TIME)?);
    if !place.join(server.clone()) {
        return Ok(());
    }
    for stream in [client, &server] {
        // What waits for more to say is for the two ends to decide.
        stream.set_nodelay(true)?;
        // Who has gone without a word does not keep a place.
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, QUESTION_TIME)?;
    }
    thread::scope(|scope| {
        let back = thread::Builder::new().name("connection".to_owned());
        let back = back.spawn_scoped(scope, || pour(&server, client));
        if back.is_err() {
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        }
        pour(client, &server);
    });
    Ok(())
}

/// Hands on what one says to the other, and that it has no more to say.
fn pour(mut from: &TcpStream, mut to: &TcpStream) {
    match io::copy(&mut from, &mut to) {
        Ok(_) => _ = to.shutdown(Shutdown::Write),
        // One of them is gone, and so is the other.
        Err(_) => {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}

fn lock(connections: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}
