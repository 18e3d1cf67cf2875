//! WORKDIR and USER.

use wharf_solver::llb::{ActionInput, FileAction, FileChange, FileOp, Op};

use super::owner;
use super::stage::{Stage, Step};
use super::{Converter, history, path};
use crate::Diagnostic;
use crate::parser::Token;

impl Converter<'_> {
    /// WORKDIR: makes the directory and what is missing above it, owned by the current user. `/` is always there.
    pub(super) fn workdir(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        token: &Token,
    ) -> Result<(), Diagnostic> {
        let directory = path::join(stage.directory(), &self.expand(stage, step, token)?);
        stage.config.config.working_dir.clone_from(&directory);
        if directory == "/" {
            history::workdir(stage, &directory, true);
            return Ok(());
        }
        stage.bytes += directory.len();
        let owner = match stage.config.config.user.as_str() {
            "" => None,
            user => Some(owner::parse(user)),
        };
        let change = FileChange::MkDir { path: directory.clone(), mode: 0o755, make_parents: true, owner };
        let base = stage.head.map_or(ActionInput::Scratch, |_| ActionInput::Input(0));
        let op = Op::File(FileOp { actions: vec![FileAction { base, change }] });
        let metadata = self.step_metadata(stage, step);
        self.add_layer(stage, op, stage.head.into_iter().collect(), metadata);
        history::workdir(stage, &directory, false);
        Ok(())
    }

    /// USER.
    pub(super) fn user(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        token: &Token,
    ) -> Result<(), Diagnostic> {
        let user = self.expand(stage, step, token)?;
        history::metadata(stage, format!("USER {user}"));
        stage.config.config.user = user;
        Ok(())
    }
}
