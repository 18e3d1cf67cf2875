//! What a container has printed, as Docker's `json-file` driver keeps it: a line of JSON for each line of output, in
//! `container.log` and the files before it, `container.log.1` and so on.
//!
//! A line of output longer than [`PART_BYTES_MAX`] becomes several entries, of which only the last one ends with a newline.
//! Readers hold the files open, so that nothing they are about to read is lost when a file is ended.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use wharf_cache::{from_nanos, to_nanos};
use wharf_runtime::Stream;

use super::config::LogConfig;
use crate::exporter::rfc3339;

/// The file that is written.
pub const FILE: &str = "container.log";

/// Bytes of one entry at most.
pub const PART_BYTES_MAX: usize = 16 << 10;

/// Bytes of a line of the file at most; each byte of output may become six.
const LINE_BYTES_MAX: usize = 8 * PART_BYTES_MAX;

/// Files that are looked for.
const FILES_MAX: u32 = 10_000;

/// What is read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Bytes of the disk that logs leave to others: states have to be written when it is full, too.
const LEFT_BYTES: u64 = 1 << 20;

/// How often a reader that follows looks for more.
const FOLLOWING_PAUSE: Duration = Duration::from_millis(50);

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    log: String,
    stream: String,
    time: String,
}

/// Something that the container printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where to.
    pub stream: Stream,
    /// When: nanoseconds since 1970.
    pub time: i64,
    /// A line with its newline, or a part of one.
    pub text: String,
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Whether to wait for more, until the container has ended.
    pub follow: bool,
    /// So many of the last entries alone.
    pub tail: Option<u64>,
    /// Only what came at this time or later: nanoseconds since 1970.
    pub since: Option<i64>,
    /// Only what came at this time or before.
    pub until: Option<i64>,
}

/// Cuts output into what becomes entries.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Hands on every line that `bytes` completes, and what is too long to wait for its end.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            while self.rest.len() > PART_BYTES_MAX {
                let cut = character_border(&self.rest, PART_BYTES_MAX);
                each(&self.rest[..cut]);
                self.rest.drain(..cut);
            }
            if self.rest.ends_with(b"\n") {
                each(&self.rest);
                self.rest.clear();
            }
        }
    }

    /// Hands on what is left: no newline will come.
    pub fn end(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            each(&self.rest);
            self.rest.clear();
        }
    }
}

/// The last place at or before `at` where no character is cut, if these are characters.
fn character_border(bytes: &[u8], at: usize) -> usize {
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (at.saturating_sub(3)..=at).rev().find(|&at| !is_inside(at)).unwrap_or(at)
}

/// Writes a container's log.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    max_size: Option<u64>,
    max_file: u32,
    file: File,
    size: u64,
    /// Bytes of output that could not be kept and that nobody was told of in the log yet.
    lost: u64,
}

impl LogWriter {
    /// Goes on with the log in `dir`, which is made where it is not there. None where nothing is to be kept.
    pub fn open(dir: &Path, config: &LogConfig) -> io::Result<Option<Self>> {
        if config.none {
            return Ok(None);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let file = open_for_writing(&dir.join(FILE))?;
        let mut size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        // Whoever wrote here was killed in the middle of a line.
        if last != [b'\n'] {
            (&file).write_all(b"\n")?;
            size += 1;
        }
        let (max_size, max_file) = (config.max_size, config.max_file.clamp(1, FILES_MAX));
        Ok(Some(Self { dir: dir.to_owned(), max_size, max_file, file, size, lost: 0 }))
    }

    /// Writes an entry: a line, or a part of one. What cannot be written is lost; the next one that can be is told how much.
    pub fn write(&mut self, stream: Stream, time: SystemTime, text: &[u8]) -> io::Result<()> {
        let written = self.tell_loss(time).and_then(|()| self.write_entry(stream, time, text));
        if written.is_err() {
            self.lost = self.lost.saturating_add(text.len() as u64);
        }
        written
    }

    fn tell_loss(&mut self, time: SystemTime) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let text =
            format!("wharf: {} bytes of output are missing here: they could not be written\n", self.lost);
        self.write_entry(Stream::Stderr, time, text.as_bytes())?;
        self.lost = 0;
        Ok(())
    }

    fn write_entry(&mut self, stream: Stream, time: SystemTime, text: &[u8]) -> io::Result<()> {
        if self.max_size.is_some_and(|max| self.size >= max.max(1)) {
            self.rotate()?;
        }
        let room = rustix::fs::fstatvfs(&self.file)?;
        // What has no blocks does not say.
        if room.f_blocks > 0 && room.f_bavail.saturating_mul(room.f_frsize) < LEFT_BYTES {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        let line = Line {
            log: String::from_utf8_lossy(text).into_owned(),
            stream: stream_name(stream).to_owned(),
            time: rfc3339::format(time),
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would spoil the next one.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += line.len() as u64;
        Ok(())
    }

    /// Ends the file and begins another one.
    fn rotate(&mut self) -> io::Result<()> {
        let path = self.dir.join(FILE);
        if self.max_file == 1 {
            fs::remove_file(&path)?;
        } else {
            for number in (1..self.max_file - 1).rev() {
                match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&path, self.numbered(1))?;
        }
        self.file = open_for_writing(&path)?;
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        file_path(&self.dir, number)
    }
}

fn file_path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join(FILE),
        number => dir.join(format!("{FILE}.{number}")),
    }
}

fn open_for_writing(path: &Path) -> io::Result<File> {
    File::options().read(true).append(true).create(true).mode(0o600).open(path)
}

fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Reads a log from the first entry that is wanted on.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    query: LogQuery,
    /// The files that are to be read, the oldest first; the first one is being read.
    files: VecDeque<File>,
    /// What was read and is no whole line yet begins at `at`.
    buffer: Vec<u8>,
    at: usize,
    /// The line that is being read is too long to be one of ours.
    is_skipping: bool,
    is_done: bool,
}

impl LogReader {
    /// Opens the log in `dir`; an empty one if nothing was printed yet.
    pub fn open(dir: &Path, query: LogQuery) -> io::Result<Self> {
        let mut newest_first = open_files(dir, None)?;
        if let Some(count) = query.tail {
            let (files, offset) = tail_start(&newest_first, count)?;
            newest_first.truncate(files);
            if let Some(oldest) = newest_first.last_mut() {
                io::Seek::seek(oldest, io::SeekFrom::Start(offset))?;
            }
        }
        let files = newest_first.into_iter().rev().collect();
        let dir = dir.to_owned();
        Ok(Self { dir, query, files, buffer: Vec::new(), at: 0, is_skipping: false, is_done: false })
    }

    /// The next entry that is wanted; none if there is none yet.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        while !self.is_done {
            let Some(entry) = self.next_line()? else { break };
            let Some(entry) = entry else { continue };
            if self.query.until.is_some_and(|until| entry.time > until) {
                self.is_done = true;
            } else if self.query.since.is_none_or(|since| entry.time >= since) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The next whole line, if there is one: its entry, if it is one.
    fn next_line(&mut self) -> io::Result<Option<Option<Entry>>> {
        let mut searched = self.at;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let entry = parse(&self.buffer[self.at..end]).filter(|_| !self.is_skipping);
                (self.at, self.is_skipping) = (end + 1, false);
                return Ok(Some(entry));
            }
            self.buffer.drain(..std::mem::take(&mut self.at));
            if self.buffer.len() > LINE_BYTES_MAX {
                self.is_skipping = true;
                self.buffer.clear();
            }
            searched = self.buffer.len();
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// Reads more into the buffer; says whether there was more, in this file or a later one.
    fn read_more(&mut self) -> io::Result<bool> {
        loop {
            if self.read_block()? {
                return Ok(true);
            }
            let is_first = self.files.is_empty();
            if self.files.len() < 2 && !self.find_later_files()? {
                return Ok(false);
            }
            // Whatever was written into this file before it was ended is there when a later one is.
            if self.read_block()? {
                return Ok(true);
            }
            if is_first {
                continue;
            }
            self.files.pop_front();
            self.buffer.clear();
            self.is_skipping = false;
        }
    }

    fn read_block(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.front_mut() else { return Ok(false) };
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK_BYTES, 0);
        let read = file.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        Ok(read? > 0)
    }

    /// Looks for files that came after the one that is being read.
    fn find_later_files(&mut self) -> io::Result<bool> {
        if !self.query.follow {
            return Ok(false);
        }
        let current = self.files.front().map(identity).transpose()?;
        let later = open_files(&self.dir, current)?;
        let found = !later.is_empty();
        self.files.extend(later.into_iter().rev());
        Ok(found)
    }
}

/// Hands every entry that is wanted to `sink`, until that says that it has had enough. With `follow`, until `is_alive` says
/// that nothing is written any more.
pub fn read<E: From<io::Error>>(
    dir: &Path,
    query: &LogQuery,
    is_alive: &mut dyn FnMut() -> bool,
    sink: &mut dyn FnMut(Entry) -> Result<bool, E>,
) -> Result<(), E> {
    let mut reader = LogReader::open(dir, query.clone())?;
    loop {
        // Asked before the last look, so that nothing that it wrote in the end is missed.
        let is_last = !query.follow || !is_alive() || query.until.is_some_and(|until| until < now());
        while let Some(entry) = reader.next_entry()? {
            if !sink(entry)? {
                return Ok(());
            }
        }
        if is_last || reader.is_done {
            return Ok(());
        }
        thread::sleep(FOLLOWING_PAUSE);
    }
}

fn now() -> i64 {
    to_nanos(SystemTime::now())
}

/// Opens the files of a log, the newest first, as far as the one with the identity `last`, which is left out.
fn open_files(dir: &Path, last: Option<(u64, u64)>) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut seen = Vec::from_iter(last);
    let mut missing = 0;
    for number in 0..FILES_MAX {
        let file = match File::open(file_path(dir, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing += 1;
                // While they get their next numbers, one number is nobody's.
                if missing > 1 {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let identity = identity(&file)?;
        if last == Some(identity) {
            break;
        }
        // It got its next number while this was going on.
        if !seen.contains(&identity) {
            seen.push(identity);
            files.push(file);
        }
    }
    Ok(files)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Where the last `count` lines begin: in the last one of so many files, at this offset.
fn tail_start(newest_first: &[File], count: u64) -> io::Result<(usize, u64)> {
    let mut wanted = count;
    let mut block = vec![0; BLOCK_BYTES];
    for (index, file) in newest_first.iter().enumerate() {
        let mut end = file.metadata()?.len();
        while end > 0 {
            let length = end.min(BLOCK_BYTES as u64);
            let block = &mut block[..length as usize];
            file.read_exact_at(block, end - length)?;
            for at in (0..block.len()).rev().filter(|&at| block[at] == b'\n') {
                if wanted == 0 {
                    return Ok((index + 1, end - length + at as u64 + 1));
                }
                wanted -= 1;
            }
            end -= length;
        }
        if wanted == 0 {
            return Ok((index + 1, 0));
        }
    }
    Ok((newest_first.len(), 0))
}

fn parse(line: &[u8]) -> Option<Entry> {
    let Line { log, stream, time } = serde_json::from_slice(line).ok()?;
    let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|known| stream_name(*known) == stream)?;
    Some(Entry { stream, time: to_nanos(rfc3339::parse(&time)?), text: log })
}

impl Entry {
    /// When it came, as text.
    pub fn time_text(&self) -> String {
        rfc3339::format(from_nanos(self.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("wharf-log-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }

        fn writer(&self, max_size: Option<u64>, max_file: u32) -> LogWriter {
            LogWriter::open(&self.0, &LogConfig { none: false, max_size, max_file }).unwrap().unwrap()
        }

        fn texts(&self, query: LogQuery) -> Vec<String> {
            let mut texts = Vec::new();
            read::<io::Error>(&self.0, &query, &mut || false, &mut |entry| {
                texts.push(entry.text);
                Ok(true)
            })
            .unwrap();
            texts
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn write(writer: &mut LogWriter, numbers: std::ops::Range<u32>) {
        for number in numbers {
            writer
                .write(Stream::Stdout, from_nanos(i64::from(number)), format!("{number}\n").as_bytes())
                .unwrap();
        }
    }

    fn lines(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("{number}\n")).collect()
    }

    #[test]
    fn output_is_cut_into_lines_and_parts() {
        let check = |pushed: &[&[u8]], expected: &[&[u8]]| {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for bytes in pushed {
                lines.push(bytes, |line| found.push(line.to_vec()));
            }
            lines.end(|line| found.push(line.to_vec()));
            assert_eq!(found, expected);
        };
        check(&[b"a\nb", b"c\n\nd"], &[b"a\n", b"bc\n", b"\n", b"d"]);
        check(&[b""], &[]);
        let long = vec![b'x'; PART_BYTES_MAX];
        check(&[&long, b"\n"], &[&long, b"\n"]);
        check(&[&long, b"x\n"], &[&long, b"x\n"]);
        check(&[&long, &long, b"x"], &[&long, &long, b"x"]);
        // No character is cut.
        let mut text = long.clone();
        text.truncate(PART_BYTES_MAX - 1);
        let whole = [text.clone(), "ä\n".into()].concat();
        check(&[&whole], &[&text, "ä\n".as_bytes()]);
        // What are no characters is cut anywhere.
        let bytes = vec![0x80; PART_BYTES_MAX + 5];
        check(&[&bytes], &[&bytes[..PART_BYTES_MAX], &bytes[..5]]);
    }

    #[test]
    fn entries_have_dockers_form() {
        let log = Log::new("form");
        let mut writer = log.writer(None, 1);
        writer.write(Stream::Stderr, from_nanos(1_700_000_000_120_000_000), b"a\"\x1b\xff\n").unwrap();
        let text = fs::read_to_string(log.0.join(FILE)).unwrap();
        let expected = "{\"log\":\"a\\\"\\u001b\u{fffd}\\n\",\"stream\":\"stderr\",\"time\":\"2023-11-14T22:13:20.12Z\"}\n";
        assert_eq!(text, expected);
        assert!(
            LogWriter::open(&log.0, &LogConfig { none: true, ..LogConfig::default() }).unwrap().is_none()
        );
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let log = Log::new("query");
        assert_eq!(log.texts(LogQuery::default()), Vec::<String>::new(), "there is none yet");
        let check = |query: LogQuery, expected: std::ops::Range<u32>| {
            assert_eq!(log.texts(query.clone()), lines(expected), "{query:?}");
        };
        write(&mut log.writer(None, 1), 0..20_000);
        let all = LogQuery::default();
        check(all.clone(), 0..20_000);
        for tail in [0, 1, 3, 2_000, 19_999, 20_000, 20_001, u64::MAX] {
            check(LogQuery { tail: Some(tail), ..all.clone() }, 20_000 - tail.min(20_000) as u32..20_000);
        }
        check(LogQuery { since: Some(19_990), ..all.clone() }, 19_990..20_000);
        check(LogQuery { until: Some(10), ..all.clone() }, 0..11);
        check(LogQuery { since: Some(5), until: Some(6), ..all.clone() }, 5..7);
        check(LogQuery { tail: Some(5), since: Some(19_998), ..all.clone() }, 19_998..20_000);
        // What is no entry is passed over, however long it is; half a line is nobody's.
        let mut file = File::options().append(true).open(log.0.join(FILE)).unwrap();
        writeln!(file, "nonsense\n{}\n{{}}", "x".repeat(3 * LINE_BYTES_MAX)).unwrap();
        file.write_all(b"{\"log\":\"half").unwrap();
        check(all.clone(), 0..20_000);
        write(&mut log.writer(None, 1), 20_000..20_001);
        check(all, 0..20_001);
    }

    #[test]
    fn files_are_ended_and_the_oldest_ones_go() {
        let line = "{\"log\":\"0\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00.000000001Z\"}\n"
            .len() as u64;
        let check = |max_file: u32, count: u32, files: usize, first: u32| {
            let log = Log::new("rotation");
            let mut writer = log.writer(Some(2 * line - 10), max_file);
            for number in 0..count {
                // Another monitor goes on where the last one ended.
                if number == count / 2 {
                    writer = log.writer(Some(2 * line - 10), max_file);
                }
                writer.write(Stream::Stdout, from_nanos(1), format!("{}\n", number % 10).as_bytes()).unwrap();
            }
            let expected: Vec<_> = (first..count).map(|number| format!("{}\n", number % 10)).collect();
            assert_eq!(log.texts(LogQuery::default()), expected, "{max_file} {count}");
            assert_eq!(log.files(), files);
            for tail in 0..=count {
                let from = expected.len().saturating_sub(tail as usize);
                let query = LogQuery { tail: Some(u64::from(tail)), ..LogQuery::default() };
                assert_eq!(log.texts(query), expected[from..], "{max_file} {count} {tail}");
            }
        };
        check(1, 2, 1, 0);
        check(1, 3, 1, 2);
        check(1, 9, 1, 8);
        check(3, 2, 1, 0);
        check(3, 3, 2, 0);
        check(3, 6, 3, 0);
        check(3, 7, 3, 2);
        check(3, 30, 3, 24);
    }

    #[test]
    fn a_follower_misses_nothing_when_files_end() {
        for (max_file, max_size) in [(1, 1 << 20), (200, 2_000)] {
            let log = Log::new(&format!("follow-{max_file}"));
            let count = 2_000;
            let done = std::sync::atomic::AtomicBool::new(false);
            let found = std::thread::scope(|scope| {
                let follower = scope.spawn(|| {
                    let mut found = Vec::new();
                    let query = LogQuery { follow: true, ..LogQuery::default() };
                    let mut is_alive = || !done.load(std::sync::atomic::Ordering::SeqCst);
                    read::<io::Error>(&log.0, &query, &mut is_alive, &mut |entry| {
                        found.push(entry.text);
                        Ok(true)
                    })
                    .unwrap();
                    found
                });
                let mut writer = log.writer(Some(max_size), max_file);
                for number in 0..count {
                    write(&mut writer, number..number + 1);
                    if number % 100 == 0 {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                follower.join().unwrap()
            });
            let wrong = found.iter().zip(lines(0..count)).position(|(found, expected)| *found != expected);
            assert_eq!((found.len(), wrong), (count as usize, None), "{max_file}");
        }
    }

    #[test]
    fn a_loss_is_told() {
        let log = Log::new("loss");
        let mut writer = log.writer(None, 1);
        write(&mut writer, 0..1);
        let file =
            std::mem::replace(&mut writer.file, File::options().write(true).open("/dev/full").unwrap());
        assert!(writer.write(Stream::Stdout, from_nanos(2), b"12345").is_err());
        assert!(writer.write(Stream::Stdout, from_nanos(2), b"67").is_err());
        writer.file = file;
        write(&mut writer, 3..4);
        let told = "wharf: 7 bytes of output are missing here: they could not be written\n".to_owned();
        assert_eq!(log.texts(LogQuery::default()), ["0\n".to_owned(), told, "3\n".to_owned()]);
    }
}
