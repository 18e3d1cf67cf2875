//! A process without namespaces and without mounts: for places that forbid both and give root with the usual
//! capabilities (a pod with the default seccomp profile).
//!
//! Its root is a directory (`chroot`). A chroot keeps nobody in who is root, so more does: Landlock lets it reach files
//! below the directory alone, make no devices, and signal or connect to nobody outside; the seccomp filter refuses what
//! leads out (mounts, namespaces, another chroot, keys); it has fewer capabilities than elsewhere and can gain none.
//! [`Confinement`] says what of this a kernel is too old for.
//!
//! A process that watches over it adopts its orphans, and when the command, the build or the builder ends, ends all of
//! them. What is mounted elsewhere is put in place and taken away again ([`place`]); `/proc` and `/sys` are empty. The
//! host's name, processes' numbers, IPC and, unless refused, network are the place's own.

mod devices;
mod landlock;
mod opens;
mod others;
mod place;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::Capability;
use rustix::fs::{Gid, Mode, OFlags, Uid};

pub use devices::Devices;
use devices::Made;
pub use landlock::Confinement;
use opens::{Opens, Served, Terminal};
use place::Places;

use crate::cgroup::Group;
use crate::process::{self, Confined, Members, Running, Supervised};
use crate::rootfs::identity;
use crate::spec::plan;
use crate::supervisor::Supervisor;
use crate::{Cancel, ExecRequest, ExitStatus, RuntimeError, Spec, Stdio, seccomp, supervisor};

/// Whether a process can reach anything but by local sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The network of this place.
    Host,
    /// None: no sockets but those of the family `AF_UNIX`.
    None,
}

/// Something that is at `target` while the process runs.
#[derive(Debug)]
pub struct Placement {
    /// Where, as the process sees it. Links are followed inside the root; what is missing is made for the time.
    pub target: PathBuf,
    /// What.
    pub content: Content,
}

/// What a [`Placement`] puts there.
#[derive(Debug)]
pub enum Content {
    /// The entry `name` of the directory `from`, on the file system of the root. It is moved.
    Entry {
        /// The directory.
        from: OwnedFd,
        /// The entry.
        name: OsString,
        /// Whether it is moved back afterwards, with what the process has made of it.
        returns: bool,
    },
    /// A link to what is at this path of the root.
    Link(PathBuf),
    /// A file whose bytes are given to who opens it and may read it, and are nowhere on the disk.
    Secret {
        /// The bytes.
        value: Vec<u8>,
        /// Its owner.
        owner: (u32, u32),
        /// Its permissions.
        mode: u32,
    },
}

/// One process to run without namespaces.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct ChrootRequest<'a, 'g> {
    /// The process: arguments, environment, directory, user, limits. Its capabilities are at most the usual ones; mounts,
    /// namespaces, host name and seccomp profile have no meaning here and are not looked at.
    pub spec: &'a Spec,
    /// The directory that becomes `/`. Nobody else works in it meanwhile.
    pub root: BorrowedFd<'g>,
    /// An empty directory on the same file system, outside the root. What is left in it afterwards is rubbish.
    pub aside: BorrowedFd<'g>,
    /// Where its `/dev` is taken from; without, one is made for it.
    pub devices: Option<&'g Devices>,
    /// The control group that it is in.
    pub group: Option<&'g Group>,
    /// What is put in place, in this order.
    pub placements: Vec<Placement>,
    /// What of its confinement the kernel is to see to.
    pub confinement: Confinement,
    /// What it can reach.
    pub network: Network,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// Ends the process when triggered.
    pub cancel: &'a Cancel,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// The first file of `/proc`, which is empty here, that it or a descendant wanted to open and may have needed.
    pub missed: Option<PathBuf>,
}

/// Runs the process to its end, and that of all its descendants; then the root is as the process has left it, without
/// what was put in place.
pub fn run<'a, 'g: 'a>(request: ChrootRequest<'a, 'g>) -> Result<Ended, RuntimeError> {
    start(request)?.finish()
}

/// A container without namespaces that runs.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct ChrootContainer<'a, 'g> {
    /// Its first process. When that has ended, call [`Self::finish`].
    pub process: Running<'a>,
    /// What can be done in it meanwhile, from any thread.
    pub inside: Arc<ChrootInside<'g>>,
    furniture: Furniture<'g>,
    /// What is given back, and the devices that it came with.
    devices: Option<(&'g Devices, Made)>,
}

/// Starts the process and returns when its command is being executed. What [`Running`] says of threads holds for the one
/// that calls this.
pub fn start<'a, 'g: 'a>(request: ChrootRequest<'a, 'g>) -> Result<ChrootContainer<'a, 'g>, RuntimeError> {
    let ChrootRequest { spec, root, aside, devices, group, placements, confinement, network, stdio, cancel } =
        request;
    let process = spec.process().as_ref().ok_or_else(|| unsupported("a spec without a `process` section"))?;
    let host = process::host()?;
    let process = plan::plan_process(process, &host)?;
    let mut furniture = Furniture {
        places: Places::new(root, aside),
        aside,
        served: HashMap::new(),
        secrets: Vec::new(),
        made: 0,
    };
    let made = furniture.put_devices(devices)?;
    furniture.put_all(placements)?;
    let surroundings = Surroundings {
        root,
        group,
        confinement,
        network,
        served: Arc::new(std::mem::take(&mut furniture.served)),
        missed: Arc::default(),
    };
    let devices = devices.map(|devices| (devices, made));
    let started = surroundings.start(process, host, Role::First { group }, stdio, cancel);
    let members = |process: &Running<'_>| Members::new(process.pidfd(), process.pid(), group);
    match started.and_then(|process| Ok((members(&process)?, process))) {
        Ok((members, process)) => {
            let inside = Arc::new(ChrootInside { members, surroundings });
            Ok(ChrootContainer { process, inside, furniture, devices })
        }
        Err(error) => {
            clear(furniture, devices)?;
            Err(error)
        }
    }
}

impl ChrootContainer<'_, '_> {
    /// Waits for the end and takes away what was put in place. Nothing that was executed in the container may be running
    /// any more then.
    pub fn finish(self) -> Result<Ended, RuntimeError> {
        let Self { mut process, inside, furniture, devices } = self;
        let status = process.wait();
        drop(process);
        // Nobody may take the root for what the command left while something is in it that is not the command's.
        clear(furniture, devices)?;
        let missed = inside.surroundings.missed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Ended { status: status?, missed })
    }
}

/// Takes away what was put in place.
fn clear(furniture: Furniture<'_>, devices: Option<(&Devices, Made)>) -> Result<(), RuntimeError> {
    let emptied = furniture.empty_secrets();
    let taken = furniture.places.take_away();
    let given_back = match (devices, &taken) {
        (Some((devices, made)), Ok(())) => {
            devices.give_back(made, furniture.aside).map_err(failed("keep the devices of the step"))
        }
        _ => Ok(()),
    };
    taken.and(emptied).and(given_back)
}

/// A container without namespaces from inside, for as long as it runs.
#[derive(Debug)]
pub struct ChrootInside<'a> {
    /// Its processes.
    pub members: Members<'a>,
    surroundings: Surroundings<'a>,
}

impl ChrootInside<'_> {
    /// Starts a process in the container and returns when its command is being executed. It ends with the container, and
    /// all its descendants end with it. It and the container's other processes cannot signal each other.
    pub fn exec<'b>(&self, request: ExecRequest<'b>) -> Result<Running<'b>, RuntimeError> {
        let ExecRequest { process, seccomp: _, stdio, cancel } = request;
        self.members.require_running()?;
        let host = process::host()?;
        let process = plan::plan_process(process, &host)?;
        let first = self.members.pidfd().try_clone_to_owned();
        let first = first.map_err(failed("open the container's process"))?;
        let running = self.surroundings.start(process, host, Role::Further { first }, stdio, cancel)?;
        self.members.note_executed(running.pid());
        Ok(running)
    }
}

/// What the processes of a container without namespaces have in common.
#[derive(Debug)]
struct Surroundings<'a> {
    root: BorrowedFd<'a>,
    group: Option<&'a Group>,
    confinement: Confinement,
    network: Network,
    /// The placeholders, by device and inode.
    served: Arc<HashMap<(u64, u64), Served>>,
    missed: Arc<Mutex<Option<PathBuf>>>,
}

/// Which process of a container one is.
enum Role<'a> {
    /// The first one, with which the container's control group ends.
    First { group: Option<&'a Group> },
    /// A further one, which ends with the first.
    Further { first: OwnedFd },
}

impl Surroundings<'_> {
    fn start<'a>(
        &self,
        mut process: plan::ProcessPlan,
        host: plan::Host,
        role: Role<'a>,
        stdio: Stdio<'a>,
        cancel: &Cancel,
    ) -> Result<Running<'a>, RuntimeError> {
        let Self { root, group, confinement, network, .. } = *self;
        let (own_group, first) = match role {
            Role::First { group } => (group, None),
            Role::Further { first } => (None, Some(first)),
        };
        limit_capabilities(&mut process);
        let rules = others::rules(confinement);
        let profile = seccomp::chroot_profile(process.bounding, network == Network::Host, confinement);
        let (socket, step_socket) = supervisor::channel()?;
        let confined = Confined {
            filter: seccomp::compile(&profile)?,
            group,
            root,
            watcher_rules: confinement.watcher(root)?,
            rules: confinement.step(root, network == Network::Host)?,
            supervised: Supervised { filter: others::filter(confinement)?, socket: step_socket },
            process,
            host,
            first,
        };
        let is_at_terminal = process::is_at_terminal(&stdio);
        let supervise = |terminal: Option<&OwnedFd>| {
            let terminal = match terminal {
                Some(master) => {
                    Terminal::Own(master.try_clone().map_err(failed("open the step's terminal"))?)
                }
                None if is_at_terminal => Terminal::OfThisProcess,
                None => Terminal::None,
            };
            let (served, missed) = (self.served.clone(), self.missed.clone());
            Supervisor::start(socket, &rules, Opens { served, terminal, missed, watcher: None })
        };
        process::start_confined(confined, own_group, stdio, cancel, supervise)
    }
}

/// What a step has around it besides its root.
struct Furniture<'a> {
    places: Places<'a>,
    aside: BorrowedFd<'a>,
    /// The placeholders, by device and inode.
    served: HashMap<(u64, u64), Served>,
    /// The placeholders of secrets.
    secrets: Vec<OwnedFd>,
    made: usize,
}

impl Furniture<'_> {
    fn put_devices(&mut self, devices: Option<&Devices>) -> Result<Made, RuntimeError> {
        // What is made in them goes with them.
        for target in ["/proc", "/sys"] {
            let name = self.name();
            let make = devices::make_directory(self.aside, &name, 0o555);
            make.map_err(failed("make a directory of the step"))?;
            self.places.put(Path::new(target), self.aside, &name, false)?;
        }
        let (place, made) = match devices {
            Some(devices) => (devices.place(), devices.take()),
            None => (self.aside, Made::new(self.aside, devices::NAME.as_ref())),
        };
        let made = made.map_err(failed("make the devices of the step"))?;
        self.served.extend(made.served());
        self.places.put(Path::new("/dev"), place, &made.name, devices.is_some())?;
        Ok(made)
    }

    fn put_all(&mut self, placements: Vec<Placement>) -> Result<(), RuntimeError> {
        for Placement { target, content } in placements {
            let target = plan::absolute(&target);
            match content {
                Content::Entry { from, name, returns } => {
                    self.places.put(&target, std::os::fd::AsFd::as_fd(&from), &name, returns)?;
                }
                Content::Link(to) => {
                    let name = self.name();
                    rustix::fs::symlinkat(&to, self.aside, &name)
                        .map_err(|errno| failed("make a link")(errno.into()))?;
                    self.places.put(&target, self.aside, &name, false)?;
                }
                Content::Secret { value, owner, mode } => {
                    let name = self.name();
                    self.make_placeholder(&name, &value, owner, mode)
                        .map_err(failed("make the place of a secret"))?;
                    self.places.put(&target, self.aside, &name, false)?;
                }
            }
        }
        self.places.settle()
    }

    fn name(&mut self) -> OsString {
        self.made += 1;
        format!("made-{}", self.made).into()
    }

    /// Makes a file that looks like a secret.
    fn make_placeholder(
        &mut self,
        name: &OsString,
        value: &[u8],
        (uid, gid): (u32, u32),
        mode: u32,
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.aside, name, flags, Mode::empty())?;
        rustix::fs::ftruncate(&file, value.len() as u64)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let seen = rustix::fs::fstat(&file)?;
        let held = opens::secret_file(value, (uid, gid), mode)?;
        self.served.insert(identity(&seen), Served::Secret(held, Box::new(seen)));
        self.secrets.push(file);
        Ok(())
    }

    /// Where a step has linked a placeholder to another place, not even the length of the secret stays there.
    fn empty_secrets(&self) -> Result<(), RuntimeError> {
        self.secrets.iter().try_for_each(|placeholder| {
            rustix::fs::ftruncate(placeholder, 0)
                .map_err(|errno| failed("empty the place of a secret")(errno.into()))
        })
    }
}

/// No step has these here. With `SYS_CHROOT` it could leave its root, with `MKNOD` make itself a disk, and with `NET_RAW`
/// listen to what the builder says: its network is the builder's.
const REFUSED: [Capability; 3] = [Capability::SysChroot, Capability::Mknod, Capability::NetRaw];

fn limit_capabilities(process: &mut plan::ProcessPlan) {
    let usual = crate::spec::usual_capabilities().without(&REFUSED);
    for set in [
        &mut process.bounding,
        &mut process.permitted,
        &mut process.effective,
        &mut process.inheritable,
        &mut process.ambient,
    ] {
        *set = set.intersection(usual);
    }
    process.no_new_privileges = true;
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Step { step: step.to_owned(), source }
}

fn unsupported(what: &str) -> RuntimeError {
    RuntimeError::Unsupported { what: what.to_owned() }
}
