//! What an image's bytes depend on besides what was built.

use wharf_cache::diff::{Compression, Variant};

use super::annotations::{Annotation, Annotations, Level};
use crate::layers::Form;

/// The form that an output wants its image in. Outputs that want the same get the same image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// How new layers are compressed.
    pub compression: Compression,
    /// Whether the layers of the base image are, too.
    pub force_compression: bool,
    /// Whose names its parts have.
    pub types: MediaTypes,
    /// Its annotations.
    pub annotations: Annotations,
    /// What becomes of times.
    pub times: Times,
}

/// Whose media types the parts of an image have. The bytes behind them mean the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the OCI image specification.
    #[default]
    Oci,
    /// Docker's, for registries and programs that know no others.
    Docker,
}

/// What becomes of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// No time is later (seconds since 1970), in place of what the build says.
    pub epoch: Option<u64>,
    /// Whether that holds for the files of new layers; `None` if nothing was said.
    pub rewrite: Option<bool>,
}

impl ImageForm {
    /// The form of its layers. `epoch` is the `SOURCE_DATE_EPOCH` of the build.
    pub fn layers(&self, epoch: Option<u64>) -> Form {
        let clamp_time_s = match self.times.rewrite {
            Some(false) => None,
            _ => self.times.epoch(epoch),
        };
        Form {
            variant: Variant { compression: self.compression, clamp_time_s },
            force: self.force_compression,
        }
    }
}

impl ImageForm {
    /// What of it cannot be had together.
    pub fn contradiction(&self) -> Option<&'static str> {
        let MediaTypes::Docker = self.types else { return None };
        let in_documents = |it: &Annotation| it.target.level != Level::IndexDescriptor;
        match self.compression {
            Compression::Zstd { .. } => Some("Docker's media types (`oci-mediatypes=false`) have no zstd"),
            Compression::Estargz { .. } => Some(
                "the layers of estargz have annotations, and Docker's media types (`oci-mediatypes=false`) none",
            ),
            _ if self.annotations.0.iter().any(in_documents) => {
                Some("what Docker's media types (`oci-mediatypes=false`) stand for has no annotations")
            }
            _ => None,
        }
    }
}

impl Times {
    /// No time of the output is later. `epoch` is the `SOURCE_DATE_EPOCH` of the build.
    pub fn epoch(&self, epoch: Option<u64>) -> Option<u64> {
        self.epoch.or(epoch)
    }
}

impl MediaTypes {
    /// Of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => super::image::MANIFEST_TYPE,
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// Of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => super::image::INDEX_TYPE,
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => super::image::CONFIG_TYPE,
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// Of a layer that came with `media_type`; a manifest must not mix them.
    pub fn layer(self, media_type: &str) -> &str {
        let find = |to: fn(&(&'static str, &'static str)) -> &'static str| {
            LAYERS.iter().find(|(oci, docker)| [*oci, *docker].contains(&media_type)).map(to)
        };
        match self {
            Self::Oci => find(|(oci, _)| oci),
            Self::Docker => find(|(_, docker)| docker),
        }
        .unwrap_or(media_type)
    }
}

/// Types of layers: OCI's and Docker's.
const LAYERS: [(&str, &str); 5] = [
    ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"),
    ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ("application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd"),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];
