//! Tracing as a whole: made once from the environment, asked for each request, flushed at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter};

use crate::attributes::{HTTP_REQUEST_METHOD, URL_PATH};
use crate::config::{Config, Exporter};
use crate::console::Console;
use crate::error::TraceError;
use crate::export;
use crate::otlp;
use crate::propagate;
use crate::queue::Queue;
use crate::request::RequestTrace;
use crate::span::Span;

/// The instrumentation scope, as the sidecar names it that this one replaces.
const SCOPE: &str = "llm-d-router/pkg/sidecar/proxy";

/// Most bytes of a path in a span's name or attribute. Paths come from clients.
const MAX_PATH: usize = 256;

/// Tracing, or none. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    tracer: Arc<SdkTracer>,
    provider: SdkTracerProvider,
    queue: Arc<Queue>,
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
        let processor = export::start(runtime, exporter, Arc::clone(&queue), config.batching)
            .map_err(TraceError::Thread)?;
        let by_trace_id = Sampler::TraceIdRatioBased(config.ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(by_trace_id)))
            .with_resource(resource)
            .with_span_processor(processor)
            .build();
        let scope = InstrumentationScope::builder(SCOPE).with_version(config.service_version).build();
        let tracer = Arc::new(provider.tracer_with_scope(scope));
        Ok(Self(Some(Arc::new(On { tracer, provider, queue }))))
    }

    /// A request came in. The client's context, if its headers hold one, is the parent and decides about sampling.
    pub fn request(&self, headers: &HeaderMap, method: &Method, path: &str) -> RequestTrace {
        let Some(on) = &self.0 else { return RequestTrace::default() };
        let (parent, carried) = propagate::extract(headers);
        let path = cut(path);
        let mut server = Span::first(&on.tracer, &parent, carried, || format!("{method} {path}"));
        if server.is_recorded() {
            server.set_text(HTTP_REQUEST_METHOD, method.as_str());
            server.set_text(URL_PATH, path);
        }
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
        match on.provider.shutdown_with_timeout(limit) {
            Ok(()) | Err(OTelSdkError::AlreadyShutdown) => Ok(()),
            // The one processor there is fails in no other way.
            Err(OTelSdkError::Timeout(_) | OTelSdkError::InternalFailure(_)) => {
                Err(TraceError::NotFlushed { limit })
            }
        }
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
