//! A project of five services as people write them (`testdata/compose-project`): it is built, comes up, serves, lives on when a
//! service is killed, grows, and goes without a trace; as root and as an ordinary user.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Wharf, debian_layout, repository, tool, wait_until};
use crate::island::{Island, Who};

/// The images that are built: the folders of the project.
const IMAGES: [&str; 4] = ["app", "db", "redis", "web"];

/// A cache of the project's builds below `.cache`, made once: the packages come over the network, and an island has none. `None`,
/// and a line that says so, where it cannot be made.
fn packages() -> Option<PathBuf> {
    let (Some(base), Some(wharf)) = (debian_layout(), Wharf::new()) else { return None };
    let project = repository().join("testdata/compose-project");
    let mut hasher = DefaultHasher::new();
    fs::read(base.join("index.json")).unwrap().hash(&mut hasher);
    for image in IMAGES {
        fs::read(project.join(image).join("Dockerfile")).unwrap().hash(&mut hasher);
    }
    let cache = repository().join(format!(".cache/compose-project-{:016x}", hasher.finish()));
    fs::create_dir_all(&cache).unwrap();
    // One makes it, the others wait.
    let lock = fs::File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    for image in IMAGES {
        let made = cache.join(image);
        if !made.exists() {
            let unfinished = cache.join(format!("{image}.unfinished"));
            let _ = fs::remove_dir_all(&unfinished);
            let context = project.join(image).display().to_string();
            let base = format!("debian=oci-layout://{}", base.display());
            let to = format!("type=local,dest={},mode=max", unfinished.display());
            wharf
                .run(&[
                    "build",
                    "--progress",
                    "plain",
                    "--build-context",
                    &base,
                    "--cache-to",
                    &to,
                    "-o",
                    "type=cacheonly",
                    &context,
                ])
                .success();
            tool("chmod", &["-R", "a+rX", &unfinished.display().to_string()]);
            fs::rename(unfinished, made).unwrap();
        }
    }
    Some(cache)
}

/// The project in an island, with all packages in the island's store.
struct Project {
    island: Island,
}

impl Project {
    fn new(who: Who) -> Option<Self> {
        let packages = packages()?;
        let island = Island::empty(who)?;
        island.bind(&packages, "packages");
        island.copy(debian_layout()?, "debian");
        island.copy(&repository().join("testdata/compose-project"), "project");
        let base = format!("debian=oci-layout://{}", island.path("debian"));
        for image in IMAGES {
            let from = format!("type=local,src={}", island.path(&format!("packages/{image}")));
            let context = island.path(&format!("project/{image}"));
            let name = format!("window-{image}");
            let arguments = [
                "build",
                "--progress",
                "plain",
                "-t",
                &name,
                "--build-context",
                &base,
                "--cache-from",
                &from,
                &context,
            ];
            let outcome = island.wharf(&arguments).success();
            // There is nobody who could give them to it.
            assert!(!outcome.stderr.contains("Setting up"), "{}", outcome.stderr);
        }
        Some(Self { island: island.started() })
    }

    /// `wharf compose ARGUMENTS` in the project, which must succeed; what it prints.
    #[track_caller]
    fn compose(&self, arguments: &[&str]) -> String {
        let file = self.island.path("project/compose.yaml");
        let debian = format!("DEBIAN=oci-layout://{}", self.island.path("debian"));
        let all = [&["compose", "-f", &file][..], arguments].concat();
        self.island.wharf_with(&[&debian, "WEB_PORT="], &all).success().text()
    }

    /// What the page says, from the published port.
    fn page(&self, port: &str) -> Option<Value> {
        let text = self.island.get(&format!("http://{port}/"))?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// The page, once there is one.
    #[track_caller]
    fn served(&self, port: &str) -> Value {
        let mut page = None;
        wait_until("the page is served", || {
            page = self.page(port);
            page.is_some()
        });
        page.unwrap()
    }

    /// A field of a container.
    #[track_caller]
    fn field(&self, container: &str, template: &str) -> String {
        self.island.wharf(&["inspect", "-f", template, container]).success().text().trim_end().to_owned()
    }
}

/// All of it.
#[track_caller]
fn check(who: Who) {
    let Some(project) = Project::new(who) else { return };
    project.compose(&["up", "-d", "--build", "--wait"]);
    // The one that ends has ended well, the others are.
    for (service, expected) in [
        ("migrate", "exited 0"),
        ("db", "running healthy"),
        ("redis", "running healthy"),
        ("app", "running healthy"),
        ("web", "running healthy"),
    ] {
        let template = if service == "migrate" {
            "{{.State.Status}} {{.State.ExitCode}}"
        } else {
            "{{.State.Status}} {{.State.Health.Status}}"
        };
        assert_eq!(project.field(&format!("window-{service}-1"), template), expected, "{service}");
    }
    let port = project.compose(&["port", "web", "80"]);
    let port = port.trim_end();
    let first = project.served(port);
    assert_eq!(first["goods"], serde_json::json!({"anchor": 120, "bollard": 340, "crane": 99000}));
    assert_eq!(first["visits"], 1);

    // What is killed comes back, with what it knew.
    for service in ["db", "redis", "app", "web"] {
        let name = format!("window-{service}-1");
        let pid = project.field(&name, "{{.State.Pid}}");
        // Pids are said as the machine sees them.
        project.island.shell(&format!("kill -9 {pid}"));
        wait_until(&format!("{service} is another process, and well"), || {
            let now = project.field(&name, "{{.State.Pid}} {{.State.Health.Status}}");
            now.ends_with(" healthy") && !now.starts_with(&format!("{pid} "))
        });
    }
    let again = project.served(port);
    assert_eq!(again["goods"], first["goods"]);
    assert!(again["visits"].as_u64() > first["visits"].as_u64(), "{again}");

    // Three applications answer, and the web front needs not be told.
    project.compose(&["up", "-d", "--wait", "--scale", "app=3"]);
    let mut hosts = std::collections::BTreeSet::new();
    wait_until("all three have answered", || {
        hosts.extend(project.page(port).map(|page| page["host"].to_string()));
        hosts.len() == 3
    });
    project.compose(&["up", "-d", "--wait", "--scale", "app=1"]);
    wait_until("one answers", || {
        let seen: Vec<_> = (0..6).map(|_| project.page(port).map(|page| page["host"].to_string())).collect();
        seen.iter().all(|host| host.is_some() && *host == seen[0])
    });

    project.compose(&["down", "-v"]);
    project.island.check_nothing_left();
}

#[test]
fn five_services_of_root() {
    check(Who::Root);
}

#[test]
fn five_services_of_an_ordinary_user() {
    check(Who::User);
}
