//! WRITE mode, both legs at once: decode allocates its blocks and asks for the KV while prefill computes it.

use bytes::Bytes;
use kvferry_splice::{Edits, Malformed, scan};

use super::{Ids, wire};
use crate::connector::nixlv2::KV;
use crate::connector::{Accepted, Attempt, Outgoing, PrefillLimits, ReleaseRequest, release};
use crate::request::Asked;
use crate::request::route::Api;

/// One attempt.
#[derive(Debug)]
pub(super) struct Parallel {
    ids: Ids,
    /// As each pod calls the rank that it runs on: both legs run on the same one of their pods.
    rank: u32,
    /// Of the decode leg.
    params: Bytes,
}

impl Parallel {
    pub(super) fn new(ids: Ids) -> Self {
        let rank = ids.write.ranks.local(ids.rank);
        let params = wire::decode_by_flags(&ids, rank);
        Self { ids, rank, params }
    }
}

impl Attempt for Parallel {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        let write = &self.ids.write;
        let edits = Edits::new().set(KV, wire::prefill(&self.ids, self.rank));
        let mut edits = write.limits.apply(edits, asked);
        let prompts = matches!(asked.api, Api::ChatCompletions | Api::Completions | Api::Messages);
        if write.limits == PrefillLimits::Compat && prompts {
            // llm-d 0.10 sent all four limits in this mode.
            edits = edits.set("max_output_tokens", "1");
        }
        let mut leg = asked.edit(edits);
        write.ranks.address(&mut leg, self.rank);
        leg
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn beside(&self, asked: &Asked) -> Option<Outgoing> {
        Some(self.decode(asked))
    }

    fn named(&self) -> bool {
        true
    }

    /// Whatever it says: decode has been told everything. Its own number of cached tokens stays, since its answer may
    /// have begun before prefill's.
    fn accept(&mut self, _asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        scan(answer, &[])?;
        Ok(Accepted { kv: true, cached_tokens: None, anew: false })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let mut leg = asked.edit(Edits::new().set(KV, self.params.clone()));
        self.ids.write.ranks.address(&mut leg, self.rank);
        leg
    }

    fn release(&self) -> Option<ReleaseRequest> {
        Some(release::by_refused_decode(&self.params))
    }
}
