//! The tables of `state.db` and how an older database becomes a current one. `docs/formats/store.md` describes them.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::StoreError;

/// Step *n* takes a database from version *n* to *n* + 1; the version is in `PRAGMA user_version`. A step that has been
/// released never changes.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE snapshots (
        id          INTEGER PRIMARY KEY,
        content     BLOB NOT NULL,
        size        INTEGER NOT NULL,
        created_ns  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE layers (
        snapshot    INTEGER NOT NULL,
        variant     TEXT NOT NULL,
        diff_id     BLOB NOT NULL,
        digest      BLOB NOT NULL,
        size        INTEGER NOT NULL,
        media_type  TEXT NOT NULL,
        chain_id    BLOB NOT NULL,
        PRIMARY KEY (snapshot, variant)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX layers_by_chain_id ON layers (chain_id);
    CREATE TABLE records (
        key         BLOB PRIMARY KEY,
        op          BLOB NOT NULL,
        outputs     BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX records_by_op ON records (op);
    CREATE TABLE images (
        id          INTEGER PRIMARY KEY,
        name        TEXT UNIQUE,
        digest      BLOB NOT NULL,
        size        INTEGER NOT NULL,
        media_type  TEXT NOT NULL,
        created_ns  INTEGER NOT NULL,
        recorded_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX images_by_digest ON images (digest);
    CREATE TABLE pins (
        reference   TEXT NOT NULL,
        platform    TEXT NOT NULL,
        target      BLOB NOT NULL,
        manifest    BLOB NOT NULL,
        config      BLOB NOT NULL,
        PRIMARY KEY (reference, platform)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        dev         INTEGER NOT NULL,
        ino         INTEGER NOT NULL,
        size        INTEGER NOT NULL,
        mtime_ns    INTEGER NOT NULL,
        ctime_ns    INTEGER NOT NULL,
        content     BLOB NOT NULL,
        PRIMARY KEY (dev, ino)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE urls (
        key           BLOB PRIMARY KEY,
        etag          TEXT NOT NULL,
        last_modified TEXT NOT NULL,
        digest        BLOB NOT NULL,
        file_name     TEXT NOT NULL,
        modified_s    INTEGER,
        snapshot      INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE git_refs (
        key         BLOB PRIMARY KEY,
        object      TEXT NOT NULL,
        reference   TEXT
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE uses (
        snapshot    INTEGER PRIMARY KEY,
        used_ns     INTEGER NOT NULL,
        disk        INTEGER,
        cost_ns     INTEGER,
        inputs      BLOB
    ) STRICT;
    INSERT INTO uses (snapshot, used_ns) SELECT id, created_ns FROM snapshots;
    CREATE TABLE mount_sizes (
        name        TEXT PRIMARY KEY,
        used_ns     INTEGER NOT NULL,
        disk        INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE files ADD COLUMN seen_day INTEGER NOT NULL DEFAULT 0;
",
    "
    CREATE TABLE builds (
        id          INTEGER PRIMARY KEY,
        project     BLOB NOT NULL,
        started_ns  INTEGER NOT NULL,
        duration_ns INTEGER NOT NULL,
        ended_ns    INTEGER NOT NULL,
        status      INTEGER NOT NULL,
        graph       BLOB NOT NULL,
        outcome     BLOB NOT NULL,
        log_bytes   INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX builds_by_project ON builds (project, ended_ns);
    CREATE TABLE graphs (
        digest      BLOB PRIMARY KEY,
        bytes       BLOB NOT NULL
    ) STRICT;
    CREATE TABLE graph_lists (
        graph       BLOB NOT NULL,
        content     BLOB NOT NULL,
        PRIMARY KEY (graph, content)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE file_lists (
        content     BLOB PRIMARY KEY,
        bytes       BLOB NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE snapshots ADD COLUMN lazy INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE records ADD COLUMN inputs BLOB;
",
    // Opaque directories are marked with another attribute from here on: snapshots are made anew.
    "
    DELETE FROM snapshots;
    DELETE FROM layers;
    DELETE FROM records;
    DELETE FROM urls;
    DELETE FROM uses;
",
    // The row key of a layer names what compressed it from here on.
    "
    ALTER TABLE layers ADD COLUMN annotations TEXT;
    UPDATE OR IGNORE layers SET variant = 'gzip-4.libdeflate-1.26' || substr(variant, 5)
        WHERE variant = 'gzip' OR variant LIKE 'gzip@%';
    UPDATE OR IGNORE layers SET variant = 'zstd-3.libzstd-1.5.7' || substr(variant, 5)
        WHERE variant = 'zstd' OR variant LIKE 'zstd@%';
",
    "
    CREATE TABLE member_blobs (
        id          INTEGER PRIMARY KEY,
        digest      BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE members (
        key         BLOB PRIMARY KEY,
        blob        INTEGER NOT NULL,
        start       INTEGER NOT NULL,
        size        INTEGER NOT NULL,
        sum         BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// The version this program writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// What [`migrate`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A database of this version.
    Current,
    /// An older one; it is current now.
    Older,
    /// An empty one; it has its tables now.
    Empty,
    /// A newer one; it was left alone.
    Newer(u32),
}

/// Brings the database to [`VERSION`]; `fill` puts into an empty one what there was before it. The caller keeps other
/// processes from doing the same.
pub(super) fn migrate(
    connection: &mut Connection,
    fill: impl FnOnce(&Transaction<'_>) -> Result<(), StoreError>,
) -> Result<Found, StoreError> {
    let failed = StoreError::database("make the tables");
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(&failed)?;
    if found == VERSION {
        return Ok(Found::Current);
    }
    if found > VERSION {
        return Ok(Found::Newer(found));
    }
    // Kept in the file from then on.
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).map_err(&failed)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    for step in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(step).map_err(&failed)?;
    }
    if found == 0 {
        fill(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(&failed)?;
    transaction.commit().map_err(&failed)?;
    Ok(if found == 0 { Found::Empty } else { Found::Older })
}
