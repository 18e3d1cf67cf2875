//! What containers need: the snapshots that they stand on, and the image that they were made of.
//!
//! Containers are the affair of others; here no more is read of them than what says what must stay. A directory in which that
//! cannot be found needs nothing: it is no container that could be started.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::measure::DIRECTORY;
use crate::{Digest, SnapshotId, Store, StoreError};

/// What a container was made of is read up to this size.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What all containers together need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) snapshots: HashSet<SnapshotId>,
    /// The manifests of their images.
    pub(crate) manifests: HashSet<Digest>,
}

impl Store {
    /// What the containers of this store need. To be asked after the leases: who makes a container has leased what it needs
    /// until the container's directory says so.
    pub(crate) fn needed_by_containers(&self) -> Result<Needed, StoreError> {
        let failed = |errno: Errno| StoreError::io("list", self.root().join("containers"), errno);
        let dir = match rustix::fs::openat(self.root_fd(), "containers", DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Needed::default()),
            Err(errno) => return Err(failed(errno)),
        };
        let mut needed = Needed::default();
        for entry in rustix::fs::Dir::read_from(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            let path = [name.to_bytes(), b"/config.json"].concat();
            let bytes = read(&dir, &path).map_err(|error| {
                let path = self.root().join("containers").join(name.to_string_lossy().as_ref());
                StoreError::io("read", path, error)
            })?;
            let config = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            needed.add(&config);
        }
        Ok(needed)
    }
}

impl Needed {
    fn add(&mut self, config: &Value) {
        let chain = config["chain"].as_array().into_iter().flatten();
        self.snapshots.extend(chain.filter_map(Value::as_u64).map(SnapshotId));
        // Of an index the other platforms' images are not needed.
        let manifest = config["image"]["manifest"].as_str();
        self.manifests.extend(manifest.and_then(|digest| digest.parse::<Digest>().ok()));
    }
}

/// A file's bytes; none if there is no such file.
fn read(dir: &OwnedFd, path: &[u8]) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut bytes = Vec::new();
    match rustix::fs::openat(dir, path, flags, Mode::empty()) {
        Ok(file) if File::from(file.try_clone()?).metadata()?.is_file() => {
            File::from(file).take(CONFIG_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_root::TestRoot;

    #[test]
    fn what_is_damaged_needs_nothing_and_harms_nobody() {
        let root = TestRoot::new();
        let store = root.open();
        let digest = Digest::of(b"manifest");
        for (name, text) in [
            (
                "a",
                format!(r#"{{"chain":[1,18446744073709551615,"x",-2],"image":{{"manifest":"{digest}"}}}}"#),
            ),
            ("b", r#"{"chain":[7]"#.to_owned()),
            ("c", r#"{"chain":{"7":7},"image":"x"}"#.to_owned()),
            ("d", r#"{"image":{"manifest":"sha256:00"}}"#.to_owned()),
            ("e", String::new()),
        ] {
            std::fs::create_dir(root.path().join("containers").join(name)).unwrap();
            std::fs::write(root.path().join("containers").join(name).join("config.json"), text).unwrap();
        }
        std::fs::create_dir_all(root.path().join("containers/f/config.json")).unwrap();
        std::fs::create_dir(root.path().join("containers/names")).unwrap();
        std::fs::write(root.path().join("containers/file"), "").unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("containers/link")).unwrap();
        let needed = store.needed_by_containers().unwrap();
        assert_eq!(needed.snapshots, HashSet::from([SnapshotId(1), SnapshotId(u64::MAX)]));
        assert_eq!(needed.manifests, HashSet::from([digest]));
    }
}
