//! What can go wrong between us and a web server. URLs are shown without what is secret in them.

use std::error::Error;

use wharf_cache::snapshot::SnapshotError;
use wharf_cache::{Digest, StoreError};

use crate::source::OFFLINE_HINT;

/// Why a URL could not be brought here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The text is no URL.
    #[error("`{url}` is not a URL: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A secret cannot be sent.
    #[error("secret `{id}` cannot be sent to {host}: it is no header value")]
    Secret {
        /// Its id.
        id: String,
        /// Who would get it.
        host: String,
    },
    /// A secret cannot be had.
    #[error("cannot read secret `{id}`")]
    NoSecret {
        /// Its id.
        id: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nobody was asked: the build is offline.
    #[error("{url} was never downloaded, and the build is offline")]
    Offline {
        /// What.
        url: String,
    },
    /// No answer.
    #[error("cannot download {url}")]
    Unreachable {
        /// What.
        url: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The client could not be made.
    #[error("cannot set up the connection to download {url}")]
    Client {
        /// What for.
        url: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A redirect leads nowhere.
    #[error("cannot download {url}: {reason}")]
    Redirect {
        /// What.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The server refused.
    #[error("cannot download {url}: the server answered {status}")]
    Status {
        /// What.
        url: String,
        /// Status and what it means.
        status: String,
        /// The number.
        code: u16,
        /// The host, as secrets name it.
        host: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// The answer broke off.
    #[error("the download of {url} broke off")]
    Broken {
        /// What.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// More bytes than we are ready to take.
    #[error("{url} has more than {max} bytes")]
    TooLarge {
        /// What.
        url: String,
        /// The limit.
        max: u64,
    },
    /// The bytes are not the ones that were promised.
    #[error("{url} has the digest {actual}, expected {expected}")]
    Checksum {
        /// What.
        url: String,
        /// What `--checksum` says.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The file could not be written.
    #[error("cannot keep what {url} gave")]
    Write {
        /// What.
        url: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not be looked for an archive in it.
    #[error("cannot read what {url} gave")]
    Archive {
        /// What.
        url: String,
        /// Why not.
        source: Box<wharf_cache::diff::DiffError>,
    },
    /// The build was cancelled.
    #[error("the download of {url} was stopped")]
    Cancelled {
        /// What.
        url: String,
    },
    /// The snapshotter.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The store's database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl HttpError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Offline { .. } => Some(OFFLINE_HINT.to_owned()),
            Self::Unreachable { .. } => {
                Some("check the name of the host, the network, and the proxy variables".to_owned())
            }
            Self::Client { .. } => Some("install the CA certificates (package ca-certificates)".to_owned()),
            Self::Status { code: 401 | 403, host, with_credentials: false, .. } => Some(format!(
                "give a token as the secret `HTTP_AUTH_TOKEN_{host}`, or a whole `Authorization` header as `HTTP_AUTH_HEADER_{host}`"
            )),
            Self::Status { code: 401 | 403, .. } => Some("the credentials do not allow this".to_owned()),
            Self::Status { code: 404 | 410, .. } => Some("check the URL".to_owned()),
            Self::Status { code: 429 | 500.., .. } => Some("try again later".to_owned()),
            Self::Checksum { actual, .. } => Some(format!(
                "if the new content is right, it is `--checksum={actual}`; otherwise do not use it"
            )),
            _ => None,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Status { code, .. } => matches!(code, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}
