//! From a process's plan to the steps that its command's process takes before it executes the program.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use oci_spec::runtime::Capability;

use super::failed;
use super::prepare::{Descriptors, Supervised};
use super::step::Step;
use crate::RuntimeError;
use crate::capability::CapabilitySet;
use crate::sandbox::UserNamespace;
use crate::seccomp::Filter;
use crate::spec::plan::{ProcessPlan, path_string};

/// What the command's process does after its streams, in the only order that works: what needs privileges first. `enter`
/// is done when nothing of the host is needed by its path any more.
pub(super) fn launch_steps(
    process: &ProcessPlan,
    filters: Vec<Step>,
    enter: Vec<Step>,
    user_namespace: Option<&UserNamespace>,
    launch: &mut Vec<Step>,
) -> Result<(), RuntimeError> {
    if let Some(value) = process.oom_score_adj {
        let path = c"/proc/self/oom_score_adj".to_owned();
        launch.push(Step::WriteFile { path, value: value.to_string().into_bytes() });
    }
    launch.extend(process.rlimits.iter().map(|&(resource, soft, hard)| Step::Limit { resource, soft, hard }));
    launch.extend(enter);
    launch.push(Step::Bounding { keep: process.bounding.0 });
    if process.no_new_privileges {
        launch.push(Step::NoNewPrivileges);
    }
    if let Some(namespace) = user_namespace {
        require_ids(process, namespace)?;
    }
    launch.push(Step::KeepCapabilities);
    if user_namespace.is_none_or(|namespace| namespace.setgroups) {
        launch.push(Step::Groups(process.additional_gids.clone()));
    }
    launch.extend([
        Step::Group(process.gid),
        Step::User(process.uid),
        // The kernel forgets it with each change of ids.
        Step::DieWithParent,
        Step::Umask(process.umask),
        Step::WorkingDirectory(path_string(&process.cwd)?),
        Step::UnblockSignals,
        Step::CloseOnExec,
    ]);
    let (effective, permitted, inheritable) = (process.effective, process.permitted, process.inheritable);
    if !filters.is_empty() {
        if !process.no_new_privileges {
            // Without no_new_privs only a privileged process may install a filter.
            let admin = CapabilitySet::default().with(Capability::SysAdmin);
            let permitted = permitted.with(Capability::SysAdmin);
            launch.push(Step::Capabilities {
                effective: admin.0,
                permitted: permitted.0,
                inheritable: inheritable.0,
            });
        }
        launch.extend(filters);
    }
    // These, and exec, are all that the filter sees of this process.
    launch.push(Step::Capabilities {
        effective: effective.intersection(permitted).0,
        permitted: permitted.0,
        inheritable: inheritable.0,
    });
    if process.ambient != CapabilitySet::default() {
        launch.push(Step::Ambient(process.ambient.0));
    }
    Ok(())
}

/// The user and the groups have to be there. Where groups cannot be changed the process keeps those of the caller.
fn require_ids(process: &ProcessPlan, namespace: &UserNamespace) -> Result<(), RuntimeError> {
    if !namespace.has_user(process.uid) {
        return Err(RuntimeError::NoSuchId { kind: "user", id: process.uid });
    }
    let others = process.additional_gids.iter().copied().filter(|_| namespace.setgroups);
    match [process.gid].into_iter().chain(others).find(|gid| !namespace.has_group(*gid)) {
        Some(id) => Err(RuntimeError::NoSuchId { kind: "group", id }),
        None => Ok(()),
    }
}

/// What installs the filters, that of the supervisor first.
pub(super) fn filters(
    supervised: Option<Supervised>,
    filter: Option<Arc<Filter>>,
    descriptors: &mut Descriptors,
) -> Result<Vec<Step>, RuntimeError> {
    let listen = match supervised {
        Some(Supervised { filter, socket }) => {
            Some(Step::Listen { filter, socket: descriptors.keep(socket)? })
        }
        None => None,
    };
    Ok(listen.into_iter().chain(filter.map(Step::Filter)).collect())
}

/// What puts the command into a user namespace.
pub(super) fn enter_user_namespace(
    namespace: Option<BorrowedFd<'_>>,
    descriptors: &mut Descriptors,
) -> Result<Vec<Step>, RuntimeError> {
    let Some(namespace) = namespace else { return Ok(Vec::new()) };
    let own = namespace.try_clone_to_owned().map_err(failed("open the user namespace"))?;
    Ok(vec![Step::EnterNamespace { fd: descriptors.keep(own)?, kind: libc::CLONE_NEWUSER as u64 }])
}
