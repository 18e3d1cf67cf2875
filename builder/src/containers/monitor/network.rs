//! The container's part of networks, for as long as its monitor has a connection to the network process.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use wharf_runtime::{NetworkNamespace, Sandbox};

use super::Task;
use crate::containers::config::{Attachment, ContainerConfig, NetworkUse};
use crate::error::{Failure, Kind};
use crate::networks::client::{Connection, Holder, Start};
use crate::networks::protocol::{AttachRequest, Attached};

/// What of the network is the container's.
#[derive(Debug, Default)]
pub(super) struct OwnNetwork {
    /// It stays while the container is started again.
    namespace: Option<NetworkNamespace>,
    connection: Option<Connection>,
    attached: Attached,
    is_attached: bool,
}

impl OwnNetwork {
    /// A user's containers are in one user namespace as long as one of them has a connection.
    pub(super) fn new(task: &Task<'_>) -> Result<Self, Failure> {
        let mut this = Self::default();
        if matches!(task.sandbox, Sandbox::Rootless | Sandbox::RootlessSingle) {
            this.connection = Some(connect(task)?);
        }
        Ok(this)
    }

    /// Puts the container where it is to be. None for one that is on no network of the store.
    pub(super) fn attach(
        &mut self,
        task: &Task<'_>,
        config: &ContainerConfig,
    ) -> Result<Option<Attached>, Failure> {
        let NetworkUse::Networks { attached } = &config.network else { return Ok(None) };
        if task.sandbox == Sandbox::Chroot {
            return Err(Failure::new(
                Kind::Environment,
                "the sandbox `chroot` has no networks for containers",
            )
            .hint("give `--network host`; `wharf doctor` says what would unlock the other sandboxes"));
        }
        if self.namespace.is_none() {
            let namespace = NetworkNamespace::new().map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot make the container's network", &error)
            })?;
            self.namespace = Some(namespace);
        }
        let request = AttachRequest {
            attachments: attached.clone(),
            ports: config.ports.clone(),
            dns: config.dns.clone(),
            previous: self.attached.endpoints.clone(),
            previous_ports: self.attached.ports.clone(),
            ..AttachRequest::new(&config.id, &config.name)
        };
        if self.has_gone() {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.connection = Some(connect(task)?);
        }
        let (Some(connection), Some(namespace)) = (&self.connection, &self.namespace) else {
            return Ok(None);
        };
        self.attached = connection.attach(&request, namespace.as_fd())?;
        self.is_attached = true;
        Ok(Some(self.attached.clone()))
    }

    /// Takes it off all networks.
    pub(super) fn detach(&mut self) {
        if std::mem::take(&mut self.is_attached)
            && let Some(connection) = &self.connection
            && connection.detach().is_err()
        {
            // What was made for the connection goes with it.
            self.connection = None;
        }
    }

    /// Its namespace, for a spec.
    pub(super) fn namespace(&self) -> Result<Option<OwnedFd>, Failure> {
        let cloned = self.namespace.as_ref().map(|namespace| namespace.as_fd().try_clone_to_owned());
        cloned.transpose().map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot open the container's network", &error)
        })
    }

    /// Becomes readable when the network process has gone.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// The number of that descriptor, for who does not hold on to this.
    pub(super) fn has_gone(&self) -> bool {
        self.watched().is_some_and(|fd| fd.as_raw_fd() >= 0 && super::orders::is_ready(fd))
    }

    pub(super) fn connect(&mut self, attachment: &Attachment) -> Result<Attached, Failure> {
        self.attached = self.require()?.connect(attachment)?;
        Ok(self.attached.clone())
    }

    pub(super) fn disconnect(&mut self, network: &str) -> Result<Attached, Failure> {
        self.attached = self.require()?.disconnect(network)?;
        Ok(self.attached.clone())
    }

    /// The container has another name; who is on no network tells nobody.
    pub(super) fn rename(&mut self, name: &str) -> Result<Option<Attached>, Failure> {
        if !self.is_attached {
            return Ok(None);
        }
        self.attached = self.require()?.rename(name)?;
        Ok(Some(self.attached.clone()))
    }

    fn require(&self) -> Result<&Connection, Failure> {
        self.connection.as_ref().filter(|_| self.is_attached).ok_or_else(|| {
            Failure::new(
                Kind::Usage,
                "it is not in networks but in that of the host or of another container, or in none",
            )
        })
    }
}

fn connect(task: &Task<'_>) -> Result<Connection, Failure> {
    Holder::connect(task.store.root(), Start::Here(task.sandbox))
}
