//! How an image is built.

use std::collections::BTreeMap;

use super::{Bytes, ExtraHost, FileUse, model};

model! {
    /// `build`.
    Build {
        /// A directory, absolute, or the address of one.
        context: Option<String>,
        /// From the context.
        dockerfile: Option<String>,
        /// Its text, in place of a file.
        dockerfile_inline: Option<String>,
        /// What the build may do more than others.
        entitlements: Vec<String>,
        /// Build arguments; one without a value has none in the environment either.
        args: BTreeMap<String, Option<String>>,
        /// Agents and keys by id; one without a value is the agent of the environment.
        ssh: BTreeMap<String, Option<String>>,
        /// Labels of the image.
        labels: BTreeMap<String, String>,
        /// Where the cache comes from.
        cache_from: Vec<String>,
        /// Where it goes.
        cache_to: Vec<String>,
        /// Nothing is taken from the cache.
        no_cache: bool,
        /// Further contexts by name; `service:NAME` is the image of another service.
        additional_contexts: BTreeMap<String, String>,
        /// The network of its steps.
        network: Option<String>,
        /// Whether and how it attests what it did.
        provenance: Option<String>,
        /// Whether and how it lists what is in the image.
        sbom: Option<String>,
        /// Base images are looked for anew.
        pull: bool,
        /// The stage that is built.
        target: Option<String>,
        /// Of `/dev/shm`.
        shm_size: Option<Bytes>,
        /// Lines of `/etc/hosts`.
        extra_hosts: Vec<ExtraHost>,
        /// On Windows.
        isolation: Option<String>,
        /// Its steps have all rights.
        privileged: bool,
        /// Which secrets it sees; `target` is their id.
        secrets: Vec<FileUse>,
        /// Further names of the image.
        tags: Vec<String>,
        /// Limits of its steps.
        ulimits: BTreeMap<String, Ulimit>,
        /// What it is built for.
        platforms: Vec<String>,
    }

    /// A resource limit of processes; -1 is none.
    Ulimit {
        /// What holds.
        soft: Option<i64>,
        /// How far a process may raise it.
        hard: Option<i64>,
    }
}
