//! Reading a tar that somebody else wrote: ustar, old V7, GNU (long names, base-256 numbers, sparse files) and PAX.
//!
//! A reader of our own, because extended attributes hold any bytes (a PAX value may hold newlines) and because what a
//! hostile header announces must not be allocated before it is checked.

use std::ffi::OsString;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;

use super::sparse;
use super::tar_header::{
    BLOCK_BYTES, CHECKSUM, DEVMAJOR, DEVMINOR, GID, LINKNAME, MAGIC, MODE, MTIME, NAME, PREFIX, SIZE,
    TYPEFLAG, TypeFlag, UID, XATTR_PREFIX, padding,
};
use crate::walk::Xattrs;

/// The longest PAX header or GNU long name that is read: Go's reader, which most layers were checked with, has the
/// same limit, and the kernel holds no more than 64 KiB of attributes a file.
const EXTENSION_BYTES_MAX: u64 = 1024 * 1024;

/// An entry of a tar. Nothing in it has been checked against anything but the format.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: TypeFlag,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Size of the file, holes included.
    pub(super) size: u64,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    pub(super) link: Vec<u8>,
    pub(super) rdev: (u32, u32),
    pub(super) xattrs: Xattrs,
    /// Where the bytes that follow belong, as ranges of the file; `None` when they are the whole file.
    pub(super) sparse: Option<Vec<Range<u64>>>,
}

/// Reads entries one after the other; as a [`Read`] it gives the bytes of the current one.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    inner: R,
    /// Bytes of the current entry that were not read yet.
    left: u64,
    /// Bytes between them and the next header.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if extensions.any {
                    return Err(invalid("the archive ends after a header that describes the next entry"));
                }
                return Ok(None);
            };
            match header[TYPEFLAG] {
                b'x' => extensions.pax = Some(Pax::parse(&self.extension(&header)?)?),
                b'L' => extensions.path = Some(without_nul(self.extension(&header)?)),
                b'K' => extensions.link = Some(without_nul(self.extension(&header)?)),
                // Global headers carry comments (git's commit, for example), volume headers a label.
                b'g' | b'V' => {
                    self.begin_data(number(&header[SIZE])?);
                    continue;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
            extensions.any = true;
        }
    }

    /// Reads what follows the end of the archive, at most `bytes_max` bytes, so that a stream that is checked at its end
    /// is checked.
    pub(super) fn finish(&mut self, bytes_max: u64) -> io::Result<()> {
        let mut rest = (&mut self.inner).take(bytes_max.saturating_add(1));
        if io::copy(&mut rest, &mut io::sink())? > bytes_max {
            return Err(invalid(format!("more than {bytes_max} bytes follow the end of the archive")));
        }
        Ok(())
    }

    fn entry(&mut self, header: &Block, extensions: Extensions) -> io::Result<Entry> {
        let mut pax = extensions.pax.unwrap_or_default();
        let stored = match pax.size {
            Some(size) => size,
            None => number(&header[SIZE])?,
        };
        let path = pax.path.take().or(extensions.path).unwrap_or_else(|| header_path(header));
        let link = pax.link.take().or(extensions.link).unwrap_or_else(|| text(&header[LINKNAME]).to_vec());
        let kind = match header[TYPEFLAG] {
            // A V7 tar marks directories by the slash alone.
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => TypeFlag::Dir,
            b'0' | b'\0' | b'7' | b'S' => TypeFlag::File,
            b'1' => TypeFlag::HardLink,
            b'2' => TypeFlag::Symlink,
            b'3' => TypeFlag::CharDevice,
            b'4' => TypeFlag::BlockDevice,
            b'5' => TypeFlag::Dir,
            b'6' => TypeFlag::Fifo,
            other => return Err(invalid(format!("unknown type {:?} of an entry", char::from(other)))),
        };
        // Some writers give directories and links the size of their target; no bytes follow.
        self.begin_data(if kind == TypeFlag::File { stored } else { 0 });
        let (sparse, size) = if header[TYPEFLAG] == b'S' {
            let (map, size) = self.gnu_sparse(header, stored)?;
            (Some(map), size)
        } else if kind == TypeFlag::File && pax.sparse.is_some() {
            let (map, size) = self.pax_sparse(&mut pax, stored)?;
            (Some(map), size)
        } else {
            (None, self.left)
        };
        Ok(Entry {
            path: pax.sparse.and_then(|sparse| sparse.name).unwrap_or(path),
            kind,
            mode: (number(&header[MODE])? & 0o7777) as u32,
            uid: id("uid", pax.uid.map_or_else(|| number(&header[UID]), Ok)?)?,
            gid: id("gid", pax.gid.map_or_else(|| number(&header[GID]), Ok)?)?,
            size,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (signed_number(&header[MTIME])?, 0),
            },
            link,
            rdev: match kind {
                TypeFlag::CharDevice | TypeFlag::BlockDevice => {
                    (id("major", number(&header[DEVMAJOR])?)?, id("minor", number(&header[DEVMINOR])?)?)
                }
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn gnu_sparse(&mut self, header: &Block, stored: u64) -> io::Result<(Vec<Range<u64>>, u64)> {
        let mut map = sparse::Map::default();
        map.gnu_block(&header[sparse::GNU_HEADER_MAP])?;
        let mut more = header[sparse::GNU_HEADER_EXTENDED] != 0;
        while more {
            let block = self.block()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            map.gnu_block(&block[sparse::GNU_BLOCK_MAP])?;
            more = block[sparse::GNU_BLOCK_EXTENDED] != 0;
        }
        let size = number(&header[sparse::GNU_HEADER_SIZE])?;
        Ok((map.finish(stored, size)?, size))
    }

    fn pax_sparse(&mut self, pax: &mut Pax, stored: u64) -> io::Result<(Vec<Range<u64>>, u64)> {
        let Some(sparse) = &mut pax.sparse else { return Ok((Vec::new(), stored)) };
        let size = sparse.size.ok_or_else(|| invalid("a sparse file without a size"))?;
        let mut map = std::mem::take(&mut sparse.map);
        if sparse.major == Some(1) {
            map = sparse::Map::read_in_front(self)?;
            let misaligned = (stored - self.left) % BLOCK_BYTES as u64;
            if misaligned != 0 {
                let mut rest = [0; BLOCK_BYTES];
                self.read_exact(&mut rest[misaligned as usize..])?;
            }
        }
        Ok((map.finish(self.left, size)?, size))
    }

    /// The whole data of an extension header.
    fn extension(&mut self, header: &Block) -> io::Result<Vec<u8>> {
        let size = number(&header[SIZE])?;
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid(format!(
                "an extended header of {size} bytes is larger than {EXTENSION_BYTES_MAX}"
            )));
        }
        self.begin_data(size);
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = padding(size) as u64;
    }

    /// Moves on to the next header.
    fn skip(&mut self) -> io::Result<()> {
        let left = std::mem::take(&mut self.left);
        if io::copy(&mut (&mut self.inner).take(left), &mut io::sink())? != left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Some writers leave out what comes after the last file's bytes.
        let padding = std::mem::take(&mut self.padding);
        io::copy(&mut (&mut self.inner).take(padding), &mut io::sink()).map(drop)
    }

    /// The next header; `None` at a block of zeros, or where the archive just stops.
    pub(super) fn header(&mut self) -> io::Result<Option<Block>> {
        let Some(header) = self.block()? else { return Ok(None) };
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let announced = number(&header[CHECKSUM])?;
        let counted = |index: usize| if CHECKSUM.contains(&index) { b' ' } else { header[index] };
        let unsigned: u64 = (0..BLOCK_BYTES).map(|index| u64::from(counted(index))).sum();
        // Some old writers summed signed characters.
        let signed: i64 = (0..BLOCK_BYTES).map(|index| i64::from(counted(index).cast_signed())).sum();
        if announced != unsigned && i64::try_from(announced) != Ok(signed) {
            return Err(invalid("not a tar header: wrong checksum"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> io::Result<Option<Block>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.left.min(buf.len() as u64) as usize;
        if len == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buf[..len])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

type Block = [u8; BLOCK_BYTES];

/// What the headers in front of an entry say about it.
#[derive(Default)]
struct Extensions {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Xattrs,
    sparse: Option<PaxSparse>,
}

#[derive(Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    map: sparse::Map,
}

impl Pax {
    /// `<length> <keyword>=<value>\n`, again and again; a later record of a keyword replaces an earlier one.
    fn parse(mut data: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        while !data.is_empty() {
            let record = || {
                let space = data.iter().position(|&byte| byte == b' ')?;
                let len: usize = str::from_utf8(&data[..space]).ok()?.parse().ok()?;
                let record = data.get(space + 1..len)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|&byte| byte == b'=')?;
                Some((len, &record[..equals], &record[equals + 1..]))
            };
            let (len, keyword, value) = record().ok_or_else(|| invalid("malformed PAX record"))?;
            pax.record(keyword, value)?;
            data = &data[len..];
        }
        Ok(pax)
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = keyword.strip_prefix(XATTR_PREFIX) {
            self.xattrs.retain(|(known, _)| known.as_encoded_bytes() != name);
            self.xattrs.push((OsString::from_vec(name.to_vec()), value.to_vec()));
            return Ok(());
        }
        if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
            let sparse = self.sparse.get_or_insert_default();
            match keyword {
                b"name" => sparse.name = Some(value.to_vec()),
                b"size" | b"realsize" => sparse.size = Some(sparse::decimal(value)?),
                b"major" => sparse.major = Some(sparse::decimal(value)?),
                b"offset" => sparse.map.offset(sparse::decimal(value)?)?,
                b"numbytes" => sparse.map.length(sparse::decimal(value)?)?,
                b"map" => sparse.map.pairs(value)?,
                _ => {}
            }
            return Ok(());
        }
        // An empty value takes an earlier one back.
        let given = (!value.is_empty()).then_some(value);
        match keyword {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = given.map(sparse::decimal).transpose()?,
            b"uid" => self.uid = given.map(sparse::decimal).transpose()?,
            b"gid" => self.gid = given.map(sparse::decimal).transpose()?,
            b"mtime" => self.mtime = given.map(time).transpose()?,
            _ => {}
        }
        Ok(())
    }
}

/// Seconds with decimals, of which nine count.
fn time(value: &[u8]) -> io::Result<(i64, u32)> {
    let parse = || {
        let text = str::from_utf8(value).ok()?;
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || seconds < 0 {
            return None;
        }
        let nanoseconds: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
        Some(match (negative, nanoseconds) {
            (false, _) => (seconds, nanoseconds),
            (true, 0) => (-seconds, 0),
            (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
        })
    };
    parse().ok_or_else(|| invalid("malformed PAX time"))
}

fn header_path(header: &Block) -> Vec<u8> {
    let name = text(&header[NAME]);
    // GNU's own format has times where POSIX has the prefix.
    let prefix = if header[MAGIC].starts_with(b"ustar\0") { text(&header[PREFIX]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A field up to its NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(text(&name).len());
    name
}

/// A number field: octal digits, or base-256 when the first bit is set. An empty field is zero.
pub(super) fn number(field: &[u8]) -> io::Result<u64> {
    u64::try_from(signed_number(field)?).map_err(|_| invalid("a negative number in a tar header"))
}

fn signed_number(field: &[u8]) -> io::Result<i64> {
    let malformed = || invalid("malformed number in a tar header");
    if let Some((&first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // Two's complement; the topmost bit is the mark, the next one the sign.
        let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
        let value = rest
            .iter()
            .try_fold(start, |value, &byte| value.checked_mul(256).map(|value| value + i128::from(byte)));
        return value.and_then(|value| i64::try_from(value).ok()).ok_or_else(malformed);
    }
    let text = str::from_utf8(text(field)).map_err(|_| malformed())?;
    match text.trim_matches(' ') {
        "" => Ok(0),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            i64::from_str_radix(digits, 8).map_err(|_| malformed())
        }
        _ => Err(malformed()),
    }
}

/// Numbers that Linux keeps in 32 bits; the largest means "none" to it.
fn id(what: &str, number: u64) -> io::Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(invalid(format!("{what} {number} is too large"))),
    }
}

pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::tar_header::Header;

    fn header() -> Header<'static> {
        Header {
            path: b"a",
            kind: TypeFlag::File,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 0,
            mtime: (3, 0),
            link: b"",
            rdev: (0, 0),
            xattrs: &[],
        }
    }

    #[test]
    fn an_archive_may_end_with_its_last_byte() {
        let mut tar = Vec::new();
        Header { size: 3, ..header() }.encode(&mut tar);
        tar.extend(b"abc");
        let entries = |tar: &[u8]| {
            let mut reader = TarReader::new(tar);
            let mut count = 0;
            while reader.next()?.is_some() {
                count += 1;
            }
            io::Result::Ok(count)
        };
        assert_eq!(entries(&tar).unwrap(), 1);
        assert!(entries(&tar[..tar.len() - 1]).is_err());
    }

    /// Writes one header and reads it again.
    #[track_caller]
    fn check(header: &Header<'_>) {
        let mut tar = Vec::new();
        header.encode(&mut tar);
        let read = TarReader::new(&tar[..]).next().unwrap().unwrap();
        assert_eq!(read.path, header.path);
        assert_eq!(read.link, header.link);
        assert_eq!(
            (read.kind, read.mode, read.uid, read.gid, read.size, read.mtime, read.rdev),
            (header.kind, header.mode, header.uid, header.gid, header.size, header.mtime, header.rdev)
        );
        assert_eq!(read.xattrs, header.xattrs);
    }

    #[test]
    fn headers_survive() {
        let long = "directory/".repeat(100) + "file";
        let xattrs = [("security.capability".into(), b"\x01\n\x00=\n".to_vec())];
        check(&header());
        check(&Header { path: long.as_bytes(), link: long.as_bytes(), kind: TypeFlag::Symlink, ..header() });
        check(&Header { path: b"\xff/", kind: TypeFlag::Dir, mtime: (-5, 999_999_999), ..header() });
        check(&Header { uid: u32::MAX - 1, gid: 4_000_000, size: 1 << 40, xattrs: &xattrs, ..header() });
        check(&Header {
            kind: TypeFlag::CharDevice,
            rdev: (4095, 1_048_575),
            mtime: (1 << 40, 1),
            ..header()
        });
    }

    #[test]
    fn base_256_numbers() {
        let cases: [(&[u8], i64); 5] = [
            (b"\x80\x00\x00\x00\x00\x00\x01\x00", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"0000644\0", 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0", 0),
        ];
        for (field, value) in cases {
            assert_eq!(signed_number(field).unwrap(), value);
        }
        for field in [&b"12a"[..], b"8", b"-1", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert!(signed_number(field).is_err(), "{field:?}");
        }
    }

    #[test]
    fn broken_archives_are_errors() {
        let mut tar = Vec::new();
        Header { size: 600, ..header() }.encode(&mut tar);
        let read = |tar: &[u8]| {
            let mut reader = TarReader::new(tar);
            while reader.next()?.is_some() {}
            Ok::<_, io::Error>(())
        };
        assert!(read(&tar).is_err());
        tar.resize(512 + 1024, 7);
        assert!(read(&tar).is_ok());
        assert!(read(&tar[..1100]).is_err());
        assert!(read(&tar[..100]).is_err());
        tar[0] = b'b';
        assert!(read(&tar).is_err());
        for records in ["5 a=b", "x a=b\n", "99 a=b\n", "6 a=b\n5 a\n", "12 mtime=x\n", "0 a=b\n", "3 a=b\n"]
        {
            assert!(Pax::parse(records.as_bytes()).is_err(), "{records:?}");
        }
    }

    #[test]
    fn huge_extensions_are_refused_unread() {
        let mut tar = Vec::new();
        Header { size: 1 << 40, ..header() }.encode(&mut tar);
        let mut block: Block = tar[tar.len() - BLOCK_BYTES..].try_into().unwrap();
        for kind in [b'x', b'L', b'K'] {
            block[TYPEFLAG] = kind;
            // 2^30 bytes, and a checksum that fits.
            block[SIZE].copy_from_slice(b"10000000000\0");
            block[CHECKSUM].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[CHECKSUM][..7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            let error = TarReader::new(&block[..]).next().unwrap_err();
            assert!(error.to_string().contains("larger than"), "{error}");
        }
    }
}
