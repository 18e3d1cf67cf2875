//! What would have to change so that a sandbox can be had, to the letter.

use std::collections::BTreeSet;
use std::path::Path;

use super::Sandbox;
use super::obstacle::{Cause, HelperProblem, Obstacle};
use super::place::read;
use super::report::Rung;

/// One place where a sandbox can be unlocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// Where something is to be changed.
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
    /// Commands on the machine, as root.
    Commands,
    /// A file on the machine.
    File,
    /// What can be done is outside of what wharf knows.
    Advice,
}

impl RemedyKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Engine => "engine",
            Self::Commands => "commands",
            Self::File => "file",
            Self::Advice => "advice",
        }
    }
}

/// Lets wharf make user namespaces where AppArmor lets only known programs do so.
const APPARMOR_PROFILE: &str = "/etc/apparmor.d/wharf (then: apparmor_parser -r /etc/apparmor.d/wharf)\n\
     abi <abi/4.0>,\n\
     include <tunables/global>\n\
     profile wharf /usr/{,local/}bin/wharf flags=(unconfined) {\n  userns,\n}";

impl Rung {
    /// What would unlock this sandbox. What is for the settings of a container is needed all together; what is for the
    /// machine goes to whom it belongs to.
    pub fn remedies(&self) -> Vec<Remedy> {
        let ranges = [read(Path::new("/etc/subuid")), read(Path::new("/etc/subgid"))];
        let mut changes = Changes { free_ids: free_ids(&ranges.concat()), ..Changes::default() };
        for obstacle in &self.obstacles {
            changes.add(self.sandbox, obstacle);
        }
        changes.into_remedies()
    }
}

/// All that has to change for one sandbox.
#[derive(Debug, Default)]
struct Changes {
    root: bool,
    privileged: bool,
    escalation: bool,
    seccomp: bool,
    apparmor: bool,
    capabilities: BTreeSet<String>,
    commands: Vec<String>,
    files: Vec<&'static str>,
    advice: Vec<&'static str>,
    /// The first of as many ids as a user should get that nobody has.
    free_ids: u64,
}

impl Changes {
    fn add(&mut self, sandbox: Sandbox, obstacle: &Obstacle) {
        match obstacle {
            Obstacle::NotRoot { .. } => {
                self.root = true;
                self.privileged |= sandbox == Sandbox::Root;
                self.commands.push("sudo wharf …".to_owned());
            }
            Obstacle::Capabilities { .. } | Obstacle::Refused { .. } if sandbox == Sandbox::Root => {
                self.privileged = true;
            }
            Obstacle::Capabilities { missing } | Obstacle::Bounded { missing } => {
                self.capabilities(missing.iter().map(String::as_str))
            }
            Obstacle::Refused { cause, .. } => self.refused(*cause),
            Obstacle::Killed => self.seccomp = true,
            Obstacle::Helper { problem, .. } => self.helper(problem),
            Obstacle::NoPasswdEntry { uid } => {
                self.command(format!("echo 'builder:x:{uid}:{uid}::/home/builder:/bin/sh' >>/etc/passwd"));
                self.command(add_ids("builder", self.free_ids));
            }
            Obstacle::NoSubordinateIds { user, .. } => self.command(add_ids(user, self.free_ids)),
            Obstacle::NoProc => self.command("mount -t proc proc /proc".to_owned()),
            Obstacle::Threads => {}
        }
    }

    fn refused(&mut self, cause: Cause) {
        match cause {
            Cause::Seccomp => self.seccomp = true,
            Cause::AppArmorProfile => self.apparmor = true,
            Cause::AppArmorRestriction => self.files.push(APPARMOR_PROFILE),
            Cause::MaxUserNamespaces => self.command("sysctl -w user.max_user_namespaces=28633".to_owned()),
            Cause::UnprivilegedUsernsClone => {
                self.command("sysctl -w kernel.unprivileged_userns_clone=1".to_owned());
            }
            Cause::Kernel => self.advice.push("a kernel that is built with CONFIG_USER_NS=y"),
            Cause::OldKernel => self.advice.push("Linux 5.14 or later"),
            Cause::Supervised => self.advice.push(
                "start wharf where the container engine answers no system calls itself (no seccomp notifier in the \
                 container's profile)",
            ),
            Cause::InChroot => self.advice.push("start wharf outside of the chroot"),
            Cause::MissingCapability(_) => {
                self.capabilities(["CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP"].into_iter());
            }
            Cause::Unknown => {
                self.advice.push("ask who runs this machine: neither a filter nor a sysctl explains it");
            }
        }
    }

    fn helper(&mut self, problem: &HelperProblem) {
        match problem {
            HelperProblem::Missing => {
                self.command("apt-get install uidmap     # Fedora: dnf install shadow-utils; Alpine: apk add shadow-uidmap".to_owned());
            }
            HelperProblem::NotPrivileged => {
                self.command("chmod u+s \"$(command -v newuidmap)\" \"$(command -v newgidmap)\"".to_owned());
            }
            HelperProblem::NoNewPrivileges => self.escalation = true,
            HelperProblem::Bounded => self.capabilities(["CAP_SETUID", "CAP_SETGID"].into_iter()),
            HelperProblem::Failed(_) => self
                .advice
                .push("the ranges of /etc/subuid and /etc/subgid have to be ones that this place has itself"),
        }
    }

    fn capabilities<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.capabilities.extend(names.map(|name| name.trim_start_matches("CAP_").to_owned()));
    }

    /// A command is needed once.
    fn command(&mut self, command: String) {
        if !self.commands.contains(&command) {
            self.commands.push(command);
        }
    }

    fn into_remedies(mut self) -> Vec<Remedy> {
        if self.privileged {
            // It includes these.
            self.capabilities.clear();
            (self.escalation, self.seccomp, self.apparmor) = (false, false, false);
        }
        let names: Vec<&str> = self.capabilities.iter().map(String::as_str).collect();
        let added: Vec<String> = names.iter().map(|name| format!("--cap-add {name}")).collect();
        let settings: [(bool, String, String); 6] = [
            (self.root, "  runAsUser: 0\n  runAsNonRoot: false".to_owned(), "--user 0".to_owned()),
            (self.privileged, "  privileged: true".to_owned(), "--privileged".to_owned()),
            (self.escalation, "  allowPrivilegeEscalation: true".to_owned(), String::new()),
            (
                self.seccomp,
                "  seccompProfile:\n    type: Unconfined".to_owned(),
                "--security-opt seccomp=unconfined".to_owned(),
            ),
            (
                self.apparmor,
                "  appArmorProfile:\n    type: Unconfined".to_owned(),
                "--security-opt apparmor=unconfined".to_owned(),
            ),
            (!names.is_empty(), format!("  capabilities:\n    add: [{}]", names.join(", ")), added.join(" ")),
        ];
        let wanted: Vec<_> = settings.into_iter().filter(|(wanted, ..)| *wanted).collect();
        let yaml: Vec<String> = wanted.iter().map(|(_, yaml, _)| yaml.clone()).collect();
        let flags: Vec<String> =
            wanted.into_iter().map(|(.., flag)| flag).filter(|flag| !flag.is_empty()).collect();
        let yaml = if yaml.is_empty() { yaml } else { [vec!["securityContext:".to_owned()], yaml].concat() };
        let files = self.files.iter().map(|file| (RemedyKind::File, (*file).to_owned()));
        let advice = self.advice.iter().map(|advice| (RemedyKind::Advice, (*advice).to_owned()));
        let settings = [
            (RemedyKind::Pod, yaml.join("\n")),
            (RemedyKind::Engine, flags.join(" ")),
            (RemedyKind::Commands, self.commands.join("\n")),
        ];
        let all = settings.into_iter().chain(files).chain(advice);
        all.filter(|(_, text)| !text.is_empty()).map(|(kind, text)| Remedy { kind, text }).collect()
    }
}

/// Where subordinate ids usually begin, and how many a user usually has.
const SUBORDINATE_IDS: (u64, u64) = (100_000, 65_536);

fn add_ids(user: &str, first: u64) -> String {
    let range = format!("{first}-{}", first + SUBORDINATE_IDS.1 - 1);
    format!("usermod --add-subuids {range} --add-subgids {range} {user}")
}

/// The first of consecutive ids that none of the lines `NAME:FIRST:COUNT` gives to anybody.
fn free_ids(lines: &str) -> u64 {
    let range = |line: &str| {
        let mut numbers = line.trim().split(':').skip(1).map(|number| number.parse::<u32>().ok());
        let (first, count) = (numbers.next()??, numbers.next()??);
        Some((u64::from(first), u64::from(first) + u64::from(count)))
    };
    let mut taken: Vec<(u64, u64)> = lines.lines().filter_map(range).collect();
    taken.sort_unstable();
    let (usual, count) = SUBORDINATE_IDS;
    taken.into_iter().fold(
        usual,
        |free, (first, end)| {
            if free + count <= first { free } else { free.max(end) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Call;

    #[track_caller]
    fn check(sandbox: Sandbox, obstacles: Vec<Obstacle>, expected: &[(RemedyKind, &str)]) {
        let remedies = Rung { sandbox, obstacles }.remedies();
        for (kind, word) in expected {
            let found = remedies.iter().any(|remedy| remedy.kind == *kind && remedy.text.contains(word));
            assert!(found, "{word} is not in {remedies:?}");
        }
    }

    #[test]
    fn each_obstacle_has_its_remedy() {
        use RemedyKind::{Advice, Commands, Engine, File, Pod};
        let refused =
            |cause| vec![Obstacle::Refused { call: Call::UserNamespace, errno: libc::EPERM, cause }];
        let helper = |problem| vec![Obstacle::Helper { program: "newuidmap".to_owned(), problem }];
        let not_root = || vec![Obstacle::NotRoot { uid: 1 }];
        check(Sandbox::Root, not_root(), &[(Pod, "privileged: true"), (Engine, "--user 0 --privileged")]);
        check(Sandbox::Chroot, not_root(), &[(Pod, "runAsUser: 0"), (Commands, "sudo")]);
        let missing = vec![Obstacle::Capabilities { missing: vec!["CAP_SYS_CHROOT".to_owned()] }];
        check(Sandbox::Root, missing.clone(), &[(Pod, "privileged: true")]);
        let bounded = vec![Obstacle::Bounded { missing: vec!["CAP_KILL".to_owned()] }];
        check(Sandbox::Chroot, bounded, &[(Pod, "add: [KILL]")]);
        check(Sandbox::Chroot, missing, &[(Pod, "add: [SYS_CHROOT]"), (Engine, "--cap-add SYS_CHROOT")]);
        let rootless = |obstacles, kind, word| check(Sandbox::Rootless, obstacles, &[(kind, word)]);
        rootless(refused(Cause::Seccomp), Pod, "seccompProfile:\n    type: Unconfined");
        rootless(refused(Cause::AppArmorProfile), Pod, "appArmorProfile:\n    type: Unconfined");
        rootless(refused(Cause::AppArmorRestriction), File, "userns,");
        rootless(refused(Cause::MaxUserNamespaces), Commands, "user.max_user_namespaces=");
        rootless(refused(Cause::UnprivilegedUsernsClone), Commands, "unprivileged_userns_clone=1");
        rootless(refused(Cause::MissingCapability("CAP_SETFCAP")), Pod, "SETFCAP");
        rootless(refused(Cause::Kernel), Advice, "CONFIG_USER_NS");
        rootless(refused(Cause::OldKernel), Advice, "Linux 5.14");
        rootless(refused(Cause::Supervised), Advice, "notifier");
        rootless(refused(Cause::InChroot), Advice, "chroot");
        rootless(refused(Cause::Unknown), Advice, "ask");
        check(Sandbox::Root, vec![Obstacle::NoProc], &[(Commands, "mount -t proc proc /proc")]);
        rootless(vec![Obstacle::Killed], Engine, "seccomp=unconfined");
        rootless(helper(HelperProblem::Missing), Commands, "apt-get install uidmap");
        rootless(helper(HelperProblem::NotPrivileged), Commands, "chmod u+s");
        rootless(helper(HelperProblem::NoNewPrivileges), Pod, "allowPrivilegeEscalation: true");
        rootless(helper(HelperProblem::Bounded), Pod, "add: [SETGID, SETUID]");
        rootless(helper(HelperProblem::Failed(String::new())), Advice, "/etc/subuid");
        rootless(vec![Obstacle::NoPasswdEntry { uid: 1234 }], Commands, "builder:x:1234:");
    }

    #[test]
    fn what_is_needed_together_is_said_together() {
        let none = |file| Obstacle::NoSubordinateIds { file, user: "ann".to_owned() };
        let nnp =
            Obstacle::Helper { program: "newuidmap".to_owned(), problem: HelperProblem::NoNewPrivileges };
        let refused =
            Obstacle::Refused { call: Call::UserNamespace, errno: libc::EPERM, cause: Cause::Seccomp };
        let obstacles = vec![nnp, none("/etc/subuid"), none("/etc/subgid"), refused];
        let remedies = Rung { sandbox: Sandbox::Rootless, obstacles }.remedies();
        let texts: Vec<&str> = remedies.iter().map(|remedy| remedy.text.as_str()).collect();
        let settings =
            "securityContext:\n  allowPrivilegeEscalation: true\n  seccompProfile:\n    type: Unconfined";
        assert_eq!(texts[..2], [settings, "--security-opt seccomp=unconfined"]);
        // Which ids depends on who has some on this machine.
        assert!(texts[2].starts_with("usermod --add-subuids ") && texts[2].ends_with(" ann"), "{texts:?}");
        assert_eq!(texts.len(), 3);
    }

    #[test]
    fn subordinate_ids_are_ones_that_nobody_has() {
        let check = |lines: &str, first: u64| assert_eq!(free_ids(lines), first, "{lines:?}");
        check("", 100_000);
        check("ann:100000:65536\n", 165_536);
        check("bob:165536:65536\nann:100000:65536\n", 231_072);
        check("ann:100000:65536\n:x\nbob:300000:65536\n", 165_536);
        check("ann:100000:65536\nbob:200000:65536\n", 265_536);
        check("ann:1000:99010\n7:120000:1\n", 120_001);
        assert_eq!(
            add_ids("ann", 165_536),
            "usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann"
        );
    }
}
