//! Running git: with nothing of the machine's or the user's configuration, and none of the repository's say.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use wharf_runtime::Cancel;

use super::GitError;
use super::access::Credentials;

/// What git may say into the log; the rest of what a server sends there is dropped.
const LOG_BYTES_MAX: usize = 8 << 20;

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Lines, and characters of each, that an error repeats.
const TAIL_LINES: usize = 8;
const TAIL_LINE_CHARS: usize = 300;

/// How long git has to tidy up when it is told to end.
const TERMINATION: Duration = Duration::from_secs(2);

/// The transports that a repository, or a submodule of one, may be reached by.
const PROTOCOLS: &str = "http:https:git:ssh";

/// Variables that git inherits: where programs are, and how the network is reached.
const INHERITED: [&str; 13] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "TMPDIR",
];

/// What git is told whatever a repository, the user or the machine say.
const CONFIG: [(&str, &str); 21] = [
    // No program but git's own is run.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    // Files are as they are in the repository, on every machine.
    ("core.autocrlf", "false"),
    ("core.eol", "lf"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    // Nothing goes on behind our back, and nothing is fetched that was not asked for.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("transfer.bundleURI", "false"),
    ("core.logAllRefUpdates", "false"),
    ("advice.detachedHead", "false"),
    ("advice.fetchShowForcedUpdates", "false"),
    // The repositories are in the store, which may belong to somebody else than who builds.
    ("safe.directory", "*"),
    // A server that says nothing for five minutes says nothing any more.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "300"),
];

/// Runs git for one source.
pub(super) struct Runner<'a> {
    /// Ends what runs.
    pub(super) cancel: &'a Cancel,
    /// Gets what git says, line by line.
    pub(super) log: &'a dyn Fn(&[u8]),
    /// A directory that belongs to no repository.
    pub(super) scratch: &'a Path,
    /// Whether what goes over the network is refused.
    pub(super) offline: bool,
}

/// One run of git.
pub(super) struct Call<'a> {
    /// What it is for: the words after "cannot".
    operation: String,
    arguments: Vec<OsString>,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    index: Option<PathBuf>,
    credentials: Option<&'a Credentials>,
    /// Whether it reads another repository of the store.
    reads_files: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new<A: AsRef<OsStr>>(
        operation: impl Into<String>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            operation: operation.into(),
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            git_dir: None,
            work_tree: None,
            index: None,
            credentials: None,
            reads_files: false,
        }
    }

    /// In this repository.
    pub(super) fn repository(mut self, git_dir: &Path) -> Self {
        self.git_dir = Some(git_dir.to_owned());
        self
    }

    /// With these files checked out.
    pub(super) fn work_tree(mut self, tree: &Path) -> Self {
        self.work_tree = Some(tree.to_owned());
        self
    }

    /// With an index that is not the repository's.
    pub(super) fn index(mut self, index: &Path) -> Self {
        self.index = Some(index.to_owned());
        self
    }

    /// Over the network.
    pub(super) fn credentials(mut self, credentials: &'a Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// From another repository of the store.
    pub(super) fn reading_files(mut self) -> Self {
        self.reads_files = true;
        self
    }

    fn command(&self, scratch: &Path) -> Command {
        let mut command = Command::new("git");
        command.args(&self.arguments).env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("HOME", scratch)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CEILING_DIRECTORIES", scratch.parent().unwrap_or(scratch))
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOW_PROTOCOL", if self.reads_files { "file" } else { PROTOCOLS });
        let given = self.credentials.iter().flat_map(|credentials| &credentials.config);
        let fixed = CONFIG.iter().map(|(key, value)| (*key, *value));
        let config = fixed.chain(given.map(|(key, value)| (key.as_str(), value.as_str())));
        let mut count = 0;
        for (key, value) in config {
            command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        for (name, value) in self.credentials.iter().flat_map(|credentials| &credentials.env) {
            command.env(name, value);
        }
        if let Some(git_dir) = &self.git_dir {
            command.env("GIT_DIR", git_dir);
        }
        if let Some(tree) = &self.work_tree {
            command.env("GIT_WORK_TREE", tree);
        }
        if let Some(index) = &self.index {
            command.env("GIT_INDEX_FILE", index);
        }
        command.current_dir(self.work_tree.as_deref().unwrap_or(scratch));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Runner<'_> {
    /// Runs git; what it prints is of no interest.
    pub(super) fn run(&self, call: &Call<'_>) -> Result<(), GitError> {
        self.stream(call, &mut |_| Ok(()))
    }

    /// Runs git and returns what it prints, `max` bytes at most.
    pub(super) fn output(&self, call: &Call<'_>, max: usize) -> Result<Vec<u8>, GitError> {
        let mut output = Vec::new();
        self.stream(call, &mut |chunk| {
            if output.len() + chunk.len() > max {
                let reason = format!("git says more than {max} bytes");
                return Err(GitError::Answer { operation: call.operation.clone(), reason });
            }
            output.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(output)
    }

    /// Runs git; what it prints goes to `stdout` as it comes. An error of that ends git.
    pub(super) fn stream(
        &self,
        call: &Call<'_>,
        stdout: &mut dyn FnMut(&[u8]) -> Result<(), GitError>,
    ) -> Result<(), GitError> {
        if self.cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        if self.offline && call.credentials.is_some() {
            return Err(GitError::Offline { operation: call.operation.clone() });
        }
        let started = wharf_runtime::spawn_on_host(&mut call.command(self.scratch));
        // Its helpers may wait for a server long after git has ended: what is left of them goes when we do.
        let (mut child, _lifeline) = started.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => GitError::NoProgram,
            _ => GitError::Start { operation: call.operation.clone(), source },
        })?;
        let secrets = call.credentials.map_or(&[][..], |credentials| &credentials.secrets);
        let mut said = Said::new(self.log, secrets);
        let failed = |source| GitError::Start { operation: call.operation.clone(), source };
        let pumped = self.pump(&mut child, stdout, &mut said).unwrap_or_else(|error| Err(failed(error)));
        said.finish();
        if let Err(error) = pumped {
            terminate(&mut child);
            return Err(error);
        }
        let status = child.wait().map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        Err(GitError::Failed {
            operation: call.operation.clone(),
            status: describe(status),
            tail: said.tail.into(),
        })
    }

    /// Reads both outputs to their ends. The outer error is the system's.
    fn pump(
        &self,
        child: &mut Child,
        stdout: &mut dyn FnMut(&[u8]) -> Result<(), GitError>,
        said: &mut Said<'_>,
    ) -> io::Result<Result<(), GitError>> {
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (out_ready, err_ready) = {
                let mut polled = vec![PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN)];
                polled.extend(out.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
                polled.extend(err.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
                if polled.len() == 1 {
                    return Ok(Ok(()));
                }
                rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
                let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
                if ready.next() == Some(true) {
                    return Ok(Err(GitError::Cancelled));
                }
                (out.is_some() && ready.next() == Some(true), err.is_some() && ready.next() == Some(true))
            };
            if out_ready && let Some(pipe) = &mut out {
                match pipe.read(&mut buffer)? {
                    0 => out = None,
                    count => {
                        if let Err(error) = stdout(&buffer[..count]) {
                            return Ok(Err(error));
                        }
                    }
                }
            }
            if err_ready && let Some(pipe) = &mut err {
                match pipe.read(&mut buffer)? {
                    0 => err = None,
                    count => said.take(&buffer[..count]),
                }
            }
        }
    }
}

/// Ends git and all that it started, which are a process group: the terminal's Ctrl-C is for us alone.
fn terminate(child: &mut Child) {
    let group = Pid::from_child(child);
    let _ = kill_process_group(group, Signal::TERM);
    let deadline = Instant::now() + TERMINATION;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What git itself started need not have ended with it.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// What git says on its way.
struct Said<'a> {
    log: &'a dyn Fn(&[u8]),
    secrets: &'a [String],
    line: Vec<u8>,
    logged: usize,
    tail: VecDeque<String>,
}

impl<'a> Said<'a> {
    fn new(log: &'a dyn Fn(&[u8]), secrets: &'a [String]) -> Self {
        Self { log, secrets, line: Vec::new(), logged: 0, tail: VecDeque::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() == LINE_BYTES_MAX {
                self.end_line();
            }
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let mut line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        // Git does not show them; this is for the day that it does.
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            line = line.replace(secret, "****");
        }
        self.logged += line.len();
        if self.logged <= LOG_BYTES_MAX {
            (self.log)(line.as_bytes());
        }
        let shown: String = line
            .trim()
            .chars()
            .take(TAIL_LINE_CHARS)
            .map(|it| if it.is_control() { ' ' } else { it })
            .collect();
        if shown.is_empty() {
            return;
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(shown);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_git_says_is_logged_without_secrets() {
        let logged = RefCell::new(String::new());
        let log = |line: &[u8]| logged.borrow_mut().push_str(&String::from_utf8_lossy(line));
        let secrets = ["s3cret".to_owned(), String::new()];
        let mut said = Said::new(&log, &secrets);
        said.take(b"one s3cr");
        said.take(b"et\ntwo\x1b[31m\n\n");
        said.take(&vec![b'x'; LINE_BYTES_MAX + 1]);
        said.finish();
        let long = "x".repeat(TAIL_LINE_CHARS);
        assert_eq!(Vec::from(said.tail), ["one ****", "two [31m", long.as_str(), "x"]);
        assert!(logged.borrow().starts_with("one ****\ntwo\u{1b}[31m\n\nxxx"));
        let mut endless = Said::new(&log, &secrets);
        for _ in 0..3000 {
            endless.take(&vec![b'x'; LINE_BYTES_MAX]);
        }
        assert!(logged.borrow().len() <= LOG_BYTES_MAX + LINE_BYTES_MAX * 2);
    }
}
