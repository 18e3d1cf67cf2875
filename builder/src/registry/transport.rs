//! HTTP as registries need it: which scheme and client, who we are, trying again, and words for a refusal.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reqwest::blocking::{Body, Client, ClientBuilder, RequestBuilder, Response};
use reqwest::header::{HeaderName, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, Method, StatusCode, Url};

use super::auth::{Authorization, Challenge, Session, TOKEN_BYTES_MAX, TokenAnswer};
use super::credentials::{self, Credential};
use super::error::{RegistryError, is_transient_status};
use super::reference::{self, DEFAULT_REGISTRY};
use super::rules::Rules;
use crate::certificates::{self, CertificateError};
use crate::progress::printable;

/// A request that may be repeated is sent at most this often, unless more is asked for.
const TRIES: u32 = 3;
/// A registry that wants us to wait longer than this is told no: the build should fail and say why.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence while an answer is awaited or read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// An upload slower than this is given up.
const UPLOAD_BYTES_PER_S_MIN: u64 = 16 * 1024;
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// How much of an error's body is read, and how much of its message is shown.
const DETAIL_BYTES_MAX: u64 = 64 * 1024;
const DETAIL_CHARS_MAX: usize = 300;

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (host with port) spoken to in plain HTTP. Registries on this machine always are.
    pub insecure: Vec<String>,
    /// Registries on this machine that want HTTPS all the same.
    pub secure: Vec<String>,
    /// Further CA certificates, PEM bundles.
    pub ca_certificates: Vec<Vec<u8>>,
    /// Docker's `config.json`, from which credentials come.
    pub docker_config: Option<PathBuf>,
    /// Pause before the second try; each further pause is four times as long.
    pub retry_delay: Duration,
    /// Whether nothing is sent: what would be is refused.
    pub offline: bool,
    /// What is said of single registries.
    pub rules: Rules,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            secure: Vec::new(),
            ca_certificates: Vec::new(),
            docker_config: None,
            retry_delay: Duration::from_millis(300),
            offline: false,
            rules: Rules::default(),
        }
    }
}

/// One request.
pub(super) struct Call<'a> {
    /// Registry it is for; its name as in a reference.
    pub(super) registry: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    /// What a token must allow, `repository:library/busybox:pull`.
    pub(super) scopes: Vec<String>,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: CallBody<'a>,
    /// What is being done, and to what, for messages.
    pub(super) operation: &'static str,
    pub(super) object: String,
}

/// What a request carries.
pub(super) enum CallBody<'a> {
    Empty,
    Bytes(&'a [u8]),
    Stream { size: u64, open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync) },
}

/// Which of the clients a request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    /// Plain HTTP and this machine: no proxy, because such registries are near. Others have the proxies of the environment.
    near: bool,
    /// The registry, if there is something of its own about its TLS.
    own_tls: Option<String>,
}

/// The clients and what is known of each registry. Nothing is started before the first request.
#[derive(Debug)]
pub(super) struct Transport {
    options: RegistryOptions,
    clients: Mutex<HashMap<ClientKey, Client>>,
    /// What was found out of the registries that may speak plain HTTP.
    plain: Mutex<HashMap<String, bool>>,
    sessions: Mutex<HashMap<String, Arc<Mutex<Session>>>>,
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Self {
        Self { options, clients: Mutex::default(), plain: Mutex::default(), sessions: Mutex::default() }
    }

    /// `https://HOST/v2/…` of `registry`.
    pub(super) fn url(&self, registry: &str, path: &str) -> Result<Url, RegistryError> {
        url(if self.is_plain(registry) { "http" } else { "https" }, registry, path)
    }

    /// What is said of single registries.
    pub(super) fn rules(&self) -> &Rules {
        &self.options.rules
    }

    fn is_plain(&self, registry: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|entry| entry == registry);
        let rules = &self.options.rules;
        if listed(&self.options.insecure) {
            return true;
        }
        let may_be_plain = rules.may_be_plain.contains(registry);
        if reference::is_loopback(registry) && !rules.names_tls_of(registry) {
            return !listed(&self.options.secure);
        }
        // Held while it is found out: whoever waits here wants to know the same.
        may_be_plain
            && *lock(&self.plain).entry(registry.to_owned()).or_insert_with(|| self.lacks_https(registry))
    }

    /// Whether what answers at `registry`, if anything, does not speak TLS. A certificate that is not trusted is another
    /// matter, and so is silence.
    fn lacks_https(&self, registry: &str) -> bool {
        if self.options.offline {
            return false;
        }
        let (Ok(url), near) = (url("https", registry, ""), reference::is_loopback(registry)) else {
            return false;
        };
        let Ok(client) = self.client(registry, near) else { return false };
        client.get(url).send().is_err_and(|error| speaks_no_tls(&error))
    }

    /// A GET of `path` in `registry`; the caller changes what differs.
    pub(super) fn call<'a>(
        &self,
        registry: &'a str,
        path: &str,
        operation: &'static str,
        object: String,
    ) -> Result<Call<'a>, RegistryError> {
        Ok(Call {
            registry,
            method: Method::GET,
            url: self.url(registry, path)?,
            scopes: Vec::new(),
            headers: Vec::new(),
            body: CallBody::Empty,
            operation,
            object,
        })
    }

    /// Does `work`, again after failures that may pass. It must be something that can be repeated as a whole.
    pub(super) fn repeat<T>(
        &self,
        mut work: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut attempt = 1;
        loop {
            match work() {
                Err(error) if error.is_transient() && attempt < self.tries() => match error.retry_after() {
                    Some(wait) if wait > RETRY_AFTER_MAX => return Err(error),
                    Some(wait) => std::thread::sleep(wait),
                    None => self.pause(attempt),
                },
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    /// Sends a request once, authorized the way the registry asked for. An answer that says to try later is an error,
    /// any other is returned whatever its status.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        let authorization = self.authorization(call)?;
        let response = self.send_once(call, authorization.as_ref())?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(call) {
            return Ok(response);
        }
        // The first request to a registry, or an expired token: learn what it wants, and try once more.
        let Some(challenge) = Challenge::of(response.headers()) else { return Ok(response) };
        {
            let session = self.session(call.registry);
            let mut session = lock(&session);
            session.challenge = Some(challenge);
            if let Some(refused) = &authorization {
                session.reject(refused);
            }
        }
        match self.authorization(call)? {
            None => Ok(response),
            fresh if fresh == authorization => Ok(response),
            fresh => self.send_once(call, fresh.as_ref()),
        }
    }

    /// How often a request that may be repeated is sent at most.
    pub(super) fn tries(&self) -> u32 {
        self.options.rules.retries.saturating_add(1).max(TRIES)
    }

    /// The pause before try number `attempt` + 1.
    pub(super) fn pause(&self, attempt: u32) {
        let factor = 4u32.saturating_pow(attempt.saturating_sub(1));
        std::thread::sleep(self.options.retry_delay.saturating_mul(factor));
    }

    /// An error for an answer that is none of those the caller can use.
    pub(super) fn refusal(&self, call: &Call<'_>, response: Response) -> RegistryError {
        let with_credentials = matches!(lock(&self.session(call.registry)).credential, Some(Some(_)));
        refusal(call, response, with_credentials)
    }

    fn send_once(
        &self,
        call: &Call<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RegistryError> {
        if self.options.offline {
            let (registry, object) = (call.registry.to_owned(), call.object.clone());
            return Err(RegistryError::Offline { registry, operation: call.operation, object });
        }
        let near = call.url.scheme() == "http" || call.url.host_str().is_some_and(reference::is_loopback);
        let client = self.client(call.registry, near)?;
        let mut request = client.request(call.method.clone(), call.url.clone());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = authorize(request, authorization);
        }
        let failure = Arc::new(Mutex::new(None));
        request = match &call.body {
            CallBody::Empty => request,
            CallBody::Bytes(bytes) => request.body(bytes.to_vec()),
            CallBody::Stream { size, open } => {
                let object = call.object.clone();
                let inner = open().map_err(|source| RegistryError::Upload { object, source })?;
                let reader = Watched { inner, failure: Arc::clone(&failure) };
                let slowest = Duration::from_secs(size / UPLOAD_BYTES_PER_S_MIN);
                request.body(Body::sized(reader, *size)).timeout(READ_TIMEOUT + slowest)
            }
        };
        let response = request.send().map_err(|error| match lock(&failure).take() {
            Some(source) => RegistryError::Upload { object: call.object.clone(), source },
            None => no_answer(call, Box::new(error.without_url())),
        })?;
        match is_transient_status(response.status().as_u16()) {
            true => Err(refusal(call, response, authorization.is_some())),
            false => Ok(response),
        }
    }

    /// Whether a request goes to the registry itself.
    fn is_own(&self, call: &Call<'_>) -> bool {
        self.url(call.registry, "").is_ok_and(|own| own.origin() == call.url.origin())
    }

    /// What to authorize `call` with: nothing as long as the registry has not asked, and nothing when the call goes
    /// elsewhere (a registry may send uploads to another host; the credentials are for the registry alone).
    fn authorization(&self, call: &Call<'_>) -> Result<Option<Authorization>, RegistryError> {
        if !self.is_own(call) {
            return Ok(None);
        }
        // Held while a token is fetched: the requests that wait here want the same one.
        let session = self.session(call.registry);
        let mut session = lock(&session);
        let Some(challenge) = session.challenge.clone() else { return Ok(None) };
        let credential = match &session.credential {
            Some(credential) => credential.clone(),
            None => {
                let found = match &self.options.docker_config {
                    Some(path) => credentials::find(path, call.registry)?,
                    None => None,
                };
                session.credential = Some(found.clone());
                found
            }
        };
        match (challenge, credential) {
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                Ok(Some(Authorization::Basic(username, password)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service }, credential) => {
                let scope = call.scopes.join(" ");
                if let Some(token) = session.token(&scope) {
                    return Ok(Some(token));
                }
                let answer = self.fetch_token(call, realm, service.as_deref(), credential.as_ref())?;
                let token = session.keep(&scope, answer);
                token.map(Some).ok_or_else(|| protocol(call, "the token server's answer has no token"))
            }
        }
    }

    /// Asks the token server `realm` for a token that allows `call`: with GET and the password, or with POST and the
    /// refresh token.
    fn fetch_token(
        &self,
        call: &Call<'_>,
        realm: Url,
        service: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<TokenAnswer, RegistryError> {
        if realm.scheme() != "https" && !(realm.scheme() == "http" && self.is_plain(call.registry)) {
            let server = realm.origin().ascii_serialization();
            return Err(protocol(call, &format!("its token server {server} does not use HTTPS")));
        }
        let mut url = realm;
        let form_type = (reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned());
        let form;
        let mut token_call = Call {
            registry: call.registry,
            method: Method::GET,
            url: url.clone(),
            scopes: Vec::new(),
            headers: Vec::new(),
            body: CallBody::Empty,
            operation: call.operation,
            object: call.object.clone(),
        };
        let mut authorization = None;
        if let Some(Credential::IdentityToken(token)) = credential {
            let mut fields = url.clone();
            fields.query_pairs_mut().clear().extend_pairs([
                ("grant_type", "refresh_token"),
                ("client_id", "wharf"),
                ("service", service.unwrap_or_default()),
                ("scope", &*call.scopes.join(" ")),
                ("refresh_token", token),
            ]);
            form = fields.query().unwrap_or_default().to_owned();
            token_call.method = Method::POST;
            token_call.headers.push(form_type);
            token_call.body = CallBody::Bytes(form.as_bytes());
        } else {
            url.query_pairs_mut()
                .extend_pairs(service.map(|service| ("service", service)))
                .extend_pairs(call.scopes.iter().map(|scope| ("scope", scope)));
            token_call.url = url;
            if let Some(Credential::Password { username, password }) = credential {
                authorization = Some(Authorization::Basic(username.clone(), password.clone()));
            }
        }
        // The credential is meant for the token server, which may well be another host than the registry.
        let response = self.send_once(&token_call, authorization.as_ref())?;
        if !response.status().is_success() {
            return Err(refusal(call, response, credential.is_some()));
        }
        let mut bytes = Vec::new();
        let mut limited = response.take(TOKEN_BYTES_MAX);
        limited.read_to_end(&mut bytes).map_err(|error| no_answer(call, Box::new(error)))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| protocol(call, &format!("the token server's answer is no JSON: {error}")))
    }

    fn session(&self, registry: &str) -> Arc<Mutex<Session>> {
        Arc::clone(lock(&self.sessions).entry(registry.to_owned()).or_default())
    }

    fn client(&self, registry: &str, near: bool) -> Result<Client, RegistryError> {
        let own_tls = self.options.rules.has_own_tls(registry).then(|| registry.to_owned());
        let mut clients = lock(&self.clients);
        let key = ClientKey { near, own_tls };
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.new_client(&key).map_err(|error| RegistryError::Client {
            registry: registry.to_owned(),
            source: Box::new(error),
        })?;
        Ok(clients.entry(key).or_insert(client).clone())
    }

    fn new_client(&self, key: &ClientKey) -> Result<Client, CertificateError> {
        let rules = &self.options.rules;
        let own = key.own_tls.as_deref();
        let mut authorities = Vec::new();
        let own_authorities = own.and_then(|registry| rules.authorities.get(registry));
        for bundle in self.options.ca_certificates.iter().chain(own_authorities) {
            authorities.extend(Certificate::from_pem_bundle(bundle)?);
        }
        let identity = own.and_then(|registry| rules.identities.get(registry));
        let identity = identity.map(|pem| Identity::from_pem(pem)).transpose()?;
        let is_unverified = own.is_some_and(|registry| rules.unverified.contains(registry));
        let builder = || {
            let mut builder = builder().tls_danger_accept_invalid_certs(is_unverified);
            if let Some(identity) = &identity {
                builder = builder.identity(identity.clone());
            }
            if key.near { builder.no_proxy() } else { builder }
        };
        certificates::client(builder, &authorities)
    }
}

/// Whether nobody listened, or somebody who took the beginning of TLS for something else: who answered it with
/// anything but TLS, or hung up.
fn speaks_no_tls(error: &reqwest::Error) -> bool {
    if !error.is_connect() {
        return false;
    }
    let tls = crate::error::chain(error).find_map(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
        None => crate::error::io_kinds(error).any(|kind| {
            use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
            matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
        }),
    }
}

/// `SCHEME://HOST/v2/…` of `registry`.
fn url(scheme: &str, registry: &str, path: &str) -> Result<Url, RegistryError> {
    let host = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
    format!("{scheme}://{host}/v2/{path}").parse().map_err(|error| RegistryError::Protocol {
        registry: registry.to_owned(),
        operation: "address",
        object: path.to_owned(),
        reason: format!("not a URL: {error}"),
    })
}

/// What all clients have in common.
fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(READ_TIMEOUT)
        .redirect(Policy::custom(|attempt| {
            let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("more than 10 redirects")
            } else if from_https && attempt.url().scheme() != "https" {
                attempt.error("a redirect from HTTPS to plain HTTP")
            } else {
                attempt.follow()
            }
        }))
}

fn refusal(call: &Call<'_>, response: Response, with_credentials: bool) -> RegistryError {
    let (registry, operation, object) = (call.registry.to_owned(), call.operation, call.object.clone());
    let (status, retry_after) = (response.status(), retry_after(&response));
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

/// Keeps the error of a reader whose own user would hide it.
struct Watched {
    inner: Box<dyn Read + Send>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *lock(&self.failure) = Some(error);
            }
            kind.into()
        })
    }
}

pub(super) fn protocol(call: &Call<'_>, reason: &str) -> RegistryError {
    RegistryError::Protocol {
        registry: call.registry.to_owned(),
        operation: call.operation,
        object: call.object.clone(),
        reason: reason.to_owned(),
    }
}

/// No answer came. The caller takes URLs out of `source`: a signed one must not reach a log.
pub(super) fn no_answer(call: &Call<'_>, source: Box<dyn std::error::Error + Send + Sync>) -> RegistryError {
    RegistryError::Unreachable {
        registry: call.registry.to_owned(),
        operation: call.operation,
        object: call.object.clone(),
        source,
    }
}

fn authorize(request: RequestBuilder, authorization: &Authorization) -> RequestBuilder {
    match authorization {
        Authorization::Basic(username, password) => request.basic_auth(username, Some(password)),
        Authorization::Bearer(token) => request.bearer_auth(token),
    }
}

/// The wait a `Retry-After` in seconds asks for. (The form with a date is rare; the usual pause does for it.)
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What a registry says about a refusal: `code: message` of its first error (OCI distribution-spec, error codes).
fn read_detail(response: Response) -> String {
    let mut bytes = Vec::new();
    // Whatever arrived is enough; the status has been told already.
    let _ = response.take(DETAIL_BYTES_MAX).read_to_end(&mut bytes);
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return String::new() };
    let field = |name: &str| answer.pointer(&format!("/errors/0/{name}")).and_then(serde_json::Value::as_str);
    let parts: Vec<&str> = [field("code"), field("message"), answer.get("details").and_then(|d| d.as_str())]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    excerpt(&parts.join(": "))
}

/// Foreign text, short enough and without anything that could steer a terminal.
fn excerpt(text: &str) -> String {
    printable(text).chars().take(DETAIL_CHARS_MAX).collect()
}

/// A lock whose data stays usable after a panic elsewhere: every change under it is a single assignment.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
