//! The same without namespaces: what a process that is confined by chroot, Landlock and seccomp is made of.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::child::{Container, Init, Rest};
use super::descendants::Descendants;
use super::launch;
use super::prepare::{self, Descriptors, Prepared, Supervised};
use super::step::Step;
use super::streams::{Streams, stream_steps};
use crate::RuntimeError;
use crate::cgroup::Group;
use crate::seccomp::Filter;
use crate::spec::plan::{Host, ProcessPlan};

/// One process and what it is confined with.
pub(crate) struct Confined<'a> {
    pub(crate) process: ProcessPlan,
    /// What of the host that depends on.
    pub(crate) host: Host,
    /// The control group that it is in.
    pub(crate) group: Option<&'a Group>,
    /// The directory that it takes for the root.
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) filter: Arc<Filter>,
    /// Landlock rules of the process that watches over it, which let that signal its own descendants alone.
    pub(crate) watcher_rules: Option<OwnedFd>,
    /// Landlock rules of its own.
    pub(crate) rules: Option<OwnedFd>,
    /// What lets a supervisor answer some of its calls.
    pub(crate) supervised: Supervised,
    /// The container's first process, if this is a further one, which ends with it.
    pub(crate) first: Option<OwnedFd>,
}

/// Writes down what is to be done.
pub(super) fn prepare(
    confined: Confined<'_>,
    streams: Streams,
    report: OwnedFd,
) -> Result<Prepared, RuntimeError> {
    let Confined { process, host, group, root, filter, watcher_rules, rules, supervised, first } = confined;
    let mut descriptors = Descriptors::default();
    let report = descriptors.keep(report)?;
    let caller = descriptors.keep(prepare::own_pidfd()?)?;
    let first = match first {
        Some(process) => descriptors.keep(process)?,
        None => caller,
    };
    let scoped = watcher_rules.is_some();
    let mut setup =
        group.map_or_else(|| Ok(Vec::new()), |group| prepare::enter_group(group, &mut descriptors))?;
    // No rules can be had by who might gain privileges later.
    setup.push(Step::NoNewPrivileges);
    setup.extend(landlock(watcher_rules, &mut descriptors)?);

    let new_session = !matches!(streams, Streams::Inherited { terminal: true });
    let mut launch = Vec::new();
    stream_steps(streams, &process, &mut descriptors, &mut launch)?;
    let root: RawFd = descriptors.keep(duplicate(root)?)?;
    let mut enter =
        vec![Step::Chroot { root }, Step::Umask(0), Step::MakeDirectory(prepare::target(&process.cwd)?)];
    enter.extend(landlock(rules, &mut descriptors)?);
    let Supervised { filter: listening, socket } = supervised;
    let socket = descriptors.keep(socket)?;
    let filters = vec![Step::Listen { filter: listening, socket }, Step::Filter(filter)];
    launch::launch_steps(&process, filters, enter, host.user_namespace.as_ref(), &mut launch)?;

    let init = Init {
        report,
        caller,
        first,
        foreign: descriptors.gaps(),
        caller_arguments: prepare::own_arguments(),
        new_session,
        trees: Vec::new(),
        setup,
        rest: Rest::Descendants(Descendants::new(scoped)),
    };
    let command = prepare::command(process, launch, report);
    Ok(Prepared {
        container: Container { init, command, stack: prepare::command_stack() },
        namespaces: 0,
        pid_namespace: None,
        group: group.and_then(Group::v2_entry),
        descriptors,
    })
}

fn landlock(rules: Option<OwnedFd>, descriptors: &mut Descriptors) -> Result<Option<Step>, RuntimeError> {
    rules.map(|rules| Ok(Step::Landlock { rules: descriptors.keep(rules)? })).transpose()
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, RuntimeError> {
    fd.try_clone_to_owned().map_err(|source| RuntimeError::Step {
        step: format!("duplicate the descriptor {}", fd.as_raw_fd()),
        source,
    })
}
