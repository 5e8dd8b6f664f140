//! What one worker thread shares between its requests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_allowlist::Allowlist;
use kvferry_contract::Endpoint;
use kvferry_handoff::{Ledger, Limits, Time};
use kvferry_metrics::Metrics;
use kvferry_tls::{LegTls, ListenerTls};
use kvferry_traces::Traces;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connector::Connector;
use crate::exchange::Encode;
use crate::failover::Failover;
use crate::inflight::Table;
use crate::speculative::Speculative;
use crate::upstream::{Legs, Proxies, Tallies, Tally, Upstream};
use crate::warmup::WarmUp;

/// One engine of this pod, and the port through which it is reached. With data parallelism there are several.
#[derive(Debug)]
pub struct Rank {
    /// Counted from 0.
    pub index: usize,
    /// Where the sidecar listens for it.
    pub port: u16,
    /// The decode engine.
    pub decoder: Arc<Endpoint>,
}

/// TLS per leg; `None`: plain.
#[derive(Debug, Clone, Default)]
pub struct LegsTls {
    /// To prefill engines.
    pub prefill: Option<LegTls>,
    /// To the decode engines of this pod.
    pub decode: Option<LegTls>,
    /// To encoders.
    pub encode: Option<LegTls>,
}

/// What the configuration says about handling requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the engines hand over.
    pub connector: Arc<dyn Connector>,
    /// How encoders hand over; `None`: there is no encoder stage.
    pub encode: Option<Encode>,
    /// Tokens of one chunk of a chunked decode; `None`: decode is not chunked.
    pub decode_chunk: Option<NonZeroU32>,
    /// Top-level members of a body to look for.
    pub watch: &'static [&'static str],
    /// The engines of this pod; at least one.
    pub ranks: Vec<Arc<Rank>>,
    /// Largest body that is read, in bytes.
    pub max_body: usize,
    /// How long a client may pause in its body.
    pub body_patience: Duration,
    /// Choose a random prefill candidate instead of the first.
    pub sample_prefiller: bool,
    /// What follows a failed prefill.
    pub failover: Arc<Failover>,
    /// Bounds of one disaggregated request.
    pub limits: Arc<Limits>,
    /// How long opening a connection to an engine may take.
    pub connect_timeout: Duration,
    /// Idle connections kept to each engine.
    pub max_idle_per_engine: usize,
    /// Which targets may be dialled.
    pub allowlist: Allowlist,
    /// This pod's address.
    pub pod_ip: Option<String>,
    /// Who is warmed up, if anybody is to be.
    pub warm_up: Option<Arc<WarmUp>>,
    /// How chats' next turns are prefilled ahead, if they may be.
    pub speculative: Option<Arc<Speculative>>,
    /// The connector's name.
    pub connector_name: &'static str,
    /// What is counted and timed, for the process.
    pub metrics: Metrics,
    /// Traces, for the process.
    pub traces: Traces,
    /// One log line for each intercepted request.
    pub request_log: bool,
    /// Forward proxies on the way to engines outside this pod.
    pub proxies: Option<Proxies>,
    /// How many connections to engines there are, for the process.
    pub tallies: Tallies,
    /// TLS of the listeners; `None`: plain.
    pub listener_tls: Option<ListenerTls>,
    /// TLS of the legs.
    pub leg_tls: LegsTls,
}

/// One worker thread's share of the process. Everything in it is used from that thread.
pub struct Worker {
    /// The configuration.
    pub settings: Settings,
    /// The account of KV handles, one for the process.
    pub ledger: Ledger,
    /// The way to the engines.
    pub legs: Legs,
    /// What is counted and timed.
    pub metrics: Metrics,
    /// Traces.
    pub traces: Traces,
    /// Its requests in flight.
    pub in_flight: Table,
    /// Work that outlives its request, such as releasing KV. The process waits for it before it ends.
    pub background: TaskTracker,
    /// Cancelled when the process begins to end: what nobody waits for need not be finished.
    pub stopping: CancellationToken,
    runtime: Handle,
    start: Instant,
}

impl Worker {
    /// A worker on the current runtime. `start`: when the process counts time from. `stopping`: tells that it ends.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        settings: Settings,
        ledger: Ledger,
        in_flight: Table,
        start: Instant,
        stopping: CancellationToken,
    ) -> Self {
        let upstream = |tls: &Option<LegTls>, tally: &Tally| {
            Upstream::new(settings.max_idle_per_engine, settings.connect_timeout, tls.clone(), tally.clone())
                .through(settings.proxies.clone())
        };
        let legs = Legs {
            prefill: upstream(&settings.leg_tls.prefill, &settings.tallies.prefill),
            decode: upstream(&settings.leg_tls.decode, &settings.tallies.decode),
            decoders: settings.ranks.iter().map(|rank| Arc::clone(&rank.decoder)).collect(),
            encode: upstream(&settings.leg_tls.encode, &settings.tallies.encode),
            // Asked once for each prefill engine, and not kept apart in any metric.
            bootstrap: upstream(&None, &Tally::default()),
        };
        Self {
            metrics: settings.metrics.clone(),
            traces: settings.traces.clone(),
            in_flight,
            settings,
            ledger,
            legs,
            background: TaskTracker::new(),
            stopping,
            runtime: Handle::current(),
            start,
        }
    }

    /// Now, as the handoff core counts time.
    pub fn now(&self) -> Time {
        Time::since_start(self.start.elapsed())
    }

    /// When `time` is on the clock.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + time.elapsed()
    }

    /// Runs `task` after its request is over. May be called from a destructor, even while the runtime shuts down.
    pub fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn_on(task, &self.runtime);
    }
}
