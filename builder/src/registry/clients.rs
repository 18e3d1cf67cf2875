//! The HTTP clients: one for each way in which TLS, proxies and time limits differ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, Url};

use super::error::RegistryError;
use super::reference;
use super::rules::{HostTls, Rules};
use super::transport::lock;
use crate::certificates::{self, CertificateError};

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence while an answer is awaited or read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Which of the clients a request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    /// Plain HTTP and this machine: no proxy, because such registries are near. Others have the proxies of the environment.
    near: bool,
    /// The registry, if there is something of its own about its TLS.
    own_tls: Option<String>,
    /// Whether we say who we are by a certificate.
    identified: bool,
}

/// The clients that were made so far.
#[derive(Debug, Default)]
pub(super) struct Clients {
    made: Mutex<HashMap<ClientKey, Client>>,
    /// What is said of the TLS of registries, with what is in files.
    tls: Mutex<HashMap<String, Arc<HostTls>>>,
    authorities: Vec<Vec<u8>>,
}

impl Clients {
    /// Clients that trust these authorities (PEM bundles) beside the machine's.
    pub(super) fn new(authorities: Vec<Vec<u8>>) -> Self {
        Self { authorities, ..Self::default() }
    }

    /// The client to ask `url` with, for a request to `registry`. Where that is another host (after a redirect), what is
    /// said of that host counts; else what is said of the registry, but for our certificate, which is for it alone.
    pub(super) fn to(&self, rules: &Rules, registry: &str, url: &Url) -> Result<Client, RegistryError> {
        let near = url.scheme() == "http" || url.host_str().is_some_and(reference::is_loopback);
        let asked = host_of(url);
        let is_its_own = asked == reference::api_host(registry);
        if !is_its_own && self.tls(rules, &asked)?.is_own() {
            return self.client(rules, ClientKey { near, own_tls: Some(asked), identified: true });
        }
        let own_tls = self.tls(rules, registry)?.is_own().then(|| registry.to_owned());
        let identified = is_its_own && own_tls.is_some();
        self.client(rules, ClientKey { near, own_tls, identified })
    }

    /// What is said of the TLS of `registry`.
    pub(super) fn tls(&self, rules: &Rules, registry: &str) -> Result<Arc<HostTls>, RegistryError> {
        let mut known = lock(&self.tls);
        if let Some(tls) = known.get(registry) {
            return Ok(Arc::clone(tls));
        }
        let tls = Arc::new(rules.tls(registry)?);
        known.insert(registry.to_owned(), Arc::clone(&tls));
        Ok(tls)
    }

    fn client(&self, rules: &Rules, key: ClientKey) -> Result<Client, RegistryError> {
        let tls = key.own_tls.as_ref().map(|registry| self.tls(rules, registry)).transpose()?;
        let mut made = lock(&self.made);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = self.make(rules, &key, tls.as_deref()).map_err(|error| RegistryError::Client {
            registry: key.own_tls.clone().unwrap_or_else(|| "of that name".to_owned()),
            source: Box::new(error),
        })?;
        Ok(made.entry(key).or_insert(client).clone())
    }

    fn make(
        &self,
        rules: &Rules,
        key: &ClientKey,
        tls: Option<&HostTls>,
    ) -> Result<Client, CertificateError> {
        let mut authorities = Vec::new();
        let own = tls.map_or(&[][..], |tls| &tls.authorities);
        for bundle in self.authorities.iter().chain(own) {
            authorities.extend(Certificate::from_pem_bundle(bundle)?);
        }
        let identity = tls.and_then(|tls| tls.identity.as_deref()).filter(|_| key.identified);
        let identity = identity.map(Identity::from_pem).transpose()?;
        let is_unverified = tls.is_some_and(|tls| tls.is_unverified);
        let builder = || {
            let mut builder = builder(rules).tls_danger_accept_invalid_certs(is_unverified);
            if let Some(identity) = &identity {
                builder = builder.identity(identity.clone());
            }
            if key.near { builder.no_proxy() } else { builder }
        };
        certificates::client(builder, &authorities)
    }
}

/// What all clients have in common. Redirects are followed by whoever sends, who knows what may go along.
fn builder(rules: &Rules) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(rules.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
        .timeout(read_timeout(rules))
        .redirect(Policy::none())
}

/// Longest silence while an answer is awaited or read.
pub(super) fn read_timeout(rules: &Rules) -> Duration {
    rules.read_timeout.unwrap_or(READ_TIMEOUT)
}

/// Host and port as names of images have them.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
