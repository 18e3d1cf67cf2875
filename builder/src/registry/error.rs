//! What can go wrong between us and a registry.

use std::error::Error;
use std::time::Duration;

use wharf_cache::Digest;

use super::credentials::CredentialError;
use crate::error::{causes, chain};
use crate::source::OFFLINE_HINT;

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nobody was asked: the build is offline.
    #[error("registry {registry} is not asked to {operation} {object}: the build is offline")]
    Offline {
        /// Host of the registry.
        registry: String,
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
    },
    /// Somebody wants all to end.
    #[error("interrupted while registry {registry} was asked to {operation} {object}")]
    Interrupted {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
    },
    /// No answer: no such host, connection refused or cut, TLS refused, silence.
    #[error("cannot reach registry {registry} to {operation} {object}")]
    Unreachable {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The transport's words.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its certificate is of an authority that we do not know, for another host, or out of date.
    #[error("the certificate of registry {registry} is not trusted, so wharf does not {operation} {object}")]
    Untrusted {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The HTTP client could not be made (unreadable certificates).
    #[error("cannot set up the connection to registry {registry}")]
    Client {
        /// Host of the registry.
        registry: String,
        /// The client's words.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The registry wants other credentials, or these are not enough.
    #[error("registry {registry} does not let us {operation} {object}{}", detail_suffix(detail))]
    Unauthorized {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// Whether credentials were sent.
        with_credentials: bool,
        /// The registry's words.
        detail: String,
    },
    /// The user's credentials could not be read.
    #[error("cannot read the credentials for registry {registry}")]
    Credentials {
        /// Host of the registry.
        registry: String,
        /// Why not.
        source: Box<CredentialError>,
    },
    /// There is no such thing in the registry.
    #[error("{object} is not in registry {registry}{}", detail_suffix(detail))]
    NotFound {
        /// Host of the registry.
        registry: String,
        /// What was looked for.
        object: String,
        /// The registry's words.
        detail: String,
    },
    /// The registry answered with a status that ends the matter.
    #[error("registry {registry} answered {status} to {operation} {object}{}", detail_suffix(detail))]
    Refused {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// HTTP status.
        status: u16,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// The registry's words.
        detail: String,
    },
    /// The registry broke the distribution specification.
    #[error("registry {registry} broke the protocol while we wanted to {operation} {object}: {reason}")]
    Protocol {
        /// Host of the registry.
        registry: String,
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// How.
        reason: String,
    },
    /// The bytes are not the ones that were asked for.
    #[error("registry {registry} served {object} with digest {actual}, expected {expected}")]
    WrongDigest {
        /// Host of the registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// More bytes than we are ready to take.
    #[error("{object} of registry {registry} has more than {max} bytes")]
    TooLarge {
        /// Host of the registry.
        registry: String,
        /// What it is.
        object: String,
        /// The limit.
        max: u64,
    },
    /// Neither mirrors nor, if it was asked, the registry itself.
    #[error("{}; {last}", others.iter().map(|error| causes(error)).collect::<Vec<_>>().join("; "))]
    Everywhere {
        /// Why each place but the last one that was asked did not, in their order.
        others: Vec<RegistryError>,
        /// Why the last one did not.
        #[source]
        last: Box<RegistryError>,
    },
    /// What was to be uploaded could not be read.
    #[error("cannot read {object} for the upload")]
    Upload {
        /// The blob.
        object: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Whether TLS failed because a server's certificate is one that signs others.
fn speaks_of_authority(error: &(dyn Error + 'static)) -> bool {
    let is_it = error.to_string().contains("CaUsedAsEndEntity");
    is_it || error.source().is_some_and(speaks_of_authority)
}

/// Whether TLS failed because what came was no TLS.
fn speaks_something_else(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let mut tls = chain(error).filter_map(|error| error.downcast_ref::<rustls::Error>());
    tls.any(|error| matches!(error, rustls::Error::InvalidMessage(_)))
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl RegistryError {
    /// The error of whoever asked several places, each of which failed.
    pub(super) fn of_places(mut failures: Vec<Self>) -> Self {
        match failures.pop() {
            Some(last) if failures.is_empty() => last,
            Some(last) => Self::Everywhere { others: failures, last: Box::new(last) },
            None => unreachable!("a name is looked for in one place at least"),
        }
    }

    /// Whether there is no such thing, as far as could be found out.
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Everywhere { last, .. } => last.is_not_found(),
            _ => false,
        }
    }

    /// Whether the registry refuses to let a tag name something else. There is no code for it, only the words of those
    /// that have such tags.
    pub(super) fn is_immutable_tag(&self) -> bool {
        match self {
            Self::Unauthorized { detail, .. } | Self::Refused { detail, .. } => {
                let detail = detail.to_lowercase();
                detail.contains("tag") && (detail.contains("immutable") || detail.contains("immutability"))
            }
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Offline { .. } => Some(OFFLINE_HINT.to_owned()),
            Self::Untrusted { source, .. } if speaks_of_authority(source.as_ref()) => Some(
                "the server shows the certificate of an authority (CA:TRUE) as its own, which is not believed: make one with \
                 `basicConstraints=CA:FALSE`, or have that authority sign one"
                    .to_owned(),
            ),
            Self::Unreachable { registry, source, .. } if speaks_something_else(source.as_ref()) => Some(format!(
                "what answers at {registry} speaks no TLS: if that is as it should be, say `--insecure-registry \
                 {registry}`, or `http = true` in `[registry.\"{registry}\"]` of the configuration"
            )),
            Self::Unreachable { .. } => Some("check the name and the network".to_owned()),
            Self::Untrusted { registry, .. } => Some(format!(
                "if its authority is a private one, say `ca = [\"FILE\"]` in `[registry.\"{registry}\"]` of the \
                 configuration, or put it at /etc/docker/certs.d/{registry}/ca.crt"
            )),
            Self::Client { .. } => Some(crate::certificates::HINT.to_owned()),
            Self::Everywhere { last, .. } => last.hint(),
            Self::Unauthorized { registry, with_credentials: false, .. } => Some(format!(
                "log in first (`wharf login {registry}`); \
                 some registries answer like this for names that do not exist"
            )),
            Self::Unauthorized { registry, .. } => Some(format!(
                "the credentials for {registry} do not allow this; some registries answer like this for names \
                 that do not exist"
            )),
            Self::Credentials { source, .. } => Some(source.hint()),
            Self::NotFound { .. } => Some("check the spelling of the name and the tag".to_owned()),
            Self::Refused { status: 429, retry_after: Some(wait), .. } => Some(format!(
                "the registry limits the rate: wait {} s, log in, or use a mirror",
                wait.as_secs()
            )),
            Self::Refused { status: 429, .. } => {
                Some("the registry limits the rate: wait, log in, or use a mirror".to_owned())
            }
            Self::Refused { status: 500.., .. } => {
                Some("the registry has a problem: try again later".to_owned())
            }
            Self::WrongDigest { .. } | Self::Protocol { .. } => Some(
                "something between wharf and the registry (a proxy, a mirror) may change what it passes on"
                    .to_owned(),
            ),
            Self::Interrupted { .. } | Self::Refused { .. } | Self::TooLarge { .. } | Self::Upload { .. } => None,
        }
    }

    /// How long the registry asks to wait before the next try.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => is_transient_status(*status),
            _ => false,
        }
    }
}

/// Statuses after which the same request may succeed: too many requests, and the servers' own troubles.
pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504)
}
