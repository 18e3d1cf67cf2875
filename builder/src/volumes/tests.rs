//! Volumes of a store: made, found, listed, removed.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

/// A store that goes with the test.
struct TestStore {
    path: PathBuf,
    store: Store,
}

impl TestStore {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wharf-volumes-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self { store: Store::open(&path).unwrap(), path }
    }

    /// Says that a container has these mounts.
    fn container(&self, id: &str, mounts: &[MountConfig]) {
        let dir = self.path.join("containers").join(id);
        fs::create_dir_all(&dir).unwrap();
        let config = serde_json::json!({"id": id, "name": format!("name-of-{id}"), "mounts": mounts});
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn named(name: &str) -> Volume {
    Volume { name: name.to_owned(), ..Volume::default() }
}

fn names(volumes: &Volumes<'_>) -> Vec<String> {
    volumes.list().unwrap().into_iter().map(|volume| volume.name).collect()
}

#[test]
fn volumes_are_made_found_and_removed() {
    let test = TestStore::new("life");
    let volumes = Volumes::new(&test.store);
    let (made, is_new) = volumes.create(&named("db")).unwrap();
    assert!(is_new && made.driver == "local" && !made.anonymous);
    assert_eq!(volumes.create(&named("db")).unwrap(), (made.clone(), false));
    assert_eq!(volumes.find("db").unwrap(), made);
    let (anonymous, _) = volumes.create(&Volume::default()).unwrap();
    assert!(anonymous.anonymous && anonymous.name.len() == 64);
    assert_eq!(names(&volumes).len(), 2);
    for name in ["nobody", "../../etc", "x", ""] {
        assert!(volumes.find(name).unwrap_err().message.contains("no volume"), "{name}");
    }
    for (ask, word) in [
        (named("../x"), "no name"),
        (Volume { driver: "nfs".to_owned(), ..named("new") }, "no volume driver"),
        (Volume { options: BTreeMap::from([("x".to_owned(), String::new())]), ..named("new") }, "no option"),
    ] {
        assert!(volumes.create(&ask).unwrap_err().message.contains(word), "{word}");
    }
    fs::write(test.path.join("volumes/db/volume.json"), "{\"name\":").unwrap();
    assert_eq!(volumes.find("db").unwrap(), Volume { driver: "local".to_owned(), ..named("db") });
    volumes.remove("db").unwrap();
    assert_eq!(names(&volumes), [anonymous.name]);
    assert!(volumes.remove("db").is_err());
}

#[test]
fn what_containers_have_stays() {
    let test = TestStore::new("use");
    let volumes = Volumes::new(&test.store);
    let mount = |name: &str, anonymous: bool| {
        let name = volumes.create(&Volume { anonymous, ..named(name) }).unwrap().0.name;
        let target = PathBuf::from(format!("/{name}"));
        let kind = MountKind::Volume { name, subpath: None, anonymous, no_copy: false };
        MountConfig { kind, target, read_only: false }
    };
    let mounts = [mount("db", false), mount("", true), mount("", true)];
    test.container("one", &mounts);
    test.container("two", &mounts[2..]);
    let error = volumes.remove("db").unwrap_err();
    assert!(error.message.contains("in use by name-of-one"), "{}", error.message);
    let users = volumes.all_users().unwrap();
    assert_eq!(users.values().map(Vec::len).sum::<usize>(), 4);
    volumes.remove_anonymous(&ContainerId("one".to_owned()), &mounts).unwrap();
    assert_eq!(
        names(&volumes).len(),
        2,
        "the one that is another container's stays, and the one with a name"
    );
    fs::remove_dir_all(test.path.join("containers/one")).unwrap();
    volumes.remove("db").unwrap();
    // What cannot be read has no volumes.
    fs::write(test.path.join("containers/two/config.json"), "{").unwrap();
    volumes.remove_unused(names(&volumes).iter().map(String::as_str), None).unwrap();
    assert_eq!(names(&volumes), [""; 0]);
}

#[test]
fn an_empty_volume_is_filled_once_and_from_the_image_alone() {
    let test = TestStore::new("fill");
    let volumes = Volumes::new(&test.store);
    let image = test.path.join("tmp/image");
    fs::create_dir_all(image.join("data/sub")).unwrap();
    fs::write(image.join("data/file"), "of the image").unwrap();
    fs::set_permissions(image.join("data/file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(image.join("data/file"), image.join("data/sub/same")).unwrap();
    fs::set_permissions(image.join("data"), fs::Permissions::from_mode(0o2770)).unwrap();
    symlink("/data", image.join("link")).unwrap();
    symlink(test.path.join("volumes"), image.join("out")).unwrap();
    let root = File::open(&image).unwrap();
    let fill = |name: &str, target: &str, is_first: bool| {
        let kind = MountKind::Volume {
            name: name.to_owned(),
            subpath: None,
            anonymous: false,
            no_copy: name == "none",
        };
        let mounts = [MountConfig { kind, target: target.into(), read_only: true }];
        let sandbox = wharf_runtime::Sandbox::Root;
        let request = prepare::Request { sandbox, mounts: &mounts, root: root.as_fd(), is_first };
        let prepared = match volumes.prepare(&request) {
            Ok(prepared) => prepared,
            // Binding needs rights that who runs the tests may not have.
            Err(error) if error.message.contains("Operation not permitted") => return None,
            Err(error) => panic!("{}", error.message),
        };
        assert!(prepared.binds.len() == 1 && prepared.binds[0].read_only && prepared.warnings.is_empty());
        let mut names: Vec<_> = fs::read_dir(volumes.data(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Some(names)
    };
    if fill("later", "/data", false).is_none() {
        return;
    }
    assert_eq!(fill("vol", "/data", false).unwrap(), [""; 0]);
    assert_eq!(fill("vol", "/link", true).unwrap(), ["file", "sub"]);
    let file = fs::metadata(volumes.data("vol").join("file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.nlink()), (0o640, 2));
    assert_eq!(fs::metadata(volumes.data("vol")).unwrap().mode() & 0o7777, 0o2770);
    fs::remove_file(volumes.data("vol").join("file")).unwrap();
    assert_eq!(fill("vol", "/data", true).unwrap(), ["sub"], "one that is not empty stays as it is");
    assert_eq!(fill("none", "/data", true).unwrap(), [""; 0]);
    assert_eq!(fill("nothing", "/out", true).unwrap(), [""; 0], "a link led out of the image");
    assert_eq!(fill("new", "/not/there", true).unwrap(), [""; 0]);
    // One that was killed over it is filled to the end.
    fs::write(test.path.join("volumes/vol/filling"), "").unwrap();
    fs::write(volumes.data("vol").join("own"), "").unwrap();
    assert_eq!(fill("vol", "/data", true).unwrap(), ["file", "own", "sub"]);
    assert!(!test.path.join("volumes/vol/filling").exists());
}
