//! Bringing one commit's files here, with those of its submodules.
//!
//! Submodules are repositories like any other: their addresses pass the same door, they are kept in the store, and
//! their files are put where the parent's tree has room for them. Git's own `submodule` would ask the parent's
//! repository how to do it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::command::Runner;
use super::location::Location;
use super::refs::ObjectId;
use super::repository::Repository;
use super::{GitError, GitSource, GitSources, tree};
use crate::context::resolve;

/// Files and directories of a source, submodules included. A few kilobytes of a repository can hold trees that stand for
/// billions.
const ENTRIES_MAX: u64 = 5_000_000;

/// Bytes of its files.
const BYTES_MAX: u64 = 256 << 30;

/// How deep submodules may have submodules.
const SUBMODULE_DEPTH_MAX: u32 = 16;

/// A checkout that is being made.
pub(super) struct Checkout<'a> {
    pub(super) sources: &'a GitSources,
    pub(super) source: &'a GitSource,
    pub(super) runner: &'a Runner<'a>,
    pub(super) keep_git_dir: bool,
    entries: Cell<u64>,
    bytes: Cell<u64>,
}

/// One commit of one repository.
pub(super) struct Commit<'a> {
    pub(super) location: &'a Location,
    /// The commit, or an annotated tag that stands for it.
    pub(super) object: &'a ObjectId,
    /// The ref that it was found by.
    pub(super) reference: Option<&'a str>,
}

/// What is of interest in a commit before it is checked out.
#[derive(Default)]
struct Contents {
    /// Path and commit of each submodule.
    links: Vec<(String, ObjectId)>,
    /// Whether `.gitmodules` is a file.
    has_modules: bool,
}

/// A submodule of a commit.
struct Submodule {
    path: String,
    object: ObjectId,
    name: String,
    address: String,
}

impl<'a> Checkout<'a> {
    pub(super) fn new(
        sources: &'a GitSources,
        source: &'a GitSource,
        runner: &'a Runner<'a>,
        keep_git_dir: bool,
    ) -> Self {
        Self { sources, source, runner, keep_git_dir, entries: Cell::new(0), bytes: Cell::new(0) }
    }

    /// Puts the files of `commit` into the empty directory `tree`. Returns the commit's time.
    pub(super) fn files(&self, commit: &Commit<'_>, tree: &Path) -> Result<i64, GitError> {
        self.files_at(commit, tree, 0)
    }

    fn files_at(&self, commit: &Commit<'_>, tree: &Path, depth: u32) -> Result<i64, GitError> {
        let format = commit.object.format();
        let with = |repository: &Repository<'_>| {
            // This is the second try if the repository was damaged.
            tree::clear(tree)?;
            repository.fetch(commit.object, commit.reference)?;
            let number = repository.peel(commit.object)?;
            let contents = self.look_through(repository, &number)?;
            let submodules = self.submodules(repository, &number, contents)?;
            if self.keep_git_dir {
                repository.clone_into(tree, commit.object, commit.reference)?;
            } else {
                repository.check_out(&number, tree, &self.runner.scratch.join("index"))?;
            }
            Ok((submodules, repository.time(&number)?))
        };
        let (submodules, time_s) =
            self.sources.with_repository(self.runner, self.source, commit.location, format, &with)?;
        for submodule in submodules {
            self.submodule(commit.location, &submodule, tree, depth).map_err(|error| match error {
                GitError::Cancelled => error,
                error => GitError::Submodule {
                    url: commit.location.url.clone(),
                    path: submodule.path.clone(),
                    source: Box::new(error),
                },
            })?;
        }
        Ok(time_s)
    }

    /// Counts what is in a commit, and returns its submodules' paths and commits.
    fn look_through(&self, repository: &Repository<'_>, commit: &ObjectId) -> Result<Contents, GitError> {
        let too_large = |what, max| GitError::TooLarge {
            url: repository.remote.url.to_owned(),
            commit: commit.to_string(),
            what,
            max,
        };
        let mut contents = Contents::default();
        repository.entries(commit, &mut |entry| {
            self.entries.set(self.entries.get() + 1);
            self.bytes.set(self.bytes.get().saturating_add(entry.size));
            if self.entries.get() > ENTRIES_MAX {
                return Err(too_large("files", ENTRIES_MAX));
            }
            if self.bytes.get() > BYTES_MAX {
                return Err(too_large("bytes", BYTES_MAX));
            }
            contents.has_modules |= entry.path == b".gitmodules" && entry.mode.starts_with("100");
            if entry.mode == "160000"
                && let Some(object) = ObjectId::parse(entry.object)
            {
                let path = std::str::from_utf8(entry.path);
                let path =
                    path.map_err(|_| GitError::SubmoduleEntry("a submodule's path is no text".to_owned()))?;
                contents.links.push((path.to_owned(), object));
            }
            Ok(())
        })?;
        Ok(contents)
    }

    /// What `.gitmodules` says about the submodules that a commit has.
    fn submodules(
        &self,
        repository: &Repository<'_>,
        commit: &ObjectId,
        contents: Contents,
    ) -> Result<Vec<Submodule>, GitError> {
        let Contents { links, has_modules } = contents;
        if !self.source.submodules || links.is_empty() {
            return Ok(Vec::new());
        }
        let pairs = if has_modules { repository.modules(commit)? } else { Vec::new() };
        let modules = Modules::read(&pairs);
        let mut submodules = Vec::new();
        for (path, object) in links {
            let (name, module) = modules.at(&path).ok_or_else(|| {
                GitError::SubmoduleEntry(format!(
                    "`{}` has a submodule at `{path}`, of which .gitmodules says nothing",
                    repository.remote.url
                ))
            })?;
            // The only way of updating, other than to check out, that makes sense without a working copy.
            if module.get("update").map(String::as_str) == Some("none") {
                continue;
            }
            let address = module.get("url").cloned().ok_or_else(|| {
                GitError::SubmoduleEntry(format!(
                    "the submodule `{path}` of `{}` has no url",
                    repository.remote.url
                ))
            })?;
            submodules.push(Submodule { path, object, name: name.to_owned(), address });
        }
        Ok(submodules)
    }

    fn submodule(
        &self,
        parent: &Location,
        submodule: &Submodule,
        tree: &Path,
        depth: u32,
    ) -> Result<(), GitError> {
        if depth == SUBMODULE_DEPTH_MAX {
            let message = format!("submodules are nested more than {SUBMODULE_DEPTH_MAX} deep");
            return Err(GitError::SubmoduleEntry(message));
        }
        let location = parent.submodule(&submodule.address)?;
        let place = empty_place(tree, &submodule.path)?;
        let commit = Commit { location: &location, object: &submodule.object, reference: None };
        self.files_at(&commit, &place, depth + 1)?;
        if self.keep_git_dir {
            // So that git in the result takes it for the submodule that it is.
            let key = format!("submodule.{}.url", submodule.name);
            let call = super::command::Call::new("configure a submodule", ["config", &key, &location.url]);
            self.runner.run(&call.repository(&tree.join(".git")))?;
        }
        Ok(())
    }
}

/// The directory that git made for a submodule: no symlink leads there, and there is nothing in it.
fn empty_place(tree: &Path, path: &str) -> Result<PathBuf, GitError> {
    let place = tree.join(path);
    let failed = |error| GitError::io("put a submodule into", &place, error);
    let root = File::open(tree).map_err(failed)?;
    let directory = resolve::open_dir(root.as_fd(), Path::new(path)).map_err(failed)?;
    if !wharf_cache::walk::read_dir(directory.as_fd()).map_err(failed)?.is_empty() {
        return Err(GitError::SubmoduleEntry(format!(
            "there are files where the submodule `{path}` should be"
        )));
    }
    Ok(place)
}

/// `.gitmodules`: name → key → value.
struct Modules(BTreeMap<String, BTreeMap<String, String>>);

impl Modules {
    fn read(pairs: &[(String, String)]) -> Self {
        let mut modules: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (key, value) in pairs {
            let Some((name, key)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.'))
            else {
                continue;
            };
            modules.entry(name.to_owned()).or_default().insert(key.to_owned(), value.clone());
        }
        Self(modules)
    }

    /// The submodule at a path.
    fn at(&self, path: &str) -> Option<(&str, &BTreeMap<String, String>)> {
        let is_it = |module: &BTreeMap<String, String>| {
            module.get("path").is_some_and(|known| known.trim_end_matches('/') == path)
        };
        self.0.iter().find(|(_, module)| is_it(module)).map(|(name, module)| (name.as_str(), module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_their_paths() {
        let pairs = [
            ("submodule.a.b.path", "lib/x/"),
            ("submodule.a.b.url", "https://h/x"),
            ("submodule.path", "nonsense"),
            ("other", "nonsense"),
        ];
        let modules = Modules::read(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let (name, module) = modules.at("lib/x").unwrap();
        assert_eq!((name, module["url"].as_str()), ("a.b", "https://h/x"));
        assert!(modules.at("lib").is_none());
    }

    #[test]
    fn a_submodule_goes_into_an_empty_directory_of_its_own() {
        let root = std::env::temp_dir().join(format!("wharf-submodule-{}", std::process::id()));
        std::fs::create_dir_all(root.join("empty/deep")).unwrap();
        std::fs::create_dir_all(root.join("full")).unwrap();
        std::fs::write(root.join("full/file"), "").unwrap();
        std::os::unix::fs::symlink("empty", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        assert!(empty_place(&root, "empty/deep").is_ok());
        for path in ["full", "full/file", "none", "link/deep", "link", "out/tmp", "../x", "/tmp"] {
            assert!(empty_place(&root, path).is_err(), "{path}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
