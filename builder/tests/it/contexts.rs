//! Contexts of every kind, and where the Dockerfile and the ignore file are found.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::add_url::{Pages, archive, listing};
use crate::harness::{Outcome, Scratch, Step, Wharf, busybox_layout, have, tool};
use crate::registry_fixture::Answer;
use crate::registry_fixture::ScriptedRegistry;

const USAGE: i32 = 2;
const DOCKERFILE: i32 = 3;
const SOURCE: i32 = 4;

/// `wharf build ARGUMENTS CONTEXT`, output in the directory `out`.
fn build(wharf: &Wharf, arguments: &[&str], context: &str) -> Outcome {
    build_with_input(wharf, arguments, context, b"")
}

fn build_with_input(wharf: &Wharf, arguments: &[&str], context: &str, input: &[u8]) -> Outcome {
    let _ = fs::remove_dir_all(wharf.path("out"));
    let mut all = vec!["build", "--progress", "plain", "-o", "out"];
    all.extend(arguments);
    all.push(context);
    let outcome = Outcome::of_with_input(wharf.command("store", &all), input);
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new(), "{}", outcome.stderr);
    outcome
}

/// The files of the result: names below `out` with what is in them.
fn out(wharf: &Wharf) -> Vec<(String, String)> {
    let root = wharf.path("out");
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.push((name, fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }
    files.sort();
    files
}

#[track_caller]
fn check_out(wharf: &Wharf, expected: &[(&str, &str)]) {
    let actual = out(wharf);
    let actual: Vec<_> = actual.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(actual, expected);
}

#[test]
fn standard_input_is_an_archive_of_any_compression() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3", "zstd"])) else { return };
    let scratch = Scratch::new();
    let mut inputs: Vec<Vec<u8>> = ["", "gz", "bz2", "xz"].map(|mode| archive(&scratch, mode)).into();
    let plain = scratch.path("archive.");
    tool("zstd", &["-q", plain.to_str().unwrap()]);
    inputs.push(fs::read(scratch.path("archive..zst")).unwrap());
    for (number, input) in inputs.iter().enumerate() {
        let outcome = build_with_input(&wharf, &[], "-", input).success();
        check_out(&wharf, &[("x/f", "file")]);
        // The same files are the same, however they came.
        assert_eq!(outcome.steps().that(Step::Ran).is_empty(), number > 0, "{}", outcome.stderr);
    }
    // And the same as those of a directory.
    wharf.file("d/f", "file").dockerfile("FROM scratch\nCOPY d /x\n");
    tool("chmod", &["640", wharf.context().join("d/f").to_str().unwrap()]);
    assert_eq!(build(&wharf, &[], "context").success().steps().that(Step::Ran), Vec::<&str>::new());
    // An archive on disk, with a name that says nothing.
    fs::write(wharf.path("context.data"), &inputs[3]).unwrap();
    build(&wharf, &[], "context.data").success();
    check_out(&wharf, &[("x/f", "file")]);
}

#[test]
fn files_of_an_archive_belong_to_root_and_keep_the_rest() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3"])) else { return };
    let input = archive(&Scratch::new(), "gz");
    let outcome = build_with_input(&wharf, &["-o", "type=tar,dest=out.tar"], "-", &input);
    outcome.success();
    assert_eq!(listing(&wharf.path("out.tar")), ["dir 755 0:0 - x ''", "file 640 0:0 2000 x/f 'file'"]);
}

#[test]
fn the_dockerfile_of_an_archive_may_be_elsewhere() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3"])) else { return };
    let input = archive(&Scratch::new(), "");
    fs::write(wharf.path("Other"), "FROM scratch\nCOPY d/f /other\n").unwrap();
    // A file of the archive comes before one of this machine.
    fs::write(wharf.path("Dockerfile"), "wrong").unwrap();
    let check = |file: &str, expected: &[(&str, &str)]| {
        build_with_input(&wharf, &["-f", file], "-", &input).success();
        check_out(&wharf, expected);
    };
    check("Other", &[("other", "file")]);
    check(wharf.path("Other").to_str().unwrap(), &[("other", "file")]);
    check("Dockerfile", &[("x/f", "file")]);
    check("/Dockerfile", &[("x/f", "file")]);
    build_with_input(&wharf, &["-f", "Nofile"], "-", &input)
        .fails_with(USAGE, &["`Nofile`", "nor on this machine"]);
    build_with_input(&wharf, &["-f", "d"], "-", &input).fails_with(USAGE, &["d` is not a file"]);
    build_with_input(&wharf, &["-f", "-"], "-", &input).fails_with(USAGE, &["standard input", "hint"]);
    build_with_input(&wharf, &["-f", "-"], "context", b"FROM scratch\nCOPY f /\n").failure();
}

#[test]
fn standard_input_is_a_dockerfile_alone() {
    let Some(wharf) = Wharf::new() else { return };
    build_with_input(&wharf, &[], "-", b"FROM scratch\nCOPY <<x /f\nhere\nx\n").success();
    check_out(&wharf, &[("f", "here\n")]);
    build_with_input(&wharf, &[], "-", b"FROM scratch\nCOPY . /\n").success();
    check_out(&wharf, &[]);
    build_with_input(&wharf, &[], "-", b"FROM scratch\nCOPY f /\n")
        .fails_with(1, &["<standard input>:2", "not found"]);
    build_with_input(&wharf, &[], "-", b"").fails_with(USAGE, &["standard input is empty"]);
    build_with_input(&wharf, &[], "-", b"FROM scratch\n\0\xff\n")
        .fails_with(SOURCE, &["neither an archive", "it is no text"]);
    build_with_input(&wharf, &["-f", "x"], "-", b"FROM scratch\n")
        .fails_with(USAGE, &["is a Dockerfile", "`-f`"]);
}

#[test]
fn bad_archives_are_refused_and_leave_nothing() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3"])) else { return };
    let scratch = Scratch::new();
    let hostile = |name: &str, script: &str| {
        let path = scratch.path(name);
        let all = format!(
            "import io, sys, tarfile\nt = tarfile.open(sys.argv[1], 'w')\n\
             def add(name, data=b'x', kind=tarfile.REGTYPE, link=''):\n\
             \x20   m = tarfile.TarInfo(name); m.size = len(data) if kind == tarfile.REGTYPE else 0\n\
             \x20   m.type = kind; m.linkname = link; t.addfile(m, io.BytesIO(data))\n\
             add('Dockerfile', b'FROM scratch\\nCOPY . /\\n')\n{script}\nt.close()\n"
        );
        tool("python3", &["-c", &all, path.to_str().unwrap()]);
        fs::read(path).unwrap()
    };
    let outside = wharf.path("escaped");
    let target = outside.parent().unwrap().display().to_string();
    // Names are taken below the root of the context, as ADD takes them, or refused; never outside.
    for script in [
        "add('../../escaped')".to_owned(),
        "add('a/../../../../../../../../escaped')".to_owned(),
        format!("add('{}')", outside.display()),
        format!("add('l', b'', tarfile.SYMTYPE, '{target}'); add('l/escaped')"),
        "add('l', b'', tarfile.SYMTYPE, '../../../../..'); add('l/escaped')".to_owned(),
        format!("add('h', b'', tarfile.LNKTYPE, '{}')", wharf.path("secret").display()),
        "add('h', b'', tarfile.LNKTYPE, '../../../../secret')".to_owned(),
    ] {
        fs::write(wharf.path("secret"), "secret").unwrap();
        let outcome = build_with_input(&wharf, &[], "-", &hostile("hostile.tar", &script));
        assert!(matches!(outcome.code, Some(0 | SOURCE)), "{script}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        assert!(!outside.exists(), "{script}");
        let found = if outcome.code == Some(0) { out(&wharf) } else { Vec::new() };
        assert!(found.iter().all(|(_, text)| text != "secret"), "{script}: {found:?}");
    }
    let script = "import os; add('random', os.urandom(1 << 20))";
    hostile("large.tar", script);
    tool("gzip", &[scratch.path("large.tar").to_str().unwrap()]);
    let whole = fs::read(scratch.path("large.tar.gz")).unwrap();
    let plain = archive(&scratch, "");
    for (input, words) in [
        (&whole[..whole.len() / 2], &["cannot unpack", "<standard input>"][..]),
        (&plain[..700], &["cannot unpack"]),
        (&plain[..100], &["neither an archive nor a Dockerfile"]),
        (&b"\x1f\x8b\x08no gzip"[..], &["neither an archive"]),
    ] {
        build_with_input(&wharf, &[], "-", input).fails_with(SOURCE, words);
        fs::write(wharf.path("bad.tar"), input).unwrap();
        let failed = build(&wharf, &[], "bad.tar").failure();
        assert!(matches!(failed.code, Some(USAGE | SOURCE)), "{}", failed.stderr);
        assert!(failed.stderr.contains("bad.tar"), "{}", failed.stderr);
    }
    // A hundred terabytes in a few bytes: the size is looked at before the disk is full.
    let script = "m = tarfile.TarInfo('bomb'); m.size = 100 << 40; t.addfile(m)";
    build_with_input(&wharf, &[], "-", &hostile("bomb.tar", script)).fails_with(SOURCE, &["cannot unpack"]);
}

#[test]
fn a_damaged_compressed_archive_is_refused_however_it_comes() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3", "zstd"])) else { return };
    let scratch = Scratch::new();
    for mode in ["gz", "bz2", "xz", "zst"] {
        let packed = scratch.path(&format!("a.{mode}"));
        if mode == "zst" {
            fs::write(scratch.path("a"), archive(&scratch, "")).unwrap();
            tool("zstd", &["-q", scratch.path("a").to_str().unwrap(), "-o", packed.to_str().unwrap()]);
        } else {
            fs::write(&packed, archive(&scratch, mode)).unwrap();
        }
        for damage in ["d[:-2]", "d[:-6] + bytes([d[-6] ^ 1]) + d[-5:]"] {
            let bad = wharf.path("bad");
            let script = format!(
                "import sys\nd = open(sys.argv[1], 'rb').read()\nopen(sys.argv[2], 'wb').write({damage})"
            );
            if mode == "zst" && damage != "d[:-2]" {
                continue;
            }
            tool("python3", &["-c", &script, packed.to_str().unwrap(), bad.to_str().unwrap()]);
            let bytes = fs::read(&bad).unwrap();
            let words = ["cannot unpack", "cannot read the archive"];
            build(&wharf, &[], "bad").fails_with(SOURCE, &words);
            build_with_input(&wharf, &[], "-", &bytes).fails_with(SOURCE, &words);
            let web = ScriptedRegistry::with_answers(vec![Answer::ok(bytes.clone())]);
            build(&wharf, &[], &format!("http://{}/a", web.host())).fails_with(SOURCE, &words);
            fs::write(wharf.context().join("bad"), &bytes).unwrap();
            wharf.dockerfile("FROM scratch\nADD bad /\n");
            for _ in 0..2 {
                build(&wharf, &[], "context").fails_with(1, &["Dockerfile:2", "cannot unpack"]);
            }
            assert!(!wharf.path("out").exists(), "{mode} {damage}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_for_comments() {
    let Some(wharf) = Wharf::new() else { return };
    let check = |dockerfile: &[u8], place: Option<&str>| {
        fs::write(wharf.context().join("Dockerfile"), dockerfile).unwrap();
        for (context, input) in [("context", &b""[..]), ("-", dockerfile)] {
            let built = build_with_input(&wharf, &[], context, input);
            match place {
                None => drop(built.success()),
                Some(place) => {
                    let failed = built.fails_with(
                        DOCKERFILE,
                        &[place, "this is not UTF-8", "help: save the file as UTF-8"],
                    );
                    assert!(!failed.stderr.contains("unknown instruction"), "{}", failed.stderr);
                }
            }
        }
    };
    check(b"# caf\xe9\nFROM scratch\nCOPY <<x /\\\n  # \xe9\nf\nhere\nx\n# \xff\xfe", None);
    check(b"FROM scratch\nLABEL a=caf\xe9\n", Some(":2:12"));
    check(b"FROM scratch\n\xff a\n", Some(":2:1"));
    check(b"# \xe9\nFROM scratch\nCOPY <<x /f\n# caf\xe9s\nx\n", Some(":4:6"));
    check(b"FROM scratch\nLABEL a=b \\\n # \xe9\n c=\xe9\n", Some(":4:4"));
    check("FROM scratch\nLABEL a=\u{fffd}\n".as_bytes(), None);
}

#[test]
fn an_endless_input_is_refused_at_once() {
    let Some(wharf) = Wharf::new() else { return };
    for (input, words) in [
        ("exec cat /dev/zero", &["neither an archive nor a Dockerfile", "it is no text"][..]),
        ("exec yes 'RUN x'", &["neither an archive nor a Dockerfile", "more than 67108864 bytes"]),
    ] {
        let mut endless = std::process::Command::new("sh");
        let mut endless = endless.args(["-c", input]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut command = wharf.command("store", &["build", "--progress", "plain", "-"]);
        command.stdin(endless.stdout.take().unwrap());
        Outcome::of(command).fails_with(SOURCE, words);
        endless.wait().unwrap();
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    }
}

#[test]
fn a_pipe_is_no_context_and_may_be_a_dockerfile() {
    let Some(wharf) = Wharf::new() else { return };
    let pipe = wharf.path("pipe").display().to_string();
    tool("mkfifo", &[&pipe]);
    build(&wharf, &[], &pipe).fails_with(USAGE, &["neither a directory nor a tar archive"]);
    // Nobody writes to it: the build waits, and can be stopped.
    let mut command = wharf.command("store", &["build", "--progress", "plain", "-f", &pipe, "context"]);
    let mut child = command.spawn().unwrap();
    crate::harness::wait_until("it waits", || {
        fs::read_dir(wharf.path("store/tmp")).into_iter().flatten().count() > 0
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (to, text) = (pipe.clone(), "FROM scratch\nCOPY <<x /f\nhere\nx\n");
    let writer = std::thread::spawn(move || fs::write(to, text).unwrap());
    build(&wharf, &["-f", &pipe], "context").success();
    writer.join().unwrap();
    check_out(&wharf, &[("f", "here\n")]);
}

#[test]
fn the_store_is_no_part_of_a_context_it_lies_in() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("d/f", "file").dockerfile("FROM scratch\nCOPY . /x/\nCOPY d* /y/\n");
    let store = wharf.context().join("d/store");
    let store = store.to_str().unwrap();
    let build = |context: &str| {
        let _ = fs::remove_dir_all(wharf.path("out"));
        Outcome::of(wharf.command(store, &["build", "--progress", "plain", "-o", "out", context]))
    };
    let words = "lies in the build context and was left out";
    let first = build("context").success();
    assert_eq!(first.stderr.matches(words).count(), 1, "{}", first.stderr);
    let expected = [("x/Dockerfile", &*fs::read_to_string(wharf.context().join("Dockerfile")).unwrap())];
    let files = [expected[0], ("x/d/f", "file"), ("y/f", "file")];
    check_out(&wharf, &files);
    // What the first build has put there changes nothing.
    let second = build("context").success();
    assert_eq!(second.steps().that(Step::Ran), Vec::<&str>::new(), "{}", second.stderr);
    check_out(&wharf, &files);
    for source in ["d/store", "d/store/oci-layout", "d/store/snapshots"] {
        wharf.dockerfile(&format!("FROM scratch\nCOPY {source} /x/\n"));
        build("context").fails_with(1, &["Dockerfile:2", "not found"]);
    }
    wharf.dockerfile("FROM scratch\nCOPY d/store* /x/\nCOPY d/*/oci-layout /x/\n");
    build("context").success();
    check_out(&wharf, &[]);
    wharf.file(".dockerignore", "**/store\n").dockerfile("FROM scratch\nCOPY . /x/\n");
    let silent = build("context").success();
    assert!(!silent.stderr.contains(words), "{}", silent.stderr);
    fs::write(wharf.context().join("d/store/Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    build(store).fails_with(USAGE, &["is the store of images", "--root"]);
}

#[test]
fn a_url_is_an_archive_or_a_dockerfile() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3"])) else { return };
    let pages = Pages::default();
    pages.put("/a", &["ETag: \"1\""], archive(&Scratch::new(), "gz"));
    pages.put("/Dockerfile", &[], "FROM scratch\nCOPY <<x /f\nhere\nx\nCOPY . /context/\n");
    pages.put("/Other", &[], "FROM scratch\nCOPY d/f /g\n");
    let web = pages.serve();
    let url = |path: &str| format!("http://{}{path}", web.host());
    build(&wharf, &[], &url("/a")).success();
    check_out(&wharf, &[("x/f", "file")]);
    let again = build(&wharf, &[], &url("/a")).success();
    assert_eq!(again.steps().that(Step::Ran), Vec::<&str>::new());
    assert_eq!(web.requests().last().unwrap().line, "HEAD /a");
    build(&wharf, &[], &url("/Dockerfile")).success();
    check_out(&wharf, &[("f", "here\n")]);
    build(&wharf, &["-f", &url("/Other")], &url("/a")).success();
    check_out(&wharf, &[("g", "file")]);
    fs::write(wharf.path("Local"), "FROM scratch\nCOPY d /l\n").unwrap();
    build(&wharf, &["-f", "Local"], &url("/a")).success();
    check_out(&wharf, &[("l/f", "file")]);
    wharf.file("d/f", "of the directory");
    build(&wharf, &["-f", &url("/Other")], "context").success();
    check_out(&wharf, &[("g", "of the directory")]);

    for (arguments, context) in [(&[][..], url("/none")), (&["-f", &url("/none")], "context".to_owned())] {
        let failed =
            build(&wharf, arguments, &context).fails_with(SOURCE, &["404 Not Found", "check the URL"]);
        assert!(failed.stderr.contains(&url("/none")), "{}", failed.stderr);
    }
    build(&wharf, &["-f", "x"], &url("/Dockerfile")).fails_with(USAGE, &["is a Dockerfile"]);
    let cut = ScriptedRegistry::with_answers(vec![Answer::Cut(9000, b"FROM scratch".to_vec())]);
    build(&wharf, &[], &format!("http://{}/x", cut.host())).fails_with(SOURCE, &["broke off"]);
}

#[test]
fn an_errors_place_in_a_dockerfile_from_elsewhere_is_named_without_secrets() {
    let Some(wharf) = Wharf::new() else { return };
    let web = ScriptedRegistry::with_answers(vec![Answer::ok("FROM scratch\nRUM x\n")]);
    let failed = build(&wharf, &[], &format!("http://u:pa55@{}/D?key=s3cret", web.host()));
    let failed = failed.fails_with(DOCKERFILE, &["/D?key=xxxxx:2", "RUM"]);
    assert!(!failed.stderr.contains("s3cret") && !failed.stderr.contains("pa55"), "{}", failed.stderr);
}

#[test]
fn a_context_that_is_slow_can_be_stopped() {
    let Some(wharf) = Wharf::new() else { return };
    let web = ScriptedRegistry::with_answers(vec![Answer::Stalled(1 << 20, vec![b'x'; 10])]);
    let url = format!("http://{}/x", web.host());
    for (context, is_killed) in [(&*url, false), ("-", false), (&*url, true), ("-", true)] {
        let mut command = wharf.command("store", &["build", "--progress", "plain", context]);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let asked = web.requests().len();
        crate::harness::wait_until("it waits", || {
            let temporary = fs::read_dir(wharf.path("store/tmp")).into_iter().flatten().count();
            if context == "-" { temporary > 0 } else { web.requests().len() > asked }
        });
        let signal = if is_killed { Signal::KILL } else { Signal::TERM };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let _stdin = child.stdin.take();
        let code = child.wait().unwrap().code();
        assert_eq!(code, if is_killed { None } else { Some(130) }, "{context}");
        // What a killed one leaves the next one takes away.
        wharf.run(&["images"]).success();
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    }
}

/// An OCI layout with two images, made by umoci: `one` has a Dockerfile.
fn layout(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.path("layout");
    tool("umoci", &["init", "--layout", path.to_str().unwrap()]);
    for (tag, files) in [
        ("one", &[("Dockerfile", "FROM scratch\nCOPY f /\nCOPY --from=self f /self\n"), ("f", "one")][..]),
        ("two", &[("f", "two")]),
    ] {
        let image = format!("{}:{tag}", path.display());
        tool("umoci", &["new", "--image", &image]);
        for (name, text) in files {
            fs::write(scratch.path("file"), text).unwrap();
            let file = scratch.path("file");
            tool("umoci", &["insert", "--image", &image, file.to_str().unwrap(), &format!("/{name}")]);
        }
    }
    path
}

#[test]
fn a_layout_is_a_context() {
    let (Some(wharf), true) = (Wharf::new(), have(&["umoci", "python3"])) else { return };
    let scratch = Scratch::new();
    let layout = layout(&scratch);
    let digests = tool(
        "python3",
        &[
            "-c",
            "import json, sys\nfor m in json.load(open(sys.argv[1]))['manifests']: print(m['digest'])",
            layout.join("index.json").to_str().unwrap(),
        ],
    );
    let two = digests.lines().nth(1).unwrap();
    let one = format!("oci-layout://{}:one", layout.display());
    build(&wharf, &["--build-context", &format!("self={one}")], &one).success();
    check_out(&wharf, &[("f", "one"), ("self", "one")]);
    // Two images of one layout under two names, by tag and by digest.
    wharf.dockerfile(
        "FROM a AS b\nFROM scratch\nCOPY --from=a f /a\nCOPY --from=c f /c\nCOPY --from=d f /d\n",
    );
    let of = |name: &str, rest: &str| format!("{name}=oci-layout://{}{rest}", layout.display());
    let names = [of("a", ":one"), of("c", ":two"), of("d", &format!("@{two}"))];
    let mut arguments = Vec::new();
    names.iter().for_each(|name| arguments.extend(["--build-context", name]));
    build(&wharf, &arguments, "context").success();
    check_out(&wharf, &[("a", "one"), ("c", "two"), ("d", "two")]);
    // As the base, with what stands in its config.
    wharf.dockerfile("FROM base\nCOPY Dockerfile /d\n");
    build(&wharf, &["--build-context", &of("base", ":two")], "context").success();
    assert_eq!(out(&wharf).iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["d", "f"]);
    for (context, word) in [
        (format!("oci-layout://{}:nine", layout.display()), "has no image with tag `nine`"),
        ("oci-layout:///nowhere".to_owned(), "an OCI layout is a directory"),
        (format!("oci-layout://{}:two", layout.display()), "there is no Dockerfile"),
    ] {
        let failed = build(&wharf, &[], &context).failure();
        assert!(failed.stderr.contains(word), "{}", failed.stderr);
        assert!(matches!(failed.code, Some(USAGE | SOURCE)));
    }
}

#[test]
fn an_image_of_the_store_is_a_context() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("f", "x").dockerfile("FROM scratch\nCOPY --chown=5:6 f Dockerfile /\n");
    wharf.build(&["-t", "built"]).success();
    let context = "docker-image://built";
    let dockerfile = "FROM scratch\nCOPY f /g\n";
    let outcome =
        build_with_input(&wharf, &["-f", "-", "-o", "type=tar,dest=out.tar"], context, dockerfile.as_bytes());
    outcome.success();
    if have(&["python3"]) {
        let listed = listing(&wharf.path("out.tar"));
        assert!(listed[0].starts_with("file 644 0:0 ") && listed[0].ends_with(" g 'x'"), "{listed:?}");
    }
    build(&wharf, &["--build-context", "n=docker-image://built"], context).success();
    assert_eq!(out(&wharf).len(), 2);
}

#[test]
fn named_contexts_are_of_every_kind() {
    let (Some(wharf), true) = (Wharf::new(), have(&["python3"])) else { return };
    let pages = Pages::default();
    pages.put("/x/page", &[], "page");
    let web = pages.serve();
    let tar = wharf.path("named.tar");
    fs::write(&tar, archive(&Scratch::new(), "")).unwrap();
    fs::create_dir(wharf.path("dir")).unwrap();
    for (name, text) in [("f", "dir"), ("hidden", "x"), (".dockerignore", "hidden\n")] {
        fs::write(wharf.path("dir").join(name), text).unwrap();
    }
    let url = format!("page=http://{}/x/page", web.host());
    let arguments = [
        "--build-context",
        "dir=dir",
        "--build-context",
        "tar=named.tar",
        "--build-context",
        &*url,
        "--build-context",
        "alias=target:made",
        "--build-context",
        "unused=https://127.0.0.1:1/x.git",
    ];
    wharf.file("f", "main").dockerfile(
        "FROM scratch AS made\nCOPY <<x /made\nmade\nx\nFROM scratch\nCOPY f /main\nCOPY --from=DIR f /dir\n\
         COPY --from=tar d/f /tar\nCOPY --from=page context /page\nCOPY --from=alias made /alias\n",
    );
    build(&wharf, &arguments, "context").success();
    check_out(
        &wharf,
        &[("alias", "made\n"), ("dir", "dir"), ("main", "main"), ("page", "page"), ("tar", "file")],
    );
    // Its own ignore file.
    wharf.dockerfile("FROM scratch\nCOPY --from=dir hidden /\n");
    build(&wharf, &arguments, "context").fails_with(1, &["hidden", "not found"]);
    // As a base, and in place of a stage.
    wharf.dockerfile("FROM dir\n");
    build(&wharf, &arguments, "context").success();
    check_out(&wharf, &[(".dockerignore", "hidden\n"), ("f", "dir")]);
    wharf.dockerfile("FROM scratch AS dir\nCOPY nothing /\nFROM dir\n");
    build(&wharf, &arguments, "context").success();
    check_out(&wharf, &[(".dockerignore", "hidden\n"), ("f", "dir")]);

    wharf.dockerfile("FROM scratch AS one\nCOPY --from=late x /\nFROM scratch AS after\n");
    build(&wharf, &["--build-context", "late=target:after", "--target", "one"], "context")
        .fails_with(DOCKERFILE, &["Dockerfile:2", "late", "after"]);
    for (context, words) in [
        ("n=nowhere", &["`nowhere`", "looked for"][..]),
        ("n=-", &["standard input", "main context"]),
        ("n", &["NAME=CONTEXT"]),
        ("n=ftp://h/x", &["ftp://", "docker-image://"]),
    ] {
        wharf.dockerfile("FROM scratch\nCOPY f /\n");
        build(&wharf, &["--build-context", context], "context").fails_with(USAGE, words);
    }
}

#[test]
fn dockerfiles_are_found() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("a", "a").file("b", "b").file("sub/f", "s");
    let context = wharf.context();
    let check = |arguments: &[&str], expected: &[(&str, &str)]| {
        build(&wharf, arguments, "context").success();
        check_out(&wharf, expected);
    };
    wharf.file("Containerfile", "FROM scratch\nCOPY a /containerfile\n");
    check(&[], &[("containerfile", "a")]);
    wharf.file("dockerfile", "FROM scratch\nCOPY a /lower\n");
    check(&[], &[("lower", "a")]);
    wharf.file("web/Dockerfile.web", "FROM scratch\nCOPY a /web\n");
    symlink("web/Dockerfile.web", context.join("Dockerfile")).unwrap();
    check(&[], &[("web", "a")]);
    // With `-f`, from where the caller is; also outside.
    check(&["-f", "context/dockerfile"], &[("lower", "a")]);
    fs::write(wharf.path("outside"), "FROM scratch\nCOPY b /outside\n").unwrap();
    check(&["-f", "outside"], &[("outside", "b")]);
    build_with_input(&wharf, &["-f", "-"], "context", b"FROM scratch\nCOPY a /stdin\n").success();
    check_out(&wharf, &[("stdin", "a")]);
    build(&wharf, &["-f", "dockerfile"], "context")
        .fails_with(USAGE, &["`dockerfile`", "-f context/dockerfile"]);
    build(&wharf, &["-f", "context"], "context").fails_with(USAGE, &["is a directory"]);
    build(&wharf, &[], "context/sub").fails_with(USAGE, &["there is no Dockerfile", "`Containerfile`"]);
    build(&wharf, &[], "nowhere").fails_with(USAGE, &["`nowhere`", "looked for"]);
    build(&wharf, &[], "context/a").fails_with(USAGE, &["neither a directory nor a tar"]);
    for (target, word) in [
        ("Dockerfile", "symbolic links"),
        ("/etc/hostname-not-here", "symbolic link to nothing"),
        ("sub", "not a file"),
    ] {
        fs::remove_file(context.join("Dockerfile")).unwrap();
        symlink(target, context.join("Dockerfile")).unwrap();
        build(&wharf, &[], "context").fails_with(USAGE, &["context/Dockerfile", word]);
    }
    // Nothing outside the context is read by a link in it.
    fs::remove_file(context.join("Dockerfile")).unwrap();
    symlink(wharf.path("outside"), context.join("Dockerfile")).unwrap();
    build(&wharf, &[], "context").fails_with(USAGE, &["symbolic link"]);
}

#[test]
fn ignore_files_are_found() {
    let Some(wharf) = Wharf::new() else { return };
    for name in ["a", "b", "c", "d"] {
        wharf.file(name, name);
    }
    let check = |arguments: &[&str], missing: &str| {
        build(&wharf, arguments, "context").success();
        let found: String = out(&wharf).into_iter().map(|(_, text)| text).collect();
        let expected: String = ["a", "b", "c", "d"].into_iter().filter(|name| *name != missing).collect();
        assert_eq!(found, expected);
    };
    let dockerfile = "FROM scratch\nCOPY ? /\n";
    wharf.dockerfile(dockerfile);
    check(&[], "");
    wharf.file(".dockerignore", "a\n.dockerignore\nDockerfile\n");
    check(&[], "a");
    wharf.file(".containerignore", "b\n");
    check(&[], "b");
    wharf.file("Dockerfile.dockerignore", "c\n");
    check(&[], "c");
    fs::write(wharf.path("outside"), dockerfile).unwrap();
    check(&["-f", "outside"], "b");
    fs::write(wharf.path("outside.dockerignore"), "d\n").unwrap();
    check(&["-f", "outside"], "d");
    wharf.file("Dockerfile.dockerignore", "!\n");
    build(&wharf, &[], "context")
        .fails_with(USAGE, &["Dockerfile.dockerignore", "illegal exclusion pattern"]);
}

#[test]
fn a_directory_becomes_a_file() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("foo/bar", "in a directory").dockerfile("FROM scratch\nCOPY foo /\n");
    build(&wharf, &[], "context").success();
    check_out(&wharf, &[("bar", "in a directory")]);
    fs::remove_dir_all(wharf.context().join("foo")).unwrap();
    wharf.file("foo", "a file");
    build(&wharf, &[], "context").success();
    check_out(&wharf, &[("foo", "a file")]);
}

#[test]
fn loops_of_links_in_a_context_are_copied_as_links_and_not_followed() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("d/f", "x").dockerfile("FROM scratch\nCOPY d /d\n");
    symlink("loop", wharf.context().join("d/loop")).unwrap();
    symlink("..", wharf.context().join("d/up")).unwrap();
    build(&wharf, &[], "context").success();
    assert_eq!(fs::read_link(wharf.path("out/d/loop")).unwrap(), Path::new("loop"));
    wharf.dockerfile("FROM scratch\nCOPY d/loop /\n");
    build(&wharf, &[], "context").fails_with(1, &["Dockerfile:2", "symbolic links"]);
}
