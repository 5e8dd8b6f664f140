//! The leases granted here, with their times: which ends next, and which have ended but are still being used. No clock
//! inside: callers say what time it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use super::limits::LEASE_GRACE;
use crate::ids::{RegionId, Token};
use crate::lease::{Access, Lease, Leases, Refused, Use};
use crate::segment::Span;

/// The right to touch a lease's bytes now; see [`Use`].
#[derive(Debug)]
#[must_use = "a use that is not given back keeps the lease's bytes from being freed"]
pub(super) struct InUse {
    token: Token,
    used: Use,
}

impl InUse {
    pub(super) fn token(&self) -> Token {
        self.token
    }
}

/// Leases and when they end.
#[derive(Debug, Default)]
pub(super) struct Book {
    leases: Leases,
    /// Of those that have not ended.
    deadlines: HashMap<Token, Instant>,
    /// The same by time; those that were revoked, or granted anew with another time, are passed over.
    queue: BinaryHeap<Reverse<(Instant, [u8; 16])>>,
    /// When those ended that are in use still.
    ended: HashMap<Token, Instant>,
}

impl Book {
    /// `false` if its token is in use.
    pub(super) fn grant(&mut self, lease: Lease) -> bool {
        let (token, deadline) = (lease.token, lease.deadline);
        if !self.leases.grant(lease) {
            return false;
        }
        self.deadlines.insert(token, deadline);
        self.queue.push(Reverse((deadline, token.0)));
        true
    }

    /// Ends a lease. Whether its bytes are free now; not for one that has ended before.
    pub(super) fn revoke(&mut self, token: Token, now: Instant) -> bool {
        if self.deadlines.remove(&token).is_none() {
            return false;
        }
        let free = self.leases.revoke(token);
        if !free {
            self.ended.insert(token, now);
        }
        free
    }

    /// Ends those whose time has passed; returns those whose bytes are free.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Token> {
        let mut free = Vec::new();
        while let Some(Reverse((deadline, token))) = self.queue.peek().copied() {
            if deadline > now {
                break;
            }
            self.queue.pop();
            let token = Token(token);
            if self.deadlines.get(&token) == Some(&deadline) && self.revoke(token, now) {
                free.push(token);
            }
        }
        free
    }

    /// When the next one ends, or ended already without anybody having looked.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Whether a peer may touch `spans` now; and if so, they are in use.
    pub(super) fn begin(
        &mut self,
        token: Token,
        access: Access,
        spans: &[Span],
        now: Instant,
    ) -> Result<InUse, Refused> {
        let used = self.leases.begin(token, access, spans.iter().copied(), now)?;
        Ok(InUse { token, used })
    }

    /// Ends a use. The token of a lease whose bytes are free by it.
    pub(super) fn done(&mut self, used: InUse) -> Option<Token> {
        let free = self.leases.done(used.used)?;
        self.ended.remove(&free);
        Some(free)
    }

    /// Those that ended a while ago and are in use all the same: somebody does not get on with it.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Token> {
        let late =
            self.ended.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= LEASE_GRACE);
        late.map(|(token, _)| *token).collect()
    }

    /// Those that have not ended.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.deadlines.keys().copied().collect()
    }

    pub(super) fn touches(&self, region: RegionId) -> bool {
        self.leases.touches(region)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TOKEN: Token = Token([1; 16]);

    fn lease(deadline: Instant) -> Lease {
        Lease { token: TOKEN, access: Access::Read, spans: vec![Span::new(RegionId(0), 0, 10)], deadline }
    }

    #[test]
    fn a_lease_is_freed_once_by_its_time_or_by_hand() {
        let (mut book, now) = (Book::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        assert!(book.grant(lease(later)));
        assert!(!book.grant(lease(later)), "the token is in use");
        assert_eq!((book.next(), book.expire(now)), (Some(later), vec![]));
        assert_eq!(book.expire(later), [TOKEN]);
        assert!(!book.revoke(TOKEN, later), "it was freed before");
        assert!(book.grant(lease(later)) && book.revoke(TOKEN, now));
        assert_eq!(book.expire(later), []);
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn a_token_granted_anew_does_not_end_by_its_former_time() {
        let (mut book, now) = (Book::default(), Instant::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        assert!(book.grant(lease(soon)) && book.revoke(TOKEN, now) && book.grant(lease(late)));
        assert_eq!(book.expire(soon), []);
        assert_eq!(book.expire(late), [TOKEN]);
    }

    #[test]
    fn one_that_has_ended_in_use_is_freed_by_the_last_use_and_overdue_after_its_grace() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.grant(lease(now + Duration::from_secs(1))));
        let used = book.begin(TOKEN, Access::Read, &[Span::new(RegionId(0), 2, 3)], now).unwrap();
        let end = now + Duration::from_secs(1);
        assert_eq!(book.expire(end), []);
        assert_eq!(book.begin(TOKEN, Access::Read, &[], end).unwrap_err(), Refused::NoLease);
        assert_eq!(book.overdue(end), []);
        assert_eq!(book.overdue(end + LEASE_GRACE), [TOKEN]);
        assert_eq!(book.done(used), Some(TOKEN));
        assert_eq!(book.overdue(end + LEASE_GRACE), []);
    }
}
