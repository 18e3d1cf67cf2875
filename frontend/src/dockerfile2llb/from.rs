//! FROM: what a stage has before its first instruction. And everything else that files come from.

use std::collections::{BTreeMap, HashSet};

use wharf_solver::llb::{
    ActionInput, CopyAction, Edge, FileAction, FileChange, FileOp, Metadata, Op, Platform, SourceOp, Vertex,
};

use super::checks::Seen;
use super::env::{self, DEFAULT_PATH, Env};
use super::images::BaseImage;
use super::stage::{Stage, StepNames};
use super::stages::{Base, Origin, Plan};
use super::{Converter, history, owner, path, platform};
use crate::Diagnostic;
use crate::image::{ImageConfig, RootFs};
use crate::parser::Token;

/// Name of the build context's source.
const MAIN_CONTEXT: &str = "context";

/// Files that something is copied or mounted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files {
    /// `None`: there are none.
    pub(super) edge: Option<Edge>,
    /// Whether they are a directory of the builder's machine, whose owners mean nothing in an image.
    pub(super) is_local: bool,
}

impl Converter<'_> {
    /// The state a stage starts with.
    pub(super) fn start(&mut self, plan: &Plan<'_>) -> Stage {
        let has_image = matches!(plan.base, Base::Image(_) | Base::Local(_));
        let names = StepNames::new(
            self.display_name(plan.index),
            self.options.multi_platform,
            has_image,
            &plan.steps,
        );
        let location = self.dockerfile.stages[plan.index].span.clone();
        let mut stage = Stage {
            index: plan.index,
            platform: plan.platform.clone(),
            head: None,
            base: None,
            base_layers: 0,
            base_history: 0,
            layers: Vec::new(),
            config: empty_config(&plan.platform),
            env: Env::default(),
            args: Vec::new(),
            declared: HashSet::new(),
            is_cmd_set: false,
            seen: Seen::default(),
            names,
            ignore_cache: self.ignores_cache(plan.index),
            is_settled: false,
            bytes: 0,
        };
        match &plan.base {
            Base::Scratch => {}
            Base::Stage(below) => self.start_from_stage(&mut stage, *below),
            Base::Image(image) => {
                stage.seen.unknown_base = !image.is_known;
                // An image without layers is no step, though it was counted as one.
                let name = match image.config.layer_count() {
                    0 => String::new(),
                    _ => stage.next_name(false, &format!("FROM {}", image.name())),
                };
                let metadata = Metadata { name, location: Some(location), ignore_cache: false };
                stage.head = self.image_source(image, &plan.platform, metadata);
                stage.base = stage.head;
                stage.base_layers = image.config.layer_count();
                stage.base_history = image.config.history.len();
                stage.config = inherited_config(image.config.clone(), &plan.platform);
                stage.bytes += config_bytes(&stage.config);
            }
            Base::Local(name) => {
                let local = self.local_context(name);
                let text = format!("FROM {name}");
                let metadata = Metadata {
                    name: stage.next_name(false, &text),
                    location: Some(location),
                    ignore_cache: stage.ignore_cache,
                };
                self.add_layer(&mut stage, copy_whole(), vec![local], metadata);
                history::foreign_layer(&mut stage, &text);
            }
        }
        settle(&mut stage);
        stage
    }

    /// The build context.
    pub(super) fn main_context(&mut self) -> Files {
        let known = self.main_context;
        let edge = known.unwrap_or_else(|| self.add_main_context());
        self.main_context = Some(edge);
        Files { edge: Some(edge), is_local: true }
    }

    fn add_main_context(&mut self) -> Edge {
        let mut attrs = BTreeMap::new();
        if !self.options.ignore.is_empty() {
            let patterns =
                serde_json::to_string(&self.options.ignore).expect("a list of strings always serialises");
            attrs.insert("local.excludepatterns".to_owned(), patterns);
        }
        let op = Op::Source(SourceOp { identifier: format!("local://{MAIN_CONTEXT}"), attrs });
        self.add_internal(op, "[internal] load build context".to_owned())
    }

    /// The files that a `from` leads to.
    pub(super) fn files(&mut self, origin: &Origin, token: &Token) -> Result<Files, Diagnostic> {
        match origin {
            Origin::Scratch => Ok(Files { edge: None, is_local: false }),
            Origin::Stage(index) => {
                let head = self.done[*index].as_ref().and_then(|stage| stage.head);
                Ok(Files { edge: head, is_local: false })
            }
            Origin::Local(name) => Ok(Files { edge: Some(self.local_context(name)), is_local: true }),
            Origin::Image(reference) => {
                let platform = self.options.platform.clone();
                let image = self
                    .images
                    .get(reference, &platform)
                    .map_err(|message| self.image_error(token.span.clone(), reference, &message))?;
                let metadata = Metadata {
                    name: format!("FROM {}", image.name()),
                    location: Some(token.span.clone()),
                    ignore_cache: false,
                };
                Ok(Files { edge: self.image_source(&image, &platform, metadata), is_local: false })
            }
        }
    }

    /// Adds a vertex that no instruction stands for.
    pub(super) fn add_internal(&mut self, op: Op, name: String) -> Edge {
        let metadata = Metadata { name, ..Metadata::default() };
        self.definition.add(Vertex { op, inputs: Vec::new(), platform: None, metadata })
    }

    fn start_from_stage(&mut self, stage: &mut Stage, below: usize) {
        self.bases_left[below] -= 1;
        let is_last = self.bases_left[below] == 0;
        let Some(below) = self.done[below].as_mut() else { return };
        stage.platform.clone_from(&below.platform);
        stage.head = below.head;
        stage.base = below.base;
        stage.base_layers = below.base_layers;
        stage.base_history = below.base_history;
        stage.layers = hand_on(&mut below.layers, is_last);
        stage.config = hand_on(&mut below.config, is_last);
        stage.config.config.on_build = None;
        stage.env = hand_on(&mut below.env, is_last);
        stage.is_settled = below.is_settled;
        stage.args.clone_from(&below.args);
        stage.bytes += stage.args.len() * ARG_BYTES;
        if !is_last {
            stage.bytes += config_bytes(&stage.config) + stage.env.list_bytes();
        }
        stage.declared = hand_on(&mut below.declared, is_last);
        stage.seen = below.seen.inherited();
    }

    fn local_context(&mut self, name: &str) -> Edge {
        let op = Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: BTreeMap::new() });
        self.add_internal(op, format!("[context {name}] load from client"))
    }

    /// The source of an image; an image without layers is no files.
    fn image_source(&mut self, image: &BaseImage, platform: &Platform, metadata: Metadata) -> Option<Edge> {
        if image.config.layer_count() == 0 {
            return None;
        }
        let op = Op::Source(SourceOp { identifier: image.identifier.clone(), attrs: BTreeMap::new() });
        Some(self.definition.add(Vertex {
            op,
            inputs: Vec::new(),
            platform: Some(platform.clone()),
            metadata,
        }))
    }

    fn ignores_cache(&self, index: usize) -> bool {
        let name = self.dockerfile.stages[index].name.as_ref().map(|name| name.text.to_lowercase());
        self.options.no_cache
            || name.is_some_and(|name| {
                self.options.no_cache_stages.iter().any(|stage| stage.to_lowercase() == name)
            })
    }
}

/// About what an argument of a stage below takes, which each stage keeps.
const ARG_BYTES: usize = 64;

/// What a stage takes over from the one below. The last to do so moves it, so that a chain of stages does not hold as many
/// copies of an environment as it is long.
fn hand_on<T: Clone + Default>(value: &mut T, is_last: bool) -> T {
    if is_last { std::mem::take(value) } else { value.clone() }
}

/// About how many bytes a config takes.
fn config_bytes(config: &ImageConfig) -> usize {
    let history = config.history.iter().map(|entry| history::ENTRY_BYTES + entry.created_by.len());
    let inner = &config.config;
    let env = inner.env.iter().flatten().map(String::len);
    let labels = inner.labels.iter().flatten().map(|(name, value)| name.len() + value.len());
    let sets = inner.exposed_ports.iter().chain(&inner.volumes).flatten().map(|(name, _)| name.len());
    let names = env.chain(labels).chain(sets).map(|bytes| history::ENTRY_BYTES + bytes);
    history.chain(names).sum()
}

/// What every stage has, whatever it starts from: a `PATH`, ENV as variables (set again: the image's ENV is stronger
/// than an ARG of the stage below), a cleaned working directory.
fn settle(stage: &mut Stage) {
    let is_windows = stage.platform.os == "windows";
    let config = &mut stage.config.config;
    let list = config.env.get_or_insert_default();
    if !is_windows && !list.iter().any(|variable| env::split(variable).0 == "PATH") {
        list.push(format!("PATH={DEFAULT_PATH}"));
    }
    // A long chain of stages does not do it again for each.
    if !std::mem::replace(&mut stage.is_settled, true) {
        for variable in list.iter() {
            let (name, value) = env::split(variable);
            stage.env.set(name, value);
        }
    }
    if !config.working_dir.is_empty() {
        config.working_dir = path::clean(&config.working_dir);
    }
}

fn empty_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::default();
    config.config.working_dir = "/".to_owned();
    set_platform(&mut config, platform);
    config
}

fn inherited_config(mut config: ImageConfig, platform: &Platform) -> ImageConfig {
    config.created = None;
    config.rootfs.kind = RootFs::default().kind;
    config.config.on_build = None;
    if config.os.is_empty() || config.architecture.is_empty() {
        set_platform(&mut config, platform);
    }
    config
}

/// Makes an image's config say what it is for. A platform that was asked for does not speak of the base's variant and
/// version of the operating system unless it names one, or is another system or architecture.
pub(super) fn settle_platform(config: &mut ImageConfig, asked: Option<&Platform>) {
    if let Some(asked) = asked {
        let is_same = (&config.os, &config.architecture) == (&asked.os, &asked.architecture);
        let keep = |field: &String, asked: &String| {
            if is_same && asked.is_empty() { field.clone() } else { asked.clone() }
        };
        let variant = keep(&config.variant, &asked.variant);
        let os_version = keep(&config.os_version, &asked.os_version);
        set_platform(config, &Platform { variant, os_version, ..asked.clone() });
    }
    let platform = platform::normalise(&Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os_version: config.os_version.clone(),
    });
    set_platform(config, &platform);
}

fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    config.variant.clone_from(&platform.variant);
    config.os_version.clone_from(&platform.os_version);
}

/// A local directory as a root file system: everything in it, owned by root.
fn copy_whole() -> Op {
    let copy = CopyAction {
        from: Some(ActionInput::Input(0)),
        src: "/".to_owned(),
        dest: "/".to_owned(),
        owner: Some(owner::root()),
        dir_contents_only: true,
        create_dest_path: true,
        ..CopyAction::default()
    };
    Op::File(FileOp {
        actions: vec![FileAction { base: ActionInput::Scratch, change: FileChange::Copy(copy) }],
    })
}
