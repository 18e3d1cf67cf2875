//! Credentials: where they come from, where they are kept, what they open.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use wharf::registry::{OciRegistry, Reference, Registry, RegistryOptions, Rules};
use wharf_cache::Digest;

use crate::fault_fixture::FaultServer;
use crate::harness::{Outcome, Wharf, busybox_layout, install_script, tool};
use crate::registry_fixture::{DockerRegistry, client};

/// `wharf ARGUMENTS` of somebody whose home is `home` in the scratch directory.
fn at_home(wharf: &Wharf, mut command: Command) -> Command {
    let home = wharf.path("home");
    fs::create_dir_all(&home).unwrap();
    let path = format!("{}:{}", wharf.path("bin").display(), std::env::var("PATH").unwrap());
    for name in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "WHARF_CONFIG"]
    {
        command.env_remove(name);
    }
    command.env("HOME", home).env("PATH", path);
    command
}

fn run(wharf: &Wharf, arguments: &[&str], input: &str) -> Outcome {
    Outcome::of_with_input(at_home(wharf, wharf.command("store", arguments)), input.as_bytes())
}

fn build(wharf: &Wharf, arguments: &[&str]) -> Outcome {
    Outcome::of(at_home(wharf, wharf.build_command("store", arguments)))
}

fn read(wharf: &Wharf, name: &str) -> Value {
    serde_json::from_slice(&fs::read(wharf.path(name)).unwrap()).unwrap()
}

/// A program `docker-credential-test` that keeps what it is given in a file, and notes what it is asked.
fn install_helper(wharf: &Wharf) {
    let (bin, state) = (wharf.path("bin"), wharf.path("helper.json"));
    fs::create_dir_all(&bin).unwrap();
    fs::write(&state, "{}").unwrap();
    let script = format!(
        r#"#!/usr/bin/env python3
import json, sys
path = "{}"
kept, what, text = json.load(open(path)), sys.argv[1], sys.stdin.read()
if what == "store":
    it = json.loads(text); kept[it["ServerURL"]] = [it["Username"], it["Secret"]]
elif what == "erase":
    kept.pop(text, None)
elif what == "list":
    print(json.dumps({{url: it[0] for url, it in kept.items()}}))
elif text in kept:
    print(json.dumps({{"ServerURL": text, "Username": kept[text][0], "Secret": kept[text][1]}}))
else:
    print("credentials not found in native keychain" if "strict" not in kept else "the keychain is locked"); sys.exit(1)
json.dump(kept, open(path, "w"))
"#,
        state.display()
    );
    install_script(&bin.join("docker-credential-test"), &script);
}

#[test]
fn a_private_registry_with_a_mirror_that_is_down() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let keys = wharf.path("keys");
    fs::create_dir(&keys).unwrap();
    let Some(registry) = DockerRegistry::start_private(&keys, false) else { return };
    let host = registry.host();
    let config = wharf.path("home/.config/wharf/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Nothing is known of its authority yet.
    fs::write(&config, format!("[registry.'{host}']\nca = []\nkeypair = []\ninsecure = false\n")).unwrap();
    let certificates = wharf.path("home/.config/containers/certs.d").join(&host);
    fs::create_dir_all(&certificates).unwrap();
    let login = ["login", "-u", "me", "--password-stdin", &host];
    run(&wharf, &login, "secret\n").fails_with(4, &["certificate", "is not trusted", "ca ="]);
    fs::copy(keys.join("ca.crt"), certificates.join("ca.crt")).unwrap();
    run(&wharf, &login, "secret\n").success();
    fs::write(
        &config,
        format!(
            "[registry.'{host}']\nca = '{}'\nmirrors = ['{down}']\n[transfers]\nretries = 1\n",
            keys.join("ca.crt").display()
        ),
    )
    .unwrap();
    // A wrong password is not kept.
    let kept = read(&wharf, "home/.docker/config.json");
    run(&wharf, &login, "wrong\n").fails_with(4, &["does not take this name and password"]);
    assert_eq!(read(&wharf, "home/.docker/config.json"), kept);
    assert_eq!(kept, json!({"auths": {&host: {"auth": "bWU6c2VjcmV0"}}}));
    let mode = fs::metadata(wharf.path("home/.docker/config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let name = format!("{host}/team/app:v1");
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    build(&wharf, &["-t", &name, "--push"]).success();
    let archive = wharf.path("home/skopeo.json");
    fs::write(&archive, kept.to_string()).unwrap();
    let raw = tool(
        "skopeo",
        &[
            "inspect",
            "--authfile",
            archive.to_str().unwrap(),
            "--cert-dir",
            certificates.to_str().unwrap(),
            "--raw",
            &format!("docker://{name}"),
        ],
    );
    assert!(raw.contains("layers"), "{raw}");
    fs::remove_dir_all(&certificates).unwrap();
    // The mirror is down, the registry is not.
    run(&wharf, &["rmi", &name], "").success();
    wharf.dockerfile(&format!("FROM {name}\nCOPY x /y\n"));
    build(&wharf, &["--pull", "-t", "again", "-o", "type=oci,dest=out.tar"]).success();

    run(&wharf, &["logout", &host], "").success();
    assert_eq!(read(&wharf, "home/.docker/config.json"), json!({"auths": {}}));
    assert!(run(&wharf, &["logout", &host], "").success().text().contains("Not logged in"));
    let push = ["-t", &name, "--push"];
    wharf.dockerfile("FROM busybox\nCOPY x /new\n");
    build(&wharf, &push).fails_with(4, &["does not let us", "wharf login"]);
    // The password with the command, for the registry that is pushed to.
    build(&wharf, &[&push[..], &["--creds", "me:wrong"]].concat()).fails_with(4, &["do not allow this"]);
    build(&wharf, &[&push[..], &["--creds", "me:secret"]].concat()).success();
    wharf.dockerfile(&format!("FROM {name}\n"));
    build(&wharf, &["--pull", "--creds", &format!("{host}=me:secret")]).success();
    for arguments in
        [&["pull", &name][..], &["push", &name], &["copy", &format!("docker://{name}"), "oci:layout:v1"]]
    {
        let with = |creds: &str| run(&wharf, &[arguments, &["--creds", creds]].concat(), "");
        run(&wharf, arguments, "").fails_with(4, &["does not let us", "wharf login"]);
        with("me:wrong").fails_with(4, &["do not allow this"]);
        with("me:secret").success();
    }
    build(&wharf, &["--pull", "--creds", "me:secret"])
        .fails_with(2, &["--creds does not say which registry"]);
}

#[test]
fn a_registry_may_want_a_certificate() {
    let Some(wharf) = Wharf::new() else { return };
    let keys = wharf.path("keys");
    fs::create_dir(&keys).unwrap();
    let Some(registry) = DockerRegistry::start_private(&keys, true) else { return };
    let host = registry.host();
    let login = ["login", "-u", "me", "-p", "secret", &host];
    let config = wharf.path("home/.config/wharf/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let (ca, path) = (keys.join("ca.crt"), |name: &str| keys.join(name).display().to_string());
    let base = format!("[transfers]\nretries = 0\n[registry.'{host}']\nca = '{}'\n", ca.display());
    fs::write(&config, &base).unwrap();
    run(&wharf, &login, "").fails_with(4, &["cannot reach registry", "ertificate"]);
    let pair = format!("keypair = [{{cert = '{}', key = '{}'}}]\n", path("client.cert"), path("client.key"));
    fs::write(&config, base.clone() + &pair).unwrap();
    run(&wharf, &login, "").success();
    // Or from where Docker and Podman look.
    fs::write(&config, "").unwrap();
    let place = wharf.path("home/.config/docker/certs.d").join(&host);
    fs::create_dir_all(&place).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        fs::copy(keys.join(name), place.join(name)).unwrap();
    }
    run(&wharf, &login, "").success();
    fs::remove_file(place.join("client.key")).unwrap();
    run(&wharf, &login, "").fails_with(4, &["cannot set up the connection", "client.key"]);
}

#[test]
fn helpers_keep_what_files_should_not() {
    let (Some(wharf), Some(server)) = (Wharf::new(), FaultServer::start()) else { return };
    let host = server.host();
    install_helper(&wharf);
    server.guard(&json!({"challenge": "Basic realm=\"x\"", "accept": "Basic bWU6c2VjcmV0"}), &json!([]));
    let file = wharf.path("home/.docker/config.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let before =
        json!({"auths": {&host: {"auth": "b2xkOm9sZA=="}}, "credsStore": "test", "HttpHeaders": {"a": "b"}});
    fs::write(&file, before.to_string()).unwrap();
    let login = ["login", "-u", "me", "--password-stdin", &host];
    let said = run(&wharf, &login, "secret").success().text();
    assert!(said.contains("docker-credential-test keeps it"), "{said}");
    assert_eq!(read(&wharf, "helper.json"), json!({&host: ["me", "secret"]}));
    assert_eq!(
        read(&wharf, "home/.docker/config.json"),
        json!({"auths": {}, "credsStore": "test", "HttpHeaders": {"a": "b"}})
    );
    let pull = |words: &[&str]| {
        wharf.dockerfile(&format!("FROM {host}/none:v1\n"));
        build(&wharf, &[]).fails_with(4, words);
    };
    // It opens the door, behind which there is nothing.
    pull(&["is not in registry"]);
    run(&wharf, &["logout", &host], "").success();
    assert_eq!(read(&wharf, "helper.json"), json!({}));
    pull(&["does not let us", "wharf login"]);
    fs::write(wharf.path("helper.json"), json!({"strict": ["", ""]}).to_string()).unwrap();
    pull(&["cannot read the credentials", "docker-credential-test` failed to get: the keychain is locked"]);
    fs::write(wharf.path("helper.json"), json!({"a.io": ["x", "y"], "b.io": ["x", "y"]}).to_string())
        .unwrap();
    run(&wharf, &["logout", "--all"], "").success();
    assert_eq!(read(&wharf, "helper.json"), json!({}));
    for (name, words) in [
        ("none", "cannot run the credential helper `docker-credential-none`"),
        ("../x", "is no name of a credential helper"),
    ] {
        fs::write(&file, json!({"credHelpers": {&host: name}}).to_string()).unwrap();
        pull(&[words, "credsStore"]);
    }
    fs::write(&file, "{").unwrap();
    pull(&["is no file of credentials"]);
    run(&wharf, &login, "secret").fails_with(5, &["is no file of credentials"]);
}

#[test]
fn podmans_file_knows_repositories() {
    let (Some(wharf), Some(server)) = (Wharf::new(), FaultServer::start()) else { return };
    let host = server.host();
    server.guard(&json!({"challenge": "Basic realm=\"x\"", "accept": "Basic bWU6c2VjcmV0"}), &json!([]));
    let auths = json!({"auths": {
        &host: {"auth": "b3RoZXI6eA=="},
        format!("{host}/team"): {"auth": "b3RoZXI6eA=="},
        format!("{host}/team/app"): {"auth": "bWU6c2VjcmV0"},
    }});
    let pull = |name: &str, variables: &[(&str, &str)], words: &[&str]| {
        wharf.dockerfile(&format!("FROM {host}/{name}\n"));
        let mut command = at_home(&wharf, wharf.build_command("store", &[]));
        command.envs(variables.iter().copied());
        Outcome::of(command).fails_with(4, words);
    };
    let (open, closed) = (&["is not in registry"][..], &["does not let us"][..]);
    fs::create_dir_all(wharf.path("run/containers")).unwrap();
    fs::write(wharf.path("run/containers/auth.json"), auths.to_string()).unwrap();
    let runtime = wharf.path("run").display().to_string();
    let by_runtime = [("XDG_RUNTIME_DIR", runtime.as_str())];
    pull("team/app:v1", &by_runtime, open);
    pull("team/app/part:v1", &by_runtime, open);
    pull("team/apple:v1", &by_runtime, closed);
    pull("x:v1", &by_runtime, closed);
    pull("team/app:v1", &[], closed);
    let named = wharf.path("run/containers/auth.json").display().to_string();
    pull("team/app:v1", &[("REGISTRY_AUTH_FILE", &named)], open);
    fs::create_dir_all(wharf.path("home/.config/containers")).unwrap();
    fs::write(wharf.path("home/.config/containers/auth.json"), auths.to_string()).unwrap();
    pull("team/app:v1", &[], open);
}

#[test]
fn wrong_use_of_login_is_refused() {
    let Some(wharf) = Wharf::new() else { return };
    for (arguments, words) in [
        (&["login", "a.io"][..], "nothing is kept for a.io"),
        (&["login", "-u", "me", "a.io"], "there is no password"),
        (&["login", "-u", "me", "--password-stdin", "a.io"], "must not be empty"),
        (&["login", "-u", "m:e", "-p", "x", "a.io"], "a name with a colon"),
        (&["login", "-u", "me", "-p", "x", "nothost"], "is no registry"),
        (&["login", "--password-stdin", "a.io"], "--username"),
        (&["logout", "--all", "a.io"], "cannot be used with"),
    ] {
        run(&wharf, arguments, "").fails_with(2, &[words]);
    }
}

fn reference(host: &str, name: &str) -> Reference {
    format!("{host}/{name}").parse().unwrap()
}

fn push_image(client: &OciRegistry, name: &Reference, manifest: &Value) -> Digest {
    let config = &b"{}"[..];
    let open = || Ok(Box::new(config) as Box<dyn Read + Send>);
    client.push_blob(name, &Digest::of(config), 2, &open, None).unwrap();
    let bytes = manifest.to_string();
    client.push_manifest(name, "application/vnd.oci.image.manifest.v1+json", bytes.as_bytes()).unwrap();
    Digest::of(bytes.as_bytes())
}

fn manifest(more: Value) -> Value {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2},
        "layers": [],
    });
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest
}

#[test]
fn tags_are_listed_and_images_deleted() {
    let client = client();
    let check = |host: &str, can_delete_tags: bool| {
        let name = |tag: &str| reference(host, &format!("team/app:{tag}"));
        let tags: Vec<String> = (1..=5).map(|number| format!("v{number}")).collect();
        let mut digest = Digest::of(b"");
        for tag in &tags {
            digest = push_image(&client, &name(tag), &manifest(json!({})));
        }
        assert_eq!(client.tags(&name("v1")).unwrap(), tags);
        assert!(
            client.tags(&reference(host, "none")).unwrap_err().to_string().contains("is not in registry")
        );
        match client.delete(&name("v1")) {
            Ok(()) => assert!(can_delete_tags),
            Err(error) => {
                assert!(!can_delete_tags && error.to_string().contains("the digest deletes"), "{error}")
            }
        }
        client.delete(&name("v1").by_digest(digest)).unwrap();
        assert!(client.manifest(&name("v5")).is_err());
        assert!(client.delete(&name("v1").by_digest(digest)).is_err());
    };
    if let Some(registry) = DockerRegistry::start() {
        check(&registry.host(), false);
    }
    let Some(server) = FaultServer::start() else { return };
    check(&server.host(), true);
    // A list that goes elsewhere, or in a circle.
    push_image(&client, &reference(&server.host(), "x:v1"), &manifest(json!({})));
    let names = reference(&server.host(), "x");
    for (to, words) in
        [("http://127.0.0.1:OTHER/v2/x/tags/list", "another host"), ("?n=1000", "back to where")]
    {
        server.set(&json!([{"on": "tags/list", "times": -1, "do": "link", "to": to}]));
        let error = client.tags(&names).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn referrers_are_listed_with_or_without_their_list() {
    let Some(server) = FaultServer::start() else { return };
    let client = client();
    let name = reference(&server.host(), "app:v1");
    let subject = push_image(&client, &name, &manifest(json!({})));
    assert_eq!(client.referrers(&name, &subject).unwrap(), []);
    let about = json!({"artifactType": "application/x-sbom", "subject": {"mediaType": "x", "digest": subject.to_string(), "size": 1}});
    let referrer = push_image(&client, &reference(&server.host(), "app:sbom"), &manifest(about));
    let found = client.referrers(&name, &subject).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].descriptor.digest, &*found[0].artifact_type), (referrer, "application/x-sbom"));
    // Without the list there is the tag, or nothing.
    server.set(&json!([{"on": "/referrers/", "times": -1, "do": "status", "status": 404}]));
    assert_eq!(client.referrers(&name, &subject).unwrap(), []);
    server.set(&json!([
        {"on": "/referrers/", "times": -1, "do": "status", "status": 404},
        {"on": "PUT .*/manifests/", "times": -1, "do": "no-subject"},
    ]));
    let other = json!({"artifactType": "application/x-signature", "annotations": {"by": "me"},
        "subject": {"mediaType": "x", "digest": subject.to_string(), "size": 1}});
    let about = json!({"artifactType": "application/x-sbom", "subject": {"mediaType": "x", "digest": subject.to_string(), "size": 1}});
    let referrer = push_image(&client, &reference(&server.host(), "app:sbom"), &manifest(about.clone()));
    let other = push_image(&client, &reference(&server.host(), "app:signature"), &manifest(other));
    push_image(&client, &reference(&server.host(), "app:sbom"), &manifest(about));
    let found = client.referrers(&name, &subject).unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.descriptor.digest, &*it.artifact_type)).collect();
    assert_eq!(found, [(referrer, "application/x-sbom"), (other, "application/x-signature")]);
    let tag = format!("app:{}", subject.to_string().replace(':', "-"));
    assert!(server.tags().contains(&tag));
    // What cannot be read is not written over.
    let index = client.manifest(&reference(&server.host(), &tag)).unwrap();
    server.set(&json!([
        {"on": "PUT .*/manifests/", "times": -1, "do": "no-subject"},
        {"on": "GET .*/manifests/sha256-", "times": -1, "do": "status", "status": 503},
    ]));
    let third = json!({"subject": {"mediaType": "x", "digest": subject.to_string(), "size": 1}});
    let bytes = manifest(third).to_string();
    let error = client.push_manifest(&name, "application/vnd.oci.image.manifest.v1+json", bytes.as_bytes());
    assert!(error.unwrap_err().to_string().contains("503"));
    server.set(&json!([]));
    assert_eq!(client.manifest(&reference(&server.host(), &tag)).unwrap(), index);
}

/// Bytes that differ from each other.
fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn an_upload_in_pieces_goes_on_after_a_break() {
    let bytes = noise(40 << 20);
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let push = |host: &str, chunk: Option<u64>| {
        let chunk_bytes = chunk.map(|bytes| (host.to_owned(), bytes)).into_iter().collect();
        let rules = Rules { chunk_bytes, ..Rules::default() };
        let client = OciRegistry::new(RegistryOptions {
            retry_delay: Duration::ZERO,
            rules,
            ..RegistryOptions::default()
        });
        let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        let name = reference(host, "x");
        client.push_blob(&name, &digest, size, &open, None).map(|()| {
            let mut back = Vec::new();
            client.blob(&name, &digest, size).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes);
        })
    };
    if let Some(registry) = DockerRegistry::start() {
        push(&registry.host(), Some(7 << 20)).unwrap();
    }
    let Some(server) = FaultServer::start() else { return };
    let methods = || {
        let requests = server.asked("/blobs/uploads/").into_iter();
        requests
            .map(|it| it["line"].as_str().unwrap().split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let fresh = |faults: Value| {
        // Another repository each time would do as well; a new server forgets most surely.
        server.set(&faults);
    };
    fresh(json!([]));
    push(&server.host(), None).unwrap();
    assert_eq!(methods(), ["POST", "PUT"]);
    fresh(json!([]));
    push(&server.host(), Some(16 << 20)).unwrap();
    assert_eq!(methods(), ["POST", "PATCH", "PATCH", "PATCH", "PUT"]);
    // What came of a broken piece stays.
    fresh(json!([{"on": "^PATCH", "times": 1, "do": "keep", "after": 1_000_000}]));
    push(&server.host(), Some(16 << 20)).unwrap();
    assert_eq!(methods(), ["POST", "PATCH", "GET", "PATCH", "PATCH", "PATCH", "PUT"]);
    assert!(server.asked("PATCH").iter().any(|it| it["range"].as_str().unwrap().starts_with("1000000-")));
    // A request that broke, or was too large, is followed by pieces.
    for fault in [json!({"do": "reset", "after": 1_000_000}), json!({"do": "status", "status": 413})] {
        let mut fault = fault;
        (fault["on"], fault["times"]) = (json!("^PUT"), json!(1));
        fresh(json!([fault]));
        push(&server.host(), None).unwrap();
        assert_eq!(methods(), ["POST", "PUT", "POST", "PATCH", "PATCH", "PATCH", "PUT"]);
    }
    // For ever is too long.
    fresh(json!([{"on": "^PATCH", "times": -1, "do": "reset"}]));
    assert!(push(&server.host(), Some(16 << 20)).is_err());
}

#[test]
fn blobs_of_another_repository_are_taken_over() {
    let (Some(_), Some(wharf), Some(server)) = (busybox_layout(), Wharf::new(), FaultServer::start()) else {
        return;
    };
    let host = server.host();
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    wharf.build(&["-t", &format!("{host}/one:v1"), "-t", &format!("{host}/two:v1"), "--push"]).success();
    let uploads = |word: &str| {
        server.asked("PUT /v2/").iter().filter(|it| it["line"].as_str().unwrap().contains(word)).count()
    };
    assert_eq!((uploads("/one/blobs/"), uploads("/two/blobs/")), (3, 0));
    // The base's layers are taken over from its repository.
    server.set(&json!([]));
    wharf.dockerfile(&format!("FROM {host}/one:v1\nCOPY x /y\n"));
    wharf.build_in("other", &["-t", &format!("{host}/three:v1"), "--push"]).success();
    let own: BTreeSet<String> = server
        .asked("PUT /v2/three/blobs/")
        .iter()
        .map(|it| it["line"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(own.len(), 2, "its own layer and its config: {own:?}");
}

#[test]
fn a_registry_on_this_machine_is_asked_for_tls() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let (Some((secure, _)), Some(plain)) = (DockerRegistry::start_with_tls(), FaultServer::start()) else {
        return;
    };
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    let name = format!("{}/app:v1", secure.host());
    // Its certificate is its own.
    for arguments in [&["pull", &name][..], &["login", "-u", "me", "-p", "x", &secure.host()]] {
        let said =
            run(&wharf, arguments, "").fails_with(4, &["certificate", "is not trusted", "ca ="]).stderr;
        assert!(!said.contains("insecure"), "{said}");
    }
    let push = |more: &str| build(&wharf, &["-o", &format!("type=image,name={name},push=true{more}")]);
    push("").fails_with(4, &["certificate", "is not trusted"]);
    push(",registry.insecure=true").success();
    run(&wharf, &["pull", "--insecure-registry", &secure.host(), &name], "")
        .fails_with(4, &["answered 400", "HTTP request to an HTTPS server"]);
    let config = wharf.path("home/.config/wharf/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, format!("[registry.'{}']\ninsecure = true\n", secure.host())).unwrap();
    run(&wharf, &["pull", &name], "").success();
    // And one without TLS says so where TLS is asked for by name, or may do without.
    let name = format!("{}/app:v1", plain.host());
    build(&wharf, &["-o", &format!("type=image,name={name},push=true,registry.insecure=true")]).success();
    let place = wharf.path("home/.config/containers/certs.d").join(plain.host());
    fs::create_dir_all(place).unwrap();
    run(&wharf, &["pull", &name], "").fails_with(4, &["speaks no TLS", "--insecure-registry", "http = true"]);
    run(&wharf, &["pull", "--insecure-registry", &plain.host(), &name], "").success();
    let nobody = run(&wharf, &["pull", "127.0.0.1:1/app"], "").fails_with(4, &["check the name"]).stderr;
    assert!(!nobody.contains("insecure"), "{nobody}");
}

#[test]
fn all_tags_of_a_repository_are_pulled() {
    let (Some(_), Some(wharf), Some(server)) = (busybox_layout(), Wharf::new(), FaultServer::start()) else {
        return;
    };
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    let repository = format!("{}/app", server.host());
    build(&wharf, &["-t", "app"]).success();
    for tag in ["v1", "v2", "v3", "v4", "v5"] {
        run(&wharf, &["copy", "-q", "app", &format!("docker://{repository}:{tag}")], "").success();
    }
    let pulled = run(&wharf, &["pull", "-q", "-a", &repository], "").success().text();
    let expected: Vec<_> = (1..6).map(|number| format!("{repository}:v{number}")).collect();
    assert_eq!(pulled.lines().collect::<Vec<_>>(), expected);
    run(&wharf, &["pull", "-a", &format!("{repository}:v1")], "").fails_with(2, &["has a tag or digest"]);
    run(&wharf, &["pull", "-a", &format!("{}/none", server.host())], "")
        .fails_with(4, &["is not in registry", "the tags of"]);
}

#[test]
fn what_is_kept_logs_in_again() {
    let (Some(wharf), Some(server)) = (Wharf::new(), FaultServer::start()) else { return };
    let host = server.host();
    let basic = |accept: &str| json!({"challenge": "Basic realm=\"x\"", "accept": accept});
    server.guard(&basic("Basic bWU6c2VjcmV0"), &json!([]));
    let usage = ["nothing is kept for", "no terminal", "--password-stdin"];
    run(&wharf, &["login", &host], "").fails_with(2, &usage);
    run(&wharf, &["login", "-u", "me", "--password-stdin", &host], "secret").success();
    let said = run(&wharf, &["login", &host], "").success().text();
    assert_eq!(said, format!("Login to {host} succeeded with what is kept for `me`\n"));
    run(&wharf, &["login", "-u", "me", &host], "").success();
    run(&wharf, &["login", "-u", "you", &host], "").fails_with(2, &["for `you`", "is for `me`"]);
    server.guard(&basic("Basic other"), &json!([]));
    run(&wharf, &["login", &host], "").fails_with(4, &["does not take", "what is kept for `me` was tried"]);
}

/// A mirror that serves other bytes of the same length, or what cannot be unpacked.
#[test]
fn a_mirror_that_lies_is_passed_over() {
    let (Some(_), Some(wharf), Some(server), Some(mirror)) =
        (busybox_layout(), Wharf::new(), FaultServer::start(), FaultServer::start())
    else {
        return;
    };
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    let name = format!("{}/base:v1", server.host());
    build(&wharf, &["-t", &name, "--push"]).success();
    run(&wharf, &["copy", &name, &format!("docker://{}/base:v1", mirror.host())], "").success();
    wharf.dockerfile(&format!("FROM {name}\nRUN test -e /x\n"));
    let flip = |on: &str| json!([{"on": on, "times": -1, "do": "flip"}]);
    for (number, on) in ["GET .*/blobs/", "GET .*/manifests/v1"].iter().enumerate() {
        let faults = &flip(on);
        mirror.set(faults);
        let map = format!("--registry-map={}={}", server.host(), mirror.host());
        let arguments = ["executor", "--context=context", "--no-push", &map];
        let store = format!("mirror-{number}");
        let outcome = Outcome::of(at_home(&wharf, wharf.command(&store, &arguments)));
        assert_eq!(outcome.code, Some(0), "{faults}: {}", outcome.stderr);
        assert!(!mirror.state()["requests"].as_array().unwrap().is_empty(), "{faults}");
        let config = wharf.path("mirror.toml");
        fs::write(&config, format!("[registry.'{}']\nmirrors = ['{}']\n", server.host(), mirror.host()))
            .unwrap();
        let config = config.display().to_string();
        let store = format!("pulled-{number}");
        let pull = wharf.command(&store, &["--config", &config, "pull", "-q", &name]);
        let outcome = Outcome::of(at_home(&wharf, pull));
        assert_eq!(outcome.code, Some(0), "{faults}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("came from a mirror"), "{faults}: {}", outcome.stderr);
        // Where nobody else may be asked, it is an error.
        let only = "--skip-default-registry-fallback";
        let arguments = ["executor", "--context=context", "--no-push", &map, only];
        let command = wharf.command(&format!("only-{number}"), &arguments);
        Outcome::of(at_home(&wharf, command)).fails_with(4, &[]);
    }
}
