//! `wharf network ls` and `inspect`.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::image::{pretty, until};
use crate::cli::template::{Column, Format, Template};
use crate::containers::engine::{Container, Engine};
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::networks::record::{Network, Networks, SubnetUse};
use crate::progress::print_result;

/// Digits of an identifier that are shown.
const SHORT: usize = 12;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only what is so: name=PART, id=PART, driver=NAME, type=custom or builtin, label=KEY[=VALUE]; may be given several
    /// times
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template: `{{.Name}}: {{.Driver}}`, `table {{.ID}}\t{{.Name}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show identifiers in full
    #[arg(long)]
    no_trunc: bool,
    /// Show identifiers alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// Names, or the first digits of identifiers
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// json, or a template: `{{.IPAM.Config}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Nothing more than without it: for scripts written for docker
    #[arg(short, long)]
    verbose: bool,
}

const COLUMNS: [Column; 8] = [
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("ID", "NETWORK ID"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];

/// What `--filter` can ask of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    Custom(bool),
    Label { key: String, value: Option<String>, has: bool },
    Until(SystemTime),
}

/// What can be asked when networks are listed.
const OF_LIST: [&str; 5] = ["name", "id", "driver", "type", "label"];
/// What can be asked when they are removed.
pub(super) const OF_PRUNE: [&str; 2] = ["until", "label"];

impl Filter {
    /// Reads a filter of one of these kinds.
    pub(super) fn parse(text: &str, kinds: &[&str]) -> Result<Self, Failure> {
        let wrong = || {
            let message = format!("the filter `{text}` is none of {}", kinds.join(", "));
            Failure::new(Kind::Usage, message).hint("a filter is written like `label=KEY=VALUE`")
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let (key, has) = key.strip_suffix('!').map_or((key, true), |key| (key, false));
        if !kinds.contains(&key) || !has && key != "label" {
            return Err(wrong());
        }
        let owned = value.to_owned();
        Ok(match key {
            "name" => Self::Name(owned),
            "id" => Self::Id(owned),
            "driver" => Self::Driver(owned),
            "type" if ["custom", "builtin"].contains(&value) => Self::Custom(value == "custom"),
            "until" => Self::Until(until(value).ok_or_else(wrong)?),
            "label" => {
                let (key, value) =
                    value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
                Self::Label { key: key.to_owned(), value: value.map(str::to_owned), has }
            }
            _ => return Err(wrong()),
        })
    }

    /// Whether it takes a network.
    pub(super) fn takes(&self, network: &Network) -> bool {
        match self {
            Self::Name(part) => network.name.contains(part.as_str()),
            Self::Id(part) => network.id.contains(part.as_str()),
            Self::Driver(name) => network.driver == *name,
            Self::Custom(custom) => network.is_predefined() != *custom,
            Self::Label { key, value, has } => {
                let found = network.labels.get(key);
                *has == found.is_some_and(|found| value.as_ref().is_none_or(|value| found == value))
            }
            Self::Until(time) => created(network) < *time,
        }
    }

    /// What is asked of the same thing may be so or so; of different things, all has to be.
    fn is_about_the_same(&self, other: &Self) -> bool {
        !matches!(self, Self::Label { .. }) && std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

pub(super) fn list(args: &ListArgs, networks: &Networks) -> Result<(), Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    let filters = args.filter.iter().map(|text| Filter::parse(text, &OF_LIST));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let mut found = networks.list()?;
    found.retain(|network| {
        filters.iter().all(|filter| {
            filters
                .iter()
                .any(|other| (other == filter || other.is_about_the_same(filter)) && other.takes(network))
        })
    });
    let id = |network: &Network| {
        let digits = if args.no_trunc { network.id.len() } else { SHORT };
        network.id.get(..digits).unwrap_or(&network.id).to_owned()
    };
    if args.quiet {
        let ids: Vec<String> = found.iter().map(id).collect();
        return if ids.is_empty() { Ok(()) } else { print_result(&ids.join("\n")) };
    }
    let row = |network: &Network| {
        let labels: Vec<String> =
            network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        json!({
            "CreatedAt": rfc3339::format(created(network)),
            "Driver": network.driver,
            "ID": id(network),
            "IPv6": network.ipv6.to_string(),
            "Internal": network.internal.to_string(),
            "Labels": labels.join(","),
            "Name": network.name,
            "Scope": "local",
        })
    };
    let rows: Vec<Value> = found.iter().map(row).collect();
    format.print(&rows, &["ID", "Name", "Driver", "Scope"], &COLUMNS)
}

pub(super) fn inspect(args: &InspectArgs, networks: &Networks, engine: &Engine) -> Result<(), Failure> {
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let containers = engine.list()?;
    let (mut shown, mut failures) = (Vec::new(), Vec::new());
    for name in &args.networks {
        match networks.find(name) {
            Ok(network) => shown.push(describe(&network, &containers)),
            Err(failure) => failures.push(failure),
        }
    }
    match template {
        None => print_result(&pretty(&Value::Array(shown)))?,
        Some(template) => {
            for value in &shown {
                print_result(&template.render(value)?)?;
            }
        }
    }
    crate::cli::image::told(failures)
}

/// A network as Docker describes one.
fn describe(network: &Network, containers: &[Container]) -> Value {
    let subnet = |it: &SubnetUse| {
        let mut config = json!({ "Subnet": it.subnet.to_string(), "Gateway": it.gateway.to_string() });
        if let Some(range) = it.ip_range {
            config["IPRange"] = range.to_string().into();
        }
        config
    };
    let config: Vec<Value> = network.subnets.iter().map(subnet).collect();
    let mut members = Map::new();
    for container in containers.iter().filter(|it| it.state.status.is_up()) {
        let Some(endpoint) = container.state.endpoints.iter().find(|it| it.network_id == network.id) else {
            continue;
        };
        let address = |text: Option<String>| text.unwrap_or_default();
        let member = json!({
            "Name": container.config.name,
            "EndpointID": "",
            "MacAddress": endpoint.mac,
            "IPv4Address": address(endpoint.ipv4.map(|(address, bits)| format!("{address}/{bits}"))),
            "IPv6Address": address(endpoint.ipv6.map(|(address, bits)| format!("{address}/{bits}"))),
        });
        members.insert(container.config.id.0.clone(), member);
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339::format(created(network)),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.subnet(false).is_some(),
        "EnableIPv6": network.ipv6,
        "IPAM": { "Driver": "default", "Options": {}, "Config": config },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": members,
        "Options": network.options,
        "Labels": network.labels,
    })
}

fn created(network: &Network) -> SystemTime {
    let nanos = u64::try_from(network.created).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}
