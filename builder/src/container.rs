//! Runs a container of an image in the foreground.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use wharf_cache::Store;
use wharf_cache::state::Image;
use wharf_frontend::image::{ContainerConfig, ImageConfig};
use wharf_runtime::chroot::{self, ChrootRequest, Confinement};
use wharf_runtime::{Cancel, ExitStatus, Qemu, Request, RuntimeError, Sandbox, Stdio};
use wharf_solver::llb::{NetworkMode, Platform};

use crate::build::host_platform;
use crate::error::{Failure, Kind, is_of_machine};
use crate::registry::{OciRegistry, RegistryOptions};
use crate::signals;
use crate::source::{ImageSources, manifest_in_store};
use crate::worker::foreign::{Execution, ForeignSteps};
use crate::worker::mounts::placed::copies_of_files;
use crate::worker::network::StepNetwork;
use crate::worker::{ownership, sandbox_files, spec};

/// The shell's status for a command that cannot be executed, and for one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Environment of a container whose image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a container runs.
#[derive(Debug)]
pub struct Host<'a> {
    /// What it is confined with.
    pub sandbox: Sandbox,
    /// What runs programs of other platforms.
    pub foreign: &'a ForeignSteps,
    /// Which image of an index; the machine's by default.
    pub platform: Option<&'a Platform>,
}

/// Runs `command` (the image's own if it is empty) and returns the exit status of the process.
pub fn run(store: &Store, image: &Image, command: &[String], host: &Host<'_>) -> Result<u8, Failure> {
    let Host { sandbox, foreign, .. } = *host;
    let name = image.name.clone().unwrap_or_else(|| image.digest.to_string());
    let failed = |doing: &str, error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, &format!("{doing} of `{name}`"), error)
    };
    // What an image is wrong in is not the machine's fault.
    let unusable = |doing: &str, error: &(dyn std::error::Error + 'static)| {
        let kind = if is_of_machine(error) { Kind::Environment } else { Kind::Source };
        Failure::from_error(kind, &format!("{doing} of `{name}`"), error)
    };
    let images = ImageSources::new(store.clone(), Arc::new(OciRegistry::new(RegistryOptions::default())));
    let machine = host_platform();
    let platform = host.platform.cloned().unwrap_or_else(|| machine.clone());
    let manifest = manifest_in_store(store, image.digest, &platform)
        .map_err(|error| unusable("cannot read the manifest", &error))?;
    let Some((manifest, _)) = manifest else {
        return Err(Failure::new(Kind::Usage, format!("`{name}` has no image for {platform} in the store")));
    };
    let identifier = format!("docker-image://{name}@{manifest}");
    let config = images.config(&identifier).map_err(|error| unusable("cannot read the config", &error))?;
    let config: ImageConfig =
        serde_json::from_slice(&config).map_err(|error| unusable("cannot read the config", &error))?;
    let chain =
        images.pull(&identifier, &|_| {}).map_err(|error| unusable("cannot unpack the layers", &error))?;
    let args = arguments(&config.config, command).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("`{name}` says no command to run"))
            .hint("give one: `wharf run NAME COMMAND`")
    })?;
    store.part_shared(&chain).map_err(|error| failed("cannot make the root file system", &error))?;
    let mut active =
        store.prepare(&chain).map_err(|error| failed("cannot make the root file system", &error))?;
    let root = active.root().map_err(|error| failed("cannot mount the root file system", &error))?;

    let user = wharf_runtime::resolve_user(root, &config.config.user)
        .map_err(|error| failed("cannot find the user", &error))?;
    let of_image =
        Platform { os: config.os.clone(), architecture: config.architecture.clone(), ..Platform::default() };
    let mut env = config.config.env.clone().unwrap_or_default();
    for (name, default) in [("PATH=", DEFAULT_PATH.to_owned()), ("HOME=", format!("HOME={}", user.home))] {
        if !env.iter().any(|variable| variable.starts_with(name)) {
            env.push(default);
        }
    }
    let cwd = if config.config.working_dir.is_empty() { "/" } else { &config.config.working_dir };
    let hostname = format!("{:016x}", chain.0.last().map_or(0, |id| id.0))[..12].to_owned();
    let mut runtime_spec = wharf_runtime::default_spec();
    let dir = store.temp_dir().map_err(|error| failed("cannot prepare the container", &error))?;
    let network = StepNetwork::new(store, sandbox);
    let reach = network.reach(NetworkMode::Sandbox, |why| crate::progress::print_talk(&format!("{why}\n")));
    let mut describe = || -> Result<(), crate::worker::WorkerError> {
        spec::set_process(&mut runtime_spec, &args, &env, cwd, &user)?;
        sandbox_files::bind(&mut runtime_spec, &dir, &hostname, &[], &reach)?;
        spec::set_network(&mut runtime_spec, &reach)?;
        Ok(())
    };
    describe().map_err(|error| failed("cannot describe the process", &error))?;
    runtime_spec.set_hostname(Some(hostname));

    let execution = if of_image.architecture == machine.architecture || of_image.architecture.is_empty() {
        Execution::Native
    } else {
        foreign.execution(&of_image, &[], &dir)
    };
    let cancel = Cancel::new().map_err(|error| failed("cannot prepare the container", &error))?;
    let (_passing_on, signals) =
        signals::pass_on().map_err(|error| failed("cannot prepare the container", &error))?;
    let stdio = Stdio::Inherit { signals: Some(signals.as_fd()) };
    let ended = match sandbox {
        Sandbox::Chroot => {
            let prepared = copies_of_files(&runtime_spec, &dir)
                .and_then(|placements| Ok((placements, make_aside(&dir)?)))
                .map_err(|error| failed("cannot prepare the container", &error));
            let (placements, aside) = prepared?;
            let (spec, network, aside, group) = (&runtime_spec, chroot::Network::Host, aside.as_fd(), None);
            chroot::run(ChrootRequest {
                spec,
                root,
                aside,
                devices: None,
                group,
                placements,
                confinement: Confinement::probe(),
                network,
                stdio,
                cancel: &cancel,
            })
            .map(|ended| ended.status)
        }
        Sandbox::Root | Sandbox::Rootless | Sandbox::RootlessSingle => wharf_runtime::run(Request {
            spec: &runtime_spec,
            root,
            binds: Vec::new(),
            stdio,
            ownership: ownership::of(store),
            user_namespace: execution.qemu().and_then(Qemu::namespace),
            cancel: &cancel,
        }),
    };
    if let Some(why) = ended.as_ref().err().and_then(|error| execution.blame(error)) {
        let doing = format!("cannot start a container of `{name}`, an image for {of_image}");
        return Err(Failure::from_error(Kind::Environment, &doing, &why).hint(why.help()));
    }
    match ended {
        Ok(ExitStatus::Exited(code)) => Ok(code),
        Ok(ExitStatus::Signaled(signal)) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        Err(error @ RuntimeError::Exec { not_found, .. }) => {
            crate::progress::print_error(&failed("cannot start a container", &error));
            Ok(if not_found { NOT_FOUND } else { NOT_EXECUTABLE })
        }
        Err(error) => Err(failed("cannot start a container", &error)),
    }
}

/// An empty directory for what a container's root has where something else is put for a time.
fn make_aside(dir: &Path) -> io::Result<File> {
    let aside = dir.join("aside");
    std::fs::create_dir(&aside)?;
    File::open(aside)
}

/// Entrypoint and command, as Docker puts them together.
fn arguments(config: &ContainerConfig, command: &[String]) -> Option<Vec<String>> {
    let mut args = config.entrypoint.clone().unwrap_or_default();
    if command.is_empty() {
        args.extend(config.cmd.clone().unwrap_or_default());
    } else {
        args.extend_from_slice(command);
    }
    (!args.is_empty()).then_some(args)
}
