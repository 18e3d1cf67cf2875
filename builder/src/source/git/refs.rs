//! What a remote says it has, and which of it a name means.

use std::fmt;

/// Number of a commit (or tag) in full: 40 or 64 hex digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId(String);

/// Which hash a repository uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Sha1,
    Sha256,
}

impl Format {
    /// As git calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

impl ObjectId {
    /// Reads a full number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_full = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_full.then(|| Self(text.to_ascii_lowercase()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn format(&self) -> Format {
        if self.0.len() == 40 { Format::Sha1 } else { Format::Sha256 }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `git ls-remote --symref` prints.
#[derive(Debug, Default)]
pub(super) struct Advertised {
    /// Name and object; the commit that an annotated tag stands for has the tag's name and `^{}`.
    refs: Vec<(String, ObjectId)>,
    /// The branch that HEAD is.
    head: Option<String>,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The full name, `refs/heads/main`.
    pub(super) name: String,
    /// What it names: a commit, or an annotated tag.
    pub(super) object: ObjectId,
    /// The commit.
    pub(super) commit: ObjectId,
}

impl Advertised {
    /// Reads it; lines that are nothing of the kind are left out.
    pub(super) fn parse(output: &[u8]) -> Self {
        let mut advertised = Self::default();
        for line in String::from_utf8_lossy(output).lines() {
            let Some((object, name)) = line.split_once('\t') else { continue };
            if let Some(target) = object.strip_prefix("ref: ") {
                if name == HEAD {
                    advertised.head = Some(target.trim().to_owned());
                }
            } else if let Some(object) = ObjectId::parse(object) {
                advertised.refs.push((name.to_owned(), object));
            }
        }
        advertised
    }

    /// The branch, tag or other ref that `reference` means; nothing is the default branch. A branch comes before a tag of
    /// the same name, as it does when git checks out.
    pub(super) fn find(&self, reference: &str) -> Option<Found> {
        if reference.is_empty() || reference == HEAD {
            let name = self.head.clone().unwrap_or_else(|| HEAD.to_owned());
            return Some(Found { name, ..self.named(HEAD)? });
        }
        names(reference).iter().find_map(|name| self.named(name))
    }

    fn named(&self, name: &str) -> Option<Found> {
        let object_of =
            |name: &str| self.refs.iter().find(|(known, _)| known == name).map(|(_, object)| object);
        let object = object_of(name)?.clone();
        let commit = object_of(&format!("{name}{PEELED}")).unwrap_or(&object).clone();
        Some(Found { name: name.to_owned(), object, commit })
    }

    /// The ref that stands for a commit, if some does.
    pub(super) fn naming(&self, commit: &ObjectId) -> Option<&str> {
        let (name, _) = self.refs.iter().find(|(_, object)| object == commit)?;
        Some(name.strip_suffix(PEELED).unwrap_or(name))
    }

    /// Which hash the repository uses, if it has anything.
    pub(super) fn format(&self) -> Option<Format> {
        self.refs.first().map(|(_, object)| object.format())
    }
}

const HEAD: &str = "HEAD";
const PEELED: &str = "^{}";

/// The names that `reference` may stand for, most likely first.
fn names(reference: &str) -> Vec<String> {
    match reference.strip_prefix("refs/") {
        Some(_) => vec![reference.to_owned()],
        None => ["refs/heads/", "refs/tags/", "refs/"].map(|prefix| format!("{prefix}{reference}")).into(),
    }
}

/// What to ask the remote for so that [`Advertised::find`] can tell.
pub(super) fn patterns(reference: &str) -> Vec<String> {
    if reference.is_empty() || reference == HEAD {
        return vec![HEAD.to_owned()];
    }
    names(reference).into_iter().flat_map(|name| [format!("{name}{PEELED}"), name]).collect()
}

/// Whether a name can be one of git's (`git help check-ref-format`): it is no pattern, no option and no expression.
pub(super) fn is_name(text: &str) -> bool {
    let forbidden =
        |it: char| it.is_control() || matches!(it, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    text.len() <= NAME_BYTES_MAX
        && !text.starts_with('-')
        && !text.ends_with('.')
        && !text.contains(forbidden)
        && !text.contains("..")
        && !text.contains("@{")
        && text.split('/').all(component)
}

/// As long as a path.
const NAME_BYTES_MAX: usize = 4096;

/// Shortest beginning of a commit's number that git takes for one.
const ABBREVIATED_MIN: usize = 4;

/// Whether a name could be the beginning of a commit's number.
pub(super) fn is_abbreviated(text: &str) -> bool {
    (ABBREVIATED_MIN..64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_branch_then_a_tag_then_a_ref() {
        let id = |digit: char| digit.to_string().repeat(40);
        let lines = [
            "ref: refs/heads/main\tHEAD".to_owned(),
            format!("{}\tHEAD", id('1')),
            format!("{}\trefs/heads/main", id('1')),
            format!("{}\trefs/heads/both", id('2')),
            format!("{}\trefs/heads/x/tagged", id('9')),
            format!("{}\trefs/tags/both", id('3')),
            format!("{}\trefs/tags/tagged", id('4')),
            format!("{}\trefs/tags/tagged^{{}}", id('5')),
            format!("{}\trefs/pull/1/head", id('6')),
            "nonsense".to_owned(),
            "zz\trefs/heads/zz".to_owned(),
        ];
        let advertised = Advertised::parse(lines.join("\n").as_bytes());
        let check = |reference: &str, expected: Option<(&str, char, char)>| {
            let expected = expected.map(|(name, object, commit)| {
                let id = |digit| ObjectId::parse(&id(digit)).unwrap();
                Found { name: name.to_owned(), object: id(object), commit: id(commit) }
            });
            assert_eq!(advertised.find(reference), expected, "{reference}");
        };
        check("", Some(("refs/heads/main", '1', '1')));
        check("HEAD", Some(("refs/heads/main", '1', '1')));
        check("main", Some(("refs/heads/main", '1', '1')));
        check("both", Some(("refs/heads/both", '2', '2')));
        check("refs/tags/both", Some(("refs/tags/both", '3', '3')));
        check("tagged", Some(("refs/tags/tagged", '4', '5')));
        check("pull/1/head", Some(("refs/pull/1/head", '6', '6')));
        check("refs/pull/1/head", Some(("refs/pull/1/head", '6', '6')));
        check("heads/main", Some(("refs/heads/main", '1', '1')));
        check("zz", None);
        check("x", None);
        let fifth = ObjectId::parse(&id('5')).unwrap();
        assert_eq!(advertised.naming(&fifth), Some("refs/tags/tagged"));
        assert_eq!(advertised.format(), Some(Format::Sha1));
    }

    #[test]
    fn names_are_names() {
        for good in ["main", "v1.0", "a/b", "refs/heads/x", "1234", "@", "feature#1", "ä"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "-x",
            "--upload-pack=x",
            "a b",
            "a..b",
            "a:b",
            "a^",
            "a~1",
            "*",
            "[a]",
            "a\\b",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a.",
            "a.lock",
            "a\n",
            "",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_abbreviated("abcd") && !is_abbreviated("abc") && !is_abbreviated("abcg"));
        assert_eq!(ObjectId::parse(&"AB".repeat(20)).unwrap().as_str(), "ab".repeat(20));
        assert!(ObjectId::parse("abcd").is_none() && ObjectId::parse(&"g".repeat(40)).is_none());
    }
}
