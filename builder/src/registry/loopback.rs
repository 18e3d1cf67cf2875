//! Registries on this machine, of which nothing is said: whether they have TLS is found out.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What is on this machine answers in less.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Records that answer the beginning of TLS: an alert, or a handshake (RFC 8446 §5.1).
const TLS_RECORDS: [u8; 2] = [21, 22];

/// Whether the registry at `url` answers the beginning of TLS with TLS. Nothing is asked of it yet, and nobody is believed:
/// the certificate is looked at when something is.
pub(super) fn speaks_tls(url: &Url, timeout: Option<Duration>) -> bool {
    let timeout = timeout.unwrap_or(TIMEOUT).min(TIMEOUT);
    first_byte(url, timeout).is_some_and(|byte| TLS_RECORDS.contains(&byte))
}

fn first_byte(url: &Url, timeout: Duration) -> Option<u8> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    let addresses = (host, url.port_or_known_default()?).to_socket_addrs().ok()?;
    let hello = client_hello(host)?;
    let mut connection =
        addresses.into_iter().find_map(|address| TcpStream::connect_timeout(&address, timeout).ok())?;
    connection.set_read_timeout(Some(timeout)).ok()?;
    connection.set_write_timeout(Some(timeout)).ok()?;
    connection.write_all(&hello).ok()?;
    let mut byte = [0];
    connection.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

/// What a client of TLS says first, and the end of a line: whoever reads lines shall not wait for it.
fn client_hello(host: &str) -> Option<Vec<u8>> {
    // No certificate is looked at: none of it comes to that.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).ok()?.write_tls(&mut hello).ok()?;
    hello.extend_from_slice(b"\r\n\r\n");
    Some(hello)
}
