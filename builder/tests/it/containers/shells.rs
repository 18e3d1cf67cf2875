//! Completion, as the shells do it.

use std::process::Command;

use super::World;
use crate::harness::have;

/// What bash offers for `line`.
fn bash(world: &World, line: &str) -> Vec<String> {
    let script = "source <(\"$1\" completion bash)\nCOMP_LINE=$2; COMP_POINT=${#2}; _wharf\nprintf '%s\\n' \"${COMPREPLY[@]}\"";
    let wharf = env!("CARGO_BIN_EXE_wharf");
    let line = line.replacen("wharf", wharf, 1);
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", script, "bash", wharf, &line]);
    command.env("WHARF_ROOT", world.wharf.path("store"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_names() {
    let Some(world) = World::new() else { return };
    if !have(&["bash"]) {
        return;
    }
    world.run(&["create", "--name", "alpha", "-v", "data:/data", "app"]).success();
    world.run(&["create", "--name", "beta", "app"]).success();
    world.run(&["network", "create", "lan"]).success();
    world.run(&["tag", "app", "localhost:5000/app:1"]).success();
    let check = |line: &str, expected: &[&str]| assert_eq!(bash(&world, line), expected, "{line}");
    check("wharf unp", &["unpause"]);
    check("wharf container ren", &["rename"]);
    check("wharf run --net", &["--network", "--network-alias"]);
    check("wharf run --pull ", &["always", "missing", "never"]);
    check("wharf run --pull=al", &["always"]);
    check("wharf start ", &["alpha", "beta"]);
    check("wharf start alpha b", &["beta"]);
    check("wharf run --rm -it ", &["app:latest", "localhost:5000/app:1"]);
    check("wharf run localhost:50", &["5000/app:1"]);
    check("wharf run --network l", &["lan"]);
    if world.run(&["volume", "--help"]).code == Some(0) {
        check("wharf volume rm ", &["data"]);
    }
    check("wharf network rm ", &["bridge", "host", "lan", "none"]);
    check("wharf run app ", &[]);
    for (shell, word) in [("zsh", "#compdef wharf"), ("fish", "complete -c wharf")] {
        let script = world.text(&["completion", shell]);
        assert!(script.contains(word), "{script}");
        if have(&[shell]) {
            crate::harness::tool(shell, &["-n", "-c", &script]);
        }
    }
    world.run(&["rm", "alpha", "beta"]).success();
    world.run(&["network", "rm", "lan"]).success();
}
