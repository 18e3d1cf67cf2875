//! `/etc/hosts` and `/etc/resolv.conf` of a step (image-builders §6.2): made once a build, bound read-only.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use wharf_runtime::{Spec, name_server};

use super::WorkerError;
use super::network::{HOST_GATEWAY, Reach, local_server};
use super::spec::bind_read_only;

/// Where systemd-resolved keeps the servers behind its own stub.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The stub's address.
const RESOLVED_STUB: &str = "127.0.0.53";

/// Host name of a step, as BuildKit has it.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// Binds both files in a step or container called `hostname` (names, with spaces between them) that reaches `reach`; they
/// are kept below `dir`.
pub(crate) fn bind(
    spec: &mut Spec,
    dir: &Path,
    hostname: &str,
    extra_hosts: &[(String, String)],
    reach: &Reach,
) -> Result<(), WorkerError> {
    let prepare = |operation| move |source| WorkerError::Prepare { operation, source };
    let hosts = hosts(dir, hostname, extra_hosts, reach.host())
        .map_err(prepare("write /etc/hosts of the sandbox"))?;
    let resolv_conf =
        resolv_conf(dir, reach.name_servers()).map_err(prepare("write /etc/resolv.conf of the sandbox"))?;
    bind_read_only(spec, &hosts, "/etc/hosts")?;
    bind_read_only(spec, &resolv_conf, "/etc/resolv.conf")?;
    Ok(())
}

/// Writes the hosts file of a step below `dir` and returns its path. `host` is where the step finds this host.
fn hosts(
    dir: &Path,
    hostname: &str,
    extra: &[(String, String)],
    host: Option<IpAddr>,
) -> io::Result<PathBuf> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let host = host.map(|host| host.to_string());
        let address = match (address.as_str(), host) {
            (HOST_GATEWAY, Some(host)) => host,
            (HOST_GATEWAY, None) => {
                let why = format!(
                    "this host has no address that steps reach, for --add-host {name}:{HOST_GATEWAY}"
                );
                return Err(io::Error::other(why));
            }
            (address, _) => address.to_owned(),
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    write(dir, &format!("hosts-{}", blake3::hash(text.as_bytes()).to_hex()), &text)
}

/// The name servers of this host, in the order in which it asks them.
pub(crate) fn name_servers() -> io::Result<Vec<SocketAddr>> {
    let text = own_resolv_conf()?;
    let servers: Vec<SocketAddr> = nameservers(&text).into_iter().filter_map(name_server).collect();
    Ok(if servers.is_empty() { vec![local_server()] } else { servers })
}

/// Writes the resolv.conf of a step below `dir` and returns its path: the host's, or one with `servers` in its place.
fn resolv_conf(dir: &Path, servers: Option<&[IpAddr]>) -> io::Result<PathBuf> {
    let own = own_resolv_conf()?;
    match servers {
        None => write(dir, "resolv.conf", &own),
        Some(servers) => write(dir, "resolv.conf-own", &with_name_servers(&own, servers)),
    }
}

/// The same settings with other name servers.
fn with_name_servers(text: &str, servers: &[IpAddr]) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let others: String = lines.map(|line| format!("{line}\n")).collect();
    let servers: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    others + &servers
}

/// The host's own settings; systemd's stub stands for the servers behind it.
pub(crate) fn own_resolv_conf() -> io::Result<String> {
    let own = read_optional(Path::new("/etc/resolv.conf"))?;
    let text = if nameservers(&own) == [RESOLVED_STUB] {
        read_optional(Path::new(RESOLVED_CONF))?
    } else {
        String::new()
    };
    Ok(if text.is_empty() { own } else { text })
}

fn nameservers(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
        .filter(|address| address.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()))
        .collect()
}

fn read_optional(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Writes under a temporary name and gives it its own when it is whole. Steps that start together may both be here: the
/// first one's file stays, because the kernel attaches no mount of a file that has been replaced.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let temporary = dir.join(format!("{name}.{:?}", std::thread::current().id()));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let linked = std::fs::hard_link(&temporary, &path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount of a file that has been replaced cannot be attached.
    #[test]
    fn a_file_that_a_step_was_given_is_not_replaced() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = std::env::temp_dir().join(format!("wharf-sandbox-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for round in 0..200 {
            let name = format!("hosts-{round}");
            let start = std::sync::Barrier::new(8);
            let inode = || {
                start.wait();
                std::fs::metadata(write(&dir, &name, "text").unwrap()).unwrap().ino()
            };
            let inodes: Vec<u64> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(inode)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 200, "temporary files are left");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nameservers_are_found() {
        assert_eq!(nameservers("search x\nnameserver 127.0.0.53\noptions edns0\n"), ["127.0.0.53"]);
        let text = "search x\nnameserver 127.0.0.53\n nameserver ::1\noptions edns0\n";
        assert_eq!(
            with_name_servers(text, &["10.0.0.1".parse().unwrap()]),
            "search x\noptions edns0\nnameserver 10.0.0.1\n"
        );
        assert_eq!(
            nameservers(" nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver x\n"),
            ["10.0.0.1", "fe80::1%eth0"]
        );
    }
}
