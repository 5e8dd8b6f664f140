//! One piece of a request's work, as its trace shows it. It ends when it is dropped.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanId, SpanKind, Status, TraceId, Tracer};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as Recorder};

use crate::attributes::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, SERVER_ADDRESS, SERVER_PORT,
};
use crate::propagate::{self, Carried};

/// The stages of a request that have a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// All encoders together.
    Encode,
    /// The prefill leg, with its retries.
    Prefill,
    /// The decode leg.
    Decode,
    /// The decode leg in chunks.
    ChunkedDecode,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::ChunkedDecode => "chunked_decode",
        }
    }
}

/// A span. Without tracing it is empty; for a request that is not sampled it knows only what engines must be told.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(State);

#[derive(Debug, Default)]
enum State {
    /// Tracing is off: the client's context passes through as it is.
    #[default]
    Off,
    /// All spans of a request that is not sampled share the one that was not recorded.
    Unsampled(Arc<Ids>),
    Recorded(Box<Recorded>),
}

impl State {
    fn recorded(tracer: Arc<SdkTracer>, span: Recorder, carried: Carried) -> Self {
        Self::Recorded(Box::new(Recorded { tracer, span, carried, failed: false }))
    }
}

#[derive(Debug)]
struct Ids {
    trace: TraceId,
    span: SpanId,
    carried: Carried,
}

#[derive(Debug)]
struct Recorded {
    tracer: Arc<SdkTracer>,
    span: Recorder,
    carried: Carried,
    failed: bool,
}

impl Recorded {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }
}

impl Span {
    /// The first span of a request: recorded if the sampler says so. Its name is made only then.
    pub(crate) fn first(
        tracer: &Arc<SdkTracer>,
        parent: &Context,
        carried: Carried,
        name: impl FnOnce() -> String,
    ) -> Self {
        let builder = SpanBuilder::from_name("").with_kind(SpanKind::Server);
        let mut span = tracer.build_with_context(builder, parent);
        if span.is_recording() {
            span.update_name(name());
            return Self(State::recorded(Arc::clone(tracer), span, carried));
        }
        let ids = span.span_context();
        Self(State::Unsampled(Arc::new(Ids { trace: ids.trace_id(), span: ids.span_id(), carried })))
    }

    /// A span below this one.
    pub(crate) fn child(&self, name: &'static str, kind: SpanKind) -> Self {
        Self(match &self.0 {
            State::Off => State::Off,
            State::Unsampled(ids) => State::Unsampled(Arc::clone(ids)),
            State::Recorded(parent) => {
                let tracer = Arc::clone(&parent.tracer);
                let builder = SpanBuilder::from_name(name).with_kind(kind);
                let context = propagate::child_of(parent.span.span_context());
                let span = tracer.build_with_context(builder, &context);
                State::recorded(tracer, span, parent.carried.clone())
            }
        })
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self.0, State::Off)
    }

    /// The trace's id. `None` without tracing.
    pub fn trace_id(&self) -> Option<TraceId> {
        match &self.0 {
            State::Off => None,
            State::Unsampled(ids) => Some(ids.trace),
            State::Recorded(recorded) => Some(recorded.span.span_context().trace_id()),
        }
    }

    /// Whether anybody will see it. Spares the work of preparing attributes.
    pub fn is_recorded(&self) -> bool {
        matches!(self.0, State::Recorded(_))
    }

    /// A request to an engine at this host and port, as part of this work.
    pub fn client(&self, host: &str, port: u16) -> Self {
        let mut child = self.child("HTTP POST", SpanKind::Client);
        child.set(HTTP_REQUEST_METHOD, "POST");
        child.set_text(SERVER_ADDRESS, host);
        child.set(SERVER_PORT, i64::from(port));
        child
    }

    /// Sets an attribute, by a name of [`attributes`](crate::attributes).
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let State::Recorded(recorded) = &mut self.0 {
            recorded.set(key, value);
        }
    }

    /// Sets an attribute to a text, which is copied only if the span is recorded.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        if let State::Recorded(recorded) = &mut self.0 {
            recorded.set(key, text.to_owned());
        }
    }

    /// The engine answered with this status. From 400 on that is an error of the exchange.
    pub fn answered(&mut self, status: u16) {
        self.answered_with_errors_from(400, status);
    }

    pub(crate) fn answered_with_errors_from(&mut self, first_error: u16, status: u16) {
        self.set(HTTP_RESPONSE_STATUS_CODE, i64::from(status));
        if status >= first_error && self.is_recorded() {
            self.fail(status.to_string().into());
        }
    }

    /// It failed, with this code. The first failure stays: what follows is mostly its consequence.
    pub fn failed(&mut self, code: &'static str) {
        self.fail(code.into());
    }

    fn fail(&mut self, error_type: Cow<'static, str>) {
        if let State::Recorded(recorded) = &mut self.0
            && !recorded.failed
        {
            recorded.failed = true;
            recorded.set(ERROR_TYPE, error_type.clone());
            recorded.span.set_status(Status::error(error_type));
        }
    }

    /// Makes this span the parent of whoever gets these headers. A request that is not sampled names its trace too, with
    /// the word that it is not sampled. Without tracing the headers stay as they are.
    pub fn inject(&self, headers: &mut HeaderMap) {
        match &self.0 {
            State::Off => {}
            State::Unsampled(ids) => propagate::inject(headers, ids.trace, ids.span, false, &ids.carried),
            State::Recorded(recorded) => {
                let ids = recorded.span.span_context();
                propagate::inject(headers, ids.trace_id(), ids.span_id(), true, &recorded.carried);
            }
        }
    }

    /// Ends it now, rather than when it would be dropped.
    pub fn end(self) {
        drop(self);
    }
}
