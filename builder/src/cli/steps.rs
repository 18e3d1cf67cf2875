//! Flags of `wharf build` that are about its RUN steps: text → what it means.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use wharf_frontend::dockerfile2llb::RunOptions;
use wharf_solver::llb::NetworkMode;

use super::limits::LimitArgs;
use crate::build::Allowed;
use crate::error::{Failure, Kind, causes};
use crate::secrets::Secrets;
use crate::ssh::SshAgents;
use crate::worker::groups::StepLimits;
use crate::worker::network::HOST_GATEWAY;
use crate::worker::spec::LIMITS;

#[derive(Debug, Args)]
pub(super) struct StepArgs {
    /// A secret for RUN --mount=type=secret: id=ID[,src=PATH|env=NAME][,type=file|env]
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// An SSH agent or keys for RUN --mount=type=ssh: default, or ID[=SOCKET|KEY[,KEY…]]
    #[arg(long, value_name = "default|ID[=PATH]")]
    ssh: Vec<String>,
    /// What steps may ask for: network.host, security.insecure; and for mode=delete of an output: buildx.local.delete
    #[arg(long, value_name = "RIGHT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Network of the RUN steps that do not say
    #[arg(long, value_enum, default_value_t = Network::Default)]
    network: Network,
    /// A line for /etc/hosts of the steps: NAME:ADDRESS, or NAME:host-gateway for the host itself
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A resource limit of the steps: nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Size of /dev/shm of the steps: 128m
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    Default,
    None,
    Host,
}

/// What they mean.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) run: RunOptions,
    pub(super) limits: StepLimits,
    pub(super) allowed: Allowed,
    pub(super) secrets: Secrets,
    pub(super) ssh: SshAgents,
}

impl StepArgs {
    /// A context that is reached over SSH is the user's own choice: the user's agent opens it without being asked for.
    pub(super) fn give_own_agent(&mut self) {
        if self.ssh.is_empty() && super::variable("SSH_AUTH_SOCK").is_some() {
            self.ssh.push(crate::ssh::DEFAULT_ID.to_owned());
        }
    }

    pub(super) fn parse(self) -> Result<Steps, Failure> {
        let usage = |message: String| Failure::new(Kind::Usage, message);
        let environment = &|name: &str| std::env::var_os(name);
        let secrets = Secrets::parse(&self.secret, environment).map_err(|error| usage(causes(&error)))?;
        let ssh = SshAgents::parse(&self.ssh, environment).map_err(|error| usage(causes(&error)))?;
        let mut allowed = allowed(&self.allow).map_err(usage)?;
        let network = match self.network {
            Network::Default => NetworkMode::Sandbox,
            Network::None => NetworkMode::None,
            Network::Host => {
                // Who asks for it on the command line allows it.
                allowed.host_network = true;
                NetworkMode::Host
            }
        };
        let run = RunOptions {
            network,
            extra_hosts: self
                .add_host
                .iter()
                .map(|text| host(text))
                .collect::<Result<_, _>>()
                .map_err(usage)?,
            ulimits: ulimits(&self.ulimit).map_err(usage)?,
            shm_size_bytes: self.shm_size.as_deref().map_or(Ok(0), shm_size).map_err(usage)?,
            // What steps may take is no part of what they are.
            cgroup_parent: String::new(),
        };
        let limits = self.limits.parse().map_err(usage)?;
        Ok(Steps { run, limits, allowed, secrets, ssh })
    }
}

fn allowed(rights: &[String]) -> Result<Allowed, String> {
    let mut allowed = Allowed::default();
    for right in rights {
        match right.trim() {
            "network.host" => allowed.host_network = true,
            "security.insecure" => allowed.insecure = true,
            "buildx.local.delete" => allowed.local_delete = true,
            other => {
                return Err(format!(
                    "--allow {other}: there is no such right; there are network.host, security.insecure and buildx.local.delete"
                ));
            }
        }
    }
    Ok(allowed)
}

/// `name:address` or `name=address`; the address may stand in brackets.
fn host(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = match split {
        Some((name, address)) if !name.is_empty() => (name, address.trim()),
        _ => return Err(format!("--add-host {text}: want NAME:ADDRESS")),
    };
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(format!("--add-host {text}: `{name}` cannot be the name of a host"));
    }
    // What that is depends on the network of the step.
    if address == HOST_GATEWAY {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match bare.parse::<IpAddr>() {
        Ok(_) => Ok((name.to_owned(), bare.to_owned())),
        Err(_) => Err(format!("--add-host {text}: `{address}` is no IP address; want NAME:ADDRESS")),
    }
}

/// The last limit of a name counts. Sorted by name: the order on the command line is no part of a step.
fn ulimits(texts: &[String]) -> Result<Vec<(String, i64, i64)>, String> {
    let mut limits = std::collections::BTreeMap::new();
    for text in texts {
        let want = || format!("--ulimit {text}: want NAME=SOFT[:HARD], whole numbers or -1 for no limit");
        let (name, values) = text.split_once('=').ok_or_else(want)?;
        if !LIMITS.iter().any(|(known, _)| *known == name) {
            let names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "--ulimit {text}: there is no limit `{name}`; there are {}",
                names.join(", ")
            ));
        }
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= -1).ok_or_else(want);
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(values)?, number(values)?),
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(format!("--ulimit {text}: the soft limit is above the hard one"));
        }
        limits.insert(name.to_owned(), (soft, hard));
    }
    Ok(limits.into_iter().map(|(name, (soft, hard))| (name, soft, hard)).collect())
}

fn shm_size(text: &str) -> Result<u64, String> {
    match wharf_frontend::dockerfile2llb::parse_size(text) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(format!("--shm-size {text}: want a size such as 67108864, 128m or 1g")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_addresses() {
        for (text, expected) in [
            ("a:1.2.3.4", Some(("a", "1.2.3.4"))),
            ("a=1.2.3.4", Some(("a", "1.2.3.4"))),
            ("a:::1", Some(("a", "::1"))),
            ("a=[fe80::1]", Some(("a", "fe80::1"))),
            ("a:host-gateway", Some(("a", "host-gateway"))),
            ("a", None),
            (":1.2.3.4", None),
            ("a:", None),
            ("a:b", None),
            ("a\n127.0.0.1 b:1.2.3.4", None),
        ] {
            let expected = expected.map(|(name, address)| (name.to_owned(), address.to_owned()));
            assert_eq!(host(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn limits_are_soft_and_hard() {
        let check = |texts: &[&str], expected: Option<&[(&str, i64, i64)]>| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            let expected = expected.map(|limits| {
                limits.iter().map(|(name, soft, hard)| ((*name).to_owned(), *soft, *hard)).collect::<Vec<_>>()
            });
            assert_eq!(ulimits(&texts).ok(), expected, "{texts:?}");
        };
        check(&["nofile=1062"], Some(&[("nofile", 1062, 1062)]));
        check(&["nofile=1:2"], Some(&[("nofile", 1, 2)]));
        check(&["nofile=1:-1", "core=-1"], Some(&[("core", -1, -1), ("nofile", 1, -1)]));
        check(&["nofile=1", "nofile=2"], Some(&[("nofile", 2, 2)]));
        for wrong in
            ["nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=2:1", "nofile=-2", "x=1", "nofile=-1:5"]
        {
            check(&[wrong], None);
        }
    }

    #[test]
    fn rights_are_known() {
        let parse =
            |texts: &[&str]| allowed(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).ok();
        assert_eq!(parse(&["network.host"]), Some(Allowed { host_network: true, ..Allowed::default() }));
        assert_eq!(
            parse(&["security.insecure", "network.host"]),
            Some(Allowed { host_network: true, insecure: true, local_delete: false })
        );
        assert_eq!(parse(&["network"]), None);
    }
}
