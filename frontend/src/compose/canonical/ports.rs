//! `[[ip:]host:]container[/protocol]`, of which each may be a range.

use super::super::node::{Map, Node, Path, Value};
use super::Cx;
use super::values::{ip, port_range};
use crate::diagnostic::excerpt;

/// The long form of each port that an entry stands for.
pub(in super::super) fn spread(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Vec<Node> {
    let text = match &node.value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.text.clone(),
        Value::Map(map) => return long_form(node.clone(), map, path, cx),
        _ => {
            let message = format!("must be a port or a mapping, and this is {}", node.kind());
            cx.refuse::<()>(node.place, path, &message);
            return Vec::new();
        }
    };
    match parse(&text) {
        Ok(ports) => ports.into_iter().map(|port| port.into_node(&node)).collect(),
        Err(reason) => {
            cx.problems.error(node.place, format!("{path}: \"{}\" {reason}", excerpt(&text))).hint = Some(
                "ports are written [[address:]host:]container[/tcp|udp], each a number or a range".into(),
            );
            Vec::new()
        }
    }
}

/// A long form with a range as its target stands for several too.
fn long_form(node: Node, map: &Map, path: &Path<'_>, cx: &mut Cx<'_>) -> Vec<Node> {
    let target = map.get("target").and_then(Node::as_str);
    let Some((first, last)) = target.filter(|target| target.contains('-')).and_then(port_range) else {
        return vec![node];
    };
    let published = map.get("published").and_then(Node::as_str).and_then(port_range);
    if published.is_some_and(|(from, to)| to - from != last - first) {
        cx.refuse::<()>(node.place, path, "publishes a range of another length than its target");
        return Vec::new();
    }
    (first..=last)
        .map(|port| {
            let mut map = map.clone();
            map.set("target", Node::integer(i64::from(port), node.place));
            if let Some((from, _)) = published {
                map.set("published", Node::string((from + (port - first)).to_string(), node.place));
            }
            Node::new(Value::Map(map), node.place)
        })
        .collect()
}

struct Port {
    host_ip: Option<String>,
    published: Option<String>,
    target: u16,
    protocol: String,
}

impl Port {
    fn into_node(self, written: &Node) -> Node {
        let place = written.place;
        let mut map = Map::default();
        map.set("mode", Node::string("ingress", place));
        map.set("target", Node::integer(i64::from(self.target), place));
        map.set("protocol", Node::string(self.protocol, place));
        if let Some(published) = self.published {
            map.set("published", Node::string(published, place));
        }
        if let Some(host_ip) = self.host_ip {
            map.set("host_ip", Node::string(host_ip, place));
        }
        Node::new(Value::Map(map), place)
    }
}

fn parse(text: &str) -> Result<Vec<Port>, String> {
    let (addresses, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("has the protocol \"{}\"", excerpt(&protocol)));
    }
    let (rest, container) = match addresses.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, addresses),
    };
    let (first, last) =
        port_range(container).filter(|(first, _)| *first > 0).ok_or("has no port of the container")?;
    let (host_ip, published) = match rest {
        None => (None, None),
        // An address of the sixth version has colons of its own.
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, published)) => (Some(ip(address)?), Some(published)),
            None => (None, Some(rest)),
        },
    };
    // `127.0.0.1::80` leaves the port to chance.
    let published = match published {
        None | Some("") => None,
        Some(text) => Some(port_range(text).ok_or("has no port of the host")?),
    };
    let published_for = |index: u16| match published {
        None => Ok(None),
        Some((from, to)) if to - from == last - first => Ok(Some((from + index).to_string())),
        // Any of them will do.
        Some((from, to)) if first == last => Ok(Some(format!("{from}-{to}"))),
        Some(_) => Err("has ranges of different lengths".to_owned()),
    };
    (0..=last - first)
        .map(|index| {
            Ok(Port {
                host_ip: host_ip.clone(),
                published: published_for(index)?,
                target: first + index,
                protocol: protocol.clone(),
            })
        })
        .collect()
}
