//! Tasks that wait for a free job, first come, first served within what each resource allows.

use std::collections::VecDeque;

use super::worker::Task;

/// How many tasks of one kind may run at once, within the number of all (`Solve::jobs`). 0 sets no limit of its own, and so
/// does the default, for all three: it is for whoever has nothing to spare, tests for example.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Operations that run.
    pub steps: usize,
    /// Questions to registries and servers, and images that are brought in.
    pub transfers: usize,
    /// Content digests that a key is wanted of. (What a step that ran has read is digested as part of the step.)
    pub hashing: usize,
}

/// What a task uses most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Steps,
    Transfers,
    Hashing,
}

/// The waiting tasks and how many run.
pub(super) struct Queue {
    steps: Lane,
    transfers: Lane,
    hashing: Lane,
    /// Number of the next task.
    next: u64,
}

struct Lane {
    /// With numbers that say which came first.
    waiting: VecDeque<(u64, Task)>,
    running: usize,
    limit: usize,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        let lane = |limit| Lane {
            waiting: VecDeque::new(),
            running: 0,
            limit: if limit == 0 { usize::MAX } else { limit },
        };
        Self {
            steps: lane(limits.steps),
            transfers: lane(limits.transfers),
            hashing: lane(limits.hashing),
            next: 0,
        }
    }

    pub(super) fn push(&mut self, task: Task) {
        let number = self.next;
        self.next += 1;
        self.lane(task.resource()).waiting.push_back((number, task));
    }

    /// The first task whose resource is free. It counts as running until [`Self::ended`].
    pub(super) fn pop(&mut self) -> Option<Task> {
        let free = [&mut self.steps, &mut self.transfers, &mut self.hashing]
            .into_iter()
            .filter(|lane| lane.is_free());
        let lane = free.min_by_key(|lane| lane.waiting.front().map_or(u64::MAX, |(number, _)| *number))?;
        let (_, task) = lane.waiting.pop_front()?;
        lane.running += 1;
        Some(task)
    }

    /// A task of this resource has ended.
    pub(super) fn ended(&mut self, resource: Resource) {
        self.lane(resource).running -= 1;
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        [&self.steps, &self.transfers, &self.hashing].into_iter().map(|lane| lane.waiting.len()).sum()
    }

    pub(super) fn clear(&mut self) {
        for lane in [&mut self.steps, &mut self.transfers, &mut self.hashing] {
            lane.waiting.clear();
        }
    }

    fn lane(&mut self, resource: Resource) -> &mut Lane {
        match resource {
            Resource::Steps => &mut self.steps,
            Resource::Transfers => &mut self.transfers,
            Resource::Hashing => &mut self.hashing,
        }
    }
}

impl Lane {
    fn is_free(&self) -> bool {
        self.running < self.limit
    }
}
