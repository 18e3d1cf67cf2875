//! Values with a text of their own.

use serde::{Deserialize, Serialize};

use super::super::canonical::values;

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(pub std::time::Duration);

impl TryFrom<String> for Duration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let nanoseconds = values::parse_duration(&text).ok_or_else(|| format!("{text} is no duration"))?;
        Ok(Self(std::time::Duration::from_nanos(nanoseconds)))
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        values::format_duration(u64::try_from(duration.0.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A number of bytes; -1 where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub i64);

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        values::parse_bytes(&text).map(Self).ok_or_else(|| format!("{text} is no size"))
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.0.to_string()
    }
}

/// The mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u32::from_str_radix(&text, 8).map(Self).map_err(|_| format!("{text} is no mode of a file"))
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        format!("0{:03o}", mode.0)
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtraHost {
    /// The name.
    pub host: String,
    /// Its address, or `host-gateway`.
    pub address: String,
}

impl TryFrom<String> for ExtraHost {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (host, address) = text.split_once('=').ok_or_else(|| format!("{text} is not HOST=ADDRESS"))?;
        Ok(Self { host: host.to_owned(), address: address.to_owned() })
    }
}

impl From<ExtraHost> for String {
    fn from(line: ExtraHost) -> Self {
        format!("{}={}", line.host, line.address)
    }
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}
