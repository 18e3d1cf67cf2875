//! Compressed streams: told by their first bytes, decoded in bounded memory.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::tar_reader::invalid;

/// The most bytes a layer or archive may unpack to. Nothing real is as large; a decompression bomb must end somewhere
/// even where the disk is larger.
pub(super) const UNPACKED_BYTES_MAX: u64 = 1 << 40;

/// What the decoder of an xz stream may allocate: `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not at all, or not in a way known here.
    Plain,
    /// RFC 1952.
    Gzip,
    /// As `bzip2` writes it.
    Bzip2,
    /// As `xz` writes it.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl Format {
    /// How many bytes are enough to tell.
    pub(super) const MAGIC_BYTES: usize = 6;

    /// Tells by the first bytes.
    pub(super) fn detect(start: &[u8]) -> Self {
        const ZSTD_MAGIC: u32 = 0xfd2f_b528;
        /// 16 numbers from this one on begin frames that carry no data (RFC 8878, 3.1.2).
        const ZSTD_SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
        let little_endian = start.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => match little_endian {
                Some(ZSTD_MAGIC) => Self::Zstd,
                Some(magic) if magic & !15 == ZSTD_SKIPPABLE_MAGIC => Self::Zstd,
                _ => Self::Plain,
            },
        }
    }

    /// What a layer's media type says (OCI image-spec, layer.md; Docker's `…rootfs.diff.tar.gzip`).
    pub(super) fn of_media_type(media_type: &str) -> Self {
        let suffix = media_type.rsplit(['+', '.']).next().unwrap_or_default();
        match suffix {
            "gzip" => Self::Gzip,
            "zstd" => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// What a layer's media type says, if its first bytes say the same.
    pub(super) fn announced(media_type: &str, start: &[u8]) -> io::Result<Self> {
        let format = Self::of_media_type(media_type);
        let found = Self::detect(start);
        // A plain tar begins with a file name, which may look like the other magics.
        let as_announced = match format {
            Self::Plain => !matches!(found, Self::Gzip | Self::Zstd),
            _ => found == format,
        };
        if as_announced {
            return Ok(format);
        }
        Err(invalid(format!("announced as `{media_type}`, found {found:?}")))
    }

    /// The decoded stream of `input`; concatenated streams count as one.
    pub(super) fn decoder<'a>(self, input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        const BUFFER_BYTES: usize = 128 * 1024;
        let input = io::BufReader::with_capacity(BUFFER_BYTES, input);
        let decoder: Box<dyn Read + 'a> = match self {
            Self::Plain => Box::new(input),
            Self::Gzip => Box::new(Gzip { member: Some(GzDecoder::new(input)) }),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Xz => {
                let concatenated = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, concatenated)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            // The library refuses windows over 128 MiB by itself.
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        };
        Ok(Box::new(Limited { inner: decoder, left: UNPACKED_BYTES_MAX }))
    }
}

/// The first bytes of a stream, and the whole stream again.
pub(super) fn peek<R: Read>(mut input: R) -> io::Result<(Vec<u8>, impl Read)> {
    let mut start = Vec::new();
    (&mut input).take(Format::MAGIC_BYTES as u64).read_to_end(&mut start)?;
    Ok((start.clone(), io::Cursor::new(start).chain(input)))
}

/// Gzip members one after the other; zeros after the last one, which tapes and block devices leave there, are no member.
struct Gzip<R> {
    /// The one that is being read; `None` at the end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            let Some(mut input) = self.member.take().map(GzDecoder::into_inner) else { break };
            if skip_zeros(&mut input)? {
                self.member = Some(GzDecoder::new(input));
            }
        }
        Ok(0)
    }
}

/// Whether something follows the zeros.
fn skip_zeros(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffered = input.fill_buf()?;
        let (all, zeros) = (buffered.len(), buffered.iter().take_while(|&&byte| byte == 0).count());
        input.consume(zeros);
        if all == 0 || zeros < all {
            return Ok(all > 0);
        }
    }
}

struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| invalid(format!("unpacks to more than {UNPACKED_BYTES_MAX} bytes")))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let cases = [
            ("application/vnd.oci.image.layer.v1.tar", Format::Plain),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Format::Gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Format::Zstd),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Format::Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Format::Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar", Format::Plain),
        ];
        for (media_type, format) in cases {
            assert_eq!(Format::of_media_type(media_type), format, "{media_type}");
        }
    }

    #[test]
    fn streams_are_told_by_content_and_may_be_concatenated() {
        use std::io::Write;
        let text = b"a little text, and a little text".repeat(100);
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = |bytes: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let xz = |bytes: &[u8]| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 1).unwrap();
        let plain = |bytes: &[u8]| bytes.to_vec();
        type Encode<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
        let cases: [(Encode<'_>, Format); 5] = [
            (&gzip, Format::Gzip),
            (&bzip2, Format::Bzip2),
            (&xz, Format::Xz),
            (&zstd, Format::Zstd),
            (&plain, Format::Plain),
        ];
        for (encode, format) in cases {
            let stream = [encode(&text[..1000]), encode(&text[1000..])].concat();
            let (start, stream) = peek(&stream[..]).unwrap();
            assert_eq!(Format::detect(&start), format);
            let mut decoded = Vec::new();
            format.decoder(stream).unwrap().read_to_end(&mut decoded).unwrap();
            assert_eq!(decoded, text, "{format:?}");
        }
    }
}
