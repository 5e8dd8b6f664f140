//! The trace of one request: its server span, `forward_request` inside, and the way to the legs' spans.

use http::{HeaderMap, Method};
use opentelemetry::Value;
use opentelemetry::trace::SpanKind;

use crate::propagate::TraceIdText;
use crate::span::{Span, Work};

/// From this status on an answer of ours is an error of ours. Below, it is the client's.
const FIRST_SERVER_ERROR: u16 = 500;

/// A request's trace. Its own spans end when it is dropped; spans of its legs may outlive it. The default is none, as
/// without tracing.
#[derive(Debug, Default)]
#[must_use = "the request's spans end when it is dropped"]
pub struct RequestTrace {
    /// Empty until [`Self::forward`], and for a request that is not recorded. Before `server`, so that it ends first.
    forward: Span,
    server: Span,
}

impl RequestTrace {
    pub(crate) fn new(server: Span) -> Self {
        Self { forward: Span::default(), server }
    }

    /// The request is one of ours to handle: begins `forward_request`, on which attributes are set from now on.
    pub fn forward(&mut self) {
        if self.server.is_recorded() && !self.forward.is_recorded() {
            self.forward = self.server.child("forward_request", SpanKind::Server);
        }
    }

    /// Begins a span for this work, inside `forward_request`.
    pub fn span(&self, work: Work) -> Span {
        self.inner().child(work.name(), SpanKind::Internal)
    }

    /// A request to an engine that belongs to no leg, such as one that passes through unread.
    pub fn client(&self, method: &Method, host: &str, port: u16) -> Span {
        self.inner().client(method, host, port)
    }

    /// Whether anybody will see it. Spares the work of preparing attributes.
    pub fn is_recorded(&self) -> bool {
        self.server.is_recorded()
    }

    /// The trace's id, for the log. `None` without tracing.
    pub fn trace_id(&self) -> Option<TraceIdText> {
        self.server.trace_id()
    }

    /// Sets an attribute, by a name of [`attributes`](crate::attributes).
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.inner_mut().set(key, value);
    }

    /// Sets an attribute to a text, which is copied only if the request is recorded.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        self.inner_mut().set_text(key, text);
    }

    /// The client gets this status.
    pub fn answered(&mut self, status: u16) {
        self.server.answered_with_errors_from(FIRST_SERVER_ERROR, status);
    }

    /// The request failed, with this code. Say it before [`Self::answered`]: the code tells more than the status.
    pub fn failed(&mut self, code: &'static str) {
        self.forward.failed(code);
        self.server.failed(code);
    }

    /// Makes the request's innermost span the parent of whoever gets these headers; see [`Span::inject`].
    pub fn inject(&self, headers: &mut HeaderMap) {
        self.inner().inject(headers);
    }

    /// Headers from which those of all engines will be made. A request that is not sampled has the same to say to each of
    /// them: it stands there from now on, and spans that begin later say nothing more.
    pub fn announce(&mut self, headers: &mut HeaderMap) {
        self.server.announce(headers);
    }

    fn inner(&self) -> &Span {
        if self.forward.is_recorded() { &self.forward } else { &self.server }
    }

    fn inner_mut(&mut self) -> &mut Span {
        if self.forward.is_recorded() { &mut self.forward } else { &mut self.server }
    }
}
