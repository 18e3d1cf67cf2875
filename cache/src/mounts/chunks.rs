//! Where a stream is cut: content-defined boundaries (a gear hash with normalized chunk sizes, as FastCDC has it), so that
//! a change in one place changes the chunks at that place and no others.

/// No chunk but the last is smaller.
const CHUNK_BYTES_MIN: usize = 256 * 1024;
/// What most chunks come near to: large enough that a request a chunk is cheap, small enough that little is sent twice.
const CHUNK_BYTES_USUAL: usize = 1024 * 1024;
/// No chunk is larger.
pub(super) const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that the hash remembers: one bit of shift a byte.
const WINDOW_BYTES: usize = 64;
/// Bits that must be zero at a boundary, before the usual size is reached and after: a cut becomes likely near it.
const BITS_BEFORE: u32 = 22;
const BITS_AFTER: u32 = 18;

/// Cuts one stream.
#[derive(Debug)]
pub(super) struct Cutter {
    gear: [u64; 256],
    hash: u64,
    len: usize,
}

impl Cutter {
    /// At the beginning of a stream.
    pub(super) fn new() -> Self {
        Self { gear: gear(), hash: 0, len: 0 }
    }

    /// How many of `bytes`, which go on with the stream, belong to the present chunk, if it ends among them.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        // Before the smallest size nothing is cut, and the hash forgets all but its window.
        let skipped = (CHUNK_BYTES_MIN - WINDOW_BYTES).saturating_sub(self.len).min(bytes.len());
        self.len += skipped;
        for (index, byte) in bytes.iter().enumerate().skip(skipped) {
            self.hash = (self.hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
            self.len += 1;
            let bits = if self.len < CHUNK_BYTES_USUAL { BITS_BEFORE } else { BITS_AFTER };
            let is_boundary = self.len >= CHUNK_BYTES_MIN && self.hash >> (u64::BITS - bits) == 0;
            if is_boundary || self.len == CHUNK_BYTES_MAX {
                (self.hash, self.len) = (0, 0);
                return Some(index + 1);
            }
        }
        None
    }
}

/// Random numbers that never change: with others all boundaries would move, and nothing would be found again.
fn gear() -> [u64; 256] {
    let mut bytes = [0; 256 * 8];
    blake3::Hasher::new_derive_key("wharf chunk boundaries, version 1").finalize_xof().fill(&mut bytes);
    let mut gear = [0; 256];
    for (number, eight) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_le_bytes(eight.try_into().expect("chunks of eight"));
    }
    gear
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::tests::noise;

    /// The chunks of a stream that comes in pieces of `piece` bytes.
    fn chunks(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let (mut cutter, mut chunks, mut chunk) = (Cutter::new(), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(piece) {
            while let Some(end) = cutter.cut(piece) {
                chunk.extend_from_slice(&piece[..end]);
                chunks.push(std::mem::take(&mut chunk));
                piece = &piece[end..];
            }
            chunk.extend_from_slice(piece);
        }
        chunks.push(chunk);
        chunks
    }

    #[test]
    fn boundaries_do_not_depend_on_how_the_bytes_come_and_never_change() {
        let bytes = noise(0, 12 << 20);
        let whole = chunks(&bytes, bytes.len());
        for piece in [1000, 65_536, 1 << 20] {
            assert!(chunks(&bytes, piece) == whole, "in pieces of {piece}");
        }
        assert!(whole.concat() == bytes);
        let sizes: Vec<usize> = whole.iter().map(Vec::len).collect();
        let (last, others) = sizes.split_last().unwrap();
        assert!(others.iter().all(|size| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(size)), "{sizes:?}");
        assert!(*last <= CHUNK_BYTES_MAX);
        // The format: other sizes than these mean that no older cache is found again.
        expect_test::expect![
            "[2185953, 1058142, 1414236, 1133715, 1215959, 1323580, 838652, 1435122, 1131362, 846191]"
        ]
        .assert_eq(&format!("{sizes:?}"));
    }

    #[test]
    fn a_change_changes_the_chunks_around_it() {
        let old = noise(0, 16 << 20);
        let new = [&old[..5 << 20], b"inserted", &old[5 << 20..]].concat();
        let (old, new) = (chunks(&old, 1 << 20), chunks(&new, 1 << 20));
        let fresh = new.iter().filter(|chunk| !old.contains(chunk)).count();
        assert!((1..=3).contains(&fresh), "{fresh} of {}", new.len());
    }

    #[test]
    fn zeros_are_cut_too() {
        let sizes: Vec<usize> = chunks(&vec![0; 10 << 20], 4096).iter().map(Vec::len).collect();
        assert!(sizes.iter().all(|size| *size <= CHUNK_BYTES_MAX), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 10 << 20);
    }
}
