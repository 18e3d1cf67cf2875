//! Cache records: key → outputs.

use rusqlite::{OptionalExtension, Transaction};

use super::Record;
use crate::gc::lease::Leased;
use crate::snapshot::SnapshotId;
use crate::store::Damage;
use crate::{Chain, Key, Store, StoreError};

impl Store {
    /// The record of `key`, if there is one and all its snapshots are here.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let record = self.find_and_lease(
            || self.find_record(key),
            |record| record.snapshots().map(Leased::Snapshot).collect(),
        )?;
        let tops = record.iter().flat_map(|record| &record.outputs).filter_map(|chain| chain.0.last());
        self.will_note_use(tops.copied());
        Ok(record)
    }

    fn find_record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let found = self.read("look up a record", |transaction| {
            let record = transaction
                .prepare_cached("SELECT outputs FROM records WHERE key = ?1")?
                .query_row([&key.0], |row| row.get(0).map(Record::decode))
                .optional()?;
            let mut is_here = transaction.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?;
            for id in record.iter().flatten().flat_map(Record::snapshots) {
                if !is_here.exists([id.row_id()])? {
                    return Ok(None);
                }
            }
            Ok(record)
        })?;
        let record = match found {
            Some(None) => {
                self.drop_record(key)?;
                None
            }
            readable => readable.flatten(),
        };
        for id in record.iter().flat_map(Record::snapshots) {
            if !self.has_snapshot_files(id)? {
                return Ok(None);
            }
        }
        Ok(record)
    }

    /// Drops a record that cannot be read.
    fn drop_record(&self, key: &Key) -> Result<(), StoreError> {
        const OPERATION: &str = "drop a record";
        self.write(OPERATION, |transaction| {
            let delete = || {
                transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([&key.0]).map(drop)
            };
            delete().map_err(StoreError::database(OPERATION))
        })?;
        self.damages().note(Damage::Records(1));
        Ok(())
    }

    /// Stores the record under each of `keys` (definition and content key). `op` is the digest of the operation
    /// without its inputs.
    pub fn put_record(&self, keys: &[Key], op: &Key, record: &Record) -> Result<(), StoreError> {
        const OPERATION: &str = "store a record";
        let outputs = record.encode();
        self.write(OPERATION, |transaction| {
            let put = || {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO records (key, op, outputs) VALUES (?1, ?2, ?3)",
                )?;
                keys.iter().try_for_each(|key| insert.execute((&key.0, &op.0, &outputs)).map(drop))
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// Whether any record of operation `op` exists: without one a content key cannot hit.
    pub fn has_record_of(&self, op: &Key) -> Result<bool, StoreError> {
        self.read("look up an operation", |transaction| {
            transaction.prepare_cached("SELECT 1 FROM records WHERE op = ?1")?.exists([&op.0])
        })
    }
}

/// Deletes the records that name a snapshot that `is_gone`, and those that cannot be read.
pub(crate) fn delete_records_naming(
    transaction: &Transaction<'_>,
    is_gone: impl Fn(SnapshotId) -> bool,
) -> rusqlite::Result<()> {
    let mut keys = Vec::<[u8; 32]>::new();
    let mut all = transaction.prepare_cached("SELECT key, outputs FROM records")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let record = Record::decode(row.get(1)?);
        if record.is_none_or(|record| record.snapshots().any(&is_gone)) {
            keys.push(row.get(0)?);
        }
    }
    let mut delete = transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?;
    keys.iter().try_for_each(|key| delete.execute([key]).map(drop))
}

impl Record {
    fn snapshots(&self) -> impl Iterator<Item = SnapshotId> {
        self.outputs.iter().flat_map(|chain| chain.0.iter().copied())
    }

    /// For each output the number of snapshots (u32) and their ids (u64), all little-endian.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Chain(ids) in &self.outputs {
            let count = u32::try_from(ids.len()).expect("a chain cannot have 2^32 snapshots in memory");
            bytes.extend_from_slice(&count.to_le_bytes());
            ids.iter().for_each(|id| bytes.extend_from_slice(&id.0.to_le_bytes()));
        }
        bytes
    }

    pub(crate) fn decode(bytes: Vec<u8>) -> Option<Self> {
        let mut bytes = &*bytes;
        let mut outputs = Vec::new();
        while let Some((count, rest)) = bytes.split_first_chunk::<4>() {
            let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
            let (ids, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
            let id = |chunk: &[u8]| chunk.try_into().map(u64::from_le_bytes).map(SnapshotId).ok();
            outputs.push(Chain(ids.chunks_exact(8).map(id).collect::<Option<_>>()?));
            bytes = rest;
        }
        bytes.is_empty().then_some(Self { outputs })
    }
}
