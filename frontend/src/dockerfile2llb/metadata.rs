//! Instructions that change the config only: CMD, ENTRYPOINT, SHELL, VOLUME, STOPSIGNAL, HEALTHCHECK, MAINTAINER.

use super::stage::{Stage, Step};
use super::{Converter, go_format, history};
use crate::Diagnostic;
use crate::image::{Empty, HealthConfig};
use crate::instructions::{CommandLine, Healthcheck};
use crate::parser::Token;

/// Signals of Linux with a name, without `SIG`; the real-time ones are counted from RTMIN and RTMAX.
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

const SIGNAL_MAX: u32 = 64;

impl Stage {
    /// What runs a shell-form command: `SHELL` or the platform's own.
    pub(super) fn with_shell(&self, command: &str) -> Vec<String> {
        let mut args = match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ if self.platform.os == "windows" => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
            _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        };
        args.push(command.to_owned());
        args
    }

    fn command_line(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Shell(token) => self.with_shell(&token.text),
            CommandLine::Exec(args) => args.clone(),
        }
    }

    /// CMD.
    pub(super) fn cmd(&mut self, command: &CommandLine) {
        let args = self.command_line(command);
        history::metadata(self, format!("CMD {}", go_format::quote_list(&args)));
        self.config.config.cmd = Some(args);
        self.config.config.args_escaped = true;
        self.is_cmd_set = true;
    }

    /// ENTRYPOINT: an inherited CMD belonged to another program.
    pub(super) fn entrypoint(&mut self, command: &CommandLine) {
        let args = self.command_line(command);
        history::metadata(self, format!("ENTRYPOINT {}", go_format::quote_list(&args)));
        self.config.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if !self.is_cmd_set {
            self.config.config.cmd = None;
        }
    }

    /// SHELL.
    pub(super) fn shell(&mut self, shell: &[String]) {
        history::metadata(self, format!("SHELL {}", go_format::list(shell)));
        self.config.config.shell = Some(shell.to_vec());
    }

    /// HEALTHCHECK.
    pub(super) fn healthcheck(&mut self, healthcheck: &Healthcheck) {
        let health = match healthcheck {
            Healthcheck::None => HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() },
            Healthcheck::Cmd {
                command,
                interval_ns,
                timeout_ns,
                start_period_ns,
                start_interval_ns,
                retries,
            } => {
                let test = match command {
                    CommandLine::Shell(token) => vec!["CMD-SHELL".to_owned(), token.text.clone()],
                    CommandLine::Exec(args) => {
                        std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect()
                    }
                };
                HealthConfig {
                    test,
                    interval: *interval_ns,
                    timeout: *timeout_ns,
                    start_period: *start_period_ns,
                    start_interval: *start_interval_ns,
                    retries: *retries,
                }
            }
        };
        history::metadata(self, format!("HEALTHCHECK {}", go_format::healthcheck(&health)));
        self.config.config.healthcheck = Some(health);
    }

    /// MAINTAINER.
    pub(super) fn maintainer(&mut self, name: &str) {
        history::metadata(self, format!("MAINTAINER {name}"));
        name.clone_into(&mut self.config.author);
    }

    /// ONBUILD: kept for the images built on this one; no history.
    pub(super) fn on_build(&mut self, trigger: &str) {
        self.config.config.on_build.get_or_insert_default().push(trigger.to_owned());
    }
}

impl Converter<'_> {
    /// VOLUME: changes the config only; neither makes the directory nor freezes what is in it.
    pub(super) fn volume(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        tokens: &[Token],
    ) -> Result<(), Diagnostic> {
        let mut paths = Vec::with_capacity(tokens.len());
        for token in tokens {
            let path = self.expand(stage, step, token)?;
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(Diagnostic::error(token.span.clone(), message));
            }
            paths.push(path);
        }
        history::metadata(stage, format!("VOLUME {}", go_format::list(&paths)));
        let volumes = stage.config.config.volumes.get_or_insert_default();
        volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        Ok(())
    }

    /// STOPSIGNAL.
    pub(super) fn stop_signal(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        token: &Token,
    ) -> Result<(), Diagnostic> {
        let signal = self.expand(stage, step, token)?;
        if !is_signal(&signal) {
            let names = SIGNALS.map(|name| format!("SIG{name}"));
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let error = Diagnostic::error(token.span.clone(), format!("invalid signal: {signal}"));
            return Err(error.with_suggestion(&signal, &names));
        }
        history::metadata(stage, format!("STOPSIGNAL {signal}"));
        stage.config.config.stop_signal = signal;
        Ok(())
    }
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=SIGNAL_MAX).contains(&number);
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |prefix: &str, max: u32| {
        let number = name.strip_prefix(prefix)?.parse::<u32>().ok()?;
        Some((1..=max).contains(&number))
    };
    SIGNALS.contains(&name) || offset("RTMIN+", 15) == Some(true) || offset("RTMAX-", 14) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_names_and_numbers() {
        for signal in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "SIGRTMIN"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in ["", "0", "65", "-1", "SIGFOO", "SIG", "SIGRTMIN+16", "RTMAX-0", "9x"] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
