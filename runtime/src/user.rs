//! Users and groups of a root file system.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::{RuntimeError, rootfs};

/// The most that is read of `passwd` and of `group`.
const ACCOUNT_FILE_BYTES_MAX: u64 = 16 << 20;

/// The most supplementary groups that a process can have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

/// A user as a Dockerfile's `USER` names it, resolved in a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// Home directory from `passwd` (`/` when there is none, `/root` for uid 0 without an entry).
    pub home: String,
}

/// Resolves `name[:group]` or `uid[:gid]` against `/etc/passwd` and `/etc/group` below `root` (read through the
/// descriptor, symlinks confined to it).
///
/// A number that `passwd` does not know is taken as it is, with group 0. Without a group the user's supplementary
/// groups count; with one, it is the only one. Nothing at all means root.
pub fn resolve_user(root: BorrowedFd<'_>, user: &str) -> Result<User, RuntimeError> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    resolve(&passwd, &group, user)
}

fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, RuntimeError> {
    let bytes = rootfs::read_file(root, Path::new(path), ACCOUNT_FILE_BYTES_MAX)
        .map_err(|source| RuntimeError::Step { step: format!("read /{path} of the container"), source })?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<User, RuntimeError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name);
    let account = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| number.map_or(account.name == name, |uid| account.uid == uid));
    let uid = account.as_ref().map(|account| account.uid).or(number);
    let uid = uid.ok_or_else(|| RuntimeError::UnknownUser { user: name.to_owned() })?;

    let mut gid = account.as_ref().map_or(0, |account| account.gid);
    let mut additional_gids = Vec::new();
    let mut groups = group.lines().filter_map(Group::parse);
    match (group_name, &account) {
        (Some(group), _) => {
            let number = id(group);
            let known = groups.find(|known| number.map_or(known.name == group, |gid| known.gid == gid));
            let found = known.map(|known| known.gid).or(number);
            gid = found.ok_or_else(|| RuntimeError::UnknownGroup { group: group.to_owned() })?;
        }
        (None, Some(account)) => {
            let mine = groups.filter(|group| group.members.split(',').any(|member| member == account.name));
            additional_gids.extend(mine.map(|group| group.gid).take(GROUPS_MAX));
        }
        (None, None) => {}
    }
    let home = match account {
        Some(account) if !account.home.is_empty() => account.home,
        None if uid == 0 => "/root",
        _ => "/",
    };
    Ok(User { uid, gid, additional_gids, home: home.to_owned() })
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// `name:password:uid:gid:comment:home:shell`; none for a line that is not one.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or("");
        Some(Self { name, uid, gid, home })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    /// `name:password:gid:member,member`; none for a line that is not one.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = id(fields.nth(1)?)?;
        Some(Self { name, gid, members: fields.next().unwrap_or("") })
    }
}

/// An id: decimal digits, and not more than other engines take.
fn id(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id <= i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# comment:x:1:1::/:
broken
half:x:12
app:x:1000:1001:App:/home/app:/bin/sh
nohome:x:1001:1001:::
4000:x:4001:4001::/numeric:
twice:x:1000:7::/twice:
";
    const GROUP: &str = "\
root:x:0:
app:x:1001:
video:x:44:app,other
audio:x:29:other,app
apple:x:50:apple
broken:x:y:app
5000:x:5001:
";

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, additional_gids: &[u32], home: &str) {
        let expected = User { uid, gid, additional_gids: additional_gids.to_vec(), home: home.to_owned() };
        assert_eq!(resolve(PASSWD, GROUP, user).unwrap(), expected, "{user:?}");
    }

    #[test]
    fn users_resolve_as_other_engines_resolve_them() {
        check("", 0, 0, &[], "/root");
        check("root", 0, 0, &[], "/root");
        check("app", 1000, 1001, &[44, 29], "/home/app");
        check("1000", 1000, 1001, &[44, 29], "/home/app");
        check("app:", 1000, 1001, &[44, 29], "/home/app");
        check("app:video", 1000, 44, &[], "/home/app");
        check("app:77", 1000, 77, &[], "/home/app");
        check("1000:44", 1000, 44, &[], "/home/app");
        check("1234", 1234, 0, &[], "/");
        check("1234:5678", 1234, 5678, &[], "/");
        check(":44", 0, 44, &[], "/root");
        check("nohome", 1001, 1001, &[], "/");
        check("4000", 4000, 0, &[], "/");
    }

    #[test]
    fn an_image_without_accounts_has_numbers_and_root() {
        let bare = |user| resolve("", "", user);
        assert_eq!(bare("0").unwrap().home, "/root");
        assert_eq!(
            bare("5").unwrap(),
            User { uid: 5, gid: 0, additional_gids: vec![], home: "/".to_owned() }
        );
        assert!(matches!(bare("root"), Err(RuntimeError::UnknownUser { user }) if user == "root"));
    }

    #[test]
    fn unknown_names_are_errors() {
        let user = |user| resolve(PASSWD, GROUP, user).unwrap_err().to_string();
        assert_eq!(user("nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(user("half"), "unable to find user half: no matching entries in passwd file");
        assert_eq!(user("#"), "unable to find user #: no matching entries in passwd file");
        assert_eq!(user("app:staff"), "unable to find group staff: no matching entries in group file");
        assert_eq!(user("4294967296"), "unable to find user 4294967296: no matching entries in passwd file");
        assert_eq!(user("+5"), "unable to find user +5: no matching entries in passwd file");
        assert_eq!(user("-1"), "unable to find user -1: no matching entries in passwd file");
    }
}
