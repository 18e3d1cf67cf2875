//! What is built is what the Dockerfile says, and it runs.

use crate::harness::{Step, Wharf, busybox_layout, debian_layout, tool};

#[test]
fn a_built_image_runs_lists_and_goes() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("greeting", "hello\n").dockerfile(
        "FROM busybox\nENV NAME=wharf\nWORKDIR /srv\nCOPY greeting .\nRUN echo $NAME >>greeting\n\
         CMD [\"cat\", \"greeting\"]\n",
    );
    wharf.build(&["-t", "app"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "hello\nwharf\n");
    assert_eq!(wharf.run(&["run", "--rm", "app", "sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(wharf.run(&["run", "--rm", "app", "pwd"]).success().text(), "/srv\n");

    assert!(wharf.run(&["images"]).success().text().contains("app"));
    wharf.run(&["rmi", "app"]).success();
    assert!(!wharf.run(&["images"]).success().text().contains("app"));
    wharf.run(&["rmi", "app"]).failure();
}

const INSTRUCTIONS: &str = r#"ARG BASE=busybox
FROM $BASE AS files
COPY dir /dir
RUN <<EOF
test ! -e /dir/skipped
ls /dir | tr '\n' ' ' >/list
EOF

FROM busybox AS unused
RUN false

FROM busybox
ARG WORD=unset
ENV GREETING="hello $WORD"
SHELL ["/bin/sh", "-ec"]
COPY --from=files --chown=nobody:nogroup --chmod=640 /list /etc/passwd /out/
RUN test "$(stat -c '%U:%G %a' /out/list)" = "nobody:nogroup 640"; test "$(cat /out/list)" = "one two "
RUN ["/bin/sh", "-c", "test $(id -u) = 0"]
USER nobody
RUN test "$(id -un)" = nobody; test "$GREETING" = "hello you"
LABEL a=b
EXPOSE 80
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK CMD true
ENTRYPOINT ["/bin/echo", "said:"]
CMD ["nothing"]
"#;

#[test]
fn instructions_do_what_they_say() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("dir/one", "1").file("dir/two", "2").file("dir/skipped", "x");
    wharf.file(".dockerignore", "**/skipped\n").dockerfile(INSTRUCTIONS);
    let built = wharf.build(&["-t", "app", "--build-arg", "WORD=you"]).success();
    assert!(!built.steps().that(Step::Ran).contains(&"RUN false"), "an unused stage ran");
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "said: nothing\n");
    assert_eq!(wharf.run(&["run", "--rm", "app", "a", "word"]).success().text(), "said: a word\n");
    wharf.build(&["--target", "files"]).success();
}

#[test]
fn independent_stages_are_built_side_by_side() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    // Eight stages that take a second each, joined by one. How long it takes is the benchmark's to say.
    let mut dockerfile = String::new();
    for stage in 0..8 {
        dockerfile += &format!("FROM busybox AS s{stage}\nRUN sleep 1 && echo {stage} >/out\n");
    }
    dockerfile += "FROM busybox\n";
    for stage in 0..8 {
        dockerfile += &format!("COPY --from=s{stage} /out /out{stage}\n");
    }
    dockerfile += "CMD cat /out*\n";
    wharf.dockerfile(&dockerfile).build(&["-t", "joined"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "joined"]).success().text(), "0\n1\n2\n3\n4\n5\n6\n7\n");
}

#[test]
fn a_package_is_installed_on_debian() {
    let (Some(_), Some(wharf)) = (debian_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM debian\nRUN apt-get update && apt-get install -y file\n");
    wharf.build(&["-t", "app", "-o", "type=image", "-o", "type=tar,dest=rootfs.tar"]).success();
    let said = wharf.run(&["run", "--rm", "app", "file", "-b", "/bin"]).success().text();
    assert!(said.starts_with("symbolic link"), "{said}");
    let listing = tool("tar", &["-tvf", wharf.path("rootfs.tar").to_str().unwrap()]);
    let setuid = |line: &str| line.starts_with("-rwsr-xr-x") && line.ends_with("usr/bin/su");
    assert!(listing.lines().any(setuid), "su lost its setuid bit");
}
