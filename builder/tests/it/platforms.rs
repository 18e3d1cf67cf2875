//! One build for several platforms: an index, and what does not depend on the platform done once.

use std::fs;

use crate::harness::{Registry, Wharf, busybox_layout, have, tool};

/// A program made on the machine for each platform, and a stage that all share.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM busybox AS shared\n\
    RUN echo shared >/shared\n\
    FROM --platform=$BUILDPLATFORM busybox AS build\n\
    ARG TARGETARCH\n\
    RUN echo for $TARGETARCH >/out\n\
    FROM scratch\n\
    COPY --from=shared /shared /\n\
    COPY --from=build /out /\n\
    ARG TARGETPLATFORM\n\
    ENV BUILT_FOR=$TARGETPLATFORM\n";

fn cross() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.dockerfile(CROSS);
    Some(wharf)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// The platforms that an index names.
fn platforms(index: &serde_json::Value) -> Vec<String> {
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let manifests = index["manifests"].as_array().unwrap();
    let name = |part: &serde_json::Value| part.as_str().unwrap_or_default().to_owned();
    let platform = |entry: &serde_json::Value| {
        let platform = &entry["platform"];
        let parts = [&platform["os"], &platform["architecture"], &platform["variant"]].map(name);
        parts.join("/").trim_end_matches('/').to_owned()
    };
    manifests.iter().map(platform).collect()
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let (Some(wharf), Some(registry)) = (cross(), Registry::start()) else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let name = format!("{}/app:v1", registry.address);
    let built = wharf.build(&[
        "--platform",
        "linux/amd64,linux/arm64/v8",
        "--platform=linux/arm,linux/amd64",
        "--push",
        "-t",
        &name,
        "-o",
        "type=image",
        "-o",
        "type=oci,dest=oci.tar",
        "-o",
        "files",
        "--metadata-file",
        "metadata.json",
        "--iidfile",
        "iid",
    ]);
    let built = built.success();
    let shared = built.stderr.lines().filter(|line| line.ends_with("RUN echo shared >/shared")).count();
    assert_eq!(shared, 1, "the shared step ran more than once:\n{}", built.stderr);
    for architecture in ["amd64", "arm64", "arm/v7"] {
        let said = format!("[linux/{architecture} ");
        let crossed = format!("->{architecture} build");
        assert!(built.stderr.contains(&said) || built.stderr.contains(&crossed), "{said}: {}", built.stderr);
    }

    let expected = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(platforms(&json(&raw)), expected);
    let archive = format!("oci-archive:{}:v1", wharf.path("oci.tar").display());
    assert_eq!(tool("skopeo", &["inspect", "--raw", &archive]), raw);
    let metadata = json(&fs::read_to_string(wharf.path("metadata.json")).unwrap());
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(fs::read_to_string(wharf.path("iid")).unwrap(), digest);
    assert_eq!(tool("skopeo", &["manifest-digest", &written(&wharf, &raw)]).trim(), digest);

    for (platform, file) in expected.iter().zip(["linux_amd64", "linux_arm64", "linux_arm_v7"]) {
        let mut parts = platform.split('/').skip(1);
        let architecture = parts.next().unwrap();
        let mut arguments = vec!["--override-os", "linux", "--override-arch", architecture];
        if let Some(variant) = parts.next() {
            arguments.extend(["--override-variant", variant]);
        }
        arguments.extend(["inspect", "--config", &archive]);
        let config = json(&tool("skopeo", &arguments));
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Env"][1], format!("BUILT_FOR={platform}"));
        let out = fs::read_to_string(wharf.path("files").join(file).join("out")).unwrap();
        assert_eq!(out, format!("for {architecture}\n"));
    }

    // Once more: nothing runs, and the bytes are the same.
    let again = wharf.build(&["--platform=linux/amd64,linux/arm64,linux/arm", "-o", "type=oci,dest=2.tar"]);
    again.success().steps().check_ran(&[]);
    let archive = format!("oci-archive:{}", wharf.path("2.tar").display());
    assert_eq!(tool("skopeo", &["inspect", "--raw", &archive]), raw);
}

fn written(wharf: &Wharf, raw: &str) -> String {
    let path = wharf.path("raw");
    fs::write(&path, raw).unwrap();
    path.display().to_string()
}

#[test]
fn an_index_of_the_store_is_a_base_and_runs() {
    let Some(wharf) = cross() else { return };
    wharf.dockerfile("FROM busybox\nCMD echo it runs\n");
    wharf.build(&["--platform=local", "--build-arg=BUILDKIT_MULTI_PLATFORM=1", "-t", "app"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "it runs\n");
    wharf.dockerfile("FROM app\nRUN echo on top\n").build(&["-t", "top"]).success();
    wharf.run(&["prune", "--all", "--force"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "it runs\n");
    let images = wharf.run(&["images"]).success().text();
    assert!(images.contains("app"), "{images}");
    wharf.run(&["rmi", "top"]).success();
    wharf.run(&["rmi", "app"]).success();
}

#[test]
fn one_empty_file_system_for_all_platforms() {
    let Some(wharf) = cross() else { return };
    wharf.file("same", "same\n");
    for text in ["FROM scratch\nENV A=1\n", "FROM scratch\nCOPY same /\n"] {
        wharf
            .dockerfile(text)
            .build(&["--platform=linux/amd64,linux/arm64", "-o", "type=oci,dest=same.tar"])
            .success();
        let archive = format!("oci-archive:{}", wharf.path("same.tar").display());
        assert_eq!(platforms(&json(&tool("skopeo", &["inspect", "--raw", &archive]))).len(), 2);
    }
}

#[test]
fn what_is_no_platform_is_refused() {
    let Some(wharf) = cross() else { return };
    let check = |arguments: &[&str], words: &[&str]| {
        wharf.build(arguments).fails_with(2, words);
    };
    check(&["--platform=linux/amd64/v1/x"], &["--platform", "more than three components"]);
    check(&["--platform=toaster"], &["unknown operating system or architecture"]);
    check(&["--platform="], &["--platform"]);
    check(&["--platform=windows/amd64"], &["Linux only"]);
    check(
        &["--platform=linux/amd64,linux/arm64", "-o", "type=docker,dest=x.tar"],
        &["holds one platform", "type=oci"],
    );
}
