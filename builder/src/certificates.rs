//! Whom HTTPS is trusted to: the machine's own certificate authorities, or, where it has none, those built in.

use reqwest::Certificate;
use reqwest::blocking::{Client, ClientBuilder};

/// The client that `builder` describes, with `further` authorities beside the machine's. An empty file system has none:
/// there, Mozilla's are used, which are part of this program. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
pub(crate) fn client(
    builder: impl Fn() -> ClientBuilder,
    further: &[Certificate],
) -> Result<Client, reqwest::Error> {
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let machines = builder().tls_certs_merge(further.iter().cloned()).build();
    machines.or_else(|error| {
        // What does not help shall not hide why it was needed.
        let Ok(authorities) = built_in() else { return Err(error) };
        builder().tls_certs_only(authorities.into_iter().chain(further.iter().cloned())).build()
    })
}

fn built_in() -> Result<Vec<Certificate>, reqwest::Error> {
    let authorities = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    authorities.map(|authority| Certificate::from_der(authority)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorities_that_are_built_in_can_be_read() {
        assert!(built_in().unwrap().len() > 50);
    }
}
