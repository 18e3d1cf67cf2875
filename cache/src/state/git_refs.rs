//! What names in repositories stood for when they were looked up last: for builds that ask nobody.

use rusqlite::OptionalExtension;

use super::GitRef;
use crate::{Key, Store, StoreError};

impl Store {
    /// What is remembered under `key`.
    pub fn git_ref(&self, key: &Key) -> Result<Option<GitRef>, StoreError> {
        self.read("look up a ref", |transaction| {
            transaction
                .prepare_cached("SELECT object, reference FROM git_refs WHERE key = ?1")?
                .query_row([&key.0], |row| Ok(GitRef { object: row.get(0)?, reference: row.get(1)? }))
                .optional()
        })
    }

    /// Remembers what was looked up; nothing is written if that is known.
    pub fn set_git_ref(&self, key: &Key, found: &GitRef) -> Result<(), StoreError> {
        const OPERATION: &str = "store a ref";
        if self.git_ref(key)?.as_ref() == Some(found) {
            return Ok(());
        }
        self.write(OPERATION, |transaction| {
            let put = || {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO git_refs (key, object, reference) VALUES (?1, ?2, ?3)",
                    )?
                    .execute((&key.0, &found.object, &found.reference))
            };
            put().map(drop).map_err(StoreError::database(OPERATION))
        })
    }
}
