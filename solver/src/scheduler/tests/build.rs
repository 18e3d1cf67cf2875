//! Graphs in few words.

use std::collections::BTreeMap;

use crate::llb::{
    ActionInput, CopyAction, Definition, DiffOp, Edge, ExecMeta, ExecOp, FileAction, FileChange, FileOp,
    MergeOp, Metadata, Mount, MountKind, Op, SourceOp, Vertex,
};

pub(super) const PIN_A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(super) const PIN_B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

#[derive(Default)]
pub(super) struct Builder {
    pub(super) definition: Definition,
    /// For the steps that follow.
    pub(super) ignore_cache: bool,
}

impl Builder {
    pub(super) fn add(&mut self, name: &str, op: Op, inputs: &[Edge]) -> Edge {
        let metadata = Metadata { name: name.into(), location: None, ignore_cache: self.ignore_cache };
        self.definition.add(Vertex { op, inputs: inputs.to_vec(), platform: None, metadata })
    }

    fn source(&mut self, name: &str, identifier: String) -> Edge {
        self.add(name, Op::Source(SourceOp { identifier, attrs: BTreeMap::new() }), &[])
    }

    pub(super) fn local(&mut self, name: &str) -> Edge {
        self.source(name, format!("local://{name}"))
    }

    pub(super) fn image(&mut self, name: &str, pin: &str) -> Edge {
        self.source(name, format!("docker-image://{name}@{pin}"))
    }

    pub(super) fn layout(&mut self, name: &str, pin: &str) -> Edge {
        self.source(name, format!("oci-layout://{name}@{pin}"))
    }

    pub(super) fn url(&mut self, name: &str) -> Edge {
        self.source(name, format!("https://host/{name}"))
    }

    /// Writes a digest of all that it reads, modulo `args[1]`, to the file `args[0]`.
    pub(super) fn run(&mut self, name: &str, root: Edge, args: &[&str]) -> Edge {
        let exec = ExecOp { meta: meta(args), mounts: vec![mount(0, "/", "", Some(0))], ..ExecOp::default() };
        self.add(name, Op::Exec(exec), &[root])
    }

    pub(super) fn run_with_bind(
        &mut self,
        name: &str,
        root: Edge,
        from: Edge,
        selector: &str,
        args: &[&str],
    ) -> Edge {
        let mounts = vec![mount(0, "/", "", Some(0)), mount(1, "/mnt", selector, None)];
        self.add(name, Op::Exec(ExecOp { meta: meta(args), mounts, ..ExecOp::default() }), &[root, from])
    }

    /// Copies `src`, or nothing if there is no such thing.
    pub(super) fn copy(&mut self, name: &str, base: Edge, from: Edge, src: &str) -> Edge {
        self.copy_if(name, base, from, src, true)
    }

    /// Copies `src`, which must be there.
    pub(super) fn copy_existing(&mut self, name: &str, base: Edge, from: Edge, src: &str) -> Edge {
        self.copy_if(name, base, from, src, false)
    }

    fn copy_if(&mut self, name: &str, base: Edge, from: Edge, src: &str, may_be_missing: bool) -> Edge {
        let copy = CopyAction {
            from: Some(ActionInput::Input(1)),
            src: src.into(),
            dest: "/copied".into(),
            allow_empty_wildcard: may_be_missing,
            ..CopyAction::default()
        };
        let action = FileAction { base: ActionInput::Input(0), change: FileChange::Copy(copy) };
        self.add(name, Op::File(FileOp { actions: vec![action] }), &[base, from])
    }

    pub(super) fn mkfile(&mut self, name: &str, base: Edge, content: &str) -> Edge {
        let change =
            FileChange::MkFile { path: "/made".into(), mode: 0o644, data: content.into(), owner: None };
        let action = FileAction { base: ActionInput::Input(0), change };
        self.add(name, Op::File(FileOp { actions: vec![action] }), &[base])
    }

    pub(super) fn merge(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        self.add(name, Op::Merge(MergeOp {}), inputs)
    }

    pub(super) fn diff(&mut self, name: &str, lower: Edge, upper: Edge) -> Edge {
        self.add(name, Op::Diff(DiffOp {}), &[lower, upper])
    }
}

fn meta(args: &[&str]) -> ExecMeta {
    ExecMeta { args: args.iter().map(|arg| (*arg).into()).collect(), ..ExecMeta::default() }
}

fn mount(input: usize, target: &str, selector: &str, output: Option<u32>) -> Mount {
    Mount {
        input: Some(input),
        selector: selector.into(),
        target: target.into(),
        output,
        readonly: output.is_none(),
        kind: MountKind::Bind,
    }
}
