//! Who is met over which connections. Pure.
//!
//! The race guarded here: two agents connect to each other at once. Both connections are kept then, each side speaks on the
//! one that it had first and hears both, and nobody needs to agree on anything. But if the peer has lost this side and comes
//! again, while this side has not noticed, what it had is void. The two are told apart by the *session*: a number that each
//! side draws for a meeting and says in its hello. The same as before: another connection of the same meeting. Another one:
//! the peer has begun anew.

use std::collections::HashMap;

use kvferry_transfer::{AgentName, Epoch};

use crate::Error;
use crate::core::PeerNo;
use crate::limits::{MAX_LINKS, MAX_PEERS};

/// A control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkNo(pub(crate) u64);

/// One life of one agent.
pub(crate) type Identity = (AgentName, Epoch);

#[derive(Debug)]
struct Known {
    ours: u64,
    theirs: Option<u64>,
    links: Vec<LinkNo>,
    /// Connections that have said hello and not heard it yet.
    meeting: usize,
    peer: Option<PeerNo>,
}

/// A meeting that ended while further connections were made: those have said this side's session of it.
#[derive(Debug)]
struct Over {
    ours: u64,
    theirs: u64,
    /// How many have not heard the peer's yet.
    meeting: usize,
}

/// What a connection that is complete means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The peer is met by that. Tell the roster its number.
    First,
    /// One more connection to a peer that is met.
    Another(PeerNo),
    /// The peer has lost this side and begins anew: that number and these connections are void. Then as for `First`.
    Anew(PeerNo, Vec<LinkNo>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    known: HashMap<Identity, Known>,
    over: HashMap<Identity, Vec<Over>>,
    of: HashMap<LinkNo, Identity>,
}

impl Roster {
    /// Somebody has shown who it is. Returns the session to say; `fresh` if there is none yet.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn arrive(&mut self, who: &Identity, fresh: u64) -> Result<u64, Error> {
        if !self.known.contains_key(who) && self.known.len() >= MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        let new = || Known { ours: fresh, theirs: None, links: Vec::new(), meeting: 0, peer: None };
        let known = self.known.entry(who.clone()).or_insert_with(new);
        if known.links.len() + known.meeting >= MAX_LINKS {
            return Err(Error::Full("control connections to one peer (4)"));
        }
        known.meeting += 1;
        Ok(known.ours)
    }

    /// A connection that had arrived, and said `said`, has ended before it was complete.
    pub(crate) fn leave_early(&mut self, who: &Identity, said: u64) {
        if let Some(known) = self.known.get_mut(who).filter(|known| known.ours == said) {
            known.meeting = known.meeting.saturating_sub(1);
            if known.meeting == 0 && known.links.is_empty() {
                self.known.remove(who);
            }
        } else {
            self.was_over(who, said);
        }
    }

    /// A connection that was made for a meeting that is over has come to its end: what the peer had said in that meeting.
    fn was_over(&mut self, who: &Identity, said: u64) -> Option<u64> {
        let all = self.over.get_mut(who)?;
        let at = all.iter().position(|over| over.ours == said)?;
        let theirs = all[at].theirs;
        all[at].meeting -= 1;
        if all[at].meeting == 0 {
            all.swap_remove(at);
        }
        if all.is_empty() {
            self.over.remove(who);
        }
        Some(theirs)
    }

    /// A connection is complete: on it, `said` was said and `heard` was heard.
    ///
    /// # Errors
    /// [`Error::PeerLost`] if the meeting that it was made for is over.
    pub(crate) fn join(
        &mut self,
        who: &Identity,
        said: u64,
        heard: u64,
        link: LinkNo,
    ) -> Result<Joined, Error> {
        if self.known.get(who).is_none_or(|known| known.ours != said)
            && let Some(theirs) = self.was_over(who, said)
            && theirs != heard
            && !self.known.contains_key(who)
        {
            // The peer has parted and come again, faster than its goodbye: it has begun anew.
            let new = Known { ours: said, theirs: None, links: Vec::new(), meeting: 1, peer: None };
            self.known.insert(who.clone(), new);
        }
        let known = self.known.get_mut(who).filter(|known| known.ours == said);
        let known =
            known.ok_or_else(|| Error::PeerLost("it was lost while another connection was made".into()))?;
        known.meeting = known.meeting.saturating_sub(1);
        let begins_anew = known.theirs.is_some_and(|theirs| theirs != heard);
        known.theirs = Some(heard);
        let old = if begins_anew { std::mem::take(&mut known.links) } else { Vec::new() };
        for link in &old {
            self.of.remove(link);
        }
        known.links.push(link);
        self.of.insert(link, who.clone());
        Ok(match (known.peer, begins_anew) {
            (None, _) => Joined::First,
            (Some(peer), false) => Joined::Another(peer),
            (Some(peer), true) => {
                known.peer = None;
                Joined::Anew(peer, old)
            }
        })
    }

    /// The peer's number.
    pub(crate) fn met(&mut self, who: &Identity, peer: PeerNo) {
        if let Some(known) = self.known.get_mut(who) {
            known.peer = Some(peer);
        }
    }

    /// The number of an agent that is met and with which there are as many connections as there may be.
    pub(crate) fn crowded(&self, who: &Identity) -> Option<PeerNo> {
        let full = |known: &&Known| known.links.len() + known.meeting >= MAX_LINKS;
        self.known.get(who).filter(full)?.peer
    }

    /// Whose connection it is, and its number.
    pub(crate) fn peer(&self, link: LinkNo) -> Option<PeerNo> {
        self.known.get(self.of.get(&link)?)?.peer
    }

    /// Forgets whoever has that connection; its number, and all its connections.
    pub(crate) fn part(&mut self, link: LinkNo) -> Option<(Identity, Option<PeerNo>, Vec<LinkNo>)> {
        let who = self.of.get(&link)?.clone();
        let known = self.known.remove(&who)?;
        if let (Some(theirs), 1..) = (known.theirs, known.meeting) {
            let over = Over { ours: known.ours, theirs, meeting: known.meeting };
            self.over.entry(who.clone()).or_default().push(over);
        }
        for link in &known.links {
            self.of.remove(link);
        }
        Some((who, known.peer, known.links))
    }

    /// Other lives of that agent, by one connection each.
    pub(crate) fn other_lives(&self, who: &Identity) -> Vec<LinkNo> {
        let other = |(other, _): &(&Identity, &Known)| other.0 == who.0 && other.1 != who.1;
        self.known.iter().filter(other).filter_map(|(_, known)| known.links.first().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(epoch: u64) -> Identity {
        (AgentName::new("b").unwrap(), Epoch(epoch))
    }

    #[test]
    fn two_connections_of_one_meeting_are_one_peer() {
        let mut roster = Roster::default();
        assert_eq!(roster.arrive(&who(1), 10), Ok(10));
        assert_eq!(roster.arrive(&who(1), 11), Ok(10), "one meeting has one session");
        assert_eq!(roster.join(&who(1), 10, 99, LinkNo(1)), Ok(Joined::First));
        roster.met(&who(1), PeerNo(5));
        assert_eq!(roster.join(&who(1), 10, 99, LinkNo(2)), Ok(Joined::Another(PeerNo(5))));
        let (_, peer, links) = roster.part(LinkNo(2)).unwrap();
        assert_eq!(
            (peer, links),
            (Some(PeerNo(5)), vec![LinkNo(1), LinkNo(2)]),
            "one ends, the peer is lost"
        );
        assert!(roster.part(LinkNo(1)).is_none() && roster.known.is_empty() && roster.of.is_empty());
    }

    #[test]
    fn a_peer_that_has_lost_us_and_comes_again_is_met_anew() {
        let mut roster = Roster::default();
        roster.arrive(&who(1), 10).unwrap();
        roster.join(&who(1), 10, 99, LinkNo(1)).unwrap();
        roster.met(&who(1), PeerNo(5));
        roster.arrive(&who(1), 11).unwrap();
        let joined = roster.join(&who(1), 10, 100, LinkNo(2));
        assert_eq!(joined, Ok(Joined::Anew(PeerNo(5), vec![LinkNo(1)])));
        roster.met(&who(1), PeerNo(6));
        assert_eq!((roster.peer(LinkNo(1)), roster.peer(LinkNo(2))), (None, Some(PeerNo(6))));
    }

    #[test]
    fn a_connection_that_was_made_for_a_meeting_that_is_over_is_of_no_use() {
        let mut roster = Roster::default();
        roster.arrive(&who(1), 10).unwrap();
        roster.arrive(&who(1), 11).unwrap();
        roster.join(&who(1), 10, 99, LinkNo(1)).unwrap();
        roster.part(LinkNo(1)).unwrap();
        assert_eq!(roster.join(&who(1), 10, 99, LinkNo(2)).unwrap_err().code(), "peer_lost");
        assert_eq!(roster.arrive(&who(1), 12), Ok(12), "the next meeting has a session of its own");
        roster.leave_early(&who(1), 12);
        assert!(roster.known.is_empty());
    }

    #[test]
    fn a_peer_that_comes_again_before_its_goodbye_is_heard_is_met_anew() {
        let mut roster = Roster::default();
        roster.arrive(&who(1), 10).unwrap();
        roster.join(&who(1), 10, 99, LinkNo(1)).unwrap();
        assert_eq!(roster.arrive(&who(1), 11), Ok(10), "it has not been missed yet");
        roster.part(LinkNo(1)).unwrap();
        assert_eq!(roster.join(&who(1), 10, 100, LinkNo(2)), Ok(Joined::First));
        roster.part(LinkNo(2)).unwrap();
        assert!(roster.known.is_empty() && roster.over.is_empty() && roster.of.is_empty());
        // One that does not get so far leaves nothing behind either.
        roster.arrive(&who(1), 12).unwrap();
        roster.join(&who(1), 12, 101, LinkNo(3)).unwrap();
        roster.arrive(&who(1), 13).unwrap();
        roster.part(LinkNo(3)).unwrap();
        assert_eq!(roster.arrive(&who(1), 14), Ok(14), "by then another meeting has begun");
        assert!(roster.join(&who(1), 12, 102, LinkNo(4)).is_err());
        assert!(roster.over.is_empty());
    }

    #[test]
    fn connections_of_one_peer_are_bounded_and_other_lives_are_found() {
        let mut roster = Roster::default();
        for _ in 0..MAX_LINKS {
            roster.arrive(&who(1), 10).unwrap();
        }
        assert_eq!(roster.arrive(&who(1), 10).unwrap_err().code(), "full");
        roster.join(&who(1), 10, 99, LinkNo(1)).unwrap();
        assert_eq!(roster.other_lives(&who(2)), vec![LinkNo(1)]);
        assert_eq!(roster.other_lives(&who(1)), vec![]);
    }
}
