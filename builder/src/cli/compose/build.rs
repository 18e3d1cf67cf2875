//! Images of services: built, brought and pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use wharf_cache::Store;
use wharf_frontend::compose::Project;
use wharf_frontend::compose::model::{Build, FileUse, Service};

use super::create::PullWhen;
use super::project::Opened;
use super::session::{Cx, Session};
use crate::build;
use crate::cli::build::{BuildArgs as Flags, request};
use crate::cli::image::{bring_all, push_all};
use crate::compose::work::interrupted;
use crate::error::{Failure, Kind};
use crate::images::find::find;
use crate::progress::{Mode, Progress, print_note, print_warning};
use crate::signals::Listening;

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Run every step again
    #[arg(long)]
    no_cache: bool,
    /// Ask the registries for the base images even if they are here
    #[arg(long)]
    pull: bool,
    /// Push the images
    #[arg(long)]
    push: bool,
    /// Set a build argument of every service
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// An SSH agent or keys for every service: default, or ID[=PATH]
    #[arg(long, value_name = "default|ID[=PATH]")]
    ssh: Vec<String>,
    /// Show nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Build the images of what these depend on too
    #[arg(long)]
    with_dependencies: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Go on when an image cannot be brought
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Leave out what can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// Bring the images of what these depend on too
    #[arg(long)]
    include_deps: bool,
    /// What is brought: always (everything) or missing
    #[arg(long, value_enum, default_value_t = PullWhen::Policy)]
    policy: PullWhen,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Go on when an image cannot be pushed
    #[arg(long)]
    ignore_push_failures: bool,
    /// Push the images of what these depend on too
    #[arg(long)]
    include_deps: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// What is built and brought before containers are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    pub(super) build: bool,
    pub(super) no_build: bool,
    pub(super) pull: PullWhen,
    pub(super) quiet: bool,
}

/// What is said of all builds.
#[derive(Debug, Clone, Copy, Default)]
struct Common<'a> {
    no_cache: bool,
    pull: bool,
    push: bool,
    build_arg: &'a [String],
    ssh: &'a [String],
    quiet: bool,
}

/// What becomes of a service's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Build,
    Pull,
}

pub(super) fn build(cx: &Cx<'_>, args: &BuildArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let signals = session.until_signal()?;
        let project = opened.select(&args.services, args.with_dependencies)?;
        opened.warn(&project);
        let named: Vec<&str> = project
            .services
            .iter()
            .filter(|(_, service)| service.build.is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        if named.is_empty() {
            print_note("none of the services is built");
            return Ok(ExitCode::SUCCESS);
        }
        let common = Common {
            no_cache: args.no_cache,
            pull: args.pull,
            push: args.push,
            build_arg: &args.build_arg,
            ssh: &args.ssh,
            quiet: args.quiet,
        };
        build_all(session, opened, &named, common, &signals).map(|()| ExitCode::SUCCESS)
    })
}

/// Builds and brings what is missing; gives the digest of each service's image.
pub(super) fn prepare(
    session: &Session<'_>,
    opened: &Opened,
    project: &Project,
    when: When,
    signals: &Listening,
) -> Result<BTreeMap<String, String>, Failure> {
    let store = session.engine.store();
    let mut built = Vec::new();
    let mut pulled: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (name, service) in &project.services {
        let Some(image) = project.image_of(name, service) else {
            if service.provider.is_none() {
                let message = format!("services.{name} says neither image nor build");
                return Err(Failure::new(Kind::Dockerfile, message));
            }
            continue;
        };
        match need(store, name, service, &image, when)? {
            Need::Nothing => {}
            Need::Build => built.push(name.as_str()),
            Need::Pull => drop(pulled.insert(image, service.platform.clone())),
        }
        for hook in service.pre_start.iter().filter_map(|hook| hook.image.as_ref()) {
            if find(store, hook).is_err() && when.pull != PullWhen::Never {
                pulled.insert(hook.clone(), service.platform.clone());
            }
        }
    }
    bring(session, &pulled, when.quiet)?;
    if !built.is_empty() {
        let common = Common { pull: when.pull == PullWhen::Build, ..Common::default() };
        build_all(session, opened, &built, common, signals)?;
    }
    let mut images = BTreeMap::new();
    for (name, service) in &project.services {
        if let Some(image) = project.image_of(name, service) {
            images.insert(name.clone(), find(store, &image)?.digest.to_string());
        }
    }
    Ok(images)
}

fn need(store: &Store, name: &str, service: &Service, image: &str, when: When) -> Result<Need, Failure> {
    let here = find(store, image).ok();
    let policy = service.pull_policy.as_deref().unwrap_or("");
    if service.build.is_some() {
        if when.build || (policy == "build" && !when.no_build) {
            return Ok(Need::Build);
        }
        return match (here, when.no_build) {
            (Some(_), _) => Ok(Need::Nothing),
            (None, false) => Ok(Need::Build),
            (None, true) => Err(Failure::new(
                Kind::Usage,
                format!("the image `{image}` of {name} is not here, and --no-build says not to build it"),
            )
            .hint(format!("`wharf compose build {name}` builds it"))),
        };
    }
    let age = here.as_ref().and_then(|image| image.created.elapsed().ok()).unwrap_or_default();
    let is_old = |most: Duration| here.is_none() || age > most;
    let refresh = service.pull_refresh_after.map(|it| it.0);
    let pulls = match (when.pull, policy) {
        (PullWhen::Always, _) => true,
        (PullWhen::Never, _) => false,
        (PullWhen::Missing, _) => here.is_none(),
        (PullWhen::Build | PullWhen::Policy, policy) => match policy {
            "always" => true,
            "never" => false,
            "daily" => is_old(DAY),
            "weekly" => is_old(DAY * 7),
            "refresh" => refresh.is_none_or(is_old),
            every => match every.strip_prefix("every_").and_then(span) {
                Some(most) => is_old(most),
                None => here.is_none(),
            },
        },
    };
    match (pulls, here) {
        (true, _) => Ok(Need::Pull),
        (false, Some(_)) => Ok(Need::Nothing),
        (false, None) => Err(Failure::new(
            Kind::Usage,
            format!("the image `{image}` of {name} is not here, and is not to be brought"),
        )
        .hint(format!("`wharf pull {image}` brings it"))),
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// `12h`, `3d`, `1w2d`.
fn span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut number = String::new();
    for char in text.chars() {
        if char.is_ascii_digit() {
            number.push(char);
            continue;
        }
        let unit = match char {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return None,
        };
        let count: u64 = number.parse().ok()?;
        total = total.checked_add(Duration::from_secs(count.checked_mul(unit)?))?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty()).then_some(total)
}

/// Brings images, each once.
fn bring(
    session: &Session<'_>,
    images: &BTreeMap<String, Option<String>>,
    quiet: bool,
) -> Result<(), Failure> {
    if images.is_empty() {
        return Ok(());
    }
    let mode = if quiet { Mode::Quiet } else { session.cx.project.progress.mode() };
    let images: Vec<(&str, Option<&str>)> =
        images.iter().map(|(name, platform)| (name.as_str(), platform.as_deref())).collect();
    bring_all(session.engine.store(), session.cx.config, session.cancel, mode, &images)
        .into_iter()
        .find_map(Result::err)
        .map_or(Ok(()), Err)
}

pub(super) fn pull(cx: &Cx<'_>, args: &PullArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let _signals = session.until_signal()?;
        let project = opened.select(&args.services, args.include_deps)?;
        let store = session.engine.store();
        let mut wanted: Vec<(String, Option<String>)> = Vec::new();
        for (name, service) in &project.services {
            let Some(image) = service.image.clone() else { continue };
            let is_here = args.policy == PullWhen::Missing && find(store, &image).is_ok();
            let is_left_out = service.build.is_some() && args.ignore_buildable;
            let is_known = wanted.iter().any(|(known, _)| *known == image);
            if service.pull_policy.as_deref() == Some("never")
                || service.pull_policy.as_deref() == Some("build")
            {
                print_note(&format!("{name} is left out: its pull_policy says so"));
            } else if !is_here && !is_left_out && !is_known {
                wanted.push((image, service.platform.clone()));
            }
        }
        let images: Vec<(&str, Option<&str>)> =
            wanted.iter().map(|(name, platform)| (name.as_str(), platform.as_deref())).collect();
        let mode = if args.quiet { Mode::Quiet } else { cx.project.progress.mode() };
        let brought = bring_all(store, cx.config, session.cancel, mode, &images);
        end(brought, args.ignore_pull_failures)
    })
}

pub(super) fn push(cx: &Cx<'_>, args: &PushArgs) -> Result<ExitCode, Failure> {
    cx.with_files(false, |session, opened| {
        let _signals = session.until_signal()?;
        let project = opened.select(&args.services, args.include_deps)?;
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (name, service) in &project.services {
            match (&service.image, &service.build) {
                (Some(image), Some(build)) => {
                    names.insert(image.clone());
                    names.extend(build.tags.iter().cloned());
                }
                (None, Some(_)) => print_note(&format!("{name} is left out: it has no image to push to")),
                (_, None) => {}
            }
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mode = if args.quiet { Mode::Quiet } else { cx.project.progress.mode() };
        let pushed = push_all(session.engine.store(), cx.config, session.cancel, mode, &names);
        end(pushed, args.ignore_push_failures)
    })
}

fn end(done: Vec<Result<(), Failure>>, ignore: bool) -> Result<ExitCode, Failure> {
    for failure in done.into_iter().filter_map(Result::err) {
        if !ignore || failure.kind == Kind::Cancelled {
            return Err(failure);
        }
        print_warning(&failure.message);
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the images of services: at once, but each after those whose images are among its contexts. What several of them
/// need is made once: steps are known by their keys, in one store. The first failure ends all.
fn build_all(
    session: &Session<'_>,
    opened: &Opened,
    services: &[&str],
    common: Common<'_>,
    signals: &Listening,
) -> Result<(), Failure> {
    let project = &opened.origin.project;
    let mut left: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut queue: Vec<&str> = services.to_vec();
    while let Some(name) = queue.pop() {
        let Some((name, service)) = project.services.get_key_value(name) else { continue };
        let Some(build) = service.build.as_ref().filter(|_| !left.contains_key(name.as_str())) else {
            continue;
        };
        let needed: BTreeSet<String> = build
            .additional_contexts
            .values()
            .filter_map(|context| context.strip_prefix("service:"))
            .filter(|other| project.services.get(*other).is_some_and(|other| other.build.is_some()))
            .map(str::to_owned)
            .collect();
        queue.extend(needed.iter().filter_map(|name| Some(project.services.get_key_value(name)?.0.as_str())));
        left.insert(name, needed);
    }
    let mode = if common.quiet { Mode::Quiet } else { session.cx.project.progress.mode() };
    let several = left.len() > 1;
    let progress = Progress::start(mode, std::io::stderr());
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let failed: Mutex<Option<Failure>> = Mutex::default();
    let fail = |failure: Failure| {
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        signals.interrupt();
    };
    while !left.is_empty() && !signals.interrupted() {
        let ready: Vec<&str> = left
            .iter()
            .filter(|(_, needs)| needs.iter().all(|need| done.contains(need.as_str())))
            .map(|(name, _)| *name)
            .collect();
        if ready.is_empty() {
            let names: Vec<&str> = left.keys().copied().collect();
            let message = format!("the services {} are each built from the other", names.join(", "));
            fail(Failure::new(Kind::Dockerfile, message));
        }
        thread::scope(|scope| {
            for name in &ready {
                let (part, fail) = (progress.part(if several { name } else { "" }), &fail);
                scope.spawn(move || {
                    if let Err(mut failure) = build_one(session, opened, name, common, &part, signals) {
                        failure.message = format!("{name}: {}", failure.message);
                        fail(failure);
                    }
                });
            }
        });
        for name in ready {
            left.remove(name);
            done.insert(name);
        }
    }
    progress.finish();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => return Err(failure),
        None if !left.is_empty() => return Err(interrupted()),
        None => {}
    }
    if !common.quiet {
        services.iter().for_each(|name| session.talk.say("Service", name, "Built"));
    }
    Ok(())
}

fn build_one(
    session: &Session<'_>,
    opened: &Opened,
    name: &str,
    common: Common<'_>,
    progress: &Progress,
    signals: &Listening,
) -> Result<(), Failure> {
    let project = &opened.origin.project;
    let Some(service) = project.services.get(name) else { return Ok(()) };
    let Some(build) = &service.build else { return Ok(()) };
    if signals.interrupted() {
        return Err(interrupted());
    }
    let image = project.image_of(name, service).unwrap_or_default();
    let inline = build.dockerfile_inline.as_ref().map(|text| {
        let directory = session.engine.store().temp_dir().map_err(|error| cannot_start(&error))?;
        let path = directory.join(format!("Dockerfile.{name}"));
        std::fs::write(&path, text).map_err(|error| cannot_start(&error))?;
        Ok::<_, Failure>(path)
    });
    let inline = inline.transpose()?;
    let mut flags = flags(opened, name, service, build, &image, common)?;
    if let Some(path) = &inline {
        flags.splice(0..0, [OsString::from("--file"), path.into()]);
    }
    let mut request = request(Flags::from_flags(flags)?, session.cx.config, &[])?;
    // Nobody else has the request yet.
    if let Some(secrets) = Arc::get_mut(&mut request.secrets) {
        for (id, value) in variables_as_secrets(opened, name, build)? {
            secrets
                .add(id, value)
                .map_err(|error| Failure::new(Kind::Usage, format!("services.{name}.build: {error}")))?;
        }
    }
    let cancel = wharf_runtime::Cancel::new().map_err(|error| cannot_start(&error))?;
    let signals = signals.beside(&cancel);
    build::build_with(session.engine.store(), session.place.sandbox, request, progress, cancel, signals)
        .map(drop)
}

fn cannot_start(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, "cannot start the build", error)
}

/// What `wharf build` is told of a service's build.
fn flags(
    opened: &Opened,
    name: &str,
    service: &Service,
    build: &Build,
    image: &str,
    common: Common<'_>,
) -> Result<Vec<OsString>, Failure> {
    let project = &opened.origin.project;
    let context = build.context.clone().unwrap_or_else(|| opened.origin.directory.clone());
    let mut flags: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| flags.push(format!("--{name}={value}"));
    flag("tag", image.to_owned());
    build.tags.iter().for_each(|tag| flag("tag", tag.clone()));
    if let Some(file) = build.dockerfile.as_ref().filter(|_| build.dockerfile_inline.is_none()) {
        // From the context, as far as that is a directory.
        let path = std::path::Path::new(&context);
        flag("file", if path.is_absolute() { path.join(file).display().to_string() } else { file.clone() });
    }
    for (name, value) in &build.args {
        if let Some(value) = value {
            flag("build-arg", format!("{name}={value}"));
        }
    }
    common.build_arg.iter().for_each(|arg| flag("build-arg", arg.clone()));
    build.labels.iter().for_each(|(name, value)| flag("label", format!("{name}={value}")));
    build.target.iter().for_each(|target| flag("target", target.clone()));
    for (id, path) in &build.ssh {
        flag("ssh", path.as_ref().map_or_else(|| id.clone(), |path| format!("{id}={path}")));
    }
    common.ssh.iter().for_each(|ssh| flag("ssh", ssh.clone()));
    build.cache_from.iter().for_each(|from| flag("cache-from", from.clone()));
    build.cache_to.iter().for_each(|to| flag("cache-to", to.clone()));
    for (key, context) in &build.additional_contexts {
        let context = match context.strip_prefix("service:") {
            Some(other) => {
                let image = project.services.get(other).and_then(|it| project.image_of(other, it));
                format!(
                    "docker-image://{}",
                    image.ok_or_else(|| {
                        Failure::new(
                            Kind::Dockerfile,
                            format!(
                                "services.{name}.build.additional_contexts.{key}: there is no service {other}"
                            ),
                        )
                    })?
                )
            }
            None => context.clone(),
        };
        flag("build-context", format!("{key}={context}"));
    }
    let platforms = match (build.platforms.as_slice(), &service.platform) {
        ([], Some(platform)) => vec![platform.clone()],
        (platforms, _) => platforms.to_vec(),
    };
    platforms.iter().for_each(|platform| flag("platform", platform.clone()));
    build.network.iter().for_each(|network| flag("network", network.clone()));
    build.extra_hosts.iter().for_each(|it| flag("add-host", format!("{}={}", it.host, it.address)));
    build.shm_size.iter().for_each(|size| flag("shm-size", size.0.to_string()));
    for (name, limit) in &build.ulimits {
        if let Some(soft) = limit.soft.or(limit.hard) {
            flag("ulimit", format!("{name}={soft}:{}", limit.hard.unwrap_or(soft)));
        }
    }
    build.entitlements.iter().for_each(|right| flag("allow", right.clone()));
    for used in &build.secrets {
        let secret = project.secrets.get(&used.source);
        match secret.map(|secret| (&secret.file, &secret.environment)) {
            Some((Some(file), _)) => flag("secret", format!("id={},src={file}", secret_id(used))),
            // The variables of the project are not those of this process.
            Some((None, Some(_))) => {}
            Some((None, None)) | None => {
                let message = format!(
                    "services.{name}.build.secrets: {} is neither a file nor a variable",
                    used.source
                );
                return Err(Failure::new(Kind::Dockerfile, message));
            }
        }
    }
    let mut flags: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
    let switches = [
        ("--no-cache", build.no_cache || common.no_cache),
        ("--pull", build.pull || common.pull),
        ("--push", common.push),
    ];
    flags.extend(switches.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| OsString::from(name)));
    flags.push(context.into());
    Ok(flags)
}

/// What a build calls a secret.
fn secret_id(used: &FileUse) -> &str {
    if used.target.is_empty() { &used.source } else { &used.target }
}

/// The secrets of a build that come from variables, which may be those of `.env`.
fn variables_as_secrets<'a>(
    opened: &Opened,
    name: &str,
    build: &'a Build,
) -> Result<Vec<(&'a str, Vec<u8>)>, Failure> {
    let mut found = Vec::new();
    for used in &build.secrets {
        let Some(secret) = opened.origin.project.secrets.get(&used.source) else { continue };
        let Some(variable) = secret.environment.as_ref().filter(|_| secret.file.is_none()) else { continue };
        let Some(value) = opened.origin.environment.get(variable) else {
            let message = format!(
                "services.{name}.build.secrets: {} comes from the variable {variable}, which is not set",
                used.source
            );
            return Err(
                Failure::new(Kind::Dockerfile, message).hint("set it in the environment or in `.env`")
            );
        };
        found.push((secret_id(used), value.clone().into_bytes()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(span(text).map(|it| it.as_secs()), seconds, "{text}");
        };
        check("12h", Some(12 * 3600));
        check("1w2d", Some(9 * 86_400));
        check("90m30s", Some(5430));
        for text in ["", "h", "1", "1x", "99999999999999999999d", "18446744073709551615w"] {
            check(text, None);
        }
    }
}
