//! The tables of the history.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction};
use rustix::io::Errno;

use super::{
    BuildId, BuildLogs, BuildRow, BuildStatus, DOCUMENT_BYTES_MAX, HistoryLimits, HistorySize, NewGraph,
};
use crate::store::{Damage, from_nanos, to_nanos};
use crate::{ContentDigest, Key, Store, StoreError};

/// Descriptions are text that repeats itself: more effort gains little.
const COMPRESSION_LEVEL: i32 = 3;

impl Store {
    /// Records a build that is over, with its logs; the oldest builds go if there are too many. `graph` is the description
    /// of what it consisted of, for one that is not here ([`Self::has_build_graph`]). Gives back why logs are missing, if
    /// they are.
    pub fn record_build(
        &self,
        build: &BuildRow,
        graph: Option<&NewGraph>,
        logs: BuildLogs,
    ) -> Result<Option<StoreError>, StoreError> {
        const OPERATION: &str = "record the build";
        let failed = StoreError::database(OPERATION);
        let (dir, log_bytes, log_error) = logs.finish();
        if graph.is_none() && dir.is_none() && self.append_pending(build)? {
            return Ok(log_error);
        }
        let documents = graph.map(Documents::pack).transpose()?;
        let pending = self.take_pending()?;
        let gone = self.write_soon(OPERATION, |transaction| {
            if let Some(documents) = &documents {
                documents.insert(transaction, &build.graph).map_err(&failed)?;
            }
            for row in pending.iter().flat_map(|pending| &pending.rows) {
                insert(transaction, row).map_err(&failed)?;
            }
            let log_bytes = if dir.is_some() { log_bytes } else { 0 };
            insert(transaction, &BuildRow { log_bytes, ..build.clone() }).map_err(&failed)?;
            let may_be_too_big = dir.is_some() || documents.is_some();
            if may_be_too_big {
                self.note_growth();
            }
            let gone = self.trim(transaction, &HistoryLimits::default(), may_be_too_big, Some(build.id))?;
            if let Some(dir) = &dir {
                // The row is committed only after this: a directory without one is nobody's.
                rustix::fs::renameat(self.process().fd(), dir, self.history_dir(), build.id.to_string())
                    .map_err(|errno| StoreError::io("keep", self.root().join("history"), errno))?;
            }
            Ok::<_, StoreError>(gone)
        })?;
        self.discard_logs(&gone);
        pending.map_or(Ok(()), |pending| pending.moved(self))?;
        Ok(log_error)
    }

    /// Gives the builds their rows that have none yet.
    fn move_pending(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "record builds";
        let Some(pending) = self.take_pending()? else { return Ok(()) };
        let gone = self.write(OPERATION, |transaction| {
            for row in &pending.rows {
                insert(transaction, row).map_err(StoreError::database(OPERATION))?;
            }
            self.trim(transaction, &HistoryLimits::default(), false, None)
        })?;
        self.discard_logs(&gone);
        pending.moved(self)
    }

    /// Whether the description of a graph is here.
    pub fn has_build_graph(&self, digest: &Key) -> Result<bool, StoreError> {
        self.read("look up a build", |transaction| {
            transaction.prepare_cached("SELECT 1 FROM graphs WHERE digest = ?1")?.exists([&digest.0])
        })
    }

    /// The builds of a project, or of all, the newest first.
    pub fn builds(&self, project: Option<&Key>, count_max: usize) -> Result<Vec<BuildRow>, StoreError> {
        self.move_pending()?;
        let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
        self.read("list the builds", |transaction| {
            let columns = "id, project, started_ns, duration_ns, status, graph, outcome, log_bytes";
            let order = "ORDER BY ended_ns DESC, id LIMIT ?1";
            match project {
                Some(project) => transaction
                    .prepare_cached(&format!("SELECT {columns} FROM builds WHERE project = ?2 {order}"))?
                    .query_map((count_max, &project.0), build_row)?
                    .collect(),
                None => transaction
                    .prepare_cached(&format!("SELECT {columns} FROM builds {order}"))?
                    .query_map([count_max], build_row)?
                    .collect(),
            }
        })
    }

    /// The description of a graph.
    pub fn build_graph(&self, digest: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.document(("graphs", "digest"), &digest.0)
    }

    /// What files had this content, if that was kept.
    pub fn file_list(&self, content: &ContentDigest) -> Result<Option<Vec<u8>>, StoreError> {
        self.document(("file_lists", "content"), &content.0)
    }

    /// Whether [`Self::file_list`] has it.
    pub fn has_file_list(&self, content: &ContentDigest) -> Result<bool, StoreError> {
        self.read("look up a list of files", |transaction| {
            transaction.prepare_cached("SELECT 1 FROM file_lists WHERE content = ?1")?.exists([&content.0])
        })
    }

    /// Forgets builds, and what only they had.
    pub fn remove_builds(&self, builds: &[BuildId]) -> Result<(), StoreError> {
        self.move_pending()?;
        self.write("remove builds", |transaction| {
            remove_rows(transaction, builds)?;
            remove_unnamed(transaction)
        })?;
        self.discard_logs(builds);
        Ok(())
    }

    /// Forgets the oldest builds until the rest is within `limits`.
    pub fn trim_history(&self, limits: &HistoryLimits) -> Result<(), StoreError> {
        self.move_pending()?;
        let gone = self.write("remove builds", |transaction| self.trim(transaction, limits, true, None))?;
        self.discard_logs(&gone);
        Ok(())
    }

    /// Takes the directories of logs away that no row has. In a write transaction such a directory is nobody's.
    pub(crate) fn adopt_orphan_logs(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let failed = |errno| StoreError::io("collect", self.root().join("history"), errno);
        for entry in rustix::fs::Dir::read_from(self.history_dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(id) = entry.file_name().to_str().unwrap_or_default().parse::<BuildId>() else { continue };
            let is_recorded = transaction
                .prepare_cached("SELECT 1 FROM builds WHERE id = ?1")
                .and_then(|mut query| query.exists([id.row_id()]))
                .map_err(StoreError::database("collect leftovers"))?;
            if !is_recorded {
                self.take_logs(id)?;
            }
        }
        Ok(())
    }

    /// Moves the logs of a build into the process's directory; their name there, if there were any.
    fn take_logs(&self, id: BuildId) -> Result<Option<String>, StoreError> {
        let name = self.process().unique_name();
        match rustix::fs::renameat(self.history_dir(), id.to_string(), self.process().fd(), &name) {
            Ok(()) => Ok(Some(name)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(StoreError::io("remove", self.root().join("history").join(id.to_string()), errno))
            }
        }
    }

    /// Deletes the logs of builds that have no row any more: not before, because a transaction that fails brings the rows back.
    /// What cannot be taken away is the next opener's.
    fn discard_logs(&self, builds: &[BuildId]) {
        for &id in builds {
            match self.take_logs(id) {
                Ok(name) => name.iter().for_each(|name| self.discard(name)),
                Err(_) => self.process().leave_to_next_opener(),
            }
        }
    }

    /// A document of this table, if it is there. One that cannot be read is dropped.
    fn document(&self, (table, name): (&str, &str), key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let frame: Option<Vec<u8>> = self.read("read the history", |transaction| {
            let select = format!("SELECT bytes FROM {table} WHERE {name} = ?1");
            transaction.prepare_cached(&select)?.query_row([key], |row| row.get(0)).optional()
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let document = unpack(&frame);
        if document.is_none() {
            const OPERATION: &str = "drop a document of the history";
            self.write(OPERATION, |transaction| {
                let delete = format!("DELETE FROM {table} WHERE {name} = ?1");
                transaction.execute(&delete, [key]).map_err(StoreError::database(OPERATION))
            })?;
            self.damages().note(Damage::History(1));
        }
        Ok(document)
    }

    /// Removes what is too much, `kept` not; the builds whose logs have to go then.
    fn trim(
        &self,
        transaction: &Transaction<'_>,
        limits: &HistoryLimits,
        may_be_too_big: bool,
        kept: Option<BuildId>,
    ) -> Result<Vec<BuildId>, StoreError> {
        let failed = StoreError::database("remove builds");
        let count: i64 = transaction
            .prepare_cached("SELECT count(*) FROM builds")
            .and_then(|mut query| query.query_row([], |row| row.get(0)))
            .map_err(&failed)?;
        let count = usize::try_from(count).unwrap_or(0);
        let mut gone = Vec::new();
        if count > limits.builds_max {
            let surplus = oldest(transaction, count - limits.builds_max, kept).map_err(&failed)?;
            remove_rows(transaction, &surplus)?;
            remove_unnamed(transaction)?;
            gone.extend(surplus);
        }
        if !may_be_too_big {
            return Ok(gone);
        }
        loop {
            let size = history_size(transaction).map_err(&failed)?;
            if size.log_bytes + size.document_bytes <= limits.bytes_max {
                break;
            }
            // A tenth at a time: what is at the limit stays there for long.
            let surplus = oldest(transaction, size.builds.div_ceil(10), kept).map_err(&failed)?;
            if surplus.is_empty() {
                break;
            }
            remove_rows(transaction, &surplus)?;
            remove_unnamed(transaction)?;
            gone.extend(surplus);
        }
        Ok(gone)
    }
}

/// A description and its lists, compressed.
struct Documents {
    graph: Vec<u8>,
    lists: Vec<ContentDigest>,
    new_lists: Vec<(ContentDigest, Vec<u8>)>,
}

impl Documents {
    fn pack(graph: &NewGraph) -> Result<Self, StoreError> {
        let new_lists = graph.new_lists.iter().filter(|(_, list)| list.len() <= DOCUMENT_BYTES_MAX);
        Ok(Self {
            graph: pack(&graph.bytes)?,
            lists: graph.lists.clone(),
            new_lists: new_lists
                .map(|(content, list)| Ok((*content, pack(list)?)))
                .collect::<Result<_, StoreError>>()?,
        })
    }

    fn insert(&self, transaction: &Transaction<'_>, digest: &Key) -> rusqlite::Result<()> {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO graphs (digest, bytes) VALUES (?1, ?2)")?
            .execute((&digest.0, &self.graph))?;
        let mut name = transaction
            .prepare_cached("INSERT OR IGNORE INTO graph_lists (graph, content) VALUES (?1, ?2)")?;
        for content in &self.lists {
            name.execute((&digest.0, &content.0))?;
        }
        let mut insert = transaction
            .prepare_cached("INSERT OR IGNORE INTO file_lists (content, bytes) VALUES (?1, ?2)")?;
        for (content, bytes) in &self.new_lists {
            insert.execute((&content.0, bytes))?;
        }
        Ok(())
    }
}

fn pack(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let failed = |source| StoreError::io("compress", "the description of the build", source);
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let message = format!("it has more than {DOCUMENT_BYTES_MAX} bytes");
        return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)));
    }
    zstd::bulk::compress(bytes, COMPRESSION_LEVEL).map_err(failed)
}

/// A document out of its frame, if it is one.
fn unpack(frame: &[u8]) -> Option<Vec<u8>> {
    // The size that the frame claims is checked before there is memory for it.
    let claimed = zstd::bulk::Decompressor::upper_bound(frame)?;
    if claimed > DOCUMENT_BYTES_MAX {
        return None;
    }
    zstd::bulk::decompress(frame, claimed).ok()
}

/// Inserts a row that is not there yet.
fn insert(transaction: &Transaction<'_>, build: &BuildRow) -> rusqlite::Result<()> {
    let duration_ns = i64::try_from(build.duration.as_nanos()).unwrap_or(i64::MAX);
    let started_ns = to_nanos(build.started);
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO builds (id, project, started_ns, duration_ns, ended_ns, status, graph, outcome, log_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            build.id.row_id(),
            &build.project.0,
            started_ns,
            duration_ns,
            started_ns.saturating_add(duration_ns),
            build.status.code(),
            &build.graph.0,
            &build.outcome,
            build.log_bytes.cast_signed(),
        ))
        .map(drop)
}

fn build_row(row: &Row<'_>) -> rusqlite::Result<BuildRow> {
    Ok(BuildRow {
        id: BuildId(row.get::<_, i64>(0)?.cast_unsigned()),
        project: Key(row.get(1)?),
        started: from_nanos(row.get(2)?),
        duration: Duration::from_nanos(row.get::<_, i64>(3)?.max(0).cast_unsigned()),
        status: BuildStatus::from_code(row.get(4)?),
        graph: Key(row.get(5)?),
        outcome: row.get(6)?,
        log_bytes: row.get::<_, i64>(7)?.cast_unsigned(),
    })
}

pub(super) fn history_size(transaction: &Transaction<'_>) -> rusqlite::Result<HistorySize> {
    let sum = |select: &str| -> rusqlite::Result<(i64, i64)> {
        transaction.prepare_cached(select)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let (builds, log_bytes) = sum("SELECT count(*), coalesce(sum(log_bytes), 0) FROM builds")?;
    let (_, graph_bytes) = sum("SELECT count(*), coalesce(sum(length(bytes)), 0) FROM graphs")?;
    let (_, list_bytes) = sum("SELECT count(*), coalesce(sum(length(bytes)), 0) FROM file_lists")?;
    Ok(HistorySize {
        builds: usize::try_from(builds).unwrap_or(0),
        log_bytes: log_bytes.cast_unsigned(),
        document_bytes: graph_bytes.cast_unsigned() + list_bytes.cast_unsigned(),
    })
}

fn oldest(
    transaction: &Transaction<'_>,
    count: usize,
    kept: Option<BuildId>,
) -> rusqlite::Result<Vec<BuildId>> {
    let mut select =
        transaction.prepare_cached("SELECT id FROM builds WHERE id IS NOT ?1 ORDER BY ended_ns LIMIT ?2")?;
    let kept = kept.map(BuildId::row_id);
    let rows = select.query_map((kept, i64::try_from(count).unwrap_or(i64::MAX)), |row| {
        Ok(BuildId(row.get::<_, i64>(0)?.cast_unsigned()))
    })?;
    rows.collect()
}

fn remove_rows(transaction: &Transaction<'_>, builds: &[BuildId]) -> Result<(), StoreError> {
    let remove = || {
        let mut delete = transaction.prepare_cached("DELETE FROM builds WHERE id = ?1")?;
        builds.iter().try_for_each(|id| delete.execute([id.row_id()]).map(drop))
    };
    remove().map_err(StoreError::database("remove builds"))
}

/// Deletes descriptions that no build has, and lists that no description has.
fn remove_unnamed(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction
        .execute_batch(
            "DELETE FROM graphs WHERE digest NOT IN (SELECT graph FROM builds);
             DELETE FROM graph_lists WHERE graph NOT IN (SELECT digest FROM graphs);
             DELETE FROM file_lists WHERE content NOT IN (SELECT content FROM graph_lists);",
        )
        .map_err(StoreError::database("remove builds"))
}
