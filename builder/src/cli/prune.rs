//! `wharf prune`, and the collection at the end of other commands.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use wharf_cache::Store;
use wharf_cache::gc::{Goal, Item, State};
use wharf_frontend::instructions::parse_duration;

use super::config::Config;
use super::place::{Place, Wanted};
use super::{du, size, with_store};
use crate::error::{Failure, Kind, causes};
use crate::progress::{ask, bytes, print_note, print_result, printable};
use crate::registry::Reference;

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove all that no named image needs and nobody uses, not only what cannot be found any more
    #[arg(short, long)]
    all: bool,
    /// Only what is so: until=24h (not used for that long), type=snapshot, id=…, image=NAME; type!=… and the like for the
    /// opposite; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Remove what can be done without best until the store takes no more than this: 10GB
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    max_used_space: Option<String>,
    /// Show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// One `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    UnusedFor(Duration),
    Is { what: Property, value: String, wanted: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Property {
    Type,
    Id,
    Image,
}

pub(super) fn prune(args: &PruneArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>();
    let filters = filters.map_err(|message| Failure::new(Kind::Usage, message))?;
    let goal = match &args.max_used_space {
        None => Goal::Everything,
        Some(text) => Goal::AtMost(size::parse(text).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("--max-used-space `{text}` is no size")).hint("`10GB` is one")
        })?),
    };
    let everything = args.all || args.max_used_space.is_some();
    let now = SystemTime::now();
    let admit = |item: &Item| {
        (everything || matches!(item.state, State::Garbage | State::Dangling))
            && filters.iter().all(|filter| filter.admits(item, now))
    };
    let failed = |error| Failure::from_error(Kind::Environment, "cannot collect", &error);
    with_store(&Place::enter(wanted)?, |store| {
        if args.dry_run {
            let items = store.collectable(goal, &admit).map_err(failed)?;
            return say(&items, "would be removed");
        }
        if !args.force {
            confirm(args)?;
        }
        let collected = store.collect(goal, &admit).map_err(failed)?;
        say(&collected.removed, "removed")
    })
    .map(|()| ExitCode::SUCCESS)
}

fn say(items: &[Item], what: &str) -> Result<(), Failure> {
    let total = items.iter().map(|item| item.bytes).sum();
    let last = format!("{} {what}", bytes(total));
    let text = if items.is_empty() { last } else { format!("{}\n{last}", du::list(items)) };
    print_result(&text)
}

/// Asks whoever sits at the terminal.
fn confirm(args: &PruneArgs) -> Result<(), Failure> {
    let hint = "`--force` removes without asking, `--dry-run` shows what would be removed";
    if !std::io::stdin().is_terminal() {
        let message = "removing needs a yes, and standard input is no terminal";
        return Err(Failure::new(Kind::Usage, message).hint(hint));
    }
    let what = match (&args.max_used_space, args.all) {
        (Some(size), _) => format!("what can be done without best until the store takes no more than {size}"),
        (None, true) => "all that no named image needs: the whole build cache".to_owned(),
        (None, false) => "images without a name and what cannot be found any more".to_owned(),
    };
    let which = if args.filter.is_empty() { String::new() } else { format!(" ({})", args.filter.join(", ")) };
    if ask(&format!("{}\nGo on? [y/N] ", printable(&format!("This removes {what}{which}.")))) {
        return Ok(());
    }
    Err(Failure::new(Kind::Cancelled, "nothing was removed"))
}

/// At the end of a command: keeps the store under its limit. What cannot be done is said, and is no failure of the
/// command.
pub(super) fn settle(store: &Store, config: &Config) {
    let settled = config.store_bytes_max(store.root()).map(|bytes_max| (bytes_max, store.settle(bytes_max)));
    match settled {
        Ok((_, Ok(None))) => {}
        Ok((bytes_max, Ok(Some(collected)))) if collected.bytes > bytes_max => {
            let (root, has, max) = (store.root().display(), bytes(collected.bytes), bytes(bytes_max));
            let (tagged, used) = (bytes(collected.tagged_bytes), bytes(collected.in_use_bytes));
            print_note(&format!(
                "the store `{root}` takes {has}, more than its max-size of {max}, and nothing else can be collected: \
                 images with names need {tagged}, other processes use {used}; `wharf rmi` removes images, \
                 `[store] max-size` in the configuration sets the limit"
            ));
        }
        Ok((_, Ok(Some(_)))) => {}
        Ok((_, Err(error))) => {
            print_note(&format!("cannot keep the store under its max-size: {}", causes(&error)))
        }
        Err(failure) => print_note(&failure.message),
    }
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = |reason: String| format!("--filter {}: {reason}", printable(text));
        let (name, wanted, value) = [("!=", false), ("==", true), ("=", true)]
            .into_iter()
            .find_map(|(sign, wanted)| text.split_once(sign).map(|(name, value)| (name, wanted, value)))
            .ok_or_else(|| bad("a filter is NAME=VALUE".to_owned()))?;
        let what = match name {
            "until" | "unused-for" if wanted => {
                let nanos = parse_duration(value).map_err(bad)?;
                let nanos = u64::try_from(nanos).map_err(|_| bad("that is in the future".to_owned()))?;
                return Ok(Self::UnusedFor(Duration::from_nanos(nanos)));
            }
            "type" | "kind" => Property::Type,
            "id" => Property::Id,
            "image" => Property::Image,
            _ => return Err(bad("there are until=, type=, id= and image=".to_owned())),
        };
        let is_kind = |name: &str| wharf_cache::gc::Kind::ALL.iter().any(|kind| kind.name() == name);
        if what == Property::Type && !is_kind(value) {
            let names: Vec<_> = wharf_cache::gc::Kind::ALL.iter().map(|kind| kind.name()).collect();
            return Err(bad(format!("the types are {}", names.join(", "))));
        }
        if value.is_empty() {
            return Err(bad("the value is empty".to_owned()));
        }
        Ok(Self::Is { what, value: value.to_owned(), wanted })
    }

    fn admits(&self, item: &Item, now: SystemTime) -> bool {
        match self {
            Self::UnusedFor(time) => {
                item.used.is_none_or(|used| now.duration_since(used).unwrap_or_default() >= *time)
            }
            Self::Is { what, value, wanted } => {
                let is = match what {
                    Property::Type => item.kind.name() == value,
                    Property::Id => {
                        item.name
                            .strip_prefix("sha256:")
                            .unwrap_or(&item.name)
                            .starts_with(value.strip_prefix("sha256:").unwrap_or(value))
                            || item.title == *value
                    }
                    Property::Image => {
                        let full = value.parse::<Reference>().map(|name| name.to_string());
                        item.images
                            .iter()
                            .any(|image| image == value || full.as_ref().is_ok_and(|full| full == image))
                    }
                };
                is == *wanted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_cache::gc::Kind;

    #[track_caller]
    fn check(filter: &str, admits: bool) {
        let item = Item {
            kind: Kind::Snapshot,
            name: "sha256:00ab".to_owned(),
            title: "pip".to_owned(),
            bytes: 1,
            used: Some(SystemTime::now() - Duration::from_secs(60 * 60)),
            cost: Duration::ZERO,
            images: vec!["docker.io/library/app:latest".to_owned()],
            state: State::Cached,
        };
        assert_eq!(Filter::parse(filter).unwrap().admits(&item, SystemTime::now()), admits, "{filter}");
    }

    #[test]
    fn filters_choose() {
        check("until=59m", true);
        check("until=2h", false);
        check("unused-for=1h30m", false);
        check("type=snapshot", true);
        check("type==blob", false);
        check("type!=blob", true);
        check("id=00a", true);
        check("id=sha256:00ab", true);
        check("id=pip", true);
        check("id!=pip", false);
        check("image=app", true);
        check("image!=docker.io/library/app:latest", false);
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        for (filter, word) in [
            ("until", "NAME=VALUE"),
            ("until=1", "missing unit"),
            ("until=-1h", "future"),
            ("until!=1h", "there are"),
            ("label=x", "there are"),
            ("type=files", "cache-mount"),
            ("id=", "empty"),
        ] {
            let error = Filter::parse(filter).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
