//! Does steps: each as soon as those before it are done, many at once.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;

use super::plan::{Action, Steps};
use crate::error::{Failure, Kind};

/// How steps are done.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many at once; waiting does not count.
    pub at_once: usize,
    /// Whether the others are done when one has failed: what takes things away goes on.
    pub goes_on: bool,
}

/// Steps at once, unless `--parallel` says.
pub const AT_ONCE: usize = 32;

/// Does all of them. Of several failures the first is returned, and the others are told.
pub fn run(
    steps: &Steps,
    pace: Pace,
    perform: &(dyn Fn(&Action) -> Result<(), Failure> + Sync),
) -> Result<(), Failure> {
    let mut waits: Vec<usize> = steps.0.iter().map(|step| step.after.len()).collect();
    let mut ready: VecDeque<usize> = (0..waits.len()).filter(|place| waits[*place] == 0).collect();
    let mut failures: Vec<Failure> = Vec::new();
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        let (mut running, mut waiting) = (0, 0);
        loop {
            let mut held = VecDeque::new();
            while let Some(place) = ready.pop_front() {
                if !failures.is_empty() && !pace.goes_on {
                    break;
                }
                let action = &steps.0[place].action;
                let is_waiting = matches!(action, Action::Await { .. });
                if !is_waiting && running >= pace.at_once.max(1) {
                    held.push_back(place);
                    continue;
                }
                let done = done.clone();
                let begun =
                    thread::Builder::new().name("compose".to_owned()).spawn_scoped(scope, move || {
                        // The receiver lives as long as this scope.
                        let _ = done.send((place, perform(action)));
                    });
                match begun {
                    Ok(_) if is_waiting => waiting += 1,
                    Ok(_) => running += 1,
                    Err(error) => {
                        failures.push(Failure::from_error(
                            Kind::Environment,
                            "cannot start a thread",
                            &error,
                        ));
                    }
                }
            }
            ready = held;
            if running + waiting == 0 {
                return;
            }
            let Ok((place, result)) = ended.recv() else { return };
            match steps.0[place].action {
                Action::Await { .. } => waiting -= 1,
                _ => running -= 1,
            }
            let is_done = result.is_ok() || pace.goes_on;
            failures.extend(result.err());
            for (follower, step) in steps.0.iter().enumerate() {
                if is_done && step.after.contains(&place) {
                    waits[follower] -= 1;
                    if waits[follower] == 0 {
                        ready.push_back(follower);
                    }
                }
            }
        }
    });
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    failures.filter(|it| it.kind != Kind::Cancelled).for_each(|it| crate::progress::print_error(&it));
    Err(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::plan::{Action, Step, Steps};
    use super::*;

    fn steps(after: &[&[usize]]) -> Steps {
        let step = |(place, after): (usize, &&[usize])| Step {
            action: Action::RemoveVolume { name: place.to_string() },
            after: after.to_vec(),
        };
        Steps(after.iter().enumerate().map(step).collect())
    }

    fn order(steps: &Steps, pace: Pace, fails: &str) -> (Vec<String>, bool) {
        let done = Mutex::new(Vec::new());
        let ended = run(steps, pace, &|action| {
            let Action::RemoveVolume { name } = action else { unreachable!() };
            done.lock().unwrap().push(name.clone());
            if name == fails { Err(Failure::new(Kind::Usage, "no")) } else { Ok(()) }
        });
        (done.into_inner().unwrap(), ended.is_ok())
    }

    #[test]
    fn each_comes_after_those_before_it() {
        let diamond = steps(&[&[], &[0], &[0], &[1, 2]]);
        for at_once in [0, 1, 4] {
            let (done, ok) = order(&diamond, Pace { at_once, goes_on: false }, "");
            assert!(ok && done.len() == 4 && done[0] == "0" && done[3] == "3", "{done:?}");
        }
    }

    #[test]
    fn after_a_failure_nothing_begins_unless_it_goes_on() {
        let chain = steps(&[&[], &[0], &[1]]);
        assert_eq!(
            order(&chain, Pace { at_once: 1, goes_on: false }, "1"),
            (vec!["0".into(), "1".into()], false)
        );
        let (done, ok) = order(&chain, Pace { at_once: 1, goes_on: true }, "1");
        assert!(!ok && done.len() == 3);
    }
}
