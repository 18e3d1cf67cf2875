//! The project as types: everything in its long form, every path absolute, every name resolved.
//!
//! These are also what `compose config` prints: a field that says nothing is left out.

mod build;
mod deploy;
mod mount;
mod project;
mod service;
mod values;

pub use build::{Build, Ulimit};
pub use deploy::{
    Deploy, DeviceRequest, DiscreteResource, GenericResource, Limits, Placement, Preference, Reservations,
    Resources, RestartPolicy, UpdateConfig,
};
pub use mount::{
    BindOptions, Device, FileUse, ImageOptions, Mount, MountKind, Port, TmpfsOptions, VolumeOptions,
};
pub use project::{Config, Extensions, Ipam, IpamPool, Model, Network, Project, Secret, Volume};
pub use service::{
    Attachment, BlkioConfig, Condition, CredentialSpec, Dependency, Develop, DeviceRate, DeviceWeight,
    FirstHook, Healthcheck, Hook, Logging, ModelUse, Provider, Service, Watch, WatchAction,
};
pub use values::{Bytes, Duration, ExtraHost, FileMode, Protocol};

/// Whether a field says nothing.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Types whose fields may each be absent.
macro_rules! model {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident $(= $key:literal)?: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(skip_serializing_if = "crate::compose::model::is_default")]
                $(#[serde(rename = $key)])?
                pub $field: $type,
            )*
            /// Keys that begin with `x-`.
            #[serde(flatten)]
            pub extensions: crate::compose::model::Extensions,
        }
    )*};
}
use model;
