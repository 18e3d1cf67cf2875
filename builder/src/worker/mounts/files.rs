//! `type=bind`: files of a stage, an image or a build context.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;
use wharf_cache::snapshot::Active;
use wharf_cache::walk::{FileKind, Stat};
use wharf_cache::{Chain, Stacking};
use wharf_solver::llb::{ActionInput, CopyAction, FileChange, Mount, SecurityMode};

use super::{MountError, Worker};
use crate::context::select::{SelectError, Selected};
use crate::context::walk::{Filters, Visit, verdict, walk};
use crate::context::{LocalContext, Tree, resolve};
use crate::worker::file::{self, Source};
use crate::worker::whole;

/// What a copy of a context is called in its scratch file system.
const COPY: &str = "mounted";

impl Worker<'_> {
    /// Files of snapshots. What is written to a writable bind goes to `scratch`.
    pub(super) fn bind_snapshots(
        &self,
        chain: &Chain,
        mount: &Mount,
        security: SecurityMode,
        scratch: &mut Vec<Active>,
    ) -> Result<OwnedFd, MountError> {
        let place = "the files that `from` names";
        self.store.part_shared(chain)?;
        // A step with all rights could make a read-only mount writable again, and a view that is no mount of its own is
        // made of the very files of the snapshots.
        let is_safe = security == SecurityMode::Sandbox || self.store.setup().stacking == Stacking::Overlay;
        if mount.readonly && is_safe {
            let view = self.store.view(chain)?;
            return subtree(view.as_fd(), &mount.selector, place);
        }
        let mut active = self.store.prepare(chain)?;
        let tree = subtree(active.root()?, &mount.selector, place)?;
        scratch.push(active);
        Ok(tree)
    }

    /// Files of a directory of the host.
    pub(super) fn bind_local(
        &self,
        context: &LocalContext,
        mount: &Mount,
        security: SecurityMode,
        scratch: &mut Vec<Active>,
    ) -> Result<OwnedFd, MountError> {
        let tree = context.tree();
        let action = whole(&mount.selector);
        let selected = tree.select(&action)?;
        let [selected] = selected.as_slice() else {
            return Err(SelectError::NotFound { path: mount.selector.clone().into(), ignored: false }.into());
        };
        // A step with all rights could make a read-only mount writable again.
        let may_be_bound = mount.readonly && security == SecurityMode::Sandbox;
        if may_be_bound && is_as_seen(&tree, selected).map_err(MountError::io("read the build context"))? {
            return open_tree(tree.root, &selected.path)
                .map_err(MountError::io("open the source of a mount"));
        }
        let mut active = self.store.prepare(&Chain::default())?;
        let copy = CopyAction { from: Some(ActionInput::Input(0)), dest: format!("/{COPY}"), ..action };
        let source = Source { tree, local: true };
        file::execute(&FileChange::Copy(copy), active.root()?, self.store.setup().ids, Some(source), None)
            .map_err(MountError::Copy)?;
        let copied = open_tree(active.root()?, Path::new(COPY));
        scratch.push(active);
        copied.map_err(MountError::io("open the source of a mount"))
    }
}

/// Whether the selected files can be shown as they lie there: nothing is taken out, all is root's, as it would be in a
/// copy, and there is nothing through which a step could reach a program of the host.
fn is_as_seen(tree: &Tree<'_>, selected: &Selected) -> io::Result<bool> {
    if !is_plain(&selected.stat) {
        return Ok(false);
    }
    if selected.stat.kind != FileKind::Dir {
        return Ok(true);
    }
    let dir = tree.open_dir(&selected.path)?;
    let mut as_seen = true;
    let mut visit = |seen: Visit<'_>| {
        let taken_out =
            tree.ignore.is_some_and(|ignore| verdict(ignore, &selected.path.join(seen.path)).matched)
                || tree.without.is_some_and(|without| without.is(seen.stat));
        as_seen = !taken_out && is_plain(seen.stat);
        Ok(if as_seen { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    walk(dir.as_fd(), &Filters { ids: tree.ids, ..Filters::default() }, &mut visit)?;
    Ok(as_seen)
}

fn is_plain(stat: &Stat) -> bool {
    let is_data = matches!(stat.kind, FileKind::File | FileKind::Dir | FileKind::Symlink);
    is_data && (stat.uid, stat.gid) == (0, 0)
}

/// A detached mount of `path` inside `root`; links are followed there and cannot lead out.
pub(super) fn subtree(root: BorrowedFd<'_>, path: &str, place: &'static str) -> Result<OwnedFd, MountError> {
    let failed = MountError::io("open the source of a mount");
    let found = match resolve::resolve(root, Path::new(path), true) {
        Ok(found) => found,
        Err(source) => return Err(failed(source)),
    };
    if found.stat.is_none() {
        return Err(MountError::NotFound { path: path.to_owned(), place });
    }
    open_tree(root, &found.path).map_err(failed)
}

/// A detached mount of a path that has been resolved below `root`. Who changes the tree meanwhile can make this fail, but
/// not lead it out.
pub(super) fn open_tree(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let found = rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(found, "", flags)?)
}
