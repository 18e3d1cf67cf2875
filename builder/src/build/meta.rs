//! Answers the frontend's questions about base images.

use wharf_frontend::dockerfile2llb::{ImageMetaResolver, ResolvedImage, TimeOf};
use wharf_solver::llb::Platform;

use crate::error::causes;
use crate::progress::Progress;
use crate::registry::Reference;
use crate::source::ImageSources;

/// Looks base images up: in the store, else where they come from.
pub(super) struct Resolver<'a> {
    images: &'a ImageSources,
    pull: bool,
    progress: &'a Progress,
    failed: bool,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(images: &'a ImageSources, pull: bool, progress: &'a Progress) -> Self {
        Self { images, pull, progress, failed: false }
    }

    /// Whether some image could not be resolved.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }
}

impl ImageMetaResolver for Resolver<'_> {
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String> {
        let name = format!("[internal] load metadata for {}", display_name(reference));
        let resolved = self.progress.internal(&name, || {
            self.images.resolve(reference, platform, self.pull).map_err(|error| {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{}{hint}", causes(&error))
            })
        });
        self.failed |= resolved.is_err();
        let resolved = resolved?;
        Ok(ResolvedImage { identifier: resolved.identifier, config: resolved.config })
    }

    fn time(&mut self, of: &TimeOf) -> Result<Option<u64>, String> {
        match of {
            // Contexts are directories of this machine; the times of their files say when they were checked out.
            TimeOf::Context(_) => Ok(None),
            TimeOf::Source(source) => {
                self.failed = true;
                Err(format!("sources of kind {} are not supported yet", source.scheme()))
            }
        }
    }
}

/// A reference as it is shown: images by their full name.
fn display_name(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |reference| reference.to_string())
}
