//! Actions, done.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use wharf_cache::from_nanos;
use wharf_frontend::compose::model::{Condition, FirstHook, Hook, Network, Service};
use wharf_runtime::Cancel;

use super::convert::{self, Origin, Which};
use super::labels;
use super::observe;
use super::plan::Action;
use super::talk::Talk;
use crate::containers::ask::{Ask, HealthAsk, MountAsk, MountKindAsk};
use crate::containers::config::{ContainerId, MountKind, NetworkUse, RestartPolicy};
use crate::containers::engine::{Container, Engine, Remove};
use crate::containers::log::LogQuery;
use crate::containers::protocol::{ExecConfig, Streams};
use crate::containers::state::{HealthStatus, Status};
use crate::containers::streams::{DetachKeys, Ended, Ends};
use crate::error::{Failure, Kind};
use crate::networks::record::{Networks, NewNetwork};
use crate::progress::print_warning;
use crate::volumes::{Volume, Volumes};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Lines that are shown of what a hook printed.
const TAIL_LINES: usize = 10;

/// What actions are done with.
#[derive(Debug)]
pub struct Work<'a> {
    /// The containers.
    pub engine: &'a Engine,
    /// The files; none for commands that know of the project by labels alone.
    pub origin: Option<&'a Origin>,
    /// The project's name.
    pub project: &'a str,
    /// What is said.
    pub talk: Talk,
    /// Ends every wait.
    pub cancel: &'a Cancel,
    /// The digests of the images, by service.
    pub images: BTreeMap<String, String>,
    /// What services say, by service.
    pub hashes: BTreeMap<String, String>,
    /// In place of what containers say themselves: seconds until they are killed.
    pub timeout: Option<i64>,
    /// Whether anonymous volumes of a container that is replaced are left behind.
    pub renew_volumes: bool,
    /// Whether anonymous volumes go with the containers that are removed.
    pub remove_volumes: bool,
}

impl Work<'_> {
    /// Does one.
    pub fn perform(&self, action: &Action) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(interrupted());
        }
        match action {
            Action::CreateNetwork { key } => self.create_network(key),
            Action::RemoveNetwork { name } => self.remove_network(name),
            Action::CreateVolume { key } => self.create_volume(key),
            Action::RemoveVolume { name } => {
                self.talk.around(("Volume", name), ("Removing", "Removed"), || {
                    Volumes::new(self.engine.store()).remove(name)
                })
            }
            Action::Create { service, number, name } => {
                self.talk.around(("Container", name), ("Creating", "Created"), || {
                    self.engine.create(&self.ask(service, *number, name)?).map(drop)
                })
            }
            Action::Recreate { service, number, name, old } => {
                self.talk.around(("Container", name), ("Recreate", "Recreated"), || {
                    self.recreate(service, *number, name, old)
                })
            }
            Action::Start { service, name } => self.start(service, name),
            Action::Await { service, condition, names, required } => {
                self.await_dependency(service, *condition, names, *required)
            }
            Action::Stop { service, id, name } => {
                self.talk.around(("Container", name), ("Stopping", "Stopped"), || self.stop(service, id))
            }
            Action::Remove { id, name } => {
                self.talk.around(("Container", name), ("Removing", "Removed"), || {
                    let how = Remove { force: true, volumes: self.remove_volumes };
                    self.unless_gone(id, self.engine.remove(id, how))
                })
            }
            Action::RemoveImage { name } => self.remove_image(name),
            Action::Restart { service, id, name } => {
                self.talk.around(("Container", name), ("Restarting", "Started"), || {
                    self.stop(service, id)?;
                    self.engine.start(id, None)?;
                    self.hooks(service, id, |service| &service.post_start)
                })
            }
        }
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.origin?.project.services.get(name)
    }

    /// Somebody else may have removed it meanwhile: that is what was wanted.
    fn unless_gone(&self, id: &ContainerId, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Err(_) if self.engine.get(id).is_err() => Ok(()),
            done => done,
        }
    }

    fn create_network(&self, key: &str) -> Result<(), Failure> {
        let Some(network) = self.origin.and_then(|origin| origin.project.networks.get(key)) else {
            return Ok(());
        };
        let name = network.name.as_deref().unwrap_or(key);
        let networks = Networks::of(self.engine.store().root());
        self.talk.around(("Network", name), ("Creating", "Created"), || {
            networks.create(&new_network(self.project, key, name, network)?).map(drop)
        })
    }

    fn remove_network(&self, name: &str) -> Result<(), Failure> {
        let networks = Networks::of(self.engine.store().root());
        let Some(network) = networks.named(name)? else { return Ok(()) };
        let users: Vec<String> = self
            .engine
            .list()?
            .into_iter()
            .filter(|it| match &it.config.network {
                NetworkUse::Networks { attached } => attached.iter().any(|it| it.network == name),
                _ => false,
            })
            .map(|it| it.config.name)
            .collect();
        if !users.is_empty() {
            self.talk.say("Network", name, "Resource is still in use");
            print_warning(&format!("the network {name} stays: it is used by {}", users.join(", ")));
            return Ok(());
        }
        self.talk.around(("Network", name), ("Removing", "Removed"), || networks.remove(&network))
    }

    fn create_volume(&self, key: &str) -> Result<(), Failure> {
        let Some(volume) = self.origin.and_then(|origin| origin.project.volumes.get(key)) else {
            return Ok(());
        };
        let name = volume.name.clone().unwrap_or_else(|| key.to_owned());
        let mut labels = volume.labels.clone();
        labels.extend(own_labels(self.project, (labels::VOLUME, key), convert::hash_of(volume)));
        let ask = Volume {
            name: name.clone(),
            driver: volume.driver.clone().unwrap_or_default(),
            options: volume.driver_opts.clone(),
            labels,
            ..Volume::default()
        };
        self.talk.around(("Volume", &name), ("Creating", "Created"), || {
            Volumes::new(self.engine.store()).create(&ask).map(drop)
        })
    }

    fn remove_image(&self, name: &str) -> Result<(), Failure> {
        let store = self.engine.store();
        let Ok(image) = crate::images::find::find(store, name) else { return Ok(()) };
        self.talk.around(("Image", name), ("Removing", "Removed"), || {
            store.remove_image(&image).map(drop).map_err(|error| {
                Failure::from_error(Kind::Environment, &format!("cannot remove the image `{name}`"), &error)
            })
        })
    }

    /// What a container of a service is asked for.
    pub fn ask(&self, service: &str, number: u32, name: &str) -> Result<Ask, Failure> {
        self.ask_for(service, number, name, false)
    }

    /// The same of one that `run` makes.
    pub fn ask_for(&self, service: &str, number: u32, name: &str, one_off: bool) -> Result<Ask, Failure> {
        let Some(origin) = self.origin else {
            return Err(Failure::new(Kind::Usage, format!("nothing is known of the service {service}")));
        };
        let text = |map: &BTreeMap<String, String>| map.get(service).cloned().unwrap_or_default();
        let (hash, image) = (text(&self.hashes), text(&self.images));
        let which = Which { service, number, name, hash: &hash, image: &image, one_off };
        convert::ask(origin, &which, &|other| self.first_of(other))
    }

    /// The name of a service's first container.
    fn first_of(&self, service: &str) -> Result<String, Failure> {
        let containers = observe::containers(self.engine, self.project)?;
        let own = containers
            .iter()
            .filter(|it| observe::service(it) == service && !observe::is_one_off(it))
            // One that is about to be replaced is called otherwise.
            .max_by_key(|it| {
                (it.config.labels.contains_key(labels::REPLACE), std::cmp::Reverse(observe::number(it)))
            });
        own.map(|it| it.config.id.0.clone()).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("the service {service} has no container"))
                .hint(format!("`wharf compose up {service}` makes one"))
        })
    }

    /// Makes the new one beside the old one, so that the old one stays if that fails.
    fn recreate(&self, service: &str, number: u32, name: &str, old: &ContainerId) -> Result<(), Failure> {
        let before = self.engine.get(old)?;
        let mut ask = self.ask(service, number, &format!("{}_{name}", old.short()))?;
        if !self.renew_volumes {
            take_over(&mut ask, &before);
        }
        let new = self.engine.create(&ask)?;
        let replaced = || -> Result<(), Failure> {
            self.stop(service, old)?;
            self.unless_gone(
                old,
                self.engine.remove(old, Remove { force: true, volumes: self.renew_volumes }),
            )?;
            self.engine.rename(&new.config.id, name)
        };
        replaced().inspect_err(|_| {
            // The failure is told; what is left of this would be in the way next time.
            if self.engine.get(old).is_ok() {
                let _ = self.engine.remove(&new.config.id, Remove { force: true, volumes: false });
            }
        })
    }

    fn start(&self, service: &str, name: &str) -> Result<(), Failure> {
        let container = self.engine.find(name)?;
        let id = &container.config.id;
        self.talk.around(("Container", name), ("Starting", "Started"), || {
            for (place, hook) in self.service(service).into_iter().flat_map(|it| &it.pre_start).enumerate() {
                self.first_hook(service, name, place, hook)?;
            }
            self.engine.start(id, None)?;
            self.hooks(service, id, |service| &service.post_start)
        })
    }

    fn stop(&self, service: &str, id: &ContainerId) -> Result<(), Failure> {
        let Ok(container) = self.engine.get(id) else { return Ok(()) };
        if container.state.status == Status::Running
            && let Err(failure) = self.hooks(service, id, |service| &service.pre_stop)
        {
            // It is to stop whatever it thinks of it.
            print_warning(&failure.message);
        }
        if container.state.status == Status::Paused {
            self.engine.unpause(id)?;
        }
        self.unless_gone(id, self.engine.stop(id, self.timeout, None))
    }

    /// Runs hooks of a service in a container, one after the other.
    fn hooks(
        &self,
        service: &str,
        id: &ContainerId,
        which: impl Fn(&Service) -> &Vec<Hook>,
    ) -> Result<(), Failure> {
        let hooks = self.service(service).map(|service| which(service).clone()).unwrap_or_default();
        for hook in hooks {
            let (status, output) = run_inside(self.engine, id, convert::hook(&hook))?;
            if status != 0 {
                let words = hook.command.unwrap_or_default().join(" ");
                return Err(hook_failed(service, &words, status, &output));
            }
        }
        Ok(())
    }

    /// Runs a hook in a container of its own that goes when it ends.
    fn first_hook(&self, service: &str, name: &str, place: usize, hook: &FirstHook) -> Result<(), Failure> {
        let mut ask = self.ask_for(service, 0, &format!("{name}-pre-start-{place}"), true)?;
        if let Some(image) = &hook.image {
            ask.image.clone_from(image);
            ask.entrypoint = None;
        }
        ask.command.clone_from(&hook.command);
        if hook.image.is_none() && hook.command.is_some() {
            ask.entrypoint = Some(Vec::new());
        }
        ask.env.extend(hook.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        ask.user = hook.user.clone().or(ask.user);
        ask.working_dir = hook.working_dir.clone().or(ask.working_dir);
        ask.rights.privileged |= hook.privileged;
        (ask.restart, ask.health, ask.ports) = (RestartPolicy::No, HealthAsk::Disabled, Vec::new());
        ask.tty = false;
        let made = self.engine.create(&ask)?;
        let id = &made.config.id;
        let ran = self.engine.start(id, None).and_then(|_| self.engine.wait(id)).and_then(|status| {
            let mut output = Vec::new();
            let query = LogQuery { tail: Some(TAIL_LINES as u64), ..LogQuery::default() };
            self.engine.logs(id, &query, &mut |entry| {
                output.extend(entry.text.into_bytes());
                Ok(true)
            })?;
            Ok((status, output))
        });
        let removed = self.engine.remove(id, Remove { force: true, volumes: true });
        let (status, output) = ran?;
        if status != 0 {
            let words = hook.command.clone().unwrap_or_default().join(" ");
            return Err(hook_failed(service, &words, status, &output));
        }
        removed
    }

    /// Waits for what a service depends on. Without `required` it goes on whatever becomes of that.
    pub fn await_dependency(
        &self,
        service: &str,
        condition: Condition,
        names: &[String],
        required: bool,
    ) -> Result<(), Failure> {
        for name in names {
            self.talk.say("Container", name, "Waiting");
            match self.await_one(service, name, condition, None) {
                Ok(what) => self.talk.say("Container", name, what),
                Err(failure) if required || failure.kind == Kind::Cancelled => {
                    self.talk.say("Container", name, "Error");
                    return Err(failure);
                }
                Err(failure) => {
                    self.talk.say("Container", name, "Skipped");
                    print_warning(&format!("an optional dependency did not come up: {failure}"));
                }
            }
        }
        Ok(())
    }

    /// Waits until something has become of a container; says what.
    pub fn await_one(
        &self,
        service: &str,
        name: &str,
        condition: Condition,
        until: Option<Instant>,
    ) -> Result<&'static str, Failure> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(interrupted());
            }
            let container = self.engine.find(name)?;
            match judge(service, &container, condition) {
                Judged::Is(what) => return Ok(what),
                Judged::Never(failure) => return Err(failure),
                Judged::NotYet => {}
            }
            if until.is_some_and(|until| Instant::now() > until) {
                let health = container.state.health.map(|health| health.status);
                let state = match health {
                    Some(HealthStatus::Starting) => "no check of it has succeeded yet",
                    _ => container.state.status.name(),
                };
                return Err(Failure::new(
                    Kind::Step,
                    format!("the time is over (`--wait-timeout`): {name} is not ready: {state}"),
                )
                .hint(format!("`wharf compose logs {service}` shows what it printed")));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// How it stands with a condition.
enum Judged {
    Is(&'static str),
    NotYet,
    Never(Failure),
}

/// How long something without a health check must have run to count as running: many a mistake ends it at once.
const SETTLED: Duration = Duration::from_millis(500);

/// How often it may end before that and be started again.
const RESTARTS_MAX: u32 = 3;

/// What a condition says of a container. [`Condition::Started`] is for `--wait`: it is well if that is checked.
fn judge(service: &str, container: &Container, condition: Condition) -> Judged {
    let (state, name) = (&container.state, &container.config.name);
    let never = |message: String| {
        Judged::Never(
            Failure::new(Kind::Step, message)
                .hint(format!("`wharf compose logs {service}` shows what it printed")),
        )
    };
    let has_ended = matches!(state.status, Status::Exited | Status::Dead);
    if condition == Condition::CompletedSuccessfully {
        return match (has_ended, state.exit_code) {
            (false, _) => Judged::NotYet,
            (true, 0) => Judged::Is("Exited"),
            (true, code) => never(format!("service {service} did not complete successfully: exit {code}")),
        };
    }
    if has_ended {
        let code = state.exit_code;
        return never(format!("dependency failed to start: container {name} exited ({code})"));
    }
    match (&state.health, condition) {
        (Some(health), _) => match health.status {
            HealthStatus::Healthy => Judged::Is("Healthy"),
            HealthStatus::Starting => Judged::NotYet,
            HealthStatus::Unhealthy => {
                let last = health.log.last().map(|probe| probe.output.trim().to_owned());
                let message = format!("dependency failed to start: container {name} is unhealthy");
                match (last.filter(|output| !output.is_empty()), never(message)) {
                    (Some(output), Judged::Never(failure)) => {
                        Judged::Never(failure.hint(format!("its last check printed: {output}")))
                    }
                    (_, judged) => judged,
                }
            }
        },
        (None, Condition::Healthy) if state.status.is_up() && container.config.health.is_none() => {
            Judged::Never(
                Failure::new(
                    Kind::Dockerfile,
                    format!("container {name} has no health check, and others wait until it is healthy"),
                )
                .hint(format!("give services.{service} a healthcheck, or depend on service_started")),
            )
        }
        (None, Condition::Started) if container.config.health.is_none() => {
            let since = from_nanos(state.started.unwrap_or(i64::MAX));
            let age = SystemTime::now().duration_since(since).unwrap_or_default();
            match state.status {
                Status::Running if age >= SETTLED => Judged::Is("Started"),
                Status::Running | Status::Restarting if state.restarts >= RESTARTS_MAX => {
                    never(format!("container {name} ends as soon as it is started"))
                }
                _ => Judged::NotYet,
            }
        }
        (None, _) => Judged::NotYet,
    }
}

/// Somebody wants it to end.
pub fn interrupted() -> Failure {
    Failure::new(Kind::Cancelled, "interrupted")
}

fn hook_failed(service: &str, words: &str, status: u8, output: &[u8]) -> Failure {
    let mut failure =
        Failure::new(Kind::Step, format!("the hook `{words}` of {service} ended with {status}"));
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if !last.is_empty() {
        failure = failure.hint(format!("it printed: {}", last.join("\n  ")));
    }
    failure
}

/// Runs a process in a container, and gives its exit status and what it printed.
pub fn run_inside(
    engine: &Engine,
    id: &ContainerId,
    mut process: ExecConfig,
) -> Result<(u8, Vec<u8>), Failure> {
    process.streams = Some(Streams { stdin: false, stdout: true, stderr: true, size: None });
    let Some(stream) = engine.exec(id, process)? else { return Ok((0, Vec::new())) };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let ended = stream.follow(Ends {
        stdin: None,
        stdout: &mut output,
        stderr: &mut errors,
        tty: false,
        detach: DetachKeys::none(),
        signals: None,
    })?;
    output.extend(errors);
    match ended {
        Ended::Exited(status) => Ok((status, output)),
        Ended::Detached | Ended::HungUp => Ok((137, output)),
    }
}

/// A container that takes the place of another one has its anonymous volumes.
fn take_over(ask: &mut Ask, before: &Container) {
    for mount in &before.config.mounts {
        let MountKind::Volume { name, anonymous: true, .. } = &mount.kind else { continue };
        match ask.mounts.iter_mut().find(|it| it.target == mount.target) {
            Some(MountAsk { kind: MountKindAsk::Volume { name: unnamed @ None, .. }, .. }) => {
                *unnamed = Some(name.clone());
            }
            Some(_) => {}
            None => ask.mounts.push(MountAsk {
                kind: MountKindAsk::Volume {
                    name: Some(name.clone()),
                    subpath: None,
                    no_copy: false,
                    driver: None,
                    options: BTreeMap::new(),
                    labels: BTreeMap::new(),
                },
                target: mount.target.clone(),
                read_only: mount.read_only,
            }),
        }
    }
}

fn own_labels(project: &str, (label, key): (&str, &str), hash: String) -> BTreeMap<String, String> {
    let pairs = [
        (labels::PROJECT, project.to_owned()),
        (label, key.to_owned()),
        (labels::CONFIG_HASH, hash),
        (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// What is to be made of a network of the files.
fn new_network(project: &str, key: &str, name: &str, network: &Network) -> Result<NewNetwork, Failure> {
    let wrong = |what: &str, text: &str, why: String| {
        Failure::new(Kind::Dockerfile, format!("networks.{key}.{what}: {text}: {why}"))
    };
    let mut new = NewNetwork {
        name: name.to_owned(),
        driver: network.driver.clone().filter(|driver| driver != "default"),
        internal: network.internal,
        ipv6: network.enable_ipv6 == Some(true),
        labels: network.labels.clone(),
        options: BTreeMap::new(),
        ..NewNetwork::default()
    };
    new.labels.extend(own_labels(project, (labels::NETWORK, key), convert::hash_of(network)));
    for pool in network.ipam.iter().flat_map(|ipam| &ipam.config) {
        if let Some(text) = &pool.subnet {
            let subnet =
                text.parse().map_err(|error| wrong("ipam.config.subnet", text, format!("{error}")))?;
            new.subnets.push(subnet);
        }
        if let Some(text) = &pool.ip_range {
            let range =
                text.parse().map_err(|error| wrong("ipam.config.ip_range", text, format!("{error}")))?;
            new.ip_ranges.push(range);
        }
        if let Some(text) = &pool.gateway {
            let gateway = text.parse();
            new.gateways.push(gateway.map_err(|_| wrong("ipam.config.gateway", text, "no address".into()))?);
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use wharf_cache::to_nanos;

    use super::*;
    use crate::containers::directory::tests::config;
    use crate::containers::state::ContainerState;

    #[test]
    fn who_waits_is_told_what_has_become_of_it() {
        let check = |status: Status, age: Duration, restarts: u32, expected: &str| {
            let started = Some(to_nanos(SystemTime::now() - age));
            let state =
                ContainerState { status, started, restarts, exit_code: 7, ..ContainerState::default() };
            let container = Container { config: config("a", "p-web-1"), state };
            let told = match judge("web", &container, Condition::Started) {
                Judged::Is(what) => what.to_owned(),
                Judged::NotYet => "not yet".to_owned(),
                Judged::Never(failure) => failure.message,
            };
            assert!(told.contains(expected), "{told}");
        };
        let (young, old) = (Duration::ZERO, Duration::from_secs(5));
        check(Status::Running, young, 0, "not yet");
        check(Status::Running, old, 0, "Started");
        check(Status::Running, old, 9, "Started");
        check(Status::Restarting, young, 1, "not yet");
        check(Status::Restarting, young, 3, "p-web-1 ends as soon as it is started");
        check(Status::Exited, young, 0, "p-web-1 exited (7)");
        check(Status::Paused, old, 0, "not yet");
    }
}
