//! What is asked for, and what an image says, become what a container is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use wharf_frontend::image::{ContainerConfig as ImageDefaults, HealthConfig};

use super::ask::{Ask, HealthAsk, MountAsk, MountKindAsk, NamespaceAsk, NetworkAsk, StopTimeout};
use super::config::{
    Attachment, ContainerConfig, ContainerId, HealthCheck, ImageUse, MountConfig, MountKind, NamespaceUse,
    NetworkUse, PortUse, ProcessConfig, Protocol, RestartPolicy,
};
use super::signal;
use crate::error::{Failure, Kind};

/// The network that a container is part of when nothing is said.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Environment of a container whose image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a container has to stop, unless somebody says.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a container is looked after, unless somebody says.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
const HEALTH_START_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_RETRIES: u32 = 3;

/// The shell of commands that are one text, unless the image says.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Files of which a log is made, unless somebody says.
const LOG_FILES: u32 = 1;

/// What a container begins as.
#[derive(Debug)]
pub(super) struct Base {
    /// The image.
    pub(super) image: ImageUse,
    /// Its snapshots.
    pub(super) chain: Vec<u64>,
    /// What it says of containers.
    pub(super) defaults: ImageDefaults,
}

/// What has been found out before.
pub(super) struct Found<'a> {
    /// The new container.
    pub(super) id: ContainerId,
    /// When it is made.
    pub(super) created: i64,
    /// Whether there are networks here.
    pub(super) has_networks: bool,
    /// The identifier of a container.
    pub(super) find: &'a dyn Fn(&str) -> Result<ContainerId, Failure>,
    /// The mounts of the containers that are asked for.
    pub(super) volumes_from: Vec<(Vec<MountConfig>, bool)>,
    /// A name for a volume.
    pub(super) volume_name: &'a dyn Fn() -> Result<String, Failure>,
    /// A variable of this process.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Decides everything. The name is left empty unless one is asked for.
pub(super) fn configure(ask: &Ask, base: Base, found: &Found<'_>) -> Result<ContainerConfig, Failure> {
    let Base { image, chain, defaults } = base;
    require_sense(ask)?;
    let process = process(ask, &defaults, &image.name, found.variable)?;
    let network = network(&ask.network, found)?;
    let namespace = |ask: &NamespaceAsk| {
        Ok(match ask {
            NamespaceAsk::Private => NamespaceUse::Private,
            NamespaceAsk::Host => NamespaceUse::Host,
            NamespaceAsk::Container(name) => NamespaceUse::Container { id: (found.find)(name)? },
        })
    };
    let uts = namespace(&ask.uts)?;
    let has_own_name =
        uts == NamespaceUse::Private && matches!(network, NetworkUse::None | NetworkUse::Networks { .. });
    let stop_signal = ask.stop_signal.as_deref().unwrap_or(&defaults.stop_signal);
    let stop_signal = match stop_signal {
        "" => signal_hook::consts::SIGTERM,
        text => signal::number(text).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("`{text}` is no signal to stop a container with"))
        })?,
    };
    let exposed = exposed(ask, &defaults);
    let mut log = ask.log.clone();
    log.max_file = log.max_file.max(LOG_FILES);
    Ok(ContainerConfig {
        name: ask.name.clone().unwrap_or_default(),
        created: found.created,
        image,
        chain,
        process,
        hostname: ask.hostname.clone().or_else(|| has_own_name.then(|| found.id.short().to_owned())),
        domainname: ask.domainname.clone(),
        labels: with(defaults.labels.clone().unwrap_or_default(), &ask.labels),
        annotations: ask.annotations.clone(),
        stop_signal,
        stop_timeout: match ask.stop_timeout {
            None => Some(STOP_TIMEOUT),
            Some(StopTimeout::After(time)) => Some(time),
            Some(StopTimeout::Never) => None,
        },
        restart: ask.restart,
        auto_remove: ask.auto_remove,
        health: health(&ask.health, &defaults)?,
        log,
        rights: ask.rights.clone(),
        resources: ask.resources.clone(),
        mounts: mounts(ask, &defaults, found)?,
        ports: match network {
            NetworkUse::Networks { .. } => ports(ask, &exposed),
            _ => {
                if !ask.ports.is_empty() {
                    crate::progress::print_warning(
                        "only containers in networks publish ports: none are published",
                    );
                }
                Vec::new()
            }
        },
        network,
        exposed: exposed.into_iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect(),
        pid: namespace(&ask.pid)?,
        ipc: namespace(&ask.ipc)?,
        uts,
        extra_hosts: ask.extra_hosts.clone(),
        dns: ask.dns.clone(),
        dns_search: ask.dns_search.clone(),
        dns_options: ask.dns_options.clone(),
        id: found.id.clone(),
    })
}

/// Refuses what contradicts itself.
fn require_sense(ask: &Ask) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::new(Kind::Usage, what.to_owned()));
    if ask.auto_remove && ask.restart != RestartPolicy::No {
        return refused("a container is removed when it ends (--rm) or started again (--restart), not both");
    }
    match &ask.network {
        NetworkAsk::Container(_) if !ask.ports.is_empty() || ask.publish_all => refused(
            "ports cannot be published by a container in another one's network: that one publishes them",
        ),
        NetworkAsk::Container(_) if ask.hostname.is_some() => {
            refused("a container in another one's network has that one's host name")
        }
        _ if ask.uts != NamespaceAsk::Private && ask.hostname.is_some() => {
            refused("a container in another UTS namespace has no host name of its own")
        }
        _ => Ok(()),
    }
}

fn process(
    ask: &Ask,
    defaults: &ImageDefaults,
    image: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<ProcessConfig, Failure> {
    let entrypoint = ask.entrypoint.clone().or_else(|| defaults.entrypoint.clone()).unwrap_or_default();
    let command = match (&ask.command, &ask.entrypoint) {
        (Some(command), _) => command.clone(),
        // It goes with the image's entrypoint.
        (None, Some(_)) => Vec::new(),
        (None, None) => defaults.cmd.clone().unwrap_or_default(),
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Failure::new(Kind::Usage, format!("`{image}` says no command to run"))
            .hint("give one after the image's name"));
    }
    let working_dir = ask.working_dir.as_ref().unwrap_or(&defaults.working_dir);
    let working_dir = match working_dir.as_str() {
        "" => "/",
        absolute if absolute.starts_with('/') => absolute,
        relative => {
            return Err(Failure::new(
                Kind::Usage,
                format!("the working directory `{relative}` is invalid, it needs to be an absolute path"),
            ));
        }
    };
    Ok(ProcessConfig {
        entrypoint,
        command,
        env: environment(ask, defaults, variable),
        working_dir: working_dir.to_owned(),
        user: ask.user.as_ref().unwrap_or(&defaults.user).clone(),
        group_add: ask.group_add.clone(),
        tty: ask.tty,
        open_stdin: ask.open_stdin,
        stdin_once: ask.open_stdin && ask.stdin_once,
        init: ask.init,
    })
}

/// What is asked for, and what of the image that does not change. A variable that is asked for without a value, and that this
/// process has not, is taken out.
fn environment(
    ask: &Ask,
    defaults: &ImageDefaults,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut asked: Vec<(&str, Option<String>)> = Vec::new();
    for (name, value) in &ask.env {
        asked.retain(|(earlier, _)| earlier != name);
        asked.push((name, value.clone().or_else(|| variable(name))));
    }
    let mut env: Vec<String> =
        asked.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
    for of_image in defaults.env.iter().flatten() {
        let name = of_image.split('=').next().unwrap_or_default();
        if !asked.iter().any(|(asked, _)| *asked == name) {
            env.push(of_image.clone());
        }
    }
    let has_path =
        env.iter().any(|it| it.starts_with("PATH=")) || asked.iter().any(|(name, _)| *name == "PATH");
    if !has_path {
        env.push(DEFAULT_PATH.to_owned());
    }
    env
}

fn with(
    mut of_image: BTreeMap<String, String>,
    asked: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    of_image.extend(asked.iter().map(|(name, value)| (name.clone(), value.clone())));
    of_image
}

fn health(ask: &HealthAsk, defaults: &ImageDefaults) -> Result<Option<HealthCheck>, Failure> {
    let of_image = defaults.healthcheck.clone().unwrap_or_default();
    let nothing = HealthAsk::Given {
        test: None,
        interval: None,
        timeout: None,
        start_period: None,
        start_interval: None,
        retries: None,
    };
    let HealthAsk::Given { test, interval, timeout, start_period, start_interval, retries } = (match ask {
        HealthAsk::Disabled => return Ok(None),
        HealthAsk::AsImage => &nothing,
        given => given,
    }) else {
        return Ok(None);
    };
    let HealthConfig { test: image_test, .. } = &of_image;
    let shell = defaults.shell.clone().filter(|shell| !shell.is_empty());
    let shell = shell.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
    let asked = test.as_ref().unwrap_or(image_test);
    let is_line = asked.first().is_some_and(|form| form == "CMD-SHELL");
    let test = match asked.split_first() {
        None => return Ok(None),
        Some((form, rest)) => match (form.as_str(), rest) {
            ("NONE", _) => return Ok(None),
            ("CMD", [_, ..]) => rest.to_vec(),
            ("CMD-SHELL", [command]) => shell.into_iter().chain([command.clone()]).collect(),
            _ => {
                return Err(Failure::new(Kind::Usage, "the health check is no command that can be run")
                    .hint("it is [\"NONE\"], [\"CMD\", PROGRAM, ARGUMENT…] or [\"CMD-SHELL\", COMMAND]"));
            }
        },
    };
    // 0 is not said.
    let said = |asked: &Option<Duration>, of_image: i64, default: Duration| {
        let of_image = u64::try_from(of_image).ok().map(Duration::from_nanos);
        asked.or(of_image).filter(|time| !time.is_zero()).unwrap_or(default)
    };
    let of_image_retries = u32::try_from(of_image.retries).ok();
    Ok(Some(HealthCheck {
        test,
        is_line,
        interval: said(interval, of_image.interval, HEALTH_INTERVAL),
        timeout: said(timeout, of_image.timeout, HEALTH_INTERVAL),
        start_period: said(start_period, of_image.start_period, Duration::ZERO),
        start_interval: said(start_interval, of_image.start_interval, HEALTH_START_INTERVAL),
        retries: retries.or(of_image_retries).filter(|retries| *retries > 0).unwrap_or(HEALTH_RETRIES),
    }))
}

fn network(ask: &NetworkAsk, found: &Found<'_>) -> Result<NetworkUse, Failure> {
    let attached = |attached: Vec<Attachment>| NetworkUse::Networks { attached };
    let default = || Attachment { network: DEFAULT_NETWORK.to_owned(), ..Attachment::default() };
    Ok(match ask {
        NetworkAsk::None => NetworkUse::None,
        NetworkAsk::Host => NetworkUse::Host,
        NetworkAsk::Container(name) => NetworkUse::Container { id: (found.find)(name)? },
        NetworkAsk::Default if !found.has_networks => {
            crate::progress::print_note(
                "the container is in this host's network: in the sandbox `chroot` there are no others",
            );
            NetworkUse::Host
        }
        NetworkAsk::Default => attached(vec![default()]),
        NetworkAsk::Networks(_) if !found.has_networks => {
            return Err(Failure::new(Kind::Environment, "in the sandbox `chroot` there are no networks")
                .hint(
                    "`--network host` is this host's; `wharf doctor` says what would unlock other sandboxes",
                ));
        }
        NetworkAsk::Networks(networks) if networks.is_empty() => attached(vec![default()]),
        NetworkAsk::Networks(networks) => {
            for (at, attachment) in networks.iter().enumerate() {
                check_attachment(attachment)?;
                if networks[..at].iter().any(|other| other.network == attachment.network) {
                    let message = format!("the network `{}` is given twice", attachment.network);
                    return Err(Failure::new(Kind::Usage, message));
                }
            }
            attached(networks.clone())
        }
    })
}

/// Refuses what the default network has not.
pub(super) fn check_attachment(attachment: &Attachment) -> Result<(), Failure> {
    if attachment.network != DEFAULT_NETWORK {
        return Ok(());
    }
    let what = match attachment {
        _ if !attachment.aliases.is_empty() => "further names",
        _ if attachment.ipv4.is_some() || attachment.ipv6.is_some() => "an address that is asked for",
        _ => return Ok(()),
    };
    Err(Failure::new(
        Kind::Usage,
        format!("on the default network `{DEFAULT_NETWORK}` a container cannot have {what}"),
    )
    .hint("`wharf network create NAME` makes one that has names and addresses"))
}

/// Ports that it has: the image's, those that are asked for, those that are published.
fn exposed(ask: &Ask, defaults: &ImageDefaults) -> BTreeSet<(u16, Protocol)> {
    let of_image = defaults.exposed_ports.iter().flat_map(BTreeMap::keys);
    let mut ports: BTreeSet<_> = of_image.chain(&ask.expose).filter_map(|text| exposed_port(text)).collect();
    ports.extend(ask.ports.iter().map(|port| (port.container, port.protocol)));
    ports
}

fn exposed_port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok().filter(|port| *port > 0)?, protocol))
}

fn ports(ask: &Ask, exposed: &BTreeSet<(u16, Protocol)>) -> Vec<PortUse> {
    let mut ports: Vec<PortUse> = Vec::new();
    for port in &ask.ports {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
    if ask.publish_all {
        for (container, protocol) in exposed.iter().copied() {
            if !ports.iter().any(|port| (port.container, port.protocol) == (container, protocol)) {
                ports.push(PortUse { container, protocol, address: None, host: 0, host_last: 0 });
            }
        }
    }
    ports
}

/// What is asked for, then what other containers have, then the image's volumes: what comes first has its place.
fn mounts(ask: &Ask, defaults: &ImageDefaults, found: &Found<'_>) -> Result<Vec<MountConfig>, Failure> {
    let mut mounts: Vec<MountConfig> = Vec::new();
    for mount in &ask.mounts {
        let mount = mount_config(mount, found)?;
        if mounts.iter().any(|other| other.target == mount.target) {
            let message = format!("there are two mounts at `{}`", mount.target.display());
            return Err(Failure::new(Kind::Usage, message));
        }
        mounts.push(mount);
    }
    for (others, read_only) in &found.volumes_from {
        for other in others {
            // A later container's replaces an earlier one's in Docker; here as there only volumes and binds are shared.
            let is_shared = !matches!(other.kind, MountKind::Tmpfs { .. });
            if is_shared && !mounts.iter().any(|mount| mount.target == other.target) {
                mounts.push(MountConfig { read_only: other.read_only || *read_only, ..other.clone() });
            }
        }
    }
    for target in defaults.volumes.iter().flat_map(BTreeMap::keys) {
        let target = normal(Path::new(target));
        // An image that says `/` does not mean it.
        if target == Path::new("/") || mounts.iter().any(|mount| mount.target == target) {
            continue;
        }
        let name = (found.volume_name)()?;
        let kind = MountKind::Volume { name, subpath: None, anonymous: true, no_copy: false };
        mounts.push(MountConfig { kind, target, read_only: false });
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

fn mount_config(ask: &MountAsk, found: &Found<'_>) -> Result<MountConfig, Failure> {
    let kind = match &ask.kind {
        MountKindAsk::Bind { source, create, propagation, non_recursive } => {
            let (create, propagation, non_recursive) = (*create, propagation.clone(), *non_recursive);
            MountKind::Bind { source: source.clone(), create, propagation, non_recursive }
        }
        MountKindAsk::Volume { name, subpath, no_copy, .. } => {
            let (name, anonymous) = match name {
                // One that is taken over from a container that it was made for.
                Some(name) => (name.clone(), is_made_up(name)),
                None => ((found.volume_name)()?, true),
            };
            MountKind::Volume { name, subpath: subpath.clone(), anonymous, no_copy: *no_copy }
        }
        MountKindAsk::Tmpfs { size, mode, options } => {
            MountKind::Tmpfs { size: *size, mode: *mode, options: options.clone() }
        }
    };
    Ok(MountConfig { kind, target: normal(&ask.target), read_only: ask.read_only })
}

/// Whether a volume has a name that nobody gave it.
fn is_made_up(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An absolute path without `.`, `..` and slashes too many.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}
