//! Results on standard output: written, or the command fails.

use std::process::{Command, Stdio};

use crate::harness::{Outcome, Wharf, busybox_layout};

const ENVIRONMENT: i32 = 5;
const READER_GONE: i32 = 141;

/// What prints a result, after a build called `app`.
const COMMANDS: [&[&str]; 8] = [
    &["images"],
    &["--help"],
    &["build", "-q", "context"],
    &["build", "--check", "context"],
    &["build", "--call=outline,format=json", "context"],
    &["build", "--call=targets", "context"],
    &["build", "--call=subrequests.describe", "context"],
    &["build", "-o", "-", "context"],
];

/// `wharf` of which a shell arranges the standard output.
fn redirected(wharf: &Wharf, arguments: &[&str], redirection: &str) -> Outcome {
    let direct = wharf.command("store", arguments);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]).arg(direct.get_program());
    command.args(direct.get_args()).current_dir(wharf.path("")).stdin(Stdio::null());
    Outcome::of(command)
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("x", "x").dockerfile("FROM scratch\nCOPY x /\n").build(&["-t", "app"]).success();
    for arguments in COMMANDS {
        for (redirection, words) in
            [(">/dev/full", "o space left"), (">&-", "closed"), ("1</dev/null", "Bad file descriptor")]
        {
            let outcome = redirected(&wharf, arguments, redirection)
                .fails_with(ENVIRONMENT, &["standard output", words]);
            assert!(!outcome.stderr.contains("rmi"), "{}", outcome.stderr);
        }
        redirected(&wharf, arguments, "1<>/dev/null").success();
    }
    for redirection in [">/dev/full", ">&-"] {
        redirected(&wharf, &["rmi", "app"], redirection).fails_with(ENVIRONMENT, &["standard output"]);
        assert!(!wharf.run(&["images"]).success().text().contains("app"));
        wharf.build(&["-t", "app"]).success();
    }
}

#[test]
fn a_reader_that_has_gone_is_told_nothing() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("x", &"x".repeat(1 << 20)).dockerfile("FROM scratch\nCOPY x /\n");
    wharf.build(&["-t", "app"]).success();
    for arguments in COMMANDS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = wharf.command("store", arguments);
        let output = command.stdout(writer).output().unwrap();
        let outcome = Outcome::from_output(&command, output).fails_with(READER_GONE, &[]);
        let said = outcome.stderr.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(said.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", outcome.command);
    }
}

#[test]
fn an_output_that_is_full_is_named() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\n");
    for arguments in [
        &["-o", "type=tar,dest=/dev/full"][..],
        &["-o", "type=oci,dest=/dev/full"],
        &["--iidfile", "/dev/full"],
        &["--metadata-file", "/dev/full"],
    ] {
        let outcome =
            wharf.build(arguments).fails_with(ENVIRONMENT, &["no space left", "`/dev/full`", "output"]);
        assert!(!outcome.stderr.contains("rmi") && !outcome.stderr.contains("--root"), "{}", outcome.stderr);
    }
}
