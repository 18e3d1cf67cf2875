//! What a container shares with others: their namespaces, which their monitors are asked for.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;
use wharf_runtime::Sandbox;

use super::Task;
use super::describe::Shared;
use crate::containers::config::{ContainerConfig, ContainerId, NamespaceUse, NetworkUse};
use crate::containers::connect::Connection;
use crate::containers::directory::{Containers, Directory};
use crate::containers::protocol::{Answer, Request};
use crate::error::{Failure, Kind};

/// The kinds of namespaces that are given on, and what they are called.
pub(super) const KINDS: [(&str, LinuxNamespaceType); 4] = [
    ("net", LinuxNamespaceType::Network),
    ("pid", LinuxNamespaceType::Pid),
    ("ipc", LinuxNamespaceType::Ipc),
    ("uts", LinuxNamespaceType::Uts),
];

/// Where POSIX shared memory is, and what its mount is called on the way to who shares it.
pub(super) const MEMORY: &str = "/dev/shm";

/// What is said where that cannot be had.
const OWN_SHARED_MEMORY: &str =
    "System V memory, semaphores and message queues are those of the other container; /dev/shm is its own";

/// Collects what the container shares, and says what of it is not.
pub(super) fn join(
    task: &Task<'_>,
    config: &ContainerConfig,
    own_network: Option<OwnedFd>,
) -> Result<(Shared, Vec<String>), Failure> {
    let mut shared = Shared { host_network: config.network == NetworkUse::Host, ..Shared::default() };
    shared.joined.extend(own_network.map(|network| (LinuxNamespaceType::Network, network)));
    // In the sandbox `chroot` there is no other one.
    if config.pid == NamespaceUse::Host && task.sandbox != Sandbox::Chroot {
        let own = File::open("/proc/self/ns/pid").map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot share the processes of this host", &error)
        })?;
        shared.joined.push((LinuxNamespaceType::Pid, own.into()));
    }
    let network_of = match &config.network {
        NetworkUse::Container { id } => Some(id),
        _ => None,
    };
    let of = |usage: &'_ NamespaceUse| match usage {
        NamespaceUse::Container { id } => Some(id.clone()),
        _ => None,
    };
    let wanted = [
        (LinuxNamespaceType::Network, network_of.cloned()),
        (LinuxNamespaceType::Pid, of(&config.pid)),
        (LinuxNamespaceType::Ipc, of(&config.ipc)),
        (LinuxNamespaceType::Uts, of(&config.uts)),
    ];
    let mut warnings = Vec::new();
    for (kind, id) in wanted {
        let Some(id) = id else { continue };
        if task.sandbox == Sandbox::Chroot {
            let message = format!("the sandbox `chroot` has no namespace of type `{kind}` to share");
            return Err(Failure::new(Kind::Environment, message)
                .hint("all containers there are in those of this host: leave the flag out")
                .hint("`wharf doctor` says what would unlock the other sandboxes"));
        }
        let mut given = given_by(task, &id, kind)?;
        shared.joined.push((kind, given.namespace(&id, kind)?));
        if kind == LinuxNamespaceType::Ipc && !has_own_memory(config) {
            shared.memory = given.take(MEMORY);
            warnings.extend(shared.memory.is_none().then(|| OWN_SHARED_MEMORY.to_owned()));
        }
    }
    Ok((shared, warnings))
}

/// Whether something was asked to be mounted there.
fn has_own_memory(config: &ContainerConfig) -> bool {
    config.mounts.iter().any(|mount| mount.target == Path::new(MEMORY))
}

/// The directory of another container that this one needs.
pub(super) fn directory(task: &Task<'_>, id: &ContainerId) -> Result<Directory, Failure> {
    Containers::of(task.store.root()).get(id).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("the container {}, which it shares something with, is gone", id.short()),
        )
    })
}

/// What another container gives on, by name.
struct Given(Vec<(String, OwnedFd)>);

impl Given {
    fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let place = self.0.iter().position(|(given, _)| given == name)?;
        Some(self.0.swap_remove(place).1)
    }

    fn namespace(&mut self, id: &ContainerId, kind: LinuxNamespaceType) -> Result<OwnedFd, Failure> {
        let name = KINDS.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name);
        name.and_then(|name| self.take(name)).ok_or_else(|| {
            let message =
                format!("the container {} has no namespace of type `{kind}` of its own", id.short());
            Failure::new(Kind::Usage, message)
        })
    }
}

/// What a container gives to one that shares the namespace of type `kind` with it.
fn given_by(task: &Task<'_>, id: &ContainerId, kind: LinuxNamespaceType) -> Result<Given, Failure> {
    let (answer, descriptors) = ask(task, id, &Request::Namespaces)?;
    let Answer::Namespaces(names) = answer else { return Err(not_given(id, kind, answer)) };
    Ok(Given(names.into_iter().zip(descriptors).collect()))
}

fn ask(task: &Task<'_>, id: &ContainerId, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Failure> {
    let not_running = || {
        Failure::new(
            Kind::Usage,
            format!("the container {}, which it shares something with, is not running", id.short()),
        )
        .hint(format!("start that one first: `wharf start {}`", id.short()))
    };
    let directory = directory(task, id)?;
    let asked = File::open(directory.path()).and_then(|directory| Connection::open(&directory)).and_then(
        |connection| {
            connection.request(request)?;
            connection.receive_answer()
        },
    );
    match asked {
        Ok(Some(answered)) => Ok(answered),
        Ok(None) | Err(_) => Err(not_running()),
    }
}

fn not_given(id: &ContainerId, kind: LinuxNamespaceType, answer: Answer) -> Failure {
    let doing = format!("cannot share the namespace of type `{kind}` of the container {}", id.short());
    match answer {
        Answer::Failed { message, hints, .. } => {
            Failure { hints, ..Failure::new(Kind::Usage, format!("{doing}: {message}")) }
        }
        _ => Failure::new(Kind::Environment, format!("{doing}: its monitor gave another answer")),
    }
}
