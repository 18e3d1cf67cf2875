//! Netlink: requests to the kernel's network stack, and its answers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Room for one datagram of the kernel, which makes none larger.
const DATAGRAM_BYTES: usize = 64 << 10;

/// Answers to one request at most: a host with more routes is asked for no more.
const ANSWERS_MAX: usize = 1 << 20;

/// Length of `struct nlmsghdr`, and of the header of an attribute.
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

/// What in the type of an attribute is no number.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Makes something that must not be there yet.
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16;
/// Makes something that may be there.
pub(super) const CREATE_OR_KEEP: u16 = libc::NLM_F_CREATE as u16;
/// Puts something behind what is there.
pub(super) const APPEND: u16 = libc::NLM_F_CREATE as u16 | libc::NLM_F_APPEND as u16;

/// A request under construction.
#[derive(Debug, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A request of type `kind`; `header` is the structure that the protocol puts before the attributes.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a string that ends with a NUL byte.
    pub(super) fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that consists of attributes; `fill` may put a structure before them.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds a structure.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, flags: u16, sequence: u32) -> &[u8] {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

/// A socket of one protocol. It belongs to the network namespace that the thread was in that made it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Interfaces, addresses and routes.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Packet filters.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Hears of changes as well: `groups` are bits of `RTMGRP_*`.
    pub(super) fn subscribe(&self, groups: u32) -> io::Result<()> {
        Ok(rustix::net::bind(&self.socket, &SocketAddrNetlink::new(0, groups))?)
    }

    /// Waits until something has been heard, and forgets it. False after `timeout`.
    pub(super) fn heard(&self, timeout: std::time::Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let ready = match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => 0,
            result => result?,
        };
        if ready > 0 {
            // What there is no room for is lost, and that is said by an error.
            let _ = rustix::net::recv(&self.socket, &mut vec![0; DATAGRAM_BYTES], RecvFlags::DONTWAIT);
        }
        Ok(ready > 0)
    }

    /// Has something done.
    pub(super) fn request(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        rustix::net::send(&self.socket, message.finish(ACKNOWLEDGE, self.sequence), SendFlags::empty())?;
        self.acknowledged(self.sequence..=self.sequence)
    }

    /// Has everything done that stands between the first and the last message, or nothing.
    pub(super) fn batch(&mut self, first: Message, messages: Vec<Message>, last: Message) -> io::Result<()> {
        let begin = self.sequence + 1;
        let mut bytes = Vec::new();
        let mut add = |mut message: Message, flags| {
            self.sequence += 1;
            bytes.extend_from_slice(message.finish(flags, self.sequence));
        };
        add(first, 0);
        let count = messages.len() as u32;
        for message in messages {
            add(message, ACKNOWLEDGE);
        }
        add(last, 0);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        self.acknowledged(begin..=begin + count)
    }

    /// Waits for the answer to the last of `sequences`, or for the first error of one of them.
    fn acknowledged(&self, sequences: std::ops::RangeInclusive<u32>) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            for answer in self.receive(&mut buffer)? {
                if !sequences.contains(&answer.sequence) || answer.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                answer.error()?;
                if answer.sequence == *sequences.end() {
                    return Ok(());
                }
            }
        }
    }

    /// Asks for one thing.
    pub(super) fn ask(&mut self, mut message: Message) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        rustix::net::send(&self.socket, message.finish(0, self.sequence), SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            for answer in self.receive(&mut buffer)? {
                match i32::from(answer.kind) {
                    _ if answer.sequence != self.sequence => {}
                    libc::NLMSG_ERROR => answer.error()?,
                    _ => return Ok(answer.payload.to_vec()),
                }
            }
        }
    }

    /// Asks for a list: the type of each answer and what it says.
    pub(super) fn dump(&mut self, mut message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        rustix::net::send(&self.socket, message.finish(DUMP, self.sequence), SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut answers = Vec::new();
        loop {
            for answer in self.receive(&mut buffer)? {
                if answer.sequence != self.sequence {
                    continue;
                }
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => answer.error()?,
                    _ if answers.len() < ANSWERS_MAX => answers.push(answer.payload.to_vec()),
                    _ => {}
                }
            }
        }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Vec<Answer<'a>>> {
        let length = loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                // What was lost is news; answers wait until there is room.
                Err(rustix::io::Errno::NOBUFS) => {}
                result => break result?.0,
            }
        };
        Ok(answers(&buffer[..length]))
    }
}

/// One message of the kernel.
struct Answer<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Answer<'_> {
    /// What an `NLMSG_ERROR` says; 0 is that all went well.
    fn error(&self) -> io::Result<()> {
        match self.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn answers(mut bytes: &[u8]) -> Vec<Answer<'_>> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(payload) = bytes.get(HEADER..length) else { break };
        answers.push(Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// The attributes in `bytes`, which begin after `skip` bytes of structure.
pub(super) fn attributes(bytes: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes.get(skip.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_FLAGS;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of four bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A string, without the NUL byte that ends it.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back() {
        let mut message = Message::new(1, 2, &[7; 6]);
        message.string(3, "eth0").nested(4, |inner| {
            inner.attribute(5, &[1]).attribute(6, &9u32.to_ne_bytes());
        });
        let bytes = message.finish(ACKNOWLEDGE, 5).to_vec();
        let read = answers(&bytes);
        assert_eq!((read.len(), read[0].kind, read[0].sequence), (1, 1, 5));
        let outer: Vec<_> = attributes(read[0].payload, 6).collect();
        assert_eq!((outer[0].0, text(outer[0].1)), (3, "eth0".to_owned()));
        let inner: Vec<_> = attributes(outer[1].1, 0).collect();
        assert_eq!((outer[1].0, inner[0], number(inner[1].1)), (4, (5, &[1u8][..]), Some(9)));
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let bytes = Message::new(1, 0, &[0; 8]).attribute(1, &[1; 9]).finish(0, 1).to_vec();
        // The last three bytes only fill up the attribute.
        for length in 0..bytes.len() - 3 {
            let mut cut = bytes[..length].to_vec();
            assert!(answers(&cut).is_empty(), "{length}");
            if length >= 4 {
                cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            }
            // An attribute that is longer than what is left is not there.
            let read = answers(&cut);
            assert!(read.iter().all(|answer| attributes(answer.payload, 8).count() == 0), "{length}");
        }
        for length in [0u32, 1, 15] {
            let mut short = bytes.clone();
            short[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(answers(&short).is_empty());
        }
    }
}
