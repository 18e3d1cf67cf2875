//! Whether a layer's blob is what is said of it, without unpacking it.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::decompress::{Format, peek};
use super::{DiffError, LayerSource};
use crate::Digest;

/// A stream is digested in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// Reads `blob` to its end and compares compression and diffID with what `source` says. Its digest and size are the
/// caller's to check.
pub(super) fn check_layer(source: &LayerSource, mut blob: impl Read) -> Result<(), DiffError> {
    let failed = |error| DiffError::Read { object: format!("layer {}", source.digest), source: error };
    let found = tar_digest(source, &mut blob).map_err(failed)?;
    // A decoder need not read what follows the last stream.
    io::copy(&mut blob, &mut io::sink()).map_err(failed)?;
    if found == source.diff_id.0 {
        return Ok(());
    }
    Err(DiffError::Mismatch {
        layer: source.digest,
        what: "diffID",
        expected: source.diff_id.0.to_string(),
        actual: found.to_string(),
    })
}

fn tar_digest(source: &LayerSource, blob: &mut impl Read) -> io::Result<Digest> {
    let (start, stream) = peek(blob)?;
    let mut tar = Format::announced(&source.media_type, &start)?.decoder(stream)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match tar.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiffId;

    #[track_caller]
    fn check(blob: &[u8], media_type: &str, tar: &[u8], expected: Result<(), &str>) {
        let source = LayerSource {
            digest: Digest::of(blob),
            size: blob.len() as u64,
            media_type: media_type.to_owned(),
            diff_id: DiffId(Digest::of(tar)),
        };
        let checked = check_layer(&source, blob);
        let said = checked.map_err(|error| match error {
            DiffError::Read { source, .. } => source.to_string(),
            error => error.to_string(),
        });
        match (said, expected) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(word)) if said.contains(word) => {}
            (said, expected) => panic!("{said:?} is not {expected:?}"),
        }
    }

    #[test]
    fn a_layer_is_what_is_said_of_it_or_refused() {
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
        const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
        let tar = vec![7; 3 * BUFFER_BYTES / 2];
        let zstd = zstd::bulk::compress(&tar, 1).unwrap();
        check(&tar, TAR, &tar, Ok(()));
        check(&zstd, ZSTD, &tar, Ok(()));
        check(&zstd, ZSTD, b"other", Err("diffID"));
        check(&zstd, TAR, &tar, Err("announced"));
        check(&tar, ZSTD, &tar, Err("announced"));
        check(&zstd[..zstd.len() / 2], ZSTD, &tar, Err(""));
    }
}
