//! The spans of one sampled request, while it is served and until they are exported.
//!
//! They go to the queue together, when the last of them has ended: one lock that workers share for each request, instead
//! of one for each span. And they lie side by side in two allocations: what a worker writes here another thread reads, so
//! every byte is paid for twice. What exporters want is made of it on their thread.

use std::borrow::Cow;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use crate::propagate::Carried;
use crate::queue::Queue;

/// The spans of a request over two engines: its own two, and two of each leg. More are no trouble.
const SPANS: usize = 6;

/// The attributes of all of them: some 35 when nothing is amiss.
const ATTRIBUTES: usize = 40;

/// What the spans of one request have in common. Whoever holds it keeps them from being exported.
#[derive(Debug)]
pub(crate) struct Tree {
    queue: Arc<Queue>,
    pub(crate) trace: TraceId,
    pub(crate) carried: Carried,
    request: Mutex<Request>,
}

/// A request's spans, and their attributes in the order in which they were set.
#[derive(Debug, Default)]
pub(crate) struct Request {
    trace: Option<TraceId>,
    state: TraceState,
    spans: Vec<One>,
    attributes: Vec<(usize, &'static str, Value)>,
}

#[derive(Debug)]
struct One {
    id: SpanId,
    parent: SpanId,
    parent_is_remote: bool,
    kind: SpanKind,
    name: Cow<'static, str>,
    start: SystemTime,
    end: SystemTime,
    error: Option<Cow<'static, str>>,
}

/// Which span of its tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    index: usize,
    pub(crate) id: SpanId,
}

impl Tree {
    pub(crate) fn new(queue: &Arc<Queue>, trace: TraceId, state: TraceState, carried: Carried) -> Arc<Self> {
        let (spans, attributes) = (Vec::with_capacity(SPANS), Vec::with_capacity(ATTRIBUTES));
        let request = Mutex::new(Request { trace: Some(trace), state, spans, attributes });
        Arc::new(Self { queue: Arc::clone(queue), trace, carried, request })
    }

    /// A span begins now. `remote`: its parent is not ours.
    pub(crate) fn begin(
        &self,
        name: Cow<'static, str>,
        kind: SpanKind,
        parent: SpanId,
        remote: bool,
    ) -> Place {
        let id = RandomIdGenerator::default().new_span_id();
        let now = SystemTime::now();
        let mut request = self.lock();
        let index = request.spans.len();
        let one = One { id, parent, parent_is_remote: remote, kind, name, start: now, end: now, error: None };
        request.spans.push(one);
        Place { index, id }
    }

    pub(crate) fn rename(&self, span: Place, name: &'static str) {
        self.lock().spans[span.index].name = name.into();
    }

    pub(crate) fn set(&self, span: Place, key: &'static str, value: Value) {
        self.lock().attributes.push((span.index, key, value));
    }

    /// Whether this is the first time that it failed.
    pub(crate) fn fail(&self, span: Place, error: Cow<'static, str>) -> bool {
        let failed = &mut self.lock().spans[span.index].error;
        let first = failed.is_none();
        failed.get_or_insert(error);
        first
    }

    /// A span ends now.
    pub(crate) fn end(&self, span: Place) {
        let now = SystemTime::now();
        self.lock().spans[span.index].end = now;
    }

    fn lock(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let request = self.request.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.queue.push(mem::take(request));
    }
}

impl Request {
    /// How many spans.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Keeps only the first of them.
    pub(crate) fn truncate(&mut self, spans: usize) {
        self.spans.truncate(spans);
    }

    /// Adds them to a batch, as exporters want them.
    pub(crate) fn export(self, scope: &InstrumentationScope, batch: &mut Vec<SpanData>) {
        let Some(trace) = self.trace else { return };
        let first = batch.len();
        let mut counts = vec![0; self.spans.len()];
        for (span, ..) in &self.attributes {
            if let Some(count) = counts.get_mut(*span) {
                *count += 1;
            }
        }
        batch.extend(self.spans.into_iter().zip(counts).map(|(one, attributes)| SpanData {
            span_context: SpanContext::new(trace, one.id, TraceFlags::SAMPLED, false, self.state.clone()),
            parent_span_id: one.parent,
            parent_span_is_remote: one.parent_is_remote,
            span_kind: one.kind,
            name: one.name,
            start_time: one.start,
            end_time: one.end,
            attributes: Vec::with_capacity(attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: one.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }));
        for (span, key, value) in self.attributes {
            let Some(span) = batch.get_mut(first + span) else { continue };
            // A name stands once in a span: the last value is the one.
            match span.attributes.iter_mut().find(|attribute| attribute.key.as_str() == key) {
                Some(attribute) => attribute.value = value,
                None => span.attributes.push(KeyValue::new(key, value)),
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn request_of(spans: usize) -> Request {
    let one = || One {
        id: 1.into(),
        parent: SpanId::INVALID,
        parent_is_remote: false,
        kind: SpanKind::Internal,
        name: "decode".into(),
        start: SystemTime::UNIX_EPOCH,
        end: SystemTime::UNIX_EPOCH,
        error: None,
    };
    Request { trace: Some(1.into()), spans: (0..spans).map(|_| one()).collect(), ..Request::default() }
}
