//! Every attribute of every exporter of images, read back: what it changes is what the row says, and nothing else changes.
//!
//! `testdata/read_image.py` reads the bytes without any of wharf's code, skopeo brings it what a registry has, and the
//! schemas of the specification say whether the documents are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use crate::exporters::check_schemas;
use crate::harness::{Registry, Wharf, have, repository, tool};

/// Where images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Archive,
    Docker,
    Store,
    Registry,
}

/// Every kind.
const ALL: &[Kind] = &[Kind::Directory, Kind::Archive, Kind::Docker, Kind::Store, Kind::Registry];
/// Those that have an `index.json` of their own, whose entries are annotated.
const LAYOUTS: &[Kind] = &[Kind::Directory, Kind::Archive, Kind::Docker];
const OCI: &[Kind] = &[Kind::Directory, Kind::Archive];
const NAMED: &[Kind] = &[Kind::Store, Kind::Registry];

/// For which platforms a row is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    One,
    Two,
    Both,
}
use Count::{Both, One, Two};

/// Attributes of an output, those that it is compared with, and the facts that differ. A value is what the fact is then;
/// `*` is anything else than before, `<` and `>` are a smaller and a larger number.
type Row = (&'static str, &'static str, &'static [Kind], Count, Changes);
type Changes = &'static [(&'static str, &'static str)];

const ZSTD: &str = "compression=zstd";
const EPOCH: &str = "source-date-epoch=1600000000";
const ESTARGZ: &str = "compression=estargz";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // What is so by default.
    ("compression=gzip", "", ALL, Both, &[]),
    ("force-compression=false", "", ALL, Both, &[]),
    ("oci-mediatypes=true", "", ALL, Both, &[]),
    ("prefer-nondist-layers=false", "", ALL, Both, &[]),
    ("rewrite-timestamp=false", "", ALL, Both, &[]),
    ("tar=true", "", &[Kind::Archive], Both, &[]),
    ("unpack=true", "", NAMED, Both, &[]),
    ("push=false", "", &[Kind::Store], Both, &[]),
    ("push-by-digest=false", "", NAMED, Both, &[]),
    ("name-canonical=false", "", &[Kind::Store], Both, &[]),
    ("dangling-name-prefix=built", "", &[Kind::Store], Both, &[]),

    ("compression-level=9", "", ALL, Both, &[("bytes", "<")]),
    ("compression-level=1", "", ALL, Both, &[("bytes", ">")]),
    ("compression-level=0", "compression-level=1", ALL, One, &[("bytes", ">")]),
    ("force-compression=true", "", ALL, Both, &[("bytes", "<")]),
    ("compression-level=9,force-compression=true", "force-compression=true", ALL, Both, &[("bytes", "<")]),
    ("compression=uncompressed", "", ALL, Both, &[("layers", "oci gzip, oci tar, oci tar"), ("bytes", ">")]),
    ("compression=uncompressed,force-compression=true", "compression=uncompressed", ALL, Both,
        &[("layers", "oci tar, oci tar, oci tar"), ("bytes", ">")]),
    (ZSTD, "", ALL, Both, &[("layers", "oci gzip, oci zstd, oci zstd"), ("bytes", "*")]),
    ("compression=zstd,force-compression=true", ZSTD, ALL, Both, &[("layers", "oci zstd, oci zstd, oci zstd"), ("bytes", "*")]),
    ("compression=zstd,compression-level=0", ZSTD, ALL, One, &[]),
    ("compression=zstd,compression-level=19", ZSTD, ALL, Both, &[("bytes", "<")]),
    ("compression=zstd,compression-level=22,force-compression=true", "compression=zstd,force-compression=true", ALL, One, &[("bytes", "<")]),
    (ESTARGZ, "", ALL, Both,
        &[("layer annotations", ", TOC, TOC"), ("diff ids", "*"), ("config", "*"), ("bytes", ">")]),
    ("compression=estargz,force-compression=true", ESTARGZ, ALL, Both,
        &[("layer annotations", "TOC, TOC, TOC"), ("diff ids", "*"), ("config", "*"), ("bytes", "*")]),
    ("compression=estargz,compression-level=9", ESTARGZ, ALL, One,
        &[("bytes", "<"), ("diff ids", "*"), ("config", "*")]),
    ("oci-mediatypes=false", "", ALL, Both, &[
        ("types", "application/vnd.docker.distribution.manifest.v2+json application/vnd.docker.container.image.v1+json"),
        ("layers", "docker gzip, docker gzip, docker gzip"),
        ("index", "docker json"),
    ]),
    ("oci-mediatypes=false,compression=uncompressed", "oci-mediatypes=false", ALL, Both,
        &[("layers", "docker gzip, docker tar, docker tar"), ("bytes", ">")]),

    // Layers of the base image keep their times.
    (EPOCH, "", ALL, Both, &[
        ("created", "2020-09-13T12:26:40Z"), ("times", "1650000000 1600000000 1600000000"),
        ("diff ids", "*"), ("config", "*"), ("bytes", "*"),
    ]),
    ("source-date-epoch=1600000000,rewrite-timestamp=true", EPOCH, ALL, Both, &[]),
    ("source-date-epoch=1600000000,rewrite-timestamp=false", "", ALL, Both,
        &[("created", "2020-09-13T12:26:40Z"), ("config", "*")]),
    ("source-date-epoch=1600000000,force-compression=true", EPOCH, ALL, One, &[("bytes", "<")]),
    ("source-date-epoch=1600000000,compression=zstd", EPOCH, ALL, One,
        &[("layers", "oci gzip, oci zstd, oci zstd"), ("bytes", "*")]),

    ("annotation.org.Example.Key=a b", "", ALL, Both, &[("annotations", "org.Example.Key=a b")]),
    ("annotation-manifest.k=", "", ALL, Both, &[("annotations", "k=")]),
    ("annotation.k=1,annotation-manifest[linux/amd64].other=x=y", "", ALL, One, &[("annotations", "k=1,other=x=y")]),
    ("annotation.k=1,annotation-manifest[linux/arm64/v8].k=2", "", ALL, Two,
        &[("annotations@linux/amd64", "k=1"), ("annotations@linux/arm64", "k=2")]),
    ("annotation-manifest-descriptor.k=v", "", LAYOUTS, One, &[("descriptor annotations", "k=v")]),
    ("annotation-manifest-descriptor.k=v", "", ALL, Two, &[("descriptor annotations", "k=v")]),
    ("annotation-manifest-descriptor[linux/arm64].k=v", "", ALL, Two, &[("descriptor annotations@linux/arm64", "k=v")]),
    ("annotation-index.k=v", "", ALL, Two, &[("index annotations", "k=v")]),
    ("annotation-index-descriptor.k=v", "", OCI, Two, &[("index descriptor annotations", "k=v")]),
    ("annotation-index-descriptor.k=v", "", NAMED, Two, &[]),
    ("annotation-index-descriptor.k=v,oci-mediatypes=false", "oci-mediatypes=false", OCI, Two,
        &[("index descriptor annotations", "k=v")]),
    ("annotation.k=v,compression=zstd", ZSTD, ALL, One, &[("annotations", "k=v")]),

    ("\"name=one,two:x\"", "", OCI, Both, &[("names", "docker.io/library/one:latest docker.io/library/two:x")]),
    ("name=localhost:5000/team/app:1", "", &[Kind::Docker], One,
        &[("names", "localhost:5000/team/app:1"), ("docker names", "localhost:5000/team/app:1")]),
];

/// Flags of the build, and the facts that differ then.
#[rustfmt::skip]
const FLAGS: &[(&[&str], Changes)] = &[
    (&["--label", "team=red"], &[("labels", "base=yes,team=red"), ("config", "*")]),
    (&["--annotation", "k=v", "--annotation=manifest[linux/amd64]:k=w"],
        &[("annotations@linux/amd64", "k=w"), ("annotations@linux/arm64", "k=v")]),
    (&["--build-arg", "SOURCE_DATE_EPOCH=1600000000"], &[
        ("created", "2020-09-13T12:26:40Z"), ("times", "1650000000 1600000000 1600000000"),
        ("diff ids", "*"), ("config", "*"), ("bytes", "*"),
    ]),
];

type Facts = BTreeMap<String, String>;

/// A build whose image has a layer of a base image and two of its own, for two platforms, and needs no step to run. The
/// base image was built in the same store, in another form than is the default: its layers stay as it has them all the same.
fn image() -> Option<Wharf> {
    let wharf = Wharf::new()?;
    // Text that each level does something else with.
    let words = |mut state: u32| {
        let mut word = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("{} ", u64::from(state >> 22).pow(4))
        };
        (0..6000).map(|_| word()).collect::<String>()
    };
    wharf.file("base", &words(1)).file("new", &words(2));
    wharf.file("only-amd64", "a\n").file("only-arm64", "b\n").file("empty", "");
    wharf.dockerfile("FROM scratch\nLABEL base=yes\nCOPY base /base\n");
    let out = "type=oci,tar=false,dest=base,compression-level=1,source-date-epoch=1650000000";
    wharf.build(&[PLATFORMS, "-o", out]).success();
    wharf.dockerfile(
        "FROM base\nARG TARGETARCH\nCOPY --chown=3:4 --chmod=4755 new empty /files/\nCOPY only-$TARGETARCH /bin/\n",
    );
    Some(wharf)
}

const PLATFORMS: &str = "--platform=linux/amd64,linux/arm64";
const ONE: &str = "--platform=linux/amd64";

impl Kind {
    /// The output that goes there, as the build `number`.
    fn output(self, number: usize, registry: &str, attributes: &str) -> String {
        let to = match self {
            Self::Directory => format!("type=oci,tar=false,dest=out/{number}"),
            Self::Archive => format!("type=oci,dest=out/{number}.tar"),
            Self::Docker => format!("type=docker,dest=out/{number}.docker.tar"),
            Self::Store => format!("type=image,name=r{number}:v1"),
            Self::Registry => format!("type=registry,name={registry}/app:r{number},store=false"),
        };
        if attributes.is_empty() { to } else { format!("{to},{attributes}") }
    }

    /// What the reader is told to read.
    fn place(self, wharf: &Wharf, number: usize, registry: &str) -> String {
        let at = |name: &str| wharf.path(name).display().to_string();
        match self {
            Self::Directory => format!("oci:{}", at(&format!("out/{number}"))),
            Self::Archive => format!("oci-archive:{}", at(&format!("out/{number}.tar"))),
            Self::Docker => format!("docker-archive:{}", at(&format!("out/{number}.docker.tar"))),
            Self::Store => format!("oci:{}#docker.io/library/r{number}:v1", at("store")),
            Self::Registry => {
                let (from, to) = (
                    format!("docker://{registry}/app:r{number}"),
                    format!("dir:{}", at(&format!("out/{number}.dir"))),
                );
                tool(
                    "skopeo",
                    &["copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to],
                );
                to
            }
        }
    }
}

/// Reads images; the facts of each, in their order.
fn read(places: &[String]) -> Vec<Facts> {
    let script = repository().join("testdata/read_image.py").display().to_string();
    let mut arguments = vec![script.as_str()];
    arguments.extend(places.iter().map(String::as_str));
    let mut said: BTreeMap<String, Facts> = serde_json::from_str(&tool("python3", &arguments)).unwrap();
    places.iter().map(|place| said.remove(place).unwrap()).collect()
}

/// That `facts` are those of `base` but for `changes`.
fn check(what: &str, base: &Facts, facts: &Facts, changes: &[(&str, &str)]) {
    let nothing = String::new();
    for key in base.keys().chain(facts.keys()).collect::<BTreeSet<_>>() {
        // What a row says of `layers` is so for every platform.
        let name = key.split('@').next().unwrap();
        let (before, now) = (base.get(key).unwrap_or(&nothing), facts.get(key).unwrap_or(&nothing));
        let change = changes.iter().find(|(it, _)| it == key || *it == name).map(|(_, change)| *change);
        let number = |text: &str| text.parse::<u64>().unwrap();
        let is_so = match change {
            // There is no index above one platform.
            _ if key == "index" && now == "none" => now == before,
            None => now == before,
            Some("*") => now != before,
            Some("<") => number(now) < number(before),
            Some(">") => number(now) > number(before),
            Some(value) => *now == value.replace("TOC", "toc.digest+io.containers.estargz.uncompressed-size"),
        };
        assert!(is_so, "{what}: {key} was\n{before}\nand is\n{now}\nand should be {change:?}");
    }
}

/// Builds and reads images, each form once.
struct Images {
    wharf: Wharf,
    registry: Registry,
    number: usize,
    known: BTreeMap<(String, bool), Vec<(Kind, Facts)>>,
}

impl Images {
    /// The facts of the image with these attributes in each of `kinds`.
    fn build(
        &mut self,
        flags: &[&str],
        attributes: &str,
        kinds: &[Kind],
        is_one: bool,
    ) -> Vec<(Kind, Facts)> {
        self.number += 1;
        let kinds = kinds.iter().copied().filter(|kind| is_one || *kind != Kind::Docker);
        let kinds: Vec<Kind> = kinds.collect();
        let outputs: Vec<String> =
            kinds.iter().map(|kind| kind.output(self.number, &self.registry.address, attributes)).collect();
        let base = format!("base=oci-layout://{}", self.wharf.path("base").display());
        let mut arguments =
            vec!["-t", "app:v1", "--build-context", &base, if is_one { ONE } else { PLATFORMS }];
        arguments.extend(flags);
        arguments.extend(outputs.iter().flat_map(|output| ["-o", output]));
        self.wharf.build(&arguments).success();
        let places: Vec<String> =
            kinds.iter().map(|kind| kind.place(&self.wharf, self.number, &self.registry.address)).collect();
        kinds.into_iter().zip(read(&places)).collect()
    }

    /// What rows are compared with.
    fn known(&mut self, attributes: &str, is_one: bool) -> &[(Kind, Facts)] {
        let key = (attributes.to_owned(), is_one);
        if !self.known.contains_key(&key) {
            let built = self.build(&[], attributes, ALL, is_one);
            self.known.insert(key.clone(), built);
        }
        &self.known[&key]
    }

    fn row(&mut self, flags: &[&str], row: Row) {
        let (attributes, base, kinds, count, changes) = row;
        for is_one in [true, false] {
            if count == if is_one { Two } else { One } {
                continue;
            }
            let found = match flags.is_empty() && kinds == ALL {
                true => self.known(attributes, is_one).to_vec(),
                false => self.build(flags, attributes, kinds, is_one),
            };
            let base = self.known(base, is_one);
            for (kind, facts) in &found {
                let what =
                    format!("{flags:?} {kind:?} `{attributes}` for {}", if is_one { "one" } else { "two" });
                let (_, base) = base.iter().find(|(it, _)| it == kind).unwrap();
                let (mut base, mut facts) = (base.clone(), facts.clone());
                if *kind == Kind::Store {
                    // Each has its own name there, and equal images have one another's.
                    base.remove("names");
                    facts.remove("names");
                }
                check(&what, &base, &facts, changes);
            }
        }
    }
}

#[test]
fn an_attribute_changes_what_it_says_and_nothing_else() {
    let (Some(wharf), Some(registry)) = (image(), Registry::start()) else { return };
    if !have(&["skopeo", "zstd", "python3"]) {
        return;
    }
    let mut images = Images { wharf, registry, number: 0, known: BTreeMap::new() };

    // What all is compared with is the same everywhere, and what it should be.
    let default = images.known("", false).to_vec();
    let expected: &[(&str, &str)] = &[
        ("index", "oci json"),
        ("index annotations", ""),
        ("types", "application/vnd.oci.image.manifest.v1+json application/vnd.oci.image.config.v1+json"),
        ("layers", "oci gzip, oci gzip, oci gzip"),
        ("labels", "base=yes"),
        ("annotations", ""),
    ];
    for (kind, facts) in &default {
        for (key, value) in expected {
            let mut found = facts.iter().filter(|(it, _)| it.split('@').next() == Some(*key)).peekable();
            assert!(found.peek().is_some() && found.all(|(_, it)| it == value), "{kind:?} {key}: {facts:#?}");
        }
        let (mut first, mut other) = (default[0].1.clone(), facts.clone());
        for facts in [&mut first, &mut other] {
            facts.remove("names");
        }
        assert_eq!(first, other, "{kind:?}");
        let files = &facts["files@linux/arm64"];
        assert!(
            files.contains("files/new 0 4755 3:4 ") && files.contains("bin/only-arm64 0 644 0:0 "),
            "{files}"
        );
    }

    for row in ROWS {
        images.row(&[], *row);
    }
    for (flags, changes) in FLAGS {
        images.row(flags, ("", "", ALL, Both, changes));
    }

    // The schemas have their say of every directory, Docker's media types apart.
    let Images { wharf, .. } = &images;
    let mut layouts: Vec<PathBuf> =
        fs::read_dir(wharf.path("out")).unwrap().map(|it| it.unwrap().path()).collect();
    layouts.retain(|path| path.join("oci-layout").is_file());
    let is_docker = |path: &PathBuf| {
        let index = fs::read_to_string(path.join("index.json")).unwrap();
        index.contains("vnd.docker.distribution")
    };
    layouts.retain(|path| !is_docker(path));
    check_schemas(&layouts);
}

#[test]
fn a_base_image_is_the_same_where_it_was_built_and_elsewhere() {
    let Some(wharf) = image() else { return };
    for form in ["compression-level=9", "compression=uncompressed", ZSTD, ESTARGZ, EPOCH] {
        wharf.dockerfile("FROM scratch\nCOPY base /base\n");
        let base = format!("type=oci,tar=false,dest=base-{form},{form}");
        wharf.build(&[ONE, "-o", &base]).success();
        wharf.dockerfile("FROM base\nCOPY empty /empty\n");
        let base = format!("base=oci-layout://{}", wharf.path(&format!("base-{form}")).display());
        let layers = ["store", "other"].map(|store| {
            let out = format!("{store}-{form}");
            let spec = format!("type=oci,tar=false,dest={out},source-date-epoch=1700000000");
            wharf.build_in(store, &[ONE, "--build-context", &base, "-o", &spec]).success();
            let index = fs::read_to_string(wharf.path(&out).join("index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&index).unwrap();
            let digest = index["manifests"][0]["digest"].as_str().unwrap()["sha256:".len()..].to_owned();
            fs::read_to_string(wharf.path(&out).join("blobs/sha256").join(digest)).unwrap()
        });
        assert_eq!(layers[0], layers[1], "{form}");
        assert_eq!(layers[0].contains("toc.digest"), form == ESTARGZ, "{}", layers[0]);
    }
}

#[test]
fn what_an_exporter_does_not_have_it_refuses() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nLABEL a=b\n");
    let check = |kind: &str, keys: &[&str], why: &str| {
        for key in keys {
            let spec = format!("type={kind},{key}");
            let name = format!("`{}`", key.split('=').next().unwrap());
            wharf.build(&["-o", &spec]).fails_with(2, &[&name, why]);
        }
    };
    let images =
        ["image", "registry,name=localhost:1/x", "oci,dest=x", "oci,tar=false,dest=x", "docker,dest=x"];
    for kind in images {
        check(
            kind,
            &["attestation-inline=true", "attestation-prefix=x", "oci-artifact=true"],
            "no attestations",
        );
        check(kind, &["danging-name-empty-only=true"], "dangling");
        check(kind, &["compatibility-version=20"], "in one way");
        check(kind, &["prefer-nondist-layers=true"], "there are none");
        check(kind, &["platform-split=true", "mode=delete"], "has no key");
    }
    for kind in &images[2..] {
        check(
            kind,
            &["push=true", "push-by-digest=true", "registry.insecure=true", "unpack=true"],
            "has no key",
        );
        check(kind, &["store=false", "name-canonical=true", "dangling-name-prefix=x"], "has no key");
    }
    for kind in ["tar,dest=x", "local,dest=x", "cacheonly"] {
        check(kind, &["name=x", "push=true", "annotation.a=b", "annotation-index.a=b"], "has no key");
        check(kind, &["oci-mediatypes=true", "compression=zstd", "compression-level=1"], "has no key");
        check(kind, &["force-compression=true", "unpack=true", "tar=false"], "has no key");
    }
    check("tar,dest=x", &["mode=delete"], "has no key");
    assert!(!wharf.path("x").exists());
}
