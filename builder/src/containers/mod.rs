//! Containers that are kept: what they are made of, what becomes of them, and who watches over them.
//!
//! There is no daemon. A container is a directory of the store (`containers/ID`); while it runs, a *monitor* (this program,
//! executed once more) holds the lock of that directory, writes the state and the log, and answers on a socket
//! ([`protocol`]). [`engine`] is what commands and compose ask: it reads the directories, and starts and asks monitors.
//! Whoever holds no lock is not running, whatever the state last said: a killed monitor and a reboot are seen by that.

pub mod ask;
pub mod commit;
pub mod config;
pub mod connect;
pub mod copy;
mod create;
pub mod directory;
pub mod engine;
pub mod files;
mod given;
pub mod health;
mod image;
pub mod launch;
pub mod log;
pub mod monitor;
mod mounts;
pub mod names;
pub mod protocol;
pub mod restart;
pub mod signal;
pub mod state;
pub mod streams;
pub mod uses;

pub use create::DEFAULT_NETWORK;
