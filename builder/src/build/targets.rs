//! What one build makes: the Dockerfile's target on each platform, in one graph, where what does not depend on the
//! platform is one vertex.

use std::collections::HashSet;
use std::ops::Deref;

use wharf_frontend::dockerfile2llb::Converted;
use wharf_solver::llb::{Definition, Edge, Platform, VertexDigest};

/// The target on one platform.
#[derive(Debug)]
pub(super) struct Target {
    /// What the image is for.
    pub(super) platform: Platform,
    /// The graph, and the image's config.
    pub(super) converted: Converted,
}

impl Deref for Target {
    type Target = Converted;

    fn deref(&self) -> &Converted {
        &self.converted
    }
}

/// The target on every platform, in the order in which these were asked for; one at least.
#[derive(Debug)]
pub(super) struct Targets {
    targets: Vec<Target>,
    /// All that is to be done, where there are several.
    merged: Option<Definition>,
}

impl Targets {
    /// `targets` must not be empty.
    pub(super) fn new(targets: Vec<Target>) -> Self {
        assert!(!targets.is_empty(), "a build has a target");
        let merged = (targets.len() > 1).then(|| {
            let mut merged = Definition::default();
            targets.iter().for_each(|target| merged.extend(&target.converted.definition));
            merged
        });
        Self { targets, merged }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter()
    }

    /// All that is to be done.
    pub(super) fn definition(&self) -> &Definition {
        self.merged.as_ref().unwrap_or(&self.targets[0].converted.definition)
    }

    /// The results that are wanted. A target that is an empty file system has none.
    pub(super) fn heads(&self) -> Vec<Edge> {
        self.iter().filter_map(|target| target.head).collect()
    }

    /// The vertices that each add a layer to an image.
    pub(super) fn layers(&self) -> HashSet<VertexDigest> {
        self.iter().flat_map(|target| &target.layers).map(|edge| edge.vertex).collect()
    }

    /// The images that the images stand on.
    pub(super) fn bases(&self) -> HashSet<VertexDigest> {
        self.iter().filter_map(|target| target.base.map(|edge| edge.vertex)).collect()
    }

    /// The target that a vertex was first made for.
    pub(super) fn of(&self, vertex: &VertexDigest) -> &Target {
        let has_it = |target: &&Target| target.definition.iter().any(|(digest, _)| digest == vertex);
        self.iter().find(has_it).unwrap_or(&self.targets[0])
    }

    /// `SOURCE_DATE_EPOCH`, which does not depend on the platform, in seconds.
    pub(super) fn source_date_epoch(&self) -> Option<u64> {
        self.targets[0].source_date_epoch
    }
}
