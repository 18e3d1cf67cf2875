//! COPY and ADD: one file operation for each instruction, one copy in it for each source.

use std::collections::BTreeMap;

use wharf_solver::llb::{
    ActionInput, CopyAction, Edge, FileAction, FileChange, FileOp, MergeOp, Metadata, Op, SourceOp, UserRef,
    Vertex,
};

use super::from::Files;
use super::inputs::Inputs;
use super::remote::{self, Git, Remote};
use super::stage::{Stage, Step};
use super::{Converter, history, owner, path, words};
use crate::Diagnostic;
use crate::dockerignore::{Matched, Matcher};
use crate::instructions::{Add, Copy, Paths};
use crate::parser::{Heredoc, Token};
use crate::shell::Lex;

/// Mode of a file made from a heredoc.
const HEREDOC_MODE: u32 = 0o644;

/// What COPY and ADD have in common, and where they differ.
struct Transfer<'t> {
    instruction: &'static str,
    paths: &'t Paths,
    /// What paths are in; `None` is the build context.
    files: Option<Files>,
    parents: bool,
    /// The rest of ADD.
    add: Option<&'t Add>,
}

/// An instruction's operation as far as it is put together.
struct Draft {
    /// What all of its copies share.
    template: CopyAction,
    metadata: Metadata,
    /// `--checksum`, expanded.
    checksum: Option<Token>,
    file: FileBuilder,
    created_by: String,
}

impl Converter<'_> {
    /// COPY.
    pub(super) fn copy(&mut self, stage: &mut Stage, step: &Step<'_>, copy: &Copy) -> Result<(), Diagnostic> {
        let files = match &copy.from {
            Some(from) => {
                let origin = self.copy_from(from, stage.index)?;
                Some(self.files(&origin, from)?)
            }
            None => None,
        };
        let transfer =
            Transfer { instruction: "COPY", paths: &copy.paths, files, parents: copy.parents, add: None };
        self.transfer(stage, step, &transfer)
    }

    /// ADD.
    pub(super) fn add(&mut self, stage: &mut Stage, step: &Step<'_>, add: &Add) -> Result<(), Diagnostic> {
        let transfer =
            Transfer { instruction: "ADD", paths: &add.paths, files: None, parents: false, add: Some(add) };
        self.transfer(stage, step, &transfer)
    }

    fn transfer(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        transfer: &Transfer<'_>,
    ) -> Result<(), Diagnostic> {
        let paths = transfer.paths;
        let checksum = self.checksum(stage, step, transfer)?;
        let dest = match &paths.dest {
            Some(dest) => self.expand(stage, step, dest)?,
            None => {
                return Err(Diagnostic::error(step.location.clone(), "destination could not be determined"));
            }
        };
        let mut created_by = transfer.instruction.to_owned();
        if transfer.parents {
            created_by.push_str(" --parents");
        }
        let template = CopyAction {
            dest: path::destination(stage.directory(), &dest),
            create_dest_path: true,
            exclude: exclude(paths)?,
            ..self.owner_and_mode(stage, step, paths, &mut created_by)?
        };
        // A merge has nothing to do on an empty file system; names of owners are those of the file system below. A mode
        // would be that of the directories above the destination too, whatever they have below: BuildKit does not
        // link then either.
        let is_linked =
            paths.link && template.mode.is_none() && !names_owner(&template) && stage.head.is_some();
        let file = FileBuilder::new(if is_linked { None } else { stage.head });
        let metadata = self.step_metadata(stage, step);
        let mut draft = Draft { template, metadata, checksum, file, created_by };
        for token in &paths.sources {
            let source = self.expand(stage, step, token)?;
            draft.created_by.push(' ');
            draft.created_by.push_str(&remote::without_credentials(&source));
            self.add_source(transfer, token, &source, &mut draft)?;
        }
        for heredoc in &paths.heredocs {
            draft.created_by.push_str(" <<");
            draft.created_by.push_str(&heredoc.name);
            let data = self.heredoc_body(stage, step, heredoc)?;
            add_heredoc(heredoc, data, &mut draft)?;
        }
        draft.created_by.push(' ');
        draft.created_by.push_str(&dest);
        history::layer(stage, &draft.created_by);
        self.add_file_layer(stage, draft.file, draft.metadata, is_linked);
        Ok(())
    }

    /// `--chown` and `--chmod`; history shows them.
    fn owner_and_mode(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        paths: &Paths,
        created_by: &mut String,
    ) -> Result<CopyAction, Diagnostic> {
        let mut copy = CopyAction::default();
        if let Some(chown) = self.expand_flag(stage, step, paths.chown.as_ref())? {
            created_by.push_str(&format!(" --chown={chown}"));
            copy.owner = Some(owner::parse(&chown));
        }
        if let Some(token) = &paths.chmod
            && let Some(chmod) = self.expand_flag(stage, step, Some(token))?
        {
            created_by.push_str(&format!(" --chmod={chmod}"));
            let mode = owner::parse_mode(&chmod);
            copy.mode = Some(mode.map_err(|message| Diagnostic::error(token.span.clone(), message))?);
        }
        Ok(copy)
    }

    /// `--checksum`: what a single source from the network must be.
    fn checksum(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        transfer: &Transfer<'_>,
    ) -> Result<Option<Token>, Diagnostic> {
        let Some(token) = transfer.add.and_then(|add| add.checksum.as_ref()) else { return Ok(None) };
        let Some(text) = self.expand_flag(stage, step, Some(token))? else { return Ok(None) };
        if transfer.paths.sources.len() + transfer.paths.heredocs.len() != 1 {
            return Err(Diagnostic::error(
                token.span.clone(),
                "checksum can't be specified for multiple sources",
            ));
        }
        Ok(Some(Token { text, span: token.span.clone() }))
    }

    fn add_source(
        &mut self,
        transfer: &Transfer<'_>,
        token: &Token,
        source: &str,
        draft: &mut Draft,
    ) -> Result<(), Diagnostic> {
        let error = |message: &str| Diagnostic::error(token.span.clone(), message);
        let remote = remote::parse(source).map_err(|message| error(&message))?;
        match (remote, transfer.add) {
            (Some(Remote::Http { .. }), None) => {
                Err(error("source can't be a URL for COPY").with_hint("use ADD"))
            }
            (Some(Remote::Git(_)), None) => {
                Err(error("source can't be a git ref for COPY").with_hint("use ADD"))
            }
            (Some(Remote::Http { url, file_name }), Some(add)) => {
                let op = http_source(url, &file_name, draft.checksum.as_ref())?;
                let copy = CopyAction {
                    src: format!("/{file_name}"),
                    unpack_archive: add.unpack == Some(true),
                    ..draft.template.clone()
                };
                self.add_remote(source, op, copy, draft);
                Ok(())
            }
            (Some(Remote::Git(git)), Some(add)) => {
                let op = git_source(git, add, token, draft.checksum.as_ref())?;
                let copy =
                    CopyAction { src: "/".to_owned(), dir_contents_only: true, ..draft.template.clone() };
                self.add_remote(source, op, copy, draft);
                Ok(())
            }
            (None, _) if draft.checksum.is_some() => Err(error("checksum requires HTTP(S) or Git sources")),
            (None, _) => {
                let files = match transfer.files {
                    Some(files) => files,
                    None => {
                        self.warn_ignored(transfer, token, source);
                        self.main_context()
                    }
                };
                let copy = path_copy(source, files, transfer, draft);
                draft.file.change(FileChange::Copy(copy));
                Ok(())
            }
        }
    }

    /// Warns of a source that the context does not have because of its ignore file.
    fn warn_ignored(&mut self, transfer: &Transfer<'_>, token: &Token, source: &str) {
        let Some(ignore) = &self.ignore else { return };
        let mut matched = Matched::default();
        let cleaned = path::clean(source);
        let path = &cleaned.as_bytes()[1..];
        for end in (1..=path.len()).filter(|end| path.get(*end).is_none_or(|next| *next == b'/')) {
            matched = ignore.matches(&path[..end], &matched);
        }
        if matched.matched {
            let verb = if transfer.add.is_some() { "Add" } else { "Copy" };
            let shown = if source.starts_with('/') { &cleaned } else { &cleaned[1..] };
            self.problems.push(Diagnostic::copy_of_ignored_file(token.span.clone(), verb, shown));
        }
    }

    /// Copies from a source that is called as it was written.
    fn add_remote(&mut self, written: &str, source: SourceOp, copy: CopyAction, draft: &mut Draft) {
        let op = Op::Source(source);
        let metadata = Metadata { name: remote::without_credentials(written), ..draft.metadata.clone() };
        let edge = self.definition.add(Vertex { op, inputs: Vec::new(), platform: None, metadata });
        let from = draft.file.input(Some(edge));
        draft.file.change(FileChange::Copy(CopyAction { from: Some(from), ..copy }));
    }

    fn heredoc_body(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        heredoc: &Heredoc,
    ) -> Result<Vec<u8>, Diagnostic> {
        if !heredoc.expand {
            return Ok(heredoc.content.clone().into_bytes());
        }
        let body = Token { text: heredoc.content.clone(), span: heredoc.span.clone() };
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let lex = Lex { escape: self.dockerfile.escape, lookup: &lookup };
        let expanded = lex.heredoc(&heredoc.content).map_err(|error| words::at(&body, &error))?;
        self.warn_unset(stage, step, &body, &expanded);
        Ok(expanded.text.into_bytes())
    }

    /// Puts the copies on the stage; linked ones are a layer that does not know what is below it.
    fn add_file_layer(&mut self, stage: &mut Stage, file: FileBuilder, metadata: Metadata, is_linked: bool) {
        let op = Op::File(FileOp { actions: file.actions });
        if !is_linked {
            return self.add_layer(stage, op, file.inputs.edges, metadata);
        }
        let link = Metadata { name: link_name(&metadata.name), ..metadata.clone() };
        let copied = self.definition.add(Vertex { op, inputs: file.inputs.edges, platform: None, metadata });
        let inputs = stage.head.into_iter().chain([copied]).collect();
        self.add_layer(stage, Op::Merge(MergeOp {}), inputs, link);
    }
}

/// The actions of a file operation, each change on the result of the one before.
struct FileBuilder {
    inputs: Inputs,
    actions: Vec<FileAction>,
    base: ActionInput,
}

impl FileBuilder {
    fn new(head: Option<Edge>) -> Self {
        let mut inputs = Inputs::default();
        let base = head.map_or(ActionInput::Scratch, |head| ActionInput::Input(inputs.number(head)));
        Self { inputs, actions: Vec::new(), base }
    }

    /// Something to read from.
    fn input(&mut self, edge: Option<Edge>) -> ActionInput {
        edge.map_or(ActionInput::Scratch, |edge| ActionInput::Input(self.inputs.number(edge)))
    }

    /// Changes the file system.
    fn change(&mut self, change: FileChange) {
        self.actions.push(FileAction { base: self.base, change });
        self.base = ActionInput::Action(self.actions.len() - 1);
    }

    /// Makes something beside the file system, to read from.
    fn aside(&mut self, change: FileChange) -> ActionInput {
        self.actions.push(FileAction { base: ActionInput::Scratch, change });
        ActionInput::Action(self.actions.len() - 1)
    }
}

fn path_copy(source: &str, files: Files, transfer: &Transfer<'_>, draft: &mut Draft) -> CopyAction {
    let (directory, include) = match (transfer.parents, source.split_once("/./")) {
        (false, _) => (source, Vec::new()),
        (true, Some((pivot, pattern))) => (pivot, vec![path::clean(pattern)]),
        (true, None) => ("/", vec![path::clean(source)]),
    };
    let template = draft.template.clone();
    CopyAction {
        from: Some(draft.file.input(files.edge)),
        src: path::clean(directory),
        owner: template.owner.or_else(|| files.is_local.then(owner::root)),
        follow_symlinks: true,
        dir_contents_only: true,
        unpack_archive: transfer.add.is_some_and(|add| add.unpack.unwrap_or(true)),
        allow_wildcard: has_wildcard(directory),
        allow_empty_wildcard: true,
        include: include.into_iter().map(|pattern| pattern.trim_start_matches('/').to_owned()).collect(),
        parents: transfer.parents,
        ..template
    }
}

/// A heredoc is made as a file of its own and copied like any other, so that the destination may be a directory.
fn add_heredoc(heredoc: &Heredoc, data: Vec<u8>, draft: &mut Draft) -> Result<(), Diagnostic> {
    let name = path::base_name(&heredoc.name);
    if name.is_empty() {
        let message = format!("heredoc name {:?} is no file name", heredoc.name);
        return Err(Diagnostic::error(heredoc.operator.clone(), message));
    }
    let path = format!("/{name}");
    let made =
        FileChange::MkFile { path: path.clone(), mode: HEREDOC_MODE, data, owner: Some(owner::root()) };
    let from = draft.file.aside(made);
    draft.file.change(FileChange::Copy(CopyAction { from: Some(from), src: path, ..draft.template.clone() }));
    Ok(())
}

/// The source that ADD takes from the network; `None` is a path.
pub(super) fn remote_source(
    source: &Token,
    add: &Add,
    checksum: Option<&Token>,
) -> Result<Option<SourceOp>, Diagnostic> {
    match remote::parse(&source.text) {
        Ok(None) => Ok(None),
        Ok(Some(Remote::Http { url, file_name })) => http_source(url, &file_name, checksum).map(Some),
        Ok(Some(Remote::Git(git))) => git_source(git, add, source, checksum).map(Some),
        Err(message) => Err(Diagnostic::error(source.span.clone(), message)),
    }
}

fn http_source(url: String, file_name: &str, checksum: Option<&Token>) -> Result<SourceOp, Diagnostic> {
    let mut attrs = BTreeMap::from([("http.filename".to_owned(), file_name.to_owned())]);
    if let Some(Token { text, span }) = checksum {
        if !is_sha256(text) {
            let message = format!("invalid checksum {text:?}: it is sha256: and 64 hexadecimal digits");
            return Err(Diagnostic::error(span.clone(), message));
        }
        attrs.insert("http.checksum".to_owned(), text.clone());
    }
    Ok(SourceOp { identifier: url, attrs })
}

fn git_source(
    mut git: Git,
    add: &Add,
    token: &Token,
    checksum: Option<&Token>,
) -> Result<SourceOp, Diagnostic> {
    let place = checksum.unwrap_or(token).span.clone();
    match (add.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(given)) if flag != given => {
            return Err(Diagnostic::error(token.span.clone(), "inconsistent keep-git-dir configuration"));
        }
        (flag, given) => git.keep_git_dir = given.or(flag),
    }
    if let Some(Token { text, .. }) = checksum {
        match &git.checksum {
            Some(given) if given != text => {
                return Err(Diagnostic::error(place, format!("checksum mismatch {text:?} != {given:?}")));
            }
            _ => git.checksum = Some(text.clone()),
        }
    }
    match &git.checksum {
        Some(commit) if !is_commit_prefix(commit) => {
            let message = format!("invalid checksum {commit:?}: it is a commit or the beginning of one");
            Err(Diagnostic::error(place, message))
        }
        _ => Ok(git.source()),
    }
}

/// `--exclude`, checked.
fn exclude(paths: &Paths) -> Result<Vec<String>, Diagnostic> {
    let check = |token: &Token| match Matcher::new(std::slice::from_ref(&token.text)) {
        Ok(_) => Ok(token.text.clone()),
        Err(error) => {
            let message = format!("invalid --exclude pattern: {}", error.reason);
            Err(Diagnostic::error(token.span.clone(), message))
        }
    };
    paths.exclude.iter().map(check).collect()
}

/// Whether a path is a pattern: an unescaped `*`, `?` or `[`.
fn has_wildcard(path: &str) -> bool {
    let mut escaped = false;
    path.chars().any(|c| {
        let is_wildcard = !escaped && matches!(c, '*' | '?' | '[');
        escaped = !escaped && c == '\\';
        is_wildcard
    })
}

fn is_sha256(checksum: &str) -> bool {
    checksum.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_commit_prefix(commit: &str) -> bool {
    (1..=64).contains(&commit.len()) && commit.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Whether an owner is given by name.
fn names_owner(copy: &CopyAction) -> bool {
    let by_name = |user: &UserRef| matches!(user, UserRef::Name(_));
    copy.owner.as_ref().is_some_and(|owner| by_name(&owner.user) || owner.group.as_ref().is_some_and(by_name))
}

/// `[2/3] COPY …` → `[2/3] LINK COPY …`.
fn link_name(name: &str) -> String {
    match name.split_once("] ") {
        Some((prefix, text)) => format!("{prefix}] LINK {text}"),
        None => format!("LINK {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_wildcards_are_none() {
        for (path, expected) in
            [("a*", true), ("a?", true), ("[a]", true), (r"a\*", false), (r"a\\*", true), ("a", false)]
        {
            assert_eq!(has_wildcard(path), expected, "{path}");
        }
    }
}
