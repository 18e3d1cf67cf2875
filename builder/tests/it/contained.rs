//! What a step does is hostile: the same steps in every sandbox that works here, and what is to be seen of them afterwards.

mod escape;
mod limits;
mod misbehaviour;
mod secrets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::{Outcome, Wharf, busybox_layout, skip};

/// Every sandbox, the strongest first.
const SANDBOXES: [&str; 4] = ["root", "rootless", "rootless-single", "chroot"];

/// A store, a context, and the sandbox that its steps run in.
struct Place {
    wharf: Wharf,
    sandbox: &'static str,
}

impl Place {
    fn new(sandbox: &'static str) -> Option<Self> {
        busybox_layout()?;
        Some(Self { wharf: Wharf::new()?, sandbox })
    }

    /// `wharf build ARGUMENTS CONTEXT`, to be started.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.wharf.build_command("store", arguments);
        command.env("WHARF_SANDBOX", self.sandbox);
        command
    }

    /// Builds `lines` on busybox.
    fn build(&self, arguments: &[&str], lines: &str) -> Outcome {
        self.wharf.dockerfile(&format!("FROM busybox\n{lines}"));
        Outcome::of(self.command(arguments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.wharf.path(name)
    }

    /// A text that is in the path of everything of this place, and so tells its processes apart.
    fn mark(&self) -> String {
        self.path("").display().to_string()
    }

    /// The build after what happened works, and nothing is left of what happened.
    #[track_caller]
    fn is_sound(&self) {
        let out = self.path("sound").display().to_string();
        self.build(&["--no-cache", "-o", &out], "RUN echo sound >/sound\n").success();
        assert_eq!(fs::read_to_string(self.path("sound/sound")).unwrap(), "sound\n", "{}", self.sandbox);
        fs::remove_dir_all(out).unwrap();
        assert_eq!(self.wharf.leftovers("store"), Vec::<String>::new(), "{}", self.sandbox);
    }
}

/// The sandboxes in which a step runs here. Says why the others do not.
fn sandboxes() -> &'static [&'static str] {
    static WORKING: OnceLock<Vec<&'static str>> = OnceLock::new();
    WORKING.get_or_init(|| {
        let works = |sandbox: &&'static str| {
            let Some(place) = Place::new(sandbox) else { return false };
            let outcome = place.build(&[], "RUN true\n");
            if outcome.code != Some(0) {
                let why = outcome.stderr.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
                skip(format_args!("no sandbox {sandbox}: {why}"));
            }
            outcome.code == Some(0)
        };
        SANDBOXES.into_iter().filter(works).collect()
    })
}

/// Does `check` in a place of its own in each sandbox.
fn in_each_sandbox(check: impl Fn(&Place)) {
    for sandbox in sandboxes() {
        if let Some(place) = Place::new(sandbox) {
            check(&place);
        }
    }
}

/// Every path below `directory` with what it holds, sorted.
fn listing(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = match kind {
                _ if kind.is_dir() => {
                    directories.push(path.clone());
                    Vec::new()
                }
                _ if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                _ if kind.is_file() => fs::read(&path).unwrap(),
                _ => Vec::new(),
            };
            found.push((path, content));
        }
    }
    found.sort();
    found
}
