//! `--filter` of lists of containers.

use crate::containers::config::{MountKind, NetworkUse, PortUse};
use crate::containers::engine::{Container, Engine};
use crate::containers::state::HealthStatus;
use crate::error::{Failure, Kind};
use crate::registry::Reference;

/// What is asked for with `--filter`. Of several of one name one is enough, but all labels are needed; of different names all
/// are.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter {
    key: &'static str,
    value: String,
    /// When the container that is named was made.
    time: Option<i64>,
}

const KEYS: [&str; 13] = [
    "ancestor", "before", "exited", "expose", "health", "id", "label", "name", "network", "publish", "since",
    "status", "volume",
];

const STATUSES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

impl Filters {
    pub(super) fn parse(texts: &[String], engine: &Engine) -> Result<Self, Failure> {
        texts.iter().map(|text| Filter::parse(text, engine)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it is about containers that do not run.
    pub(super) fn names_a_state(&self) -> bool {
        self.0.iter().any(|filter| matches!(filter.key, "status" | "exited"))
    }

    pub(super) fn admit(&self, container: &Container) -> bool {
        KEYS.iter().all(|key| {
            let mut of_key = self.0.iter().filter(|filter| filter.key == *key).peekable();
            match *key {
                "label" => of_key.all(|filter| filter.admits(container)),
                _ => of_key.peek().is_none() || of_key.any(|filter| filter.admits(container)),
            }
        })
    }
}

impl Filter {
    fn parse(text: &str, engine: &Engine) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::new(Kind::Usage, format!("--filter `{text}`: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE".to_owned()))?;
        let known = KEYS.into_iter().find(|known| *known == key);
        let key = known.ok_or_else(|| wrong(format!("there are {}", KEYS.join(", "))))?;
        let mut time = None;
        match key {
            "status" if !STATUSES.contains(&value) => {
                return Err(wrong(format!("it is one of {}", STATUSES.join(", "))));
            }
            "health" if !HEALTHS.contains(&value) => {
                return Err(wrong(format!("it is one of {}", HEALTHS.join(", "))));
            }
            "exited" if value.parse::<u8>().is_err() => return Err(wrong("it is an exit status".to_owned())),
            "before" | "since" => time = Some(engine.find(value)?.config.created),
            _ => {}
        }
        Ok(Self { key, value: value.to_owned(), time })
    }

    fn admits(&self, container: &Container) -> bool {
        let Container { config, state } = container;
        let value = self.value.as_str();
        match self.key {
            "ancestor" => is_of_image(container, value),
            "before" => self.time.is_some_and(|time| config.created < time),
            "since" => self.time.is_some_and(|time| config.created > time),
            "exited" => {
                state.finished.is_some() && !state.status.is_up() && value.parse() == Ok(state.exit_code)
            }
            "expose" => config.exposed.iter().any(|port| is_port(value, port)),
            "publish" => config.ports.iter().any(|port| publishes(port, value)),
            "health" => {
                let health = state.health.as_ref().map_or("none", |health| health_name(health.status));
                health == value
            }
            "id" => config.id.0.starts_with(value),
            "label" => match value.split_once('=') {
                Some((name, value)) => config.labels.get(name).is_some_and(|found| found == value),
                None => config.labels.contains_key(value),
            },
            "name" => is_like(&config.name, value),
            "network" => networks(container).any(|network| network == value),
            "status" => state.status.name() == value,
            _ => config.mounts.iter().any(|mount| {
                let is_volume = matches!(&mount.kind, MountKind::Volume { name, .. } if name == value);
                is_volume || mount.target.to_str() == Some(value)
            }),
        }
    }
}

/// How a container is, in one word.
pub(super) fn health_name(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// The networks that a container is part of.
pub(super) fn networks(container: &Container) -> impl Iterator<Item = &str> {
    let (attached, alone) = match &container.config.network {
        NetworkUse::Networks { attached } => (attached.as_slice(), None),
        NetworkUse::None => (&[][..], Some("none")),
        NetworkUse::Host => (&[][..], Some("host")),
        NetworkUse::Container { .. } => (&[][..], None),
    };
    attached.iter().map(|attachment| attachment.network.as_str()).chain(alone)
}

/// A part of a name; `^` and `$` are its ends, with or without the slash that Docker has there.
fn is_like(name: &str, pattern: &str) -> bool {
    let (starts, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (ends, pattern) = match pattern.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (starts, ends) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

/// By name, with a tag or without one, or by digits.
fn is_of_image(container: &Container, value: &str) -> bool {
    let image = &container.config.image;
    let names = |text: &str| text.parse::<Reference>().ok().map(|reference| reference.to_string());
    let digits = value.strip_prefix("sha256:").unwrap_or(value);
    let starts = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).starts_with(digits);
    image.name == value
        || names(&image.name).is_some_and(|name| Some(name) == names(value))
        || digits.len() >= 4 && (starts(&image.digest) || starts(&image.manifest) || starts(&image.name))
}

/// `80`, `80/tcp`, `80-90/tcp`.
fn is_port(wanted: &str, port: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Some((number, of)), Ok(first), Ok(last)) =
        (port.split_once('/'), first.parse::<u16>(), last.parse::<u16>())
    else {
        return false;
    };
    of == protocol && number.parse::<u16>().is_ok_and(|number| (first..=last).contains(&number))
}

fn publishes(port: &PortUse, wanted: &str) -> bool {
    let of_host = format!("{}/{}", port.host, port.protocol);
    let of_container = format!("{}/{}", port.container, port.protocol);
    port.host != 0 && is_port(wanted, &of_host) || is_port(wanted, &of_container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports() {
        for (name, pattern, expected) in [
            ("web-1", "web", true),
            ("web-1", "eb-", true),
            ("web-1", "^web$", false),
            ("web-1", "^/web-1$", true),
            ("web-1", "1$", true),
            ("web-1", "^eb", false),
        ] {
            assert_eq!(is_like(name, pattern), expected, "{name} {pattern}");
        }
        for (wanted, port, expected) in [
            ("80", "80/tcp", true),
            ("80/udp", "80/tcp", false),
            ("70-90", "80/tcp", true),
            ("81-90", "80/tcp", false),
            ("x", "80/tcp", false),
        ] {
            assert_eq!(is_port(wanted, port), expected, "{wanted} {port}");
        }
    }
}
