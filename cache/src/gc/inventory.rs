//! Everything in the store that could be collected, with what speaks for and against it.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::time::{Duration, SystemTime};

use rusqlite::Transaction;

use super::lease::Leased;
use super::measure::Measured;
use super::{Item, Kind, State};
use crate::state::{Record, digests, leased_blobs};
use crate::store::from_nanos;
use crate::{Digest, SnapshotId, Store, StoreError};

/// What bringing something here again is taken to cost, where nobody has measured it.
const NETWORK_BYTES_PER_SECOND: u64 = 10_000_000;

/// What making a layer blob of a snapshot, or a snapshot of a layer blob, is taken to cost.
const LOCAL_BYTES_PER_SECOND: u64 = 100_000_000;

/// Instances of a cache that only steps at the same time needed go when they were idle for so long.
const FURTHER_INSTANCE_IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What an item is, for who removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Blob { digest: Digest, written: SystemTime },
    Snapshot(SnapshotId),
    Mount(CString),
    Repository(CString),
    Fixed,
}

/// An item with its place among the others, which are named by their index.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) item: Item,
    pub(super) what: What,
    /// What stands directly below this snapshot, in some chain.
    pub(super) below: Vec<usize>,
    /// How many snapshots stand directly on this one.
    pub(super) on_top: usize,
    /// The blobs that are made of this snapshot.
    pub(super) blobs: Vec<usize>,
    /// For a blob: of how many snapshots it is made; nothing if it is needed for other reasons as well.
    pub(super) only_for: Option<usize>,
}

impl Node {
    fn new(item: Item, what: What) -> Self {
        Self { item, what, below: Vec::new(), on_top: 0, blobs: Vec::new(), only_for: None }
    }
}

/// The rows that say what is needed.
#[derive(Debug, Default)]
struct Rows {
    snapshots: HashMap<SnapshotId, SnapshotRow>,
    /// Snapshot and blob.
    layers: Vec<(SnapshotId, Digest, bool)>,
    /// The chains of all records.
    chains: Vec<Vec<SnapshotId>>,
    urls: HashSet<SnapshotId>,
    images: Vec<(Option<String>, Digest)>,
}

#[derive(Debug)]
struct SnapshotRow {
    used: SystemTime,
    cost: Option<Duration>,
    inputs: Vec<SnapshotId>,
}

/// Blobs by who needs them.
struct Reached {
    /// By images, with their names; an untagged one has none.
    images: HashMap<Digest, Vec<Option<String>>>,
    pins: HashSet<Digest>,
    leases: HashSet<Digest>,
}

impl Store {
    /// Puts together what was measured, what the rows say and what others have leased.
    pub(super) fn inventory(
        &self,
        transaction: &Transaction<'_>,
        measured: &Measured,
        leased: &HashSet<Leased>,
    ) -> Result<Vec<Node>, StoreError> {
        let failed = StoreError::database("list what is in the store");
        let rows = Rows::read(transaction).map_err(&failed)?;
        let kept = self.needed_by_containers()?;
        let pinned = |query| digests(transaction, query).map_err(&failed);
        let mut reached = Reached {
            images: HashMap::new(),
            pins: self.reach(pinned("SELECT target FROM pins UNION SELECT manifest FROM pins")?)?,
            leases: self.reach(leased_blobs(leased).chain(kept.manifests))?,
        };
        reached.pins.extend(pinned("SELECT config FROM pins")?);
        for (name, digest) in &rows.images {
            for blob in self.reach([*digest])? {
                reached.images.entry(blob).or_default().push(name.clone());
            }
        }
        // What a container stands on is used like what a process has leased.
        let mut used = leased.clone();
        used.extend(kept.snapshots.into_iter().map(Leased::Snapshot));
        Ok(assemble(measured, &rows, &reached, &used))
    }
}

fn assemble(measured: &Measured, rows: &Rows, reached: &Reached, leased: &HashSet<Leased>) -> Vec<Node> {
    let now = SystemTime::now();
    let used = last_uses(rows);
    let mut nodes = Vec::new();
    let mut blob_index: HashMap<Digest, usize> = HashMap::new();
    let leased_layers: HashSet<Digest> = rows
        .layers
        .iter()
        .filter(|(id, ..)| leased.contains(&Leased::Snapshot(*id)))
        .map(|(_, digest, _)| *digest)
        .collect();
    let needed_as_layer: HashSet<Digest> = rows.layers.iter().map(|(_, digest, _)| *digest).collect();
    for (digest, blob) in &measured.blobs {
        let images = reached.images.get(digest).map_or(&[][..], Vec::as_slice);
        let is_tagged = images.iter().any(Option::is_some);
        let elsewhere = reached.pins.contains(digest) || !images.is_empty();
        let state = if is_tagged {
            State::Tagged
        } else if reached.leases.contains(digest) || leased_layers.contains(digest) {
            State::InUse
        } else if reached.pins.contains(digest) || needed_as_layer.contains(digest) {
            State::Cached
        } else if !images.is_empty() {
            State::Dangling
        } else {
            State::Garbage
        };
        let speed =
            if reached.pins.contains(digest) { NETWORK_BYTES_PER_SECOND } else { LOCAL_BYTES_PER_SECOND };
        let item = Item {
            kind: Kind::Blob,
            name: digest.to_string(),
            title: String::new(),
            bytes: blob.bytes,
            used: Some(blob.written),
            cost: time_for(blob.bytes, speed),
            images: names(images),
            state,
        };
        let mut node = Node::new(item, What::Blob { digest: *digest, written: blob.written });
        node.only_for = (!elsewhere && needed_as_layer.contains(digest)).then_some(0);
        blob_index.insert(*digest, nodes.len());
        nodes.push(node);
    }
    let index = add_snapshots(&mut nodes, measured, rows, &used, leased);
    join_layers(&mut nodes, rows, &index, &blob_index);
    join_chains(&mut nodes, rows, &index);
    add_trees(&mut nodes, measured, now);
    for (kind, name, bytes) in &measured.rest {
        let state = if *kind == Kind::Running { State::InUse } else { State::Fixed };
        let item = Item {
            kind: *kind,
            name: name.clone(),
            title: String::new(),
            bytes: *bytes,
            used: None,
            cost: Duration::ZERO,
            images: Vec::new(),
            state,
        };
        nodes.push(Node::new(item, What::Fixed));
    }
    nodes
}

/// The snapshots; where each of them is among the nodes.
fn add_snapshots(
    nodes: &mut Vec<Node>,
    measured: &Measured,
    rows: &Rows,
    used: &HashMap<SnapshotId, SystemTime>,
    leased: &HashSet<Leased>,
) -> HashMap<SnapshotId, usize> {
    let mut needed: HashSet<SnapshotId> = rows.chains.iter().flatten().copied().collect();
    needed.extend(&rows.urls);
    // A layer of somebody's image is found again by its chain id, whether a record names it or not.
    needed.extend(rows.layers.iter().filter(|(_, _, is_pulled)| *is_pulled).map(|(id, ..)| *id));
    let mut index = HashMap::new();
    // One that has no row was left by a killed process, or is being committed: the next opener knows.
    for (id, row) in &rows.snapshots {
        let bytes = measured.snapshots.get(id).copied().unwrap_or(0);
        let state = if leased.contains(&Leased::Snapshot(*id)) {
            State::InUse
        } else if needed.contains(id) {
            State::Cached
        } else {
            State::Garbage
        };
        let item = Item {
            kind: Kind::Snapshot,
            name: id.to_string(),
            title: String::new(),
            bytes,
            used: Some(used.get(id).copied().unwrap_or(row.used)),
            cost: row.cost.unwrap_or_else(|| time_for(bytes, LOCAL_BYTES_PER_SECOND)),
            images: Vec::new(),
            state,
        };
        index.insert(*id, nodes.len());
        nodes.push(Node::new(item, What::Snapshot(*id)));
    }
    for (id, bytes) in measured.snapshots.iter().filter(|(id, _)| !rows.snapshots.contains_key(id)) {
        let item = Item {
            kind: Kind::Snapshot,
            name: id.to_string(),
            title: "not committed".to_owned(),
            bytes: *bytes,
            used: None,
            cost: Duration::ZERO,
            images: Vec::new(),
            state: State::InUse,
        };
        nodes.push(Node::new(item, What::Fixed));
    }
    index
}

/// Layer rows lead from snapshots to blobs: a snapshot belongs to the images that have one of its blobs, and a blob was
/// used with its snapshot.
fn join_layers(
    nodes: &mut [Node],
    rows: &Rows,
    snapshots: &HashMap<SnapshotId, usize>,
    blobs: &HashMap<Digest, usize>,
) {
    for (id, digest, is_pulled) in &rows.layers {
        let Some(&snapshot) = snapshots.get(id) else { continue };
        let Some(&blob) = blobs.get(digest) else {
            if *is_pulled
                && nodes[snapshot].item.cost < time_for(nodes[snapshot].item.bytes, NETWORK_BYTES_PER_SECOND)
            {
                nodes[snapshot].item.cost = time_for(nodes[snapshot].item.bytes, NETWORK_BYTES_PER_SECOND);
            }
            continue;
        };
        if *is_pulled {
            nodes[blob].item.cost = time_for(nodes[blob].item.bytes, NETWORK_BYTES_PER_SECOND);
        }
        let used = nodes[snapshot].item.used.max(nodes[blob].item.used);
        nodes[blob].item.used = used;
        let images = nodes[blob].item.images.clone();
        let names = &mut nodes[snapshot].item.images;
        names.extend(images);
        names.sort_unstable();
        names.dedup();
        // Made of a snapshot that a record or an image's chain leads to; not garbage though no record names it.
        if nodes[snapshot].item.state == State::Garbage && nodes[blob].item.state == State::Tagged {
            nodes[snapshot].item.state = State::Cached;
        }
        if !nodes[snapshot].blobs.contains(&blob) {
            nodes[snapshot].blobs.push(blob);
            if let Some(count) = &mut nodes[blob].only_for {
                *count += 1;
            }
        }
    }
}

/// Chains say what stands on what.
fn join_chains(nodes: &mut [Node], rows: &Rows, snapshots: &HashMap<SnapshotId, usize>) {
    let mut seen = HashSet::new();
    for pair in rows.chains.iter().flat_map(|chain| chain.windows(2)) {
        let (Some(&below), Some(&above)) = (snapshots.get(&pair[0]), snapshots.get(&pair[1])) else {
            continue;
        };
        if below != above && seen.insert((below, above)) {
            nodes[above].below.push(below);
            nodes[below].on_top += 1;
        }
    }
}

fn add_trees(nodes: &mut Vec<Node>, measured: &Measured, now: SystemTime) {
    for tree in &measured.trees {
        let is_further = tree.kind == Kind::CacheMount && !tree.name.to_bytes().ends_with(b".0");
        let idle = now.duration_since(tree.used).unwrap_or_default();
        let is_garbage = is_further && idle > FURTHER_INSTANCE_IDLE_MAX;
        let item = Item {
            kind: tree.kind,
            name: tree.name.to_string_lossy().into_owned(),
            title: tree.title.clone(),
            bytes: tree.bytes,
            used: Some(tree.used),
            cost: time_for(tree.bytes, NETWORK_BYTES_PER_SECOND),
            images: Vec::new(),
            state: if is_garbage { State::Garbage } else { State::Cached },
        };
        let what = match tree.kind {
            Kind::Repository => What::Repository(tree.name.clone()),
            _ => What::Mount(tree.name.clone()),
        };
        nodes.push(Node::new(item, what));
    }
}

/// When each snapshot was used: by itself, or by somebody who used what stands on it or was made from it.
fn last_uses(rows: &Rows) -> HashMap<SnapshotId, SystemTime> {
    let mut sources: HashMap<SnapshotId, HashSet<SnapshotId>> = HashMap::new();
    for pair in rows.chains.iter().flat_map(|chain| chain.windows(2)) {
        sources.entry(pair[1]).or_default().insert(pair[0]);
    }
    for (id, row) in &rows.snapshots {
        sources.entry(*id).or_default().extend(&row.inputs);
    }
    let mut newest_first: Vec<_> = rows.snapshots.iter().map(|(id, row)| (row.used, *id)).collect();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    let mut last = HashMap::new();
    for (used, id) in newest_first {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            // Whoever came before was used later.
            if last.contains_key(&id) {
                continue;
            }
            last.insert(id, used);
            stack.extend(sources.get(&id).into_iter().flatten());
        }
    }
    last
}

fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

/// The names among these, each once.
fn names(images: &[Option<String>]) -> Vec<String> {
    let mut names: Vec<String> = images.iter().flatten().cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Rows {
    fn read(transaction: &Transaction<'_>) -> rusqlite::Result<Self> {
        let mut rows = Self::default();
        let id_of = |row: &rusqlite::Row<'_>, column| {
            row.get::<_, i64>(column).map(|id| SnapshotId(id.cast_unsigned()))
        };
        let mut query = transaction.prepare_cached(
            "SELECT id, COALESCE(used_ns, created_ns), cost_ns, inputs
             FROM snapshots LEFT JOIN uses ON snapshot = id",
        )?;
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let inputs: Option<Vec<u8>> = row.get(3)?;
            let ids = inputs.as_deref().unwrap_or_default().chunks_exact(8);
            let snapshot = SnapshotRow {
                used: from_nanos(row.get(1)?),
                cost: row.get::<_, Option<i64>>(2)?.map(|nanos| Duration::from_nanos(nanos.unsigned_abs())),
                inputs: ids
                    .filter_map(|id| id.try_into().ok().map(u64::from_le_bytes).map(SnapshotId))
                    .collect(),
            };
            rows.snapshots.insert(id_of(row, 0)?, snapshot);
        }
        rows.layers = transaction
            .prepare_cached("SELECT snapshot, digest, variant = 'pulled' FROM layers")?
            .query_map([], |row| Ok((id_of(row, 0)?, Digest::from_bytes(row.get(1)?), row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut query = transaction.prepare_cached("SELECT outputs FROM records")?;
        let mut found = query.query([])?;
        let mut chains = HashSet::new();
        while let Some(row) = found.next()? {
            // One that cannot be read, or lacks a snapshot, is no hit any more.
            let Some(record) = Record::decode(row.get(0)?) else { continue };
            if record.outputs.iter().flat_map(|chain| &chain.0).all(|id| rows.snapshots.contains_key(id)) {
                chains.extend(record.outputs.into_iter().map(|chain| chain.0));
            }
        }
        rows.chains = chains.into_iter().collect();
        rows.urls = transaction
            .prepare_cached("SELECT snapshot FROM urls")?
            .query_map([], |row| id_of(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        rows.images = transaction
            .prepare_cached("SELECT name, digest FROM images")?
            .query_map([], |row| Ok((row.get(0)?, Digest::from_bytes(row.get(1)?))))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(rows)
    }
}
