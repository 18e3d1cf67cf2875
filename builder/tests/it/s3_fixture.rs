//! An S3 service for tests: Python's moto on a loopback port, with a bucket `cache` and a user whose signatures it checks.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};
use wharf::remote::s3::S3;
use wharf::remote::spec::{CacheTo, Target};

use crate::registry_fixture::skip;

#[derive(Debug)]
pub(crate) struct S3Server {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    url: String,
    id: String,
    secret: String,
}

impl S3Server {
    /// Starts one; `None`, having said so, where moto is not installed.
    pub(crate) fn start() -> Option<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/moto/bin/python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_server.py");
        for python in [own.as_path(), Path::new("python3")] {
            let mut command = Command::new(python);
            command.arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut process) = command.spawn() else { continue };
            let mut output = BufReader::new(process.stdout.take().unwrap());
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let Ok(ready) = serde_json::from_str::<Value>(&line) else {
                let _ = process.wait();
                continue;
            };
            let field = |name: &str| ready[name].as_str().unwrap().to_owned();
            let (url, id, secret) = (field("url"), field("id"), field("secret"));
            let pipes = Mutex::new((process.stdin.take().unwrap(), output));
            return Some(Self { process, pipes, url, id, secret });
        }
        skip("python3-moto (testdata/deps.sh)");
        None
    }

    fn ask(&self, command: &Value) -> Value {
        let (input, output) = &mut *self.pipes.lock().unwrap();
        writeln!(input, "{command}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn names(&self, command: &Value) -> Vec<String> {
        serde_json::from_value(self.ask(command)).unwrap()
    }

    /// What the bucket has, as botocore sees it.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.names(&json!({ "list": prefix }))
    }

    /// The text of an object.
    pub(crate) fn read(&self, key: &str) -> String {
        self.ask(&json!({ "read": key })).as_str().unwrap().to_owned()
    }

    /// Puts other bytes in place of an object.
    pub(crate) fn write(&self, key: &str, text: &str) {
        self.ask(&json!({ "write": key, "bytes": text }));
    }

    /// Takes an object away.
    pub(crate) fn delete(&self, key: &str) {
        self.ask(&json!({ "delete": key }));
    }

    /// Makes all objects look written so many hours earlier.
    pub(crate) fn age(&self, hours: u32) {
        self.ask(&json!({ "age": "", "hours": hours }));
    }

    /// Objects that look written more than an hour ago.
    pub(crate) fn old(&self) -> Vec<String> {
        self.names(&json!({ "old": true }))
    }

    /// Uploads that were begun and not ended.
    pub(crate) fn uploads(&self) -> Vec<String> {
        self.names(&json!({ "uploads": true }))
    }

    /// Where the cache is, without credentials.
    pub(crate) fn spec(&self) -> String {
        format!("type=s3,bucket=cache,region=us-east-1,endpoint_url={}", self.url)
    }

    /// The variables that hold the credentials.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 2] {
        [("AWS_ACCESS_KEY_ID", &self.id), ("AWS_SECRET_ACCESS_KEY", &self.secret)]
    }

    /// A client with these further attributes.
    pub(crate) fn client(&self, more: &str) -> S3 {
        client(&format!("{}{more}", self.spec()), &|name| {
            let variable = self.variables().into_iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| value.to_owned())
        })
    }
}

/// The client that a `--cache-to` gives.
pub(crate) fn client(spec: &str, variable: &dyn Fn(&str) -> Option<String>) -> S3 {
    let Target::S3(place) = CacheTo::parse(spec).unwrap().target else { panic!("{spec} is no bucket") };
    S3::new(place.with_environment(variable).unwrap())
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
