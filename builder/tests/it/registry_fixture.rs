//! Registries for tests: Debian's `docker-registry` on a loopback port, and a server that answers as a test tells it.

#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use wharf::registry::{OciRegistry, RegistryOptions};

/// A client that does not wait between tries.
pub(crate) fn client() -> OciRegistry {
    OciRegistry::new(RegistryOptions { retry_delay: Duration::ZERO, ..RegistryOptions::default() })
}

/// Says that a test did not run because `package` is not installed.
#[expect(clippy::print_stdout, reason = "a test that is skipped must say so")]
pub(crate) fn skip(package: &str) {
    println!("SKIP: needs package {package}");
}

/// A directory of its own for a test, gone at the end.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wharf-it-{name}-{}-{unique}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A `docker-registry` process with an empty storage; ended when dropped.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    process: Child,
    port: u16,
    _storage: TempDir,
}

impl DockerRegistry {
    /// Starts one and waits until it answers; `None`, having said so, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("", "delete: {enabled: true}", "")
    }

    /// The same with TLS and a certificate of its own making, which is returned (PEM).
    pub(crate) fn start_with_tls() -> Option<(Self, Vec<u8>)> {
        let dir = TempDir::new("certificate");
        let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("certificate.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-subj", "/CN=wharf-test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        match openssl.stdin(Stdio::null()).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => {
                skip("openssl");
                return None;
            }
        }
        let tls = format!(", tls: {{certificate: {certificate:?}, key: {key:?}}}");
        let registry = Self::start_with(&tls, "", "")?;
        Some((registry, fs::read(&certificate).unwrap()))
    }

    /// One with a certificate of a private authority, for users of an `htpasswd` file: `me` with password `secret`. It wants
    /// a certificate of the same authority from whoever asks, if `mutual`. In `dir` are `ca.crt`, and `client.cert` with
    /// `client.key`.
    pub(crate) fn start_private(dir: &Path, mutual: bool) -> Option<Self> {
        let run = |program: &str, arguments: &[&str]| match Command::new(program)
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::null())
            .output()
        {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(output.stdout)
            }
            Err(_) => {
                skip(program);
                None
            }
        };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let authority =
            ["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"];
        run("openssl", &[&["req"], &key[..], &authority].concat())?;
        fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        for (name, subject, out) in
            [("server", "/CN=registry", "server.crt"), ("client", "/CN=me", "client.cert")]
        {
            let (file, request) = (format!("{name}.key"), format!("{name}.csr"));
            run(
                "openssl",
                &[&["req", "-new", "-subj", subject], &key[..], &["-keyout", &file, "-out", &request]]
                    .concat(),
            )?;
            let sign =
                ["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
            run("openssl", &[&sign[..], &["-days", "2", "-extfile", "ext", "-out", out]].concat())?;
        }
        fs::write(dir.join("htpasswd"), run("htpasswd", &["-Bbn", "me", "secret"])?).unwrap();
        let path = |name: &str| dir.join(name);
        let clients = if mutual { format!(", clientcas: [{:?}]", path("ca.crt")) } else { String::new() };
        let tls = format!(
            ", tls: {{certificate: {:?}, key: {:?}{clients}}}",
            path("server.crt"),
            path("server.key")
        );
        let auth = format!("auth: {{htpasswd: {{realm: it, path: {:?}}}}}\n", path("htpasswd"));
        Self::start_with(&tls, "delete: {enabled: true}", &auth)
    }

    /// `http`, `storage_more` and `more` are put into the registry's configuration.
    fn start_with(http: &str, storage_more: &str, more: &str) -> Option<Self> {
        let storage = TempDir::new("registry");
        // The port is free when it is looked for; if somebody else is faster, another one is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = storage.path().join("config.yml");
            let root = storage.path().join("data");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage: {{filesystem: {{rootdirectory: {root:?}}}, {storage_more}}}\n\
                 http: {{addr: '127.0.0.1:{port}'{http}}}\n{more}"
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(&config);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = match command.spawn() {
                Ok(process) => process,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    skip("docker-registry");
                    return None;
                }
                Err(error) => panic!("cannot start docker-registry: {error}"),
            };
            if answers(&mut process, port) {
                return Some(Self { process, port, _storage: storage });
            }
        }
        panic!("docker-registry does not answer");
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until the process listens; `false` if it ended instead.
fn answers(process: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = process.kill();
    let _ = process.wait();
    false
}

/// A request that came to a [`ScriptedRegistry`].
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `GET /v2/…`.
    pub(crate) line: String,
    /// Header lines, names in lowercase.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// What is sent back; the connection ends after it.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A whole answer: status, further headers (`Name: value`), body.
    Whole(u16, Vec<String>, Vec<u8>),
    /// Promises so many bytes, sends these and hangs up.
    Cut(u64, Vec<u8>),
    /// Promises so many bytes, sends these and nothing more until the client hangs up.
    Stalled(u64, Vec<u8>),
    /// A body without announced length that goes on until the client hangs up.
    Endless,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(200, Vec::new(), body.into())
    }

    pub(crate) fn status(status: u16, headers: &[&str]) -> Self {
        Self::Whole(status, headers.iter().map(|&header| header.to_owned()).collect(), Vec::new())
    }
}

/// A server on a loopback port that gives the answers a test wants and keeps the requests.
#[derive(Debug)]
pub(crate) struct ScriptedRegistry {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl ScriptedRegistry {
    /// `answer` gets each request and its number, from 0.
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // The thread ends with the test process; nothing it has needs an orderly end.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let Some(request) = read_request(&connection) else { continue };
                let number = seen.lock().unwrap().len();
                let answer = answer(&request, number);
                seen.lock().unwrap().push(request);
                // The client may hang up first; some tests want it to.
                let _ = send(connection, answer);
            }
        });
        Self { port, requests }
    }

    /// The same answers in turn; the last one again and again.
    pub(crate) fn with_answers(answers: Vec<Answer>) -> Self {
        Self::start(move |_, number| answers[number.min(answers.len() - 1)].clone())
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(connection: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
    let mut body = vec![0; length.unwrap_or(Ok(0)).ok()?];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers, body })
}

fn send(mut connection: TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Whole(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
            if !headers.iter().any(|header| header.starts_with("Content-Length:")) {
                head += &format!("Content-Length: {}\r\n", body.len());
            }
            for header in headers {
                head += &format!("{header}\r\n");
            }
            connection.write_all(format!("{head}\r\n").as_bytes())?;
            connection.write_all(&body)
        }
        Answer::Cut(promised, body) => {
            let head = format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {promised}\r\n\r\n");
            connection.write_all(head.as_bytes())?;
            connection.write_all(&body)
        }
        Answer::Stalled(promised, body) => {
            let head = format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {promised}\r\n\r\n");
            connection.write_all(head.as_bytes())?;
            connection.write_all(&body)?;
            connection.read(&mut [0]).map(drop)
        }
        Answer::Endless => {
            connection.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")?;
            loop {
                connection.write_all(&[b'x'; 65536])?;
            }
        }
    }
}
