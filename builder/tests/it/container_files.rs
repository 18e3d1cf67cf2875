//! `wharf cp`, `diff`, `commit` and `export` of containers, running and not.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::harness::{Outcome, Wharf, busybox_layout, have, processes, skip};

const USAGE: i32 = 2;

/// An image `app`, and a container `box` of it that runs, or was never started.
fn with_container(runs: bool) -> Option<Wharf> {
    let wharf = Wharf::new()?;
    if busybox_layout().is_none() {
        skip("the busybox base could not be made");
        return None;
    }
    wharf.dockerfile(
        "FROM busybox\nRUN mkdir -p /etc/app /srv && echo old > /etc/app/conf && echo x > /etc/app/gone\n",
    );
    wharf.build(&["-t", "app"]).success();
    let verb: &[&str] = if runs { &["run", "-d"] } else { &["create"] };
    let rest = ["--network", "none", "--name", "box", "-v", "vol:/vol", "app", "sleep", "600"];
    wharf.run(&[verb, &rest].concat()).success();
    Some(wharf)
}

fn cp(wharf: &Wharf, arguments: &[&str]) -> Outcome {
    wharf.run(&[&["cp"], arguments].concat())
}

#[track_caller]
fn end(wharf: &Wharf) {
    wharf.run(&["rm", "-f", "-v", "box"]).success();
    let marker = wharf.path("store").display().to_string();
    assert_eq!(processes(&marker), [""; 0]);
    assert_eq!(wharf.leftovers("store"), [""; 0]);
}

#[test]
fn files_are_copied_both_ways_by_dockers_rules() {
    for runs in [false, true] {
        let Some(wharf) = with_container(runs) else { return };
        let here = |name: &str| wharf.path(name);
        let text = |name: &str| fs::read_to_string(here(name)).unwrap();
        fs::create_dir_all(here("tree/sub")).unwrap();
        fs::write(here("tree/file"), "a").unwrap();
        fs::hard_link(here("tree/file"), here("tree/sub/same")).unwrap();
        // A change of owner takes the setuid bit away.
        std::os::unix::fs::chown(here("tree/file"), Some(1234), Some(1234)).unwrap();
        fs::set_permissions(here("tree/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/passwd", here("tree/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(here("tree/socket")).unwrap();
        // Into a directory that is there, to a new name, and what is in it alone.
        let told = cp(&wharf, &["tree", "box:/srv"]).success();
        assert!(told.stderr.contains("socket"), "{}", told.stderr);
        cp(&wharf, &["tree", "box:/srv/new"]).success();
        cp(&wharf, &["-a", "tree/.", "box:/vol"]).success();
        cp(&wharf, &["tree/file", "box:/etc/app/conf"]).success();
        cp(&wharf, &["box:/srv", "out"]).success();
        for file in ["out/tree/file", "out/new/sub/same"] {
            assert_eq!(text(file), "a", "{file}, runs: {runs}");
        }
        let file = fs::metadata(here("out/tree/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.nlink(), file.uid()), (0o4755, 2, 0));
        assert_eq!(fs::read_link(here("out/tree/link")).unwrap().to_str(), Some("/etc/passwd"));
        assert!(!here("out/tree/socket").exists());
        cp(&wharf, &["-a", "box:/vol/.", "volume"]).success();
        assert_eq!(fs::metadata(here("volume/file")).unwrap().uid(), 1234);
        assert_eq!(fs::metadata(here("store/volumes/vol/data/file")).unwrap().uid(), 1234);
        // Links: as they are, or what they lead to, and that within the container alone.
        cp(&wharf, &["box:/srv/tree/link", "as-link"]).success();
        assert!(fs::symlink_metadata(here("as-link")).unwrap().is_symlink());
        fs::write(here("hostile"), "of the host").unwrap();
        symlink(here("hostile"), here("out-of-it")).unwrap();
        cp(&wharf, &["out-of-it", "box:/srv/out-of-it"]).success();
        cp(&wharf, &["-L", "box:/srv/out-of-it", "followed"]).fails_with(USAGE, &["no `/srv/out-of-it`"]);
        cp(&wharf, &["tree/file", "box:/srv/out-of-it"]).success();
        assert_eq!(text("hostile"), "of the host", "a link of the container led out of it");
        fs::create_dir(here("outside")).unwrap();
        symlink(here("outside"), here("out-dir")).unwrap();
        cp(&wharf, &["out-dir", "box:/srv/out-dir"]).success();
        cp(&wharf, &["tree/file", "box:/srv/out-dir/file"]).failure();
        assert_eq!(fs::read_dir(here("outside")).unwrap().count(), 0);
        // What makes no sense.
        for (arguments, words) in [
            (&["box:/nothing", "x"][..], "no `/nothing` in the container"),
            (&["nothing", "box:/srv"], "no `nothing` on this host"),
            (&["tree", "box:/etc/app/conf"], "is a file"),
            (&["tree/file", "box:/nowhere/file"], "/nowhere"),
            (&["tree/file", "box:/srv/none/"], "/srv/none/"),
            (&["tree/file/", "box:/srv"], "no directory"),
            (&["tree", "other"], "CONTAINER:PATH"),
            (&["box:/srv", "box:/etc"], "from one container to another"),
            (&["box:", "x"], "no path follows"),
            (&["nobody:/x", "x"], "no container `nobody`"),
        ] {
            cp(&wharf, arguments).fails_with(USAGE, &[words]);
        }
        // Streams.
        if have(&["tar"]) {
            let tar = cp(&wharf, &["box:/srv/new", "-"]).success().stdout;
            let listed = Outcome::of_with_input(
                {
                    let mut command = std::process::Command::new("tar");
                    command
                        .args(["tf", "-"])
                        .stdout(std::process::Stdio::piped())
                        .stderr(std::process::Stdio::piped());
                    command
                },
                &tar,
            );
            assert!(listed.text().contains("new/sub/same"), "{}", listed.text());
            Outcome::of_with_input(wharf.command("store", &["cp", "-", "box:/etc/app"]), &tar).success();
            cp(&wharf, &["box:/etc/app/new/file", "from-tar"]).success();
            assert_eq!(text("from-tar"), "a");
            let no_directory = wharf.command("store", &["cp", "-", "box:/etc/app/conf"]);
            Outcome::of_with_input(no_directory, &tar).fails_with(USAGE, &["no directory"]);
        }
        end(&wharf);
    }
}

#[test]
fn what_differs_is_told_committed_and_exported() {
    let Some(wharf) = with_container(true) else { return };
    let script =
        "rm /etc/app/gone; echo new > /etc/app/conf; mkdir /added; echo x > /added/file; echo no > /vol/no";
    wharf.run(&["exec", "box", "sh", "-c", script]).success();
    let expected = "A /added\nA /added/file\nC /etc\nC /etc/app\nC /etc/app/conf\nD /etc/app/gone\n";
    assert_eq!(wharf.run(&["diff", "box"]).success().text(), expected);
    let change = ["-c", "ENV A=1", "-c", "CMD [\"cat\", \"/etc/app/conf\"]", "-m", "why", "-a", "me"];
    let id = wharf.run(&[&["commit"][..], &change, &["box", "made"]].concat()).success().text();
    assert!(id.starts_with("sha256:"), "{id}");
    // It goes on, and the image is what it was.
    wharf.run(&["exec", "box", "true"]).success();
    let ran = wharf.run(&["run", "--rm", "--network", "none", "made"]).success();
    assert_eq!(ran.text(), "new\n");
    let script = "test ! -e /etc/app/gone && test ! -e /vol/no && echo $A && cat /added/file";
    let ran = wharf.run(&["run", "--rm", "--network", "none", "made", "sh", "-c", script]).success();
    assert_eq!(ran.text(), "1\nx\n");
    let history = wharf.run(&["image", "history", "--no-trunc", "made"]).success().text();
    assert!(history.contains("sleep 600"), "{history}");
    wharf.run(&["export", "-o", "box.tar", "box"]).success();
    wharf.run(&["import", "box.tar", "whole", "-c", "CMD [\"cat\", \"/etc/app/conf\"]"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "--network", "none", "whole"]).success().text(), "new\n");
    // A build goes on from it.
    wharf.dockerfile("FROM made\nRUN test -e /added/file && echo built > /built\n");
    wharf.build(&["-t", "next"]).success();
    end(&wharf);
}

#[test]
fn containers_that_do_not_run_are_pruned_and_what_is_taken_is_told() {
    let Some(wharf) = with_container(true) else { return };
    wharf.run(&["create", "--name", "idle", "app"]).success();
    let df =
        wharf.run(&["system", "df", "--format", "{{.Type}}: {{.TotalCount}} {{.Active}}"]).success().text();
    assert!(
        df.contains("Images: 1 1") && df.contains("Containers: 2 1") && df.contains("Local Volumes: 1 1"),
        "{df}"
    );
    wharf.run(&["container", "prune"]).fails_with(USAGE, &["--force"]);
    wharf.run(&["container", "prune", "-f", "--filter", "label=none"]).success();
    assert!(wharf.run(&["container", "prune", "-f"]).success().text().contains("Deleted Containers:"));
    let left = wharf.run(&["ps", "-a", "--format", "{{.Names}}"]).success().text();
    assert_eq!(left, "box\n");
    // What the container needs stays, whatever else goes.
    wharf.run(&["system", "prune", "-a", "-f", "--volumes"]).success();
    wharf.run(&["exec", "box", "cat", "/etc/app/conf"]).success();
    wharf.run(&["rmi", "-f", "app"]).success();
    wharf.run(&["prune", "-a", "-f"]).success();
    wharf.run(&["restart", "-t", "0", "box"]).success();
    wharf.run(&["exec", "box", "cat", "/etc/app/conf"]).success();
    wharf.run(&["commit", "box", "again"]).success();
    end(&wharf);
    wharf.run(&["system", "prune", "-a", "-f"]).success();
    assert_eq!(wharf.run(&["images", "-q"]).success().text(), "");
}
