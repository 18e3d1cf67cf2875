//! From the records of the store to the records of a cache.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wharf_cache::snapshot::Layer;
use wharf_cache::state::Record;
use wharf_cache::{Chain, ContentDigest, Key, Store, StoreError, to_nanos};
use wharf_solver::cache_map::RecordKey;
use wharf_solver::explain::provenance;
use wharf_solver::llb::Definition;
use wharf_solver::scheduler::{StepOutcome, StepReport, VertexOutcome};

use super::imports::Imports;
use super::manifest::{CacheConfig, CacheLayer, CacheRecord, RECORD_KEYS_MAX};
use crate::exporter::form::MediaTypes;
use crate::layers::{LayerError, Layers};

/// A step of a build that has a record.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Digest of the operation without its inputs.
    pub op: Key,
    /// Its keys; the definition key comes first.
    pub keys: Vec<RecordKey>,
    /// Its outputs.
    pub outputs: Vec<Chain>,
    /// How long it took, if it ran now.
    pub took: Option<Duration>,
    /// What its keys are made of, in words.
    pub provenance: Option<serde_json::Value>,
}

/// The steps of a build that have records, also those that nobody had to look at, each after those that it reads.
pub fn recorded(
    store: &Store,
    imports: &Imports<'_>,
    definition: &Definition,
    steps: &[StepReport],
) -> Result<Vec<Recorded>, StoreError> {
    let mut found = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let Some(key) = step.definition_key else { continue };
        let offers = |digest: &_, size| imports.offers(digest, size);
        let record = match store.record_unless_lost(&key, &offers)? {
            Some(record) => record,
            // Below a hit from elsewhere nobody has looked: what is there is handed on.
            None => match imports.find(&key)? {
                Some(record) => record,
                None => continue,
            },
        };
        let keys = keys_of(store, &key, &step.op_key, &record)?;
        if keys.is_empty() {
            continue;
        }
        let ran = matches!(step.outcome, StepOutcome::Done(VertexOutcome::Executed));
        found.push(Recorded {
            op: step.op_key,
            keys,
            outputs: record.outputs,
            took: ran.then_some(step.took),
            provenance: serde_json::to_value(provenance(definition, steps, index)).ok(),
        });
    }
    Ok(found)
}

/// The definition key, and the content keys that lead to the same; none if it is not known what the former is made of.
fn keys_of(store: &Store, definition: &Key, op: &Key, record: &Record) -> Result<Vec<RecordKey>, StoreError> {
    /// Many definitions may have led to one result; the one that is looked for is among these.
    const KEYS_READ_MAX: usize = 4096;
    let all = store.keys_of_record(op, record, KEYS_READ_MAX)?;
    let all = all
        .into_iter()
        .filter_map(|(key, inputs)| Some(RecordKey { key, inputs: serde_json::from_slice(&inputs).ok()? }));
    let (mut keys, others): (Vec<_>, Vec<_>) = all.partition(|key| key.key == *definition);
    if !keys.is_empty() {
        let by_content = others.into_iter().filter(RecordKey::is_by_content);
        keys.extend(by_content.take(RECORD_KEYS_MAX - 1));
    }
    Ok(keys)
}

/// Only the steps whose layers are all among those of `images`, by content: what lies elsewhere in one (COPY --link) is the
/// same.
pub fn of_images(
    store: &Store,
    recorded: &[Recorded],
    images: &[Chain],
) -> Result<Vec<Recorded>, StoreError> {
    let contents = |chain: &Chain| -> Result<Vec<ContentDigest>, StoreError> {
        Ok(store.snapshots(chain)?.into_iter().map(|snapshot| snapshot.content).collect())
    };
    let mut of_images: HashSet<ContentDigest> = HashSet::new();
    for image in images {
        of_images.extend(contents(image)?);
    }
    let mut found = Vec::new();
    for step in recorded {
        let all = step.outputs.iter().map(contents).collect::<Result<Vec<_>, _>>()?;
        if all.iter().flatten().all(|content| of_images.contains(content)) {
            found.push(step.clone());
        }
    }
    Ok(found)
}

/// Puts a cache together.
#[derive(Debug)]
pub struct Collector<'a> {
    store: &'a Store,
    layers: &'a Layers<'a>,
    /// No time is later: `SOURCE_DATE_EPOCH`.
    epoch: Option<u64>,
    found: Vec<CacheLayer>,
    indexes: HashMap<CacheLayer, u32>,
    records: Vec<CacheRecord>,
    /// Why steps are not in it.
    skipped: Option<LayerError>,
}

/// A cache, and why a step is not in it, if one is not.
pub type Collected = (CacheConfig, Option<LayerError>);

impl<'a> Collector<'a> {
    /// Takes layers from `layers`.
    pub fn new(store: &'a Store, layers: &'a Layers<'a>, epoch: Option<u64>) -> Self {
        let (found, indexes, records) = Default::default();
        Self { store, layers, epoch, found, indexes, records, skipped: None }
    }

    /// The cache with these steps. One whose layers cannot be made is left out.
    pub fn collect(mut self, recorded: &[Recorded]) -> Result<Collected, StoreError> {
        for step in recorded {
            let mut outputs = Vec::new();
            for chain in &step.outputs {
                match self.layers.of(chain) {
                    Ok(layers) => outputs.push(self.add(chain, &layers)?),
                    Err(error) => {
                        self.skipped.get_or_insert(error);
                        break;
                    }
                }
            }
            if outputs.len() < step.outputs.len() {
                continue;
            }
            self.records.push(CacheRecord {
                op: step.op,
                keys: step.keys.clone(),
                outputs,
                duration_ms: step.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                provenance: step.provenance.clone(),
            });
        }
        Ok((CacheConfig::new(self.found, self.records), self.skipped))
    }

    /// The indexes of a chain's layers.
    fn add(&mut self, chain: &Chain, layers: &[Layer]) -> Result<Vec<u32>, StoreError> {
        let snapshots = self.store.snapshots(chain)?;
        let mut indexes = Vec::with_capacity(layers.len());
        for (snapshot, layer) in snapshots.iter().zip(layers) {
            let variant = self.store.layer_variant(snapshot.id, &layer.digest)?;
            let layer = CacheLayer {
                digest: layer.digest,
                size: layer.size,
                media_type: MediaTypes::Oci.layer(&layer.media_type).to_owned(),
                diff_id: layer.diff_id.0,
                content: snapshot.content,
                unpacked_size: snapshot.size,
                created_ns: self.time(snapshot.created),
                variant: variant.unwrap_or_else(|| self.layers.variant().key()),
                annotations: layer.annotations.clone(),
            };
            let next = u32::try_from(self.found.len()).unwrap_or(u32::MAX);
            let index = *self.indexes.entry(layer.clone()).or_insert(next);
            if index == next {
                self.found.push(layer);
            }
            indexes.push(index);
        }
        Ok(indexes)
    }

    fn time(&self, time: SystemTime) -> i64 {
        let epoch = self.epoch.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let time = epoch.map_or(time, |epoch| time.min(epoch));
        to_nanos(time)
    }
}
