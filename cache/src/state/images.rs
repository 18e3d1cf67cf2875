//! Named images, and `index.json`, which shows them to other tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize};

use super::Image;
use crate::gc::lease::Leased;
use crate::store::{from_nanos, to_nanos};
use crate::{Digest, Store, StoreError};

/// The annotation by which tools find an image in a layout (OCI image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// OCI image-spec, image-index.md.
const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// An `index.json` found without a database is taken over only up to this size.
const INDEX_BYTES_MAX: u64 = 4 << 20;

const COLUMNS: &str = "name, digest, size, media_type, created_ns";

impl Store {
    /// Names an image (or records an untagged one), replacing what had the name; rewrites `index.json` atomically.
    /// The image that had the name before stays as an untagged one if it has no other name. The manifest must be
    /// in the store.
    pub fn put_image(&self, image: &Image) -> Result<(), StoreError> {
        self.write("store an image", |transaction| {
            if self.blobs().size(&image.digest)?.is_none() {
                return Err(StoreError::Missing { kind: "blob", name: image.digest.to_string() });
            }
            if put_row(transaction, image).map_err(StoreError::database("store an image"))? {
                self.write_index(transaction)?;
            }
            Ok(())
        })
    }

    /// Keeps an image from being collected as long as this process lives, whether it has a name or not. Says whether it
    /// is still here.
    pub fn lease_image(&self, image: &Image) -> Result<bool, StoreError> {
        let find = || {
            self.read("look up an image", |transaction| {
                transaction
                    .prepare_cached("SELECT 1 FROM images WHERE digest = ?1")?
                    .query_row([image.digest.as_bytes()], |_| Ok(()))
                    .optional()
            })
        };
        Ok(self.find_and_lease(find, |()| vec![Leased::Blob(image.digest)])?.is_some())
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        self.read("list the images", |transaction| {
            let query = format!("SELECT {COLUMNS} FROM images ORDER BY created_ns DESC, id DESC");
            transaction.prepare_cached(&query)?.query_map([], image_of)?.collect()
        })
    }

    /// Writes `index.json` from the rows.
    pub(crate) fn write_index(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let rows = || {
            let query = format!("SELECT {COLUMNS} FROM images ORDER BY id");
            transaction.prepare_cached(&query)?.query_map([], image_of)?.collect::<Result<Vec<_>, _>>()
        };
        let images = rows().map_err(StoreError::database("list the images"))?;
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX_MEDIA_TYPE.to_owned()),
            manifests: images.into_iter().map(Descriptor::from).collect(),
        };
        let json = serde_json::to_vec(&index).expect("strings and numbers have a JSON form");
        self.write_file("index.json", &json)
    }
}

/// Takes over the images of an `index.json` that is there while the database is new: the root was an OCI layout
/// before, or its database was deleted. What cannot be read is not taken over.
pub(crate) fn import_index(root: &Path, transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let path = root.join("index.json");
    let read = || {
        let mut bytes = Vec::new();
        File::open(&path)?.take(INDEX_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    let Ok(index) = serde_json::from_slice::<Index>(&bytes) else { return Ok(()) };
    for descriptor in index.manifests {
        if root.join("blobs/sha256").join(descriptor.digest.hex()).is_file() {
            put_row(transaction, &descriptor.into()).map_err(StoreError::database("take over the images"))?;
        }
    }
    Ok(())
}

/// Returns whether anything changed.
fn put_row(transaction: &Transaction<'_>, image: &Image) -> rusqlite::Result<bool> {
    let digest = image.digest.as_bytes();
    if let Some(name) = &image.name {
        let before = transaction
            .prepare_cached("SELECT id, digest FROM images WHERE name = ?1")?
            .query_row([name], |row| Ok((row.get(0)?, Digest::from_bytes(row.get(1)?))))
            .optional()?;
        match before {
            Some((_, before)) if before == image.digest => return Ok(false),
            Some((id, before)) => untag(transaction, id, &before)?,
            None => {}
        }
        transaction
            .prepare_cached("DELETE FROM images WHERE digest = ?1 AND name IS NULL")?
            .execute([digest])?;
    } else if transaction.prepare_cached("SELECT 1 FROM images WHERE digest = ?1")?.exists([digest])? {
        return Ok(false);
    }
    transaction
        .prepare_cached(
            "INSERT INTO images (name, digest, size, media_type, created_ns, recorded_ns)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            &image.name,
            digest,
            image.size.cast_signed(),
            &image.media_type,
            to_nanos(image.created),
            to_nanos(SystemTime::now()),
        ))?;
    Ok(true)
}

/// Takes its name from row `id`; the row goes when its image has another one.
fn untag(transaction: &Transaction<'_>, id: i64, digest: &Digest) -> rusqlite::Result<()> {
    let has_other_row = transaction
        .prepare_cached("SELECT 1 FROM images WHERE digest = ?1 AND id <> ?2")?
        .exists((digest.as_bytes(), id))?;
    let statement = if has_other_row {
        "DELETE FROM images WHERE id = ?1"
    } else {
        "UPDATE images SET name = NULL WHERE id = ?1"
    };
    transaction.prepare_cached(statement)?.execute([id]).map(drop)
}

fn image_of(row: &Row<'_>) -> rusqlite::Result<Image> {
    Ok(Image {
        name: row.get(0)?,
        digest: Digest::from_bytes(row.get(1)?),
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        media_type: row.get(3)?,
        created: from_nanos(row.get(4)?),
    })
}

/// OCI image-spec, image-index.md.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
}

/// OCI image-spec, descriptor.md, as far as `index.json` has it here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl From<Image> for Descriptor {
    fn from(image: Image) -> Self {
        let annotations = image.name.map(|name| (REF_NAME.to_owned(), name)).into_iter().collect();
        Self { media_type: image.media_type, digest: image.digest, size: image.size, annotations }
    }
}

impl From<Descriptor> for Image {
    fn from(mut descriptor: Descriptor) -> Self {
        Self {
            name: descriptor.annotations.remove(REF_NAME),
            digest: descriptor.digest,
            size: descriptor.size,
            media_type: descriptor.media_type,
            created: SystemTime::now(),
        }
    }
}
