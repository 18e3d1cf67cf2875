//! Cache mounts that travel: what a package manager has fetched on one machine is there on the next. Machines are stores.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wharf::progress::{Mode, Progress};
use wharf::registry::OpenBlob;
use wharf::remote::imports::{ImportError, Imports};
use wharf::remote::manifest::{CacheConfig, Documents};
use wharf::remote::mounts::{MountEntry, MountLimit, Wanted};
use wharf::remote::{Backend, BackendError};
use wharf_cache::mounts::{Archive, Chunk, MountName};
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;

use crate::harness::{Outcome, Registry, Wharf, busybox_layout};
use crate::interrupt::start_until;
use crate::registry_fixture::{Answer, ScriptedRegistry, TempDir};
use crate::s3_fixture::S3Server;

/// Fetches what is on the list and not in its cache, as `go`, `npm` and `pip` do: read-only files, one directory each; some
/// have two names, as those of `pnpm` and `uv`.
const DOCKERFILE: &str = "\
FROM busybox
COPY list /list
RUN --mount=type=cache,id=pkg,target=/cache \
 while read name; do \
  if [ -r /cache/mod/$name/data ]; then echo \"warm $name\"; continue; fi; \
  mkdir -p /cache/mod/$name && seq 1 200000 | sed \"s/$/$name/\" >/cache/mod/$name/data; \
  chmod 444 /cache/mod/$name/data && chmod 555 /cache/mod/$name && ln -s $name /cache/mod/latest-$name; \
  ln /cache/mod/$name/data /cache/mod/same-$name; ln /cache/mod/$name/data /cache/mod/again-$name; \
  echo \"cold $name\"; \
 done </list
";

fn machine() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.dockerfile(DOCKERFILE).file("list", "a\nb\n");
    Some(wharf)
}

/// Builds on the machine `store`, where the packages of `expected` are fetched or found.
#[track_caller]
fn check(
    wharf: &Wharf,
    store: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    expected: &[&str],
) -> Outcome {
    let mut command = wharf.build_command(store, arguments);
    command.envs(environment.iter().copied());
    let outcome = Outcome::of(command).success();
    let said: Vec<&str> = outcome
        .stderr
        .lines()
        .filter_map(|line| line.split_once(" warm ").or(line.split_once(" cold ")).map(|_| line))
        .filter(|line| !line.contains("RUN "))
        .filter_map(|line| line.get(line.len() - "warm x".len()..))
        .collect();
    assert_eq!(said, expected, "{}", outcome.stderr);
    outcome
}

/// From one machine to the next, and to the next, through a cache at `to` and `from`.
#[track_caller]
fn check_travels(to: &str, from: &str, environment: &[(&str, &str)]) {
    let Some(wharf) = machine() else { return };
    let to = &format!("{to},mode=max,mounts=all");
    let first = check(&wharf, "one", &["--cache-to", to], environment, &["cold a", "cold b"]);
    assert!(!first.stderr.contains("warning"), "{}", first.stderr);
    // Nothing changed: no step runs on an empty machine, and no mount is brought.
    let same = check(&wharf, "two", &["--cache-from", from], environment, &[]);
    same.steps().check_ran(&[]);
    assert!(!same.stderr.contains("importing cache mount"), "{}", same.stderr);
    // The step runs on an empty machine, and finds its cache.
    wharf.file("list", "a\nb\nc\n");
    let both = ["--cache-from", from, "--cache-to", to];
    let more = check(&wharf, "three", &both, environment, &["warm a", "warm b", "cold c"]);
    assert!(!more.stderr.contains("warning"), "{}", more.stderr);
    assert!(more.stderr.contains("importing cache mount pkg from"), "{}", more.stderr);
    // What was fetched there is there for the next, too.
    wharf.file("list", "c\nb\na\n");
    check(&wharf, "four", &["--cache-from", from], environment, &["warm c", "warm b", "warm a"]);
    // A machine that has the cache asks nobody for it.
    wharf.file("list", "b\nc\na\n");
    let own = check(&wharf, "four", &["--cache-from", from], environment, &["warm b", "warm c", "warm a"]);
    assert!(!own.stderr.contains("importing cache mount"), "{}", own.stderr);
    // Who does not want it does not get it.
    let without = format!("{from},mounts=none");
    check(&wharf, "five", &["--cache-from", &without], environment, &["cold b", "cold c", "cold a"]);
    // Nor who wants it empty.
    let fresh = ["--no-cache", "--cache-from", from];
    check(&wharf, "six", &fresh, environment, &["cold b", "cold c", "cold a"]);
}

#[test]
fn a_mount_travels_in_a_directory() {
    let scratch = TempDir::new("travel");
    let path = scratch.path().display();
    check_travels(&format!("type=local,dest={path}/c"), &format!("type=local,src={path}/c"), &[]);
}

#[test]
fn a_mount_travels_in_a_registry() {
    let Some(registry) = Registry::start() else { return };
    let spec = format!("type=registry,ref={}/app:cache", registry.address);
    check_travels(&spec, &spec, &[]);
}

#[test]
fn a_mount_travels_in_a_bucket() {
    let Some(server) = S3Server::start() else { return };
    let spec = server.spec();
    check_travels(&spec, &spec, &server.variables());
    assert_eq!(server.keys("manifests/"), ["manifests/wharf"]);
    assert!(server.uploads().is_empty());
}

#[test]
fn an_empty_machine_runs_nothing_with_a_bucket() {
    let (Some(server), Some(wharf)) = (S3Server::start(), machine()) else { return };
    let spec = server.spec();
    let to = format!("{spec},mode=max,name=main;other,prefix=app/");
    let first = ["-t", "app", "--iidfile", "first", "--cache-to", &to];
    check(&wharf, "one", &first, &server.variables(), &["cold a", "cold b"]);
    let before = server.keys("");
    // The same again: nothing is written.
    server.age(5);
    check(&wharf, "one", &first, &server.variables(), &[]);
    assert_eq!((server.keys(""), server.old().len()), (before.clone(), before.len()));
    // After a day all of it is written anew.
    server.age(20);
    check(&wharf, "one", &first, &server.variables(), &[]);
    assert_eq!((server.keys(""), server.old().len()), (before, 0));
    let from = format!("{spec},name=other,prefix=app/");
    let second = ["-t", "app", "--iidfile", "second", "--cache-from", &from];
    let outcome = check(&wharf, "two", &second, &server.variables(), &[]);
    outcome.steps().check_ran(&[]);
    let id = |name| fs::read_to_string(wharf.path(name)).unwrap();
    assert_eq!(id("first"), id("second"));
    let list = wharf.run_in("two", &["run", "--rm", "app", "cat", "/list"]).success().text();
    assert_eq!(list, "a\nb\n");
    // A service that does not let us in is a warning, and tells no secret.
    let wrong = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "not-the-secret")];
    let both = ["--cache-from", &from, "--cache-to", &to];
    let outcome = check(&wharf, "three", &both, &wrong, &["cold a", "cold b"]);
    assert!(outcome.stderr.contains("answered 403: InvalidAccessKeyId"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("not-the-secret"), "{}", outcome.stderr);
    let required = format!("{to},ignore-error=false");
    let mut command = wharf.build_command("three", &["--cache-to", &required]);
    Outcome::of({
        command.envs(wrong);
        command
    })
    .failure();
}

/// The manifest of a cache in a directory, and the blobs of its cache mounts.
fn manifest(cache: &Path) -> (Value, Vec<String>) {
    let json = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |digest: &str| cache.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let index = json(&cache.join("index.json"));
    let manifest = json(&blob(index["manifests"][0]["digest"].as_str().unwrap()));
    let layers = manifest["layers"].as_array().unwrap();
    let mounts = layers.iter().filter(|layer| layer["mediaType"].as_str().unwrap().contains("mount"));
    let mounts = mounts.map(|layer| blob(layer["digest"].as_str().unwrap()).display().to_string()).collect();
    (manifest, mounts)
}

#[test]
fn only_what_is_wanted_and_fits_is_taken_along() {
    let Some(wharf) = machine() else { return };
    let cache = wharf.path("cache");
    let to = |more: &str| format!("type=local,dest={}{more}", cache.display());
    let build = |more: &str, run: &str, expected: &[&str]| {
        wharf.file("list", run);
        let outcome = check(&wharf, "one", &["--cache-to", &to(more)], &[], expected);
        (outcome.stderr, manifest(&cache).1.len())
    };
    assert_eq!(build("", "a\n", &["cold a"]).1, 0);
    assert_eq!(build(",mounts=npm;go", "a\nb\n", &["warm a", "cold b"]).1, 0);
    let (said, blobs) = build(",mounts=pkg,mounts-max-size=1m", "b\n", &["warm b"]);
    assert_eq!(blobs, 0);
    assert!(said.contains("warning: the cache mount pkg is not in the cache in"), "{said}");
    assert!(said.contains("`mounts-max-size` allows 1048576"), "{said}");
    let (_, packed) = build(",mounts=pkg", "b\na\n", &["warm b", "warm a"]);
    assert!(packed >= 1);
    // A build that does not use it leaves it there.
    wharf.dockerfile("FROM busybox\nRUN true\n");
    check(&wharf, "one", &["--cache-to", &to(",mounts=all")], &[], &[]);
    assert_eq!(manifest(&cache).1.len(), packed);
}

#[test]
fn a_mount_that_was_tampered_with_is_cold() {
    let Some(wharf) = machine() else { return };
    let cache = wharf.path("cache");
    let to = format!("type=local,dest={},mounts=all,mode=max", cache.display());
    check(&wharf, "one", &["--cache-to", &to], &[], &["cold a", "cold b"]);
    let (_, blobs) = manifest(&cache);
    let from = format!("type=local,src={}", cache.display());
    let good = fs::read(&blobs[0]).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (store, bytes) in [("torn", &good[..good.len() - 1]), ("empty", b""), ("flipped", &flipped[..])] {
        fs::write(&blobs[0], bytes).unwrap();
        wharf.file("list", &format!("a\nb\n{store}\n").replace(store, "c"));
        let outcome = check(&wharf, store, &["--cache-from", &from], &[], &["cold a", "cold b", "cold c"]);
        let warnings = outcome.stderr.matches("warning: the cache mount pkg of the cache in").count();
        assert_eq!(warnings, 1, "{store}: {}", outcome.stderr);
        assert!(wharf.leftovers(store).is_empty(), "{:?}", wharf.leftovers(store));
    }
    // Whoever exports it next puts it right.
    let both = ["--cache-from", &from, "--cache-to", &to];
    wharf.file("list", "a\nc\n");
    check(&wharf, "five", &both, &[], &["cold a", "cold c"]);
    wharf.file("list", "c\na\n");
    check(&wharf, "next", &["--cache-from", &from], &[], &["warm c", "warm a"]);
}

/// Somebody stops the build while this place sends a chunk of a cache mount.
#[derive(Debug)]
struct Interrupted {
    documents: Documents,
    cancel: Cancel,
}

impl Backend for Interrupted {
    fn name(&self) -> String {
        "interrupted".to_owned()
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(Some(self.documents.manifest.clone()))
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read + Send>, BackendError> {
        if *digest == self.documents.config_descriptor().digest {
            return Ok(Box::new(io::Cursor::new(self.documents.config.clone())));
        }
        self.cancel.cancel();
        Err(BackendError::of("read", digest.to_string())("the connection broke"))
    }

    fn has(&self, _: &Digest, _: u64) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn put(&self, _: &Digest, _: u64, _: &OpenBlob<'_>) -> Result<(), BackendError> {
        Ok(())
    }

    fn commit(&self, _: &Documents) -> Result<(), BackendError> {
        Ok(())
    }
}

#[test]
fn a_mount_that_was_interrupted_is_not_cold() {
    let dir = TempDir::new("stopped");
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (name, digest) = (MountName::new("pkg", None, [None; 3]), Digest::of(b"chunk"));
    let chunk = Chunk { digest, size: 100, plain: digest, plain_size: 1024 };
    let mut config = CacheConfig::new(Vec::new(), Vec::new());
    config.mounts.push(MountEntry::new(&name, 1, Archive { chunks: vec![chunk] }));
    let cancel = Cancel::new().unwrap();
    let backend = Interrupted { documents: Documents::of(&config), cancel: cancel.clone() };
    let limit = MountLimit { wanted: Wanted::All, size_bytes_max: 1 << 20 };
    let progress = Progress::start(Mode::Quiet, io::stderr());
    let imports = Imports::new(store, &progress, vec![(Arc::new(backend), limit)]);
    let root = std::fs::File::open(dir.path()).unwrap();
    let brought = imports.bring_mount(&name, root.as_fd(), wharf_cache::Ids::Kernel, &cancel);
    assert!(matches!(brought, Err(ImportError::Cancelled)), "{brought:?}");
    progress.finish();
}

#[test]
fn writing_a_cache_can_be_stopped() {
    let Some(wharf) = machine() else { return };
    let busy = Answer::status(503, &[]);
    let server = ScriptedRegistry::with_answers(vec![busy]);
    // It would be tried for half an hour.
    let to = format!(
        "type=s3,bucket=cache,region=r,endpoint_url=http://{},mode=max,mounts=all,retry_max_attempts=100,ignore-error=false",
        server.host()
    );
    let command = wharf.build_command("one", &["-t", "app", "--cache-to", &to]);
    let (mut child, mut said) = start_until(command, "exporting to image");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted") && !rest.contains("was not written"), "{rest}");
    assert!(!server.requests().is_empty());
}
