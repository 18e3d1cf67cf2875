//! `cp`: files into containers and out of them, by Docker's rules for where they go.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use wharf_cache::Ids;
use wharf_cache::diff::{
    Copied, Copying, DiffError, Original, Owners, copy, decoded, unpack_stream, write_copy,
};

use super::files::{Files, Place, open_in};
use crate::error::{Failure, Kind};

/// How files are copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Owners stay.
    pub archive: bool,
    /// A link that is named is followed.
    pub follow: bool,
    /// Whether devices can be made on this host.
    pub host_devices: bool,
}

/// A path as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Typed {
    /// Without slashes at its end, and absolute.
    path: PathBuf,
    /// It ends in a slash, or names `.`: it is to be a directory.
    is_directory: bool,
    /// It ends in `/.`: not the directory, but what is in it.
    is_contents: bool,
}

impl Typed {
    fn new(text: &Path, base: &Path) -> Self {
        let bytes = text.as_os_str().as_bytes();
        let is_contents = bytes == b"." || bytes.ends_with(b"/.");
        let is_directory = is_contents || bytes.ends_with(b"/") || bytes.ends_with(b"/..") || bytes == b"..";
        Self { path: base.join(text).components().collect(), is_directory, is_contents }
    }

    /// The same in a container, where `..` is taken by its word.
    fn in_container(text: &Path) -> Self {
        let typed = Self::new(text, Path::new("/"));
        let mut path = PathBuf::from("/");
        for component in typed.path.components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::ParentDir => drop(path.pop()),
                _ => {}
            }
        }
        Self { path, ..typed }
    }
}

/// What is copied: where it is, and what it is called.
struct Found {
    dir: OwnedFd,
    /// None is the directory's contents.
    name: Option<OsString>,
    /// What a copy is called, if nobody says otherwise.
    new: OsString,
    is_directory: bool,
}

/// Where a copy goes: into this directory, under this name.
struct Goal {
    dir: OwnedFd,
    name: Option<OsString>,
}

/// One of the two sides.
enum Side<'a> {
    Host { base: &'a Path },
    Container { files: &'a Files },
}

/// From a container to this host. Says what was left out.
pub fn out(files: &Files, from: &Path, to: &Path, base: &Path, how: How) -> Result<Copied, Failure> {
    let container = Side::Container { files };
    let found = container.find(from, how.follow)?;
    let host = Side::Host { base };
    let goal = host.goal(to, &found)?;
    let owners = if how.archive { Owners::AsTheyWere } else { Owners::Own };
    let copying = Copying { owners, devices: how.host_devices, root: false };
    transfer(&found, files.ids(), &goal, Ids::Kernel, copying)
        .map_err(|error| failed(&format!("cannot copy `{}` out of the container", from.display()), &error))
}

/// From a container to a stream, as a tar.
pub fn out_as_tar(files: &Files, from: &Path, follow: bool, out: &mut dyn Write) -> Result<Copied, Failure> {
    let found = Side::Container { files }.find(from, follow)?;
    let names = found.name.as_deref().map(|name| (name, &*found.new));
    let original = Original { dir: found.dir.as_fd(), names, ids: files.ids() };
    write_copy(&original, out)
        .map_err(|error| failed(&format!("cannot copy `{}` out of the container", from.display()), &error))
}

/// From this host into a container.
pub fn into(files: &Files, from: &Path, base: &Path, to: &Path, how: How) -> Result<Copied, Failure> {
    let found = Side::Host { base }.find(from, how.follow)?;
    let goal = Side::Container { files }.goal(to, &found)?;
    let owners = if how.archive { Owners::AsTheyWere } else { Owners::All(0, 0) };
    let copying = Copying { owners, devices: true, root: false };
    transfer(&found, Ids::Kernel, &goal, files.ids(), copying)
        .map_err(|error| failed(&format!("cannot copy `{}` into the container", from.display()), &error))
}

/// From a tar, compressed or not, into a directory of a container. Owners are those of the archive.
pub fn into_from_tar(files: &Files, stream: impl Read, to: &Path) -> Result<Copied, Failure> {
    let typed = Typed::in_container(to);
    let place = files.place(&typed.path)?;
    let dir = place.open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| match errno {
        Errno::NOTDIR => {
            usage(format!("`{}` of the container is no directory: an archive goes into one", to.display()))
        }
        errno => not_found(to, "the container", errno),
    })?;
    refuse_read_only(&place, to)?;
    let doing = format!("cannot unpack the archive into `{}` of the container", to.display());
    let stream = decoded(stream).map_err(|error| Failure::from_error(Kind::Source, &doing, &error))?;
    let copying = Copying { owners: Owners::AsTheyWere, devices: true, root: false };
    unpack_stream(stream, dir.as_fd(), files.ids(), copying).map_err(|error| failed(&doing, &error))
}

fn transfer(found: &Found, from: Ids, goal: &Goal, to: Ids, copying: Copying) -> Result<Copied, DiffError> {
    let names = found.name.as_deref().map(|name| (name, goal.name.as_deref().unwrap_or(&found.new)));
    let Some(new_root) = goal.name.as_deref().filter(|_| names.is_none()) else {
        let original = Original { dir: found.dir.as_fd(), names, ids: from };
        return copy(&original, goal.dir.as_fd(), to, copying);
    };
    // The contents of a directory become those of a new one.
    let names = Some((OsStr::new("."), new_root));
    copy(&Original { dir: found.dir.as_fd(), names, ids: from }, goal.dir.as_fd(), to, copying)
}

impl Side<'_> {
    fn called(&self) -> &'static str {
        match self {
            Self::Host { .. } => "this host",
            Self::Container { .. } => "the container",
        }
    }

    fn typed(&self, path: &Path) -> Typed {
        match self {
            Self::Host { base } => Typed::new(path, base),
            Self::Container { .. } => Typed::in_container(path),
        }
    }

    fn place(&self, path: &Path) -> Result<Place, Failure> {
        match self {
            Self::Container { files } => files.place(path),
            Self::Host { .. } => {
                let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
                let root = root.map_err(|errno| not_found(path, self.called(), errno))?;
                Ok(Place { root, path: path.to_owned(), read_only: None })
            }
        }
    }

    /// Opens a path of this side. On the host the kernel knows best what leads where.
    fn open(&self, place: &Place, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match self {
            Self::Host { .. } => rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()),
            Self::Container { .. } => open_in(place.root.as_fd(), path, flags),
        }
    }

    /// What is at a path.
    fn find(&self, path: &Path, follow: bool) -> Result<Found, Failure> {
        let typed = self.typed(path);
        let not_there = |errno| not_found(path, self.called(), errno);
        let place = self.place(&typed.path)?;
        let new = typed.path.file_name().map(OsStr::to_owned);
        if typed.is_contents || place.path.file_name().is_none() {
            let dir = self.open(&place, &place.path, DIRECTORY).map_err(not_there)?;
            // The root of a mount has a name in the container, and no other.
            let name = (!typed.is_contents && new.is_some()).then(|| OsString::from("."));
            return Ok(Found { dir, name, new: new.unwrap_or_default(), is_directory: true });
        }
        let new = new.unwrap_or_default();
        let (dir, name) = self.named(&place, &place.path).map_err(not_there)?;
        let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(not_there)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink && (follow || typed.is_directory) {
            return match self.open(&place, &place.path, DIRECTORY) {
                Ok(dir) => Ok(Found { dir, name: Some(OsString::from(".")), new, is_directory: true }),
                Err(Errno::NOTDIR) if !typed.is_directory => {
                    let (dir, name) = self.followed(&place).map_err(not_there)?;
                    Ok(Found { dir, name: Some(name), new, is_directory: false })
                }
                Err(errno) => Err(not_there(errno)),
            };
        }
        let is_directory = kind == FileType::Directory;
        if typed.is_directory && !is_directory {
            return Err(not_there(Errno::NOTDIR));
        }
        Ok(Found { dir, name: Some(name), new, is_directory })
    }

    /// The directory that the last name of a path is in, and that name.
    fn named(&self, place: &Place, path: &Path) -> rustix::io::Result<(OwnedFd, OsString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOENT) };
        Ok((self.open(place, parent, DIRECTORY)?, name.to_owned()))
    }

    /// The same of what the links at a path lead to, which is no directory.
    fn followed(&self, place: &Place) -> rustix::io::Result<(OwnedFd, OsString)> {
        let mut path = place.path.clone();
        for _ in 0..LINKS_MAX {
            let (dir, name) = self.named(place, &path)?;
            match rustix::fs::readlinkat(&dir, &name, Vec::new()) {
                Ok(target) => {
                    let parent = path.parent().unwrap_or(Path::new("/"));
                    path = parent.join(OsStr::from_bytes(target.as_bytes()));
                }
                Err(Errno::INVAL) => return Ok((dir, name)),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::LOOP)
    }

    /// Where a copy of `found` goes that is to be at `path`.
    fn goal(&self, path: &Path, found: &Found) -> Result<Goal, Failure> {
        let typed = self.typed(path);
        let not_there = |errno| not_found(path, self.called(), errno);
        let place = self.place(&typed.path)?;
        refuse_read_only(&place, path)?;
        let missing_parent =
            |errno| not_found(typed.path.parent().unwrap_or(Path::new("/")), self.called(), errno);
        match self.open(&place, &place.path, DIRECTORY) {
            Ok(dir) => Ok(Goal { dir, name: None }),
            Err(Errno::NOTDIR) if typed.is_directory => Err(not_there(Errno::NOTDIR)),
            Err(Errno::NOTDIR) if found.is_directory => Err(usage(format!(
                "`{}` of {} is a file, and a directory cannot be copied to it",
                path.display(),
                self.called()
            ))),
            // The file that a link leads to is replaced, not the link.
            Err(Errno::NOTDIR) => {
                let (dir, name) = self.followed(&place).map_err(missing_parent)?;
                Ok(Goal { dir, name: Some(name) })
            }
            Err(Errno::NOENT) if typed.is_directory && !found.is_directory => Err(not_there(Errno::NOENT)),
            Err(Errno::NOENT) => {
                let (dir, name) = self.named(&place, &place.path).map_err(missing_parent)?;
                Ok(Goal { dir, name: Some(name) })
            }
            Err(errno) => Err(not_there(errno)),
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

fn refuse_read_only(place: &Place, path: &Path) -> Result<(), Failure> {
    match place.read_only {
        Some(why) => Err(usage(format!("nothing can be copied to `{}`: {why}", path.display()))),
        None => Ok(()),
    }
}

fn not_found(path: &Path, side: &str, errno: Errno) -> Failure {
    let path = path.display();
    match errno {
        Errno::NOENT => {
            usage(format!("there is no `{path}` on {side}").replace("on the container", "in the container"))
        }
        Errno::NOTDIR => usage(format!("`{path}` of {side} is no directory")),
        Errno::LOOP => {
            usage(format!("the links at `{path}` of {side} go round, or lead where nobody may look"))
        }
        errno => Failure::from_error(
            Kind::Environment,
            &format!("cannot open `{path}` of {side}"),
            &io::Error::from(errno),
        ),
    }
}

fn usage(message: String) -> Failure {
    Failure::new(Kind::Usage, message)
}

fn failed(doing: &str, error: &DiffError) -> Failure {
    let kind = match error {
        DiffError::Entry { .. } => Kind::Usage,
        _ => Kind::Environment,
    };
    Failure::from_error(kind, doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        for (text, in_container, on_host, is_directory, is_contents) in [
            ("a", "/a", "/base/a", false, false),
            ("/a/b/", "/a/b", "/a/b", true, false),
            ("/a/b/.", "/a/b", "/a/b", true, true),
            (".", "/", "/base", true, true),
            ("/", "/", "/", true, false),
            ("/a/../..", "/", "/a/../..", true, false),
            ("./x", "/x", "/base/x", false, false),
        ] {
            let text = Path::new(text);
            let typed = Typed::in_container(text);
            assert_eq!(
                (typed.path.as_path(), typed.is_directory, typed.is_contents),
                (Path::new(in_container), is_directory, is_contents)
            );
            assert_eq!(Typed::new(text, Path::new("/base")).path, Path::new(on_host));
        }
    }
}
