//! What somebody finds who opens a store; and whether it holds together.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rusqlite::Connection;
use wharf_cache::{ContentDigest, Digest, Ids, SnapshotId, Store, contenthash};

use crate::scenarios::KEYS;

/// Opens the store, checks what must always be so, and describes what is in it, leaving out what nobody can name.
pub(crate) fn observe(root: &Path) -> Result<String, String> {
    look(root).map_err(|error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    })
}

fn look(root: &Path) -> Result<String, Box<dyn Error>> {
    let store = Store::open(root)?;
    let mut text = String::new();
    let images = store.images()?;
    for image in &images {
        writeln!(text, "image {:?} {}", image.name, image.digest)?;
        store.blobs().read(&image.digest, 1 << 20)?;
    }
    let index: serde_json::Value = serde_json::from_slice(&fs::read(root.join("index.json"))?)?;
    let listed = index["manifests"].as_array().ok_or("index.json has no manifests")?;
    let listed: BTreeSet<_> =
        listed.iter().filter_map(|it| it["digest"].as_str().map(str::to_owned)).collect();
    let named: BTreeSet<_> = images.iter().map(|image| image.digest.to_string()).collect();
    require(listed == named, format!("index.json lists {listed:?}, the images are {named:?}"))?;
    for (number, key) in KEYS.iter().enumerate() {
        let Some(record) = store.record(key)? else { continue };
        for id in record.outputs.iter().flat_map(|chain| &chain.0) {
            let snapshot = root.join(format!("snapshots/{id}"));
            let file = fs::read_to_string(snapshot.join("fs/file"))?;
            let names = fs::metadata(snapshot.join("fs/file"))?.nlink();
            require(names == 1 || snapshot.join("files").exists(), format!("{id} shares without a list"))?;
            writeln!(text, "record {number}: {file}, {names} names")?;
        }
    }
    snapshots(root, &mut text)?;
    for entry in fs::read_dir(root.join("blobs/sha256"))? {
        let digest: Digest = format!("sha256:{}", entry?.file_name().to_string_lossy()).parse()?;
        store.blobs().read(&digest, 1 << 20)?;
    }
    let mut logs = 0;
    for build in store.builds(None, 9)? {
        let log = store.step_log(build.id, &KEYS[0])?.ok_or("a build has lost its log")?;
        writeln!(text, "build of {:?}: {}", build.duration, log.count())?;
        logs += 1;
    }
    let directories = fs::read_dir(root.join("history"))?
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()));
    require(directories.count() == logs, format!("{logs} builds have other logs"))?;
    mounts(root, &mut text)?;
    let damages = store.take_damages();
    require(damages.len() <= usize::from(root.join("state.db.damaged").exists()), format!("{damages:?}"))?;
    drop(store);
    for dir in ["tmp", "locks"] {
        let left = fs::read_dir(root.join(dir))?.count();
        // A lock file that nobody holds is harmless.
        require(left == 0 || dir == "locks" && left == 1, format!("{left} entries in {dir}"))?;
    }
    Ok(text)
}

/// Rows and directories are the same, and the files those that were hashed.
fn snapshots(root: &Path, text: &mut String) -> Result<(), Box<dyn Error>> {
    let database = Connection::open(root.join("state.db"))?;
    let sound: String = database.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    require(sound == "ok", sound)?;
    let mut select = database.prepare("SELECT id, content FROM snapshots")?;
    let rows: Vec<(i64, [u8; 32])> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut files = Vec::new();
    for (id, content) in &rows {
        let dir = root.join(format!("snapshots/{}/fs", SnapshotId(id.cast_unsigned())));
        let (found, _) = contenthash::hash_tree(fs::File::open(&dir)?.as_fd(), Ids::Kernel)?;
        require(found == ContentDigest(*content), format!("{} is not what its row says", dir.display()))?;
        files.push(fs::read_to_string(dir.join("file"))?);
    }
    let directories = fs::read_dir(root.join("snapshots"))?.count();
    require(directories == rows.len(), format!("{directories} directories and {} rows", rows.len()))?;
    files.sort();
    writeln!(text, "snapshots {files:?}")?;
    for table in ["layers", "pins", "files"] {
        let count: i64 =
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        writeln!(text, "{count} {table}")?;
    }
    Ok(())
}

/// A cache that can be seen is whole.
fn mounts(root: &Path, text: &mut String) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(root.join("mounts"))? {
        let path = entry?.path();
        let id = fs::read_to_string(path.join("id"))?;
        writeln!(text, "cache {id} {}", path.join("fs/seed").exists())?;
    }
    Ok(())
}

fn require(holds: bool, why: String) -> Result<(), Box<dyn Error>> {
    if holds { Ok(()) } else { Err(why.into()) }
}
