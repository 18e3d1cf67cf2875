//! `--chown` and the owner of WORKDIR: names looked up in the file system that is being changed.

use std::os::fd::BorrowedFd;
use std::path::Path;

use wharf_runtime::{User, resolve_user};
use wharf_solver::llb::{Owner, UserRef};

use super::FileError;
use super::target::io_error;
use crate::context::resolve;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// The ids of an owner. A user's name alone stands for the user's primary group as well, a number alone is also the
/// group's.
pub(super) fn resolve_owner(
    root: BorrowedFd<'_>,
    owner: Option<&Owner>,
) -> Result<Option<(u32, u32)>, FileError> {
    let Some(owner) = owner else { return Ok(None) };
    let (uid, primary) = match &owner.user {
        UserRef::Id(uid) => (*uid, *uid),
        UserRef::Name(name) => look_up(root, PASSWD, name, name)?.map_or((0, 0), |user| (user.uid, user.gid)),
    };
    let gid = match &owner.group {
        None => primary,
        Some(UserRef::Id(gid)) => *gid,
        Some(UserRef::Name(name)) => {
            look_up(root, GROUP, name, &format!("0:{name}"))?.map_or(0, |user| user.gid)
        }
    };
    // The kernel takes this number for "leave it as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(FileError::Unsupported("an owner with the number 4294967295"));
    }
    Ok(Some((uid, gid)))
}

/// Looks `user` up; `None` is root, which needs no account where there are none.
fn look_up(
    root: BorrowedFd<'_>,
    file: &'static str,
    name: &str,
    user: &str,
) -> Result<Option<User>, FileError> {
    let accounts = resolve::resolve(root, Path::new(file), true)
        .map_err(|source| io_error("resolve", Path::new(file), source))?;
    match (accounts.stat, name) {
        (Some(_), _) => resolve_user(root, user).map(Some).map_err(FileError::Owner),
        (None, "root") => Ok(None),
        (None, name) => Err(FileError::NoAccounts { file, name: name.to_owned() }),
    }
}
