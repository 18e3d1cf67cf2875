//! Fails, tears and kills a process at every system call that may change the store: who opens it then finds the old state
//! or the new one.
//!
//! The program is both sides: as `drive NAME ROOT` it does one thing to the store, under the tracer beside this file; else
//! it makes the tracer run that once for each call and way to fail, and looks at what is left.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program without the usual harness"
)]

mod observe;
mod scenarios;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use observe::observe;
use scenarios::{SCENARIOS, Scenario};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name, root] = &*arguments
        && mode == "drive"
    {
        return drive(name, Path::new(root));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("faults: test");
        return ExitCode::SUCCESS;
    }
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-'));
    if arguments.iter().any(|it| it == "--exact")
        || filters.next().is_some_and(|it| !"faults".contains(&**it))
    {
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = may_trace() {
        println!("SKIP: {reason}");
        return ExitCode::SUCCESS;
    }
    suite();
    ExitCode::SUCCESS
}

/// Does what a scenario is about. What fails is tried a second time: by then the fault has passed.
fn drive(name: &str, root: &Path) -> ExitCode {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario has this name");
    match (scenario.act)(root).or_else(|first| {
        eprintln!("{name}: {first}");
        (scenario.act)(root)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: again: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why nothing can be traced here.
fn may_trace() -> Result<(), String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("faults are injected on x86-64 only".to_owned());
    }
    let python = Command::new("python3").args(["-c", "import ctypes"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        return Err("python3 is not installed".to_owned());
    }
    // What is traced makes a store.
    let scratch = Scratch::new();
    match Tracer::start().ask("count", 0, SCENARIOS[0].name, &scratch.0.join("probe")) {
        Some(_) => Ok(()),
        None => Err("processes may not be traced here (ptrace)".to_owned()),
    }
}

fn suite() {
    let scratch = Scratch::new();
    let mut points = Vec::new();
    // What others do begins with opening too: it is tried there once.
    let mut opening = 0;
    for scenario in SCENARIOS {
        let template = scratch.0.join(format!("{}.old", scenario.name.replace(' ', "-")));
        fs::create_dir(&template).unwrap();
        (scenario.prepare)(&template);
        let subject = Subject::new(scenario, template, &scratch);
        let first = if scenario.after_opening { opening } else { 0 };
        points.extend(subject.points(first).into_iter().map(|point| (subject.clone(), point)));
        if scenario.name == "open" {
            opening = subject.calls.len();
        }
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut tracer = Tracer::start();
                while let Some((subject, point)) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = subject.check(&mut tracer, point, &scratch) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("FAILED {} {:?}: {why}", subject.scenario.name, point);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("faults: {} injected, {failed} failed", points.len());
    assert_eq!(failed, 0);
}

/// Where something is done to a process, and what.
#[derive(Debug, Clone)]
struct Point {
    mode: &'static str,
    number: usize,
}

/// A scenario with the states before and after it.
#[derive(Debug, Clone)]
struct Subject {
    scenario: &'static Scenario,
    template: PathBuf,
    old: String,
    new: String,
    /// The calls that may change the store, by name.
    calls: Vec<String>,
}

impl Subject {
    fn new(scenario: &'static Scenario, template: PathBuf, scratch: &Scratch) -> Self {
        let before = scratch.copy(&template);
        let old = observe(&before).unwrap_or_else(|why| panic!("{}: {why}", scenario.name));
        let after = scratch.copy(&template);
        let answer = Tracer::start().ask("count", 0, scenario.name, &after).expect("the tracer answers");
        let answer: Vec<&str> = answer.split(' ').collect();
        assert_eq!(answer[..2], ["exit", "0"], "{} without faults", scenario.name);
        let new = observe(&after).unwrap_or_else(|why| panic!("{}: {why}", scenario.name));
        for root in [before, after] {
            fs::remove_dir_all(root).unwrap();
        }
        Self { scenario, template, old, new, calls: answer[2].split(',').map(str::to_owned).collect() }
    }

    /// All faults from a call on. Only a write can be torn; for other calls it would be the same as dying before the next.
    fn points(&self, first: usize) -> Vec<Point> {
        let mut points = Vec::new();
        for (index, call) in self.calls.iter().enumerate().skip(first) {
            let number = index + 1;
            points.extend(["kill", "fail", "full"].map(|mode| Point { mode, number }));
            if call.contains("write") || number == self.calls.len() {
                points.push(Point { mode: "tear", number });
            }
        }
        points
    }

    fn check(&self, tracer: &mut Tracer, point: &Point, scratch: &Scratch) -> Result<(), String> {
        let root = scratch.copy(&self.template);
        let answer =
            tracer.ask(point.mode, point.number, self.scenario.name, &root).ok_or("the tracer ended")?;
        let checked = self.compare(point, &answer, &root).map_err(|why| format!("{answer}: {why}"));
        if checked.is_ok() {
            fs::remove_dir_all(root).map_err(|error| error.to_string())?;
        }
        checked
    }

    fn compare(&self, point: &Point, answer: &str, root: &Path) -> Result<(), String> {
        let dies = matches!(point.mode, "kill" | "tear");
        let ended = answer.split(' ').take(2).collect::<Vec<_>>().join(" ");
        match &*ended {
            "signal 9" if dies => {}
            // A single fault has passed when the same is tried again.
            "exit 0" if !dies => {}
            "exit 1" if point.mode == "full" => {}
            other => return Err(format!("it ended with {other}")),
        }
        let found = observe(root)?;
        if found != self.old && found != self.new {
            return Err(format!("found\n{found}\nwhich is neither\n{}\nnor\n{}", self.old, self.new));
        }
        if ended == "exit 0" && found != self.new {
            return Err(format!("it said that it was done, and left\n{found}\nnot\n{}", self.new));
        }
        if found != self.new {
            (self.scenario.act)(root).map_err(|error| format!("again: {error}"))?;
            let again = observe(root)?;
            if again != self.new {
                return Err(format!("again gives\n{again}\nnot\n{}", self.new));
            }
        }
        Ok(())
    }
}

/// The tracer's process.
struct Tracer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Tracer {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/tracer.py");
        let mut process = Command::new("python3")
            .arg(script)
            .arg(std::env::current_exe().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output) }
    }

    /// How a run ended; nothing when the tracer could not trace.
    fn ask(&mut self, mode: &str, number: usize, scenario: &str, root: &Path) -> Option<String> {
        writeln!(self.input, "{mode} {number} drive {scenario} {}", root.display()).ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        answer.ends_with('\n').then(|| answer.trim_end().to_owned())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A directory for stores. It stays when something failed, to be looked at.
struct Scratch(PathBuf, AtomicUsize);

impl Scratch {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path, AtomicUsize::new(0))
    }

    /// A store of its own that is like `template`.
    fn copy(&self, template: &Path) -> PathBuf {
        let path = self.0.join(self.1.fetch_add(1, Ordering::Relaxed).to_string());
        let copied = Command::new("cp").arg("-a").arg(template).arg(&path).status().unwrap();
        assert!(copied.success());
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
