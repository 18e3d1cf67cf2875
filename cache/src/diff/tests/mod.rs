//! Layers made and unpacked again: against overlayfs, against hostile bytes, and against themselves.

mod archive;
mod hostile;
mod layers;
mod lazy;
mod pieces;
mod roundtrip;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::tar_header::{Header, TypeFlag, pad};
use super::*;
use crate::contenthash::is_opaque;
use crate::scratch::Scratch;
use crate::walk::{self, FileKind};
use crate::{Setup, Stacking};

/// This module is there once for each.
fn stacking() -> Stacking {
    if module_path!().contains("copy_tests") { Stacking::Copy } else { Stacking::Overlay }
}

/// A store of its own.
struct World {
    store: Store,
    _scratch: Scratch,
}

impl World {
    fn new() -> Self {
        Self::with(Ids::Kernel)
    }

    /// One where files belong to users in this way.
    fn with(ids: Ids) -> Self {
        let scratch = Scratch::new();
        let setup = Setup { ids, stacking: stacking() };
        Self { store: Store::open_with(&scratch.path("store"), setup).unwrap(), _scratch: scratch }
    }

    /// A snapshot on top of `chain` with what `change` does to the merged root.
    fn step(&self, chain: &Chain, change: impl FnOnce(PathBuf)) -> Chain {
        let mut active = self.store.prepare(chain).unwrap();
        change(proc_path(active.root().unwrap()));
        chain.with(active.commit(SystemTime::UNIX_EPOCH).unwrap().id)
    }

    /// Unpacks layers that come compressed from somewhere.
    fn apply(&self, blobs: &[Blob]) -> Result<Chain, DiffError> {
        let sources: Vec<_> = blobs.iter().map(|blob| blob.source.clone()).collect();
        apply_layers(&self.store, &sources, SystemTime::UNIX_EPOCH, &|index| {
            Ok(Box::new(std::io::Cursor::new(blobs[index].bytes.clone())))
        })
    }

    /// The files of a chain, a line each.
    fn dump(&self, chain: &Chain) -> String {
        dump(self.store.view(chain).unwrap().as_fd(), self.store.setup().ids)
    }

    /// The entries of a layer, a line each.
    fn list(&self, layer: &Layer) -> String {
        let mut tar = Vec::new();
        let blob = self.store.blobs().read(&layer.digest, 1 << 30).unwrap();
        flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
        list(&tar)
    }

    fn snapshots(&self) -> usize {
        std::fs::read_dir(self.store.root().join("snapshots")).unwrap().count()
    }

    fn blobs(&self) -> usize {
        std::fs::read_dir(self.store.root().join("blobs/sha256")).unwrap().count()
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A layer as it comes from a registry.
#[derive(Clone)]
struct Blob {
    source: LayerSource,
    bytes: Vec<u8>,
}

impl Blob {
    fn gzip(tar: &[u8]) -> Self {
        let mut encoder = flate2::read::GzEncoder::new(tar, flate2::Compression::fast());
        let mut bytes = Vec::new();
        encoder.read_to_end(&mut bytes).unwrap();
        Self::new(tar, bytes, "application/vnd.oci.image.layer.v1.tar+gzip")
    }

    fn new(tar: &[u8], bytes: Vec<u8>, media_type: &str) -> Self {
        let source = LayerSource {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            media_type: media_type.to_owned(),
            diff_id: DiffId(Digest::of(tar)),
        };
        Self { source, bytes }
    }

    /// The layer that was made in another store.
    fn of(world: &World, layer: &Layer) -> Self {
        let source = LayerSource {
            digest: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
            diff_id: layer.diff_id,
        };
        Self { source, bytes: world.store.blobs().read(&layer.digest, 1 << 30).unwrap() }
    }
}

/// An entry for a tar made by hand.
#[derive(Debug, Clone)]
struct Item {
    path: Vec<u8>,
    kind: TypeFlag,
    mode: u32,
    owner: (u32, u32),
    link: Vec<u8>,
    rdev: (u32, u32),
    data: Vec<u8>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

fn item(path: impl AsRef<[u8]>, kind: TypeFlag) -> Item {
    Item {
        path: path.as_ref().to_vec(),
        kind,
        mode: 0o644,
        owner: (0, 0),
        link: Vec::new(),
        rdev: (0, 0),
        data: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn file(path: impl AsRef<[u8]>, data: &str) -> Item {
    Item { data: data.as_bytes().to_vec(), ..item(path, TypeFlag::File) }
}

fn dir(path: impl AsRef<[u8]>, mode: u32) -> Item {
    Item { mode, ..item([path.as_ref(), b"/"].concat(), TypeFlag::Dir) }
}

fn symlink(path: impl AsRef<[u8]>, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(path, TypeFlag::Symlink) }
}

fn hard_link(path: impl AsRef<[u8]>, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(path, TypeFlag::HardLink) }
}

fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        Header {
            path: &item.path,
            kind: item.kind,
            mode: item.mode,
            uid: item.owner.0,
            gid: item.owner.1,
            size: item.data.len() as u64,
            mtime: (1000, 0),
            link: &item.link,
            rdev: item.rdev,
            xattrs: &item.xattrs,
        }
        .encode(&mut out);
        out.extend(&item.data);
        pad(&mut out, item.data.len() as u64);
    }
    out.extend([0; 1024]);
    out
}

/// The files below a directory: path, kind, mode, owner where not root's, content or target, attributes. Times of
/// files only, since directories' are not kept.
fn dump(root: BorrowedFd<'_>, ids: Ids) -> String {
    let mut out = String::new();
    let mut inodes = HashMap::new();
    for visited in Walk::new(root, ids).unwrap() {
        let visited = visited.unwrap();
        let (dir, name, stat) = (visited.dir.as_fd(), &visited.entry.name, visited.entry.stat);
        write!(out, "{} {:?} {:o}", visited.path.display(), stat.kind, stat.mode).unwrap();
        if (stat.uid, stat.gid) != (0, 0) {
            write!(out, " {}:{}", stat.uid, stat.gid).unwrap();
        }
        match stat.kind {
            FileKind::File => {
                let mut data = Vec::new();
                walk::open_file_at(dir, name).unwrap().read_to_end(&mut data).unwrap();
                write!(out, " {:?}", String::from_utf8_lossy(&data)).unwrap();
                if stat.nlink > 1 {
                    let first = inodes.entry(stat.ino).or_insert_with(|| visited.path.clone());
                    if *first != visited.path {
                        write!(out, " = {}", first.display()).unwrap();
                    }
                }
            }
            FileKind::Symlink => {
                write!(out, " -> {}", walk::readlink_at(dir, name).unwrap().display()).unwrap()
            }
            FileKind::CharDevice | FileKind::BlockDevice => write!(out, " {:?}", stat.rdev).unwrap(),
            _ => {}
        }
        let xattrs = walk::xattrs_at(dir, name).unwrap();
        if is_opaque(&xattrs) {
            out.push_str(" opaque");
        }
        for (name, value) in xattrs.iter().filter(|(name, _)| crate::contenthash::is_content_xattr(name)) {
            write!(out, " {}={:?}", name.display(), String::from_utf8_lossy(value)).unwrap();
        }
        out.push('\n');
    }
    out
}

/// The entries of a tar, a line each.
fn list(tar: &[u8]) -> String {
    let mut out = String::new();
    let mut reader = crate::diff::tar_reader::TarReader::new(tar);
    while let Some(entry) = reader.next().unwrap() {
        let path = OsString::from(std::ffi::OsStr::from_bytes(&entry.path));
        write!(out, "{} {:?} {:o} {}:{}", path.display(), entry.kind, entry.mode, entry.uid, entry.gid)
            .unwrap();
        if !entry.link.is_empty() {
            write!(out, " -> {}", String::from_utf8_lossy(&entry.link)).unwrap();
        }
        if entry.size > 0 {
            write!(out, " {} bytes", entry.size).unwrap();
        }
        for (name, value) in &entry.xattrs {
            write!(out, " {}={:?}", name.display(), String::from_utf8_lossy(value)).unwrap();
        }
        out.push('\n');
    }
    out
}

/// A directory outside any store.
fn open(path: &std::path::Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}
