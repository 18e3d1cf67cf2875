//! What is said on the socket of the network process: the frames of [`crate::containers::connect`], each a request or an
//! answer as JSON. The process begins with [`Answer::Hello`]; then each request has one answer.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::containers::config::{Attachment, ContainerId, PortUse};
use crate::containers::protocol::Reason;
use crate::containers::state::{BoundPort, Endpoint};

/// What is asked of the network process. What it makes for a connection it takes away when that ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Puts the network namespace that comes along on networks, in place of what this connection had before.
    Attach(Box<AttachRequest>),
    /// Puts it on one more.
    Connect(Attachment),
    /// Takes it off one.
    Disconnect {
        /// The network's name.
        network: String,
    },
    /// The container has another name now.
    Rename {
        /// The name.
        name: String,
    },
    /// Takes everything away.
    Detach,
    /// Takes networks away that nobody is on and whose records are gone.
    Forget,
}

/// A container that is to be on networks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Its identifier.
    pub container: String,
    /// Its name.
    pub name: String,
    /// The networks, the one with the way out first.
    pub attachments: Vec<Attachment>,
    /// The ports that this host is to answer on.
    pub ports: Vec<PortUse>,
    /// Name servers that are asked for it in place of this host's, if there are any.
    pub dns: Vec<IpAddr>,
    /// What it had before, which it has again where that is free.
    pub previous: Vec<Endpoint>,
    /// The same.
    pub previous_ports: Vec<BoundPort>,
}

impl AttachRequest {
    /// A container of this identifier and name, on nothing yet.
    pub fn new(container: &ContainerId, name: &str) -> Self {
        Self { container: container.0.clone(), name: name.to_owned(), ..Self::default() }
    }
}

/// What a container has on networks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// Its part of each network, the one with the way out first.
    pub endpoints: Vec<Endpoint>,
    /// The ports that this host answers on.
    pub ports: Vec<BoundPort>,
    /// Its name servers.
    pub dns: Vec<IpAddr>,
    /// An address of this host that it reaches: what `host-gateway` stands for.
    pub host: Option<IpAddr>,
    /// What could not be done as it was asked, and was not worth a failure.
    pub notes: Vec<String>,
}

/// What the network process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is there. Its user namespace comes along, if it is in one of its own.
    Hello {
        /// The name of the sandbox that it has entered.
        sandbox: String,
    },
    /// What the container has now.
    Attached(Box<Attached>),
    /// It is done.
    Done,
    /// It could not be done, and nothing has changed.
    Failed {
        /// What kind of failure.
        reason: Reason,
        /// What happened, outermost first.
        message: String,
        /// What to do about it.
        hints: Vec<String>,
    },
}
