//! Where an archive goes: standard output, or a file that is there whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;
use wharf_cache::WrittenBack;
use wharf_runtime::Cancel;

use super::ExportError;
use crate::progress;

const BUFFER_BYTES: usize = 1 << 20;

/// How often it is looked whether a pipe has a reader.
const READER_POLL: Duration = Duration::from_millis(50);

/// `dest=` of an exporter that writes one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `-`, or none given.
    Stdout,
    /// A file; its directory must be there.
    File(PathBuf),
}

impl Destination {
    /// Lets `produce` write the archive. Standard output gets it as it is produced, and is refused when it is a
    /// terminal. A file appears under its name when all of it is on disk; after a failure what was there before is
    /// still there. A pipe is not waited for any more when `cancel` is triggered.
    pub fn write(
        &self,
        cancel: &Cancel,
        produce: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        match self {
            Self::Stdout => {
                let write = || {
                    let mut out = BufWriter::with_capacity(BUFFER_BYTES, open_stdout()?);
                    produce(&mut out)?;
                    out.flush().map_err(ExportError::io("write to", STDOUT))
                };
                write().map_err(|error| error.name_reader_gone().name_full_disk(Path::new(STDOUT)))
            }
            Self::File(path) => {
                let write = || {
                    let mut file = OutputFile::create_until(path, Some(cancel))?;
                    produce(&mut file)?;
                    file.commit()
                };
                write().map_err(|error: ExportError| error.name_full_disk(path))
            }
        }
    }
}

/// How messages name it.
const STDOUT: &str = "standard output";

/// Standard output if an archive can go there.
pub fn open_stdout() -> Result<File, ExportError> {
    let out = progress::results().map_err(ExportError::io("write to", STDOUT))?;
    if out.is_terminal() { Err(ExportError::Terminal) } else { Ok(out) }
}

/// A file that gets its name when all of it is there; dropped without commit it leaves nothing.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: BufWriter<Sink>,
    /// What was asked for, for messages.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Has no name until it is linked at `target`: even a killed process leaves nothing.
    Nameless { target: PathBuf },
    /// Written under `temporary`, then renamed to `target`, where the file system knows no files without a name.
    Renamed { temporary: PathBuf, target: PathBuf },
    /// A pipe or device that was there and stays: written as it is.
    Direct,
}

/// What is written to.
#[derive(Debug)]
enum Sink {
    File(WrittenBack),
    Pipe(Pipe),
}

/// A pipe whose reader may take its time, but not longer than until `cancel`. It does not block.
#[derive(Debug)]
struct Pipe {
    file: File,
    cancel: Cancel,
}

impl OutputFile {
    /// Starts the file `path`. A symlink there is followed, as every other program does.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        Self::create_until(path, None)
    }

    /// The same; what waits for the reader of a pipe ends with an error when `cancel` is triggered.
    fn create_until(path: &Path, cancel: Option<&Cancel>) -> Result<Self, ExportError> {
        let (sink, place) = match fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                return Err(ExportError::InTheWay { path: path.to_owned(), obstacle: "a directory" });
            }
            Ok(there) if there.is_file() => {
                let target = fs::canonicalize(path).map_err(ExportError::io("resolve", path.display()))?;
                create_beside(path, target, Some(there.permissions()))?
            }
            Ok(there) if there.file_type().is_socket() => {
                return Err(ExportError::InTheWay { path: path.to_owned(), obstacle: "a socket" });
            }
            Ok(there) => {
                let opened = match cancel.filter(|_| there.file_type().is_fifo()) {
                    Some(cancel) => Pipe::open(path, cancel).map(Sink::Pipe),
                    None => OpenOptions::new()
                        .write(true)
                        .open(path)
                        .map(|file| Sink::File(WrittenBack::new(file))),
                };
                (opened.map_err(ExportError::io("open", path.display()))?, Place::Direct)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_beside(path, path.to_owned(), None)?
            }
            Err(error) => return Err(ExportError::io("create", path.display())(error)),
        };
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, sink), path: path.to_owned(), place })
    }

    /// Puts the file in its place, durable.
    pub(super) fn commit(mut self) -> Result<(), ExportError> {
        let path = self.path.display().to_string();
        self.file.flush().map_err(ExportError::io("write", &path))?;
        let (Sink::File(file), Some(target)) = (self.file.get_ref(), self.place.target()) else {
            return Ok(());
        };
        file.file().sync_all().map_err(ExportError::io("write", &path))?;
        match &self.place {
            Place::Nameless { target } => name_file(file.file(), target)?,
            // From here on there is nothing under the temporary name that `drop` could remove.
            Place::Renamed { temporary, target } => {
                fs::rename(temporary, target).map_err(ExportError::io("create", &path))?;
            }
            Place::Direct => {}
        }
        let directory = directory_of(target);
        File::open(directory)
            .and_then(|it| it.sync_all())
            .map_err(ExportError::io("write", directory.display()))
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Place::Renamed { temporary, .. } = &self.place {
            // Gone already after a commit. Otherwise nothing better can be done than to leave it.
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Place {
    fn target(&self) -> Option<&Path> {
        match self {
            Self::Nameless { target } | Self::Renamed { target, .. } => Some(target),
            Self::Direct => None,
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Pipe(pipe) => pipe.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    /// Waits for a reader.
    fn open(path: &Path, cancel: &Cancel) -> io::Result<Self> {
        loop {
            match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
                Ok(file) => return Ok(Self { file, cancel: cancel.clone() }),
                // Nobody reads yet.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => {
                    if cancel.wait(READER_POLL) {
                        return Err(stopped());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled = [
                        PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::OUT),
                        PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
                    ];
                    match poll(&mut polled, None) {
                        Err(Errno::INTR) => {}
                        polled => drop(polled?),
                    }
                    if self.cancel.is_cancelled() {
                        return Err(stopped());
                    }
                }
                done => return done,
            }
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("interrupted while nobody read from the pipe")
}

/// Gives the nameless `file` its name. What has that name stays until the new file takes its place.
fn name_file(file: &File, target: &Path) -> Result<(), ExportError> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |path: &Path| linkat(CWD, &*source, CWD, path, AtFlags::SYMLINK_FOLLOW);
    let named = match link(target) {
        // A link takes nobody's place, so it has a name of its own for an instant.
        Err(Errno::EXIST) => {
            let temporary = directory_of(target).join(temporary_name()?);
            link(&temporary).and_then(|()| {
                rustix::fs::rename(&temporary, target).inspect_err(|_| {
                    let _ = fs::remove_file(&temporary);
                })
            })
        }
        linked => linked,
    };
    named.map_err(|error| ExportError::io("create", target.display())(error.into()))
}

/// Makes `path` and what is missing above it.
pub(crate) fn create_directory(path: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(path).map_err(ExportError::io("create directory", path.display()))
}

/// A name that nobody else uses: `.wharf-<16 hex digits>`.
pub(super) fn temporary_name() -> Result<String, ExportError> {
    let random = getrandom::u64()
        .map_err(|error| ExportError::io("make", "a random name")(io::Error::other(error.to_string())))?;
    Ok(format!(".wharf-{random:016x}"))
}

fn create_beside(
    path: &Path,
    target: PathBuf,
    permissions: Option<Permissions>,
) -> Result<(Sink, Place), ExportError> {
    let (file, place) = match nameless(directory_of(&target)) {
        Some(file) => (file, Place::Nameless { target }),
        None => {
            let temporary = directory_of(&target).join(temporary_name()?);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&temporary).map_err(ExportError::io("create", path.display()))?;
            (file, Place::Renamed { temporary, target })
        }
    };
    if let Some(permissions) = permissions
        && let Err(error) = file.set_permissions(permissions)
    {
        let file = BufWriter::with_capacity(0, Sink::File(WrittenBack::new(file)));
        drop(OutputFile { file, path: path.to_owned(), place });
        return Err(ExportError::io("set the mode of", path.display())(error));
    }
    Ok((Sink::File(WrittenBack::new(file)), place))
}

/// A file of `directory` that has no name, if there can be one here that gets a name later: not every file system has
/// them, and naming them needs `/proc`.
fn nameless(directory: &Path) -> Option<File> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(directory).ok()?;
    fs::symlink_metadata(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    Some(file)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("wharf-output-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_a_failure_keeps_the_old_one() {
        let directory = directory("whole");
        let path = directory.join("out.tar");
        let to = Destination::File(path.clone());
        let cancel = &Cancel::new().unwrap();
        to.write(cancel, |out| out.write_all(b"one").map_err(ExportError::io("write", "x"))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");

        let failed = to.write(cancel, |out| {
            out.write_all(b"half").unwrap();
            Err(ExportError::Terminal)
        });
        assert!(matches!(failed, Err(ExportError::Terminal)));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(&directory), ["out.tar"]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_there_decides_how_it_is_written() {
        let directory = directory("there");
        let cancel = &Cancel::new().unwrap();
        let say = |path: &Path| {
            Destination::File(path.to_owned())
                .write(cancel, |out| out.write_all(b"new").map_err(ExportError::io("write", "x")))
        };
        fs::write(directory.join("real"), "old").unwrap();
        std::os::unix::fs::symlink("real", directory.join("link")).unwrap();
        say(&directory.join("link")).unwrap();
        assert_eq!(fs::read(directory.join("real")).unwrap(), b"new");
        assert!(fs::symlink_metadata(directory.join("link")).unwrap().is_symlink());

        say(Path::new("/dev/null")).unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

        assert!(matches!(say(&directory), Err(ExportError::InTheWay { .. })));
        let missing = say(&directory.join("no/such/out.tar")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot create `"), "{missing}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_full_disk_is_said_plainly() {
        // `/dev/full` is a disk that is always full.
        let error = Destination::File("/dev/full".into())
            .write(&Cancel::new().unwrap(), |out| {
                out.write_all(&[0; 8]).map_err(ExportError::io("write", "x"))
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "no space left where `/dev/full` is being written");
    }
}
