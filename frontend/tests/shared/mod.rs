//! Where tests find what is not part of the project.

use std::path::{Path, PathBuf};

/// Other people's Dockerfiles with what BuildKit made of them: `$WHARF_SHARED/corpus`, or `shared/corpus` beside the
/// workspace. Says so where there are none.
pub(crate) fn corpus() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("WHARF_SHARED").map(PathBuf::from);
    let beside = ["../../shared", "../../../shared"].map(|path| manifest.join(path));
    let found =
        named.into_iter().chain(beside).map(|shared| shared.join("corpus")).find(|path| path.is_dir());
    if found.is_none() {
        println!("SKIP: no corpus of Dockerfiles beside the workspace");
    }
    found
}
