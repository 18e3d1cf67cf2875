//! Starting the monitor of a container.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;

use super::connect::Connection;
use super::directory::Directory;
use super::engine::{Engine, hung_up, refused, unanswered};
use super::protocol::{Answer, Request, Streams};
use super::streams::Stream;
use crate::error::{Failure, Kind};
use crate::progress::print_warning;

/// The command of this program that is a monitor.
pub const MONITOR: &str = "monitor";

impl Engine {
    /// Starts the monitor of a container that nobody watches over, and the container through it.
    pub(super) fn launch(
        &self,
        directory: &Directory,
        streams: Option<Streams>,
    ) -> Result<Option<Stream>, Failure> {
        let id = directory.id();
        let doing = format!("cannot start a monitor for the container {}", id.short());
        let failed = |error: std::io::Error| Failure::from_error(Kind::Environment, &doing, &error);
        let (ours, its) = UnixStream::pair().map_err(failed)?;
        // What runs, even if there is another file of its name by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wharf").args(&self.monitor_arguments).arg(MONITOR).arg(&id.0);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = wharf_runtime::spawn_apart(&mut command, &[its.as_fd()]).map_err(failed)?;
        drop(its);
        // Nobody else waits for it as long as this process lives.
        let waiting = thread::Builder::new().name("monitor".to_owned()).spawn(move || {
            // Its status says nothing that it has not said before.
            let _ = child.wait();
        });
        let waiting = waiting.map_err(failed)?;
        let connection = Connection::from(ours);
        let mut answer =
            connection.request(&Request::Start { streams }).and_then(|()| connection.receive_answer());
        if let Ok(Some((Answer::Warnings(warnings), _))) = &answer {
            warnings.iter().for_each(|warning| print_warning(warning));
            answer = connection.receive_answer();
        }
        match answer {
            Ok(Some((Answer::Started, _))) if streams.is_some() => {
                Ok(Some(Stream::of_first(connection, directory, Some(waiting))))
            }
            Ok(Some((Answer::Started, _))) => Ok(None),
            Ok(Some((answer, _))) => {
                // Whoever tries again, or removes it, finds it at rest.
                let _ = waiting.join();
                Err(refused("start", id, answer))
            }
            Ok(None) => Err(hung_up("start", id)),
            Err(error) => Err(unanswered("start", id, &error)),
        }
    }
}
