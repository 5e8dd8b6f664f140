//! One piece of a request's work, as its trace shows it. It ends when it is dropped.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::attributes::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, SERVER_ADDRESS, SERVER_PORT,
};
use crate::method::{client_name, method};
use crate::propagate::{self, Carried, TraceIdText};
use crate::tree::{Place, Tree};

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
    Unsampled(Unsampled),
    /// The same, once the headers that all engines get say all there is to say: nothing is left but the trace's name.
    Announced(TraceIdText),
    Recorded(Recorded),
}

/// Nine of ten requests are this. A clone shares the header's text.
#[derive(Debug, Clone)]
struct Unsampled {
    traceparent: HeaderValue,
    carried: Carried,
}

#[derive(Debug)]
struct Recorded {
    tree: Arc<Tree>,
    place: Place,
}

impl Span {
    /// Of a request that nobody will see.
    pub(crate) fn unsampled(trace: TraceId, carried: Carried) -> Self {
        let id = RandomIdGenerator::default().new_span_id();
        let traceparent = propagate::traceparent(trace, id, false);
        Self(State::Unsampled(Unsampled { traceparent, carried }))
    }

    /// The first span of a request that is recorded. `parent` is the client's.
    pub(crate) fn first(tree: Arc<Tree>, parent: Option<SpanId>, name: String) -> Self {
        let remote = parent.is_some();
        let parent = parent.unwrap_or(SpanId::INVALID);
        let place = tree.begin(name.into(), SpanKind::Server, parent, remote);
        Self(State::Recorded(Recorded { tree, place }))
    }

    /// A span below this one.
    pub(crate) fn child(&self, name: &'static str, kind: SpanKind) -> Self {
        Self(match &self.0 {
            State::Off | State::Announced(_) => State::Off,
            State::Unsampled(unsampled) => State::Unsampled(unsampled.clone()),
            State::Recorded(parent) => {
                let place = parent.tree.begin(name.into(), kind, parent.place.id, false);
                State::Recorded(Recorded { tree: Arc::clone(&parent.tree), place })
            }
        })
    }

    /// The trace's id. `None` without tracing.
    pub fn trace_id(&self) -> Option<TraceIdText> {
        match &self.0 {
            State::Off => None,
            State::Unsampled(unsampled) => TraceIdText::of(&unsampled.traceparent),
            State::Announced(trace) => Some(*trace),
            State::Recorded(recorded) => Some(TraceIdText::new(recorded.tree.trace)),
        }
    }

    /// Whether anybody will see it. Spares the work of preparing attributes.
    pub fn is_recorded(&self) -> bool {
        matches!(self.0, State::Recorded(_))
    }

    /// A request with this method to an engine at this host and port, as part of this work.
    pub fn client(&self, with: &Method, host: &str, port: u16) -> Self {
        let mut child = self.child(client_name(with), SpanKind::Client);
        child.set(HTTP_REQUEST_METHOD, method(with));
        child.set_text(SERVER_ADDRESS, host);
        child.set(SERVER_PORT, i64::from(port));
        child
    }

    /// It turned out to be other work than it began as.
    pub fn becomes(&mut self, work: Work) {
        if let State::Recorded(Recorded { tree, place }) = &self.0 {
            tree.rename(*place, work.name());
        }
    }

    /// Sets an attribute, by a name of [`attributes`](crate::attributes).
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let State::Recorded(Recorded { tree, place }) = &self.0 {
            tree.set(*place, key, value.into());
        }
    }

    /// Sets an attribute to a text, which is copied only if the span is recorded. Once: exporters that copy spans share it.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        if self.is_recorded() {
            self.set(key, Arc::<str>::from(text));
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
        if let State::Recorded(Recorded { tree, place }) = &self.0
            && tree.fail(*place, error_type.clone())
        {
            self.set(ERROR_TYPE, error_type);
        }
    }

    /// Makes this span the parent of whoever gets these headers. A request that is not sampled names its trace too, with
    /// the word that it is not sampled. Without tracing the headers stay as they are.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let Some(told) = self.told() else { return };
        propagate::forget(headers);
        for (name, value) in told {
            headers.insert(name, value);
        }
    }

    /// Says to whoever gets these headers what there is to say, if that is the same for every engine, and nothing from
    /// then on.
    pub(crate) fn announce(&mut self, headers: &mut HeaderMap) {
        if let State::Unsampled(_) = &self.0 {
            self.inject(headers);
            self.0 = self.trace_id().map_or(State::Off, State::Announced);
        }
    }

    /// As [`Self::inject`], for headers that will be set on top of others, in any collection.
    pub fn tell(&self, headers: &mut impl Extend<(HeaderName, HeaderValue)>) {
        headers.extend(self.told().into_iter().flatten());
    }

    fn told(&self) -> Option<impl Iterator<Item = (HeaderName, HeaderValue)>> {
        Some(match &self.0 {
            State::Off | State::Announced(_) => return None,
            State::Unsampled(Unsampled { traceparent, carried }) => {
                propagate::told(traceparent.clone(), carried)
            }
            State::Recorded(Recorded { tree, place }) => {
                propagate::told(propagate::traceparent(tree.trace, place.id, true), &tree.carried)
            }
        })
    }

    /// Ends it now, rather than when it would be dropped.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let State::Recorded(Recorded { tree, place }) = &self.0 {
            tree.end(*place);
        }
    }
}
