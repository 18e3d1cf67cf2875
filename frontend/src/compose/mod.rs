//! Compose text → project. Pure: files are read through [`Outside`], and the environment is an argument.
//!
//! ```text
//! files ─yaml─▶ tree ─interpolate─▶ ─canonical─▶ ─extends, include─▶ ─merge─▶ ─normalise─▶ ─check─▶ Project
//! ```
//! Every node of the tree knows where it was written, so that each [`Problem`] points into a file. Short forms become
//! long ones before anything is merged: merging knows one form of each key, and one table ([`schema`]) says what a key
//! may hold, what it becomes and how it is merged.

mod canonical;
mod check;
mod config;
mod discovery;
mod dotenv;
mod interpolate;
pub mod limits;
mod load;
mod merge;
pub mod model;
mod node;
mod normalise;
mod schema;
mod select;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod unsupported;
mod yaml;

pub use config::Written;
pub use discovery::{FILES, OVERRIDES, normalised_name, profiles};
pub use dotenv::{Format as EnvFileFormat, parse as parse_env_file};
pub use interpolate::Environment;
pub use load::{Invocation, Loaded, Outside, ReadError, open};
pub use model::Project;
pub use select::Selection;
pub use source::{Place, Problem, Source, SourceId, Sources};
pub use template::{Substituted, TemplateError, Unset, substitute};
pub use unsupported::{NOT_ACTED_ON, Unsupported};

/// The words of a command that is written as one string, split as a shell would and as nothing else of a shell.
pub fn words(line: &str) -> Result<Vec<String>, String> {
    canonical::words::split_words(line).map(|split| split.words)
}
