//! Tracing as a whole: made once from the environment, asked for each request, flushed at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use opentelemetry::trace::SpanContext;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanExporter};

use crate::attributes::{HTTP_REQUEST_METHOD, URL_PATH};
use crate::config::{Config, Exporter};
use crate::console::Console;
use crate::error::TraceError;
use crate::export::{self, Exporting};
use crate::method;
use crate::otlp;
use crate::propagate;
use crate::queue::Queue;
use crate::ratio::Ratio;
use crate::request::RequestTrace;
use crate::span::Span;
use crate::tree::Tree;

/// The instrumentation scope, as the sidecar names it that this one replaces.
const SCOPE: &str = "llm-d-router/pkg/sidecar/proxy";

/// Most bytes of a path in a span's name or attribute. Paths come from clients.
const MAX_PATH: usize = 256;

/// Tracing, or none. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    /// Decides where the client has not.
    sampler: Ratio,
    queue: Arc<Queue>,
    exporting: Exporting,
}

impl Traces {
    /// No tracing: all that follows does nothing and allocates nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Tracing as the environment says, by `OTEL_TRACES_EXPORTER` and its kin; `env` looks a variable up. Exporting
    /// begins at once, on a thread of its own. A collector that is away is no error.
    ///
    /// # Errors
    /// The environment contradicts itself or names what is not there, or the thread cannot be started.
    pub fn from_env(
        service_version: &'static str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TraceError> {
        let config = Config::from_env(service_version, &env)?;
        match &config.exporter {
            Exporter::None => Ok(Self::off()),
            Exporter::Console => Self::start(&config, || Ok(Console::new(io::stdout()))),
            Exporter::Otlp(collector) => Self::start(&config, || otlp::exporter(collector)),
        }
    }

    /// Starts exporting to what `exporter` makes, which is made on the runtime that it will be used on.
    fn start<E: SpanExporter + 'static>(
        config: &Config,
        exporter: impl FnOnce() -> Result<E, TraceError>,
    ) -> Result<Self, TraceError> {
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", config.service_version))
            .build();
        let runtime = export::runtime().map_err(TraceError::Thread)?;
        let mut exporter = {
            let _entered = runtime.enter();
            exporter()?
        };
        exporter.set_resource(&resource);
        let queue = Arc::new(Queue::new(config.batching.queue, config.batching.batch));
        let scope = InstrumentationScope::builder(SCOPE).with_version(config.service_version).build();
        let exporting = export::start(runtime, exporter, Arc::clone(&queue), config.batching, scope)
            .map_err(TraceError::Thread)?;
        let sampler = Ratio::new(config.ratio);
        Ok(Self(Some(Arc::new(On { sampler, queue, exporting }))))
    }

    /// Whether there is tracing. Without it nothing needs to be told of a request.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A request came in. The client's context, if its headers hold one, is the parent and decides about sampling.
    pub fn request(&self, headers: &HeaderMap, method: &Method, path: &str) -> RequestTrace {
        let Some(on) = &self.0 else { return RequestTrace::default() };
        let (parent, carried) = propagate::extract(headers);
        let (trace, sampled) = if let Some(parent) = &parent {
            (parent.trace_id(), parent.is_sampled())
        } else {
            let trace = RandomIdGenerator::default().new_trace_id();
            (trace, on.sampler.takes(trace))
        };
        if !sampled {
            return RequestTrace::new(Span::unsampled(trace, carried));
        }
        let state = parent.as_ref().map(SpanContext::trace_state).cloned().unwrap_or_default();
        let tree = Tree::new(&on.queue, trace, state, carried);
        let (method, path) = (method::method(method), cut(path));
        let parent = parent.as_ref().map(SpanContext::span_id);
        let mut server = Span::first(tree, parent, format!("{method} {path}"));
        server.set(HTTP_REQUEST_METHOD, method);
        server.set_text(URL_PATH, path);
        RequestTrace::new(server)
    }

    /// Spans that were lost since the start: the queue was full, or the collector did not take them.
    pub fn spans_dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |on| on.queue.lost_so_far())
    }

    /// Exports what still waits, within `limit`. Spans that end later are lost. Call it when no request is left; a
    /// second call does nothing.
    ///
    /// # Errors
    /// [`TraceError::NotFlushed`] if the limit passed first.
    pub fn shutdown(&self, limit: Duration) -> Result<(), TraceError> {
        let Some(on) = &self.0 else { return Ok(()) };
        on.exporting.finish(limit)
    }
}

/// The path, or as much of its beginning as is kept.
fn cut(path: &str) -> &str {
    let mut end = path.len().min(MAX_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_between_characters() {
        assert_eq!(cut("/v1/models"), "/v1/models");
        let long = format!("/{}", "ä".repeat(200));
        assert_eq!(cut(&long).len(), 255);
        assert!(long.starts_with(cut(&long)));
    }
}
