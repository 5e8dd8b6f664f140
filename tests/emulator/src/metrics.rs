//! `GET /metrics` with vLLM's names, so that whatever scrapes a real engine reads this one the same way.

use std::fmt::Write as _;

use http::{HeaderValue, Response, header};

use crate::engine::Engine;
use crate::http::body::{Body, full};
use crate::stats::Histogram;

/// The Prometheus text answer.
pub(crate) fn answer(engine: &Engine) -> Response<Body> {
    let mut response = Response::new(full(text(engine)));
    let kind = HeaderValue::from_static("text/plain; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Page {
    text: String,
    labels: String,
}

fn text(engine: &Engine) -> String {
    let stats = &engine.stats;
    let labels =
        format!("engine=\"0\",model_name=\"{}\"", engine.config().model.replace(['\\', '"', '\n'], "_"));
    let mut page = Page { text: String::new(), labels };
    let (total, free) = (f64::from(engine.pool.capacity()), f64::from(engine.pool.free()));
    page.gauge("num_requests_running", "Requests in execution batches.", number(stats.running.get()));
    page.gauge(
        "num_requests_waiting",
        "Requests waiting for blocks or remote KV.",
        number(stats.waiting.get()),
    );
    page.gauge("kv_cache_usage_perc", "Share of KV blocks in use, 1 = all.", (total - free) / total);
    let counters = [
        ("prompt_tokens", "Prompt tokens processed.", &stats.prompt_tokens),
        ("generation_tokens", "Tokens generated.", &stats.generation_tokens),
        ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", &stats.prefix_queries),
        ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", &stats.prefix_hits),
        ("external_prefix_cache_queries", "Prompt tokens asked of other engines.", &stats.external_queries),
        ("external_prefix_cache_hits", "Prompt tokens received from other engines.", &stats.external_hits),
        ("nixl_num_failed_transfers", "KV pulls that failed or were refused.", &stats.pull_refused),
        ("nixl_num_kv_expired_reqs", "Prefills whose KV expired unread.", &stats.expired),
        ("nixl_num_notifications_after_expiry", "Releases without a lease.", &stats.late_notifications),
    ];
    for (name, help, counter) in counters {
        page.counter(name, help, counter.get());
    }
    page.success(stats.finished.get(), stats.aborted.get());
    page.histogram("nixl_xfer_time_seconds", "Duration of KV pulls.", &stats.xfer_seconds);
    page.histogram("nixl_bytes_transferred", "Bytes of KV pulls.", &stats.xfer_bytes);
    page.histogram("time_to_first_token_seconds", "Arrival to first token.", &stats.ttft_seconds);
    page.text
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests; 2^53 of them are far off")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.text, "vllm:{name}{{{}}} {value:?}", self.labels);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(&format!("{name}_total"), help, "counter");
        let _ = writeln!(self.text, "vllm:{name}_total{{{}}} {value}.0", self.labels);
    }

    fn success(&mut self, finished: u64, aborted: u64) {
        self.head("request_success_total", "Requests by how they ended.", "counter");
        for (reason, value) in [("length", finished), ("abort", aborted)] {
            let labels = &self.labels;
            let _ = writeln!(
                self.text,
                "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {value}.0"
            );
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let (buckets, count, sum) = histogram.read();
        let Self { text, labels } = self;
        for (bound, upto) in buckets {
            let _ = writeln!(text, "vllm:{name}_bucket{{{labels},le=\"{bound:?}\"}} {upto}.0");
        }
        let _ = writeln!(text, "vllm:{name}_bucket{{{labels},le=\"+Inf\"}} {count}.0");
        let _ = writeln!(text, "vllm:{name}_count{{{labels}}} {count}.0");
        let _ = writeln!(text, "vllm:{name}_sum{{{labels}}} {sum:?}");
    }
}
