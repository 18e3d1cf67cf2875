//! One service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Build, Bytes, Deploy, Device, DeviceRequest, Duration, ExtraHost, FileUse, Mount, Port, Ulimit, model,
};

model! {
    /// A service. Where a key has a counterpart in `docker run`, it means the same.
    Service {
        /// Annotations of the container.
        annotations: BTreeMap<String, String>,
        /// Whether `up` shows its output; it does, if nothing is said.
        attach: Option<bool>,
        /// Limits of its disks.
        blkio_config: Option<BlkioConfig>,
        /// How its image is built.
        build: Option<Build>,
        /// Rights it has more than others.
        cap_add: Vec<String>,
        /// Rights it has not.
        cap_drop: Vec<String>,
        /// `host` or `private`.
        cgroup: Option<String>,
        /// The group above its own.
        cgroup_parent: Option<String>,
        /// In place of the image's; an empty one clears it.
        command: Option<Vec<String>>,
        /// Configs it sees.
        configs: Vec<FileUse>,
        /// The name of its only container.
        container_name: Option<String>,
        /// On Windows.
        cpu_count: Option<i64>,
        /// On Windows.
        cpu_percent: Option<i64>,
        /// Microseconds of a period.
        cpu_period: Option<i64>,
        /// Microseconds it may use in each; -1 is all.
        cpu_quota: Option<i64>,
        /// Microseconds of a period in real time.
        cpu_rt_period: Option<String>,
        /// Microseconds it may use in each.
        cpu_rt_runtime: Option<String>,
        /// Its weight.
        cpu_shares: Option<i64>,
        /// Processors it may use.
        cpus: Option<f64>,
        /// Which.
        cpuset: Option<String>,
        /// On Windows.
        credential_spec: Option<CredentialSpec>,
        /// What is started before it, implied dependencies among them.
        depends_on: BTreeMap<String, Dependency>,
        /// How many and with what.
        deploy: Option<Deploy>,
        /// What `watch` does.
        develop: Option<Develop>,
        /// Devices by number.
        device_cgroup_rules: Vec<String>,
        /// Devices.
        devices: Vec<Device>,
        /// Name servers.
        dns: Vec<String>,
        /// What the resolver is told.
        dns_opt: Vec<String>,
        /// Domains that are searched.
        dns_search: Vec<String>,
        /// Its domain.
        domainname: Option<String>,
        /// In place of the image's; an empty one clears it.
        entrypoint: Option<Vec<String>>,
        /// Variables, those of its files among them; one without a value is not set.
        environment: BTreeMap<String, Option<String>>,
        /// Ports it has for its neighbours.
        expose: Vec<String>,
        /// Containers of others.
        external_links: Vec<String>,
        /// Lines of `/etc/hosts`.
        extra_hosts: Vec<ExtraHost>,
        /// Graphics processors.
        gpus: Vec<DeviceRequest>,
        /// Further groups.
        group_add: Vec<String>,
        /// Whether it is well.
        healthcheck: Option<Healthcheck>,
        /// Its host's name.
        hostname: Option<String>,
        /// The image; of a build, its name.
        image: Option<String>,
        /// A process that looks after others.
        init: Option<bool>,
        /// `host`, `private`, `shareable`, `none`, `service:NAME`, `container:NAME`.
        ipc: Option<String>,
        /// On Windows.
        isolation: Option<String>,
        /// Labels of its containers, those of its files among them.
        labels: BTreeMap<String, String>,
        /// `SERVICE[:ALIAS]`: further names of neighbours.
        links: Vec<String>,
        /// Where its output goes.
        logging: Option<Logging>,
        /// Of its network.
        mac_address: Option<String>,
        /// Memory.
        mem_limit: Option<Bytes>,
        /// Memory it gets.
        mem_reservation: Option<Bytes>,
        /// How readily it is swapped out.
        mem_swappiness: Option<i64>,
        /// Memory and swap.
        memswap_limit: Option<Bytes>,
        /// Language models.
        models: BTreeMap<String, ModelUse>,
        /// `host`, `none`, `bridge`, `service:NAME`, `container:NAME`.
        network_mode: Option<String>,
        /// Its networks by key.
        networks: BTreeMap<String, Option<Attachment>>,
        /// It is not killed when memory runs out.
        oom_kill_disable: bool,
        /// How soon it is killed then.
        oom_score_adj: Option<i64>,
        /// `host`, `service:NAME`, `container:NAME`.
        pid: Option<String>,
        /// Processes; -1 is any number.
        pids_limit: Option<i64>,
        /// What it runs on.
        platform: Option<String>,
        /// Published ports, ranges taken apart.
        ports: Vec<Port>,
        /// Run in it when it has started.
        post_start: Vec<Hook>,
        /// Run before it starts, in containers of their own.
        pre_start: Vec<FirstHook>,
        /// Run in it before it is stopped.
        pre_stop: Vec<Hook>,
        /// It has all rights.
        privileged: bool,
        /// With which it is active; always, if there are none.
        profiles: Vec<String>,
        /// Who makes it, if no container.
        provider: Option<Provider>,
        /// When its image is fetched.
        pull_policy: Option<String>,
        /// How old an image may be.
        pull_refresh_after: Option<Duration>,
        /// Its root is.
        read_only: bool,
        /// `no`, `always`, `on-failure[:N]`, `unless-stopped`.
        restart: Option<String>,
        /// Who runs it.
        runtime: Option<String>,
        /// How many containers.
        scale: Option<u64>,
        /// Secrets it sees.
        secrets: Vec<FileUse>,
        /// How it is confined.
        security_opt: Vec<String>,
        /// Of `/dev/shm`.
        shm_size: Option<Bytes>,
        /// Its standard input is open.
        stdin_open: bool,
        /// How long it has to stop.
        stop_grace_period: Option<Duration>,
        /// How it is told to.
        stop_signal: Option<String>,
        /// Of its root.
        storage_opt: BTreeMap<String, String>,
        /// Of the kernel.
        sysctls: BTreeMap<String, String>,
        /// `TARGET[:OPTIONS]`: memory.
        tmpfs: Vec<String>,
        /// It has a terminal.
        tty: bool,
        /// Limits of its processes.
        ulimits: BTreeMap<String, Ulimit>,
        /// It may command the engine.
        use_api_socket: bool,
        /// `USER[:GROUP]`.
        user: Option<String>,
        /// Its user namespace.
        userns_mode: Option<String>,
        /// `host`, `service:NAME`.
        uts: Option<String>,
        /// What is mounted.
        volumes: Vec<Mount>,
        /// `SERVICE[:ro]` or `container:NAME[:ro]`: whose mounts it has.
        volumes_from: Vec<String>,
        /// Where it starts.
        working_dir: Option<String>,
    }

    /// Limits of disks.
    BlkioConfig {
        /// Bytes read a second.
        device_read_bps: Vec<DeviceRate<Bytes>>,
        /// Reads a second.
        device_read_iops: Vec<DeviceRate<i64>>,
        /// Bytes written a second.
        device_write_bps: Vec<DeviceRate<Bytes>>,
        /// Writes a second.
        device_write_iops: Vec<DeviceRate<i64>>,
        /// Its weight.
        weight: Option<i64>,
        /// Its weight on each.
        weight_device: Vec<DeviceWeight>,
    }

    /// The weight on a device.
    DeviceWeight {
        /// The device.
        path: String,
        /// The weight.
        weight: Option<i64>,
    }

    /// An account of Windows.
    CredentialSpec {
        /// A config that holds it.
        config: Option<String>,
        /// A file that holds it.
        file: Option<String>,
        /// A key that holds it.
        registry: Option<String>,
    }

    /// What `watch` does.
    Develop {
        /// What is watched.
        watch: Vec<Watch>,
    }

    /// Whether a service is well.
    Healthcheck {
        /// It is not asked.
        disable: bool,
        /// Between tests.
        interval: Option<Duration>,
        /// How many failures make it unwell.
        retries: Option<u64>,
        /// `NONE`, `CMD WORD…` or `CMD-SHELL LINE`; the image's, if there is none.
        test: Option<Vec<String>>,
        /// How long a test may take.
        timeout: Option<Duration>,
        /// How long failures do not count.
        start_period: Option<Duration>,
        /// Between tests until then.
        start_interval: Option<Duration>,
    }

    /// Where output goes.
    Logging {
        /// Who takes it.
        driver: Option<String>,
        /// What the driver is told.
        options: BTreeMap<String, String>,
    }

    /// How a service learns of a model.
    ModelUse {
        /// The variable that says where it is.
        endpoint_var: Option<String>,
        /// The variable that says which it is.
        model_var: Option<String>,
    }

    /// A service on a network.
    Attachment {
        /// Further names.
        aliases: Vec<String>,
        /// What the interface is called.
        interface_name: Option<String>,
        /// Its address.
        ipv4_address: Option<String>,
        /// Its address of the sixth version.
        ipv6_address: Option<String>,
        /// Addresses of the link.
        link_local_ips: Vec<String>,
        /// Its hardware address.
        mac_address: Option<String>,
        /// What the driver is told.
        driver_opts: BTreeMap<String, String>,
        /// Which network is joined first: the highest.
        priority: Option<i64>,
        /// Which network is the way out: the highest.
        gw_priority: Option<i64>,
    }

    /// A command at a turn of a container's life.
    Hook {
        /// The command.
        command: Option<Vec<String>>,
        /// Who runs it.
        user: Option<String>,
        /// It has all rights.
        privileged: bool,
        /// Where it starts.
        working_dir: Option<String>,
        /// Further variables.
        environment: BTreeMap<String, Option<String>>,
    }

    /// A command in a container of its own.
    FirstHook {
        /// The command.
        command: Option<Vec<String>>,
        /// The image; the service's, if there is none.
        image: Option<String>,
        /// Who runs it.
        user: Option<String>,
        /// It has all rights.
        privileged: bool,
        /// Where it starts.
        working_dir: Option<String>,
        /// Further variables.
        environment: BTreeMap<String, Option<String>>,
    }

    /// Who makes a service that is no container.
    Provider {
        /// A program.
        kind = "type": String,
        /// What it is told.
        options: BTreeMap<String, serde_json::Value>,
    }

    /// What is watched, and what is done.
    Watch {
        /// Absolute.
        path: String,
        /// What is done when it changes.
        action: WatchAction,
        /// Where in the container.
        target: Option<String>,
        /// What is not watched.
        ignore: Vec<String>,
        /// What is.
        include: Vec<String>,
        /// Run after the change is there.
        exec: Option<Hook>,
        /// All is brought over at first.
        initial_sync: bool,
    }
}

/// What is done when a watched file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchAction {
    /// Nothing.
    #[default]
    #[serde(skip)]
    None,
    /// The image is built anew.
    Rebuild,
    /// The file is brought over.
    Sync,
    /// The container is restarted.
    Restart,
    /// Both.
    #[serde(rename = "sync+restart")]
    SyncRestart,
    /// The file is brought over and a command run.
    #[serde(rename = "sync+exec")]
    SyncExec,
}

/// The rate of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate<T> {
    /// The device.
    pub path: String,
    /// How much a second.
    pub rate: T,
}

/// What must have become of a service before those that depend on it start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Condition {
    /// It runs.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// It is well.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// It ended, and well.
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

/// A dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What is waited for.
    pub condition: Condition,
    /// It is restarted with what it depends on.
    #[serde(default, skip_serializing_if = "crate::compose::model::is_default")]
    pub restart: bool,
    /// Whether it is an error if it is not there.
    pub required: bool,
    /// Keys that begin with `x-`.
    #[serde(flatten)]
    pub extensions: super::Extensions,
}
