//! Answers the frontend's questions about base images, and about the times of sources.

use std::collections::BTreeMap;

use wharf_frontend::dockerfile2llb::{ImageMetaResolver, ResolvedImage, TimeOf};
use wharf_solver::llb::{Platform, SourceOp};

use super::{BuildRequest, MAIN_CONTEXT};
use crate::context::open::Opener;
use crate::context::spec::ContextSpec;
use crate::error::causes;
use crate::registry::Reference;
use crate::source::git::{GitSource, last_commit_time};
use crate::source::http::UrlFile;
use crate::source::{SourceError, Sources};

/// Looks base images and times up: in the store, else where they come from.
pub(super) struct Resolver<'a> {
    opener: Opener<'a>,
    main: &'a ContextSpec,
    contexts: &'a BTreeMap<String, ContextSpec>,
    main_time_s: Option<i64>,
    failed: bool,
}

impl<'a> Resolver<'a> {
    /// For `request`; `main_time_s` is the time that the main context stands for.
    pub(super) fn new(opener: Opener<'a>, request: &'a BuildRequest, main_time_s: Option<i64>) -> Self {
        Self { opener, main: &request.context, contexts: &request.contexts, main_time_s, failed: false }
    }

    /// Whether some image or source could not be reached.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    fn context_time(&self, name: &str) -> Result<Option<i64>, String> {
        match self.contexts.get(name) {
            None if name == MAIN_CONTEXT => Ok(self.main_time_s),
            Some(spec @ (ContextSpec::Http(_) | ContextSpec::Git(_) | ContextSpec::Stdin)) => {
                let opened = self.opener.named(name, spec).map_err(|failure| failure.message)?;
                Ok(opened.modified_s)
            }
            // The times of a directory say when its files were checked out; images have their own in their config.
            Some(ContextSpec::Path(_) | ContextSpec::Image(_) | ContextSpec::Stage(_)) | None => Ok(None),
        }
    }

    /// When the last commit was made of the repository that the main context is in.
    fn commit_time(&self) -> Result<Option<i64>, String> {
        match (self.main, self.main_time_s) {
            (ContextSpec::Git(_), Some(time_s)) => Ok(Some(time_s)),
            (ContextSpec::Path(path), _) if path.is_dir() => {
                last_commit_time(path, self.opener.cancel).map(Some).map_err(|error| causes(&error))
            }
            _ => Err("the context is neither a repository nor a directory of one".to_owned()),
        }
    }
}

impl ImageMetaResolver for Resolver<'_> {
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String> {
        let name = format!("[internal] load metadata for {}", display_name(reference));
        let Opener { sources, pull, progress, .. } = self.opener;
        let images = &sources.get().map_err(|failure| failure.message)?.images;
        let resolved = progress.internal(&name, || {
            images.resolve(reference, platform, pull).map_err(|error| {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{}{hint}", causes(&error))
            })
        });
        self.failed |= resolved.is_err();
        let resolved = resolved?;
        Ok(ResolvedImage { identifier: resolved.identifier, config: resolved.config })
    }

    fn time(&mut self, of: &TimeOf) -> Result<Option<u64>, String> {
        let time_s = match of {
            TimeOf::Context(name) => self.context_time(name),
            TimeOf::Repository => self.commit_time(),
            TimeOf::Source(source) => {
                let sources = self.opener.sources.get().map_err(|failure| failure.message);
                sources.and_then(|sources| source_time(sources, source).map_err(|error| causes(&error)))
            }
        };
        self.failed |= time_s.is_err();
        // An image cannot say a time before 1970.
        Ok(time_s?.map(|seconds| u64::try_from(seconds).unwrap_or(0)))
    }
}

/// The time of a file behind a URL, or of a commit, in seconds since 1970.
fn source_time(sources: &Sources, source: &SourceOp) -> Result<Option<i64>, SourceError> {
    let Sources { http, repositories, .. } = sources;
    if source.scheme() != "git" {
        return Ok(http.modified_s(&UrlFile::of_source(source)?, &|_, _| {})?);
    }
    let pinned = repositories.resolve(&GitSource::from_op(source)?, &|_| {})?;
    let chain = repositories.checkout(&pinned, &|_| {})?;
    Ok(Some(repositories.commit_time(&chain)?))
}

/// A reference as it is shown: images by their full name.
fn display_name(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |reference| reference.to_string())
}
