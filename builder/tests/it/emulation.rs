//! Steps of a platform that the machine is not of: QEMU is registered for them alone, whoever builds.

use std::fs;
use std::path::Path;

use crate::harness::{Outcome, arm64_layout, have, install, skip, tool};
use crate::sandboxes::{BUILDERS, Builder, ROOT, World};

const ENVIRONMENT: i32 = 5;

/// What tells an emulated program from a native one, and what emulation could spoil: names that programs are called by,
/// owners, users, programs that start others, what is executed by an interpreter.
const DOCKERFILE: &str = "FROM base
ARG TARGETARCH
RUN uname -m >/machine && echo $TARGETARCH >>/machine
COPY --chmod=755 context-file /script
RUN printf '#!/bin/sh\\nexec sh -c \"echo $0 $1\"\\n' >/script && test \"$(/script given)\" = '/script given'
RUN mkdir /dir && touch /dir/file && chown -R 7:8 /dir && chmod 4755 /dir/file && stat -c '%u:%g %a' /dir/file >/owner
RUN test \"$(exec -a echo busybox called)\" = called
RUN for n in 1 2 3 4 5 6 7 8; do (seq 1 $n | sort -n | tail -n 1 >/tmp/$n) & done; wait; cat /tmp/? >/all && rm /tmp/?
RUN mkdir /su && cp /bin/busybox /su/su && chmod 4755 /su/su && echo root::0:0::/root:/bin/sh >/etc/passwd
USER 1234:567
RUN test \"$(/su/su root -c 'id -u')\" = 0
RUN test \"$(id -u):$(id -g)\" = 1234:567 && ! touch /not && id -u >/tmp/id
CMD uname -m
";

/// A world with both bases, which only this machine's can be run without QEMU.
fn world() -> Option<World> {
    let arm64 = arm64_layout()?;
    if std::env::consts::ARCH == "aarch64" || !have(&["skopeo", "unshare", "qemu-aarch64-static"]) {
        return None;
    }
    if Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
        skip("this machine has QEMU registered, and cannot do without");
        return None;
    }
    let world = World::new()?;
    tool("cp", &["-r", arm64.to_str().unwrap(), &path(&world, "arm64")]);
    tool("chmod", &["-R", "a+rX", &path(&world, "arm64")]);
    world.dockerfile(DOCKERFILE);
    Some(world)
}

fn path(world: &World, name: &str) -> String {
    world.path(name).to_str().unwrap().to_owned()
}

/// `wharf build ARGUMENTS context` with a base for each platform.
fn build(world: &World, builder: &Builder, arguments: &[&str]) -> Outcome {
    let bases = [("amd64", "busybox"), ("arm64", "arm64")]
        .map(|(platform, layout)| format!("base::linux/{platform}=oci-layout://{}", path(world, layout)));
    let mut all = vec!["build", "--progress", "plain"];
    for base in &bases {
        all.extend(["--build-context", base]);
    }
    world.wharf(builder, &[&all[..], arguments, &["context"]].concat())
}

#[test]
fn an_image_for_two_platforms_is_built_and_runs_in_every_sandbox() {
    let Some(world) = world() else { return };
    let mut ids: Vec<(&str, String)> = Vec::new();
    for builder in [&ROOT].into_iter().chain(&BUILDERS) {
        let name = builder.name;
        let dest = path(&world, &format!("out/{}.tar", name.replace(' ', "-")));
        let archive = format!("type=oci,dest={dest}");
        let built = build(
            &world,
            builder,
            &["--platform=linux/amd64,linux/arm64", "-t", "app", "-o", "type=image", "-o", &archive],
        )
        .success();
        let said =
            "emulated: programs for linux/arm64 are run on linux/amd64 by `/usr/bin/qemu-aarch64-static`";
        assert!(built.stderr.contains(said), "{name}: {}", built.stderr);
        let raw = tool("skopeo", &["inspect", "--raw", &format!("oci-archive:{dest}")]);
        for platform in ["amd64", "arm64"] {
            assert!(raw.contains(&format!("\"architecture\": \"{platform}\"")), "{name}: {raw}");
        }
        ids.push((name, raw));
        for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
            let run = |command: &[&str]| {
                let all = [&["run", "--rm", "--platform", platform, "app"], command].concat();
                world.wharf(builder, &all).success().text()
            };
            assert_eq!(run(&[]), format!("{machine}\n"), "{name}");
            let architecture = platform.trim_start_matches("linux/");
            assert_eq!(
                run(&["cat", "/machine", "/owner"]),
                format!("{machine}\n{architecture}\n7:8 4755\n"),
                "{name}"
            );
        }
        // Nothing of it is left to others: the machine runs no such program, and the registration is not its.
        assert!(!Path::new("/proc/sys/fs/binfmt_misc/wharf-aarch64").exists(), "{name}");
    }
    for (name, raw) in &ids {
        assert_eq!(*raw, ids[0].1, "{name}");
    }
}

/// Runs wharf where the machine has no QEMU for arm64.
fn without_qemu(world: &World, variables: &[(&str, &String)], arguments: &[&str]) -> Outcome {
    let hide = "mount --bind /dev/null /usr/bin/qemu-aarch64-static && exec \"$@\"";
    let words = ["unshare", "-m", "sh", "-c", hide, "sh", env!("CARGO_BIN_EXE_wharf")];
    let store = path(world, "store-without");
    let base = format!("base=oci-layout://{}", path(world, "arm64"));
    let fixed = ["--root", &store, "build", "--progress", "plain", "--build-context", &base];
    let all = [&words[..], &fixed, arguments, &["context"]].concat();
    world.start(all.into_iter().map(str::to_owned).collect(), variables)
}

#[test]
fn what_is_missing_is_named() {
    let Some(world) = world() else { return };
    let refused = without_qemu(&world, &[], &["--platform=linux/arm64"]);
    refused.fails_with(
        ENVIRONMENT,
        &["a step for linux/arm64", "qemu-aarch64-static", "package qemu-user-static", "$BUILDPLATFORM"],
    );
    // A platform that only the Dockerfile names.
    world.dockerfile("FROM --platform=linux/arm64 base\nRUN uname -m\n");
    without_qemu(&world, &[], &[]).fails_with(ENVIRONMENT, &["qemu-aarch64-static"]);
    // Where a variable says.
    let places = path(&world, "qemu");
    fs::create_dir(&places).unwrap();
    install(Path::new("/usr/bin/qemu-aarch64-static"), &world.path("qemu/qemu-aarch64"));
    let built = without_qemu(&world, &[("WHARF_QEMU", &places)], &[]).success();
    assert!(built.stderr.contains(" aarch64\n"), "{}", built.stderr);
    // One that does not work is not taken for one that does.
    install(Path::new("/bin/true"), &world.path("qemu/qemu-aarch64"));
    let refused = without_qemu(&world, &[("WHARF_QEMU", &places)], &["--no-cache"]);
    refused.fails_with(ENVIRONMENT, &["qemu/qemu-aarch64", "does not run them", "static"]);
}

/// What `wharf doctor` says of arm64, in one line.
#[track_caller]
fn check_doctor(outcome: Outcome, expected: &str) {
    let text = outcome.success().text();
    let line = text.lines().find(|line| line.starts_with("  arm64 ")).unwrap_or(&text);
    assert!(line.contains(expected), "expected {expected:?}:\n{text}");
}

#[test]
fn the_doctor_says_who_runs_what() {
    let Some(world) = world() else { return };
    for builder in [&ROOT].into_iter().chain(&BUILDERS) {
        check_doctor(world.wharf(builder, &["doctor"]), "yes  by /usr/bin/qemu-aarch64-static");
        let json = world.wharf(builder, &["doctor", "--format", "json"]).success().text();
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["architectures"]["amd64"]["by"], "processor", "{json}");
        assert_eq!(report["architectures"]["arm64"]["by"], "qemu", "{json}");
        assert_eq!(report["architectures"].as_object().unwrap().len(), 9, "{json}");
    }
    let chroot = Builder { name: "chroot", user: None, forced: Some("chroot"), sandbox: "chroot" };
    check_doctor(
        world.wharf(&chroot, &["doctor"]),
        "no   programs for arm64 do not run on this machine: nobody",
    );
    let doctor = |script: &str, variables: &[(&str, &String)], arguments: &[&str]| {
        let words = ["unshare", "-Urm", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_wharf")];
        let store = path(&world, "store-doctor");
        let all = [&words[..], arguments, &["--root", &store, "doctor"]].concat();
        world.start(all.into_iter().map(str::to_owned).collect(), variables)
    };
    let hidden = "mount --bind /dev/null /usr/bin/qemu-aarch64-static && exec \"$@\"";
    check_doctor(
        doctor(hidden, &[], &[]),
        "no   programs for arm64 do not run on this machine, and there is no `qemu-aar",
    );
    // One that does not work.
    fs::create_dir(world.path("qemu")).unwrap();
    install(Path::new("/bin/true"), &world.path("qemu/qemu-aarch64"));
    check_doctor(doctor(hidden, &[("WHARF_QEMU", &path(&world, "qemu"))], &[]), "does not run them either");
    // As whoever runs steps, and opened when it was registered or not at all.
    let script = format!("{REGISTERED}\"$@\"");
    for (flags, sandbox, expected) in [
        ("OCF", "root", "yes  by what the machine has registered"),
        ("OCF", "rootless-single", "yes  by what the machine has registered"),
        ("OCF", "chroot", "yes  by what the machine has registered"),
        ("OC", "root", "yes  by /usr/bin/qemu-aarch64-static"),
        ("OC", "chroot", "no   programs for arm64"),
    ] {
        let flags = flags.to_owned();
        check_doctor(doctor(&script, &[("FLAGS", &flags)], &["--sandbox", sandbox]), expected);
    }
}

#[test]
fn the_sandbox_chroot_can_register_nobody() {
    let Some(world) = world() else { return };
    let chroot = Builder { name: "chroot", user: None, forced: Some("chroot"), sandbox: "chroot" };
    build(&world, &chroot, &["--platform=linux/arm64"]).fails_with(
        ENVIRONMENT,
        &["a step for linux/arm64", "sandbox chroot cannot register", "binfmt-support"],
    );
}

/// A machine of its own kind, made of a user namespace: QEMU is registered there as `FLAGS` say.
const REGISTERED: &str = r"mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 99
zeros='\x00\x00\x00\x00\x00\x00\x00\x00\x00' ones='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ':q:M::\x7f\x45\x4c\x46\x02\x01\x01'$zeros'\x02\x00\xb7\x00:'$ones':/usr/bin/qemu-aarch64-static:'$FLAGS \
    >/proc/sys/fs/binfmt_misc/register || exit 99
exec ";

#[test]
fn what_the_machine_has_registered_is_used_where_it_runs_in_a_step() {
    let Some(world) = world() else { return };
    world.dockerfile("FROM base\nRUN uname -m\n");
    let machines = "by what the machine has registered";
    let own = "by `/usr/bin/qemu-aarch64-static`";
    // Opened only when something is run, QEMU would have to be in the step's root.
    for (flags, sandbox, by) in [
        ("OCF", "root", machines),
        ("OCF", "rootless", machines),
        ("OCF", "chroot", machines),
        ("OC", "root", own),
    ] {
        let script = format!("{REGISTERED}\"$@\"");
        let store = path(&world, &format!("store-registered-{sandbox}"));
        let base = format!("base=oci-layout://{}", path(&world, "arm64"));
        let words =
            ["unshare", "-Urm", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_wharf"), "--sandbox", sandbox];
        let build =
            ["--root", &store, "build", "--no-cache", "--progress", "plain", "--build-context", &base];
        let all = [&words[..], &build, &["--platform=linux/arm64", "context"]].concat();
        let flags_text = flags.to_owned();
        let built =
            world.start(all.into_iter().map(str::to_owned).collect(), &[("FLAGS", &flags_text)]).success();
        assert!(built.stderr.contains(by), "{flags} {sandbox}: {}", built.stderr);
        assert!(built.stderr.contains(" aarch64\n"), "{flags} {sandbox}: {}", built.stderr);
    }
}
