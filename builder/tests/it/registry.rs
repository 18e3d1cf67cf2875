//! The registry client against a real registry, and against one that means no good.

#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wharf::error::causes;
use wharf::registry::push::{PushError, push_image};
use wharf::registry::{
    Credentials, Hosts, OciRegistry, Reference, Registry, RegistryError, RegistryOptions, Rules, Transfer,
};
use wharf::source::{ImageSources, SourceError};
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use crate::registry_fixture::{Answer, DockerRegistry, ScriptedRegistry, TempDir, client};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn platform(architecture: &str) -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: String::new(),
        os_version: String::new(),
    }
}

fn reference(host: &str, name: &str) -> Reference {
    format!("{host}/{name}").parse().unwrap()
}

fn quiet(_: Transfer) {}

fn descriptor(bytes: &[u8], media_type: &str) -> String {
    let digest = Digest::of(bytes);
    format!(r#""mediaType":"{media_type}","digest":"{digest}","size":{}"#, bytes.len())
}

/// A gzipped tar with one file, and the digest of the tar.
fn layer(name: &str, content: &[u8]) -> (Vec<u8>, Digest) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    let tar = builder.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    (gzip.finish().unwrap(), Digest::of(&tar))
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 88172645463325252u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

struct Image {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(architecture: &str, files: &[(&str, &[u8])]) -> Self {
        let (layers, diff_ids): (Vec<_>, Vec<_>) =
            files.iter().map(|(name, bytes)| layer(name, bytes)).unzip();
        let diff_ids: Vec<_> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        )
        .into_bytes();
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let list: Vec<_> = layers.iter().map(|layer| format!("{{{}}}", descriptor(layer, gzip))).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{}}},"layers":[{}]}}"#,
            descriptor(&config, "application/vnd.oci.image.config.v1+json"),
            list.join(",")
        )
        .into_bytes();
        Self { config, layers, manifest }
    }

    fn put(&self, store: &Store) -> Digest {
        for blob in self.layers.iter().chain([&self.config]) {
            store.blobs().put(blob).unwrap();
        }
        store.blobs().put(&self.manifest).unwrap()
    }
}

fn index(images: &[(&str, &Image)]) -> Vec<u8> {
    let entry = |(architecture, image): &(&str, &Image)| {
        let platform = format!(r#""platform":{{"os":"linux","architecture":"{architecture}"}}"#);
        format!("{{{},{platform}}}", descriptor(&image.manifest, OCI_MANIFEST))
    };
    let entries: Vec<_> = images.iter().map(entry).collect();
    let list = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{list}]}}"#).into_bytes()
}

/// A store and the sources that fill it.
struct World {
    store: Store,
    sources: ImageSources,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new("store");
        let store = Store::open(&dir.path().join("root")).unwrap();
        let sources = ImageSources::new(store.clone(), Arc::new(client()));
        Self { store, sources, _dir: dir }
    }
}

#[test]
fn what_is_pushed_comes_back_byte_for_byte() {
    let Some(registry) = DockerRegistry::start() else { return };
    let name = reference(&registry.host(), "team/app:v1");
    let image = Image::new("amd64", &[("a", b"one"), ("b", &noise(3 << 20)), ("c", b"")]);
    let source = World::new();
    let manifest = image.put(&source.store);
    let transfers = Mutex::new(Vec::new());
    let progress = |transfer| transfers.lock().unwrap().push(transfer);
    push_image(
        &source.store,
        &client(),
        &name,
        &manifest,
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &progress,
    )
    .unwrap();
    let done = transfers.into_inner().unwrap().into_iter().filter(|transfer| transfer.done).count();
    assert_eq!(done, 4, "each blob is reported once as done");

    let target = World::new();
    let resolved = target.sources.resolve(&name.to_string(), &platform("amd64"), false).unwrap();
    assert_eq!(resolved.identifier, format!("docker-image://{name}@{manifest}"));
    assert_eq!((resolved.pin.target, resolved.pin.manifest), (manifest, manifest));
    assert_eq!(resolved.config, image.config);
    assert_eq!(resolved.platform, platform("amd64"));
    let transfers = Mutex::new(Vec::new());
    let progress = |transfer| transfers.lock().unwrap().push(transfer);
    target.sources.ensure_blobs(&resolved.identifier, &progress).unwrap();
    let done = transfers.into_inner().unwrap().into_iter().filter(|transfer| transfer.done).count();
    assert_eq!(done, 3);
    for blob in image.layers.iter().chain([&image.manifest]) {
        assert_eq!(target.store.blobs().read(&Digest::of(blob), 1 << 30).unwrap(), *blob);
    }

    let pinned = name.by_digest(manifest).to_string();
    let by_digest = target.sources.resolve(&pinned, &platform("amd64"), false).unwrap();
    assert_eq!(by_digest.pin, resolved.pin);

    // With the registry gone the store answers.
    drop(registry);
    let again = target.sources.resolve(&name.to_string(), &platform("amd64"), false).unwrap();
    assert_eq!(again, resolved);
    target.sources.ensure_blobs(&resolved.identifier, &quiet).unwrap();
    let error = target.sources.resolve(&name.to_string(), &platform("amd64"), true).unwrap_err();
    assert!(matches!(error, SourceError::Registry(RegistryError::Unreachable { .. })), "{error:?}");
    // A name that is pinned to a digest means the same for ever.
    target.sources.resolve(&pinned, &platform("amd64"), true).unwrap();
}

#[test]
fn a_pulled_image_is_unpacked() {
    let Some(registry) = DockerRegistry::start() else { return };
    let name = reference(&registry.host(), "app");
    let image = Image::new("amd64", &[("a", b"one"), ("b", b"two")]);
    let source = World::new();
    push_image(
        &source.store,
        &client(),
        &name,
        &image.put(&source.store),
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &quiet,
    )
    .unwrap();
    let target = World::new();
    let resolved = target.sources.resolve(&name.to_string(), &platform("amd64"), false).unwrap();
    let chain = target.sources.pull(&resolved.identifier, &quiet).unwrap();
    assert_eq!(chain.0.len(), 2);
    assert_eq!(
        target.sources.pull(&resolved.identifier, &quiet).unwrap(),
        chain,
        "the second pull does nothing"
    );
}

#[test]
fn an_index_is_pushed_whole_and_pulled_by_platform() {
    let Some(registry) = DockerRegistry::start() else { return };
    let name = reference(&registry.host(), "multi:1");
    let (amd, arm) = (Image::new("amd64", &[("a", b"amd")]), Image::new("arm64", &[("a", b"arm")]));
    let source = World::new();
    amd.put(&source.store);
    let arm_manifest = arm.put(&source.store);
    let target = source.store.blobs().put(&index(&[("amd64", &amd), ("arm64", &arm)])).unwrap();
    push_image(&source.store, &client(), &name, &target, &HashSet::new(), &Cancel::new().unwrap(), &quiet)
        .unwrap();

    let world = World::new();
    let resolved = world.sources.resolve(&name.to_string(), &platform("arm64"), false).unwrap();
    assert_eq!((resolved.pin.target, resolved.pin.manifest), (target, arm_manifest));
    assert_eq!(resolved.config, arm.config);
    let error = world.sources.resolve(&name.to_string(), &platform("s390x"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{name} has no image for linux/s390x; it has: linux/amd64, linux/arm64")
    );

    let other = name.by_digest(arm_manifest);
    let error = push_image(
        &source.store,
        &client(),
        &other,
        &target,
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &quiet,
    )
    .unwrap_err();
    assert!(matches!(error, PushError::Pinned { .. }), "{error:?}");

    // Only one platform's image is here, so the index cannot be pushed on.
    let elsewhere = reference(&registry.host(), "copy:1");
    let error = push_image(
        &world.store,
        &client(),
        &elsewhere,
        &target,
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &quiet,
    )
    .unwrap_err();
    assert!(matches!(error, PushError::Incomplete { what: "manifest", .. }), "{error:?}");
    world.sources.ensure_blobs(&resolved.identifier, &quiet).unwrap();
    push_image(
        &world.store,
        &client(),
        &elsewhere,
        &arm_manifest,
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &quiet,
    )
    .unwrap();
}

#[test]
fn blobs_are_mounted_or_uploaded() {
    let Some(registry) = DockerRegistry::start() else { return };
    let (from, to) = (reference(&registry.host(), "base"), reference(&registry.host(), "derived"));
    let client = client();
    for bytes in [&b"some"[..], b"", &noise(1 << 20)] {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        let owned = bytes.to_vec();
        let open = move || Ok(Box::new(std::io::Cursor::new(owned.clone())) as Box<dyn Read + Send>);
        assert!(!client.has_blob(&from, &digest).unwrap());
        client.push_blob(&from, &digest, size, &open, Some("nowhere")).unwrap();
        assert!(client.has_blob(&from, &digest).unwrap());
        let unused = || Err(std::io::Error::other("a mounted blob is not read"));
        client.push_blob(&to, &digest, size, &unused, Some("base")).unwrap();
        let mut back = Vec::new();
        client.blob(&to, &digest, size).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, bytes);
    }
    let broken = || Err(std::io::Error::other("cannot be read"));
    let error = client.push_blob(&to, &Digest::of(b"x"), 1, &broken, None).unwrap_err();
    assert!(matches!(error, RegistryError::Upload { .. }), "{error:?}");
    let wrong = || Ok(Box::new(&b"y"[..]) as Box<dyn Read + Send>);
    let error = client.push_blob(&to, &Digest::of(b"x"), 1, &wrong, None).unwrap_err();
    assert!(matches!(error, RegistryError::Refused { status: 400, .. }), "{error:?}");
}

#[test]
fn https_wants_a_certificate_that_is_known() {
    let Some((registry, certificate)) = DockerRegistry::start_with_tls() else { return };
    let name = reference(&registry.host(), "app");
    let with = |ca_certificates| {
        let retry_delay = Duration::ZERO;
        OciRegistry::new(RegistryOptions { ca_certificates, retry_delay, ..Default::default() })
    };
    let image = Image::new("amd64", &[("a", b"one")]);
    let source = World::new();
    let manifest = image.put(&source.store);
    push_image(
        &source.store,
        &with(vec![certificate.clone()]),
        &name,
        &manifest,
        &HashSet::new(),
        &Cancel::new().unwrap(),
        &quiet,
    )
    .unwrap();
    let error = with(vec![]).manifest(&name).unwrap_err();
    assert!(matches!(error, RegistryError::Untrusted { .. }), "{error:?}");

    // A registry without TLS may send us to one that has it.
    let blob = &image.layers[0];
    let (digest, size) = (Digest::of(blob), blob.len() as u64);
    let location = format!("Location: https://{}/v2/app/blobs/{digest}", registry.host());
    let plain = ScriptedRegistry::with_answers(vec![Answer::status(307, &[&location])]);
    let mut back = Vec::new();
    let from_plain = with(vec![certificate]).blob(&reference(&plain.host(), "app"), &digest, size);
    from_plain.unwrap().read_to_end(&mut back).unwrap();
    assert_eq!(back, *blob);
}

#[test]
fn what_is_missing_is_said_to_be_missing() {
    let Some(registry) = DockerRegistry::start() else { return };
    let name = reference(&registry.host(), "nothing:here");
    let error = client().manifest(&name).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "the manifest of {name} is not in registry {}: MANIFEST_UNKNOWN: manifest unknown",
            registry.host()
        )
    );
    assert!(error.hint().is_some());
    let error = client().blob(&name, &Digest::of(b""), 0).map(|_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
}

#[test]
fn a_closed_port_is_unreachable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = client().manifest(&reference(&format!("127.0.0.1:{port}"), "x")).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert!(error.hint().is_some());
}

fn manifest_error(answers: Vec<Answer>, name: &str) -> (RegistryError, usize) {
    let registry = ScriptedRegistry::with_answers(answers);
    let error = client().manifest(&reference(&registry.host(), name)).unwrap_err();
    (error, registry.requests().len())
}

#[test]
fn manifests_are_checked() {
    let asked = Digest::of(b"{}");
    let (error, _) = manifest_error(vec![Answer::ok("{ }")], &format!("x@{asked}"));
    assert!(matches!(error, RegistryError::WrongDigest { expected, .. } if expected == asked), "{error:?}");

    let header = format!("Docker-Content-Digest: {asked}");
    let (error, _) = manifest_error(vec![Answer::Whole(200, vec![header], b"{ }".to_vec())], "x");
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error:?}");

    let (error, _) = manifest_error(vec![Answer::ok(vec![b' '; (4 << 20) + 1])], "x");
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
    let (error, _) = manifest_error(vec![Answer::Endless], "x");
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");

    let (error, requests) = manifest_error(vec![Answer::Cut(100, b"{".to_vec())], "x");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert_eq!(requests, 3);
}

#[test]
fn what_may_pass_is_tried_again() {
    for first in [Answer::status(500, &[]), Answer::status(429, &["Retry-After: 0"]), Answer::Cut(9, vec![])]
    {
        let registry = ScriptedRegistry::with_answers(vec![first, Answer::ok("{}")]);
        let fetched = client().manifest(&reference(&registry.host(), "x")).unwrap();
        assert_eq!(fetched.bytes, b"{}");
        assert_eq!(registry.requests().len(), 2);
    }
    let (error, requests) = manifest_error(vec![Answer::status(503, &[])], "x");
    assert!(matches!(error, RegistryError::Refused { status: 503, .. }), "{error:?}");
    assert_eq!(requests, 3);
    let (error, requests) = manifest_error(vec![Answer::status(429, &["Retry-After: 86400"])], "x");
    assert!(matches!(error, RegistryError::Refused { status: 429, .. }), "{error:?}");
    assert_eq!(requests, 1, "a day is not waited for");
    let (_, requests) = manifest_error(vec![Answer::status(400, &[])], "x");
    assert_eq!(requests, 1);
}

#[test]
fn foreign_words_cannot_steer_the_terminal() {
    let body = r#"{"errors":[{"code":"X","message":"a\u001b[31mb\r\n"}]}"#;
    let (error, _) = manifest_error(vec![Answer::Whole(400, vec![], body.into())], "x");
    assert!(error.to_string().ends_with("X: ab"), "{error}");
}

#[track_caller]
fn check_blob(bytes: &[u8], answers: Vec<Answer>, expected: Result<usize, &str>) {
    let registry = ScriptedRegistry::with_answers(answers);
    let name = reference(&registry.host(), "x");
    let mut back = Vec::new();
    let outcome = client()
        .blob(&name, &Digest::of(bytes), bytes.len() as u64)
        .map_err(|error| error.to_string())
        .and_then(|mut reader| reader.read_to_end(&mut back).map_err(|error| error.to_string()));
    match (outcome, expected) {
        (Ok(_), Ok(requests)) => {
            assert_eq!(back, bytes);
            assert_eq!(registry.requests().len(), requests);
        }
        (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
        (outcome, expected) => panic!("got {outcome:?}, expected {expected:?}"),
    }
}

#[test]
fn a_broken_download_goes_on() {
    let bytes = noise(100_000);
    let size = bytes.len() as u64;
    let cut = Answer::Cut(size, bytes[..40_000].to_vec());
    let range = |from: usize| {
        let header = format!("Content-Range: bytes {from}-{}/{size}", size - 1);
        Answer::Whole(206, vec![header], bytes[from..].to_vec())
    };
    check_blob(&bytes, vec![Answer::ok(bytes.clone())], Ok(1));
    check_blob(&bytes, vec![cut.clone(), range(40_000)], Ok(2));
    check_blob(&bytes, vec![cut.clone(), Answer::ok(bytes.clone())], Ok(2));
    check_blob(&bytes, vec![cut.clone(), Answer::status(502, &[]), range(40_000)], Ok(3));
    check_blob(&bytes, vec![cut.clone(), range(40_001)], Err("another range"));
    check_blob(&bytes, vec![cut.clone()], Err(""));
    check_blob(&bytes, vec![cut, Answer::status(404, &[])], Err("is not in registry"));
}

/// A client that looks for images of `docker.io` in these mirrors and nowhere else.
fn client_with_mirrors(mirrors: &[&str]) -> OciRegistry {
    let mirrors = mirrors.iter().map(|host| host.parse().unwrap()).collect();
    let mirrors = [("docker.io".to_owned(), mirrors)].into();
    let rules = Rules { mirrors, only_mirrors: Hosts::All, ..Rules::default() };
    OciRegistry::new(RegistryOptions { retry_delay: Duration::ZERO, rules, ..RegistryOptions::default() })
}

#[test]
fn every_failure_of_every_mirror_is_told() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("127.0.0.1:{port}");
    let missing = ScriptedRegistry::with_answers(vec![Answer::status(404, &[])]);
    let denied = ScriptedRegistry::with_answers(vec![Answer::status(403, &[])]);
    let client = client_with_mirrors(&[&closed, &denied.host(), &missing.host()]);
    let (name, digest) = ("busybox".parse().unwrap(), Digest::of(b""));
    let errors = [client.manifest(&name).unwrap_err(), client.blob(&name, &digest, 0).map(drop).unwrap_err()];
    for error in errors {
        let text = causes(&error);
        let words =
            [&*format!("cannot reach registry {closed}"), "refused", &*denied.host(), "is not in registry"];
        let places: Vec<Option<usize>> = words.iter().map(|word| text.find(word)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {text}");
        assert!(text.contains(&missing.host()), "{text}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn what_a_mirror_breaks_off_comes_from_the_next_one() {
    let bytes = noise(100_000);
    let size = bytes.len() as u64;
    let broken = ScriptedRegistry::start({
        let bytes = bytes.clone();
        move |_, number| match number {
            0 => Answer::Cut(bytes.len() as u64, bytes[..40_000].to_vec()),
            _ => Answer::status(404, &[]),
        }
    });
    let whole = ScriptedRegistry::with_answers(vec![Answer::Whole(
        206,
        vec![format!("Content-Range: bytes 40000-{}/{size}", size - 1)],
        bytes[40_000..].to_vec(),
    )]);
    let mut back = Vec::new();
    let name = "busybox".parse().unwrap();
    let read = |mirrors: &[&str], back: &mut Vec<u8>| {
        let blob = client_with_mirrors(mirrors).blob(&name, &Digest::of(&bytes), size);
        blob.unwrap().read_to_end(back)
    };
    read(&[&broken.host(), &whole.host()], &mut back).unwrap();
    assert_eq!(back, bytes);
    assert_eq!(whole.requests().len(), 1);
    // Where nobody has the rest, all are named.
    let cut = Answer::Cut(size, bytes[..40_000].to_vec());
    let (one, two) = (
        ScriptedRegistry::with_answers(vec![cut.clone()]),
        ScriptedRegistry::with_answers(vec![Answer::status(404, &[])]),
    );
    let error = causes(&read(&[&one.host(), &two.host()], &mut Vec::new()).unwrap_err());
    assert!(error.contains(&one.host()) && error.contains(&two.host()), "{error}");
}

#[test]
fn plain_http_is_for_those_who_speak_no_tls() {
    let with = |host: &str, by_certificate: bool| {
        let hosts = Hosts::These([host.to_owned()].into());
        let rules = Rules { may_be_plain: hosts, ..Rules::default() };
        let client =
            OciRegistry::new(RegistryOptions { retry_delay: Duration::ZERO, rules, ..Default::default() });
        let error = causes(&client.manifest(&reference(host, "app")).unwrap_err());
        assert_eq!(error.contains("certificate"), by_certificate, "{error}");
    };
    // Who hangs up, or speaks HTTP to whoever asks for TLS.
    let plain = ScriptedRegistry::with_answers(vec![Answer::status(404, &[])]);
    with(&plain.host(), false);
    assert!(plain.requests().iter().any(|request| request.line.starts_with("GET /v2/app/manifests/")));
    if let Some(registry) = DockerRegistry::start() {
        with(&registry.host(), false);
    }
    if let Some((registry, _)) = DockerRegistry::start_with_tls() {
        with(&registry.host(), true);
    }
}

#[test]
fn blobs_are_verified() {
    check_blob(b"abc", vec![Answer::ok("abd")], Err(""));
    check_blob(b"abc", vec![Answer::ok("abcd")], Err("4 bytes, expected 3"));
    check_blob(b"abc", vec![Answer::Endless], Err(""));
    check_blob(b"", vec![Answer::ok("")], Ok(1));
}

/// A registry that wants `authorization` with each request, and its token server.
fn guarded(challenge: &'static str, authorization: &'static str) -> ScriptedRegistry {
    ScriptedRegistry::start(move |request, _| {
        if request.line.contains("/token") {
            return Answer::ok(r#"{"token":"t1","expires_in":300}"#);
        }
        if request.header("authorization") == Some(authorization) {
            return Answer::ok("{}");
        }
        let host = request.header("host").unwrap();
        Answer::status(401, &[&challenge.replace("HOST", host)])
    })
}

fn client_with_config(config: &str) -> (OciRegistry, TempDir) {
    let dir = TempDir::new("config");
    let path = dir.path().join("config.json");
    std::fs::write(&path, config).unwrap();
    let credentials = Credentials::of_files(vec![path]);
    let options = RegistryOptions { credentials, retry_delay: Duration::ZERO, ..RegistryOptions::default() };
    (OciRegistry::new(options), dir)
}

const BEARER: &str = r#"WWW-Authenticate: Bearer realm="http://HOST/token",service="it""#;

#[test]
fn tokens_are_fetched_once_and_used() {
    let registry = guarded(BEARER, "Bearer t1");
    let client = client();
    let name = reference(&registry.host(), "a/b");
    client.manifest(&name).unwrap();
    client.manifest(&name).unwrap();
    let lines: Vec<_> = registry.requests().iter().map(|request| request.line.clone()).collect();
    let manifest = "GET /v2/a/b/manifests/latest";
    let token = "GET /token?service=it&scope=repository%3Aa%2Fb%3Apull";
    assert_eq!(lines, [manifest, token, manifest, manifest]);
}

#[test]
fn credentials_go_to_the_token_server_or_the_registry() {
    let registry = guarded(BEARER, "Bearer t1");
    let host = registry.host();
    let (client, _dir) =
        client_with_config(&format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#));
    client.manifest(&reference(&host, "x")).unwrap();
    let requests = registry.requests();
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[1].header("authorization"), Some("Basic dXNlcjpwYXNz"));
    assert_eq!(requests[2].header("authorization"), Some("Bearer t1"));

    let (client, _dir) =
        client_with_config(&format!(r#"{{"auths":{{"http://{host}":{{"identitytoken":"i&d"}}}}}}"#));
    client.manifest(&reference(&host, "x")).unwrap();
    let token_request = &registry.requests()[4];
    assert_eq!(token_request.line, "POST /token");
    let body = String::from_utf8(token_request.body.clone()).unwrap();
    assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=i%26d"), "{body}");

    let registry = guarded(r#"WWW-Authenticate: Basic realm="x""#, "Basic dXNlcjpwYXNz");
    let host = registry.host();
    let (client, _dir) =
        client_with_config(&format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#));
    client.manifest(&reference(&host, "x")).unwrap();
    client.manifest(&reference(&host, "x")).unwrap();
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_refusal_says_whether_one_was_logged_in() {
    let registry = guarded(r#"WWW-Authenticate: Basic realm="x""#, "Basic never");
    let host = registry.host();
    let error = client().manifest(&reference(&host, "x")).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { with_credentials: false, .. }), "{error:?}");
    let (client, _dir) =
        client_with_config(&format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#));
    let error = client.manifest(&reference(&host, "x")).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { with_credentials: true, .. }), "{error:?}");
    let (client, _dir) = client_with_config("{");
    let error = client.manifest(&reference(&host, "x")).unwrap_err();
    assert!(matches!(error, RegistryError::Credentials { .. }), "{error:?}");
}

#[test]
fn credentials_stay_with_the_registry_when_an_upload_goes_elsewhere() {
    let elsewhere = ScriptedRegistry::with_answers(vec![Answer::status(201, &[])]);
    let location = format!("Location: http://{}/upload?state=s", elsewhere.host());
    let registry = ScriptedRegistry::start(move |request, _| match request.header("authorization") {
        Some(_) => Answer::status(202, &[&location]),
        None => Answer::status(401, &[r#"WWW-Authenticate: Basic realm="x""#]),
    });
    let host = registry.host();
    let (client, _dir) =
        client_with_config(&format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#));
    let open = || Ok(Box::new(&b"abc"[..]) as Box<dyn Read + Send>);
    let digest = Digest::of(b"abc");
    client.push_blob(&reference(&host, "x"), &digest, 3, &open, None).unwrap();
    let upload = &elsewhere.requests()[0];
    assert_eq!(upload.header("authorization"), None);
    assert_eq!(upload.line, format!("PUT /upload?state=s&digest=sha256%3A{}", digest.hex()));
    assert_eq!(upload.body, b"abc");
}

#[test]
fn a_broken_upload_begins_again() {
    let registry = ScriptedRegistry::start(|request, number| match (&request.line[..4], number) {
        ("POST", _) => Answer::status(202, &["Location: /upload"]),
        (_, 1) => Answer::status(503, &[]),
        _ => Answer::status(201, &[]),
    });
    let open = || Ok(Box::new(&b"abc"[..]) as Box<dyn Read + Send>);
    client().push_blob(&reference(&registry.host(), "x"), &Digest::of(b"abc"), 3, &open, None).unwrap();
    let lines: Vec<_> = registry.requests().iter().map(|request| request.line[..4].to_owned()).collect();
    assert_eq!(lines, ["POST", "PUT ", "POST", "PUT "]);
}

/// Writes `images` as an OCI layout; the names are their `ref.name`.
fn write_layout(dir: &TempDir, images: &[(&str, &Image)]) {
    let blobs = dir.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let mut entries = Vec::new();
    for (name, image) in images {
        for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
            std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let notes = format!(r#""annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
        entries.push(format!("{{{},{notes}}}", descriptor(&image.manifest, OCI_MANIFEST)));
    }
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    std::fs::write(dir.path().join("index.json"), index).unwrap();
    std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn a_layout_is_a_source() {
    let dir = TempDir::new("layout");
    let (one, two) = (Image::new("amd64", &[("a", b"1")]), Image::new("arm64", &[("a", b"2"), ("b", b"")]));
    write_layout(&dir, &[("v1", &one), ("docker.io/library/x:v2", &two)]);
    let world = World::new();
    let path = dir.path().display();
    let resolve = |suffix: &str| {
        world.sources.resolve(&format!("oci-layout://{path}{suffix}"), &platform("amd64"), false)
    };
    let two_digest = Digest::of(&two.manifest);
    let resolved = resolve(":v2").unwrap();
    assert_eq!(resolved.identifier, format!("oci-layout://{path}@{two_digest}"));
    assert_eq!(resolved.platform, platform("arm64"), "a lone image is taken, whatever it runs on");
    assert_eq!(resolve(&format!("@{two_digest}")).unwrap(), resolved);
    assert_eq!(resolve(":v1").unwrap().config, one.config);
    let error = resolve("").unwrap_err();
    assert!(
        error.to_string().ends_with("has no image with tag `latest`; it has: v1, docker.io/library/x:v2")
    );

    world.sources.ensure_blobs(&resolved.identifier, &quiet).unwrap();
    for layer in &two.layers {
        assert_eq!(world.store.blobs().read(&Digest::of(layer), 1 << 20).unwrap(), *layer);
    }
}

#[test]
fn a_damaged_layout_is_noticed() {
    let dir = TempDir::new("layout");
    let image = Image::new("amd64", &[("a", b"1")]);
    write_layout(&dir, &[("v1", &image)]);
    let world = World::new();
    let name = format!("oci-layout://{}", dir.path().display());
    let blob = |bytes: &[u8]| dir.path().join("blobs/sha256").join(Digest::of(bytes).hex());

    let resolved = world.sources.resolve(&name, &platform("amd64"), false).unwrap();
    let mut damaged = image.layers[0].clone();
    damaged[20] ^= 1;
    std::fs::write(blob(&image.layers[0]), &damaged).unwrap();
    let error = world.sources.ensure_blobs(&resolved.identifier, &quiet).unwrap_err();
    assert!(matches!(error, SourceError::Download { .. }), "{error:?}");
    assert_eq!(world.store.blobs().size(&Digest::of(&image.layers[0])).unwrap(), None);

    std::fs::write(blob(&image.manifest), "{}").unwrap();
    assert!(matches!(
        World::new().sources.resolve(&name, &platform("amd64"), false),
        Err(SourceError::Layout { .. })
    ));
    std::fs::remove_file(blob(&image.manifest)).unwrap();
    let made = std::process::Command::new("mkfifo").arg(blob(&image.manifest)).status();
    if made.is_ok_and(|status| status.success()) {
        let outcome = World::new().sources.resolve(&name, &platform("amd64"), false);
        assert!(matches!(outcome, Err(SourceError::Layout { .. })), "{outcome:?}");
    }
    let nowhere = World::new().sources.resolve("oci-layout:///nonexistent", &platform("amd64"), false);
    assert!(nowhere.unwrap_err().hint().is_some());
}

#[test]
fn images_that_cannot_be_unpacked_are_refused() {
    let refused = |manifest: String, config: &str, expected: &str| {
        let dir = TempDir::new("layout");
        let mut image = Image::new("amd64", &[]);
        image.config = config.as_bytes().to_vec();
        image.manifest = manifest.replace("CONFIG", &descriptor(&image.config, "")).into_bytes();
        write_layout(&dir, &[("v1", &image)]);
        let world = World::new();
        let name = format!("oci-layout://{}", dir.path().display());
        let outcome = world.sources.resolve(&name, &platform("amd64"), false);
        let error = outcome.and_then(|image| world.sources.layers(&image.identifier)).unwrap_err();
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            words += &format!(": {error}");
            source = error.source();
        }
        assert!(words.contains(expected), "{words}");
    };
    let one = Digest::of(b"");
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{one}"]}}}}"#);
    let foreign = descriptor(b"", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    refused(format!(r#"{{"config":{{CONFIG}},"layers":[{{{foreign}}}]}}"#), &config, "cannot be unpacked");
    refused(r#"{"config":{CONFIG},"layers":[]}"#.to_owned(), &config, "has 0 layers but its config names 1");
    refused(r#"{"config":{CONFIG},"layers":[]}"#.to_owned(), "[", "config");
    refused(r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "{}", "schema 1");
    refused(r#"{"manifests":[]}"#.to_owned(), "{}", "no image for linux/amd64");
}
