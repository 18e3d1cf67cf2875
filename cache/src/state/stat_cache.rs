//! The stat cache: content digests of files outside the store, known by their stamp.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Row, Transaction};

use super::FileStamp;
use crate::{ContentDigest, Store, StoreError};

/// That a file is there is written down once in so many days: most builds read this table and do not write it.
const SEEN_AGAIN_DAYS: i64 = 7;

/// Rows of files that nobody has seen for longer are deleted when the store is collected.
const UNSEEN_DAYS_MAX: i64 = 30;

impl Store {
    /// Content digests of the files among `stamps` that are known under exactly that stamp, in the same order.
    pub fn stat_cache_get(&self, stamps: &[FileStamp]) -> Result<Vec<Option<ContentDigest>>, StoreError> {
        let today = today();
        let mut unseen = Vec::new();
        let found = self.read("look up file digests", |transaction| {
            let mut select = transaction.prepare_cached(
                "SELECT content, seen_day FROM files
                 WHERE dev = ?1 AND ino = ?2 AND size = ?3 AND mtime_ns = ?4 AND ctime_ns = ?5",
            )?;
            let get = |stamp: &FileStamp| {
                let columns = |row: &Row<'_>| Ok((row.get(0).map(ContentDigest)?, row.get(1)?));
                let found: Option<(_, i64)> = select.query_row(stamp.columns(), columns).optional()?;
                if found.is_some_and(|(_, seen)| seen + SEEN_AGAIN_DAYS <= today) {
                    unseen.push(*stamp);
                }
                Ok(found.map(|(content, _)| content))
            };
            stamps.iter().map(get).collect::<rusqlite::Result<_>>()
        })?;
        self.stat_cache_seen(&unseen, today)?;
        Ok(found)
    }

    /// Remembers that these files are still there: collecting takes the rows of those that nobody has seen for long.
    fn stat_cache_seen(&self, stamps: &[FileStamp], today: i64) -> Result<(), StoreError> {
        const OPERATION: &str = "store which files are there";
        if stamps.is_empty() {
            return Ok(());
        }
        self.write_soon(OPERATION, |transaction| {
            let put = || {
                let mut update = transaction
                    .prepare_cached("UPDATE files SET seen_day = ?3 WHERE dev = ?1 AND ino = ?2")?;
                stamps.iter().try_for_each(|stamp| {
                    let (dev, ino, ..) = stamp.columns();
                    update.execute((dev, ino, today)).map(drop)
                })
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// Remembers file digests. The caller must leave out files changed so recently that a later edit could keep
    /// the same stamp.
    pub fn stat_cache_put(&self, entries: &[(FileStamp, ContentDigest)]) -> Result<(), StoreError> {
        const OPERATION: &str = "store file digests";
        if entries.is_empty() {
            return Ok(());
        }
        self.process().leases().note_growth();
        let today = today();
        self.write_soon(OPERATION, |transaction| {
            let put = || {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO files (dev, ino, size, mtime_ns, ctime_ns, content, seen_day)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                entries.iter().try_for_each(|(stamp, content)| {
                    let (dev, ino, size, mtime_ns, ctime_ns) = stamp.columns();
                    insert.execute((dev, ino, size, mtime_ns, ctime_ns, &content.0, today)).map(drop)
                })
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }
}

/// Deletes the rows of files that nobody has seen for long.
pub(crate) fn forget_unseen(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM files WHERE seen_day < ?1")?;
    delete.execute([today() - UNSEEN_DAYS_MAX]).map(drop)
}

/// Days since 1970.
fn today() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs() / (24 * 60 * 60)).unwrap_or(i64::MAX)
}

impl FileStamp {
    /// SQLite's integers are signed; the bits are what counts.
    fn columns(&self) -> (i64, i64, i64, i64, i64) {
        (
            self.dev.cast_signed(),
            self.ino.cast_signed(),
            self.size.cast_signed(),
            self.mtime_ns,
            self.ctime_ns,
        )
    }
}
