//! WRITE mode, one leg after the other: decode is told what prefill returned, completed with what the contract asks for.

use bytes::Bytes;
use kvferry_splice::{Edits, Malformed};

use super::Ids;
use super::wire::{self, Returned};
use crate::connector::nixlv2::{KV, cached_tokens, returned_kv};
use crate::connector::{Accepted, Attempt, Outgoing, ReleaseRequest, Unusable, release};
use crate::request::Asked;

/// One attempt.
#[derive(Debug)]
pub(super) struct Serial {
    ids: Ids,
    /// What prefill returned.
    returned: Option<Returned>,
    /// Prefill's rank in the group.
    rank: u32,
    /// Prefill did not say its rank, and it cannot be found out.
    lost: bool,
}

impl Serial {
    pub(super) fn new(ids: Ids) -> Self {
        let rank = ids.rank;
        Self { ids, returned: None, rank, lost: false }
    }

    /// The rank that serves: what prefill says, or else what it was told, which counts in its own pod.
    fn find_rank(&mut self) {
        let Some(returned) = &self.returned else { return };
        let ranks = self.ids.write.ranks;
        if let Some(said) = ranks.said(returned.rank()) {
            self.rank = said;
        } else if ranks.spans_pods() && returned.is_object() {
            let pod = self.ids.write.pod_of(self.ids.prefill.host());
            let rank = pod.and_then(|pod| ranks.global(pod, ranks.local(self.ids.rank)));
            self.lost = rank.is_none();
            self.rank = rank.unwrap_or(self.rank);
        }
    }
}

impl Attempt for Serial {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        let write = &self.ids.write;
        let edits = Edits::new().set(KV, wire::prefill(&self.ids, self.ids.rank));
        let mut leg = asked.edit(write.limits.apply(edits, asked));
        write.ranks.address(&mut leg, self.ids.rank);
        leg
    }

    fn named(&self) -> bool {
        true
    }

    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        self.returned = returned_kv(answer)?.map(Returned::new);
        self.find_rank();
        Ok(Accepted {
            kv: self.returned.is_some(),
            cached_tokens: Some(cached_tokens(asked.api, answer)),
            anew: false,
        })
    }

    fn unusable(&self) -> Option<Unusable> {
        let host = self.ids.prefill.host();
        self.lost.then(|| {
            Unusable(format!(
                "its answer names no remote_dp_rank, and {host} is none of --moriio-remote-hosts, so the rank that holds \
                 the KV is unknown"
            ))
        })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let kv = match &self.returned {
            Some(returned) => wire::decode_by_answer(&self.ids, returned, self.rank),
            None => Bytes::from_static(b"null"),
        };
        let mut leg = asked.edit(Edits::new().set(KV, kv));
        self.ids.write.ranks.address(&mut leg, self.rank);
        leg
    }

    fn release(&self) -> Option<ReleaseRequest> {
        let local = self.ids.write.ranks.local(self.rank);
        let by_flags = wire::decode_by_flags(&self.ids, local);
        Some(release::by_refused_decode(&wire::release(&by_flags, self.returned.as_ref().map(Returned::raw))))
    }
}
