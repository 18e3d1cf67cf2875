//! The network of the steps of a build: made once, when the first step is about to need it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use wharf_cache::Store;
use wharf_runtime::{Network, Sandbox};
use wharf_solver::llb::{Definition, NetworkMode, Op};

use super::sandbox_files;
use crate::error::causes;

/// What `--add-host` calls the host.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

/// A network that steps share, as long as there are steps.
#[derive(Debug)]
pub struct StepNetwork {
    store: Store,
    sandbox: Sandbox,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nobody needs one yet, or any more. What was there may still be on its way out.
    Unneeded(Option<JoinHandle<()>>),
    /// It is being made.
    Starting(JoinHandle<Made>),
    Made(Made),
}

#[derive(Debug, Clone)]
enum Made {
    Own(Arc<Network>),
    /// There is none, for a reason that was told.
    Host,
    /// There is none, for this reason.
    Untold(String),
}

/// The network of one step.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// The host's.
    Host,
    /// Nobody but itself.
    Nobody,
    /// One of its own.
    Own(Arc<Network>),
}

impl StepNetwork {
    /// For the steps of a build that runs in `sandbox`.
    pub fn new(store: &Store, sandbox: Sandbox) -> Self {
        Self { store: store.clone(), sandbox, state: Mutex::new(State::Unneeded(None)) }
    }

    /// Begins to make it beside other work, if `definition` has steps that will need it.
    pub(super) fn begin(&self, definition: &Definition) {
        let needs = |op: &Op| matches!(op, Op::Exec(exec) if exec.network == NetworkMode::Sandbox);
        let mut state = self.lock();
        if !matches!(*state, State::Unneeded(_)) || !definition.iter().any(|(_, vertex)| needs(&vertex.op)) {
            return;
        }
        let (store, sandbox) = (self.store.clone(), self.sandbox);
        let thread = thread::Builder::new().name("network".to_owned());
        // Where there is no thread to be had, the step that needs it makes it.
        if let Ok(thread) = thread.spawn(move || Made::make(&store, sandbox)) {
            finish(std::mem::replace(&mut *state, State::Starting(thread)));
        }
    }

    /// What a step of this mode reaches. Where there is no network `tell` hears so, once.
    pub(crate) fn reach(&self, mode: NetworkMode, tell: impl FnOnce(String)) -> Reach {
        match mode {
            NetworkMode::None => Reach::Nobody,
            NetworkMode::Host => Reach::Host,
            NetworkMode::Sandbox => {
                let mut state = self.lock();
                let made = match std::mem::replace(&mut *state, State::Unneeded(None)) {
                    State::Made(made) => made,
                    State::Starting(thread) => thread.join().unwrap_or_else(|_| {
                        Made::Untold(
                            "note: steps are on the network of this host: making one of their own failed"
                                .to_owned(),
                        )
                    }),
                    ended @ State::Unneeded(_) => {
                        finish(ended);
                        Made::make(&self.store, self.sandbox)
                    }
                };
                let (made, reach) = match made {
                    Made::Own(network) => (Made::Own(network.clone()), Reach::Own(network)),
                    Made::Host => (Made::Host, Reach::Host),
                    Made::Untold(why) => {
                        tell(why);
                        (Made::Host, Reach::Host)
                    }
                };
                *state = State::Made(made);
                reach
            }
        }
    }

    /// No step needs it any more. It takes the kernel a while to remove it, beside which other work is done.
    pub fn end(&self) {
        let mut state = self.lock();
        if !matches!(*state, State::Unneeded(_)) {
            let ended = std::mem::replace(&mut *state, State::Unneeded(None));
            let thread = thread::Builder::new().name("network".to_owned());
            *state = State::Unneeded(thread.spawn(move || finish(ended)).ok());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StepNetwork {
    fn drop(&mut self) {
        finish(std::mem::replace(&mut *self.lock(), State::Unneeded(None)));
    }
}

/// Waits for what is going on, and lets go of what is there.
fn finish(state: State) {
    // A thread that panicked has left nothing.
    match state {
        State::Unneeded(None) | State::Made(_) => {}
        State::Unneeded(Some(thread)) => _ = thread.join(),
        State::Starting(thread) => _ = thread.join(),
    }
}

impl Made {
    fn make(store: &Store, sandbox: Sandbox) -> Self {
        let made = if sandbox == Sandbox::Chroot {
            Err("the sandbox chroot has no network namespaces".to_owned())
        } else {
            open(store)
        };
        match made {
            Ok(network) => Self::Own(Arc::new(network)),
            Err(why) => Self::Untold(format!("note: steps are on the network of this host: {why}")),
        }
    }
}

fn open(store: &Store) -> Result<Network, String> {
    let dir = store.temp_dir().map_err(|error| causes(&error))?;
    let servers = sandbox_files::name_servers().map_err(|error| error.to_string())?;
    Network::open(&servers, &dir).map_err(|error| {
        let help = error.help().unwrap_or("say `--network host` if that is what you want");
        format!("{}\nhelp: {help}", causes(&error))
    })
}

impl Reach {
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
