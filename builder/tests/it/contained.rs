//! What a step does is hostile: the same steps in every sandbox that works here, and what is to be seen of them afterwards.

mod escape;
mod limits;
mod misbehaviour;
mod secrets;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{Outcome, Wharf, busybox_layout, have, skip, tool};
use crate::pods::pod_program;

const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

/// An ordinary user of the machine, whom only these tests know.
const USER: u32 = 54_322;

/// Whose steps they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Root of the machine.
    Root,
    /// An ordinary user.
    User { subordinate_ids: bool },
    /// Whoever it is in a pod of this kind.
    Pod(&'static str),
}

/// Where steps run: who builds, and what `--sandbox` is; in a pod what there is.
const PLACES: [(Who, &str); 10] = [
    (Who::Root, "root"),
    (Who::Root, "rootless"),
    (Who::Root, "rootless-single"),
    (Who::Root, "chroot"),
    (Who::User { subordinate_ids: true }, "rootless"),
    (Who::User { subordinate_ids: false }, "rootless-single"),
    (Who::Pod("root"), ""),
    (Who::Pod("nonroot"), ""),
    (Who::Pod("root-seccomp"), ""),
    (Who::Pod("hostusers-false"), ""),
];

/// A store, a context, and the sandbox that its steps run in.
struct Place {
    wharf: Wharf,
    who: Who,
    /// Its name, and whose it is.
    sandbox: String,
    forced: &'static str,
}

impl Place {
    fn new((who, forced): (Who, &'static str)) -> Option<Self> {
        let base = busybox_layout()?;
        let sandbox = format!("{forced} ({who:?})");
        if who == Who::Root {
            return Some(Self { wharf: Wharf::new()?, who, sandbox, forced });
        }
        let place = Self { wharf: Wharf::for_everybody()?, who, sandbox, forced };
        let text = |name: &str| place.path(name).display().to_string();
        tool("cp", &["-r", &base.display().to_string(), &text("base")]);
        tool("chmod", &["-R", "a+rX", &text("base")]);
        fs::write(place.path("wharf"), "").unwrap();
        let ids = match who {
            Who::User { subordinate_ids: true } => "ann:300000:65536\n",
            _ => "",
        };
        let passwd = format!("root:x:0:0::/root:/bin/sh\nann:x:{USER}:{USER}::{}:/bin/sh\n", text(""));
        for (name, text) in [("passwd", passwd.as_str()), ("subuid", ids), ("subgid", ids)] {
            fs::write(place.path(name), text).unwrap();
        }
        let owner = match who {
            Who::Root | Who::Pod("root" | "root-seccomp") => 0,
            Who::User { .. } => USER,
            Who::Pod("nonroot") => 1000,
            Who::Pod(_) => 1 << 20,
        };
        chown(place.path(""), Some(owner), Some(owner)).unwrap();
        Some(place)
    }

    /// `wharf build ARGUMENTS CONTEXT`, to be started.
    fn command(&self, arguments: &[&str]) -> Command {
        let base = match self.who {
            Who::Root => busybox_layout().unwrap().to_owned(),
            Who::User { .. } | Who::Pod(_) => self.path("base"),
        };
        let base = format!("busybox=oci-layout://{}", base.display());
        let fixed = ["build", "--progress", "plain", "--build-context", &base];
        self.wharf_command(&[&fixed, arguments, &["context"]].concat())
    }

    /// `wharf ARGUMENTS`, to be started. All of it is in the command's arguments.
    fn wharf_command(&self, arguments: &[&str]) -> Command {
        let here = self.path("").display().to_string();
        let here = here.trim_end_matches('/');
        let wharf = match self.who {
            Who::Root => WHARF.to_owned(),
            Who::User { .. } | Who::Pod(_) => format!("{here}/wharf"),
        };
        let mut command = match self.who {
            Who::Root => Command::new("env"),
            Who::User { .. } => {
                // The machine's own files stay as they are, and the binary may lie where the user does not get to.
                let script = format!(
                    "for f in passwd subuid subgid; do mount --bind $f /etc/$f || exit 99; done; mount --bind {WHARF} wharf && \
                     exec setpriv --reuid={USER} --regid={USER} --clear-groups -- env HOME={here} \"$@\""
                );
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", &script, "sh"]);
                command
            }
            Who::Pod(kind) => {
                let mut command = Command::new("python3");
                command.arg(pod_program().unwrap()).arg(kind);
                let (place, binary) = (format!("{here}:{here}"), format!("{WHARF}:{wharf}:ro"));
                command.args(["--bind", &place, "--bind", &binary, "--"]);
                command.args(["sh", "-c", &format!("cd {here} && exec env \"$@\""), "sh"]);
                command
            }
        };
        if !self.forced.is_empty() {
            command.arg(format!("WHARF_SANDBOX={}", self.forced));
        }
        command.args([&wharf, "--root", &format!("{here}/store")]);
        command.args(arguments).current_dir(here).env_remove("SOURCE_DATE_EPOCH");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether what [`Place::command`] starts is the builder itself, so that signals reach it.
    fn is_one_process(&self) -> bool {
        !matches!(self.who, Who::Pod(_))
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

/// The places in which a step runs here. Says why the others do not.
fn places() -> &'static [(Who, &'static str)] {
    static WORKING: OnceLock<Vec<(Who, &'static str)>> = OnceLock::new();
    WORKING.get_or_init(|| {
        let works = |place: &(Who, &'static str)| {
            let there = match place.0 {
                Who::Root => true,
                Who::User { .. } => have(&["unshare", "setpriv", "newuidmap", "newgidmap"]),
                Who::Pod(_) => pod_program().is_some(),
            };
            let Some(place) = there.then(|| Place::new(*place)).flatten() else { return false };
            let outcome = place.build(&[], "RUN true\n");
            if outcome.code != Some(0) {
                let why = outcome.stderr.lines().find(|line| line.starts_with("error:"));
                skip(format_args!("no sandbox {}: {}", place.sandbox, why.unwrap_or(&outcome.stderr)));
            }
            outcome.code == Some(0)
        };
        PLACES.into_iter().filter(works).collect()
    })
}

/// Does `check` in a place of its own in each sandbox.
fn in_each_sandbox(check: impl Fn(&Place)) {
    for place in places() {
        if let Some(place) = Place::new(*place) {
            println!("in {}", place.sandbox);
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
