//! What the commands have in common that remove what is not used: `--filter`, and the question before.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::SystemTime;

use super::image::list::until;
use crate::error::{Failure, Kind};
use crate::progress::ask;

/// What is to be so of all that is removed.
#[derive(Debug, Default)]
pub(super) struct Filters {
    until: Option<SystemTime>,
    labels: Vec<Label>,
    /// Further ones, which the command knows.
    pub(super) others: Vec<(String, String)>,
}

#[derive(Debug)]
struct Label {
    key: String,
    value: Option<String>,
    wanted: bool,
}

impl Filters {
    /// Reads `--filter`. `known` are the keys that there are.
    pub(super) fn parse(texts: &[String], known: &[&str]) -> Result<Self, Failure> {
        let mut filters = Self::default();
        for text in texts {
            let wrong = |why: String| Failure::new(Kind::Usage, format!("--filter `{text}`: {why}"));
            let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE".to_owned()))?;
            if !known.contains(&key) {
                return Err(wrong(format!("there are {}", known.join(", "))));
            }
            match key {
                "until" => {
                    let time = until(value);
                    filters.until = Some(time.ok_or_else(|| {
                        wrong("it is a duration (24h), seconds since 1970, or a time".to_owned())
                    })?);
                }
                "label" | "label!" => {
                    let (name, value) = match value.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (value, None),
                    };
                    filters.labels.push(Label { key: name.to_owned(), value, wanted: key == "label" });
                }
                _ => filters.others.push((key.to_owned(), value.to_owned())),
            }
        }
        Ok(filters)
    }

    /// Whether something was made early enough.
    pub(super) fn admits_time(&self, made: SystemTime) -> bool {
        self.until.is_none_or(|until| made < until)
    }

    /// Whether labels are as they are to be.
    pub(super) fn admits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|label| {
            let found = labels.get(&label.key);
            let is = found.is_some_and(|found| label.value.as_ref().is_none_or(|value| value == found));
            is == label.wanted
        })
    }
}

/// What a command has removed.
#[derive(Debug)]
pub(super) struct Pruned {
    /// What it was called.
    pub(super) names: Vec<String>,
    /// The bytes that it took.
    pub(super) bytes: u64,
    /// What went wrong with the rest.
    pub(super) done: Result<(), Failure>,
}

/// Asks whoever sits at the terminal, unless `force`. What is not wanted, or cannot be asked, is a failure.
pub(super) fn confirm(force: bool, what: &str) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message = "removing needs a yes, and standard input is no terminal";
        return Err(Failure::new(Kind::Usage, message).hint("`--force` removes without asking"));
    }
    match ask(&format!("This removes {what}.\nGo on? [y/N] ")) {
        true => Ok(()),
        false => Err(Failure::new(Kind::Cancelled, "nothing was removed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_times_choose() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for (texts, admits) in [
            (&["label=a"][..], true),
            (&["label=a=1"], true),
            (&["label=a=2"], false),
            (&["label=b"], false),
            (&["label!=a"], false),
            (&["label!=b", "label=a"], true),
        ] {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            let filters = Filters::parse(&texts, &["label", "label!"]).unwrap();
            assert_eq!(filters.admits_labels(&labels), admits, "{texts:?}");
        }
        let filters = Filters::parse(&["until=1h".to_owned()], &["until"]).unwrap();
        assert!(filters.admits_time(SystemTime::UNIX_EPOCH) && !filters.admits_time(SystemTime::now()));
        for text in ["label", "until=x", "name=x"] {
            assert!(Filters::parse(&[text.to_owned()], &["until", "label"]).is_err(), "{text}");
        }
    }
}
