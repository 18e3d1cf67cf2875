//! The container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, written before it starts.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use crate::containers::config::{ContainerConfig, NetworkUse};
use crate::containers::state::Endpoint;
use crate::worker::network::HOST_GATEWAY;
use crate::worker::sandbox_files;

/// The files, and where they are in the container.
pub(super) const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// What of networks is in them.
#[derive(Debug, Default)]
pub(super) struct Surroundings<'a> {
    pub(super) endpoints: &'a [Endpoint],
    /// Name servers of its networks; none where it has those of the host.
    pub(super) dns: &'a [IpAddr],
    /// Where it reaches this host.
    pub(super) host: Option<IpAddr>,
}

/// Writes them into `dir`, in place: what is mounted from there is the file itself.
pub(super) fn write(
    dir: &Path,
    config: &ContainerConfig,
    hostname: &str,
    surroundings: &Surroundings<'_>,
) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let mut hosts =
        if config.network == NetworkUse::Host { own_hosts()? } else { hosts(config, hostname, surroundings) };
    for (name, address) in &config.extra_hosts {
        let address = match (address.as_str(), surroundings.host) {
            (HOST_GATEWAY, Some(host)) => host.to_string(),
            (HOST_GATEWAY, None) if config.network == NetworkUse::Host => "127.0.0.1".to_owned(),
            (HOST_GATEWAY, None) => {
                let why =
                    format!("this host has no address that the container reaches, for {name}:{HOST_GATEWAY}");
                return Err(io::Error::other(why));
            }
            (address, _) => address.to_owned(),
        };
        let _ = writeln!(hosts, "{address}\t{name}");
    }
    let resolv_conf = resolv_conf(&sandbox_files::own_resolv_conf()?, config, surroundings.dns);
    for (name, text) in
        [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv_conf)]
    {
        let path = dir.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn hosts(config: &ContainerConfig, hostname: &str, surroundings: &Surroundings<'_>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    let names = match &config.domainname {
        Some(domain) if !domain.is_empty() => format!("{hostname}.{domain} {hostname}"),
        _ => hostname.to_owned(),
    };
    for endpoint in surroundings.endpoints {
        let addresses = endpoint.ipv4.map(|(address, _)| IpAddr::V4(address));
        for address in addresses.into_iter().chain(endpoint.ipv6.map(|(address, _)| IpAddr::V6(address))) {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }
    text
}

fn own_hosts() -> io::Result<String> {
    match fs::read("/etc/hosts") {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The host's settings with those of the container in their place. On a network of its own that answers for names, that is
/// asked, and asks the servers that were given itself ([`super::network`]).
fn resolv_conf(own: &str, config: &ContainerConfig, network: &[IpAddr]) -> String {
    let servers = if network.is_empty() { &config.dns } else { network };
    let replaced = |line: &str| {
        let is = |word: &str| line.split_whitespace().next() == Some(word);
        is("nameserver") && !servers.is_empty()
            || (is("search") || is("domain")) && !config.dns_search.is_empty()
            || is("options") && !config.dns_options.is_empty()
    };
    let mut text: String =
        own.lines().filter(|line| !replaced(line)).map(|line| format!("{line}\n")).collect();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // A single dot is no domain at all.
    let search: Vec<&str> =
        config.dns_search.iter().map(String::as_str).filter(|domain| *domain != ".").collect();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !config.dns_options.is_empty() {
        let _ = writeln!(text, "options {}", config.dns_options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::config::ContainerId;

    fn config(network: NetworkUse) -> ContainerConfig {
        let mut config = crate::containers::directory::tests::config(&"a".repeat(64), "name");
        config.network = network;
        config
    }

    fn endpoint(ipv4: &str, ipv6: Option<&str>) -> Endpoint {
        Endpoint {
            network: "net".to_owned(),
            network_id: String::new(),
            interface: "eth0".to_owned(),
            mac: String::new(),
            ipv4: Some((ipv4.parse().unwrap(), 16)),
            ipv6: ipv6.map(|address| (address.parse().unwrap(), 64)),
            gateway: None,
            gateway6: None,
            names: Vec::new(),
        }
    }

    #[test]
    fn hosts_has_the_container_and_who_was_asked_for() {
        assert_eq!(config(NetworkUse::None).id, ContainerId("a".repeat(64)));
        let endpoints = [endpoint("172.18.0.2", Some("fd00::2"))];
        let surroundings = Surroundings { endpoints: &endpoints, ..Surroundings::default() };
        let mut config = config(NetworkUse::Networks { attached: Vec::new() });
        config.domainname = Some("example.test".to_owned());
        let text = hosts(&config, "box", &surroundings);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(
            text.ends_with("172.18.0.2\tbox.example.test box\nfd00::2\tbox.example.test box\n"),
            "{text}"
        );

        let dir = std::env::temp_dir().join(format!("wharf-files-{}", std::process::id()));
        config.extra_hosts =
            vec![("db".to_owned(), "10.0.0.9".to_owned()), ("host".to_owned(), HOST_GATEWAY.to_owned())];
        let refused = write(&dir, &config, "box", &surroundings).unwrap_err().to_string();
        assert!(refused.contains("no address that the container reaches"), "{refused}");
        let host = Some("172.18.0.1".parse().unwrap());
        write(&dir, &config, "box", &Surroundings { host, ..surroundings }).unwrap();
        let text = fs::read_to_string(dir.join("hosts")).unwrap();
        assert!(text.ends_with("10.0.0.9\tdb\n172.18.0.1\thost\n"), "{text}");
        assert_eq!(fs::read_to_string(dir.join("hostname")).unwrap(), "box\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_resolver_is_told_what_was_asked_for() {
        let own = "search a.test b.test\nnameserver 10.0.0.1\noptions edns0\n";
        let check = |dns: &[&str], search: &[&str], options: &[&str], network: &[&str], expected: &str| {
            let addresses =
                |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let mut config = config(NetworkUse::None);
            (config.dns, config.dns_search, config.dns_options) =
                (addresses(dns), texts(search), texts(options));
            assert_eq!(resolv_conf(own, &config, &addresses(network)), expected);
        };
        check(&[], &[], &[], &[], own);
        check(&["1.1.1.1"], &[], &[], &[], "search a.test b.test\noptions edns0\nnameserver 1.1.1.1\n");
        check(
            &["1.1.1.1"],
            &["c.test"],
            &["ndots:2"],
            &["127.0.0.11"],
            "nameserver 127.0.0.11\nsearch c.test\noptions ndots:2\n",
        );
        check(&[], &["."], &[], &[], "nameserver 10.0.0.1\noptions edns0\n");
    }
}
