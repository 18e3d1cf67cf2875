//! Who each process is.
//!
//! The ids of a process are inherited by its children, survive `exec`, and end with it. The kernel keeps one number with
//! these properties that nothing uses any more: the soft limit `RLIMIT_LOCKS`, which Linux has not looked at since 2.4.
//! It holds an index into the table of all ids that processes of the step ever had, so there is nothing to follow and
//! nothing to clear up. Steps are kept from that limit (`super::ids`). A process that got at it all the same would take
//! other ids of the table, which open nothing to it that was closed before.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::io::Errno;

use super::credentials::Credentials;
use crate::supervisor::call::Call;

/// Where a process's index is kept.
pub(crate) const LIMIT: u32 = libc::RLIMIT_LOCKS;

/// The index that a step begins with.
pub(crate) const FIRST: u64 = 0;

/// The most different ids that the processes of a step can have.
const IDENTITIES_MAX: usize = 1 << 16;

/// The most supplementary groups in all of them together.
const GROUPS_MAX: usize = 1 << 20;

/// All ids that processes of a step have had.
#[derive(Debug)]
pub(crate) struct Identities {
    all: Vec<Arc<Credentials>>,
    indices: HashMap<Arc<Credentials>, u64>,
    groups: usize,
}

impl Identities {
    /// Of a step that begins as `first`.
    pub(crate) fn new(first: Credentials) -> Self {
        let (groups, first) = (first.groups.len(), Arc::new(first));
        Self { all: vec![Arc::clone(&first)], indices: HashMap::from([(first, FIRST)]), groups }
    }

    /// The ids of the process that makes `call`.
    pub(crate) fn of(&self, call: &Call<'_>) -> Result<Arc<Credentials>, Errno> {
        let index = call.limit(LIMIT)?;
        // Who has tampered with it is who the step began as.
        let known = usize::try_from(index).ok().and_then(|index| self.all.get(index));
        known.or(self.all.first()).cloned().ok_or(Errno::INVAL)
    }

    /// Gives that process other ids.
    pub(crate) fn set(&mut self, call: &Call<'_>, credentials: Credentials) -> Result<(), Errno> {
        let index = self.intern(credentials)?;
        call.set_limit(LIMIT, index)
    }

    fn intern(&mut self, credentials: Credentials) -> Result<u64, Errno> {
        if let Some(index) = self.indices.get(&credentials) {
            return Ok(*index);
        }
        let groups = self.groups + credentials.groups.len();
        if self.all.len() >= IDENTITIES_MAX || groups > GROUPS_MAX {
            return Err(Errno::NOMEM);
        }
        let (index, credentials) = (self.all.len() as u64, Arc::new(credentials));
        self.groups = groups;
        self.all.push(Arc::clone(&credentials));
        self.indices.insert(credentials, index);
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_are_kept_once_and_there_is_an_end() {
        let mut identities = Identities::new(Credentials::default());
        assert_eq!(identities.intern(Credentials::default()), Ok(FIRST));
        let other = Credentials::new(1, 2, vec![3]);
        assert_eq!((identities.intern(other.clone()), identities.intern(other)), (Ok(1), Ok(1)));
        let many = |user| Credentials::new(user, 0, (0..65536).collect());
        let kept = (2..100).filter(|user| identities.intern(many(*user)).is_ok()).count();
        assert_eq!(kept, GROUPS_MAX / 65536 - 1);
        let kept = (100..).take_while(|user| identities.intern(Credentials::new(*user, 0, vec![])).is_ok());
        assert_eq!(kept.count() + 17, IDENTITIES_MAX);
    }
}
