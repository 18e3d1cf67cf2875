//! A tar of named files in which nothing depends on when, where or by whom it is written.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::ExportError;

const BLOCK_BYTES: u64 = 512;
const COPY_BYTES: usize = 256 * 1024;

/// Writes entries one after the other to `out`.
pub(crate) struct Archive<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// A directory; `path` ends with `/`.
    pub(crate) fn directory(&mut self, path: &str) -> Result<(), ExportError> {
        self.header(path, EntryType::Directory, 0o755, 0)
    }

    /// A file of these bytes.
    pub(crate) fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.file(path, 0o644, bytes.len() as u64, &mut &*bytes)
    }

    /// A file of the `size` bytes that `content` gives; another number of them is an error.
    pub(crate) fn file(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), ExportError> {
        self.header(path, EntryType::Regular, mode, size)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut written = 0;
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ExportError::io("read", path)(error)),
            };
            written += read as u64;
            self.write(path, &buffer[..read])?;
        }
        if written != size {
            let message = format!("got {written} bytes, expected {size}");
            return Err(ExportError::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        let padding = size.next_multiple_of(BLOCK_BYTES) - size;
        self.write(path, &[0; BLOCK_BYTES as usize][..padding as usize])
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> Result<(), ExportError> {
        let end = [0; 2 * BLOCK_BYTES as usize];
        self.out
            .write_all(&end)
            .and_then(|()| self.out.flush())
            .map_err(ExportError::io("write", "archive end"))
    }

    fn header(&mut self, path: &str, kind: EntryType, mode: u32, size: u64) -> Result<(), ExportError> {
        let mut header = Header::new_gnu();
        header.set_path(path).map_err(ExportError::io("name archive entry", path))?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write(path, header.as_bytes())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(ExportError::io("write archive entry", path))
    }
}
