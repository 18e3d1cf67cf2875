//! A file tree as a table, to compare what different programs make of one image.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use wharf_cache::Digest;

/// What of a tree is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything but the times of directories, which depend on the order of writing.
    Everything,
    /// All that somebody who is not root could have written: no owners, nothing that rights come from.
    Files,
}

/// Each path below `root` with what there is to say of it.
pub(crate) fn tree(root: &Path, look: Look) -> BTreeMap<OsString, String> {
    let mut entries = BTreeMap::new();
    let mut links: BTreeMap<u64, Vec<OsString>> = BTreeMap::new();
    let mut directories = vec![OsString::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let name = Path::new(&directory).join(entry.unwrap().file_name()).into_os_string();
            let path = root.join(&name);
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            if kind.is_dir() {
                directories.push(name.clone());
            } else if stat.nlink() > 1 {
                links.entry(stat.ino()).or_default().push(name.clone());
            }
            let mut text = if kind.is_dir() {
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else if kind.is_file() {
                format!("{} bytes, {}", stat.size(), Digest::of(&fs::read(&path).unwrap()))
            } else {
                format!("device {}", stat.rdev())
            };
            if !kind.is_dir() {
                text += &format!(" at {}", stat.mtime());
            }
            if !kind.is_symlink() {
                let bits = if look == Look::Everything { 0o7777 } else { 0o1777 };
                text += &format!(" mode {:o}", stat.mode() & bits);
            }
            if look == Look::Everything {
                text += &format!(" of {}:{}{}", stat.uid(), stat.gid(), attributes(&path));
            }
            entries.insert(name, text);
        }
    }
    for names in links.values_mut() {
        names.sort();
        for name in names.iter() {
            *entries.get_mut(name).unwrap() += &format!(" is {:?}", names[0]);
        }
    }
    entries
}

/// The differences between two trees, `-` for what is in the first and `+` for what is in the second.
pub(crate) fn differences(one: &BTreeMap<OsString, String>, two: &BTreeMap<OsString, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for (sign, these, those) in [('-', one, two), ('+', two, one)] {
        for (name, text) in these.iter().filter(|(name, text)| those.get(*name) != Some(text)) {
            lines.push(format!("{sign} {} {text}", name.display()));
        }
    }
    lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
    lines
}

#[track_caller]
pub(crate) fn check_equal(what: &str, one: &BTreeMap<OsString, String>, two: &BTreeMap<OsString, String>) {
    let lines = differences(one, two);
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

/// Extended attributes of a file, sorted.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else { return String::new() };
    let mut names: Vec<&[u8]> =
        names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        text += &format!(" {}={}", name.escape_ascii(), value[..length].escape_ascii());
    }
    text
}
