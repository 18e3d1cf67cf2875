//! Flags of `wharf run` and `create`, as they are typed.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

/// What a container is made of.
#[derive(Debug, Args)]
pub(in crate::cli) struct CreateFlags {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(super) help: Option<bool>,
    /// Name of the container [default: a made-up one]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "STREAM", ignore_case = true)]
    pub(super) attach: Vec<Attached>,
    /// Remove the container when it ends
    #[arg(long)]
    pub(super) rm: bool,
    /// Environment variable; without a value, that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Bind a directory or file of this host, or a volume: [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long, value_name = "MOUNT")]
    pub(super) volume: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…
    #[arg(long, value_name = "MOUNT")]
    pub(super) mount: Vec<String>,
    /// Mount a file system in memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "MOUNT")]
    pub(super) tmpfs: Vec<String>,
    /// Mount what another container has mounted
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub(super) volumes_from: Vec<String>,
    /// Let this host answer for a port: [[ADDRESS:]PORT:]PORT[/PROTOCOL]
    #[arg(short, long, value_name = "PORTS")]
    pub(super) publish: Vec<String>,
    /// Let this host answer for every exposed port, on a free one of its own
    #[arg(short = 'P', long)]
    pub(super) publish_all: bool,
    /// Say that there is a port
    #[arg(long, value_name = "PORT")]
    pub(super) expose: Vec<String>,
    /// A network, `host`, `none`, `bridge`, `container:NAME`, or name=NETWORK,alias=…,ip=…
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(super) network: Vec<String>,
    /// A further name on the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(super) network_alias: Vec<String>,
    /// Address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub(super) ip: Option<String>,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub(super) ip6: Option<String>,
    /// Hardware address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub(super) mac_address: Option<String>,
    /// Host name of the container
    #[arg(short = 'h', long)]
    pub(super) hostname: Option<String>,
    /// Domain of the container
    #[arg(long)]
    pub(super) domainname: Option<String>,
    /// Line of /etc/hosts; `host-gateway` is this host
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(super) add_host: Vec<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    pub(super) dns: Vec<std::net::IpAddr>,
    /// Domain that is searched
    #[arg(long, value_name = "DOMAIN")]
    pub(super) dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(super) dns_option: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// User: NAME or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Further group
    #[arg(long, value_name = "GROUP")]
    pub(super) group_add: Vec<String>,
    /// In place of the image's entrypoint; an empty one clears it
    #[arg(long, value_name = "COMMAND")]
    pub(super) entrypoint: Option<String>,
    /// Nothing can be written but in volumes
    #[arg(long)]
    pub(super) read_only: bool,
    /// Capability beyond the usual, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(super) cap_add: Vec<String>,
    /// Usual capability that it does not get, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(super) cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined, systempaths=unconfined, label=disable, apparmor=unconfined
    #[arg(long, value_name = "OPTION")]
    pub(super) security_opt: Vec<String>,
    /// Every right that there is to give
    #[arg(long)]
    pub(super) privileged: bool,
    /// Device of this host: PATH[:PATH][:rwm]
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Vec<String>,
    /// Setting of the kernel in the container's namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) sysctl: Vec<String>,
    /// Memory that it may take: 512m, 2g
    #[arg(short, long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Memory and swap together, -1 for as much swap as there is [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Processors that it may use: 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(super) cpus: Option<String>,
    /// Microseconds in which its processor time is counted
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_period: Option<u64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// Share of the processor time when others want it too, where 1024 is usual
    #[arg(short, long, value_name = "SHARES")]
    pub(super) cpu_shares: Option<u64>,
    /// Processors that it may run on: 0-3,7
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes that it may take memory from: 0-1
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Processes and threads that it may have at once, -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Limit as `ulimit` has it: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub(super) ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// How soon it is killed when memory runs out: -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub(super) oom_score_adj: Option<i32>,
    /// The control group to make its own in
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup_parent: Option<String>,
    /// What happens when it ends: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub(super) restart: Option<String>,
    /// Command that says whether it is well
    #[arg(long, value_name = "COMMAND")]
    pub(super) health_cmd: Option<String>,
    /// Time between two checks: 30s
    #[arg(long, value_name = "DURATION")]
    pub(super) health_interval: Option<String>,
    /// Time that a check may take
    #[arg(long, value_name = "DURATION")]
    pub(super) health_timeout: Option<String>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "DURATION")]
    pub(super) health_start_period: Option<String>,
    /// Time between two checks meanwhile
    #[arg(long, value_name = "DURATION")]
    pub(super) health_start_interval: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    pub(super) health_retries: Option<u32>,
    /// Check nothing, whatever the image says
    #[arg(long)]
    pub(super) no_healthcheck: bool,
    /// Signal that asks it to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(super) stop_signal: Option<String>,
    /// Seconds until it is killed then; -1 for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(super) stop_timeout: Option<i64>,
    /// Label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) label: Vec<String>,
    /// File of labels
    #[arg(long, value_name = "FILE")]
    pub(super) label_file: Vec<PathBuf>,
    /// Annotation
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) annotation: Vec<String>,
    /// json-file, local (the same) or none
    #[arg(long, value_name = "NAME")]
    pub(super) log_driver: Option<String>,
    /// max-size=SIZE, max-file=N
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) log_opt: Vec<String>,
    /// A small init is PID 1 (one always is)
    #[arg(long)]
    pub(super) init: bool,
    /// When the image is brought from its registry
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pub(super) pull: Pull,
    /// Show no progress of that
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// The image for this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,
    /// File that the container's identifier is written to
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// Whose processes it sees: host, container:NAME
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) pid: Option<String>,
    /// Whose shared memory it sees: private, host, container:NAME
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) ipc: Option<String>,
    /// Whose host name it has: host
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) uts: Option<String>,
    /// The image, and command and arguments in place of the image's own
    #[arg(required = true, trailing_var_arg = true, num_args = 1.., value_names = ["IMAGE", "COMMAND"])]
    pub(super) image: Vec<String>,
}

/// A stream of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Attached {
    /// What it reads.
    Stdin,
    /// What it prints.
    Stdout,
    /// What it says.
    Stderr,
}

/// When an image is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Pull {
    /// Even if it is there.
    Always,
    /// If it is not there.
    Missing,
    /// Not at all.
    Never,
}
