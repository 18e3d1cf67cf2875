//! Whom HTTPS is trusted to: the machine's own certificate authorities, or, where it has none, those built in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use reqwest::Certificate;
use reqwest::blocking::{Client, ClientBuilder};

/// What to do about an error of this.
pub(crate) const HINT: &str = "have SSL_CERT_FILE name a file of CA certificates (PEM), or unset it and install the package ca-certificates";

/// The variables that name the authorities instead.
const FILE: &str = "SSL_CERT_FILE";
const DIRECTORY: &str = "SSL_CERT_DIR";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the variable {variable} names `{}`, which cannot be read", path.display())]
    Unreadable { variable: &'static str, path: PathBuf, source: io::Error },
    #[error("the variable {FILE} names `{}`, which has no certificate that can be read (PEM)", path.display())]
    NoCertificate { path: PathBuf },
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// The client that `builder` describes, with `further` authorities beside the machine's. An empty file system has none:
/// there, Mozilla's are used, which are part of this program. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others; what they
/// name has to be there, as nobody else is trusted then.
pub(crate) fn client(
    builder: impl Fn() -> ClientBuilder,
    further: &[Certificate],
) -> Result<Client, CertificateError> {
    check(env::var_os(FILE), env::var_os(DIRECTORY))?;
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let machines = builder().tls_certs_merge(further.iter().cloned()).build();
    let client = machines.or_else(|error| {
        // What does not help shall not hide why it was needed.
        let Ok(authorities) = built_in() else { return Err(error) };
        builder().tls_certs_only(authorities.into_iter().chain(further.iter().cloned())).build()
    });
    Ok(client?)
}

/// Checks what the variables name. Of a directory some files may be something else.
fn check(file: Option<OsString>, directories: Option<OsString>) -> Result<(), CertificateError> {
    let unreadable = |variable, path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Unreadable { variable, path, source }
    };
    if let Some(file) = file {
        let path = PathBuf::from(file);
        let bytes = fs::read(&path).map_err(unreadable(FILE, &path))?;
        if Certificate::from_pem_bundle(&bytes).map_or(true, |found| found.is_empty()) {
            return Err(CertificateError::NoCertificate { path });
        }
    }
    for path in directories.iter().flat_map(env::split_paths) {
        fs::read_dir(&path).map_err(unreadable(DIRECTORY, &path))?;
    }
    Ok(())
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

    #[test]
    fn what_the_variables_name_has_to_be_there() {
        let file = env::temp_dir().join(format!("wharf-certificates-{}", std::process::id()));
        fs::write(&file, "no certificate\n").unwrap();
        let path = |text: &Path| Some(text.as_os_str().to_owned());
        let none = Path::new("/none/such");
        for (of, expected) in [
            ((None, None), Ok(())),
            ((path(none), None), Err("SSL_CERT_FILE names `/none/such`, which cannot be read")),
            ((path(&file), None), Err("which has no certificate")),
            ((None, path(&env::temp_dir())), Ok(())),
            ((None, path(none)), Err("SSL_CERT_DIR names `/none/such`, which cannot be read")),
        ] {
            let found = check(of.0, of.1).map_err(|error| error.to_string());
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(found), Err(words)) if found.contains(words) => {}
                _ => panic!("{found:?}, expected {expected:?}"),
            }
        }
        fs::remove_file(file).unwrap();
    }
}
