//! What a cell says: what the client sees, which legs the engines see, what is left, and how the ledger accounts for it.
//! The same words are in the document.

use std::fmt;

use kvferry_handoff::Counts;

/// Which engine said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Prefill,
    Decode,
}

/// What the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees<'a> {
    /// A complete answer.
    Answer,
    /// An engine's own error, as it is.
    Words(Engine, u16),
    /// The sidecar's error, with its code.
    Error(u16, &'a str),
    /// A 200, some of the answer, and a connection that is cut.
    Cut,
    /// A 200, some of the answer, an event that tells of an error with this code, and a clean end.
    ErrorEvent(u16),
    /// It has left.
    Nothing,
}

impl fmt::Display for Sees<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer => f.write_str("200, whole"),
            Self::Words(Engine::Prefill, status) => write!(f, "{status}, prefill's own"),
            Self::Words(Engine::Decode, status) => write!(f, "{status}, decode's own"),
            Self::Error(status, code) => write!(f, "{status} `{code}`"),
            Self::Cut => f.write_str("200, then cut"),
            Self::ErrorEvent(code) => write!(f, "200, then an error event ({code})"),
            Self::Nothing => f.write_str("(it left)"),
        }
    }
}

/// How often an engine gets a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    No,
    Once,
    /// It is cancelled, maybe before it has reached its engine.
    Cancelled,
    /// First as a question, and again after prefill.
    Twice,
    /// The engine had closed a kept connection, for all one can know, so it is sent once more on a new one.
    Again,
    /// And once more for a decode engine that may wait for it; its engine fails that too.
    OnceMore,
    /// And again until decode, which may wait for it, has its KV, or until the release is given up.
    Repeated,
    /// One chunk after the other.
    Chunks,
    /// In some of many attempts.
    Varies,
}

impl Leg {
    pub(crate) fn allows(self, seen: usize) -> bool {
        match self {
            Self::No => seen == 0,
            Self::Once => seen == 1,
            Self::Cancelled => seen <= 1,
            Self::Twice | Self::Again | Self::OnceMore => seen == 2,
            Self::Repeated => (2..=5).contains(&seen),
            Self::Chunks => seen >= 2,
            Self::Varies => true,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::No => "–",
            Self::Once => "once",
            Self::Cancelled => "cancelled",
            Self::Twice => "asked first, then again",
            Self::Again => "once, and once more on a new connection",
            Self::OnceMore => "once, and once more for a decode engine that still waits",
            Self::Repeated => "once, and again for a decode engine that still waits",
            Self::Chunks => "chunk by chunk",
            Self::Varies => "in some",
        }
    }
}

/// How the ledger accounts for the KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// None was handed out, by all that the sidecar knows.
    None,
    Consumed,
    Released,
    Expired,
    /// Of many attempts, each in one or the other, none expired.
    ConsumedOrReleased,
    /// Of many attempts, some expired.
    SomeExpired,
}

impl Account {
    pub(crate) fn allows(self, counts: Counts) -> bool {
        let Counts { handed_out, consumed, released, expired } = counts;
        match self {
            Self::None => handed_out == 0,
            Self::Consumed => (handed_out, consumed) == (1, 1),
            Self::Released => (handed_out, released) == (1, 1),
            Self::Expired => (handed_out, expired) == (1, 1),
            Self::ConsumedOrReleased => (handed_out, expired) == (consumed + released, 0),
            Self::SomeExpired => handed_out == consumed + released + expired,
        }
    }
}

/// What engines hold in the end, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nothing, long before any lease could end.
    Nothing,
    /// Prefill holds KV until its own limit.
    UntilLease,
    /// Prefill may hold KV until its own limit: it depends on how far it had come.
    AtMostUntilLease,
}

/// The end of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) account: Account,
    pub(crate) held: Held,
    pub(crate) words: &'static str,
}

const fn end(account: Account, held: Held, words: &'static str) -> End {
    End { account, held, words }
}

pub(crate) const NOTHING: End = end(Account::None, Held::Nothing, "nothing");
pub(crate) const READ: End =
    end(Account::Consumed, Held::Nothing, "nothing: decode has read the KV (*consumed*)");
pub(crate) const RELEASED: End =
    end(Account::Released, Held::Nothing, "nothing: the KV, if there is any, is *released*");
pub(crate) const UNPROVEN: End = end(
    Account::Expired,
    Held::Nothing,
    "nothing: decode has read the KV, but nothing proves it, so it counts as *expired*",
);
pub(crate) const FED: End = end(
    Account::Released,
    Held::AtMostUntilLease,
    "nothing, once prefill has computed the KV again for a decode engine that still waits (*released*); where decode has let go, \
     prefill: that KV, until the engine's lease ends",
);
pub(crate) const UNFED: End = end(
    Account::Expired,
    Held::AtMostUntilLease,
    "decode, where its engine still waits for the KV: its blocks, until its own limit (*expired*)",
);
pub(crate) const LEASE: End =
    end(Account::Expired, Held::UntilLease, "prefill: the KV, until the engine's lease ends (*expired*)");
pub(crate) const MAYBE_LEASE: End = end(
    Account::Expired,
    Held::AtMostUntilLease,
    "prefill: the KV if it had computed it, until the engine's own limit (*expired*)",
);
pub(crate) const UNHEARD: End = end(
    Account::None,
    Held::UntilLease,
    "prefill, if it lives: the KV, until the engine's lease ends; only the lost answer named it, so no account knows of it",
);
pub(crate) const CACHE: End =
    end(Account::None, Held::UntilLease, "prefill: an entry of the tier's cache, until it ages out");
pub(crate) const SETTLED: End = end(
    Account::ConsumedOrReleased,
    Held::Nothing,
    "nothing: the KV is *consumed* or *released*, whichever came first",
);
pub(crate) const SOME_LEASES: End = end(
    Account::SomeExpired,
    Held::AtMostUntilLease,
    "prefill: the KV of some, until the engine's lease ends (*expired*)",
);
pub(crate) const SOME_CACHED: End = end(
    Account::None,
    Held::AtMostUntilLease,
    "prefill: for some an entry of the tier's cache, until it ages out",
);
