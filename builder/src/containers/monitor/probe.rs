//! Looks after the health of a container that runs: a process in it, now and then.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use wharf_cache::to_nanos;
use wharf_runtime::{Cancel, ExecRequest, Stdio};

use super::exec::exit_code;
use super::output::{lock, now, pipe_from, pump};
use super::run::Alive;
use super::{Monitor, describe};
use crate::containers::config::HealthCheck;
use crate::containers::health::{Checks, OUTPUT_BYTES_MAX, output_text};
use crate::containers::state::Probe;
use crate::error::causes;

/// What a probe that took too long or could not be run is said to have ended with.
const NO_STATUS: i32 = -1;

impl Monitor<'_> {
    /// Looks after the health until `over` is triggered.
    pub(super) fn look_after(&self, alive: &Alive<'_>, check: &HealthCheck, begun: Instant, over: &Cancel) {
        let mut checks = Checks::new(check);
        while !over.wait(checks.pause(begun.elapsed())) {
            if alive.inside.members().is_paused() {
                continue;
            }
            let age = begun.elapsed();
            let probe = self.probe(alive, check, over);
            if over.is_cancelled() {
                return;
            }
            checks.note(age, probe);
            self.update(|state| state.health = Some(checks.health().clone()));
        }
    }

    fn probe(&self, alive: &Alive<'_>, check: &HealthCheck, over: &Cancel) -> Probe {
        let start = to_nanos(now());
        let (exit_code, output) = self.run_probe(alive, check, over).unwrap_or_else(|why| (NO_STATUS, why));
        Probe { start, end: to_nanos(now()), exit_code, output }
    }

    /// Its exit status, and what it printed; or why it could not be run.
    fn run_probe(
        &self,
        alive: &Alive<'_>,
        check: &HealthCheck,
        over: &Cancel,
    ) -> Result<(i32, String), String> {
        let own = self.config();
        let user = describe::user(self.root(), &own.process.user, &own.process.group_add)
            .map_err(|failure| failure.message)?;
        let env = describe::environment(&own.process, &own.process.env, &alive.hostname, &user, false);
        let process = describe::further(&alive.process, &user, env, check.test.clone(), None, false)
            .map_err(|error| causes(&error))?;
        let (output, its_output) = pipe_from().map_err(|error| error.to_string())?;
        let its_error = its_output.try_clone().map_err(|error| error.to_string())?;
        let stdio = Stdio::Given { stdin: None, stdout: Some(its_output), stderr: Some(its_error) };
        let cancel = Cancel::new().map_err(|error| causes(&error))?;
        let ended = Cancel::new().map_err(|error| causes(&error))?;
        let request =
            ExecRequest { process: &process, seccomp: alive.seccomp.as_ref(), stdio, cancel: &cancel };
        let mut running = alive.inside.exec(request).map_err(|error| causes(&error))?;
        let printed = Mutex::new(Vec::new());
        let status = thread::scope(|scope| {
            scope.spawn(|| {
                pump(&output, Some(&ended), &mut |chunk| {
                    let mut printed = lock(&printed);
                    // One more than is kept shows that there was more.
                    let room = (OUTPUT_BYTES_MAX + 1).saturating_sub(printed.len());
                    printed.extend_from_slice(&chunk[..chunk.len().min(room)]);
                });
            });
            scope.spawn(|| {
                if !ended.wait(check.timeout) {
                    cancel.cancel();
                }
            });
            let status = running.wait();
            ended.cancel();
            status
        });
        if cancel.is_cancelled() && !over.is_cancelled() {
            let limit = check.timeout.as_secs_f64();
            return Err(format!("Health check exceeded timeout ({limit}s)"));
        }
        let printed = printed.into_inner().unwrap_or_default();
        Ok((i32::from(exit_code(&status)), output_text(&printed)))
    }
}
