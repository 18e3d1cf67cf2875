//! A registry that fails as a test tells it: `fault_server.py`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::have;

/// The server; ended when dropped.
#[derive(Debug)]
pub(crate) struct FaultServer {
    process: Child,
    ports: [u16; 3],
}

impl FaultServer {
    /// `None`, and a line that says so, where Python is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !have(&["python3"]) {
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fault_server.py");
        let mut command = Command::new("python3");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().unwrap()).collect();
        Some(Self { process, ports: ports.try_into().expect("three ports") })
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// A host that neither accepts nor refuses.
    pub(crate) fn closed(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2])
    }

    /// Fails as it is told from now on, and forgets what was asked.
    pub(crate) fn set(&self, faults: &Value) {
        self.ask("PUT", "/_faults", &json!({ "faults": faults }).to_string());
    }

    /// The same, and wants to know who asks.
    pub(crate) fn guard(&self, auth: &Value, faults: &Value) {
        self.ask("PUT", "/_faults", &json!({ "faults": faults, "auth": auth }).to_string());
    }

    /// What it has and what it was asked.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/_state", "")).unwrap()
    }

    /// The names that it has, `repository:tag`.
    pub(crate) fn tags(&self) -> Vec<String> {
        serde_json::from_value(self.state()["tags"].clone()).unwrap()
    }

    /// What was asked with a line that contains `word`.
    pub(crate) fn asked(&self, word: &str) -> Vec<Value> {
        let state = self.state();
        let requests = state["requests"].as_array().unwrap().iter();
        requests.filter(|it| it["line"].as_str().unwrap().contains(word)).cloned().collect()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut connection = TcpStream::connect(self.host()).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
