//! What the child tells the parent: records of fixed size over a pipe.

use std::os::fd::RawFd;

use crate::sys;

/// Something that happened in the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// PID 1 could not be set up.
    Init { errno: i32 },
    /// Step `index` of the setup failed.
    Setup { index: u32, errno: i32 },
    /// PID 1 could not make the command's process.
    Fork { errno: i32 },
    /// Step `index` of the launch failed.
    Launch { index: u32, errno: i32 },
    /// The command could not be executed.
    Exec { errno: i32 },
    /// The command is being executed.
    Running,
    /// The command ended; its wait status.
    Ended { status: i32 },
}

/// Size of a record; below `PIPE_BUF`, so that records are written whole.
pub(super) const REPORT_SIZE: usize = 12;

impl Report {
    /// Writes the record. There is nowhere to tell of a failure.
    pub(super) fn send(self, fd: RawFd) {
        let _ = sys::write(fd, &self.encode());
    }

    fn encode(self) -> [u8; REPORT_SIZE] {
        let (kind, index, value) = match self {
            Self::Init { errno } => (0, 0, errno),
            Self::Setup { index, errno } => (1, index, errno),
            Self::Fork { errno } => (2, 0, errno),
            Self::Launch { index, errno } => (3, index, errno),
            Self::Exec { errno } => (4, 0, errno),
            Self::Ended { status } => (5, 0, status),
            Self::Running => (6, 0, 0),
        };
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
            (u32::to_ne_bytes(kind), index.to_ne_bytes(), value.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads a record; none when it is not one.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
        };
        let (kind, index, value) = (word(0)?, word(4)?, word(8)?.cast_signed());
        Some(match kind {
            0 => Self::Init { errno: value },
            1 => Self::Setup { index, errno: value },
            2 => Self::Fork { errno: value },
            3 => Self::Launch { index, errno: value },
            4 => Self::Exec { errno: value },
            5 => Self::Ended { status: value },
            6 => Self::Running,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for report in [
            Report::Init { errno: 1 },
            Report::Setup { index: 70000, errno: 2 },
            Report::Fork { errno: 11 },
            Report::Launch { index: 3, errno: 13 },
            Report::Exec { errno: 2 },
            Report::Running,
            Report::Ended { status: 0x700 },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; 11]), None);
        assert_eq!(Report::decode(&[9; 12]), None);
    }
}
