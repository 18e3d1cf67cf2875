//! What may stand where: one table of the specification's keys, from which a file is checked, brought into its long form
//! and merged with others.

mod resources;
mod service;

use super::canonical::Cx;
use super::node::{Map, Node, Path};

pub(super) use resources::PROJECT;

/// What a value may be, and what it becomes.
pub(super) enum Shape {
    /// Anything; it is not looked at.
    Any,
    /// A string.
    Text,
    /// A string or a number, which becomes the text it was written as.
    Scalar,
    /// `true`, or a string that means so.
    Bool,
    /// A whole number of this range, or a string that is one.
    Integer(i64, i64),
    /// A number that is not negative, or a string that is one.
    Decimal,
    /// `512m`, `1gb`, 1024: becomes a string of bytes.
    Bytes,
    /// `1m30s`: becomes the shortest such text.
    Duration,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A string of a syntax of its own.
    Checked(fn(&str) -> Result<String, String>),
    /// A path on this machine: becomes absolute.
    Path,
    /// A command: a string is split into words.
    Words,
    /// The test of a healthcheck.
    Test,
    /// `{NAME: value}` or `[NAME=value]`: becomes the mapping.
    Pairs(Absent),
    /// Several.
    List(&'static List),
    /// Any names, each with such a value.
    Names(&'static Shape),
    /// Known keys.
    Struct(&'static Struct),
    /// Nothing, or this.
    NullOr(&'static Shape),
    /// A short form that becomes the long one.
    Short(Expand, &'static Shape),
}

/// Makes the long form of a short one; the long form passes through. What is wrong it says, and returns nothing.
pub(super) type Expand = fn(Node, &Path<'_>, &mut Cx<'_>) -> Option<Node>;

/// Makes the long forms of all that one item of a list stands for.
pub(super) type Spread = fn(Node, &Path<'_>, &mut Cx<'_>) -> Vec<Node>;

/// What a name without a value in [`Shape::Pairs`] means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// The value comes from the environment.
    FromEnvironment,
    /// The value is empty.
    Empty,
}

/// A list.
pub(super) struct List {
    /// What each is.
    pub(super) item: Shape,
    /// Whether one alone may stand without the list.
    pub(super) or_one: bool,
    /// What makes several of one that is written (port ranges).
    pub(super) spread: Option<Spread>,
    /// What two of them may not share.
    pub(super) unique: Unique,
}

/// By what the items of a list are told apart when files are merged: the later takes the place of the earlier.
pub(super) enum Unique {
    /// Not at all: both stay.
    No,
    /// By all they are.
    Whole,
    /// By one of their keys.
    By(fn(&Map) -> String),
    /// By one of their keys, and both are merged.
    MergedBy(&'static str),
}

/// A mapping of known keys. `x-*` may stand in each.
pub(super) struct Struct {
    pub(super) fields: &'static [(&'static str, Shape)],
    pub(super) required: &'static [&'static str],
    /// What is done when all its keys are.
    pub(super) finish: Option<fn(&mut Map, &Path<'_>, &mut Cx<'_>)>,
}

impl Struct {
    pub(super) fn field(&self, name: &str) -> Option<&Shape> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, shape)| shape)
    }
}

const fn fields(fields: &'static [(&'static str, Shape)]) -> Struct {
    Struct { fields, required: &[], finish: None }
}

const fn list(item: Shape, unique: Unique) -> List {
    List { item, or_one: false, spread: None, unique }
}

const fn one_or_more(item: Shape, unique: Unique) -> List {
    List { item, or_one: true, spread: None, unique }
}

static TEXTS: List = list(Shape::Text, Unique::Whole);
static SCALARS: List = list(Shape::Scalar, Unique::Whole);
static ONE_OR_MORE_TEXTS: List = one_or_more(Shape::Text, Unique::Whole);
static ONE_OR_MORE_PATHS: List = one_or_more(Shape::Path, Unique::Whole);

const POSITIVE: Shape = Shape::Integer(0, i64::MAX);
const WHOLE: Shape = Shape::Integer(i64::MIN, i64::MAX);
const LABELS: Shape = Shape::Pairs(Absent::Empty);
const VARIABLES: Shape = Shape::Pairs(Absent::FromEnvironment);
