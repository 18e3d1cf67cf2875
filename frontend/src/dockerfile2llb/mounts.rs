//! `RUN --mount`: comma-separated keys (quoted as in CSV) → mounts of the process.

use std::ops::Range;

use wharf_solver::llb::{CacheSharing, ExecOp, Mount, MountKind, SecretEnv};

use super::from::Files;
use super::run::Exec;
use super::stage::{Stage, Step};
use super::stages::Origin;
use super::{Converter, path, words};
use crate::csv::{self, Problem};
use crate::parser::Token;
use crate::{Diagnostic, dockerignore};

const KEYS: [&str; 19] = [
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "rw",
    "readwrite",
    "ro",
    "readonly",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "size",
    "required",
    "env",
];

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// The `type` of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Type {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    fn name(self) -> &'static str {
        TYPES[self as usize]
    }
}

/// The keys of a mount as they were given.
#[derive(Debug, Clone, Default)]
struct Spec {
    kind: Type,
    target: Option<String>,
    source: Option<String>,
    from: Option<Token>,
    readonly: Option<bool>,
    id: Option<String>,
    sharing: Option<CacheSharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size_bytes: Option<u64>,
    required: Option<bool>,
    env: Option<String>,
}

/// One `key[=value]`.
#[derive(Debug, Clone)]
struct Field {
    key: Token,
    value: Option<Token>,
}

/// The `from` of a mount that reads from one.
pub(super) fn from_name(mount: &Token) -> Option<Token> {
    let fields = fields(mount).ok()?;
    if value(&fields, "type") == Some("tmpfs") {
        return None;
    }
    fields.into_iter().rfind(|field| field.key.text == "from")?.value.filter(|from| !from.text.is_empty())
}

/// Whether it is a cache mount.
pub(super) fn is_cache(mount: &Token) -> bool {
    fields(mount).is_ok_and(|fields| value(&fields, "type") == Some("cache"))
}

impl Converter<'_> {
    /// Adds a `--mount` to a process. The n-th SSH mount has a default place of its own.
    pub(super) fn mount(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        token: &Token,
        exec: &mut Exec,
    ) -> Result<(), Diagnostic> {
        let spec = self.mount_spec(stage, step, token)?;
        let mount = match spec.kind {
            Type::Bind | Type::Cache | Type::Tmpfs => self.file_mount(stage, token, spec, exec)?,
            Type::Secret => {
                let Some(mount) = secret_mount(stage, spec, &mut exec.op) else { return Ok(()) };
                mount
            }
            Type::Ssh => ssh_mount(stage, spec, exec),
        };
        if mount.target == "/" {
            return Err(Diagnostic::error(token.span.clone(), "invalid mount target \"/\""));
        }
        exec.op.mounts.push(mount);
        Ok(())
    }

    fn file_mount(
        &mut self,
        stage: &Stage,
        token: &Token,
        spec: Spec,
        exec: &mut Exec,
    ) -> Result<Mount, Diagnostic> {
        let written = spec.target.as_deref().unwrap_or_default();
        let target = path::join(stage.directory(), written);
        let files = match &spec.from {
            _ if spec.kind == Type::Tmpfs => Files { edge: None, is_local: false },
            Some(from) => {
                let origin = self.mount_from(from, stage.index)?;
                self.files(&origin, from)?
            }
            None if spec.kind == Type::Cache => self.files(&Origin::Scratch, token)?,
            None => self.main_context(),
        };
        let selector = match path::clean(spec.source.as_deref().unwrap_or_default()) {
            root if root == "/" => String::new(),
            selector => selector,
        };
        let kind = match spec.kind {
            Type::Cache => MountKind::Cache {
                // Without an id it is the target as written: a relative one is the same cache in every directory.
                id: self.cache_id(
                    spec.id.filter(|id| !id.is_empty()).unwrap_or_else(|| dockerignore::clean(written)),
                ),
                sharing: spec.sharing.unwrap_or_default(),
                mode: spec.mode,
                uid: spec.uid,
                gid: spec.gid,
            },
            Type::Tmpfs => MountKind::Tmpfs { size_bytes: spec.size_bytes.unwrap_or(0) },
            _ => MountKind::Bind,
        };
        Ok(Mount {
            input: files.edge.map(|edge| exec.inputs.number(edge)),
            selector,
            target,
            output: None,
            readonly: spec.readonly.unwrap_or(spec.kind == Type::Bind),
            kind,
        })
    }

    /// A cache's name within the build's name space.
    fn cache_id(&self, id: String) -> String {
        match self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(space) if !space.is_empty() => format!("{space}/{id}"),
            _ => id,
        }
    }

    fn mount_spec(&mut self, stage: &Stage, step: &Step<'_>, token: &Token) -> Result<Spec, Diagnostic> {
        let mut spec = Spec::default();
        let mut fields = fields(token)?;
        for Field { key, value } in &mut fields {
            // A name that is looked up is taken as it is.
            if let Some(value) = value.as_mut().filter(|_| key.text != "from") {
                value.text = self.expand(stage, step, value)?;
            }
            set(&mut spec, key, value.clone(), token)?;
        }
        check(&spec, &fields, token)?;
        Ok(spec)
    }
}

/// What is wrong with a mount whose step is not needed: its values do not matter, as nobody knows the variables in them.
pub(super) fn syntax_error(mount: &Token) -> Option<Diagnostic> {
    let fields = match fields(mount) {
        Ok(fields) => fields,
        Err(problem) => return Some(problem),
    };
    fields.iter().find_map(|Field { key, value }| match value {
        None => set(&mut Spec::default(), key, None, mount).err(),
        Some(value) if key.text == "from" && value.text.contains('$') => Some(variable_in_from(value)),
        Some(_) => None,
    })
}

/// The error of a `from` that would have to be expanded before the stages are known.
pub(super) fn variable_in_from(from: &Token) -> Diagnostic {
    let message = "'from' doesn't support variable expansion, define alias stage instead";
    Diagnostic::error(from.span.clone(), message).with_hint("add FROM ${…} AS alias above and use the alias")
}

fn set(spec: &mut Spec, key: &Token, value: Option<Token>, mount: &Token) -> Result<(), Diagnostic> {
    let is_flag = matches!(key.text.as_str(), "rw" | "readwrite" | "ro" | "readonly" | "required");
    let value = match value {
        Some(value) => value,
        None if is_flag => Token { text: "true".to_owned(), span: key.span.clone() },
        None if KEYS.contains(&key.text.as_str()) => {
            let message = format!("invalid field '{}' must be a key=value pair", key.text);
            return Err(Diagnostic::error(key.span.clone(), message));
        }
        None => return Err(unknown_key(key, mount)),
    };
    let invalid =
        || Diagnostic::error(value.span.clone(), format!("invalid value for {}: {:?}", key.text, value.text));
    let text = value.text.as_str();
    match key.text.as_str() {
        "type" => {
            let kind = TYPES.iter().position(|kind| *kind == text.to_lowercase());
            spec.kind = match kind {
                Some(0) => Type::Bind,
                Some(1) => Type::Cache,
                Some(2) => Type::Tmpfs,
                Some(3) => Type::Secret,
                Some(4) => Type::Ssh,
                _ => {
                    let error =
                        Diagnostic::error(value.span.clone(), format!("unsupported mount type {text:?}"));
                    return Err(error.with_suggestion(text, &TYPES));
                }
            };
        }
        "target" | "dst" | "destination" => spec.target = Some(text.to_owned()),
        "source" | "src" => spec.source = Some(text.to_owned()),
        "from" => spec.from = Some(value).filter(|from| !from.text.is_empty()),
        "rw" | "readwrite" => spec.readonly = Some(!parse_bool(text).ok_or_else(invalid)?),
        "ro" | "readonly" => spec.readonly = Some(parse_bool(text).ok_or_else(invalid)?),
        "id" => spec.id = Some(text.to_owned()),
        "sharing" => {
            spec.sharing = Some(match text.to_lowercase().as_str() {
                "shared" => CacheSharing::Shared,
                "private" => CacheSharing::Private,
                "locked" => CacheSharing::Locked,
                _ => {
                    let error =
                        Diagnostic::error(value.span.clone(), format!("unsupported sharing value {text:?}"));
                    return Err(error.with_suggestion(text, &["shared", "private", "locked"]));
                }
            });
        }
        "mode" => spec.mode = Some(parse_mode(text).ok_or_else(invalid)?),
        "uid" => spec.uid = Some(text.parse().map_err(|_| invalid())?),
        "gid" => spec.gid = Some(text.parse().map_err(|_| invalid())?),
        "size" => spec.size_bytes = Some(parse_size(text).ok_or_else(invalid)?),
        "required" => spec.required = Some(parse_bool(text).ok_or_else(invalid)?),
        "env" => spec.env = Some(text.to_owned()),
        _ => return Err(unknown_key(key, mount)),
    }
    Ok(())
}

fn unknown_key(key: &Token, mount: &Token) -> Diagnostic {
    Diagnostic::error(key.span.clone(), format!("unexpected key '{}' in '{}'", key.text, mount.text))
        .with_suggestion(&key.text, &KEYS)
}

/// What a type of mount cannot have, and what it must.
fn check(spec: &Spec, fields: &[Field], mount: &Token) -> Result<(), Diagnostic> {
    let kind = spec.kind.name();
    let whole = |message: &str| Err(Diagnostic::error(mount.span.clone(), message));
    let at = |keys: &[&str], message: String| {
        let field = fields.iter().rfind(|field| keys.contains(&field.key.text.as_str()));
        let place = field.map_or(&mount.span, |field| &field.key.span);
        Err(Diagnostic::error(place.clone(), message))
    };
    let not_allowed = |what: &str| at(&[what], format!("{what} not allowed for {kind:?} type mounts"));
    let takes_owner = matches!(spec.kind, Type::Cache | Type::Secret | Type::Ssh);
    for (what, is_given) in
        [("mode", spec.mode.is_some()), ("uid", spec.uid.is_some()), ("gid", spec.gid.is_some())]
    {
        if is_given && !takes_owner {
            return not_allowed(what);
        }
    }
    if spec.size_bytes.is_some() && spec.kind != Type::Tmpfs {
        return not_allowed("size");
    }
    if spec.required.is_some() && !matches!(spec.kind, Type::Secret | Type::Ssh) {
        return not_allowed("required");
    }
    if spec.env.is_some() && spec.kind != Type::Secret {
        return not_allowed("env");
    }
    if spec.sharing.is_some() && spec.kind != Type::Cache {
        return at(&["sharing"], format!("invalid cache sharing set for {kind} mount"));
    }
    let has = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    match spec.kind {
        Type::Bind | Type::Cache | Type::Tmpfs if !has(&spec.target) => {
            whole(&format!("{kind} mount requires a target"))
        }
        Type::Bind | Type::Cache | Type::Tmpfs => Ok(()),
        Type::Secret if spec.from.is_some() => {
            at(&["from"], "secret mount should not have a from".to_owned())
        }
        Type::Secret if has(&spec.source) && has(&spec.id) => {
            at(&["source", "src", "id"], "both source and id can't be set".to_owned())
        }
        Type::Secret if !has(&spec.source) && !has(&spec.id) && !has(&spec.target) => {
            whole("invalid secret mount. one of source, target required")
        }
        Type::Secret => Ok(()),
        Type::Ssh if has(&spec.source) => {
            at(&["source", "src"], "ssh mount should not have a source".to_owned())
        }
        Type::Ssh => Ok(()),
    }
}

/// A secret as a variable, as a file, or (with a target beside the variable) both.
fn secret_mount(stage: &Stage, spec: Spec, op: &mut ExecOp) -> Option<Mount> {
    let target = spec.target.filter(|target| !target.is_empty());
    let given = spec.source.filter(|id| !id.is_empty()).or(spec.id.filter(|id| !id.is_empty()));
    let id = given.unwrap_or_else(|| path::base_name(target.as_deref().unwrap_or_default()));
    let optional = !spec.required.unwrap_or(false);
    let env = spec.env.filter(|name| !name.is_empty());
    let has_env = env.is_some();
    if let Some(name) = env {
        op.secret_env.push(SecretEnv { id: id.clone(), name, optional });
    }
    let target = match target {
        Some(target) => path::join(stage.directory(), &target),
        None if has_env => return None,
        None => path::join("/run/secrets", &path::base_name(&id)),
    };
    let kind = MountKind::Secret {
        id,
        uid: spec.uid.unwrap_or(0),
        gid: spec.gid.unwrap_or(0),
        mode: spec.mode.unwrap_or(0o400),
        optional,
    };
    Some(Mount { input: None, selector: String::new(), target, output: None, readonly: true, kind })
}

/// An agent's socket; the first one is the process's `SSH_AUTH_SOCK`.
fn ssh_mount(stage: &Stage, spec: Spec, exec: &mut Exec) -> Mount {
    let number = exec.ssh_mounts;
    exec.ssh_mounts += 1;
    let target = match spec.target.filter(|target| !target.is_empty()) {
        Some(target) => path::join(stage.directory(), &target),
        None => format!("/run/buildkit/ssh_agent.{number}"),
    };
    if number == 0 && stage.env.get("SSH_AUTH_SOCK").is_none() {
        exec.op.meta.env.push(format!("SSH_AUTH_SOCK={target}"));
    }
    let kind = MountKind::Ssh {
        id: spec.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
        uid: spec.uid.unwrap_or(0),
        gid: spec.gid.unwrap_or(0),
        mode: spec.mode.unwrap_or(0o600),
        optional: !spec.required.unwrap_or(false),
    };
    Mount { input: None, selector: String::new(), target, output: None, readonly: true, kind }
}

fn value<'f>(fields: &'f [Field], key: &str) -> Option<&'f str> {
    fields.iter().rfind(|field| field.key.text == key)?.value.as_ref().map(|value| value.text.as_str())
}

fn fields(mount: &Token) -> Result<Vec<Field>, Diagnostic> {
    let mut fields = Vec::new();
    for (text, range) in split_csv(mount)? {
        // A quoted field's text is shifted by its quote; it is shown whole.
        let is_plain = text.len() == range.len();
        let place = |start: usize, end: usize| {
            let part = if is_plain { range.start + start..range.start + end } else { range.clone() };
            words::part(mount, part)
        };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => {
                let start = key.len() + 1;
                (key, Some(Token { text: value.to_owned(), span: place(start, text.len()) }))
            }
            None => (text.as_str(), None),
        };
        let key = Token { text: key.to_lowercase(), span: place(0, key.len()) };
        fields.push(Field { key, value });
    }
    Ok(fields)
}

/// The fields as CSV has them, and where each stands.
fn split_csv(token: &Token) -> Result<Vec<(String, Range<usize>)>, Diagnostic> {
    csv::split(&token.text).map_err(|(problem, at)| {
        let message = match problem {
            Problem::Unclosed => "quoted field of --mount has no closing quote",
            Problem::Bare => "bare \" in a field of --mount that does not begin with one",
            Problem::Trailing => "text after the closing quote of a field of --mount",
        };
        Diagnostic::error(words::part(token, at), message)
    })
}

/// Go's `strconv.ParseBool`, without regard to case.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    if is_octal { u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777) } else { None }
}

/// Bytes of `10`, `1.5g`, `64MiB`, `64 mb`: units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let size = number.parse::<f64>().ok()?
        * f64::from(1_u32 << (shift / 2))
        * f64::from(1_u32 << (shift - shift / 2));
    // Below 2^53 every whole number of bytes is exact.
    if size < 9_007_199_254_740_992.0 { Some(size as u64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("10b", Some(10)),
            ("64MiB", Some(64 << 20)),
            ("64 mb", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3", None),
            ("99999999999p", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }

    #[test]
    fn fields_are_quoted_as_in_csv() {
        let split = |text: &str| {
            let token = Token { text: text.to_owned(), span: 10..10 + text.len() };
            split_csv(&token).map_err(|error| error.span)
        };
        let field = |text: &str, range| (text.to_owned(), range);
        assert_eq!(split("a,b"), Ok(vec![field("a", 0..1), field("b", 2..3)]));
        assert_eq!(split(r#""a,""b""",c"#), Ok(vec![field("a,\"b\"", 0..9), field("c", 10..11)]));
        assert_eq!(split(""), Ok(vec![field("", 0..0)]));
        assert_eq!(split("a,"), Ok(vec![field("a", 0..1), field("", 2..2)]));
        assert_eq!(split("a\"b"), Err(11..12));
        assert_eq!(split("\"a"), Err(10..12));
        assert_eq!(split("\"a\"b"), Err(13..14));
    }

    #[test]
    fn inputs_are_shared() {
        let mut exec = Exec::default();
        let edge = wharf_solver::llb::Edge { vertex: wharf_solver::llb::VertexDigest([1; 32]), output: 0 };
        assert_eq!((exec.inputs.number(edge), exec.inputs.number(edge)), (0, 0));
    }
}
