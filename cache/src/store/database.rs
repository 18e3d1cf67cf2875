//! The database file: opening it, and beginning a new one when it is damaged.
//!
//! Other processes may have the damaged one open. SQLite's own files are found by name, so that the old ones must not be
//! in the way of the new: they are renamed, all under the lock that openers of the store take turns with. A process that
//! is left behind with the old ones notices by the database's inode, when it fails or has written.
//!
//! A new database knows no snapshot. What is in `snapshots/` may be mounted by somebody, and so the directory moves to
//! `tmp/` as a whole, under a name like those of processes: whoever has the store open holds a shared lock on the
//! directory it found, and it is deleted as a dead process's once nobody does.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::process_dir::{OpenLock, process_name};
use super::schema::{self, Found};
use super::{Damage, StoreError, open_dir};
use crate::state::import_index;

/// How long a process waits for another one's write transaction. They take milliseconds; only a stopped process
/// keeps one open.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Prepared statements kept by the connection: more than the crate has.
const STATEMENTS_CACHED: usize = 64;

/// SQLite's files, the database last: as long as it has its name, the others are its own.
const FILES: [&str; 4] = ["state.db-shm", "state.db-wal", "state.db-journal", "state.db"];

/// A database that is open, and the snapshots that it knows.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    /// Device and inode of the file.
    file: (u64, u64),
    /// `snapshots/`; its open file description holds the shared lock.
    pub(super) snapshots: Arc<OwnedFd>,
    pub(super) found: Found,
    /// How many this process has opened before.
    pub(super) generation: u64,
    pub(super) damage: Option<Damage>,
}

impl Database {
    /// Opens the database of the store at `root`; a damaged one is set aside and a new one begun.
    pub(super) fn open(root: &Path, root_fd: &OwnedFd, opening: &OpenLock) -> Result<Self, StoreError> {
        let (damage, (connection, found)) = match connect(root, root_fd, opening) {
            Err(error) if error.is_corrupt() => {
                let set_aside = set_aside(root, root_fd)?;
                (Some(Damage::Database { set_aside }), connect(root, root_fd, opening)?)
            }
            connected => (None, connected?),
        };
        let file = inode(root_fd)
            .and_then(|file| file.ok_or(Errno::NOENT))
            .map_err(|errno| StoreError::io("look at", root.join("state.db"), errno))?;
        let path = root.join("snapshots");
        let snapshots = open_dir(&path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&snapshots, FlockOperation::LockShared))
            .map_err(|errno| StoreError::io("lock", path, errno))?;
        Ok(Self { connection, file, snapshots: Arc::new(snapshots), found, generation: 0, damage })
    }

    /// Whether the file is still the one that has its name.
    pub(super) fn is_in_place(&self, root_fd: &OwnedFd) -> bool {
        // Where nobody can tell, nothing is begun anew.
        inode(root_fd).map_or(true, |file| file == Some(self.file))
    }
}

fn inode(root_fd: &OwnedFd) -> Result<Option<(u64, u64)>, Errno> {
    match rustix::fs::statat(root_fd, "state.db", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn connect(root: &Path, root_fd: &OwnedFd, opening: &OpenLock) -> Result<(Connection, Found), StoreError> {
    const OPERATION: &str = "open a connection";
    let path = root.join("state.db");
    // SQLite gives its other files the mode of this one. Only a file that is not there may be opened here: closing
    // it again would drop the locks another connection of this process has on it.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(root_fd, "state.db", flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(StoreError::io("create", path, errno)),
    }
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        // With WAL this loses the last transactions in a power failure, never consistency.
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(connection)
    };
    let mut connection = open().map_err(StoreError::database(OPERATION))?;
    let found = schema::migrate(&mut connection, |transaction| {
        retire_snapshots(root, root_fd, opening)?;
        import_index(root, transaction)
    })?;
    match found {
        Found::Newer(found) => {
            Err(StoreError::NewerVersion { root: root.to_path_buf(), found, supported: schema::VERSION })
        }
        found => Ok((connection, found)),
    }
}

/// Moves the snapshots, which a new database does not know, to where they are deleted when nobody uses them any more.
fn retire_snapshots(root: &Path, root_fd: &OwnedFd, _opening: &OpenLock) -> Result<(), StoreError> {
    let failed = |operation| move |errno| StoreError::io(operation, root.join("snapshots"), errno);
    let retired = process_name().map_err(|source| StoreError::io("name", root.join("snapshots"), source))?;
    rustix::fs::renameat(root_fd, "snapshots", root_fd, format!("tmp/{retired}")).map_err(failed("move"))?;
    match rustix::fs::mkdirat(root_fd, "snapshots", Mode::RWXU) {
        // An opener that waits for its turn makes the directories before.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed("create")(errno)),
    }
}

/// Renames the database, in the place of one that was set aside earlier. Gives its new name.
pub(super) fn set_aside(root: &Path, root_fd: &OwnedFd) -> Result<PathBuf, StoreError> {
    for name in FILES {
        let failed = |errno| StoreError::io("set aside", root.join(name), errno);
        let aside = name.replace("state.db", "state.db.damaged");
        match rustix::fs::renameat(root_fd, name, root_fd, &aside) {
            Ok(()) => {}
            // Then the earlier database's must not be taken for this one's.
            Err(Errno::NOENT) => match rustix::fs::unlinkat(root_fd, &aside, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            },
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(root.join("state.db.damaged"))
}

#[cfg(test)]
mod tests;
