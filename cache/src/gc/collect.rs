//! Taking things away.

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rusqlite::Transaction;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::choose::choose;
use super::inventory::{Node, What};
use super::measure::{Measured, repository_key};
use super::{Item, State};
use crate::diff::members;
use crate::history::HistoryLimits;
use crate::snapshot::rows;
use crate::state::{delete_records_naming, digests, leased_blobs, stat_cache};
use crate::{Digest, SnapshotId, Store, StoreError};

/// A store that exceeds its limit is brought a little below it, so that the next build need not collect again.
const KEPT_PERCENT: u64 = 95;

/// When space is needed the history of builds gets no more than this part of it.
const HISTORY_PART: u64 = 10;

/// Something may be used by the time it is to go: then others are chosen.
const ROUNDS_MAX: usize = 4;

/// A database with more free pages than this, and more free than used, is written anew.
const FREE_BYTES_MAX: i64 = 1 << 20;

/// When enough has been collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Everything that is admitted is gone.
    Everything,
    /// The store is not larger than this.
    AtMost(u64),
}

/// What a collection did.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// What is gone.
    pub removed: Vec<Item>,
    /// Bytes on disk that the store has now.
    pub bytes: u64,
    /// Bytes of what has to stay because images with names need it.
    pub tagged_bytes: u64,
    /// Bytes of what has to stay because other processes use it.
    pub in_use_bytes: u64,
}

/// One choice.
struct Round {
    nodes: Vec<Node>,
    /// What was chosen, and whether it is gone.
    done: Vec<(Item, bool)>,
}

/// What was moved out of its place.
#[derive(Default)]
struct Taken {
    /// What was tried, and whether it is gone.
    done: Vec<(Item, bool)>,
    /// Names in the process's directory.
    asides: Vec<String>,
    /// What went wrong first.
    failed: Option<StoreError>,
}

impl Store {
    /// To be called when a command is done with the store: remembers what was used, and if anything was written that
    /// counts, brings the store under `bytes_max`. Says what it did if the store had exceeded that. What this
    /// process has leased is not spared.
    pub fn settle(&self, bytes_max: u64) -> Result<Option<Collected>, StoreError> {
        self.write_uses()?;
        if !self.process().leases().take_growth() || self.measure()?.total() <= bytes_max {
            return Ok(None);
        }
        self.collect(Goal::AtMost(bytes_max), &|_| true).map(Some)
    }

    /// Everything in the store that takes space.
    pub fn items(&self) -> Result<Vec<Item>, StoreError> {
        let measured = self.measure()?;
        let nodes = self.list(&measured)?;
        Ok(nodes.into_iter().map(|node| node.item).collect())
    }

    fn list(&self, measured: &Measured) -> Result<Vec<Node>, StoreError> {
        let leased = self.leased_by_others(self.keep_openers_off()?)?;
        self.write("list what is in the store", |transaction| self.inventory(transaction, measured, &leased))
    }

    /// What [`Store::collect`] to this goal would take away.
    pub fn collectable(&self, goal: Goal, admit: &dyn Fn(&Item) -> bool) -> Result<Vec<Item>, StoreError> {
        let measured = self.measure()?;
        if is_reached(goal, measured.total()) {
            return Ok(Vec::new());
        }
        let nodes = self.list(&measured)?;
        let chosen = choose(&nodes, excess(goal, &measured), SystemTime::now(), admit);
        Ok(chosen.into_iter().map(|index| nodes[index].item.clone()).collect())
    }

    /// Takes away what `admit` likes and nobody needs, garbage first, until the goal is reached. Other processes may go
    /// on using the store.
    pub fn collect(&self, goal: Goal, admit: &dyn Fn(&Item) -> bool) -> Result<Collected, StoreError> {
        // Who waited for another collector measures after it.
        let _turn = self.collector_turn()?;
        match self.collect_in_turn(goal, admit) {
            Err(error) if error.is_disk_full() => {
                let mut removed = self.make_room()?;
                if removed.is_empty() {
                    return Err(error);
                }
                let mut collected = self.collect_in_turn(goal, admit)?;
                removed.append(&mut collected.removed);
                Ok(Collected { removed, ..collected })
            }
            done => done,
        }
    }

    fn collect_in_turn(&self, goal: Goal, admit: &dyn Fn(&Item) -> bool) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        // The names of what turned out to be in use.
        let mut busy = HashSet::<String>::new();
        for round in 0..ROUNDS_MAX {
            let measured = self.measure()?;
            collected.bytes = measured.total();
            if is_reached(goal, collected.bytes) {
                break;
            }
            self.trim_history_to(goal)?;
            let admit = |item: &Item| admit(item) && !busy.contains(&item.name);
            let Round { nodes, done } = self.collect_once(&measured, goal, &admit)?;
            let of = |state| {
                nodes.iter().filter(|node| node.item.state == state).map(|node| node.item.bytes).sum::<u64>()
            };
            (collected.tagged_bytes, collected.in_use_bytes) = (of(State::Tagged), of(State::InUse));
            let is_last = done.is_empty() && round > 0;
            for (item, is_gone) in done {
                if is_gone {
                    collected.removed.push(item);
                } else {
                    busy.insert(item.name);
                }
            }
            self.forget_unseen_files()?;
            self.shrink_database()?;
            if is_last {
                break;
            }
        }
        collected.bytes = self.measure()?.total();
        Ok(collected)
    }

    /// The history of builds has a limit of its own, and no more than its part of a small store.
    fn trim_history_to(&self, goal: Goal) -> Result<(), StoreError> {
        let Goal::AtMost(bytes_max) = goal else { return Ok(()) };
        let limits = HistoryLimits::default();
        let bytes_max = limits.bytes_max.min(bytes_max / HISTORY_PART);
        self.trim_history(&HistoryLimits { bytes_max, ..limits })
    }

    /// Collectors take turns; nobody else waits for them. Held as long as what this returns. A lock on `mounts/` has no other
    /// meaning.
    fn collector_turn(&self) -> Result<OwnedFd, StoreError> {
        let failed = |errno| StoreError::io("lock for collecting", self.root().join("mounts"), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let turn = rustix::fs::openat(self.root_fd(), "mounts", flags, Mode::empty()).map_err(failed)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&turn, FlockOperation::LockExclusive))
            .map_err(failed)?;
        Ok(turn)
    }

    /// One choice, and what became of each item of it.
    fn collect_once(
        &self,
        measured: &Measured,
        goal: Goal,
        admit: &dyn Fn(&Item) -> bool,
    ) -> Result<Round, StoreError> {
        let alone = self.collect_alone()?;
        let (nodes, chosen) = self.collect_rows(measured, goal, admit)?;
        let mut taken = Taken::default();
        self.take_snapshots(&nodes, &chosen, &mut taken);
        self.take_blobs(&nodes, &chosen, &mut taken);
        drop(alone);
        // Deleting many files takes its time, and nobody waits for it.
        taken.asides.iter().for_each(|aside| self.discard(aside));
        taken.failed.map_or(Ok(()), Err)?;
        let mut done = taken.done;
        for &index in &chosen {
            let is_gone = match &nodes[index].what {
                What::Mount(name) => {
                    self.remove_mount(name)? && self.forget_mount_size(name).map(|()| true)?
                }
                What::Repository(name) => match repository_key(name) {
                    Some(key) => match self.try_lock_key(&key)? {
                        Some(_lock) => self.discard_repository(&key).map(|()| true)?,
                        None => false,
                    },
                    None => false,
                },
                What::Blob { .. } | What::Snapshot(_) | What::Fixed => continue,
            };
            done.push((nodes[index].item.clone(), is_gone));
        }
        Ok(Round { nodes, done })
    }

    /// Chooses, and deletes the rows of what is going and those that lead nowhere. Files go after their rows: who is killed
    /// in between leaves files too many, not too few.
    fn collect_rows(
        &self,
        measured: &Measured,
        goal: Goal,
        admit: &dyn Fn(&Item) -> bool,
    ) -> Result<(Vec<Node>, Vec<usize>), StoreError> {
        let opening = self.keep_openers_off()?;
        let is_ahead = Cell::new(false);
        let collected = self.write("collect", |transaction| {
            // What has a row by now was leased before it had one.
            let leased = self.leased_by_others(opening)?;
            let nodes = self.inventory(transaction, measured, &leased)?;
            let chosen = choose(&nodes, excess(goal, measured), SystemTime::now(), admit);
            let (mut snapshots, mut blobs) = (HashSet::new(), HashSet::new());
            for &index in &chosen {
                match &nodes[index].what {
                    What::Snapshot(id) => drop(snapshots.insert(*id)),
                    What::Blob { digest, .. } => drop(blobs.insert(*digest)),
                    What::Mount(_) | What::Repository(_) | What::Fixed => {}
                }
            }
            let failed = StoreError::database("collect");
            delete_rows(transaction, &snapshots).map_err(&failed)?;
            delete_pins(transaction, &blobs).map_err(&failed)?;
            if self.delete_images(transaction, &blobs)? {
                is_ahead.set(true);
                self.write_index(transaction)?;
            }
            Ok::<_, StoreError>((nodes, chosen))
        });
        collected.inspect_err(|_| self.mend_index(is_ahead.get()))
    }

    /// Takes the snapshots that were chosen out of their places. Those that stay there are the next opener's.
    fn take_snapshots(&self, nodes: &[Node], chosen: &[usize], taken: &mut Taken) {
        for &index in chosen {
            let What::Snapshot(id) = nodes[index].what else { continue };
            match self.set_aside(id) {
                Ok(aside) => {
                    taken.asides.extend(aside);
                    taken.done.push((nodes[index].item.clone(), true));
                }
                Err(error) => {
                    self.process().leave_to_next_opener();
                    taken.failed.get_or_insert(error);
                }
            }
        }
    }

    /// The same for blobs, if still nobody has written, leased or named them.
    fn take_blobs(&self, nodes: &[Node], chosen: &[usize], taken: &mut Taken) {
        let blobs = || {
            chosen.iter().filter_map(|&index| match &nodes[index].what {
                What::Blob { digest, written } => Some((&nodes[index].item, digest, *written)),
                _ => None,
            })
        };
        if blobs().next().is_none() {
            return;
        }
        let mut take = || {
            let opening = self.keep_openers_off()?;
            // No image that has a blob can appear as long as this transaction lasts.
            self.write("delete blobs", |transaction| {
                let leased = self.leased_by_others(opening)?;
                let images = digests(transaction, "SELECT digest FROM images")
                    .map_err(StoreError::database("list the images"))?;
                let kept = self.needed_by_containers()?.manifests;
                let live = self.reach(images.into_iter().chain(leased_blobs(&leased)).chain(kept))?;
                for (item, digest, written) in blobs() {
                    let keep = |now| now > written || live.contains(digest);
                    let aside = self.blobs().set_aside_unless(digest, keep)?;
                    taken.done.push((item.clone(), aside.is_some()));
                    taken.asides.extend(aside);
                }
                members::forget_lost(self, transaction)
            })
        };
        if let Err(error) = take() {
            taken.failed.get_or_insert(error);
        }
    }

    /// Deletes the images without a name that lose a blob. Says whether there were any.
    fn delete_images(
        &self,
        transaction: &Transaction<'_>,
        gone: &HashSet<Digest>,
    ) -> Result<bool, StoreError> {
        let failed = StoreError::database("collect images");
        let list = || {
            transaction
                .prepare_cached("SELECT id, digest FROM images WHERE name IS NULL")?
                .query_map([], |row| Ok((row.get::<_, i64>(0)?, Digest::from_bytes(row.get(1)?))))?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        let mut any = false;
        for (id, digest) in list().map_err(&failed)? {
            if self.reach([digest])?.is_disjoint(gone) {
                continue;
            }
            transaction
                .prepare_cached("DELETE FROM images WHERE id = ?1")
                .and_then(|mut delete| delete.execute([id]))
                .map_err(&failed)?;
            any = true;
        }
        Ok(any)
    }

    /// Takes a snapshot without a row out of its place.
    fn set_aside(&self, id: SnapshotId) -> Result<Option<String>, StoreError> {
        let aside = self.process().unique_name();
        match rustix::fs::renameat(self.snapshots_dir(), id.to_string(), self.process().fd(), &aside) {
            Ok(()) => Ok(Some(aside)),
            // Its files were not here.
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(StoreError::io("delete", self.root().join("snapshots").join(id.to_string()), errno))
            }
        }
    }

    /// Outside of the transaction that others wait for: there may be a row for every file of every context.
    fn forget_unseen_files(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "forget files that are gone";
        self.write(OPERATION, |transaction| {
            stat_cache::forget_unseen(transaction).map_err(StoreError::database(OPERATION))
        })
    }

    /// Gives pages that are free back to the file system.
    fn shrink_database(&self) -> Result<(), StoreError> {
        self.with_connection("shrink the database", |connection| {
            let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            let (free, all, page) = (pragma("freelist_count")?, pragma("page_count")?, pragma("page_size")?);
            // Others may be at work; the next collection tries again.
            if free * page > FREE_BYTES_MAX && free > all / 2 {
                let _ = connection.execute_batch("VACUUM");
            }
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            Ok(())
        })
    }
}

/// Whether a store of this size needs no collection.
fn is_reached(goal: Goal, bytes: u64) -> bool {
    match goal {
        Goal::Everything => false,
        Goal::AtMost(bytes_max) => bytes <= bytes_max,
    }
}

/// Bytes that have to go.
fn excess(goal: Goal, measured: &Measured) -> u64 {
    match goal {
        Goal::Everything => u64::MAX,
        Goal::AtMost(bytes_max) => measured.total().saturating_sub(bytes_max / 100 * KEPT_PERCENT),
    }
}

fn delete_rows(transaction: &Transaction<'_>, gone: &HashSet<SnapshotId>) -> rusqlite::Result<()> {
    for id in gone {
        rows::forget(transaction, *id)?;
    }
    let mut here = HashSet::new();
    let mut ids = transaction.prepare_cached("SELECT id FROM snapshots")?;
    let mut found = ids.query([])?;
    while let Some(row) = found.next()? {
        here.insert(SnapshotId(row.get::<_, i64>(0)?.cast_unsigned()));
    }
    delete_records_naming(transaction, |id| !here.contains(&id))?;
    let sweep = [
        "DELETE FROM urls WHERE snapshot NOT IN (SELECT id FROM snapshots)",
        "DELETE FROM uses WHERE snapshot NOT IN (SELECT id FROM snapshots)",
    ];
    sweep.iter().try_for_each(|statement| transaction.prepare_cached(statement)?.execute([]).map(drop))
}

/// Deletes the pins that lead to one of these blobs.
fn delete_pins(transaction: &Transaction<'_>, gone: &HashSet<Digest>) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM pins WHERE manifest = ?1 OR config = ?1")?;
    gone.iter().try_for_each(|digest| delete.execute([digest.as_bytes()]).map(drop))
}
