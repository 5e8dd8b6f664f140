//! The report of `GET /emulator/state`, taken from an engine as it is now.

use crate::engine::Engine;
use crate::state::{BlockState, EncoderState, HeldState, LeaseState, RequestState, State, Totals};
use crate::stats::Stats;

impl Engine {
    /// The report of `/emulator/state`.
    pub(crate) fn state(&self) -> State {
        let (total, free) = (self.pool.capacity(), self.pool.free());
        let leased = self.leases.blocks() + self.meetings.blocks();
        let stats = &self.stats;
        State {
            engine_id: self.id.clone(),
            role: self.config().role.as_str().to_owned(),
            blocks: BlockState {
                total,
                free,
                // Read one after the other while blocks move from running to leased; never below zero.
                held: HeldState { running: (total - free).saturating_sub(leased), leased },
            },
            requests: RequestState { running: stats.running.get(), waiting: stats.waiting.get() },
            leases: self.held(),
            encoder: EncoderState { pinned: self.outputs.pinned(), cached: self.outputs.cached() },
            totals: totals(stats),
        }
    }

    /// Everything that waits for a reader, oldest first.
    fn held(&self) -> Vec<LeaseState> {
        let mut held = self.leases.list();
        held.extend(self.meetings.list());
        held.sort_by_key(|lease| std::cmp::Reverse(lease.age_ms));
        held
    }
}

fn totals(stats: &Stats) -> Totals {
    Totals {
        prefills: stats.prefills.get(),
        decodes: stats.decodes.get(),
        pulls: stats.pulls.get(),
        pull_bytes: stats.pull_bytes.get(),
        pull_refused: stats.pull_refused.get(),
        releases_after_read: stats.releases_after_read.get(),
        releases_without_read: stats.releases_without_read.get(),
        expired: stats.expired.get(),
        aborted: stats.aborted.get(),
        computed_prompts: stats.computed_prompts.get(),
        source_hits: stats.source_hits.get(),
        source_misses: stats.source_misses.get(),
        source_failures: stats.source_failures.get(),
        reuse_expired: stats.reuse_expired.get(),
        reuse_pulls: stats.reuse_pulls.get(),
        encoded_here: stats.encoded_here.get(),
        encoder_loaded: stats.encoder_loaded.get(),
        encoder_fetched: stats.encoder_fetched.get(),
        encoder_outputs: stats.encoder_outputs.get(),
        declined: stats.declined.get(),
        store_saved: stats.store_saved.get(),
        store_loaded: stats.store_loaded.get(),
    }
}
