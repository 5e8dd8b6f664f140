//! A prefill fails and the operator allows more than telling the client: attempts at the same engine, other candidates,
//! local prefill within its budget, engines put aside, and pairs that are warmed up before users need them.

use std::time::Duration;

use crate::common::{APIS, Ask, Rig, Scripted, Setup, eventually, json_answer, prompt, reserve_port};
use kvferry_emulator::{Config, Emulator, Faults};
use serde_json::Value;

/// A request with these prefill candidates.
fn ask(candidates: &str) -> Ask {
    Ask::post(APIS[1].path, APIS[1].value(&prompt(60), 6, false).to_string()).prefill(candidates)
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

async fn second_prefill() -> Emulator {
    Emulator::start(Config { kv_lease: crate::common::LEASE, ..Config::default() }).await.unwrap()
}

fn fails(status: u16, times: u32) -> Faults {
    Faults { status: Some(status), times: Some(times), ..Faults::default() }
}

#[tokio::test]
async fn the_same_engine_is_tried_again_after_a_passing_error_only() {
    let rig = Rig::with(&["--prefill-max-retries=2", "--prefill-retry-backoff=1ms"]).await;
    let expected = text(&ask(&rig.prefill.host_port()).send(rig.address()).await.ok().json());
    for (status, failures, attempts, served) in
        [(502, 1, 2, true), (503, 2, 3, true), (504, 3, 3, false), (500, 1, 1, false), (429, 1, 1, false)]
    {
        let before = rig.prefill.requests().len();
        rig.prefill.set_faults(fails(status, failures));
        let answer = ask(&rig.prefill.host_port()).send(rig.address()).await;
        rig.prefill.set_faults(Faults::default());
        assert_eq!(rig.prefill.requests().len() - before, attempts, "{status}");
        if served {
            assert_eq!(text(&answer.ok().json()), expected);
        } else {
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(answer.header("x-kvferry-error"), "", "the engine's own error");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_between_two_attempts_ends_them() {
    let rig = Rig::with(&["--prefill-max-retries=5", "--prefill-retry-backoff=1h"]).await;
    rig.prefill.set_faults(fails(503, 1));
    let target = rig.prefill.host_port();
    let address = rig.address();
    let waiting = tokio::spawn(async move { ask(&target).send(address).await });
    eventually("the first attempt failed", || rig.prefill.requests().len() == 1).await;
    waiting.abort();
    rig.end().await;
}

#[tokio::test]
async fn other_candidates_are_tried_in_their_order_if_that_is_allowed() {
    let rig = Rig::with(&["--prefill-failure-policy=retry-other"]).await;
    let second = second_prefill().await;
    let (dead, _reserved) = reserve_port();
    let expected = text(&ask(&rig.prefill.host_port()).send(rig.address()).await.ok().json());
    let list = format!("127.0.0.1:{dead}, nonsense, {}, {}", rig.prefill.host_port(), second.host_port());
    rig.prefill.set_faults(fails(500, 1));
    assert_eq!(text(&ask(&list).send(rig.address()).await.ok().json()), expected);
    assert_eq!((rig.prefill.requests().len(), second.requests().len()), (2, 1));
    // What the client did wrong is wrong everywhere.
    rig.prefill.set_faults(fails(400, 1));
    let list = format!("{}, {}", rig.prefill.host_port(), second.host_port());
    assert_eq!(ask(&list).send(rig.address()).await.status.as_u16(), 400);
    assert_eq!(second.requests().len(), 1);
    rig.end().await;
    assert!(second.state().idle());
}

#[tokio::test]
async fn a_candidate_that_is_not_there_is_left_at_once_and_one_that_broke_is_tried_again() {
    let flags =
        ["--prefill-failure-policy=retry-other", "--prefill-max-retries=1", "--prefill-retry-backoff=1h"];
    let rig = Rig::with(&flags).await;
    let (dead, _reserved) = reserve_port();
    let list = format!("127.0.0.1:{dead}, {}", rig.prefill.host_port());
    // Nothing ran there, so there is nothing to wait for.
    ask(&list).send(rig.address()).await.ok();
    assert_eq!(rig.prefill.requests().len(), 1);
    rig.end().await;

    let flags =
        ["--prefill-failure-policy=retry-other", "--prefill-max-retries=1", "--prefill-retry-backoff=1ms"];
    let rig = Rig::with(&flags).await;
    let second = second_prefill().await;
    rig.prefill.set_faults(fails(503, 1));
    let list = format!("{}, {}", rig.prefill.host_port(), second.host_port());
    ask(&list).send(rig.address()).await.ok();
    assert_eq!((rig.prefill.requests().len(), second.requests().len()), (2, 0));
    rig.end().await;
}

#[tokio::test]
async fn without_another_candidate_an_engine_that_is_not_there_is_waited_for() {
    // Far more patience than the engine takes to start.
    let patience = ["--prefill-max-retries=3000", "--prefill-retry-backoff=10ms"];
    let others = [&patience[..], &["--prefill-failure-policy=retry-other"]].concat();
    for flags in [&patience[..], &others] {
        let rig = Rig::with(flags).await;
        let (port, reserved) = reserve_port();
        let ask = ask(&format!("127.0.0.1:{port}"));
        let waiting = tokio::spawn(ask.send(rig.address()));
        eventually("the client waits", || rig.sidecar.connections() == 1).await;
        drop(reserved);
        let late = Emulator::start(Config { port, kv_lease: crate::common::LEASE, ..Config::default() })
            .await
            .unwrap();
        waiting.await.unwrap().ok();
        assert_eq!(late.requests().len(), 1);
        rig.end().await;
    }
}

#[tokio::test]
async fn by_default_only_the_first_candidate_counts() {
    let rig = Rig::start().await;
    let (dead, _reserved) = reserve_port();
    let list = format!("127.0.0.1:{dead}, {}", rig.prefill.host_port());
    ask(&list).send(rig.address()).await.is_error(502, "prefill_unreachable", "refused");
    assert!(rig.prefill.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn when_every_candidate_failed_the_client_is_told_so() {
    let rig = Rig::with(&["--prefill-failure-policy=retry-other"]).await;
    let second = second_prefill().await;
    rig.prefill.set_faults(Faults { reset_before: true, ..Faults::default() });
    second.set_faults(fails(503, 9));
    let list = format!("{}, {}", rig.prefill.host_port(), second.host_port());
    ask(&list).send(rig.address()).await.is_error(503, "prefill_exhausted", "answered 503");
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn a_slow_prefill_is_replaced_and_what_it_brings_later_is_released() {
    let flags =
        ["--prefill-failure-policy=retry-other", "--prefill-timeout=300ms", "--prefill-cancel-grace=60s"];
    let rig = Rig::with(&flags).await;
    let second = second_prefill().await;
    rig.prefill.set_faults(Faults { delay_ms: 900, times: Some(1), ..Faults::default() });
    let list = format!("{}, {}", rig.prefill.host_port(), second.host_port());
    ask(&list).send(rig.address()).await.ok();
    assert_eq!(second.requests().len(), 1);
    let counts = rig.end().await;
    assert_eq!((counts.consumed, counts.released), (1, 1), "{counts:?}");
    assert!(second.state().idle());
}

#[tokio::test]
async fn local_prefill_is_the_last_way_and_has_a_budget() {
    let flags = ["--prefill-failure-policy=local", "--prefill-local-ratio=0", "--prefill-local-min-rate=1"];
    let rig = Rig::with(&flags).await;
    let expected = text(&ask(&rig.prefill.host_port()).send(rig.address()).await.ok().json());
    let (dead, _reserved) = reserve_port();
    let target = format!("127.0.0.1:{dead}");
    let (mut local, mut refused) = (0, 0);
    for _ in 0..40 {
        let answer = ask(&target).send(rig.address()).await;
        if answer.status.is_success() {
            assert_eq!(text(&answer.json()), expected);
            local += 1;
        } else {
            answer.is_error(503, "prefill_exhausted", "connection refused");
            refused += 1;
        }
    }
    // Ten seconds' worth of one a second, and what came in meanwhile.
    assert!(local >= 10, "{local}");
    assert!(refused > 0, "the budget is not enforced");
    rig.end().await;
}

#[tokio::test]
async fn a_client_error_is_never_prefilled_locally() {
    let rig = Rig::with(&["--prefill-failure-policy=local"]).await;
    rig.prefill.set_faults(fails(422, 1));
    assert_eq!(ask(&rig.prefill.host_port()).send(rig.address()).await.status.as_u16(), 422);
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn an_engine_that_refuses_connections_is_put_aside_and_tried_again() {
    let flags = [
        "--prefill-failure-policy=retry-other",
        "--prefill-breaker-failures=2",
        "--prefill-breaker-pause=1s",
        "--workers=1",
    ];
    let rig = Rig::with(&flags).await;
    let flaky = Scripted::start(|exchange| async move {
        drop(exchange);
        None
    })
    .await;
    let (dead, _reserved) = reserve_port();
    let list = |first: &str| format!("{first}, {}", rig.prefill.host_port());
    // Two refusals; from then on the other one comes first, at once.
    for _ in 0..2 {
        ask(&list(&format!("127.0.0.1:{dead}"))).send(rig.address()).await.ok();
    }
    ask(&list(&format!("127.0.0.1:{dead}"))).send(rig.address()).await.ok();
    // An engine that breaks answers is reachable, and not put aside.
    for served in 1..=4 {
        ask(&list(&flaky.host_port())).send(rig.address()).await.ok();
        assert!(flaky.requests().len() >= served);
    }
    // The only candidate is used even while it is aside.
    let alone = ask(&format!("127.0.0.1:{dead}")).send(rig.address()).await;
    alone.is_error(502, "prefill_unreachable", "refused");
    rig.end().await;
}

#[tokio::test]
async fn a_new_pair_is_warmed_up_once_and_nobody_else_notices() {
    let rig = Setup { flags: vec!["--pair-warm-up", "--workers=1"], ..Setup::default() }.start().await;
    let answer = ask(&rig.prefill.host_port()).send(rig.address()).await.ok();
    let warm_up = |emulator: &Emulator| {
        let requests = emulator.requests();
        let ours = |id: &&str| id.starts_with("warm-up-");
        requests.iter().filter(|request| request.header_values("x-request-id").iter().any(ours)).count()
    };
    eventually("the pair is warmed up", || warm_up(&rig.prefill) == 1 && warm_up(&rig.decode) >= 1).await;
    for _ in 0..3 {
        let again = ask(&rig.prefill.host_port()).send(rig.address()).await.ok();
        assert_eq!(text(&again.json()), text(&answer.json()));
    }
    assert_eq!(warm_up(&rig.prefill), 1);
    let counts = rig.end().await;
    assert_eq!(counts.consumed, 5);
}

#[tokio::test]
async fn a_pair_that_cannot_be_warmed_up_harms_nobody() {
    let rig = Rig::with(&["--pair-warm-up", "--workers=1"]).await;
    rig.prefill.set_faults(fails(500, 2));
    let answer = ask(&rig.prefill.host_port()).send(rig.address()).await;
    assert!(answer.status.is_success() || answer.status.as_u16() == 500);
    eventually("both requests came", || rig.prefill.requests().len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    ask(&rig.prefill.host_port()).send(rig.address()).await.ok();
    rig.end().await;
}

#[tokio::test]
async fn what_needs_state_is_refused_with_and_without_a_prefill_engine() {
    let rig = Rig::start().await;
    let body = r#"{"model":"tiny","input":"x","previous_response_id":"r"}"#;
    for ask in [rig.ask("/v1/responses", body), Ask::post("/v1/responses", body)] {
        let answer = ask.send(rig.address()).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-kvferry-error")), (400, "unsupported_field"));
        assert_eq!(
            answer.json()["message"],
            r#"field "previous_response_id" is not supported by the router"#
        );
    }
    assert!(rig.prefill.requests().is_empty() && rig.decode.requests().is_empty());
    // What is fine goes on as it came.
    let odd = r#"{ "model":"tiny", "input":"a  b","x":1e2,"max_output_tokens":3,"max_output_tokens":2}"#;
    let engine = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = crate::common::Sidecar::start(engine.port(), &[]);
    Ask::post("/v1/responses", odd).send(sidecar.address()).await.ok();
    assert_eq!(engine.requests()[0].text(), odd);
    sidecar.end().await;
    rig.end().await;
}
