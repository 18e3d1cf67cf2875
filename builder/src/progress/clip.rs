//! How much of a step's output is shown: a step that prints for ever must fill neither the memory nor a log.
//!
//! What comes after the first [`SHOWN_BYTES_MAX`] is left out, but for its end, which often says why a step failed; that is
//! shown when the step ends. The build's history keeps more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use wharf_solver::llb::VertexDigest;

use super::bytes;

/// Bytes of one step's output that are shown as they come.
pub(super) const SHOWN_BYTES_MAX: usize = 16 << 20;

/// Bytes of the end of what was left out.
const END_BYTES_MAX: usize = 16 << 10;

/// What a piece of output takes besides its bytes.
const PIECE_BYTES: usize = 64;

/// What was shown of each step, and the ends of what was left out.
#[derive(Debug, Default)]
pub(super) struct Clip(Mutex<HashMap<VertexDigest, Shown>>);

#[derive(Debug, Default)]
struct Shown {
    bytes: usize,
    left_out: u64,
    end: Vec<u8>,
}

impl Clip {
    /// Whether a piece of output is to be shown now.
    pub(super) fn shows(&self, vertex: &VertexDigest, data: &[u8]) -> bool {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = steps.entry(*vertex).or_default();
        let size = data.len() + PIECE_BYTES;
        if shown.left_out == 0 && shown.bytes + size <= SHOWN_BYTES_MAX {
            shown.bytes += size;
            return true;
        }
        shown.left_out += data.len() as u64;
        shown.end.extend_from_slice(data);
        if shown.end.len() > 2 * END_BYTES_MAX {
            shown.end.drain(..shown.end.len() - END_BYTES_MAX);
        }
        false
    }

    /// A step has ended: what is to be shown of what was left out.
    pub(super) fn end(&self, vertex: &VertexDigest) -> Option<Vec<u8>> {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shown { left_out, mut end, .. } = steps.remove(vertex).filter(|shown| shown.left_out > 0)?;
        if end.len() > END_BYTES_MAX {
            end.drain(..end.len() - END_BYTES_MAX);
        }
        // From the start of a line on, where there is one.
        if (end.len() as u64) < left_out
            && let Some(at) = end.iter().position(|byte| *byte == b'\n')
        {
            end.drain(..=at);
        }
        let left_out = bytes(left_out.saturating_sub(end.len() as u64));
        let mut shown = format!("\n[{left_out} of output are not shown]\n").into_bytes();
        shown.extend(end);
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_and_the_end_are_shown() {
        let clip = Clip::default();
        let (one, other) = (VertexDigest([1; 32]), VertexDigest([2; 32]));
        let chunk = b"0123456789abcde\n".repeat(1 << 12);
        let mut shown = 0;
        for _ in 0..1000 {
            if clip.shows(&one, &chunk) {
                shown += chunk.len();
            }
        }
        assert!((SHOWN_BYTES_MAX - (1 << 20)..=SHOWN_BYTES_MAX).contains(&shown), "{shown}");
        assert!(!clip.shows(&one, b"the last word\n"));
        assert!(clip.shows(&other, b"something else\n"));
        let end = String::from_utf8(clip.end(&one).unwrap()).unwrap();
        assert!(end.starts_with("\n[48.81MB of output are not shown]\n0123"), "{}", &end[..80]);
        assert!(end.ends_with("\nthe last word\n") && end.len() < END_BYTES_MAX + 100);
        assert_eq!((clip.end(&one), clip.end(&other)), (None, None));
        // A step that runs again begins again.
        assert!(clip.shows(&one, &chunk));
    }

    #[test]
    fn small_pieces_count_as_more_than_their_bytes() {
        let clip = Clip::default();
        let step = VertexDigest([1; 32]);
        let shown = (0..1_000_000).take_while(|_| clip.shows(&step, b"x")).count();
        assert!(shown < SHOWN_BYTES_MAX / PIECE_BYTES, "{shown}");
    }
}
