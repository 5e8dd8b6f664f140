//! One life of an engine: its id, memory, leases and counters.
//!
//! A restart makes a new `Engine` and drops this one, so nothing of an old life (blocks, leases, ids) can leak
//! into the next; requests still holding the old one finish against memory that nobody hands out any more.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::config::{Config, Speeds};
use crate::faults::FaultCell;
use crate::lease::LeaseTable;
use crate::pool::BlockPool;
use crate::prefix::PrefixCache;
use crate::state::{BlockState, HeldState, RequestState, State, Totals};
use crate::stats::Stats;

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
    pub(crate) kv_port: u16,
    pub(crate) runtime: Handle,
    pub(crate) pool: Arc<BlockPool>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) prefix: Mutex<PrefixCache>,
}

impl Engine {
    /// A new engine with a new id and empty memory; its timers run on `runtime`.
    pub(crate) fn new(settings: Arc<Settings>, kv_port: u16, runtime: Handle) -> Arc<Self> {
        let config = &settings.config;
        let pool = BlockPool::new(config.block_size, config.kv_bytes_per_token, config.num_blocks);
        let stats = Arc::new(Stats::default());
        let leases = LeaseTable::new(Arc::clone(&pool), Arc::clone(&stats), runtime.clone(), config.kv_lease);
        Arc::new(Self {
            id: Uuid::new_v4().to_string(),
            settings,
            kv_port,
            runtime,
            pool,
            leases,
            stats,
            prefix: Mutex::default(),
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.settings.config
    }

    /// The report of `/emulator/state`.
    pub(crate) fn state(&self) -> State {
        let (total, free) = (self.pool.capacity(), self.pool.free());
        let leased = self.leases.blocks();
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
            leases: self.leases.list(),
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
            },
        }
    }
}
