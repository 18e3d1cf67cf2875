//! Pins: what an image name was last resolved to.

use rusqlite::OptionalExtension;

use super::Pin;
use crate::gc::lease::Leased;
use crate::{Digest, Store, StoreError};

impl Store {
    /// What `reference` was last resolved to for `platform`.
    pub fn pin(&self, reference: &str, platform: &str) -> Result<Option<Pin>, StoreError> {
        self.find_and_lease(
            || self.find_pin(reference, platform),
            |pin| [pin.target, pin.manifest, pin.config].map(Leased::Blob).into(),
        )
    }

    fn find_pin(&self, reference: &str, platform: &str) -> Result<Option<Pin>, StoreError> {
        self.read("look up a pin", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT target, manifest, config FROM pins WHERE reference = ?1 AND platform = ?2",
                )?
                .query_row((reference, platform), |row| {
                    Ok(Pin {
                        target: Digest::from_bytes(row.get(0)?),
                        manifest: Digest::from_bytes(row.get(1)?),
                        config: Digest::from_bytes(row.get(2)?),
                    })
                })
                .optional()
        })
    }

    /// Remembers a resolution.
    pub fn set_pin(&self, reference: &str, platform: &str, pin: &Pin) -> Result<(), StoreError> {
        const OPERATION: &str = "store a pin";
        self.write(OPERATION, |transaction| {
            let put = || {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO pins (reference, platform, target, manifest, config)
                         VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute((
                        reference,
                        platform,
                        pin.target.as_bytes(),
                        pin.manifest.as_bytes(),
                        pin.config.as_bytes(),
                    ))
            };
            put().map(drop).map_err(StoreError::database(OPERATION))
        })
    }
}
