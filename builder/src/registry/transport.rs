//! HTTP as registries need it: which scheme and client, who we are, trying again, and words for a refusal.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::blocking::{Body, RequestBuilder};
use reqwest::header::{HeaderName, LOCATION};
use reqwest::{Method, StatusCode, Url};
use wharf_runtime::Cancel;

use super::answer::{excerpt, interrupted, no_answer, protocol, refusal};
use super::auth::{Authorization, Challenge, Session, TOKEN_BYTES_MAX, TokenAnswer};
use super::clients::{Clients, read_timeout};
use super::credentials::{Credential, Credentials};
use super::error::{RegistryError, is_transient_status};
use super::loopback;
use super::manifest::MANIFEST_BYTES_MAX;
use super::reference::{self, Reference};
use super::rules::Rules;
use crate::awaited::{Answer, NoAnswer, ask, unless};

/// A request that may be repeated is sent at most this often, unless more is asked for.
const TRIES: u32 = 3;
/// A registry that wants us to wait longer than this is told no: the build should fail and say why.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// No pause of our own choice is longer.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// What has been tried for so long is not tried again, unless the configuration says otherwise.
const RETRY_TIME_MAX: Duration = Duration::from_secs(300);
/// An upload slower than this is given up.
const UPLOAD_BYTES_PER_S_MIN: u64 = 16 * 1024;
/// A manifest, a list or a token takes no longer than so many of the longest silences, however it comes.
const DOCUMENT_SILENCES_MAX: u32 = 5;
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (host with port) spoken to in plain HTTP.
    pub insecure: Vec<String>,
    /// Further CA certificates, PEM bundles.
    pub ca_certificates: Vec<Vec<u8>>,
    /// Who we are.
    pub credentials: Credentials,
    /// Pause before the second try; each further pause is four times as long. Half of it is left to chance, so that
    /// those who failed together do not come back together.
    pub retry_delay: Duration,
    /// Whether nothing is sent: what would be is refused.
    pub offline: bool,
    /// What is said of single registries.
    pub rules: Rules,
    /// When it is triggered, nothing is waited for or tried again.
    pub cancel: Option<Cancel>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            ca_certificates: Vec::new(),
            credentials: Credentials::default(),
            retry_delay: Duration::from_millis(300),
            offline: false,
            rules: Rules::default(),
            cancel: None,
        }
    }
}

/// One request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    /// Registry it is for; its name as in a reference.
    pub(super) registry: &'a str,
    /// The repository whose credentials count.
    pub(super) repository: &'a str,
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
#[derive(Clone)]
pub(super) enum CallBody<'a> {
    Empty,
    Bytes(&'a [u8]),
    Stream { size: u64, open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync) },
}

/// The clients and what is known of each registry. Nothing is started before the first request.
#[derive(Debug)]
pub(super) struct Transport {
    options: RegistryOptions,
    clients: Clients,
    cancel: Mutex<Option<Cancel>>,
    /// What was found out of the registries that may speak plain HTTP.
    plain: Mutex<HashMap<String, bool>>,
    sessions: Mutex<HashMap<String, Arc<Mutex<Session>>>>,
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Self {
        let clients = Clients::new(options.ca_certificates.clone());
        let cancel = Mutex::new(options.cancel.clone());
        Self { options, clients, cancel, plain: Mutex::default(), sessions: Mutex::default() }
    }

    /// Lets `cancel` end what waits from now on.
    pub(super) fn redirect(&self, cancel: &Cancel) {
        *lock(&self.cancel) = Some(cancel.clone());
    }

    fn cancel(&self) -> Option<Cancel> {
        lock(&self.cancel).clone()
    }

    /// `https://HOST/v2/…` of `registry`.
    pub(super) fn url(&self, registry: &str, path: &str) -> Result<Url, RegistryError> {
        url(if self.is_plain(registry) { "http" } else { "https" }, registry, path)
    }

    /// What is said of single registries.
    pub(super) fn rules(&self) -> &Rules {
        &self.options.rules
    }

    /// Whether something is said of the TLS of `registry` by its name: then it has some, even if it is on this machine.
    fn has_named_tls(&self, registry: &str) -> bool {
        let rules = self.rules();
        // What cannot be read is said when the client is made.
        rules.names_tls_of(registry) || self.clients.tls(rules, registry).map_or(true, |tls| tls.is_by_name)
    }

    fn is_plain(&self, registry: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|entry| entry == registry);
        let rules = &self.options.rules;
        if listed(&self.options.insecure) || rules.plain.contains(registry) {
            return true;
        }
        let find_out: fn(&Self, &str) -> bool =
            match reference::is_loopback(registry) && !self.has_named_tls(registry) {
                true => Self::lacks_tls_here,
                false if rules.may_be_plain.contains(registry) => Self::lacks_https,
                false => return false,
            };
        // Held while it is found out: whoever waits here wants to know the same.
        *lock(&self.plain).entry(registry.to_owned()).or_insert_with(|| find_out(self, registry))
    }

    /// Whether a registry on this machine does without TLS, as most do. One that does not answer does.
    fn lacks_tls_here(&self, registry: &str) -> bool {
        let (url, timeout) = (url("https", registry, ""), self.rules().connect_timeout);
        let speaks_tls = |url| {
            unless(self.cancel().as_ref(), move || loopback::speaks_tls(&url, timeout)).unwrap_or(false)
        };
        self.options.offline || url.is_ok_and(|url| !speaks_tls(url))
    }

    /// Whether what answers at `registry`, if anything, does not speak TLS. A certificate that is not trusted is another
    /// matter, and so is silence.
    fn lacks_https(&self, registry: &str) -> bool {
        if self.options.offline {
            return false;
        }
        let Ok(url) = url("https", registry, "") else { return false };
        let Ok(client) = self.clients.to(self.rules(), registry, &url) else { return false };
        let answered = ask(self.cancel().as_ref(), move || client.get(url).send());
        matches!(answered, Err(NoAnswer::Failed(error)) if speaks_no_tls(&error))
    }

    /// A GET of `path` in the registry of `name`; the caller changes what differs.
    pub(super) fn call<'a>(
        &self,
        name: &'a Reference,
        path: &str,
        operation: &'static str,
        object: String,
    ) -> Result<Call<'a>, RegistryError> {
        Ok(Call {
            registry: name.registry(),
            repository: name.repository(),
            method: Method::GET,
            url: self.url(name.registry(), path)?,
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
        let (mut attempt, started) = (1, Instant::now());
        let time_max = self.rules().retry_time_max.unwrap_or(RETRY_TIME_MAX);
        loop {
            let error = match work() {
                Err(error) if error.is_transient() && attempt < self.tries() => error,
                outcome => return outcome,
            };
            let wait = match error.retry_after() {
                Some(wait) if wait > RETRY_AFTER_MAX => return Err(error),
                Some(wait) => wait,
                None => self.pause_after(attempt),
            };
            if started.elapsed() + wait > time_max {
                return Err(error);
            }
            if self.wait(wait) {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Sends a request once, authorized the way the registry asked for. An answer that says to try later is an error,
    /// any other is returned whatever its status.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, RegistryError> {
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

    /// Whether the registry wanted to know who we are.
    pub(super) fn has_asked(&self, registry: &str) -> bool {
        lock(&self.session(registry)).challenge.is_some()
    }

    /// How often a request that may be repeated is sent at most.
    pub(super) fn tries(&self) -> u32 {
        self.options.rules.retries.map_or(TRIES, |count| count.saturating_add(1))
    }

    /// Waits before try number `attempt` + 1.
    pub(super) fn pause(&self, attempt: u32) {
        self.wait(self.pause_after(attempt));
    }

    /// Waits; whether that is of no use because all is to end.
    fn wait(&self, time: Duration) -> bool {
        match self.cancel() {
            Some(cancel) => cancel.wait(time),
            None => {
                std::thread::sleep(time);
                false
            }
        }
    }

    fn pause_after(&self, attempt: u32) -> Duration {
        let factor = 4u32.saturating_pow(attempt.saturating_sub(1));
        let whole = self.options.retry_delay.saturating_mul(factor).min(PAUSE_MAX);
        // The keys of hash maps are random; nothing better is needed.
        let chance = RandomState::new().hash_one(attempt) % 1024;
        whole / 2 + whole.mul_f64(chance as f64 / 2048.0)
    }

    /// The bytes of an answer that is a manifest or a list.
    pub(super) fn read_document(&self, call: &Call<'_>, response: Answer) -> Result<Vec<u8>, RegistryError> {
        let is_longer = response.content_length().is_some_and(|length| length > MANIFEST_BYTES_MAX);
        let bytes = if is_longer { None } else { self.read_whole(call, response, MANIFEST_BYTES_MAX)? };
        bytes.ok_or_else(|| RegistryError::TooLarge {
            registry: call.registry.to_owned(),
            object: call.object.clone(),
            max: MANIFEST_BYTES_MAX,
        })
    }

    /// The bytes of an answer, if they are no more than `max`.
    fn read_whole(
        &self,
        call: &Call<'_>,
        response: Answer,
        max: u64,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let mut bytes = Vec::new();
        let time = read_timeout(self.rules()).saturating_mul(DOCUMENT_SILENCES_MAX);
        let read = response.within(time).take(max + 1).read_to_end(&mut bytes);
        read.map_err(|error| no_answer(call, Box::new(error)))?;
        Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= max))
    }

    /// An error for an answer that is none of those the caller can use.
    pub(super) fn refusal(&self, call: &Call<'_>, response: Answer) -> RegistryError {
        let session = self.session(call.registry);
        let with_credentials = matches!(lock(&session).credentials.get(call.repository), Some(Some(_)));
        refusal(call, response, with_credentials)
    }

    fn send_once(
        &self,
        call: &Call<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, RegistryError> {
        if self.options.offline {
            let (registry, object) = (call.registry.to_owned(), call.object.clone());
            return Err(RegistryError::Offline { registry, operation: call.operation, object });
        }
        let (mut url, mut authorization) = (call.url.clone(), authorization);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_to(call, &url, authorization)?;
            let status = response.status();
            if is_transient_status(status.as_u16()) {
                return Err(refusal(call, response, authorization.is_some()));
            }
            if !is_redirect(status) {
                return Ok(response);
            }
            let next = redirect_target(call, &url, &response)?;
            // Credentials are for the one host, and do not come back from another.
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
        }
        Err(protocol(call, &format!("more than {REDIRECTS_MAX} redirects")))
    }

    fn send_to(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, RegistryError> {
        let client = self.clients.to(self.rules(), call.registry, url)?;
        let mut request = client.request(call.method.clone(), url.clone());
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
                request.body(Body::sized(reader, *size)).timeout(read_timeout(self.rules()) + slowest)
            }
        };
        let sent = ask(self.cancel().as_ref(), move || request.send().map_err(reqwest::Error::without_url));
        sent.map_err(|why| match (lock(&failure).take(), why) {
            (_, NoAnswer::Cancelled) => interrupted(call),
            (Some(source), _) => RegistryError::Upload { object: call.object.clone(), source },
            (None, NoAnswer::Failed(error)) => no_answer(call, Box::new(error)),
            (None, NoAnswer::Thread(error)) => no_answer(call, Box::new(error)),
        })
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
        let credential = match session.credentials.get(call.repository) {
            Some(credential) => credential.clone(),
            None => {
                let found = self.options.credentials.find(call.registry, call.repository)?;
                session.credentials.insert(call.repository.to_owned(), found.clone());
                found
            }
        };
        match (challenge, credential) {
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                Ok(Some(Authorization::Basic(username, password)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { .. }, Some(Credential::RegistryToken(token))) => {
                Ok(Some(Authorization::Bearer(token)))
            }
            (Challenge::Bearer { realm, service }, credential) => {
                // Whoever asks for nothing in particular (a login) gets a token for its repository's credential all the same.
                let scope = call.scopes.join(" ");
                if let Some(token) = session.token(&scope) {
                    return Ok(Some(token));
                }
                let answer = self.fetch_token(call, realm, service.as_deref(), credential.as_ref())?;
                let token = session.keep(&scope, answer);
                token.map(Some).ok_or_else(|| {
                    protocol(call, "the token server's answer has no token that could be sent")
                })
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
        if realm.host_str().is_none_or(str::is_empty) {
            let reason =
                format!("the address of its token server, `{}`, has no host", excerpt(realm.as_str()));
            return Err(protocol(call, &reason));
        }
        if realm.scheme() != "https" && !(realm.scheme() == "http" && self.is_plain(call.registry)) {
            let server = realm.origin().ascii_serialization();
            return Err(protocol(call, &format!("its token server {server} does not use HTTPS")));
        }
        let mut url = realm;
        let form_type = (reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned());
        let form;
        let server = url.host_str().unwrap_or_default().to_owned();
        let mut token_call = Call {
            registry: call.registry,
            repository: call.repository,
            method: Method::GET,
            url: url.clone(),
            scopes: Vec::new(),
            headers: Vec::new(),
            body: CallBody::Empty,
            operation: "get",
            object: format!("a token of {server} for {}", call.object),
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
            return Err(match response.status() {
                // Not what was asked for: the token server.
                StatusCode::NOT_FOUND => protocol(call, &format!("there is no token server at {server}")),
                StatusCode::BAD_REQUEST => refusal_of_token(call, response, credential.is_some()),
                _ => refusal(call, response, credential.is_some()),
            });
        }
        let unreadable =
            |why: String| protocol(call, &format!("the token server's answer cannot be read: {why}"));
        let bytes = self.read_whole(&token_call, response, TOKEN_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| unreadable(format!("it has more than {TOKEN_BYTES_MAX} bytes")))?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))
    }

    fn session(&self, registry: &str) -> Arc<Mutex<Session>> {
        Arc::clone(lock(&self.sessions).entry(registry.to_owned()).or_default())
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
    let host = reference::api_host(registry);
    format!("{scheme}://{host}/v2/{path}").parse().map_err(|error| RegistryError::Protocol {
        registry: registry.to_owned(),
        operation: "address",
        object: path.to_owned(),
        reason: format!("not a URL: {error}"),
    })
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads. What changes something, or carries something, is not sent on: whoever answers such a request
/// with a redirect has not understood it.
fn redirect_target(call: &Call<'_>, from: &Url, response: &Answer) -> Result<Url, RegistryError> {
    let is_reading = matches!(call.method, Method::GET | Method::HEAD);
    if !is_reading || !matches!(call.body, CallBody::Empty) {
        return Err(protocol(call, "it redirects what is sent to it, which wharf does not follow"));
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| protocol(call, "a redirect leads nowhere"))?;
    let target = from.join(location).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let target = target.ok_or_else(|| protocol(call, "a redirect leads to what is no URL of the web"))?;
    if from.scheme() == "https" && target.scheme() != "https" {
        return Err(protocol(call, "it redirects from HTTPS to plain HTTP"));
    }
    Ok(target)
}

/// A token server that cannot make sense of a request says so of credentials that it does not know, too (OAuth 2).
fn refusal_of_token(call: &Call<'_>, response: Answer, with_credentials: bool) -> RegistryError {
    match refusal(call, response, with_credentials) {
        RegistryError::Refused { registry, operation, object, detail, .. } if with_credentials => {
            RegistryError::Unauthorized { registry, operation, object, with_credentials, detail }
        }
        other => other,
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

fn authorize(request: RequestBuilder, authorization: &Authorization) -> RequestBuilder {
    match authorization {
        Authorization::Basic(username, password) => request.basic_auth(username, Some(password)),
        Authorization::Bearer(token) => request.bearer_auth(token),
    }
}

/// A lock whose data stays usable after a panic elsewhere: every change under it is a single assignment.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
