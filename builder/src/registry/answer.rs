//! What comes back when it is not what was asked for, in words.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};

use super::error::RegistryError;
use super::transport::Call;
use crate::awaited::Answer;
use crate::error::chain;
use crate::progress::printable;

/// How much of an error's body is read, and how much of its message is shown.
const DETAIL_BYTES_MAX: u64 = 64 * 1024;
const DETAIL_CHARS_MAX: usize = 300;
/// It need not come.
const DETAIL_TIME_MAX: Duration = Duration::from_secs(10);

/// An error for an answer whose status ends the matter.
pub(super) fn refusal(call: &Call<'_>, response: Answer, with_credentials: bool) -> RegistryError {
    let (registry, operation, object) = (call.registry.to_owned(), call.operation, call.object.clone());
    let status = response.status();
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|text| retry_after(text, SystemTime::now()));
    let detail = read_detail(response);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryError::Unauthorized { registry, operation, object, with_credentials, detail }
        }
        StatusCode::NOT_FOUND => RegistryError::NotFound { registry, object, detail },
        _ => RegistryError::Refused {
            registry,
            operation,
            object,
            status: status.as_u16(),
            retry_after,
            detail,
        },
    }
}

/// The registry broke the protocol.
pub(super) fn protocol(call: &Call<'_>, reason: &str) -> RegistryError {
    RegistryError::Protocol {
        registry: call.registry.to_owned(),
        operation: call.operation,
        object: call.object.clone(),
        reason: reason.to_owned(),
    }
}

/// Nobody waits for an answer any more.
pub(super) fn interrupted(call: &Call<'_>) -> RegistryError {
    let (registry, operation, object) = (call.registry.to_owned(), call.operation, call.object.clone());
    RegistryError::Interrupted { registry, operation, object }
}

/// No answer came. The caller takes URLs out of `source`: a signed one must not reach a log.
pub(super) fn no_answer(call: &Call<'_>, source: Box<dyn std::error::Error + Send + Sync>) -> RegistryError {
    let (registry, operation, object) = (call.registry.to_owned(), call.operation, call.object.clone());
    let is_untrusted = chain(&*source).any(|error| {
        let tls = error.downcast_ref::<rustls::Error>();
        tls.is_some_and(|error| {
            matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        })
    });
    match is_untrusted {
        true => RegistryError::Untrusted { registry, operation, object, source },
        false => RegistryError::Unreachable { registry, operation, object, source },
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// What a registry says about a refusal: `code: message` of its first error (OCI distribution-spec, error codes).
fn read_detail(response: Answer) -> String {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_text = content_type.is_none_or(|text| text.starts_with("text/plain"));
    let mut bytes = Vec::new();
    // Whatever arrived is enough; the status has been told already.
    let _ = response.within(DETAIL_TIME_MAX).take(DETAIL_BYTES_MAX).read_to_end(&mut bytes);
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
        // A line is for people (plain HTTP spoken to TLS is told so); pages of HTML are for browsers.
        let line = if is_text { String::from_utf8_lossy(&bytes) } else { return String::new() };
        return excerpt(line.trim().lines().next().unwrap_or_default());
    };
    let field = |name: &str| answer.pointer(&format!("/errors/0/{name}")).and_then(serde_json::Value::as_str);
    let parts: Vec<&str> = [field("code"), field("message"), answer.get("details").and_then(|d| d.as_str())]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    excerpt(&parts.join(": "))
}

/// Foreign text, short enough and without anything that could steer a terminal.
pub(super) fn excerpt(text: &str) -> String {
    printable(text).chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
