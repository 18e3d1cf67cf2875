//! What is built is what the Dockerfile says, and it runs.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::thread;

use crate::harness::{Outcome, Step, Wharf, busybox_layout, debian_layout, tool};

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

/// Eight stages each wait for the other seven: one after the other they would never end.
#[test]
fn independent_stages_are_built_side_by_side() {
    const STAGES: usize = 8;
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let meeting = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = meeting.local_addr().unwrap().port();
    thread::spawn(move || {
        let arrived: Vec<_> = (0..STAGES).map(|_| meeting.accept().unwrap().0).collect();
        for mut stage in arrived {
            stage.write_all(b"met\n").unwrap();
        }
    });
    let mut dockerfile = String::new();
    for stage in 0..STAGES {
        let meet = format!("test \"$(timeout 60 nc 127.0.0.1 {port})\" = met");
        dockerfile += &format!("FROM busybox AS s{stage}\nRUN {meet} && echo {stage} >/out\n");
    }
    dockerfile += "FROM busybox\n";
    for stage in 0..STAGES {
        dockerfile += &format!("COPY --from=s{stage} /out /out{stage}\n");
    }
    dockerfile += "CMD cat /out*\n";
    wharf.dockerfile(&dockerfile).build(&["-t", "joined", "--network", "host"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "joined"]).success().text(), "0\n1\n2\n3\n4\n5\n6\n7\n");
}

#[test]
fn a_container_is_what_its_image_says() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox\nRUN mkdir -m 700 /home/nobody && chown nobody:nogroup /home/nobody\n\
         ENV GREETING=\"hello you\" PATH=/bin:/opt/bin\nWORKDIR /home/nobody\nUSER nobody\nCMD [\"id\", \"-un\"]\n",
    );
    wharf.build(&["-t", "app"]).success();
    let text = |command: &[&str]| wharf.run(&[&["run", "--rm", "app"], command].concat()).success().text();
    assert_eq!(text(&[]), "nobody\n");
    assert_eq!(text(&["pwd"]), "/home/nobody\n");
    assert_eq!(
        text(&["sh", "-c", "echo $GREETING, $PATH; touch mine; stat -c %U mine"]),
        "hello you, /bin:/opt/bin\nnobody\n"
    );
    // The image stays what it is.
    assert_eq!(text(&["ls"]), "");
    for (command, code) in [
        (&["false"][..], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "exec no-such-program"], 127),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        assert_eq!(wharf.run(&[&["run", "--rm", "app"], command].concat()).code, Some(code), "{command:?}");
    }
    // Bytes go in and come out as they are, however many.
    let input: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let piped = Outcome::of_with_input(wharf.command("store", &["run", "--rm", "-i", "app", "cat"]), &input)
        .success();
    assert!(piped.stdout == input, "{} of {} bytes came back", piped.stdout.len(), input.len());
    // What is told is on standard error alone, and nothing but the container's goes to standard output.
    let both = wharf.run(&["run", "--rm", "app", "sh", "-c", "echo out; echo err >&2"]).success();
    assert_eq!((both.text().as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    wharf.run(&["run", "--rm", "--pull", "never", "nothing"]).fails_with(125, &["nothing", "wharf images"]);
}

#[test]
fn an_image_is_the_base_of_the_next() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf
        .dockerfile("FROM busybox\nRUN echo one >/file\nENV FROM_BASE=yes\n")
        .build(&["-t", "team/base:v1"])
        .success();
    let child =
        "FROM team/base:v1\nRUN test $FROM_BASE = yes && echo two >>/file\nCMD [\"cat\", \"/file\"]\n";
    wharf.dockerfile(child).build(&["-t", "child"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "child"]).success().text(), "one\ntwo\n");
    // Another image of the same name is another base.
    wharf
        .dockerfile("FROM busybox\nRUN echo uno >/file\nENV FROM_BASE=yes\n")
        .build(&["-t", "team/base:v1"])
        .success();
    wharf.dockerfile(child).build(&["-t", "child"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "child"]).success().text(), "uno\ntwo\n");
    // Files may be copied from it, too; and it is still there when what was made of it goes.
    wharf.dockerfile("FROM scratch\nCOPY --from=team/base:v1 /file /\n").build(&["-o", "out"]).success();
    assert_eq!(fs::read_to_string(wharf.path("out/file")).unwrap(), "uno\n");
    wharf.run(&["rmi", "child"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "team/base:v1", "cat", "/file"]).success().text(), "uno\n");
}

#[test]
fn a_stage_is_bound_whole_or_in_part() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox AS made\nRUN mkdir -p /a/b && echo one >/a/b/file\n\
         FROM busybox\n\
         RUN --mount=type=bind,from=made,target=/whole cp /whole/a/b/file /one && ! touch /whole/new\n\
         RUN --mount=type=bind,from=made,source=a/b,target=/part/of cp /part/of/file /two\n\
         RUN --mount=type=bind,from=made,source=/a/b/file,target=/file cp /file /three\n\
         RUN test ! -e /whole && test ! -e /part && test ! -e /file\nCMD [\"cat\", \"/one\", \"/two\", \"/three\"]\n",
    );
    wharf.build(&["-t", "app"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "one\none\none\n");
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
