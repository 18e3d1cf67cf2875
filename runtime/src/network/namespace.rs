//! The network namespace of a container, made before the container so that it starts with its network up.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::{NetworkError, within_new};

/// Settings of a container's own network: it may listen on every port and send pings, whoever its user is.
const SETTINGS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// A network namespace with nothing but its loopback interface. It is there for as long as this, a process in it, or
/// another descriptor of it.
#[derive(Debug)]
pub struct NetworkNamespace {
    namespace: OwnedFd,
}

impl NetworkNamespace {
    /// Makes one.
    pub fn new() -> Result<Self, NetworkError> {
        let (namespace, ()) = within_new(|| {
            for (path, value) in SETTINGS {
                // Where /proc/sys is read-only, or groups are not mapped, the kernel's own are left.
                let _ = fs::write(path, value);
            }
            Ok(())
        })?;
        Ok(Self { namespace })
    }

    /// Where it can be entered by this process: what a spec names as its namespace of type `network`.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.namespace.as_raw_fd()).into()
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl From<NetworkNamespace> for OwnedFd {
    fn from(namespace: NetworkNamespace) -> Self {
        namespace.namespace
    }
}
