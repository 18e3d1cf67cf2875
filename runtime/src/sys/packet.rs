//! Packets of UDP, with the address of this host that they are sent to or from: a host has several, and who was asked at one is to
//! answer from it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;

use super::check;

/// Room for what comes with a packet.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// An address of this host, and the interface that a packet came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    interface: u32,
}

/// A packet that has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Bytes of it.
    pub length: usize,
    /// Who has sent it.
    pub from: SocketAddr,
    /// Where it arrived, if that was asked for.
    pub at: Option<Local>,
}

/// Has a socket tell where its packets arrive.
pub fn tell_where_packets_arrive(socket: &UdpSocket) -> io::Result<()> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>();
    let socket = socket.as_raw_fd();
    // SAFETY: the kernel reads one number of this length, which outlives the call.
    unsafe { syscall!(libc::SYS_setsockopt, socket, level, option, &raw const on, length) }?;
    Ok(())
}

/// Receives a packet.
pub fn receive_packet(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; 128]);
    // SAFETY: a structure of numbers and pointers, for which zeroes are fine.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: each pointer leads to as many bytes as is said beside it, and they outlive the call.
    let length = unsafe { syscall!(libc::SYS_recvmsg, socket.as_raw_fd(), &raw mut message, 0) }?;
    // SAFETY: zeroes are an address of no family; the kernel has written over them.
    let from = address(unsafe { name.assume_init_ref() }).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Packet { length: length as usize, from, at: arrived_at(&message) })
}

/// Sends a packet; from this address of the host, if one is said.
pub fn send_packet(socket: &UdpSocket, bytes: &[u8], to: SocketAddr, from: Option<Local>) -> io::Result<()> {
    let Some(from) = from.filter(|from| from.address.is_ipv4() == to.is_ipv4()) else {
        return socket.send_to(bytes, to).map(drop);
    };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 128]);
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let (mut name4, mut name6);
    match to {
        SocketAddr::V4(to) => {
            name4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                sin_zero: [0; 8],
            };
            message.msg_name = (&raw mut name4).cast();
            message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        SocketAddr::V6(to) => {
            name6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            message.msg_name = (&raw mut name6).cast();
            message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        }
    }
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    match from.address {
        IpAddr::V4(address) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            put(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(address) => {
            // Which interface matters only to addresses that each of them has.
            let interface = if address.is_unicast_link_local() { from.interface } else { 0 };
            let address = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: interface };
            put(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: each pointer leads to as many bytes as is said beside it, and they outlive the call; none is written to.
    unsafe { syscall!(libc::SYS_sendmsg, socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }?;
    Ok(())
}

/// Puts something into the control data of a message, which has a whole [`Control`] for it.
fn put<T>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, info: T) {
    const { assert!(size_of::<T>() <= 64) };
    // SAFETY: these compute lengths.
    let (length, space) =
        unsafe { (libc::CMSG_LEN(size_of::<T>() as u32), libc::CMSG_SPACE(size_of::<T>() as u32)) };
    message.msg_controllen = space as _;
    // SAFETY: the control data is aligned and has room for the header and what follows it, by the assertion.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = length as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
    }
}

/// Where the kernel says that a message has arrived.
fn arrived_at(message: &libc::msghdr) -> Option<Local> {
    // SAFETY: the kernel has written whole headers with lengths that are true, and these functions follow them; of each kind the
    // data has at least the length of its structure.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    return Some(Local { address: address.into(), interface: info.ipi_ifindex as u32 });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    return Some(Local { address: address.into(), interface: info.ipi6_ifindex });
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    None
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: of this family it is such a structure, and room for any is there.
            let it = unsafe { (&raw const *storage).cast::<libc::sockaddr_in>().read() };
            let address = Ipv4Addr::from(it.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(address, u16::from_be(it.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is such a structure, and room for any is there.
            let it = unsafe { (&raw const *storage).cast::<libc::sockaddr_in6>().read() };
            let address = Ipv6Addr::from(it.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(it.sin6_port), 0, it.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_at_an_address_answers_from_it() {
        for (bound, asked) in [("0.0.0.0:0", "127.0.0.7"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let server = match UdpSocket::bind(bound) {
                Err(_) if bound.starts_with('[') => continue,
                server => server.unwrap(),
            };
            tell_where_packets_arrive(&server).unwrap();
            let asked: IpAddr = asked.parse().unwrap();
            let client = UdpSocket::bind(if asked.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            client.connect((asked, server.local_addr().unwrap().port())).unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 100];
            let packet = receive_packet(&server, &mut buffer).unwrap();
            assert_eq!(&buffer[..packet.length], b"question");
            assert_eq!(packet.from, client.local_addr().unwrap());
            assert_eq!(packet.at.unwrap().address, asked);
            send_packet(&server, b"answer", packet.from, packet.at).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"answer");
            send_packet(&server, b"plain", packet.from, None).unwrap();
        }
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        plain.send_to(b"", plain.local_addr().unwrap()).unwrap();
        let packet = receive_packet(&plain, &mut [0; 8]).unwrap();
        assert_eq!((packet.length, packet.at), (0, None));
    }
}
