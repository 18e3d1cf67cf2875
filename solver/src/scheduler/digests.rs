//! Content digests that were asked for: each selection of each output is digested once.

use std::collections::HashMap;

use wharf_cache::{ContentDigest, Key};

use super::graph::Index;

/// Number of a request.
pub(super) type Request = usize;

/// All requests and what is known of them.
#[derive(Default)]
pub(super) struct Digests {
    requests: Vec<Progress>,
    by_selection: HashMap<(Index, u32, Key), Request>,
}

enum Progress {
    /// A task is on its way for these vertices.
    Asked {
        waiting: Vec<Index>,
    },
    Known(ContentDigest),
}

/// What came of asking.
pub(super) enum Asked {
    /// It is known.
    Known,
    /// It was asked for before; the vertex is told when it is known.
    Pending,
    /// It is asked for the first time: start a task for this request.
    New(Request),
}

impl Digests {
    /// Asks on behalf of vertex `asking` for what the selection with the key `read` selects from an output of
    /// `producer`.
    pub(super) fn ask(&mut self, asking: Index, producer: Index, output: u32, read: Key) -> Asked {
        let selection = (producer, output, read);
        if let Some(&request) = self.by_selection.get(&selection) {
            return match &mut self.requests[request] {
                Progress::Known(_) => Asked::Known,
                Progress::Asked { waiting } => {
                    waiting.push(asking);
                    Asked::Pending
                }
            };
        }
        let request = self.requests.len();
        self.requests.push(Progress::Asked { waiting: vec![asking] });
        self.by_selection.insert(selection, request);
        Asked::New(request)
    }

    /// The digest of what the selection with the key `read` selects, if it is known.
    pub(super) fn known(&self, producer: Index, output: u32, read: Key) -> Option<ContentDigest> {
        match &self.requests[*self.by_selection.get(&(producer, output, read))?] {
            Progress::Known(digest) => Some(*digest),
            Progress::Asked { .. } => None,
        }
    }

    /// The vertex that asked first: the one to blame when the digest cannot be had.
    pub(super) fn first_asking(&self, request: Request) -> Option<Index> {
        match &self.requests[request] {
            Progress::Asked { waiting } => waiting.first().copied(),
            Progress::Known(_) => None,
        }
    }

    /// Takes a digest and returns the vertices that wait for it.
    pub(super) fn learn(&mut self, request: Request, digest: ContentDigest) -> Vec<Index> {
        match std::mem::replace(&mut self.requests[request], Progress::Known(digest)) {
            Progress::Asked { waiting } => waiting,
            Progress::Known(_) => unreachable!("request {request} is answered once"),
        }
    }
}
