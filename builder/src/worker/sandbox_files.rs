//! `/etc/hosts` and `/etc/resolv.conf` of a step (image-builders §6.2): made once a build, bound read-only.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use wharf_runtime::Spec;

use super::WorkerError;
use super::spec::bind_read_only;

/// Where systemd-resolved keeps the servers behind its own stub.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The stub's address.
const RESOLVED_STUB: &str = "127.0.0.53";

/// Host name of a step, as BuildKit has it.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// Binds both files in a step or container called `hostname`; they are kept below `dir`.
pub(crate) fn bind(
    spec: &mut Spec,
    dir: &Path,
    hostname: &str,
    extra_hosts: &[(String, String)],
) -> Result<(), WorkerError> {
    let prepare = |operation| move |source| WorkerError::Prepare { operation, source };
    let hosts = hosts(dir, hostname, extra_hosts).map_err(prepare("write /etc/hosts of the sandbox"))?;
    let resolv_conf = resolv_conf(dir).map_err(prepare("write /etc/resolv.conf of the sandbox"))?;
    bind_read_only(spec, &hosts, "/etc/hosts")?;
    bind_read_only(spec, &resolv_conf, "/etc/resolv.conf")?;
    Ok(())
}

/// Writes the hosts file of a step below `dir` and returns its path.
fn hosts(dir: &Path, hostname: &str, extra: &[(String, String)]) -> io::Result<PathBuf> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    write(dir, &format!("hosts-{}", blake3::hash(text.as_bytes()).to_hex()), &text)
}

/// Writes the resolv.conf of a step on the host's network below `dir` and returns its path.
fn resolv_conf(dir: &Path) -> io::Result<PathBuf> {
    let own = read_optional(Path::new("/etc/resolv.conf"))?;
    let text = if nameservers(&own) == [RESOLVED_STUB] {
        read_optional(Path::new(RESOLVED_CONF))?
    } else {
        String::new()
    };
    let text = if text.is_empty() { own } else { text };
    write(dir, "resolv.conf", &text)
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
        assert_eq!(
            nameservers(" nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver x\n"),
            ["10.0.0.1", "fe80::1%eth0"]
        );
    }
}
