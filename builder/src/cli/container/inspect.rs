//! `wharf inspect` of containers, in Docker's form.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use wharf_cache::{Digest, Store, from_nanos};

use super::Session;
use super::filter::health_name;
use super::list::port_text;
use crate::cli::config::Config;
use crate::cli::image::inspect::{InspectArgs as ImageInspectArgs, inspect as inspect_images};
use crate::cli::image::{pretty, told};
use crate::cli::place::Wanted;
use crate::cli::template::Format;
use crate::containers::config::{
    ContainerConfig, MountConfig, MountKind, NamespaceUse, NetworkUse, RestartPolicy,
};
use crate::containers::engine::{Container, Engine};
use crate::containers::signal;
use crate::containers::state::{ContainerState, Endpoint, Status};
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::images::find::{find_all, id_of};
use crate::progress::print_result;
use crate::volumes::Volumes;

/// The time of what has not been.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Args)]
pub(in crate::cli) struct ContainerInspectArgs {
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// json, or a template: `{{.State.Status}}`, `{{json .Mounts}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Say what they take of the disk too
    #[arg(short, long)]
    size: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectAnyArgs {
    /// Say what containers take of the disk too
    #[arg(short, long)]
    size: bool,
    #[command(flatten)]
    image: ImageInspectArgs,
}

/// Containers come before images of the same name.
pub(in crate::cli) fn inspect(
    args: &InspectAnyArgs,
    wanted: &Wanted,
    config: &Config,
) -> Result<ExitCode, Failure> {
    if args.image.kind() == Some("image") {
        return inspect_images(&args.image, wanted);
    }
    let format = Format::parse(args.image.format())?;
    Session::enter(wanted, config)?.with_engine(|engine| {
        let find = |name: &String| match engine.find(name) {
            Ok(container) => describe(engine, &container, args.size),
            Err(failure) if args.image.kind() == Some("container") => Err(failure),
            // What is wrong with one that is there is said of it.
            Err(of_container) if engine.resolve(name).is_ok() => Err(of_container),
            Err(_) if find_all(engine.store(), name).is_err_and(|failure| failure.kind == Kind::Usage) => {
                Err(neither(name))
            }
            Err(_) => args.image.describe(engine.store(), name),
        };
        print_found(&format, args.image.names().iter().map(find))
    })
}

/// Nothing is called so.
pub(in crate::cli) fn neither(name: &str) -> Failure {
    Failure::new(Kind::Usage, format!("there is no container or image `{name}`"))
        .hint("`wharf ps -a` lists containers, `wharf images` images")
}

pub(super) fn inspect_containers(
    args: &ContainerInspectArgs,
    wanted: &Wanted,
    config: &Config,
) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    Session::enter(wanted, config)?.with_engine(|engine| {
        let find = |name: &String| describe(engine, &engine.find(name)?, args.size);
        print_found(&format, args.containers.iter().map(find))
    })
}

/// What is there is shown, whatever is not.
fn print_found(
    format: &Format,
    found: impl Iterator<Item = Result<Value, Failure>>,
) -> Result<ExitCode, Failure> {
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    for found in found {
        match found {
            Ok(value) => values.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match format {
        Format::Table if values.is_empty() && failures.is_empty() => {}
        Format::Table => print_result(&pretty(&Value::Array(values)))?,
        Format::Json => values.iter().try_for_each(|value| print_result(&value.to_string()))?,
        Format::Template { template, .. } => {
            values.iter().try_for_each(|value| print_result(&template.render(value)?))?;
        }
    }
    told(failures).map(|()| ExitCode::SUCCESS)
}

fn describe(engine: &Engine, container: &Container, size: bool) -> Result<Value, Failure> {
    let Container { config, state } = container;
    let directory = engine.directory(&config.id)?;
    let file = |name: &str| directory.path().join("files").join(name).display().to_string();
    let mut arguments = config.process.entrypoint.iter().chain(&config.process.command);
    let path = arguments.next();
    let log = match config.log.none {
        true => String::new(),
        false => directory.log().join(crate::containers::log::FILE).display().to_string(),
    };
    let mut value = json!({
        "Id": config.id.0,
        "Created": time(Some(config.created)),
        "Path": path,
        "Args": arguments.collect::<Vec<_>>(),
        "State": state_of(state),
        "Image": image_of(engine.store(), config),
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": log,
        "Name": format!("/{}", config.name),
        "RestartCount": state.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "ImageManifestDescriptor": { "digest": config.image.manifest, "platform": platform(&config.image.platform) },
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(config),
        "GraphDriver": { "Name": "overlay2", "Data": { "UpperDir": directory.path().join("upper"), "WorkDir": directory.path().join("work") } },
        "Mounts": config.mounts.iter().map(|mount| mount_of(engine.store(), mount)).collect::<Vec<_>>(),
        "Config": config_of(config),
        "NetworkSettings": network_settings(container),
        "Warnings": state.warnings,
    });
    if size && let Some(map) = value.as_object_mut() {
        map.insert("SizeRw".to_owned(), engine.own_bytes()?.get(&config.id.0).copied().unwrap_or(0).into());
    }
    Ok(value)
}

fn time(nanos: Option<i64>) -> String {
    nanos.map_or_else(|| NEVER.to_owned(), |nanos| rfc3339::format(from_nanos(nanos)))
}

fn platform(text: &str) -> Value {
    let mut parts = text.split('/');
    let mut part = || parts.next().unwrap_or_default();
    json!({ "os": part(), "architecture": part(), "variant": part() })
}

/// The digest of its config, which is what images are called by; that of the manifest, if the store has it no more.
fn image_of(store: &Store, config: &ContainerConfig) -> String {
    let digest: Option<Digest> = config.image.manifest.parse().ok();
    let id = digest.and_then(|digest| id_of(store, &digest));
    id.map_or_else(|| config.image.digest.clone(), |id| id.to_string())
}

fn state_of(state: &ContainerState) -> Value {
    let mut value = json!({
        "Status": state.status.name(),
        "Running": state.status.is_watched(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid.unwrap_or(0),
        "ExitCode": if state.status.is_up() { 0 } else { state.exit_code },
        "Error": state.error.as_deref().unwrap_or_default(),
        "StartedAt": time(state.started),
        "FinishedAt": time(state.finished),
    });
    if let (Some(health), Some(map)) = (&state.health, value.as_object_mut()) {
        let probes = health.log.iter().map(|probe| {
            json!({ "Start": time(Some(probe.start)), "End": time(Some(probe.end)), "ExitCode": probe.exit_code, "Output": probe.output })
        });
        let health = json!({
            "Status": health_name(health.status),
            "FailingStreak": health.failing_streak,
            "Log": probes.collect::<Vec<_>>(),
        });
        map.insert("Health".to_owned(), health);
    }
    value
}

/// An object whose keys all have the value `{}`.
fn set<T: Into<String>>(keys: impl IntoIterator<Item = T>) -> Value {
    Value::Object(keys.into_iter().map(|key| (key.into(), json!({}))).collect())
}

fn config_of(config: &ContainerConfig) -> Value {
    let process = &config.process;
    let or_null = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let volumes =
        config.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Volume { anonymous: true, .. }));
    let mut value = json!({
        "Hostname": config.hostname.as_deref().unwrap_or_default(),
        "Domainname": config.domainname.as_deref().unwrap_or_default(),
        "User": process.user,
        "AttachStdin": process.open_stdin,
        "AttachStdout": true,
        "AttachStderr": true,
        "ExposedPorts": set(config.exposed.iter().map(String::as_str)),
        "Tty": process.tty,
        "OpenStdin": process.open_stdin,
        "StdinOnce": process.stdin_once,
        "Env": process.env,
        "Cmd": or_null(&process.command),
        "Image": config.image.name,
        "Volumes": set(volumes.map(|mount| mount.target.to_string_lossy())),
        "WorkingDir": process.working_dir,
        "Entrypoint": or_null(&process.entrypoint),
        "OnBuild": null,
        "Labels": config.labels,
        "StopSignal": signal::name(config.stop_signal),
        "StopTimeout": config.stop_timeout.map_or(json!(-1), |time| json!(time.as_secs())),
    });
    if let (Some(health), Some(map)) = (&config.health, value.as_object_mut()) {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let test = health.as_image_has_it();
        let health = json!({
            "Test": test,
            "Interval": nanos(health.interval),
            "Timeout": nanos(health.timeout),
            "StartPeriod": nanos(health.start_period),
            "StartInterval": nanos(health.start_interval),
            "Retries": health.retries,
        });
        map.insert("Healthcheck".to_owned(), health);
    }
    value
}

fn namespace(of: &NamespaceUse, private: &str) -> String {
    match of {
        NamespaceUse::Private => private.to_owned(),
        NamespaceUse::Host => "host".to_owned(),
        NamespaceUse::Container { id } => format!("container:{id}"),
    }
}

/// What stands for the networks as a whole.
fn network_mode(config: &ContainerConfig) -> String {
    match &config.network {
        NetworkUse::None => "none".to_owned(),
        NetworkUse::Host => "host".to_owned(),
        NetworkUse::Container { id } => format!("container:{id}"),
        NetworkUse::Networks { attached } => {
            attached.first().map_or_else(|| "none".to_owned(), |attachment| attachment.network.clone())
        }
    }
}

fn host_config(config: &ContainerConfig) -> Value {
    let rights = &config.rights;
    let (restart, times) = match config.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { times } => ("on-failure", times.unwrap_or(0)),
    };
    let mut bindings: Map<String, Value> = Map::new();
    for port in &config.ports {
        let host = match (port.host, port.host_last) {
            (0, _) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let address = port.address.map(|address| address.to_string()).unwrap_or_default();
        let list = bindings.entry(port_text(port.container, port.protocol)).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({ "HostIp": address, "HostPort": host }));
        }
    }
    let mut binds = Vec::new();
    let mut tmpfs = Map::new();
    for mount in &config.mounts {
        let target = mount.target.display();
        let mode = if mount.read_only { "ro" } else { "rw" };
        match &mount.kind {
            MountKind::Bind { source, .. } => binds.push(format!("{}:{target}:{mode}", source.display())),
            MountKind::Volume { name, anonymous: false, .. } => binds.push(format!("{name}:{target}:{mode}")),
            MountKind::Volume { .. } => {}
            MountKind::Tmpfs { options, .. } => {
                tmpfs.insert(target.to_string(), options.join(",").into());
            }
        }
    }
    let mut security = Vec::new();
    security.extend(rights.no_new_privileges.then_some("no-new-privileges"));
    security.extend(rights.seccomp_unconfined.then_some("seccomp=unconfined"));
    security.extend(rights.paths_unconfined.then_some("systempaths=unconfined"));
    let mut log_options = Map::new();
    if let Some(size) = config.log.max_size {
        log_options.insert("max-size".to_owned(), size.to_string().into());
    }
    if config.log.max_file > 1 {
        log_options.insert("max-file".to_owned(), config.log.max_file.to_string().into());
    }
    let extra_hosts: Vec<String> =
        config.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
    let mut value = json!({
        "Binds": binds,
        "ContainerIDFile": "",
        "LogConfig": { "Type": if config.log.none { "none" } else { "json-file" }, "Config": log_options },
        "NetworkMode": network_mode(config),
        "PortBindings": bindings,
        "RestartPolicy": { "Name": restart, "MaximumRetryCount": times },
        "AutoRemove": config.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "Annotations": config.annotations,
        "CapAdd": rights.cap_add,
        "CapDrop": rights.cap_drop,
        "CgroupnsMode": "private",
        "Dns": config.dns,
        "DnsOptions": config.dns_options,
        "DnsSearch": config.dns_search,
        "ExtraHosts": extra_hosts,
        "GroupAdd": config.process.group_add,
        "IpcMode": namespace(&config.ipc, "private"),
        "Cgroup": "",
        "Links": null,
        "PidMode": namespace(&config.pid, ""),
        "Privileged": rights.privileged,
        "PublishAllPorts": false,
        "ReadonlyRootfs": rights.read_only,
        "SecurityOpt": security,
        "UTSMode": namespace(&config.uts, ""),
        "UsernsMode": "",
        "Sysctls": rights.sysctls,
        "Tmpfs": tmpfs,
        "Runtime": "wharf",
        "Isolation": "",
        "Init": config.process.init,
    });
    if let (Some(map), Value::Object(of_machine)) = (value.as_object_mut(), resources_of(config)) {
        map.extend(of_machine);
    }
    value
}

/// What it may take of the machine.
fn resources_of(config: &ContainerConfig) -> Value {
    let resources = &config.resources;
    let devices = config.rights.devices.iter().map(|(here, there, access)| {
        json!({ "PathOnHost": here, "PathInContainer": there, "CgroupPermissions": access })
    });
    let limits = resources
        .ulimits
        .iter()
        .map(|(name, soft, hard)| json!({ "Name": name, "Soft": soft, "Hard": hard }));
    json!({
        "OomScoreAdj": resources.oom_score_adj.unwrap_or(0),
        "ShmSize": resources.shm_size.unwrap_or(64 << 20),
        "CpuShares": resources.cpu_shares.unwrap_or(0),
        "Memory": resources.memory.unwrap_or(0),
        "NanoCpus": resources.nano_cpus.unwrap_or(0),
        "CgroupParent": resources.cgroup_parent.as_deref().unwrap_or_default(),
        "CpuPeriod": resources.cpu_period.unwrap_or(0),
        "CpuQuota": resources.cpu_quota.unwrap_or(0),
        "CpusetCpus": resources.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.as_deref().unwrap_or_default(),
        "Devices": devices.collect::<Vec<_>>(),
        "MemorySwap": resources.memory_swap.unwrap_or(0),
        "PidsLimit": resources.pids,
        "Ulimits": limits.collect::<Vec<_>>(),
    })
}

fn mount_of(store: &Store, mount: &MountConfig) -> Value {
    let common = |kind: &str, name: Option<&str>, source: String, driver: &str, propagation: &str| {
        let mut value = json!({
            "Type": kind,
            "Source": source,
            "Destination": mount.target,
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": propagation,
        });
        if let (Some(name), Some(map)) = (name, value.as_object_mut()) {
            map.insert("Name".to_owned(), name.into());
            map.insert("Driver".to_owned(), driver.into());
        }
        value
    };
    match &mount.kind {
        MountKind::Bind { source, propagation, .. } => {
            let propagation = propagation.as_deref().unwrap_or("rprivate");
            common("bind", None, source.display().to_string(), "", propagation)
        }
        MountKind::Volume { name, .. } => {
            let data = Volumes::new(store).data(name).display().to_string();
            common("volume", Some(name), data, "local", "")
        }
        MountKind::Tmpfs { .. } => common("tmpfs", None, String::new(), "", ""),
    }
}

fn network_settings(container: &Container) -> Value {
    let Container { config, state } = container;
    let mut ports: Map<String, Value> = Map::new();
    if state.status.is_up() {
        ports.extend(config.exposed.iter().map(|port| (port.clone(), Value::Null)));
        for port in &state.ports {
            let bound = json!({ "HostIp": port.address, "HostPort": port.host.to_string() });
            let entry = ports.entry(port_text(port.container, port.protocol)).or_insert(Value::Null);
            match entry.as_array_mut() {
                Some(list) => list.push(bound),
                None => *entry = json!([bound]),
            }
        }
    }
    let mut networks = Map::new();
    match &config.network {
        NetworkUse::Networks { attached } => {
            for attachment in attached {
                let endpoint = state.endpoints.iter().find(|endpoint| endpoint.network == attachment.network);
                let mut value = endpoint_of(endpoint);
                if let Some(map) = value.as_object_mut() {
                    map.insert("Aliases".to_owned(), json!(attachment.aliases));
                    let asked = attachment.ipv4.is_some() || attachment.ipv6.is_some();
                    let asked = asked
                        .then(|| json!({ "IPv4Address": attachment.ipv4, "IPv6Address": attachment.ipv6 }));
                    map.insert("IPAMConfig".to_owned(), asked.unwrap_or(Value::Null));
                }
                networks.insert(attachment.network.clone(), value);
            }
        }
        NetworkUse::None | NetworkUse::Host => {
            networks.insert(network_mode(config), endpoint_of(None));
        }
        NetworkUse::Container { .. } => {}
    }
    // What old programs look at.
    let bridge =
        state.endpoints.iter().find(|endpoint| endpoint.network == crate::containers::DEFAULT_NETWORK);
    let mut value = json!({ "SandboxID": "", "SandboxKey": "", "Ports": ports, "Networks": networks });
    if let (Value::Object(of_bridge), Some(map)) = (endpoint_of(bridge), value.as_object_mut()) {
        for key in [
            "EndpointID",
            "Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "MacAddress",
        ] {
            map.insert(key.to_owned(), of_bridge.get(key).cloned().unwrap_or_default());
        }
        map.insert("Bridge".to_owned(), "".into());
    }
    value
}

fn endpoint_of(endpoint: Option<&Endpoint>) -> Value {
    let text = |value: Option<String>| value.unwrap_or_default();
    let ipv4 = endpoint.and_then(|endpoint| endpoint.ipv4);
    let ipv6 = endpoint.and_then(|endpoint| endpoint.ipv6);
    json!({
        "Links": null,
        "DriverOpts": null,
        "NetworkID": text(endpoint.map(|it| it.network_id.clone())),
        "EndpointID": text(endpoint.map(|it| it.interface.clone())),
        "Gateway": text(endpoint.and_then(|it| it.gateway).map(|it| it.to_string())),
        "IPAddress": text(ipv4.map(|it| it.0.to_string())),
        "IPPrefixLen": ipv4.map_or(0, |it| it.1),
        "IPv6Gateway": text(endpoint.and_then(|it| it.gateway6).map(|it| it.to_string())),
        "GlobalIPv6Address": text(ipv6.map(|it| it.0.to_string())),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |it| it.1),
        "MacAddress": text(endpoint.map(|it| it.mac.clone())),
        "DNSNames": endpoint.map(|it| it.names.clone()),
    })
}
