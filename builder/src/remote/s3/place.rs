//! What is said of a bucket on the command line and in the environment.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use wharf_frontend::instructions::parse_duration;

use super::super::spec::Fields;

/// The name of a manifest that was not named.
const NAME: &str = "wharf";
const REGION: &str = "us-east-1";

/// A cache in a bucket of an S3 service, with buildx's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket; `AWS_BUCKET` if it was not said.
    pub bucket: Option<String>,
    /// Its region; `AWS_REGION` if it was not said.
    pub region: Option<String>,
    /// Names of the manifest: it is written under all of them and read under the first.
    pub names: Vec<String>,
    /// Where keys of manifests begin.
    pub manifests_prefix: String,
    /// Where keys of blobs begin.
    pub blobs_prefix: String,
    /// The service; Amazon's if it was not said.
    pub endpoint: Option<Url>,
    /// Whether the bucket is the first part of the path, and not of the host.
    pub path_style: bool,
    /// Who asks; `AWS_ACCESS_KEY_ID` and so on if it was not said.
    pub credentials: Option<Credentials>,
    /// Objects that were written longer ago than this are written anew when they are still needed, so that a rule that
    /// deletes old objects finds them young.
    pub touch_refresh: Duration,
    /// Parts and blobs that are uploaded at the same time.
    pub upload_parallelism: usize,
    /// How often a request is sent at most.
    pub attempts: u32,
    /// What a service that wants fewer requests gets.
    pub retry_mode: RetryMode,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub id: String,
    /// The access key.
    pub secret: String,
    /// The token of a session.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What happens when a service wants fewer requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryMode {
    /// The request that was refused waits.
    #[default]
    Standard,
    /// All requests wait.
    Adaptive,
}

/// The attributes, the same for reading and writing.
pub(in crate::remote) const KEYS: [&str; 16] = [
    "bucket",
    "region",
    "name",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "touch_refresh",
    "upload_parallelism",
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
];

impl S3Place {
    /// Takes the attributes out of `fields`.
    pub(in crate::remote) fn take(fields: &mut Fields) -> Result<Self, String> {
        // No Accept-Encoding is ever sent or signed, which is all that this asks for.
        fields.flag("disable_accept_encoding")?;
        let prefix = fields.take("prefix").unwrap_or_default();
        let below =
            |part: Option<String>, default: &str| format!("{prefix}{}", part.as_deref().unwrap_or(default));
        let names = fields.take("name").unwrap_or_else(|| NAME.to_owned());
        let names: Vec<String> =
            names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() {
            return Err("`name=` names nothing".to_owned());
        }
        Ok(Self {
            bucket: fields.take("bucket").filter(|bucket| !bucket.is_empty()),
            region: fields.take("region").filter(|region| !region.is_empty()),
            names,
            manifests_prefix: below(fields.take("manifests_prefix"), "manifests/"),
            blobs_prefix: below(fields.take("blobs_prefix"), "blobs/"),
            endpoint: fields.take("endpoint_url").map(|text| endpoint(&text)).transpose()?,
            path_style: fields.flag("use_path_style")?.unwrap_or(false),
            credentials: credentials(|key| fields.take(&key.to_lowercase()))?,
            touch_refresh: match fields.take("touch_refresh") {
                None => Duration::from_secs(24 * 3600),
                Some(text) => duration(&text)
                    .ok_or_else(|| format!("`touch_refresh={text}` is not a duration such as 24h or 90m"))?,
            },
            upload_parallelism: number(fields, "upload_parallelism", 4, 64)? as usize,
            attempts: number(fields, "retry_max_attempts", 3, 100)?,
            retry_mode: match fields.take("retry_mode").as_deref() {
                None | Some("standard") => RetryMode::Standard,
                Some("adaptive") => RetryMode::Adaptive,
                Some(other) => return Err(format!("`retry_mode={other}` is neither standard nor adaptive")),
            },
        })
    }

    /// Fills in what was not said from AWS's variables. A place that is none then is refused.
    pub fn with_environment(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        self.bucket = self.bucket.or_else(|| said("AWS_BUCKET"));
        self.region = self.region.or_else(|| said("AWS_REGION")).or_else(|| said("AWS_DEFAULT_REGION"));
        if self.endpoint.is_none() {
            let url = said("AWS_ENDPOINT_URL_S3").or_else(|| said("AWS_ENDPOINT_URL"));
            self.endpoint = url.map(|url| endpoint(&url)).transpose()?;
        }
        if self.credentials.is_none() {
            self.credentials = credentials(|key| said(&format!("AWS_{key}")))?;
        }
        self.base().map(|_| self)
    }

    /// The region, for signatures and Amazon's own address.
    pub fn region(&self) -> &str {
        self.region.as_deref().unwrap_or(REGION)
    }

    /// Where the bucket is: the part of its URLs that comes before the key, with a final `/`.
    pub(super) fn base(&self) -> Result<Url, String> {
        let bucket = self.bucket.as_deref().ok_or("type `s3` needs `bucket=` or AWS_BUCKET")?;
        if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(is_bucket_byte) {
            return Err(format!("`{bucket}` is not the name of a bucket"));
        }
        let mut url = match &self.endpoint {
            Some(url) => url.clone(),
            None => endpoint(&format!("https://s3.{}.amazonaws.com", self.region()))?,
        };
        // A bucket in front of an address is no host, and one with dots has no certificate.
        let dotted = bucket.contains('.') && url.scheme() == "https";
        let host = url.domain().filter(|host| *host != "localhost").map(str::to_owned);
        match host.filter(|_| !self.path_style && !dotted) {
            Some(host) => url
                .set_host(Some(&format!("{bucket}.{host}")))
                .map_err(|error| format!("`{bucket}` cannot be part of a host: {error}"))?,
            None => url.set_path(&format!("{}/{bucket}/", url.path().trim_end_matches('/'))),
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(url)
    }

    /// What the cache is called in messages.
    pub fn shown(&self) -> String {
        let bucket = self.bucket.as_deref().unwrap_or("(no bucket)");
        format!("s3://{bucket}/{}{}", self.manifests_prefix, self.names[0])
    }
}

fn is_bucket_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn endpoint(text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("`{text}` is not the URL of an S3 service: {why}");
    let url: Url = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    match url.scheme() {
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            Err("the URL of an S3 service holds no credentials: use access_key_id and secret_access_key"
                .to_owned())
        }
        "http" | "https" if url.query().is_some() || url.fragment().is_some() => Err(wrong("it has a query")),
        "http" | "https" => Ok(url),
        _ => Err(wrong("it begins with neither http:// nor https://")),
    }
}

fn credentials(mut get: impl FnMut(&str) -> Option<String>) -> Result<Option<Credentials>, String> {
    match (get("ACCESS_KEY_ID"), get("SECRET_ACCESS_KEY"), get("SESSION_TOKEN")) {
        (Some(id), Some(secret), token) => Ok(Some(Credentials { id, secret, token })),
        (None, None, None) => Ok(None),
        _ => {
            Err("an access key is both its id (access_key_id) and its secret (secret_access_key)".to_owned())
        }
    }
}

fn number(fields: &mut Fields, key: &str, default: u32, max: u32) -> Result<u32, String> {
    let Some(text) = fields.take(key) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("`{key}={text}` is not a number from 1 to {max}"))
}

/// A duration as Go writes it, `24h` or `1h30m`, that is not negative.
fn duration(text: &str) -> Option<Duration> {
    let nanoseconds = u64::try_from(parse_duration(text).ok()?).ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5400)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("-1h", None),
            ("", None),
            ("24", None),
            ("h", None),
            ("1d", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[track_caller]
    fn base(spec: &str, expected: &str) {
        let place = Fields::parse(spec).and_then(|mut fields| S3Place::take(&mut fields));
        let base = place.and_then(|place| place.with_environment(&|_| None)).and_then(|place| place.base());
        assert_eq!(base.map_or_else(|error| format!("error: {error}"), String::from), expected, "{spec}");
    }

    #[test]
    fn where_a_bucket_is() {
        base("bucket=b-1,region=eu-west-1", "https://b-1.s3.eu-west-1.amazonaws.com/");
        base("bucket=b-1", "https://b-1.s3.us-east-1.amazonaws.com/");
        base("bucket=b-1,use_path_style=true", "https://s3.us-east-1.amazonaws.com/b-1/");
        base("bucket=b.1", "https://s3.us-east-1.amazonaws.com/b.1/");
        base("bucket=b.1,endpoint_url=http://minio:9000", "http://b.1.minio:9000/");
        base("bucket=b-1,endpoint_url=http://127.0.0.1:9000", "http://127.0.0.1:9000/b-1/");
        base("bucket=b-1,endpoint_url=http://localhost:9000/", "http://localhost:9000/b-1/");
        base("bucket=b-1,endpoint_url=https://[::1]/s3/", "https://[::1]/s3/b-1/");
        base("bucket=b-1,endpoint_url=https://h/s3", "https://b-1.h/s3/");
        base("region=x", "error: type `s3` needs `bucket=` or AWS_BUCKET");
        base("bucket=a/b", "error: `a/b` is not the name of a bucket");
        base(
            "bucket=b-1,endpoint_url=ftp://h",
            "error: `ftp://h` is not the URL of an S3 service: it begins with neither http:// nor https://",
        );
        base(
            "bucket=b-1,endpoint_url=https://u:p@h",
            "error: the URL of an S3 service holds no credentials: use access_key_id and secret_access_key",
        );
        base(
            "bucket=b-1,access_key_id=x",
            "error: an access key is both its id (access_key_id) and its secret (secret_access_key)",
        );
        base("bucket=b-1,upload_parallelism=0", "error: `upload_parallelism=0` is not a number from 1 to 64");
        base("bucket=b-1,retry_mode=x", "error: `retry_mode=x` is neither standard nor adaptive");
        base("bucket=b-1,touch_refresh=x", "error: `touch_refresh=x` is not a duration such as 24h or 90m");
    }

    #[test]
    fn the_environment_fills_in_what_was_not_said() {
        let variable = |name: &str| {
            let value = match name {
                "AWS_BUCKET" => "from-env",
                "AWS_REGION" => "eu-1",
                "AWS_ACCESS_KEY_ID" => "id",
                "AWS_SECRET_ACCESS_KEY" => "hidden",
                "AWS_SESSION_TOKEN" => "",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let take = |spec: &str| {
            let place = S3Place::take(&mut Fields::parse(spec).unwrap()).unwrap();
            place.with_environment(&variable).unwrap()
        };
        let place = take("prefix=p/,name=a;b,blobs_prefix=layers/");
        assert_eq!((place.bucket.as_deref(), place.region()), (Some("from-env"), "eu-1"));
        assert_eq!((&*place.manifests_prefix, &*place.blobs_prefix), ("p/manifests/", "p/layers/"));
        assert_eq!(place.names, ["a", "b"]);
        assert_eq!(place.shown(), "s3://from-env/p/manifests/a");
        let hidden = Credentials { id: "id".to_owned(), secret: "hidden".to_owned(), token: None };
        assert_eq!(place.credentials, Some(hidden));
        assert!(!format!("{place:?}").contains("hidden"));
        let place = take("bucket=said,access_key_id=a,secret_access_key=b,session_token=c");
        let token = place.credentials.and_then(|credentials| credentials.token);
        assert_eq!((place.bucket.as_deref(), token.as_deref()), (Some("said"), Some("c")));
    }
}
