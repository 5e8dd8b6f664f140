//! The operator's side of the process: where metrics, readiness, requests in flight and the log level come from, and the
//! watch on the decode engine. Without a metrics port only the watch runs, and that only if readiness depends on it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kvferry_admin::{
    Accepting, Acceptor, Admin, Condition, Exposition, InFlight, Readiness, Request, Source, Stream,
};
use kvferry_allowlist::Allowlist;
use kvferry_config::Options;
use kvferry_handoff::Ledger;
use kvferry_metrics::{Connection, KvCounts, Leg, Metrics, PeerState, Reading};
use kvferry_tls::ListenerTls;
use kvferry_traces::Traces;

use crate::assemble;
use crate::decoder::Watch;
use crate::failover::Failover;
use crate::inflight::Table;
use crate::logging::{Dropped, Level, Log};
use crate::server::Server;
use crate::upstream::Tallies;
use crate::vitals::Vitals;
use crate::warmup::WarmUp;
use crate::worker::Settings;

/// How long traces that wait may take to be sent at the end.
const LAST_TRACES: Duration = Duration::from_secs(5);

/// What the operator sees.
#[derive(Debug)]
pub struct Operator {
    view: Arc<View>,
    admin: Option<Admin>,
    traces: Traces,
}

/// Everything that is looked at.
#[derive(Debug)]
struct View {
    metrics: Metrics,
    traces: Traces,
    allowlist: Allowlist,
    watched_allowlist: bool,
    failover: Arc<Failover>,
    warm_up: Option<Arc<WarmUp>>,
    level: Level,
    dropped: Dropped,
    serving: OnceLock<Serving>,
    draining: AtomicBool,
    tallies: Tallies,
    /// Absent if readiness does not depend on the decode engines.
    decoder: Option<Arc<Watch>>,
}

/// The server, as far as it is looked at.
#[derive(Debug)]
struct Serving {
    start: Instant,
    ledger: Ledger,
    tables: Vec<Table>,
    connections: Arc<AtomicUsize>,
    vitals: Vitals,
}

impl Operator {
    /// Opens the metrics port if there is one, and begins to watch what readiness depends on.
    ///
    /// # Errors
    /// The port cannot be had, or its certificate cannot be used.
    pub fn start(options: &Options, settings: &Settings, log: &Log) -> io::Result<Self> {
        let watches = options.process.ready_when_decoder_answers;
        let view = Arc::new(View {
            metrics: settings.metrics.clone(),
            traces: settings.traces.clone(),
            allowlist: settings.allowlist.clone(),
            watched_allowlist: !options.destinations.are_open(),
            failover: Arc::clone(&settings.failover),
            warm_up: settings.warm_up.clone(),
            level: log.level(),
            dropped: log.dropped(),
            serving: OnceLock::new(),
            draining: AtomicBool::new(false),
            tallies: settings.tallies.clone(),
            decoder: watches.then(|| Watch::start(settings)).transpose()?,
        });
        let observability = &options.observability;
        let admin = observability
            .metrics_port
            .map(|port| {
                let host = observability.metrics_host.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                let acceptor = observability.metrics_cert_dir.clone().map(|directory| {
                    let tls = assemble::admin_tls(options, directory).map_err(io::Error::other)?;
                    Ok::<Arc<dyn Acceptor>, io::Error>(Arc::new(Secure(tls)))
                });
                Admin::start(
                    (host, port.get()).into(),
                    Arc::clone(&view) as Arc<dyn Source>,
                    acceptor.transpose()?,
                )
            })
            .transpose()?;
        Ok(Self { view, admin, traces: settings.traces.clone() })
    }

    /// The port is open.
    pub fn serves(&self, server: &Server) {
        let serving = Serving {
            start: server.start_time(),
            ledger: server.ledger().clone(),
            tables: server.tables().to_vec(),
            connections: server.connection_count(),
            vitals: server.vitals().clone(),
        };
        let _ = self.view.serving.set(serving);
    }

    /// Where the metrics port is, if it is open.
    pub fn address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The process wants no new requests.
    pub fn drains(&self) {
        self.view.draining.store(true, Ordering::Relaxed);
    }

    /// Sends what traces wait, and closes the port.
    pub fn stop(self) {
        if let Err(error) = self.traces.shutdown(LAST_TRACES) {
            tracing::warn!(%error, "traces were lost");
        }
        if let Some(admin) = self.admin {
            admin.stop();
        }
    }
}

impl Source for View {
    fn metrics(&self) -> Exposition {
        Exposition { content_type: kvferry_metrics::CONTENT_TYPE, text: self.metrics.encode(self) }
    }

    fn readiness(&self) -> Readiness {
        let allowlist = if self.watched_allowlist {
            self.allowlist.readiness().map_or_else(Condition::Missing, |()| Condition::Met)
        } else {
            Condition::NotRequired
        };
        let decoder = match &self.decoder {
            None => Condition::NotRequired,
            Some(watch) => watch.trouble().map_or(Condition::Met, Condition::Missing),
        };
        Readiness {
            listening: self.serving.get().is_some(),
            draining: self.draining.load(Ordering::Relaxed),
            allowlist,
            decoder,
        }
    }

    fn broken(&self) -> Option<String> {
        self.serving.get().and_then(|serving| serving.vitals.trouble())
    }

    fn in_flight(&self, most: usize) -> InFlight {
        let tables = self.serving.get().map(|serving| serving.tables.as_slice()).unwrap_or_default();
        let mut entries: Vec<_> = tables.iter().flat_map(Table::entries).collect();
        entries.sort_by_key(|entry| entry.started);
        let total = entries.len();
        let requests = entries.into_iter().take(most).map(|entry| {
            let (bytes_in, bytes_out) = entry.bytes();
            Request {
                id: entry
                    .id()
                    .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned())
                    .unwrap_or_default(),
                api: entry.api.label(),
                stage: entry.stage(),
                since: entry.started.elapsed(),
                prefill_target: entry.target().map(|target| target.to_string()),
                bytes_in,
                bytes_out,
            }
        });
        InFlight { total, requests: requests.collect() }
    }

    fn log_level(&self) -> String {
        self.level.get().to_string()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.level.set(level)
    }
}

impl kvferry_metrics::Source for View {
    fn reading(&self) -> Reading {
        let mut reading = Reading {
            log_lines_dropped: self.dropped.count(),
            spans_dropped: self.traces.spans_dropped(),
            allowlist_age: self.allowlist.status().since_contact,
            ..Reading::default()
        };
        if let Some(serving) = self.serving.get() {
            let counts = serving.ledger.counts();
            reading.kv = KvCounts {
                handed_out: counts.handed_out,
                consumed: counts.consumed,
                released: counts.released,
                expired: counts.expired,
            };
            reading.client_connections = serving.connections.load(Ordering::Relaxed) as u64;
            let now = kvferry_handoff::Time::since_start(serving.start.elapsed());
            reading.peers.add(PeerState::SetAside, self.failover.aside(now) as u64);
        }
        let Tallies { prefill, decode, encode } = &self.tallies;
        for (leg, tally) in [(Leg::Prefill, prefill), (Leg::Decode, decode), (Leg::Encode, encode)] {
            reading.upstream_connections_opened.add(leg, tally.opened());
            reading.upstream_connections.add((leg, Connection::Idle), tally.idle());
            reading.upstream_connections.add((leg, Connection::InUse), tally.in_use());
        }
        for state in self.warm_up.iter().flat_map(|warm_up| warm_up.states()) {
            reading.peers.add(state, 1);
        }
        reading
    }
}

/// TLS on the metrics port.
struct Secure(ListenerTls);

impl Acceptor for Secure {
    fn accept(&self, stream: tokio::net::TcpStream) -> Accepting {
        let accepting = self.0.accept(stream);
        Box::pin(async move { Ok(Box::new(accepting.await?) as Box<dyn Stream>) })
    }
}
