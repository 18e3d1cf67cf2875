//! What was behind a URL when it was last downloaded, so that it is not downloaded again unless it changed.

use rusqlite::OptionalExtension;

use super::UrlRecord;
use crate::gc::lease::Leased;
use crate::snapshot::SnapshotId;
use crate::{Digest, Key, Store, StoreError};

impl Store {
    /// What was downloaded under `key`, if its snapshot is still here.
    pub fn url(&self, key: &Key) -> Result<Option<UrlRecord>, StoreError> {
        let url = self.find_and_lease(|| self.find_url(key), |url| vec![Leased::Snapshot(url.snapshot)])?;
        self.will_note_use(url.iter().map(|url| url.snapshot));
        Ok(url)
    }

    fn find_url(&self, key: &Key) -> Result<Option<UrlRecord>, StoreError> {
        self.read("look up a URL", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT etag, last_modified, digest, file_name, modified_s, snapshot FROM urls
                     WHERE key = ?1 AND snapshot IN (SELECT id FROM snapshots)",
                )?
                .query_row([&key.0], |row| {
                    Ok(UrlRecord {
                        etag: row.get(0)?,
                        last_modified: row.get(1)?,
                        digest: Digest::from_bytes(row.get(2)?),
                        file_name: row.get(3)?,
                        modified_s: row.get(4)?,
                        snapshot: SnapshotId(row.get::<_, i64>(5)?.cast_unsigned()),
                    })
                })
                .optional()
        })
    }

    /// Remembers a download.
    pub fn set_url(&self, key: &Key, url: &UrlRecord) -> Result<(), StoreError> {
        const OPERATION: &str = "store a URL";
        self.write(OPERATION, |transaction| {
            let put = || {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO urls
                         (key, etag, last_modified, digest, file_name, modified_s, snapshot)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute((
                        &key.0,
                        &url.etag,
                        &url.last_modified,
                        url.digest.as_bytes(),
                        &url.file_name,
                        url.modified_s,
                        url.snapshot.row_id(),
                    ))
            };
            put().map(drop).map_err(StoreError::database(OPERATION))
        })
    }
}
