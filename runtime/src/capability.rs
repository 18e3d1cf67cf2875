//! Sets of capabilities as the kernel sees them.

use oci_spec::runtime::{Capabilities, Capability};

/// A set of capabilities; bit n is capability number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CapabilitySet(pub(crate) u64);

impl CapabilitySet {
    /// The set that `capabilities` names; none at all when it is absent.
    pub(crate) fn from_spec(capabilities: Option<&Capabilities>) -> Self {
        let mut bits = 0;
        for capability in capabilities.into_iter().flatten() {
            bits |= Self::bit(*capability);
        }
        Self(bits)
    }

    /// Every capability there is.
    pub(crate) fn all() -> impl Iterator<Item = Capability> {
        BY_NUMBER.into_iter()
    }

    /// Whether `capability` is in the set.
    pub(crate) fn contains(self, capability: Capability) -> bool {
        self.0 & Self::bit(capability) != 0
    }

    /// What is in both sets.
    pub(crate) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set with `capability`.
    pub(crate) fn with(self, capability: Capability) -> Self {
        Self(self.0 | Self::bit(capability))
    }

    /// The set without `capabilities`.
    pub(crate) fn without(self, capabilities: &[Capability]) -> Self {
        Self(capabilities.iter().fold(self.0, |bits, &capability| bits & !Self::bit(capability)))
    }

    fn bit(capability: Capability) -> u64 {
        let number = BY_NUMBER.iter().position(|&entry| entry == capability);
        number.map_or(0, |number| 1 << number)
    }
}

/// Every capability at the position of its number.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let check = |capability, number: u32| assert_eq!(CapabilitySet::bit(capability), 1 << number);
        check(Capability::Chown, 0);
        check(Capability::SysAdmin, 21);
        check(Capability::Mknod, 27);
        check(Capability::CheckpointRestore, 40);
    }

    #[test]
    fn an_absent_set_is_empty() {
        assert_eq!(CapabilitySet::from_spec(None), CapabilitySet(0));
        let spec = [Capability::Kill, Capability::Chown].into_iter().collect();
        let set = CapabilitySet::from_spec(Some(&spec));
        assert_eq!(set, CapabilitySet(0b10_0001));
        assert!(set.contains(Capability::Kill) && !set.contains(Capability::Bpf));
        assert!(set.with(Capability::Bpf).contains(Capability::Bpf));
    }
}
