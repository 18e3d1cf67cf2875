//! `deploy`: how many, with what, and what clusters want to know.

use std::collections::BTreeMap;

use super::{Bytes, Duration, model};

model! {
    /// `deploy`.
    Deploy {
        /// `replicated`, or one on each machine.
        mode: Option<String>,
        /// Of a cluster.
        endpoint_mode: Option<String>,
        /// How many containers.
        replicas: Option<u64>,
        /// Labels of the service, not of its containers.
        labels: BTreeMap<String, String>,
        /// Of a cluster.
        rollback_config: Option<UpdateConfig>,
        /// Of a cluster.
        update_config: Option<UpdateConfig>,
        /// What its containers may use.
        resources: Option<Resources>,
        /// When they are started again.
        restart_policy: Option<RestartPolicy>,
        /// Of a cluster.
        placement: Option<Placement>,
    }

    /// How a cluster replaces containers.
    UpdateConfig {
        /// How many at once.
        parallelism: Option<u64>,
        /// Between them.
        delay: Option<Duration>,
        /// When one fails.
        failure_action: Option<String>,
        /// How long each is watched.
        monitor: Option<Duration>,
        /// How many may fail.
        max_failure_ratio: Option<f64>,
        /// Which comes first.
        order: Option<String>,
    }

    /// What containers may use and get.
    Resources {
        /// What they may use.
        limits: Option<Limits>,
        /// What they get.
        reservations: Option<Reservations>,
    }

    /// What a container may use.
    Limits {
        /// Processors.
        cpus: Option<f64>,
        /// Memory.
        memory: Option<Bytes>,
        /// Processes; -1 is any number.
        pids: Option<i64>,
    }

    /// What a container gets.
    Reservations {
        /// Processors.
        cpus: Option<f64>,
        /// Memory.
        memory: Option<Bytes>,
        /// What a cluster counts.
        generic_resources: Vec<GenericResource>,
        /// Devices.
        devices: Vec<DeviceRequest>,
    }

    /// What a cluster counts.
    GenericResource {
        /// One kind of it.
        discrete_resource_spec: Option<DiscreteResource>,
    }

    /// So many of a kind.
    DiscreteResource {
        /// The kind.
        kind: Option<String>,
        /// How many.
        value: Option<i64>,
    }

    /// Devices by what they can do.
    DeviceRequest {
        /// What they must do.
        capabilities: Vec<String>,
        /// How many; -1 is all.
        count: Option<i64>,
        /// Which.
        device_ids: Vec<String>,
        /// Whose.
        driver: Option<String>,
        /// What the driver is told.
        options: BTreeMap<String, String>,
    }

    /// When a container is started again.
    RestartPolicy {
        /// `none`, `on-failure` or `any`.
        condition: Option<String>,
        /// Between attempts.
        delay: Option<Duration>,
        /// How often.
        max_attempts: Option<u64>,
        /// How long until it counts as started.
        window: Option<Duration>,
    }

    /// On which machines.
    Placement {
        /// What they must be.
        constraints: Vec<String>,
        /// What they should be.
        preferences: Vec<Preference>,
        /// How many on each.
        max_replicas_per_node: Option<u64>,
    }

    /// What machines should be.
    Preference {
        /// By which label containers are spread.
        spread: Option<String>,
    }
}
