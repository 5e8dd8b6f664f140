//! The spans of one process, as its console exporter wrote them.

use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::pod::Pod;
use serde_json::Value;

/// Every request is sampled unless its client says otherwise, and spans are written soon.
pub(crate) const ALL: [(&str, &str); 3] = [
    ("OTEL_TRACES_EXPORTER", "console"),
    ("OTEL_TRACES_SAMPLER_ARG", "1"),
    ("OTEL_BSP_SCHEDULE_DELAY", "20"),
];

/// A span's line.
#[derive(Debug, Clone)]
pub(crate) struct Span(pub(crate) Value);

impl Span {
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// An attribute under the names' common beginning, or under its own.
    pub(crate) fn attribute(&self, name: &str) -> &Value {
        let attributes = &self.0["attributes"];
        let ours = &attributes[format!("llm_d.pd_proxy.{name}")];
        if ours.is_null() { &attributes[name] } else { ours }
    }

    pub(crate) fn is_below(&self, parent: &Self) -> bool {
        self.text("parent_span_id") == parent.text("span_id")
    }

    pub(crate) fn id(&self) -> &str {
        self.text("span_id")
    }
}

/// All spans so far.
pub(crate) fn spans(log: &[Value]) -> Vec<Span> {
    log.iter().filter(|line| line["span"].is_string()).cloned().map(Span).collect()
}

/// All spans, once there are so many.
pub(crate) async fn until(pod: &Pod, count: usize) -> Vec<Span> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let spans = spans(&pod.process.log());
        if spans.len() >= count {
            assert_eq!(spans.len(), count, "{spans:?}");
            return spans;
        }
        assert!(Instant::now() < deadline, "{count} spans: {spans:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The only span of this name.
pub(crate) fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.text("span") == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}
