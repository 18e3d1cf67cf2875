//! What of the outside a container sees: mounts, files, devices, ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::canonical::values;
use super::{Bytes, Extensions, FileMode, Protocol, is_default, model};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of this machine.
    Bind,
    /// A volume: named if it has a source, else anonymous.
    #[default]
    Volume,
    /// Memory.
    Tmpfs,
    /// A volume of a cluster.
    Cluster,
    /// A pipe of Windows.
    Npipe,
    /// The files of an image.
    Image,
}

/// One of `volumes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    #[serde(rename = "type")]
    pub kind: MountKind,
    /// An absolute path, the key of a volume, or an image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: Option<String>,
    /// Where in the container.
    pub target: String,
    /// Nobody writes to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Of no meaning on Linux.
    #[serde(default, skip_serializing_if = "is_default")]
    pub consistency: Option<String>,
    /// Of a bind mount.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bind: Option<BindOptions>,
    /// Of a volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volume: Option<VolumeOptions>,
    /// Of memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tmpfs: Option<TmpfsOptions>,
    /// Of an image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: Option<ImageOptions>,
    /// Keys that begin with `x-`.
    #[serde(flatten)]
    pub extensions: Extensions,
}

model! {
    /// Of a bind mount.
    BindOptions {
        /// `rprivate`, if nothing is said.
        propagation: Option<String>,
        /// Whether what is not there is made, as a directory.
        create_host_path: Option<bool>,
        /// Whether mounts below it come along.
        recursive: Option<String>,
        /// `z` shared, `Z` private.
        selinux: Option<String>,
    }

    /// Of a volume.
    VolumeOptions {
        /// Labels.
        labels: BTreeMap<String, String>,
        /// It is not filled with what the image has there.
        nocopy: bool,
        /// The part of it that is mounted.
        subpath: Option<String>,
    }

    /// Of memory.
    TmpfsOptions {
        /// How large it may grow.
        size: Option<Bytes>,
        /// Of its root.
        mode: Option<FileMode>,
    }

    /// Of an image.
    ImageOptions {
        /// The part of it that is mounted.
        subpath: Option<String>,
    }

    /// A secret or a config in a container.
    FileUse {
        /// Its key in the project.
        source: String,
        /// Where in the container; of a build's secret its id.
        target: String,
        /// Its owner.
        uid: Option<String>,
        /// Its group.
        gid: Option<String>,
        /// Its mode.
        mode: Option<FileMode>,
    }

    /// A device.
    Device {
        /// On this machine.
        source: String,
        /// In the container.
        target: String,
        /// Of `rwm`.
        permissions: String,
    }
}

/// A published port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// What it is for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// `ingress` or `host`: the same on one machine.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Option<String>,
    /// The address of this machine; all, if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_ip: Option<String>,
    /// In the container.
    pub target: u16,
    /// The port of this machine, or a range of which one is taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub published: Option<String>,
    /// What it speaks.
    pub protocol: Protocol,
    /// The protocol above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub app_protocol: Option<String>,
    /// Keys that begin with `x-`.
    #[serde(flatten)]
    pub extensions: Extensions,
}

impl Port {
    /// The ports of the host of which one is taken, first and last; none if any will do.
    pub fn published_range(&self) -> Option<(u16, u16)> {
        values::port_range(self.published.as_deref()?)
    }
}
