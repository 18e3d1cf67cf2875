//! Operations and selections as text that a person reads and a program compares.
//!
//! The text says all that [`crate::cache_map`] puts into a key: equal texts and equal keys mean the same. So every list is
//! written in order, every name of a part that holds a name from outside ends with it or has it quoted, a value that is left
//! out is the default, and what could be read in two ways is quoted. Every struct is taken apart with all its fields
//! named: a new field that is in a key but not in the text does not compile.

use crate::cache_map::{self, Reads};
use crate::llb::{
    ActionInput, CacheSharing, CopyAction, ExecMeta, ExecOp, FileAction, FileChange, FileOp, Mode, Mount,
    MountKind, NetworkMode, Op, Owner, Platform, SecretEnv, SecurityMode, SourceOp, UserRef, Vertex,
};

use super::Part;

/// Files with more bytes are named by their digest.
const INLINE_BYTES_MAX: usize = 4096;

/// The parts of the operation as far as it is in a key.
pub fn op_parts(vertex: &Vertex) -> Vec<Part> {
    let mut parts = Parts::default();
    match &*cache_map::keyed_op(&vertex.op) {
        Op::Source(source) => parts.source(source),
        Op::Exec(exec) => parts.exec(exec),
        Op::File(FileOp { actions }) => {
            parts.add("kind", "file");
            for (index, action) in actions.iter().enumerate() {
                parts.file_action(index, action);
            }
        }
        Op::Merge(_) => parts.add("kind", "merge"),
        Op::Diff(_) => parts.add("kind", "diff"),
    }
    if let Some(platform) = cache_map::keyed_platform(vertex) {
        parts.platform(&platform);
    }
    parts.0
}

/// A selection in words.
pub fn reads_text(reads: &Reads) -> String {
    match reads {
        Reads::Whole => "everything".to_owned(),
        Reads::Path(path) => format!("path {}", word(path)),
        Reads::Copies(copies) => {
            let copies: Vec<String> = copies.iter().map(copy_text).collect();
            format!("files {}", copies.join(", "))
        }
    }
}

/// One copy of a selection: the source and, in brackets, what else is not as usual.
fn copy_text(copy: &CopyAction) -> String {
    let mut parts = Parts::default();
    parts.copy("", &CopyAction { src: String::new(), ..copy.clone() });
    let options: Vec<String> = parts
        .0
        .iter()
        .filter(|part| part.name != ".dest" || !part.value.is_empty())
        .map(|part| format!("{} {}", part.name.trim_start_matches('.'), word(&part.value)))
        .collect();
    match options.is_empty() {
        true => word(&copy.src),
        false => format!("{} ({})", word(&copy.src), options.join("; ")),
    }
}

/// Parts in order.
#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Part { name: name.into(), value: value.into() });
    }

    /// Text that is usually empty.
    fn text(&mut self, name: impl Into<String>, value: &str) {
        if !value.is_empty() {
            self.add(name, value);
        }
    }

    /// A list that is usually empty.
    fn words(&mut self, name: impl Into<String>, list: &[String]) {
        if !list.is_empty() {
            self.add(name, words(list));
        }
    }

    fn option<T: ToString>(&mut self, name: impl Into<String>, value: Option<T>) {
        if let Some(value) = value {
            self.add(name, value.to_string());
        }
    }

    fn flag(&mut self, name: impl Into<String>, value: bool) {
        if value {
            self.add(name, "yes");
        }
    }

    fn platform(&mut self, platform: &Platform) {
        let Platform { os, architecture, variant, os_version } = platform;
        let mut text = format!("{}/{}", word(os), word(architecture));
        if !variant.is_empty() {
            text.push('/');
            text.push_str(&word(variant));
        }
        self.add("platform", text);
        self.text("platform version", os_version);
    }

    fn source(&mut self, source: &SourceOp) {
        let SourceOp { identifier, attrs } = source;
        self.add("kind", "source");
        match identifier.strip_prefix("image@") {
            Some(digest) => self.add("image", digest),
            None => self.add("source", identifier),
        }
        for (name, value) in attrs {
            self.add(format!("attribute {name}"), value);
        }
    }

    fn exec(&mut self, exec: &ExecOp) {
        let ExecOp { meta, mounts, network, security, secret_env, devices } = exec;
        self.add("kind", "exec");
        self.exec_meta(meta);
        for mount in mounts {
            self.mount(mount);
        }
        match network {
            NetworkMode::Sandbox => {}
            NetworkMode::Host => self.add("network", "host"),
            NetworkMode::None => self.add("network", "none"),
        }
        match security {
            SecurityMode::Sandbox => {}
            SecurityMode::Insecure => self.add("security", "insecure"),
        }
        for SecretEnv { id, name, optional } in secret_env {
            let optional = if *optional { " optional" } else { "" };
            self.add(format!("secret variable {name}"), format!("{}{optional}", word(id)));
        }
        for device in devices {
            self.add("device", device);
        }
    }

    fn exec_meta(&mut self, meta: &ExecMeta) {
        let ExecMeta {
            args,
            env,
            cwd,
            user,
            hostname,
            // Taken out of the keyed operation.
            proxy_env: _,
            extra_hosts,
            ulimits,
            cgroup_parent,
            shm_size_bytes,
            valid_exit_codes,
        } = meta;
        self.words("args", args);
        for variable in env {
            match variable.split_once('=') {
                Some((name, value)) => self.add(format!("env.{name}"), value),
                None => self.add("env", variable),
            }
        }
        self.text("workdir", cwd);
        self.text("user", user);
        self.text("hostname", hostname);
        // Their addresses are taken out.
        for (name, _) in extra_hosts {
            self.add("extra host", name);
        }
        for (name, soft, hard) in ulimits {
            self.add(format!("ulimit {name}"), format!("{soft}:{hard}"));
        }
        self.text("cgroup parent", cgroup_parent);
        self.option("shm size", Some(*shm_size_bytes).filter(|bytes| *bytes > 0));
        if !valid_exit_codes.is_empty() {
            let codes: Vec<String> = valid_exit_codes.iter().map(u8::to_string).collect();
            self.add("exit codes", codes.join(" "));
        }
    }

    /// Begins with the part `mount TARGET kind`, so that the parts of two mounts at one place do not run together.
    fn mount(&mut self, mount: &Mount) {
        let Mount { input, selector, target, output, readonly, kind } = mount;
        let name = format!("mount {}", word(target));
        let kind_name = match kind {
            MountKind::Bind => "bind",
            MountKind::Cache { .. } => "cache",
            MountKind::Tmpfs { .. } => "tmpfs",
            MountKind::Secret { .. } => "secret",
            MountKind::Ssh { .. } => "ssh",
        };
        self.add(format!("{name} kind"), kind_name);
        self.option(format!("{name} input"), *input);
        self.text(format!("{name} source"), selector);
        self.option(format!("{name} output"), *output);
        self.flag(format!("{name} readonly"), *readonly);
        match kind {
            MountKind::Bind => {}
            MountKind::Cache { id, sharing, mode, uid, gid } => {
                // Both are taken out of the keyed operation.
                self.text(format!("{name} id"), id);
                match sharing {
                    CacheSharing::Shared => {}
                    CacheSharing::Private => self.add(format!("{name} sharing"), "private"),
                    CacheSharing::Locked => self.add(format!("{name} sharing"), "locked"),
                }
                self.option(format!("{name} mode"), mode.map(octal));
                self.option(format!("{name} uid"), *uid);
                self.option(format!("{name} gid"), *gid);
            }
            MountKind::Tmpfs { size_bytes } => {
                self.option(format!("{name} size"), Some(*size_bytes).filter(|bytes| *bytes > 0));
            }
            MountKind::Secret { id, uid, gid, mode, optional }
            | MountKind::Ssh { id, uid, gid, mode, optional } => {
                self.text(format!("{name} id"), id);
                self.add(format!("{name} owner"), format!("{uid}:{gid}"));
                self.add(format!("{name} mode"), octal(*mode));
                self.flag(format!("{name} optional"), *optional);
            }
        }
    }

    /// Has at least one part, which says what kind of action it is.
    fn file_action(&mut self, index: usize, action: &FileAction) {
        let FileAction { base, change } = action;
        let kind = match change {
            FileChange::Copy(_) => "copy",
            FileChange::MkFile { .. } => "mkfile",
            FileChange::MkDir { .. } => "mkdir",
            FileChange::Rm { .. } => "rm",
            FileChange::Symlink { .. } => "symlink",
        };
        let name = format!("{kind}[{index}]");
        self.add(format!("{name}.base"), action_input(*base));
        match change {
            FileChange::Copy(copy) => self.copy(&name, copy),
            FileChange::MkFile { path, mode, data, owner } => {
                self.add(format!("{name}.path"), path);
                self.add(format!("{name}.mode"), octal(*mode));
                self.data(&name, data);
                self.owner(&name, owner.as_ref());
            }
            FileChange::MkDir { path, mode, make_parents, owner } => {
                self.add(format!("{name}.path"), path);
                self.add(format!("{name}.mode"), octal(*mode));
                self.flag(format!("{name}.parents"), *make_parents);
                self.owner(&name, owner.as_ref());
            }
            FileChange::Rm { path, allow_not_found, allow_wildcard } => {
                self.add(format!("{name}.path"), path);
                self.flag(format!("{name}.allow-not-found"), *allow_not_found);
                self.flag(format!("{name}.allow-wildcard"), *allow_wildcard);
            }
            FileChange::Symlink { path, target, owner } => {
                self.add(format!("{name}.path"), path);
                self.add(format!("{name}.target"), target);
                self.owner(&name, owner.as_ref());
            }
        }
    }

    fn copy(&mut self, name: &str, copy: &CopyAction) {
        let CopyAction {
            from,
            src,
            dest,
            owner,
            mode,
            follow_symlinks,
            dir_contents_only,
            unpack_archive,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            include,
            exclude,
            parents,
            timestamp_s,
        } = copy;
        self.option(format!("{name}.from"), from.map(action_input));
        self.text(format!("{name}.src"), src);
        self.add(format!("{name}.dest"), dest);
        self.owner(name, owner.as_ref());
        self.option(
            format!("{name}.mode"),
            mode.as_ref().map(|mode| match mode {
                Mode::Octal(mode) => octal(*mode),
                Mode::Symbolic(mode) => format!("symbolic {mode}"),
            }),
        );
        for (flag, value) in [
            ("follow-symlinks", follow_symlinks),
            ("dir-contents-only", dir_contents_only),
            ("unpack", unpack_archive),
            ("create-dest-path", create_dest_path),
            ("allow-wildcard", allow_wildcard),
            ("allow-empty-wildcard", allow_empty_wildcard),
            ("parents", parents),
        ] {
            self.flag(format!("{name}.{flag}"), *value);
        }
        self.words(format!("{name}.include"), include);
        self.words(format!("{name}.exclude"), exclude);
        self.option(format!("{name}.timestamp"), *timestamp_s);
    }

    /// Content of a file: itself if a person can read it, else its digest.
    fn data(&mut self, name: &str, data: &[u8]) {
        match std::str::from_utf8(data) {
            Ok(text) if data.len() <= INLINE_BYTES_MAX => self.add(format!("{name}.text"), text),
            _ => self.add(
                format!("{name}.data"),
                format!("{} bytes, blake3 {}", data.len(), blake3::hash(data).to_hex()),
            ),
        }
    }

    fn owner(&mut self, name: &str, owner: Option<&Owner>) {
        let Some(Owner { user, group }) = owner else { return };
        let text = match group {
            None => user_text(user),
            Some(group) => format!("{}:{}", user_text(user), user_text(group)),
        };
        self.add(format!("{name}.owner"), text);
    }
}

fn action_input(input: ActionInput) -> String {
    match input {
        ActionInput::Scratch => "scratch".to_owned(),
        ActionInput::Input(index) => format!("input {index}"),
        ActionInput::Action(index) => format!("action {index}"),
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// A number as it is; a name that could be taken for one is quoted.
fn user_text(user: &UserRef) -> String {
    match user {
        UserRef::Id(id) => id.to_string(),
        UserRef::Name(name) if name.starts_with(|first: char| first.is_ascii_digit()) => quoted(name),
        UserRef::Name(name) => word(name),
    }
}

/// Words with spaces between them.
fn words(list: &[String]) -> String {
    list.iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

/// A text as one word: as it is, or quoted if its end could not be seen.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./=+@%^~*?![]{}$".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => quoted.extend(control.escape_unicode()),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
