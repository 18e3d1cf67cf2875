//! How commands end, and what they say when something makes no sense.

use super::World;

#[test]
fn the_status_is_the_processes_or_says_that_wharf_failed() {
    let Some(world) = World::new() else { return };
    let check = |arguments: &[&str], code: i32, words: &[&str]| {
        world.run(arguments).fails_with(code, words);
    };
    let run = ["run", "--rm", "--network", "none"];
    check(&[&run, &["app", "sh", "-c", "exit 7"][..]].concat(), 7, &[]);
    check(&[&run, &["app", "sh", "-c", "kill -9 $$"][..]].concat(), 137, &[]);
    check(&[&run, &["app", "no-such-program"][..]].concat(), 127, &["no-such-program"]);
    check(&[&run, &["app", "/etc/passwd"][..]].concat(), 126, &["/etc/passwd"]);
    check(&[&run, &["-u", "nobody-here", "app"][..]].concat(), 125, &["nobody-here"]);
    assert_eq!(world.text(&["ps", "-aq"]), "", "of what was to be removed nothing is there");

    check(&["run", "--no-such-flag", "app"], 125, &["--no-such-flag"]);
    check(&["container", "create", "--no-such-flag"], 125, &["--no-such-flag"]);
    check(&["ps", "--no-such-flag"], 2, &["--no-such-flag"]);
    check(&["run", "--rm", "--restart", "always", "app"], 125, &["--rm", "--restart"]);
    check(&["run", "-d", "-a", "stdout", "app"], 125, &["--attach", "--detach"]);
    check(&["run", "-it", "app"], 125, &["not a TTY"]);
    check(&["run", "--name", "a b", "app"], 125, &["`a b` is no name"]);
    check(&["run", "--network", "container:nobody", "app"], 125, &["nobody"]);
    check(&["run", "--mount", "type=bind,source=/no/such,target=/x", "app"], 125, &["/no/such"]);
    check(&["run", "-v", "relative", "app"], 125, &["relative"]);
    check(&["run", "-m", "1m", "app"], 125, &["--memory", "6m"]);
    check(&["run", "--network", "bridge", "--ip", "1.2.3.4", "app"], 125, &["default network"]);
    check(&["run", "--health-cmd", "x", "--no-healthcheck", "app"], 125, &["--no-healthcheck"]);
    for (flag, value) in [
        ("--publish", "x"),
        ("--expose", "0"),
        ("--env-file", "/no/such"),
        ("--log-driver", "syslog"),
        ("--log-opt", "x=y"),
        ("--restart", "sometimes"),
        ("--ulimit", "nofile"),
        ("--ulimit", "nosuch=1"),
        ("--device", "null"),
        ("--sysctl", "x"),
        ("--security-opt", "selinux"),
        ("--add-host", "x"),
        ("--stop-signal", "FOO"),
        ("--health-interval", "often"),
        ("--shm-size", "large"),
        ("--cpus", "0"),
        ("--pid", "mine"),
        ("--oom-score-adj", "2000"),
        ("--detach-keys", "ctrl-"),
        ("--mac-address", "x"),
        ("--label", "=x"),
    ] {
        check(&["run", flag, value, "app"], 125, &[flag]);
    }
    let other = if cfg!(target_arch = "x86_64") { "linux/arm64" } else { "linux/amd64" };
    check(&["run", "--platform", other, "app"], 125, &["is an image for", &format!("not for {other}")]);
    check(&["run", "--rm", "--cidfile", "/no/such/file", "app"], 125, &["--cidfile /no/such/file"]);
    assert_eq!(world.text(&["ps", "-aq"]), "", "nothing was made");

    world.run(&["create", "--name", "taken", "app"]).success();
    check(&["create", "--name", "taken", "app"], 125, &["`taken` is in use", "wharf rm taken"]);
    for command in
        ["stop", "restart", "kill", "rm", "logs", "wait", "top", "port", "pause", "unpause", "attach"]
    {
        check(&[command, "nobody"], 2, &["there is no container `nobody`", "wharf ps -a"]);
    }
    check(&["start", "nobody"], 125, &["there is no container `nobody`"]);
    check(&["exec", "nobody", "true"], 125, &["there is no container `nobody`"]);
    check(&["exec", "taken", "true"], 125, &["not running"]);
    check(&["inspect", "nobody"], 2, &["no container or image `nobody`"]);
    check(&["rename", "taken", "-"], 2, &["`-` is no name"]);
    for command in ["kill", "pause", "unpause", "top", "attach"] {
        check(&[command, "taken"], 2, &["not running"]);
    }
    check(&["kill", "-s", "FOO", "taken"], 2, &["no such signal"]);
    check(&["ps", "--filter", "x=y"], 2, &["ancestor"]);
    check(&["ps", "--format", "{{.Nothing}}"], 2, &["Nothing", "there are"]);
    check(&["logs", "--tail", "x", "taken"], 2, &["--tail"]);
    check(&["logs", "--since", "soon", "taken"], 2, &["--since"]);
    check(&["top", "taken", "-Z"], 2, &["-Z"]);
    // What does not run is stopped already; what is not there is removed already, if one insists.
    world.run(&["stop", "taken"]).success();
    world.run(&["rm", "-f", "nobody"]).success();
    world.run(&["rm", "taken"]).success();
}
