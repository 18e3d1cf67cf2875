//! Sources: where files from outside the graph come from.
