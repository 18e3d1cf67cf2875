//! `start`, `stop`, `restart`: containers that are there.

use std::collections::BTreeMap;

use wharf_frontend::compose::model::Condition;

use super::{Action, Observed, Seen, Services, Steps};

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// They start, each after what it depends on.
    Start,
    /// They stop, each before what it depends on.
    Stop,
    /// They are started again, each after what it depends on; and after them who wants to be restarted with them.
    Restart {
        /// Whether these are.
        dependents: bool,
    },
}

/// Plans it for the services that are named; for all, if none is.
pub fn life(what: Life, services: &Services, named: &[String], observed: &Observed) -> Steps {
    let mut steps = Steps::default();
    let mut done: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let order = services.in_order();
    let order: Vec<&str> = match what {
        Life::Stop => order.into_iter().rev().collect(),
        Life::Start | Life::Restart { .. } => order,
    };
    let mut meant: Vec<String> = named.to_vec();
    for name in order {
        let is_named = named.is_empty() || meant.iter().any(|it| it == name);
        if !is_named {
            continue;
        }
        if matches!(what, Life::Restart { dependents: true }) {
            let restarted = services.dependents(name).filter(|(_, dependency)| dependency.restart);
            meant.extend(restarted.map(|(dependent, _)| dependent.to_owned()));
        }
        let own = observed.of_service(name);
        let action = |it: &Seen| {
            let (service, id, name) = (it.service.clone(), it.id.clone(), it.name.clone());
            match what {
                Life::Start if it.status.is_up() => None,
                Life::Start => Some(Action::Start { service, name }),
                Life::Stop => Some(Action::Stop { service, id, name }),
                Life::Restart { .. } => Some(Action::Restart { service, id, name }),
            }
        };
        let actions: Vec<Action> = own.into_iter().filter_map(action).collect();
        let mut before = Vec::new();
        match what {
            Life::Stop => {
                for (dependent, _) in services.dependents(name) {
                    before.extend(done.get(dependent).into_iter().flatten().copied());
                }
            }
            Life::Start | Life::Restart { .. } => {
                let dependencies = services.0.get(name).into_iter().flatten();
                for (target, dependency) in dependencies.filter(|_| !actions.is_empty()) {
                    let started = done.get(target.as_str()).cloned().unwrap_or_default();
                    let names: Vec<String> =
                        observed.of_service(target).iter().map(|it| it.name.clone()).collect();
                    let waits = what == Life::Start && dependency.condition != Condition::Started;
                    if waits && !names.is_empty() {
                        let (condition, required) = (dependency.condition, dependency.required);
                        let action = Action::Await { service: target.clone(), condition, names, required };
                        before.push(steps.add(action, started));
                    } else {
                        before.extend(started);
                    }
                }
            }
        }
        let own = actions.into_iter().map(|action| steps.add(action, before.iter().copied())).collect();
        done.insert(name, own);
    }
    steps
}
