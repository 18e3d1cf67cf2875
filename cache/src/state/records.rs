//! Cache records: key → outputs.

use std::collections::HashSet;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{OptionalExtension, Transaction};

use super::Record;
use crate::snapshot::SnapshotId;
use crate::{Chain, Digest, Key, Store, StoreError};

impl Store {
    /// The record of `key`, if there is one and all its snapshots are here; lazy ones are if their blobs are.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.record_unless_lost(key, &|_, _| false)
    }

    /// The same; a lazy snapshot counts also when somebody else `offers` its blob of this digest and size.
    pub fn record_unless_lost(
        &self,
        key: &Key,
        offers: &dyn Fn(&Digest, u64) -> bool,
    ) -> Result<Option<Record>, StoreError> {
        let mut lazy = HashSet::new();
        let record = self.read("look up a record", |transaction| {
            let record: Option<Record> = transaction
                .prepare_cached("SELECT outputs FROM records WHERE key = ?1")?
                .query_row([&key.0], |row| row.get(0))
                .optional()?;
            let mut is_lazy = transaction.prepare_cached("SELECT lazy FROM snapshots WHERE id = ?1")?;
            for id in record.iter().flat_map(Record::snapshots) {
                match is_lazy.query_row([id.row_id()], |row| row.get(0)).optional()? {
                    None => return Ok(None),
                    Some(false) => {}
                    Some(true) => {
                        lazy.insert(id);
                    }
                }
            }
            Ok(record)
        })?;
        for id in record.iter().flat_map(Record::snapshots).filter(|id| !lazy.contains(id)) {
            if !self.has_snapshot_files(id)? {
                return Ok(None);
            }
        }
        let lazy = Chain(lazy.into_iter().collect());
        for (_, layer) in self.lazy_layers(&lazy)? {
            if self.blobs().size(&layer.digest)? != Some(layer.size) && !offers(&layer.digest, layer.size) {
                return Ok(None);
            }
        }
        Ok(record)
    }

    /// Stores the record under each of `keys` (definition and content key). `op` is the digest of the operation
    /// without its inputs.
    pub fn put_record(&self, keys: &[Key], op: &Key, record: &Record) -> Result<(), StoreError> {
        let keys: Vec<_> = keys.iter().map(|key| (*key, None)).collect();
        self.put_record_made_of(&keys, op, record)
    }

    /// The same; each key comes with what it is made of, as its maker writes it.
    pub fn put_record_made_of(
        &self,
        keys: &[(Key, Option<Vec<u8>>)],
        op: &Key,
        record: &Record,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "store a record";
        let outputs = record.encode();
        self.write(OPERATION, |transaction| {
            let put = || {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO records (key, op, outputs, inputs) VALUES (?1, ?2, ?3, ?4)",
                )?;
                let mut insert = |(key, inputs): &(Key, Option<Vec<u8>>)| {
                    insert.execute((&key.0, &op.0, &outputs, inputs)).map(drop)
                };
                keys.iter().try_for_each(&mut insert)
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// The keys under which the same outputs of the same operation are recorded and of which it is known what they are
    /// made of, at most `max`.
    pub fn keys_of_record(
        &self,
        op: &Key,
        record: &Record,
        max: usize,
    ) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        self.read("look up the keys of a record", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT key, inputs FROM records
                     WHERE op = ?1 AND outputs = ?2 AND inputs IS NOT NULL ORDER BY key LIMIT ?3",
                )?
                .query_map((&op.0, record.encode(), i64::try_from(max).unwrap_or(i64::MAX)), |row| {
                    Ok((Key(row.get(0)?), row.get(1)?))
                })?
                .collect()
        })
    }

    /// Whether any record of operation `op` exists: without one a content key cannot hit.
    pub fn has_record_of(&self, op: &Key) -> Result<bool, StoreError> {
        self.read("look up an operation", |transaction| {
            transaction.prepare_cached("SELECT 1 FROM records WHERE op = ?1")?.exists([&op.0])
        })
    }
}

/// Deletes the records that name snapshot `id`.
pub(crate) fn delete_records_of(transaction: &Transaction<'_>, id: SnapshotId) -> rusqlite::Result<()> {
    let mut keys = Vec::<[u8; 32]>::new();
    let mut all = transaction.prepare_cached("SELECT key, outputs FROM records")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, Record>(1)?.snapshots().any(|named| named == id) {
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

    fn decode(mut bytes: &[u8]) -> Option<Self> {
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

impl FromSql for Record {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::decode(value.as_blob()?).ok_or(FromSqlError::InvalidType)
    }
}
