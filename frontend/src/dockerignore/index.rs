//! Which of many patterns could match a path, without asking each: those without special characters are looked up, the
//! others are found by the text that each of their matches must hold.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;

use super::{Pattern, Subject, Test};

/// An index over patterns by their number.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Patterns that are one path.
    whole: HashMap<String, Vec<usize>>,
    /// Finds the texts of `by_text` in a path; absent if there are none.
    texts: Option<AhoCorasick>,
    /// For each text the patterns that need it.
    by_text: Vec<Vec<usize>>,
    /// Patterns that need no text.
    always: Vec<usize>,
}

impl Index {
    pub(super) fn new(patterns: &[Pattern]) -> Result<Self, &'static str> {
        let mut this = Self::default();
        let mut texts: Vec<String> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let text = match &pattern.test {
                Test::Equal => {
                    this.whole.entry(pattern.text.clone()).or_default().push(index);
                    continue;
                }
                Test::Prefix(prefix) => prefix.clone(),
                // `**/text` matches `text` too.
                Test::Suffix(suffix) => suffix.strip_prefix('/').unwrap_or(suffix).to_owned(),
                Test::Glob(glob) => glob.required_text(),
            };
            if text.is_empty() {
                this.always.push(index);
                continue;
            }
            let number = *numbers.entry(text).or_insert_with_key(|text| {
                texts.push(text.clone());
                this.by_text.push(Vec::new());
                texts.len() - 1
            });
            this.by_text[number].push(index);
        }
        if !texts.is_empty() {
            this.texts = Some(AhoCorasick::new(&texts).map_err(|_| "the patterns are too many or too long")?);
        }
        Ok(this)
    }

    /// Adds the numbers of the patterns that match `path` to `found`, in no order, perhaps several times.
    pub(super) fn matching(&self, patterns: &[Pattern], path: &[u8], found: &mut Vec<usize>) {
        let subject = Subject::new(path);
        if let Some(whole) = std::str::from_utf8(path).ok().and_then(|path| self.whole.get(path)) {
            found.extend(whole);
        }
        let begin = found.len();
        found.extend(&self.always);
        if let Some(texts) = &self.texts {
            // Bytes that are not text are looked for as they are, and as they are shown to patterns.
            let shown = subject.text.as_bytes();
            for haystack in std::iter::once(path).chain((shown != path).then_some(shown)) {
                for hit in texts.find_overlapping_iter(haystack) {
                    found.extend(&self.by_text[hit.pattern().as_usize()]);
                }
            }
        }
        found[begin..].sort_unstable();
        let mut last = None;
        let mut kept = begin;
        for at in begin..found.len() {
            let index = found[at];
            if last != Some(index) && patterns[index].matches(&subject) {
                found[kept] = index;
                kept += 1;
            }
            last = Some(index);
        }
        found.truncate(kept);
    }
}
