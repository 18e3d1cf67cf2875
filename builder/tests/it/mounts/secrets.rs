//! Secrets and SSH agents.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Outcome, Wharf, have, tool, wait_until};

use super::{check, wharf};

#[test]
fn secrets_are_files_and_variables() {
    let Some(wharf) = wharf() else { return };
    fs::write(wharf.path("file"), "from the file\n").unwrap();
    let text = "[ \"$(cat /run/secrets/s)\" = 'from the file' ]";
    check(
        &wharf,
        &["--secret", "id=s,src=file"],
        &format!(
            "RUN --mount=type=secret,id=s {text} && [ \"$(stat -c '%u %g %a' /run/secrets/s)\" = '0 0 400' ]\n\
             RUN --mount=type=secret,id=s,uid=7,gid=8,mode=0440 [ \"$(stat -c '%u %g %a' /run/secrets/s)\" = '7 8 440' ]\n\
             RUN --mount=type=secret,id=s grep -E ' /run/secrets/s ro,nosuid,nodev,noexec.* tmpfs ' /proc/self/mountinfo\n\
             RUN --mount=type=secret,id=s ! (echo x >/run/secrets/s) && ! rm /run/secrets/s\n\
             RUN --mount=type=secret,id=s,target=/a/b [ \"$(cat /a/b)\" = 'from the file' ] && [ ! -e /run ]\n\
             RUN --mount=type=secret,target=/etc/s [ \"$(cat /etc/s)\" = 'from the file' ]\n\
             RUN --mount=type=secret,src=s {text}\n\
             RUN --mount=type=secret,id=s,env=S,target=/s printf %s \"$S\" | cmp - /s\n\
             RUN --mount=type=secret,id=s,env=S [ ! -e /run/secrets ]\n\
             RUN --mount=type=secret,id=s,env=S,target=/s [ -n \"$S\" ] && [ -s /s ]\n\
             ENV S=image\nRUN --mount=type=secret,id=s,env=S [ \"$(env | grep -c '^S=')\" = 1 ] && [ \"$S\" != image ]\n\
             RUN [ $S = image ]\n\
             RUN --mount=type=secret,id=none,env=S [ $S = image ]\n\
             RUN --mount=type=secret,id=none [ ! -e /run ]\n"
        ),
    );
    let mut command = wharf.build_command("store", &["--secret", "id=VARIABLE"]);
    command.env("VARIABLE", "from the environment");
    wharf.dockerfile("FROM busybox\nRUN --mount=type=secret,id=VARIABLE [ \"$(cat /run/secrets/VARIABLE)\" = 'from the environment' ]\n");
    Outcome::of(command).success();
}

/// Every file below `directory` that has `bytes` in it.
fn holding(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let content = fs::read(&path).unwrap();
                if content.windows(bytes.len()).any(|window| window == bytes) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    found
}

#[test]
fn a_secret_is_nowhere_afterwards() {
    let Some(wharf) = wharf() else { return };
    const SECRET: &str = "correct-horse-battery-staple";
    fs::write(wharf.path("file"), SECRET).unwrap();
    let lines = "RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S --mount=type=cache,target=/c \
                 [ -s /run/secrets/s ] && [ -n \"$S\" ] && echo ran $(date) >/c/x\n\
                 RUN --mount=type=secret,id=s,env=S test \"$S\" && echo \"$S\" | sha256sum >/digest\n";
    let arguments = [
        "--secret",
        "id=s,src=file",
        "-t",
        "app",
        "-o",
        "type=image",
        "-o",
        "type=oci,tar=false,dest=layout",
        "-o",
        "files",
    ];
    wharf.dockerfile(&format!("FROM busybox\n{lines}"));
    let outcome = wharf.build(&arguments).success();
    assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("test \"****\""), "{}", outcome.stderr);
    for place in ["store", "layout", "files"] {
        assert_eq!(holding(&wharf.path(place), SECRET.as_bytes()), Vec::<String>::new());
    }
    let config = tool("skopeo", &["inspect", "--config", &format!("oci:{}", wharf.path("layout").display())]);
    assert!(!config.contains(SECRET));
    // Blobs are compressed, so they are looked at unpacked.
    fs::create_dir(wharf.path("unpacked")).unwrap();
    for blob in fs::read_dir(wharf.path("layout/blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let to = wharf.path("unpacked").join(blob.file_name().unwrap());
        let unpacked = Command::new("gzip").args(["-dcf"]).arg(&blob).output().unwrap();
        fs::write(to, unpacked.stdout).unwrap();
    }
    assert_eq!(holding(&wharf.path("unpacked"), SECRET.as_bytes()), Vec::<String>::new());
    // Not when a step fails either, nor when it cannot be a variable.
    wharf.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s,env=S test -z \"$S\"\n");
    let outcome = wharf.build(&arguments).fails_with(1, &[]);
    assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
    for bytes in [&b"correct-horse-battery-staple\0"[..], b"correct-horse-battery-staple\xff"] {
        fs::write(wharf.path("file"), bytes).unwrap();
        let outcome = wharf.build(&arguments).fails_with(1, &["cannot be the variable S"]);
        assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
    }
    assert_eq!(holding(&wharf.path("store"), SECRET.as_bytes()), Vec::<String>::new());
}

#[test]
fn a_secret_with_another_value_runs_nothing() {
    let Some(wharf) = wharf() else { return };
    let line = "RUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null";
    let arguments = ["--secret", "id=s,src=file"];
    fs::write(wharf.path("file"), "one").unwrap();
    check(&wharf, &arguments, line).steps().check_ran(&[line]);
    fs::write(wharf.path("file"), "two").unwrap();
    check(&wharf, &arguments, line).steps().check_ran(&[]);
    // Nor is it read when nothing needs it.
    check(&wharf, &[], line).steps().check_ran(&[]);
}

/// An `ssh-agent` with one key, ended with its value.
struct SshAgent {
    process: Child,
    socket: String,
}

impl SshAgent {
    fn start(wharf: &Wharf, key: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("wharf-agent-{}-{:p}", std::process::id(), wharf));
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null());
        let process = command.spawn().unwrap();
        wait_until("the agent listens", || socket.exists());
        let socket = socket.display().to_string();
        let added = Command::new("ssh-add").args(["-q", key]).env("SSH_AUTH_SOCK", &socket).status().unwrap();
        assert!(added.success());
        Self { process, socket }
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Puts a program of the host with the libraries it needs into the context.
fn bring(wharf: &Wharf, program: &str) {
    let which = tool("sh", &["-c", &format!("command -v {program}")]);
    let target = wharf.context().join("ssh");
    fs::create_dir_all(target.join("lib")).unwrap();
    fs::copy(which.trim(), target.join(program)).unwrap();
    for line in tool("ldd", &[which.trim()]).lines() {
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            let name = Path::new(path).file_name().unwrap();
            fs::copy(path, target.join("lib").join(name)).unwrap();
        }
    }
    let loader = fs::read_dir(target.join("lib")).unwrap().map(|entry| entry.unwrap().path());
    let loader = loader
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("ld-"))
        .unwrap();
    fs::copy(loader, target.join("loader")).unwrap();
    fs::set_permissions(target.join("loader"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn steps_sign_with_an_agent_and_with_keys() {
    let Some(wharf) = wharf() else { return };
    if !have(&["ssh-agent", "ssh-add", "ssh-keygen", "ldd"]) {
        return;
    }
    let key = wharf.path("key").display().to_string();
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", &key]);
    bring(&wharf, "ssh-add");
    bring(&wharf, "ssh-keygen");
    let public = fs::read_to_string(wharf.path("key.pub")).unwrap();
    wharf.file("key.pub", &public).file("message", "a message");
    let add = "/s/ssh/loader --library-path /s/ssh/lib /s/ssh/ssh-add";
    let keygen = "/s/ssh/loader --library-path /s/ssh/lib /s/ssh/ssh-keygen";
    let lines = format!(
        "RUN --mount=target=/s --mount=type=ssh {add} -L | grep -F \"$(cut -d' ' -f2 /s/key.pub)\" && \
         [ $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 ] && \
         cp /s/message /s/key.pub /tmp && {keygen} -Y sign -n test -f /tmp/key.pub /tmp/message && mv /tmp/message.sig / && \
         ! {add} -D && ! {add} -d /s/key.pub && {add} -L | grep -F \"$(cut -d' ' -f2 /s/key.pub)\"\n\
         RUN --mount=type=ssh [ \"$(stat -c '%u %g %a %F' $SSH_AUTH_SOCK)\" = '0 0 600 socket' ]\n\
         RUN --mount=type=ssh,uid=3,gid=4,mode=0666,target=/agent [ \"$(stat -c '%u %g %a %F' /agent)\" = '3 4 666 socket' ]\n\
         RUN --mount=type=ssh,id=none [ ! -e /run ]\n\
         RUN --mount=target=/s --mount=type=ssh i=0; while [ $i -lt 100 ]; do {add} -l >/dev/null || exit 1; i=$((i+1)); done\n\
         USER nobody\n\
         RUN --mount=type=ssh --mount=target=/s ! {add} -l\n\
         RUN --mount=type=ssh,uid=65534 --mount=target=/s {add} -l\n\
         FROM scratch\nCOPY --from=0 /message.sig /\n"
    );
    let agent = SshAgent::start(&wharf, &key);
    let given = format!("default={}", agent.socket);
    let with_key = format!("default={key}");
    for (number, ssh) in ["default", &given, &with_key].into_iter().enumerate() {
        let out = format!("out{number}");
        wharf.dockerfile(&format!("FROM busybox\n{lines}"));
        let mut command = wharf.build_command("store", &["--no-cache", "--ssh", ssh, "-o", &out]);
        command.env("SSH_AUTH_SOCK", &agent.socket);
        let outcome = Outcome::of(command).success();
        assert!(!outcome.stderr.contains("PRIVATE KEY"));
        let signature = wharf.path(&out).join("message.sig").display().to_string();
        let checked = Command::new("ssh-keygen")
            .args(["-Y", "check-novalidate", "-n", "test", "-s", &signature])
            .stdin(fs::File::open(wharf.context().join("message")).unwrap())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    let private = fs::read_to_string(&key).unwrap();
    let line = private.lines().nth(1).unwrap();
    assert_eq!(holding(&wharf.path("store"), line.as_bytes()), Vec::<String>::new());
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}
