//! File systems on top of a chain whose changes stay in a directory of somebody's own: containers.
//!
//! In that directory there is `upper`, what differs from the chain in overlayfs form, and `work`, which the kernel needs; or,
//! where chains are stacked by copying, `root`, all of the files. Which of the two it is stays so, however the store is opened
//! later.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::copy::copy_into;
use super::overlay::mount_kept;
use super::{Chain, DIRECTORY, SnapshotError};
use crate::store::remove_tree;
use crate::{Stacking, Store, diff, walk};

const UPPER: &CStr = c"upper";
const WORK: &CStr = c"work";
const ROOT: &CStr = c"root";

/// A file system on top of a chain, to be changed. What was changed stays when it is dropped.
#[derive(Debug)]
pub struct Kept {
    root: OwnedFd,
    form: Form,
}

/// How the changes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `upper` has what differs from the chain, in overlayfs form.
    Upper,
    /// `root` has all files.
    Copy,
}

impl Kept {
    /// The root: that of a detached mount, or a plain directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// How the changes are kept.
    pub fn form(&self) -> Form {
        self.form
    }
}

/// Whether what is written has to be on the disk when a program has asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// It has.
    Yes,
    /// All of it is going to be removed.
    No,
}

impl Store {
    /// The file system of `chain` with the changes that are kept in the directory `dir`, which is on the file system of the
    /// store; without any at first. Nobody else may have it meanwhile.
    pub fn keep_in(&self, chain: &Chain, dir: &Path, lasting: Lasting) -> Result<Kept, SnapshotError> {
        self.snapshots(chain)?;
        let failed = |operation| {
            let object = dir.display().to_string();
            move |source: io::Error| SnapshotError::Io { operation, object, source }
        };
        let place = rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open the directory of")(errno.into()))?;
        let form = match kept_form(&place).map_err(failed("look for the changes of"))? {
            Some(form) => form,
            None if self.setup().stacking == Stacking::Copy => Form::Copy,
            None => Form::Upper,
        };
        if form == Form::Copy {
            let make = |root: &OwnedFd| copy_into(self, chain, root);
            let root = opened_or_made(&place, ROOT, dir, make)?;
            return Ok(Kept { root, form });
        }
        self.part_shared(chain)?;
        let below = chain.0.last().map(|top| self.open_snapshot(*top)).transpose()?;
        let make = |upper: &OwnedFd| {
            self.imitate(below.as_ref(), upper).map_err(failed("copy the root of the chain to"))
        };
        let upper = opened_or_made(&place, UPPER, dir, make)?;
        // What an earlier mount has left there is of no use for this one, and may refuse it.
        remove_tree(&place, WORK).map_err(failed("empty the working directory of"))?;
        rustix::fs::mkdirat(&place, WORK, Mode::RWXU)
            .map_err(|errno| failed("make the working directory of")(errno.into()))?;
        let root = mount_kept(self, chain, upper.as_fd(), dir, lasting == Lasting::Yes)?;
        Ok(Kept { root, form })
    }

    /// The same file system, to be read, whoever has it meanwhile. What they change may be seen or not.
    pub fn view_kept(&self, chain: &Chain, dir: &Path) -> Result<OwnedFd, SnapshotError> {
        let failed = |source: io::Error| {
            let object = dir.display().to_string();
            SnapshotError::Io { operation: "open the directory of", object, source }
        };
        let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty());
        let place = open(dir).map_err(|errno| failed(errno.into()))?;
        match kept_form(&place).map_err(failed)? {
            None => self.view(chain),
            Some(Form::Copy) => open(&dir.join("root")).map_err(|errno| failed(errno.into())),
            Some(Form::Upper) => {
                self.snapshots(chain)?;
                super::overlay::view_kept(self, chain, dir)
            }
        }
    }

    /// Makes `upper` look as `below` does, the root of the topmost snapshot of its chain.
    pub(super) fn imitate(&self, below: Option<&OwnedFd>, upper: &OwnedFd) -> io::Result<()> {
        let Some(below) = below else {
            return Ok(rustix::fs::fchmod(upper, Mode::from_raw_mode(0o755))?);
        };
        let ids = self.setup().ids;
        let (stat, xattrs) = (ids.stat_of(below.as_fd())?, walk::xattrs_of(below.as_fd())?);
        diff::set_dir(upper.as_fd(), &stat, &xattrs, ids)?;
        diff::set_dir_time(upper.as_fd(), &stat)
    }
}

/// How changes are kept in a directory; none if there are none yet.
fn kept_form(place: &OwnedFd) -> io::Result<Option<Form>> {
    for (name, form) in [(ROOT, Form::Copy), (UPPER, Form::Upper)] {
        match rustix::fs::statat(place, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(Some(form)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

/// Opens the directory `name`, which is seen when `make` has filled it.
fn opened_or_made(
    place: &OwnedFd,
    name: &CStr,
    dir: &Path,
    make: impl FnOnce(&OwnedFd) -> Result<(), SnapshotError>,
) -> Result<OwnedFd, SnapshotError> {
    /// While it is made.
    const UNFINISHED: &CStr = c".unfinished";
    let failed = |operation, error: io::Error| {
        let object = dir.display().to_string();
        SnapshotError::Io { operation, object, source: error }
    };
    match rustix::fs::openat(place, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed("open", errno.into())),
    }
    remove_tree(place, UNFINISHED).map_err(|error| failed("make a directory of", error))?;
    let made = rustix::fs::mkdirat(place, UNFINISHED, Mode::RWXU)
        .and_then(|()| rustix::fs::openat(place, UNFINISHED, DIRECTORY, Mode::empty()))
        .map_err(|errno| failed("make a directory of", errno.into()))?;
    let done = make(&made).and_then(|()| {
        renameat_with(place, UNFINISHED, place, name, RenameFlags::NOREPLACE)
            .map_err(|errno| failed("make a directory of", errno.into()))
    });
    match done {
        Ok(()) => Ok(made),
        Err(error) => {
            // Whoever tries again removes what is left now.
            let _ = remove_tree(place, UNFINISHED);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::time::SystemTime;

    use super::*;
    use crate::store::test_root::TestRoot;

    /// What is read through a root that is only a path.
    fn path(kept: &Kept, name: &str) -> std::path::PathBuf {
        format!("/proc/self/fd/{}/{name}", kept.root().as_raw_fd()).into()
    }

    #[test]
    fn changes_stay_and_the_chain_does_not_change() {
        for (stacking, form, named) in
            [(Stacking::Overlay, Form::Upper, "upper"), (Stacking::Copy, Form::Copy, "root")]
        {
            let root = TestRoot::with(stacking);
            let store = root.open();
            let mut active = store.prepare(&Chain::default()).unwrap();
            let base = format!("/proc/self/fd/{}", active.root().unwrap().as_raw_fd());
            fs::write(format!("{base}/kept"), "below").unwrap();
            fs::write(format!("{base}/removed"), "below").unwrap();
            fs::set_permissions(&base, fs::Permissions::from_mode(0o711)).unwrap();
            let chain = Chain(vec![active.commit(SystemTime::UNIX_EPOCH).unwrap().id]);
            let dir = root.path().join("container");
            fs::create_dir(&dir).unwrap();
            for (round, lasting) in
                [Lasting::Yes, Lasting::No, Lasting::No, Lasting::Yes].into_iter().enumerate()
            {
                let kept = store.keep_in(&chain, &dir, lasting).unwrap();
                assert_eq!(kept.form(), form);
                let seen = fs::read_to_string(path(&kept, "kept")).unwrap();
                assert_eq!(seen, format!("below{}", "+".repeat(round)));
                assert_eq!(path(&kept, "removed").exists(), round == 0);
                assert_eq!(fs::metadata(path(&kept, ".")).unwrap().mode() & 0o7777, 0o711);
                let mut file = fs::File::options().append(true).open(path(&kept, "kept")).unwrap();
                file.write_all(b"+").unwrap();
                let _ = fs::remove_file(path(&kept, "removed"));
                let view = store.view_kept(&chain, &dir).unwrap();
                let at = |name: &str| format!("/proc/self/fd/{}/{name}", view.as_raw_fd());
                assert_eq!(
                    fs::read_to_string(at("kept")).unwrap(),
                    format!("below{}", "+".repeat(round + 1))
                );
                assert!(!Path::new(&at("removed")).exists());
            }
            assert!(dir.join(named).is_dir());
            let view = store.view(&chain).unwrap();
            let below = fs::read_to_string(format!("/proc/self/fd/{}/kept", view.as_raw_fd())).unwrap();
            assert_eq!(below, "below");
            // How it is kept does not go by how the store is opened.
            drop((view, store));
            if stacking == Stacking::Copy {
                let store = Store::open(root.path()).unwrap();
                let kept = store.keep_in(&chain, &dir, Lasting::Yes).unwrap();
                assert_eq!((kept.form(), path(&kept, "removed").exists()), (Form::Copy, false));
            }
        }
    }

    #[test]
    fn nothing_below_is_an_empty_root() {
        for stacking in [Stacking::Overlay, Stacking::Copy] {
            let root = TestRoot::with(stacking);
            let store = root.open();
            let dir = root.path().join("container");
            fs::create_dir(&dir).unwrap();
            for count in 0..2 {
                let kept = store.keep_in(&Chain::default(), &dir, Lasting::Yes).unwrap();
                assert_eq!(fs::read_dir(path(&kept, ".")).unwrap().count(), count, "{stacking:?}");
                fs::write(path(&kept, "file"), "x").unwrap();
                assert_eq!(fs::metadata(path(&kept, ".")).unwrap().mode() & 0o7777, 0o755);
            }
        }
    }
}
