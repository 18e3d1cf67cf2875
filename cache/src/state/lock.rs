//! The lock of a key: an exclusive `flock` on `locks/<hex>`, which dies with its holder.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::KeyLock;
use crate::{Key, Store, StoreError};

/// How often somebody who may be cancelled looks whether a lock is free.
const LOCK_POLL: Duration = Duration::from_millis(10);

impl Store {
    /// Waits until no other process or thread holds `key`'s lock, then takes it; `None` when `is_cancelled` before that.
    pub fn lock_key_unless(
        &self,
        key: &Key,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<KeyLock>, StoreError> {
        loop {
            let lock = self.try_lock_key(key)?;
            if lock.is_some() || is_cancelled() {
                return Ok(lock);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Takes `key`'s lock if nobody has it.
    pub(crate) fn try_lock_key(&self, key: &Key) -> Result<Option<KeyLock>, StoreError> {
        let name = key.hex();
        let failed = |errno: Errno| StoreError::io("lock", self.root().join("locks").join(&name), errno);
        let dir = self.locks_dir();
        let c_name = std::ffi::CString::new(name.as_str()).expect("hex digits hold no NUL byte");
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&**dir, &c_name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
            // The holder before may have removed the file in between; then the lock excludes nobody.
            if is_in_place(dir, &c_name, &file).map_err(failed)? {
                return Ok(Some(KeyLock { dir: Arc::clone(dir), name, file }));
            }
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while it is held, so that whoever waits for it notices. A file that stays is harmless.
        let _ = rustix::fs::unlinkat(&*self.dir, &self.name, AtFlags::empty());
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Whether `file` is still what `name` in `dir` names.
pub(crate) fn is_in_place(dir: &OwnedFd, name: &CStr, file: &OwnedFd) -> Result<bool, Errno> {
    let held = rustix::fs::fstat(file)?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
