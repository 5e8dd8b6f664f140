//! The regions that one side has registered, by number. Every address that a fabric uses comes from here, bounds checked.

use std::ptr::NonNull;

use super::Region;
use crate::segment::Span;
use crate::{Error, RegionId};

/// The most regions of one side. An engine has one to a few (one for each worker rank and KV group); a thousand leaves
/// room for staging, and keeps what peers must be told bounded.
pub const MAX_REGIONS: usize = 1024;

/// Registered regions. Numbers are not used twice.
#[derive(Debug, Default)]
pub struct Registry {
    regions: Vec<Option<Region>>,
    live: usize,
}

impl Registry {
    /// Takes a region in.
    ///
    /// # Errors
    /// [`Error::Full`] beyond [`MAX_REGIONS`] at a time.
    pub fn add(&mut self, region: Region) -> Result<RegionId, Error> {
        if self.live == MAX_REGIONS {
            return Err(Error::Full("regions registered at a time (1024)"));
        }
        let id = u32::try_from(self.regions.len()).map_err(|_| Error::Full("region numbers of one epoch"))?;
        self.regions.push(Some(region));
        self.live += 1;
        Ok(RegionId(id))
    }

    /// Lets a region go. Whether it is used is for the caller to know.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`].
    pub fn remove(&mut self, id: RegionId) -> Result<Region, Error> {
        let slot = self.regions.get_mut(id.0 as usize).and_then(Option::take);
        let region = slot.ok_or(Error::UnknownRegion(id))?;
        self.live -= 1;
        Ok(region)
    }

    /// The region of that number.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`].
    pub fn get(&self, id: RegionId) -> Result<&Region, Error> {
        self.regions.get(id.0 as usize).and_then(Option::as_ref).ok_or(Error::UnknownRegion(id))
    }

    /// Where a span lies in this process.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`], or [`Error::OutOfRegion`].
    pub fn address(&self, span: Span) -> Result<NonNull<u8>, Error> {
        let region = self.get(span.at.region)?;
        region.address(span.at.offset, span.len).ok_or(Error::OutOfRegion(span.at.region, region.len()))
    }

    /// All that are registered.
    pub fn iter(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        let numbered = (0u32..).zip(&self.regions);
        numbered.filter_map(|(id, region)| Some((RegionId(id), region.as_ref()?)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::Kind;

    /// Nothing of it is ever touched here, so that miri can look at all the rest.
    #[expect(unsafe_code, reason = "a region that is only counted with")]
    fn region() -> Region {
        let base = NonNull::<u64>::dangling().cast();
        // SAFETY: no byte of it is read or written.
        unsafe { Region::foreign(base, 4096, Kind::Host, Arc::new(())) }
    }

    #[test]
    fn a_number_names_one_region_and_is_not_given_again() {
        let mut registry = Registry::default();
        let first = registry.add(region()).unwrap();
        registry.remove(first).unwrap();
        let second = registry.add(region()).unwrap();
        assert_ne!(first, second);
        assert_eq!(registry.remove(first).unwrap_err(), Error::UnknownRegion(first));
        assert_eq!(
            registry.address(Span::new(second, 4000, 97)).unwrap_err(),
            Error::OutOfRegion(second, 4096)
        );
        assert!(registry.address(Span::new(second, 4000, 96)).is_ok());
    }

    #[test]
    fn there_is_a_most() {
        let mut registry = Registry::default();
        for _ in 0..MAX_REGIONS {
            registry.add(region()).unwrap();
        }
        assert_eq!(registry.add(region()).unwrap_err().code(), "full");
    }
}
