//! What a container is made of: written when it is created, as `config.json` of its directory.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The identifier of a container: 64 hexadecimal digits, of which users give the first few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

/// Digits of an identifier that people see.
pub const SHORT_ID: usize = 12;

impl ContainerId {
    /// The first digits.
    pub fn short(&self) -> &str {
        self.0.get(..SHORT_ID).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container as it was asked for. Everything is decided: image defaults are merged in, relative paths are absolute, names
/// of images have become digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name, without a slash. `rename` changes it.
    pub name: String,
    /// When it was created: nanoseconds since 1970.
    pub created: i64,
    /// What its root file system began as.
    pub image: ImageUse,
    /// The snapshots of the image, the lowest first.
    pub chain: Vec<u64>,
    /// What runs in it.
    pub process: ProcessConfig,
    /// Host name, and domain.
    pub hostname: Option<String>,
    /// The domain of the host.
    pub domainname: Option<String>,
    /// Labels, those of the image among them.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its runtime specification.
    pub annotations: BTreeMap<String, String>,
    /// The number of the signal that asks it to stop.
    pub stop_signal: i32,
    /// How long it has until it is killed; `None` is for ever.
    pub stop_timeout: Option<Duration>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Whether it is removed, with its anonymous volumes, when it ends.
    pub auto_remove: bool,
    /// How it is seen to be well.
    pub health: Option<HealthCheck>,
    /// Where its output goes.
    pub log: LogConfig,
    /// What it may do.
    pub rights: Rights,
    /// What it may take.
    pub resources: Resources,
    /// What is mounted, in the order of its targets' depth.
    pub mounts: Vec<MountConfig>,
    /// What it reaches.
    pub network: NetworkUse,
    /// Ports of its own that this host answers on.
    pub ports: Vec<PortUse>,
    /// Ports that its image or its creator say it has; `80/tcp`.
    pub exposed: Vec<String>,
    /// Whose processes it sees.
    pub pid: NamespaceUse,
    /// Whose shared memory it sees.
    pub ipc: NamespaceUse,
    /// Whose host name it has.
    pub uts: NamespaceUse,
    /// Further lines of `/etc/hosts`: name and address; `host-gateway` is this host.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers in place of this host's.
    pub dns: Vec<IpAddr>,
    /// Domains that are searched.
    pub dns_search: Vec<String>,
    /// What the resolver is told.
    pub dns_options: Vec<String>,
}

impl ContainerConfig {
    /// The containers that it shares something with, and cannot be started without.
    pub fn needs(&self) -> impl Iterator<Item = &ContainerId> {
        let of_network = match &self.network {
            NetworkUse::Container { id } => Some(id),
            _ => None,
        };
        let shared = [&self.pid, &self.ipc, &self.uts].into_iter().filter_map(|usage| match usage {
            NamespaceUse::Container { id } => Some(id),
            _ => None,
        });
        of_network.into_iter().chain(shared)
    }
}

/// The image of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// As it was asked for.
    pub name: String,
    /// What the name stood for: an index or a manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: String,
    /// The platform, `linux/arm64`.
    pub platform: String,
}

/// The first process of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// The part of its arguments that is the entrypoint.
    pub entrypoint: Vec<String>,
    /// The part that is the command.
    pub command: Vec<String>,
    /// `NAME=value`, complete but for `HOME`, `HOSTNAME` and `TERM`.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: String,
    /// `USER[:GROUP]` as names or numbers of the container; empty is root.
    pub user: String,
    /// Further groups.
    pub group_add: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// Whether that ends when whoever gives it input hangs up or has no more.
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether a small init is PID 1. (wharf always has one: this decides what `inspect` says.)
    pub init: bool,
}

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whatever its exit status, unless it was stopped by somebody.
    Always,
    /// The same.
    UnlessStopped,
    /// When its exit status is not 0; so many times, or without end.
    OnFailure {
        /// How many times.
        times: Option<u32>,
    },
}

/// A health check with everything decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The command; a shell form is `["/bin/sh", "-c", …]` already.
    pub test: Vec<String>,
    /// Whether the last of it was given as a line for a shell.
    #[serde(default)]
    pub is_line: bool,
    /// From the end of one to the begin of the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How long after the start failures do not count.
    pub start_period: Duration,
    /// The interval during that time.
    pub start_interval: Duration,
    /// How many failures in a row make it unhealthy.
    pub retries: u32,
}

impl HealthCheck {
    /// The command in the form that images have it in.
    pub fn as_image_has_it(&self) -> Vec<String> {
        match self.test.last() {
            Some(line) if self.is_line => vec!["CMD-SHELL".to_owned(), line.clone()],
            _ => std::iter::once("CMD".to_owned()).chain(self.test.iter().cloned()).collect(),
        }
    }
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Nothing is kept (`--log-driver none`).
    pub none: bool,
    /// A file is ended at this size; `None` is never.
    pub max_size: Option<u64>,
    /// How many files are kept, the one that is written among them; at least 1.
    pub max_file: u32,
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Everything.
    pub privileged: bool,
    /// Capabilities beyond the usual, `CAP_NET_ADMIN` or `ALL`.
    pub cap_add: Vec<String>,
    /// Usual capabilities that it has not.
    pub cap_drop: Vec<String>,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=unconfined`.
    pub seccomp_unconfined: bool,
    /// `systempaths=unconfined`: nothing is masked.
    pub paths_unconfined: bool,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// Devices of this host: path here, path there, access (`rwm`).
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Settings of the kernel in its namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// What a container may take of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap; -1 is any.
    pub memory_swap: Option<i64>,
    /// Billionths of processors.
    pub nano_cpus: Option<u64>,
    /// Microseconds of a period, and how many of them it may use.
    pub cpu_period: Option<u64>,
    /// Microseconds of each period.
    pub cpu_quota: Option<i64>,
    /// Its weight beside others.
    pub cpu_shares: Option<u64>,
    /// Which processors.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is any number.
    pub pids: Option<i64>,
    /// The control group to make its own in.
    pub cgroup_parent: Option<String>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Name as `ulimit` has it, soft, hard; -1 is no limit.
    pub ulimits: Vec<(String, i64, i64)>,
    /// How soon it is killed when memory runs out.
    pub oom_score_adj: Option<i32>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    /// What is there.
    pub kind: MountKind,
    /// Where: absolute, as the container sees it.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum MountKind {
    /// A file or directory of this host.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// Whether it is made, as a directory, when it is not there (`-v`).
        #[serde(default)]
        create: bool,
        /// `rprivate`, `rshared`, … as mount(8) names it; `None` is `rprivate`.
        propagation: Option<String>,
        /// Whether what is mounted below the source is left out.
        non_recursive: bool,
    },
    /// A volume of the store.
    Volume {
        /// Its name.
        name: String,
        /// A directory of it, relative.
        subpath: Option<PathBuf>,
        /// Whether it was made for this container alone, and goes with it.
        anonymous: bool,
        /// Whether an empty one is left empty.
        no_copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes at most.
        size: Option<u64>,
        /// Mode of its root.
        mode: Option<u32>,
        /// Further options of mount(8).
        options: Vec<String>,
    },
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum NetworkUse {
    /// Loopback alone.
    None,
    /// This host's.
    Host,
    /// That of another container.
    Container {
        /// Whose.
        id: ContainerId,
    },
    /// Networks of the store, the one that has the way out first.
    Networks {
        /// Them.
        attached: Vec<Attachment>,
    },
}

/// A network that a container is part of. `connect` and `disconnect` change the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The name of the network; `bridge` is the default one, on which there are no names.
    pub network: String,
    /// Further names of the container there.
    pub aliases: Vec<String>,
    /// Its address, if one was asked for.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// The same.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// Its hardware address, if one was asked for: `02:42:…`.
    pub mac: Option<String>,
}

/// A port that this host answers on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// The container's.
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// The host's address; `None` is every one.
    pub address: Option<IpAddr>,
    /// The host's port; 0 is any free one.
    pub host: u16,
    /// With `host`: the last of the ports one of which is taken; equal to `host` otherwise.
    pub host_last: u16,
}

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Whose namespace of some kind a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum NamespaceUse {
    /// Its own.
    #[default]
    Private,
    /// This host's.
    Host,
    /// That of another container, which has to run.
    Container {
        /// Whose.
        id: ContainerId,
    },
}
