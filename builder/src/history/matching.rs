//! Which step of an earlier build a step stands for.
//!
//! Steps are told by their display names, `[build 2/5] RUN make`: by stage and text first, whatever their numbers. What is
//! left between two such pairs of a stage was changed in place: it is paired in order with what has the same instruction.
//! So an instruction that is put in or taken out moves nothing, and one that was edited is compared with what it was.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use crate::subsequence::longest_common;

/// Where two stages have more pairs of steps than this to compare, equal ones are paired in order.
const PAIRS_MAX: usize = 4_000_000;

/// For each of `now` its counterpart among `before`, each used once.
pub(super) fn match_steps(before: &[&str], now: &[&str]) -> Vec<Option<usize>> {
    let (before, now): (Vec<Name<'_>>, Vec<Name<'_>>) = (names(before), names(now));
    let mut matched = vec![None; now.len()];
    let mut stages: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, name) in before.iter().enumerate() {
        stages.entry(name.stage).or_default().0.push(index);
    }
    for (index, name) in now.iter().enumerate() {
        stages.entry(name.stage).or_default().1.push(index);
    }
    for (old, new) in stages.values() {
        let texts = |names: &[Name<'_>], of: &[usize]| {
            of.iter().map(|&it| names[it].text.to_owned()).collect::<Vec<_>>()
        };
        let anchors = common(&texts(&before, old), &texts(&now, new));
        let mut gap = (0, 0);
        for (a, b) in anchors.into_iter().chain([(old.len(), new.len())]) {
            edited(&before, &now, (old, gap.0..a), (new, gap.1..b), &mut matched);
            if let (Some(&a), Some(&b)) = (old.get(a), new.get(b)) {
                matched[b] = Some(a);
            }
            gap = (a + 1, b + 1);
        }
    }
    match_elsewhere(&before, &now, &mut matched);
    matched
}

/// A name, taken apart.
#[derive(Debug, Clone, Copy)]
struct Name<'a> {
    /// `build` of `[build 2/5]`; nothing where there is only a number, and all of it where there is none.
    stage: &'a str,
    text: &'a str,
}

fn names<'a>(names: &[&'a str]) -> Vec<Name<'a>> {
    let parse = |name: &&'a str| {
        let Some((label, text)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
            return Name { stage: "", text: name };
        };
        let is_number =
            |word: &str| word.contains('/') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/');
        let stage = match label.rsplit_once(' ') {
            Some((stage, number)) if is_number(number.trim()) => stage.trim_end(),
            None if is_number(label) => "",
            _ => label,
        };
        Name { stage, text }
    };
    names.iter().map(parse).collect()
}

/// A longest common subsequence, as pairs of indices.
fn common(old: &[String], new: &[String]) -> Vec<(usize, usize)> {
    let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let mut pairs: Vec<(usize, usize)> = (0..first).map(|index| (index, index)).collect();
    let (old_rest, new_rest) = (&old[first..], &new[first..]);
    if old_rest.len().saturating_mul(new_rest.len()) > PAIRS_MAX {
        pairs.extend(greedy(old_rest, new_rest).into_iter().map(|(a, b)| (a + first, b + first)));
        return pairs;
    }
    let rest = longest_common(old_rest.len(), new_rest.len(), |a, b| old_rest[a] == new_rest[b]);
    pairs.extend(rest.into_iter().map(|(a, b)| (a + first, b + first)));
    pairs
}

/// Some common subsequence.
fn greedy(old: &[String], new: &[String]) -> Vec<(usize, usize)> {
    let mut places: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, text) in old.iter().enumerate() {
        places.entry(text).or_default().push_back(index);
    }
    let mut from = 0;
    let mut pairs = Vec::new();
    for (index, text) in new.iter().enumerate() {
        let Some(places) = places.get_mut(&**text) else { continue };
        while places.front().is_some_and(|&place| place < from) {
            places.pop_front();
        }
        if let Some(place) = places.pop_front() {
            from = place + 1;
            pairs.push((place, index));
        }
    }
    pairs
}

/// Pairs what lies between two anchors of a stage.
fn edited(
    before: &[Name<'_>],
    now: &[Name<'_>],
    (old, old_gap): (&[usize], Range<usize>),
    (new, new_gap): (&[usize], Range<usize>),
    matched: &mut [Option<usize>],
) {
    let mut left = old_gap;
    for &index in &new[new_gap] {
        let instruction = now[index].instruction();
        let same = |at: &usize| before[old[*at]].instruction() == instruction;
        if let Some(at) = left.clone().find(same) {
            matched[index] = Some(old[at]);
            left.start = at + 1;
        }
    }
}

impl Name<'_> {
    fn instruction(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }
}

/// What has no counterpart in its stage may have been moved to another one, or its stage renamed.
fn match_elsewhere(before: &[Name<'_>], now: &[Name<'_>], matched: &mut [Option<usize>]) {
    let mut free = vec![true; before.len()];
    matched.iter().flatten().for_each(|&index| free[index] = false);
    let mut places: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, name) in before.iter().enumerate().filter(|(index, _)| free[*index]) {
        places.entry(name.text).or_default().push_back(index);
    }
    for (matched, name) in matched.iter_mut().zip(now).filter(|(matched, _)| matched.is_none()) {
        *matched = places.get_mut(name.text).and_then(VecDeque::pop_front);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `now` as `index<-index` of what it stands for.
    #[track_caller]
    fn check(before: &[&str], now: &[&str], expected: &[Option<usize>]) {
        assert_eq!(match_steps(before, now), expected, "{before:?} {now:?}");
    }

    #[test]
    fn numbers_do_not_count() {
        check(
            &["[1/2] FROM a", "[2/2] RUN x"],
            &["[1/3] FROM a", "[2/3] COPY y", "[3/3] RUN x"],
            &[Some(0), None, Some(1)],
        );
        check(
            &["[b 1/3] FROM a", "[b 2/3] RUN y", "[b  3/3] RUN x"],
            &["[b 1/2] FROM a", "[b 2/2] RUN x"],
            &[Some(0), Some(2)],
        );
    }

    #[test]
    fn what_was_edited_is_paired_by_instruction() {
        check(
            &["[1/3] RUN a", "[2/3] COPY b /", "[3/3] RUN c"],
            &["[1/3] RUN A", "[2/3] COPY b /", "[3/3] RUN C"],
            &[Some(0), Some(1), Some(2)],
        );
        check(&["[1/2] COPY a /", "[2/2] RUN b"], &["[1/2] RUN x", "[2/2] COPY y /"], &[Some(1), None]);
        check(&["[1/1] RUN a"], &["[1/2] RUN b", "[2/2] RUN a"], &[None, Some(0)]);
    }

    #[test]
    fn stages_are_told_apart() {
        check(&["[a 1/1] RUN x", "[b 1/1] RUN x"], &["[b 1/1] RUN x", "[a 1/1] RUN x"], &[Some(1), Some(0)]);
        check(&["[a 1/1] RUN x"], &["[c 1/1] RUN x"], &[Some(0)]);
        check(&["[internal] load build context"], &["[internal] load build context"], &[Some(0)]);
        check(&["no label"], &["[1/1] no label", "other"], &[Some(0), None]);
    }

    #[test]
    fn many_steps_are_matched_in_time() {
        let long = |from: usize| (from..from + 5000).map(|it| format!("[1/1] RUN {it}")).collect::<Vec<_>>();
        let (before, now) = (long(0), long(1));
        let texts = |names: &[String]| names.iter().map(|name| name.to_owned()).collect::<Vec<_>>();
        let (before, now) = (texts(&before), texts(&now));
        let matched = match_steps(
            &before.iter().map(String::as_str).collect::<Vec<_>>(),
            &now.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        assert_eq!(matched[0], Some(1));
        assert_eq!(matched[4998], Some(4999));
    }
}
