//! Networks of containers: which there are, who is on them, and the process that makes them.
//!
//! A network is a record of the store (`networks/NAME.json`). While containers are on networks, one *network process* a store
//! has a network namespace with a bridge for each, and a way out of it: a wire to the host, or pasta. It gives out addresses,
//! answers for names, and publishes ports. Commands and monitors ask it over a socket ([`client`]); what a container has is
//! its as long as the connection that it was asked over, and what the process has made goes with it, however it ends.

pub mod client;
pub mod process;
pub mod protocol;
pub mod record;
pub mod subnet;
