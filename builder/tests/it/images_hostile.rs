//! Archives and layouts that are broken, cut off, that lie or want to do harm: each is refused in words, and leaves nothing.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::harness::{Wharf, have};
use crate::registry_fixture::{Answer, ScriptedRegistry};

pub(crate) const SOURCE: i32 = 4;

pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An archive in the making: names and contents in their order.
#[derive(Clone, Default)]
pub(crate) struct Pack(pub(crate) Vec<(String, EntryType, Vec<u8>)>);

impl Pack {
    pub(crate) fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push((name.to_owned(), EntryType::Regular, bytes.into()));
        self
    }

    pub(crate) fn link(mut self, name: &str, target: &str) -> Self {
        self.0.push((name.to_owned(), EntryType::Symlink, target.into()));
        self
    }

    /// A blob under its true name.
    fn blob(self, bytes: &[u8]) -> Self {
        let name = format!("blobs/sha256/{}", &sha256(bytes)[7..]);
        self.with(&name, bytes)
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(it, ..)| it != name);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, content) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let data: &[u8] = match kind {
                EntryType::Symlink => {
                    header.set_link_name(String::from_utf8(content.clone()).unwrap()).unwrap();
                    &[]
                }
                _ => content,
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }
}

/// A layer with one file.
pub(crate) fn layer() -> Vec<u8> {
    Pack::default().with("file", "text").bytes()
}

pub(crate) fn config(diff_ids: &[String]) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

pub(crate) fn manifest(config: &[u8], layers: &[Value]) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config), "layers": layers,
    });
    manifest.to_string().into_bytes()
}

pub(crate) fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({"io.containerd.image.name": name});
    entry
}

/// A sound archive in Docker's old form.
pub(crate) fn docker(diff_id: &str) -> Pack {
    Pack::default()
        .with("0/layer.tar", layer())
        .with("c.json", config(&[diff_id.to_owned()]))
        .with("manifest.json", docker_manifest("c.json", "app:1", &["0/layer.tar"]))
}

fn docker_manifest(config: &str, name: &str, layers: &[&str]) -> Vec<u8> {
    json!([{"Config": config, "RepoTags": [name], "Layers": layers}]).to_string().into_bytes()
}

/// A layout of these documents, the last of which is named.
pub(crate) fn layout(blobs: &[&[u8]], entry: Value) -> Pack {
    let pack = Pack::default().with("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let pack = blobs.iter().fold(pack, |pack, blob| pack.blob(blob));
    pack.with("index.json", index(&[named(entry, "docker.io/library/app:1")]))
}

/// A layout with a manifest that names these layers.
pub(crate) fn layout_of(config: &[u8], layers: &[Value], blobs: &[&[u8]]) -> Pack {
    let manifest = manifest(config, layers);
    let mut all = vec![config, &manifest];
    all.extend(blobs);
    layout(&all, descriptor("application/vnd.oci.image.manifest.v1+json", &manifest))
}

pub(crate) fn check(wharf: &Wharf, what: &str, archive: &[u8], words: &[&str]) {
    fs::write(wharf.path("bad.tar"), archive).unwrap();
    let outcome = wharf.run(&["load", "-q", "--input", "bad.tar"]);
    assert_eq!(outcome.code, Some(SOURCE), "{what}: {}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{what}: `{word}` is not in {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    assert_eq!(wharf.run(&["images", "-q"]).success().text(), "", "{what} left an image");
    assert_eq!(wharf.leftovers("store"), [""; 0], "{what}");
}

#[test]
fn what_the_other_cases_are_made_of_is_sound() {
    let Some(wharf) = Wharf::new() else { return };
    let (layer, id) = (layer(), sha256(&layer()));
    let sound = [
        docker(&id),
        // Docker saves a layer that two images have as a link.
        docker(&id)
            .without("manifest.json")
            .link("1/layer.tar", "../0/layer.tar")
            .with("manifest.json", docker_manifest("c.json", "app:1", &["1/layer.tar"])),
        layout_of(&config(std::slice::from_ref(&id)), &[descriptor(LAYER, &layer)], &[&layer]),
    ];
    for (number, pack) in sound.iter().enumerate() {
        let store = format!("store-{number}");
        fs::write(wharf.path("good.tar"), pack.bytes()).unwrap();
        let loaded = wharf.run_in(&store, &["load", "-q", "--input", "good.tar"]).success().text();
        assert_eq!(loaded, "Loaded image: app:1\n", "{number}");
        wharf.run_in(&store, &["export", "-q", "-o", "out.tar", "app:1"]).success();
    }
}

#[test]
fn tars_that_are_broken() {
    let Some(wharf) = Wharf::new() else { return };
    let id = sha256(&layer());
    let good = docker(&id).bytes();
    check(&wharf, "nothing", b"", &["has no entries"]);
    check(&wharf, "a text", b"this is a text", &["is not a tar"]);
    check(&wharf, "a long text", &[b'x'; 5000], &["is not a tar"]);
    check(&wharf, "only an end", &[0; 1024], &["has no entries"]);
    check(&wharf, "cut off in a file", &good[..700], &["is cut off"]);
    check(&wharf, "cut off in a header", &good[..good.len() - 1024 - 512 - 200], &["cut off"]);
    let mut damaged = good.clone();
    let second = damaged.windows(6).position(|it| it == b"c.json").unwrap();
    damaged[second + 3] ^= 1;
    check(&wharf, "a damaged header", &damaged, &["damaged tar header"]);

    let mut lying = Header::new_gnu();
    lying.set_path("manifest.json").unwrap();
    lying.set_size(1 << 40);
    lying.set_cksum();
    check(&wharf, "a size of a terabyte", lying.as_bytes(), &["lies about the size"]);
    lying.as_mut_bytes()[124..136].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    lying.set_cksum();
    check(&wharf, "a size of all ones", lying.as_bytes(), &["is"]);

    let mut long = Header::new_gnu();
    long.set_path("x").unwrap();
    long.set_entry_type(EntryType::GNULongName);
    long.set_size(1 << 20);
    long.set_cksum();
    let long = [long.as_bytes().as_slice(), &vec![b'a'; 1 << 20]].concat();
    check(&wharf, "a long name", &long, &["more than 65536 bytes"]);

    let many = Pack((0..=100_000).map(|_| ("x".to_owned(), EntryType::Regular, Vec::new())).collect());
    check(&wharf, "too many entries", &many.bytes(), &["more than 100000 entries"]);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let gzip = gzip.finish().unwrap();
    check(&wharf, "a gzip that is cut off", &gzip[..gzip.len() / 2], &["cannot read"]);
    if have(&["zstd"]) {
        fs::write(wharf.path("zeros"), &good).unwrap();
        fs::OpenOptions::new().write(true).open(wharf.path("zeros")).unwrap().set_len(400 << 20).unwrap();
        let zeros = wharf.path("zeros").display().to_string();
        crate::harness::tool("zstd", &["-q", "-f", &zeros, "-o", &format!("{zeros}.zst")]);
        let bomb = fs::read(wharf.path("zeros.zst")).unwrap();
        check(&wharf, "a bomb", &bomb, &["times its size"]);
    }
}

#[test]
fn archives_of_docker_that_lie() {
    let Some(wharf) = Wharf::new() else { return };
    let id = sha256(&layer());
    let with_manifest =
        |manifest: &[u8]| docker(&id).without("manifest.json").with("manifest.json", manifest).bytes();
    let none = Pack::default().with("a", "b").bytes();
    check(&wharf, "no lists", &none, &["neither index.json nor manifest.json"]);
    let ancient = Pack::default().with("repositories", "{}").bytes();
    check(&wharf, "an ancient one", &ancient, &["before 2016"]);
    check(&wharf, "no JSON", &with_manifest(b"[{"), &["manifest.json that cannot be read"]);
    check(&wharf, "no images", &with_manifest(b"[]"), &["has no images"]);
    check(&wharf, "a huge list", &with_manifest(&vec![b' '; 5 << 20]), &["manifest.json", "more than"]);
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    check(&wharf, "a deep list", &with_manifest(&deep), &["manifest.json that cannot be read"]);
    let twice = docker(&id).with("manifest.json", "[]").bytes();
    check(&wharf, "two lists", &twice, &["`manifest.json` twice"]);

    let named = |name: &str| with_manifest(&docker_manifest("c.json", name, &["0/layer.tar"]));
    for name in ["../../etc/x", "UPPER:1", "a:b:c", "", "a\u{1b}[2J"] {
        check(&wharf, name, &named(name), &["a name that is none"]);
    }
    let layered = |layers: &[&str]| with_manifest(&docker_manifest("c.json", "app:1", layers));
    for path in ["../../../etc/passwd", "/etc/passwd", "missing", "0", ""] {
        check(&wharf, path, &layered(&[path]), &["has no `"]);
    }
    check(&wharf, "too many layers", &layered(&["0/layer.tar"; 1001]), &["more than 1000 layers"]);
    check(&wharf, "more layers than diffIDs", &layered(&["0/layer.tar"; 2]), &["2 layers", "names 1"]);
    let config_at = |path: &str| with_manifest(&docker_manifest(path, "app:1", &["0/layer.tar"]));
    check(&wharf, "no config", &config_at("x.json"), &["has no `x.json`"]);
    check(&wharf, "a config that is a layer", &config_at("0/layer.tar"), &["the config of"]);

    let to_passwd = docker(&id).without("0/layer.tar").link("0/layer.tar", "/etc/passwd").bytes();
    check(&wharf, "a link out of it", &to_passwd, &["has no `0/layer.tar`"]);
    let around =
        docker(&id).without("0/layer.tar").link("0/layer.tar", "../1").link("1", "0/layer.tar").bytes();
    check(&wharf, "links in a circle", &around, &["has no `0/layer.tar`"]);

    check(&wharf, "another diffID", &docker(&sha256(b"x")).bytes(), &["diffID"]);
    check(&wharf, "a diffID that is none", &docker("sha256:00").bytes(), &["1 layers", "names 1"]);
    let big = docker(&id).without("c.json").with("c.json", vec![b' '; 9 << 20]).bytes();
    check(&wharf, "a huge config", &big, &["c.json", "more than"]);

    // The first image is sound, the second is not: neither stays.
    let both = docker(&id).without("manifest.json").with("d.json", config(&[sha256(b"x")]));
    let both = both.with(
        "manifest.json",
        json!([
            {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar"]},
            {"Config": "d.json", "RepoTags": ["app:2"], "Layers": ["0/missing"]},
        ])
        .to_string(),
    );
    check(&wharf, "one of two", &both.bytes(), &["0/missing"]);
}

#[test]
fn layouts_that_lie() {
    let Some(wharf) = Wharf::new() else { return };
    let (layer, id) = (layer(), sha256(&layer()));
    let (config, layers) = (config(&[id]), [descriptor(LAYER, &layer)]);
    let sound = || layout_of(&config, &layers, &[&layer]);
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", &sha256(bytes)[7..]);

    let version = sound().without("oci-layout").with("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#);
    check(&wharf, "another version", &version.bytes(), &["not of version 1"]);
    let empty = sound().without("index.json").with("index.json", index(&[]));
    check(&wharf, "no images", &empty.bytes(), &["has no images"]);
    let entry = descriptor(manifest_type, &manifest(&config, &layers));
    let many = sound().without("index.json").with("index.json", index(&vec![entry.clone(); 1001]));
    check(&wharf, "too many images", &many.bytes(), &["more than 1000 entries"]);
    let mut lying = entry.clone();
    lying["size"] = json!(1);
    let lying = sound().without("index.json").with("index.json", index(&[lying]));
    check(&wharf, "a size that is not so", &lying.bytes(), &["has 1 bytes, and it has not"]);
    let bad_name = sound().without("index.json").with("index.json", index(&[named(entry, "a/../b:1")]));
    check(&wharf, "a bad name", &bad_name.bytes(), &["a name that is none"]);

    for (what, blob) in [("config", config.as_slice()), ("layer", layer.as_slice())] {
        check(&wharf, what, &sound().without(&path(blob)).bytes(), &["is missing"]);
        let mut other = blob.to_vec();
        other[10] ^= 1;
        let other = sound().without(&path(blob)).with(&path(blob), other);
        check(&wharf, what, &other.bytes(), &["digest"]);
        let short = sound().without(&path(blob)).with(&path(blob), &blob[1..]);
        check(&wharf, what, &short.bytes(), &["digest"]);
        let long = sound().without(&path(blob)).with(&path(blob), [blob, b"x"].concat());
        check(&wharf, what, &long.bytes(), &["longer than"]);
    }
    let manifest_path = path(&manifest(&config, &layers));
    let other = sound().without(&manifest_path).with(&manifest_path, "{}");
    check(&wharf, "another manifest", &other.bytes(), &["digest"]);
    let none = sound().without(&manifest_path);
    check(&wharf, "no manifest", &none.bytes(), &["manifest", "is missing"]);

    let kind = layout_of(&config, &[descriptor("application/x-evil", &layer)], &[&layer]);
    check(&wharf, "a layer of another kind", &kind.bytes(), &["application/x-evil"]);
    let gzip = layout_of(&config, &[descriptor(&format!("{LAYER}+gzip"), &layer)], &[&layer]);
    check(&wharf, "a layer that is not compressed", &gzip.bytes(), &["announced"]);
    let twice = layout_of(&config, &[layers[0].clone(), layers[0].clone()], &[&layer]);
    check(&wharf, "more layers than diffIDs", &twice.bytes(), &["2 layers", "names 1"]);
    let mut huge = layers[0].clone();
    huge["size"] = json!(u64::MAX);
    let huge = layout_of(&config, &[huge], &[&layer]);
    check(&wharf, "a layer of 16 EiB", &huge.bytes(), &["digest"]);

    let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
    check(&wharf, "schema 1", &layout(&[old], descriptor(manifest_type, old)).bytes(), &["schema 1"]);
    let artifact = br#"{"schemaVersion":2,"mediaType":"application/x"}"#;
    check(
        &wharf,
        "no image",
        &layout(&[artifact], descriptor(manifest_type, artifact)).bytes(),
        &["not an image"],
    );

    // Indexes within indexes: the innermost names the image.
    let index_type = "application/vnd.oci.image.index.v1+json";
    let mut documents = vec![manifest(&config, &layers)];
    for _ in 0..5 {
        let kind = if documents.len() == 1 { manifest_type } else { index_type };
        let inner = descriptor(kind, documents.last().unwrap());
        documents.push(index(&[inner]));
    }
    let mut blobs: Vec<&[u8]> = vec![&config, &layer];
    blobs.extend(documents.iter().map(Vec::as_slice));
    let deep = layout(&blobs, descriptor(index_type, documents.last().unwrap()));
    check(&wharf, "indexes within indexes", &deep.bytes(), &["indexes within indexes"]);
    // A thousand times the same is once.
    let wide = index(&vec![descriptor(manifest_type, &documents[0]); 1001]);
    let wide = layout(&[&config, &layer, &documents[0], &wide], descriptor(index_type, &wide));
    check(&wharf, "a wide index", &wide.bytes(), &["more than 1000 entries"]);
}

#[test]
fn directories_that_are_no_layouts() {
    let Some(wharf) = Wharf::new() else { return };
    let layout = wharf.path("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let check = |words: &[&str]| {
        wharf.run(&["load", "-q", "--input", "layout"]).fails_with(SOURCE, words);
        assert_eq!(wharf.run(&["images", "-q"]).success().text(), "");
    };
    check(&["is not an OCI layout"]);
    rustix::fs::mkfifoat(rustix::fs::CWD, layout.join("index.json"), rustix::fs::Mode::RWXU).unwrap();
    check(&["not a regular file"]);
    fs::remove_file(layout.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", layout.join("index.json")).unwrap();
    check(&["not a regular file"]);
    fs::remove_file(layout.join("index.json")).unwrap();
    // A blob that leads elsewhere is believed no more than any other.
    let entry = descriptor("application/vnd.oci.image.manifest.v1+json", b"{}");
    fs::write(layout.join("index.json"), index(std::slice::from_ref(&entry))).unwrap();
    let blob = format!("blobs/sha256/{}", &entry["digest"].as_str().unwrap()[7..]);
    std::os::unix::fs::symlink("/etc/passwd", layout.join(blob)).unwrap();
    check(&["digest"]);
    wharf.run(&["copy", "oci:layout", "x:1"]).fails_with(SOURCE, &["digest"]);
}

/// A registry with one repository, `app`, whose tag `1` is `root`; what else it has goes by its digest, or by another.
fn registry(root: &[u8], others: &[(String, Vec<u8>)]) -> ScriptedRegistry {
    let mut pages: Vec<(String, Vec<u8>)> = vec![("1".to_owned(), root.to_vec())];
    pages.extend_from_slice(others);
    ScriptedRegistry::start(move |request, _| {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        match pages.iter().find(|(known, _)| known == name) {
            Some((_, bytes)) => Answer::ok(bytes.clone()),
            None => Answer::status(404, &[]),
        }
    })
}

#[test]
fn registries_that_lie_leave_nothing_under_a_name() {
    let Some(wharf) = Wharf::new() else { return };
    let (layer, id) = (layer(), sha256(&layer()));
    let (config, layers) = (config(&[id]), [descriptor(LAYER, &layer)]);
    let sound = manifest(&config, &layers);
    let page = |bytes: &[u8]| (sha256(bytes), bytes.to_vec());
    let index_type = "application/vnd.oci.image.index.v1+json";
    let mut documents = vec![sound.clone()];
    for _ in 0..5 {
        documents.push(index(&[descriptor(index_type, documents.last().unwrap())]));
    }
    let mut deep: Vec<(String, Vec<u8>)> = documents.iter().map(|document| page(document)).collect();
    deep.extend([page(&config), page(&layer)]);
    let mut swapped = layer.clone();
    swapped[0] ^= 1;
    let many: Vec<Value> = vec![layers[0].clone(); 1001];
    let wide = index(&vec![descriptor("application/vnd.oci.image.manifest.v1+json", &sound); 1001]);
    let cases = [
        (
            "a thousand layers",
            manifest(&config, &many),
            vec![page(&config), page(&layer)],
            "more than 1000 layers",
        ),
        ("recursion", documents.last().unwrap().clone(), deep, "indexes within indexes"),
        ("a thousand platforms", wide, vec![page(&sound)], "more than 1000 entries"),
        ("another layer", sound.clone(), vec![page(&config), (sha256(&layer), swapped)], "digest"),
        ("no layer", sound.clone(), vec![page(&config)], "404"),
        (
            "another config",
            sound.clone(),
            vec![(sha256(&config), vec![b'x'; config.len()]), page(&layer)],
            "digest",
        ),
    ];
    for (what, root, pages, word) in cases {
        // What a case before has left there, true blobs without a name, would be good enough for this one.
        let _ = fs::remove_dir_all(wharf.path("layout"));
        let registry = registry(&root, &pages);
        let name = format!("{}/app:1", registry.host());
        let source = format!("docker://{name}");
        for arguments in [
            vec!["pull", "-q", "--all-platforms", &name],
            vec!["copy", "-q", "--all", &source, "oci:layout:1"],
            vec!["copy", "-q", "--all", &source, "oci-archive:archive.tar:1"],
        ] {
            let outcome = wharf.run(&arguments);
            assert_eq!(outcome.code, Some(SOURCE), "{what} {arguments:?}: {}", outcome.stderr);
            let is_said = outcome.stderr.contains(word)
                || word == "404" && outcome.stderr.contains("is not in registry");
            assert!(
                is_said && !outcome.stderr.contains("panicked"),
                "{what} {arguments:?}: {}",
                outcome.stderr
            );
        }
        assert_eq!(wharf.run(&["images", "-q"]).success().text(), "", "{what}");
        assert!(!wharf.path("layout/index.json").exists() && !wharf.path("archive.tar").exists(), "{what}");
    }
    // And the sound one is taken by all three.
    let registry = registry(&sound, &[page(&config), page(&layer)]);
    let name = format!("{}/app:1", registry.host());
    wharf.run(&["pull", "-q", &name]).success();
    wharf.run(&["copy", "-q", &format!("docker://{name}"), "oci:layout:1"]).success();
    wharf.run(&["copy", "-q", "oci:layout:1", "oci-archive:archive.tar:1"]).success();
}
