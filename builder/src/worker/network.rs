//! The network of the steps of a build: made once, when the first step is about to need it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use wharf_cache::Store;
use wharf_runtime::{Network, Sandbox};
use wharf_solver::llb::{Definition, NetworkMode, Op};

use super::sandbox_files;

/// What `--add-host` calls the host.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

/// A network that steps share, or the reason why they are on the host's.
#[derive(Debug)]
pub struct StepNetwork {
    shared: Arc<Shared>,
    starting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    sandbox: Sandbox,
    made: OnceLock<Made>,
}

#[derive(Debug)]
enum Made {
    Own(Network),
    /// There is none. Whether somebody was told why.
    Host(Mutex<Option<String>>),
}

/// The network of one step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach<'a> {
    /// The host's.
    Host,
    /// Nobody but itself.
    Nobody,
    /// One of its own.
    Own(&'a Network),
}

impl StepNetwork {
    /// For the steps of a build that runs in `sandbox`.
    pub fn new(store: &Store, sandbox: Sandbox) -> Self {
        let shared = Shared { store: store.clone(), sandbox, made: OnceLock::new() };
        Self { shared: Arc::new(shared), starting: Mutex::default() }
    }

    /// Begins to make it beside other work, if `definition` has steps that will need it.
    pub(super) fn begin(&self, definition: &Definition) {
        let needs = |op: &Op| matches!(op, Op::Exec(exec) if exec.network == NetworkMode::Sandbox);
        if self.shared.made.get().is_some() || !definition.iter().any(|(_, vertex)| needs(&vertex.op)) {
            return;
        }
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if starting.is_none() {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("network".to_owned());
            // Where there is no thread to be had, the step that needs it makes it.
            *starting = thread.spawn(move || _ = shared.get()).ok();
        }
    }

    /// What a step of this mode reaches. Where there is no network `tell` hears so, once.
    pub(crate) fn reach(&self, mode: NetworkMode, tell: impl FnOnce(String)) -> Reach<'_> {
        match mode {
            NetworkMode::None => Reach::Nobody,
            NetworkMode::Host => Reach::Host,
            NetworkMode::Sandbox => match self.shared.get() {
                Made::Own(network) => Reach::Own(network),
                Made::Host(untold) => {
                    if let Some(why) = untold.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        tell(why);
                    }
                    Reach::Host
                }
            },
        }
    }
}

impl Drop for StepNetwork {
    fn drop(&mut self) {
        // A network that is being made is taken away again by whoever holds it last.
        if let Some(thread) = self.starting.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn get(&self) -> &Made {
        self.made.get_or_init(|| match self.make() {
            Ok(network) => Made::Own(network),
            Err(why) => Made::Host(Mutex::new(Some(why))),
        })
    }

    fn make(&self) -> Result<Network, String> {
        let on_host = |why: &str| format!("note: steps are on the network of this host: {why}");
        if self.sandbox == Sandbox::Chroot {
            return Err(on_host("the sandbox chroot has no network namespaces"));
        }
        let dir = self.store.temp_dir().map_err(|error| on_host(&crate::error::causes(&error)))?;
        let servers = sandbox_files::name_servers().map_err(|error| on_host(&error.to_string()))?;
        Network::open(&servers, &dir).map_err(|error| {
            let why = on_host(&crate::error::causes(&error));
            format!("{why}\nhelp: install the package passt for a network of their own; `--network host` says this no more")
        })
    }
}

impl Reach<'_> {
    /// The name servers that stand for those of the host; `None` where those themselves are reached.
    pub(super) fn name_servers(&self) -> Option<&[IpAddr]> {
        match self {
            Self::Own(network) => Some(network.nameservers()),
            Self::Host | Self::Nobody => None,
        }
    }

    /// The host's address, as the step sees it.
    pub(super) fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Own(network) => network.host(),
            Self::Host | Self::Nobody => Some(Ipv4Addr::LOCALHOST.into()),
        }
    }
}

/// What a resolv.conf without name servers stands for.
pub(super) fn local_server() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 53).into()
}
