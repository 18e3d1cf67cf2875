//! Removing an image and the blobs that nobody needs any more.
//!
//! A blob is *live* when an image or a pin reaches it (through indexes and manifests) or a layer row names it. One that
//! is not may still be wanted: a builder writes blobs first and the row that names them a moment later. So, by the time
//! a blob was last written or put (see `Blobs::put`):
//!
//! - what the removed image reached goes, unless somebody wrote it again after the image was recorded and less than
//!   an hour ago;
//! - everything else goes when it is a day old.
//!
//! What another living process has leased, and the images of containers, stay in any case.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension, Transaction};
use serde::Deserialize;

use super::Image;
use crate::content::ContentError;
use crate::diff::members;
use crate::gc::lease::Leased;
use crate::store::from_nanos;
use crate::{Digest, Store, StoreError};

/// Longer than a build takes from making a blob that was there before to naming it.
const REWRITTEN_AGE_MAX: Duration = Duration::from_secs(60 * 60);

/// Longer than anybody takes from writing a blob to naming it, downloads of large images included.
const UNNAMED_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Manifests and indexes larger than this are taken for leaves; registries refuse more than 4 MiB too.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

impl Store {
    /// Takes an image's entry away, then deletes the blobs that no other image, pin or layer row needs.
    /// Returns the digests of deleted blobs.
    ///
    /// The entry is gone before the first blob is, so that dying in between leaves blobs too many, not too few. They
    /// go a day later, with the next image.
    pub fn remove_image(&self, image: &Image) -> Result<Vec<Digest>, StoreError> {
        let doomed = self.reach([image.digest])?;
        let is_ahead = Cell::new(false);
        let removed = self.write("remove an image", |transaction| {
            let recorded = delete_row(transaction, image)
                .map_err(StoreError::database("remove an image"))?
                .ok_or_else(|| StoreError::Missing {
                kind: "image",
                name: image.name.clone().unwrap_or_else(|| image.digest.to_string()),
            })?;
            is_ahead.set(true);
            self.write_index(transaction)?;
            Ok::<_, StoreError>(recorded)
        });
        let recorded = removed.inspect_err(|_| self.mend_index(is_ahead.get()))?;
        let alone = self.collect_alone()?;
        let opening = self.keep_openers_off()?;
        // Held as a write transaction so that no row that names a blob can appear meanwhile.
        let deleted = self.write("delete blobs", |transaction| {
            let leased = self.leased_by_others(opening)?;
            self.sweep(transaction, &doomed, recorded, &leased)
        })?;
        drop(alone);
        // Nobody waits for the deletion of large files.
        deleted.iter().for_each(|(_, aside)| self.discard(aside));
        Ok(deleted.into_iter().map(|(digest, _)| digest).collect())
    }

    /// Moves the blobs that go into the process's directory; their names there.
    fn sweep(
        &self,
        transaction: &Transaction<'_>,
        doomed: &HashSet<Digest>,
        recorded: SystemTime,
        leased: &HashSet<Leased>,
    ) -> Result<Vec<(Digest, String)>, StoreError> {
        let failed = StoreError::database("list the blobs in use");
        let roots = digests(
            transaction,
            "SELECT digest FROM images UNION SELECT target FROM pins UNION SELECT manifest FROM pins",
        );
        let leaves = digests(transaction, "SELECT digest FROM layers UNION SELECT config FROM pins")
            .map_err(&failed)?;
        let kept = self.needed_by_containers()?.manifests;
        let roots = roots.map_err(&failed)?.into_iter().chain(leased_blobs(leased)).chain(kept);
        let live = self.reach(roots)?;
        let now = SystemTime::now();
        let rewritten_since = recorded.max(now - REWRITTEN_AGE_MAX);
        let unnamed_since = now - UNNAMED_AGE_MAX;
        let mut deleted = Vec::new();
        for digest in self.blobs().list()? {
            if live.contains(&digest) || leaves.contains(&digest) {
                continue;
            }
            let is_doomed = doomed.contains(&digest);
            let keep = |written| written > if is_doomed { rewritten_since } else { unnamed_since };
            deleted.extend(self.blobs().set_aside_unless(&digest, keep)?.map(|aside| (digest, aside)));
        }
        members::forget_lost(self, transaction)?;
        Ok(deleted)
    }

    /// What `roots` (manifests and indexes) reach, themselves included. A manifest that is not here, which is
    /// usual for the other platforms of an index, or not readable as one is taken for a leaf.
    pub(crate) fn reach(
        &self,
        roots: impl IntoIterator<Item = Digest>,
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut reached = HashSet::new();
        let mut unread: Vec<Digest> = roots.into_iter().collect();
        while let Some(digest) = unread.pop() {
            if !reached.insert(digest) {
                continue;
            }
            let bytes = match self.blobs().read(&digest, MANIFEST_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(ContentError::NotFound { .. } | ContentError::TooLarge { .. }) => continue,
                Err(ContentError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let manifest: Manifest = serde_json::from_slice(&bytes).unwrap_or_default();
            reached.extend(manifest.config.into_iter().chain(manifest.layers).map(|leaf| leaf.digest));
            unread.extend(manifest.manifests.into_iter().map(|manifest| manifest.digest));
        }
        Ok(reached)
    }
}

/// Returns when the deleted row had been recorded.
fn delete_row(transaction: &Transaction<'_>, image: &Image) -> rusqlite::Result<Option<SystemTime>> {
    transaction
        .prepare_cached("DELETE FROM images WHERE name IS ?1 AND digest = ?2 RETURNING recorded_ns")?
        .query_row((&image.name, image.digest.as_bytes()), |row| row.get(0).map(from_nanos))
        .optional()
}

/// The digests that a query gives.
pub(crate) fn digests(transaction: &Transaction<'_>, query: &str) -> rusqlite::Result<HashSet<Digest>> {
    transaction.prepare_cached(query)?.query_map([], |row| row.get(0).map(Digest::from_bytes))?.collect()
}

/// The blobs among these leases.
pub(crate) fn leased_blobs(leased: &HashSet<Leased>) -> impl Iterator<Item = Digest> {
    leased.iter().filter_map(|lease| match lease {
        Leased::Blob(digest) => Some(*digest),
        Leased::Snapshot(_) => None,
    })
}

/// Either of OCI's two (image-spec, manifest.md and image-index.md), as far as it names other blobs. Docker's have the
/// same fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    manifests: Vec<Named>,
    config: Option<Named>,
    layers: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    digest: Digest,
}
