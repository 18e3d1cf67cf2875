//! The fixture of the end-to-end tests: a store and a context of their own, the binary, base images, a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// After this long something has gone wrong. No test is about how long things take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Says that a test could not run, in the form that `testdata/test.sh` counts.
pub(crate) fn skip(reason: impl fmt::Display) {
    println!("SKIP: {reason}");
}

/// The top of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package has a folder of its own")
}

/// A directory that goes away with its value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Below the target directory: `/tmp` may be a file system that overlayfs cannot have its upper layer on.
    pub(crate) fn new() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// Where every user of the machine gets to, which need not be so of the checkout.
    pub(crate) fn for_everybody() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("it-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A store and a build context, both empty at first, and the binary to use them with.
#[derive(Debug)]
pub(crate) struct Wharf {
    scratch: Scratch,
}

impl Wharf {
    /// `None`, and a line that says so, where building is not possible.
    pub(crate) fn new() -> Option<Self> {
        Self::at(Scratch::new)
    }

    /// The same where every user of the machine gets to.
    pub(crate) fn for_everybody() -> Option<Self> {
        Self::at(Scratch::for_everybody)
    }

    fn at(place: fn() -> Scratch) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("building images needs root");
            return None;
        }
        let scratch = place();
        fs::create_dir(scratch.path("context")).unwrap();
        Some(Self { scratch })
    }

    /// A path beside store and context, for outputs.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the context.
    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    /// `wharf --root STORE ARGUMENTS`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_in("store", arguments)
    }

    /// The same with another store.
    pub(crate) fn run_in(&self, store: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(store, arguments))
    }

    /// `wharf --root STORE ARGUMENTS`, to be started. Its standard input is empty.
    pub(crate) fn command(&self, store: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--root").arg(self.path(store)).args(arguments);
        command.current_dir(&self.scratch.0).env_remove("SOURCE_DATE_EPOCH");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `wharf build ARGUMENTS CONTEXT`. The busybox base is `FROM busybox`, where it could be made.
    pub(crate) fn build(&self, arguments: &[&str]) -> Outcome {
        self.build_in("store", arguments)
    }

    /// The same with another store.
    pub(crate) fn build_in(&self, store: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.build_command(store, arguments))
    }

    /// `wharf build ARGUMENTS CONTEXT`, to be started.
    pub(crate) fn build_command(&self, store: &str, arguments: &[&str]) -> Command {
        let mut all: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).into();
        for (name, layout) in [("busybox", BUSYBOX.get()), ("debian", DEBIAN.get()), ("gcc", GCC.get())] {
            if let Some(Some(layout)) = layout {
                all.extend([
                    "--build-context".to_owned(),
                    format!("{name}=oci-layout://{}", layout.display()),
                ]);
            }
        }
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        all.push("context".to_owned());
        self.command(store, &all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What of this fixture is not in its place: mounts, and what a process has left in the store's `tmp` and `locks`.
    pub(crate) fn leftovers(&self, store: &str) -> Vec<String> {
        let store = self.path(store);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = format!("{}/", store.display());
        let mut found: Vec<_> =
            mounts.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect();
        for name in ["tmp", "locks"] {
            let entries = fs::read_dir(store.join(name)).into_iter().flatten();
            found.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        }
        found
    }
}

/// The processes that have `marker` among their arguments or in their environment.
pub(crate) fn processes(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for name in ["cmdline", "environ"] {
            // Processes come and go.
            let text = fs::read(entry.path().join(name)).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(marker) {
                let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                found.push(format!("{}: {}", entry.path().display(), stat.trim_end()));
                break;
            }
        }
    }
    found
}

/// Kills a process and waits until nothing is left of it: what it has locked or listens at is its own for a moment more.
#[track_caller]
pub(crate) fn kill_at_once(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    wait_until("it has died", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
}

/// Waits until `done`.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self::from_output(&command, output)
    }

    /// The same with `input` for it to read.
    pub(crate) fn of_with_input(mut command: Command, input: &[u8]) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // It need not read before it writes, and whoever refuses at once does not read at all.
            scope.spawn(move || _ = stdin.write_all(input));
            child.wait_with_output().unwrap()
        });
        Self::from_output(&command, output)
    }

    pub(crate) fn from_output(command: &Command, output: Output) -> Self {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        Self {
            command: arguments.join(" "),
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks the exit status and that each of `words` is in what was said.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "wharf {}:\n{}", self.command, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "wharf {} failed:\n{}", self.command, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn failure(self) -> Self {
        assert!(!matches!(self.code, None | Some(0)), "wharf {} ended with {:?}", self.command, self.code);
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn steps(&self) -> Steps {
        Steps::parse(&self.stderr)
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Ran,
    Cached,
    Failed,
}

/// The instructions of a build by name (`RUN true`, without the stage before it), from the plain progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steps(BTreeMap<String, Step>);

impl Steps {
    /// Reads lines of the form `#N [2/3] RUN …`, `#N CACHED`, `#N DONE 0.1s`, `#N ERROR: …`. What is not an
    /// instruction (`[internal] …`, `exporting …`), and FROM, is left out.
    pub(crate) fn parse(progress: &str) -> Self {
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        let mut steps = BTreeMap::new();
        for line in progress.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
                continue;
            };
            if let Some((stage, name)) = rest.strip_prefix('[').and_then(|it| it.split_once("] "))
                && stage.contains('/')
                && !name.starts_with("FROM ")
            {
                names.entry(number).or_insert(name);
            }
            let step = match rest {
                "CACHED" => Step::Cached,
                _ if rest.starts_with("DONE ") => Step::Ran,
                _ if rest.starts_with("ERROR") => Step::Failed,
                _ => continue,
            };
            if let Some(name) = names.get(number) {
                steps.insert((*name).to_owned(), step);
            }
        }
        Self(steps)
    }

    /// Names of the steps that ended as `step`, sorted.
    pub(crate) fn that(&self, step: Step) -> Vec<&str> {
        self.0.iter().filter(|(_, it)| **it == step).map(|(name, _)| name.as_str()).collect()
    }

    #[track_caller]
    pub(crate) fn check_ran(&self, names: &[&str]) {
        assert_eq!(self.that(Step::Ran), names, "{self:?}");
    }
}

static BUSYBOX: OnceLock<Option<PathBuf>> = OnceLock::new();
static DEBIAN: OnceLock<Option<PathBuf>> = OnceLock::new();
static GCC: OnceLock<Option<PathBuf>> = OnceLock::new();
static ARM64: OnceLock<Option<PathBuf>> = OnceLock::new();

/// The OCI layout of the busybox base, made once; `None`, and a line that says so, where it cannot be made.
pub(crate) fn busybox_layout() -> Option<&'static Path> {
    layout(&BUSYBOX, "busybox", &["busybox", "umoci"])
}

/// The OCI layout of the Debian base.
pub(crate) fn debian_layout() -> Option<&'static Path> {
    layout(&DEBIAN, "debian", &["debootstrap", "umoci"])
}

/// The OCI layout of the base with gcc and no shell.
pub(crate) fn gcc_layout() -> Option<&'static Path> {
    layout(&GCC, "gcc", &["gcc", "umoci"])
}

/// The OCI layout of a busybox base for linux/arm64.
pub(crate) fn arm64_layout() -> Option<&'static Path> {
    layout(&ARM64, "arm64", &["umoci", "dpkg-deb", "qemu-aarch64-static"])
}

fn layout(cell: &'static OnceLock<Option<PathBuf>>, name: &str, tools: &[&str]) -> Option<&'static Path> {
    if !have(tools) {
        return None;
    }
    let made = cell.get_or_init(|| {
        // The script takes a lock, so that several test processes make it once.
        let script = repository().join(format!("testdata/base/{name}.sh"));
        let output = Command::new(&script).output().unwrap();
        assert!(output.status.success(), "{name}.sh: {}", String::from_utf8_lossy(&output.stderr));
        Some(repository().join(".cache").join(name))
    });
    made.as_deref()
}

/// Whether all of `tools` are installed; says which one is not.
pub(crate) fn have(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |tool: &&&str| std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    match tools.iter().find(|tool| !installed(tool)) {
        None => true,
        Some(tool) => {
            skip(format_args!("{tool} is not installed"));
            false
        }
    }
}

/// Runs another program, which must succeed; what it prints.
#[track_caller]
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Copies a program. Another process does it: what this one has open for writing is open in each of its forks as well until
/// they are somebody else, and what is open for writing cannot be run (ETXTBSY).
#[track_caller]
pub(crate) fn install(from: &Path, to: &Path) {
    tool("install", &["-m", "755", "--", from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// Makes a program of a script, as safely.
#[track_caller]
pub(crate) fn install_script(to: &Path, text: &str) {
    let draft = to.with_extension("draft");
    fs::write(&draft, text).unwrap();
    install(&draft, to);
}

/// A registry on a loopback port of its own.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    log: Arc<Mutex<String>>,
    scratch: Scratch,
}

impl Registry {
    /// Starts Debian's `docker-registry`; `None`, and a line that says so, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !have(&["docker-registry"]) {
            return None;
        }
        let scratch = Scratch::new();
        let config = scratch.path("config.yml");
        let data = scratch.path("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("docker-registry ended before it listened").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',']).next().unwrap().to_owned();
            }
        };
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Some(Self { process, address, log, scratch })
    }

    /// What it has logged since it was asked last, requests that have been answered by now included.
    pub(crate) fn log(&self) -> String {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.write_all(b"GET /v2/ HTTP/1.0\r\nHost: x\r\nUser-Agent: end-of-log\r\n\r\n").unwrap();
        let last = |log: &str| log.contains("end-of-log") && log.ends_with('\n');
        wait_until("the log is written", || last(&self.log.lock().unwrap()));
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// The file that holds a blob, `sha256:…`.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.scratch.path("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn steps_are_read_from_plain_progress() {
    let steps = Steps::parse(
        "#1 [internal] load build definition from Dockerfile\n#1 DONE 0.0s\n\n\
         #2 [1/3] FROM busybox\n#2 CACHED\n\n#4 [build 2/3] RUN make\n#5 [3/3] COPY a b\n#4 0.100 [1/2] noise\n\
         #4 ERROR: process did not complete\n#5 DONE 0.1s\n#6 [3/3] RUN [ -e x ]\n#6 CACHED\n#7 exporting to image\n#7 DONE 0.1s\n",
    );
    assert_eq!(steps.that(Step::Ran), ["COPY a b"]);
    assert_eq!(steps.that(Step::Cached), ["RUN [ -e x ]"]);
    assert_eq!(steps.that(Step::Failed), ["RUN make"]);
}

#[test]
fn a_registry_listens() {
    if let Some(registry) = Registry::start() {
        assert!(std::net::TcpStream::connect(&registry.address).is_ok(), "{}", registry.address);
    }
}
