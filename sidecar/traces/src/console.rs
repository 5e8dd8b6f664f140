//! The exporter for people and log collectors: each span a JSON line on standard output, as the log's lines are.

use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use serde_json::{Map, json};

/// Writes spans as JSON lines.
pub(crate) struct Console {
    out: Mutex<Box<dyn Write + Send>>,
    service: String,
}

impl Console {
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Mutex::new(Box::new(out)), service: String::new() }
    }

    fn write(&self, batch: &[SpanData]) -> io::Result<()> {
        let mut text = Vec::new();
        for span in batch {
            serde_json::to_writer(&mut text, &line(span, &self.service))?;
            text.push(b'\n');
        }
        let mut out = self.out.lock().map_err(|_| io::Error::other("an earlier write panicked"))?;
        // In one piece, so that no log line comes in between.
        out.write_all(&text)?;
        out.flush()
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("service", &self.service).finish_non_exhaustive()
    }
}

impl SpanExporter for Console {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.write(&batch).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn set_resource(&mut self, resource: &Resource) {
        let name = resource.get(&"service.name".into());
        self.service = name.map(|name| name.to_string()).unwrap_or_default();
    }
}

fn line(span: &SpanData, service: &str) -> serde_json::Value {
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let took = span.end_time.duration_since(span.start_time).unwrap_or_default();
    let mut line = json!({
        "span": span.name,
        "kind": match span.span_kind {
            SpanKind::Client => "client",
            SpanKind::Server => "server",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
            SpanKind::Internal => "internal",
        },
        "service": service,
        "trace_id": span.span_context.trace_id().to_string(),
        "span_id": span.span_context.span_id().to_string(),
        "start_unix_us": u64::try_from(since_epoch(span.start_time).as_micros()).unwrap_or(u64::MAX),
        "duration_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    });
    if span.parent_span_id != SpanId::INVALID {
        line["parent_span_id"] = span.parent_span_id.to_string().into();
    }
    if let Status::Error { description } = &span.status {
        line["error"] = description.as_ref().into();
    }
    let attributes: Map<_, _> = span.attributes.iter().map(attribute).collect();
    if !attributes.is_empty() {
        line["attributes"] = attributes.into();
    }
    line
}

fn attribute(attribute: &KeyValue) -> (String, serde_json::Value) {
    let value = match &attribute.value {
        Value::Bool(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        other => other.as_str().into(),
    };
    (attribute.key.to_string(), value)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;
    use std::time::Duration;

    use opentelemetry::trace::{SpanContext, TraceFlags, TraceId, TraceState};
    use opentelemetry::{Array, InstrumentationScope};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn span(name: &'static str) -> SpanData {
        let start = UNIX_EPOCH + Duration::from_secs(5);
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(0xa),
                SpanId::from(0xb),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: Cow::Borrowed(name),
            start_time: start,
            end_time: start + Duration::from_millis(7),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: opentelemetry_sdk::trace::SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[tokio::test]
    async fn each_span_is_a_json_line() {
        let written = Written::default();
        let mut console = Console::new(written.clone());
        console.set_resource(&Resource::builder_empty().with_service_name("mine").build());
        let mut child = span("decode");
        child.parent_span_id = SpanId::from(0xc);
        child.status = Status::error("decode_broke");
        child.attributes = vec![
            KeyValue::new("flag", true),
            KeyValue::new("count", 3),
            KeyValue::new("share", 0.5),
            KeyValue::new("text", "a \"b\""),
            KeyValue::new("list", Value::Array(Array::I64(vec![1, 2]))),
        ];
        console.export(vec![span("POST /v1/completions"), child]).await.unwrap();
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({
                    "span": "POST /v1/completions", "kind": "client", "service": "mine",
                    "trace_id": "0000000000000000000000000000000a", "span_id": "000000000000000b",
                    "start_unix_us": 5_000_000, "duration_us": 7_000,
                }),
                json!({
                    "span": "decode", "kind": "client", "service": "mine",
                    "trace_id": "0000000000000000000000000000000a", "span_id": "000000000000000b",
                    "parent_span_id": "000000000000000c",
                    "start_unix_us": 5_000_000, "duration_us": 7_000, "error": "decode_broke",
                    "attributes": {
                        "flag": true, "count": 3, "share": 0.5, "text": "a \"b\"", "list": "[1,2]",
                    },
                }),
            ]
        );
    }

    #[tokio::test]
    async fn a_closed_standard_output_is_an_error_and_no_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Console::new(Closed).export(vec![span("a")]).await.unwrap_err();
        assert!(error.to_string().contains("broken pipe"), "{error}");
    }
}
