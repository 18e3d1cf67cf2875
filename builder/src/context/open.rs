//! Brings contexts of every kind here: as a tree to read from, or as a Dockerfile alone.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Timespec, Timestamps};
use rustix::io::Errno;
use wharf_cache::diff::{ARCHIVE_START_BYTES, extract_archive, may_be_archive, newest_file};
use wharf_frontend::dockerignore::Matcher;
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;
use wharf_solver::progress::{Event, LogStream, Sink as _};

use super::spec::{ContextSpec, redacted};
use super::{LocalContext, open_at_once, read_bytes};
use crate::error::{Failure, Kind, SourceText, causes, is_disk_full};
use crate::progress::Progress;
use crate::source::git::GitSource;
use crate::source::http::{DOWNLOAD_BYTES_MAX, Fetched, UrlFile};
use crate::source::{GitError, SourceError, Sources, transfer_events};

/// A Dockerfile or ignore file is text that somebody wrote; more than this is something else.
pub const DOCKERFILE_BYTES_MAX: u64 = 64 << 20;

/// The most bytes that are taken from standard input.
const STDIN_BYTES_MAX: u64 = DOWNLOAD_BYTES_MAX;

/// Mode of a context's root where nothing else says what it is.
const ROOT_MODE: u32 = 0o755;

/// What the file of a context behind a URL is called.
const URL_FILE_NAME: &str = "context";

/// What contexts are brought with.
#[derive(Debug, Clone, Copy)]
pub struct Opener<'a> {
    /// Where those come from that are no directories.
    pub sources: Reach<'a>,
    /// Which image of several.
    pub platform: &'a Platform,
    /// Whether registries are asked for images that are here.
    pub pull: bool,
    /// Whether the `.git` of a repository stays (`BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
    pub keep_git_dir: bool,
    /// Hears what takes time.
    pub progress: &'a Progress,
    /// Ends it.
    pub cancel: &'a Cancel,
}

/// Sources that may be opened only when they are wanted: what reads nothing but directories needs no store.
#[derive(Clone, Copy)]
pub enum Reach<'a> {
    /// They are open.
    Open(&'a Sources),
    /// They are opened by the first who wants them.
    OnDemand {
        /// Where they are kept then.
        opened: &'a OnceCell<Sources>,
        /// Opens them.
        open: &'a dyn Fn() -> Result<Sources, Failure>,
    },
}

impl std::fmt::Debug for Reach<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::OnDemand { .. } => "OnDemand",
        })
    }
}

impl<'a> Reach<'a> {
    /// The sources.
    pub fn get(self) -> Result<&'a Sources, Failure> {
        match self {
            Self::Open(sources) => Ok(sources),
            Self::OnDemand { opened, open } => match opened.get() {
                Some(sources) => Ok(sources),
                None => {
                    let sources = open()?;
                    Ok(opened.get_or_init(|| sources))
                }
            },
        }
    }
}

/// A context that is here.
#[derive(Debug)]
pub struct Opened {
    /// What COPY reads from; empty if the context is a Dockerfile alone.
    pub context: LocalContext,
    /// The context as a Dockerfile.
    pub dockerfile: Option<SourceText>,
    /// The time it stands for (`SOURCE_DATE_EPOCH=context`), seconds since 1970: of a commit, of a URL's last modification,
    /// else of an archive's newest file.
    pub modified_s: Option<i64>,
}

impl Opener<'_> {
    /// Brings the main context here.
    pub fn main(&self, spec: &ContextSpec) -> Result<Opened, Failure> {
        match spec {
            ContextSpec::Path(path) => self.path(path),
            ContextSpec::Stdin => self.stdin(),
            ContextSpec::Http(url) => self.url(url),
            ContextSpec::Git(url) => self.git("load git source", url),
            ContextSpec::Image(reference) => self.image(reference),
            ContextSpec::Stage(stage) => {
                Err(Failure::new(Kind::Usage, format!("stage `{stage}` cannot be the main context")))
            }
        }
    }

    /// Brings a named context here. An URL is a file called `context`, archive or not.
    pub fn named(&self, name: &str, spec: &ContextSpec) -> Result<Opened, Failure> {
        match spec {
            ContextSpec::Http(url) => {
                let title = format!("[context {name}] {}", redacted(url));
                let (file, fetched) = self.fetch(url, &title)?;
                let Sources { store, http, .. } = self.sources.get()?;
                let root = store.view(&fetched.chain).map_err(|error| prepare_failure(&error))?;
                let modified_s =
                    http.modified_s(&file, &|_, _| {}).map_err(|error| self.source_failure(url, error))?;
                Ok(Opened {
                    context: LocalContext::private(Path::new(url), root, store.setup().ids),
                    dockerfile: None,
                    modified_s,
                })
            }
            ContextSpec::Git(url) => self.git(&format!("[context {name}] load git source"), url),
            other => self.main(other),
        }
    }

    fn path(&self, path: &Path) -> Result<Opened, Failure> {
        let shown = path.display();
        let (mut file, metadata) = open_at_once(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            let context =
                LocalContext::open(path, Matcher::default()).map_err(|error| unreadable(path, &error))?;
            return Ok(Opened { context, dockerfile: None, modified_s: None });
        }
        if !metadata.is_file() {
            return Err(not_a_context(path));
        }
        let unpacked =
            self.progress.internal(&format!("[internal] unpack {shown}"), || self.unpack(&mut file, path))?;
        unpacked.ok_or_else(|| not_a_context(path))
    }

    /// Standard input is told apart by its content: an archive, else a Dockerfile.
    fn stdin(&self) -> Result<Opened, Failure> {
        let name = Path::new("<standard input>");
        self.progress.internal("[internal] load remote build context", || {
            let mut input = self.stoppable(io::stdin());
            let mut start = Vec::new();
            let read = (&mut input).take(ARCHIVE_START_BYTES as u64).read_to_end(&mut start);
            read.map_err(|error| self.unreadable_stdin(&error))?;
            if start.is_empty() {
                return Err(Failure::new(Kind::Usage, "standard input is empty")
                    .hint("the context `-` is an archive or a Dockerfile on standard input"));
            }
            let input = io::Cursor::new(&start).chain(input);
            // What may be an archive is kept; of all else no more is read than a Dockerfile has.
            if !may_be_archive(&start) {
                return self.dockerfile_alone(&start, input, name, None);
            }
            let mut file = self.spool(input)?;
            match self.unpack(&mut file, name)? {
                Some(opened) => Ok(opened),
                None => Err(neither(name, "it is compressed, and there is no tar in it")),
            }
        })
    }

    fn url(&self, url: &str) -> Result<Opened, Failure> {
        let (file, fetched) = self.fetch(url, "[internal] load remote build context")?;
        let store = &self.sources.get()?.store;
        let mut opened = fetched.open(store, &file).map_err(|error| self.source_failure(url, error))?;
        let name = PathBuf::from(file.shown());
        match self.unpack(&mut opened, &name)? {
            Some(unpacked) => {
                Ok(Opened { modified_s: fetched.modified_s.or(unpacked.modified_s), ..unpacked })
            }
            None => {
                let mut start = Vec::new();
                let read = opened.rewind();
                let read =
                    read.and_then(|()| (&opened).take(ARCHIVE_START_BYTES as u64).read_to_end(&mut start));
                read.map_err(|error| neither(&name, &error.to_string()))?;
                let whole = io::Cursor::new(&start).chain(&opened);
                self.dockerfile_alone(&start, whole, &name, fetched.modified_s)
            }
        }
    }

    /// Downloads the Dockerfile of `-f URL`.
    pub fn dockerfile(&self, url: &str) -> Result<SourceText, Failure> {
        let title = format!("[internal] load build definition from {}", redacted(url));
        let Sources { store, http, .. } = self.sources.get()?;
        self.progress.internal(&title, || {
            let file = UrlFile::new(url).map_err(|error| self.source_failure(url, error))?;
            let file = file.called("Dockerfile").at_most(DOCKERFILE_BYTES_MAX);
            let fetched = http.fetch(&file, &|_, _| {}).map_err(|error| self.source_failure(url, error))?;
            let opened = fetched.open(store, &file).map_err(|error| self.source_failure(url, error))?;
            read_dockerfile(&file.shown(), opened).map_err(|error| {
                let message = format!("cannot read the Dockerfile `{}`: {}", file.shown(), causes(&error));
                Failure::new(Kind::Source, message)
            })
        })
    }

    fn fetch(&self, url: &str, title: &str) -> Result<(UrlFile, Fetched), Failure> {
        let http = &self.sources.get()?.http;
        self.progress.internal_with(title, |vertex| {
            let file = UrlFile::new(url).map_err(|error| self.source_failure(url, error))?;
            let file = file.called(URL_FILE_NAME);
            let report = |current, total| {
                let (id, done) = (file.shown(), total == Some(current));
                self.progress.send(Event::Status { vertex, id, current, total, done });
            };
            let fetched = http.fetch(&file, &report).map_err(|error| self.source_failure(url, error))?;
            Ok((file, fetched))
        })
    }

    fn git(&self, title: &str, url: &str) -> Result<Opened, Failure> {
        let Sources { store, repositories, .. } = self.sources.get()?;
        self.progress.internal_with(&format!("[internal] {title} {}", redacted(url)), |vertex| {
            let log = |data: &[u8]| {
                self.progress.send(Event::Log { vertex, stream: LogStream::Stderr, data: data.to_vec() });
            };
            let bring = || {
                let source = GitSource::from_context(url, self.keep_git_dir)?;
                let pinned = repositories.resolve(&source, &log)?;
                let chain = repositories.checkout(&pinned, &log)?;
                let committed_s = repositories.commit_time(&chain)?;
                Ok((source, store.view(&chain)?, committed_s))
            };
            let brought: Result<_, GitError> = bring();
            let (source, root, committed_s) = brought.map_err(|error| self.source_failure(url, error))?;
            Ok(Opened {
                context: LocalContext::private(Path::new(source.url()), root, store.setup().ids),
                dockerfile: None,
                modified_s: Some(committed_s),
            })
        })
    }

    /// The file system of an image.
    fn image(&self, reference: &str) -> Result<Opened, Failure> {
        let title = format!("[internal] load build context from {reference}");
        let Sources { store, images, .. } = self.sources.get()?;
        let chain = self.progress.internal_with(&title, |vertex| {
            let image = images.resolve(reference, self.platform, self.pull);
            let image = image.map_err(|error| self.source_failure(reference, error))?;
            let report = transfer_events(vertex, self.progress);
            images.pull(&image.identifier, &report).map_err(|error| self.source_failure(reference, error))
        })?;
        // A step may be shown it.
        store.part_shared(&chain).map_err(|error| prepare_failure(&error))?;
        let root = store.view(&chain).map_err(|error| prepare_failure(&error))?;
        let context = LocalContext::private(Path::new(reference), root, store.setup().ids);
        Ok(Opened { context, dockerfile: None, modified_s: None })
    }

    /// Unpacks an archive into a directory of this process; `None` if it is none.
    fn unpack(&self, archive: &mut File, name: &Path) -> Result<Option<Opened>, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let kind = if is_disk_full(error) { Kind::Environment } else { Kind::Source };
            Failure::from_error(kind, &format!("cannot unpack the context `{}`", name.display()), error)
        };
        let scratch = self.scratch()?;
        let root = File::open(&scratch).map_err(|error| prepare_failure(&error))?;
        let ids = self.sources.get()?.store.setup().ids;
        let unpacked = extract_archive(archive, root.as_fd(), ids, (0, 0)).map_err(|error| failed(&error))?;
        if !unpacked {
            return Ok(None);
        }
        let modified_s = newest_file(archive).map_err(|error| failed(&error))?;
        // The directory itself is in no archive; its time must not be that of this build.
        set_time(&root, modified_s.unwrap_or(0)).map_err(|error| prepare_failure(&error))?;
        let context = LocalContext::private(name, root.into(), ids);
        Ok(Some(Opened { context, dockerfile: None, modified_s }))
    }

    /// The context is a Dockerfile that begins with `start`; there is nothing to copy.
    fn dockerfile_alone(
        &self,
        start: &[u8],
        whole: impl Read,
        name: &Path,
        modified_s: Option<i64>,
    ) -> Result<Opened, Failure> {
        if start.contains(&0) || may_be_archive(start) {
            return Err(neither(name, "it is no text"));
        }
        let text = read_dockerfile(&name.display().to_string(), whole).map_err(|error| match () {
            () if self.cancel.is_cancelled() => self.unreadable_stdin(&error),
            () => neither(name, &error.to_string()),
        })?;
        if text.text.contains('\0') {
            return Err(neither(name, "it is no text"));
        }
        let root = File::open(self.scratch()?).map_err(|error| prepare_failure(&error))?;
        let ids = self.sources.get()?.store.setup().ids;
        let context = LocalContext::private(name, root.into(), ids);
        Ok(Opened { context, dockerfile: Some(text), modified_s })
    }

    /// An empty directory that goes when this process does. Nobody else gets to it, whatever its own mode is.
    fn scratch(&self) -> Result<PathBuf, Failure> {
        let path = self.sources.get()?.store.temp_dir().map_err(|error| prepare_failure(&error))?;
        let mode = fs::Permissions::from_mode(ROOT_MODE);
        fs::set_permissions(&path, mode).map_err(|error| prepare_failure(&error))?;
        Ok(path)
    }

    /// Puts a stream into a file without a name.
    fn spool(&self, reader: impl Read) -> Result<File, Failure> {
        let path = self.scratch()?.join("stdin");
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        let mut file = options.map_err(|error| prepare_failure(&error))?;
        fs::remove_file(&path).map_err(|error| prepare_failure(&error))?;
        let mut limited = reader.take(STDIN_BYTES_MAX + 1);
        let copied = io::copy(&mut limited, &mut file).map_err(|error| self.unreadable_stdin(&error))?;
        if copied > STDIN_BYTES_MAX {
            let message = format!("standard input has more than {STDIN_BYTES_MAX} bytes");
            return Err(Failure::new(Kind::Source, message));
        }
        Ok(file)
    }

    fn unreadable_stdin(&self, error: &io::Error) -> Failure {
        let kind = if self.cancel.is_cancelled() { Kind::Cancelled } else { Kind::Environment };
        Failure::from_error(kind, "cannot read standard input", error)
    }

    /// Reads `input` until the build is cancelled, whatever it is.
    pub fn stoppable<F: AsFd>(&self, input: F) -> Stoppable<'_, F> {
        Stoppable { input, cancel: self.cancel }
    }

    fn source_failure(&self, name: &str, error: impl Into<SourceError>) -> Failure {
        let error = error.into();
        let kind = match () {
            () if self.cancel.is_cancelled() => Kind::Cancelled,
            () if is_disk_full(&error) => Kind::Environment,
            () => Kind::Source,
        };
        let doing = format!("cannot load `{}`", redacted(name));
        let mut failure = Failure::from_error(kind, &doing, &error);
        failure.hints.extend(error.hint());
        failure
    }
}

/// A file or pipe, until the build is cancelled.
#[derive(Debug)]
pub struct Stoppable<'a, F> {
    input: F,
    cancel: &'a Cancel,
}

impl<F: AsFd> Read for Stoppable<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut polled = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("the build was interrupted"));
            }
            // Not through `std`, whose buffer would hide from `poll` what it holds.
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.input, &mut *buffer)) {
                // Somebody else has read what there was.
                Err(Errno::AGAIN) => {}
                read => return Ok(read?),
            }
        }
    }
}

/// Reads a Dockerfile called `name`.
pub fn read_dockerfile(name: &str, reader: impl Read) -> io::Result<SourceText> {
    let bytes = read_bytes(reader, DOCKERFILE_BYTES_MAX)?;
    SourceText::decode(name, bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

fn neither(name: &Path, why: &str) -> Failure {
    let message = format!("`{}` is neither an archive nor a Dockerfile: {why}", name.display());
    Failure::new(Kind::Source, message)
        .hint("an archive is a tar, as it is or compressed with gzip, bzip2, xz or zstd")
}

fn set_time(dir: &File, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(rustix::fs::futimens(dir, &Timestamps { last_access: time, last_modification: time })?)
}

fn prepare_failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, "cannot prepare the build context", error)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure =
        Failure::from_error(Kind::Usage, &format!("cannot read the context `{}`", path.display()), error);
    match error.kind() {
        io::ErrorKind::NotFound => failure.hint(format!(
            "looked for a directory or an archive of this name in `{}`; a URL begins with https://",
            std::env::current_dir().unwrap_or_default().display()
        )),
        _ => failure,
    }
}

fn not_a_context(path: &Path) -> Failure {
    let message = format!("the context `{}` is neither a directory nor a tar archive", path.display());
    Failure::new(Kind::Usage, message)
        .hint("the Dockerfile is named with `-f`; the context is what COPY reads from")
}
