//! What becomes of a container: written by its monitor alone, as `state.json` of its directory, whole each time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::config::Protocol;

/// How it stands with a container. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    /// What it does.
    pub status: Status,
    /// Its first process as this host (or this user namespace) numbers it, while it runs.
    pub pid: Option<i32>,
    /// The run of the machine in which it was last started.
    #[serde(default)]
    pub boot: Option<String>,
    /// When it was last started.
    pub started: Option<i64>,
    /// When it last ended.
    pub finished: Option<i64>,
    /// How it last ended: its exit status, or 128 and the signal.
    pub exit_code: u8,
    /// Why it could not be started or watched.
    pub error: Option<String>,
    /// Whether it was killed because memory ran out.
    pub oom_killed: bool,
    /// How many times the restart policy has started it since somebody did.
    pub restarts: u32,
    /// Whether somebody stopped it, so that no policy starts it.
    pub stopped_by_hand: bool,
    /// How it is, if that is checked.
    pub health: Option<Health>,
    /// The networks that it is part of while it runs.
    pub endpoints: Vec<Endpoint>,
    /// The ports that this host answers on while it runs.
    pub ports: Vec<BoundPort>,
    /// What of `--memory` and the like could not be done here, in words.
    pub warnings: Vec<String>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was never started.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It is stopped in the middle.
    Paused,
    /// It has ended and will be started again soon.
    Restarting,
    /// It is being removed.
    Removing,
    /// It has ended.
    Exited,
    /// Its monitor is gone without a word, or its removal failed.
    Dead,
}

impl Status {
    /// As `ps` and `inspect` have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether there are processes.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether a monitor watches over it: there are processes, or will be again.
    pub fn is_watched(self) -> bool {
        self.is_up() || self == Self::Restarting
    }
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// How many checks in a row have failed.
    pub failing_streak: u32,
    /// The last checks, the oldest first; at most five.
    pub log: Vec<Probe>,
}

/// How a container is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nobody knows yet.
    Starting,
    /// Well.
    Healthy,
    /// Not well.
    Unhealthy,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began.
    pub start: i64,
    /// When it ended.
    pub end: i64,
    /// Its exit status; -1 if it took too long or could not be run.
    pub exit_code: i32,
    /// The begin of what it printed.
    pub output: String,
}

/// A container's part of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// The network's identifier.
    pub network_id: String,
    /// The interface in the container.
    pub interface: String,
    /// Hardware address.
    pub mac: String,
    /// Address and length of the prefix.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The same.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// The same.
    pub gateway6: Option<Ipv6Addr>,
    /// Names that others find it by there.
    pub names: Vec<String>,
}

/// A port that this host answers on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    /// The container's.
    pub container: u16,
    /// Of what.
    pub protocol: Protocol,
    /// The host's address.
    pub address: IpAddr,
    /// The host's port.
    pub host: u16,
}
