//! Owners that are recorded: who has one id alone builds the same image as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Outcome, Scratch, Wharf, busybox_layout, have, skip, tool};

/// An image with files of all kinds and of several owners; its second layer changes the first.
const BASE: &str = r#"FROM busybox
RUN <<'EOF'
set -e
mkdir -m 2775 /all && cd /all
echo plain >plain && chown 12:34 plain && chmod 640 plain
ln plain hard && mkdir sub && ln plain sub/hard && chown 100:0 sub
ln -s plain soft && ln -s /nowhere dangling && chown -h 5:6 soft
echo setuid >setuid && chown 7:7 setuid && chmod 6755 setuid
mkfifo -m 600 pipe && chown 8:9 pipe
mknod -m 640 null c 1 3 && chown 0:6 null && ln null null2
mknod -m 660 loop b 7 0
mkdir -m 1777 sticky && mkdir empty && chown 65534:65534 empty
i=0; while [ $i -lt 200 ]; do ln -s target links-$i && chown -h 1000:1000 links-$i && mv links-$i link-$i; i=$((i+1)); done
echo someone:x:1234:1234::/:/bin/sh >>/etc/passwd && echo someone:x:1234: >>/etc/group
EOF
RUN rm /all/sub/hard && rm -r /all/empty && mkdir -m 700 /all/empty && chown -h 9:9 /all/soft && touch /all/sub/new
"#;

/// What needs no process: every way in which files get an owner.
const CHANGES: &str = r#"FROM base AS changed
COPY --chown=7:8 d /d
COPY --chown=someone:someone --chmod=4755 f /d/f
COPY f /all/plain
COPY --from=base --chown=3:4 /all /chowned
COPY --from=base /all/soft /all/pipe /all/null /other/
ADD --chown=9:10 t.tar /t
ADD t.tar /t/again
WORKDIR /made/here
COPY --link --chown=21:22 d /linked/d
COPY <<H /heredoc
text
H
FROM scratch
COPY --from=changed / /
COPY --from=changed --chown=40:41 /all /n
"#;

/// A place where every user gets to, with a context and the base image.
fn place() -> Option<Scratch> {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return None };
    if !have(&["setpriv", "unshare", "tar", "python3"]) {
        return None;
    }
    let mut probe = Command::new("setpriv");
    probe.args(USER).args(["unshare", "--user", "--map-root-user", "true"]).stderr(Stdio::null());
    if !probe.status().unwrap().success() {
        skip("ordinary users may not make user namespaces here");
        return None;
    }
    let scratch = Scratch::for_everybody();
    let context = scratch.path("context");
    fs::create_dir_all(context.join("d/sub")).unwrap();
    fs::write(context.join("f"), "f").unwrap();
    fs::write(context.join("d/sub/g"), "g").unwrap();
    symlink("g", context.join("d/sub/l")).unwrap();
    let odd = scratch.path("odd");
    fs::create_dir(&odd).unwrap();
    let text = format!(
        "cd {}; mkdir a; echo x >a/x; ln -s x a/l; mkfifo a/p; mknod a/n c 1 5; chown -hR 77:88 a; tar -cf ../context/t.tar a",
        odd.display()
    );
    tool("sh", &["-e", "-c", &text]);
    fs::write(context.join("Dockerfile"), CHANGES).unwrap();
    wharf.dockerfile(BASE);
    let layout = format!("type=oci,tar=false,dest={}", scratch.path("base").display());
    wharf.build(&["-o", &layout]).success();
    for name in ["root", "user"] {
        let home = scratch.path(name);
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    }
    chown(scratch.path("user"), Some(1234), Some(1234)).unwrap();
    Some(scratch)
}

const USER: &[&str] = &["--reuid=1234", "--regid=1234", "--clear-groups"];

/// `wharf` as root, or as a user with one id, with a store of its own in `home`.
fn wharf(scratch: &Scratch, home: &str, arguments: &[&str]) -> Outcome {
    let binary = env!("CARGO_BIN_EXE_wharf");
    let mut command = match home {
        "root" => Command::new(binary),
        _ => {
            let mut command = Command::new("setpriv");
            command.args(USER).arg(binary).args(["--sandbox", "rootless-single"]);
            command
        }
    };
    command.arg("--root").arg(scratch.path(home).join("store")).args(arguments);
    command
        .current_dir(scratch.path(home))
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .env("HOME", scratch.path(home));
    command.stdin(Stdio::null());
    Outcome::of(command)
}

fn build(scratch: &Scratch, home: &str, outputs: &[&str]) -> Outcome {
    let base = format!("base=oci-layout://{}", scratch.path("base").display());
    let mut arguments = vec!["build", "--progress", "plain", "--build-context", &base];
    arguments.extend(outputs.iter().flat_map(|output| ["-o", output]));
    arguments.push("../context");
    wharf(scratch, home, &arguments)
}

/// A tar as somebody else reads it: a line each entry.
fn listing(tar: &Path) -> String {
    const SCRIPT: &str = "import sys, tarfile
for m in tarfile.open(sys.argv[1]):
    print(m.name, m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, m.linkname, m.devmajor, m.devminor, m.pax_headers)";
    tool("python3", &["-c", SCRIPT, &tar.display().to_string()])
}

#[test]
fn one_id_gives_the_image_of_root() {
    let Some(scratch) = place() else { return };
    let outputs = ["type=oci,tar=false,dest=layout", "type=tar,dest=files.tar", "type=local,dest=files"];
    for home in ["root", "user"] {
        build(&scratch, home, &outputs).success();
    }
    let read = |home: &str, name: &str| fs::read(scratch.path(home).join(name)).unwrap();
    let listings = ["root", "user"].map(|home| listing(&scratch.path(home).join("files.tar")));
    for line in [
        "all/soft 2 0o777 9 9 0 plain 0 0 {}",
        "all/link-199 2 0o777 1000 1000 0 target 0 0 {}",
        "all/pipe 6 0o600 8 9 0  0 0 {}",
        "all/null 3 0o640 0 6 0  1 3 {}",
        "all/null2 3 0o640 0 6 0  1 3 {}",
        "all/loop 4 0o660 0 0 0  7 0 {}",
        "all/setuid 0 0o6755 7 7 7  0 0 {}",
        "d/f 0 0o4755 1234 1234 1  0 0 {}",
        "d/sub/l 2 0o777 7 8 0 g 0 0 {}",
        "chowned/null 3 0o640 3 4 0  1 3 {}",
        "t/a/n 3 0o644 9 10 0  1 5 {}",
        "t/again/a/l 2 0o777 0 0 0 x 0 0 {}",
        "linked/d/sub 5 0o755 21 22 0  0 0 {}",
        "n/link-7 2 0o777 40 41 0 target 0 0 {}",
    ] {
        for (home, listing) in ["root", "user"].iter().zip(&listings) {
            assert!(listing.lines().any(|found| found == line), "{home}: no `{line}` in\n{listing}");
        }
    }
    assert_eq!(listings[0], listings[1]);
    assert!(read("root", "files.tar") == read("user", "files.tar"));
    assert_eq!(
        String::from_utf8_lossy(&read("root", "layout/index.json")),
        String::from_utf8_lossy(&read("user", "layout/index.json"))
    );
    // Again, nothing is done; and what was exported to a directory is the user's and has no marks.
    let steps = build(&scratch, "user", &["type=tar,dest=again.tar"]).success();
    assert!(read("user", "again.tar") == read("user", "files.tar"), "{}", steps.stderr);
    const ATTRIBUTES: &str = "import os, sys
for place, dirs, files in os.walk(sys.argv[1]):
    for name in dirs + files:
        print(os.listxattr(os.path.join(place, name), follow_symlinks=False))";
    let attributes = tool("python3", &["-c", ATTRIBUTES, &scratch.path("user/files").display().to_string()]);
    assert!(!attributes.contains("wharf"), "{attributes}");
}

#[test]
fn a_store_is_not_opened_in_another_way() {
    let Some(scratch) = place() else { return };
    build(&scratch, "user", &["type=tar,dest=files.tar"]).success();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.arg("--root").arg(scratch.path("user/store")).arg("images");
    Outcome::of(command).fails_with(
        5,
        &[
            "recorded with the files (`--sandbox rootless-single`)",
            "as the kernel has them",
            "give another --root",
        ],
    );
}
