//! The blob store against wrong digests, dropped writers and full disks.

use super::*;
use crate::Damage;
use crate::store::test_root::TestRoot;

/// Gives one byte at a time, as a slow connection does.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (byte, rest) = self.0.split_at(self.0.len().min(1));
        self.0 = rest;
        buf[..byte.len()].copy_from_slice(byte);
        Ok(byte.len())
    }
}

#[test]
fn reading_verifies() {
    #[track_caller]
    fn check(bytes: &[u8], expected: &[u8], error: Option<&str>) {
        let (digest, size) = (Digest::of(expected), expected.len() as u64);
        for slow in [false, true] {
            let mut read = Vec::new();
            let result = if slow {
                VerifyingReader::new(Slow(bytes), digest, size).read_to_end(&mut read)
            } else {
                VerifyingReader::new(bytes, digest, size).read_to_end(&mut read)
            };
            match error {
                None => assert_eq!((result.unwrap(), &read[..]), (bytes.len(), bytes)),
                Some(text) => {
                    let error = result.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert!(error.to_string().contains(text), "{error}");
                    assert!(read.len() <= expected.len());
                }
            }
        }
    }
    check(b"", b"", None);
    check(b"hello", b"hello", None);
    check(b"hellO", b"hello", Some("content has digest sha256:"));
    check(b"hell", b"hello", Some("4 bytes, expected"));
    check(b"", b"hello", Some("0 bytes, expected"));
    check(b"hello!", b"hello", Some("is longer than 5 bytes"));
    check(b"!", b"", Some("is longer than 0 bytes"));
}

#[test]
fn the_last_bytes_of_wrong_content_do_not_come_out() {
    let mut reader = VerifyingReader::new(&b"hellO"[..], Digest::of(b"hello"), 5);
    let mut buf = [0; 5];
    assert_eq!(reader.read(&mut buf[..4]).unwrap(), 4);
    reader.read(&mut buf[4..]).unwrap_err();
}

#[test]
fn a_blob_is_visible_only_when_it_is_committed() {
    let root = TestRoot::new();
    let store = root.open();
    let (digest, blobs) = (Digest::of(b"hello"), store.blobs());
    assert!(matches!(blobs.open(&digest), Err(ContentError::NotFound { .. })));

    let mut dropped = blobs.writer().unwrap();
    dropped.write_all(b"hello").unwrap();
    drop(dropped);
    let mut wrong = blobs.writer().unwrap();
    wrong.write_all(b"hello").unwrap();
    let error = wrong.commit_expecting(&Digest::of(b"other"), 5).unwrap_err();
    assert!(matches!(error, ContentError::Mismatch { actual, actual_size: 5, .. } if actual == digest));
    let mut short = blobs.writer().unwrap();
    short.write_all(b"hello").unwrap();
    short.commit_expecting(&digest, 6).unwrap_err();
    assert_eq!(blobs.size(&digest).unwrap(), None);
    assert_eq!(std::fs::read_dir(store.process().path()).unwrap().count(), 0);

    let (mut first, mut second) = (blobs.writer().unwrap(), blobs.writer().unwrap());
    first.write_all(b"hello").unwrap();
    second.write_all(b"hello").unwrap();
    assert_eq!(first.commit().unwrap(), (digest, 5));
    second.commit_expecting(&digest, 5).unwrap();
    assert_eq!(blobs.put(b"hello").unwrap(), digest);
    assert_eq!(blobs.size(&digest).unwrap(), Some(5));
    assert_eq!(blobs.read(&digest, 5).unwrap(), b"hello");
    assert!(matches!(blobs.read(&digest, 4), Err(ContentError::TooLarge { size: 5, max: 4, .. })));
    assert_eq!(blobs.list().unwrap(), [digest]);
    assert_eq!(root.names("blobs/sha256"), [digest.hex()]);
}

#[test]
fn a_damaged_blob_is_noticed_and_can_be_written_again() {
    let root = TestRoot::new();
    // Who has written it knows it, and looks no more.
    let digest = root.open().blobs().put(b"hello").unwrap();
    let store = root.open();
    std::fs::write(root.path().join("blobs/sha256").join(digest.hex()), "hellO").unwrap();
    let error = store.blobs().read(&digest, 5).unwrap_err();
    let ContentError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::InvalidData);
    assert_eq!(store.take_damages(), [Damage::Blobs(vec![digest])]);
    let mut writer = store.blobs().writer().unwrap();
    writer.write_all(b"hello").unwrap();
    writer.commit().unwrap();
    assert_eq!(store.blobs().read(&digest, 5).unwrap(), b"hello");
}

#[test]
fn a_damaged_blob_is_deleted_however_it_is_opened() {
    type Open = dyn Fn(&Blobs, &Digest) -> Result<(), ContentError>;
    let ways: [(&str, &Open); 4] = [
        ("read", &|blobs, digest| blobs.read(digest, 100).map(drop)),
        ("read a little", &|blobs, digest| blobs.read(digest, 1).map(drop)),
        ("open", &|blobs, digest| {
            let read = io::copy(&mut blobs.open(digest)?, &mut io::sink());
            read.map(drop).map_err(|error| io_error("read", digest, error))
        }),
        ("open expecting its size", &|blobs, digest| {
            let read = io::copy(&mut blobs.open_expecting(digest, 5)?, &mut io::sink());
            read.map(drop).map_err(|error| io_error("read", digest, error))
        }),
    ];
    for damaged in ["hellO", "hell", "", "hello ", "hellohello"] {
        for (way, open) in ways {
            if (way, damaged.len()) == ("read a little", 0) {
                continue;
            }
            let root = TestRoot::new();
            let digest = root.open().blobs().put(b"hello").unwrap();
            let store = root.open();
            std::fs::write(root.path().join("blobs/sha256").join(digest.hex()), damaged).unwrap();
            let error = open(store.blobs(), &digest).unwrap_err();
            assert!(error.is_lost(), "{way} {damaged:?}: {error:?}");
            assert_eq!(root.names("blobs/sha256"), [""; 0], "{way} {damaged:?}");
            assert_eq!(store.take_damages(), [Damage::Blobs(vec![digest])], "{way} {damaged:?}");
        }
    }
}

#[test]
fn a_wrong_descriptor_is_no_damage() {
    let root = TestRoot::new();
    let store = root.open();
    let digest = store.blobs().put(b"hello").unwrap();
    for size in [0, 4, 6, u64::MAX] {
        let error = store.blobs().open_expecting(&digest, size).unwrap_err();
        assert!(matches!(error, ContentError::Mismatch { actual_size: 5, .. }), "{error}");
    }
    assert!(matches!(store.blobs().read(&digest, 4), Err(ContentError::TooLarge { .. })));
    assert_eq!(store.take_damages(), []);
    assert_eq!(store.blobs().read(&digest, 5).unwrap(), b"hello");
}

#[test]
fn deleting_asks_when_the_blob_was_written() {
    let root = TestRoot::new();
    let store = root.open();
    let before = SystemTime::now();
    let digest = store.blobs().put(b"hello").unwrap();
    assert_eq!(store.blobs().set_aside_unless(&digest, |written| written >= before).unwrap(), None);
    assert!(store.blobs().size(&digest).unwrap().is_some());

    // Somebody puts it again between the two looks at the time.
    let looks = std::cell::Cell::new(0);
    let put_meanwhile = |_| {
        looks.set(looks.get() + 1);
        looks.get() == 2
    };
    assert_eq!(store.blobs().set_aside_unless(&digest, put_meanwhile).unwrap(), None);
    assert!(store.blobs().size(&digest).unwrap().is_some());

    let aside = store.blobs().set_aside_unless(&digest, |_| false).unwrap().unwrap();
    assert!(store.process().path().join(aside).exists());
    assert_eq!(store.blobs().size(&digest).unwrap(), None);
    assert_eq!(store.blobs().set_aside_unless(&digest, |_| false).unwrap(), None);
}
