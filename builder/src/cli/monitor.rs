//! `wharf monitor`: the process that watches over a container. The engine starts it; nobody types it.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Args;

use super::config::Config;
use super::place::{Place, Wanted};
use super::{qemu_places, tell_damages};
use crate::containers::config::ContainerId;
use crate::containers::connect::Connection;
use crate::containers::monitor::{self, Task};
use crate::error::{Failure, Kind};
use crate::worker::foreign::ForeignSteps;

#[derive(Debug, Args)]
pub(super) struct MonitorArgs {
    /// The identifier of the container
    id: String,
}

pub(super) fn monitor(args: MonitorArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let socket = wharf_runtime::take_given_descriptor().map_err(|error| {
        Failure::from_error(Kind::Usage, "`wharf monitor` is what wharf starts itself", &error)
            .hint("`wharf run` and `wharf start` start containers")
    })?;
    let socket = UnixStream::from(socket);
    let opened = Place::inherited(wanted).and_then(|place| Ok((place.open_store()?, place)));
    let (store, place) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            // Nobody reads what this process prints.
            let _ = Connection::from(socket).answer(&monitor::refusal(&failure));
            return Err(failure);
        }
    };
    let foreign = ForeignSteps::new(place.sandbox, &qemu_places(config));
    let task = Task { store: &store, sandbox: place.sandbox, foreign: &foreign };
    let watched = monitor::watch(&task, &ContainerId(args.id), socket);
    tell_damages(&store);
    watched.map(|()| ExitCode::SUCCESS)
}
