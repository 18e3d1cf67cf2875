//! Stages, build arguments and platform → graph and image config.

use std::collections::BTreeMap;
use std::ops::Range;

use wharf_solver::llb::{Definition, Edge, Platform};

use crate::Diagnostic;
use crate::image::ImageConfig;
use crate::instructions::Dockerfile;

/// What the conversion depends on besides the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`; empty: the last stage.
    pub target: String,
    /// Platform the image is for.
    pub platform: Platform,
    /// Platform the builder runs on.
    pub build_platform: Platform,
    /// Named contexts (`--build-context`): name (lower-cased) and what it is.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Patterns of the main context's ignore file.
    pub ignore: Vec<String>,
    /// Nothing is taken from the cache (`--no-cache`).
    pub no_cache: bool,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A local directory: source `local://NAME`.
    Local,
    /// An image or a layout: looked up by the resolver under this reference (`oci-layout://PATH[:TAG]` or an image
    /// reference).
    Image(String),
}

/// Asked for base images. Filled by `builder`.
pub trait ImageMetaResolver {
    /// Config of an image. `reference` is as written (`debian`, `oci-layout://…`); the answer says what source to use.
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String>;
}

/// A base image that was looked up.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Source identifier pinned by digest: `docker-image://docker.io/library/debian:12@sha256:…`.
    pub identifier: String,
    /// Raw image config (JSON).
    pub config: Vec<u8>,
}

/// What a Dockerfile becomes.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The graph.
    pub definition: Definition,
    /// The target's file system; `None` is scratch without any layer.
    pub head: Option<Edge>,
    /// The target's image config: history complete but for `created`, `rootfs` left to the exporter.
    pub config: ImageConfig,
    /// How many entries of `config.history` came with the base image (they are left as they are).
    pub base_history: usize,
    /// Vertices that each add one layer on top of the base image, lowest first: they match the new history entries
    /// that are not `empty_layer`.
    pub layers: Vec<Edge>,
    /// The base image's source edge, if there is one.
    pub base: Option<Edge>,
    /// Number of layers the base image has, from its config.
    pub base_layers: usize,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Why there is no graph: problems with places in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertError {
    /// All of them.
    pub diagnostics: Vec<Diagnostic>,
}

/// Converts. Only the stages that the target needs are converted, and only their images asked for.
pub fn convert(
    dockerfile: &Dockerfile,
    options: &Options,
    resolver: &mut dyn ImageMetaResolver,
) -> Result<Converted, ConvertError> {
    let _: Option<Range<usize>> = None;
    let _ = (dockerfile, options, resolver);
    todo!()
}
