//! `/live` and `/ready`: what they depend on, and what they say when it is missing.

use crate::child::{empty, engine};
use crate::common::{APIS, LEASE, PATIENCE};
use crate::pod::Pod;
use kvferry_emulator::{Config, Emulator, Faults, Speeds};
use std::time::{Duration, Instant};

const WATCHED: &str = "--ready-when-decoder-answers";

/// Waits until readiness has this status; returns the reasons.
async fn ready(pod: &Pod, status: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = pod.get("/ready").await;
        if answer.status == status {
            let body = answer.json();
            assert_eq!(body["ready"], status == 200);
            assert_eq!(body["reasons"].as_array().unwrap().is_empty(), status == 200, "{body}");
            return body["reasons"].to_string();
        }
        assert!(Instant::now() < deadline, "still {}: {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An engine at the place of one that is gone.
async fn successor(port: u16) -> Emulator {
    Emulator::start(Config { port, kv_lease: LEASE, ..Config::default() }).await.unwrap()
}

#[tokio::test]
async fn unless_asked_readiness_does_not_depend_on_the_engine() {
    let mut pod = Pod::start(&[]).await;
    let port = pod.decode.addr().port();
    std::mem::replace(&mut pod.decode, engine().await).stop();
    pod.get("/live").await.ok();
    ready(&pod, 200).await;
    pod.decode = successor(port).await;
    pod.end().await;
}

#[tokio::test]
async fn with_the_flag_it_follows_the_engine_through_a_restart() {
    let mut pod = Pod::start(&[WATCHED]).await;
    let port = pod.decode.addr().port();
    ready(&pod, 200).await;
    for _ in 0..2 {
        std::mem::replace(&mut pod.decode, engine().await).stop();
        let reasons = ready(&pod, 503).await;
        assert!(reasons.contains(&format!("localhost:{port}")), "{reasons}");
        // Whoever restarts what is not live would make it worse.
        pod.get("/live").await.ok();
        let answer = pod.ask(APIS[0].path, APIS[0].body(false)).send(pod.address()).await;
        answer.is_error(503, "decode_unreachable", "The decode node is not ready");
        // What prefill computed nobody can give back meanwhile.
        pod.prefill.restart();

        pod.decode = successor(port).await;
        ready(&pod, 200).await;
        pod.ask(APIS[0].path, APIS[0].body(false)).send(pod.address()).await.ok();
    }
    pod.end().await;
}

#[tokio::test]
async fn at_the_start_it_waits_for_the_engines_first_answer() {
    let mut pod = Pod::start(&[WATCHED]).await;
    let port = pod.decode.addr().port();
    std::mem::replace(&mut pod.decode, engine().await).stop();
    let admin = pod.admin;
    drop(pod);
    let pod = {
        // The same ports again, and no engine.
        let (prefill, decode) = (engine().await, engine().await);
        let (listen, _reserved) = crate::common::reserve_port();
        let flags = [
            "--secure-serving=false".to_owned(),
            format!("--model-server-port={port}"),
            format!("--metrics-port={}", admin.port()),
            WATCHED.to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let process = crate::child::Process::start_as(listen, &[], &flags).await;
        Pod { prefill, decode, process, admin }
    };
    ready(&pod, 503).await;
    // The data port is open all the same: an engine may be slow to load, and clients are told.
    let answer = crate::common::Ask::get("/v1/models").send(pod.address()).await;
    answer.is_error(503, "decode_unreachable", "The decode node is not ready");
    let _late = successor(port).await;
    ready(&pod, 200).await;
    pod.end().await;
}

#[tokio::test]
async fn a_decode_engine_that_accepts_and_never_answers_is_not_ready() {
    let pod = Pod::start(&[WATCHED]).await;
    ready(&pod, 200).await;
    pod.decode.set_faults(Faults { hang: true, path: Some("/health".to_owned()), ..Faults::default() });
    ready(&pod, 503).await;
    pod.decode.set_faults(Faults::default());
    ready(&pod, 200).await;
    pod.end().await;
}

#[tokio::test]
async fn a_decode_engine_that_says_it_is_unwell_is_not_ready() {
    let pod = Pod::start(&[WATCHED]).await;
    ready(&pod, 200).await;
    pod.decode.set_faults(Faults {
        status: Some(503),
        path: Some("/health".to_owned()),
        ..Faults::default()
    });
    ready(&pod, 503).await;
    pod.decode.set_faults(Faults::default());
    ready(&pod, 200).await;
    pod.end().await;
}

#[tokio::test]
async fn a_stop_is_seen_in_readiness_first_while_what_runs_goes_on() {
    let mut pod = Pod::start(&[]).await;
    pod.decode.set_speeds(Speeds { itl_ms: 10, ..Speeds::default() });
    let body = APIS[0].value("go on", 300, true).to_string();
    let mut stream = pod.ask(APIS[0].path, body).open(pod.address()).await.unwrap();
    stream.until("data: ").await;
    ready(&pod, 200).await;

    pod.process.signal("TERM");
    let reasons = ready(&pod, 503).await;
    assert!(reasons.contains("drain"), "{reasons}");
    // Alive, and still to be looked into.
    pod.get("/live").await.ok();
    let listed = pod.get("/debug/requests").await.ok().json();
    assert_eq!(listed["total"], 1, "{listed}");
    let scrape = pod.scrape().await;
    assert_eq!(scrape.get("in_flight{stage=\"decode\"}").to_string(), "1");

    let answer = stream.whole().await.unwrap();
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(pod.process.code().await, 0);
    assert!(std::net::TcpStream::connect(pod.admin).is_err());
    empty([&pod.prefill, &pod.decode]).await;
}
