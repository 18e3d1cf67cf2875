//! Maps of sparse files in the tars of others (GNU tar manual, "Storing Sparse Files"): in the header and blocks behind
//! it (old GNU), in PAX records (0.0 and 0.1), or in front of the data (1.0).

use std::io::{self, Read};
use std::ops::Range;

use super::tar_reader::{invalid, number};

/// The most ranges a file may have: what a file of a terabyte in pieces of a megabyte needs.
const RANGES_MAX: usize = 1 << 20;

pub(super) const GNU_HEADER_MAP: Range<usize> = 386..482;
pub(super) const GNU_HEADER_EXTENDED: usize = 482;
pub(super) const GNU_HEADER_SIZE: Range<usize> = 483..495;
pub(super) const GNU_BLOCK_MAP: Range<usize> = 0..504;
pub(super) const GNU_BLOCK_EXTENDED: usize = 504;

/// The numbers of a map as they arrive: offset and length in turn.
#[derive(Debug, Default)]
pub(super) struct Map(Vec<u64>);

impl Map {
    /// Pairs of 12-digit numbers; the first empty one ends them.
    pub(super) fn gnu_block(&mut self, fields: &[u8]) -> io::Result<()> {
        for pair in fields.chunks_exact(24) {
            if pair[0] == 0 {
                break;
            }
            self.push(number(&pair[..12])?)?;
            self.push(number(&pair[12..])?)?;
        }
        Ok(())
    }

    pub(super) fn offset(&mut self, offset: u64) -> io::Result<()> {
        if !self.0.len().is_multiple_of(2) {
            return Err(invalid("malformed sparse map"));
        }
        self.push(offset)
    }

    pub(super) fn length(&mut self, length: u64) -> io::Result<()> {
        if self.0.len().is_multiple_of(2) {
            return Err(invalid("malformed sparse map"));
        }
        self.push(length)
    }

    /// All numbers in one text, with commas between.
    pub(super) fn pairs(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.clear();
        for digits in text.split(|&byte| byte == b',').filter(|digits| !digits.is_empty()) {
            self.push(decimal(digits)?)?;
        }
        Ok(())
    }

    /// The number of ranges and the ranges, a number a line.
    pub(super) fn read_in_front(data: &mut impl Read) -> io::Result<Self> {
        let ranges = read_line(data)?;
        if ranges > RANGES_MAX as u64 {
            return Err(invalid(format!("a sparse file of {ranges} ranges, more than {RANGES_MAX}")));
        }
        let mut map = Self::default();
        for _ in 0..2 * ranges {
            map.push(read_line(data)?)?;
        }
        Ok(map)
    }

    /// The ranges, which have to come in order, add up to `stored` bytes and lie within `size`.
    pub(super) fn finish(self, stored: u64, size: u64) -> io::Result<Vec<Range<u64>>> {
        let (mut total, mut last_end) = (0_u64, 0);
        let mut ranges = Vec::new();
        let malformed = || invalid("malformed sparse map");
        for pair in self.0.chunks(2) {
            let &[offset, length] = pair else { return Err(malformed()) };
            let end = offset.checked_add(length).ok_or_else(malformed)?;
            if offset < last_end || end > size {
                return Err(malformed());
            }
            last_end = end;
            total += length;
            ranges.push(offset..end);
        }
        if total == stored { Ok(ranges) } else { Err(malformed()) }
    }

    fn push(&mut self, number: u64) -> io::Result<()> {
        if self.0.len() >= 2 * RANGES_MAX {
            return Err(invalid(format!("a sparse file of more than {RANGES_MAX} ranges")));
        }
        self.0.push(number);
        Ok(())
    }
}

/// A number of decimal digits.
pub(super) fn decimal(digits: &[u8]) -> io::Result<u64> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(digits).ok().filter(|_| all_digits);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("malformed number in a PAX header"))
}

fn read_line(data: &mut impl Read) -> io::Result<u64> {
    /// u64::MAX has 20 digits.
    const DIGITS_MAX: usize = 20;
    let mut digits = Vec::new();
    loop {
        let mut byte = [0];
        data.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return decimal(&digits),
            digit if digits.len() < DIGITS_MAX => digits.push(digit),
            _ => return Err(invalid("malformed sparse map")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let check = |numbers: &[u64], stored, size| Map(numbers.to_vec()).finish(stored, size).ok();
        assert_eq!(check(&[0, 5, 10, 5], 10, 20), Some(vec![0..5, 10..15]));
        assert_eq!(check(&[0, 5, 20, 0], 5, 20), Some(vec![0..5, 20..20]));
        assert_eq!(check(&[], 0, 20), Some(vec![]));
        assert_eq!(check(&[0, 5, 4, 5], 10, 20), None);
        assert_eq!(check(&[0, 5], 6, 20), None);
        assert_eq!(check(&[0, 25], 25, 20), None);
        assert_eq!(check(&[u64::MAX, 1], 1, 20), None);
        assert_eq!(check(&[1], 0, 20), None);
    }
}
