//! `wharf network …`, and the hidden command that is the network process of a store.

mod show;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::image::told;
use super::place::{Place, Wanted};
use super::with_store;
use crate::containers::config::{Attachment, NetworkUse};
use crate::containers::engine::{Container, Engine};
use crate::error::{Failure, Kind};
use crate::networks::process;
use crate::networks::record::{Network, Networks, NewNetwork, OPTIONS};
use crate::networks::subnet::Subnet;
use crate::progress::{ask, print_note, print_result, print_warning};

/// `wharf network …`.
#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Make a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(show::ListArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Show everything about networks
    Inspect(show::InspectArgs),
    /// Put a container on a network
    Connect(ConnectArgs),
    /// Take a container off a network
    Disconnect(DisconnectArgs),
    /// Remove networks that no container is on
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The driver; there is one: bridge
    #[arg(short, long, value_name = "DRIVER")]
    driver: Option<String>,
    /// A subnet: 172.20.0.0/16, fd00:1::/64; one of each protocol may be given [default: one that is free here]
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<Subnet>,
    /// The gateway of a subnet [default: its first address]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// The part of a subnet that containers get addresses from [default: all of it]
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<Subnet>,
    /// Without a way out of it
    #[arg(long)]
    internal: bool,
    /// With addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// A label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// An option of the driver: com.docker.network.driver.mtu, com.docker.network.bridge.enable_icc,
    /// com.docker.network.bridge.host_binding_ipv4
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// For containers that are started by hand, as every network is: for scripts written for docker
    #[arg(long)]
    attachable: bool,
    /// Its name
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Names, or the first digits of identifiers
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Say nothing of what is not there
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// Another name of the container there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Its address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its address of IPv6
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Name, or the first digits of the identifier
    network: String,
    /// Name, or the first digits of the identifier
    container: String,
}

#[derive(Debug, Args)]
pub(super) struct DisconnectArgs {
    /// Nothing more than without it: for scripts written for docker
    #[arg(short, long)]
    force: bool,
    /// Name, or the first digits of the identifier
    network: String,
    /// Name, or the first digits of the identifier
    container: String,
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Only what is so: until=24h or TIME (made before), label=KEY[=VALUE], label!=KEY[=VALUE]; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// The process that holds the networks of a store.
#[derive(Debug, Args)]
pub(super) struct ProcessArgs {
    /// The sandbox has been entered
    #[arg(long)]
    here: bool,
}

pub(super) fn network(command: NetworkCommand, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let place = Place::enter(wanted)?;
    let done = with_store(&place, |store| {
        let networks = Networks::of(store.root());
        let engine = Engine::new(store, place.sandbox, None);
        match command {
            NetworkCommand::Create(args) => create(args, &networks),
            NetworkCommand::Ls(args) => show::list(&args, &networks),
            NetworkCommand::Rm(args) => remove(&args, &networks, &engine),
            NetworkCommand::Inspect(args) => show::inspect(&args, &networks, &engine),
            NetworkCommand::Connect(args) => connect(args, &networks, &engine),
            NetworkCommand::Disconnect(args) => disconnect(&args, &networks, &engine),
            NetworkCommand::Prune(args) => prune(&args, &networks, &engine),
        }
    });
    done.map(|()| ExitCode::SUCCESS)
}

/// Becomes the network process of a store.
pub(super) fn network_process(args: &ProcessArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let cannot = |error| Failure::from_error(Kind::Environment, "cannot start the network process", &error);
    process::start(&wanted.store_root(), wanted.sandbox, args.here).map_err(cannot)?;
    Ok(ExitCode::SUCCESS)
}

fn create(args: CreateArgs, networks: &Networks) -> Result<(), Failure> {
    let options = pairs(&args.opt);
    for option in options.keys().filter(|option| !OPTIONS.contains(&option.as_str())) {
        print_warning(&format!("the option `{option}` is kept and does nothing here"));
    }
    let made = networks.create(&NewNetwork {
        name: args.name,
        driver: args.driver,
        subnets: args.subnet,
        gateways: args.gateway,
        ip_ranges: args.ip_range,
        internal: args.internal,
        ipv6: args.ipv6,
        labels: pairs(&args.label),
        options,
    })?;
    print_result(&made.id)
}

/// `KEY=VALUE` each; a key alone has an empty value.
fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

/// Removes all that can be; what cannot is told, and the last of it is the failure.
fn remove(args: &RmArgs, networks: &Networks, engine: &Engine) -> Result<(), Failure> {
    let containers = engine.list()?;
    let mut failures = Vec::new();
    for name in &args.networks {
        let removed = match networks.find(name) {
            Err(failure) if args.force && failure.message.starts_with("there is no network") => {
                print_note(&failure.message);
                Ok(())
            }
            found => found.and_then(|network| remove_one(&network, networks, &containers)),
        };
        failures.extend(removed.err());
    }
    told(failures)
}

fn remove_one(network: &Network, networks: &Networks, containers: &[Container]) -> Result<(), Failure> {
    if !network.is_predefined()
        && let Some(user) = containers.iter().find(|container| is_on(container, network))
    {
        let (name, other) = (&network.name, &user.config.name);
        let message = format!("the network `{name}` is in use by the container `{other}`");
        return Err(Failure::new(Kind::Usage, message).hint(format!(
            "take it off (`wharf network disconnect {name} {other}`) or remove it (`wharf rm {other}`)"
        )));
    }
    networks.remove(network)?;
    print_result(&network.name)
}

/// Whether a container is, or will be, on a network.
fn is_on(container: &Container, network: &Network) -> bool {
    match &container.config.network {
        NetworkUse::Networks { attached } => attached.iter().any(|it| it.network == network.name),
        _ => false,
    }
}

fn connect(args: ConnectArgs, networks: &Networks, engine: &Engine) -> Result<(), Failure> {
    let network = networks.find(&args.network)?;
    let container = engine.find(&args.container)?;
    let attachment =
        Attachment { network: network.name, aliases: args.alias, ipv4: args.ip, ipv6: args.ip6, mac: None };
    engine.connect_network(&container.config.id, attachment)
}

fn disconnect(args: &DisconnectArgs, networks: &Networks, engine: &Engine) -> Result<(), Failure> {
    // A network that was removed by hand can still be left.
    let name = match networks.find(&args.network) {
        Ok(network) => network.name,
        Err(_) => args.network.clone(),
    };
    engine.disconnect_network(&engine.find(&args.container)?.config.id, &name)
}

fn prune(args: &PruneArgs, networks: &Networks, engine: &Engine) -> Result<(), Failure> {
    let filters = args.filter.iter().map(|text| show::Filter::parse(text, &show::OF_PRUNE));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let question = "WARNING: this removes every network that no container is on. Go on?";
    if !args.force && !ask(question) {
        return Ok(());
    }
    let containers = engine.list()?;
    for network in networks.list()? {
        let is_used = network.is_predefined() || containers.iter().any(|it| is_on(it, &network));
        if !is_used && filters.iter().all(|filter| filter.takes(&network)) {
            networks.remove(&network)?;
            print_result(&network.name)?;
        }
    }
    Ok(())
}
