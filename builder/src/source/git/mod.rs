//! Git repositories: `ADD <repository>` and contexts.
//!
//! ```text
//! SourceOp ──parse──▶ GitSource ──resolve──▶ Pinned (a commit) ──checkout──▶ Chain (one snapshot)
//!                                 ls-remote              fetch into the store's repository, check out
//! ```
//! The work is done by the program `git`, which gets no configuration but ours. What it brings is hostile: a repository
//! cannot run a program, leave its directory, reach another transport, or see a secret of another server.
//!
//! A snapshot is kept under the commit and what was asked of it; a commit that is here is neither fetched nor checked
//! out again, and with a full number the remote is not even asked.

mod access;
mod checkout;
mod command;
mod error;
mod local;
mod location;
mod refs;
mod repository;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use wharf_cache::state::{GitRef, KeyLock, Record};
use wharf_cache::{Chain, ContentDigest, Key, Store};
use wharf_frontend::dockerfile2llb;
use wharf_runtime::Cancel;
use wharf_solver::llb::SourceOp;

pub use access::Access;
pub use error::GitError;
pub use local::last_commit_time;

use checkout::{Checkout, Commit};
use command::Runner;
use location::Location;
use refs::{Format, ObjectId};
use repository::{Remote, Repository};

/// What is wanted of which repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitSource {
    location: Location,
    /// Branch, tag, other ref or commit; empty is the default branch.
    reference: String,
    /// Directory in it, without slashes around it; empty is all.
    directory: String,
    keep_git_dir: bool,
    /// What the commit's number must be, or begin with.
    checksum: Option<String>,
    submodules: bool,
    /// Whether files get the commit's time and not that of the checkout.
    commit_time: bool,
    /// Whether the commit is taken from the checksum, and the ref not looked up.
    fetch_by_commit: bool,
    token_secret: Option<String>,
    header_secret: Option<String>,
    known_hosts: Option<String>,
}

/// A source whose commit is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    source: GitSource,
    /// The commit, or an annotated tag that stands for it.
    object: ObjectId,
    /// The ref that was looked up.
    reference: Option<String>,
}

/// The repositories of a build.
pub struct GitSources {
    store: Store,
    access: Access,
    cancel: Cancel,
    /// Whether no remote is asked: a name stands for what it stood for last.
    offline: bool,
    /// What was looked up: one build sees one state of a branch.
    pinned: Mutex<BTreeMap<GitSource, Pinned>>,
}

impl fmt::Debug for GitSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitSources").field("access", &self.access).finish_non_exhaustive()
    }
}

impl GitSource {
    /// Reads a source operation `git://…`.
    pub fn from_op(op: &SourceOp) -> Result<Self, GitError> {
        let attr = |name: &str| op.attrs.get(name).map(String::as_str);
        let is_set = |name: &str| attr(name) == Some("true");
        let (place, fragment) = op.name().split_once('#').unwrap_or((op.name(), ""));
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let url = match attr("git.fullurl") {
            Some(url) => url.to_owned(),
            None => format!("https://{place}"),
        };
        let location = Location::parse(&url)?;
        let refused = |reason: String| GitError::Source { url: location.url.clone(), reason };
        if !reference.is_empty() && !refs::is_name(reference) {
            return Err(refused(format!("`{reference}` is not the name of a branch, tag or commit")));
        }
        if directory.contains('\0') {
            return Err(refused("the name of the directory has a NUL byte".to_owned()));
        }
        let checksum = attr("git.checksum").map(str::to_ascii_lowercase).filter(|it| !it.is_empty());
        if let Some(checksum) = &checksum
            && !(checksum.len() <= 64 && checksum.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(refused(format!(
                "`{checksum}` is no commit: it is hexadecimal, 40 or 64 digits or fewer"
            )));
        }
        let owned = |name: &str| attr(name).map(str::to_owned);
        Ok(Self {
            reference: reference.to_owned(),
            directory: directory.trim_matches('/').to_owned(),
            keep_git_dir: is_set("git.keepgitdir"),
            checksum,
            submodules: !is_set("git.skipsubmodules"),
            commit_time: attr("git.mtime") == Some("commit"),
            fetch_by_commit: is_set("git.fetchbycommit"),
            token_secret: owned("git.authtokensecret"),
            header_secret: owned("git.authheadersecret"),
            known_hosts: owned("git.knownsshhosts"),
            location,
        })
    }

    /// Reads a context: an address with a fragment or a query, as ADD has them, or `github.com/OWNER/REPOSITORY`.
    /// `keep_git_dir` holds unless the address says otherwise.
    pub fn from_context(text: &str, keep_git_dir: bool) -> Result<Self, GitError> {
        let op = dockerfile2llb::git_context(text, keep_git_dir);
        Self::from_op(&op.map_err(|reason| GitError::Source { url: location::shown(text), reason })?)
    }

    /// The default branch of the repository at `url`.
    #[cfg(test)]
    fn parse(url: &str) -> Result<Self, GitError> {
        let attrs = [
            ("git.fullurl", url),
            ("git.authtokensecret", "GIT_AUTH_TOKEN"),
            ("git.authheadersecret", "GIT_AUTH_HEADER"),
        ];
        let attrs = attrs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self::from_op(&SourceOp { identifier: "git://x".to_owned(), attrs })
    }

    /// The address, without credentials.
    pub fn url(&self) -> &str {
        &self.location.url
    }

    /// `.git` belongs to the whole repository: a sub-directory never has it.
    fn keeps_git_dir(&self) -> bool {
        self.keep_git_dir && matches!(self.directory.as_str(), "" | ".")
    }

    /// What was asked for, in words.
    fn wanted(&self) -> &str {
        if self.reference.is_empty() { "the default branch" } else { &self.reference }
    }
}

impl Pinned {
    /// Names what a checkout of it gives: two with the same key have the same files.
    fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wharf git checkout 1\0");
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        let source = &self.source;
        add(self.object.as_str());
        add(&source.directory);
        for flag in [source.keeps_git_dir(), source.submodules, source.commit_time] {
            add(if flag { "yes" } else { "no" });
        }
        if source.keeps_git_dir() {
            // They can be seen in `.git`.
            add(&source.location.url);
            add(self.reference.as_deref().unwrap_or_default());
        }
        hasher.finalize().into()
    }

    /// Stands for its files in the keys of steps.
    pub fn content(&self) -> ContentDigest {
        ContentDigest(self.key().0)
    }
}

impl GitSources {
    /// Repositories kept in `store`; what runs ends with an error soon after `cancel` is triggered.
    pub fn new(store: Store, access: Access, cancel: Cancel) -> Self {
        Self { store, access, cancel, offline: false, pinned: Mutex::default() }
    }

    /// The same, asking nobody if `offline`: a branch or tag is the commit that it was when it was looked up last.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Finds out which commit a source is. A full number is one; anything else is asked of the remote, once a build.
    pub fn resolve(&self, source: &GitSource, log: &dyn Fn(&[u8])) -> Result<Pinned, GitError> {
        let known = self.pinned.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let pinned = self.look_up(source, log)?;
        let mut all = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been quicker; what it found counts.
        Ok(all.entry(source.clone()).or_insert(pinned).clone())
    }

    fn look_up(&self, source: &GitSource, log: &dyn Fn(&[u8])) -> Result<Pinned, GitError> {
        let reference = match &source.checksum {
            Some(checksum) if source.fetch_by_commit => checksum,
            _ => &source.reference,
        };
        if let Some(object) = ObjectId::parse(reference) {
            self.check(source, &[&object])?;
            return Ok(Pinned { source: source.clone(), object, reference: None });
        }
        if source.fetch_by_commit {
            let reason = "fetch-by-commit needs a commit with all its 40 or 64 digits".to_owned();
            return Err(GitError::Source { url: source.location.url.clone(), reason });
        }
        if self.offline {
            return self.remembered(source, reference);
        }
        let pinned = self.ask(source, reference, log)?;
        let object = pinned.object.to_string();
        let remembered = GitRef { object, reference: pinned.reference.clone() };
        self.store.set_git_ref(&ref_key(source, reference), &remembered)?;
        Ok(pinned)
    }

    /// What was found out about a name when its remote was asked last.
    fn remembered(&self, source: &GitSource, reference: &str) -> Result<Pinned, GitError> {
        let remembered = self.store.git_ref(&ref_key(source, reference))?;
        let known = remembered.and_then(|it| Some((ObjectId::parse(&it.object)?, it.reference)));
        let (object, reference) = known.ok_or_else(|| {
            let (wanted, url) = (source.wanted(), &source.location.url);
            GitError::Offline { operation: format!("find out what commit {wanted} of `{url}` is") }
        })?;
        Ok(Pinned { source: source.clone(), object, reference })
    }

    /// Asks the remote for a name, or for a number that is not whole.
    fn ask(&self, source: &GitSource, reference: &str, log: &dyn Fn(&[u8])) -> Result<Pinned, GitError> {
        let scratch = Scratch::new(&self.store)?;
        let runner = Runner { cancel: &self.cancel, log, scratch: &scratch.0, offline: self.offline };
        let credentials = self.access.credentials(source, &source.location, &scratch.0)?;
        let remote = Remote { url: &source.location.url, credentials: &credentials };
        let advertised = remote.list(&runner, Some(reference))?;
        let Some(found) = advertised.find(reference) else {
            if reference.is_empty() {
                return Err(GitError::Empty { url: source.location.url.clone() });
            }
            if !refs::is_abbreviated(reference) {
                let url = source.location.url.clone();
                return Err(GitError::NoReference { url, reference: reference.to_owned() });
            }
            let object = self.complete(source, reference, &runner, &remote)?;
            self.check(source, &[&object])?;
            return Ok(Pinned { source: source.clone(), object, reference: None });
        };
        self.check(source, &[&found.commit, &found.object])?;
        // An annotated tag is seen in `.git` only.
        let object = if source.keeps_git_dir() { found.object } else { found.commit };
        Ok(Pinned { source: source.clone(), object, reference: Some(found.name) })
    }

    /// The commit whose number begins with `beginning`.
    fn complete(
        &self,
        source: &GitSource,
        beginning: &str,
        runner: &Runner<'_>,
        remote: &Remote<'_>,
    ) -> Result<ObjectId, GitError> {
        let none = || GitError::Empty { url: source.location.url.clone() };
        let format = remote.list(runner, None)?.format().ok_or_else(none)?;
        let with = |repository: &Repository<'_>| repository.complete(&beginning.to_ascii_lowercase());
        self.with_repository(runner, source, &source.location, format, &with)
    }

    /// Holds a source to its checksum. The first number is the commit.
    fn check(&self, source: &GitSource, numbers: &[&ObjectId]) -> Result<(), GitError> {
        let Some(expected) = &source.checksum else { return Ok(()) };
        if numbers.iter().any(|number| number.as_str().starts_with(expected)) {
            return Ok(());
        }
        Err(GitError::Checksum {
            url: source.location.url.clone(),
            reference: source.wanted().to_owned(),
            expected: expected.clone(),
            actual: numbers.first().map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// Brings the files of a source into the store, unless they are there.
    pub fn checkout(&self, pinned: &Pinned, log: &dyn Fn(&[u8])) -> Result<Chain, GitError> {
        let key = pinned.key();
        if let Some(chain) = self.kept(&key)? {
            return Ok(chain);
        }
        let _lock = self.lock(&key)?;
        // Another process may have made it meanwhile.
        if let Some(chain) = self.kept(&key)? {
            return Ok(chain);
        }
        let source = &pinned.source;
        let scratch = Scratch::new(&self.store)?;
        let runner = Runner { cancel: &self.cancel, log, scratch: &scratch.0, offline: self.offline };
        let files = scratch.0.join("files");
        fs::create_dir(&files).map_err(|error| GitError::io("create", &files, error))?;
        let checkout = Checkout::new(self, source, &runner, source.keeps_git_dir());
        let commit = Commit {
            location: &source.location,
            object: &pinned.object,
            reference: pinned.reference.as_deref(),
        };
        let committed_s = checkout.files(&commit, &files)?;
        let time_s = source.commit_time.then_some(committed_s);
        tree::normalize(&files, time_s)?;
        let active = self.store.prepare(&Chain::default())?;
        if !tree::move_into(&files, &source.directory, active.upper())? {
            return Err(GitError::NoDirectory {
                url: source.location.url.clone(),
                commit: pinned.object.to_string(),
                directory: source.directory.clone(),
            });
        }
        tree::set_root_time(active.upper(), time_s)?;
        // What counts of a commit's age is when it was made, not when it came here.
        let chain = Chain(vec![active.commit(system_time(committed_s))?.id]);
        let op = Key(*blake3::hash(b"wharf git checkout").as_bytes());
        self.store.put_record(&[key], &op, &Record { outputs: vec![chain.clone()] })?;
        Ok(chain)
    }

    /// When the commit was made of which `chain` is the checkout, in seconds since 1970 (`SOURCE_DATE_EPOCH=context`).
    pub fn commit_time(&self, chain: &Chain) -> Result<i64, GitError> {
        let snapshots = self.store.snapshots(chain)?;
        let created = snapshots.first().map_or(SystemTime::UNIX_EPOCH, |snapshot| snapshot.created);
        Ok(match created.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        })
    }

    fn kept(&self, key: &Key) -> Result<Option<Chain>, GitError> {
        Ok(self.store.record(key)?.and_then(|record| record.outputs.into_iter().next()))
    }

    fn lock(&self, key: &Key) -> Result<KeyLock, GitError> {
        let lock = self.store.lock_key_unless(key, &|| self.cancel.is_cancelled())?;
        lock.ok_or(GitError::Cancelled)
    }

    /// Works with the store's repository of `location`, alone. One that turns out broken is thrown away, and the work
    /// done again with a new one.
    fn with_repository<T>(
        &self,
        runner: &Runner<'_>,
        source: &GitSource,
        location: &Location,
        format: Format,
        work: &dyn Fn(&Repository<'_>) -> Result<T, GitError>,
    ) -> Result<T, GitError> {
        let credentials = self.access.credentials(source, location, runner.scratch)?;
        let name = format!("wharf git repository 1\0{}\0{}", format.name(), location.url);
        let key = Key(*blake3::hash(name.as_bytes()).as_bytes());
        let _lock = self.lock(&key)?;
        let dir = self.store.repository_path(&key);
        let was_here = Repository::is_whole(&dir);
        let remote = Remote { url: &location.url, credentials: &credentials };
        let repository = Repository { dir, runner, remote };
        if !was_here {
            self.store.discard_repository(&key)?;
            repository.create(format)?;
        }
        match work(&repository) {
            Err(error) if was_here && error.may_be_damage() && repository.is_damaged() => {
                (runner.log)(b"the repository in the store is damaged: fetching it anew\n");
                self.store.discard_repository(&key)?;
                repository.create(format)?;
                work(&repository)
            }
            done => done,
        }
    }
}

/// Names what is remembered of a look-up. The checksum is in it: what was found has it.
fn ref_key(source: &GitSource, reference: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"wharf git ref 1\0");
    let checksum = source.checksum.as_deref().unwrap_or_default();
    let git_dir = if source.keeps_git_dir() { "yes" } else { "no" };
    for text in [&*source.location.url, reference, checksum, git_dir] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().into()
}

/// Whether an address leads through SSH.
pub fn is_ssh(url: &str) -> bool {
    GitSource::from_context(url, false).is_ok_and(|source| source.location.scheme == location::Scheme::Ssh)
}

/// A time that git knows; those before 1970 have none.
fn system_time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A directory of this process that goes with its value.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(store: &Store) -> Result<Self, GitError> {
        Ok(Self(store.temp_dir()?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind goes with the process's directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(identifier: &str, attrs: &[(&str, &str)], expected: Result<&str, &str>) {
        let attrs = attrs.iter().map(|(name, value)| (format!("git.{name}"), (*value).to_owned())).collect();
        let read = GitSource::from_op(&SourceOp { identifier: identifier.to_owned(), attrs });
        match (read, expected) {
            (Ok(source), Ok(expected)) => {
                let text = format!("{} {:?} {:?}", source.url(), source.reference, source.directory);
                assert_eq!(text, expected, "{identifier}");
            }
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (read, _) => panic!("{identifier}: {read:?}"),
        }
    }

    #[test]
    fn sources_are_read() {
        check("git://h/r", &[], Ok("https://h/r \"\" \"\""));
        check("git://h/r#v1:a/b/", &[("fullurl", "git@h:r")], Ok("git@h:r \"v1\" \"a/b\""));
        check("git://h/r#:/a", &[], Ok("https://h/r \"\" \"a\""));
        check("git://h/r#--upload-pack=x", &[], Err("is not the name of a branch"));
        check("git://h/r#a b", &[], Err("is not the name of a branch"));
        check("git://h/r#x", &[("fullurl", "ext::sh")], Err("is not the address"));
        check("git://h/r#x", &[("fullurl", "--upload-pack=x")], Err("is not the address"));
        check("git://h/r#x", &[("checksum", "sha256:abc")], Err("is no commit"));
    }

    #[test]
    fn keys_hold_what_can_be_seen() {
        let commit = "a".repeat(40);
        let key = |identifier: &str, attrs: &[(&str, &str)]| {
            let attrs =
                attrs.iter().map(|(name, value)| (format!("git.{name}"), (*value).to_owned())).collect();
            let source = GitSource::from_op(&SourceOp { identifier: identifier.to_owned(), attrs }).unwrap();
            Pinned { source, object: ObjectId::parse(&commit).unwrap(), reference: None }.key()
        };
        let plain = key("git://h/r#main", &[]);
        assert_eq!(plain, key("git://other/r#v1", &[]));
        assert_eq!(plain, key("git://h/r", &[("fullurl", "https://u:p@h/r"), ("authtokensecret", "X")]));
        assert_eq!(plain, key("git://h/r", &[("checksum", "aa")]));
        let keep = ("keepgitdir", "true");
        for other in [
            key("git://h/r#main:sub", &[]),
            key("git://h/r", &[keep]),
            key("git://other/r", &[keep]),
            key("git://h/r", &[("skipsubmodules", "true")]),
            key("git://h/r", &[("mtime", "commit")]),
        ] {
            assert_ne!(plain, other);
        }
        assert_eq!(key("git://h/r#:sub", &[]), key("git://h/r#:sub", &[keep]));
    }
}
