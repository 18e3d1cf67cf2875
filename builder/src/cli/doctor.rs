//! `wharf doctor`: which sandboxes the place allows, what is in the way of the others, and what would unlock them; and how
//! steps for each architecture run.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use wharf_runtime::sandbox::{self, Obstacle, RemedyKind, Report, Rung, errno_name};
use wharf_runtime::{Emulation, EmulationError, Foreseen, Sandbox};

use super::config::Config;
use super::place::Wanted;
use super::qemu_places;
use crate::error::{Failure, Kind, causes};
use crate::progress::print_result;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Says what the place allows. Fails if that is not enough to build.
pub(super) fn doctor(args: &DoctorArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let store = wanted.store_root();
    let report = sandbox::examine(&store, wanted.sandbox);
    let used = used(&report, wanted.sandbox);
    let architectures = match used {
        Some(sandbox) => Emulation::new(sandbox, qemu_places(config)).foresee(&store),
        None => Vec::new(),
    };
    let text = match args.format {
        Format::Text => text(&report, used, wanted.sandbox, &architectures),
        Format::Json => serde_json::to_string_pretty(&json(&report, used, &architectures))
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot write JSON", &error))?,
    };
    print_result(text.trim_end())?;
    Ok(match used {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(Kind::Environment.exit_code()),
    })
}

/// An architecture, and how its steps would run.
type Architecture = (&'static str, Result<Foreseen, EmulationError>);

/// The sandbox that a build would take.
fn used(report: &Report, forced: Option<Sandbox>) -> Option<Sandbox> {
    let available = report.rungs.iter().filter(|rung| rung.obstacles.is_empty()).map(|rung| rung.sandbox);
    available.into_iter().find(|sandbox| forced.is_none_or(|forced| forced == *sandbox))
}

fn text(
    report: &Report,
    used: Option<Sandbox>,
    forced: Option<Sandbox>,
    architectures: &[Architecture],
) -> String {
    let mut text = String::from("Sandboxes, the strongest first:\n");
    let width = Sandbox::ALL.map(|sandbox| sandbox.name().len()).into_iter().max().unwrap_or_default();
    for rung in &report.rungs {
        let state = match rung.obstacles.as_slice() {
            [] if used == Some(rung.sandbox) => "yes  used here".to_owned(),
            [] => "yes".to_owned(),
            [first, ..] => format!("no   {first}"),
        };
        let _ = writeln!(text, "  {:width$}  {state}", rung.sandbox.name());
        for obstacle in rung.obstacles.iter().skip(1) {
            let _ = writeln!(text, "  {:width$}       {obstacle}", "");
        }
    }
    match (used, forced) {
        (Some(_), _) => {}
        (None, Some(forced)) => {
            let _ = writeln!(text, "\nNothing can be built here in the sandbox {forced}.");
        }
        (None, None) => text.push_str("\nNothing can be built here.\n"),
    }
    for rung in report.rungs.iter().take_while(|rung| Some(rung.sandbox) != used) {
        let remedies = rung.remedies();
        if !remedies.is_empty() {
            let _ = writeln!(text, "\nTo unlock {}:", rung.sandbox);
        }
        for remedy in remedies {
            let heading = match remedy.kind {
                RemedyKind::Pod => "in the container of a pod",
                RemedyKind::Engine => "on the command line of docker or podman",
                RemedyKind::Commands => "as root on this machine",
                RemedyKind::File => "a file on this machine",
                _ => "otherwise",
            };
            let _ = writeln!(text, "  {heading}:");
            for line in remedy.text.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    text += &architectures_text(architectures);
    text.push_str("\nThis place:\n");
    let width = report.facts.iter().map(|fact| fact.name.len()).max().unwrap_or_default();
    for fact in &report.facts {
        let _ = writeln!(text, "  {:width$}  {}", fact.name, fact.value);
    }
    text
}

/// A line an architecture, and below them what would let the others run.
fn architectures_text(architectures: &[Architecture]) -> String {
    let mut text = String::new();
    let mut helps: Vec<(String, Vec<&str>)> = Vec::new();
    let width = architectures.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, foreseen) in architectures {
        let how = match foreseen {
            Ok(Foreseen::Natively) => "yes  natively".to_owned(),
            Ok(Foreseen::ByTheMachine) => "yes  by what the machine has registered".to_owned(),
            Ok(Foreseen::ByQemu(qemu)) => format!("yes  by {}", qemu.display()),
            Err(error) => {
                let help = error.help();
                match helps.iter_mut().find(|(known, _)| *known == help) {
                    Some((_, names)) => names.push(name),
                    None => helps.push((help, vec![name])),
                }
                format!("no   {}", causes(error))
            }
        };
        let _ = writeln!(text, "  {name:width$}  {how}");
    }
    for (help, names) in helps {
        let _ = writeln!(text, "  For {}: {help}", names.join(", "));
    }
    if text.is_empty() { text } else { format!("\nArchitectures of steps:\n{text}") }
}

#[derive(Serialize)]
struct JsonReport {
    /// What a build would take.
    sandbox: Option<&'static str>,
    rungs: Vec<JsonRung>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    architectures: serde_json::Map<String, serde_json::Value>,
    facts: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct JsonRung {
    name: &'static str,
    available: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    obstacles: Vec<JsonObstacle>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<JsonRemedy>,
}

#[derive(Serialize)]
struct JsonObstacle {
    reason: String,
    /// The call that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
}

#[derive(Serialize)]
struct JsonRemedy {
    kind: &'static str,
    text: String,
}

fn json(report: &Report, used: Option<Sandbox>, architectures: &[Architecture]) -> JsonReport {
    let obstacle = |obstacle: &Obstacle| JsonObstacle {
        reason: obstacle.to_string(),
        call: match obstacle {
            Obstacle::Refused { call, .. } => Some(call.name()),
            _ => None,
        },
        errno: obstacle.errno().map(errno_name),
    };
    let rung = |rung: &Rung| JsonRung {
        name: rung.sandbox.name(),
        available: rung.obstacles.is_empty(),
        obstacles: rung.obstacles.iter().map(obstacle).collect(),
        remedies: rung
            .remedies()
            .into_iter()
            .map(|remedy| JsonRemedy { kind: remedy.kind.name(), text: remedy.text })
            .collect(),
    };
    let facts = report.facts.iter().map(|fact| (fact.name.to_owned(), fact.value.clone().into()));
    JsonReport {
        sandbox: used.map(Sandbox::name),
        rungs: report.rungs.iter().map(rung).collect(),
        architectures: architectures.iter().map(|(name, how)| ((*name).to_owned(), foreseen(how))).collect(),
        facts: facts.collect(),
    }
}

fn foreseen(how: &Result<Foreseen, EmulationError>) -> serde_json::Value {
    match how {
        Ok(Foreseen::Natively) => json!({"available": true, "by": "processor"}),
        Ok(Foreseen::ByTheMachine) => json!({"available": true, "by": "machine"}),
        Ok(Foreseen::ByQemu(qemu)) => json!({"available": true, "by": "qemu", "qemu": qemu}),
        Err(error) => json!({"available": false, "reason": causes(error), "help": error.help()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use wharf_runtime::sandbox::{Call, Cause, Fact, HelperProblem};

    fn report() -> Report {
        let rung = |sandbox, obstacles| Rung { sandbox, obstacles };
        let not_root = || vec![Obstacle::NotRoot { uid: 1000 }];
        let helper = Obstacle::Helper { program: "newuidmap".to_owned(), problem: HelperProblem::Missing };
        let no_ids = Obstacle::NoSubordinateIds { file: "/etc/subuid", user: "ann".to_owned() };
        Report {
            rungs: vec![
                rung(Sandbox::Root, not_root()),
                rung(Sandbox::Rootless, vec![helper, no_ids]),
                rung(Sandbox::RootlessSingle, vec![]),
                rung(Sandbox::Chroot, not_root()),
            ],
            facts: vec![Fact { name: "kernel", value: "6.18".to_owned() }],
        }
    }

    fn architectures() -> Vec<Architecture> {
        let not = |architecture: &str, program: &str| EmulationError::NoQemu {
            architecture: architecture.to_owned(),
            program: program.to_owned(),
        };
        vec![
            ("amd64", Ok(Foreseen::Natively)),
            ("arm64", Ok(Foreseen::ByQemu("/qemu".into()))),
            ("arm", Ok(Foreseen::ByTheMachine)),
            ("s390x", Err(not("s390x", "qemu-s390x-static"))),
            ("riscv64", Err(not("riscv64", "qemu-riscv64-static"))),
        ]
    }

    /// Which subordinate ids are free is the machine's.
    fn without_ids(text: &str) -> String {
        let is_range =
            |word: &str| word.contains('-') && word.chars().all(|c| c.is_ascii_digit() || c == '-');
        let words = text.split_inclusive([' ', '\n']);
        words.map(|word| if is_range(word.trim_end()) { "FREE " } else { word }).collect()
    }

    #[test]
    fn the_text_says_what_unlocks_more() {
        let report = report();
        expect![[r#"
            Sandboxes, the strongest first:
              root             no   it takes uid 0, and this is uid 1000
              rootless         no   the program newuidmap is not installed
                                    the user ann has no subordinate ids in /etc/subuid
              rootless-single  yes  used here
              chroot           no   it takes uid 0, and this is uid 1000

            To unlock root:
              in the container of a pod:
                securityContext:
                  runAsUser: 0
                  runAsNonRoot: false
                  privileged: true
              on the command line of docker or podman:
                --user 0 --privileged
              as root on this machine:
                sudo wharf …

            To unlock rootless:
              as root on this machine:
                apt-get install uidmap     # Fedora: dnf install shadow-utils; Alpine: apk add shadow-uidmap
                usermod --add-subuids FREE --add-subgids FREE ann

            Architectures of steps:
              amd64    yes  natively
              arm64    yes  by /qemu
              arm      yes  by what the machine has registered
              s390x    no   programs for s390x do not run on this machine, and there is no `qemu-s390x-static`
              riscv64  no   programs for riscv64 do not run on this machine, and there is no `qemu-riscv64-static`
              For s390x, riscv64: install the package qemu-user-static (since Debian 13: qemu-user), or cross-compile in a stage that is `FROM --platform=$BUILDPLATFORM`

            This place:
              kernel  6.18
        "#]]
        .assert_eq(&without_ids(&text(&report, used(&report, None), None, &architectures())));
        assert_eq!(used(&report, Some(Sandbox::Root)), None);
    }

    #[test]
    fn the_json_names_call_and_error() {
        let mut report = report();
        report.rungs.truncate(1);
        report.rungs[0].obstacles = vec![Obstacle::Refused {
            call: Call::UserNamespace,
            errno: rustix::io::Errno::PERM.raw_os_error(),
            cause: Cause::Seccomp,
        }];
        let value = serde_json::to_value(json(&report, None, &architectures())).unwrap();
        assert_eq!(value["sandbox"], serde_json::Value::Null);
        assert_eq!(value["rungs"][0]["obstacles"][0]["call"], "unshare(CLONE_NEWUSER)");
        assert_eq!(value["rungs"][0]["obstacles"][0]["errno"], "EPERM");
        assert_eq!(value["facts"]["kernel"], "6.18");
        assert_eq!(value["architectures"]["arm64"]["qemu"], "/qemu");
        assert_eq!(value["architectures"]["s390x"]["available"], false);
    }
}
