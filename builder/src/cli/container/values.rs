//! What the values of flags mean that containers are made with.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wharf_frontend::dockerfile2llb::parse_size;
use wharf_frontend::instructions::parse_duration;

use crate::containers::DEFAULT_NETWORK;
use crate::containers::ask::{NamespaceAsk, NetworkAsk};
use crate::containers::config::{Attachment, LogConfig, PortUse, Protocol, RestartPolicy, Rights};
use crate::csv;
use crate::error::{Failure, Kind};
use crate::worker::spec::LIMITS;

/// Ports that one flag names at most.
const PORTS_MAX: usize = 1 << 16;

/// A flag makes no sense.
pub(super) fn wrong(flag: &str, value: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Usage, format!("{flag} {value}: {why}"))
}

/// `[[ADDRESS:][PORT[-PORT]]:]PORT[-PORT][/PROTOCOL]`.
pub(in crate::cli) fn ports(text: &str) -> Result<Vec<PortUse>, Failure> {
    let bad = |why: &str| {
        wrong("--publish", text, why)
            .hint("it is [[ADDRESS:]PORT:]PORT[/PROTOCOL]: 8080:80, 127.0.0.1:53:53/udp, [::1]:80:80")
    };
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(bad("the protocol is tcp or udp")),
    };
    let (rest, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    // What is left is [ADDRESS:]PORT; an IPv6 address stands in brackets.
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) if !rest.ends_with(']') => (address, host),
        _ if rest.starts_with('[') => (rest, ""),
        _ => ("", rest),
    };
    let address = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
    let address: Option<IpAddr> = match address {
        "" => None,
        text => Some(text.parse().map_err(|_| bad("there is no such address"))?),
    };
    let container = port_range(container).filter(|(first, _)| *first > 0);
    let (first, last) = container.ok_or_else(|| bad("a port is a number from 1 to 65535"))?;
    let use_of = |container, host, host_last| PortUse { container, protocol, address, host, host_last };
    if host.is_empty() {
        return Ok((first..=last).map(|port| use_of(port, 0, 0)).collect());
    }
    let (host, host_last) = port_range(host).ok_or_else(|| bad("a port is a number from 1 to 65535"))?;
    if first == last {
        return Ok(vec![use_of(first, host, host_last)]);
    }
    if last - first != host_last - host {
        return Err(bad("the two ranges have different lengths"));
    }
    Ok((first..=last).zip(host..=host_last).map(|(port, host)| use_of(port, host, host)).collect())
}

/// `80` or `80-90`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// `80`, `53/udp`, `3000-3005`: each port with its protocol.
pub(in crate::cli) fn exposed(text: &str) -> Result<Vec<String>, Failure> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range = port_range(range).filter(|(first, _)| *first > 0);
    match (range, protocol) {
        (Some((first, last)), "tcp" | "udp") => {
            Ok((first..=last).take(PORTS_MAX).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(wrong("--expose", text, "it is PORT[-PORT][/tcp|udp]")),
    }
}

/// All `--network`, and the flags that are about the first of them.
pub(super) fn networks(
    texts: &[String],
    aliases: &[String],
    ip: Option<&str>,
    ip6: Option<&str>,
    mac: Option<&str>,
) -> Result<NetworkAsk, Failure> {
    let mut attached = Vec::new();
    for text in texts {
        let alone = match text.as_str() {
            "none" => Some(NetworkAsk::None),
            "host" => Some(NetworkAsk::Host),
            text => text.strip_prefix("container:").map(|name| NetworkAsk::Container(name.to_owned())),
        };
        match alone {
            Some(ask) if texts.len() == 1 => {
                let is_more = !aliases.is_empty() || ip.is_some() || ip6.is_some() || mac.is_some();
                if is_more {
                    return Err(wrong(
                        "--network",
                        text,
                        "on it a container has no names and addresses of its own",
                    ));
                }
                return Ok(ask);
            }
            Some(_) => return Err(wrong("--network", text, "it cannot be one of several")),
            None => attached.push(attachment(text)?),
        }
    }
    let is_said = !aliases.is_empty() || ip.is_some() || ip6.is_some() || mac.is_some();
    if attached.is_empty() {
        if !is_said {
            return Ok(NetworkAsk::Default);
        }
        attached.push(Attachment { network: DEFAULT_NETWORK.to_owned(), ..Attachment::default() });
    }
    if let Some(first) = attached.first_mut() {
        first.aliases.extend(aliases.iter().cloned());
        if let Some(ip) = ip {
            first.ipv4 = Some(ip.parse().map_err(|_| wrong("--ip", ip, "it is no IPv4 address"))?);
        }
        if let Some(ip) = ip6 {
            first.ipv6 = Some(ip.parse().map_err(|_| wrong("--ip6", ip, "it is no IPv6 address"))?);
        }
        if let Some(mac) = mac {
            first.mac = Some(hardware_address("--mac-address", mac)?);
        }
    }
    Ok(NetworkAsk::Networks(attached))
}

/// `NAME`, or `name=NAME,alias=…,ip=…,ip6=…,mac-address=…`.
fn attachment(text: &str) -> Result<Attachment, Failure> {
    let bad = |why: String| wrong("--network", text, why);
    let named = |name: &str| match name {
        "default" => DEFAULT_NETWORK.to_owned(),
        name => name.to_owned(),
    };
    if !text.contains('=') {
        return Ok(Attachment { network: named(text), ..Attachment::default() });
    }
    let mut attachment = Attachment::default();
    for field in csv::split(text).map_err(|why| bad(why.to_owned()))? {
        let (key, value) = field.split_once('=').ok_or_else(|| bad(format!("`{field}` has no value")))?;
        match key.to_lowercase().as_str() {
            "name" => attachment.network = named(value),
            "alias" => attachment.aliases.push(value.to_owned()),
            "ip" => {
                attachment.ipv4 =
                    Some(value.parse().map_err(|_| bad(format!("`{value}` is no IPv4 address")))?);
            }
            "ip6" => {
                attachment.ipv6 =
                    Some(value.parse().map_err(|_| bad(format!("`{value}` is no IPv6 address")))?);
            }
            "mac-address" => attachment.mac = Some(hardware_address("--network", value)?),
            _ => {
                return Err(bad(format!(
                    "`{key}` is unknown; there are name, alias, ip, ip6 and mac-address"
                )));
            }
        }
    }
    match attachment.network.is_empty() {
        true => Err(bad("it has no name".to_owned())),
        false => Ok(attachment),
    }
}

fn hardware_address(flag: &str, text: &str) -> Result<String, Failure> {
    let bytes = text.split([':', '-']).map(|byte| match byte.len() {
        2 => u8::from_str_radix(byte, 16).ok(),
        _ => None,
    });
    match bytes.collect::<Option<Vec<u8>>>().as_deref() {
        Some(bytes @ [first, _, _, _, _, _]) if first & 1 == 0 => {
            Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
        }
        _ => Err(wrong(flag, text, "a hardware address is six bytes, the first one even: 02:42:ac:11:00:02")),
    }
}

/// `--pid`, `--ipc` and `--uts`.
pub(super) fn namespace(flag: &str, text: Option<&str>) -> Result<NamespaceAsk, Failure> {
    match (flag, text) {
        (_, None | Some("" | "private")) | ("--ipc", Some("shareable")) => Ok(NamespaceAsk::Private),
        (_, Some("host")) => Ok(NamespaceAsk::Host),
        ("--uts", Some(text)) => Err(wrong(flag, text, "it is host or private")),
        (_, Some(text)) => match text.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceAsk::Container(name.to_owned())),
            _ => Err(wrong(flag, text, "it is private, host or container:NAME")),
        },
    }
}

/// `--restart`.
pub(in crate::cli) fn restart(text: Option<&str>) -> Result<RestartPolicy, Failure> {
    let Some(text) = text else { return Ok(RestartPolicy::No) };
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times)),
        None => (text, None),
    };
    let times = times
        .map(|times| times.parse::<u32>().map_err(|_| wrong("--restart", text, "how often is a number")));
    match (name, times.transpose()?) {
        ("" | "no", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        // 0 is without end, as it is for Docker.
        ("on-failure", times) => Ok(RestartPolicy::OnFailure { times: times.filter(|times| *times > 0) }),
        _ => Err(wrong("--restart", text, "it is no, on-failure[:N], always or unless-stopped")),
    }
}

/// A duration that is not negative.
pub(super) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let nanos = parse_duration(text).map_err(|why| wrong(flag, text, why))?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| wrong(flag, text, "it is negative"))
}

/// A size in bytes.
pub(super) fn size(flag: &str, text: &str) -> Result<u64, Failure> {
    parse_size(text).ok_or_else(|| wrong(flag, text, "it is a size such as 512m or 2g"))
}

/// Billionths of processors.
pub(super) fn cpus(text: &str) -> Result<u64, Failure> {
    let bad = || wrong("--cpus", text, "it is a number of processors such as 0.5 or 2");
    let number: f64 = text.parse().map_err(|_| bad())?;
    let nanos = number * 1e9;
    // A processor's smallest share is a hundredth.
    if (1e7..1e15).contains(&nanos) { Ok(nanos as u64) } else { Err(bad()) }
}

/// `NAME=SOFT[:HARD]`.
pub(super) fn ulimit(text: &str) -> Result<(String, i64, i64), Failure> {
    let bad = |why: &str| wrong("--ulimit", text, why);
    let (name, values) = text.split_once('=').ok_or_else(|| bad("it is NAME=SOFT[:HARD]"))?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| match text {
        "unlimited" => Some(-1),
        text => text.parse::<i64>().ok().filter(|number| *number >= -1),
    };
    let (Some(soft), Some(hard)) = (number(soft), number(hard)) else {
        return Err(bad("a limit is a number, or -1 for none"));
    };
    if !LIMITS.iter().any(|(known, _)| *known == name) {
        let known: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
        return Err(bad(&format!("there are {}", known.join(", "))));
    }
    let rank = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    if rank(soft) > rank(hard) {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok((name.to_owned(), soft, hard))
}

/// `PATH[:PATH][:rwm]`.
pub(super) fn device(text: &str) -> Result<(PathBuf, PathBuf, String), Failure> {
    let is_access = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let parts: Vec<&str> = text.split(':').collect();
    let (here, there, access) = match parts[..] {
        [here] => (here, here, "rwm"),
        [here, access] if is_access(access) => (here, here, access),
        [here, there] => (here, there, "rwm"),
        [here, there, access] if is_access(access) => (here, there, access),
        _ => return Err(wrong("--device", text, "it is PATH[:PATH][:rwm]")),
    };
    match Path::new(here).is_absolute() && Path::new(there).is_absolute() {
        true => Ok((here.into(), there.into(), access.to_owned())),
        false => Err(wrong("--device", text, "the paths are not absolute")),
    }
}

/// One `--security-opt`.
pub(in crate::cli) fn security_option(text: &str, rights: &mut Rights) -> Result<(), Failure> {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => rights.no_new_privileges = true,
        ("no-new-privileges", "false") => rights.no_new_privileges = false,
        ("seccomp", "unconfined") => rights.seccomp_unconfined = true,
        ("seccomp", "builtin") => rights.seccomp_unconfined = false,
        ("systempaths", "unconfined") => rights.paths_unconfined = true,
        // So it always is.
        ("apparmor", "unconfined") | ("label", "disable") => {}
        _ => {
            return Err(wrong("--security-opt", text, "it is not known").hint(
                "there are no-new-privileges, seccomp=unconfined, systempaths=unconfined, apparmor=unconfined and label=disable",
            ));
        }
    }
    Ok(())
}

/// `--log-driver` and `--log-opt`.
pub(in crate::cli) fn log(driver: Option<&str>, options: &[(String, String)]) -> Result<LogConfig, Failure> {
    let mut log = LogConfig { none: false, max_size: None, max_file: 1 };
    match driver {
        None | Some("json-file") => {}
        // Files of a limited size are what it is chosen for.
        Some("local") => log = LogConfig { max_size: Some(20 << 20), max_file: 5, ..log },
        Some("none") => log.none = true,
        Some(other) => return Err(wrong("--log-driver", other, "there are json-file, local and none")),
    }
    for (name, value) in options {
        let bad = |why: &str| wrong("--log-opt", &format!("{name}={value}"), why);
        match name.as_str() {
            "max-size" if value == "-1" => log.max_size = None,
            "max-size" => {
                let size = parse_size(value).filter(|size| *size > 0);
                log.max_size = Some(size.ok_or_else(|| bad("it is a size such as 10m"))?);
            }
            "max-file" => {
                let count = value.parse().ok().filter(|count| *count > 0);
                log.max_file = count.ok_or_else(|| bad("it is a number of files, 1 at least"))?;
            }
            _ => return Err(bad("there are max-size and max-file")),
        }
    }
    Ok(log)
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub(in crate::cli) fn extra_host(text: &str) -> Result<(String, String), Failure> {
    let bad = |why: &str| wrong("--add-host", text, why);
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| bad("it is NAME:ADDRESS"))?;
    let address = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(bad("there is no such address"));
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// `NAME=VALUE`; what is without a value is as `without` says.
pub(super) fn pair(flag: &str, text: &str, without: Option<&str>) -> Result<(String, String), Failure> {
    match (text.split_once('='), without) {
        (Some((name, value)), _) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        (None, Some(value)) if !text.is_empty() => Ok((text.to_owned(), value.to_owned())),
        _ => Err(wrong(flag, text, "it is NAME=VALUE")),
    }
}

/// The lines of a file of variables or labels: `NAME=VALUE` or `NAME`; those that begin with `#` are comments.
pub(super) fn file_lines(flag: &str, path: &Path) -> Result<Vec<(String, Option<String>)>, Failure> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::from_error(Kind::Usage, &format!("cannot read {flag} `{shown}`"), &error)
    })?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(flag, &shown, "it is not UTF-8"))?;
    let mut pairs = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong(flag, &shown, format!("line {}: `{name}` is no name", number + 1)));
        }
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let check = |text: &str, expected: &[(u16, u16, u16)]| {
            let found = ports(text).unwrap();
            let found: Vec<_> =
                found.iter().map(|port| (port.container, port.host, port.host_last)).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("80", &[(80, 0, 0)]);
        check("8080:80", &[(80, 8080, 8080)]);
        check(":80", &[(80, 0, 0)]);
        check("127.0.0.1::80", &[(80, 0, 0)]);
        check("8000-8010:80", &[(80, 8000, 8010)]);
        check("8000-8001:80-81/udp", &[(80, 8000, 8000), (81, 8001, 8001)]);
        check("3000-3001", &[(3000, 0, 0), (3001, 0, 0)]);
        check("0:80", &[(80, 0, 0)]);
        let address = |text: &str| ports(text).unwrap()[0].address.map(|address| address.to_string());
        assert_eq!(address("127.0.0.1:53:53/udp").as_deref(), Some("127.0.0.1"));
        assert_eq!(address("[::1]:80:80").as_deref(), Some("::1"));
        assert_eq!(address("[::1]::80").as_deref(), Some("::1"));
        for text in [
            "",
            "0",
            "x",
            "80/sctp",
            "1:2:3",
            "1-2:80-82",
            "65536",
            "9-8:80",
            "localhost:80:80",
            "80:80:80:80",
        ] {
            assert!(ports(text).is_err(), "{text}");
        }
        assert_eq!(exposed("3000-3001/udp").unwrap(), ["3000/udp", "3001/udp"]);
        for text in ["", "0", "1-", "80/x"] {
            assert!(exposed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_and_what_is_said_of_the_first() {
        let ask = |texts: &[&str], aliases: &[&str], ip: Option<&str>| {
            let owned = |texts: &[&str]| texts.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
            networks(&owned(texts), &owned(aliases), ip, None, None)
        };
        assert_eq!(ask(&[], &[], None).unwrap(), NetworkAsk::Default);
        assert_eq!(ask(&["host"], &[], None).unwrap(), NetworkAsk::Host);
        assert_eq!(ask(&["container:a"], &[], None).unwrap(), NetworkAsk::Container("a".to_owned()));
        let NetworkAsk::Networks(attached) =
            ask(&["name=a,alias=x,ip=10.0.0.2,mac-address=02-42-AC-11-00-02", "b"], &["y"], None).unwrap()
        else {
            panic!("networks")
        };
        assert_eq!((attached[0].network.as_str(), attached[1].network.as_str()), ("a", "b"));
        assert_eq!(attached[0].aliases, ["x", "y"]);
        assert_eq!(attached[0].mac.as_deref(), Some("02:42:ac:11:00:02"));
        assert_eq!(attached[0].ipv4, Some([10, 0, 0, 2].into()));
        for (texts, ip) in [
            (&["host", "a"][..], None),
            (&["host"], Some("1.2.3.4")),
            (&["name="], None),
            (&["name=a,x=y"], None),
            (&["name=a,ip=x"], None),
            (&["a"], Some("x")),
            (&["name=a,mac-address=03:42:ac:11:00:02"], None),
        ] {
            assert!(ask(texts, &[], ip).is_err(), "{texts:?}");
        }
    }

    #[test]
    fn small_values() {
        assert_eq!(restart(Some("on-failure:3")).unwrap(), RestartPolicy::OnFailure { times: Some(3) });
        assert_eq!(restart(Some("unless-stopped")).unwrap(), RestartPolicy::UnlessStopped);
        assert!(restart(Some("always:3")).is_err() && restart(Some("on-failure:x")).is_err());
        assert_eq!(cpus("1.5").unwrap(), 1_500_000_000);
        assert!(cpus("0").is_err() && cpus("-1").is_err() && cpus("nan").is_err());
        assert_eq!(ulimit("nofile=1024:2048").unwrap(), ("nofile".to_owned(), 1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap(), ("core".to_owned(), -1, -1));
        assert!(ulimit("nofile").is_err() && ulimit("nofile=2:1").is_err() && ulimit("nofile=-1:1").is_err());
        assert_eq!(device("/dev/a:r").unwrap(), ("/dev/a".into(), "/dev/a".into(), "r".to_owned()));
        assert_eq!(device("/dev/a:/dev/b:rw").unwrap(), ("/dev/a".into(), "/dev/b".into(), "rw".to_owned()));
        assert!(device("a").is_err() && device("/a:/b:x").is_err() && device("").is_err());
        assert_eq!(extra_host("a:::1").unwrap(), ("a".to_owned(), "::1".to_owned()));
        assert_eq!(extra_host("a=host-gateway").unwrap().1, "host-gateway");
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err() && extra_host(":1.2.3.4").is_err());
        assert!(log(Some("none"), &[]).unwrap().none);
        let options = [("max-size".to_owned(), "10k".to_owned()), ("max-file".to_owned(), "3".to_owned())];
        assert_eq!(
            log(None, &options).unwrap(),
            LogConfig { none: false, max_size: Some(10240), max_file: 3 }
        );
        assert!(log(Some("syslog"), &[]).is_err() && log(None, &[("x".to_owned(), String::new())]).is_err());
    }
}
