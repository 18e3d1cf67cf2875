//! `wharf login` and `wharf logout`.

use std::io::{self, IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::Args;
use wharf_runtime::Cancel;

use super::config::Config;
use super::registries::{credential_files, options, require_host};
use crate::error::{Failure, Kind, causes};
use crate::progress::{ask_line, ask_secret, print_result, print_warning};
use crate::registry::credentials::{CredentialError, CredentialFile, Kept, User, registry_of};
use crate::registry::reference::DEFAULT_REGISTRY;
use crate::registry::{Credentials, Login, OciRegistry, Reference, RegistryError, RegistryOptions};
use crate::signals::{self, Listening};

/// No password is longer, nor an access token.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// Name of the user
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password or access token; better is `--password-stdin`
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Take the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Speak plain HTTP to this registry (`host[:port]`); loopback needs no asking
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// The registry, `host[:port]`
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
}

#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    /// From all registries
    #[arg(short, long, conflicts_with = "registry")]
    all: bool,
    /// The registry, `host[:port]`
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
}

pub(super) fn login(args: &LoginArgs, config: &Config) -> Result<ExitCode, Failure> {
    args.insecure_registry.iter().try_for_each(|host| require_host(host))?;
    let name = parse(&args.registry)?;
    let registry = name.registry();
    let file = file()?;
    if args.password.is_some() {
        print_warning(
            "a password among the arguments is in the shell's history and the list of processes; \
             `--password-stdin` is not",
        );
    }
    if args.password.is_none() && !args.password_stdin && !io::stdin().is_terminal() {
        return log_in_again(args, config, &name);
    }
    let (username, password) = name_and_password(args)?;
    let mut credentials = Credentials::default();
    credentials.give(registry, &username, &password);
    let (client, _signals) = client(args, config, credentials)?;
    match client.login(&name).map_err(|error| refused(&error))? {
        Login::Accepted => {}
        Login::NotAsked => print_warning(&format!(
            "{registry} asked for no credentials, so that nobody knows whether these are right"
        )),
    }
    let kept = file.keep(registry, &username, &password).map_err(|error| unkept(registry, &error))?;
    match kept {
        Kept::WithHelper(name) => {
            print_result(&format!("Login to {registry} succeeded; docker-credential-{name} keeps it"))
        }
        Kept::InFile(path) => print_result(&format!(
            "Login to {registry} succeeded; kept in {}, where whoever can read that file can read it",
            path.display()
        )),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// What asks the registry, until a signal comes.
fn client(
    args: &LoginArgs,
    config: &Config,
    credentials: Credentials,
) -> Result<(OciRegistry, Listening), Failure> {
    let cannot_start = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, "cannot start", error)
    };
    let cancel = Cancel::new().map_err(|error| cannot_start(&error))?;
    let signals = signals::cancel_on_termination(&cancel).map_err(|error| cannot_start(&error))?;
    let options = options(config, credentials, args.insecure_registry.clone())?;
    Ok((OciRegistry::new(RegistryOptions { cancel: Some(cancel), ..options }), signals))
}

/// Nobody can be asked for a password: what is kept is tried.
fn log_in_again(args: &LoginArgs, config: &Config, name: &Reference) -> Result<ExitCode, Failure> {
    let registry = name.registry();
    let credentials = Credentials::of_files(credential_files());
    let kept = credentials.user_of(registry, name.repository()).map_err(|error| refused(&error))?;
    let nothing = |message: String| {
        Err(Failure::new(Kind::Usage, message).hint("give `--username NAME --password-stdin`"))
    };
    let who = match (kept, &args.username) {
        (None, _) => {
            return nothing(format!(
                "there is no password, nothing is kept for {registry}, and standard input is no terminal to ask for it"
            ));
        }
        (Some(User::Named(kept)), Some(wanted)) if kept != *wanted => {
            return nothing(format!(
                "there is no password for `{wanted}` (what is kept for {registry} is for `{kept}`), and standard input is no \
                 terminal to ask for it"
            ));
        }
        (Some(User::Token), Some(wanted)) => {
            return nothing(format!(
                "there is no password for `{wanted}` (what is kept for {registry} is a token), and standard input is no \
                 terminal to ask for it"
            ));
        }
        (Some(User::Named(kept)), _) => format!("what is kept for `{kept}`"),
        (Some(User::Token), None) => "the token that is kept".to_owned(),
    };
    let (client, _signals) = client(args, config, credentials)?;
    match client.login(name) {
        Ok(Login::Accepted) => print_result(&format!("Login to {registry} succeeded with {who}"))?,
        Ok(Login::NotAsked) => {
            print_warning(&format!(
                "{registry} asked for no credentials, so that nobody knows whether {who} is right"
            ));
        }
        Err(error @ RegistryError::Interrupted { .. }) => return Err(refused(&error)),
        Err(error) => {
            return Err(refused(&error)
                .hint(format!("{who} was tried; `--username NAME --password-stdin` gives another")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn logout(args: &LogoutArgs) -> Result<ExitCode, Failure> {
    let file = file()?;
    if args.all {
        file.forget_all().map_err(|error| unkept("all registries", &error))?;
        print_result("Removed all credentials")?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = parse(&args.registry)?;
    let registry = name.registry();
    match file.forget(registry).map_err(|error| unkept(registry, &error))? {
        true => print_result(&format!("Removed the credentials for {registry}")),
        false => print_result(&format!("Not logged in to {registry}")),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A name in the registry that is meant.
fn parse(text: &str) -> Result<Reference, Failure> {
    let name = registry_of(text).and_then(|host| format!("{host}/login").parse().ok());
    name.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("`{text}` is no registry: it is HOST[:PORT]"))
            .hint("as in the names of images: `registry.example:5000`")
    })
}

/// The file that is looked into first.
fn file() -> Result<CredentialFile, Failure> {
    let path = credential_files().into_iter().next();
    path.map(CredentialFile::new).ok_or_else(|| {
        Failure::new(Kind::Environment, "there is no place to keep credentials: HOME is not set")
            .hint("DOCKER_CONFIG names a directory for it")
    })
}

fn name_and_password(args: &LoginArgs) -> Result<(String, String), Failure> {
    let is_terminal = io::stdin().is_terminal();
    let nobody = |what: &str| {
        Failure::new(
            Kind::Usage,
            format!("there is no {what}, and standard input is no terminal to ask for it"),
        )
        .hint("give `--username NAME --password-stdin`")
    };
    let username = match &args.username {
        Some(name) => name.clone(),
        None if is_terminal => ask_line("Username: "),
        None => return Err(nobody("name")),
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => password_of_stdin()?,
        None if is_terminal => ask_secret("Password: ")
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot ask for the password", &error))?,
        None => return Err(nobody("password")),
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new(Kind::Usage, "name and password must not be empty"));
    }
    if username.contains(':') {
        return Err(Failure::new(Kind::Usage, "a name with a colon cannot be sent to a registry"));
    }
    Ok((username, password))
}

fn password_of_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin().take(PASSWORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| {
        Failure::from_error(Kind::Environment, "cannot read the password from standard input", &error)
    })?;
    if bytes.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(Failure::new(Kind::Usage, "what is on standard input is too long for a password"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(Kind::Usage, "what is on standard input is no text"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn refused(error: &RegistryError) -> Failure {
    if let RegistryError::Unauthorized { registry, detail, .. } = error {
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        let message = format!("registry {registry} does not take this name and password{detail}");
        return Failure::new(Kind::Source, message)
            .hint("where an account has a second factor, an access token goes in the place of the password");
    }
    if let RegistryError::Interrupted { .. } = error {
        return Failure::new(Kind::Cancelled, causes(error));
    }
    let mut failure = Failure::new(Kind::Source, causes(error));
    failure.hints.extend(error.hint());
    failure
}

fn unkept(registry: &str, error: &CredentialError) -> Failure {
    let doing = format!("cannot change the credentials for {registry}");
    Failure::from_error(Kind::Environment, &doing, error).hint(error.hint())
}
