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
}
