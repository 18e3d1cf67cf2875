//! pasta (package passt): a network for those who may set up none: it reads and writes the packets of a network
//! namespace and opens sockets of this one for them.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::netlink::Netlink;
use super::route;
use super::subnet;
use super::{NetworkError, failed, random};
use crate::process::program::{Program, run};
use crate::{Cancel, RuntimeError};

/// Its name.
const NAME: &str = "pasta";

/// The device that makes interfaces whose packets a process reads and writes.
const TUN: &str = "/dev/net/tun";

/// How long it may take to set up the network; it takes milliseconds.
const SETUP_TIME: Duration = Duration::from_secs(5);

/// How long to wait for news before looking whether it still runs.
const PATIENCE: Duration = Duration::from_millis(20);

/// What it says at most that is kept.
const TALK_BYTES_MAX: usize = 4 << 10;

/// pasta while it runs. Dropping it ends it; so does the end of this process, however it comes.
#[derive(Debug)]
pub(super) struct Pasta {
    stop: Cancel,
    thread: Option<JoinHandle<String>>,
    /// Where the namespace finds this host.
    pub(super) host: Option<IpAddr>,
    /// Whether IPv6 leads out.
    pub(super) ipv6: bool,
}

impl Pasta {
    /// Connects `namespace`, where `inside` is a socket. `dir` is a directory for files that nobody else sees.
    pub(super) fn start(
        namespace: &OwnedFd,
        inside: &mut Netlink,
        dir: &Path,
        avoid: &[(IpAddr, u8)],
    ) -> Result<Self, NetworkError> {
        let program = look()?;
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        let routes = route::routes(&mut netlink).map_err(failed("list the routes"))?;
        let seed = u32::from_ne_bytes(random()?);
        let subnet = subnet::choose(seed, &routes, avoid).ok_or(NetworkError::NoSubnet)?;
        inside.subscribe(libc::RTMGRP_IPV4_ROUTE as u32).map_err(failed("listen for routes"))?;

        // The namespace is bound over this file in pasta's own mount namespace: a path that needs no /proc.
        let place = dir.join("pasta-namespace");
        std::fs::write(&place, b"").map_err(failed(format!("write {}", place.display())))?;
        let arguments = arguments(&program, &place, subnet)?;
        let file = place.clone();
        let stop = Cancel::new()?;
        let namespace = namespace.try_clone().map_err(failed("duplicate a descriptor"))?;
        let thread = {
            let stop = stop.clone();
            let start = thread::Builder::new().name(NAME.to_owned());
            start
                .spawn(move || talk(Program { arguments, bind: (namespace, place) }, &stop))
                .map_err(failed("start a thread"))?
        };
        let ipv6 = routes.iter().any(|route| route.is_default() && route.destination.is_ipv6());
        let mut pasta = Self { stop, thread: Some(thread), host: own_address(), ipv6 };
        let ready = pasta.wait(inside);
        // It has the namespace open, or never will.
        let _ = std::fs::remove_file(&file);
        ready?;
        Ok(pasta)
    }

    /// Whether it has ended by itself, or somebody has killed it.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the namespace has a default route.
    fn wait(&mut self, inside: &mut Netlink) -> Result<(), NetworkError> {
        let begun = Instant::now();
        loop {
            let routes = route::routes(inside).map_err(failed("list the routes inside"))?;
            if routes.iter().any(route::Route::is_default) {
                return Ok(());
            }
            if self.has_ended() || begun.elapsed() > SETUP_TIME {
                self.stop.cancel();
                let said = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
                return Err(NetworkError::Pasta { said });
            }
            inside.heard(PATIENCE).map_err(failed("wait for routes"))?;
        }
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where it is, or why it is of no use here.
pub(crate) fn look() -> Result<PathBuf, NetworkError> {
    let program = find().ok_or(NetworkError::NoPasta)?;
    let tun = OpenOptions::new().read(true).write(true).open(TUN);
    tun.map_err(|source| NetworkError::NoTun { device: TUN, source })?;
    Ok(program)
}

/// Where it is.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME));
    places.find(|place| place.is_file())
}

/// No ports of either side lead to the other, nor does the gateway's address lead to the host's loopback.
fn arguments(program: &Path, place: &Path, subnet: subnet::Subnet) -> Result<Vec<CString>, NetworkError> {
    let fixed = [
        "--foreground",
        "--quiet",
        "--config-net",
        "--no-map-gw",
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
        "--no-netns-quit",
        "--tcp-ports=none",
        "--udp-ports=none",
        "--tcp-ns=none",
        "--udp-ns=none",
        "--ns-ifname=eth0",
        // It would become another user, who may not enter the namespace.
        "--runas=0",
    ];
    let mut arguments = vec![program.as_os_str().as_bytes().to_vec()];
    arguments.extend(fixed.map(|argument| argument.as_bytes().to_vec()));
    arguments.push(format!("--address={}", subnet.inside).into_bytes());
    arguments.push(format!("--netmask={}", subnet.bits).into_bytes());
    arguments.push(format!("--gateway={}", subnet.host).into_bytes());
    arguments.push([b"--netns=", place.as_os_str().as_bytes()].concat());
    let arguments = arguments.into_iter().map(CString::new).collect::<Result<_, _>>();
    arguments.map_err(|error| failed("describe the arguments of pasta")(io::Error::from(error)))
}

/// Runs it to its end and returns what it said, or why it could not be run.
fn talk(program: Program, stop: &Cancel) -> String {
    let mut said = Vec::new();
    let ended = run(program, stop, &mut |_, data| {
        let room = TALK_BYTES_MAX.saturating_sub(said.len());
        said.extend_from_slice(&data[..data.len().min(room)]);
    });
    // It tells the system's log as well, if there is one.
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
    let mut said = lines.collect::<Vec<_>>().join("; ");
    match ended {
        Ok(status) if said.is_empty() => said = format!("it ended without a word: {status:?}"),
        Ok(_) | Err(RuntimeError::Cancelled) => {}
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            said = format!("{error}{cause}");
        }
    }
    said
}

/// The address that this host has towards others.
fn own_address() -> Option<IpAddr> {
    // Of the addresses for documentation (RFC 5737). Nothing is sent.
    const SOMEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SOMEWHERE).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}
