//! What can go wrong between agents. What a fabric says stays what it said ([`Error::Fabric`]); the rest is the agent's.

use std::fmt;

use kvferry_transfer::{AgentName, Epoch, Fault, RegionId};

/// Why something could not be done. Each has a stable [code](Error::code).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// What the fabric said, or what the fabrics' library says of ranges, leases and regions.
    Fabric(kvferry_transfer::Error),
    /// What answers there is no agent.
    Foreign,
    /// The agents have no version of the protocol in common: (its lowest and highest, ours).
    Version((u16, u16), (u16, u16)),
    /// The secret is missing or another one: what is wrong.
    Unauthenticated(&'static str),
    /// A frame is longer than any may be: (its bytes, the most).
    Oversized(u64, u64),
    /// A frame says nothing that the protocol knows: what is wrong with it.
    Malformed(&'static str),
    /// Another agent has this agent's name.
    NameClash(AgentName),
    /// The address is this agent's own.
    SelfConnect,
    /// Another agent than the expected one answers: (expected, found).
    WrongPeer(AgentName, AgentName),
    /// The peer is another life of itself: (expected, found).
    StaleEpoch(Epoch, Epoch),
    /// No such peer is connected, or not any more.
    UnknownPeer(String),
    /// The connection to the peer has ended: why.
    PeerLost(String),
    /// Nothing was heard from the peer for so many milliseconds.
    Silent(u64),
    /// Nobody could be reached there: the address, and why.
    Unreachable(String, String),
    /// The peer has turned this agent away: its code, and its words.
    TurnedAway(String, String),
    /// TLS was wanted and did not come about: why.
    Tls(String),
    /// As much is under way as may be: what the limit is called.
    Full(&'static str),
    /// No lane leads to the peer for this memory: what there is.
    NoLane(String),
    /// The peer has no region of that number, or has not told of it yet.
    UnknownRemote(RegionId),
    /// What arrived is not what was sent, time and again: (number of the segment, attempts).
    Corrupt(usize, u8),
    /// Bytes of that kind of memory cannot be checked.
    Unchecked(&'static str),
    /// It was not done in time.
    Deadline,
    /// A chunk did not end in time.
    Stalled,
    /// It was cancelled.
    Cancelled,
    /// The agent is closed.
    Closed,
    /// An option is out of its bounds: which, and what they are.
    Options(String),
    /// The system refused: what was tried, and its answer.
    System(&'static str, String),
}

impl From<kvferry_transfer::Error> for Error {
    fn from(error: kvferry_transfer::Error) -> Self {
        use kvferry_transfer::Error as Of;
        match error {
            Of::Deadline => Self::Deadline,
            Of::StaleEpoch(expected, found) => Self::StaleEpoch(expected, found),
            other => Self::Fabric(other),
        }
    }
}

impl Error {
    /// A stable word for logs, metrics and other programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Fabric(error) => error.code(),
            Self::Foreign => "foreign",
            Self::Version(..) => "protocol_version",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Oversized(..) => "oversized_frame",
            Self::Malformed(_) => "malformed_frame",
            Self::NameClash(_) => "name_clash",
            Self::SelfConnect => "self_connect",
            Self::WrongPeer(..) => "wrong_peer",
            Self::StaleEpoch(..) => "stale_epoch",
            Self::UnknownPeer(_) => "unknown_peer",
            Self::PeerLost(_) => "peer_lost",
            Self::Silent(_) => "peer_silent",
            Self::Unreachable(..) => "unreachable",
            Self::TurnedAway(..) => "turned_away",
            Self::Tls(_) => "tls",
            Self::Full(_) => "full",
            Self::NoLane(_) => "no_lane",
            Self::UnknownRemote(_) => "unknown_remote_region",
            Self::Corrupt(..) => "corrupt",
            Self::Unchecked(_) => "unchecked_memory",
            Self::Deadline => "deadline",
            Self::Stalled => "stalled",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
            Self::Options(_) => "options",
            Self::System(..) => "system",
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Fabric(error) => error.fault(),
            Self::SelfConnect
            | Self::UnknownPeer(_)
            | Self::UnknownRemote(_)
            | Self::Unchecked(_)
            | Self::Deadline
            | Self::Cancelled
            | Self::Closed
            | Self::Options(_) => Fault::Caller,
            Self::Foreign
            | Self::Version(..)
            | Self::Unauthenticated(_)
            | Self::Oversized(..)
            | Self::Malformed(_)
            | Self::NameClash(_)
            | Self::WrongPeer(..)
            | Self::StaleEpoch(..)
            | Self::PeerLost(_)
            | Self::Silent(_)
            | Self::Unreachable(..)
            | Self::TurnedAway(..)
            | Self::Tls(_)
            | Self::Corrupt(..)
            | Self::Stalled => Fault::Peer,
            Self::Full(_) | Self::NoLane(_) | Self::System(..) => Fault::Machine,
        }
    }

    /// Whether the same may work again later. For a chunk: whether it is tried again, there or over another lane.
    pub const fn may_retry(&self) -> bool {
        match self {
            // What a fabric says when it parts from a peer, or when its owner closes it: another lane may do.
            Self::Fabric(error) => {
                use kvferry_transfer::Error as Of;
                error.may_retry() || matches!(error, Of::UnknownPeer(_) | Of::Cancelled | Of::Closed)
            }
            Self::PeerLost(_)
            | Self::Silent(_)
            | Self::Unreachable(..)
            | Self::Full(_)
            | Self::NoLane(_)
            | Self::UnknownRemote(_)
            | Self::Corrupt(..)
            | Self::Stalled => true,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fabric(error) => error.fmt(f),
            Self::Foreign => {
                f.write_str("what answers there is no kvferry agent; check address, port and TLS")
            }
            Self::Version((low, high), (our_low, our_high)) => write!(
                f,
                "the peer speaks versions {low} to {high} of the agents' protocol, this one {our_low} to {our_high}; \
                 run releases that have one in common"
            ),
            Self::Unauthenticated(what) => {
                write!(
                    f,
                    "the peer is not authenticated: {what}; give all agents of the deployment the same secret"
                )
            }
            Self::Oversized(len, most) => {
                write!(
                    f,
                    "a control frame of {len} bytes came, where {most} are the most; the peer is no agent, or mad"
                )
            }
            Self::Malformed(what) => write!(f, "a control frame cannot be read: {what}"),
            Self::NameClash(name) => {
                write!(f, "another agent is called {name}, as this one is; give each agent a name of its own")
            }
            Self::SelfConnect => f.write_str("that address is this agent's own; connect to another's"),
            Self::WrongPeer(expected, found) => {
                write!(f, "{found} answers where {expected} was expected; look up its address anew")
            }
            Self::StaleEpoch(expected, found) => write!(
                f,
                "the peer was started anew: epoch {found} instead of {expected}; what it said before is void, connect again"
            ),
            Self::UnknownPeer(name) => write!(f, "{name} is not connected (any more); connect to it"),
            Self::PeerLost(why) => write!(f, "the connection to the peer has ended: {why}; connect again"),
            Self::Silent(millis) => {
                write!(f, "the peer was silent for {millis} ms; it is stopped, starved, or cut off")
            }
            Self::Unreachable(address, why) => write!(f, "no agent can be reached at {address}: {why}"),
            Self::TurnedAway(_, words) => write!(f, "the peer turns this agent away: {words}"),
            Self::Tls(why) => {
                write!(f, "TLS with the peer failed: {why}; both sides need it, with certificates they trust")
            }
            Self::Full(limit) => write!(f, "the limit {limit} is reached; wait for something to end"),
            Self::NoLane(what) => write!(f, "no lane to the peer can carry this: {what}"),
            Self::UnknownRemote(region) => {
                write!(
                    f,
                    "the peer has told of no {region}; it may have been registered just now, or be gone"
                )
            }
            Self::Corrupt(segment, attempts) => write!(
                f,
                "segment {segment} arrived with wrong bytes in each of {attempts} attempts; nothing of the transfer may be used"
            ),
            Self::Unchecked(kind) => write!(f, "bytes of {kind} memory cannot be verified; transfer without"),
            Self::Deadline => f.write_str("not done before its deadline"),
            Self::Stalled => f.write_str("a chunk did not end in time"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Closed => f.write_str("the agent is closed"),
            Self::Options(what) => write!(f, "options of the agent: {what}"),
            Self::System(what, why) => write!(f, "{what}: {why}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_fabric_keeps_its_code_and_a_parting_may_be_tried_elsewhere() {
        let lost = Error::from(kvferry_transfer::Error::Lost("reset".into()));
        assert_eq!((lost.code(), lost.may_retry()), ("peer_lost", true));
        assert!(
            Error::from(kvferry_transfer::Error::Cancelled).may_retry(),
            "the fabric's, not the caller's"
        );
        assert!(!Error::Cancelled.may_retry(), "the caller's");
        let stale = Error::from(kvferry_transfer::Error::StaleEpoch(Epoch(1), Epoch(2)));
        assert_eq!((stale.clone(), stale.may_retry()), (Error::StaleEpoch(Epoch(1), Epoch(2)), false));
    }

    #[test]
    fn errors_say_what_to_do() {
        assert!(Error::Version((3, 4), (1, 2)).to_string().contains("release"));
        assert!(Error::Unauthenticated("it has none").to_string().contains("secret"));
        assert!(Error::NameClash(AgentName::new("a").unwrap()).to_string().contains("name of its own"));
    }
}
