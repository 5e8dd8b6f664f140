//! Which peer has which number. UCX has no names: a number is given here when a caller or the peer itself first says who
//! it is, and none is given twice.

use std::collections::HashMap;

use crate::fabric::Limits;
use crate::fabric::common::Identity;
use crate::{Error, PeerId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_identity: HashMap<Identity, PeerId>,
    next: u32,
}

impl Names {
    /// The number of a peer that has one.
    pub(super) fn id_of(&self, identity: &Identity) -> Option<PeerId> {
        self.by_identity.get(identity).copied()
    }

    /// The number of a peer, from now on if not before.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(super) fn name(&mut self, identity: &Identity) -> Result<PeerId, Error> {
        if let Some(id) = self.id_of(identity) {
            return Ok(id);
        }
        if self.by_identity.len() >= Limits::MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        let id = self.new_id()?;
        self.by_identity.insert(identity.clone(), id);
        Ok(id)
    }

    /// A number that was not used before.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(super) fn new_id(&mut self) -> Result<PeerId, Error> {
        let id = PeerId(self.next);
        self.next = self.next.checked_add(1).ok_or(Error::Full("peers of one epoch"))?;
        Ok(id)
    }

    /// The peer may get another number, unless it has already.
    pub(super) fn forget(&mut self, id: PeerId, identity: &Identity) {
        if self.id_of(identity) == Some(id) {
            self.by_identity.remove(identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, Epoch};

    fn identity(epoch: u64) -> Identity {
        Identity { name: AgentName::new("peer").unwrap(), epoch: Epoch(epoch) }
    }

    #[test]
    fn a_peer_keeps_its_number_until_it_is_forgotten_and_gets_another_then() {
        let mut names = Names::default();
        let first = names.name(&identity(1)).unwrap();
        assert_eq!(names.name(&identity(1)), Ok(first));
        let passing = names.new_id().unwrap();
        names.forget(passing, &identity(1));
        assert_eq!(names.id_of(&identity(1)), Some(first), "that was another's number");
        names.forget(first, &identity(1));
        assert_eq!(names.id_of(&identity(1)), None);
        let second = names.name(&identity(1)).unwrap();
        assert!(second != first && second != passing);
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many peers take miri minutes")]
    fn there_are_no_more_than_the_limit_at_a_time() {
        let mut names = Names::default();
        for epoch in 0..Limits::MAX_PEERS as u64 {
            names.name(&identity(epoch)).unwrap();
        }
        assert!(matches!(names.name(&identity(u64::MAX)), Err(Error::Full(_))));
        assert!(names.name(&identity(0)).is_ok(), "it has one");
        let first = names.id_of(&identity(0)).unwrap();
        names.forget(first, &identity(0));
        assert!(names.name(&identity(u64::MAX)).is_ok());
    }
}
