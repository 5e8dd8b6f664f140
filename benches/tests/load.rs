//! The load generator against an engine that counts: what it says it sent must be what arrived, on every way of asking.
//! No test asserts on time; a loaded machine must not fail them.

mod common;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvferry_bench::load::{self, Job, Phase, StreamPlan, Summary};
use kvferry_bench::proxy::{Engines, Role, Side, Streaming, job};
use kvferry_bench::{Result, forwarder};
use tokio::task::LocalSet;

const WINDOW: Duration = Duration::from_millis(150);

fn side(role: Role, split: bool, address: SocketAddr) -> Side {
    Side { name: "under test".to_owned(), role, split, address, pid: None }
}

/// A job whose engines are both at `engine`, sent to `address`.
fn job_for(
    role: Role,
    split: bool,
    address: SocketAddr,
    engine: SocketAddr,
    streaming: Option<Streaming>,
) -> Rc<Job> {
    let engines =
        Engines { prefill: engine, decode: engine, handoff: r#"{"do_remote_prefill":true}"#.to_owned() };
    Rc::new(job(&engines, &side(role, split, address), 1024, streaming))
}

/// Runs a closed loop of `connections` and checks that the window is opened once and closed once.
async fn closed(job: &Rc<Job>, connections: usize) -> Result<Summary> {
    let workers = load::warm(job, connections).await?;
    let mut phases = Vec::new();
    let tally = load::closed(workers, WINDOW, &mut |phase| phases.push(phase)).await;
    assert_eq!(phases, [Phase::Opens, Phase::Closes]);
    Ok(tally.summary())
}

#[tokio::test]
async fn closed_loop_counts_what_the_engine_saw() {
    let (engine, asked) = common::engine().await;
    let job = job_for(Role::Direct, false, engine, engine, None);
    let summary = LocalSet::new().run_until(closed(&job, 4)).await.unwrap();
    assert_eq!(summary.errors, 0, "{:?}", summary.first_error);
    assert!(summary.requests > 0);
    assert_eq!(summary.requests + 4, asked.plain.load(Ordering::SeqCst), "4 of them warmed up");
    assert_eq!(summary.total.count, summary.requests);
}

#[tokio::test]
async fn without_a_proxy_the_client_runs_prefill_and_decode_one_after_the_other() {
    let (engine, asked) = common::engine().await;
    let streaming = Some(Streaming { frames: 3, pace_us: 0 });
    let job = job_for(Role::Direct, true, engine, engine, streaming);
    let summary = LocalSet::new().run_until(closed(&job, 2)).await.unwrap();
    assert_eq!(summary.errors, 0, "{:?}", summary.first_error);
    let handed_over = asked.handed_over.load(Ordering::SeqCst);
    assert_eq!(handed_over, asked.prefills.load(Ordering::SeqCst));
    assert_eq!(handed_over, summary.requests + 2);
    assert_eq!(summary.frames, summary.requests * 3);
    assert_eq!(summary.transit.count, summary.frames, "every frame carries its time of emission");
}

#[tokio::test]
async fn open_loop_sends_as_many_as_were_scheduled() {
    let (engine, asked) = common::engine().await;
    let job = job_for(Role::Direct, false, engine, engine, None);
    let summary = LocalSet::new()
        .run_until(async {
            let workers = load::warm(&job, 2).await?;
            let tally = load::open(&job, workers, 200, Duration::from_millis(300), &mut |_| ()).await?;
            Ok::<_, kvferry_bench::Error>(tally.summary())
        })
        .await
        .unwrap();
    assert_eq!(summary.errors, 0, "{:?}", summary.first_error);
    // At least: a timer that is read late fires for all it has missed, those past the end included.
    assert!(summary.requests >= 60, "{}", summary.requests);
    assert_eq!(summary.requests + 2, asked.plain.load(Ordering::SeqCst));
}

#[tokio::test]
async fn wrong_answers_are_errors_and_end_the_client_that_got_them() {
    let (engine, asked) = common::engine().await;
    let job = job_for(Role::Direct, false, engine, engine, None);
    asked.fail_every.store(7, Ordering::SeqCst);
    let summary = LocalSet::new().run_until(closed(&job, 3)).await.unwrap();
    assert_eq!(summary.errors, 3, "each client ended with its first error");
    assert_eq!(summary.first_error.as_deref(), Some("status 500"));
}

#[tokio::test]
async fn an_answer_with_too_few_frames_is_an_error() {
    let (engine, _) = common::engine().await;
    let mut job = Rc::unwrap_or_clone(job_for(
        Role::Direct,
        false,
        engine,
        engine,
        Some(Streaming { frames: 2, pace_us: 0 }),
    ));
    job.legs[0].frames = Some(3);
    let error = LocalSet::new().run_until(load::warm(&Rc::new(job), 1)).await.unwrap_err();
    assert!(error.to_string().contains("2 SSE frames instead of 3"), "{error}");
}

#[tokio::test]
async fn paced_streams_are_counted_while_all_of_them_are_open() {
    let (engine, _) = common::engine().await;
    let streaming = Streaming { frames: 5, pace_us: 10_000 };
    let job = job_for(Role::Direct, false, engine, engine, Some(streaming));
    let plan = StreamPlan { streams: 8, length: streaming.length(), window: Duration::from_millis(200) };
    let tally = LocalSet::new().run_until(load::streams(&job, plan, &mut |_| ())).await;
    let summary = tally.summary();
    assert_eq!(summary.errors, 0, "{:?}", summary.first_error);
    assert!(summary.frames > 8 && summary.joined_frames <= summary.frames);
    assert_eq!(summary.transit.count, summary.frames);
}

#[tokio::test]
async fn idle_streams_are_all_open_at_the_probe() {
    let (engine, asked) = common::engine().await;
    let streaming = Streaming { frames: 2, pace_us: 60_000_000 };
    let job = job_for(Role::Direct, false, engine, engine, Some(streaming));
    let mut seen = None;
    let mut probe = |phase| {
        if phase == Phase::Closes {
            seen = Some(asked.plain.load(Ordering::SeqCst));
        }
    };
    LocalSet::new().run_until(load::idle(&job, 150, &mut probe)).await.unwrap();
    assert_eq!(seen, Some(150));
}

#[tokio::test]
async fn the_forwarder_passes_on_bodies_and_frames_unchanged() {
    let (engine, asked) = common::engine().await;
    let listener = forwarder::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(forwarder::serve(listener, engine));
    for streaming in [None, Some(Streaming { frames: 16, pace_us: 0 })] {
        let before = asked.plain.load(Ordering::SeqCst);
        let job = job_for(Role::Forwarder, false, address, engine, streaming);
        let summary = LocalSet::new().run_until(closed(&job, 4)).await.unwrap();
        assert_eq!(summary.errors, 0, "{:?}", summary.first_error);
        assert_eq!(asked.plain.load(Ordering::SeqCst) - before, summary.requests + 4);
        assert_eq!(summary.frames, streaming.map_or(0, |_| summary.requests * 16));
    }
}

#[tokio::test]
async fn the_forwarder_says_bad_gateway_when_nobody_is_behind_it() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = forwarder::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(forwarder::serve(listener, nobody));
    let job = job_for(Role::Forwarder, false, address, nobody, None);
    let error = LocalSet::new().run_until(load::warm(&job, 1)).await.unwrap_err();
    assert!(error.to_string().contains("status 502"), "{error}");
}
