//! Signatures of requests: AWS Signature Version 4, in the `Authorization` header. Pure.

use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Url};
use ring::hmac;
use wharf_cache::Digest;

use super::place::Credentials;
use crate::exporter::rfc3339;

/// What is written as it is in a URL that is signed: RFC 3986's unreserved characters, and nothing else.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same in a path.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// What is signed besides the headers.
#[derive(Debug)]
pub(super) struct Signer<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) region: &'a str,
    /// When.
    pub(super) now: SystemTime,
}

/// A key as it stands in URLs.
pub(super) fn encode_path(key: &str) -> String {
    utf8_percent_encode(key, ENCODED_IN_PATH).to_string()
}

/// Names and values as a query: sorted, and written the way that signatures want it.
pub(super) fn encode_query(pairs: &[(&str, String)]) -> String {
    let mut pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| {
            format!("{}={}", utf8_percent_encode(name, ENCODED), utf8_percent_encode(value, ENCODED))
        })
        .collect();
    pairs.sort_unstable();
    pairs.join("&")
}

impl Signer<'_> {
    /// The headers to be added to a request, which has these `x-amz-…` headers (names in lowercase). `payload` is the
    /// SHA-256 of its body, which the service compares with what comes.
    pub(super) fn headers(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(&'static str, String)],
        payload: &Digest,
    ) -> Vec<(&'static str, String)> {
        let time = compact(self.now);
        let day = &time[..8];
        let mut added = vec![("x-amz-content-sha256", payload.hex()), ("x-amz-date", time.clone())];
        added.extend(self.credentials.token.iter().map(|token| ("x-amz-security-token", token.clone())));
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let mut signed: Vec<(&str, &str)> = vec![("host", &host)];
        signed.extend(headers.iter().chain(&added).map(|(name, value)| (*name, value.trim())));
        signed.sort_unstable();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let canonical = [
            method.as_str(),
            url.path(),
            url.query().unwrap_or_default(),
            &signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect::<String>(),
            &names,
            &payload.hex(),
        ]
        .join("\n");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", Digest::of(canonical.as_bytes()).hex());
        let mut key = hmac_sha256(format!("AWS4{}", self.credentials.secret).as_bytes(), day.as_bytes());
        for part in [self.region, "s3", "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        let signature = Digest::from_bytes(hmac_sha256(&key, text.as_bytes())).hex();
        let id = &self.credentials.id;
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
        added.push(("authorization", authorization));
        added
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

/// `20130524T000000Z`.
fn compact(time: SystemTime) -> String {
    let text = rfc3339::format(time);
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The examples of Amazon's "Signature Calculations for the Authorization Header".
    #[test]
    fn signatures_are_those_of_the_examples() {
        let credentials = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let signer = Signer { credentials: &credentials, region: "us-east-1", now };
        let check = |query: &[(&str, String)], signature: &str| {
            let mut url: Url = "https://examplebucket.s3.amazonaws.com/".parse().unwrap();
            url.set_query(Some(&encode_query(query)));
            let headers = signer.headers(&Method::GET, &url, &[], &Digest::of(b""));
            let (_, authorization) = headers.last().unwrap();
            assert_eq!(headers[1].1, "20130524T000000Z");
            assert_eq!(authorization.rsplit('=').next(), Some(signature), "{query:?}");
        };
        let pair = |name, value: &str| (name, value.to_owned());
        check(&[pair("lifecycle", "")], "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        check(
            &[pair("prefix", "J"), pair("max-keys", "2")],
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
    }

    #[test]
    fn keys_are_written_as_signatures_want_them() {
        assert_eq!(encode_path("a/b c+é~:%"), "a/b%20c%2B%C3%A9~%3A%25");
        assert_eq!(encode_query(&[("b", "1/2".to_owned()), ("a", String::new())]), "a=&b=1%2F2");
    }
}
