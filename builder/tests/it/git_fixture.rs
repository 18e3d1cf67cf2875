//! Repositories made with git, and servers on loopback that give them out.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Scratch, have, skip, wait_until};

/// What the server's `/private` wants: the token `t0ken`, as BuildKit sends it.
const AUTHORIZATION: &str = "Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=";

/// A server over HTTP, and the directory of its repositories.
#[derive(Debug)]
pub(crate) struct GitServer {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    scratch: Scratch,
}

impl GitServer {
    /// `None`, and a line that says so, where something is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !have(&["git", "python3"]) {
            return None;
        }
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("repositories")).unwrap();
        let mut process = Command::new("python3")
            .args(["-c", include_str!("git_server.py")])
            .arg(scratch.path("repositories"))
            .arg(scratch.path("log"))
            .arg(AUTHORIZATION)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Some(Self { process, address: format!("127.0.0.1:{}", port.trim()), scratch })
    }

    /// The URL of a repository: `url("smart/r.git")`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Runs a shell script in the directory of the repositories; what it prints. `$SERVER` is the server's address.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        shell(&self.scratch.path("repositories"), script, &self.address)
    }

    /// The directory of the repositories.
    pub(crate) fn root(&self) -> PathBuf {
        self.scratch.path("repositories")
    }

    /// Requests since it was asked last, a line each.
    pub(crate) fn requests(&self) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.scratch.path("log"));
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn shell(directory: &Path, script: &str, server: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env("SERVER", server)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "somebody")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "somebody@example.invalid")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "1700000000 +0100")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A program that listens at a port of its own until it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Child,
    pub(crate) port: u16,
    _scratch: Option<Scratch>,
}

impl Daemon {
    /// `git daemon` for the repositories of `server`.
    pub(crate) fn git(server: &GitServer) -> Self {
        let port = free_port();
        let mut command = Command::new("git");
        command.args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", server.root().display()));
        Self::start(command, port, None)
    }

    /// `sshd` that lets one key in, and the path of that key.
    pub(crate) fn ssh() -> Option<(Self, PathBuf)> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.is_file() || !have(&["ssh", "ssh-keygen", "ssh-agent"]) {
            skip("openssh-server is not installed");
            return None;
        }
        let scratch = Scratch::new();
        let directory = scratch.path("");
        shell(
            &directory,
            "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f user
             cp user.pub allowed; mkdir -p /run/sshd",
            "",
        );
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-D", "-e", "-f", "/dev/null", "-p"]).arg(port.to_string());
        for option in [
            "ListenAddress=127.0.0.1".to_owned(),
            format!("HostKey={}", directory.join("host").display()),
            format!("AuthorizedKeysFile={}", directory.join("allowed").display()),
            "StrictModes=no".to_owned(),
            "PermitRootLogin=yes".to_owned(),
            "UsePAM=no".to_owned(),
            "PidFile=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        let key = directory.join("user");
        Some((Self::start(command, port, Some(scratch)), key))
    }

    fn start(mut command: Command, port: u16, scratch: Option<Scratch>) -> Self {
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, port, _scratch: scratch }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Git's has a child that does the work, which ends when it is told to.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
