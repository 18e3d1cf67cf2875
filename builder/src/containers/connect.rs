//! A connection to a monitor: frames of [`super::protocol`] over a unix stream, and descriptors with them. Both sides use it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::protocol::{Answer, FRAME_BYTES_MAX, FrameKind, Request};

/// The name of a monitor's socket in the directory of its container.
pub const SOCKET_NAME: &str = "monitor.sock";

/// Descriptors that travel with one frame at most.
pub const DESCRIPTORS_MAX: usize = 16;

/// Bytes before the payload: the kind, and the length of what follows.
const HEADER_BYTES: usize = 5;

/// What has arrived.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// What it says.
    pub payload: Vec<u8>,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a connection. Several threads may send; what each sends arrives in one piece. One receives.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    sending: Mutex<()>,
}

impl From<UnixStream> for Connection {
    fn from(socket: UnixStream) -> Self {
        Self { socket, sending: Mutex::default() }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Connects to the monitor of the container whose directory this is.
    pub fn open(directory: &File) -> io::Result<Self> {
        UnixStream::connect(socket_path(directory)).map(Self::from)
    }

    /// Sends a frame.
    pub fn send(&self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        self.send_with(kind, payload, &[])
    }

    /// Sends a frame, and descriptors with it.
    pub fn send_with(
        &self,
        kind: FrameKind,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if payload.len() > FRAME_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too large"));
        }
        let mut header = [0; HEADER_BYTES];
        header[0] = kind as u8;
        // The limit above is far below what four bytes hold.
        header[1..].copy_from_slice(&(payload.len() as u32).to_be_bytes());
        let _guard = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        while sent < HEADER_BYTES + payload.len() {
            let head = &header[sent.min(HEADER_BYTES)..];
            let body = &payload[sent.saturating_sub(HEADER_BYTES)..];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            sent += rustix::io::retry_on_intr(|| {
                sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
            })?;
        }
        Ok(())
    }

    /// Asks something.
    pub fn request(&self, request: &Request) -> io::Result<()> {
        self.send(FrameKind::Request, &serde_json::to_vec(request)?)
    }

    /// Answers.
    pub fn answer(&self, answer: &Answer) -> io::Result<()> {
        self.answer_with(answer, &[])
    }

    /// Answers, with descriptors.
    pub fn answer_with(&self, answer: &Answer, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(FrameKind::Answer, &serde_json::to_vec(answer)?, descriptors)
    }

    /// The next frame; none when the other side has hung up between two frames.
    pub fn receive(&self) -> io::Result<Option<Frame>> {
        let mut descriptors = Vec::new();
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header, &mut descriptors)? {
            return Ok(None);
        }
        let [kind, length @ ..] = header;
        let length = u32::from_be_bytes(length) as usize;
        let kind = FrameKind::from_number(kind).ok_or_else(|| broken("it begins with an unknown kind"))?;
        if length > FRAME_BYTES_MAX {
            return Err(broken("it is too large"));
        }
        let mut payload = vec![0; length];
        if length > 0 && !self.fill(&mut payload, &mut descriptors)? {
            return Err(cut_off());
        }
        Ok(Some(Frame { kind, payload, descriptors }))
    }

    /// The next frame, which has to be a request.
    pub fn receive_request(&self) -> io::Result<Option<Request>> {
        let Some(frame) = self.receive()? else { return Ok(None) };
        match frame.kind {
            FrameKind::Request => Ok(Some(serde_json::from_slice(&frame.payload)?)),
            _ => Err(broken("it is no request")),
        }
    }

    /// The next frame, which has to be an answer, and what came along.
    pub fn receive_answer(&self) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
        let Some(frame) = self.receive()? else { return Ok(None) };
        match frame.kind {
            FrameKind::Answer => Ok(Some((serde_json::from_slice(&frame.payload)?, frame.descriptors))),
            _ => Err(broken("it is no answer")),
        }
    }

    /// Hangs up, also for whoever waits in [`Self::receive`].
    pub fn hang_up(&self) {
        // The other side may have done so.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Receives what has come by now, and then the end.
    pub fn receive_no_more(&self) {
        // The other side may have hung up.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Fills `buffer`, and collects descriptors. False if the other side has hung up before the first byte.
    fn fill(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer[filled..])];
            let received = rustix::io::retry_on_intr(|| {
                recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            })?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            match received.bytes {
                0 if filled == 0 => return Ok(false),
                0 => return Err(cut_off()),
                count => filled += count,
            }
        }
        Ok(true)
    }
}

/// Listens at the socket of the container whose directory this is. Whoever calls this holds the lock of the directory:
/// what is there is left over.
pub fn listen(directory: &File) -> io::Result<UnixListener> {
    let path = socket_path(directory);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Through the descriptor, as the address of a socket has room for a hundred bytes.
fn socket_path(directory: &File) -> String {
    format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd())
}

fn broken(why: &str) -> io::Error {
    unreadable(io::ErrorKind::InvalidData, why)
}

/// The other side has hung up in the middle.
fn cut_off() -> io::Error {
    unreadable(io::ErrorKind::UnexpectedEof, "it is cut off")
}

fn unreadable(kind: io::ErrorKind, why: &str) -> io::Error {
    io::Error::new(kind, format!("a message between wharf's processes is broken: {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pair() -> (Connection, Connection) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other.into())
    }

    #[test]
    fn what_is_sent_arrives_with_its_descriptors() {
        let (one, other) = pair();
        let large = vec![7; FRAME_BYTES_MAX];
        let (mut read, write) = io::pipe().unwrap();
        let sender = std::thread::spawn(move || {
            one.request(&Request::Root).unwrap();
            one.answer_with(&Answer::Done, &[write.as_fd()]).unwrap();
            one.send(FrameKind::Stdin, &[]).unwrap();
            one.send(FrameKind::Stdout, &large).unwrap();
            assert!(one.send(FrameKind::Stdout, &vec![7; FRAME_BYTES_MAX + 1]).is_err());
        });
        assert_eq!(other.receive_request().unwrap(), Some(Request::Root));
        let (answer, mut descriptors) = other.receive_answer().unwrap().unwrap();
        assert_eq!((answer, descriptors.len()), (Answer::Done, 1));
        File::from(descriptors.remove(0)).write_all(b"x").unwrap();
        let end = other.receive().unwrap().unwrap();
        assert_eq!((end.kind, end.payload.len()), (FrameKind::Stdin, 0));
        let large = other.receive().unwrap().unwrap();
        assert_eq!((large.kind, large.payload.len()), (FrameKind::Stdout, FRAME_BYTES_MAX));
        sender.join().unwrap();
        assert!(other.receive().unwrap().is_none(), "hung up");
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert_eq!(said, "x");
    }

    #[test]
    fn what_is_broken_is_refused() {
        let check = |bytes: &[u8], word: &str| {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(bytes).unwrap();
            drop(one);
            let said = Connection::from(other).receive_request().unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        };
        check(&[1, 0], "cut off");
        check(&[9, 0, 0, 0, 0], "unknown kind");
        check(&[1, 0xff, 0, 0, 0], "too large");
        check(&[1, 0, 0, 0, 2, b'{'], "cut off");
        check(&[1, 0, 0, 0, 1, b'{'], "");
        check(&[2, 0, 0, 0, 0], "no request");
    }

    #[test]
    fn long_paths_have_room_for_a_socket() {
        let dir =
            std::env::temp_dir().join(format!("wharf-connect-{}{}", std::process::id(), "x".repeat(120)));
        std::fs::create_dir(&dir).unwrap();
        let directory = File::open(&dir).unwrap();
        assert!(Connection::open(&directory).is_err());
        let _left_over = listen(&directory).unwrap();
        let listener = listen(&directory).unwrap();
        let client = Connection::open(&directory).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.request(&Request::Pause).unwrap();
        assert_eq!(Connection::from(server).receive_request().unwrap(), Some(Request::Pause));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
