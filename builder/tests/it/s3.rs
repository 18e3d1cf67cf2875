//! The S3 backend against a real service that checks signatures, and against one that means no good.

use std::error::Error;
use std::io::{self, Read};

use wharf::remote::manifest::Documents;
use wharf::remote::s3::S3;
use wharf::remote::{Backend, BackendError};
use wharf_cache::Digest;

use crate::registry_fixture::{Answer, ScriptedRegistry};
use crate::s3_fixture::{S3Server, client};

/// Bytes that are the same at no two places.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed + 88_172_645_463_325_252;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn put(backend: &dyn Backend, bytes: &[u8]) -> Result<Digest, BackendError> {
    let (digest, bytes) = (Digest::of(bytes), bytes.to_vec());
    let size = bytes.len() as u64;
    backend.put(&digest, size, &move || Ok(Box::new(io::Cursor::new(bytes.clone()))))?;
    Ok(digest)
}

fn get(backend: &dyn Backend, digest: &Digest, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut reader = backend.blob(digest, size as u64).map_err(|error| words(&error))?;
    reader.read_to_end(&mut bytes).map_err(|error| words(&error))?;
    Ok(bytes)
}

/// An error with its causes.
fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    text
}

fn documents(text: &str) -> Documents {
    Documents {
        manifest: format!("{{\"manifest\":\"{text}\"}}").into(),
        config: format!("{{\"{text}\":1}}").into(),
    }
}

#[test]
fn what_is_stored_comes_back() {
    let Some(server) = S3Server::start() else { return };
    let s3 = server.client(",prefix=team/a~b/,name=main;other,upload_parallelism=3");
    assert_eq!(s3.name(), "s3://cache/team/a~b/manifests/main");
    assert_eq!(s3.manifest().unwrap(), None);
    // One request, one part and a bit, several parts.
    for size in [0, 1, 100_000, 8 << 20, (8 << 20) + 1, (40 << 20) + 12_345] {
        let bytes = noise(7, size);
        assert!(!s3.has(&Digest::of(&bytes), size as u64).unwrap(), "{size}");
        let digest = put(&s3, &bytes).unwrap();
        assert!(s3.has(&digest, size as u64).unwrap(), "{size}");
        assert!(!s3.has(&digest, size as u64 + 1).unwrap(), "{size}");
        assert!(get(&s3, &digest, size).unwrap() == bytes, "{size}");
        // Once more changes nothing.
        assert_eq!(put(&s3, &bytes).unwrap(), digest);
    }
    assert!(server.uploads().is_empty());
    let documents = documents("first");
    s3.commit(&documents).unwrap();
    assert_eq!(s3.manifest().unwrap().as_deref(), Some(&*documents.manifest));
    let config = Digest::of(&documents.config);
    assert_eq!(get(&s3, &config, documents.config.len()).unwrap(), documents.config);
    // Somebody else's library sees the same.
    assert_eq!(server.keys("team/a~b/manifests/"), ["team/a~b/manifests/main", "team/a~b/manifests/other"]);
    assert_eq!(server.read("team/a~b/manifests/other").as_bytes(), documents.manifest);
    assert_eq!(server.read(&format!("team/a~b/blobs/{config}")).as_bytes(), documents.config);
    assert_eq!(server.keys("").len(), 2 + 6 + 1);
}

#[test]
fn what_lies_is_refused() {
    let Some(server) = S3Server::start() else { return };
    let s3 = server.client("");
    let bytes = noise(1, 5000);
    let digest = put(&s3, &bytes).unwrap();
    let key = format!("blobs/{digest}");
    server.write(&key, &"x".repeat(5000));
    let error = get(&s3, &digest, 5000).unwrap_err();
    assert!(error.contains(&format!("expected {digest}")), "{error}");
    server.write(&key, &"x".repeat(4000));
    let error = get(&s3, &digest, 5000).unwrap_err();
    assert!(error.contains("it sends 4000 bytes, expected 5000"), "{error}");
    server.delete(&key);
    let error = get(&s3, &digest, 5000).unwrap_err();
    assert!(error.contains("answered 404: NoSuchKey"), "{error}");
    server.write("manifests/wharf", &"m".repeat((4 << 20) + 1));
    let error = words(&s3.manifest().unwrap_err());
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn refusals_say_why() {
    let Some(server) = S3Server::start() else { return };
    let check = |spec: String, reason: &str| {
        let error = words(&client(&spec, &|_| None).manifest().unwrap_err());
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("not-the-secret"), "{error}");
    };
    let [(_, id), _] = server.variables();
    check(
        format!("{},access_key_id={id},secret_access_key=not-the-secret", server.spec()),
        "answered 403: SignatureDoesNotMatch",
    );
    check(
        format!("{},access_key_id=nobody,secret_access_key=not-the-secret", server.spec()),
        "answered 403: InvalidAccessKeyId",
    );
    let [(_, id), (_, secret)] = server.variables();
    let spec = server.spec().replace("bucket=cache", "bucket=elsewhere");
    check(
        format!("{spec},access_key_id={id},secret_access_key={secret}"),
        "cannot read s3://elsewhere/manifests/wharf: 127.0.0.1 answered 404: NoSuchBucket",
    );
    check("type=s3,bucket=cache,endpoint_url=http://127.0.0.1:1".to_owned(), "no answer from 127.0.0.1");
}

#[test]
fn what_is_still_used_is_kept_young() {
    let Some(server) = S3Server::start() else { return };
    let s3 = server.client("");
    let (used, unused) = (noise(1, 3000), noise(2, 3000));
    for bytes in [&used, &unused] {
        put(&s3, bytes).unwrap();
    }
    server.age(20);
    assert!(s3.has(&Digest::of(&used), 3000).unwrap());
    assert_eq!(server.old().len(), 2, "a day has not passed");
    server.age(5);
    assert!(s3.has(&Digest::of(&used), 3000).unwrap());
    assert_eq!(server.old(), [format!("blobs/{}", Digest::of(&unused))]);
    assert_eq!(get(&s3, &Digest::of(&used), 3000).unwrap(), used);
    server.age(2);
    let eager = server.client(",touch_refresh=1h");
    assert!(eager.has(&Digest::of(&used), 3000).unwrap());
    assert_eq!(server.old().len(), 1);
}

#[test]
fn an_upload_that_fails_is_taken_back() {
    let Some(server) = S3Server::start() else { return };
    let s3 = server.client("");
    let (bytes, size) = (noise(3, 30 << 20), 30 << 20);
    let digest = Digest::of(&bytes);
    let torn = s3.put(&digest, size, &move || {
        Ok(Box::new(io::Cursor::new(bytes.clone()).take(20 << 20)) as Box<dyn Read + Send>)
    });
    let error = words(&torn.unwrap_err());
    assert!(error.contains("cannot read what is to be uploaded"), "{error}");
    assert!(server.uploads().is_empty());
    assert!(server.keys("").is_empty());
}

#[test]
fn what_is_sent_is_signed_with_its_digest() {
    let server = ScriptedRegistry::with_answers(vec![Answer::status(200, &[])]);
    let s3 = scripted(&server.host(), ",access_key_id=id,secret_access_key=secret,session_token=token");
    let digest = put(&s3, b"some bytes").unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.line, format!("PUT /cache/blobs/sha256%3A{}", digest.hex()));
    assert_eq!(request.header("x-amz-content-sha256"), Some(&*digest.hex()));
    assert_eq!(request.header("x-amz-security-token"), Some("token"));
    let authorization = request.header("authorization").unwrap();
    let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
    assert!(authorization.contains(signed), "{authorization}");
}

fn scripted(host: &str, more: &str) -> S3 {
    client(&format!("type=s3,bucket=cache,endpoint_url=http://{host}{more}"), &|_| None)
}

#[test]
fn failures_that_may_pass_are_tried_again() {
    let slow_down = |status| {
        let body = b"<Error><Code>SlowDown</Code><Message>less, please</Message></Error>";
        Answer::Whole(status, Vec::new(), body.to_vec())
    };
    for mode in ["standard", "adaptive"] {
        let answers = vec![slow_down(503), slow_down(503), Answer::ok("{}")];
        let server = ScriptedRegistry::with_answers(answers);
        let s3 = scripted(&server.host(), &format!(",retry_mode={mode}"));
        assert_eq!(s3.manifest().unwrap().as_deref(), Some(&b"{}"[..]));
        assert_eq!(server.requests().len(), 3);
        let line = &server.requests()[0].line;
        assert_eq!(line, "GET /cache/manifests/wharf");
        // Nobody to sign for.
        assert_eq!(server.requests()[0].header("authorization"), None);
        let server = ScriptedRegistry::with_answers(vec![slow_down(503)]);
        let error = scripted(&server.host(), &format!(",retry_mode={mode},retry_max_attempts=2")).manifest();
        assert!(words(&error.unwrap_err()).ends_with("answered 503: SlowDown: less, please"));
        assert_eq!(server.requests().len(), 2);
    }
    let denied = b"<Error><Code>AccessDenied</Code><Message>no\x1b[31m</Message></Error>".to_vec();
    let elsewhere = vec!["x-amz-bucket-region: eu-1".to_owned()];
    let server = ScriptedRegistry::with_answers(vec![Answer::Whole(301, elsewhere, denied)]);
    let error = words(&scripted(&server.host(), "").manifest().unwrap_err());
    assert!(
        error.ends_with("answered 301: AccessDenied: no (the bucket is in region eu-1: say `region=eu-1`)")
    );
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_download_goes_on_after_a_break() {
    let bytes = noise(4, 3_000_000);
    let whole = bytes.clone();
    let server = ScriptedRegistry::start(move |request, number| match (number, request.header("range")) {
        (0, None) => Answer::Cut(3_000_000, whole[..1_000_000].to_vec()),
        (1, Some("bytes=1000000-")) => {
            let range = "Content-Range: bytes 1000000-2999999/3000000".to_owned();
            Answer::Whole(206, vec![range], whole[1_000_000..].to_vec())
        }
        other => panic!("{other:?}"),
    });
    let s3 = scripted(&server.host(), "");
    assert!(get(&s3, &Digest::of(&bytes), bytes.len()).unwrap() == bytes);
    assert_eq!(server.requests().len(), 2);
    // A service that sends another range than it was asked for.
    let digest = Digest::of(&bytes);
    let server = ScriptedRegistry::start(move |_, number| match number {
        0 => Answer::Cut(3_000_000, bytes[..1_000_000].to_vec()),
        _ => {
            let range = "Content-Range: bytes 0-1999999/3000000".to_owned();
            Answer::Whole(206, vec![range], bytes[..2_000_000].to_vec())
        }
    });
    let error = get(&scripted(&server.host(), ""), &digest, 3_000_000).unwrap_err();
    assert!(error.contains("another range"), "{error}");
}

#[test]
fn an_upload_that_fails_late_is_a_failure() {
    let body = b"<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>oh</Message></Error>";
    let server = ScriptedRegistry::start(move |request, _| match &*request.line {
        line if line.starts_with("POST") && line.ends_with("?uploads=") => {
            Answer::ok("<R><UploadId>a&amp;b</UploadId></R>")
        }
        line if line.starts_with("PUT") => Answer::status(200, &["ETag: \"tag\""]),
        line if line.starts_with("DELETE") => Answer::status(204, &[]),
        _ => Answer::Whole(200, Vec::new(), body.to_vec()),
    });
    let s3 = scripted(&server.host(), ",retry_max_attempts=2");
    let error = words(&put(&s3, &noise(5, 9 << 20)).unwrap_err());
    assert!(error.ends_with("answered 500: InternalError: oh"), "{error}");
    let lines: Vec<String> = server.requests().iter().map(|request| request.line.clone()).collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("PUT")).count(), 2);
    assert_eq!(lines.iter().filter(|line| line.contains("?uploadId=a%26b")).count(), 3, "{lines:?}");
    assert!(lines.last().unwrap().starts_with("DELETE"));
    let completed = &server.requests()[3];
    assert!(String::from_utf8_lossy(&completed.body).contains("<ETag>&quot;tag&quot;</ETag>"));
}
