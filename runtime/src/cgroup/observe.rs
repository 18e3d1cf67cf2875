//! What a group counts, and its freezer.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Group, Part, parse_count};

/// What the processes of a group have taken; what its hierarchies do not count is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Option<Duration>,
    pub(crate) memory: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) pids: Option<u64>,
    pub(crate) pids_limit: Option<u64>,
    pub(crate) read: Option<u64>,
    pub(crate) written: Option<u64>,
}

/// How long processes may take to stop, and how often they are looked at.
const FREEZING_MAX: Duration = Duration::from_secs(10);
const FREEZING_PAUSE: Duration = Duration::from_millis(1);

/// A v1 group without a limit has the largest number of pages that there is.
const NO_LIMIT: u64 = 1 << 62;

impl Group {
    pub(crate) fn usage(&self) -> Usage {
        let count = |file, name| self.parts.iter().find_map(|part| part.number(file, name));
        let memory = count("memory.current", "").or_else(|| count("memory.usage_in_bytes", ""));
        let unused =
            count("memory.stat", "total_inactive_file").or_else(|| count("memory.stat", "inactive_file"));
        let limit = count("memory.max", "").or_else(|| count("memory.limit_in_bytes", ""));
        let cpu = count("cpu.stat", "usage_usec").map(Duration::from_micros);
        let (read, written) = self.parts.iter().find_map(Part::block_bytes).unzip();
        Usage {
            cpu: cpu.or_else(|| count("cpuacct.usage", "").map(Duration::from_nanos)),
            memory: memory.map(|memory| memory.saturating_sub(unused.unwrap_or(0))),
            memory_limit: limit.filter(|&limit| limit < NO_LIMIT),
            pids: count("pids.current", ""),
            pids_limit: count("pids.max", ""),
            read,
            written,
        }
    }

    /// Stops all processes. Says whether it has a freezer to do so.
    pub(crate) fn freeze(&self) -> io::Result<bool> {
        let Some(freezer) = self.freezer() else { return Ok(false) };
        freezer.set(true)?;
        let last = Instant::now() + FREEZING_MAX;
        while !freezer.is_done() {
            // Who has ended is let go, too.
            if !freezer.is_set() {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "it was let go on, or has ended, meanwhile",
                ));
            }
            if Instant::now() > last {
                freezer.set(false)?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a process waits for something that cannot be interrupted",
                ));
            }
            std::thread::sleep(FREEZING_PAUSE);
        }
        Ok(true)
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.freezer().map_or(Ok(()), |freezer| freezer.set(false))
    }

    /// Whether they are stopped or about to stop.
    pub(crate) fn is_frozen(&self) -> bool {
        self.freezer().is_some_and(|freezer| freezer.is_set())
    }

    /// Lets processes that have been killed end, which they do not while they are frozen in a v1 group; and others begin, which
    /// they do not in either.
    pub(crate) fn let_go(&self) {
        self.parts.iter().for_each(Part::let_go);
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        let mut parts = self.parts.iter().map(|part| part.path.as_path());
        let v2 = parts.clone().find(|path| path.join(V2_FREEZER).exists()).map(Freezer::V2);
        v2.or_else(|| parts.find(|path| path.join(V1_FREEZER).exists()).map(Freezer::V1))
    }
}

impl Part {
    pub(super) fn let_go(&self) {
        for freezer in [Freezer::V1(&self.path), Freezer::V2(&self.path)] {
            // What has no such file is not frozen.
            if freezer.is_set() {
                let _ = freezer.set(false);
            }
        }
    }

    /// Like [`Part::count`], but says whether there is such a number.
    fn number(&self, file: &str, name: &str) -> Option<u64> {
        parse_count(&fs::read_to_string(self.path.join(file)).ok()?, name)
    }

    /// Bytes read from and written to block devices.
    fn block_bytes(&self) -> Option<(u64, u64)> {
        if let Ok(text) = fs::read_to_string(self.path.join("io.stat")) {
            return Some(parse_io(&text));
        }
        let names = ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"];
        let text = names.iter().find_map(|name| fs::read_to_string(self.path.join(name)).ok())?;
        Some(parse_blkio(&text))
    }
}

const V1_FREEZER: &str = "freezer.state";
const V2_FREEZER: &str = "cgroup.freeze";

/// The freezer of a group, whose directory this is.
#[derive(Debug, Clone, Copy)]
enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Freezer<'_> {
    fn set(self, frozen: bool) -> io::Result<()> {
        match self {
            Self::V1(path) => fs::write(path.join(V1_FREEZER), if frozen { "FROZEN" } else { "THAWED" }),
            Self::V2(path) => fs::write(path.join(V2_FREEZER), if frozen { "1" } else { "0" }),
        }
    }

    fn is_set(self) -> bool {
        let (file, off) = match self {
            Self::V1(path) => (path.join(V1_FREEZER), "THAWED"),
            Self::V2(path) => (path.join(V2_FREEZER), "0"),
        };
        fs::read_to_string(file).is_ok_and(|state| state.trim() != off)
    }

    /// Whether all have stopped.
    fn is_done(self) -> bool {
        match self {
            // A process that was made meanwhile is told again by the next look.
            Self::V1(path) => {
                fs::read_to_string(path.join(V1_FREEZER)).is_ok_and(|state| state.trim() == "FROZEN")
            }
            Self::V2(path) => fs::read_to_string(path.join("cgroup.events"))
                .is_ok_and(|events| parse_count(&events, "frozen") == Some(1)),
        }
    }
}

/// Sums of lines `8:0 rbytes=1 wbytes=2 rios=3 …`.
fn parse_io(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let values = text.split_ascii_whitespace().filter_map(|field| field.strip_prefix(key));
        values.filter_map(|value| value.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Sums of lines `8:0 Read 1`.
fn parse_blkio(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let values = lines.filter_map(|line| match line[..] {
            [_, what, value] if what == key => value.parse::<u64>().ok(),
            _ => None,
        });
        values.fold(0, u64::saturating_add)
    };
    (sum("Read"), sum("Write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_block_devices_are_added_up() {
        for (text, expected) in [
            ("8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=9 wios=9\n", (11, 22)),
            ("8:0\n", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(parse_io(text), expected, "{text}");
        }
        let text = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\nTotal 31\n";
        assert_eq!(parse_blkio(text), (11, 20));
    }
}
