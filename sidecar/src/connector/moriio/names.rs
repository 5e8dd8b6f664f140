//! The addresses of named hosts, as a decision without a clock and without a name server: which address to use now, and
//! whether to look it up again.
//!
//! What it guards: no request waits for a name server. An address that is out of date is still used while one lookup, not
//! one for each request, asks for the new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Names known at most. A group has some dozen pods; prefill hosts given by name come from a header, so something has to
/// bound them.
const MAX_NAMES: usize = 1024;

/// Pause after a lookup that failed: a name server in trouble is not to be asked for every request.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What is known of one name.
#[derive(Debug, Clone, Copy)]
struct Known {
    address: Option<IpAddr>,
    /// When to ask again.
    ask_at: Instant,
    /// When the lookup that is under way counts as lost.
    asking_until: Option<Instant>,
}

/// What to do for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The address to use; `None` if none is known.
    pub(super) address: Option<IpAddr>,
    /// Whether to look it up now. Whoever is told so says what came of it.
    pub(super) ask: bool,
}

/// What a lookup changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// The address is as it was, or is the first.
    Same,
    /// The host moved.
    Moved,
    /// No address was found; one that was known stays in use.
    Failed,
}

#[derive(Debug)]
pub(super) struct Names {
    ttl: Duration,
    /// How long a lookup may take before another may begin.
    patience: Duration,
    known: HashMap<Box<str>, Known>,
}

impl Names {
    pub(super) fn new(ttl: Duration, patience: Duration) -> Self {
        Self { ttl, patience, known: HashMap::new() }
    }

    /// An address that was found elsewhere, at start.
    pub(super) fn seed(&mut self, name: &str, address: IpAddr, now: Instant) {
        if name.parse::<IpAddr>().is_err() {
            let known = Known { address: Some(address), ask_at: now + self.ttl, asking_until: None };
            self.known.insert(name.into(), known);
        }
    }

    /// Addresses stand for themselves; names for what is known of them.
    pub(super) fn look(&mut self, name: &str, now: Instant) -> Look {
        if let Ok(literal) = name.parse() {
            return Look { address: Some(literal), ask: false };
        }
        if self.known.len() >= MAX_NAMES && !self.known.contains_key(name) {
            return Look { address: None, ask: false };
        }
        let known =
            self.known.entry(name.into()).or_insert(Known { address: None, ask_at: now, asking_until: None });
        let asking = known.asking_until.is_some_and(|until| now < until);
        let ask = now >= known.ask_at && !asking;
        if ask {
            known.asking_until = Some(now + self.patience);
        }
        Look { address: known.address, ask }
    }

    /// The lookup that [`Self::look`] asked for has ended. `found`: no address if it failed.
    pub(super) fn landed(&mut self, name: &str, found: &[IpAddr], now: Instant) -> Landed {
        let Some(known) = self.known.get_mut(name) else {
            return Landed::Failed;
        };
        known.asking_until = None;
        let Some(found) = preferred(found) else {
            known.ask_at = now + AFTER_FAILURE;
            return Landed::Failed;
        };
        known.ask_at = now + self.ttl;
        match known.address.replace(found) {
            Some(before) if before != found => Landed::Moved,
            _ => Landed::Same,
        }
    }
}

/// The first IPv4 address, or else the first of all: RDMA fabrics are numbered in IPv4 where hosts have both.
fn preferred(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn names() -> (Names, Instant) {
        let (mut names, start) = (Names::new(TTL, PATIENCE), Instant::now());
        names.seed("pod-0", address("10.0.0.1"), start);
        (names, start)
    }

    fn use_of(text: &str, ask: bool) -> Look {
        Look { address: Some(address(text)), ask }
    }

    #[test]
    fn addresses_stand_for_themselves() {
        let (mut names, now) = names();
        assert_eq!(names.look("192.0.2.7", now), use_of("192.0.2.7", false));
        assert_eq!(names.look("fd00::7", now + TTL * 9), use_of("fd00::7", false));
    }

    #[test]
    fn the_address_found_at_start_holds_for_the_ttl() {
        let (mut names, start) = names();
        assert_eq!(names.look("pod-0", start), use_of("10.0.0.1", false));
        let last = start + TTL.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(names.look("pod-0", last), use_of("10.0.0.1", false));
        assert_eq!(names.look("pod-0", start + TTL), use_of("10.0.0.1", true));
    }

    #[test]
    fn one_lookup_serves_all_while_the_stale_address_stays_in_use() {
        let (mut names, start) = names();
        let late = start + TTL;
        assert!(names.look("pod-0", late).ask);
        assert_eq!(names.look("pod-0", late), use_of("10.0.0.1", false));
        assert_eq!(names.landed("pod-0", &[address("10.0.0.2")], late), Landed::Moved);
        assert_eq!(names.look("pod-0", late), use_of("10.0.0.2", false));
        assert!(names.look("pod-0", late + TTL).ask);
        assert_eq!(names.landed("pod-0", &[address("10.0.0.2")], late + TTL), Landed::Same);
    }

    #[test]
    fn a_lookup_that_is_lost_is_given_up_after_its_patience() {
        let (mut names, start) = names();
        let late = start + TTL;
        assert!(names.look("pod-0", late).ask);
        let almost = late + PATIENCE.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(!names.look("pod-0", almost).ask);
        assert!(names.look("pod-0", late + PATIENCE).ask);
    }

    #[test]
    fn a_failed_lookup_leaves_the_old_address_and_waits_a_moment() {
        let (mut names, start) = names();
        let late = start + TTL;
        assert!(names.look("pod-0", late).ask);
        assert_eq!(names.landed("pod-0", &[], late), Landed::Failed);
        assert_eq!(names.look("pod-0", late), use_of("10.0.0.1", false));
        assert_eq!(names.look("pod-0", late + AFTER_FAILURE), use_of("10.0.0.1", true));
    }

    #[test]
    fn ipv4_is_preferred_and_ipv6_is_used_where_it_is_all_there_is() {
        let (mut names, now) = names();
        assert_eq!(names.look("new", now), Look { address: None, ask: true });
        names.landed("new", &[address("fd00::1"), address("10.0.0.9"), address("10.0.0.8")], now);
        assert_eq!(names.look("new", now), use_of("10.0.0.9", false));
        names.look("v6", now);
        names.landed("v6", &[address("fd00::2"), address("fd00::1")], now);
        assert_eq!(names.look("v6", now), use_of("fd00::2", false));
    }

    #[test]
    fn names_beyond_the_bound_stay_unknown() {
        let (mut names, now) = names();
        for n in 1..MAX_NAMES {
            assert!(names.look(&format!("name-{n}"), now).ask);
        }
        assert_eq!(names.look("one-more", now), Look { address: None, ask: false });
        assert_eq!(names.look("pod-0", now), use_of("10.0.0.1", false));
    }
}
