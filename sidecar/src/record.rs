//! The measuring points of one request: what the log line, the metrics, the trace and the table of requests in flight are
//! told, each once and at one place.
//!
//! The line is written when the record is dropped, so no path through the code can forget it; a request whose outcome
//! nobody set was left by its client.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kvferry_contract::Endpoint;
use kvferry_metrics::{Busy, Direction, Metrics, Place, Running, Stage, Tokens};
use kvferry_traces::{RequestTrace, Span, TraceIdText, Work, attributes};

use crate::error::{Error, Fault};
use crate::inflight::Present;
use crate::request::intake::Intake;
use crate::request::route::Api;
use crate::worker::Worker;

/// What is measured of one request. One that no API of ours is for is only traced.
#[derive(Debug)]
pub struct Record {
    api: Option<Api>,
    started: Instant,
    metrics: Metrics,
    log: bool,
    /// As the routing header has it, empty without disaggregation; the engine in use once there is one.
    pub target: String,
    /// As both legs carry it.
    request_id: Option<HeaderValue>,
    /// Status of the answer, 0 while there is none.
    pub status: u16,
    /// `ok`, or an error's code.
    pub outcome: &'static str,
    /// Whose fault a failure is.
    pub fault: Option<Fault>,
    /// The prefill leg: sent to answered.
    prefill_took: Option<Duration>,
    prefill_answered: Option<Instant>,
    prefill: Option<Leg>,
    decode_sent: Option<Instant>,
    decode: Option<Leg>,
    /// No prefill is outstanding: how the decode leg ends from here on is decode's matter.
    decode_has_its_turn: bool,
    /// The decode engine's part in a request that passes. Before `trace`, so that it ends first.
    passed: Span,
    /// Why it is not spread over two engines, if it is not.
    reason: &'static str,
    /// So many decode engines this pod has.
    ranks: usize,
    /// Between legs, or passed through.
    busy: Option<Busy>,
    tokens: Option<Tokens>,
    first_byte: Option<Instant>,
    /// The first token was prefill's.
    first_token_ahead: bool,
    /// Body bytes from the client.
    bytes_in: usize,
    bytes_out: usize,
    /// Prompt tokens that prefill had cached.
    pub cached_tokens: Option<u64>,
    trace: RequestTrace,
    present: Option<Present>,
}

/// Headers that a leg has on top of the client's.
pub trait Added: Extend<(HeaderName, HeaderValue)> {}

impl<T: Extend<(HeaderName, HeaderValue)>> Added for T {}

/// The encoder stage while it runs. Dropping it means that it failed.
#[derive(Debug)]
#[must_use = "a stage that is dropped counts as failed"]
pub struct Encoding {
    running: Running,
    span: Span,
}

impl Encoding {
    /// One request to an encoder; `headers` become its.
    pub fn request(&self, encoder: &Endpoint, headers: &mut HeaderMap) -> Span {
        let client = self.span.client(&Method::POST, encoder.host(), encoder.port());
        client.inject(headers);
        client
    }

    /// Every part was encoded, or not.
    pub fn ended(mut self, end: Result<(), &'static str>) {
        match end {
            Ok(()) => self.running.served(),
            Err(code) => {
                self.span.failed(code);
                self.running.failed();
            }
        }
    }
}

/// A leg while it runs.
#[derive(Debug)]
struct Leg {
    running: Running,
    /// Before `span`, so that it ends first.
    client: Span,
    span: Span,
}

impl Leg {
    fn answered(&mut self, status: u16) {
        self.client.answered(status);
        self.span.answered(status);
    }

    fn failed(mut self, code: &'static str) {
        self.client.failed(code);
        self.span.failed(code);
        self.running.failed();
    }
}

impl Record {
    /// The outcome until somebody sets another: only a client that leaves ends a request without one.
    pub const UNFINISHED: &'static str = "client_left";

    /// A request that arrived now.
    pub fn new(worker: &Worker, api: Api, headers: &HeaderMap) -> Box<Self> {
        let settings = &worker.settings;
        let metrics = worker.metrics.clone();
        metrics.request(api.metric());
        let mut trace = worker.traces.request(headers, &Method::POST, api.path());
        trace.forward();
        trace.set(attributes::CONNECTOR, settings.connector_name);
        trace.set(attributes::KV_CONNECTOR, settings.connector_name);
        if let Some(encode) = settings.encode {
            trace.set(attributes::EC_CONNECTOR, encode.name());
        }
        trace.set(attributes::REQUEST_PATH, api.path());
        trace.set(attributes::OPENAI_API, api.label());
        trace.set(attributes::GEN_AI_OPERATION_NAME, api.operation());
        let started = Instant::now();
        let mut record = Self::begin(worker, started, metrics, trace, settings.request_log);
        record.appears(worker, api);
        record
    }

    /// A request for the decode engine alone, whatever it is. `None`: nobody wants to know of it.
    pub fn unread(worker: &Worker, method: &Method, path: &str, headers: &HeaderMap) -> Option<Box<Self>> {
        let trace = worker.traces.is_on().then(|| worker.traces.request(headers, method, path))?;
        Some(Self::begin(worker, Instant::now(), nobody(), trace, false))
    }

    /// A request of our own that arrived now: nobody is told of it.
    pub fn quiet(worker: &Worker, api: Api) -> Box<Self> {
        let mut record = Self::begin(worker, Instant::now(), nobody(), RequestTrace::default(), false);
        record.appears(worker, api);
        record
    }

    fn appears(&mut self, worker: &Worker, api: Api) {
        self.api = Some(api);
        self.present = Some(worker.in_flight.enter(api, self.started, Place::Passthrough));
    }

    /// Boxed: it goes through every function that serves a request, each of which would keep room for it.
    fn begin(
        worker: &Worker,
        started: Instant,
        metrics: Metrics,
        trace: RequestTrace,
        log: bool,
    ) -> Box<Self> {
        Box::new(Self {
            api: None,
            started,
            metrics,
            log,
            target: String::new(),
            request_id: None,
            status: 0,
            outcome: Self::UNFINISHED,
            fault: None,
            prefill_took: None,
            prefill_answered: None,
            prefill: None,
            decode_sent: None,
            decode: None,
            decode_has_its_turn: false,
            passed: Span::default(),
            reason: attributes::NO_PREFILL_HEADER,
            ranks: worker.settings.ranks.len(),
            busy: None,
            tokens: None,
            first_byte: None,
            first_token_ahead: false,
            bytes_in: 0,
            bytes_out: 0,
            cached_tokens: None,
            trace,
            present: None,
        })
    }

    /// Whether the request is one that may be spread over several engines.
    pub fn is_intercepted(&self) -> bool {
        self.api.is_some()
    }

    /// The request's API.
    ///
    /// # Panics
    /// Nobody knows it: the request passes [unread](Self::unread).
    pub fn api(&self) -> Api {
        self.api.expect("only requests of an API that is known are looked into")
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The id that both legs carry. Give it a value that keeps nothing else alive.
    pub fn request_id(&mut self, id: HeaderValue) {
        if self.trace.is_recorded() {
            self.trace.set_text(attributes::REQUEST_ID, id.to_str().unwrap_or_default());
        }
        if let Some(present) = &self.present {
            present.id(&id);
        }
        self.request_id = Some(id);
    }

    /// It is not spread over two engines though a prefill engine was named: it holds several prompts.
    pub fn stays_whole(&mut self) {
        self.target.clear();
        self.reason = attributes::SEVERAL_PROMPTS;
    }

    /// The routing headers name these engines; so many of the encoders may be used.
    pub fn routed(&mut self, prefill: &[String], encoders: &[String], allowed: usize) {
        if let Some(first) = prefill.first() {
            self.target.clone_from(first);
            self.trace.set(attributes::PREFILL_CANDIDATES, count(prefill.len()));
        }
        if !encoders.is_empty() {
            self.trace.set(attributes::ENCODER_CANDIDATES, count(encoders.len()));
            self.trace.set(attributes::ENCODER_ALLOWED, count(allowed));
            self.trace.set(attributes::ENCODE_DISAGGREGATION_USED, false);
        }
    }

    /// A part of its KV may be pulled from this engine.
    pub fn pulls_from(&mut self, source: &Endpoint) {
        if self.trace.is_recorded() {
            self.trace.set(attributes::KV_CACHE_SOURCE, source.to_string());
        }
    }

    /// The body was read.
    pub fn read(&mut self, intake: &Intake) {
        self.bytes_in = intake.body.len();
        if let Some(present) = &self.present {
            present.bytes(self.bytes_in as u64, 0);
        }
        if self.trace.is_recorded()
            && let Some(model) = intake.model()
        {
            self.trace.set(attributes::GEN_AI_REQUEST_MODEL, model);
        }
    }

    /// These are the headers from which those of all legs will be made.
    pub fn announce(&mut self, headers: &mut HeaderMap) {
        self.trace.announce(headers);
    }

    /// The request goes to this prefill engine.
    pub fn goes_to(&mut self, target: &Arc<Endpoint>) {
        self.target = target.to_string();
        self.trace.set(attributes::DISAGGREGATION_USED, true);
        self.trace.set_text(attributes::PREFILL_TARGET, &self.target);
        if let Some(present) = &self.present {
            present.target(target);
        }
    }

    /// The request passes to the decode engine; `headers` become its.
    pub fn passes(&mut self, method: &Method, decoder: &Endpoint, headers: &mut HeaderMap) {
        if self.api.is_some() {
            self.trace.set(attributes::DISAGGREGATION_USED, false);
            self.trace.set(attributes::REASON, self.reason);
        }
        self.passed = self.trace.client(method, decoder.host(), decoder.port());
        self.passed.inject(headers);
        self.busy = Some(self.metrics.enter(Place::Passthrough));
        self.decode_sent = Some(Instant::now());
    }

    /// Encoders are asked for the request's parts.
    pub fn encode_begins(&mut self, parts: usize, encoders: usize) -> Encoding {
        self.trace.set(attributes::ENCODE_DISAGGREGATION_USED, true);
        self.trace.set(attributes::ENCODER_COUNT, count(parts.min(encoders)));
        self.moves_to(Place::Encode);
        Encoding { running: self.metrics.start(Stage::Encode), span: self.trace.span(Work::Encode) }
    }

    /// The decode engine was asked first and leaves the request to prefill. Its attempt says nothing about decode.
    pub fn decode_declined(&mut self) {
        self.decode_sent = None;
        self.discard_decode();
    }

    /// What prefill answered is what decode needs.
    pub fn prefill_accepted(&mut self) {
        self.decode_has_its_turn = true;
    }

    /// The prefill leg is sent; `headers` become its.
    pub fn prefill_sent(&mut self, target: &Endpoint, headers: &mut impl Added, bytes: usize) {
        let leg = self.leg(Stage::Prefill, Work::Prefill, target, headers);
        self.prefill = Some(leg);
        self.metrics.bytes(Direction::ToPrefill, bytes as u64);
        self.moves_to(Place::Prefill);
    }

    /// The prefill leg answered with this status, or failed with this code.
    pub fn prefill_ended(&mut self, end: Result<u16, &'static str>, took: Duration) {
        self.prefill_took = Some(took);
        // A failed one hands nothing over.
        self.prefill_answered = end.is_ok_and(|status| status < 400).then(Instant::now);
        if let Some(sent) = self.decode_sent.filter(|_| self.decode.is_some()) {
            self.trace.set(attributes::PARALLEL_WINDOW_MS, ms(sent.elapsed()));
        }
        let Some(mut leg) = self.prefill.take() else { return };
        match end {
            Ok(status) => {
                leg.answered(status);
                leg.span.set(attributes::PREFILL_STATUS_CODE, i64::from(status));
                leg.span.set(attributes::PREFILL_LEG_DURATION_MS, ms(took));
                if status < 400 { leg.running.served() } else { leg.running.failed() }
            }
            Err(code) => leg.failed(code),
        }
    }

    /// The prefill leg is given up.
    pub fn prefill_cancelled(&mut self) {
        if self.prefill.take().is_some() {
            self.metrics.cancelled(kvferry_metrics::Leg::Prefill);
        }
    }

    /// The decode leg is sent; `headers` become its.
    pub fn decode_sent(&mut self, target: &Endpoint, headers: &mut impl Added) {
        self.discard_decode();
        let mut leg = self.leg(Stage::Decode, Work::Decode, target, headers);
        if leg.span.is_recorded() {
            leg.span.set(attributes::DECODE_TARGET, target.to_string());
        }
        // What is mostly false is said where it is true: attributes are what a sampled request costs.
        if self.ranks > 1 {
            leg.span.set(attributes::DECODE_DATA_PARALLEL, true);
        }
        if let Some(prefill) = &mut self.prefill {
            leg.span.set(attributes::DECODE_CONCURRENT, true);
            prefill.span.set(attributes::PREFILL_ASYNC, true);
            self.trace.set(attributes::CONCURRENT_PD, true);
            self.trace.set(attributes::PARALLEL_DISPATCH, true);
        }
        self.decode = Some(leg);
        self.decode_has_its_turn = self.prefill.is_none();
        self.decode_sent = Some(Instant::now());
        self.moves_to(Place::Decode);
    }

    /// The decode leg is made of chunks of at most this many tokens, for a client that reads events, or for one that does
    /// not.
    pub fn decode_grows(&mut self, size: u64, streaming: bool) {
        if let Some(leg) = &mut self.decode {
            leg.span.becomes(Work::ChunkedDecode);
            leg.span.set(attributes::CHUNKED_CHUNK_SIZE, count(size));
            leg.span.set(attributes::CHUNKED_STREAMING, streaming);
        }
    }

    /// The decode leg is complete; how many chunks it took, and tokens in them all.
    pub fn decode_grown(&mut self, chunks: u64, tokens: u64) {
        let took = self.decode_sent.map(|sent| sent.elapsed());
        if let Some(leg) = &mut self.decode {
            leg.span.set(attributes::CHUNKED_CHUNKS, count(chunks));
            leg.span.set(attributes::CHUNKED_TOTAL_TOKENS, count(tokens));
            if let Some(took) = took {
                leg.span.set(attributes::CHUNKED_DURATION_MS, ms(took));
            }
        }
    }

    /// The decode leg is given up. Beside a prefill that failed, or to be sent anew, it says nothing about decode; once it
    /// was decode's turn it ends as the request does.
    pub fn decode_cancelled(&mut self) {
        if self.decode.is_none() {
            return;
        }
        self.metrics.cancelled(kvferry_metrics::Leg::Decode);
        if !self.decode_has_its_turn {
            self.discard_decode();
        }
    }

    fn discard_decode(&mut self) {
        if let Some(leg) = self.decode.take() {
            leg.running.discarded();
        }
    }

    /// The client's answer begins; whether it flows in events.
    pub fn answer_begins(&mut self, status: u16, streamed: bool) {
        self.status = status;
        self.tokens = self.api.map(|api| Tokens::new(api.metric(), self.started, streamed));
        self.passed.answered(status);
        if let Some(leg) = &mut self.decode {
            leg.answered(status);
            leg.span.set(attributes::DECODE_STREAMING, streamed);
        }
    }

    /// The request gets an error of ours.
    pub fn failed(&mut self, error: &Error) {
        self.status = error.status().as_u16();
        self.outcome = error.code();
        self.fault = Some(error.fault());
        if let Error::TargetDenied { target } = error {
            self.trace.set(attributes::ERROR, attributes::SSRF_PROTECTION_DENIED);
            self.trace.set_text(attributes::DENIED_TARGET, target);
        }
    }

    /// Body bytes go to the client that do not come from decode: they say nothing about the handover.
    pub fn sent_ahead(&mut self, bytes: usize) {
        self.first_token_ahead = true;
        let answered = self.prefill_answered.take();
        self.sent(bytes);
        self.prefill_answered = answered;
    }

    /// Body bytes go to the client.
    pub fn sent(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let now = Instant::now();
        self.first_byte.get_or_insert(now);
        if self.decode.is_some()
            && let Some(answered) = self.prefill_answered.take()
        {
            self.metrics.handover(now - answered);
        }
        if let Some(tokens) = &mut self.tokens {
            tokens.passed(&self.metrics, now);
        }
        self.bytes_out += bytes;
        if let Some(present) = &self.present {
            present.bytes(self.bytes_in as u64, self.bytes_out as u64);
        }
    }

    fn moves_to(&self, place: Place) {
        if let Some(present) = &self.present {
            present.move_to(place);
        }
    }

    fn leg(&mut self, stage: Stage, work: Work, target: &Endpoint, headers: &mut impl Added) -> Leg {
        let span = self.trace.span(work);
        let client = span.client(&Method::POST, target.host(), target.port());
        client.tell(headers);
        Leg { running: self.metrics.start(stage), span, client }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let total = now - self.started;
        let decode = self.decode_sent.map(|sent| now - sent);
        if let Some(leg) = self.prefill.take() {
            leg.failed(self.outcome);
        }
        if let Some(mut leg) = self.decode.take() {
            if let Some(took) = decode {
                leg.span.set(attributes::DECODE_LEG_DURATION_MS, ms(took));
            }
            if self.outcome == "ok" { leg.running.served() } else { leg.failed(self.outcome) }
        }
        self.metrics.finished(self.outcome);
        self.metrics.bytes(Direction::In, self.bytes_in as u64);
        self.metrics.bytes(Direction::Out, self.bytes_out as u64);
        if self.trace.is_recorded() {
            self.traced(total, decode);
        }
        let Some(api) = self.api.filter(|_| self.log) else {
            return;
        };
        let trace_id = self.trace.trace_id();
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let decode_first = self.decode_sent.zip(self.first_byte).filter(|_| !self.first_token_ahead);
        tracing::info!(
            request_id,
            trace_id = trace_id.as_ref().map(TraceIdText::as_str),
            api = api.label(),
            method = "POST",
            path = api.path(),
            target = self.target.as_str(),
            status = self.status,
            outcome = self.outcome,
            fault = self.fault.map(Fault::label),
            prefill_ms = self.prefill_took.map(ms),
            decode_first_ms = decode_first.map(|(sent, first)| ms(first - sent)),
            decode_ms = decode.map(ms),
            ttft_ms = self.first_byte.map(|first| ms(first - self.started)),
            total_ms = ms(total),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            cached_tokens = self.cached_tokens,
            first_token_ahead = self.first_token_ahead.then_some(true),
            "request"
        );
    }
}

impl Record {
    /// The attributes that are known at the end.
    fn traced(&mut self, total: Duration, decode: Option<Duration>) {
        if self.api.is_some() {
            self.took(total, decode);
        }
        if self.outcome != "ok" {
            self.passed.failed(self.outcome);
            self.trace.failed(self.outcome);
        }
        if self.status != 0 {
            self.trace.answered(self.status);
        }
    }

    fn took(&mut self, total: Duration, decode: Option<Duration>) {
        let legs = self.prefill_took.unwrap_or_default() + decode.unwrap_or_default();
        self.trace.set(attributes::TOTAL_DURATION_MS, ms(total));
        self.trace.set(attributes::COORDINATOR_OVERHEAD_MS, ms(total.saturating_sub(legs)));
        if let Some(cached) = self.cached_tokens.and_then(|cached| i64::try_from(cached).ok()) {
            self.trace.set(attributes::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, cached);
        }
        if let Some(took) = self.prefill_took {
            self.trace.set(attributes::PREFILL_DURATION_MS, ms(took));
        }
        if let Some(took) = decode {
            self.trace.set(attributes::DECODE_DURATION_MS, ms(took));
        }
        if let Some(sent) = self.decode_sent {
            self.trace.set(attributes::TRUE_TTFT_MS, ms(sent - self.started));
        }
    }
}

/// Metrics that nobody reads.
fn nobody() -> Metrics {
    static NOBODY: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&[], &[]));
    NOBODY.clone()
}

/// As attributes count.
fn count(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).map_or(f64::from(u32::MAX), f64::from);
    micros / 1000.0
}
