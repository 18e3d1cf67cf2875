//! `--load`: the image into the Docker or containerd that runs on this machine.
//!
//! Docker takes an archive as `POST /images/load` on its socket; it is sent as it is made. Containerd has no such call: one of
//! its own programs, `nerdctl` or `ctr`, reads the archive.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use wharf_runtime::Cancel;

use super::ExportError;

/// Docker's socket where DOCKER_HOST says nothing.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Containerd's where CONTAINERD_ADDRESS says nothing.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The programs that bring archives into containerd, the friendlier one first.
const PROGRAMS: [&str; 2] = ["nerdctl", "ctr"];

/// How often it is looked whether the build was interrupted while Docker is waited for.
const POLL: Duration = Duration::from_millis(200);
/// How much is sent as one chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most characters of somebody's message that are shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// What runs containers here and keeps images of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or what speaks its language, at this socket.
    Docker(PathBuf),
    /// Containerd at this socket, and the program that reaches it.
    Containerd {
        /// The socket.
        socket: PathBuf,
        /// `nerdctl` or `ctr`.
        program: PathBuf,
    },
}

/// Why an image cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// DOCKER_HOST leads elsewhere.
    #[error(
        "DOCKER_HOST is `{0}`: `--load` reaches Docker through a socket on this machine (unix://PATH) only"
    )]
    Elsewhere(String),
    /// Nobody is there.
    #[error("no Docker and no containerd runs here: there is neither `{docker}` nor `{containerd}`")]
    NoEngine {
        /// Where Docker would be.
        docker: String,
        /// Where containerd would be.
        containerd: String,
    },
    /// Containerd is there without its programs.
    #[error(
        "containerd runs here (`{0}`), but neither `nerdctl` nor `ctr`, which would bring an image into it, is installed"
    )]
    NoProgram(String),
    /// It cannot be spoken to.
    #[error("cannot {operation} {engine}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// With whom.
        engine: Engine,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("{engine} did not take the image: {message}")]
    Refused {
        /// Who.
        engine: Engine,
        /// In its own words.
        message: String,
    },
    /// The image could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The build was interrupted.
    #[error("interrupted")]
    Cancelled,
}

impl LoadError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Elsewhere(_) | Self::NoEngine { .. } => {
                Some("write an archive with `-o type=docker,dest=FILE`, and take it where `docker load` is")
            }
            Self::NoProgram(_) => {
                Some("install one of them, or write an archive with `-o type=oci,dest=FILE`")
            }
            Self::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Some("its socket is for root and its group (`docker`)")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(socket) => write!(f, "Docker at `{}`", socket.display()),
            Self::Containerd { socket, program } => {
                write!(f, "`{}`, for containerd at `{}`", program.display(), socket.display())
            }
        }
    }
}

impl Engine {
    /// What runs here, as `variable` (of the environment) says where. Nobody is spoken to yet.
    pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, LoadError> {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        let docker = match given("DOCKER_HOST") {
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) => return Ok(Self::Docker(path.into())),
                None => return Err(LoadError::Elsewhere(host)),
            },
            None => Path::new(DOCKER_SOCKET),
        };
        if is_socket(docker) {
            return Ok(Self::Docker(docker.to_owned()));
        }
        let socket = given("CONTAINERD_ADDRESS").unwrap_or_else(|| CONTAINERD_SOCKET.to_owned());
        let path = PathBuf::from(socket.strip_prefix("unix://").unwrap_or(&socket));
        if !is_socket(&path) {
            let docker = docker.display().to_string();
            return Err(LoadError::NoEngine { docker, containerd: path.display().to_string() });
        }
        let directories = given("PATH").unwrap_or_default();
        let program = PROGRAMS.iter().find_map(|name| {
            std::env::split_paths(&directories).map(|dir| dir.join(name)).find(|path| path.is_file())
        });
        match program {
            Some(program) => Ok(Self::Containerd { socket: path, program }),
            None => Err(LoadError::NoProgram(path.display().to_string())),
        }
    }

    /// Gives it the archive that `produce` writes, as `docker save` has it.
    pub fn load(
        &self,
        cancel: &Cancel,
        produce: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), LoadError> {
        match self {
            Self::Docker(socket) => self.post(socket, cancel, produce),
            Self::Containerd { socket, program } => self.pipe(socket, program, produce),
        }
    }

    fn post(
        &self,
        socket: &Path,
        cancel: &Cancel,
        produce: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), LoadError> {
        let failed = |operation| move |source| self.io_error(operation, source);
        let stream = UnixStream::connect(socket).map_err(failed("reach"))?;
        let wait = stream.set_read_timeout(Some(POLL)).and_then(|()| stream.set_write_timeout(Some(POLL)));
        wait.map_err(failed("reach"))?;
        let mut connection = Connection { stream, cancel };
        let head = "POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: wharf\r\n\
                    Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        connection.write_all(head.as_bytes()).map_err(failed("write to"))?;
        let mut body =
            BufWriter::with_capacity(CHUNK_BYTES, Chunked { connection: &mut connection, failed: false });
        let produced = produce(&mut body);
        let flushed = body.flush();
        let connection_failed = body.get_ref().failed;
        // What is still in the buffer has nowhere to go after a failure.
        let _ = body.into_parts();
        if cancel.is_cancelled() {
            return Err(LoadError::Cancelled);
        }
        let written = match (produced, flushed) {
            // The image's own fault: Docker sees an archive that ends early, and takes nothing.
            (Err(error), _) if !connection_failed => return Err(error.into()),
            (Ok(()), Ok(())) => connection.write_all(b"0\r\n\r\n"),
            (_, Err(error)) => Err(error),
            (Err(_), Ok(())) => Err(ErrorKind::BrokenPipe.into()),
        };
        let answer = connection.answer();
        if cancel.is_cancelled() {
            return Err(LoadError::Cancelled);
        }
        match (answer, written) {
            // Who does not want the rest says why.
            (Ok(answer), written) if written.is_ok() || !answer.is_empty() => {
                let message = Answer::parse(&answer).and_then(|answer| answer.verdict());
                message.map_err(|message| LoadError::Refused {
                    engine: self.clone(),
                    message: shortened(&message),
                })
            }
            (_, Err(error)) => Err(self.io_error("write to", error)),
            (Ok(_), Ok(())) => Err(self.io_error("read the answer of", ErrorKind::UnexpectedEof.into())),
            (Err(error), Ok(())) => Err(self.io_error("read the answer of", error)),
        }
    }

    fn pipe(
        &self,
        socket: &Path,
        program: &Path,
        produce: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), LoadError> {
        let failed = |operation| move |source| self.io_error(operation, source);
        let mut command = Command::new(program);
        command.arg("--address").arg(socket);
        match program.file_name().and_then(|name| name.to_str()) {
            Some("ctr") => command.args(["images", "import", "-"]),
            _ => command.arg("load"),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed("start"))?;
        let mut said = child.stderr.take();
        let listener = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(said) = &mut said {
                // The first words are the reason; the rest is only taken so that nobody waits.
                let _ = said.by_ref().take(ANSWER_BYTES_MAX as u64).read_to_end(&mut text);
                let _ = io::copy(said, &mut io::sink());
            }
            text
        });
        let produced = match child.stdin.take() {
            Some(input) => {
                let mut input = BufWriter::with_capacity(CHUNK_BYTES, input);
                produce(&mut input)
                    .and_then(|()| input.flush().map_err(ExportError::io("write to", program.display())))
            }
            None => Ok(()),
        };
        let status = child.wait().map_err(failed("wait for"))?;
        let said = listener.join().unwrap_or_default();
        match (status.success(), produced) {
            (true, produced) => Ok(produced?),
            // Not the one that ended first.
            (false, Err(error)) if status.code().is_none() => Err(error.into()),
            (false, _) => {
                let message = shortened(&String::from_utf8_lossy(&said));
                let message = if message.is_empty() { status.to_string() } else { message };
                Err(LoadError::Refused { engine: self.clone(), message })
            }
        }
    }

    fn io_error(&self, operation: &'static str, source: io::Error) -> LoadError {
        LoadError::Io { operation, engine: self.clone(), source }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| there.file_type().is_socket())
}

fn shortened(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let printable = line.chars().filter(|c| !c.is_control());
    printable.take(MESSAGE_CHARS_MAX).collect()
}

/// A socket whose peer may take its time, until the build is interrupted.
struct Connection<'a> {
    stream: UnixStream,
    cancel: &'a Cancel,
}

impl Connection<'_> {
    /// Does `operation` until it is more than waiting.
    fn patiently<T>(&mut self, mut operation: impl FnMut(&mut UnixStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match operation(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.cancel.is_cancelled() => {
                    return Err(io::Error::other("interrupted"));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                done => return done,
            }
        }
    }

    /// All that is said before the connection ends.
    fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            let count = match self.patiently(|stream| stream.read(&mut buffer)) {
                // Closed while we still had something to say.
                Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => 0,
                count => count?,
            };
            answer.extend(&buffer[..count]);
            if count == 0 || answer.len() > ANSWER_BYTES_MAX {
                return Ok(answer);
            }
        }
    }
}

impl Write for Connection<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body of unknown size (RFC 9112, "Chunked Transfer Coding").
struct Chunked<'a, 'c> {
    connection: &'a mut Connection<'c>,
    failed: bool,
}

impl Write for Chunked<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut chunk = || {
            self.connection.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
            self.connection.write_all(bytes)?;
            self.connection.write_all(b"\r\n")
        };
        let written = chunk();
        self.failed |= written.is_err();
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What Docker answers.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// A line of what it says on the way, and what it says when it refuses at once.
#[derive(Deserialize)]
struct Line {
    error: Option<String>,
    message: Option<String>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let strange = || "its answer is no HTTP".to_owned();
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").ok_or_else(strange)?;
        let head = str::from_utf8(&bytes[..end]).map_err(|_| strange())?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok()).ok_or_else(strange)?;
        let is_chunked = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
            name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
        });
        let body = &bytes[end + 4..];
        let body = if is_chunked { unchunked(body) } else { body.to_vec() };
        Ok(Self { status, body })
    }

    /// Whether all went well; if not, why.
    fn verdict(&self) -> Result<(), String> {
        let lines = serde_json::Deserializer::from_slice(&self.body).into_iter::<Line>();
        let said = lines.map_while(Result::ok).find_map(|line| line.error.or(line.message));
        match said {
            Some(message) => Err(message),
            None if (200..300).contains(&self.status) => Ok(()),
            None => Err(format!("status {}", self.status)),
        }
    }
}

/// The content of chunks, as far as it came.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = bytes.windows(2).position(|it| it == b"\r\n") {
        let size = str::from_utf8(&bytes[..end]).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let Some(size) = size.filter(|size| *size > 0) else { break };
        bytes = &bytes[end + 2..];
        content.extend(&bytes[..size.min(bytes.len())]);
        bytes = bytes.get(size.saturating_add(2)..).unwrap_or_default();
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_what_went_wrong() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n{\"stream\":\"Loaded image: a:1\\n\"}\r\n", Ok(())),
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"str\r\n9\r\neam\":\"x\"}\r\n0\r\n\r\n",
                Ok(()),
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\n{\"stream\":\"x\"}{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no space\"}",
                Err("no space"),
            ),
            ("HTTP/1.1 500 Oops\r\n\r\n{\"message\":\"broken\"}", Err("broken")),
            ("HTTP/1.0 503 Oops\r\n\r\n<html>", Err("status 503")),
            ("SSH-2.0\r\n\r\n", Err("its answer is no HTTP")),
            ("", Err("its answer is no HTTP")),
        ] {
            let verdict = Answer::parse(answer.as_bytes()).and_then(|answer| answer.verdict());
            assert_eq!(verdict, expected.map_err(str::to_owned), "{answer}");
        }
    }

    #[test]
    fn an_engine_is_where_the_environment_says() {
        let find = |variables: &[(&str, &str)]| {
            let find = |name: &str| {
                variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
            };
            Engine::find(&find).map_err(|error| error.to_string())
        };
        assert_eq!(find(&[("DOCKER_HOST", "unix:///x/d.sock")]), Ok(Engine::Docker("/x/d.sock".into())));
        assert_eq!(
            find(&[("DOCKER_HOST", "tcp://h:1")]).unwrap_err(),
            "DOCKER_HOST is `tcp://h:1`: `--load` reaches Docker through a socket on this machine (unix://PATH) only"
        );
    }
}
