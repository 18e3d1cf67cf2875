//! What would have to change so that a sandbox can be had, to the letter.

use super::Sandbox;
use super::obstacle::{Cause, HelperProblem, Obstacle};

/// One way to unlock a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// Where it is to be changed.
    pub kind: RemedyKind,
    /// The change.
    pub text: String,
}

/// Where something is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemedyKind {
    /// The container in a pod's YAML.
    Pod,
    /// The command line of a container engine.
    Engine,
    /// A command on the machine, as root.
    Command,
    /// A file on the machine.
    File,
    /// Whatever can be done is outside of what wharf knows.
    Advice,
}

impl RemedyKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Engine => "engine",
            Self::Command => "command",
            Self::File => "file",
            Self::Advice => "advice",
        }
    }
}

const PRIVILEGED: &str = "securityContext:\n  runAsUser: 0\n  privileged: true";
const SECCOMP: &str = "securityContext:\n  seccompProfile:\n    type: Unconfined";
const APPARMOR: &str = "securityContext:\n  appArmorProfile:\n    type: Unconfined";
const ESCALATION: &str = "securityContext:\n  allowPrivilegeEscalation: true";
const ROOT: &str = "securityContext:\n  runAsUser: 0";

/// Lets wharf make user namespaces where AppArmor lets only known programs do so.
const APPARMOR_PROFILE: &str = "/etc/apparmor.d/wharf (then: apparmor_parser -r /etc/apparmor.d/wharf)\n\
     abi <abi/4.0>,\n\
     include <tunables/global>\n\
     profile wharf /usr/{,local/}bin/wharf flags=(unconfined) {\n  userns,\n}";

impl Obstacle {
    /// What of it can be changed for `sandbox`, each of it enough for this obstacle. There may be another one behind it.
    pub fn remedies(&self, sandbox: Sandbox) -> Vec<Remedy> {
        let one = |kind, text: &str| Remedy { kind, text: text.to_owned() };
        let pod = |text| one(RemedyKind::Pod, text);
        let command = |text| one(RemedyKind::Command, text);
        match self {
            Self::NotRoot { .. } if sandbox == Sandbox::Root => {
                vec![
                    pod(PRIVILEGED),
                    one(RemedyKind::Engine, "--privileged --user 0"),
                    command("sudo wharf …"),
                ]
            }
            Self::NotRoot { .. } => vec![pod(ROOT), one(RemedyKind::Engine, "--user 0")],
            Self::Capabilities { .. } if sandbox == Sandbox::Root => {
                vec![pod(PRIVILEGED), one(RemedyKind::Engine, "--privileged")]
            }
            Self::Capabilities { missing } => capabilities(missing.iter().map(String::as_str)),
            Self::Refused { cause, .. } => refused(sandbox, *cause),
            Self::Killed => {
                vec![pod(SECCOMP), one(RemedyKind::Engine, "--security-opt seccomp=unconfined")]
            }
            Self::Helper { program, problem } => helper(program, problem),
            Self::NoPasswdEntry { uid } => vec![command(&format!(
                "echo 'builder:x:{uid}:{uid}::/home/builder:/bin/sh' >>/etc/passwd && {}",
                add_ids("builder")
            ))],
            Self::NoSubordinateIds { user, .. } => vec![command(&add_ids(user))],
            Self::Threads => Vec::new(),
        }
    }
}

fn add_ids(user: &str) -> String {
    format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
}

fn capabilities<'a>(missing: impl Iterator<Item = &'a str> + Clone) -> Vec<Remedy> {
    let short: Vec<&str> = missing.map(|name| name.trim_start_matches("CAP_")).collect();
    let flags: Vec<String> = short.iter().map(|name| format!("--cap-add {name}")).collect();
    vec![
        Remedy {
            kind: RemedyKind::Pod,
            text: format!("securityContext:\n  capabilities:\n    add: [{}]", short.join(", ")),
        },
        Remedy { kind: RemedyKind::Engine, text: flags.join(" ") },
    ]
}

fn refused(sandbox: Sandbox, cause: Cause) -> Vec<Remedy> {
    let one = |kind, text: &str| Remedy { kind, text: text.to_owned() };
    let (pod, engine, command) = (RemedyKind::Pod, RemedyKind::Engine, RemedyKind::Command);
    match cause {
        _ if sandbox == Sandbox::Root => vec![one(pod, PRIVILEGED), one(engine, "--privileged")],
        Cause::Seccomp => vec![one(pod, SECCOMP), one(engine, "--security-opt seccomp=unconfined")],
        Cause::AppArmorProfile => vec![one(pod, APPARMOR), one(engine, "--security-opt apparmor=unconfined")],
        Cause::AppArmorRestriction => vec![
            one(RemedyKind::File, APPARMOR_PROFILE),
            one(command, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ],
        Cause::MaxUserNamespaces => vec![one(command, "sysctl -w user.max_user_namespaces=28633")],
        Cause::UnprivilegedUsernsClone => vec![one(command, "sysctl -w kernel.unprivileged_userns_clone=1")],
        Cause::Kernel => vec![one(RemedyKind::Advice, "a kernel that is built with CONFIG_USER_NS=y")],
        Cause::InChroot => vec![one(RemedyKind::Advice, "start wharf outside of the chroot")],
        Cause::MissingCapability(_) => capabilities(["CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP"].into_iter()),
        Cause::Unknown => {
            vec![one(
                RemedyKind::Advice,
                "ask who runs this machine: neither a filter nor a sysctl explains it",
            )]
        }
    }
}

fn helper(program: &str, problem: &HelperProblem) -> Vec<Remedy> {
    let one = |kind, text: String| Remedy { kind, text };
    match problem {
        HelperProblem::Missing => [
            "apt-get install uidmap          # Debian, Ubuntu",
            "dnf install shadow-utils        # Fedora, RHEL",
            "apk add shadow-uidmap           # Alpine",
        ]
        .map(|text| one(RemedyKind::Command, text.to_owned()))
        .to_vec(),
        HelperProblem::NotPrivileged => {
            vec![one(RemedyKind::Command, format!("chmod u+s \"$(command -v {program})\""))]
        }
        HelperProblem::NoNewPrivileges => vec![one(RemedyKind::Pod, ESCALATION.to_owned())],
        HelperProblem::Bounded(_) => capabilities(["CAP_SETUID", "CAP_SETGID"].into_iter()),
        HelperProblem::Failed(_) => vec![one(
            RemedyKind::Advice,
            "the ranges of /etc/subuid and /etc/subgid have to be ones that this place has itself".to_owned(),
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Call;

    #[track_caller]
    fn check(sandbox: Sandbox, obstacle: &Obstacle, word: &str) {
        let remedies = obstacle.remedies(sandbox);
        assert!(remedies.iter().any(|remedy| remedy.text.contains(word)), "{obstacle}: {remedies:?}");
    }

    #[test]
    fn each_obstacle_has_its_remedy() {
        let refused = |cause| Obstacle::Refused { call: Call::UserNamespace, errno: libc::EPERM, cause };
        let helper = |problem| Obstacle::Helper { program: "newuidmap".to_owned(), problem };
        check(Sandbox::Root, &Obstacle::NotRoot { uid: 1 }, "privileged: true");
        check(Sandbox::Chroot, &Obstacle::NotRoot { uid: 1 }, "runAsUser: 0");
        let missing = vec!["CAP_SYS_CHROOT".to_owned()];
        check(Sandbox::Chroot, &Obstacle::Capabilities { missing }, "add: [SYS_CHROOT]");
        check(Sandbox::Rootless, &refused(Cause::Seccomp), "type: Unconfined");
        check(Sandbox::Rootless, &refused(Cause::AppArmorRestriction), "userns,");
        check(Sandbox::Rootless, &refused(Cause::MaxUserNamespaces), "user.max_user_namespaces=");
        check(Sandbox::Rootless, &refused(Cause::UnprivilegedUsernsClone), "unprivileged_userns_clone=1");
        check(Sandbox::Rootless, &refused(Cause::MissingCapability("CAP_SETFCAP")), "SETFCAP");
        check(Sandbox::Rootless, &helper(HelperProblem::Missing), "apt-get install uidmap");
        check(Sandbox::Rootless, &helper(HelperProblem::NotPrivileged), "chmod u+s");
        check(Sandbox::Rootless, &helper(HelperProblem::NoNewPrivileges), "allowPrivilegeEscalation: true");
        check(Sandbox::Rootless, &helper(HelperProblem::Bounded("CAP_SETUID")), "add: [SETUID, SETGID]");
        check(Sandbox::Rootless, &Obstacle::NoPasswdEntry { uid: 1234 }, "builder:x:1234:");
        let none = Obstacle::NoSubordinateIds { file: "/etc/subuid", user: "ann".to_owned() };
        check(Sandbox::Rootless, &none, "usermod --add-subuids");
    }
}
