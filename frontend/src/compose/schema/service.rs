//! The keys of a service.

use super::super::canonical::{short, values};
use super::super::node::{Map, Node};
use super::{
    Absent, LABELS, List, ONE_OR_MORE_TEXTS, POSITIVE, SCALARS, Shape, Struct, TEXTS, Unique, VARIABLES,
    WHOLE, fields, list, one_or_more,
};

/// In the order of the specification's schema.
pub(super) static SERVICE: Struct = Struct {
    fields: &[
        ("develop", Shape::NullOr(&Shape::Struct(&DEVELOP))),
        ("deploy", Shape::NullOr(&Shape::Struct(&DEPLOY))),
        ("annotations", LABELS),
        ("attach", Shape::Bool),
        ("build", Shape::Short(short::build, &Shape::Struct(&BUILD))),
        ("blkio_config", Shape::Struct(&BLKIO)),
        ("cap_add", Shape::List(&TEXTS)),
        ("cap_drop", Shape::List(&TEXTS)),
        ("cgroup", Shape::OneOf(&["host", "private"])),
        ("cgroup_parent", Shape::Text),
        ("command", Shape::Words),
        ("configs", Shape::List(&CONFIGS)),
        ("container_name", Shape::Checked(values::container_name)),
        ("cpu_count", POSITIVE),
        ("cpu_percent", Shape::Integer(0, 100)),
        ("cpu_shares", POSITIVE),
        ("cpu_quota", WHOLE),
        ("cpu_period", POSITIVE),
        ("cpu_rt_period", Shape::Checked(values::microseconds)),
        ("cpu_rt_runtime", Shape::Checked(values::microseconds)),
        ("cpus", Shape::Decimal),
        ("cpuset", Shape::Text),
        ("credential_spec", Shape::Struct(&CREDENTIAL_SPEC)),
        ("depends_on", Shape::Short(short::depends_on, &Shape::Names(&Shape::Struct(&DEPENDENCY)))),
        ("device_cgroup_rules", Shape::List(&TEXTS)),
        ("devices", Shape::List(&DEVICES)),
        ("dns", Shape::List(&ONE_OR_MORE_TEXTS)),
        ("dns_opt", Shape::List(&TEXTS)),
        ("dns_search", Shape::List(&ONE_OR_MORE_TEXTS)),
        ("domainname", Shape::Text),
        ("entrypoint", Shape::Words),
        ("env_file", Shape::List(&ENV_FILES)),
        ("label_file", Shape::List(&super::ONE_OR_MORE_PATHS)),
        ("environment", VARIABLES),
        ("expose", Shape::List(&EXPOSE)),
        ("extends", Shape::Short(short::extends, &Shape::Struct(&EXTENDS))),
        ("provider", Shape::Struct(&PROVIDER)),
        ("external_links", Shape::List(&TEXTS)),
        ("extra_hosts", Shape::Short(short::extra_hosts, &Shape::List(&TEXTS))),
        ("gpus", Shape::Short(short::gpus, &Shape::List(&GPUS))),
        ("group_add", Shape::List(&SCALARS)),
        ("healthcheck", Shape::Struct(&HEALTHCHECK)),
        ("hostname", Shape::Text),
        ("image", Shape::Text),
        ("init", Shape::Bool),
        ("ipc", Shape::Text),
        ("isolation", Shape::Text),
        ("labels", LABELS),
        ("links", Shape::List(&TEXTS)),
        ("logging", Shape::Struct(&LOGGING)),
        ("mac_address", Shape::Text),
        ("mem_limit", Shape::Bytes),
        ("mem_reservation", Shape::Bytes),
        ("mem_swappiness", Shape::Integer(-1, 100)),
        ("memswap_limit", Shape::Bytes),
        ("network_mode", Shape::Text),
        ("models", Shape::Short(short::models, &Shape::Names(&Shape::Struct(&MODEL_USE)))),
        (
            "networks",
            Shape::Short(short::networks, &Shape::Names(&Shape::NullOr(&Shape::Struct(&ATTACHMENT)))),
        ),
        ("oom_kill_disable", Shape::Bool),
        ("oom_score_adj", Shape::Integer(-1000, 1000)),
        ("pid", Shape::NullOr(&Shape::Text)),
        ("pids_limit", Shape::Integer(-1, i64::MAX)),
        ("platform", Shape::Text),
        ("ports", Shape::List(&PORTS)),
        ("post_start", Shape::List(&HOOKS)),
        ("pre_start", Shape::List(&FIRST_HOOKS)),
        ("pre_stop", Shape::List(&HOOKS)),
        ("privileged", Shape::Bool),
        ("profiles", Shape::List(&PROFILES)),
        ("pull_policy", Shape::Checked(values::pull_policy)),
        ("pull_refresh_after", Shape::Duration),
        ("read_only", Shape::Bool),
        ("restart", Shape::Checked(values::restart)),
        ("runtime", Shape::Text),
        ("scale", POSITIVE),
        ("security_opt", Shape::List(&TEXTS)),
        ("shm_size", Shape::Bytes),
        ("secrets", Shape::List(&SECRETS)),
        ("sysctls", LABELS),
        ("stdin_open", Shape::Bool),
        ("stop_grace_period", Shape::Duration),
        ("stop_signal", Shape::Text),
        ("storage_opt", Shape::Names(&Shape::Scalar)),
        ("tmpfs", Shape::List(&ONE_OR_MORE_TEXTS)),
        ("tty", Shape::Bool),
        ("ulimits", ULIMITS),
        ("use_api_socket", Shape::Bool),
        ("user", Shape::Text),
        ("uts", Shape::Text),
        ("userns_mode", Shape::Text),
        ("volumes", Shape::List(&VOLUMES)),
        ("volumes_from", Shape::List(&TEXTS)),
        ("working_dir", Shape::Text),
    ],
    required: &[],
    finish: None,
};

const ULIMITS: Shape = Shape::Names(&Shape::Short(short::ulimit, &Shape::Struct(&ULIMIT)));

static ULIMIT: Struct = Struct {
    fields: &[("soft", Shape::Integer(-1, i64::MAX)), ("hard", Shape::Integer(-1, i64::MAX))],
    required: &["soft", "hard"],
    finish: None,
};

static BUILD: Struct = Struct {
    fields: &[
        ("context", Shape::Text),
        ("dockerfile", Shape::Text),
        ("dockerfile_inline", Shape::Text),
        ("entitlements", Shape::List(&TEXTS)),
        ("args", VARIABLES),
        ("ssh", Shape::Pairs(Absent::FromEnvironment)),
        ("labels", LABELS),
        ("cache_from", Shape::List(&TEXTS)),
        ("cache_to", Shape::List(&TEXTS)),
        ("no_cache", Shape::Bool),
        ("additional_contexts", LABELS),
        ("network", Shape::Text),
        ("provenance", Shape::Checked(values::as_is)),
        ("sbom", Shape::Checked(values::as_is)),
        ("pull", Shape::Bool),
        ("target", Shape::Text),
        ("shm_size", Shape::Bytes),
        ("extra_hosts", Shape::Short(short::extra_hosts, &Shape::List(&TEXTS))),
        ("isolation", Shape::Text),
        ("privileged", Shape::Bool),
        ("secrets", Shape::List(&SECRETS)),
        ("tags", Shape::List(&TEXTS)),
        ("ulimits", ULIMITS),
        ("platforms", Shape::List(&TEXTS)),
    ],
    required: &[],
    finish: Some(short::build_paths),
};

static BLKIO: Struct = fields(&[
    ("device_read_bps", Shape::List(&BLKIO_BYTES)),
    ("device_read_iops", Shape::List(&BLKIO_RATES)),
    ("device_write_bps", Shape::List(&BLKIO_BYTES)),
    ("device_write_iops", Shape::List(&BLKIO_RATES)),
    ("weight", Shape::Integer(0, 1000)),
    ("weight_device", Shape::List(&BLKIO_WEIGHTS)),
]);

static BLKIO_BYTES: List = list(Shape::Struct(&BLKIO_BYTE_LIMIT), Unique::By(path));
static BLKIO_BYTE_LIMIT: Struct = Struct {
    fields: &[("path", Shape::Text), ("rate", Shape::Bytes)],
    required: &["path", "rate"],
    finish: None,
};
static BLKIO_RATES: List = list(Shape::Struct(&BLKIO_RATE_LIMIT), Unique::By(path));
static BLKIO_RATE_LIMIT: Struct = Struct {
    fields: &[("path", Shape::Text), ("rate", POSITIVE)],
    required: &["path", "rate"],
    finish: None,
};
static BLKIO_WEIGHTS: List = list(Shape::Struct(&BLKIO_WEIGHT), Unique::By(path));
static BLKIO_WEIGHT: Struct = Struct {
    fields: &[("path", Shape::Text), ("weight", Shape::Integer(0, 1000))],
    required: &["path", "weight"],
    finish: None,
};

static CREDENTIAL_SPEC: Struct =
    fields(&[("config", Shape::Text), ("file", Shape::Text), ("registry", Shape::Text)]);

static DEPENDENCY: Struct = Struct {
    fields: &[
        ("restart", Shape::Bool),
        ("required", Shape::Bool),
        (
            "condition",
            Shape::OneOf(&["service_started", "service_healthy", "service_completed_successfully"]),
        ),
    ],
    required: &["condition"],
    finish: None,
};

static DEVICES: List = list(Shape::Short(short::device, &Shape::Struct(&DEVICE)), Unique::By(target));
static DEVICE: Struct = Struct {
    fields: &[("source", Shape::Text), ("target", Shape::Text), ("permissions", Shape::Text)],
    required: &["source"],
    finish: None,
};

static ENV_FILES: List =
    one_or_more(Shape::Short(short::env_file, &Shape::Struct(&ENV_FILE)), Unique::By(path));
static ENV_FILE: Struct = Struct {
    fields: &[("path", Shape::Path), ("format", Shape::OneOf(&["raw"])), ("required", Shape::Bool)],
    required: &["path"],
    finish: None,
};

static EXPOSE: List = list(Shape::Checked(values::exposed), Unique::Whole);

static EXTENDS: Struct = Struct {
    fields: &[("service", Shape::Text), ("file", Shape::Path)],
    required: &["service"],
    finish: None,
};

static PROVIDER: Struct = Struct {
    fields: &[("type", Shape::Text), ("options", Shape::Names(&Shape::Any))],
    required: &["type"],
    finish: None,
};

static GPUS: List = list(Shape::Struct(&GPU), Unique::No);
static GPU: Struct = fields(DEVICE_REQUEST);
const DEVICE_REQUEST: &[(&str, Shape)] = &[
    ("capabilities", Shape::List(&TEXTS)),
    ("count", Shape::Short(short::count, &WHOLE)),
    ("device_ids", Shape::List(&TEXTS)),
    ("driver", Shape::Text),
    ("options", LABELS),
];

static HEALTHCHECK: Struct = fields(&[
    ("disable", Shape::Bool),
    ("interval", Shape::Duration),
    ("retries", POSITIVE),
    ("test", Shape::Test),
    ("timeout", Shape::Duration),
    ("start_period", Shape::Duration),
    ("start_interval", Shape::Duration),
]);

static LOGGING: Struct = fields(&[("driver", Shape::Text), ("options", LABELS)]);

static MODEL_USE: Struct = fields(&[("endpoint_var", Shape::Text), ("model_var", Shape::Text)]);

static ATTACHMENT: Struct = fields(&[
    ("aliases", Shape::List(&TEXTS)),
    ("interface_name", Shape::Text),
    ("ipv4_address", Shape::Checked(values::ipv4)),
    ("ipv6_address", Shape::Checked(values::ipv6)),
    ("link_local_ips", Shape::List(&TEXTS)),
    ("mac_address", Shape::Text),
    ("driver_opts", Shape::Names(&Shape::Scalar)),
    ("priority", WHOLE),
    ("gw_priority", WHOLE),
]);

static PORTS: List = List {
    item: Shape::Struct(&PORT),
    or_one: false,
    spread: Some(super::super::canonical::ports::spread),
    unique: Unique::By(port),
};
static PORT: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("mode", Shape::OneOf(&["ingress", "host"])),
        ("host_ip", Shape::Checked(values::ip)),
        ("target", Shape::Integer(1, 65_535)),
        ("published", Shape::Checked(values::published)),
        ("protocol", Shape::OneOf(&["tcp", "udp", "sctp"])),
        ("app_protocol", Shape::Text),
    ],
    required: &["target"],
    finish: None,
};

static HOOKS: List = list(Shape::Struct(&HOOK), Unique::No);
static HOOK: Struct = Struct {
    fields: &[
        ("command", Shape::Words),
        ("user", Shape::Text),
        ("privileged", Shape::Bool),
        ("working_dir", Shape::Text),
        ("environment", VARIABLES),
    ],
    required: &["command"],
    finish: None,
};

/// It runs in a container of its own.
static FIRST_HOOKS: List = list(Shape::Struct(&FIRST_HOOK), Unique::No);
static FIRST_HOOK: Struct = Struct {
    fields: &[
        ("command", Shape::Words),
        ("image", Shape::Text),
        ("user", Shape::Text),
        ("privileged", Shape::Bool),
        ("working_dir", Shape::Text),
        ("environment", VARIABLES),
    ],
    required: &["command"],
    finish: None,
};

static PROFILES: List = list(Shape::Checked(values::profile), Unique::Whole);

static SECRETS: List =
    list(Shape::Short(short::file_use, &Shape::Struct(&FILE_USE)), Unique::By(secret_target));
static CONFIGS: List =
    list(Shape::Short(short::file_use, &Shape::Struct(&FILE_USE)), Unique::By(config_target));
static FILE_USE: Struct = Struct {
    fields: &[
        ("source", Shape::Text),
        ("target", Shape::Text),
        ("uid", Shape::Text),
        ("gid", Shape::Text),
        ("mode", Shape::Short(short::mode, &Shape::Text)),
    ],
    required: &["source"],
    finish: None,
};

static VOLUMES: List =
    list(Shape::Short(super::super::canonical::mounts::expand, &Shape::Struct(&MOUNT)), Unique::By(target));
static MOUNT: Struct = Struct {
    fields: &[
        ("type", Shape::OneOf(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])),
        ("source", Shape::Text),
        ("target", Shape::Text),
        ("read_only", Shape::Bool),
        ("consistency", Shape::Text),
        ("bind", Shape::Struct(&MOUNT_BIND)),
        ("volume", Shape::Struct(&MOUNT_VOLUME)),
        ("tmpfs", Shape::Struct(&MOUNT_TMPFS)),
        ("image", Shape::Struct(&MOUNT_IMAGE)),
    ],
    required: &["type", "target"],
    finish: Some(super::super::canonical::mounts::finish),
};
static MOUNT_BIND: Struct = fields(&[
    ("propagation", Shape::OneOf(&["private", "rprivate", "shared", "rshared", "slave", "rslave"])),
    ("create_host_path", Shape::Bool),
    ("recursive", Shape::OneOf(&["enabled", "disabled", "writable", "readonly"])),
    ("selinux", Shape::OneOf(&["z", "Z"])),
]);
static MOUNT_VOLUME: Struct =
    fields(&[("labels", LABELS), ("nocopy", Shape::Bool), ("subpath", Shape::Text)]);
static MOUNT_TMPFS: Struct =
    fields(&[("size", Shape::Bytes), ("mode", Shape::Short(short::mode, &Shape::Text))]);
static MOUNT_IMAGE: Struct = fields(&[("subpath", Shape::Text)]);

static DEVELOP: Struct = fields(&[("watch", Shape::List(&WATCHES))]);
static WATCHES: List = list(Shape::Struct(&WATCH), Unique::No);
static WATCH: Struct = Struct {
    fields: &[
        ("ignore", Shape::List(&ONE_OR_MORE_TEXTS)),
        ("include", Shape::List(&ONE_OR_MORE_TEXTS)),
        ("path", Shape::Path),
        ("action", Shape::OneOf(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])),
        ("target", Shape::Text),
        ("exec", Shape::Struct(&HOOK)),
        ("initial_sync", Shape::Bool),
    ],
    required: &["path", "action"],
    finish: None,
};

static DEPLOY: Struct = fields(&[
    ("mode", Shape::OneOf(&["replicated", "global", "replicated-job", "global-job"])),
    ("endpoint_mode", Shape::Text),
    ("replicas", POSITIVE),
    ("labels", LABELS),
    ("rollback_config", Shape::Struct(&UPDATE)),
    ("update_config", Shape::Struct(&UPDATE)),
    ("resources", Shape::Struct(&RESOURCES)),
    ("restart_policy", Shape::Struct(&RESTART_POLICY)),
    ("placement", Shape::Struct(&PLACEMENT)),
]);
static UPDATE: Struct = fields(&[
    ("parallelism", POSITIVE),
    ("delay", Shape::Duration),
    ("failure_action", Shape::Text),
    ("monitor", Shape::Duration),
    ("max_failure_ratio", Shape::Decimal),
    ("order", Shape::OneOf(&["start-first", "stop-first"])),
]);
static RESOURCES: Struct =
    fields(&[("limits", Shape::Struct(&LIMITS)), ("reservations", Shape::Struct(&RESERVATIONS))]);
static LIMITS: Struct =
    fields(&[("cpus", Shape::Decimal), ("memory", Shape::Bytes), ("pids", Shape::Integer(-1, i64::MAX))]);
static RESERVATIONS: Struct = fields(&[
    ("cpus", Shape::Decimal),
    ("memory", Shape::Bytes),
    ("generic_resources", Shape::List(&GENERIC_RESOURCES)),
    ("devices", Shape::List(&DEVICE_REQUESTS)),
]);
static GENERIC_RESOURCES: List = list(Shape::Struct(&GENERIC_RESOURCE), Unique::No);
static GENERIC_RESOURCE: Struct = fields(&[("discrete_resource_spec", Shape::Struct(&DISCRETE_RESOURCE))]);
static DISCRETE_RESOURCE: Struct = fields(&[("kind", Shape::Text), ("value", POSITIVE)]);
static DEVICE_REQUESTS: List = list(Shape::Struct(&REQUIRED_DEVICE), Unique::No);
static REQUIRED_DEVICE: Struct = Struct { fields: DEVICE_REQUEST, required: &["capabilities"], finish: None };
static RESTART_POLICY: Struct = fields(&[
    ("condition", Shape::OneOf(&["none", "on-failure", "any"])),
    ("delay", Shape::Duration),
    ("max_attempts", POSITIVE),
    ("window", Shape::Duration),
]);
static PLACEMENT: Struct = fields(&[
    ("constraints", Shape::List(&TEXTS)),
    ("preferences", Shape::List(&PREFERENCES)),
    ("max_replicas_per_node", POSITIVE),
]);
static PREFERENCES: List = list(Shape::Struct(&PREFERENCE), Unique::No);
static PREFERENCE: Struct = fields(&[("spread", Shape::Text)]);

fn text<'a>(map: &'a Map, key: &str) -> &'a str {
    map.get(key).and_then(Node::as_str).unwrap_or_default()
}

fn path(map: &Map) -> String {
    text(map, "path").to_owned()
}

fn target(map: &Map) -> String {
    let target = text(map, "target");
    let target = if target.is_empty() { text(map, "source") } else { target };
    target.trim_end_matches('/').to_owned()
}

fn secret_target(map: &Map) -> String {
    file_target(map, "/run/secrets/")
}

fn config_target(map: &Map) -> String {
    file_target(map, "/")
}

fn file_target(map: &Map, directory: &str) -> String {
    match (text(map, "target"), text(map, "source")) {
        ("", source) => format!("{directory}{source}"),
        (target, _) if target.starts_with('/') => target.to_owned(),
        (target, _) => format!("{directory}{target}"),
    }
}

fn port(map: &Map) -> String {
    let target = map.get("target").and_then(Node::as_integer).unwrap_or_default();
    let protocol = Some(text(map, "protocol")).filter(|it| !it.is_empty()).unwrap_or("tcp");
    format!("{}:{}:{target}/{protocol}", text(map, "host_ip"), text(map, "published"))
}
