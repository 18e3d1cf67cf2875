//! Taking the strongest sandbox that the place allows.

use std::env;
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capability;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::thread::CapabilitySet as ThreadCapabilities;

use super::Sandbox;
use super::listener::try_listener;
use super::namespace::{Mapping, Namespace};
use super::obstacle::{Call, HelperProblem, Obstacle};
use super::place::{self, Place};
use crate::sys::{self, Errno};

/// What the sandbox `chroot` takes.
const CHROOT: [Capability; 8] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Where programs are looked for that `PATH` does not lead to.
const PROGRAMS: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// Enters `forced`, or the strongest sandbox that the place allows. Afterwards this process is uid 0 with the rights that
/// the sandbox gives, in a user namespace if it takes one. Only while the process has one thread.
pub fn enter(forced: Option<Sandbox>) -> Result<Sandbox, NoSandbox> {
    if forced.is_none_or(|sandbox| sandbox == Sandbox::Root) && is_root_here() {
        return Ok(Sandbox::Root);
    }
    let place = Place::look();
    let rungs = forced.map_or(Sandbox::ALL.to_vec(), |sandbox| vec![sandbox]);
    let mut refused = Vec::new();
    for sandbox in rungs {
        let entered = attempt(sandbox, &place, Thoroughness::First).and_then(|trial| match trial {
            Some(namespace) => namespace.enter(&place).map_err(one),
            None => Ok(()),
        });
        match entered {
            Ok(()) => return Ok(sandbox),
            Err(obstacles) => refused.push((sandbox, obstacles)),
        }
    }
    Err(NoSandbox { refused })
}

/// How many obstacles are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// What there is without trying more than is needed.
    First,
    /// All that can be found.
    All,
}

/// Tries whether `sandbox` can be had, without a lasting effect: the user namespace goes when it is dropped. At least one
/// obstacle where it cannot.
pub(super) fn attempt(
    sandbox: Sandbox,
    place: &Place,
    thoroughness: Thoroughness,
) -> Result<Option<Namespace>, Vec<Obstacle>> {
    if !place.has_proc {
        return Err(one(Obstacle::NoProc));
    }
    match sandbox {
        Sandbox::Root => root(place).map(|()| None).map_err(one),
        Sandbox::Rootless => match many(place) {
            Ok(mapping) => namespace(place, &mapping).map(Some).map_err(one),
            Err(mut obstacles) => {
                if thoroughness == Thoroughness::All {
                    obstacles.extend(namespace(place, &Mapping::One).err());
                }
                Err(obstacles)
            }
        },
        Sandbox::RootlessSingle => {
            let namespace = namespace(place, &Mapping::One).map_err(one)?;
            try_listener(place).map(|()| Some(namespace)).map_err(one)
        }
        Sandbox::Chroot => {
            chroot(place)?;
            try_listener(place).map(|()| None).map_err(one)
        }
    }
}

fn one(obstacle: Obstacle) -> Vec<Obstacle> {
    vec![obstacle]
}

/// The usual case in a few calls.
fn is_root_here() -> bool {
    rustix::process::geteuid().is_root()
        && place::has_proc()
        && rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(ThreadCapabilities::SYS_ADMIN))
        && sys::try_to_mount() == Errno(libc::EBADF)
}

fn root(place: &Place) -> Result<(), Obstacle> {
    require_uid_0(place)?;
    require(place, &[Capability::SysAdmin])?;
    match sys::try_to_mount() {
        Errno(libc::EBADF) => Ok(()),
        Errno(errno) => Err(Obstacle::refused(Call::Mount, errno, place)),
    }
}

fn chroot(place: &Place) -> Result<(), Vec<Obstacle>> {
    if let Err(obstacle) = require_uid_0(place) {
        let missing = place.leaves_out(&CHROOT);
        let bounded = (!missing.is_empty()).then_some(Obstacle::Bounded { missing });
        return Err([obstacle].into_iter().chain(bounded).collect());
    }
    require(place, &CHROOT).map_err(one)?;
    try_chroot(place).map_err(one)
}

/// Changes the root of a process of its own.
fn try_chroot(place: &Place) -> Result<(), Obstacle> {
    let refused = |call, errno| Obstacle::refused(call, errno, place);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty())
        .map_err(|errno| refused(Call::Chroot, errno.raw_os_error()))?;
    let pid = sys::fork(|| sys::chroot(root.as_raw_fd()).err().map_or(0, |Errno(errno)| errno))
        .map_err(|error| refused(Call::Fork, error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
    match sys::wait_for(pid) {
        Some(0) => Ok(()),
        Some(errno) => Err(refused(Call::Chroot, errno)),
        None => Err(Obstacle::Killed),
    }
}

fn require_uid_0(place: &Place) -> Result<(), Obstacle> {
    if place.uid == 0 { Ok(()) } else { Err(Obstacle::NotRoot { uid: place.uid }) }
}

fn require(place: &Place, capabilities: &[Capability]) -> Result<(), Obstacle> {
    let missing = place.lacks(capabilities);
    if missing.is_empty() { Ok(()) } else { Err(Obstacle::Capabilities { missing }) }
}

fn namespace(place: &Place, mapping: &Mapping) -> Result<Namespace, Obstacle> {
    if place.threads > 1 {
        return Err(Obstacle::Threads);
    }
    Namespace::make(place, mapping)
}

/// How many ids can be mapped: all that there are, by root who may set ids, or the subordinate ones of a user.
fn many(place: &Place) -> Result<Mapping, Vec<Obstacle>> {
    if place.uid == 0 {
        require(place, &[Capability::Setuid, Capability::Setgid, Capability::Setfcap]).map_err(one)?;
        return Ok(Mapping::All { uids: place.uid_map.clone(), gids: place.gid_map.clone() });
    }
    let mut obstacles = Vec::new();
    let mut note = |obstacle| obstacles.push(obstacle);
    let helpers = ["newuidmap", "newgidmap"].map(|program| helper(program).map_err(&mut note));
    let problem = |problem| Obstacle::Helper { program: "newuidmap".to_owned(), problem };
    if place.no_new_privileges {
        note(problem(HelperProblem::NoNewPrivileges));
    }
    if !place.bounding.contains(Capability::Setuid) || !place.bounding.contains(Capability::Setgid) {
        note(problem(HelperProblem::Bounded));
    }
    let mut ids = |file: &'static str, user: &String| {
        let ranges = place.subordinate(Path::new(file));
        if ranges.is_empty() {
            note(Obstacle::NoSubordinateIds { file, user: user.clone() });
        }
        ranges
    };
    let ids = place.user.as_ref().map(|user| (ids("/etc/subuid", user), ids("/etc/subgid", user)));
    if ids.is_none() {
        obstacles.push(Obstacle::NoPasswdEntry { uid: place.uid });
    }
    match (helpers, ids) {
        ([Ok(newuidmap), Ok(newgidmap)], Some((uids, gids))) if obstacles.is_empty() => {
            Ok(Mapping::Subordinate { uids, gids, helpers: [newuidmap, newgidmap] })
        }
        _ => Err(obstacles),
    }
}

/// Where `program` is, if it can do what it is for.
fn helper(program: &str) -> Result<PathBuf, Obstacle> {
    let problem = |problem| Obstacle::Helper { program: program.to_owned(), problem };
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(PROGRAMS.map(PathBuf::from));
    let found =
        places.filter(|place| place.is_absolute()).map(|place| place.join(program)).find_map(|path| {
            let found = fs::metadata(&path).ok()?;
            found.is_file().then(|| (path, found.permissions().mode()))
        });
    let (path, mode) = found.ok_or_else(|| problem(HelperProblem::Missing))?;
    let is_ignored = rustix::fs::statvfs(&path).is_ok_and(|on| on.f_flag.contains(StatVfsMountFlags::NOSUID));
    let has_capabilities = rustix::fs::getxattr(&path, c"security.capability", &mut [0; 64][..]).is_ok();
    let is_privileged = mode & libc::S_ISUID != 0 || has_capabilities;
    if is_privileged && !is_ignored { Ok(path) } else { Err(problem(HelperProblem::NotPrivileged)) }
}

/// No sandbox can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSandbox {
    /// What was tried, and why it was not to be had.
    pub refused: Vec<(Sandbox, Vec<Obstacle>)>,
}

impl fmt::Display for NoSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(sandbox, obstacles)] = self.refused.as_slice() {
            let obstacles: Vec<String> = obstacles.iter().map(Obstacle::to_string).collect();
            return write!(f, "the sandbox {sandbox} cannot be had here: {}", obstacles.join("; "));
        }
        f.write_str("there is no sandbox for steps here")?;
        let first =
            self.refused.iter().filter_map(|(sandbox, obstacles)| Some((sandbox, obstacles.first()?)));
        if first.clone().all(|(_, obstacle)| *obstacle == Obstacle::NoProc) {
            return write!(f, ": {}", Obstacle::NoProc);
        }
        for (number, (sandbox, obstacle)) in first.enumerate() {
            f.write_str(if number == 0 { ": " } else { "; " })?;
            write!(f, "{sandbox}: {obstacle}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoSandbox {}
