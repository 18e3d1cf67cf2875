//! The image config: OCI's fields and Docker's extensions (Healthcheck, OnBuild, Shell, ArgsEscaped), read from a base
//! image and written for the result.
//!
//! Reading takes what the engines in use write: `null` for anything empty, absent fields, fields of their own. Writing is
//! deterministic and in BuildKit's field order (the outer object sorted, `config` in the specification's order with
//! Docker's extensions last), empty fields left out, so equal configs have equal bytes.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

/// Configs are a few kilobytes; one that is larger than this is not read.
pub const IMAGE_CONFIG_BYTES_MAX: usize = 8 << 20;

/// Why a config cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageConfigError {
    /// Larger than [`IMAGE_CONFIG_BYTES_MAX`].
    #[error("image config of {0} bytes is larger than {IMAGE_CONFIG_BYTES_MAX}")]
    TooLarge(usize),
    /// Not the JSON of an image config.
    #[error("cannot parse image config: {0}")]
    Json(#[source] serde_json::Error),
}

/// An image config (OCI image-spec, config.md, with Docker's extensions).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `arm64`, …
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// Author (MAINTAINER).
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What a container of it starts with.
    #[serde(deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// RFC 3339; filled by the exporter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// One entry an instruction.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// `linux`.
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    /// Features of the operating system that are needed.
    #[serde(
        rename = "os.features",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// Version of the operating system.
    #[serde(
        rename = "os.version",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Layers; the base image's until the exporter fills them.
    #[serde(deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// `v7`, …
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl ImageConfig {
    /// Reads a config as engines write them.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ImageConfigError> {
        if bytes.len() > IMAGE_CONFIG_BYTES_MAX {
            return Err(ImageConfigError::TooLarge(bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(ImageConfigError::Json)
    }

    /// The config's bytes; equal configs give equal bytes. They are those that Go's encoder writes, which escapes what
    /// HTML and JavaScript could take for their own, so that equal configs have equal digests whoever wrote them.
    pub fn to_json(&self) -> Vec<u8> {
        let json =
            serde_json::to_string(self).expect("strings, numbers and maps with string keys always serialise");
        let mut bytes = Vec::with_capacity(json.len());
        // None of these characters is part of JSON's own syntax.
        for c in json.chars() {
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    bytes.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
                }
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }

    /// Number of layers: the DiffIDs or, where an old image has none, the history entries that made one.
    pub fn layer_count(&self) -> usize {
        match self.rootfs.diff_ids.len() {
            0 => self.history.iter().filter(|entry| !entry.empty_layer).count(),
            count => count,
        }
    }
}

/// The `config` object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct ContainerConfig {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub env: Option<Vec<String>>,
    #[serde(deserialize_with = "command_line", skip_serializing_if = "is_empty_list")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "command_line", skip_serializing_if = "is_empty_list")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(deserialize_with = "labels", skip_serializing_if = "is_empty_map")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub shell: Option<Vec<String>>,
}

/// `{}`, whatever stands there when it is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// Docker's health check: `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", s]`; durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct HealthConfig {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The `rootfs` object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    /// DiffIDs, lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One history entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339; filled by the exporter for new entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who wrote it.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// `buildkit.dockerfile.v0` for our entries: tools look for it.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn is_empty_list(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn is_empty_map<V>(map: &Option<BTreeMap<String, V>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `Cmd` and `Entrypoint`: a list or, from very old engines, one string.
fn command_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    let words = Option::<Words>::deserialize(deserializer)?;
    Ok(words.map(|words| match words {
        Words::List(list) => list,
        Words::One(word) => vec![word],
    }))
}

/// Labels whose value is `null` are empty.
fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let labels = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    Ok(labels.map(|labels| labels.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(config: &str, expected: Expect) {
        let actual = match ImageConfig::from_json(config.as_bytes()) {
            Ok(config) => {
                let bytes = config.to_json();
                assert_eq!(ImageConfig::from_json(&bytes).expect("what was written"), config);
                String::from_utf8(bytes).expect("JSON is UTF-8")
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&actual);
    }

    #[test]
    fn nulls_and_absent_fields_are_empty() {
        check(
            r#"{"os": null, "config": {"Cmd": null, "Labels": {"a": null, "b": "c"}, "Env": null, "User": null,
                "ExposedPorts": {"80/tcp": null, "81/tcp": {"x": 1}}, "ArgsEscaped": null, "Healthcheck": {"Test": null}},
                "rootfs": {"type": null, "diff_ids": null}, "history": null, "created": null, "os.features": null}"#,
            expect![
                r#"{"architecture":"","config":{"ExposedPorts":{"80/tcp":{},"81/tcp":{}},"Labels":{"a":"","b":"c"},"Healthcheck":{}},"os":"","rootfs":{"type":"","diff_ids":[]}}"#
            ],
        );
        check(
            "{}",
            expect![r#"{"architecture":"","config":{},"os":"","rootfs":{"type":"layers","diff_ids":[]}}"#],
        );
        check(
            r#"{"config": null, "rootfs": null}"#,
            expect![r#"{"architecture":"","config":{},"os":"","rootfs":{"type":"layers","diff_ids":[]}}"#],
        );
    }

    #[test]
    fn fields_of_engines_are_dropped_and_those_of_the_specification_kept() {
        check(
            r#"{"architecture": "amd64", "variant": "v2", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"],
                "author": "me", "created": "2020-01-01T00:00:00Z", "docker_version": "1.2", "container": "abc",
                "container_config": {"Hostname": "x"},
                "config": {"Hostname": "", "AttachStdin": false, "Cmd": "sh", "Entrypoint": ["a"], "OnBuild": ["RUN x"],
                           "Shell": ["/bin/bash", "-c"], "StopSignal": "SIGINT", "Volumes": {"/v": {}}},
                "history": [{"created_by": "x", "empty_layer": true}, {"comment": null}]}"#,
            expect![
                r#"{"architecture":"amd64","author":"me","config":{"Entrypoint":["a"],"Cmd":["sh"],"Volumes":{"/v":{}},"StopSignal":"SIGINT","OnBuild":["RUN x"],"Shell":["/bin/bash","-c"]},"created":"2020-01-01T00:00:00Z","history":[{"created_by":"x","empty_layer":true},{}],"os":"windows","os.features":["win32k"],"os.version":"10.0.1","rootfs":{"type":"layers","diff_ids":[]},"variant":"v2"}"#
            ],
        );
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        check(
            "{\"author\": \"<a> & \\u2028\\u2029 \\u00e9 \\u0007 \\\\\"}",
            expect![[
                r#"{"architecture":"","author":"\u003ca\u003e \u0026 \u2028\u2029 é \u0007 \\","config":{},"os":"","rootfs":{"type":"layers","diff_ids":[]}}"#
            ]],
        );
    }

    #[test]
    fn what_is_no_config_is_an_error() {
        check(
            r#"{"os": 1}"#,
            expect![
                "cannot parse image config: invalid type: integer `1`, expected a string at line 1 column 8"
            ],
        );
        check("", expect!["cannot parse image config: EOF while parsing a value at line 1 column 0"]);
    }
}
