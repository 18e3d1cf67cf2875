//! kaniko's flags about registries → [`Rules`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use clap::Args;

use super::switch;
use crate::error::{Failure, Kind};
use crate::registry::reference::DEFAULT_REGISTRY;
use crate::registry::{Hosts, Mirror, Reference, Rules};

#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// The registries that the image is pushed to may lack HTTPS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    insecure: bool,
    /// Every registry may lack HTTPS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    insecure_pull: bool,
    /// This registry may lack HTTPS
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    insecure_registry: Vec<String>,
    /// The certificates of the registries that the image is pushed to are not checked
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    skip_tls_verify: bool,
    /// No registry's certificate is checked
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    skip_tls_verify_pull: bool,
    /// The certificate of this registry is not checked
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    skip_tls_verify_registry: Vec<String>,
    /// Trust the certificate in FILE for a registry
    #[arg(long, value_name = "HOST=FILE", value_delimiter = ';')]
    registry_certificate: Vec<String>,
    /// Identify ourselves to a registry with a certificate and its key
    #[arg(long, value_name = "HOST=CERTIFICATE,KEY", value_delimiter = ';')]
    registry_client_cert: Vec<String>,
    /// Look for images of a registry in others first: HOST=HOST[/PREFIX];HOST=…
    #[arg(long, value_name = "HOST=MIRROR", value_delimiter = ';')]
    registry_map: Vec<String>,
    /// Look for images of docker.io here first; may be given several times
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    registry_mirror: Vec<String>,
    /// Do not ask a registry that has mirrors itself
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    skip_default_registry_fallback: bool,
    /// How often a push that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    push_retry: u32,
    /// How often a download that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    image_download_retry: u32,
    /// Go on when a registry refuses to change a tag
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    push_ignore_immutable_tag_errors: bool,
}

impl RegistryArgs {
    /// What they say, when images are pushed to `pushed`. `variable` has the environment.
    pub(super) fn rules(
        &self,
        pushed: &[Reference],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Rules, Failure> {
        let hosts = |every: bool, pushed_ones: bool, named: &[String]| {
            if every {
                return Hosts::All;
            }
            let pushed = pushed.iter().filter(|_| pushed_ones).map(Reference::registry);
            Hosts::These(
                named.iter().map(String::as_str).chain(pushed).map(registry).collect::<BTreeSet<_>>(),
            )
        };
        let retries = Some(self.push_retry.max(self.image_download_retry)).filter(|count| *count > 2);
        Ok(Rules {
            may_be_plain: hosts(self.insecure_pull, self.insecure, &self.insecure_registry),
            unverified: hosts(
                self.skip_tls_verify_pull,
                self.skip_tls_verify,
                &self.skip_tls_verify_registry,
            ),
            authorities: self.authorities()?,
            identities: self.identities()?,
            mirrors: self.mirrors(variable)?,
            only_mirrors: match self.skip_default_registry_fallback {
                true => Hosts::All,
                false => Hosts::default(),
            },
            retries,
            ignore_immutable_tags: self.push_ignore_immutable_tag_errors,
            ..Rules::default()
        })
    }

    fn authorities(&self) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let flag = "--registry-certificate";
        let read = |text: &String| {
            let (host, path) = pair(flag, text)?;
            Ok((registry(host), file(flag, path)?))
        };
        self.registry_certificate.iter().map(read).collect()
    }

    fn identities(&self) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let flag = "--registry-client-cert";
        let read = |text: &String| {
            let (host, paths) = pair(flag, text)?;
            let (certificate, key) = paths.split_once(',').ok_or_else(|| {
                Failure::new(Kind::Usage, format!("{flag} `{text}` is not HOST=CERTIFICATE,KEY"))
            })?;
            let mut identity = file(flag, certificate)?;
            identity.push(b'\n');
            identity.extend(file(flag, key)?);
            Ok((registry(host), identity))
        };
        self.registry_client_cert.iter().map(read).collect()
    }

    fn mirrors(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<String, Vec<Mirror>>, Failure> {
        let mut mirrors: BTreeMap<String, Vec<Mirror>> = BTreeMap::new();
        let mut add = |flag: &str, of: &str, mirror: &str| {
            let mirror =
                mirror.parse().map_err(|error| Failure::new(Kind::Usage, format!("{flag}: {error}")))?;
            mirrors.entry(registry(of)).or_default().push(mirror);
            Ok::<(), Failure>(())
        };
        let maps = variable("KANIKO_REGISTRY_MAP").unwrap_or_default();
        let maps = maps.split(';').filter(|text| !text.is_empty());
        for text in self.registry_map.iter().map(String::as_str).chain(maps) {
            let (of, mirror) = pair("--registry-map", text)?;
            add("--registry-map", of, mirror)?;
        }
        let hosts = variable("KANIKO_REGISTRY_MIRROR").unwrap_or_default();
        let hosts = hosts.split(',').filter(|text| !text.is_empty());
        for mirror in self.registry_mirror.iter().map(String::as_str).chain(hosts) {
            add("--registry-mirror", DEFAULT_REGISTRY, mirror)?;
        }
        Ok(mirrors)
    }
}

/// The host as names of images have it.
fn registry(host: &str) -> String {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

fn pair<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    text.split_once('=')
        .filter(|(host, value)| !host.is_empty() && !value.is_empty())
        .ok_or_else(|| Failure::new(Kind::Usage, format!("{flag} `{text}` is not HOST=VALUE")))
}

fn file(flag: &str, path: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::from_error(Kind::Usage, &format!("{flag}: cannot read `{path}`"), &error))
}
