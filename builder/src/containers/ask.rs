//! What somebody asks for: options as they are meant, before the image's defaults and the machine are known. The command line
//! and compose make an [`Ask`]; the engine makes a [`super::config::ContainerConfig`] of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use wharf_solver::llb::Platform;

use super::config::{Attachment, LogConfig, PortUse, Resources, RestartPolicy, Rights};

/// A container to create.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    /// The image: a name, a digest, or at least four digits of one. It is in the store by now.
    pub image: String,
    /// Which image of an index; this machine's, if nothing is said.
    pub platform: Option<Platform>,
    /// Its name; one is made up, if none is given.
    pub name: Option<String>,
    /// In place of the image's; an empty one clears it. The image's command goes with the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's; an empty one clears it.
    pub command: Option<Vec<String>>,
    /// Variables beside the image's; without a value, that of this process, if it has one.
    pub env: Vec<(String, Option<String>)>,
    /// In place of the image's.
    pub working_dir: Option<String>,
    /// In place of the image's.
    pub user: Option<String>,
    /// Further groups, names or numbers.
    pub group_add: Vec<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Its standard input is open.
    pub open_stdin: bool,
    /// That ends with the input of the first who is attached.
    pub stdin_once: bool,
    /// An init was asked for.
    pub init: bool,
    /// Host name.
    pub hostname: Option<String>,
    /// Domain.
    pub domainname: Option<String>,
    /// Labels beside the image's.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// In place of the image's: a name or number.
    pub stop_signal: Option<String>,
    /// In place of 10 seconds.
    pub stop_timeout: Option<StopTimeout>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// How it is seen to be well.
    pub health: HealthAsk,
    /// Where its output goes.
    pub log: LogConfig,
    /// What it may do.
    pub rights: Rights,
    /// What it may take.
    pub resources: Resources,
    /// What is mounted, beside the image's volumes.
    pub mounts: Vec<MountAsk>,
    /// Files of its own, mounted so that it cannot write to them.
    pub files: Vec<FileAsk>,
    /// Containers whose mounts it has too, and whether only to read.
    pub volumes_from: Vec<(String, bool)>,
    /// What it reaches.
    pub network: NetworkAsk,
    /// Ports that this host answers on.
    pub ports: Vec<PortUse>,
    /// This host answers for every exposed port.
    pub publish_all: bool,
    /// Ports it has beside the image's: `80/tcp`.
    pub expose: Vec<String>,
    /// Whose processes it sees.
    pub pid: NamespaceAsk,
    /// Whose shared memory it sees.
    pub ipc: NamespaceAsk,
    /// Whose host name it has.
    pub uts: NamespaceAsk,
    /// Lines of `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domains that are searched.
    pub dns_search: Vec<String>,
    /// What the resolver is told.
    pub dns_options: Vec<String>,
}

/// A file that is made for a container, and goes with it.
#[derive(Clone, PartialEq, Eq)]
pub struct FileAsk {
    /// Where in the container; absolute.
    pub target: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its owner and group, as the container numbers them.
    pub owner: (u32, u32),
    /// Its mode.
    pub mode: u32,
}

/// What is in it is nobody's business.
impl std::fmt::Debug for FileAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((uid, gid), length) = (self.owner, self.bytes.len());
        write!(f, "{}: {length} bytes of {uid}:{gid}, {:o}", self.target.display(), self.mode)
    }
}

/// How long a container has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTimeout {
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

/// How a container is seen to be well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthAsk {
    /// As its image says.
    #[default]
    AsImage,
    /// Not at all.
    Disabled,
    /// Like this; what is not said is as its image says, or else Docker's default.
    Given {
        /// The command: `["CMD", …]` or `["CMD-SHELL", …]`.
        test: Option<Vec<String>>,
        /// From the end of one to the begin of the next.
        interval: Option<Duration>,
        /// How long one may take.
        timeout: Option<Duration>,
        /// How long failures do not count.
        start_period: Option<Duration>,
        /// The interval meanwhile.
        start_interval: Option<Duration>,
        /// Failures in a row.
        retries: Option<u32>,
    },
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountAsk {
    /// What is mounted.
    pub kind: MountKindAsk,
    /// Where; absolute.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKindAsk {
    /// Something of this host.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// Whether it is made, as a directory, when it is not there (`-v`).
        create: bool,
        /// Of mounts.
        propagation: Option<String>,
        /// Mounts below it are left out.
        non_recursive: bool,
    },
    /// A volume. It is made, if it is not there.
    Volume {
        /// Its name; without one it is made for this container alone.
        name: Option<String>,
        /// A directory of it.
        subpath: Option<PathBuf>,
        /// An empty one is left empty.
        no_copy: bool,
        /// `local`, for one that is made.
        driver: Option<String>,
        /// Options of its driver, for one that is made.
        options: BTreeMap<String, String>,
        /// Labels, for one that is made.
        labels: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes at most.
        size: Option<u64>,
        /// Mode of its root.
        mode: Option<u32>,
        /// Of mount(8).
        options: Vec<String>,
    },
}

/// What a container reaches.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum NetworkAsk {
    /// The default network; where there are no networks, this host's, with a warning.
    #[default]
    Default,
    /// Loopback alone.
    None,
    /// This host's.
    Host,
    /// That of a container, by name or digits.
    Container(String),
    /// These, the one with the way out first.
    Networks(Vec<Attachment>),
}

/// Whose namespace it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NamespaceAsk {
    /// Its own.
    #[default]
    Private,
    /// This host's.
    Host,
    /// That of a container, by name or digits.
    Container(String),
}
