//! What containers cannot have in the sandbox `chroot`: each is refused, or warned of, with what does instead.

use super::World;
use crate::harness::skip;

/// Flags, and what is said of them.
const REFUSED: &[(&[&str], &[&str])] = &[
    (
        &["-v", "/srv:/x"],
        &[
            "`/srv` cannot be bound at `/x`",
            "the sandbox `chroot` has no mounts",
            "wharf cp /srv CONTAINER:/x",
            "doctor",
        ],
    ),
    (
        &["--mount", "type=bind,source=/srv,target=/x"],
        &["`/srv` cannot be bound at `/x`", "wharf cp", "doctor"],
    ),
    (
        &["-v", "kept:/x"],
        &[
            "the volume `kept` cannot be mounted at `/x`",
            "`/x` is part of the container",
            "wharf cp",
            "doctor",
        ],
    ),
    (
        &["--tmpfs", "/x"],
        &[
            "no memory file system can be mounted at `/x`",
            "`/x` is part of the container",
            "on the disk",
            "doctor",
        ],
    ),
    (&["--network", "other"], &["there are no networks", "--network host", "doctor"]),
    (&["--pid", "container:one"], &["no namespace of type `pid`", "leave the flag out", "doctor"]),
    (&["--ipc", "container:one"], &["no namespace of type `ipc`", "leave the flag out", "doctor"]),
    (&["--network", "container:one"], &["no namespace of type `net`", "leave the flag out", "doctor"]),
];

/// Flags without which nothing would be different there.
const WARNED: &[(&[&str], &str)] = &[
    (&["-v", "/x"], "what is in `/x` is no volume but part of the container"),
    (&["-p", "8080:80"], "only containers in networks publish ports"),
    (&["--read-only"], "its root can be written (`--read-only`)"),
    (&["--privileged"], "it has no more rights than others (`--privileged`)"),
    (&["--shm-size", "1m"], "it has no /dev/shm of its own (`--shm-size`)"),
];

#[test]
fn what_the_sandbox_chroot_lacks_has_a_word_and_a_way_around() {
    let Some(world) = World::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return skip("the sandbox chroot is root's");
    }
    let archive = world.wharf.path("app.tar").display().to_string();
    world.run(&["save", "-o", &archive, "app"]).success();
    let run =
        |arguments: &[&str]| world.wharf.run_in("confined", &[&["--sandbox", "chroot"], arguments].concat());
    run(&["load", "-i", &archive]).success();
    run(&["run", "-d", "--name", "one", "app", "sleep", "1000"]).success();
    for (flags, words) in REFUSED {
        run(&[&["run", "--rm"], *flags, &["app", "true"]].concat()).fails_with(125, words);
    }
    for (flags, words) in WARNED {
        let outcome = run(&[&["run", "--rm"], *flags, &["app", "true"]].concat()).success();
        assert!(outcome.stderr.contains(words), "{flags:?}: {}", outcome.stderr);
    }
    // Its processes are this host's anyway.
    run(&["run", "--rm", "--pid", "host", "app", "true"]).success();

    // The way around a bind.
    let from = world.wharf.path("given");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "given\n").unwrap();
    run(&["create", "--name", "two", "app", "cat", "/x/file"]).success();
    run(&["cp", &from.display().to_string(), "two:/x"]).success();
    assert_eq!(run(&["start", "-a", "two"]).success().text(), "given\n");
    run(&["rm", "-f", "one", "two"]).success();
    assert_eq!(run(&["ps", "-aq"]).success().text(), "");
    assert_eq!(world.wharf.leftovers("confined"), Vec::<String>::new());
}
