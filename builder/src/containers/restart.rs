//! When a container that has ended is started again.

use std::time::Duration;

use super::config::RestartPolicy;

/// The first pause, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A container that ran so long has begun well: the next pause is the first one again.
const WELL: Duration = Duration::from_secs(10);

/// Whether a container is started again that has ended with `exit_code`, after it was so `restarts` times already.
pub fn starts_again(policy: RestartPolicy, exit_code: u8, restarts: u32, by_hand: bool) -> bool {
    match policy {
        _ if by_hand => false,
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { times } => exit_code != 0 && times.is_none_or(|times| restarts < times),
    }
}

/// The pauses before a container is started again: each twice as long as the one before.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_FIRST }
    }
}

impl Pauses {
    /// The pause after the container ran for `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= WELL {
            self.next = PAUSE_FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let twice = OnFailure { times: Some(2) };
        for (policy, exit_code, restarts, by_hand, expected) in [
            (No, 1, 0, false, false),
            (Always, 0, 1000, false, true),
            (Always, 137, 0, true, false),
            (UnlessStopped, 0, 0, false, true),
            (UnlessStopped, 0, 0, true, false),
            (OnFailure { times: None }, 1, 1000, false, true),
            (OnFailure { times: None }, 0, 0, false, false),
            (twice, 1, 0, false, true),
            (twice, 1, 1, false, true),
            (twice, 1, 2, false, false),
            (twice, 1, 0, true, false),
            (OnFailure { times: Some(0) }, 1, 0, false, false),
        ] {
            let found = starts_again(policy, exit_code, restarts, by_hand);
            assert_eq!(found, expected, "{policy:?} {exit_code} {restarts} {by_hand}");
        }
    }

    #[test]
    fn pauses_double_until_it_runs_well() {
        let (mut pauses, short) = (Pauses::default(), Duration::from_secs(1));
        let found: Vec<u128> = (0..12).map(|_| pauses.after(short).as_millis()).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000];
        assert_eq!(found, expected);
        assert_eq!(pauses.after(WELL).as_millis(), 100);
        assert_eq!(pauses.after(short).as_millis(), 200);
    }
}
