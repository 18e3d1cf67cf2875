//! Name servers that only the host itself reaches, for those inside a network of their own.
//!
//! The sockets are of the namespace inside and the questions are asked from outside. What asks is hostile: questions,
//! connections and the time that each takes are limited.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::filter::{Action, Family, Hook, Match, Table};
use super::netlink::Netlink;
use super::{NetworkError, failed, within};
use crate::{Cancel, RuntimeError};

/// Where those inside ask.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The table of the rules that lead there, in the namespace inside.
const TABLE: &str = "wharf-names";

/// The port of name servers.
pub(super) const PORT: u16 = 53;

/// Questions that wait for an answer at most; the oldest is given up for a new one.
const QUESTIONS_MAX: usize = 256;

/// Connections at most.
const CONNECTIONS_MAX: usize = 16;

/// How long a server has to answer before the next one is asked. Programs commonly ask again after five seconds.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The longest message, by either protocol.
const MESSAGE_BYTES: usize = 64 << 10;

/// The header of a message; it begins with the number of the question.
const HEADER: usize = 12;

/// Who knows some names better than any server.
pub trait Names: std::fmt::Debug + Send + Sync {
    /// The answer to a question, which is a message of the protocol, or is not: what asks is hostile.
    fn answer(&self, question: &[u8], by_tcp: bool) -> Known;
}

/// What is known of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The answer, as a message of the protocol.
    Answer(Vec<u8>),
    /// Nothing: servers are to be asked.
    Nothing,
    /// Nothing, and nobody is to be asked: not a byte of it leaves.
    Secret,
}

/// Answers those in a network namespace who ask [`ADDRESS`], until it is dropped.
#[derive(Debug)]
pub struct NameServer {
    _forwarder: Forwarder,
}

impl NameServer {
    /// What those in `namespace` ask first, as nobody else can be there.
    pub const ADDRESS: Ipv4Addr = ADDRESS;

    /// Answers what `names` knows, and asks `servers` what it does not know. Whoever is inside may have a name server of its own
    /// on the port that it is asked at.
    pub fn start(
        namespace: BorrowedFd<'_>,
        names: Arc<dyn Names>,
        servers: Servers,
    ) -> Result<Self, NetworkError> {
        let bind = || {
            let bound = Sockets::bind_aside().or_else(|_| Sockets::bind());
            bound.map_err(failed("open a socket for name servers"))
        };
        let sockets = within(namespace, bind)?;
        let (servers, inside) = match servers {
            Servers::OfHost(servers) => (servers, None),
            Servers::OfThoseInside(mut servers) => {
                // It would ask itself.
                servers.retain(|server| server.ip() != ADDRESS);
                let inside = namespace.try_clone_to_owned();
                (servers, Some(inside.map_err(failed("duplicate a descriptor"))?))
            }
        };
        Ok(Self { _forwarder: Forwarder::start_within(inside, sockets, servers, Some(names))? })
    }
}

/// The name servers of others, in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Those of this host, which asks them itself.
    OfHost(Vec<SocketAddr>),
    /// Those that somebody inside has chosen, who are asked from there.
    OfThoseInside(Vec<SocketAddr>),
}

/// Where those inside ask, before somebody answers.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Makes the sockets in the network namespace of the calling thread.
    pub(super) fn bind() -> io::Result<Self> {
        Self::bind_to(PORT)
    }

    /// The same, but on other ports, to which rules lead what is sent to the usual one: that is free for others.
    fn bind_aside() -> io::Result<Self> {
        const LEAVE: &str = "leave";
        let this = Self::bind_to(0)?;
        let mut table = Table::anew(Family::Ip4, TABLE);
        table.chain(LEAVE, Hook::Leave);
        for (udp, own) in [(true, this.udp.local_addr()?.port()), (false, this.tcp.local_addr()?.port())] {
            let protocol = Match::Protocol { udp };
            let asked = [Match::Destination(ADDRESS.into()), protocol, Match::ToPort(PORT)];
            table.rule(LEAVE, &asked, Action::SetToPort { udp, port: own });
            let answered = [Match::Source(ADDRESS.into()), protocol, Match::FromPort(own)];
            table.rule(LEAVE, &answered, Action::SetFromPort { udp, port: PORT });
        }
        table.make(&mut Netlink::netfilter()?)?;
        Ok(this)
    }

    fn bind_to(port: u16) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((ADDRESS, port))?, TcpListener::bind((ADDRESS, port))?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }
}

/// Passes questions on until it is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Asks `servers`, in this order, what is asked at `sockets` and `names` does not know.
    pub(super) fn start(
        sockets: Sockets,
        servers: Vec<SocketAddr>,
        names: Option<Arc<dyn Names>>,
    ) -> Result<Self, RuntimeError> {
        Self::start_within(None, sockets, servers, names)
    }

    /// The same, asking from a network namespace, if there is one, in place of this one.
    fn start_within(
        namespace: Option<OwnedFd>,
        sockets: Sockets,
        servers: Vec<SocketAddr>,
        names: Option<Arc<dyn Names>>,
    ) -> Result<Self, RuntimeError> {
        let stop = Cancel::new()?;
        let (questions, connections) = (VecDeque::new(), Arc::default());
        let mut work = Work { sockets, names, servers, questions, connections };
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                if namespace.is_some_and(|namespace| super::enter(namespace.as_fd()).is_err()) {
                    // They are asked from nowhere else.
                    work.servers.clear();
                }
                work.run(&stopped);
            })
            .map_err(|source| RuntimeError::Step { step: "start a thread".to_owned(), source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

struct Work {
    sockets: Sockets,
    names: Option<Arc<dyn Names>>,
    servers: Vec<SocketAddr>,
    /// The oldest first.
    questions: VecDeque<Question>,
    connections: Arc<AtomicUsize>,
}

/// A question that somebody waits for the answer to.
struct Question {
    client: SocketAddr,
    message: Vec<u8>,
    /// The server that was asked last.
    server: usize,
    /// A socket that hears of that server alone.
    socket: UdpSocket,
    until: Instant,
}

impl Work {
    fn run(&mut self, stop: &Cancel) {
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let ready = match self.wait(stop) {
                Ok(ready) => ready,
                // Without poll nothing goes on; programs inside see no answers.
                Err(_) => return,
            };
            if stop.is_cancelled() {
                return;
            }
            let now = Instant::now();
            for _ in 0..self.questions.len() {
                self.look_at_oldest(&mut buffer, now);
            }
            if ready.asked {
                self.take_questions(&mut buffer);
            }
            if ready.connected {
                self.take_connections();
            }
        }
    }

    fn wait(&self, stop: &Cancel) -> io::Result<Ready> {
        let mut polled = vec![
            PollFd::new(&self.sockets.udp, PollFlags::IN),
            PollFd::new(&self.sockets.tcp, PollFlags::IN),
        ];
        polled.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN));
        polled.extend(self.questions.iter().map(|question| PollFd::new(&question.socket, PollFlags::IN)));
        let first = self.questions.iter().map(|question| question.until).min();
        let timeout = first.map(|until| {
            // Not a little too early.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let at = |index: usize| polled.get(index).is_some_and(|polled| !polled.revents().is_empty());
        Ok(Ready { asked: at(0), connected: at(1) })
    }

    /// Answers the oldest question if its answer is here, asks the next server if this one does not answer, and puts
    /// it behind the others if there is nothing to do.
    fn look_at_oldest(&mut self, buffer: &mut [u8], now: Instant) {
        let Some(question) = self.questions.pop_front() else { return };
        match question.socket.recv(buffer) {
            Ok(length) if length >= HEADER && buffer[..2] == question.message[..2] => {
                // Who does not take the answer asks again.
                let _ = self.sockets.udp.send_to(&buffer[..length], question.client);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < question.until => {
                self.questions.push_back(question);
            }
            Ok(_) if now < question.until => self.questions.push_back(question),
            _ => self.ask(question.client, question.message, question.server + 1),
        }
    }

    fn take_questions(&mut self, buffer: &mut [u8]) {
        for _ in 0..QUESTIONS_MAX {
            let Ok((length, client)) = self.sockets.udp.recv_from(buffer) else { return };
            if length < HEADER {
                continue;
            }
            let known =
                self.names.as_ref().map_or(Known::Nothing, |names| names.answer(&buffer[..length], false));
            // Who does not take the answer asks again.
            match known {
                Known::Answer(answer) => _ = self.sockets.udp.send_to(&answer, client),
                Known::Secret => _ = self.sockets.udp.send_to(&failure(&buffer[..length]), client),
                Known::Nothing => self.ask(client, buffer[..length].to_vec(), 0),
            }
        }
    }

    /// Asks the first server from `server` on that can be asked.
    fn ask(&mut self, client: SocketAddr, message: Vec<u8>, server: usize) {
        let servers = self.servers.iter().enumerate().skip(server);
        let asked = servers.filter_map(|(server, address)| Some((server, send(*address, &message).ok()?)));
        let Some((server, socket)) = { asked }.next() else {
            let _ = self.sockets.udp.send_to(&failure(&message), client);
            return;
        };
        if self.questions.len() >= QUESTIONS_MAX {
            self.questions.pop_front();
        }
        let until = Instant::now() + ANSWER_TIME;
        self.questions.push_back(Question { client, message, server, socket, until });
    }

    fn take_connections(&self) {
        while let Ok((client, _)) = self.sockets.tcp.accept() {
            if self.connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                self.connections.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (names, servers) = (self.names.clone(), self.servers.clone());
            let connections = self.connections.clone();
            let counted = Counted(connections);
            // Where no thread can be had the connection is closed.
            let _ = thread::Builder::new().name("dns-tcp".to_owned()).spawn(move || {
                let _counted = counted;
                // Either side may go away at any time.
                let _ = pass_on(client, names.as_deref(), &servers);
            });
        }
    }
}

struct Ready {
    asked: bool,
    connected: bool,
}

/// One of the connections.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn send(server: SocketAddr, message: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(message)?;
    Ok(socket)
}

/// The answer that no server could be asked: the question with the bits of an answer and of `SERVFAIL`.
fn failure(question: &[u8]) -> Vec<u8> {
    const ANSWER: u8 = 0x80;
    const SERVER_FAILURE: u8 = 2;
    let mut answer = question.to_vec();
    if let [_, _, flags, more, ..] = answer.as_mut_slice() {
        *flags |= ANSWER;
        *more = *more & 0xf0 | SERVER_FAILURE;
    }
    answer
}

/// Questions and answers by TCP, one after the other; each has its length before it.
fn pass_on(mut client: TcpStream, names: Option<&dyn Names>, servers: &[SocketAddr]) -> io::Result<()> {
    client.set_nonblocking(false)?;
    limit(&client)?;
    let mut asked = None;
    loop {
        let question = read_message(&mut client)?;
        let answer = match names.map_or(Known::Nothing, |names| names.answer(&question[2..], true)) {
            Known::Answer(answer) => Some(answer),
            Known::Secret => Some(failure(&question[2..])),
            Known::Nothing => None,
        };
        if let Some(answer) = answer {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            client.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())?;
            continue;
        }
        if asked.is_none() {
            let connect = |address| TcpStream::connect_timeout(address, ANSWER_TIME).ok();
            let server = servers.iter().find_map(connect).ok_or(io::ErrorKind::ConnectionRefused)?;
            limit(&server)?;
            asked = Some(server);
        }
        if let Some(server) = &mut asked {
            server.write_all(&question)?;
            client.write_all(&read_message(server)?)?;
        }
    }
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = length.to_vec();
    message.resize(2 + usize::from(u16::from_be_bytes(length)), 0);
    stream.read_exact(&mut message[2..])?;
    Ok(message)
}
