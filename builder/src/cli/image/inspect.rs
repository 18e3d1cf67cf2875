//! `wharf inspect` and `wharf image history`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use wharf_cache::Store;
use wharf_cache::state::Image;
use wharf_frontend::image::ContainerConfig;
use wharf_solver::llb::Platform;

use super::list::at;
use super::{Place, Wanted, age, all, familiar, find, look, one_platform, pretty, short, told};
use crate::build::host_platform;
use crate::cli::template::{Column, Format};
use crate::cli::with_store;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::images::places::entry_of;
use crate::images::stored::{Stored, StoredImage};
use crate::progress::{bytes, print_result};
use crate::registry::Reference;

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// Names, digests, or at least four digits of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// json, or a template: `{{.Config.Cmd}}`, `{{json .RootFS.Layers}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The image for this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// What is looked at: container or image [default: what there is, containers first]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image"])]
    kind: Option<String>,
}

impl InspectArgs {
    /// What is looked at alone.
    pub(in crate::cli) fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// `--format`.
    pub(in crate::cli) fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// What is to be shown.
    pub(in crate::cli) fn names(&self) -> &[String] {
        &self.images
    }

    /// Everything about an image.
    pub(in crate::cli) fn describe(&self, store: &Store, name: &str) -> Result<Value, Failure> {
        describe(store, name, one_platform(self.platform.as_deref())?.as_ref())
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HistoryArgs {
    /// The image: a name, a digest, or at least four digits of a digest
    image: String,
    /// table, json, or a template: `{{.CreatedBy}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Sizes and times for people; `--human=false` for programs
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    human: bool,
    /// Show instructions and digests in full
    #[arg(long)]
    no_trunc: bool,
    /// Show the digests of layers alone
    #[arg(short, long)]
    quiet: bool,
    /// The image for this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

/// The fields of a line of the history, with their headings.
const COLUMNS: [Column; 6] = [
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

/// An instruction is shown up to this many characters.
const CREATED_BY_CHARS: usize = 45;

pub(in crate::cli) fn inspect(args: &InspectArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    let platform = one_platform(args.platform.as_deref())?;
    with_store(&Place::enter(wanted)?, |store| {
        // What is there is shown, whatever is not.
        let (mut values, mut failures) = (Vec::new(), Vec::new());
        for name in &args.images {
            match describe(store, name, platform.as_ref()) {
                Ok(value) => values.push(value),
                Err(failure) => failures.push(failure),
            }
        }
        match &format {
            _ if values.is_empty() => Ok(()),
            Format::Table => print_result(&pretty(&Value::Array(values))),
            Format::Json => values.iter().try_for_each(|value| print_result(&value.to_string())),
            Format::Template { template, .. } => {
                values.iter().try_for_each(|value| print_result(&template.render(value)?))
            }
        }?;
        told(failures)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The image of `stored` that a command is about.
pub(super) fn the_image<'s>(
    stored: &'s Stored,
    name: &str,
    platform: Option<&Platform>,
) -> Result<&'s StoredImage, Failure> {
    stored.image_for(platform, &host_platform()).ok_or_else(|| {
        let wanted = platform.cloned().unwrap_or_else(host_platform);
        let there = stored.platforms().join(", ");
        let message = format!("`{name}` has no image for {wanted} in the store");
        let there = if there.is_empty() { "none".to_owned() } else { there };
        Failure::new(Kind::Usage, message).hint(format!("it has: {there}; `--platform` names one"))
    })
}

fn describe(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Value, Failure> {
    let image = find(store, name)?;
    let stored = look(store, &image)?;
    let of_platform = the_image(&stored, name, platform)?;
    let config = &of_platform.config;
    let names = names_of(store, &image)?;
    let digests: std::collections::BTreeSet<String> = names
        .iter()
        .filter_map(|name| name.parse::<Reference>().ok())
        .map(|name| name.by_digest(image.digest).familiar())
        .collect();
    let tags: Vec<String> = names.iter().map(|name| familiar(name)).collect();
    let manifests = stored.entries.as_ref().map(|entries| {
        let entries = entries.iter().map(|entry| {
            let here = stored.images.iter().find(|image| image.descriptor.digest == entry.digest);
            json!({
                "ID": entry.digest,
                "Descriptor": entry_of(entry),
                "Available": store.blobs().size(&entry.digest).is_ok_and(|size| size.is_some()),
                "Kind": if entry.is_attestation() { "attestation" } else { "image" },
                "Size": { "Content": here.map(StoredImage::size) },
            })
        });
        entries.collect::<Vec<_>>()
    });
    let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let layers: Vec<&str> = config.rootfs.diff_ids.iter().map(String::as_str).collect();
    Ok(json!({
        "Id": stored.id(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Comment": config.history.last().map_or("", |entry| &entry.comment),
        "Created": config.created,
        "Author": config.author,
        "Config": container_config(&config.config),
        "Architecture": config.architecture,
        "Variant": or_null(&config.variant),
        "Os": config.os,
        "OsVersion": or_null(&config.os_version),
        "Size": of_platform.size(),
        "RootFS": { "Type": config.rootfs.kind, "Layers": layers },
        "Metadata": { "LastTagTime": rfc3339::format(image.created) },
        "Descriptor": entry_of(&stored.descriptor),
        "Manifests": manifests,
    }))
}

/// All names of an image.
pub(super) fn names_of(store: &Store, image: &Image) -> Result<Vec<String>, Failure> {
    let images = all(store)?;
    Ok(images
        .into_iter()
        .filter(|other| other.digest == image.digest)
        .filter_map(|other| other.name)
        .collect())
}

/// With every field, so that a template can name one that is not set.
fn container_config(config: &ContainerConfig) -> Value {
    const FIELDS: [&str; 13] = [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "ArgsEscaped",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ];
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for field in FIELDS {
            map.entry(field).or_insert(match field {
                "User" | "WorkingDir" | "StopSignal" => "".into(),
                "ArgsEscaped" => false.into(),
                _ => Value::Null,
            });
        }
    }
    value
}

pub(super) fn history(args: &HistoryArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    let platform = one_platform(args.platform.as_deref())?;
    with_store(&Place::enter(wanted)?, |store| {
        let image = find(store, &args.image)?;
        let stored = look(store, &image)?;
        let rows = history_rows(args, &stored, the_image(&stored, &args.image, platform.as_ref())?);
        if args.quiet && args.format.is_none() {
            let ids: Vec<&str> = rows.iter().filter_map(|row| row["ID"].as_str()).collect();
            return print_result(&ids.join("\n"));
        }
        format.print(&rows, &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"], &COLUMNS)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The newest first. The image's id stands at the newest entry, as with Docker; the others have none.
fn history_rows(args: &HistoryArgs, stored: &Stored, image: &StoredImage) -> Vec<Value> {
    let entries = image.history();
    let count = entries.len();
    let row = |(number, (entry, layer)): (
        usize,
        &(Option<_>, Option<&crate::registry::manifest::Descriptor>),
    )| {
        let entry: Option<&wharf_frontend::image::History> = *entry;
        let id = match (number + 1 == count, args.no_trunc) {
            (true, true) => stored.id().to_string(),
            (true, false) => short(&stored.id()),
            (false, _) => "<missing>".to_owned(),
        };
        let created = entry.and_then(|entry| rfc3339::parse(entry.created.as_deref()?));
        let size = layer.map_or(0, |layer| layer.size);
        let created_by = entry.map_or("", |entry| &*entry.created_by).replace(char::is_control, " ");
        json!({
            "Comment": entry.map_or("", |entry| &*entry.comment),
            "CreatedAt": created.map_or_else(|| "N/A".to_owned(), |it| if args.human { at(it) } else { rfc3339::format(it) }),
            "CreatedBy": if args.no_trunc { created_by } else { clip(&created_by) },
            "CreatedSince": match (created, args.human) {
                (None, _) => "N/A".to_owned(),
                (Some(created), true) => age(created),
                (Some(created), false) => rfc3339::format(created),
            },
            "ID": id,
            "Size": if args.human { bytes(size) } else { size.to_string() },
        })
    };
    entries.iter().enumerate().rev().map(row).collect()
}

/// As much of an instruction as a line has room for.
pub(super) fn clip(text: &str) -> String {
    if text.chars().count() <= CREATED_BY_CHARS {
        return text.to_owned();
    }
    text.chars().take(CREATED_BY_CHARS - 1).chain(['…']).collect()
}
