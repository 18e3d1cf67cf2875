//! A bare repository of the store: fetching into it, reading from it, checking out of it.
//!
//! What was fetched whole is named by a ref below `refs/wharf/objects`; git writes that only after it has seen that
//! nothing is missing. While something is fetched the file `wharf-busy` says so: a repository that has it when nobody
//! holds its lock was left by a killed process.

use std::fs;
use std::path::{Path, PathBuf};

use super::GitError;
use super::access::Credentials;
use super::command::{Call, Runner};
use super::refs::{Advertised, Format, ObjectId, patterns};

/// What a remote may say about its refs.
const REFS_BYTES_MAX: usize = 256 << 20;

/// Numbers, times and names that git answers with.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// `.gitmodules`, as git prints it.
const MODULES_BYTES_MAX: usize = 16 << 20;

/// The longest line of a listing: a path and little more.
const ENTRY_BYTES_MAX: usize = 64 << 10;

const BUSY: &str = "wharf-busy";

/// Where the refs are that keep what was fetched.
const KEPT: &str = "refs/wharf/objects";

/// A repository in the store. Whoever has one holds its lock.
pub(super) struct Repository<'a> {
    pub(super) dir: PathBuf,
    pub(super) runner: &'a Runner<'a>,
    pub(super) remote: Remote<'a>,
}

/// Where it is fetched from.
#[derive(Clone, Copy)]
pub(super) struct Remote<'a> {
    pub(super) url: &'a str,
    pub(super) credentials: &'a Credentials,
}

/// An entry of a commit's tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TreeEntry<'a> {
    pub(super) mode: &'a str,
    pub(super) object: &'a str,
    /// In bytes, of a file.
    pub(super) size: u64,
    pub(super) path: &'a [u8],
}

impl Remote<'_> {
    /// Asks what it has for `reference` (nothing is its HEAD); for everything with `None`.
    pub(super) fn list(&self, runner: &Runner<'_>, reference: Option<&str>) -> Result<Advertised, GitError> {
        let mut arguments = ["ls-remote", "--quiet", "--symref", "--", self.url].map(str::to_owned).to_vec();
        arguments.extend(reference.map(patterns).unwrap_or_default());
        let operation = format!("ask `{}` for its branches and tags", self.url);
        let call = Call::new(operation, arguments).credentials(self.credentials);
        Ok(Advertised::parse(&runner.output(&call, REFS_BYTES_MAX)?))
    }
}

impl Repository<'_> {
    /// Whether there is a repository, and all that was ever fetched into it is there.
    pub(super) fn is_whole(dir: &Path) -> bool {
        dir.join("HEAD").is_file() && !dir.join(BUSY).exists()
    }

    /// Makes it, empty.
    pub(super) fn create(&self, format: Format) -> Result<(), GitError> {
        fs::create_dir(&self.dir).map_err(|error| GitError::io("create", &self.dir, error))?;
        self.busy(|| {
            let format = format!("--object-format={}", format.name());
            let arguments = ["init", "--quiet", "--bare", "--template=", "--initial-branch=main", &format];
            self.runner.run(&Call::new("make a repository", arguments).repository(&self.dir))
        })
    }

    /// Whether something is broken in it.
    pub(super) fn is_damaged(&self) -> bool {
        let arguments = ["fsck", "--no-dangling", "--no-progress"];
        let call = Call::new("check a repository", arguments).repository(&self.dir);
        // What it finds is of interest to nobody.
        let runner = Runner { log: &|_| {}, ..*self.runner };
        matches!(runner.run(&call), Err(GitError::Failed { .. }))
    }

    /// Fetches `object` with all that belongs to it, if it is not here: alone if the remote allows that, else by the
    /// name of a ref that may be it, else with everything that the remote has.
    pub(super) fn fetch(&self, object: &ObjectId, reference: Option<&str>) -> Result<(), GitError> {
        if self.has(object)? {
            return Ok(());
        }
        self.busy(|| {
            let alone = self.fetch_refs(&["--depth=1"], &[format!("+{object}:{KEPT}/{object}")]);
            let Err(error) = alone else { return Ok(()) };
            if !matches!(error, GitError::Failed { .. }) {
                return Err(error);
            }
            let name = match reference {
                Some(name) => Some(name.to_owned()),
                None => self.remote.list(self.runner, None)?.naming(object).map(str::to_owned),
            };
            if let Some(name) = &name {
                self.say(&format!("cannot fetch {object} alone: fetching {name}"));
                let fetched = self.fetch_refs(&["--depth=1"], &[format!("+{name}:refs/wharf/fetched")]);
                if fetched.is_ok() && self.is_here(object)? {
                    return self.keep(object);
                }
                if let Err(error @ GitError::Cancelled) = fetched {
                    return Err(error);
                }
            }
            self.fetch_all(name.as_deref())?;
            if self.is_here(object)? {
                return self.keep(object);
            }
            let url = self.remote.url.to_owned();
            Err(GitError::NoReference { url, reference: object.to_string() })
        })
    }

    /// Finds the commit whose number begins with `beginning`, fetching everything if it is not here.
    pub(super) fn complete(&self, beginning: &str) -> Result<ObjectId, GitError> {
        if let Some(commit) = self.commit_of(beginning)? {
            return Ok(commit);
        }
        self.busy(|| self.fetch_all(None))?;
        let none =
            || GitError::NoReference { url: self.remote.url.to_owned(), reference: beginning.to_owned() };
        let commit = self.commit_of(beginning)?.ok_or_else(none)?;
        self.keep(&commit)?;
        Ok(commit)
    }

    fn fetch_all(&self, name: Option<&str>) -> Result<(), GitError> {
        self.say("fetching all branches and tags");
        let mut specs =
            vec!["+refs/heads/*:refs/wharf/heads/*".to_owned(), "+refs/tags/*:refs/wharf/tags/*".to_owned()];
        let covered = |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        specs.extend(name.filter(|name| !covered(name)).map(|name| format!("+{name}:refs/wharf/fetched")));
        let is_shallow = self.dir.join("shallow").exists();
        let options = if is_shallow { &["--prune", "--unshallow"][..] } else { &["--prune"] };
        self.fetch_refs(options, &specs)
    }

    fn fetch_refs(&self, options: &[&str], specs: &[String]) -> Result<(), GitError> {
        let mut arguments = vec![
            "fetch",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
        ];
        arguments.extend(options);
        arguments.extend(["--", self.remote.url]);
        arguments.extend(specs.iter().map(String::as_str));
        let operation = format!("fetch from `{}`", self.remote.url);
        let call = Call::new(operation, arguments).repository(&self.dir).credentials(self.remote.credentials);
        self.runner.run(&call)
    }

    /// Whether `object` was fetched whole.
    fn has(&self, object: &ObjectId) -> Result<bool, GitError> {
        Ok(self.commit_of(&format!("{KEPT}/{object}"))?.is_some())
    }

    fn is_here(&self, object: &ObjectId) -> Result<bool, GitError> {
        Ok(self.commit_of(object.as_str())?.is_some())
    }

    fn keep(&self, object: &ObjectId) -> Result<(), GitError> {
        let name = format!("{KEPT}/{object}");
        self.runner.run(&self.call("keep a commit", &["update-ref", &name, object.as_str()]))
    }

    /// The commit that `name` stands for; `None` if there is nothing, or too much.
    fn commit_of(&self, name: &str) -> Result<Option<ObjectId>, GitError> {
        let name = format!("{name}^{{commit}}");
        match self.answer("look a commit up", &["rev-parse", "--verify", "--quiet", &name]) {
            Ok(answer) => Ok(ObjectId::parse(answer.trim())),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commit that `object`, which was fetched, stands for.
    pub(super) fn peel(&self, object: &ObjectId) -> Result<ObjectId, GitError> {
        self.commit_of(object.as_str())?.ok_or_else(|| GitError::Source {
            url: self.remote.url.to_owned(),
            reason: format!("{object} is not a commit"),
        })
    }

    /// When a commit was made, in seconds since 1970.
    pub(super) fn time(&self, commit: &ObjectId) -> Result<i64, GitError> {
        const OPERATION: &str = "find out the time of a commit";
        let answer =
            self.answer(OPERATION, &["log", "-1", "--no-show-signature", "--format=%ct", commit.as_str()])?;
        answer.trim().parse().map_err(|_| GitError::Answer {
            operation: OPERATION.to_owned(),
            reason: format!("{commit} has none"),
        })
    }

    /// Everything in a commit, directories too.
    pub(super) fn entries(
        &self,
        commit: &ObjectId,
        each: &mut dyn FnMut(TreeEntry<'_>) -> Result<(), GitError>,
    ) -> Result<(), GitError> {
        const OPERATION: &str = "list the files of a commit";
        let arguments = ["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit.as_str()];
        let wrong = || GitError::Answer {
            operation: OPERATION.to_owned(),
            reason: "git says something unexpected".to_owned(),
        };
        let mut rest: Vec<u8> = Vec::new();
        self.runner.stream(&self.call(OPERATION, &arguments), &mut |chunk| {
            rest.extend_from_slice(chunk);
            let mut start = 0;
            while let Some(len) = rest[start..].iter().position(|byte| *byte == 0) {
                each(TreeEntry::parse(&rest[start..start + len]).ok_or_else(wrong)?)?;
                start += len + 1;
            }
            rest.drain(..start);
            if rest.len() > ENTRY_BYTES_MAX { Err(wrong()) } else { Ok(()) }
        })
    }

    /// Keys and values of a commit's `.gitmodules`.
    pub(super) fn modules(&self, commit: &ObjectId) -> Result<Vec<(String, String)>, GitError> {
        let blob = format!("--blob={commit}:.gitmodules");
        let arguments = ["config", &blob, "--no-includes", "-z", "--get-regexp", "^submodule\\."];
        let call = self.call("read .gitmodules", &arguments);
        let output = match self.runner.output(&call, MODULES_BYTES_MAX) {
            // Git ends so when nothing in it matches.
            Err(GitError::Failed { status, tail, .. }) if status == "status 1" && tail.is_empty() => {
                Vec::new()
            }
            done => done?,
        };
        let text = String::from_utf8_lossy(&output);
        let pairs = text.split_terminator('\0').filter_map(|pair| pair.split_once('\n'));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Puts a commit's files into the empty directory `tree`. The index that git needs for it goes to `index`.
    pub(super) fn check_out(&self, commit: &ObjectId, tree: &Path, index: &Path) -> Result<(), GitError> {
        let operation = format!("check out commit {commit} of `{}`", self.remote.url);
        let call = Call::new(operation, ["read-tree", "--reset", "-u", commit.as_str()]);
        self.runner.run(&call.repository(&self.dir).work_tree(tree).index(index))
    }

    /// Makes `tree` a shallow clone of `object` (a commit or an annotated tag), checked out, that calls it `name` if it is
    /// a branch or a tag.
    pub(super) fn clone_into(
        &self,
        tree: &Path,
        object: &ObjectId,
        name: Option<&str>,
    ) -> Result<(), GitError> {
        let git_dir = tree.join(".git");
        let operation = format!("clone `{}`", self.remote.url);
        let run = |arguments: &[&str]| {
            let call = Call::new(operation.as_str(), arguments).repository(&git_dir).work_tree(tree);
            self.runner.run(&call.reading_files())
        };
        let format = format!("--object-format={}", object.format().name());
        run(&["init", "--quiet", "--template=", "--initial-branch=main", &format])?;
        run(&["config", "remote.origin.url", self.remote.url])?;
        run(&["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"])?;
        let local = name.filter(|name| name.starts_with("refs/heads/") || name.starts_with("refs/tags/"));
        let spec = match local {
            Some(name) => format!("+{KEPT}/{object}:{name}"),
            None => format!("+{KEPT}/{object}"),
        };
        // As a URL it is read through git's protocol, which takes nothing but objects.
        let url = format!("file://{}", self.dir.display().to_string().replace('%', "%25"));
        run(&[
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--update-head-ok",
            "--depth=1",
            "--upload-pack=git -c safe.directory='*' upload-pack",
            "--",
            &url,
            &spec,
        ])?;
        let commit = self.peel(object)?;
        run(&["update-ref", "--no-deref", "HEAD", commit.as_str()])?;
        run(&["read-tree", "--reset", "-u", "HEAD"])?;
        // The same once more without the stamps of the files: they are others wherever this is copied to.
        run(&["read-tree", "HEAD"])
    }

    fn answer(&self, operation: &str, arguments: &[&str]) -> Result<String, GitError> {
        let bytes = self.runner.output(&self.call(operation, arguments), ANSWER_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn call(&self, operation: &str, arguments: &[&str]) -> Call<'static> {
        Call::new(operation, arguments).repository(&self.dir)
    }

    fn say(&self, text: &str) {
        (self.runner.log)(format!("{text}\n").as_bytes());
    }

    /// Does something that leaves the repository broken if it is killed. Git tidies up when it fails by itself.
    fn busy<T>(&self, work: impl FnOnce() -> Result<T, GitError>) -> Result<T, GitError> {
        let mark = self.dir.join(BUSY);
        fs::write(&mark, "").map_err(|error| GitError::io("write", &mark, error))?;
        let done = work();
        if !matches!(done, Err(GitError::Cancelled)) {
            fs::remove_file(&mark).map_err(|error| GitError::io("delete", &mark, error))?;
        }
        done
    }
}

impl<'a> TreeEntry<'a> {
    /// Reads `MODE TYPE OBJECT SIZE<tab>PATH`.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let mut words = std::str::from_utf8(&line[..tab]).ok()?.split_ascii_whitespace();
        let (mode, _kind, object, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let size = if size == "-" { 0 } else { size.parse().ok()? };
        Some(Self { mode, object, size, path: &line[tab + 1..] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let parse = |line: &'static str| {
            TreeEntry::parse(line.as_bytes()).map(|entry| (entry.mode, entry.object, entry.size, entry.path))
        };
        assert_eq!(parse("100644 blob abc      12\ta b\tc"), Some(("100644", "abc", 12, &b"a b\tc"[..])));
        assert_eq!(parse("160000 commit abc       -\tsub"), Some(("160000", "abc", 0, &b"sub"[..])));
        assert_eq!(parse("100644 blob abc"), None);
        assert_eq!(parse("100644 blob abc x\ty"), None);
    }
}
