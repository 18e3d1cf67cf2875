//! `wharf verify IMAGE CONTEXT`: builds once more what an image was built from, and says in what the two differ.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use wharf_cache::Digest;
use wharf_cache::diff::Compression;
use wharf_runtime::Cancel;

use super::files::{Form, print_json};
use super::session::Session;
use super::transfer::Spec;
use super::{Config, Wanted, failed};
use crate::build::{self, BuildRequest};
use crate::cli::build::{BuildArgs, EPOCH, InputArgs, request};
use crate::error::{Failure, Kind};
use crate::exporter::form::ImageForm;
use crate::exporter::spec::{ImageOutput, ImageSpec, Output};
use crate::images::stored::Stored;
use crate::images::verification::{Finding, Part, Recipe, Verdict};
use crate::progress::{print_note, print_result, printable};
use crate::registry::RegistryOptions;
use crate::remote::spec::CacheTo;
use crate::signals;

/// What it ends with when something differs.
const DIFFERS_EXIT_CODE: u8 = 1;

/// Instructions are shown up to this many characters.
const INSTRUCTION_CHARS_MAX: usize = 60;

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// An image of the store, docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]; a name that is not
    /// in the store is looked for in its registry
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    inputs: InputArgs,
    /// Take steps from the cache, which asks only whether the cache gives the image; without it every step is run again
    #[arg(long, overrides_with = "no_cache")]
    use_cache: bool,
    /// Run every step again: so it is without --use-cache
    #[arg(long, overrides_with = "use_cache")]
    no_cache: bool,
    /// The level that layers were compressed with, if it was not the usual one
    #[arg(long, value_name = "N")]
    compression_level: Option<u8>,
    /// The layers of the base image were compressed once more, too
    #[arg(long)]
    force_compression: bool,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Tell every difference, not the first alone
    #[arg(short, long)]
    all: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// What a verification tells programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    same: bool,
    image: Digest,
    rebuilt: Digest,
    /// `SOURCE_DATE_EPOCH` of the rebuild.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    /// Whether nobody has given it and it is the time at which the image says it was made.
    epoch_from_image: bool,
    compressor: Compressors<'a>,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

/// What made the blobs of layers.
#[derive(Serialize)]
struct Compressors<'a> {
    /// Null where it was not this store that made them.
    image: Option<&'a str>,
    rebuilt: &'a str,
}

pub(super) fn verify(args: VerifyArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let place = Spec::parse(&args.image)?;
    let named = place.reference();
    let is_told_in_full = args.all;
    let built = BuildArgs::of_inputs(args.inputs, args.quiet)?;
    let platforms_given = !built.inputs.platform.is_empty();
    let mut rebuild = request(built, config, named.as_slice())?;
    rebuild.no_cache = args.no_cache || !args.use_cache;
    let registries = RegistryOptions {
        insecure: rebuild.insecure_registries.clone(),
        credentials: rebuild.credentials.clone(),
        offline: rebuild.offline,
        rules: rebuild.registries.clone(),
        ..RegistryOptions::default()
    };
    let form = args.format;
    Session::run_with(wanted, config, args.quiet, registries, |session| {
        let look = |digest| {
            Stored::look(session.store, digest).map_err(|error| failed("cannot read the image", error))
        };
        let image = look(place.take(session, rebuild.offline)?)?;
        // The build shows its own.
        session.end_progress();
        let recipe = Recipe::of(session.store, &image)
            .map_err(|error| failed("cannot see what the image is made like", error))?;
        let of_image = follow(&mut rebuild, &recipe, platforms_given)?;
        let output = adjust(&mut rebuild, &recipe, args.compression_level, args.force_compression);
        let compressor = output.layers(None).variant.compressor();
        let epoch = rebuild.build_args.get(EPOCH).cloned();
        let platforms = rebuild.platforms.clone();
        let rebuilt = look(rebuild_now(session, rebuild)?)?;
        let whole = !platforms_given || !recipe.has_index;
        let verdict = Verdict::of(session.store, &image, &rebuilt, &platforms, whole)
            .map_err(|error| failed("cannot compare the image with the rebuild", error))?;
        let report = Report {
            same: verdict.is_same(),
            image: image.descriptor.digest,
            rebuilt: rebuilt.descriptor.digest,
            epoch: epoch.as_deref(),
            epoch_from_image: of_image,
            compressor: Compressors { image: recipe.compressor.as_deref(), rebuilt: &compressor },
            verdict: &verdict,
        };
        match form {
            Form::Json => print_json(&report)?,
            Form::Text => print_result(text(&report, is_told_in_full).trim_end())?,
        }
        if of_image && !verdict.is_same() && recipe.is_made_by_clock {
            print_note(
                "the image says that it was made at a fraction of a second, so no SOURCE_DATE_EPOCH was set when it was built: \
                 its times are the clock's, and no rebuild has them. `wharf build --source-date-epoch …` sets one",
            );
        }
        Ok(if verdict.is_same() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS_EXIT_CODE) })
    })
}

/// Takes over what the image says of how it was built and nobody has given. Whether the time is the image's.
fn follow(rebuild: &mut BuildRequest, recipe: &Recipe, platforms_given: bool) -> Result<bool, Failure> {
    if !platforms_given {
        rebuild.platforms.clone_from(&recipe.platforms);
        if recipe.has_index && recipe.platforms.len() == 1 {
            // The only way to an index of one.
            rebuild.build_args.entry("BUILDKIT_MULTI_PLATFORM".to_owned()).or_insert_with(|| "1".to_owned());
        }
    }
    if recipe.has_inline_cache {
        let inline = CacheTo::parse("type=inline");
        rebuild.cache_to.push(inline.map_err(|error| Failure::new(Kind::Usage, error.to_string()))?);
    }
    let (false, Some(created_s)) = (rebuild.build_args.contains_key(EPOCH), recipe.created_s) else {
        return Ok(false);
    };
    print_note(&format!(
        "{EPOCH} is {created_s}, the time at which the image says it was made; --source-date-epoch gives another"
    ));
    rebuild.build_args.insert(EPOCH.to_owned(), created_s.to_string());
    Ok(true)
}

/// Has the result made in the form of the image; what flags say of annotations and times stays.
fn adjust(rebuild: &mut BuildRequest, recipe: &Recipe, level: Option<u8>, force: bool) -> ImageForm {
    let given = rebuild.outputs.iter().find_map(Output::image).map(|image| image.form.clone());
    let mut form = recipe.form.clone();
    if let Some(given) = given {
        form.annotations = given.annotations;
        form.times.rewrite = given.times.rewrite.or(form.times.rewrite);
    }
    form.force_compression |= force;
    if let (
        Some(given),
        Compression::Gzip { level } | Compression::Estargz { level } | Compression::Zstd { level },
    ) = (level, &mut form.compression)
    {
        *level = Some(given);
    }
    let image = ImageSpec { names: Vec::new(), form: form.clone() };
    // It gets no name, and is collected like anything else that nobody needs.
    rebuild.outputs = vec![Output::Image(ImageOutput { store: false, ..ImageOutput::stored(image) })];
    form
}

/// Builds; what came of it is in the store.
fn rebuild_now(session: &Session<'_>, rebuild: BuildRequest) -> Result<Digest, Failure> {
    let cannot_start = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, "cannot start", error)
    };
    let cancel = Cancel::new().map_err(|error| cannot_start(&error))?;
    let signals = signals::cancel_on_termination(&cancel).map_err(|error| cannot_start(&error))?;
    let outcome =
        build::build(session.store, session.sandbox, rebuild, cancel, signals).map_err(|failure| {
            // That a step fails is no difference.
            let kind = if failure.kind == Kind::Step { Kind::Rebuild } else { failure.kind };
            Failure { kind, ..failure }
        })?;
    outcome.manifest.ok_or_else(|| Failure::new(Kind::Environment, "the rebuild gave no image"))
}

fn text(report: &Report<'_>, in_full: bool) -> String {
    let Report { image, rebuilt, verdict, .. } = report;
    if verdict.is_same() {
        let whole = if image == rebuilt { "" } else { " for these platforms" };
        return format!("same: the rebuild gives {image}{whole}\n");
    }
    let mut text = format!("differs: the image is {image}, the rebuild {rebuilt}\n");
    let told = if in_full { verdict.differences.len() } else { 1 };
    for (number, finding) in verdict.differences.iter().take(told).enumerate() {
        let what = if number == 0 { "first" } else { "then" };
        text.push_str(&format!("{what}: {}\n", printable(&line(finding, report))));
    }
    match verdict.count() - told {
        0 => {}
        1 => text.push_str("and one more\n"),
        more => text.push_str(&format!("and {more} more\n")),
    }
    if !in_full && told < verdict.count() {
        text.push_str("help: `--all` tells each of them, `--format json` for programs\n");
    }
    text
}

/// A difference in a line.
fn line(finding: &Finding, report: &Report<'_>) -> String {
    let platform = finding.platform.as_ref().map(|platform| format!("{platform}, ")).unwrap_or_default();
    let (place, path) = match &finding.part {
        Part::Layer { layer, instruction, path } => {
            let made_by = match instruction.is_empty() {
                true => String::new(),
                false => format!(" ({})", clipped(instruction)),
            };
            let entry = path.as_ref().map(|path| format!(": `{path}`")).unwrap_or_default();
            (format!("{platform}layer {layer}{made_by}{entry}"), path.as_deref())
        }
        Part::Config { pointer } => (format!("{platform}config{}", at(pointer)), None),
        Part::Manifest { pointer } => (format!("{platform}manifest{}", at(pointer)), None),
        Part::Index { pointer } => (format!("{platform}index{}", at(pointer)), None),
    };
    let Finding { image, rebuilt, .. } = finding;
    let difference = match (&*finding.what, path) {
        ("presence", _) => {
            let is_there = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
            let side = if is_there(image) { "image" } else { "rebuild" };
            format!("is only in the {side}")
        }
        ("order", _) => format!("stands where the rebuild has {}", value(rebuilt)),
        ("encoding", Some(_)) => {
            let offset = finding.offset.unwrap_or_default();
            format!("all entries are the same, but the tar is not, from byte {offset} on")
        }
        ("encoding", None) => match finding.offset {
            Some(offset) => format!("says the same in other bytes, from byte {offset} on"),
            None => "says the same in other bytes".to_owned(),
        },
        ("content", _) => match finding.offset {
            Some(offset) => {
                format!("byte {offset} is {} in the image and {} in the rebuild", byte(image), byte(rebuilt))
            }
            None => "its content differs".to_owned(),
        },
        ("compressor", _) => {
            let of = |compressor: &str, blob: &Value| {
                format!("{compressor} ({})", blob["digest"].as_str().unwrap_or_default())
            };
            let unknown = "a compressor that is not known here";
            // Had it been the same one, the bytes would be the same.
            let recorded = report.compressor.image.filter(|name| *name != report.compressor.rebuilt);
            format!(
                "the files are the same, compressed otherwise: by {} in the image and by {} in the rebuild; a level is \
                 given by --compression-level, and --force-compression compresses the base image's layers again",
                of(recorded.unwrap_or(unknown), image),
                of(report.compressor.rebuilt, rebuilt)
            )
        }
        ("value", _) => format!("is {} in the image and {} in the rebuild", value(image), value(rebuilt)),
        (field, _) => {
            format!("{field} is {} in the image and {} in the rebuild", value(image), value(rebuilt))
        }
    };
    format!("{place}: {difference}")
}

/// A place in a document; the whole is none.
fn at(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!(" {pointer}") }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    }
}

/// A byte of a file.
fn byte(value: &Value) -> String {
    value.as_u64().map_or_else(|| "none, for it ends there".to_owned(), |byte| format!("{byte:#04x}"))
}

fn clipped(instruction: &str) -> String {
    match instruction.char_indices().nth(INSTRUCTION_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &instruction[..at]),
        None => instruction.to_owned(),
    }
}
