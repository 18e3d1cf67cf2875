//! `wharf run`.

use std::process::ExitCode;

use clap::Args;
use wharf_cache::Store;

use super::config::Config;
use super::place::{Place, Wanted};
use super::prune::settle;
use super::{image, qemu_places, with_store};
use crate::container::{self, Host};
use crate::error::{Failure, Kind};
use crate::worker::foreign::ForeignSteps;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Remove the container when it ends (as yet it always is)
    #[arg(long)]
    rm: bool,
    /// The image for this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// The image: a name, a digest, or at least four digits of a digest
    image: String,
    /// Command and arguments in place of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: &RunArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let place = Place::enter(wanted)?;
    place.tell();
    with_store(&place, |store| run_in(store, args, &place, config))
}

fn run_in(store: &Store, args: &RunArgs, place: &Place, config: &Config) -> Result<ExitCode, Failure> {
    let image = image::find(store, &args.image)?;
    let is_here = store.lease_image(&image).map_err(|error| {
        Failure::from_error(Kind::Environment, &format!("cannot use the image `{}`", args.image), &error)
    })?;
    if !is_here {
        let message = format!("the image `{}` has just been removed by somebody else", args.image);
        return Err(Failure::new(Kind::Environment, message));
    }
    if !args.rm {
        crate::progress::print_note("the container is removed when it ends; containers are not kept yet");
    }
    let platform = image::one_platform(args.platform.as_deref())?;
    let foreign = ForeignSteps::new(place.sandbox, &qemu_places(config));
    let host = Host { sandbox: place.sandbox, foreign: &foreign, platform: platform.as_ref() };
    let ended = container::run(store, &image, &args.command, &host).map(ExitCode::from);
    settle(store, config);
    ended
}
