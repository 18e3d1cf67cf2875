//! Base images: each asked for once.

use std::collections::HashMap;
use std::rc::Rc;

use wharf_solver::llb::Platform;

use super::{ImageMetaResolver, platform};
use crate::image::ImageConfig;

/// An image whose config is known.
#[derive(Debug)]
pub(super) struct BaseImage {
    /// Source identifier, pinned.
    pub(super) identifier: String,
    /// Its config.
    pub(super) config: ImageConfig,
    /// Whether that is what it has: `false` if it could not be had and may be anything.
    pub(super) is_known: bool,
}

impl BaseImage {
    fn unknown(reference: &str) -> Self {
        let identifier = format!("docker-image://{reference}");
        Self { identifier, config: ImageConfig::default(), is_known: false }
    }

    /// What it was built for; what its config leaves out is taken from `expected`.
    pub(super) fn platform(&self, expected: &Platform) -> Platform {
        let config = &self.config;
        if config.os.is_empty() || config.architecture.is_empty() {
            return expected.clone();
        }
        let actual = platform::normalise(&Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os_version: config.os_version.clone(),
        });
        // The config often leaves out the variant that the index told apart.
        if (&actual.os, &actual.architecture) == (&expected.os, &expected.architecture) {
            return expected.clone();
        }
        actual
    }

    /// Its own name: the identifier without the scheme.
    pub(super) fn name(&self) -> &str {
        self.identifier.split_once("://").map_or(self.identifier.as_str(), |(_, name)| name)
    }
}

/// Images asked for so far.
pub(super) struct Images<'a> {
    resolver: &'a mut dyn ImageMetaResolver,
    known: HashMap<(String, Platform), Result<Rc<BaseImage>, String>>,
}

impl<'a> Images<'a> {
    /// Nothing asked for yet.
    pub(super) fn new(resolver: &'a mut dyn ImageMetaResolver) -> Self {
        Self { resolver, known: HashMap::new() }
    }

    /// The image for this platform.
    pub(super) fn get(&mut self, reference: &str, platform: &Platform) -> Result<Rc<BaseImage>, String> {
        let resolver = &mut *self.resolver;
        self.known
            .entry((reference.to_owned(), platform.clone()))
            .or_insert_with(|| {
                let image = match resolver.resolve(reference, platform) {
                    Err(_) if resolver.is_optional() => return Ok(Rc::new(BaseImage::unknown(reference))),
                    image => image?,
                };
                let config = ImageConfig::from_json(&image.config).map_err(|error| error.to_string())?;
                Ok(Rc::new(BaseImage { identifier: image.identifier, config, is_known: true }))
            })
            .clone()
    }
}
