//! Layer tar ↔ snapshot. `apply` unpacks a layer into a snapshot, `compare` writes a snapshot as a layer.

mod apply;
mod archive;
mod check;
mod compare;
mod complete;
mod compress;
mod container;
mod copy_up;
mod copying;
mod decompress;
mod estargz;
mod layers;
pub(crate) mod members;
mod mount;
pub(crate) mod normal;
mod root;
mod sparse;
mod tar_header;
mod tar_reader;
mod tar_writer;
mod trees;
mod unpack;
mod whiteout;

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::SystemTime;

use crate::snapshot::{Layer, SnapshotError, SnapshotId};
use crate::walk::{self, FileKind, Walk};
use crate::{Chain, ChainId, DiffId, Digest, Ids, Store, StoreError};
use compress::{LIBDEFLATE_VERSION, LayerSink};
use members::Members;
use tar_writer::{PIECES_VERSION, TarWriter, WriteSink};

/// How layer blobs are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip in independent members, the same bytes whatever the number of threads.
    Gzip {
        /// From 0 to 9; `None` is the usual one.
        level: Option<u8>,
    },
    /// gzip with a table of contents, so that a file can be read without the rest of the layer.
    Estargz {
        /// As of gzip.
        level: Option<u8>,
    },
    /// zstd in independent frames, the same bytes whatever the number of threads.
    Zstd {
        /// From 1 to 22; `None` is the usual one.
        level: Option<u8>,
    },
    /// Plain tar.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: None }
    }
}

/// What a layer's bytes depend on besides the snapshot: the row key under which the layer is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Variant {
    /// Compression of the blob.
    pub compression: Compression,
    /// Times later than this (seconds since the epoch) are set to it: `SOURCE_DATE_EPOCH`.
    pub clamp_time_s: Option<u64>,
}

impl Variant {
    /// The row key, for example `gzip-4.libdeflate-1.26.pieces-2` or `none@1700000000`: compression, level, what compresses,
    /// with its version, and how the tar is cut, because others make other bytes. A snapshot that was unpacked from a pulled layer remembers that
    /// layer as [`Self::PULLED`], whatever its compression.
    pub fn key(&self) -> String {
        let compressor = self.compressor();
        match self.clamp_time_s {
            Some(seconds) => format!("{compressor}@{seconds}"),
            None => compressor,
        }
    }

    /// What of the key is about bytes alone: `gzip-4.libdeflate-1.26.pieces-2`.
    pub fn compressor(&self) -> String {
        let member = self.member();
        match self.compression {
            Compression::Gzip { .. } | Compression::Zstd { .. } => {
                format!("{member}.pieces-{PIECES_VERSION}")
            }
            // Its members are the files.
            Compression::Estargz { .. } => member.replacen("gzip", "estargz", 1),
            Compression::None => member,
        }
    }

    /// What the bytes of a member depend on besides what it holds: `gzip-4.libdeflate-1.26`.
    fn member(&self) -> String {
        let level = |level: Option<u8>, usual: i32| level.map_or(usual, i32::from);
        match self.compression {
            Compression::Gzip { level: given } | Compression::Estargz { level: given } => {
                format!("gzip-{}.libdeflate-{LIBDEFLATE_VERSION}", level(given, compress::GZIP_LEVEL))
            }
            Compression::Zstd { level: given } => {
                let version = zstd::zstd_safe::version_string();
                format!("zstd-{}.libzstd-{version}", level(given, compress::ZSTD_LEVEL))
            }
            Compression::None => "none".to_owned(),
        }
    }

    /// Whether `text` can be the key of a row.
    pub fn is_key(text: &str) -> bool {
        let (compression, seconds) = text.split_once('@').map_or((text, None), |(name, at)| (name, Some(at)));
        let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
        let is_name = |name: &str| {
            name.len() <= 48
                && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        };
        !compression.is_empty() && is_name(compression) && seconds.is_none_or(is_number)
    }

    /// The compression that a key names.
    pub fn compression_of_key(key: &str) -> Option<Compression> {
        let name = key.split(['.', '@']).next()?;
        let (name, level) = name.split_once('-').map_or((name, None), |(name, level)| (name, Some(level)));
        let level = level.map(str::parse).transpose().ok()?;
        match name {
            "gzip" => Some(Compression::Gzip { level }),
            "estargz" => Some(Compression::Estargz { level }),
            "zstd" => Some(Compression::Zstd { level }),
            "none" => Some(Compression::None),
            _ => None,
        }
    }

    /// Row key of a layer that came from a registry or a layout.
    pub const PULLED: &'static str = "pulled";
}

/// Media types of the layers made here (OCI image-spec, layer.md).
const MEDIA_TYPE_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const MEDIA_TYPE_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MEDIA_TYPE_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Makes the layer blob of the topmost snapshot of `chain` (or finds the one made before): changed entries of the
/// snapshot compared with what lies below, as a deterministic tar, hashed, compressed on all cores, stored as a blob
/// and remembered by `set_layer`. `parent` is the chain id of the layers below. Memory stays bounded.
///
/// A snapshot that was unpacked from a layer whose blob is here gives that very layer, whatever `variant` says.
pub fn make_layer(
    store: &Store,
    chain: &Chain,
    parent: Option<ChainId>,
    variant: Variant,
) -> Result<Layer, DiffError> {
    if let Some(top) = chain.0.last() {
        for key in [Variant::PULLED, &variant.key()] {
            if let Some(layer) = made_layers(store, &[*top], key)?.pop().flatten() {
                return Ok(layer);
            }
        }
    }
    // Not before it is wanted: it is found out from a dozen files.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    make_layer_with(store, chain, parent, variant, threads)
}

/// The same in `variant` and no other, also of a snapshot that was unpacked from a layer.
pub fn remake_layer(
    store: &Store,
    chain: &Chain,
    parent: Option<ChainId>,
    variant: Variant,
) -> Result<Layer, DiffError> {
    if let Some(top) = chain.0.last()
        && let Some(layer) = made_layers(store, &[*top], &variant.key())?.pop().flatten()
    {
        return Ok(layer);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    make_layer_with(store, chain, parent, variant, threads)
}

/// The layers of `snapshots` in the variant with this key ([`Variant::key`]), as far as they were made before and their
/// blobs are here.
pub fn made_layers(
    store: &Store,
    snapshots: &[SnapshotId],
    variant_key: &str,
) -> Result<Vec<Option<Layer>>, DiffError> {
    let mut layers = store.layers(snapshots, variant_key)?;
    for found in &mut layers {
        if let Some(layer) = found
            && store.blobs().size(&layer.digest)? != Some(layer.size)
        {
            *found = None;
        }
    }
    Ok(layers)
}

fn make_layer_with(
    store: &Store,
    chain: &Chain,
    parent: Option<ChainId>,
    variant: Variant,
    threads: usize,
) -> Result<Layer, DiffError> {
    let Some((&top, below)) = chain.0.split_last() else {
        let name = "on top of scratch".to_owned();
        return Err(StoreError::Missing { kind: "snapshot", name }.into());
    };
    let below = Chain(below.to_vec());
    store.verify_snapshot(top, &below)?;
    let object = format!("snapshot {top}");
    let members = Members::new(store, &variant.member());
    let sink = LayerSink::new(store.blobs().writer()?, variant.compression, members, threads, object.clone());
    let mut tar = TarWriter::new(sink, variant.clamp_time_s, object);
    if matches!(variant.compression, Compression::Estargz { .. }) {
        tar.made_up(estargz::LANDMARK_NAME, estargz::LANDMARK)?;
    }
    let tar = compare::write_changes(store, top, below, tar)?;
    let (sink, last) = tar.finish()?;
    let compress::Compressed { diff_id, digest, size, annotations, members } = sink.finish(last)?;
    let media_type = match variant.compression {
        Compression::Gzip { .. } | Compression::Estargz { .. } => MEDIA_TYPE_GZIP,
        Compression::Zstd { .. } => MEDIA_TYPE_ZSTD,
        Compression::None => MEDIA_TYPE_TAR,
    };
    let layer = Layer { diff_id, digest, size, media_type: media_type.to_owned(), annotations };
    store.set_made_layer(top, &variant.key(), ChainId::extend(parent, diff_id), &layer, &members)?;
    Ok(layer)
}

/// Whole file systems, written as one plain tar: the `tar` exporter. Deterministic; no whiteouts.
#[derive(Debug)]
pub struct TreeWriter<'a> {
    tar: TarWriter<WriteSink<'a>>,
}

impl<'a> TreeWriter<'a> {
    /// Will write to `out`. Times later than `clamp_time_s` are set to it.
    pub fn new(out: &'a mut dyn std::io::Write, clamp_time_s: Option<u64>) -> Self {
        Self { tar: TarWriter::new(WriteSink(out), clamp_time_s, OBJECT.to_owned()) }
    }

    /// Writes the file system of `root` (a view), below `directory` if there is one. `is_wanted` is asked about every path,
    /// and told whether it is a directory.
    pub fn add(
        &mut self,
        root: std::os::fd::BorrowedFd<'_>,
        ids: Ids,
        directory: Option<&str>,
        is_wanted: &mut dyn FnMut(&OsStr, bool) -> bool,
    ) -> Result<(), DiffError> {
        let failed = |source| DiffError::Read { object: OBJECT.to_owned(), source };
        let below = directory.map_or_else(String::new, |directory| format!("{directory}/"));
        self.tar.begin_tree(below.as_bytes());
        if directory.is_some() {
            // A view may be a descriptor that only names the directory.
            let root = walk::open_dir_at(root, OsStr::new(".")).map_err(failed)?;
            let stat = ids.stat_of(root.as_fd()).map_err(failed)?;
            let xattrs = walk::xattrs_of(root.as_fd()).map_err(failed)?;
            self.tar.dir(OsStr::new(""), &stat, &xattrs)?;
        }
        for visited in Walk::new(root, ids).map_err(failed)? {
            let visited = visited.map_err(failed)?;
            let stat = &visited.entry.stat;
            // A view of a single snapshot may show the marks that hide nothing.
            if !stat.is_whiteout() && is_wanted(&visited.path, stat.kind == FileKind::Dir) {
                self.tar.visited(&visited)?;
            }
        }
        Ok(())
    }

    /// Writes the end.
    pub fn finish(self) -> Result<(), DiffError> {
        let (mut sink, last) = self.tar.finish()?;
        sink.write(&last)
    }
}

/// What the tar is of, for messages.
const OBJECT: &str = "the file system";

/// Writes the whole file system of `root` as one tar.
#[cfg(test)]
fn write_tree(
    root: std::os::fd::BorrowedFd<'_>,
    ids: Ids,
    clamp_time_s: Option<u64>,
    out: &mut dyn std::io::Write,
) -> Result<(), DiffError> {
    let mut tree = TreeWriter::new(out, clamp_time_s);
    tree.add(root, ids, None, &mut |_, _| true)?;
    tree.finish()
}

pub use container::{Change, IsHidden, commit_container, container_changes};
pub use copying::{Copied, Copying, Original, Owners, copy, unpack_stream, write_copy};
pub use decompress::Format as StreamCompression;
pub use estargz::BLOB_ANNOTATIONS;
pub use layers::{EntryChange, EntryDifference, ReadableLayer, layer_differences};
pub use trees::{Difference, Kind as DifferenceKind, differences};

pub(crate) use compare::Lower;
pub(crate) use copy_up::{copy_file, set_dir, set_dir_time, set_time_at};
pub(crate) use mount::{empty_dir, extract_mount, write_mount};
pub(crate) use root::open_dir_below;
pub(crate) use whiteout::{OPAQUE_XATTR, make_whiteout};

/// What is to be unpacked: the descriptor of a layer and the diffID that the image config promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// OCI or Docker media type: says the compression.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
}

/// Whether a layer's blob has the compression and the diffID that are said of it; its digest and size are the caller's to
/// check. Reads it to its end and unpacks nothing.
pub fn check_layer(source: &LayerSource, blob: impl std::io::Read) -> Result<(), DiffError> {
    check::check_layer(source, blob)
}

/// Unpacks an image's layers, in parallel, each straight into its own snapshot; the layers that are already here
/// (by chain id) are left as they are. `open` gives the compressed bytes of a layer that is not yet a blob of the store
/// (a download); they are stored as a blob, digested, decompressed, digested again and unpacked in one pass.
/// Entries that need what lies below (hard links into a lower layer, directories a layer only implies) are
/// completed afterwards in order. Returns the whole chain.
///
/// Hostile input: every path goes through the snapshot's fd and cannot leave it; sizes, counts and path lengths have
/// limits.
pub fn apply_layers(
    store: &Store,
    layers: &[LayerSource],
    created: SystemTime,
    open: &(dyn Fn(usize) -> std::io::Result<Box<dyn Read + Send>> + Sync),
) -> Result<Chain, DiffError> {
    apply::apply_layers(store, layers, created, open)
}

/// Brings the files of the lazy snapshots of `chain` ([`crate::snapshot::LazyLayer`]), several at once: their layers are
/// blobs of the store, or come from `open` and become some. What has another digest, diffID or content than it was
/// described with is refused, and the snapshot stays lazy.
pub fn fill(
    store: &Store,
    chain: &Chain,
    open: &(dyn Fn(&LayerSource) -> std::io::Result<Box<dyn Read + Send>> + Sync),
) -> Result<(), DiffError> {
    apply::fill(store, chain, open)
}

/// Whether a file is an archive that [`extract_archive`] unpacks.
pub fn is_archive(archive: &mut std::fs::File) -> Result<bool, DiffError> {
    archive::is_archive(archive)
}

/// How much of a stream [`may_be_archive`] wants to see.
pub const ARCHIVE_START_BYTES: usize = tar_header::BLOCK_BYTES;

/// Whether a stream that begins like this may be such an archive: what is compressed may be one.
pub fn may_be_archive(start: &[u8]) -> bool {
    archive::may_begin_with(start)
}

/// Unpacks a local archive (plain, gzip, bzip2, xz or zstd tar, told by content) below `dest` (a directory fd inside
/// a root) the way `ADD` does: entries owned by `owner`, those of existing directories change these, `dest`
/// itself stays as it is, names that begin with `.wh.` are names like others. Symlinks on the way are followed with `dest` as their root, so nothing
/// leaves `dest`. Returns `false`, having written nothing, when `archive` is not such an archive.
pub fn extract_archive(
    archive: &mut std::fs::File,
    dest: std::os::fd::BorrowedFd<'_>,
    ids: Ids,
    owner: (u32, u32),
) -> Result<bool, DiffError> {
    archive::extract(archive, dest, ids, owner)
}

/// Whether a stream that begins like this is compressed in a way known here; [`COMPRESSION_START_BYTES`] are enough to tell.
pub fn compression_of(start: &[u8]) -> StreamCompression {
    decompress::Format::detect(start)
}

/// How much of a stream [`compression_of`] wants to see.
pub const COMPRESSION_START_BYTES: usize = decompress::Format::MAGIC_BYTES;

/// What `input` (plain, gzip, bzip2, xz or zstd, told by its first bytes) unpacks to, in bounded memory. Not to be trusted: a
/// small stream may unpack to a large one, up to a limit far beyond anything real.
pub fn decoded<'a>(input: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let (start, stream) = decompress::peek(input)?;
    decompress::Format::detect(&start).decoder(stream)
}

/// The time of the newest file of a local archive, seconds since 1970; `None` when `archive` is none, not to its end, or
/// has no files.
pub fn newest_file(archive: &mut std::fs::File) -> Result<Option<i64>, DiffError> {
    archive::newest(archive)
}

/// Why a layer could not be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DiffError {
    /// The layer is not what its descriptor or config says.
    #[error("layer {layer} has {what} {actual}, expected {expected}")]
    Mismatch { layer: Digest, what: &'static str, expected: String, actual: String },
    /// An entry breaks a rule (leaves the root, too long, too many …).
    #[error("entry `{path}` of {object}: {reason}")]
    Entry { object: String, path: String, reason: String },
    /// The bytes are not a tar, or not compressed as announced.
    #[error("cannot read {object}")]
    Read { object: String, source: std::io::Error },
    /// Writing failed (a full disk, for example).
    #[error("cannot {operation} `{path}` for {object}")]
    Write { operation: &'static str, path: String, object: String, source: std::io::Error },
    /// A blob could not be stored.
    #[error("{0}")]
    Content(#[from] crate::content::ContentError),
    /// A snapshot could not be made.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The database refused.
    #[error("{0}")]
    Store(#[from] crate::StoreError),
}

// The same tests for each way of stacking: they look at the name of their module.
#[cfg(test)]
#[path = "tests/mod.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests for each way of stacking")]
mod copy_tests;
#[cfg(test)]
#[path = "tests/mod.rs"]
mod overlay_tests;
