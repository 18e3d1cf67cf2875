//! The agent protocol (draft-ietf-sshm-ssh-agent) as a client in a step may speak it: list identities, sign.
//!
//! Everything else (adding and removing keys, locking, smart cards, extensions) is answered with a failure and never
//! reaches an agent behind this one.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::Agent;
use super::keys::Identity;

/// Bytes of one message, as in OpenSSH.
const MESSAGE_BYTES_MAX: u32 = 256 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Answers a client until it hangs up.
pub(super) fn serve(stream: &UnixStream, agent: &Agent) -> io::Result<()> {
    let mut behind: Option<UnixStream> = None;
    while let Some(request) = receive(stream)? {
        let is_allowed = matches!(request.first(), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)));
        let answer = match agent {
            _ if !is_allowed => vec![FAILURE],
            Agent::Keys(identities) => answer(identities, &request).unwrap_or_else(|| vec![FAILURE]),
            Agent::Socket(path) => {
                let behind = match &behind {
                    Some(behind) => behind,
                    None => behind.insert(UnixStream::connect(path)?),
                };
                send(behind, &request)?;
                receive(behind)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
        };
        send(stream, &answer)?;
    }
    Ok(())
}

/// The next message without its length; `None` at the end.
fn receive(mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn send(mut stream: &UnixStream, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(4 + message.len());
    put(&mut framed, message);
    stream.write_all(&framed)
}

/// What the agent of these identities says to a request; `None` when it cannot.
fn answer(identities: &[Identity], request: &[u8]) -> Option<Vec<u8>> {
    let (kind, mut rest) = request.split_first()?;
    if *kind == REQUEST_IDENTITIES {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(u32::try_from(identities.len()).ok()?.to_be_bytes());
        for identity in identities {
            put(&mut answer, identity.public());
            put(&mut answer, identity.comment().as_bytes());
        }
        return Some(answer);
    }
    let public = take(&mut rest)?;
    let data = take(&mut rest)?;
    let flags = u32::from_be_bytes(rest.try_into().ok()?);
    let identity = identities.iter().find(|identity| identity.public() == public)?;
    let mut answer = vec![SIGN_RESPONSE];
    put(&mut answer, &identity.sign(data, flags)?);
    Some(answer)
}

/// Appends a string: its length, then its bytes.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing here comes near 4 GiB: keys are small and messages bounded.
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// Takes a string off the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(string)
}
