//! Mount options, as fstab and the runtime spec write them.

use crate::RuntimeError;

/// What a list of options means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `MS_*` for a new file system.
    pub(crate) flags: u64,
    /// `MOUNT_ATTR_*` to set on a bound tree.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear on a bound tree.
    pub(crate) clear: u64,
    /// Whether the tree is bound with the mounts below it; none when it is not bound at all.
    pub(crate) bind: Option<Recursion>,
    /// `MS_PRIVATE`, `MS_SLAVE` or `MS_SHARED`.
    pub(crate) propagation: u64,
    /// What only the file system understands.
    pub(crate) data: Vec<String>,
}

/// Whether the mounts below a tree come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursion {
    /// `bind`
    Top,
    /// `rbind`
    All,
}

impl MountOptions {
    /// Reads a list of options.
    pub(crate) fn parse(options: &[String]) -> Result<Self, RuntimeError> {
        let mut parsed =
            Self { flags: 0, set: 0, clear: 0, bind: None, propagation: libc::MS_PRIVATE, data: Vec::new() };
        for option in options {
            parsed.apply(option)?;
        }
        Ok(parsed)
    }

    /// Device nodes on this mount cannot be opened.
    pub(crate) fn forbid_devices(&mut self) {
        self.flags |= libc::MS_NODEV;
        self.set |= libc::MOUNT_ATTR_NODEV;
        self.clear &= !libc::MOUNT_ATTR_NODEV;
    }

    fn apply(&mut self, option: &str) -> Result<(), RuntimeError> {
        // What holds for the mounts below as well is what always happens here.
        let name = match option {
            "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime"
            | "rdiratime" | "rrelatime" | "rnorelatime" | "rnoatime" | "ratime" | "rstrictatime"
            | "rnostrictatime" | "rnosymfollow" | "rsymfollow" => &option[1..],
            _ => option,
        };
        if let Some((_, flag, attribute)) = ON.iter().find(|(on, ..)| *on == name) {
            self.flags |= flag;
            self.set |= attribute;
            self.clear &= !attribute;
        } else if let Some((_, flag, attribute)) = OFF.iter().find(|(off, ..)| *off == name) {
            self.flags &= !flag;
            self.set &= !attribute;
            self.clear |= attribute;
        } else if let Some((_, flag, attribute)) = ATIME.iter().find(|(atime, ..)| *atime == name) {
            self.flags = self.flags & !(libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME) | flag;
            self.set = self.set & !libc::MOUNT_ATTR__ATIME | attribute;
            self.clear |= libc::MOUNT_ATTR__ATIME;
        } else {
            match name {
                "defaults" | "async" | "loud" | "nomand" => {}
                "bind" => self.bind = Some(Recursion::Top),
                "rbind" => self.bind = Some(Recursion::All),
                "private" | "rprivate" => self.propagation = libc::MS_PRIVATE,
                "slave" | "rslave" => self.propagation = libc::MS_SLAVE,
                "shared" | "rshared" => self.propagation = libc::MS_SHARED,
                "unbindable" | "runbindable" | "remount" | "idmap" | "ridmap" | "tmpcopyup" => {
                    return Err(RuntimeError::Unsupported { what: format!("the mount option `{option}`") });
                }
                data => self.data.push(data.to_owned()),
            }
        }
        Ok(())
    }
}

type Flag = (&'static str, u64, u64);

const ON: &[Flag] = &[
    ("ro", libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", 256, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("mand", libc::MS_MANDLOCK, 0),
    ("silent", libc::MS_SILENT, 0),
];

const OFF: &[Flag] = &[
    ("rw", libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    ("suid", libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    ("dev", libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    ("exec", libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ("diratime", libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ("symfollow", 256, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

const ATIME: &[Flag] = &[
    ("noatime", libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
    ("relatime", libc::MS_RELATIME, libc::MOUNT_ATTR_RELATIME),
    ("atime", 0, libc::MOUNT_ATTR_RELATIME),
    ("norelatime", 0, libc::MOUNT_ATTR_RELATIME),
    ("nostrictatime", 0, libc::MOUNT_ATTR_RELATIME),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(options: &str) -> MountOptions {
        let options: Vec<String> = options.split(',').map(str::to_owned).collect();
        MountOptions::parse(&options).unwrap()
    }

    #[test]
    fn flags_attributes_and_data_are_told_apart() {
        let dev = check("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(dev.flags, libc::MS_NOSUID | libc::MS_STRICTATIME);
        assert_eq!(dev.data, ["mode=755", "size=65536k"]);
        assert_eq!(dev.bind, None);

        let bind = check("rbind,ro,nosuid,noatime,rslave");
        assert_eq!(bind.bind, Some(Recursion::All));
        assert_eq!(bind.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(bind.clear, libc::MOUNT_ATTR__ATIME);
        assert_eq!(bind.propagation, libc::MS_SLAVE);
    }

    #[test]
    fn the_last_word_counts() {
        let rw = check("bind,ro,rw");
        assert_eq!((rw.flags, rw.set, rw.clear), (0, 0, libc::MOUNT_ATTR_RDONLY));
        let ro = check("bind,rw,rro");
        assert_eq!((ro.set, ro.clear), (libc::MOUNT_ATTR_RDONLY, 0));
        let mut dev = check("bind,dev");
        dev.forbid_devices();
        assert_eq!((dev.set, dev.clear), (libc::MOUNT_ATTR_NODEV, 0));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for option in ["idmap", "tmpcopyup", "remount"] {
            assert!(MountOptions::parse(&[option.to_owned()]).is_err(), "{option}");
        }
    }
}
