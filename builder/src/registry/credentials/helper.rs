//! Credential helpers: programs `docker-credential-NAME` that keep what should not be in a file
//! (docker-credential-helpers, the protocol of `get`, `store`, `erase` and `list`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Credential;
use super::file::CredentialError;
use crate::progress::printable;

/// A helper may ask the user, or a service; but not for ever.
const TIME_MAX: Duration = Duration::from_secs(60);
/// More is no answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How much of its words is shown.
const MESSAGE_CHARS_MAX: usize = 300;
/// The helpers' agreed way to say that there is nothing (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The name that stands for an identity token in the password's place.
const TOKEN_USER: &str = "<token>";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the helper has under `key`.
pub(super) fn get(name: &str, key: &str) -> Result<Option<Credential>, CredentialError> {
    let Some(answer) = run(name, "get", key.as_bytes())? else { return Ok(None) };
    let Secret { username, secret, .. } = serde_json::from_slice(&answer)
        .map_err(|source| CredentialError::HelperAnswer { name: name.to_owned(), source })?;
    Ok(match (&*username, secret.is_empty()) {
        (_, true) => None,
        (TOKEN_USER, false) => Some(Credential::IdentityToken(secret)),
        (_, false) => Some(Credential::Password { username, password: secret }),
    })
}

/// Has the helper keep name and password under `key`.
pub(super) fn store(name: &str, key: &str, username: &str, password: &str) -> Result<(), CredentialError> {
    let secret =
        Secret { server_url: key.to_owned(), username: username.to_owned(), secret: password.to_owned() };
    let input = serde_json::to_vec(&secret).expect("three texts");
    run(name, "store", &input).map(drop)
}

/// Has the helper forget what is under `key`.
pub(super) fn erase(name: &str, key: &str) -> Result<(), CredentialError> {
    run(name, "erase", key.as_bytes()).map(drop)
}

/// The keys under which the helper has something.
pub(super) fn list(name: &str) -> Result<Vec<String>, CredentialError> {
    let answer = run(name, "list", b"")?.unwrap_or_else(|| b"{}".to_vec());
    let keys: BTreeMap<String, String> = serde_json::from_slice(&answer)
        .map_err(|source| CredentialError::HelperAnswer { name: name.to_owned(), source })?;
    Ok(keys.into_keys().collect())
}

/// Runs the helper; `None` if it says that there is nothing.
fn run(name: &str, operation: &'static str, input: &[u8]) -> Result<Option<Vec<u8>>, CredentialError> {
    // A path would run another program than the one that is meant.
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(CredentialError::HelperName { name: printable(name) });
    }
    let failed_to_run = |source| CredentialError::NoHelper { name: name.to_owned(), source };
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(operation)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed_to_run)?;
    let answer = talk(&mut child, input);
    // Whatever it is still doing, nobody waits for it.
    if answer.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed_to_run)?;
    let Some((out, err)) = answer else {
        return Err(CredentialError::HelperSilent { name: name.to_owned(), limit: TIME_MAX });
    };
    if status.success() {
        return Ok(Some(out));
    }
    // By the protocol it says on standard output why.
    let words = [out, err].map(|bytes| printable(String::from_utf8_lossy(&bytes).trim()));
    if words.iter().any(|words| words.contains(NOT_FOUND)) {
        return Ok(None);
    }
    let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or_else(|| status.to_string());
    let message = words.chars().take(MESSAGE_CHARS_MAX).collect();
    Err(CredentialError::HelperFailed { name: name.to_owned(), operation, message })
}

/// Gives the child its input and takes what it prints, as far as both is done in time.
fn talk(child: &mut Child, input: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take()?, child.stdout.take()?, child.stderr.take()?);
    let (sender, receiver) = mpsc::channel();
    let input = input.to_vec();
    // The threads end with the pipes: at the latest when the child and all that it has started are gone.
    thread::spawn(move || {
        let mut stdin = stdin;
        // A helper that does not read to the end has its reason.
        let _ = stdin.write_all(&input);
    });
    for (number, pipe) in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)].into_iter().enumerate()
    {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut pipe = pipe;
            let _ = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
            let _ = sender.send((number, bytes));
            // What is more goes by, so that the helper ends by itself.
            let _ = io::copy(&mut pipe, &mut io::sink());
        });
    }
    let mut outputs = [None, None];
    while outputs.iter().any(Option::is_none) {
        let (number, bytes) = receiver.recv_timeout(TIME_MAX).ok()?;
        outputs[number] = Some(bytes);
    }
    let [out, err] = outputs;
    out.zip(err)
}
