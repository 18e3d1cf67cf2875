//! A root file system in a tar becomes an image of one layer.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wharf_cache::diff::{
    COMPRESSION_START_BYTES, LayerSource, StreamCompression, Variant, apply_layers, compression_of,
    remake_layer,
};
use wharf_cache::snapshot::Layer;
use wharf_cache::{DiffId, Digest, Store};
use wharf_frontend::image::{ContainerConfig, History, ImageConfig};
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::ImagesError;
use super::archive::Growth;
use crate::context::open_at_once;
use crate::exporter::{Built, BuiltImage, assemble};

/// The tar is read in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// The media type of the stream that a tar is unpacked from, which is not compressed any more.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// What the image is to be like.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) config: ContainerConfig,
    pub(crate) platform: Platform,
    pub(crate) message: String,
    /// No time is later.
    pub(crate) source_date_epoch: Option<u64>,
}

/// Makes an image of the tar at `path`, or on standard input. The tar is hostile: it is unpacked as a layer is, and what is
/// in the image is a layer made of its files.
pub(crate) fn import(
    store: &Store,
    path: Option<&Path>,
    wanted: Wanted,
    cancel: &Cancel,
) -> Result<BuiltImage, ImagesError> {
    let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let source = store_tar(store, path, &name, cancel)?;
    let now = SystemTime::now();
    // It is in the store already.
    let open = |_| Err(std::io::Error::other("the tar is no longer in the store"));
    let chain = apply_layers(store, std::slice::from_ref(&source), now, &open)?;
    let variant = Variant { clamp_time_s: wanted.source_date_epoch, ..Variant::default() };
    let layer: Layer = remake_layer(store, &chain, None, variant)?;
    let comment = match wanted.message.is_empty() {
        true => format!("Imported from {}", path.map_or_else(|| "-".to_owned(), |_| name)),
        false => wanted.message,
    };
    let config = ImageConfig {
        config: wanted.config,
        history: vec![History { comment, ..History::default() }],
        ..ImageConfig::default()
    };
    Ok(assemble(
        &Built {
            config,
            base_history: 0,
            base_layers: Vec::new(),
            layers: vec![(layer, now)],
            source_date_epoch: wanted.source_date_epoch,
            platform: wanted.platform,
            inline_cache: None,
            form: crate::exporter::form::ImageForm::default(),
        },
        now,
    ))
}

/// Puts the tar itself into the store, unpacked.
fn store_tar(
    store: &Store,
    path: Option<&Path>,
    name: &str,
    cancel: &Cancel,
) -> Result<LayerSource, ImagesError> {
    let opened = match path {
        Some(path) => match open_at_once(path) {
            Ok((_, metadata)) if metadata.is_dir() => {
                let reason = "is a directory".to_owned();
                return Err(ImagesError::Bundle { bundle: name.to_owned(), reason });
            }
            Ok((file, metadata)) if metadata.is_file() => Ok(file),
            Ok(_) => std::fs::File::open(path),
            Err(error) => Err(error),
        },
        None => {
            rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0).map(Into::into).map_err(Into::into)
        }
    };
    let file = opened.map_err(ImagesError::io("open", name))?;
    let (mut tar, mut growth) = Growth::of(file, name, store, cancel)?;
    let mut writer = store.blobs().writer()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut start = Vec::new();
    loop {
        let count = growth.read(&mut tar, &mut buffer)?;
        if count == 0 {
            break;
        }
        if start.len() < COMPRESSION_START_BYTES {
            start.extend_from_slice(&buffer[..count.min(COMPRESSION_START_BYTES)]);
        }
        hasher.update(&buffer[..count]);
        writer.write_all(&buffer[..count]).map_err(ImagesError::io("write", "a blob of the store"))?;
    }
    if start.is_empty() || compression_of(&start) != StreamCompression::Plain {
        let reason = if start.is_empty() { "is empty" } else { "is compressed twice" };
        return Err(ImagesError::Bundle { bundle: name.to_owned(), reason: reason.to_owned() });
    }
    let (digest, size) = writer.commit()?;
    let diff_id = DiffId(Digest::from_bytes(hasher.finalize().into()));
    Ok(LayerSource { digest, size, media_type: TAR.to_owned(), diff_id })
}
