//! When a stage's duration and errors are sampled (the rules of spec/sidecar.md 12.6), and that nothing is lost when
//! many threads record at once.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]
#![expect(clippy::float_cmp, reason = "counts are whole numbers")]
#![expect(dead_code, reason = "the parser serves another test too")]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::Scrape;
use kvferry_metrics::{Api, Direction, Metrics, Place, Reading, Source, Stage, Tokens};

struct Nothing;

impl Source for Nothing {
    fn reading(&self) -> Reading {
        Reading::default()
    }
}

fn metrics() -> Metrics {
    Metrics::new(&[("version", "1.2.3")], &[])
}

/// Durations sampled, errors counted, requests still there.
fn of_decode(metrics: &Metrics) -> (f64, f64, f64) {
    let scrape = Scrape::parse(&metrics.encode(&Nothing));
    (
        scrape.ours("decode_duration_seconds_count"),
        scrape.ours(r#"request_errors_total{stage="decode"}"#),
        scrape.ours(r#"in_flight{stage="decode"}"#),
    )
}

#[test]
fn a_stage_counts_as_in_flight_while_it_runs() {
    let metrics = metrics();
    let running = metrics.start(Stage::Decode);
    assert_eq!(of_decode(&metrics), (0.0, 0.0, 1.0));
    running.served();
    assert_eq!(of_decode(&metrics), (1.0, 0.0, 0.0));
}

#[test]
fn a_failed_stage_has_a_duration_and_an_error() {
    let metrics = metrics();
    metrics.start(Stage::Decode).failed();
    assert_eq!(of_decode(&metrics), (1.0, 1.0, 0.0));
}

#[test]
fn an_aborted_stage_has_a_duration_and_an_error_though_nobody_ended_it() {
    let metrics = metrics();
    drop(metrics.start(Stage::Decode));
    assert_eq!(of_decode(&metrics), (1.0, 1.0, 0.0));
}

#[test]
fn decode_is_not_sampled_when_prefill_failed_or_the_attempt_falls_back() {
    let metrics = metrics();
    metrics.start(Stage::Decode).discarded();
    assert_eq!(of_decode(&metrics), (0.0, 0.0, 0.0));
}

#[test]
fn a_request_that_moves_on_is_in_one_place() {
    let metrics = metrics();
    let mut busy = metrics.enter(Place::Prefill);
    busy.move_to(Place::Release);
    let scrape = Scrape::parse(&metrics.encode(&Nothing));
    assert_eq!(scrape.ours(r#"in_flight{stage="prefill"}"#), 0.0);
    assert_eq!(scrape.ours(r#"in_flight{stage="release"}"#), 1.0);
    drop(busy);
    let scrape = Scrape::parse(&metrics.encode(&Nothing));
    assert_eq!(scrape.ours(r#"in_flight{stage="release"}"#), 0.0);
}

#[test]
fn nothing_is_lost_when_workers_record_and_a_scraper_reads_at_once() {
    const WORKERS: u32 = 8;
    const REQUESTS: u32 = 500;
    let metrics = metrics();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    metrics.request(Api::ChatCompletions);
                    metrics.start(Stage::Prefill).served();
                    let decode = metrics.start(Stage::Decode);
                    let mut tokens = Tokens::new(Api::ChatCompletions, Instant::now(), true);
                    for _ in 0..4 {
                        tokens.passed(&metrics, Instant::now());
                    }
                    metrics.bytes(Direction::Out, 3);
                    decode.served();
                    metrics.finished("ok");
                }
            });
        }
        for _ in 0..50 {
            let scrape = Scrape::parse(&metrics.encode(&Nothing));
            let buckets = scrape.ours(r#"inter_token_latency_seconds_bucket{le="+Inf"}"#);
            assert_eq!(buckets, scrape.ours("inter_token_latency_seconds_count"));
        }
    });
    let scrape = Scrape::parse(&metrics.encode(&Nothing));
    let all = f64::from(WORKERS * REQUESTS);
    assert_eq!(scrape.ours(r#"requests_total{api_type="chat_completions"}"#), all);
    assert_eq!(scrape.ours(r#"requests_finished_total{outcome="ok"}"#), all);
    assert_eq!(scrape.ours("prefill_duration_seconds_count"), all);
    assert_eq!(scrape.ours("inter_token_latency_seconds_count"), 3.0 * all);
    assert_eq!(scrape.ours(r#"bytes_total{direction="out"}"#), 3.0 * all);
    assert_eq!(of_decode(&metrics), (all, 0.0, 0.0));
}

/// Not a check but a measurement: `cargo test -p kvferry-metrics --test stages -- --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts nothing about time"]
fn what_recording_costs() {
    const ROUNDS: u32 = 200_000;
    let per_round = |started: Instant| started.elapsed().as_nanos() / u128::from(ROUNDS);
    let metrics = metrics();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        metrics.request(Api::ChatCompletions);
        metrics.start(Stage::Prefill).served();
        let decode = metrics.start(Stage::Decode);
        metrics.handover(Duration::from_millis(3));
        metrics.bytes(Direction::In, 100);
        metrics.bytes(Direction::Out, 100);
        decode.served();
        metrics.finished("ok");
    }
    println!("a request: {} ns", per_round(started));

    let mut tokens = Tokens::new(Api::ChatCompletions, Instant::now(), true);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        tokens.passed(&metrics, Instant::now());
    }
    println!("a frame: {} ns, reading the clock included", per_round(started));
    println!("kept for each stream: {} bytes", size_of::<Tokens>() + size_of::<kvferry_metrics::Running>());

    let started = Instant::now();
    let text = metrics.encode(&Nothing);
    println!("a scrape: {} us, {} bytes", started.elapsed().as_micros(), text.len());
    assert_eq!(of_decode(&metrics).0, f64::from(ROUNDS));
}
