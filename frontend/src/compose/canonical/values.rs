//! Values with a syntax of their own: each check returns the canonical text, or what must be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::diagnostic::excerpt;

type Checked = Result<String, String>;

pub(in super::super) fn as_is(text: &str) -> Checked {
    Ok(text.to_owned())
}

/// Nanoseconds of `1h5m30s20ms`.
pub(in super::super) fn parse_duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
        ("w", 604_800_000_000_000),
    ];
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number = rest.find(|char: char| char != '.' && !char.is_ascii_digit())?;
        let (number, after) = rest.split_at(number);
        let unit = after.find(|char: char| char == '.' || char.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = if fraction.is_empty() {
            0
        } else {
            let fraction: f64 = format!("0.{fraction}").parse().ok()?;
            (fraction * *scale as f64).round() as u64
        };
        total = total.checked_add(whole.checked_mul(*scale)?)?.checked_add(fraction)?;
        rest = after;
    }
    // As many as a signed 64-bit number holds, some 292 years.
    (!text.is_empty() && i64::try_from(total).is_ok()).then_some(total)
}

/// The duration as Go writes it: `1m30s`, `2m0s`, `500ms`.
pub(in super::super) fn format_duration(nanoseconds: u64) -> String {
    let fraction = |value: u64, unit: u64, digits: usize| {
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanoseconds, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanoseconds, 1_000_000, 6)),
        _ => {
            const MINUTE: u64 = 60_000_000_000;
            let seconds = fraction(nanoseconds % MINUTE, 1_000_000_000, 9);
            let minutes = nanoseconds / MINUTE;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

pub(in super::super) fn duration(text: &str) -> Checked {
    parse_duration(text)
        .map(format_duration)
        .ok_or_else(|| format!("must be a duration such as 1m30s or 500ms, not \"{}\"", excerpt(text)))
}

/// Bytes of `512m`, `1.5gb`, `1024`; -1 for no limit.
pub(in super::super) fn parse_bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "-1" {
        return Some(-1);
    }
    let number = text.find(|char: char| char != '.' && !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        "p" | "pb" | "pi" | "pib" => 50,
        _ => return None,
    };
    let scale = 1i64 << shift;
    match number.split_once('.') {
        None => number.parse::<i64>().ok()?.checked_mul(scale),
        Some(_) => {
            let value = number.parse::<f64>().ok()? * scale as f64;
            (value < i64::MAX as f64).then_some(value as i64)
        }
    }
}

pub(in super::super) fn bytes(text: &str) -> Checked {
    parse_bytes(text)
        .map(|bytes| bytes.to_string())
        .ok_or_else(|| format!("must be a size such as 512m or 1gb, not \"{}\"", excerpt(text)))
}

/// A number of microseconds, or a duration.
pub(in super::super) fn microseconds(text: &str) -> Checked {
    if text.parse::<i64>().is_ok() {
        return Ok(text.to_owned());
    }
    let nanoseconds = parse_duration(text).ok_or_else(|| {
        format!("must be a number of microseconds or a duration, not \"{}\"", excerpt(text))
    })?;
    Ok((nanoseconds / 1_000).to_string())
}

pub(in super::super) fn pull_policy(text: &str) -> Checked {
    const KNOWN: [&str; 7] = ["always", "never", "missing", "build", "refresh", "daily", "weekly"];
    let every = text.strip_prefix("every_").is_some_and(|every| {
        !every.is_empty()
            && !every.contains('.')
            && every.ends_with(['w', 'd', 'h', 'm', 's'])
            && parse_duration(every).is_some()
    });
    match text {
        "if_not_present" => Ok("missing".to_owned()),
        _ if every || KNOWN.contains(&text) => Ok(text.to_owned()),
        _ => Err(format!(
            "must be one of always, never, missing, if_not_present, build, refresh, daily, weekly, every_12h, not \"{}\"",
            excerpt(text)
        )),
    }
}

pub(in super::super) fn restart(text: &str) -> Checked {
    let (policy, retries) = match text.split_once(':') {
        Some((policy, retries)) => (policy, Some(retries)),
        None => (text, None),
    };
    let known = match (policy, retries) {
        // What YAML 1.1 makes of `no` without quotes.
        ("false", None) => return Ok("no".to_owned()),
        ("no" | "always" | "on-failure" | "unless-stopped", None) => true,
        ("on-failure", Some(retries)) => retries.parse::<u32>().is_ok(),
        _ => false,
    };
    match known {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "must be one of no, always, on-failure, on-failure:N, unless-stopped, not \"{}\"",
            excerpt(text)
        )),
    }
}

pub(in super::super) fn container_name(text: &str) -> Checked {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
    let starts = text.chars().next().is_some_and(|char| char.is_ascii_alphanumeric());
    if starts && text.len() > 1 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be two or more letters, digits, _ . or -, of which the first is a letter or a digit, not \"{}\"",
        excerpt(text)
    ))
}

pub(in super::super) fn project_name(text: &str) -> Checked {
    let allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_-".contains(char);
    let starts = text.chars().next().is_some_and(|char| char.is_ascii_lowercase() || char.is_ascii_digit());
    if starts && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be lower-case letters, digits, _ and -, of which the first is a letter or a digit, not \"{}\"",
        excerpt(text)
    ))
}

pub(in super::super) fn profile(text: &str) -> Checked {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
    let starts = text.chars().next().is_some_and(|char| char.is_ascii_alphanumeric());
    if starts && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("must be letters, digits, _ . and -, not \"{}\"", excerpt(text)))
}

pub(in super::super) fn ip(text: &str) -> Checked {
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match address.parse::<IpAddr>() {
        Ok(_) => Ok(address.to_owned()),
        Err(_) => Err(format!("must be an address, not \"{}\"", excerpt(text))),
    }
}

pub(in super::super) fn ipv4(text: &str) -> Checked {
    match text.parse::<Ipv4Addr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("must be an IPv4 address, not \"{}\"", excerpt(text))),
    }
}

pub(in super::super) fn ipv6(text: &str) -> Checked {
    match text.parse::<Ipv6Addr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("must be an IPv6 address, not \"{}\"", excerpt(text))),
    }
}

pub(in super::super) fn subnet(text: &str) -> Checked {
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    match valid {
        true => Ok(text.to_owned()),
        false => Err(format!("must be a network such as 172.20.0.0/24, not \"{}\"", excerpt(text))),
    }
}

/// A port or `first-last`, as numbers.
pub(in super::super) fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last),
    }
}

pub(in super::super) fn published(text: &str) -> Checked {
    match port_range(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("must be a port or a range of ports, not \"{}\"", excerpt(text))),
    }
}

pub(in super::super) fn exposed(text: &str) -> Checked {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if port_range(ports).is_some() && matches!(protocol, "tcp" | "udp" | "sctp") {
        return Ok(text.to_owned());
    }
    Err(format!("must be a port such as 3000, 3000-3005 or 53/udp, not \"{}\"", excerpt(text)))
}

/// `path` from `base`, `~` by `home`, without `.` and `..`.
pub(in super::super) fn absolute(base: &str, home: Option<&str>, path: &str) -> String {
    let at_home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let joined = match (at_home, home) {
        (Some(rest), Some(home)) => format!("{home}{rest}"),
        _ if path.starts_with('/') => path.to_owned(),
        _ => format!("{base}/{path}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if joined.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    let root = if joined.starts_with('/') { "/" } else { "" };
    match (root, parts.is_empty()) {
        ("", true) => ".".to_owned(),
        _ => format!("{root}{}", parts.join("/")),
    }
}

/// The directory a file is in.
pub(in super::super) fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
        None => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1h5m30s20ms", Some("1h5m30.02s")),
            ("90s", Some("1m30s")),
            ("2m", Some("2m0s")),
            ("1h", Some("1h0m0s")),
            ("1.5h", Some("1h30m0s")),
            ("500ms", Some("500ms")),
            ("1500us", Some("1.5ms")),
            ("1d", Some("24h0m0s")),
            ("0", Some("0s")),
            ("0s", Some("0s")),
            ("30", None),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("1y", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(duration(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("512m", Some(512 << 20)),
            ("1gb", Some(1 << 30)),
            ("1GiB", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            ("50 k", Some(50 << 10)),
            ("2b", Some(2)),
            ("-1", Some(-1)),
            ("-2", None),
            ("", None),
            ("m", None),
            ("1x", None),
            ("99999999999999999999g", None),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn paths() {
        for (base, path, expected) in [
            ("/p", ".", "/p"),
            ("/p", "./a/../b/", "/p/b"),
            ("/p", "../../..", "/"),
            ("/p", "/x/./y", "/x/y"),
            ("/p", "~/x", "/home/me/x"),
            ("/p", "~x", "/p/~x"),
            ("p", "../../q", "../q"),
            ("p", "..", "."),
        ] {
            assert_eq!(absolute(base, Some("/home/me"), path), expected, "{base} {path}");
        }
    }
}
