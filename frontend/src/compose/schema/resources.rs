//! The keys at the top, and of what services share.

use super::super::canonical::{short, values};
use super::service::SERVICE;
use super::{Absent, LABELS, List, ONE_OR_MORE_PATHS, Shape, Struct, TEXTS, Unique, WHOLE, fields, list};

/// A whole file.
pub(in super::super) static PROJECT: Struct = fields(&[
    ("version", Shape::Scalar),
    ("name", Shape::Checked(values::project_name)),
    ("include", Shape::List(&INCLUDES)),
    ("services", Shape::Names(&Shape::Struct(&SERVICE))),
    ("models", Shape::Names(&Shape::Struct(&MODEL))),
    ("networks", Shape::Names(&Shape::NullOr(&Shape::Struct(&NETWORK)))),
    ("volumes", Shape::Names(&Shape::NullOr(&Shape::Struct(&VOLUME)))),
    ("secrets", Shape::Names(&Shape::Struct(&SECRET))),
    ("configs", Shape::Names(&Shape::Struct(&CONFIG))),
]);

static INCLUDES: List = list(Shape::Short(short::include, &Shape::Struct(&INCLUDE)), Unique::No);
static INCLUDE: Struct = Struct {
    fields: &[
        ("path", Shape::List(&ONE_OR_MORE_PATHS)),
        ("env_file", Shape::List(&ONE_OR_MORE_PATHS)),
        ("project_directory", Shape::Path),
    ],
    required: &["path"],
    finish: None,
};

static MODEL: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("model", Shape::Text),
        ("context_size", WHOLE),
        ("runtime_flags", Shape::List(&TEXTS)),
    ],
    required: &["model"],
    finish: None,
};

static NETWORK: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("driver", Shape::Text),
        ("driver_opts", Shape::Names(&Shape::Scalar)),
        ("ipam", Shape::Struct(&IPAM)),
        ("external", Shape::Short(short::external, &Shape::Any)),
        ("internal", Shape::Bool),
        ("enable_ipv4", Shape::Bool),
        ("enable_ipv6", Shape::Bool),
        ("attachable", Shape::Bool),
        ("labels", LABELS),
    ],
    required: &[],
    finish: Some(short::external_name),
};
static IPAM: Struct = fields(&[
    ("driver", Shape::Text),
    ("config", Shape::List(&IPAM_CONFIGS)),
    ("options", Shape::Names(&Shape::Text)),
]);
static IPAM_CONFIGS: List = list(Shape::Struct(&IPAM_CONFIG), Unique::MergedBy("subnet"));
static IPAM_CONFIG: Struct = fields(&[
    ("subnet", Shape::Checked(values::subnet)),
    ("ip_range", Shape::Checked(values::subnet)),
    ("gateway", Shape::Checked(values::ip)),
    ("aux_addresses", Shape::Names(&Shape::Checked(values::ip))),
]);

static VOLUME: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("driver", Shape::Text),
        ("driver_opts", Shape::Names(&Shape::Scalar)),
        ("external", Shape::Short(short::external, &Shape::Any)),
        ("labels", LABELS),
    ],
    required: &[],
    finish: Some(short::volume),
};

static SECRET: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("environment", Shape::Text),
        ("file", Shape::Path),
        ("external", Shape::Short(short::external, &Shape::Any)),
        ("labels", Shape::Pairs(Absent::Empty)),
        ("driver", Shape::Text),
        ("driver_opts", Shape::Names(&Shape::Scalar)),
        ("template_driver", Shape::Text),
    ],
    required: &[],
    finish: Some(short::external_name),
};

static CONFIG: Struct = Struct {
    fields: &[
        ("name", Shape::Text),
        ("content", Shape::Text),
        ("environment", Shape::Text),
        ("file", Shape::Path),
        ("external", Shape::Short(short::external, &Shape::Any)),
        ("labels", Shape::Pairs(Absent::Empty)),
        ("template_driver", Shape::Text),
    ],
    required: &[],
    finish: Some(short::external_name),
};
