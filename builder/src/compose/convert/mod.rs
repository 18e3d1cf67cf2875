//! Service → [`Ask`]: every key that says what a container is, as the engine understands it.

mod files;
mod mounts;
mod network;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use wharf_frontend::compose::Environment;
use wharf_frontend::compose::model::{Hook, Project, Service};
use wharf_frontend::dockerfile2llb::platform;

pub use files::contents;

use super::labels;
use crate::build::host_platform;
use crate::containers::ask::{Ask, HealthAsk, NamespaceAsk, StopTimeout};
use crate::containers::config::{LogConfig, RestartPolicy};
use crate::containers::protocol::ExecConfig;
use crate::error::{Failure, Kind};
use crate::volumes::spec::memory_size;

/// A project, and where it comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// All its services.
    pub project: Project,
    /// The variables that its files saw.
    pub environment: Environment,
    /// The directory that its paths start from.
    pub directory: String,
    /// Its files.
    pub files: Vec<String>,
}

/// Which container of a service is made.
#[derive(Debug, Clone)]
pub struct Which<'a> {
    /// The service.
    pub service: &'a str,
    /// Which of its containers.
    pub number: u32,
    /// Its name.
    pub name: &'a str,
    /// The hash of what its service says.
    pub hash: &'a str,
    /// The digest of its image.
    pub image: &'a str,
    /// Whether `run` makes it.
    pub one_off: bool,
}

/// Something in the files makes no sense.
fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Dockerfile, message)
}

/// What a container of a service is asked for. `of_service` tells the name of a container of another service.
pub fn ask(
    origin: &Origin,
    which: &Which<'_>,
    of_service: &dyn Fn(&str) -> Result<String, Failure>,
) -> Result<Ask, Failure> {
    let project = &origin.project;
    let Some(service) = project.services.get(which.service) else {
        return Err(Failure::new(Kind::Usage, format!("there is no service {}", which.service)));
    };
    let key = |key: &str| format!("services.{}.{key}", which.service);
    let platform = service.platform.as_deref().map(|text| {
        platform::parse(text, &host_platform())
            .map_err(|error| wrong(format!("{}: {error}", key("platform"))))
    });
    let deploy = service.deploy.as_ref();
    Ok(Ask {
        image: project.image_of(which.service, service).unwrap_or_default(),
        platform: platform.transpose()?,
        name: Some(which.name.to_owned()),
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        env: variables(&service.environment),
        working_dir: service.working_dir.clone(),
        user: service.user.clone(),
        group_add: service.group_add.clone(),
        tty: service.tty,
        open_stdin: service.stdin_open,
        stdin_once: false,
        init: service.init == Some(true),
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        labels: labels_of(origin, service, which),
        annotations: service.annotations.clone(),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service.stop_grace_period.map(|period| StopTimeout::After(period.0)),
        restart: restart(
            service.restart.as_deref(),
            deploy
                .and_then(|deploy| deploy.restart_policy.as_ref())
                .map(|it| (it.condition.as_deref(), it.max_attempts)),
        ),
        auto_remove: false,
        health: health(service),
        log: log(service).map_err(|reason| wrong(format!("{}: {reason}", key("logging"))))?,
        rights: resources::rights(service, &key)?,
        resources: resources::resources(service),
        mounts: mounts::mounts(origin, which.service, service)?,
        files: contents(origin, which.service)?,
        volumes_from: mounts::volumes_from(service, of_service)?,
        network: network::network(project, which, service, of_service)?,
        ports: network::ports(service, &key)?,
        publish_all: false,
        expose: service.expose.clone(),
        pid: namespace(service.pid.as_deref(), &["private"], &key("pid"), of_service)?,
        ipc: namespace(
            service.ipc.as_deref(),
            // Each can be shared, and has a `/dev/shm`: that is in the warnings.
            &["private", "shareable", "none"],
            &key("ipc"),
            of_service,
        )?,
        uts: namespace(service.uts.as_deref(), &["private"], &key("uts"), of_service)?,
        extra_hosts: service.extra_hosts.iter().map(|it| (it.host.clone(), it.address.clone())).collect(),
        dns: network::addresses(&service.dns, &key("dns"))?,
        dns_search: service.dns_search.clone(),
        dns_options: service.dns_opt.clone(),
    })
}

/// The hash by which it is seen that a service says something else: what it says itself, and what its container gets from
/// elsewhere in the project.
pub fn hash(origin: &Origin, service: &str) -> Result<String, Failure> {
    let Some(said) = origin.project.services.get(service) else { return Ok(String::new()) };
    let own = said.config_hash();
    let mut elsewhere = Sha256::new();
    let mut is_all = true;
    for file in contents(origin, service)? {
        is_all = false;
        elsewhere.update(file.target.as_os_str().as_encoded_bytes());
        elsewhere.update(Sha256::digest(&file.bytes));
    }
    for alias in network::linked_as(&origin.project, service) {
        is_all = false;
        elsewhere.update(alias);
    }
    if is_all {
        return Ok(own);
    }
    elsewhere.update(own);
    Ok(hex(&elsewhere.finalize()))
}

/// A hash of something of the project.
pub fn hash_of(value: &impl serde::Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    value.sort_all_objects();
    hex(&Sha256::digest(value.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a hook runs.
pub fn hook(hook: &Hook) -> ExecConfig {
    let variables = hook.environment.iter();
    ExecConfig {
        args: hook.command.clone().unwrap_or_default(),
        env: variables.filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect(),
        working_dir: hook.working_dir.clone(),
        user: hook.user.clone(),
        tty: false,
        privileged: hook.privileged,
        streams: None,
    }
}

/// How many containers a service wants: `--scale` has been looked at before.
pub fn count(service: &Service) -> u64 {
    let replicas = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
    service.scale.or(replicas).unwrap_or(1)
}

/// Variables; one without a value was set nowhere.
fn variables(environment: &BTreeMap<String, Option<String>>) -> Vec<(String, Option<String>)> {
    let set = environment.iter().filter_map(|(name, value)| Some((name.clone(), Some(value.clone()?))));
    set.collect()
}

fn labels_of(origin: &Origin, service: &Service, which: &Which<'_>) -> BTreeMap<String, String> {
    let mut all = service.labels.clone();
    let own = [
        (labels::PROJECT, origin.project.name.clone()),
        (labels::SERVICE, which.service.to_owned()),
        (labels::NUMBER, which.number.to_string()),
        (labels::CONFIG_HASH, which.hash.to_owned()),
        (labels::ONE_OFF, if which.one_off { "True" } else { "False" }.to_owned()),
        (labels::WORKING_DIR, origin.directory.clone()),
        (labels::CONFIG_FILES, origin.files.join(",")),
        (labels::DEPENDS_ON, labels::dependencies(&service.depends_on)),
        (labels::IMAGE, which.image.to_owned()),
        (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
    ];
    all.extend(own.map(|(name, value)| (name.to_owned(), value)));
    all
}

/// The policy of `deploy`: its condition, and how often; or else `restart`.
fn restart(said: Option<&str>, deploy: Option<(Option<&str>, Option<u64>)>) -> RestartPolicy {
    let often = |times: Option<u64>| RestartPolicy::OnFailure {
        times: times.map(|times| u32::try_from(times).unwrap_or(u32::MAX)),
    };
    match (deploy, said) {
        (Some((Some("none"), _)), _) => RestartPolicy::No,
        (Some((Some("on-failure"), times)), _) => often(times),
        (Some(_), _) | (None, Some("always")) => RestartPolicy::Always,
        (None, Some("unless-stopped")) => RestartPolicy::UnlessStopped,
        (None, Some(said)) => match said.strip_prefix("on-failure") {
            Some(times) => often(times.strip_prefix(':').and_then(|times| times.parse().ok())),
            None => RestartPolicy::No,
        },
        (None, None) => RestartPolicy::No,
    }
}

fn health(service: &Service) -> HealthAsk {
    let Some(check) = &service.healthcheck else { return HealthAsk::AsImage };
    let is_none = check.test.as_ref().is_some_and(|test| test.first().is_some_and(|word| word == "NONE"));
    if check.disable || is_none {
        return HealthAsk::Disabled;
    }
    let time = |it: Option<wharf_frontend::compose::model::Duration>| it.map(|it| it.0);
    HealthAsk::Given {
        test: check.test.clone().filter(|test| !test.is_empty()),
        interval: time(check.interval),
        timeout: time(check.timeout),
        start_period: time(check.start_period),
        start_interval: time(check.start_interval),
        retries: check.retries.map(|retries| u32::try_from(retries).unwrap_or(u32::MAX)),
    }
}

fn log(service: &Service) -> Result<LogConfig, String> {
    let mut log = LogConfig { max_file: 1, ..LogConfig::default() };
    let Some(logging) = &service.logging else { return Ok(log) };
    match logging.driver.as_deref() {
        Some("none") => log.none = true,
        None | Some("json-file" | "local" | "") => {}
        // What is read with `logs` is kept here whatever else is wanted; that is in the warnings.
        Some(_) => return Ok(log),
    }
    if let Some(text) = logging.options.get("max-size") {
        let size = memory_size(text).filter(|size| *size > 0);
        log.max_size = Some(size.ok_or_else(|| format!("max-size {text} is no size"))?);
    }
    if let Some(text) = logging.options.get("max-file") {
        let count = text.parse().ok().filter(|count| *count > 0);
        log.max_file = count.ok_or_else(|| format!("max-file {text} is no number of files"))?;
    }
    Ok(log)
}

/// What of a service is not acted on, but for what a key alone tells.
pub fn warnings(service: &Service) -> Vec<String> {
    let policy = service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref());
    let counts = policy
        .is_some_and(|it| it.max_attempts.is_some() && matches!(it.condition.as_deref(), None | Some("any")));
    let counts = counts.then(|| {
        "deploy.restart_policy.max_attempts is not acted on: only the condition on-failure counts".to_owned()
    });
    logging_warnings(service).into_iter().chain(counts).collect()
}

/// What of a service's logging is not acted on.
fn logging_warnings(service: &Service) -> Vec<String> {
    let Some(logging) = &service.logging else { return Vec::new() };
    match logging.driver.as_deref() {
        None | Some("json-file" | "local" | "none" | "") => {
            let known = ["max-size", "max-file"];
            let others = logging.options.keys().filter(|key| !known.contains(&key.as_str()));
            others
                .map(|key| {
                    format!(
                        "logging.options.{key} is not acted on: logs are files, with max-size and max-file"
                    )
                })
                .collect()
        }
        Some(driver) => {
            vec![format!(
                "logging.driver {driver} is not acted on: logs are files here, and `logs` shows them"
            )]
        }
    }
}

/// `own` are the words for a namespace of the container's own.
fn namespace(
    mode: Option<&str>,
    own: &[&str],
    key: &str,
    of_service: &dyn Fn(&str) -> Result<String, Failure>,
) -> Result<NamespaceAsk, Failure> {
    Ok(match mode.map(|mode| (mode, mode.split_once(':'))) {
        None | Some(("", _)) => NamespaceAsk::Private,
        Some((_, Some(("service", name)))) => NamespaceAsk::Container(of_service(name)?),
        Some((_, Some(("container", name)))) => NamespaceAsk::Container(name.to_owned()),
        Some(("host", _)) => NamespaceAsk::Host,
        Some((mode, _)) if own.contains(&mode) => NamespaceAsk::Private,
        Some((mode, _)) => {
            return Err(wrong(format!("{key}: {mode} is none of host, service:NAME, container:NAME")));
        }
    })
}
