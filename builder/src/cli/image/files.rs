//! `wharf import`, `export`, `diff` and `tree`: images and their files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use wharf_cache::diff::differences;
use wharf_cache::state::Image;
use wharf_solver::llb::Platform;

use super::inspect::{clip, the_image};
use super::session::Session;
use super::transfer::{destination, require_input};
use super::{Config, Place, Wanted, failed, familiar, find, find_leased, look, name_with_tag, one_platform};
use crate::build::call::table;
use crate::build::host_platform;
use crate::cli::{container, with_store};
use crate::containers::engine::Engine;
use crate::error::{Failure, Kind};
use crate::exporter::{self, Artifact, store as store_exporter, tar};
use crate::images::ImagesError;
use crate::images::changes;
use crate::images::difference::Differences;
use crate::images::import::{self, import as import_tar};
use crate::images::layers::{Tree, tree as layers_of, users};
use crate::images::stored::StoredImage;
use crate::progress::{bytes, print_result, printable};
use crate::registry::Transfer as Moved;
use crate::source::ImageSources;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    /// A tar of a root file system, plain or compressed; `-` is standard input
    file: PathBuf,
    /// Name of the image
    name: Option<String>,
    /// An instruction that sets something of the image: `CMD ["/bin/sh"]`; may be given several times
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// What the files are for [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// A container, or an image: a name, a digest, or at least four digits of a digest
    image: String,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image for this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The container, or the first image
    first: String,
    /// The second image
    second: Option<String>,
    /// The images for this platform of indexes [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TreeArgs {
    /// The image: a name, a digest, or at least four digits of a digest
    image: String,
    /// The image for this platform of an index [default: all of them]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show instructions in full
    #[arg(long)]
    no_trunc: bool,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    Text,
    Json,
}

pub(super) fn import(args: &ImportArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let name = args.name.as_deref().map(name_with_tag).transpose()?;
    let platform = one_platform(args.platform.as_deref())?.unwrap_or_else(host_platform);
    let text = args.file.to_string_lossy();
    if text.starts_with("http://") || text.starts_with("https://") {
        let message = format!("`{text}` is a URL; only files and standard input are imported");
        return Err(Failure::new(Kind::Usage, message).hint("`curl URL | wharf import - NAME` does it"));
    }
    let set = changes::apply(&args.change, &platform).map_err(|error| failed("cannot import", error))?;
    let path = Some(args.file.as_path()).filter(|path| *path != Path::new("-"));
    require_input(path)?;
    let id = Session::run(wanted, config, args.quiet, |session| {
        session.step(&format!("importing {text}"), |_| {
            let message = args.message.clone();
            let wanted = import::Wanted { config: set, platform, message, source_date_epoch: None };
            let image = import_tar(session.store, path, wanted, &session.cancel)?;
            let id = image.config_descriptor.digest;
            let names: Vec<String> = name.iter().map(ToString::to_string).collect();
            store_exporter::put(session.store, &Artifact::image(image), &names, SystemTime::now())?;
            Ok(id)
        })
    })?;
    print_result(&id.to_string())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn export(args: &ExportArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let platform = one_platform(args.platform.as_deref())?;
    let dest = destination(args.output.as_deref())?;
    Session::run(wanted, config, args.quiet, |session| {
        let engine = Engine::new(session.store, session.sandbox, None);
        let is_image = args.platform.is_some();
        if !is_image && container::export(&engine, &args.image, args.output.as_deref(), &session.cancel)? {
            return Ok(());
        }
        let image = find_leased(session.store, &args.image).map_err(|failure| match failure.kind {
            Kind::Usage if !is_image => container::neither(&args.image),
            _ => failure,
        })?;
        let of_platform = image_of(session, &image, &args.image, platform.as_ref())?;
        session.step(&format!("exporting {}", args.image), |progress| {
            let root = files(session, &image, &of_platform, progress)?;
            let ids = session.store.setup().ids;
            let files = exporter::Tree { root, platform: String::new(), below: None };
            Ok(dest.write(&session.cancel, |out| tar::write(&[files], ids, None, out))?)
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

fn image_of(
    session: &Session<'_>,
    image: &Image,
    name: &str,
    platform: Option<&Platform>,
) -> Result<StoredImage, Failure> {
    the_image(&look(session.store, image)?, name, platform).cloned()
}

/// The files of an image, for reading.
fn files(
    session: &Session<'_>,
    image: &Image,
    of_platform: &StoredImage,
    progress: &(dyn Fn(Moved) + Sync),
) -> Result<OwnedFd, ImagesError> {
    let images = ImageSources::new(session.store.clone(), Arc::clone(&session.registry))
        .cancelled_by(session.cancel.clone());
    // An image without a name is nowhere but here; what it is called does not matter then.
    let name = image.name.as_deref().unwrap_or("localhost/image:latest");
    let identifier = format!("docker-image://{name}@{}", of_platform.descriptor.digest);
    let chain = images.pull(&identifier, progress)?;
    Ok(session.store.view(&chain)?)
}

pub(super) fn diff(args: &DiffArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let Some(second) = &args.second else { return container::diff(&args.first, wanted, config) };
    let platform = one_platform(args.platform.as_deref())?;
    let found = Session::run(wanted, config, true, |session| {
        let images = [&args.first, second].map(|name| {
            let image = find_leased(session.store, name)?;
            let of_platform = image_of(session, &image, name, platform.as_ref())?;
            Ok((image, of_platform))
        });
        let [first, second] = images;
        let (first, second): ((Image, StoredImage), (Image, StoredImage)) = (first?, second?);
        let mut found = Differences::of(&first.1, &second.1);
        if !found.has_same_layers() {
            session.step("comparing the files", |progress| {
                let a = files(session, &first.0, &first.1, progress)?;
                let b = files(session, &second.0, &second.1, progress)?;
                let ids = session.store.setup().ids;
                Ok(differences(a.as_fd(), b.as_fd(), ids, &mut |difference| found.add(&difference))?)
            })?;
        }
        Ok(found)
    })?;
    match args.format {
        Form::Json => print_json(&found)?,
        Form::Text if found.is_empty() => {}
        Form::Text => print_result(differences_text(&found).trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot write JSON", &error))?;
    print_result(&json)
}

/// `-` is what only the first has, `+` the second, `~` what is other.
fn differences_text(found: &Differences) -> String {
    let mut text = String::new();
    let mut section = |title: String, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {}\n", printable(line))));
        }
    };
    let layers = found.layers.first.iter().map(|layer| format!("- {layer}"));
    let layers = layers.chain(found.layers.second.iter().map(|layer| format!("+ {layer}"))).collect();
    section(format!("layers ({} shared)", found.shared_layers), layers);
    let fields = found.config.iter().flat_map(|field| {
        let line = |sign: char, value: &serde_json::Value| {
            (!value.is_null()).then(|| format!("{sign} {}: {value}", field.path))
        };
        [line('-', &field.values.first), line('+', &field.values.second)]
    });
    section("config".to_owned(), fields.flatten().collect());
    let files = found.files.iter().map(|file| match file.kind {
        "added" => format!("+ {}{}", file.path, size_text(file.size.second)),
        "removed" => format!("- {}{}", file.path, size_text(file.size.first)),
        _ => format!("~ {} ({})", file.path, file.changed.join(", ")),
    });
    section("files".to_owned(), files.collect());
    text
}

fn size_text(size: Option<u64>) -> String {
    size.map_or_else(String::new, |size| format!(" ({})", bytes(size)))
}

pub(super) fn tree(args: &TreeArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let platform = one_platform(args.platform.as_deref())?;
    with_store(&Place::enter(wanted)?, |store| {
        let image = find(store, &args.image)?;
        let stored = look(store, &image)?;
        let users = users(store).map_err(|error| failed("cannot list the images", error))?;
        let trees: Vec<Tree> = match &platform {
            Some(platform) => {
                vec![layers_of(the_image(&stored, &args.image, Some(platform))?, &image.digest, &users)]
            }
            None => stored.images.iter().map(|it| layers_of(it, &image.digest, &users)).collect(),
        };
        match args.format {
            Form::Json => print_json(&trees),
            Form::Text => {
                let texts: Vec<String> = trees.iter().map(|tree| tree_text(tree, args.no_trunc)).collect();
                print_result(texts.join("\n").trim_end())
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn tree_text(tree: &Tree, no_trunc: bool) -> String {
    let mut rows = Vec::new();
    let instruction = |text: &str| {
        let text = text.replace(char::is_control, " ");
        if no_trunc { text } else { clip(&text) }
    };
    for (number, layer) in tree.layers.iter().enumerate() {
        let is_last = number + 1 == tree.layers.len();
        let (branch, below) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
        let shared = match layer.shared_with.as_slice() {
            [] => String::new(),
            names => format!(
                "shared with {}",
                names.iter().map(|name| familiar(name)).collect::<Vec<_>>().join(", ")
            ),
        };
        let id = layer.digest.hex()[..12].to_owned();
        rows.push(vec![format!("{branch} {id}"), bytes(layer.size), instruction(&layer.created_by), shared]);
        rows.extend(
            layer
                .metadata
                .iter()
                .map(|text| vec![format!("{below}"), String::new(), instruction(text), String::new()]),
        );
    }
    let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    let (digest, platform) = (&tree.digest, &tree.platform);
    let (size, unique) = (bytes(tree.size), bytes(tree.unique_size));
    format!("{digest} {platform}: {size}, {unique} of it in no other image\n{}", table(&rows, 2))
}
