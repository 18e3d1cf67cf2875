//! Which of two lists' items stand for one another.

use crate::subsequence::longest_common;

/// More pairs than that are not compared: the lists go side by side then.
const PAIRS_MAX: usize = 4_000_000;

/// Pairs the items of two lists, given by their lengths, in their order. Those that are `same` are found across what is missing on one
/// side or put in; what lies between two of them, equally many on both sides or not, goes side by side.
pub(crate) fn align(
    first: usize,
    second: usize,
    same: impl Fn(usize, usize) -> bool,
) -> Vec<(Option<usize>, Option<usize>)> {
    let start = (0..first.min(second)).take_while(|&at| same(at, at)).count();
    let (first_left, second_left) = (first - start, second - start);
    let common = common(first_left, second_left, |a, b| same(start + a, start + b));
    let mut pairs: Vec<_> = (0..start).map(|at| (Some(at), Some(at))).collect();
    let (mut a, mut b) = (start, start);
    let ends = [(first, second)];
    for (next_a, next_b) in common.into_iter().map(|(a, b)| (start + a, start + b)).chain(ends) {
        for offset in 0..(next_a - a).max(next_b - b) {
            let within = |from: usize, to: usize| Some(from + offset).filter(|at| *at < to);
            pairs.push((within(a, next_a), within(b, next_b)));
        }
        if (next_a, next_b) != (first, second) {
            pairs.push((Some(next_a), Some(next_b)));
        }
        (a, b) = (next_a + 1, next_b + 1);
    }
    pairs
}

/// A longest common subsequence; none of lists that are too long for it.
fn common(first: usize, second: usize, same: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    if first.saturating_mul(second) > PAIRS_MAX {
        return Vec::new();
    }
    longest_common(first, second, same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_moves_the_rest_along() {
        for (first, second, expected) in [
            ("", "", ""),
            ("abc", "abc", "aa bb cc"),
            ("abc", "axbc", "aa .x bb cc"),
            ("axbc", "abc", "aa x. bb cc"),
            ("abc", "ab", "aa bb c."),
            ("abc", "xyz", "ax by cz"),
            ("abc", "aycz", "aa by cc .z"),
            ("aab", "ab", "aa a. bb"),
            ("ab", "xab", ".x aa bb"),
            ("abcd", "axyd", "aa bx cy dd"),
        ] {
            let (a, b) = (first.as_bytes(), second.as_bytes());
            let letter = |of: &[u8], at: Option<usize>| at.map_or('.', |at| char::from(of[at]));
            let pairs = align(a.len(), b.len(), |i, j| a[i] == b[j]);
            let pairs: Vec<_> =
                pairs.into_iter().map(|(i, j)| format!("{}{}", letter(a, i), letter(b, j))).collect();
            assert_eq!(pairs.join(" "), expected, "{first} {second}");
        }
    }

    #[test]
    fn long_lists_go_side_by_side() {
        let pairs = align(3000, 3000, |a, b| a + 1 == b);
        assert!(pairs.iter().all(|(a, b)| a == b));
    }
}
