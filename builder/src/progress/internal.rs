//! Steps that are no vertices of the graph: loading, exporting, pushing.

use std::fmt::Display;

use wharf_solver::llb::VertexDigest;
use wharf_solver::progress::{Event, Outcome, Sink};

use super::Progress;

impl Progress {
    /// Shows `work` as a step called `name`.
    pub fn internal<T, E: Display>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.internal_with(name, |_| work())
    }

    /// The same, with the digest that further events of the step carry.
    pub fn internal_with<T, E: Display>(
        &self,
        name: &str,
        work: impl FnOnce(VertexDigest) -> Result<T, E>,
    ) -> Result<T, E> {
        let vertex = VertexDigest(*blake3::hash(name.as_bytes()).as_bytes());
        self.send(Event::Started { vertex, name: name.to_owned() });
        let done = work(vertex);
        let outcome = match &done {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.send(Event::Completed { vertex, name: name.to_owned(), outcome });
        done
    }

    /// Says something at the end, once.
    pub fn warn(&self, message: String) {
        self.send(Event::Warning { message });
    }
}
