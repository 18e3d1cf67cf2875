//! The stat cache: content digests of files outside the store, known by their stamp.

use rusqlite::OptionalExtension;

use super::FileStamp;
use crate::{ContentDigest, Store, StoreError};

impl Store {
    /// Content digests of the files among `stamps` that are known under exactly that stamp, in the same order.
    pub fn stat_cache_get(&self, stamps: &[FileStamp]) -> Result<Vec<Option<ContentDigest>>, StoreError> {
        self.read("look up file digests", |transaction| {
            let mut select = transaction.prepare_cached(
                "SELECT content FROM files
                 WHERE dev = ?1 AND ino = ?2 AND size = ?3 AND mtime_ns = ?4 AND ctime_ns = ?5",
            )?;
            let get = |stamp: &FileStamp| {
                select.query_row(stamp.columns(), |row| row.get(0).map(ContentDigest)).optional()
            };
            stamps.iter().map(get).collect()
        })
    }

    /// Remembers file digests. The caller must leave out files changed so recently that a later edit could keep
    /// the same stamp.
    pub fn stat_cache_put(&self, entries: &[(FileStamp, ContentDigest)]) -> Result<(), StoreError> {
        const OPERATION: &str = "store file digests";
        if entries.is_empty() {
            return Ok(());
        }
        self.write_soon(OPERATION, |transaction| {
            let put = || {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO files (dev, ino, size, mtime_ns, ctime_ns, content)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?;
                entries.iter().try_for_each(|(stamp, content)| {
                    let (dev, ino, size, mtime_ns, ctime_ns) = stamp.columns();
                    insert.execute((dev, ino, size, mtime_ns, ctime_ns, &content.0)).map(drop)
                })
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }
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
