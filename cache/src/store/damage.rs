//! What was found damaged or missing: each find is noted where it is dropped, and told once by whoever asks.

use std::fmt;
use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::{Digest, SnapshotId};

/// Names that a message lists; of more it says how many there are.
const NAMED_MAX: usize = 3;

/// Something of the store that was found damaged or missing, and has been dropped: it is made or brought anew when it is
/// wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The database was unusable; a new one was begun.
    Database {
        /// Where the old one is now.
        set_aside: PathBuf,
    },
    /// Blobs that did not have the bytes of their digest.
    Blobs(Vec<Digest>),
    /// Snapshots whose files were gone, or not what they were.
    Snapshots(Vec<SnapshotId>),
    /// Records that could not be read.
    Records(usize),
    /// Documents of the history that could not be read.
    History(usize),
    /// Instances of caches that were not whole, by the name of the cache.
    CacheMounts(Vec<String>),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { set_aside } => write!(
                f,
                "the database of the store was damaged: it is now `{}`, and a new one was begun with the images of \
                 index.json; steps run again",
                set_aside.display()
            ),
            Self::Blobs(digests) => {
                write!(f, "deleted from the store because of other bytes than their digest says: ")?;
                write!(f, "{}", Listed("blob", digests))
            }
            Self::Snapshots(ids) => {
                write!(f, "the store has lost or changed the files of {}; ", Listed("snapshot", ids))?;
                write!(f, "what made them runs again")
            }
            Self::Records(count) => {
                let plural = if *count == 1 { "" } else { "s" };
                write!(f, "{count} unreadable cache record{plural} dropped from the store")
            }
            Self::History(count) => {
                let plural = if *count == 1 { "" } else { "s" };
                write!(f, "{count} unreadable document{plural} of the history dropped from the store")
            }
            Self::CacheMounts(ids) => {
                write!(f, "begun anew because its directory was not whole: {}", Listed("cache", ids))
            }
        }
    }
}

/// Names of things of one kind.
struct Listed<'a, T>(&'static str, &'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind, all) = self;
        let plural = if all.len() == 1 { "" } else { "s" };
        write!(f, "{kind}{plural} ")?;
        for (number, name) in all.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{name}", if number == 0 { "" } else { ", " })?;
        }
        match all.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Finds that nobody has been told of yet.
#[derive(Debug, Default)]
pub(crate) struct Damages(Mutex<Vec<Damage>>);

impl Damages {
    /// Notes a find, together with those of its kind.
    pub(crate) fn note(&self, damage: Damage) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for known in all.iter_mut() {
            match (known, &damage) {
                (Damage::Blobs(known), Damage::Blobs(more)) => return add(known, more),
                (Damage::Snapshots(known), Damage::Snapshots(more)) => return add(known, more),
                (Damage::CacheMounts(known), Damage::CacheMounts(more)) => return add(known, more),
                (Damage::Records(known), Damage::Records(more))
                | (Damage::History(known), Damage::History(more)) => return *known += more,
                _ => {}
            }
        }
        all.push(damage);
    }

    /// What was noted since this was asked last.
    pub(crate) fn take(&self) -> Vec<Damage> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn add<T: Clone + PartialEq>(known: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !known.contains(one) {
            known.push(one.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_of_a_kind_are_told_together_and_once() {
        let damages = Damages::default();
        for id in [1, 2, 2, 3, 4, 5] {
            damages.note(Damage::Snapshots(vec![SnapshotId(id)]));
            damages.note(Damage::Records(1));
        }
        damages.note(Damage::Blobs(vec![Digest::of(b"")]));
        damages.note(Damage::Database { set_aside: PathBuf::from("/s/state.db.damaged") });
        damages.note(Damage::CacheMounts(vec!["go".to_owned()]));
        let told: Vec<_> = damages.take().iter().map(Damage::to_string).collect();
        expect_test::expect![[r#"
            [
                "the store has lost or changed the files of snapshots 0000000000000001, 0000000000000002, 0000000000000003 and 2 more; what made them runs again",
                "6 unreadable cache records dropped from the store",
                "deleted from the store because of other bytes than their digest says: blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "the database of the store was damaged: it is now `/s/state.db.damaged`, and a new one was begun with the images of index.json; steps run again",
                "begun anew because its directory was not whole: cache go",
            ]
        "#]].assert_debug_eq(&told);
        assert_eq!(damages.take(), []);
    }
}
