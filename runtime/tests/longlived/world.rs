//! A root file system, and containers in it that are started, watched and entered.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use wharf_runtime::cgroup::Group;
use wharf_runtime::sandbox::in_user_namespace;
use wharf_runtime::{
    Cancel, Container, ExecRequest, ExitStatus, Inside, Ownership, Request, Running, RuntimeError, Spec,
    Stdio, default_spec, start,
};

use crate::records::Records;

const APPLETS: &[&str] = &[
    "sh", "true", "cat", "echo", "id", "ls", "pwd", "env", "stat", "sleep", "kill", "mount", "hostname",
    "readlink", "test", "mkdir", "rm", "touch", "chmod", "mknod", "head", "wc", "ps", "grep", "dd", "tr",
    "printf", "chown", "setsid", "tty", "stty", "sort", "usleep", "cut", "df", "unshare", "ip",
];

/// Changes to the default spec: JSON pointers and values.
pub(crate) type Changes<'a> = Vec<(&'a str, Value)>;

pub(crate) const OK: ExitStatus = ExitStatus::Exited(0);

/// A busybox in a directory that goes when this does.
pub(crate) struct World {
    pub(crate) directory: PathBuf,
    root: OwnedFd,
}

impl World {
    /// None, with a word why, where containers cannot be made.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: not root");
            return None;
        }
        let places = ["/bin/busybox", "/usr/bin/busybox"];
        let Some(busybox) = places.map(Path::new).into_iter().find(|path| path.exists()) else {
            println!("SKIP: no static busybox at /bin/busybox");
            return None;
        };
        let name =
            format!("wharf-longlived-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let base = std::env::temp_dir().join(name);
        for directory in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy(busybox, base.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(base.join("bin/plain"), "").unwrap();
        let root = File::open(&base).unwrap().into();
        Some(Self { directory: base, root })
    }

    /// Starts `script` in a shell.
    pub(crate) fn start<'a>(
        &'a self,
        spec: &'a Spec,
        stdio: Stdio<'a>,
        group: Option<&'a Group>,
        cancel: &'a Cancel,
    ) -> Result<Container<'a, 'a>, RuntimeError> {
        let (root, binds, ownership) = (self.root.as_fd(), vec![], ownership());
        start(Request { spec, root, binds, stdio, ownership, user_namespace: None, cancel }, group)
    }

    /// A container that runs `script` until it is told otherwise, and goes with the returned value.
    #[track_caller]
    pub(crate) fn sleeping<'a>(
        &'a self,
        spec: &'a Spec,
        group: Option<&'a Group>,
        cancel: &'a Cancel,
    ) -> Container<'a, 'a> {
        let stdio = Stdio::Given { stdin: None, stdout: None, stderr: None };
        self.start(spec, stdio, group, cancel).unwrap_or_else(|error| panic!("{}", words(&error)))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Who remembers owners where there is one id.
pub(crate) fn ownership() -> Option<&'static dyn Ownership> {
    in_user_namespace().then_some(&Records)
}

/// An error with its cause.
pub(crate) fn words(error: &RuntimeError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

/// The default spec with a shell that runs `script`, and the values at some JSON pointers replaced; `/-` at the end of one
/// appends.
pub(crate) fn shell(script: &str, changes: &[(&str, Value)]) -> Spec {
    let mut value = serde_json::to_value(default_spec()).unwrap();
    value["hostname"] = json!("box");
    value["process"]["args"] = json!(["/bin/sh", "-c", script]);
    for (pointer, new) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match value.pointer_mut(parent).unwrap() {
            Value::Array(array) => array.push(new.clone()),
            parent => parent[key] = new.clone(),
        }
    }
    serde_json::from_value(value).unwrap()
}

/// Executes a shell in a container; its status and what it printed, or the words of the error.
pub(crate) fn exec(inside: &Inside<'_>, script: &str, changes: &[(&str, Value)]) -> (String, String) {
    let spec = shell(script, changes);
    let cancel = Cancel::new().unwrap();
    let mut printed = Vec::new();
    let mut sink = |_, chunk: &[u8]| printed.extend_from_slice(chunk);
    let request = ExecRequest {
        process: spec.process().as_ref().unwrap(),
        seccomp: spec.linux().as_ref().unwrap().seccomp().as_ref(),
        stdio: Stdio::Captured(&mut sink),
        cancel: &cancel,
    };
    let status = match inside.exec(request).and_then(|mut process| process.wait()) {
        Ok(status) => format!("{status:?}"),
        Err(error) => words(&error),
    };
    (status, String::from_utf8(printed).unwrap())
}

/// A pipe whose first end reads.
pub(crate) fn pipe() -> (File, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

/// What can be read until `end` comes, or nothing more does.
#[track_caller]
pub(crate) fn read_until(file: &mut File, end: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(end) {
        let mut byte = [0];
        match file.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            // A terminal ends with EIO.
            _ => panic!("no {end:?} in {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits for something that nobody announces; a minute means that it never comes.
pub(crate) fn until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// How many processes have `marker` among their arguments.
pub(crate) fn processes_with(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments
        .filter(|arguments| arguments.split(|&byte| byte == 0).any(|word| word == marker.as_bytes()))
        .count()
}

/// A number of seconds that nobody else sleeps.
pub(crate) fn marker() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 400_000 + std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Waits for the end.
#[track_caller]
pub(crate) fn end(process: &mut Running<'_>) -> ExitStatus {
    process.wait().unwrap_or_else(|error| panic!("{}", words(&error)))
}
