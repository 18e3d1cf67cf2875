//! The ids that a process believes to have, and the kernel's rules for changing them.
//!
//! Who is user 0 in effect has the capabilities that a change of ids takes. That is what a process of a container has
//! unless it gave capabilities up while it stayed root.

/// The most supplementary groups of a process (`NGROUPS_MAX`).
pub(crate) const GROUPS_MAX: usize = 65536;

/// No change (as an argument), and no valid id.
const NONE: u32 = u32::MAX;

/// Users and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    /// Supplementary groups, in the order in which they were set.
    pub(crate) groups: Vec<u32>,
}

/// The four ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    /// What files are made and found with.
    pub(crate) files: u32,
}

/// A change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The process may not.
    NotPermitted,
    /// There is no such id, or there are too many.
    Invalid,
}

impl Ids {
    /// All four.
    pub(crate) fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, files: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid` and `setgid`.
    pub(crate) fn set(&mut self, id: u32, privileged: bool) -> Result<(), Refused> {
        if id == NONE {
            return Err(Refused::Invalid);
        }
        if privileged {
            *self = Self::all(id);
        } else if id == self.real || id == self.saved {
            (self.effective, self.files) = (id, id);
        } else {
            return Err(Refused::NotPermitted);
        }
        Ok(())
    }

    /// `setreuid` and `setregid`.
    pub(crate) fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Result<(), Refused> {
        let old = *self;
        let real_allowed = real == NONE || privileged || real == old.real || real == old.effective;
        if !real_allowed || !(effective == NONE || privileged || old.has(effective)) {
            return Err(Refused::NotPermitted);
        }
        if real != NONE {
            self.real = real;
        }
        if effective != NONE {
            self.effective = effective;
        }
        if real != NONE || effective != NONE && effective != old.real {
            self.saved = self.effective;
        }
        self.files = self.effective;
        Ok(())
    }

    /// `setresuid` and `setresgid`.
    pub(crate) fn set_three(&mut self, ids: [u32; 3], privileged: bool) -> Result<(), Refused> {
        if !privileged && ids.iter().any(|id| *id != NONE && !self.has(*id)) {
            return Err(Refused::NotPermitted);
        }
        for (own, id) in [&mut self.real, &mut self.effective, &mut self.saved].into_iter().zip(ids) {
            if id != NONE {
                *own = id;
            }
        }
        self.files = self.effective;
        Ok(())
    }

    /// `setfsuid` and `setfsgid`, which tell the id before the change and nothing else.
    pub(crate) fn set_files(&mut self, id: u32, privileged: bool) -> u32 {
        let old = self.files;
        if id != NONE && (privileged || id == old || self.has(id)) {
            self.files = id;
        }
        old
    }

    /// What a program that is executed begins with. `owner` is the one that a set-id program brings.
    fn execute(&mut self, owner: Option<u32>) {
        self.effective = owner.unwrap_or(self.effective);
        (self.saved, self.files) = (self.effective, self.effective);
    }
}

impl Credentials {
    /// Those of a process that starts as `user` and `group`.
    pub(crate) fn new(user: u32, group: u32, groups: Vec<u32>) -> Self {
        Self { user: Ids::all(user), group: Ids::all(group), groups }
    }

    /// Whether it may become anybody.
    pub(crate) fn may_change_ids(&self) -> bool {
        self.user.effective == 0
    }

    /// Whether no file is refused to it.
    pub(crate) fn owns_all_files(&self) -> bool {
        self.user.files == 0
    }

    /// Whether it is in the group `id` when it comes to files.
    pub(crate) fn in_group(&self, id: u32) -> bool {
        self.group.files == id || self.groups.contains(&id)
    }

    /// `setgroups`.
    pub(crate) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Refused> {
        if !self.may_change_ids() {
            return Err(Refused::NotPermitted);
        }
        if groups.len() > GROUPS_MAX || groups.contains(&NONE) {
            return Err(Refused::Invalid);
        }
        self.groups = groups;
        Ok(())
    }

    /// `execve`, with the owners that a set-user-id and a set-group-id program bring.
    pub(crate) fn execute(&mut self, user: Option<u32>, group: Option<u32>) {
        self.user.execute(user);
        self.group.execute(group);
    }

    /// Whether it may `wanted` (bits of `R_OK`, `W_OK`, `X_OK`) a file with this owner and mode, as far as its mode says.
    pub(crate) fn may(&self, wanted: u32, owner: (u32, u32), mode: u32) -> bool {
        if self.owns_all_files() {
            let executable = mode & 0o111 != 0 || mode & libc::S_IFMT == libc::S_IFDIR;
            return wanted & 1 == 0 || executable;
        }
        let granted = if self.user.files == owner.0 {
            mode >> 6
        } else if self.in_group(owner.1) {
            mode >> 3
        } else {
            mode
        };
        wanted & !granted & 7 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, files: effective }
    }

    #[track_caller]
    fn check(before: Ids, change: impl FnOnce(&mut Ids) -> Result<(), Refused>, after: Result<Ids, Refused>) {
        let mut ids = before;
        assert_eq!(change(&mut ids).map(|()| ids), after);
    }

    #[test]
    fn ids_change_as_in_the_kernel() {
        let (user, dropped) = (ids(5, 5, 5), ids(5, 5, 0));
        let no = Err(Refused::NotPermitted);
        check(ids(0, 0, 0), |ids| ids.set(5, true), Ok(user));
        check(user, |ids| ids.set(0, false), no);
        check(user, |ids| ids.set(NONE, true), Err(Refused::Invalid));
        check(dropped, |ids| ids.set(0, false), Ok(ids(5, 0, 0)));
        check(ids(0, 0, 0), |ids| ids.set_two(NONE, 5, true), Ok(ids(0, 5, 5)));
        check(ids(0, 0, 0), |ids| ids.set_two(NONE, 0, true), Ok(ids(0, 0, 0)));
        check(ids(5, 0, 0), |ids| ids.set_two(0, 5, false), Ok(ids(0, 5, 5)));
        check(user, |ids| ids.set_two(0, NONE, false), no);
        check(ids(5, 6, 7), |ids| ids.set_two(7, NONE, false), no);
        check(ids(5, 6, 7), |ids| ids.set_two(NONE, 7, false), Ok(ids(5, 7, 7)));
        check(ids(0, 0, 0), |ids| ids.set_three([5, 5, 0], true), Ok(dropped));
        check(dropped, |ids| ids.set_three([NONE, 0, NONE], false), Ok(ids(5, 0, 0)));
        check(user, |ids| ids.set_three([NONE, NONE, 0], false), no);
        check(user, |ids| ids.set_three([NONE; 3], false), Ok(user));
    }

    #[test]
    fn the_id_for_files_is_told_and_follows_the_effective_one() {
        let mut ids = Ids::all(0);
        assert_eq!((ids.set_files(5, true), ids.set_files(NONE, true), ids.files), (0, 5, 5));
        ids.set_three([NONE, 7, NONE], true).unwrap();
        assert_eq!((ids.set_files(9, false), ids.set_files(0, false), ids.files), (7, 7, 0));
    }

    #[test]
    fn a_program_brings_its_owner() {
        let mut credentials = Credentials::new(5, 6, vec![7]);
        credentials.execute(Some(0), None);
        assert_eq!(credentials.user, Ids { real: 5, effective: 0, saved: 0, files: 0 });
        assert_eq!(credentials.group, Ids::all(6));
        assert!(credentials.may_change_ids());
        credentials.set_groups(vec![8]).unwrap();
        credentials.user.set(5, false).unwrap();
        assert_eq!(credentials.set_groups(vec![]), Err(Refused::NotPermitted));
        credentials.user.set(0, false).unwrap();
        assert_eq!(credentials.set_groups(vec![NONE]), Err(Refused::Invalid));
        credentials.execute(None, None);
        assert_eq!(credentials.user.real, 5);
    }

    #[test]
    fn modes_decide_for_all_but_root() {
        let user = Credentials::new(5, 6, vec![7]);
        for (owner, mode, wanted, expected) in [
            ((5, 0), 0o400, 4, true),
            ((5, 0), 0o477, 2, false),
            ((0, 6), 0o020, 2, true),
            ((0, 7), 0o020, 2, true),
            ((0, 7), 0o002, 2, false),
            ((0, 0), 0o006, 6, true),
            ((0, 0), 0o770, 1, false),
        ] {
            assert_eq!(user.may(wanted, owner, mode), expected, "{wanted} of {mode:o} {owner:?}");
        }
        let root = Credentials::default();
        assert!(root.may(6, (5, 5), 0) && !root.may(1, (5, 5), 0o666) && root.may(1, (5, 5), 0o001));
    }
}
