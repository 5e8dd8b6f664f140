//! The metrics of the process: one method for each thing that can happen, and the text that a scrape gets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::buckets::{Buckets, HANDOVER, INTER_TOKEN, STAGE, TTFT};
use crate::by_label::ByLabel;
use crate::cells::{Counter, Gauge};
use crate::histogram::Histogram;
use crate::labels::{
    Api, Direction, Disaggregation, Failover, FirstToken, Labels, Leg, Place, PushDispatch, ReleaseReason,
    Retry, Speculative, Stage, WarmUp,
};
use crate::outcomes::Outcomes;
use crate::process::Process;
use crate::reading::Source;
use crate::running::{Busy, Running};
use crate::scraped;

/// What every name begins with that is not a convention of others.
const PREFIX: &str = "llm_d_disagg_sidecar";

/// The media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process. Clones share them; no method waits.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<All>);

#[derive(Debug)]
struct All {
    registry: Registry,
    requests: ByLabel<Api, Counter>,
    finished: Outcomes,
    disaggregated: ByLabel<Disaggregation, Counter>,
    encode: ByLabel<(), Histogram>,
    prefill: ByLabel<(), Histogram>,
    decode: ByLabel<(), Histogram>,
    errors: ByLabel<Stage, Counter>,
    in_flight: ByLabel<Place, Gauge>,
    ttft: ByLabel<Api, Histogram>,
    handover: ByLabel<(), Histogram>,
    inter_token: ByLabel<(), Histogram>,
    releases: ByLabel<ReleaseReason, Counter>,
    retries: ByLabel<Retry, Counter>,
    failovers: ByLabel<Failover, Counter>,
    cancels: ByLabel<Leg, Counter>,
    bytes: ByLabel<Direction, Counter>,
    warm_ups: ByLabel<WarmUp, Counter>,
    first_tokens: ByLabel<FirstToken, Counter>,
    speculative: ByLabel<Speculative, Counter>,
    push_dispatches: ByLabel<PushDispatch, Counter>,
    push_mismatches: ByLabel<(), Counter>,
    push_drops: ByLabel<(), Counter>,
    push_serial_only: ByLabel<(), Counter>,
    dns_resolved: ByLabel<(), Counter>,
    dns_changed: ByLabel<(), Counter>,
    dns_failed: ByLabel<(), Counter>,
}

impl Metrics {
    /// Metrics of a process that was built from this, by name: its version, say. `outcomes` are the codes with which a
    /// request may finish, besides [`OK`](crate::OK) and [`CLIENT_LEFT`](crate::CLIENT_LEFT); others will count as
    /// [`OTHER`](crate::OTHER).
    pub fn new(build: &[(&'static str, &'static str)], outcomes: &[&'static str]) -> Self {
        let mut root = Registry::default();
        let finished = Outcomes::new(outcomes);
        let ours = root.sub_registry_with_prefix(PREFIX);
        ours.register("build", "What this process was built from; always 1", Info::new(build.to_vec()));
        ours.register("requests_finished", "Requests that ended, by how", finished.clone());
        let all = All {
            requests: counters(ours, "requests", "Requests of the intercepted APIs"),
            finished,
            disaggregated: counters(ours, "disagg_requests", "Requests spread over several engines"),
            encode: histogram(ours, "encode_duration", "Encode stage, first sent to last answered", STAGE),
            prefill: histogram(ours, "prefill_duration", "Prefill leg, sent to answered", STAGE),
            decode: histogram(ours, "decode_duration", "Decode leg, sent to its answer's end", STAGE),
            errors: counters(ours, "request_errors", "Requests that failed, by the stage that failed"),
            in_flight: {
                let cells = ByLabel::new(|_| Gauge::default());
                ours.register("in_flight", "Requests being served, by where they are", cells.clone());
                cells
            },
            ttft: histogram(ours, "ttft", "Request begun to first byte of the answer's body", TTFT),
            handover: histogram(
                ours,
                "handover",
                "Prefill answered to first byte of decode's answer",
                HANDOVER,
            ),
            inter_token: histogram(
                ours,
                "inter_token_latency",
                "Between two pieces of a streamed answer as they passed through",
                INTER_TOKEN,
            ),
            releases: counters(ours, "kv_releases", "KV handles given back unread, by why"),
            retries: counters(ours, "retries", "Prefills tried again, by where"),
            failovers: counters(
                ours,
                "prefill_failover",
                "Requests whose prefill failed while failover was on, by how they ended",
            ),
            cancels: counters(ours, "cancels", "Legs taken down before their answer was complete"),
            bytes: counters(ours, "bytes", "Length of bodies by which way they went, in bytes"),
            warm_ups: counters(ours, "pair_warm_ups", "Handshakes between engines made ahead of requests"),
            first_tokens: counters(
                ours,
                "first_token",
                "Answers begun with prefill's first token, by how they went on",
            ),
            speculative: counters(
                ours,
                "speculative_prefill",
                "Next turns of chats to be prefilled ahead, by what became of them",
            ),
            push_dispatches: counters(
                ours,
                "nixl_push_dispatches",
                "Push-mode requests, by how they were sent",
            ),
            push_mismatches: counters(
                ours,
                "nixl_push_identity_mismatches",
                "Prefill engines that were not the ones remembered",
            ),
            push_drops: counters(
                ours,
                "nixl_push_identity_drops",
                "Remembered identities forgotten after a failure",
            ),
            push_serial_only: counters(
                ours,
                "nixl_push_serial_only_marks",
                "Prefill engines marked serial-only because their identity keeps changing",
            ),
            dns_resolved: counters(&mut root, "moriio_dns_reresolve", "Lookups of the local pod's name"),
            dns_changed: counters(
                &mut root,
                "moriio_dns_ip_changed",
                "Lookups that gave another address than before",
            ),
            dns_failed: counters(&mut root, "moriio_dns_lookup_failures", "Lookups that failed"),
            registry: root,
        };
        Self(Arc::new(all))
    }

    /// A request of this API was taken in.
    pub fn request(&self, api: Api) {
        self.0.requests.of(api).add(1);
    }

    /// A request is over, with this code.
    pub fn finished(&self, outcome: &str) {
        self.0.finished.count(outcome);
    }

    /// A request is being spread over several engines.
    pub fn disaggregated(&self, how: Disaggregation) {
        self.0.disaggregated.of(how).add(1);
    }

    /// A stage begins. End it with one of [`Running`]'s methods.
    pub fn start(&self, stage: Stage) -> Running {
        Running::new(self.clone(), stage)
    }

    /// A request is somewhere that is not timed. A stage that is started counts by itself.
    pub fn enter(&self, place: Place) -> Busy {
        Busy::new(self.clone(), place)
    }

    /// From prefill's answer to decode's first byte.
    pub fn handover(&self, took: Duration) {
        self.0.handover.of(()).observe(took);
    }

    /// KV is given back unread.
    pub fn released(&self, reason: ReleaseReason) {
        self.0.releases.of(reason).add(1);
    }

    /// Prefill is tried again.
    pub fn retried(&self, kind: Retry) {
        self.0.retries.of(kind).add(1);
    }

    /// A request whose prefill failed is decided.
    pub fn failed_over(&self, outcome: Failover) {
        self.0.failovers.of(outcome).add(1);
    }

    /// A leg is taken down.
    pub fn cancelled(&self, leg: Leg) {
        self.0.cancels.of(leg).add(1);
    }

    /// Bytes of a body went by. Once for each body is enough.
    pub fn bytes(&self, direction: Direction, count: u64) {
        self.0.bytes.of(direction).add(count);
    }

    /// A pair was warmed up, or not.
    pub fn warmed_up(&self, outcome: WarmUp) {
        self.0.warm_ups.of(outcome).add(1);
    }

    /// An answer that began with prefill's first token goes on, or not.
    pub fn first_token(&self, outcome: FirstToken) {
        self.0.first_tokens.of(outcome).add(1);
    }

    /// A chat's next turn was prefilled ahead, or not.
    pub fn speculated(&self, outcome: Speculative) {
        self.0.speculative.of(outcome).add(1);
    }

    /// A push-mode request is sent.
    pub fn push_dispatched(&self, how: PushDispatch) {
        self.0.push_dispatches.of(how).add(1);
    }

    /// A prefill engine is not the one that was remembered.
    pub fn push_identity_mismatched(&self) {
        self.0.push_mismatches.of(()).add(1);
    }

    /// A remembered identity is forgotten.
    pub fn push_identity_dropped(&self) {
        self.0.push_drops.of(()).add(1);
    }

    /// A prefill engine is marked serial-only.
    pub fn push_marked_serial_only(&self) {
        self.0.push_serial_only.of(()).add(1);
    }

    /// The local pod's name was looked up.
    pub fn dns_resolved(&self) {
        self.0.dns_resolved.of(()).add(1);
    }

    /// Its address is another than before.
    pub fn dns_changed(&self) {
        self.0.dns_changed.of(()).add(1);
    }

    /// The lookup failed.
    pub fn dns_failed(&self) {
        self.0.dns_failed.of(()).add(1);
    }

    /// The OpenMetrics text of everything, with what `source` says now and the process's own numbers.
    ///
    /// It takes about a millisecond; call it from no worker thread.
    pub fn encode(&self, source: &dyn Source) -> String {
        let mut read = Registry::default();
        scraped::register_reading(read.sub_registry_with_prefix(PREFIX), &source.reading());
        scraped::register_process(&mut read, Process::read());
        let mut out = String::new();
        text::encode_registry(&mut out, &self.0.registry)
            .and_then(|()| text::encode_registry(&mut out, &read))
            .and_then(|()| text::encode_eof(&mut out))
            .expect("writing to a string cannot fail, and no encoder of ours fails by itself");
        out
    }

    pub(crate) fn in_flight(&self, place: Place, change: i64) {
        self.0.in_flight.of(place).add(change);
    }

    pub(crate) fn stage_took(&self, stage: Stage, took: Duration) {
        let histogram = match stage {
            Stage::Encode => &self.0.encode,
            Stage::Prefill => &self.0.prefill,
            Stage::Decode => &self.0.decode,
        };
        histogram.of(()).observe(took);
    }

    pub(crate) fn stage_failed(&self, stage: Stage) {
        self.0.errors.of(stage).add(1);
    }
}

/// Times the pieces of one answer: TTFT with the first, ITL with each that follows.
#[derive(Debug)]
pub struct Tokens {
    api: Api,
    streamed: bool,
    first_seen: bool,
    /// When the request began; from the first piece on, when the last piece passed.
    last: Instant,
}

impl Tokens {
    /// For a request that began at `started`. ITL is measured only of an answer that is `streamed`: the pieces in which
    /// another one arrives mean nothing.
    pub fn new(api: Api, started: Instant, streamed: bool) -> Self {
        Self { api, streamed, first_seen: false, last: started }
    }

    /// A piece of the answer's body passes through at `now`. The clock is the caller's: it mostly has looked already.
    pub fn passed(&mut self, metrics: &Metrics, now: Instant) {
        let took = now.saturating_duration_since(self.last);
        if !self.first_seen {
            self.first_seen = true;
            metrics.0.ttft.of(self.api).observe(took);
        } else if self.streamed {
            metrics.0.inter_token.of(()).observe(took);
        }
        self.last = now;
    }
}

fn counters<L: Labels>(registry: &mut Registry, name: &str, help: &str) -> ByLabel<L, Counter> {
    let cells = ByLabel::new(|_| Counter::default());
    registry.register(name, help, cells.clone());
    cells
}

fn histogram<L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: Buckets,
) -> ByLabel<L, Histogram> {
    let cells = ByLabel::new(|_| Histogram::new(buckets));
    registry.register_with_unit(name, format!("{help}, in seconds"), Unit::Seconds, cells.clone());
    cells
}
