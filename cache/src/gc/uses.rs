//! What is known of a snapshot for its collection: when it was used, what making it cost, what it was made from.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use rusqlite::OptionalExtension;

use super::lease::{CollectionLock, Leased};
use crate::store::{OpenLock, to_nanos};
use crate::{Chain, SnapshotId, Store, StoreError};

/// Uses that are nearer to each other are one: a build that is repeated at once writes nothing.
const USES_APART_MIN: Duration = Duration::from_secs(60);

impl Store {
    /// To be called when something is written below the root by other means than this crate's, so that
    /// [`Store::settle`] measures.
    pub fn note_growth(&self) {
        self.process().leases().note_growth();
    }

    /// Remembers what it took to make the topmost snapshots of `made`: the time, and what was read. Whoever uses them
    /// counts as a user of what they were made from.
    pub fn note_made(&self, made: &[Chain], inputs: &[&Chain], took: Duration) -> Result<(), StoreError> {
        const OPERATION: &str = "store the cost of a step";
        let tops: HashSet<SnapshotId> = made.iter().filter_map(|chain| chain.0.last().copied()).collect();
        let mut bytes = Vec::new();
        for input in inputs {
            // A step that changed nothing ends in what it began with.
            if let Some(top) = input.0.last().filter(|top| !tops.contains(top)) {
                bytes.extend_from_slice(&top.0.to_le_bytes());
            }
        }
        if tops.is_empty() {
            return Ok(());
        }
        let cost_ns = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        self.write_soon(OPERATION, |transaction| {
            let put = || {
                let mut update = transaction.prepare_cached(
                    "UPDATE uses SET cost_ns = ?2, inputs = ?3 WHERE snapshot = ?1 AND cost_ns IS NULL",
                )?;
                tops.iter().try_for_each(|top| update.execute((top.row_id(), cost_ns, &bytes)).map(drop))
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// Writes down that what this process found was used now, unless it was a moment ago.
    pub(super) fn write_uses(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "store what was used";
        let found = self.process().leases().take_used();
        if found.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now();
        let long_ago = to_nanos(now - USES_APART_MIN);
        let stale = self.read(OPERATION, |transaction| {
            let mut select = transaction.prepare_cached("SELECT used_ns FROM uses WHERE snapshot = ?1")?;
            let mut stale = Vec::new();
            for id in &found {
                let used_ns: Option<i64> = select.query_row([id.row_id()], |row| row.get(0)).optional()?;
                if used_ns.is_none_or(|used_ns| used_ns < long_ago) {
                    stale.push(*id);
                }
            }
            Ok(stale)
        })?;
        if stale.is_empty() {
            return Ok(());
        }
        self.write_soon(OPERATION, |transaction| {
            let put = || {
                let mut upsert = transaction.prepare_cached(
                    "INSERT INTO uses (snapshot, used_ns) SELECT id, ?2 FROM snapshots WHERE id = ?1
                     ON CONFLICT (snapshot) DO UPDATE SET used_ns = excluded.used_ns",
                )?;
                stale.iter().try_for_each(|id| upsert.execute((id.row_id(), to_nanos(now))).map(drop))
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// Looks something up that must not be collected as long as this process lives.
    pub(crate) fn find_and_lease<T>(
        &self,
        find: impl Fn() -> Result<Option<T>, StoreError>,
        names: impl Fn(&T) -> Vec<Leased>,
    ) -> Result<Option<T>, StoreError> {
        let Some(found) = find()? else { return Ok(None) };
        if self.process().leases().has_all(&names(&found)) {
            return Ok(Some(found));
        }
        let failed = |source| StoreError::io("lease", self.root(), source);
        let _guard = self.process().leases().keep_collectors_off().map_err(failed)?;
        // Somebody may have collected it before they were kept off.
        let found = find()?;
        if let Some(found) = &found {
            self.process().lease(names(found)).map_err(failed)?;
        }
        Ok(found)
    }

    /// Remembers that these are used, for [`Store::write_uses`].
    pub(crate) fn will_note_use(&self, snapshots: impl IntoIterator<Item = SnapshotId>) {
        self.process().leases().note_use(snapshots);
    }

    /// For reading leases: only while nobody is opening the store has every living process its lock. To be had before a
    /// transaction, because who opens the store may want to write.
    pub(crate) fn keep_openers_off(&self) -> Result<OpenLock, StoreError> {
        let failed = |source| StoreError::io("lock", self.root().join("tmp"), source);
        self.process().keep_openers_off().map_err(failed)
    }

    /// What other living processes have leased. Lets openers go on: a transaction that meets a damaged database has to
    /// have that lock for itself when it ends.
    pub(crate) fn leased_by_others(&self, opening: OpenLock) -> Result<HashSet<Leased>, StoreError> {
        self.process()
            .leased_by_others(&opening)
            .map_err(|source| StoreError::io("read the leases of", self.root(), source))
    }

    /// Keeps others from leasing what is there.
    pub(crate) fn collect_alone(&self) -> Result<CollectionLock<'_>, StoreError> {
        self.process()
            .leases()
            .collect_alone()
            .map_err(|source| StoreError::io("lock for collecting", self.root(), source))
    }
}
