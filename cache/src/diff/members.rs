//! The compressed members of layers that were made before. A piece of tar that was compressed for one of them is not
//! compressed again but copied out of its blob: compressing it would give the same bytes, and so the layer that is made
//! does not depend on what is remembered.
//!
//! What is remembered is a hint. A blob may be gone or damaged: what is read from it must have the digest that the member
//! had, or the piece is compressed, and the row replaced when the layer is stored.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rusqlite::{OptionalExtension, Transaction};

use super::tar_writer::PIECE_BYTES_MAX;
use crate::{Digest, Store, StoreError};

/// Of a piece of tar and of how it is compressed.
pub(super) type MemberKey = [u8; 32];

/// Of a member, against damage.
pub(super) type CheckSum = [u8; 16];

/// No member is larger, also of what cannot be compressed.
const MEMBER_BYTES_MAX: usize = 2 * PIECE_BYTES_MAX;

/// A member of a layer that has just been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(super) key: MemberKey,
    /// Where in the blob it begins.
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) sum: CheckSum,
}

/// Looks for members in the blobs of a store.
#[derive(Debug)]
pub(super) struct Members {
    store: Store,
    /// How the wanted members are compressed.
    form: [u8; 32],
    /// The blob that was read last: most of a layer's come from one other.
    blob: Option<(Digest, File)>,
}

impl Members {
    /// `form` names what compresses, with its level and version.
    pub(super) fn new(store: &Store, form: &str) -> Self {
        let form = blake3::derive_key("wharf members of layers, version 1", form.as_bytes());
        Self { store: store.clone(), form, blob: None }
    }

    /// The same for another thread.
    pub(super) fn again(&self) -> Self {
        Self { store: self.store.clone(), form: self.form, blob: None }
    }

    pub(super) fn key_of(&self, piece: &[u8]) -> MemberKey {
        *blake3::keyed_hash(&self.form, piece).as_bytes()
    }

    /// Puts the member with this key into `member`, if it is here whole, and gives its sum.
    pub(super) fn find(&mut self, key: &MemberKey, member: &mut Vec<u8>) -> Option<CheckSum> {
        // What the database refuses here it will refuse when the layer is stored.
        let (digest, start, size, sum) = self.look_up(key).ok().flatten()?;
        if size > MEMBER_BYTES_MAX {
            return None;
        }
        if self.blob.as_ref().is_none_or(|(open, _)| *open != digest) {
            self.blob = Some((digest, self.store.blobs().open_part(&digest).ok()?));
        }
        let (_, file) = self.blob.as_ref()?;
        member.resize(size, 0);
        file.read_exact_at(member, start).ok()?;
        (sum_of(member) == sum).then_some(sum)
    }

    fn look_up(&self, key: &MemberKey) -> Result<Option<(Digest, u64, usize, CheckSum)>, StoreError> {
        self.store.read("look up a member", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT b.digest, m.start, m.size, m.sum FROM members m JOIN member_blobs b ON b.id = m.blob
                     WHERE m.key = ?1",
                )?
                .query_row([key], |row| {
                    let start = row.get::<_, i64>(1)?.cast_unsigned();
                    let size = usize::try_from(row.get::<_, i64>(2)?).unwrap_or(usize::MAX);
                    Ok((Digest::from_bytes(row.get(0)?), start, size, row.get(3)?))
                })
                .optional()
        })
    }
}

pub(super) fn sum_of(member: &[u8]) -> CheckSum {
    *blake3::hash(member).as_bytes().first_chunk().expect("a digest has 32 bytes")
}

/// Remembers the members of a blob, in the place of equal ones of older blobs, which are likely to go earlier.
pub(crate) fn remember(
    transaction: &Transaction<'_>,
    blob: &Digest,
    members: &[Remembered],
) -> rusqlite::Result<()> {
    if members.is_empty() {
        return Ok(());
    }
    let digest = blob.as_bytes();
    transaction
        .prepare_cached("INSERT OR IGNORE INTO member_blobs (digest) VALUES (?1)")?
        .execute([digest])?;
    let id: i64 = transaction
        .prepare_cached("SELECT id FROM member_blobs WHERE digest = ?1")?
        .query_row([digest], |row| row.get(0))?;
    let mut insert = transaction.prepare_cached(
        "INSERT OR REPLACE INTO members (key, blob, start, size, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    members.iter().try_for_each(|member| {
        let (start, size) = (member.start.cast_signed(), member.size.cast_signed());
        insert.execute((member.key, id, start, size, member.sum)).map(drop)
    })
}

/// Forgets the members of blobs that are gone.
pub(crate) fn forget_lost(store: &Store, transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let failed = StoreError::database("forget members");
    let blobs = || {
        transaction
            .prepare_cached("SELECT id, digest FROM member_blobs")?
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, Digest::from_bytes(row.get(1)?))))?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    let mut is_any_lost = false;
    for (id, digest) in blobs().map_err(&failed)? {
        if store.blobs().size(&digest)?.is_none() {
            is_any_lost = true;
            transaction
                .prepare_cached("DELETE FROM member_blobs WHERE id = ?1")
                .and_then(|mut delete| delete.execute([id]))
                .map_err(&failed)?;
        }
    }
    if is_any_lost {
        transaction
            .execute("DELETE FROM members WHERE blob NOT IN (SELECT id FROM member_blobs)", [])
            .map_err(&failed)?;
    }
    Ok(())
}
