//! The project and what its services share.

use std::collections::BTreeMap;

use super::model;
use super::service::Service;

/// Keys that begin with `x-`, as they were written.
pub type Extensions = BTreeMap<String, serde_json::Value>;

model! {
    /// A whole project.
    Project {
        /// Its name.
        name: String,
        /// By name, those of inactive profiles too.
        services: BTreeMap<String, Service>,
        /// By key; the name is in each.
        networks: BTreeMap<String, Network>,
        /// By key; the name is in each.
        volumes: BTreeMap<String, Volume>,
        /// By key.
        secrets: BTreeMap<String, Secret>,
        /// By key.
        configs: BTreeMap<String, Config>,
        /// By key.
        models: BTreeMap<String, Model>,
    }

    /// A network.
    Network {
        /// Its name on this machine.
        name: Option<String>,
        /// `bridge`, if nothing is said.
        driver: Option<String>,
        /// What the driver is told.
        driver_opts: BTreeMap<String, String>,
        /// Which addresses it has.
        ipam: Option<Ipam>,
        /// It is there already.
        external: bool,
        /// It leads nowhere outside.
        internal: bool,
        /// Whether it has addresses of the fourth version.
        enable_ipv4: Option<bool>,
        /// Whether it has addresses of the sixth version.
        enable_ipv6: Option<bool>,
        /// Containers of others may join.
        attachable: bool,
        /// Labels.
        labels: BTreeMap<String, String>,
    }

    /// How a network gets its addresses.
    Ipam {
        /// Who gives them.
        driver: Option<String>,
        /// From where.
        config: Vec<IpamPool>,
        /// What the driver is told.
        options: BTreeMap<String, String>,
    }

    /// A range of addresses.
    IpamPool {
        /// `172.20.0.0/24`.
        subnet: Option<String>,
        /// The part of it that containers get addresses from.
        ip_range: Option<String>,
        /// The way out.
        gateway: Option<String>,
        /// Addresses that others have, by host.
        aux_addresses: BTreeMap<String, String>,
    }

    /// A volume.
    Volume {
        /// Its name on this machine.
        name: Option<String>,
        /// `local`, if nothing is said.
        driver: Option<String>,
        /// What the driver is told.
        driver_opts: BTreeMap<String, String>,
        /// It is there already.
        external: bool,
        /// Labels.
        labels: BTreeMap<String, String>,
    }

    /// A secret.
    Secret {
        /// Its name.
        name: Option<String>,
        /// The variable that holds it.
        environment: Option<String>,
        /// The file that holds it.
        file: Option<String>,
        /// It is there already.
        external: bool,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Who keeps it.
        driver: Option<String>,
        /// What the driver is told.
        driver_opts: BTreeMap<String, String>,
        /// Who fills it in.
        template_driver: Option<String>,
    }

    /// A config.
    Config {
        /// Its name.
        name: Option<String>,
        /// What it holds.
        content: Option<String>,
        /// The variable that holds it.
        environment: Option<String>,
        /// The file that holds it.
        file: Option<String>,
        /// It is there already.
        external: bool,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Who fills it in.
        template_driver: Option<String>,
    }

    /// A language model.
    Model {
        /// Its name.
        name: Option<String>,
        /// Which it is.
        model: Option<String>,
        /// How many tokens it sees.
        context_size: Option<i64>,
        /// What its engine is told.
        runtime_flags: Vec<String>,
    }
}
