//! The agent against OpenSSH's own programs.

use std::process::{Command, Output};

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wharf-ssh-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether OpenSSH's programs are here; says so if not.
fn have_openssh() -> bool {
    let found = Command::new("ssh-keygen").arg("-?").output().is_ok();
    if !found {
        println!("SKIP: openssh-client is not installed");
    }
    found
}

fn run(socket: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env("SSH_AUTH_SOCK", socket).output().unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a key, loads it, and has `ssh-keygen` sign with it through the socket.
#[track_caller]
fn check_signs(name: &str, arguments: &[&str]) {
    if !have_openssh() {
        return;
    }
    let scratch = Scratch::new(name);
    let key = scratch.0.join("key");
    let key_text = key.to_str().unwrap();
    let made = [&["-q", "-N", "", "-C", "a comment", "-f", key_text], arguments].concat();
    text(&run(Path::new(""), "ssh-keygen", &made));
    let agents = SshAgents::parse(&[format!("x={key_text}")], &|_| None).unwrap();
    let socket = scratch.0.join("socket");
    let serving = agents.get("x").unwrap().serve(&socket).unwrap();

    let public = std::fs::read_to_string(scratch.0.join("key.pub")).unwrap();
    let listed = text(&run(&socket, "ssh-add", &["-L"]));
    let blob = |line: &str| line.split(' ').nth(1).map(str::trim).map(str::to_owned);
    assert_eq!(blob(&listed), blob(&public));

    let message = scratch.0.join("message");
    std::fs::write(&message, "a message").unwrap();
    let message_text = message.to_str().unwrap();
    // Only the public half is here now: what signs is the agent.
    std::fs::remove_file(&key).unwrap();
    let public_text = format!("{key_text}.pub");
    text(&run(&socket, "ssh-keygen", &["-Y", "sign", "-n", "test", "-f", &public_text, message_text]));
    let signature = format!("{message_text}.sig");
    let arguments = ["-Y", "check-novalidate", "-n", "test", "-s", signature.as_str()];
    let checked = Command::new("ssh-keygen")
        .args(arguments)
        .stdin(std::fs::File::open(&message).unwrap())
        .output()
        .unwrap();
    text(&checked);

    for refused in [vec!["-D"], vec!["-x"], vec!["-d", public_text.as_str()]] {
        let output = Command::new("ssh-add")
            .args(&refused)
            .env("SSH_AUTH_SOCK", &socket)
            .env("SSH_ASKPASS", "true")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "ssh-add {refused:?} was allowed");
    }
    assert_eq!(blob(&text(&run(&socket, "ssh-add", &["-L"]))), blob(&public));
    drop(serving);
    assert!(UnixStream::connect(&socket).is_err(), "somebody still listens");
}

#[test]
fn openssh_signs_with_every_kind_of_key() {
    check_signs("ed25519", &["-t", "ed25519"]);
    check_signs("ecdsa256", &["-t", "ecdsa", "-b", "256"]);
    check_signs("ecdsa384", &["-t", "ecdsa", "-b", "384"]);
    check_signs("rsa", &["-t", "rsa", "-b", "2048"]);
    check_signs("pem-rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
    check_signs("pkcs8-rsa", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]);
    check_signs("pkcs8-ecdsa", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8"]);
}

#[track_caller]
fn check_refused(name: &str, arguments: &[&str], words: &str) {
    if !have_openssh() {
        return;
    }
    let scratch = Scratch::new(name);
    let key = scratch.0.join("key");
    let key_text = key.to_str().unwrap();
    text(&run(Path::new(""), "ssh-keygen", &[&["-q", "-f", key_text], arguments].concat()));
    let error = SshAgents::parse(&[format!("x={key_text}")], &|_| None).unwrap_err();
    let error = crate::error::causes(&error);
    assert!(error.contains(words), "{error}");
    let error = SshAgents::parse(&[format!("x={key_text}.pub")], &|_| None).unwrap_err();
    assert!(crate::error::causes(&error).contains("is a public key"));
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    check_refused("encrypted", &["-t", "ed25519", "-N", "secret"], "is encrypted");
    check_refused("encrypted-pem", &["-t", "rsa", "-m", "PEM", "-N", "secret"], "is encrypted");
    check_refused("p521", &["-t", "ecdsa", "-b", "521", "-N", ""], "not supported");
    check_refused("old-ec", &["-t", "ecdsa", "-b", "256", "-m", "PEM", "-N", ""], "old format for EC keys");
    check_refused("short", &["-t", "rsa", "-b", "1024", "-N", ""], "less than 2048 bits");
}

#[test]
fn wrong_flags_say_why() {
    let scratch = Scratch::new("flags");
    let file = scratch.0.join("file");
    std::fs::write(&file, "no key").unwrap();
    let socket = scratch.0.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let directory = scratch.0.display();
    let check = |specs: &[&str], words: &str| {
        let specs: Vec<String> =
            specs.iter().map(|spec| spec.replace("DIR", &directory.to_string())).collect();
        let error = crate::error::causes(&SshAgents::parse(&specs, &|_| None).unwrap_err());
        assert!(error.contains(words), "{error}");
    };
    check(&["default"], "SSH_AUTH_SOCK is not set");
    check(&[""], "SSH_AUTH_SOCK is not set");
    check(&["x=DIR/none"], "No such file");
    check(&["x=DIR"], "cannot read it");
    check(&["x=DIR/file"], "no private key");
    check(&["x=DIR/socket,DIR/file"], "cannot be given together");
    check(&["x=DIR/socket", "x=DIR/socket"], "`x` is given twice");
    let environment = |name: &str| (name == "SSH_AUTH_SOCK").then(|| socket.clone().into_os_string());
    let agents = SshAgents::parse(&["".to_owned(), "raw=".to_owned()], &environment).unwrap();
    assert!(
        matches!(agents.get("default").map(|agent| &**agent), Some(Agent::Socket(path)) if *path == socket)
    );
    assert!(agents.get("raw").is_some() && agents.get("x").is_none());
}

/// What a step can send that is no request an agent knows.
#[test]
fn hostile_clients_are_refused() {
    use std::io::{Read as _, Write as _};
    let scratch = Scratch::new("hostile");
    let socket = scratch.0.join("socket");
    let agent = Arc::new(Agent::Keys(Vec::new()));
    let _serving = agent.serve(&socket).unwrap();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    const FAILURE: &[u8] = &[0, 0, 0, 1, 5];
    assert_eq!(ask(&[0, 0, 0, 1, 11]), [0, 0, 0, 5, 12, 0, 0, 0, 0]);
    for kind in [0, 1, 17, 18, 19, 20, 22, 23, 25, 26, 27, 255] {
        assert_eq!(ask(&[0, 0, 0, 1, kind]), FAILURE, "{kind}");
    }
    assert_eq!(ask(&[0, 0, 0, 1, 13]), FAILURE);
    assert_eq!(ask(&[0, 0, 0, 5, 13, 0xff, 0xff, 0xff, 0xff]), FAILURE);
    for nothing in [&[][..], &[0, 0], &[0, 0, 0, 0], &[0xff, 0xff, 0xff, 0xff, 11], &[0, 0, 0, 9, 11]] {
        assert!(ask(nothing).is_empty(), "{nothing:?}");
    }
}
