//! Steps that change users and owners make the same files where there is one user as where there are all.

use std::fs;

use crate::harness::{Outcome, Wharf, debian_layout, have, tool};

/// Everything that an archive says of its entries but times, and what files hold.
const LISTING: &str = r"
import hashlib, sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    for entry in sorted(archive, key=lambda entry: entry.name):
        data = hashlib.sha256(archive.extractfile(entry).read()).hexdigest()[:16] if entry.isreg() else ''
        attributes = sorted((k, v) for k, v in entry.pax_headers.items() if k.startswith('SCHILY'))
        print(entry.name, entry.type, oct(entry.mode), entry.uid, entry.gid, entry.linkname,
              entry.devmajor, entry.devminor, data, attributes)
";

/// What one sandbox makes of a Dockerfile: what the build says, and the files.
fn build(wharf: &Wharf, sandbox: &str, arguments: &[&str]) -> (Outcome, String) {
    let dest = wharf.path(&format!("{sandbox}.tar"));
    let output = format!("type=tar,dest={}", dest.display());
    let mut command = wharf.build_command(sandbox, &["--no-cache", "-o", &output]);
    command.args(arguments).env("WHARF_SANDBOX", sandbox);
    let outcome = Outcome::of(command).success();
    let listing = tool("python3", &["-c", LISTING, dest.to_str().unwrap()]);
    fs::remove_file(dest).unwrap();
    (outcome, listing)
}

/// Builds `steps` on Debian in both sandboxes. The files that they leave are the same, and `expected` are among them.
#[track_caller]
fn check(steps: &str, expected: &[&str]) {
    let (Some(_), true, Some(wharf)) = (debian_layout(), have(&["python3"]), Wharf::new()) else { return };
    wharf.dockerfile(&format!("FROM debian\n{steps}"));
    let (_, root) = build(&wharf, "root", &[]);
    let (_, single) = build(&wharf, "rootless-single", &[]);
    let lines = |listing: &str| listing.lines().map(str::to_owned).collect::<Vec<_>>();
    let (root, single) = (lines(&root), lines(&single));
    let missing: Vec<_> = root.iter().filter(|line| !single.contains(line)).collect();
    let more: Vec<_> = single.iter().filter(|line| !root.contains(line)).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "{steps}\nroot alone: {missing:#?}\nsingle alone: {more:#?}"
    );
    for expected in expected {
        assert!(root.iter().any(|line| line.starts_with(expected)), "{expected} of {steps}");
    }
}

#[test]
fn programs_that_change_owners_leave_the_same_files() {
    check(
        "RUN mkdir /t && cd /t && mkdir a && touch a/f && ln -s f a/l && mkfifo a/p && chown -hR 11:12 a && \
         mknod a/n c 1 3 && chmod 2775 a && mkdir a/sub && touch a/new && \
         tar cf ../t.tar a && cp -a a b && mkdir c && tar xpf ../t.tar -C c && rm ../t.tar && chgrp -R 7 c && \
         install -d -o 5 -g 33 -m 2775 /srv/i && touch /srv/i/f && install -o 5 -g 6 -m 4755 /bin/true /srv/true\n\
         RUN useradd -m -s /bin/sh -u 1500 app && usermod -aG www-data app && passwd -l app && \
         su app -c 'touch ~/its; mkdir ~/dir; ln -s x ~/link; mkfifo ~/pipe; ! touch /etc/not; id' >/id && \
         setpriv --reuid=9 --regid=10 --clear-groups sh -c 'id; umask 077; touch /tmp/nine' >>/id && \
         sed -i 's/^app:\\(.*\\):[0-9]*:0:99999/app:\\1:1:0:99999/' /etc/shadow && rm -f /etc/*- /var/log/*log\n\
         USER app\n\
         RUN id >/tmp/as-app && ! chown root /tmp/as-app 2>/dev/null && chgrp www-data /tmp/as-app\n",
        &[
            "t/a/l b'2' 0o777 11 12 f",
            "t/b/l b'2' 0o777 11 12 f",
            "t/c/a/p b'6' 0o644 11 7",
            "t/b/n b'3' 0o644 0 0  1 3",
            "t/a/new b'0' 0o644 0 12",
            "srv/true b'0' 0o4755 5 6",
            "home/app/link b'2' 0o777 1500 1500 x",
            "tmp/nine b'0' 0o600 9 10",
            "tmp/as-app b'0' 0o644 1500 33",
        ],
    );
}

#[test]
fn packages_with_users_and_set_id_programs_install() {
    check(
        "RUN apt-get update && apt-get install -y sudo openssh-client dbus cron && \
         useradd -m -u 1500 app && echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app && \
         su app -c 'sudo -n sh -c \"id; touch /root/by-sudo; chown www-data /root/by-sudo\"' >/id && \
         rm -rf /var/lib/apt/lists /var/cache/apt /var/log /var/cache/ldconfig /var/cache/debconf /var/lib/dbus/machine-id \
         /etc/machine-id /etc/shadow /etc/*- /var/lib/dpkg/triggers /run/*\n",
        &["usr/bin/sudo b'0' 0o4755 0 0", "root/by-sudo b'0' 0o644 33 0", "usr/bin/crontab b'0' 0o2755 0 "],
    );
}
