//! Other people's programs read what is exported.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Registry, Wharf, busybox_layout, have, tool};

/// A context whose image has files to look for.
fn context() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("hello", "hello\n").dockerfile(
        "FROM busybox\nCOPY hello /\nRUN ln /hello /hard && ln -s /hello /soft && rm /bin/vi\n\
         CMD [\"cat\", \"/hello\"]\n",
    );
    Some(wharf)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn skopeo_and_umoci_read_every_kind_of_image() {
    let Some(wharf) = context() else { return };
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    let outputs = [
        "type=image",
        "type=oci,dest=oci.tar",
        "type=oci,tar=false,dest=layout",
        "type=docker,dest=docker.tar",
    ];
    let outputs = outputs.iter().flat_map(|output| ["-o", output]);
    wharf.build(&["-t", "app:v1"].into_iter().chain(outputs).collect::<Vec<_>>()).success();

    let at = |name: &str| wharf.path(name).display().to_string();
    let references = [
        format!("oci:{}:docker.io/library/app:v1", at("store")),
        format!("oci-archive:{}:v1", at("oci.tar")),
        format!("oci:{}:v1", at("layout")),
        format!("docker-archive:{}:docker.io/library/app:v1", at("docker.tar")),
    ];
    let configs = references.map(|reference| json(&tool("skopeo", &["inspect", "--config", &reference])));
    assert_eq!(configs[0]["config"]["Cmd"], serde_json::json!(["cat", "/hello"]));
    assert!(configs.iter().all(|config| *config == configs[0]), "the exporters made different images");

    tool("umoci", &["unpack", "--image", &format!("{}:v1", at("layout")), &at("bundle")]);
    let rootfs = wharf.path("bundle/rootfs");
    let links = ["hello", "hard"].map(|name| fs::metadata(rootfs.join(name)).unwrap().ino());
    assert_eq!(links[0], links[1]);
    assert_eq!(fs::read_link(rootfs.join("soft")).unwrap().to_str(), Some("/hello"));
    assert!(fs::symlink_metadata(rootfs.join("bin/vi")).is_err(), "the whiteout is missing");
}

#[test]
fn files_come_as_a_tar_or_as_they_are() {
    let Some(wharf) = context() else { return };
    wharf.build(&["-o", "out", "-o", "type=tar,dest=rootfs.tar"]).success();
    assert_eq!(fs::read_to_string(wharf.path("out/hello")).unwrap(), "hello\n");
    let [hello, hard] = ["out/hello", "out/hard"].map(|name| fs::metadata(wharf.path(name)).unwrap().ino());
    assert_eq!(hello, hard);
    assert!(fs::symlink_metadata(wharf.path("out/bin/vi")).is_err());
    let tar = wharf.path("rootfs.tar").display().to_string();
    let listing = tool("tar", &["-tf", &tar]);
    assert!(listing.lines().any(|line| line.trim_start_matches("./") == "hello"), "{listing}");

    let streamed = wharf.build(&["-o", "-"]).success().stdout;
    assert!(streamed == fs::read(tar).unwrap(), "a streamed tar has other bytes than one in a file");
}

#[test]
fn one_variable_makes_the_image_the_same_anywhere() {
    let Some(wharf) = context() else { return };
    let digest = |store: &str| {
        let file = wharf.path(&format!("{store}.json")).display().to_string();
        let arguments =
            ["-t", "app", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--metadata-file", file.as_str()];
        wharf.build_in(store, &arguments).success();
        json(&fs::read_to_string(file).unwrap())["containerimage.digest"].as_str().unwrap().to_owned()
    };
    assert_eq!(digest("one"), digest("two"));
}

#[test]
fn a_push_and_a_pull_keep_the_digest() {
    let (Some(wharf), Some(registry)) = (context(), Registry::start()) else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let name = format!("{}/team/app:v1", registry.address);
    let [metadata, iid] = ["metadata.json", "iid"].map(|file| wharf.path(file).display().to_string());
    wharf.build(&["-t", &name, "--push", "--metadata-file", &metadata, "--iidfile", &iid]).success();
    let metadata = json(&fs::read_to_string(metadata).unwrap());
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let inspected = tool("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(json(&inspected)["Digest"], digest);
    assert_eq!(fs::read_to_string(iid).unwrap(), metadata["containerimage.config.digest"].as_str().unwrap());

    // Another store pulls it, by tag and by digest.
    for from in [name.clone(), format!("{}/team/app@{digest}", registry.address)] {
        wharf.dockerfile(&format!("FROM {from}\nRUN test \"$(cat /hello)\" = hello\n"));
        wharf.build_in("other", &["--no-cache"]).success();
    }
    // With the registry gone, what was pulled is still there.
    drop(registry);
    wharf.build_in("other", &[]).success().steps().check_ran(&[]);
}
