//! kaniko's flags that there is nothing to do for, and why.

use clap::Args;

use super::switch;

/// What wharf does instead of unpacking images over the file system that it runs in.
const OWN_ROOT: &str = "steps run in a directory of the store, and nothing is unpacked over `/`";

#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of kaniko that have no effect")]
pub(super) struct IdleArgs {
    /// How changed files are found
    #[arg(long, value_name = "full|redo|time", alias = "snapshotMode", value_parser = ["full", "redo", "time"])]
    snapshot_mode: Option<String>,
    /// Another way to find changed files
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    use_new_run: Option<bool>,
    /// One layer for everything
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    single_snapshot: Option<bool>,
    /// Paths that are of the pod, not of the image
    #[arg(long, value_name = "PATH", alias = "whitelist-path")]
    ignore_path: Vec<String>,
    /// Whether /var/run is of the pod, not of the image
    #[arg(long, alias = "whitelist-var-run", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    ignore_var_run: Option<bool>,
    /// Empty the file system after the build
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    cleanup: Option<bool>,
    /// Empty the file system before the build
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    pre_cleanup: Option<bool>,
    /// Bring the context back after each stage
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    preserve_context: Option<bool>,
    /// Leave the file system as the image's
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    materialize: Option<bool>,
    /// Build outside of a container, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    force: Option<bool>,
    /// Write the whole config of the image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    force_build_metadata: Option<bool>,
    /// How long the cache is good for
    #[arg(long, value_name = "DURATION")]
    cache_ttl: Option<String>,
    /// Whether layers of COPY are in the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    cache_copy_layers: Option<bool>,
    /// Whether layers of RUN are in the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    cache_run_layers: Option<bool>,
    /// Whether stages that nothing needs are left out
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    skip_unused_stages: Option<bool>,
    /// Whether it is not tried before the build that the image can be pushed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    skip_push_permission_check: Option<bool>,
    /// How often unpacking a base image is tried again
    #[arg(long, value_name = "N")]
    image_fs_extract_retry: Option<u32>,
    /// Helpers for credentials that are built in
    #[arg(long, value_name = "NAME")]
    credential_helpers: Vec<String>,
    /// Credentials of Azure's registry
    #[arg(long, value_name = "FILE", hide = true)]
    azure_container_registry_config: Option<String>,
    /// The format of the image
    #[arg(long, value_name = "oci|docker", ignore_case = true, value_parser = ["oci", "docker"])]
    image_format: Option<String>,
    /// How progress is shown
    #[arg(long, value_name = "text|color|json", value_parser = ["text", "color", "json"])]
    log_format: Option<String>,
    /// Whether lines of progress have a time
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    log_timestamp: Option<bool>,
}

impl IdleArgs {
    /// A line for each flag that was given.
    pub(super) fn notes(&self) -> Vec<String> {
        // What wharf does anyway needs no word.
        let wants = |flag: Option<bool>| flag == Some(true);
        let refuses = |flag: Option<bool>| flag == Some(false);
        let flags = [
            (
                "--snapshot-mode",
                self.snapshot_mode.is_some(),
                "a layer is exactly what its step changed; no mode misses a change or takes longer",
            ),
            (
                "--use-new-run",
                wants(self.use_new_run),
                "a layer is exactly what its step changed; no mode misses a change or takes longer",
            ),
            (
                "--single-snapshot",
                wants(self.single_snapshot),
                "each step makes its own layer, so that builds and machines share what is equal; copy the files from a \
                 stage `FROM scratch` for an image of one layer",
            ),
            ("--ignore-path", !self.ignore_path.is_empty(), OWN_ROOT),
            ("--ignore-var-run", wants(self.ignore_var_run), OWN_ROOT),
            ("--cleanup", wants(self.cleanup), OWN_ROOT),
            ("--pre-cleanup", wants(self.pre_cleanup), OWN_ROOT),
            ("--preserve-context", wants(self.preserve_context), OWN_ROOT),
            ("--materialize", wants(self.materialize), OWN_ROOT),
            ("--force", wants(self.force), OWN_ROOT),
            ("--force-build-metadata", wants(self.force_build_metadata), "the config is always whole"),
            (
                "--cache-ttl",
                self.cache_ttl.is_some(),
                "what is in the cache is found by what it was made from, and does not age; \
                 the registry's own policy removes what is old",
            ),
            (
                "--cache-copy-layers",
                refuses(self.cache_copy_layers),
                "layers of COPY are cached like all others: they are found again by their content",
            ),
            (
                "--cache-run-layers",
                refuses(self.cache_run_layers),
                "layers of RUN are cached like all others; without --cache every step is run",
            ),
            (
                "--skip-unused-stages",
                refuses(self.skip_unused_stages),
                "only stages that are needed are built",
            ),
            (
                "--skip-push-permission-check",
                wants(self.skip_push_permission_check),
                "the registry is first asked when there is something to push",
            ),
            (
                "--image-fs-extract-retry",
                self.image_fs_extract_retry.is_some_and(|retries| retries > 0),
                "layers are kept where they were brought, so that unpacking does not depend on the network",
            ),
            (
                "--credential-helpers",
                self.credential_helpers.iter().any(|name| !name.is_empty()),
                "no helper is built in; the programs docker-credential-* that config.json names are run",
            ),
            (
                "--azure-container-registry-config",
                self.azure_container_registry_config.is_some(),
                "no helper is built in; the programs docker-credential-* that config.json names are run",
            ),
            (
                "--image-format",
                self.image_format.as_deref().is_some_and(|format| format.eq_ignore_ascii_case("docker")),
                "images have the OCI format, which every registry and engine takes; the file of --tar-path is what \
                 `docker load` reads",
            ),
            (
                "--log-format",
                self.log_format.as_deref().is_some_and(|format| format != "text"),
                "progress is plain text",
            ),
            ("--log-timestamp", wants(self.log_timestamp), "each line has the seconds since its step began"),
        ];
        let given = flags.into_iter().filter(|(_, given, _)| *given);
        given.map(|(flag, _, why)| format!("{flag} has no effect: {why}")).collect()
    }
}
