//! Leases of this side: each is granted on every fabric that has its regions, and is free when each of them says so, and
//! nobody computes checksums of its bytes.

use std::collections::HashMap;
use std::time::Instant;

use kvferry_transfer::{Access, Lease, Leases, Refused, RegionId, Span, Token, Use};

use super::Regions;
use crate::Error;
use crate::limits::MAX_LEASES;
use crate::options::Carrier;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    leases: Leases,
    open: HashMap<Token, Open>,
}

#[derive(Debug)]
struct Open {
    /// Fabrics that have not freed it, a bit for each.
    fabrics: u32,
    /// Its regions.
    regions: Vec<RegionId>,
    /// It has ended, but checksums of its bytes are being computed.
    checking: bool,
}

impl Grants {
    /// Grants a lease.
    ///
    /// # Errors
    /// Ranges that are not registered; [`Error::NoLane`] if no fabric has all of them; [`Error::Full`]; what a fabric says.
    pub(crate) fn grant(
        &mut self,
        carriers: &[Carrier],
        regions: &Regions,
        lease: Lease,
    ) -> Result<(), Error> {
        if self.open.len() >= MAX_LEASES {
            return Err(Error::Full("leases at a time (64 Ki)"));
        }
        let mut named: Vec<RegionId> = Vec::new();
        for span in &lease.spans {
            regions.check(span)?;
            if named.last() != Some(&span.at.region) && !named.contains(&span.at.region) {
                named.push(span.at.region);
            }
        }
        let mut fabrics = 0_u32;
        for (index, carrier) in carriers.iter().enumerate() {
            let spans = lease.spans.iter().map(|span| {
                let id = regions.get(span.at.region).ok()?.ids[index]?;
                Some(Span::new(id, span.at.offset, span.len))
            });
            let Some(spans) = spans.collect::<Option<Vec<_>>>() else { continue };
            let granted = carrier.fabric.grant(Lease { spans, ..lease.clone() });
            if granted == Err(kvferry_transfer::Error::Closed) {
                // It has ended; the others go on.
                continue;
            }
            if let Err(error) = granted {
                // Nobody knows the token: what was granted so far was never used.
                take_back(carriers, fabrics, lease.token);
                return Err(error.into());
            }
            fabrics |= 1 << index;
        }
        if fabrics == 0 {
            return Err(Error::NoLane("no fabric has all regions of the lease".into()));
        }
        let token = lease.token;
        if !self.leases.grant(lease) {
            take_back(carriers, fabrics, token);
            return Err(Error::Full("leases of one token (1)"));
        }
        self.open.insert(token, Open { fabrics, regions: named, checking: false });
        Ok(())
    }

    /// Ends a lease.
    pub(crate) fn revoke(&mut self, carriers: &[Carrier], token: Token) {
        let Some(open) = self.open.get_mut(&token) else { return };
        open.checking = !self.leases.revoke(token);
        take_back(carriers, open.fabrics, token);
    }

    /// A fabric has freed it. `true` if all of it is free.
    pub(crate) fn freed(&mut self, fabric: usize, token: Token) -> bool {
        let Some(open) = self.open.get_mut(&token) else { return false };
        open.fabrics &= !(1 << fabric);
        if open.fabrics == 0 {
            open.checking = !self.leases.revoke(token);
        }
        self.forget_if_free(token)
    }

    /// Whether somebody may compute checksums of these bytes now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn begin(&mut self, token: Token, access: Access, spans: &[Span]) -> Result<Use, Refused> {
        self.leases.begin(token, access, spans.iter().copied(), Instant::now())
    }

    /// That is over. `Some` if all of a lease is free by that.
    pub(crate) fn done(&mut self, using: Use) -> Option<Token> {
        let token = self.leases.done(using)?;
        if let Some(open) = self.open.get_mut(&token) {
            open.checking = false;
        }
        self.forget_if_free(token).then_some(token)
    }

    /// Whether a lease names a region.
    pub(crate) fn names(&self, region: RegionId) -> bool {
        self.open.values().any(|open| open.regions.contains(&region))
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn forget_if_free(&mut self, token: Token) -> bool {
        let free = self.open.get(&token).is_some_and(|open| open.fabrics == 0 && !open.checking);
        if free {
            self.open.remove(&token);
        }
        free
    }
}

fn take_back(carriers: &[Carrier], fabrics: u32, token: Token) {
    let granted = carriers.iter().enumerate().filter(|(index, _)| fabrics & (1 << index) != 0);
    granted.for_each(|(_, carrier)| carrier.fabric.revoke(token));
}
