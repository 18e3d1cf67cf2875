//! The image commands: what they show, and that other people's programs read what they write and the other way round.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Outcome, Registry, Wharf, busybox_layout, have, tool};

/// A store with the busybox base as `base:1`.
fn with_base() -> Option<Wharf> {
    let layout = busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.run(&["copy", &format!("oci:{}", layout.display()), "base:1"]).success();
    Some(wharf)
}

/// An image of three layers as `app:1`, beside the base.
fn with_app() -> Option<Wharf> {
    let wharf = with_base()?;
    wharf.file("hello", "hello\n").dockerfile(
        "FROM busybox\nLABEL team=red\nRUN echo one >/one\nENV A=1\nCOPY hello /\nCMD [\"cat\", \"/hello\"]\n",
    );
    wharf.build(&["-t", "app:1"]).success();
    Some(wharf)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn line(wharf: &Wharf, arguments: &[&str]) -> String {
    wharf.run(arguments).success().text().trim_end().to_owned()
}

/// Runs a Python program with arguments.
fn python(program: &str, arguments: &[&str]) -> String {
    let mut all = vec!["-c", program];
    all.extend(arguments);
    tool("python3", &all)
}

#[test]
fn images_are_listed_filtered_and_formatted() {
    let Some(wharf) = with_app() else { return };
    wharf.run(&["tag", "app:1", "localhost:5000/team/app:2"]).success();
    let names = |arguments: &[&str]| {
        let mut all = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        all.extend(arguments);
        let mut names: Vec<String> = line(&wharf, &all).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let check =
        |arguments: &[&str], expected: &[&str]| assert_eq!(names(arguments), expected, "{arguments:?}");
    check(&[], &["app:1", "base:1", "localhost:5000/team/app:2"]);
    check(&["app"], &["app:1"]);
    check(&["app:2"], &[]);
    check(&["--filter", "reference=*:1"], &["app:1", "base:1"]);
    check(&["--filter", "reference=localhost:5000/*/app"], &["localhost:5000/team/app:2"]);
    check(&["--filter", "label=team"], &["app:1", "localhost:5000/team/app:2"]);
    check(&["--filter", "label=team=blue"], &[]);
    check(&["--filter", "since=base:1"], &["app:1", "localhost:5000/team/app:2"]);
    check(&["--filter", "before=app:1"], &["base:1"]);
    check(&["--filter", "dangling=true"], &[]);
    check(&["--filter", "until=2020-01-01T00:00:00Z"], &[]);

    let row = json_of(&line(&wharf, &["images", "base", "--format", "json"]));
    let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
    for key in ["Containers", "CreatedAt", "CreatedSince", "Digest", "ID", "Repository", "Size", "Tag"] {
        assert!(keys.iter().any(|it| *it == key), "{keys:?}");
    }
    assert_eq!(line(&wharf, &["images", "-q", "base"]), row["ID"].as_str().unwrap());
    let full = line(&wharf, &["images", "-q", "--no-trunc", "base"]);
    assert!(full.starts_with("sha256:") && full.len() == 71, "{full}");
    let table = line(&wharf, &["images", "--format", "table {{.ID}}\\t{{upper .Repository}}"]);
    assert!(table.starts_with("IMAGE ID") && table.contains("   BASE"), "{table}");
    assert!(line(&wharf, &["images", "--digests"]).contains("sha256:"));

    wharf.run(&["images", "--format", "{{.Nothing}}"]).fails_with(2, &["Nothing", "there are", "Repository"]);
    wharf.run(&["images", "--filter", "x=y"]).fails_with(2, &["dangling"]);
    wharf.run(&["images", "--filter", "since=none:1"]).fails_with(2, &["none:1"]);
}

#[test]
fn names_come_and_go() {
    let Some(wharf) = with_base() else { return };
    let id = line(&wharf, &["images", "-q"]);
    wharf.run(&["tag", &id, "other"]).success();
    wharf.run(&["tag", "base:1", "x@sha256:00"]).fails_with(2, &["x@sha256:00"]);
    wharf.run(&["rmi", &id]).fails_with(2, &["several names", "other:latest", "--force"]);
    let history = wharf.run(&["history", "other"]);
    history.fails_with(2, &["`other` is no command of `wharf history`", "`wharf image history other`"]);
    wharf.run(&["history", "nobody"]).fails_with(2, &["`nobody` is no command", "`wharf history --help`"]);
    wharf.run(&["image", "rm", "missing", "other", "gone"]).fails_with(2, &["missing", "gone"]);
    assert_eq!(wharf.run(&["images", "other"]).success().text().lines().count(), 1, "other is gone");
    wharf.run(&["tag", "base:1", "other"]).success();
    let removed = wharf.run(&["rmi", "--force", "--no-prune", "missing", &id]).success().text();
    assert!(removed.starts_with("Untagged: ") && removed.contains("\nDeleted: sha256:"), "{removed}");
    assert_eq!(wharf.run(&["images", "-q"]).success().text(), "");

    let Some(wharf) = with_base() else { return };
    wharf.dockerfile("FROM busybox\nLABEL a=1\n").build(&["-t", "base:1"]).success();
    assert!(line(&wharf, &["images"]).contains("<none>"));
    wharf.run(&["image", "prune"]).fails_with(2, &["--force"]);
    wharf.run(&["image", "prune", "--force", "--filter", "label=a"]).success();
    assert!(line(&wharf, &["images"]).contains("<none>"), "the label is that of the other image");
    wharf.run(&["image", "prune", "--force"]).success();
    assert_eq!(wharf.run(&["images", "-q"]).success().text().lines().count(), 1);
    wharf.run(&["image", "prune", "--all", "--force"]).success();
    assert_eq!(wharf.run(&["images", "-q"]).success().text(), "");
}

#[test]
fn an_image_says_what_it_is() {
    let Some(wharf) = with_app() else { return };
    let image = &json_of(&line(&wharf, &["inspect", "app:1"]))[0];
    assert_eq!(image["RepoTags"], json!(["app:1"]));
    assert_eq!(image["Config"]["Cmd"], json!(["cat", "/hello"]));
    assert_eq!(image["Config"]["Labels"], json!({"team": "red"}));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    if have(&["skopeo"]) {
        let store = format!("oci:{}:docker.io/library/app:1", wharf.path("store").display());
        let theirs = json_of(&tool("skopeo", &["inspect", "--config", &store]));
        assert_eq!(image["RootFS"]["Layers"], theirs["rootfs"]["diff_ids"]);
        assert_eq!(image["Created"], theirs["created"]);
    }
    let said = |format: &str| line(&wharf, &["image", "inspect", "-f", format, "app:1"]);
    assert_eq!(
        said("{{index .Config.Labels \"team\"}} {{len .RootFS.Layers}} {{join .Config.Cmd \" \"}}"),
        "red 3 cat /hello"
    );
    assert_eq!(said("{{json .Config.Volumes}}"), "null");
    wharf.run(&["inspect", "-f", "{{.Config.X}}", "app:1"]).fails_with(2, &["`X`", "Entrypoint"]);
    // What is there is shown, whatever is not.
    let some = wharf.run(&["inspect", "--type", "image", "-f", "{{.Id}}", "none", "app:1", "gone"]);
    assert_eq!(some.text().trim_end(), image["Id"].as_str().unwrap());
    some.fails_with(2, &["none", "gone"]);
    wharf.run(&["inspect", "--type", "container", "app:1"]).fails_with(2, &["no container `app:1`"]);

    let history: Vec<Value> = line(&wharf, &["image", "history", "--no-trunc", "--format", "json", "app:1"])
        .lines()
        .map(json_of)
        .collect();
    let by: Vec<&str> = history.iter().map(|row| row["CreatedBy"].as_str().unwrap()).collect();
    assert!(by[0].starts_with("CMD") && by[1].starts_with("COPY hello"), "{by:?}");
    assert_eq!(history[0]["Size"], "0B");
    assert_eq!(history[0]["ID"], image["Id"]);

    let tree = json_of(&line(&wharf, &["tree", "--format", "json", "app:1"]));
    let layers = tree[0]["layers"].as_array().unwrap();
    assert_eq!(layers[0]["shared_with"], json!(["docker.io/library/base:1"]));
    assert_eq!(layers[1]["shared_with"], json!([]));
    assert!(layers[2]["created_by"].as_str().unwrap().starts_with("COPY hello"), "{layers:?}");
    let text = line(&wharf, &["image", "tree", "app:1"]);
    assert!(text.contains("└─") && text.contains("shared with base:1"), "{text}");
}

#[test]
fn two_images_are_compared() {
    let Some(wharf) = with_app() else { return };
    wharf.file("hello", "other\n").dockerfile(
        "FROM busybox\nLABEL team=blue\nRUN echo one >/one\nENV A=1\nCOPY hello /\nRUN rm /bin/vi && echo two >/two && chmod 600 /one\n\
         CMD [\"cat\", \"/hello\"]\n",
    );
    wharf.build(&["-t", "app:2"]).success();
    let found = json_of(&line(&wharf, &["diff", "--format", "json", "app:1", "app:2"]));
    assert_eq!(found["shared_layers"], 2);
    let files = found["files"].as_array().unwrap();
    let seen: Vec<String> = files
        .iter()
        .map(|file| {
            format!(
                "{} {} {}",
                file["kind"].as_str().unwrap(),
                file["path"].as_str().unwrap(),
                file["changed"]
            )
        })
        .collect();
    let expected = [
        "removed /bin/vi null",
        "changed /hello [\"content\"]",
        "changed /one [\"mode\"]",
        "added /two null",
    ];
    assert_eq!(seen, expected);
    let config: Vec<&str> =
        found["config"].as_array().unwrap().iter().map(|field| field["path"].as_str().unwrap()).collect();
    assert!(config.contains(&"config.Labels.team"), "{config:?}");
    let text = line(&wharf, &["image", "diff", "app:1", "app:2"]);
    assert!(
        text.contains("- /bin/vi") && text.contains("~ /one (mode)") && text.contains("layers (2 shared)"),
        "{text}"
    );
    assert_eq!(line(&wharf, &["diff", "app:1", "app:1"]), "");
}

#[test]
fn archives_are_saved_for_others_and_loaded_again() {
    let Some(wharf) = with_app() else { return };
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    let at = |name: &str| wharf.path(name).display().to_string();
    wharf.run(&["save", "-o", "docker.tar", "app:1", "base:1"]).success();
    wharf.run(&["save", "--format", "oci", "-o", "oci.tar", "app:1"]).success();
    let id = line(&wharf, &["inspect", "-f", "{{.Id}}", "app:1"]);
    for reference in [
        format!("docker-archive:{}:docker.io/library/app:1", at("docker.tar")),
        format!("oci-archive:{}:1", at("oci.tar")),
    ] {
        let config = tool("skopeo", &["inspect", "--config", "--raw", &reference]);
        assert_eq!(json_of(&config)["config"]["Cmd"], json!(["cat", "/hello"]), "{reference}");
    }
    let names = python(
        "import sys,tarfile;print(' '.join(tarfile.open(sys.argv[1]).getnames()))",
        &[&at("docker.tar")],
    );
    assert!(names.contains("manifest.json") && names.contains("index.json"), "{names}");
    let blobs = names.matches("blobs/sha256/").count();
    assert_eq!(blobs, 3 + 2 + 2, "layers, configs and manifests, each once");

    // In every form, from a file and from a pipe.
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci-archive:{}:1", at("oci.tar")),
            &format!("docker-archive:{}:old:1", at("old.tar")),
        ],
    );
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci-archive:{}:1", at("oci.tar")),
            &format!("oci:{}:localhost/dir:1", at("layout")),
        ],
    );
    tool("tar", &["-C", &at("layout"), "-cf", &at("layout.tar"), "."]);
    for (program, suffix) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
        if have(&[program]) {
            let output = Command::new(program).args(["-c", &at("docker.tar")]).output().unwrap();
            fs::write(wharf.path(&format!("docker.tar.{suffix}")), output.stdout).unwrap();
        }
    }
    let forms = [
        "docker.tar",
        "oci.tar",
        "old.tar",
        "layout",
        "layout.tar",
        "docker.tar.gz",
        "docker.tar.xz",
        "docker.tar.zst",
    ];
    for (number, form) in forms.iter().enumerate().filter(|(_, form)| wharf.path(form).exists()) {
        let store = format!("store-{number}");
        let loaded = wharf.run_in(&store, &["load", "--input", form]).success().text();
        assert!(loaded.contains("Loaded image"), "{form}: {loaded}");
        let ids = wharf.run_in(&store, &["images", "-q", "--no-trunc"]).success().text();
        assert!(ids.contains(&id), "{form}: {ids}");
        let run = wharf.run_in(&store, &["run", "--rm", &id[7..19]]);
        assert_eq!(run.success().text(), "hello\n", "{form}");
        if wharf.path(form).is_file() {
            let command = wharf.command("piped", &["load", "-q"]);
            let piped = Outcome::of_with_input(command, &fs::read(wharf.path(form)).unwrap()).success();
            assert_eq!(piped.text(), loaded, "{form} through a pipe");
        }
    }
    // What is saved again is the same to the byte.
    wharf.run_in("store-0", &["save", "-o", "again.tar", "app:1", "base:1"]).success();
    let blobs = |name: &str| {
        let program =
            "import sys,tarfile\nt=tarfile.open(sys.argv[1])\nprint(sorted((m.name,m.size) for m in t))";
        python(program, &[&at(name)])
    };
    assert_eq!(blobs("again.tar"), blobs("docker.tar"));
    wharf.run(&["save", "-o", "x.tar", "none:1"]).fails_with(2, &["none:1"]);
    assert!(!wharf.path("x.tar").exists());
    wharf.run(&["load", "--input", "missing.tar"]).fails_with(4, &["missing.tar"]);
}

#[test]
fn a_tar_becomes_an_image_and_an_image_a_tar() {
    let Some(wharf) = with_app() else { return };
    let at = |name: &str| wharf.path(name).display().to_string();
    wharf.run(&["export", "-o", "rootfs.tar", "app:1"]).success();
    let names = python(
        "import sys,tarfile;print(' '.join(tarfile.open(sys.argv[1]).getnames()))",
        &[&at("rootfs.tar")],
    );
    assert!(
        names.contains("hello") && names.contains("bin/sh") && !names.contains("manifest"),
        "{}",
        names.len()
    );

    let tar = fs::read(wharf.path("rootfs.tar")).unwrap();
    let change = ["-c", "CMD [\"cat\", \"/one\"]", "-c", "ENV B=2", "--change", "LABEL made=by-hand"];
    let mut arguments = vec!["import", "-m", "by hand", "-", "new:1"];
    arguments.extend(change);
    let id = Outcome::of_with_input(wharf.command("other", &arguments), &tar).success().text();
    let said = |format: &str| {
        wharf.run_in("other", &["inspect", "-f", format, "new:1"]).success().text().trim_end().to_owned()
    };
    assert_eq!(said("{{.Id}}"), id.trim_end());
    assert_eq!(
        said("{{json .Config.Env}} {{.Comment}} {{.Config.Labels.made}}"),
        "[\"B=2\"] by hand by-hand"
    );
    assert_eq!(wharf.run_in("other", &["run", "--rm", "new:1"]).success().text(), "one\n");
    // The files are the same.
    wharf.run_in("other", &["export", "-o", "again.tar", "new:1"]).success();
    assert!(fs::read(wharf.path("again.tar")).unwrap() == tar, "other files come out than went in");

    wharf
        .run(&["import", "rootfs.tar", "x:1", "-c", "RUN true"])
        .fails_with(2, &["RUN true", "it is one of CMD"]);
    wharf.run(&["import", "https://example.com/x.tar"]).fails_with(2, &["URL"]);
    for (name, bytes) in [
        ("empty.tar", &b""[..]),
        ("text.tar", b"this is no tar, but a text that is long enough"),
        ("cut.tar", &tar[..700]),
    ] {
        fs::write(wharf.path(name), bytes).unwrap();
        wharf.run(&["import", name, "bad:1"]).fails_with(
            4,
            &["cannot", name.split('.').next().unwrap_or_default()]
                .map(|it| if it == "cannot" { "failed" } else { it }),
        );
    }
    assert_eq!(line(&wharf, &["images", "-q", "bad"]), "");
}

#[test]
fn images_travel_by_way_of_a_registry() {
    let Some(wharf) = with_app() else { return };
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let name = format!("{}/team/app:1", registry.address);
    let other = format!("{}/team/copy:1", registry.address);
    wharf.run(&["tag", "app:1", &name]).success();
    let pushed = line(&wharf, &["push", "-q", &name]);
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert!(
        pushed.ends_with(
            &python("import sys,hashlib;print(hashlib.sha256(sys.argv[1].encode()).hexdigest())", &[&raw])
                .trim_end()
                .to_owned()
        ),
        "{pushed}"
    );

    assert_eq!(wharf.run_in("other", &["pull", "-q", &name]).success().text().trim_end(), name);
    assert_eq!(wharf.run_in("other", &["run", "--rm", &name]).success().text(), "hello\n");
    wharf.run(&["pull", &format!("{}/none:1", registry.address)]).fails_with(4, &["none"]);
    wharf.run(&["push", "unknown/name:1"]).fails_with(2, &["unknown/name:1"]);

    // Between all places; what comes out is what went in.
    registry.log();
    let places = [
        format!("docker://{name}"),
        format!("docker://{other}"),
        "oci:layout:1".to_owned(),
        "oci-archive:a.tar:1".to_owned(),
        "docker-archive:b.tar:back:1".to_owned(),
        "back:1".to_owned(),
    ];
    let mut digests: Vec<String> = places
        .windows(2)
        .map(|pair| {
            // The name of an image in an archive is not a path.
            wharf.run_in("third", &["copy", "-q", &pair[0], &pair[1]]).success().text()
        })
        .collect();
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let log = registry.log();
    assert!(
        log.contains("mount=") && !log.contains("PATCH"),
        "the registry was not asked to take over blobs: {log}"
    );
    assert_eq!(wharf.run_in("third", &["run", "--rm", "back:1"]).success().text(), "hello\n");
    let layout = format!("oci:{}:1", wharf.path("layout").display());
    assert_eq!(
        json_of(&tool("skopeo", &["inspect", "--config", &layout]))["config"]["Cmd"],
        json!(["cat", "/hello"])
    );
    wharf.run(&["copy", "oci:layout:nope", "x:1"]).fails_with(4, &["nope", "1"]);
    wharf.run(&["copy", "http://x", "x:1"]).fails_with(2, &["docker://"]);
}

#[test]
fn indexes_are_put_together_and_pushed() {
    let Some(wharf) = with_base() else { return };
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    wharf.dockerfile("FROM scratch\nCOPY hello /\n").file("hello", "x");
    for (platform, tag) in [("linux/amd64", "one:amd64"), ("linux/arm64", "one:arm64")] {
        wharf.build(&["--platform", platform, "-t", tag]).success();
    }
    let name = format!("{}/index:1", registry.address);
    wharf.run(&["manifest", "create", &name, "one:amd64"]).success();
    wharf.run(&["manifest", "create", &name, "one:arm64"]).fails_with(2, &["--amend"]);
    wharf.run(&["manifest", "add", &name, "one:arm64"]).success();
    let arm = line(&wharf, &["inspect", "-f", "{{.Descriptor.digest}}", "one:arm64"]);
    wharf
        .run(&["manifest", "annotate", &name, "one:arm64", "--variant", "v8", "--annotation", "k=v"])
        .success();
    let index = json_of(&line(&wharf, &["manifest", "inspect", &name]));
    assert_eq!(index["manifests"][1]["digest"], arm.as_str());
    assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
    assert_eq!(index["manifests"][1]["annotations"]["k"], "v");
    assert_eq!(line(&wharf, &["images", "--format", "{{.Platform}}", "reference"]), "");
    let all = line(&wharf, &["images", "-a", "--format", "{{.Platform}}", &name]);
    assert_eq!(all.lines().count(), 3, "{all}");

    wharf.run(&["manifest", "push", "-q", &name]).success();
    let raw =
        json_of(&tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]));
    assert_eq!(raw["manifests"].as_array().unwrap().len(), 2);

    // All of it, or one platform; pulled, copied and saved.
    wharf.run_in("other", &["pull", "-q", "--all-platforms", &name]).success();
    wharf.run_in("other", &["save", "-q", "-o", "index.tar", &name]).success();
    let theirs = tool(
        "skopeo",
        &["inspect", "--raw", &format!("oci-archive:{}:1", wharf.path("index.tar").display())],
    );
    assert_eq!(json_of(&theirs), raw);
    wharf.run_in("third", &["load", "-q", "--input", "index.tar", "--platform", "linux/arm64"]).success();
    let said = |format: &str| wharf.run_in("third", &["inspect", "-f", format, &name]).success().text();
    assert_eq!(said("{{.Architecture}} {{.Descriptor.digest}}").trim_end(), format!("arm64 {arm}"));
    wharf
        .run_in("third", &["pull", "--platform", "linux/s390x", &name])
        .fails_with(4, &["s390x", "linux/amd64"]);

    wharf.run(&["manifest", "rm", &name, &arm]).success();
    wharf.run(&["manifest", "rm", &name, &arm]).fails_with(2, &["no entry"]);
    wharf.run(&["manifest", "add", "one:amd64", "one:arm64"]).fails_with(2, &["not an index"]);
    wharf.run(&["manifest", "rm", &name]).success();
    assert_eq!(line(&wharf, &["images", "-q", &name]), "");
    // Not in the store any more: the registry is asked.
    assert_eq!(json_of(&line(&wharf, &["manifest", "inspect", &name])), raw);
}

#[test]
fn an_image_for_another_platform_is_refused() {
    let Some(wharf) = with_base() else { return };
    let [own, other] = match std::env::consts::ARCH {
        "aarch64" => ["linux/arm64", "linux/amd64"],
        _ => ["linux/amd64", "linux/arm64"],
    };
    wharf.run(&["save", "-q", "-o", "base.tar", "base:1"]).success();
    for (command, code) in [
        (&["export", "-q", "-o", "out.tar", "base:1"][..], 2),
        (&["copy", "-q", "base:1", "oci:out"], 4),
        (&["copy", "-q", "base:1", "oci-archive:out.tar"], 4),
        (&["copy", "-q", "docker-archive:base.tar", "copied:1"], 4),
        (&["save", "-q", "-o", "out.tar", "base:1"], 4),
        (&["load", "-q", "--input", "base.tar"], 4),
        (&["inspect", "base:1"], 2),
    ] {
        let with = |platform: &str| wharf.run(&[command, &["--platform", platform]].concat());
        with(other).fails_with(code, &["has no image for", other, "it has", own]);
        for left in ["out.tar", "out"] {
            assert!(!wharf.path(left).exists(), "{command:?}");
        }
        with(own).success();
        let _ = fs::remove_file(wharf.path("out.tar"));
        let _ = fs::remove_dir_all(wharf.path("out"));
    }
    assert!(!wharf.run(&["images"]).success().text().contains("<none>"));
}
