//! Which valid keys are not acted on, and why: one table, from which the warnings are made.

use super::node::{Node, Value};
use super::source::Place;

/// A key that stands in the project and is not acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// `services.web.deploy.placement`.
    pub path: String,
    /// Where it was written.
    pub place: Place,
    /// Why it is not acted on.
    pub why: &'static str,
}

/// On the right, why nothing follows from a key; on the left, where it stands. `*` is any name or item of a list, and
/// `=` a value that is meant alone, or what it begins with before `=` or `:`. A key that is in no row is acted on.
pub const NOT_ACTED_ON: &[(&str, &str)] = &[
    ("services.*.deploy.mode=global", CLUSTER),
    ("services.*.deploy.mode=global-job", CLUSTER),
    ("services.*.deploy.mode=replicated-job", CLUSTER),
    ("services.*.deploy.endpoint_mode", CLUSTER),
    (
        "services.*.deploy.labels",
        "labels of a service are kept by a cluster; those of its containers are labels",
    ),
    ("services.*.deploy.rollback_config", CLUSTER),
    ("services.*.deploy.update_config", CLUSTER),
    ("services.*.deploy.placement", CLUSTER),
    ("services.*.deploy.resources.reservations.cpus", CLUSTER),
    ("services.*.deploy.resources.reservations.generic_resources", CLUSTER),
    ("services.*.deploy.resources.reservations.devices", GPU),
    ("services.*.volumes.*.type=cluster", CLUSTER),
    ("services.*.volumes.*.type=npipe", WINDOWS),
    ("services.*.volumes.*.consistency", "mounts are always consistent on Linux"),
    ("services.*.cpu_count", WINDOWS),
    ("services.*.cpu_percent", WINDOWS),
    ("services.*.credential_spec", WINDOWS),
    ("services.*.isolation", WINDOWS),
    ("services.*.build.isolation", WINDOWS),
    ("services.*.gpus", GPU),
    ("services.*.models", MODELS),
    ("models", MODELS),
    ("services.*.provider", "services that are no containers are not made"),
    ("services.*.runtime", "there is one runtime"),
    ("services.*.storage_opt", "the root of a container has no size of its own"),
    ("services.*.use_api_socket", "there is no engine with a socket"),
    (
        "services.*.external_links",
        "containers of other projects are reached through a network that both are on",
    ),
    ("services.*.userns_mode", "the user namespace is that of the sandbox"),
    ("services.*.cpu_rt_period", "real-time scheduling is not set up"),
    ("services.*.cpu_rt_runtime", "real-time scheduling is not set up"),
    ("services.*.mem_reservation", "what a container gets is not reserved: mem_limit limits it"),
    (
        "services.*.deploy.resources.reservations.memory",
        "what a container gets is not reserved: limits are kept",
    ),
    ("services.*.mem_swappiness", "this kernel's groups do not know it"),
    ("services.*.oom_kill_disable", "this kernel's groups do not know it"),
    ("services.*.blkio_config", "disks are not limited"),
    ("services.*.device_cgroup_rules", "devices are named in devices"),
    ("services.*.cgroup", "a container always has a namespace of control groups of its own"),
    ("services.*.deploy.restart_policy.delay", "the pause between restarts grows from 100 ms to a minute"),
    ("services.*.deploy.restart_policy.window", "a container that has run for 10 s counts as started"),
    ("services.*.develop", "files are not watched: `compose up --build` builds anew"),
    ("services.*.volumes.*.type=image", "the files of an image are not mounted"),
    ("services.*.volumes.*.bind.selinux", "labels of SELinux are not set"),
    (
        "services.*.volumes.*.bind.recursive=writable",
        "what is mounted below a directory that is only read is only read too",
    ),
    ("services.*.ports.*.protocol=sctp", "ports of SCTP are not published"),
    ("services.*.build.privileged", "RUN --security=insecure asks for rights, and entitlements give them"),
    ("services.*.build.secrets.*.uid", BUILD_SECRET),
    ("services.*.build.secrets.*.gid", BUILD_SECRET),
    ("services.*.build.secrets.*.mode", BUILD_SECRET),
    ("services.*.security_opt.*=apparmor", "profiles of AppArmor are not set"),
    ("services.*.security_opt.*=label", "labels of SELinux are not set"),
    ("services.*.ipc=none", "a container always has a /dev/shm"),
    ("services.*.build.provenance", "attestations are not made"),
    ("services.*.build.sbom", "attestations are not made"),
    ("services.*.networks.*.interface_name", "interfaces have the names eth0, eth1, …"),
    ("networks.*.ipam.config.*.aux_addresses", "addresses are given by the network itself"),
    ("services.*.networks.*.link_local_ips", "addresses of the link are not set"),
    ("services.*.networks.*.driver_opts", "networks have one driver, without options"),
    ("networks.*.attachable", CLUSTER),
    ("networks.*.enable_ipv4=false", "every network has IPv4"),
    ("networks.*.driver_opts", "networks have one driver, without options"),
    ("networks.*.ipam.driver", "addresses are given by the network itself"),
    ("networks.*.ipam.options", "addresses are given by the network itself"),
    ("secrets.*.labels", STORES),
    ("configs.*.labels", STORES),
    ("secrets.*.driver", STORES),
    ("secrets.*.driver_opts", STORES),
    ("secrets.*.template_driver", STORES),
    ("secrets.*.external", STORES),
    ("configs.*.template_driver", STORES),
    ("configs.*.external", STORES),
];

const CLUSTER: &str = "it is for a cluster, and this is one machine";
const WINDOWS: &str = "it is for Windows";
const GPU: &str = "devices are not found by what they can do: name them in devices";
const MODELS: &str = "language models are not run";
const BUILD_SECRET: &str = "RUN --mount=type=secret says who owns it";
const STORES: &str = "there is no store of secrets and configs: they come from files and the environment";

/// What of a project is not acted on.
pub(super) fn of(tree: &Node) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for (pattern, why) in NOT_ACTED_ON {
        let (keys, value) = match pattern.split_once('=') {
            Some((keys, value)) => (keys, Some(value)),
            None => (*pattern, None),
        };
        let keys: Vec<&str> = keys.split('.').collect();
        find(tree, tree.place, &keys, String::new(), &mut |path, place, node| {
            let is_meant = match value {
                Some(value) => says(node, value),
                // What says nothing asks for nothing.
                None => !node.is_null() && node.as_bool() != Some(false),
            };
            if is_meant {
                found.push(Unsupported { path, place, why });
            }
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Whether a value is this one, or this one with more behind `=` or `:`.
fn says(node: &Node, value: &str) -> bool {
    match &node.value {
        Value::Bool(is_true) => is_true.to_string() == value,
        Value::String(text) => {
            text.strip_prefix(value).is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
        }
        _ => false,
    }
}

fn find(node: &Node, place: Place, keys: &[&str], path: String, found: &mut dyn FnMut(String, Place, &Node)) {
    let Some((key, rest)) = keys.split_first() else {
        return found(path, place, node);
    };
    match &node.value {
        Value::Map(map) => {
            for (name, entry) in map.iter().filter(|(name, _)| key == &"*" || key == name) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                find(&entry.value, entry.key, rest, path, found);
            }
        }
        Value::List(items) if key == &"*" => {
            for (index, item) in items.iter().enumerate() {
                find(item, item.place, rest, format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
