//! Data-parallel ranks of a group that spans pods. KV metadata counts them over the whole group; the header by which an
//! engine picks one counts those of its pod.

use http::{HeaderName, HeaderValue};

use crate::connector::Outgoing;
use crate::connector::rank_hash::rank_of;

/// By this an engine picks the rank that serves a leg.
const HEADER: HeaderName = HeaderName::from_static("x-data-parallel-rank");

/// How the ranks of a group lie in its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connector) struct Ranks {
    /// In the group, at least 1.
    size: u32,
    /// In each pod, from 1 to `size`.
    per_pod: u32,
}

impl Ranks {
    /// `per_pod`: `None` if all are in one.
    pub(in crate::connector) fn new(size: u32, per_pod: Option<u32>) -> Self {
        let size = size.max(1);
        Self { size, per_pod: per_pod.map_or(size, |per_pod| per_pod.clamp(1, size)) }
    }

    pub(super) fn per_pod(self) -> u32 {
        self.per_pod
    }

    pub(super) fn spans_pods(self) -> bool {
        self.per_pod < self.size
    }

    /// The rank that both sides find for the request called `id`.
    pub(in crate::connector) fn hashed(self, id: &[u8]) -> u32 {
        rank_of(id, self.size)
    }

    /// What the pod that has `rank` calls it.
    pub(super) fn local(self, rank: u32) -> u32 {
        rank % self.per_pod
    }

    /// The rank called `local` in the pod at `index`; `None` if there is no such pod.
    pub(super) fn global(self, index: usize, local: u32) -> Option<u32> {
        let pods = self.size.div_ceil(self.per_pod);
        let index = u32::try_from(index).ok().filter(|index| *index < pods)?;
        Some(index * self.per_pod + local).filter(|rank| *rank < self.size)
    }

    /// The rank that a prefill engine says it is: an integer of the group. Anything else counts as not said.
    pub(super) fn said(self, json: Option<&[u8]>) -> Option<u32> {
        let text = std::str::from_utf8(json?).ok()?;
        text.parse().ok().filter(|rank| *rank < self.size)
    }

    /// Sends `leg` to `rank`. Of one rank nobody has to say which.
    pub(in crate::connector) fn address(self, leg: &mut Outgoing, rank: u32) {
        if self.size > 1 {
            leg.headers.push((HEADER, HeaderValue::from(self.local(rank))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_an_integer_below_the_size_and_nothing_else() {
        let ranks = Ranks::new(8, None);
        let said = |json: &str| ranks.said(Some(json.as_bytes()));
        assert_eq!([said("0"), said("7")], [Some(0), Some(7)]);
        for json in ["-1", "8", "1.5", "\"3\"", "null", "true", "[1]", "99999999999999999999", ""] {
            assert_eq!(said(json), None, "{json}");
        }
        assert_eq!(ranks.said(None), None);
    }

    #[test]
    fn ranks_fold_into_their_pods_and_back() {
        let wide = Ranks::new(16, Some(8));
        assert!(wide.spans_pods());
        for rank in 0..16 {
            let (pod, local) = (rank / 8, wide.local(rank));
            assert_eq!((local, wide.global(pod as usize, local)), (rank % 8, Some(rank)));
        }
        assert_eq!(wide.global(2, 0), None);
        let one_pod = Ranks::new(8, None);
        assert!(!one_pod.spans_pods());
        assert_eq!((one_pod.local(7), one_pod.per_pod()), (7, 8));
    }

    #[test]
    fn sizes_that_make_no_sense_are_brought_to_one_pod() {
        assert_eq!(Ranks::new(0, None), Ranks::new(1, Some(0)));
        assert_eq!(Ranks::new(4, Some(9)), Ranks::new(4, None));
    }
}
