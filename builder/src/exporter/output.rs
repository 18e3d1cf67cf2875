//! Where an archive goes: standard output, or a file that is there whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wharf_cache::WrittenBack;

use super::ExportError;
use crate::progress;

const BUFFER_BYTES: usize = 1 << 20;

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
    /// still there.
    pub fn write(
        &self,
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
                    let mut file = OutputFile::create(path)?;
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

/// A file being written under a temporary name beside its own; dropped without commit it leaves nothing.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: BufWriter<WrittenBack>,
    /// What was asked for, for messages.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Written under `temporary`, then renamed to `target`.
    Renamed { temporary: PathBuf, target: PathBuf },
    /// A pipe or device that was there and stays: written as it is.
    Direct,
}

impl OutputFile {
    /// Starts the file `path`. A symlink there is followed, as every other program does.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let (file, place) = match fs::metadata(path) {
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
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(path);
                (file.map_err(ExportError::io("open", path.display()))?, Place::Direct)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_beside(path, path.to_owned(), None)?
            }
            Err(error) => return Err(ExportError::io("create", path.display())(error)),
        };
        let file = WrittenBack::new(file);
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, file), path: path.to_owned(), place })
    }

    /// Puts the file in its place, durable.
    pub(super) fn commit(mut self) -> Result<(), ExportError> {
        let path = self.path.display().to_string();
        self.file.flush().map_err(ExportError::io("write", &path))?;
        let Place::Renamed { temporary, target } = &self.place else {
            return Ok(());
        };
        self.file.get_ref().file().sync_all().map_err(ExportError::io("write", &path))?;
        fs::rename(temporary, target).map_err(ExportError::io("create", &path))?;
        // From here on there is nothing under the temporary name that `drop` could remove.
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
) -> Result<(File, Place), ExportError> {
    let temporary = directory_of(&target).join(temporary_name()?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&temporary).map_err(ExportError::io("create", path.display()))?;
    let place = Place::Renamed { temporary, target };
    if let Some(permissions) = permissions
        && let Err(error) = file.set_permissions(permissions)
    {
        let file = BufWriter::with_capacity(0, WrittenBack::new(file));
        drop(OutputFile { file, path: path.to_owned(), place });
        return Err(ExportError::io("set the mode of", path.display())(error));
    }
    Ok((file, place))
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
        to.write(|out| out.write_all(b"one").map_err(ExportError::io("write", "x"))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");

        let failed = to.write(|out| {
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
        let say = |path: &Path| {
            Destination::File(path.to_owned())
                .write(|out| out.write_all(b"new").map_err(ExportError::io("write", "x")))
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
            .write(|out| out.write_all(&[0; 8]).map_err(ExportError::io("write", "x")))
            .unwrap_err();
        assert_eq!(error.to_string(), "no space left where `/dev/full` is being written");
    }
}
