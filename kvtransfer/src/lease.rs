//! Leases: what a peer may do with which bytes, in one direction, until when. Deny by default: a range that no lease
//! covers is refused, whoever asks.
//!
//! The race guarded here: a lease ends while somebody serves a request under it. A serving side takes a [`Use`] for as
//! long as it touches the bytes, and [`Leases::revoke`] tells whether uses are left, so that nobody frees blocks that are
//! still being written.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use crate::ids::Token;
use crate::segment::Span;

/// What a peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Take bytes from here.
    Read,
    /// Put bytes here.
    Write,
}

/// A right to bytes of this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What opens it.
    pub token: Token,
    /// In which direction.
    pub access: Access,
    /// Which bytes, in any order. They are sorted and joined when granted.
    pub spans: Vec<Span>,
    /// Until when.
    pub deadline: Instant,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No lease has that token, or it was revoked.
    NoLease,
    /// Its deadline has passed.
    Expired,
    /// The lease is for the other direction.
    Direction,
    /// A range lies outside of it.
    Outside,
}

impl Refused {
    /// A stable word.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoLease => "no_lease",
            Self::Expired => "lease_expired",
            Self::Direction => "lease_direction",
            Self::Outside => "outside_lease",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLease => "no such lease, or it has ended",
            Self::Expired => "the lease's deadline has passed",
            Self::Direction => "the lease is for the other direction",
            Self::Outside => "a range lies outside the lease",
        })
    }
}

/// The right to touch a lease's bytes now. Give it back with [`Leases::done`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a use that is not given back keeps the lease's bytes from being freed"]
pub struct Use(Token);

#[derive(Debug)]
struct Granted {
    access: Access,
    /// Sorted, joined, without empty ones.
    spans: Vec<Span>,
    deadline: Instant,
    uses: u32,
    revoked: bool,
}

/// All leases that one side has granted. No clock inside: callers say what time it is.
#[derive(Debug, Default)]
pub struct Leases {
    granted: HashMap<Token, Granted>,
}

impl Leases {
    /// Grants `lease`. `false` if its token is in use, and then nothing has changed.
    #[must_use]
    pub fn grant(&mut self, lease: Lease) -> bool {
        if self.granted.contains_key(&lease.token) {
            return false;
        }
        let Lease { token, access, spans, deadline } = lease;
        let granted = Granted { access, spans: joined(spans), deadline, uses: 0, revoked: false };
        self.granted.insert(token, granted);
        true
    }

    /// Whether the holder of `token` may touch all of `spans` now; if so, the lease's bytes are in use until [`done`].
    ///
    /// # Errors
    /// Why not.
    ///
    /// [`done`]: Self::done
    pub fn begin(
        &mut self,
        token: Token,
        access: Access,
        spans: impl IntoIterator<Item = Span>,
        now: Instant,
    ) -> Result<Use, Refused> {
        let granted =
            self.granted.get_mut(&token).filter(|granted| !granted.revoked).ok_or(Refused::NoLease)?;
        if granted.access != access {
            return Err(Refused::Direction);
        }
        if now >= granted.deadline {
            return Err(Refused::Expired);
        }
        if !spans.into_iter().all(|span| granted.holds(&span)) {
            return Err(Refused::Outside);
        }
        granted.uses += 1;
        Ok(Use(token))
    }

    /// Ends a use. Returns the token of a revoked lease whose last use this was: its bytes are free now.
    #[expect(clippy::needless_pass_by_value, reason = "a use ends once")]
    pub fn done(&mut self, used: Use) -> Option<Token> {
        let granted = self.granted.get_mut(&used.0)?;
        granted.uses -= 1;
        if granted.uses > 0 || !granted.revoked {
            return None;
        }
        self.granted.remove(&used.0);
        Some(used.0)
    }

    /// Ends a lease: nothing begins under it any more. `true` if nothing is under way either; else the bytes are free
    /// once [`done`](Self::done) names the token.
    pub fn revoke(&mut self, token: Token) -> bool {
        let Some(granted) = self.granted.get_mut(&token) else { return true };
        granted.revoked = true;
        if granted.uses > 0 {
            return false;
        }
        self.granted.remove(&token);
        true
    }

    /// Ends leases whose time has passed; returns those whose bytes are free.
    pub fn expire(&mut self, now: Instant) -> Vec<Token> {
        let late: Vec<Token> = self
            .granted
            .iter()
            .filter(|(_, granted)| now >= granted.deadline)
            .map(|(token, _)| *token)
            .collect();
        late.into_iter().filter(|token| self.revoke(*token)).collect()
    }

    /// Whether a lease covers bytes of `region`.
    pub fn touches(&self, region: crate::RegionId) -> bool {
        self.granted.values().any(|granted| granted.spans.iter().any(|span| span.at.region == region))
    }

    /// Leases that have not ended.
    pub fn len(&self) -> usize {
        self.granted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty()
    }
}

impl Granted {
    fn holds(&self, span: &Span) -> bool {
        if span.len == 0 {
            return true;
        }
        let after = self.spans.partition_point(|own| own.at <= span.at);
        after > 0 && self.spans[after - 1].holds(span)
    }
}

/// Sorted by place, with neighbours made one.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| span.len > 0 && span.end().is_some());
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.at.region == span.at.region && last.end() >= Some(span.at.offset) => {
                let end = last.end().max(span.end()).expect("spans without an end were left out");
                last.len = end - last.at.offset;
            }
            _ => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::RegionId;

    const TOKEN: Token = Token([7; 16]);

    fn span(offset: u64, len: u64) -> Span {
        Span::new(RegionId(0), offset, len)
    }

    fn granted(spans: &[Span]) -> (Leases, Instant) {
        let (mut leases, now) = (Leases::default(), Instant::now());
        let deadline = now + Duration::from_secs(10);
        assert!(leases.grant(Lease { token: TOKEN, access: Access::Read, spans: spans.to_vec(), deadline }));
        (leases, now)
    }

    #[test]
    fn what_the_lease_covers_is_served_also_across_neighbouring_spans() {
        let (mut leases, now) = granted(&[span(200, 100), span(100, 100), span(500, 10)]);
        let used =
            leases.begin(TOKEN, Access::Read, [span(150, 100), span(509, 1), span(0, 0)], now).unwrap();
        assert_eq!(leases.done(used), None);
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let (mut leases, now) = granted(&[span(100, 100)]);
        let late = now + Duration::from_secs(10);
        for (token, access, range, at, reason) in [
            (Token([8; 16]), Access::Read, span(100, 1), now, Refused::NoLease),
            (TOKEN, Access::Write, span(100, 1), now, Refused::Direction),
            (TOKEN, Access::Read, span(99, 1), now, Refused::Outside),
            (TOKEN, Access::Read, span(150, 51), now, Refused::Outside),
            (TOKEN, Access::Read, span(150, u64::MAX), now, Refused::Outside),
            (TOKEN, Access::Read, Span::new(RegionId(1), 100, 1), now, Refused::Outside),
            (TOKEN, Access::Read, span(100, 1), late, Refused::Expired),
        ] {
            assert_eq!(leases.begin(token, access, [range], at), Err(reason), "{range:?}");
        }
    }

    #[test]
    fn a_revoked_lease_is_free_once_its_last_use_has_ended() {
        let (mut leases, now) = granted(&[span(0, 100)]);
        let first = leases.begin(TOKEN, Access::Read, [span(0, 1)], now).unwrap();
        let second = leases.begin(TOKEN, Access::Read, [span(5, 1)], now).unwrap();
        assert!(!leases.revoke(TOKEN));
        assert_eq!(leases.begin(TOKEN, Access::Read, [span(0, 1)], now), Err(Refused::NoLease));
        assert!(leases.touches(RegionId(0)));
        assert_eq!(leases.done(first), None);
        assert_eq!(leases.done(second), Some(TOKEN));
        assert!(leases.is_empty() && !leases.touches(RegionId(0)));
    }

    #[test]
    fn a_lease_that_is_not_used_ends_by_its_deadline() {
        let (mut leases, now) = granted(&[span(0, 100)]);
        assert_eq!(leases.expire(now), vec![]);
        assert_eq!(leases.expire(now + Duration::from_secs(10)), vec![TOKEN]);
        assert_eq!(leases.len(), 0);
    }

    #[test]
    fn a_token_opens_one_lease() {
        let (mut leases, now) = granted(&[span(0, 100)]);
        let again = Lease { token: TOKEN, access: Access::Write, spans: vec![], deadline: now };
        assert!(!leases.grant(again));
    }
}
