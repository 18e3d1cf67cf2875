//! Extended attributes: those that records consist of are not there.

use std::os::fd::AsFd as _;

use rustix::io::Errno;

use super::{Emulation, Target};
use crate::supervisor::Answer;
use crate::supervisor::call::Call;
use crate::supervisor::paths;

/// The most that the kernel lists (`XATTR_LIST_MAX`).
const LIST_BYTES_MAX: usize = 64 << 10;

impl Emulation<'_> {
    /// `getxattr`, `removexattr` and their relations: the name is the second argument.
    pub(super) fn read_attribute(&self, call: &Call<'_>) -> Result<Answer, Errno> {
        if self.hides(call) { Err(Errno::NODATA) } else { Ok(Answer::Continue) }
    }

    /// `setxattr` and its relations.
    pub(super) fn set_attribute(&self, call: &Call<'_>) -> Result<Answer, Errno> {
        if self.hides(call) { Err(Errno::OPNOTSUPP) } else { Ok(Answer::Continue) }
    }

    fn hides(&self, call: &Call<'_>) -> bool {
        call.string(call.argument(1)).is_ok_and(|name| self.ownership.hides(name.to_bytes()))
    }

    /// `listxattr` and its relations.
    pub(super) fn list_attributes(&self, call: &Call<'_>, target: &Target) -> Result<Answer, Errno> {
        let Ok(file) = target.open(call) else { return Ok(Answer::Continue) };
        let mut list = vec![0; LIST_BYTES_MAX];
        let Ok(length) = rustix::fs::listxattr(paths::reopen_path(file.as_fd()), &mut list) else {
            return Ok(Answer::Continue);
        };
        let all = list.get(..length).unwrap_or_default();
        let shown: Vec<u8> = all
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !self.ownership.hides(name.strip_suffix(b"\0").unwrap_or(name)))
            .flatten()
            .copied()
            .collect();
        if shown.len() == all.len() {
            return Ok(Answer::Continue);
        }
        let room = call.argument(2);
        if room != 0 {
            if room < shown.len() as u64 {
                return Err(Errno::RANGE);
            }
            call.write(call.argument(1), &shown)?;
        }
        Ok(Answer::Value(shown.len() as i64))
    }
}
