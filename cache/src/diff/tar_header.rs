//! The headers of a tar entry, one function for every layer and archive that is written: POSIX ustar, with a PAX
//! header in front only where ustar cannot say it (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header
//! Block"). Nothing in them depends on where or when they are written: no user names, no process ids, no access or
//! change times.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// The unit of a tar: headers are one block, contents are padded to whole blocks.
pub(super) const BLOCK_BYTES: usize = 512;

/// What kind of entry a header announces (the ustar `typeflag`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeFlag {
    File = b'0' as isize,
    HardLink = b'1' as isize,
    Symlink = b'2' as isize,
    CharDevice = b'3' as isize,
    BlockDevice = b'4' as isize,
    Dir = b'5' as isize,
    Fifo = b'6' as isize,
}

/// An entry as its headers tell it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    /// Relative path; a directory's ends in `/`.
    pub(super) path: &'a [u8],
    pub(super) kind: TypeFlag,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes that follow the header; 0 for all but files.
    pub(super) size: u64,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    /// Target of a symlink or hard link.
    pub(super) link: &'a [u8],
    /// Major and minor number of a device.
    pub(super) rdev: (u32, u32),
    pub(super) xattrs: &'a [(OsString, Vec<u8>)],
}

impl Header<'_> {
    /// Appends the header blocks to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let records = self.pax_records();
        if !records.is_empty() {
            let mut fields = [0; BLOCK_BYTES];
            fields[NAME].copy_from_slice(&padded::<100>(PAX_NAME));
            put_number(&mut fields[MODE], 0o644);
            put_number(&mut fields[UID], 0);
            put_number(&mut fields[GID], 0);
            put_number(&mut fields[SIZE], records.len() as u64);
            put_number(&mut fields[MTIME], 0);
            fields[TYPEFLAG] = b'x';
            out.extend(sealed(fields));
            out.extend(&records);
            pad(out, records.len() as u64);
        }
        out.extend(self.ustar());
    }

    fn ustar(&self) -> [u8; BLOCK_BYTES] {
        let mut fields = [0; BLOCK_BYTES];
        // Where PAX says the whole, the short field holds what fits, for readers that know no PAX.
        let (prefix, name) = split_path(self.path).unwrap_or((b"", self.path));
        fields[NAME].copy_from_slice(&padded::<100>(name));
        fields[PREFIX].copy_from_slice(&padded::<155>(prefix));
        fields[LINKNAME].copy_from_slice(&padded::<100>(self.link));
        put_number(&mut fields[MODE], u64::from(self.mode));
        put_number(&mut fields[UID], fitting(u64::from(self.uid), SHORT_NUMBER_MAX));
        put_number(&mut fields[GID], fitting(u64::from(self.gid), SHORT_NUMBER_MAX));
        put_number(&mut fields[SIZE], fitting(self.size, LONG_NUMBER_MAX));
        let mtime_s = u64::try_from(self.mtime.0).unwrap_or(0);
        put_number(&mut fields[MTIME], fitting(mtime_s, LONG_NUMBER_MAX));
        if matches!(self.kind, TypeFlag::CharDevice | TypeFlag::BlockDevice) {
            // Linux has 12 bits of major and 20 bits of minor number: they always fit.
            put_number(&mut fields[DEVMAJOR], fitting(u64::from(self.rdev.0), SHORT_NUMBER_MAX));
            put_number(&mut fields[DEVMINOR], fitting(u64::from(self.rdev.1), SHORT_NUMBER_MAX));
        }
        fields[TYPEFLAG] = self.kind as u8;
        sealed(fields)
    }

    /// What ustar cannot say, sorted by keyword.
    fn pax_records(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut add = |keyword: &[u8], value: &[u8]| records.push((keyword.to_vec(), value.to_vec()));
        for (name, value) in self.xattrs {
            // PAX has no way to write `=` in a keyword; such an attribute cannot travel in a tar.
            if !name.as_bytes().contains(&b'=') {
                add(&[XATTR_PREFIX, name.as_bytes()].concat(), value);
            }
        }
        if u64::from(self.gid) > SHORT_NUMBER_MAX {
            add(b"gid", self.gid.to_string().as_bytes());
        }
        let long_path = split_path(self.path).is_none();
        let long_link = self.link.len() > 100 || !self.link.is_ascii();
        if (long_path && str::from_utf8(self.path).is_err())
            || (long_link && str::from_utf8(self.link).is_err())
        {
            // Without it the values would have to be UTF-8.
            add(b"hdrcharset", b"BINARY");
        }
        if long_link {
            add(b"linkpath", self.link);
        }
        let (mtime_s, mtime_ns) = self.mtime;
        if mtime_ns != 0 || u64::try_from(mtime_s).map_or(true, |seconds| seconds > LONG_NUMBER_MAX) {
            add(b"mtime", decimal_time(mtime_s, mtime_ns).as_bytes());
        }
        if long_path {
            add(b"path", self.path);
        }
        if self.size > LONG_NUMBER_MAX {
            add(b"size", self.size.to_string().as_bytes());
        }
        if u64::from(self.uid) > SHORT_NUMBER_MAX {
            add(b"uid", self.uid.to_string().as_bytes());
        }
        records.sort_unstable();
        records.iter().flat_map(|(keyword, value)| pax_record(keyword, value)).collect()
    }
}

/// Appends the zero bytes that fill the last block of contents of `size` bytes.
pub(super) fn pad(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size), 0);
}

/// How many bytes fill the last block of contents of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    let past = (size % BLOCK_BYTES as u64) as usize;
    if past == 0 { 0 } else { BLOCK_BYTES - past }
}

/// What precedes an extended attribute's name in its PAX keyword.
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Name of every PAX header entry, as Python's tarfile writes it too.
const PAX_NAME: &[u8] = b"././@PaxHeader";

use std::ops::Range;
pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPEFLAG: usize = 156;
pub(super) const LINKNAME: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const DEVMAJOR: Range<usize> = 329..337;
pub(super) const DEVMINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;

/// The largest numbers that 7 and 11 octal digits can say.
const SHORT_NUMBER_MAX: u64 = 0o7_777_777;
const LONG_NUMBER_MAX: u64 = 0o77_777_777_777;

/// A path that ustar can say, as its `prefix` and `name` fields: the two are joined by a `/` that is in neither.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME.len() {
        return Some((b"", path));
    }
    // The leftmost `/` that leaves a short enough name gives the shortest prefix. The last byte does not count: it
    // is the mark of a directory, and an empty name would be one.
    let from = path.len() - NAME.len() - 1;
    let slash = from + path[from..path.len() - 1].iter().position(|&byte| byte == b'/')?;
    (slash > 0 && slash <= PREFIX.len()).then(|| (&path[..slash], &path[slash + 1..]))
}

fn fitting(number: u64, max: u64) -> u64 {
    if number <= max { number } else { 0 }
}

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let len = text.len().min(N);
    field[..len].copy_from_slice(&text[..len]);
    field
}

/// Octal digits, zero-filled, with the NUL that ends them.
fn put_number(field: &mut [u8], mut number: u64) {
    let last = field.len() - 1;
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
}

/// Adds what every header has: magic, version, checksum.
fn sealed(mut fields: [u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
    fields[MAGIC].copy_from_slice(b"ustar\x0000");
    for number in [DEVMAJOR, DEVMINOR] {
        if fields[number.clone()].iter().all(|&byte| byte == 0) {
            put_number(&mut fields[number], 0);
        }
    }
    // The sum is taken with its own field full of spaces; 512 × 255 fits six digits.
    fields[CHECKSUM].fill(b' ');
    let sum = fields.iter().map(|&byte| u64::from(byte)).sum();
    put_number(&mut fields[CHECKSUM.start..CHECKSUM.end - 1], sum);
    fields
}

/// `<length> <keyword>=<value>\n`, where the length counts itself.
fn pax_record(keyword: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", keyword, b"=", value, b"\n"].concat()
}

/// Seconds with as many decimals as are needed.
fn decimal_time(seconds: i64, nanoseconds: u32) -> String {
    // Nanoseconds count forward also from a negative second.
    let (sign, whole, fraction) = match seconds {
        0.. => ("", seconds.unsigned_abs(), nanoseconds),
        _ if nanoseconds == 0 => ("-", seconds.unsigned_abs(), 0),
        _ => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{}", format!("{fraction:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Header<'_> = Header {
        path: b"a",
        kind: TypeFlag::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (0, 0),
        link: b"",
        rdev: (0, 0),
        xattrs: &[],
    };

    /// Checks which PAX records a header needs.
    #[track_caller]
    fn check(header: &Header<'_>, records: &str) {
        assert_eq!(String::from_utf8_lossy(&header.pax_records()), records);
        let mut out = Vec::new();
        header.encode(&mut out);
        let blocks = if records.is_empty() { 1 } else { 2 + records.len().div_ceil(BLOCK_BYTES) };
        assert_eq!(out.len(), blocks * BLOCK_BYTES);
    }

    #[test]
    fn pax_only_where_ustar_is_too_small() {
        let name100 = "n".repeat(100);
        let name101 = "n".repeat(101);
        let split = format!("{}/{}", "p".repeat(155), name100);
        let unsplit = format!("{}/{}", "p".repeat(156), name100);
        let dir = format!("{}/{}/", "p".repeat(20), "n".repeat(99));
        check(&PLAIN, "");
        check(&Header { path: name100.as_bytes(), ..PLAIN }, "");
        check(&Header { path: split.as_bytes(), ..PLAIN }, "");
        check(&Header { path: dir.as_bytes(), ..PLAIN }, "");
        check(&Header { path: name101.as_bytes(), ..PLAIN }, &format!("111 path={name101}\n"));
        check(&Header { path: unsplit.as_bytes(), ..PLAIN }, &format!("267 path={unsplit}\n"));
        check(&Header { path: "é".as_bytes(), ..PLAIN }, "11 path=é\n");
        check(&Header { link: name101.as_bytes(), ..PLAIN }, &format!("115 linkpath={name101}\n"));
        check(&Header { uid: 2_097_151, gid: 2_097_152, ..PLAIN }, "15 gid=2097152\n");
        check(&Header { size: 0o77_777_777_777, ..PLAIN }, "");
        check(&Header { size: 0o100_000_000_000, ..PLAIN }, "19 size=8589934592\n");
        check(&Header { mtime: (1, 500_000_000), ..PLAIN }, "13 mtime=1.5\n");
        check(&Header { mtime: (-1, 500_000_000), ..PLAIN }, "14 mtime=-0.5\n");
        check(&Header { mtime: (-2, 0), ..PLAIN }, "12 mtime=-2\n");
        let xattrs = [("user.a".into(), b"1\n2".to_vec()), ("user.b=c".into(), b"".to_vec())];
        check(&Header { xattrs: &xattrs, ..PLAIN }, "27 SCHILY.xattr.user.a=1\n2\n");
    }

    #[test]
    fn names_that_are_not_utf8_are_announced() {
        let records = Header { path: b"\xff", ..PLAIN }.pax_records();
        assert_eq!(records, b"21 hdrcharset=BINARY\n9 path=\xff\n");
    }

    #[test]
    fn record_length_counts_itself() {
        for len in 0..2000 {
            let record = pax_record(b"path", &vec![b'x'; len]);
            let text = String::from_utf8(record.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), record.len());
        }
    }
}
