//! What the listening side offers to who connects: two scratch regions and the tokens that open them, as one message.

use kvferry_transfer::{RegionId, Token};
use serde::{Deserialize, Serialize};

/// Bytes of each region: more than the caches of a core, little enough for any machine.
pub(super) const LEN: u64 = 64 << 20;

/// A region to read from and one to write to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Offer {
    source: u32,
    sink: u32,
    read: [u8; 16],
    write: [u8; 16],
    pub(super) len: u64,
}

impl Offer {
    pub(super) const fn new(source: (RegionId, Token), sink: (RegionId, Token)) -> Self {
        Self { source: source.0.0, sink: sink.0.0, read: source.1.0, write: sink.1.0, len: LEN }
    }

    /// Never read from its other end, which tells nobody.
    pub(super) const fn source(&self) -> (RegionId, Token) {
        (RegionId(self.source), Token(self.read))
    }

    pub(super) const fn sink(&self) -> (RegionId, Token) {
        (RegionId(self.sink), Token(self.write))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data is always JSON")
    }

    /// `None` if it is none, or offers less than what will be used.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|offer: &Self| offer.len >= LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_comes_back_as_it_was_and_nothing_else_is_taken_for_one() {
        let offer = Offer::new((RegionId(1), Token([7; 16])), (RegionId(2), Token([8; 16])));
        let back = Offer::of(&offer.to_bytes()).unwrap();
        assert_eq!((back.source(), back.sink()), (offer.source(), offer.sink()));
        assert!(Offer::of(b"{}").is_none() && Offer::of(b"\xff").is_none());
        let small = String::from_utf8(offer.to_bytes()).unwrap().replace(&LEN.to_string(), "1");
        assert!(Offer::of(small.as_bytes()).is_none());
    }
}
