//! How a container is seen to be well: when it is looked at next, and what follows from what was seen.

use std::time::Duration;

use super::config::HealthCheck;
use super::state::{Health, HealthStatus, Probe};

/// Probes that are remembered.
const PROBES_MAX: usize = 5;

/// Bytes of what a probe printed that are remembered.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// What is known of a container's health since it was started.
#[derive(Debug)]
pub struct Checks<'c> {
    check: &'c HealthCheck,
    health: Health,
}

impl<'c> Checks<'c> {
    /// Nothing is known yet.
    pub fn new(check: &'c HealthCheck) -> Self {
        let health = Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() };
        Self { check, health }
    }

    /// What is known.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How long to wait for the next probe, `age` after the container was started.
    pub fn pause(&self, age: Duration) -> Duration {
        if self.is_starting(age) { self.check.start_interval } else { self.check.interval }
    }

    /// Takes in a probe that began `age` after the container was started.
    pub fn note(&mut self, age: Duration, probe: Probe) {
        let is_starting = self.is_starting(age);
        if probe.exit_code == 0 {
            self.health.failing_streak = 0;
            self.health.status = HealthStatus::Healthy;
        } else if !is_starting {
            self.health.failing_streak = self.health.failing_streak.saturating_add(1);
            if self.health.failing_streak >= self.check.retries.max(1) {
                self.health.status = HealthStatus::Unhealthy;
            }
        }
        self.health.log.push(probe);
        let surplus = self.health.log.len().saturating_sub(PROBES_MAX);
        self.health.log.drain(..surplus);
    }

    /// Whether failures do not count yet: the first success ends that time.
    fn is_starting(&self, age: Duration) -> bool {
        self.health.status == HealthStatus::Starting && age < self.check.start_period
    }
}

/// The begin of what a probe printed, as text.
pub fn output_text(bytes: &[u8]) -> String {
    const MORE: &str = "...";
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= OUTPUT_BYTES_MAX {
        return text.into_owned();
    }
    let end = (0..=OUTPUT_BYTES_MAX - MORE.len()).rev().find(|&end| text.is_char_boundary(end));
    format!("{}{MORE}", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start_period: u64) -> HealthCheck {
        HealthCheck {
            test: vec!["true".to_owned()],
            is_line: false,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }

    fn probe(exit_code: i32) -> Probe {
        Probe { start: 0, end: 0, exit_code, output: String::new() }
    }

    #[test]
    fn what_follows_from_probes() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let run = |start_period, probes: &[(u64, i32)], expected: (HealthStatus, u32)| {
            let check = check(start_period);
            let mut checks = Checks::new(&check);
            for (age, exit_code) in probes {
                checks.note(Duration::from_secs(*age), probe(*exit_code));
            }
            let health = checks.health();
            assert_eq!((health.status, health.failing_streak), expected, "{start_period} {probes:?}");
            assert_eq!(health.log.len(), probes.len().min(PROBES_MAX));
        };
        run(0, &[], (Starting, 0));
        run(0, &[(1, 0)], (Healthy, 0));
        run(0, &[(1, 1), (2, 1)], (Starting, 2));
        run(0, &[(1, 1), (2, -1), (3, 1)], (Unhealthy, 3));
        run(0, &[(1, 1), (2, 1), (3, 0), (4, 1)], (Healthy, 1));
        run(0, &[(1, 1), (2, 1), (3, 1), (4, 0)], (Healthy, 0));
        // While it starts failures do not count; the first success ends that.
        run(10, &[(1, 1), (2, 1), (3, 1), (9, 1)], (Starting, 0));
        run(10, &[(1, 1), (11, 1), (12, 1), (13, 1)], (Unhealthy, 3));
        run(10, &[(1, 0), (2, 1), (3, 1), (4, 1)], (Unhealthy, 3));
        run(10, &[(1, 0), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)], (Unhealthy, 6));
    }

    #[test]
    fn the_interval_is_another_one_while_it_starts() {
        let check = check(10);
        let mut checks = Checks::new(&check);
        assert_eq!(checks.pause(Duration::ZERO).as_secs(), 5);
        assert_eq!(checks.pause(Duration::from_secs(10)).as_secs(), 30);
        checks.note(Duration::from_secs(1), probe(0));
        assert_eq!(checks.pause(Duration::from_secs(2)).as_secs(), 30);
    }

    #[test]
    fn output_is_bounded() {
        assert_eq!(output_text(b"a\xff"), "a\u{fffd}");
        assert_eq!(output_text(&[b'x'; OUTPUT_BYTES_MAX]).len(), OUTPUT_BYTES_MAX);
        let long = output_text("ä".repeat(OUTPUT_BYTES_MAX).as_bytes());
        assert!(long.len() <= OUTPUT_BYTES_MAX && long.ends_with("ä..."), "{}", long.len());
    }
}
