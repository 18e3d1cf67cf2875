//! Collection: keeping the whole root under a size, and saying what takes it.
//!
//! ```text
//! measure (sizes on disk) ─┐
//! rows (who needs what) ───┼─▶ inventory ─▶ choose ─▶ collect
//! leases (who uses what) ──┘
//! ```
//!
//! Everything below the root counts ([`measure`]). Images that have a name are never collected, nor are containers, volumes and what these
//! need ([`containers`]), nor is what a living process has leased ([`lease`]). Of the rest, what nobody can find any more goes first; then what is most dispensable
//! ([`choose`]): long unused, large, cheap to have again.

mod choose;
mod collect;
pub(crate) mod containers;
mod inventory;
pub(crate) mod lease;
mod measure;
mod room;
#[cfg(test)]
mod tests;
mod uses;

use std::fmt;
use std::time::{Duration, SystemTime};

pub use collect::{Collected, Goal};

/// What kind of thing takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A manifest, config or layer.
    Blob,
    /// The unpacked files of a step or layer.
    Snapshot,
    /// A directory that steps keep between builds.
    CacheMount,
    /// A git repository.
    Repository,
    /// A container: its own layer, its log.
    Container,
    /// A volume, or the other things that containers share.
    Volume,
    /// Records and logs of builds.
    History,
    /// `state.db` and its companions.
    Database,
    /// What processes have not committed yet.
    Running,
    /// Everything else below the root.
    Other,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Blob,
        Self::Snapshot,
        Self::CacheMount,
        Self::Repository,
        Self::Container,
        Self::Volume,
        Self::History,
        Self::Database,
        Self::Running,
        Self::Other,
    ];

    /// Its name, as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Snapshot => "snapshot",
            Self::CacheMount => "cache-mount",
            Self::Repository => "repository",
            Self::Container => "container",
            Self::Volume => "volume",
            Self::History => "history",
            Self::Database => "database",
            Self::Running => "running",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether something may be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nobody can find it any more.
    Garbage,
    /// Part of an image without a name.
    Dangling,
    /// A later build may use it.
    Cached,
    /// A process uses it.
    InUse,
    /// Part of an image that has a name.
    Tagged,
    /// It belongs to the store itself.
    Fixed,
}

impl State {
    /// Whether it goes when space is needed.
    pub fn is_collectable(self) -> bool {
        matches!(self, Self::Garbage | Self::Dangling | Self::Cached)
    }

    /// Its name, as users read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Dangling => "dangling",
            Self::Cached => "cached",
            Self::InUse => "in-use",
            Self::Tagged => "tagged",
            Self::Fixed => "fixed",
        }
    }
}

/// Something in the store that takes space.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Of what kind.
    pub kind: Kind,
    /// Its digest, id or directory.
    pub name: String,
    /// What the user calls it, if that is something else.
    pub title: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was used last, where that is known.
    pub used: Option<SystemTime>,
    /// The time that having it again would take: measured for steps, else estimated.
    pub cost: Duration,
    /// Names of the images that have it.
    pub images: Vec<String>,
    /// Whether it may be collected.
    pub state: State,
}
