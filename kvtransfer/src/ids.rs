//! Names of things. Each is its own type, so that a peer is never taken for a region.

use std::fmt;

/// A process' life: another number after every start, so that what was known about an earlier life is never used for a
/// later one. The caller draws it; it must not repeat for the same agent (random or a start time in ns will do).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The most bytes of an agent's name: a pod's name and namespace (253 + 63) fit.
pub const MAX_NAME: usize = 320;

/// What an agent is called by its peers: 1 to [`MAX_NAME`] bytes of printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentName(Box<str>);

impl AgentName {
    /// `None` if it is empty, too long or not printable ASCII.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A peer of this fabric, for as long as the fabric is open; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// A region as its owner numbers it; never used again within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u32);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}", self.0)
    }
}

/// A transfer of this fabric; never used again within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u64);

/// What opens a lease. It is a secret between the two sides: 16 bytes that the granting side draws at random.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    /// Enough to tell two apart in a log, too little to use one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_printable_and_not_empty() {
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(AgentName::new(bad), None, "{bad:?}");
        }
        assert_eq!(AgentName::new("llm/decode-0").unwrap().as_str(), "llm/decode-0");
    }

    #[test]
    fn a_token_is_not_shown_whole() {
        assert_eq!(format!("{:?}", Token([0xab; 16])), "Token(abab..)");
    }
}
