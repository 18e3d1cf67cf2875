//! `wharf doctor`: which sandboxes the place allows, what is in the way of the others, and what would unlock them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use wharf_runtime::Sandbox;
use wharf_runtime::sandbox::{self, Obstacle, RemedyKind, Report, Rung, errno_name};

use super::place::Wanted;
use crate::error::{Failure, Kind};
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
pub(super) fn doctor(args: &DoctorArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let store = wanted.store_root();
    let report = sandbox::examine(&store, wanted.sandbox);
    let used = used(&report, wanted.sandbox);
    let text = match args.format {
        Format::Text => text(&report, used, wanted.sandbox),
        Format::Json => serde_json::to_string_pretty(&json(&report, used))
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot write JSON", &error))?,
    };
    print_result(text.trim_end())?;
    Ok(match used {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(Kind::Environment.exit_code()),
    })
}

/// The sandbox that a build would take.
fn used(report: &Report, forced: Option<Sandbox>) -> Option<Sandbox> {
    let available = report.rungs.iter().filter(|rung| rung.obstacle.is_none()).map(|rung| rung.sandbox);
    available.into_iter().find(|sandbox| forced.is_none_or(|forced| forced == *sandbox))
}

fn text(report: &Report, used: Option<Sandbox>, forced: Option<Sandbox>) -> String {
    let mut text = String::from("Sandboxes, the strongest first:\n");
    let width = Sandbox::ALL.map(|sandbox| sandbox.name().len()).into_iter().max().unwrap_or_default();
    for rung in &report.rungs {
        let state = match &rung.obstacle {
            None if used == Some(rung.sandbox) => "yes  used here".to_owned(),
            None => "yes".to_owned(),
            Some(obstacle) => format!("no   {obstacle}"),
        };
        let _ = writeln!(text, "  {:width$}  {state}", rung.sandbox.name());
    }
    match (used, forced) {
        (Some(_), _) => {}
        (None, Some(forced)) => {
            let _ = writeln!(text, "\nNothing can be built here in the sandbox {forced}.");
        }
        (None, None) => text.push_str("\nNothing can be built here.\n"),
    }
    for (rung, obstacle) in unlockable(report, used) {
        let remedies = obstacle.remedies(rung.sandbox);
        if remedies.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\nTo unlock {}, one of:", rung.sandbox);
        let mut last = None;
        for remedy in remedies {
            let heading = match remedy.kind {
                RemedyKind::Pod => "in the container of a pod",
                RemedyKind::Engine => "on the command line of docker or podman",
                RemedyKind::Command => "as root on this machine",
                RemedyKind::File => "a file on this machine",
                _ => "otherwise",
            };
            if last.replace(remedy.kind) != Some(remedy.kind) {
                let _ = writeln!(text, "  {heading}:");
            }
            for line in remedy.text.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    text.push_str("\nThis place:\n");
    let width = report.facts.iter().map(|fact| fact.name.len()).max().unwrap_or_default();
    for fact in &report.facts {
        let _ = writeln!(text, "  {:width$}  {}", fact.name, fact.value);
    }
    text
}

/// The sandboxes that would be stronger than the one that is used, and what is in their way.
fn unlockable(report: &Report, used: Option<Sandbox>) -> impl Iterator<Item = (&Rung, &Obstacle)> {
    let stronger = report.rungs.iter().take_while(move |rung| Some(rung.sandbox) != used);
    stronger.filter_map(|rung| Some((rung, rung.obstacle.as_ref()?)))
}

#[derive(Serialize)]
struct JsonReport {
    /// What a build would take.
    sandbox: Option<&'static str>,
    rungs: Vec<JsonRung>,
    facts: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct JsonRung {
    name: &'static str,
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The call that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<JsonRemedy>,
}

#[derive(Serialize)]
struct JsonRemedy {
    kind: &'static str,
    text: String,
}

fn json(report: &Report, used: Option<Sandbox>) -> JsonReport {
    let rung = |rung: &Rung| {
        let obstacle = rung.obstacle.as_ref();
        let call = obstacle.and_then(|obstacle| match obstacle {
            Obstacle::Refused { call, .. } => Some(call.name()),
            _ => None,
        });
        let remedies = obstacle.map(|obstacle| obstacle.remedies(rung.sandbox)).unwrap_or_default();
        let remedies = remedies.into_iter();
        JsonRung {
            name: rung.sandbox.name(),
            available: obstacle.is_none(),
            reason: obstacle.map(Obstacle::to_string),
            call,
            errno: obstacle.and_then(Obstacle::errno).map(errno_name),
            remedies: remedies
                .map(|remedy| JsonRemedy { kind: remedy.kind.name(), text: remedy.text })
                .collect(),
        }
    };
    let facts = report.facts.iter().map(|fact| (fact.name.to_owned(), fact.value.clone().into()));
    JsonReport {
        sandbox: used.map(Sandbox::name),
        rungs: report.rungs.iter().map(rung).collect(),
        facts: facts.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use wharf_runtime::sandbox::{Call, Cause, Fact, HelperProblem};

    fn report() -> Report {
        let rung = |sandbox, obstacle| Rung { sandbox, obstacle };
        let problem = HelperProblem::Missing;
        Report {
            rungs: vec![
                rung(Sandbox::Root, Some(Obstacle::NotRoot { uid: 1000 })),
                rung(Sandbox::Rootless, Some(Obstacle::Helper { program: "newuidmap".to_owned(), problem })),
                rung(Sandbox::RootlessSingle, None),
                rung(Sandbox::Chroot, Some(Obstacle::NotRoot { uid: 1000 })),
            ],
            facts: vec![Fact { name: "kernel", value: "6.18".to_owned() }],
        }
    }

    #[test]
    fn the_text_says_what_unlocks_more() {
        let report = report();
        expect![[r#"
            Sandboxes, the strongest first:
              root             no   it takes uid 0, and this is uid 1000
              rootless         no   the program newuidmap is not installed
              rootless-single  yes  used here
              chroot           no   it takes uid 0, and this is uid 1000

            To unlock root, one of:
              in the container of a pod:
                securityContext:
                  runAsUser: 0
                  privileged: true
              on the command line of docker or podman:
                --privileged --user 0
              as root on this machine:
                sudo wharf …

            To unlock rootless, one of:
              as root on this machine:
                apt-get install uidmap          # Debian, Ubuntu
                dnf install shadow-utils        # Fedora, RHEL
                apk add shadow-uidmap           # Alpine

            This place:
              kernel  6.18
        "#]]
        .assert_eq(&text(&report, used(&report, None), None));
        assert_eq!(used(&report, Some(Sandbox::Root)), None);
    }

    #[test]
    fn the_json_names_call_and_error() {
        let mut report = report();
        report.rungs.truncate(1);
        report.rungs[0].obstacle = Some(Obstacle::Refused {
            call: Call::UserNamespace,
            errno: rustix::io::Errno::PERM.raw_os_error(),
            cause: Cause::Seccomp,
        });
        let value = serde_json::to_value(json(&report, None)).unwrap();
        assert_eq!(value["sandbox"], serde_json::Value::Null);
        assert_eq!(value["rungs"][0]["call"], "unshare(CLONE_NEWUSER)");
        assert_eq!(value["rungs"][0]["errno"], "EPERM");
        assert_eq!(value["facts"]["kernel"], "6.18");
    }
}
