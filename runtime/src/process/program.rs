//! A program of the host that works for this process and ends with it.
//!
//! It is the only child of a process that is cloned as a container's is: PID 1 of a namespace, so that whatever the
//! program starts, and whoever it becomes, ends when this process does.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::child::{Command, Container, Init as Child, Rest};
use super::prepare::{self, Descriptors, Prepared};
use super::running::{Launch, Running};
use super::step::Step;
use super::streams::{self, Streams, Terminals};
use super::{PipeFlags, pipe};
use crate::rootfs::MountPoints;
use crate::spec::plan::path_string;
use crate::sys::StringArray;
use crate::{Cancel, ExitStatus, RuntimeError, Stdio, Stream};

/// A program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its path, and its arguments.
    pub(crate) arguments: Vec<CString>,
    /// A file that is mounted over another one for it.
    pub(crate) bind: (OwnedFd, PathBuf),
}

/// Runs it until it ends or `cancel` ends it. `output` takes what it says.
pub(crate) fn run(
    program: Program,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<ExitStatus, RuntimeError> {
    let stdio = Stdio::Captured(output);
    let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (ends, streams) = streams::connect(stdio, Terminals::None)?;
    let (prepared, command) = prepare(program, streams, report_end)?;
    let (cancel, points) = (cancel.clone(), MountPoints::default());
    let (supervisor, group, orphans) = (None, None, None);
    Running::start(Launch { prepared, report, ends, command, cancel, points, supervisor, group, orphans })?
        .wait()
}

fn prepare(program: Program, streams: Streams, report: OwnedFd) -> Result<(Prepared, String), RuntimeError> {
    let mut descriptors = Descriptors::default();
    let report = descriptors.keep(report)?;
    let caller = descriptors.keep(prepare::own_pidfd()?)?;
    let (file, place) = program.bind;
    let file = descriptors.keep(file)?;
    let bind = Step::Mount {
        filesystem: CString::default(),
        source: path_string(format!("/proc/self/fd/{file}").as_ref())?,
        target: path_string(&place)?,
        flags: libc::MS_BIND,
        data: CString::default(),
    };
    let mut launch = Vec::new();
    if let Streams::Given(streams) = streams {
        for (to, stream) in (0..).zip(streams) {
            launch.push(Step::Stream { from: descriptors.keep(stream)?, to });
        }
    }
    launch.extend([Step::UnblockSignals, Step::CloseOnExec]);
    let path = program.arguments.first().cloned().unwrap_or_default();
    let init = Child {
        report,
        caller,
        first: caller,
        foreign: descriptors.gaps(),
        caller_arguments: prepare::own_arguments(),
        new_session: true,
        trees: Vec::new(),
        setup: vec![Step::PrivateMounts, bind],
        rest: Rest::Namespace,
    };
    let environment = vec![CString::from(c"LC_ALL=C")];
    let command = Command {
        report,
        launch,
        candidates: vec![path.clone()],
        arguments: StringArray::new(program.arguments),
        environment: StringArray::new(environment),
    };
    let container = Container { init, command, stack: prepare::command_stack() };
    let namespaces = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    let prepared = Prepared { container, namespaces, pid_namespace: None, group: None, descriptors };
    Ok((prepared, path.to_string_lossy().into_owned()))
}
