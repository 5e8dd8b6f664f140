//! Which KV heads a tensor-parallel rank holds, and which of them it takes from which rank of the other side.
//!
//! Ranks hold equal, consecutive shares of the heads; with more ranks than heads, consecutive ranks hold the same head.
//! A latent cache is the extreme of that: one head, on every rank. Where several source ranks hold what a destination
//! rank wants, exactly one of them gives it, and the destination ranks are spread over them evenly.

use std::ops::Range;

/// One rank of a tensor-parallel group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// Which, from 0.
    pub rank: u32,
    /// Of how many.
    pub size: u32,
}

impl Share {
    /// The one rank of a model that is not split.
    pub const WHOLE: Self = Self { rank: 0, size: 1 };

    /// Whether `heads` can be shared out like that: one divides the other.
    pub const fn divides(self, heads: u32) -> bool {
        self.rank < self.size
            && heads > 0
            && if self.size <= heads {
                heads.is_multiple_of(self.size)
            } else {
                self.size.is_multiple_of(heads)
            }
    }

    /// How many ranks hold the same head.
    const fn replicas(self, heads: u32) -> u32 {
        if self.size > heads { self.size / heads } else { 1 }
    }

    /// The heads of this rank, of `heads` that [divide](Self::divides).
    pub const fn heads(self, heads: u32) -> Range<u32> {
        let replicas = self.replicas(heads);
        if replicas > 1 {
            let head = self.rank / replicas;
            head..head + 1
        } else {
            let each = heads / self.size;
            self.rank * each..(self.rank + 1) * each
        }
    }

    /// The heads that this rank, of the destination, takes from `source`; empty if none. Both [divide](Self::divides).
    pub fn takes(self, source: Self, heads: u32) -> Range<u32> {
        let (mine, theirs) = (self.heads(heads), source.heads(heads));
        let (begin, end) = (mine.start.max(theirs.start), mine.end.min(theirs.end));
        let (takers, givers) = (self.replicas(heads), source.replicas(heads));
        // Of those that hold the head, this one is the `rank % replicas`-th, on either side.
        let giver = u64::from(self.rank % takers) * u64::from(givers) / u64::from(takers);
        if begin < end && giver == u64::from(source.rank % givers) { begin..end } else { 0..0 }
    }

    /// The ranks, of `size` at the source, that this one of the destination takes from.
    pub fn sources(self, size: u32, heads: u32) -> impl Iterator<Item = u32> {
        (0..size).filter(move |&rank| !self.takes(Self { rank, size }, heads).is_empty())
    }

    /// The ranks, of `size` at the destination, that take from this one of the source: so many must have read before its
    /// blocks may go.
    pub fn takers(self, size: u32, heads: u32) -> impl Iterator<Item = u32> {
        (0..size).filter(move |&rank| !Self { rank, size }.takes(self, heads).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(size: u32) -> impl Iterator<Item = Share> {
        (0..size).map(move |rank| Share { rank, size })
    }

    #[test]
    fn each_destination_rank_gets_each_of_its_heads_from_exactly_one_source_rank() {
        // Miri takes minutes for all of them.
        let most = if cfg!(miri) { 6 } else { 32 };
        let sizes = [1, 2, 3, 4, 6, 8, 12, 16, 32].map(|size: u32| size.min(most));
        for heads in [1, 2, 4, 6, 8, 12] {
            for (from, to) in sizes.iter().flat_map(|&from| sizes.map(|to| (from, to))) {
                let divide = |size| Share { rank: 0, size }.divides(heads);
                if !divide(from) || !divide(to) {
                    continue;
                }
                for taker in all(to) {
                    let mut got: Vec<u32> = all(from).flat_map(|giver| taker.takes(giver, heads)).collect();
                    got.sort_unstable();
                    assert_eq!(
                        got,
                        taker.heads(heads).collect::<Vec<_>>(),
                        "{heads} heads, {from} to {taker:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_replicated_is_taken_from_all_that_have_it_evenly() {
        // Latents, 4 to 8: each source rank serves two; 8 to 4: every other one serves one.
        let served =
            |from, to, heads| all(from).map(|giver| giver.takers(to, heads).count()).collect::<Vec<_>>();
        assert_eq!(served(4, 8, 1), [2, 2, 2, 2]);
        assert_eq!(served(8, 4, 1), [1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(served(8, 8, 1), [1; 8]);
        assert_eq!(served(16, 16, 8), [1; 16], "each from its own number");
        assert_eq!(Share { rank: 5, size: 8 }.sources(8, 1).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn heads_are_split_or_replicated_as_the_ranks_allow() {
        assert_eq!(Share { rank: 3, size: 4 }.heads(8), 6..8);
        assert_eq!(Share { rank: 5, size: 16 }.heads(8), 2..3);
        assert!(!Share { rank: 0, size: 3 }.divides(8) && !Share { rank: 0, size: 12 }.divides(8));
        assert!(!Share { rank: 4, size: 4 }.divides(8), "there is no such rank");
        assert_eq!(Share { rank: 1, size: 2 }.sources(8, 8).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert_eq!(Share { rank: 6, size: 8 }.sources(4, 8).collect::<Vec<_>>(), [3]);
    }
}
