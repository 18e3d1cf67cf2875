//! A file that is written from its beginning to its end and then has to be on disk: the disk begins before the end.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;

use rustix::fs::Advice;

/// The disk is given so much at a time.
const STRETCH_BYTES: u64 = 16 * 1024 * 1024;

/// Has what was written go to the disk while more is. Waits for nothing: that is for who syncs the file.
#[derive(Debug)]
pub struct WrittenBack {
    file: File,
    written: u64,
    /// The disk was told of so many bytes.
    told: u64,
}

impl WrittenBack {
    /// `file` is empty.
    pub fn new(file: File) -> Self {
        Self { file, written: 0, told: 0 }
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Write for WrittenBack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let new = self.written - self.told;
        if new >= STRETCH_BYTES {
            // What is dirty is written and stays in memory; what is clean would go, but it has been clean for no time.
            // Not every file has a disk.
            let _ = rustix::fs::fadvise(&self.file, self.told, NonZeroU64::new(new), Advice::DontNeed);
            self.told = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
