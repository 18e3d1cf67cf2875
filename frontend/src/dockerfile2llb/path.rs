//! Paths of images: always absolute, `/`-separated, cleaned by their text alone as Go's `path.Clean` does.

/// Cleans a path against the root: `.` and empty components go, `..` never leaves the root, no trailing slash.
pub(super) fn clean(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

/// `path` as seen from the directory `dir`, cleaned.
pub(super) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{dir}/{path}")) }
}

/// A destination of COPY: [`join`], where a path that means a directory (`.`, empty, ending in `/` or `/.`) ends in `/`.
pub(super) fn destination(dir: &str, path: &str) -> String {
    let mut joined = join(dir, path);
    let is_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    if is_directory && !joined.ends_with('/') {
        joined.push('/');
    }
    joined
}

/// The last component; empty for the root.
pub(super) fn base_name(path: &str) -> String {
    let cleaned = clean(path);
    cleaned.rsplit_once('/').map_or(String::new(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_against_the_root() {
        for (path, cleaned) in [
            ("", "/"),
            ("/", "/"),
            ("a/../../b", "/b"),
            ("//a//b/", "/a/b"),
            ("./a/.", "/a"),
            ("../..", "/"),
            ("..a", "/..a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn a_destination_keeps_what_says_it_is_a_directory() {
        for (dir, path, expected) in [
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/", ".", "/"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", "a/.", "/w/a/"),
            ("/w", "/a/../b/", "/b/"),
            ("/w", "..", "/"),
            ("", "x", "/x"),
        ] {
            assert_eq!(destination(dir, path), expected, "{dir} {path}");
        }
    }

    #[test]
    fn the_root_has_no_base_name() {
        for (path, name) in [("/", ""), ("/a/b/", "b"), ("x", "x"), ("..", "")] {
            assert_eq!(base_name(path), name);
        }
    }
}
