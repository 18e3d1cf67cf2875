//! What one machine has built, another does not build again: `--cache-to` and `--cache-from`. Machines are stores here.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_cache::Digest;

use crate::harness::{Outcome, Registry, Step, Wharf, busybox_layout, have, tool};

const DOCKERFILE: &str = "\
FROM busybox AS tools
COPY src /src
RUN mkdir -p /out/deep && cat /src >/out/deep/tool && touch /tmp/x && rm /tmp/x
RUN wc -c </src >/out/size
FROM busybox
RUN echo base >/base
COPY --from=tools /out /out
COPY --link late /late
RUN cat /out/deep/tool /out/size /late >/all
";

const TOOLS: [&str; 3] = [
    "COPY src /src",
    "RUN mkdir -p /out/deep && cat /src >/out/deep/tool && touch /tmp/x && rm /tmp/x",
    "RUN wc -c </src >/out/size",
];

/// A machine that has built the tree once, with `arguments`.
fn built(arguments: &[&str]) -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("src", "tool\n").file("late", "late\n").dockerfile(DOCKERFILE);
    let mut all = vec!["-t", "app", "--iidfile", "first"];
    all.extend(arguments);
    let outcome = wharf.build(&all).success();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    Some(wharf)
}

/// A cache in the directory `cache` beside the context.
fn to(wharf: &Wharf, more: &str) -> String {
    format!("type=local,dest={}{more}", wharf.path("cache").display())
}

fn from(wharf: &Wharf) -> String {
    format!("type=local,src={}", wharf.path("cache").display())
}

/// A machine with everything in `cache`.
fn built_to_directory(more: &str) -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("src", "tool\n").file("late", "late\n").dockerfile(DOCKERFILE);
    let outcome =
        wharf.build(&["-t", "app", "--iidfile", "first", "--cache-to", &to(&wharf, more)]).success();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    Some(wharf)
}

/// Builds on an empty machine with this cache: nothing runs, and the image is the same.
#[track_caller]
fn check_empty_machine(wharf: &Wharf, store: &str, cache: &str) -> Outcome {
    let outcome =
        wharf.build_in(store, &["-t", "app", "--iidfile", "second", "--cache-from", cache]).success();
    outcome.steps().check_ran(&[]);
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    let id = |name| fs::read_to_string(wharf.path(name)).unwrap();
    assert_eq!(id("first"), id("second"));
    let all = wharf.run_in(store, &["run", "--rm", "app", "cat", "/all"]).success().text();
    assert_eq!(all, "tool\n5\nlate\n");
    outcome
}

fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).map_or_else(|_| Vec::new(), |it| it.map(|entry| entry.unwrap().path()).collect())
}

#[test]
fn an_empty_machine_runs_nothing_with_a_directory() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    check_empty_machine(&wharf, "other", &from(&wharf));
}

#[test]
fn an_empty_machine_runs_nothing_with_a_registry() {
    let Some(registry) = Registry::start() else { return };
    for (name, mode) in [("max", ",mode=max"), ("min", "")] {
        let cache = format!("type=registry,ref={}/app:{name}", registry.address);
        let Some(wharf) = built(&["--cache-to", &format!("{cache}{mode}")]) else { return };
        check_empty_machine(&wharf, "other", &cache);
        // On a full local hit nobody is asked, and what has not changed is not written.
        registry.log();
        let outcome = wharf.build_in("other", &["-t", "app", "--cache-from", &cache]).success();
        outcome.steps().check_ran(&[]);
        assert!(!registry.log().contains("/v2/app"));
        wharf.build(&["-t", "app", "--cache-to", &format!("{cache}{mode}")]).success();
        let log = registry.log();
        assert!(!log.contains("PUT") && !log.contains("POST") && log.contains("GET"), "{log}");
    }
}

#[test]
fn an_empty_machine_runs_nothing_with_the_image_itself() {
    let Some(registry) = Registry::start() else { return };
    let image = format!("{}/app:v1", registry.address);
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("src", "tool\n").file("late", "late\n").dockerfile(DOCKERFILE);
    wharf.build(&["-t", &image, "--push", "--iidfile", "first", "--cache-to", "type=inline"]).success();
    // The cache of an image has the image's steps; those before it are not needed.
    let outcome = wharf
        .build_in(
            "other",
            &["-t", "app", "--iidfile", "second", "--cache-from", &image, "--cache-to", "type=inline"],
        )
        .success();
    outcome.steps().check_ran(&[]);
    let id = |name| fs::read_to_string(wharf.path(name)).unwrap();
    assert_eq!(id("first"), id("second"));
    if have(&["skopeo"]) {
        let config = tool(
            "skopeo",
            &["inspect", "--tls-verify=false", "--config", "--raw", &format!("docker://{image}")],
        );
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["wharf.cache.v1"]["version"], json!(1), "{config}");
    }
}

#[test]
fn files_are_brought_when_they_are_read() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    let cache = from(&wharf);
    // Files are wanted of nothing, blobs of the image's layers alone.
    check_lazy(&wharf, "other", &cache);
    assert_eq!(entries(&wharf.path("other/snapshots")), [] as [PathBuf; 0]);

    // The last step reads its base; the other stage stays where it is.
    wharf.file("late", "later\n");
    let outcome = wharf.build_in("other", &["-t", "app", "--cache-from", &cache]).success();
    outcome.steps().check_ran(&[
        "COPY --link late /late",
        "LINK COPY --link late /late",
        "RUN cat /out/deep/tool /out/size /late >/all",
    ]);
    let all = wharf.run_in("other", &["run", "--rm", "app", "cat", "/all"]).success().text();
    assert_eq!(all, "tool\n5\nlater\n");
    assert_eq!(entries(&wharf.path("other/snapshots")).len(), 5);
}

#[track_caller]
fn check_lazy(wharf: &Wharf, store: &str, cache: &str) {
    let outcome = wharf.build_in(store, &["-t", "app", "--cache-from", cache]).success();
    outcome.steps().check_ran(&[]);
    let manifest = tool_layers(&wharf.path(store));
    for layer in &manifest {
        assert!(wharf.path(store).join("blobs/sha256").join(layer).is_file(), "{layer} is not here");
    }
    // Layers, manifest and config of the image, and manifest and config of its base.
    assert_eq!(entries(&wharf.path(store).join("blobs/sha256")).len(), manifest.len() + 4);
}

/// The layers of the only image of a layout, as hex.
fn tool_layers(layout: &Path) -> Vec<String> {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let index = read(layout.join("index.json"));
    let manifest = index["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let manifest = read(layout.join("blobs/sha256").join(manifest));
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap()[7..].to_owned()).collect()
}

#[test]
fn a_step_that_makes_the_same_files_again_stops_the_rebuild_on_another_machine() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    // As many bytes as before: `size` stays what it is. What reads it alone is found by content.
    wharf.dockerfile(
        "FROM busybox AS tools\nCOPY src /src\nRUN wc -c </src >/size\n\
         FROM busybox\nCOPY --from=tools /size /\nRUN cat /size >/again\n",
    );
    let to = to(&wharf, ",mode=max");
    wharf.build(&["-t", "app", "--cache-to", &to]).success();
    wharf.file("src", "TOOL\n");
    let steps = wharf.build_in("other", &["-t", "app", "--cache-from", &from(&wharf)]).success().steps();
    steps.check_ran(&["COPY src /src", "RUN wc -c </src >/size"]);
}

#[test]
fn min_has_the_steps_of_the_image_and_max_all() {
    let Some(wharf) = built_to_directory("") else { return };
    check_empty_machine(&wharf, "other", &from(&wharf));
    // The steps that only the first stage has are not in it.
    let target = ["-t", "tools", "--target", "tools"];
    let build = |store: &str| {
        let cache = from(&wharf);
        let arguments = [&target[..], &["--cache-from", &cache]].concat();
        wharf.build_in(store, &arguments).success().steps()
    };
    build("third").check_ran(&TOOLS);
    // A build that looks at none of them still hands them on.
    wharf.build(&["-t", "app", "--cache-to", &to(&wharf, ",mode=max")]).success().steps().check_ran(&[]);
    build("fourth").check_ran(&[]);
}

#[test]
fn what_came_from_elsewhere_is_handed_on() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    let second = format!("type=local,dest={},mode=max", wharf.path("second-cache").display());
    let arguments = ["-t", "app", "--cache-from", &from(&wharf), "--cache-to", &second];
    wharf.build_in("other", &arguments).success().steps().check_ran(&[]);
    fs::remove_dir_all(wharf.path("cache")).unwrap();
    let cache = format!("type=local,src={}", wharf.path("second-cache").display());
    check_empty_machine(&wharf, "third", &cache);
    let steps =
        wharf.build_in("third", &["-t", "t", "--target", "tools", "--cache-from", &cache]).success().steps();
    steps.check_ran(&[]);
}

#[test]
fn several_caches_are_asked_and_one_that_fails_is_told_once() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    let (missing, good) = (format!("type=local,src={}", wharf.path("nowhere").display()), from(&wharf));
    let unreachable = "type=registry,ref=127.0.0.1:1/app:cache";
    let arguments =
        ["-t", "app", "--cache-from", &missing, "--cache-from", unreachable, "--cache-from", &good];
    let outcome = wharf.build_in("other", &arguments).success();
    outcome.steps().check_ran(&[]);
    assert_eq!(
        outcome.stderr.matches("warning: there is no cache in directory ").count(),
        1,
        "{}",
        outcome.stderr
    );
    let told = "warning: the cache in registry 127.0.0.1:1/app:cache was not used: ";
    assert_eq!(outcome.stderr.matches(told).count(), 1, "{}", outcome.stderr);
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning_unless_it_must_be() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN true\n").file("in-the-way", "");
    let to = format!("type=local,dest={}", wharf.context().join("in-the-way").display());
    let outcome = wharf.build(&["-t", "app", "--cache-to", &to]).success();
    assert_eq!(outcome.stderr.matches("was not written: ").count(), 1, "{}", outcome.stderr);
    wharf.build(&["-t", "app", "--cache-to", &format!("{to},ignore-error=true")]).success();
    let outcome = wharf.build(&["-t", "app", "--cache-to", &format!("{to},ignore-error=false")]).failure();
    assert!(outcome.stderr.contains("was not written: "), "{}", outcome.stderr);
}

#[test]
fn layers_have_the_form_that_was_asked_for() {
    for (more, suffix) in [
        (",compression=zstd", "+zstd"),
        (",compression=uncompressed,force-compression=true", ".tar"),
        (",compression=gzip,compression-level=9", "+gzip"),
    ] {
        let Some(wharf) = built_to_directory(&format!(",mode=max{more}")) else { return };
        let types: Vec<String> = config(&wharf)["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap().to_owned())
            .collect();
        let others = types.iter().filter(|it| !it.ends_with(suffix)).count();
        // The base came as gzip, and stays so unless it must not.
        let base = usize::from(more == ",compression=zstd");
        assert_eq!(others, base, "{more}: {types:?}");
        let outcome = wharf.build_in("other", &["-t", "app", "--cache-from", &from(&wharf)]).success();
        outcome.steps().check_ran(&[]);
        let all = wharf.run_in("other", &["run", "--rm", "app", "cat", "/all"]).success().text();
        assert_eq!(all, "tool\n5\nlate\n");
    }
}

#[test]
fn reset_deletes_what_nothing_names() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    let blobs = || entries(&wharf.path("cache/blobs/sha256")).len();
    let before = blobs();
    wharf.build(&["-t", "app", "--cache-to", &to(&wharf, ",tag=min")]).success();
    assert!(blobs() > before);
    wharf.file("late", "later\n").build(&["-t", "app", "--cache-to", &to(&wharf, "")]).success();
    let grown = blobs();
    wharf.file("late", "latest\n").build(&["-t", "app", "--cache-to", &to(&wharf, ",reset=true")]).success();
    assert!(blobs() < grown, "{} of {grown}", blobs());
    let cache = format!("{},tag=min", from(&wharf));
    wharf.file("late", "late\n");
    check_empty_machine(&wharf, "other", &cache);
}

#[test]
fn an_epoch_is_kept() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    // Layers of that form are not in the cache: they are made of the files.
    let read = |name: &str| fs::read_to_string(wharf.path(name)).unwrap();
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=1000000000";
    wharf.build(&["-t", "app", "--iidfile", "one", epoch]).success().steps().check_ran(&[]);
    let arguments = ["-t", "app", "--iidfile", "two", epoch, "--cache-from", &from(&wharf)];
    wharf.build_in("other", &arguments).success().steps().check_ran(&[]);
    assert_eq!(read("one"), read("two"));
}

/// The config of the cache in the directory.
fn config(wharf: &Wharf) -> Value {
    serde_json::from_slice(&fs::read(config_path(wharf)).unwrap()).unwrap()
}

fn config_path(wharf: &Wharf) -> PathBuf {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |digest: &Value| wharf.path("cache/blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let index = read(wharf.path("cache/index.json"));
    let manifest = read(blob(&index["manifests"][0]["digest"]));
    blob(&manifest["config"]["digest"])
}

/// Writes the cache of the directory anew, its config changed, with all digests as they should be.
pub(crate) fn rewrite(wharf: &Wharf, change: impl FnOnce(&mut Value)) {
    let mut config = config(wharf);
    change(&mut config);
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(wharf.path("cache/blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "digest": digest.to_string(), "size": bytes.len() })
    };
    let mut descriptor = put(config.to_string().as_bytes());
    descriptor["mediaType"] = json!("application/vnd.wharf.cache.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor, "layers": [],
    });
    let mut descriptor = put(manifest.to_string().as_bytes());
    descriptor["mediaType"] = manifest["mediaType"].clone();
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(wharf.path("cache/index.json"), index.to_string()).unwrap();
}

/// A cache that lies is told once, and everything is built as if there were none.
#[track_caller]
fn check_refused(wharf: &Wharf, words: &str) {
    let outcome =
        wharf.build_in("other", &["-t", "app", "--cache-from", &from(wharf), "-o", "files"]).success();
    assert_eq!(outcome.stderr.matches(words).count(), 1, "{words}: {}", outcome.stderr);
    assert_eq!(fs::read_to_string(wharf.path("files/all")).unwrap(), "tool\n5\nlate\n");
    // What was refused is not believed later.
    fs::remove_dir_all(wharf.path("cache")).unwrap();
    let steps = wharf.build_in("other", &["-t", "app", "-o", "again"]).success().steps();
    assert_eq!(fs::read_to_string(wharf.path("again/all")).unwrap(), "tool\n5\nlate\n");
    assert!(steps.that(Step::Failed).is_empty());
}

#[test]
fn a_cache_that_lies_is_refused() {
    let layers = |config: &mut Value, change: &dyn Fn(&mut Value)| {
        config["layers"].as_array_mut().unwrap().iter_mut().for_each(change);
    };
    let other = || json!(Digest::of(b"other").to_string());
    let no_longer = "is not used any further: ";
    // Of a diffID, of the content, of a size, of the media type.
    type Lie<'a> = (&'a dyn Fn(&mut Value), &'a str);
    let lies: [Lie<'_>; 5] = [
        (&|config| layers(config, &|layer| layer["diffId"] = other()), no_longer),
        (&|config| layers(config, &|layer| layer["content"] = json!("00".repeat(32))), no_longer),
        (&|config| layers(config, &|layer| layer["size"] = json!(7)), no_longer),
        (
            &|config| {
                layers(config, &|layer| {
                    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
                })
            },
            no_longer,
        ),
        (
            &|config| {
                for record in config["records"].as_array_mut().unwrap() {
                    record["op"] = json!("00".repeat(32));
                }
            },
            "records of the cache in directory",
        ),
    ];
    for (lie, words) in lies {
        let Some(wharf) = built_to_directory(",mode=max") else { return };
        rewrite(&wharf, lie);
        check_refused(&wharf, words);
    }
}

/// Where every step hits, no file of a layer is looked at: its blob alone goes into the image.
#[test]
fn a_cache_that_lies_about_layers_spoils_no_image() {
    type Lie<'a> = &'a dyn Fn(&mut Value);
    let lies: [Lie<'_>; 3] = [
        &|config| {
            let layers = config["layers"].as_array_mut().unwrap();
            let last = layers.len() - 1;
            let (digest, size) = (layers[last]["digest"].clone(), layers[last]["size"].clone());
            for field in ["digest", "size"] {
                layers[last][field] = layers[last - 1][field].clone();
            }
            layers[last - 1]["digest"] = digest;
            layers[last - 1]["size"] = size;
        },
        &|config| {
            for layer in config["layers"].as_array_mut().unwrap() {
                layer["diffId"] = json!(Digest::of(b"other").to_string());
            }
        },
        &|config| {
            for layer in config["layers"].as_array_mut().unwrap() {
                layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
            }
        },
    ];
    for lie in lies {
        let Some(wharf) = built_to_directory(",mode=max") else { return };
        rewrite(&wharf, lie);
        let built = wharf.build_in("other", &["-t", "app", "--cache-from", &from(&wharf)]).success();
        assert!(built.stderr.contains("is not used any further"), "{}", built.stderr);
        wharf.run_in("other", &["run", "--rm", "app", "true"]).success();
        let archive = wharf.path("image");
        let output = format!("type=oci,tar=false,dest={}", archive.display());
        wharf.build_in("other", &["-o", &output, "-t", "app"]).success();
        let bundle = wharf.path("bundle");
        let image = format!("{}:latest", archive.display());
        tool("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    }
}

#[test]
fn a_damaged_layer_is_written_again() {
    let Some(wharf) = built_to_directory(",mode=max") else { return };
    // So that a layer that is made again is the same blob.
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=1000000000";
    let (from, to) = (from(&wharf), to(&wharf, ",mode=max"));
    wharf.build(&["-t", "app", epoch, "--cache-to", &to]).success();
    for layer in config(&wharf)["layers"].as_array().unwrap() {
        let hex = &layer["digest"].as_str().unwrap()[7..];
        let path = wharf.path("cache/blobs/sha256").join(hex);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    wharf.build_in("other", &["-t", "app", epoch, "--cache-from", &from, "--cache-to", &to]).success();
    let healed = wharf.build_in("third", &["-t", "app", epoch, "--cache-from", &from]).success();
    healed.steps().check_ran(&[]);
    assert!(!healed.stderr.contains("warning"), "{}", healed.stderr);
}

#[test]
fn what_is_broken_is_refused() {
    type Damage<'a> = (&'a dyn Fn(&Wharf), &'a str);
    let each_layer = |wharf: &Wharf, change: &dyn Fn(&Path)| {
        for layer in config(wharf)["layers"].as_array().unwrap() {
            let hex = layer["digest"].as_str().unwrap()[7..].to_owned();
            change(&wharf.path("cache/blobs/sha256").join(hex));
        }
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cases: [Damage<'_>; 6] = [
        (&|wharf| each_layer(wharf, &flip), "is not used any further: "),
        (&|wharf| each_layer(wharf, &|path| fs::write(path, "x").unwrap()), "is not used any further: "),
        (&|wharf| each_layer(wharf, &|path| fs::remove_file(path).unwrap()), "is not used any further: "),
        (&|wharf| flip(&config_path(wharf)), "was not used: "),
        (&|wharf| fs::write(wharf.path("cache/index.json"), "{").unwrap(), "was not used: "),
        (&|wharf| rewrite(wharf, |config| config["version"] = json!(9)), "this wharf reads version 1"),
    ];
    for (damage, words) in cases {
        let Some(wharf) = built_to_directory(",mode=max") else { return };
        damage(&wharf);
        check_refused(&wharf, words);
    }
}

#[test]
fn an_inline_cache_without_an_image_is_told() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("src", "tool\n").file("late", "late\n").dockerfile(DOCKERFILE);
    let words = "the inline cache was not written: no output is an image";
    let outcome = wharf.build(&["-o", "files", "--cache-to", "type=inline"]).success();
    assert_eq!(outcome.stderr.matches(words).count(), 1, "{}", outcome.stderr);
    let required = ["-o", "more", "--cache-to", "type=inline,ignore-error=false"];
    let outcome = wharf.build(&required).failure();
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    assert!(!wharf.path("more").exists());
}
