//! The measuring points of one request, and the one log line it ends in.
//!
//! The line is written when the record is dropped, so no path through the code can forget it; a request whose outcome
//! nobody set was left by its client.

use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::error::{Error, Fault};
use crate::request::route::Api;

/// The outcome of a record that is not to be written.
const SILENT: &str = "";

/// What is measured of one intercepted request.
#[derive(Debug)]
pub struct Record {
    api: Api,
    started: Instant,
    /// The prefill engine, empty without disaggregation.
    pub target: String,
    /// As both legs carry it.
    pub request_id: Option<HeaderValue>,
    /// Status of the answer, 0 while there is none.
    pub status: u16,
    /// `ok`, or an error's code.
    pub outcome: &'static str,
    /// Whose fault a failure is.
    pub fault: Option<Fault>,
    /// The prefill leg: sent to answered.
    pub prefill: Option<Duration>,
    /// When the decode leg was sent.
    pub decode_sent: Option<Instant>,
    /// First byte of the answer's body.
    pub first_byte: Option<Instant>,
    /// Body bytes from the client.
    pub bytes_in: usize,
    /// Body bytes to the client.
    pub bytes_out: usize,
    /// Prompt tokens that prefill had cached.
    pub cached_tokens: Option<u64>,
}

impl Record {
    /// The outcome until somebody sets another: only a client that leaves ends a request without one.
    pub const UNFINISHED: &'static str = "client_left";

    /// A request that arrived now.
    pub fn new(api: Api) -> Self {
        Self {
            api,
            started: Instant::now(),
            target: String::new(),
            request_id: None,
            status: 0,
            outcome: Self::UNFINISHED,
            fault: None,
            prefill: None,
            decode_sent: None,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            cached_tokens: None,
        }
    }

    /// A record that writes nothing, for work that goes on after its request.
    pub fn silent(api: Api) -> Self {
        let mut record = Self::new(api);
        record.outcome = SILENT;
        record
    }

    /// The request's API.
    pub fn api(&self) -> Api {
        self.api
    }

    /// The request gets an error of ours.
    pub fn failed(&mut self, error: &Error) {
        self.status = error.status().as_u16();
        self.outcome = error.code();
        self.fault = Some(error.fault());
    }

    /// Body bytes go to the client.
    pub fn sent(&mut self, bytes: usize) {
        if self.first_byte.is_none() && bytes > 0 {
            self.first_byte = Some(Instant::now());
        }
        self.bytes_out += bytes;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.outcome == SILENT {
            return;
        }
        let now = Instant::now();
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        tracing::info!(
            request_id,
            api = self.api.label(),
            method = "POST",
            path = self.api.path(),
            target = self.target.as_str(),
            status = self.status,
            outcome = self.outcome,
            fault = self.fault.map(Fault::label),
            prefill_ms = self.prefill.map(ms),
            decode_first_ms = self.decode_sent.zip(self.first_byte).map(|(sent, first)| ms(first - sent)),
            decode_ms = self.decode_sent.map(|sent| ms(now - sent)),
            ttft_ms = self.first_byte.map(|first| ms(first - self.started)),
            total_ms = ms(now - self.started),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            cached_tokens = self.cached_tokens,
            "request"
        );
    }
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).map_or(f64::from(u32::MAX), f64::from);
    micros / 1000.0
}
