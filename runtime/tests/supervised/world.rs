//! A root file system and steps in it.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::json;
use wharf_runtime::{Cancel, Request, Spec, Stdio, Stream, default_spec, resolve_user, run};

use crate::records::Records;

const APPLETS: &[&str] = &[
    "sh", "true", "cat", "echo", "id", "ls", "stat", "sleep", "kill", "readlink", "test", "mkdir", "rm",
    "touch", "chmod", "mknod", "mkfifo", "head", "grep", "tr", "chown", "chgrp", "su", "mv", "ln", "cp",
    "seq", "cut", "rmdir", "truncate", "link", "unlink", "printf",
];

/// A busybox in a directory that goes when this does.
pub(crate) struct World {
    directory: PathBuf,
}

/// What a step printed.
pub(crate) struct Outcome {
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// None, with a word why, where there is no busybox.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let places = ["/bin/busybox", "/usr/bin/busybox"];
        let Some(busybox) = places.map(Path::new).into_iter().find(|path| path.exists()) else {
            println!("SKIP: no static busybox at /bin/busybox");
            return None;
        };
        let name =
            format!("wharf-supervised-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { directory: std::env::temp_dir().join(name) };
        for directory in ["bin", "etc", "tmp", "root", "dev", "proc"] {
            fs::create_dir_all(world.directory.join(directory)).unwrap();
        }
        fs::set_permissions(world.directory.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy(busybox, world.directory.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", world.directory.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n";
        fs::write(world.directory.join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:\napp:x:1000:\nvideo:x:44:app\n";
        fs::write(world.directory.join("etc/group"), group).unwrap();
        Some(world)
    }

    /// Puts the machine's perl there, which makes calls that no applet makes. False, with a word why, where there is none.
    pub(crate) fn add_perl(&self) -> bool {
        let perl = Path::new("/usr/bin/perl");
        let Ok(needs) = Command::new("ldd").arg(perl).output() else {
            println!("SKIP: no ldd");
            return false;
        };
        let needs = String::from_utf8_lossy(&needs.stdout).into_owned();
        let libraries = needs.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for file in libraries.chain([perl]) {
            let to = self.directory.join(file.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            if fs::copy(file, to).is_err() {
                println!("SKIP: no {}", file.display());
                return false;
            }
        }
        true
    }

    /// Runs `script` in a shell as `user`.
    pub(crate) fn shell(&self, user: &str, script: &str) -> Outcome {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = open_tree(CWD, &self.directory, flags).unwrap();
        let user = resolve_user(root.as_fd(), user).unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut sink = |stream, chunk: &[u8]| match stream {
            Stream::Stdout => stdout.extend_from_slice(chunk),
            Stream::Stderr => stderr.extend_from_slice(chunk),
        };
        let ids = json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids});
        let spec = spec(&["/bin/sh", "-c", script], ids);
        let request = Request {
            spec: &spec,
            root: root.as_fd(),
            binds: vec![],
            stdio: Stdio::Captured(&mut sink),
            ownership: Some(&Records),
            user_namespace: None,
            cancel: &Cancel::new().unwrap(),
        };
        let status = run(request);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut outcome = Outcome { stdout: text(stdout), stderr: text(stderr) };
        if let Err(error) = status {
            outcome.stderr += &format!("{error}: {:?}", std::error::Error::source(&error));
        }
        outcome
    }
}

fn spec(args: &[&str], user: serde_json::Value) -> Spec {
    let mut value = serde_json::to_value(default_spec()).unwrap();
    value["process"]["args"] = json!(args);
    value["process"]["user"] = user;
    serde_json::from_value(value).unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
