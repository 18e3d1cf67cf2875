//! EXPOSE: `port[/proto]`, ranges, and `ip:host:port` of which only the container's port counts.

use std::net::IpAddr;

use super::stage::Stage;
use super::{Converter, go_format, history, words};
use crate::Diagnostic;
use crate::image::Empty;
use crate::parser::Token;
use crate::shell::Lex;

/// Ports of one instruction: every port of the three protocols and some.
const PORTS_MAX: usize = 4 * 65_536;

/// What a port takes in a config besides its name in the history.
const PORT_BYTES: usize = 64;

impl Converter<'_> {
    /// EXPOSE: words are sorted as written, then expanded; one may give several ports. All that are wrong are told.
    pub(super) fn expose(&mut self, stage: &mut Stage, tokens: &[Token]) -> Result<(), Diagnostic> {
        let mut sorted: Vec<&Token> = tokens.iter().collect();
        sorted.sort_by(|left, right| left.text.cmp(&right.text));
        let mut ports = Vec::new();
        let told = self.problems.len();
        for token in sorted {
            let before = ports.len();
            match self.ports_of(stage, token, &mut ports) {
                Err(problem) => self.problems.push(problem),
                Ok(()) if ports.len() > PORTS_MAX => {
                    let message = format!("EXPOSE of more than {PORTS_MAX} ports");
                    return Err(Diagnostic::error(token.span.clone(), message));
                }
                Ok(()) => stage.bytes += (ports.len() - before) * PORT_BYTES,
            }
        }
        if self.problems.len() > told {
            return Ok(());
        }
        let exposed = stage.config.config.exposed_ports.get_or_insert_default();
        exposed.extend(ports.iter().map(|port| (port.clone(), Empty {})));
        history::metadata(stage, format!("EXPOSE {}", go_format::list(&ports)));
        Ok(())
    }

    fn ports_of(&self, stage: &Stage, token: &Token, ports: &mut Vec<String>) -> Result<(), Diagnostic> {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let lex = Lex { escape: self.dockerfile.escape, lookup: &lookup };
        for word in lex.words(&token.text).map_err(|error| words::at(token, &error))? {
            let parsed = parse(&word);
            let (range, protocol) =
                parsed.map_err(|message| Diagnostic::error(token.span.clone(), message))?;
            ports.extend(range.map(|port| format!("{port}/{protocol}")));
            if ports.len() > PORTS_MAX {
                break;
            }
        }
        Ok(())
    }
}

fn parse(word: &str) -> Result<(std::ops::Range<u32>, String), String> {
    let (address, host, container) = split(word);
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(format!("no port specified: {word}"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        protocol @ ("tcp" | "udp" | "sctp") => protocol.to_owned(),
        other => return Err(format!("invalid proto: {other}")),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    let ports = parse_range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let host_ports = parse_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if host_ports.len() != ports.len() && ports.len() != 1 {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    Ok((ports, protocol))
}

/// Address, host port and container port.
pub(super) fn split(word: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else { return ("", "", word) };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn parse_range(text: &str) -> Option<std::ops::Range<u32>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u16>().ok().map(u32::from) } else { None }
    };
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (number(start)?, number(end)?),
        None => (number(text)?, number(text)?),
    };
    (start <= end).then(|| start..end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed() {
        for (word, expected) in [
            ("80", Ok((80..81, "tcp"))),
            ("53/UDP", Ok((53..54, "udp"))),
            ("8000-8002/sctp", Ok((8000..8003, "sctp"))),
            ("80/", Ok((80..81, "tcp"))),
            ("127.0.0.1:8080:80", Ok((80..81, "tcp"))),
            ("[::1]:8080:80", Ok((80..81, "tcp"))),
            ("8080-8090:80", Ok((80..81, "tcp"))),
            ("", Err("no port specified: ")),
            ("/tcp", Err("no port specified: /tcp")),
            ("80/icmp", Err("invalid proto: icmp")),
            ("80-70", Err("invalid containerPort: 80-70")),
            ("65536", Err("invalid containerPort: 65536")),
            ("+80", Err("invalid containerPort: +80")),
            ("x:80", Err("invalid hostPort: x")),
            ("here:1:80", Err("invalid IP address: here")),
            ("1-3:80-81", Err("invalid ranges specified for container and host Ports: 80-81 and 1-3")),
        ] {
            let expected =
                expected.map(|(range, protocol)| (range, protocol.to_owned())).map_err(str::to_owned);
            assert_eq!(parse(word), expected, "{word}");
        }
    }
}
