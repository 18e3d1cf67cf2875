//! `wharf executor`: kaniko's flags, read with kaniko's meaning.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use crate::harness::{Outcome, Registry, Scratch, Step, Wharf, busybox_layout, have, tool};

const USAGE: i32 = 2;

/// A wharf whose context has a small Dockerfile on the busybox base, which is in `registry`.
fn wharf(registry: &Registry) -> Option<Wharf> {
    let layout = busybox_layout()?;
    let wharf = Wharf::new()?;
    let source = format!("oci:{}:latest", layout.display());
    let place = format!("docker://{}/library/busybox:latest", registry.address);
    tool("skopeo", &["copy", "-q", "--dest-tls-verify=false", &source, &place]);
    wharf.dockerfile(&format!(
        "FROM {}/library/busybox\nARG WHAT=nothing\nRUN echo \"$WHAT\" >/what\nCOPY file /file\n",
        registry.address
    ));
    wharf.file("file", "content\n");
    Some(wharf)
}

/// `wharf executor ARGUMENTS`.
fn executor(wharf: &Wharf, store: &str, arguments: &[&str]) -> Outcome {
    Outcome::of(command(wharf, store, arguments))
}

fn command(wharf: &Wharf, store: &str, arguments: &[&str]) -> Command {
    let mut all = vec!["executor"];
    all.extend(arguments);
    let mut command = wharf.command(store, &all);
    for name in
        ["KANIKO_NO_PUSH", "KANIKO_REGISTRY_MIRROR", "KANIKO_REGISTRY_MAP", "KANIKO_DIR", "DOCKER_CONFIG"]
    {
        command.env_remove(name);
    }
    command
}

/// What skopeo says of an image in a registry.
fn inspect(format: &str, name: &str) -> String {
    let image = format!("docker://{name}");
    tool("skopeo", &["inspect", "--tls-verify=false", "--format", format, &image]).trim().to_owned()
}

#[test]
fn an_image_is_pushed_and_its_digest_written() {
    let Some(registry) = Registry::start().filter(|_| have(&["skopeo"])) else { return };
    let Some(wharf) = wharf(&registry) else { return };
    let name = |tag: &str| format!("{}/app:{tag}", registry.address);
    executor(
        &wharf,
        "store",
        &[
            "--context=dir://context",
            "--dockerfile=Dockerfile",
            "-d",
            &name("1"),
            "--destination",
            &name("2"),
            "--build-arg=WHAT=this",
            "--label",
            "a=b",
            "--annotation",
            "c=d",
            "--compression=zstd",
            "--digest-file=files/digest",
            "--image-name-with-digest-file=files/names",
            "--image-name-tag-with-digest-file=files/tags",
            "--tar-path=image.tar",
            "--oci-layout-path=layout",
            "--snapshot-mode=redo",
            "--cleanup",
        ],
    )
    .success();
    let digest = fs::read_to_string(wharf.path("files/digest")).unwrap();
    assert_eq!(inspect("{{.Digest}}", &name("1")), digest);
    assert_eq!(inspect("{{.Digest}}", &name("2")), digest);
    assert_eq!(inspect("{{.Labels.a}}", &name("1")), "b");
    let app = format!("{}/app", registry.address);
    let lines = |file: &str| fs::read_to_string(wharf.path(file)).unwrap();
    assert_eq!(lines("files/names"), format!("{app}@{digest}\n{app}@{digest}\n"));
    assert_eq!(lines("files/tags"), format!("{app}:1@{digest}\n{app}:2@{digest}\n"));
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{}", name("1"))]);
    assert!(raw.contains("\"c\": \"d\"") && raw.contains("tar+zstd"), "{raw}");
    let archive = format!("docker-archive:{}", wharf.path("image.tar").display());
    assert_eq!(tool("skopeo", &["inspect", "--format", "{{.Labels.a}}", &archive]).trim(), "b");
    let layout = format!("oci:{}:1", wharf.path("layout").display());
    assert_eq!(tool("skopeo", &["inspect", "--format", "{{.Digest}}", &layout]).trim(), digest);
}

#[test]
fn the_cache_is_in_a_registry_or_a_directory() {
    let Some(registry) = Registry::start().filter(|_| have(&["skopeo"])) else { return };
    let Some(wharf) = wharf(&registry) else { return };
    let name = format!("{}/app", registry.address);
    let other = format!("{}/other", registry.address);
    let build = |store: &str, arguments: &[&str]| {
        let mut all = vec!["-c", "context", "-d", &name];
        all.extend(arguments);
        executor(&wharf, store, &all).success()
    };
    let ran = |outcome: &Outcome| outcome.steps().that(Step::Ran).len();
    // Without --cache nothing is taken from anywhere, as with kaniko.
    assert_eq!(ran(&build("store", &[])), 2);
    assert_eq!(ran(&build("store", &[])), 2);
    // Each store is that of a pod that is gone afterwards.
    assert_eq!(ran(&build("a", &["--cache=true"])), 2);
    assert_eq!(ran(&build("b", &["--cache"])), 0);
    assert_eq!(ran(&build("c", &["--cache", "--cache-repo", &other, "--no-push-cache"])), 2);
    assert_eq!(ran(&build("d", &["--cache", "--cache-repo", &other, "--compressed-caching=false"])), 2);
    assert_eq!(ran(&build("e", &["--cache", "--cache-repo", &other])), 0);
    assert_eq!(ran(&build("f", &["--cache", "--cache-repo=oci:cache, \"too\""])), 2);
    assert_eq!(ran(&build("g", &["--cache", "--cache-repo=oci:cache, \"too\""])), 0);
    // A directory that is kept is the store.
    let mut all =
        vec!["executor", "-c", "context", "--no-push", "--cache", "--cache-repo=oci:none", "--no-push-cache"];
    all.extend(["--cache-dir", "kept"]);
    for expected in [2, 0] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(&all).current_dir(wharf.path("")).env_remove("WHARF_ROOT");
        assert_eq!(ran(&Outcome::of(command).success()), expected);
    }
    assert!(wharf.path("kept/wharf/state.db").is_file());
}

#[test]
fn contexts_are_directories_archives_and_standard_input() {
    let Some(registry) = Registry::start().filter(|_| have(&["skopeo"])) else { return };
    let Some(wharf) = wharf(&registry) else { return };
    fs::create_dir(wharf.path("above")).unwrap();
    symlink("../context", wharf.path("above/sub")).unwrap();
    tool(
        "tar",
        &[
            "-czf",
            &wharf.path("context.tar.gz").display().to_string(),
            "-C",
            &wharf.context().display().to_string(),
            ".",
        ],
    );
    let digest_of = |arguments: &[&str], input: &[u8]| {
        let mut all = vec!["--no-push", "--reproducible", "--digest-file=digest"];
        all.extend(arguments);
        let store = Scratch::new();
        let store = store.path("store").display().to_string();
        let outcome = Outcome::of_with_input(command(&wharf, &store, &all), input).success();
        (fs::read_to_string(wharf.path("digest")).unwrap(), outcome.stderr)
    };
    let (expected, _) = digest_of(&["--context", "context"], b"");
    let archive = fs::read(wharf.path("context.tar.gz")).unwrap();
    for (arguments, input) in [
        (&["--context=dir://context"][..], &b""[..]),
        (&["--context=above", "--context-sub-path=/sub", "--dockerfile=Dockerfile"], b""),
        (&["--context=tar://context.tar.gz"], b""),
        (&["--context=tar://stdin"], &archive),
        (&["--context=above", "-f", "context/Dockerfile", "--context-sub-path", "sub"], b""),
    ] {
        let (digest, stderr) = digest_of(arguments, input);
        assert_eq!(digest, expected, "{arguments:?}: {stderr}");
    }
}

#[test]
fn images_come_from_mirrors() {
    let Some(registry) = Registry::start().filter(|_| have(&["skopeo"])) else { return };
    let Some(wharf) = wharf(&registry) else { return };
    // docker.io itself is not there in a test, and nobody asks it.
    wharf.dockerfile("FROM busybox\nRUN true\n");
    let arguments = |mirror: &str| ["--context=context", "--no-push", mirror].map(str::to_owned);
    for (store, mirror) in [
        ("a", format!("--registry-mirror={}", registry.address)),
        ("b", format!("--registry-mirror=127.0.0.1:1,{}", registry.address)),
        ("c", format!("--registry-map=quay.io=127.0.0.1:1;index.docker.io={}", registry.address)),
    ] {
        let all = arguments(&mirror);
        executor(&wharf, store, &all.each_ref().map(String::as_str)).success();
    }
    let mut command = command(&wharf, "d", &["--context=context"]);
    command.env("KANIKO_NO_PUSH", "true").env("KANIKO_REGISTRY_MIRROR", &registry.address);
    Outcome::of(command).success();
    executor(
        &wharf,
        "e",
        &[
            "--context=context",
            "--no-push",
            "--registry-mirror=127.0.0.1:1",
            "--skip-default-registry-fallback",
        ],
    )
    .fails_with(4, &["127.0.0.1:1"]);
}

#[test]
fn flags_without_a_meaning_say_why() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let outcome = executor(
        &wharf,
        "store",
        &[
            "--context=context",
            "--no-push=true",
            "--use-new-run",
            "--snapshotMode=time",
            "--single-snapshot",
            "--ignore-path=/a",
            "--ignore-path=/b",
            "--ignore-var-run=false",
            "--cache-ttl=6h",
            "--cache-copy-layers",
            "--log-format=json",
            "--image-format=docker",
            "--git=branch=main",
            "--force",
            "--skip-unused-stages=false",
            "--verbosity=debug",
        ],
    )
    .success();
    for flag in [
        "--use-new-run",
        "--snapshot-mode",
        "--single-snapshot",
        "--ignore-path",
        "--cache-ttl",
        "--log-format",
        "--image-format",
        "--git",
        "--force",
        "--skip-unused-stages",
    ] {
        let said =
            outcome.stderr.lines().filter(|line| line.contains(&format!("{flag} has no effect: "))).count();
        assert_eq!(said, 1, "{flag}:\n{}", outcome.stderr);
    }
    // They ask for what is so anyway.
    assert!(!outcome.stderr.contains("--ignore-var-run") && !outcome.stderr.contains("--cache-copy-layers"));
    let quiet = executor(&wharf, "store", &["--context=context", "--no-push", "-v", "error"]).success();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn newer_flags_have_a_meaning() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch AS one\nLABEL a=one\nFROM scratch AS two\nLABEL a=two\nFROM one\n");
    let run = |arguments: &[&str]| {
        let all = [&["--context=context", "--destination=localhost:1/app"][..], arguments].concat();
        executor(&wharf, "store", &all)
    };
    run(&["--push=false", "--image-format=OCI"]).success();
    run(&["--push", "--no-push"]).fails_with(USAGE, &["contradict"]);
    let of_two = run(&["--no-push", "--target=one", "--target=two", "--tar-path=two.tar"]).success();
    assert!(of_two.stderr.contains("the last of these stages: one, two"), "{}", of_two.stderr);
    let config =
        tool("sh", &["-c", &format!("tar -xOf {} --wildcards '*'", wharf.path("two.tar").display())]);
    assert!(config.contains("\"a\":\"two\""), "{config}");
    // Nothing is built, and so nothing pushed.
    let plan = run(&["--dryrun", "--digest-file=digest"]).success();
    assert!(!plan.stdout.is_empty() && !wharf.path("digest").exists(), "{plan:?}");
    // kaniko reads such a directory.
    let closed = ["--no-push", "--cache", "--cache-repo=oci:cache", "--cache-dir=/proc/none"];
    let outcome = run(&closed).success();
    assert!(
        outcome.stderr.contains("--cache-dir is not used: `/proc/none` cannot be made"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_tag_that_cannot_change_is_left_if_that_was_asked_for() {
    use crate::registry_fixture::{Answer, ScriptedRegistry};
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let registry = ScriptedRegistry::start(|request, _| {
        if request.line.starts_with("HEAD") {
            return Answer::status(200, &[]);
        }
        let words = "{\"errors\": [{\"code\": \"TAG_INVALID\", \"message\": \"the tag is immutable\"}]}";
        Answer::Whole(400, Vec::new(), words.into())
    });
    let destination = format!("--destination={}/app:1", registry.host());
    let push = |flag: &str| executor(&wharf, "store", &["--context=context", &destination, flag]);
    push("--force").failure();
    let outcome = push("--push-ignore-immutable-tag-errors").success();
    assert!(outcome.stderr.contains("immutable: the tag is left as it is"), "{}", outcome.stderr);
}

#[test]
fn a_link_called_executor_is_the_command() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    symlink(env!("CARGO_BIN_EXE_wharf"), wharf.path("executor")).unwrap();
    let mut command = Command::new(wharf.path("executor"));
    command.args(["--root", "store", "-c", "context", "--no-push", "--digest-file", "digest"]);
    command.current_dir(wharf.path(""));
    Outcome::of(command).success();
    assert!(fs::read_to_string(wharf.path("digest")).unwrap().starts_with("sha256:"));
}

#[test]
fn an_image_is_built_for_another_platform() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY Dockerfile /\n");
    for flag in ["--custom-platform=linux/arm64/v8", "--customPlatform=linux/arm64"] {
        let common =
            ["--context=context", "--destination=localhost:1/app", "--no-push", "--tar-path=image.tar"];
        executor(&wharf, "store", &[&common[..], &[flag]].concat()).success();
        let tar = wharf.path("image.tar").display().to_string();
        let config = tool("sh", &["-c", &format!("tar -xOf {tar} --wildcards 'blobs/*'")]);
        assert!(
            config.contains("\"architecture\":\"arm64\"") && config.contains("\"arch\":\"arm64\""),
            "{config}"
        );
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    for (arguments, words) in [
        (&[][..], &["--destination", "--no-push"][..]),
        (&["--no-push", "--cache"], &["--cache-repo"]),
        (&["--no-push", "--image-name-with-digest-file=x"], &["`x`", "--destination"]),
        (&["--no-push", "--digest-file=https://a.io/x"], &["digests are written to files"]),
        (&["--destination=Upper"], &["--destination Upper"]),
        (&["--no-push", "--context=gs://b/x"], &["`gs://`", "https://"]),
        (&["--no-push", "-b", "bucket"], &["`gs://`"]),
        (&["--no-push", "--custom-platform=linux/s390x,linux/amd64"], &["for one platform", "wharf build"]),
        (&["--no-push", "--custom-platform=plan9/amd64"], &["Linux only"]),
        (&["--no-push", "--compression-level=12"], &["0 to 9"]),
        (&["--no-push", "--compression=zstd", "--compression-level=30"], &["1 to 22"]),
        (&["--no-push", "--git=depth=x"], &["--git"]),
        (&["--no-push", "--registry-mirror=https://a.io"], &["https://a.io", "HOST[:PORT][/PREFIX]"]),
        (&["--no-push", "--registry-certificate=a.io=/none/x"], &["/none/x"]),
        (&["--no-push", "--registry-client-cert=a.io=x"], &["HOST=CERTIFICATE,KEY"]),
        (&["--no-push", "--dockerfile=none"], &["neither `none` nor", "context/none"]),
        (&["--no-push", "--dockerfile=/none"], &["there is no `/none`"]),
        (&["--no-push=maybe"], &["neither true nor false"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        let mut all = vec!["--context=context"];
        all.retain(|_| !arguments.iter().any(|argument| argument.starts_with("--context")));
        all.extend(arguments);
        executor(&wharf, "store", &all).fails_with(USAGE, words);
    }
}

/// A registry behind TLS with a certificate of its own.
struct TlsRegistry {
    process: Child,
    address: String,
    scratch: Scratch,
}

impl TlsRegistry {
    fn start(is_authority: bool) -> Option<Self> {
        if !have(&["docker-registry", "openssl"]) {
            return None;
        }
        let scratch = Scratch::new();
        let path = |name: &str| scratch.path(name).display().to_string();
        tool(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                &path("key"),
                "-out",
                &path("certificate"),
                "-days",
                "2",
                "-subj",
                "/CN=wharf",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                &format!("basicConstraints=critical,CA:{}", if is_authority { "TRUE" } else { "FALSE" }),
            ],
        );
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0', tls: {{certificate: {}, \
             key: {}}}}}\n",
            path("data"),
            path("certificate"),
            path("key")
        );
        fs::write(path("config.yml"), text).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .args(["serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("docker-registry ended before it listened").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',']).next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { process, address, scratch })
    }
}

impl Drop for TlsRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tls_is_checked_unless_it_is_said_not_to() {
    let Some(registry) = TlsRegistry::start(false) else { return };
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let destination = format!("{}/app", registry.address);
    let certificate = format!("{}={}", registry.address, registry.scratch.path("certificate").display());
    let push = |arguments: &[&str]| {
        let mut all = vec!["--context=context", "-d", &destination];
        all.extend(arguments);
        executor(&wharf, "store", &all)
    };
    push(&["--skip-tls-verify-registry", &registry.address]).success();
    push(&["--skip-tls-verify"]).success();
    push(&["--registry-certificate", &certificate]).success();
    // HTTPS answers, so it is spoken.
    push(&["--insecure", "--skip-tls-verify"]).success();
    push(&[]).failure();
}

#[test]
fn the_certificate_of_an_authority_is_no_servers() {
    let Some(registry) = TlsRegistry::start(true) else { return };
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let destination = format!("{}/app", registry.address);
    let certificate = format!("{}={}", registry.address, registry.scratch.path("certificate").display());
    let all = ["--context=context", "-d", &destination, "--registry-certificate", &certificate];
    let outcome = executor(&wharf, "store", &all).failure();
    assert!(outcome.stderr.contains("basicConstraints=CA:FALSE"), "{}", outcome.stderr);
}

#[test]
fn plain_http_is_spoken_where_https_does_not_answer() {
    let Some(registry) = Registry::start() else { return };
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let destination = format!("{}/app", registry.address);
    for flags in [
        &["--insecure"][..],
        &["--insecure-registry", &registry.address],
        &["--insecure", "--skip-tls-verify"],
    ] {
        let mut all = vec!["--context=context", "-d", &destination];
        all.extend(flags);
        executor(&wharf, "store", &all).success();
    }
}
