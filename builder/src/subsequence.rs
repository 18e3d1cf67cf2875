//! What two lists have in common, in the order of both.

/// A longest common subsequence of two lists, given by their lengths, as pairs of indices. Takes time and memory for every pair
/// of items: the caller limits them.
pub(crate) fn longest_common(
    first: usize,
    second: usize,
    same: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let width = second + 1;
    // lengths[a][b]: of the longest one of what follows from a and from b on.
    let mut lengths = vec![0_u32; (first + 1) * width];
    for a in (0..first).rev() {
        for b in (0..second).rev() {
            lengths[a * width + b] = match same(a, b) {
                true => lengths[(a + 1) * width + b + 1] + 1,
                false => lengths[(a + 1) * width + b].max(lengths[a * width + b + 1]),
            };
        }
    }
    let (mut a, mut b, mut pairs) = (0, 0, Vec::new());
    while a < first && b < second {
        if same(a, b) {
            pairs.push((a, b));
            (a, b) = (a + 1, b + 1);
        } else if lengths[(a + 1) * width + b] >= lengths[a * width + b + 1] {
            a += 1;
        } else {
            b += 1;
        }
    }
    pairs
}
