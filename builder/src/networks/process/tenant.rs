//! What one container has of networks, ports and names: made for a connection, taken away with it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use wharf_runtime::{Forward, NameServer, Plug, Published, Servers, remove_interfaces, set_gateways};

use super::addresses::{choose, mac_of, parse_mac, show_mac};
use super::names::{Answers, Member};
use super::ports::{Kept, keep};
use super::proxy::{Port, Proxy};
use super::{Holder, Live, failed};
use crate::containers::config::{Attachment, Protocol, SHORT_ID};
use crate::containers::state::Endpoint;
use crate::error::{Failure, Kind};
use crate::networks::protocol::{AttachRequest, Attached};
use crate::networks::record::{HOST, NONE};

/// The port of name servers.
const NAMES_PORT: u16 = 53;

/// Networks of one container at most.
const NETWORKS_MAX: usize = 64;

/// A container, as far as networks go. Dropping it takes everything away.
#[derive(Debug)]
pub(super) struct Tenant<'a> {
    holder: &'a Holder,
    /// A number that nobody else has.
    number: u64,
    request: AttachRequest,
    namespace: OwnedFd,
    places: Vec<Place>,
    publication: Publication,
    name_server: Option<NameServer>,
    notes: Vec<String>,
}

/// Its part of a network.
#[derive(Debug)]
struct Place {
    attachment: Attachment,
    endpoint: Endpoint,
    /// The router's end of the wire.
    port: String,
    internal: bool,
}

/// The ports that this host answers on for it.
#[derive(Debug, Default)]
struct Publication {
    /// The addresses that they lead to.
    targets: Vec<IpAddr>,
    _rules: Option<Published>,
    _proxy: Option<Proxy>,
    kept: Vec<Kept>,
}

impl<'a> Tenant<'a> {
    /// Puts a container on its networks, or on none if that fails.
    pub(super) fn attach(
        holder: &'a Holder,
        number: u64,
        request: AttachRequest,
        namespace: OwnedFd,
    ) -> Result<Self, Failure> {
        let attachments = request.attachments.clone();
        let mut tenant = Self {
            holder,
            number,
            request,
            namespace,
            places: Vec::new(),
            publication: Publication::default(),
            name_server: None,
            notes: Vec::new(),
        };
        // Those that a killed process made may not have gone yet.
        let old = tenant.request.previous.iter().map(|endpoint| endpoint.interface.as_str());
        remove_interfaces(tenant.namespace.as_fd(), &old.collect::<Vec<_>>())
            .map_err(|error| failed("cannot put the container on its networks again", &error))?;
        for attachment in &attachments {
            tenant.place(attachment)?;
        }
        tenant.lead_out()?;
        let answers = Arc::new(Answers::new(holder.registry.clone(), number));
        let servers = match tenant.request.dns.as_slice() {
            [] => Servers::OfHost(holder.servers()),
            own => Servers::OfThoseInside(own.iter().map(|server| (*server, NAMES_PORT).into()).collect()),
        };
        let name_server = NameServer::start(tenant.namespace.as_fd(), answers, servers)
            .map_err(|error| failed("cannot answer the container's questions for names", &error))?;
        tenant.name_server = Some(name_server);
        tenant.publish()?;
        Ok(tenant)
    }

    /// What it has.
    pub(super) fn attached(&self) -> Attached {
        let state = self.holder.lock();
        // The router passes on what is sent to its own address.
        let has_host = state.router.as_ref().is_some_and(|router| router.host().is_some());
        let gateway = self.in_order().find_map(|place| place.endpoint.gateway.map(IpAddr::from));
        Attached {
            endpoints: self.in_order().map(|place| place.endpoint.clone()).collect(),
            ports: self.publication.kept.iter().map(|kept| kept.bound.clone()).collect(),
            dns: vec![NameServer::ADDRESS.into()],
            host: gateway.filter(|_| has_host),
            notes: self.notes.iter().chain(&state.note).cloned().collect(),
        }
    }

    /// Puts it on one more network.
    pub(super) fn connect(&mut self, attachment: &Attachment) -> Result<(), Failure> {
        self.place(attachment)?;
        let done = self.lead_out().and_then(|()| self.publish());
        if done.is_err() {
            self.leave(&attachment.network);
            // What it had before it has again, or the connection ends.
            self.lead_out().and_then(|()| self.publish())?;
        }
        done
    }

    /// Takes it off one.
    pub(super) fn disconnect(&mut self, network: &str) -> Result<(), Failure> {
        if !self.places.iter().any(|place| place.endpoint.network == network) {
            let message = format!("the container `{}` is not on the network `{network}`", self.request.name);
            return Err(Failure::new(Kind::Usage, message));
        }
        self.leave(network);
        self.lead_out()?;
        self.publish()
    }

    /// It has another name now.
    pub(super) fn rename(&mut self, name: String) {
        self.request.name = name;
        for at in 0..self.places.len() {
            let names = self.names(&self.places[at].attachment);
            let place = &mut self.places[at];
            if !place.endpoint.names.is_empty() {
                self.holder.registry.lock().rename(&place.endpoint.network, self.number, &names);
                place.endpoint.names = names;
            }
        }
        self.holder.lock().tell_name(self.number, &self.request.name);
    }

    /// Puts it on a network.
    fn place(&mut self, attachment: &Attachment) -> Result<(), Failure> {
        let name = attachment.network.as_str();
        let usage = |message: String| Failure::new(Kind::Usage, message);
        if [HOST, NONE].contains(&name) {
            return Err(usage(format!("the network `{name}` cannot be one of several")));
        }
        if self.places.iter().any(|place| place.endpoint.network == name) {
            return Err(usage(format!(
                "the container `{}` is on the network `{name}` already",
                self.request.name
            )));
        }
        if self.places.len() >= NETWORKS_MAX {
            return Err(usage(format!("a container can be on {NETWORKS_MAX} networks at most")));
        }
        let mut state = self.holder.lock();
        let live = state.live(self.holder, name)?;
        let plan = self.plan(attachment, live)?;
        let Live { network, bridge, .. } = live;
        let (network, bridge) = (network.clone(), bridge.clone());
        let router = state.router(self.holder)?;
        let port = router
            .plug(&bridge, self.namespace.as_fd(), &plan.plug)
            .map_err(|error| failed(&format!("cannot put the container on the network `{name}`"), &error))?;
        let names = if network.has_names() { self.names(attachment) } else { Vec::new() };
        let addresses: Vec<IpAddr> = plan.plug.addresses.iter().map(|(address, _)| *address).collect();
        state.take(&network, self.number, &self.request.name, &addresses);
        drop(state);
        let member = Member { tenant: self.number, names: names.clone(), addresses };
        self.holder.registry.lock().enter(&network, member);
        let internal = network.internal;
        let endpoint = Endpoint { names, ..plan.endpoint };
        self.places.push(Place { attachment: attachment.clone(), endpoint, port, internal });
        Ok(())
    }

    /// Decides which addresses it has on a network, and what its interface is called.
    fn plan(&self, attachment: &Attachment, live: &Live) -> Result<Plan, Failure> {
        let network = &live.network;
        let before = self.request.previous.iter().find(|it| it.network_id == network.id);
        let mut endpoint = Endpoint {
            network: network.name.clone(),
            network_id: network.id.clone(),
            interface: String::new(),
            mac: String::new(),
            ipv4: None,
            ipv6: None,
            gateway: None,
            gateway6: None,
            names: Vec::new(),
        };
        let taken: BTreeSet<IpAddr> = live.taken().collect();
        let mut addresses = Vec::new();
        for (ipv6, asked) in
            [(false, attachment.ipv4.map(IpAddr::from)), (true, attachment.ipv6.map(IpAddr::from))]
        {
            let Some(subnet) = network.subnet(ipv6) else {
                if let Some(asked) = asked {
                    let message = format!("the network `{}` has no subnet for {asked}", network.name);
                    return Err(Failure::new(Kind::Usage, message));
                }
                continue;
            };
            let had = before.and_then(|it| match ipv6 {
                false => it.ipv4.map(|(address, _)| address.into()),
                true => it.ipv6.map(|(address, _)| address.into()),
            });
            let address = choose(subnet, asked, had, &taken).map_err(|mut failure| {
                let doing = format!("cannot put the container on the network `{}`", network.name);
                failure.message = format!("{doing}: {}", failure.message);
                failure
            })?;
            addresses.push((address, subnet.subnet.bits()));
            match (address, subnet.gateway) {
                (IpAddr::V4(address), IpAddr::V4(gateway)) => {
                    endpoint.ipv4 = Some((address, subnet.subnet.bits()));
                    endpoint.gateway = (!network.internal).then_some(gateway);
                }
                (IpAddr::V6(address), IpAddr::V6(gateway)) => {
                    endpoint.ipv6 = Some((address, subnet.subnet.bits()));
                    endpoint.gateway6 = (!network.internal).then_some(gateway);
                }
                _ => {}
            }
        }
        let mac = match (&attachment.mac, endpoint.ipv4) {
            (Some(text), _) => parse_mac(text)?,
            (None, Some((address, _))) => mac_of(address),
            // As good as any: those with the bit of their own making.
            (None, None) => [0x02, 0x42, 0, 0, (self.number >> 8) as u8, self.number as u8],
        };
        let is_free = |name: &String| !self.places.iter().any(|place| place.endpoint.interface == *name);
        let interface = (0..).map(|number| format!("eth{number}")).find(is_free).unwrap_or_default();
        endpoint.interface = interface.clone();
        endpoint.mac = show_mac(mac);
        Ok(Plan { plug: Plug { interface, mac, addresses }, endpoint })
    }

    /// What it is called on a network.
    fn names(&self, attachment: &Attachment) -> Vec<String> {
        let short = self.request.container.get(..SHORT_ID).unwrap_or(&self.request.container);
        let mut names = vec![self.request.name.clone()];
        for name in attachment.aliases.iter().map(String::as_str).chain([short]) {
            if !name.is_empty() && !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// Its networks, the one that it has its way out through first.
    fn in_order(&self) -> impl Iterator<Item = &Place> {
        let (out, internal) = (self.places.iter(), self.places.iter());
        out.filter(|place| !place.internal).chain(internal.filter(|place| place.internal))
    }

    /// Has it send what leads nowhere else to the first network with a way out.
    fn lead_out(&self) -> Result<(), Failure> {
        let first = |gateway: fn(&Endpoint) -> Option<IpAddr>| {
            self.in_order()
                .find_map(|place| Some((place.endpoint.interface.as_str(), gateway(&place.endpoint)?)))
        };
        let ipv4 = first(|endpoint| endpoint.gateway.map(IpAddr::from));
        let ipv6 = first(|endpoint| endpoint.gateway6.map(IpAddr::from));
        let gateways: Vec<(&str, IpAddr)> = ipv4.into_iter().chain(ipv6).collect();
        set_gateways(self.namespace.as_fd(), &gateways)
            .map_err(|error| failed("cannot give the container a way out", &error))
    }

    /// Has this host answer on the ports that were asked for, if it does not yet, for the addresses that it has now.
    fn publish(&mut self) -> Result<(), Failure> {
        self.notes.clear();
        if self.request.ports.is_empty() {
            return Ok(());
        }
        let reached = self.in_order().find(|place| !place.internal);
        let Some(place) = reached else {
            self.publication = Publication::default();
            let notes = ["ports are not published: no network of the container has a way out".to_owned()];
            self.notes.extend(notes);
            return Ok(());
        };
        let ipv4 = place.endpoint.ipv4.map(|(address, _)| IpAddr::from(address));
        let ipv6 = place.endpoint.ipv6.map(|(address, _)| IpAddr::from(address));
        let targets: Vec<IpAddr> = ipv4.into_iter().chain(ipv6).collect();
        if targets == self.publication.targets {
            return Ok(());
        }
        let network = place.endpoint.network.clone();
        let mut kept = std::mem::take(&mut self.publication).kept;
        let state = self.holder.lock();
        let live = state.live.get(&network);
        if kept.is_empty() {
            let default = live.and_then(|live| live.network.default_address());
            let held_by = |protocol, port| state.holder_of(protocol, port);
            kept = keep(&self.request.ports, &self.request.previous_ports, default, &held_by)?;
        }
        let target = |kept: &Kept| {
            let same = targets.iter().find(|it| it.is_ipv4() == kept.bound.address.is_ipv4());
            let address = same.or(targets.first()).copied();
            address.map(|address| SocketAddr::new(address, kept.bound.container))
        };
        let router = state.router.as_ref();
        let mut rules = None;
        let is_reached = |to: SocketAddr| {
            live.is_some_and(|live| live.reached.iter().any(|it| it.is_ipv4() == to.is_ipv4()))
        };
        let forwards: Vec<Forward> = kept
            .iter()
            .filter_map(|kept| {
                let from = SocketAddr::new(kept.bound.address, kept.bound.host);
                Some(Forward { udp: kept.bound.protocol == Protocol::Udp, from, to: target(kept)? })
            })
            .filter(|forward| !forward.from.ip().is_loopback() && is_reached(forward.to))
            .collect();
        if let Some(router) = router.filter(|_| !forwards.is_empty()) {
            match router.publish(&format!("wharf-ports-{}-{}", std::process::id(), self.number), &forwards) {
                Ok(published) => rules = Some(published),
                Err(error) => self.notes.push(format!(
                    "the container sees this host's address in place of those of its clients: {}",
                    crate::error::causes(&error)
                )),
            }
        }
        let namespace = router.map(|router| router.namespace().try_clone_to_owned()).transpose();
        let namespace =
            namespace.map_err(|error| failed("cannot publish the ports of the container", &error))?;
        drop(state);
        let ports = kept
            .iter()
            .filter_map(|kept| Some(Port { socket: kept.socket.clone(), to: target(kept)? }))
            .collect();
        let room = &self.holder.room;
        let proxy = namespace.map(|namespace| Proxy::start(ports, namespace, room)).transpose()?;
        self.holder.lock().tell_ports(self.number, &kept);
        self.publication = Publication { targets, _rules: rules, _proxy: proxy, kept };
        Ok(())
    }

    /// Takes it off a network.
    fn leave(&mut self, network: &str) {
        let Some(at) = self.places.iter().position(|place| place.endpoint.network == network) else { return };
        let place = self.places.remove(at);
        self.holder.registry.lock().leave(network, self.number);
        let mut state = self.holder.lock();
        if let Some(router) = &mut state.router {
            router.unplug(&place.port);
        }
        state.give_back(&self.holder.networks, network, self.number);
    }
}

impl Drop for Tenant<'_> {
    fn drop(&mut self) {
        // Nobody is to come in while it goes.
        self.publication = Publication::default();
        self.name_server = None;
        self.holder.lock().tell_ports(self.number, &[]);
        let networks: Vec<String> = self.places.iter().map(|place| place.endpoint.network.clone()).collect();
        for network in networks {
            self.leave(&network);
        }
    }
}

/// What is decided of its part of a network.
struct Plan {
    plug: Plug,
    endpoint: Endpoint,
}
