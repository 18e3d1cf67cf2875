//! The runtime spec: the default one, and what a given one amounts to.

pub(crate) mod devices;
mod options;
pub(crate) mod plan;

use std::path::PathBuf;

pub use devices::{host_device, host_devices};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxDeviceCgroupBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources,
    LinuxResourcesBuilder, LinuxSeccomp, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder,
    SpecBuilder,
};

use crate::Spec;
use crate::capability::CapabilitySet;
use crate::seccomp;

/// The default [`Spec`] of a build step or container: BuildKit's mounts, capabilities, masked and read-only paths and
/// seccomp profile. Args, env, cwd, user, hostname and binds are the caller's to set.
///
/// The network is the host's; a namespace of type `network` in `linux.namespaces` gives the container its own.
/// `linux.seccomp` belongs to the capabilities: whoever changes those takes [`default_seccomp`] of the new ones, and
/// `None` runs unconfined.
pub fn default_spec() -> Spec {
    let capabilities: Capabilities = CAPABILITIES.into_iter().collect();
    let linux = LinuxBuilder::default()
        .namespaces(NAMESPACES.map(namespace).to_vec())
        .resources(devices(false))
        .masked_paths(MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(READONLY_PATHS.map(str::to_owned).to_vec())
        .seccomp(default_seccomp(&capabilities))
        .build()
        .expect("every field has a default");
    let root = RootBuilder::default().path("/").readonly(false).build().expect("every field has a default");
    SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .process(process(capability_sets(capabilities)))
        .mounts(MOUNTS.map(mount).to_vec())
        .linux(linux)
        .hostname("localhost")
        .build()
        .expect("every field has a default")
}

/// The default [`Spec`] without what confines it: every capability, also for a user who is not root, no seccomp, nothing
/// masked or read-only, every device. Namespaces and the root file system stay.
pub fn insecure_spec() -> Spec {
    let mut spec = default_spec();
    let capabilities: Capabilities = CapabilitySet::all().collect();
    let mut sets = capability_sets(capabilities.clone());
    sets.set_inheritable(Some(capabilities.clone())).set_ambient(Some(capabilities));
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(Some(sets));
    }
    if let Some(linux) = spec.linux_mut() {
        linux
            .set_seccomp(None)
            .set_masked_paths(None)
            .set_readonly_paths(None)
            .set_resources(Some(devices(true)));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.destination().starts_with("/sys")
            && let Some(options) = mount.options_mut()
        {
            options.retain(|option| option != "ro");
        }
    }
    spec
}

/// The capabilities of [`default_spec`].
pub(crate) fn usual_capabilities() -> CapabilitySet {
    CapabilitySet::from_spec(Some(&CAPABILITIES.into_iter().collect()))
}

/// The default seccomp profile of a container whose bounding set is `capabilities`.
pub fn default_seccomp(capabilities: &Capabilities) -> LinuxSeccomp {
    seccomp::default_profile(CapabilitySet::from_spec(Some(capabilities)))
}

fn process(capabilities: LinuxCapabilities) -> Process {
    let mut process = ProcessBuilder::default()
        .args(vec!["/bin/sh".to_owned()])
        .env(vec![format!("PATH={}", plan::DEFAULT_PATH)])
        .cwd("/")
        .capabilities(capabilities)
        .no_new_privileges(false)
        .build()
        .expect("every field has a default");
    process.set_rlimits(None);
    process
}

/// Bounding, permitted and effective; nothing is inherited by a program that drops root.
fn capability_sets(capabilities: Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .permitted(capabilities.clone())
        .effective(capabilities)
        .build()
        .expect("every field has a default");
    sets.set_inheritable(None);
    sets.set_ambient(None);
    sets
}

/// Says whether all devices can be used, or only the default ones.
fn devices(all: bool) -> LinuxResources {
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(all)
        .access("rwm")
        .build()
        .expect("every field has a default");
    LinuxResourcesBuilder::default().devices(vec![rule]).build().expect("every field has a default")
}

fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    LinuxNamespaceBuilder::default().typ(kind).build().expect("every field has a default")
}

fn mount((destination, kind, options): (&str, &str, &str)) -> Mount {
    MountBuilder::default()
        .destination(PathBuf::from(destination))
        .typ(kind)
        .source(PathBuf::from(kind))
        .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
        .build()
        .expect("a mount without id mappings is valid")
}

const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

const NAMESPACES: [LinuxNamespaceType; 5] = [
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Cgroup,
];

const MOUNTS: [(&str, &str, &str); 7] = [
    ("/proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
];

const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_spec_survives_json() {
        let spec = default_spec();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }

    #[test]
    fn the_insecure_spec_confines_nothing() {
        let spec = insecure_spec();
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        for set in [sets.bounding(), sets.permitted(), sets.effective(), sets.inheritable(), sets.ambient()] {
            assert_eq!(set.as_ref().map(Capabilities::len), Some(41));
        }
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!((linux.seccomp(), linux.masked_paths(), linux.readonly_paths()), (&None, &None, &None));
        let mounts = spec.mounts().iter().flatten();
        let options = mounts.flat_map(|mount| mount.options().iter().flatten());
        assert_eq!(options.filter(|option| *option == "ro").count(), 0);
    }

    #[test]
    fn the_default_spec_inherits_nothing() {
        let spec = default_spec();
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().map(Capabilities::len), Some(14));
        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
        assert_eq!(process.rlimits(), &None);
        assert_eq!(process.no_new_privileges(), Some(false));
    }
}
