//! What a service reaches, and what reaches it.

use std::net::IpAddr;

use wharf_frontend::compose::model::{Project, Protocol as ModelProtocol, Service};

use super::{Which, wrong};
use crate::containers::ask::NetworkAsk;
use crate::containers::config::{Attachment, PortUse, Protocol};
use crate::error::Failure;

pub(super) fn network(
    project: &Project,
    which: &Which<'_>,
    service: &Service,
    of_service: &dyn Fn(&str) -> Result<String, Failure>,
) -> Result<NetworkAsk, Failure> {
    if let Some(mode) = &service.network_mode {
        return Ok(match mode.split_once(':') {
            Some(("service", name)) => NetworkAsk::Container(of_service(name)?),
            Some(("container", name)) => NetworkAsk::Container(name.to_owned()),
            _ => match mode.as_str() {
                "none" => NetworkAsk::None,
                "host" => NetworkAsk::Host,
                "bridge" | "default" => NetworkAsk::Default,
                name => NetworkAsk::Networks(vec![Attachment {
                    network: name.to_owned(),
                    ..Attachment::default()
                }]),
            },
        });
    }
    let mut networks: Vec<_> = service.networks.iter().collect();
    // The one with the way out first, then those that are joined first.
    networks.sort_by_key(|(key, said)| {
        let priority =
            said.as_ref().map_or((0, 0), |it| (it.gw_priority.unwrap_or(0), it.priority.unwrap_or(0)));
        (std::cmp::Reverse(priority), *key)
    });
    let linked = linked_as(project, which.service);
    let mut attachments = Vec::new();
    for (place, (key, said)) in networks.into_iter().enumerate() {
        let said = said.clone().unwrap_or_default();
        let name = project.networks.get(key).and_then(|network| network.name.clone());
        let wrong = |what: &str, text: &str| {
            wrong(format!("services.{}.networks.{key}.{what}: {text} is no address", which.service))
        };
        let mut aliases = said.aliases;
        if !which.one_off {
            aliases.push(which.service.to_owned());
            aliases.extend(linked.iter().cloned());
        }
        aliases.sort();
        aliases.dedup();
        // The address of the service is that of its first network.
        let mac = said.mac_address.or_else(|| service.mac_address.clone().filter(|_| place == 0));
        let (v4, v6) = (said.ipv4_address, said.ipv6_address);
        attachments.push(Attachment {
            network: name.unwrap_or_else(|| key.clone()),
            aliases,
            ipv4: v4.map(|text| text.parse().map_err(|_| wrong("ipv4_address", &text))).transpose()?,
            ipv6: v6.map(|text| text.parse().map_err(|_| wrong("ipv6_address", &text))).transpose()?,
            mac,
        });
    }
    Ok(NetworkAsk::Networks(attachments))
}

/// What other services call this one by their links.
pub(super) fn linked_as(project: &Project, service: &str) -> Vec<String> {
    let links = project.services.values().flat_map(|other| &other.links);
    let aliases = links.filter_map(|link| link.split_once(':'));
    let mut aliases: Vec<String> =
        aliases.filter(|(target, _)| *target == service).map(|(_, alias)| alias.to_owned()).collect();
    aliases.sort();
    aliases.dedup();
    aliases
}

pub(super) fn ports(service: &Service, key: &dyn Fn(&str) -> String) -> Result<Vec<PortUse>, Failure> {
    let mut ports = Vec::new();
    for port in &service.ports {
        let protocol = match port.protocol {
            ModelProtocol::Tcp => Protocol::Tcp,
            ModelProtocol::Udp => Protocol::Udp,
            // Named in the warnings.
            ModelProtocol::Sctp => continue,
        };
        let address = port.host_ip.as_deref().filter(|text| !text.is_empty());
        let address = address.map(|text| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            bare.parse().map_err(|_| wrong(format!("{}: {text} is no address", key("ports"))))
        });
        let (host, host_last) = port.published_range().unwrap_or((0, 0));
        ports.push(PortUse {
            container: port.target,
            protocol,
            address: address.transpose()?,
            host,
            host_last,
        });
    }
    Ok(ports)
}

pub(super) fn addresses(texts: &[String], key: &str) -> Result<Vec<IpAddr>, Failure> {
    texts.iter().map(|text| text.parse().map_err(|_| wrong(format!("{key}: {text} is no address")))).collect()
}
