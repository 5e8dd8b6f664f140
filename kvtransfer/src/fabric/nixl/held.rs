//! What a request uses of this side, each registration once, however many of its moves name it.

use std::rc::Rc;

use super::raw::Registered;
use crate::{Error, RegionId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    regions: Vec<RegionId>,
    registered: Vec<Rc<Registered>>,
}

impl Held {
    /// Which of them a region is; the next one if it was not among them.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`] if `found` is nothing.
    pub(super) fn number(
        &mut self,
        region: RegionId,
        found: Option<&Rc<Registered>>,
    ) -> Result<usize, Error> {
        // Moves come in order, so it is mostly the last.
        if let Some(number) = self.regions.iter().rposition(|held| *held == region) {
            return Ok(number);
        }
        self.registered.push(Rc::clone(found.ok_or(Error::UnknownRegion(region))?));
        self.regions.push(region);
        Ok(self.regions.len() - 1)
    }

    /// All of them, by number.
    pub(super) fn all(self) -> Vec<Rc<Registered>> {
        self.registered
    }
}
