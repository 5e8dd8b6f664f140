//! One life of an engine: its id, memory, leases and counters.
//!
//! A restart makes a new `Engine` and drops this one, so nothing of an old life (blocks, leases, ids) can leak
//! into the next; requests still holding the old one finish against memory that nobody hands out any more.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::aborts::Aborts;
use crate::config::{Config, Speeds};
use crate::encoder::Outputs;
use crate::faults::FaultCell;
use crate::handoff::inbox::Inbox;
use crate::handoff::table::Meetings;
use crate::host_cache::HostCache;
use crate::lease::LeaseTable;
use crate::listening::Ports;
use crate::pool::BlockPool;
use crate::prefix::PrefixCache;
use crate::state::{BlockState, EncoderState, HeldState, LeaseState, RequestState, State, Totals};
use crate::stats::Stats;
use crate::tasks::Tasks;

/// What outlives a restart: settings that a test made and expects to keep.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) faults: FaultCell,
    speeds: Mutex<Speeds>,
}

impl Settings {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let speeds = Mutex::new(config.speeds);
        Arc::new(Self { config, faults: FaultCell::default(), speeds })
    }

    pub(crate) fn speeds(&self) -> Speeds {
        *self.speeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_speeds(&self, speeds: Speeds) {
        *self.speeds.lock().unwrap_or_else(PoisonError::into_inner) = speeds;
    }
}

/// One engine from start to restart.
pub(crate) struct Engine {
    pub(crate) id: String,
    pub(crate) settings: Arc<Settings>,
    pub(crate) ports: Ports,
    pub(crate) runtime: Handle,
    pub(crate) pool: Arc<BlockPool>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) meetings: Arc<Meetings>,
    pub(crate) inbox: Inbox,
    pub(crate) host_cache: HostCache,
    pub(crate) outputs: Outputs,
    pub(crate) aborts: Arc<Aborts>,
    pub(crate) tasks: Tasks,
    pub(crate) stats: Arc<Stats>,
    pub(crate) prefix: Mutex<PrefixCache>,
}

impl Engine {
    /// A new engine with a new id and empty memory; its timers run on `runtime`.
    pub(crate) fn new(settings: Arc<Settings>, ports: Ports, runtime: Handle) -> Arc<Self> {
        let config = &settings.config;
        let pool = BlockPool::new(config.block_size, config.kv_bytes_per_token, config.num_blocks);
        let stats = Arc::new(Stats::default());
        let leases = LeaseTable::new(Arc::clone(&pool), Arc::clone(&stats), runtime.clone(), config.kv_lease);
        let meetings = Meetings::new(Arc::clone(&stats), runtime.clone());
        Arc::new(Self {
            id: Uuid::new_v4().to_string(),
            settings,
            ports,
            tasks: Tasks::new(runtime.clone()),
            runtime,
            pool,
            leases,
            meetings,
            inbox: Inbox::default(),
            host_cache: HostCache::default(),
            outputs: Outputs::default(),
            aborts: Arc::default(),
            stats,
            prefix: Mutex::default(),
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.settings.config
    }

    /// The engine id of a data-parallel rank.
    pub(crate) fn rank_id(&self, rank: u32) -> String {
        if rank == 0 { self.id.clone() } else { format!("{}-dp{rank}", self.id) }
    }

    /// The data-parallel rank behind an engine id; `None` for an id that is not of this life.
    pub(crate) fn rank_of(&self, engine_id: &str) -> Option<u32> {
        (0..self.config().dp_size).find(|rank| self.rank_id(*rank) == engine_id)
    }

    /// Everything that waits for a reader, oldest first.
    fn held(&self) -> Vec<LeaseState> {
        let mut held = self.leases.list();
        held.extend(self.meetings.list());
        held.sort_by_key(|lease| std::cmp::Reverse(lease.age_ms));
        held
    }

    /// A name for a lease. As in vLLM, it is the request's id with a random tail: a client that repeats an id gets
    /// a lease of its own.
    pub(crate) fn lease_id(&self, request: &str) -> String {
        format!("{request}-{}", &Uuid::new_v4().simple().to_string()[..8])
    }

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
            totals: Totals {
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
            },
        }
    }
}
