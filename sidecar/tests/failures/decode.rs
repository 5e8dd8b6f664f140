//! The decode leg fails, before or inside its answer.

use std::time::{Duration, Instant};

use crate::common::{
    APIS, Ask, Rig, Scripted, Sidecar, chunk, content, eventually, json_answer, reserve_port, sse_head,
};
use kvferry_emulator::{Config, Emulator, Faults};

const NOT_READY: &str = "The decode node is not ready. Please check that the vLLM service is running and the port \
                         configuration is correct.";

/// A fault for the decode leg alone, so that the release that follows finds a healthy engine. The release before must be
/// over, or it would use the fault up.
fn once(faults: Faults) -> Faults {
    Faults { times: Some(1), ..faults }
}

#[tokio::test]
async fn without_a_decode_engine_kv_is_given_up_after_a_bounded_number_of_attempts() {
    let (port, _reserved) = reserve_port();
    let prefill = Emulator::start(Config::default()).await.unwrap();
    let sidecar = Sidecar::start(port, &[]);
    let ask = Ask::post(APIS[0].path, APIS[0].body(false));
    ask.clone().send(sidecar.address()).await.is_error(503, "decode_unreachable", NOT_READY);
    let answer = ask.prefill(&prefill.host_port()).send(sidecar.address()).await;
    answer.is_error(503, "decode_unreachable", NOT_READY);
    assert_eq!(answer.json()["message"], NOT_READY);
    assert_eq!(prefill.state().leases.len(), 1);
    let counts = sidecar.end().await;
    assert_eq!((counts.handed_out, counts.expired), (1, 1));
}

#[tokio::test]
async fn kv_is_released_when_the_decode_engine_comes_back_in_time() {
    let (port, reserved) = reserve_port();
    let prefill = Emulator::start(Config::default()).await.unwrap();
    let sidecar = Sidecar::start(port, &[]);
    let ask = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&prefill.host_port());
    ask.clone().send(sidecar.address()).await.is_error(503, "decode_unreachable", NOT_READY);
    drop(reserved);
    let decode = Emulator::start(Config { port, ..Config::default() }).await.unwrap();
    let rig = Rig { prefill, decode, sidecar };
    rig.settled().await;
    assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
    ask.send(rig.address()).await.ok();
    let counts = rig.end().await;
    assert_eq!((counts.released, counts.consumed, counts.expired), (1, 1, 0));
}

#[tokio::test]
async fn an_error_of_the_decode_engine_is_passed_on_and_the_kv_released() {
    let rig = Rig::start().await;
    for (n, status) in [400, 404, 422, 429, 500, 503].into_iter().enumerate() {
        let route = APIS[n % APIS.len()];
        let body = format!("{{\"error\": {{\"code\": {status} }} }} \n");
        rig.decode.set_faults(once(Faults {
            status: Some(status),
            body: Some(body.clone()),
            headers: [("retry-after".into(), "7".into())].into(),
            ..Faults::default()
        }));
        let answer = rig.ask(route.path, route.body(n % 2 == 0)).send(rig.address()).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, body));
        assert_eq!((answer.header("retry-after"), answer.header("x-kvferry-error")), ("7", ""));
        rig.settled().await;
    }
    assert_eq!(rig.prefill.state().totals.releases_without_read, 6);
    let counts = rig.end().await;
    assert_eq!((counts.released, counts.consumed), (6, 0));
}

#[tokio::test]
async fn a_request_that_decode_itself_rejects_is_answered_by_its_words() {
    // Prefill is capped to one token and accepts; only decode sees the client's own limit.
    let rig = Rig::start().await;
    let body = APIS[1].value("text", 0, false).to_string();
    let alone = Ask::post(APIS[1].path, body.as_str()).send(rig.decode.addr()).await;
    let answer = rig.ask(APIS[1].path, body).send(rig.address()).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (400, alone.json()));
    rig.end().await;
}

#[tokio::test]
async fn a_decode_answer_that_never_begins_is_a_bad_gateway_and_the_kv_released() {
    let breaks =
        [Faults { reset_before: true, ..Faults::default() }, Faults { garbage: true, ..Faults::default() }];
    for faults in &breaks {
        for stream in [false, true] {
            // Its first connection: on a kept one, a reset would mean that the engine had closed it as idle.
            let rig = Rig::start().await;
            rig.decode.set_faults(once(faults.clone()));
            let answer = rig.ask(APIS[0].path, APIS[0].body(stream)).send(rig.address()).await;
            let port = rig.decode.addr().port();
            answer.is_error(502, "decode_broke", &format!("decode engine localhost:{port}"));
            rig.settled().await;
            assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
            assert_eq!(rig.end().await.released, 1);
        }
    }
}

#[tokio::test]
async fn the_same_failures_without_a_handoff_are_answered_the_same_way() {
    let rig = Rig::start().await;
    for faults in
        [Faults { reset_before: true, ..Faults::default() }, Faults { garbage: true, ..Faults::default() }]
    {
        for path in [APIS[0].path, "/v1/embeddings"] {
            rig.decode.set_faults(once(faults.clone()));
            let answer = Ask::post(path, "{}").send(rig.address()).await;
            answer.is_error(502, "decode_broke", "decode engine localhost:");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_whole_answer_cut_in_half_becomes_a_clear_error() {
    let rig = Rig::start().await;
    for bytes in [0, 1, 50] {
        rig.decode.set_faults(once(Faults { reset_after_bytes: Some(bytes), ..Faults::default() }));
        let answer = rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await;
        answer.is_error(502, "decode_broke", "before its answer was complete");
        rig.settled().await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_stream_cut_in_half_is_cut_for_the_client_too() {
    // A clean end would make half an answer look like a whole one.
    let rig = Rig::start().await;
    for route in APIS {
        let whole = rig.ask(route.path, route.body(true)).send(rig.address()).await.ok();
        for keep in [0, 300, whole.body.len() - 1] {
            rig.decode.set_faults(once(Faults { reset_after_bytes: Some(keep), ..Faults::default() }));
            let ask = rig.ask(route.path, route.body(true));
            let mut answer = ask.open(rig.address()).await.unwrap();
            // Head and cut may arrive together.
            assert!(answer.status == 200 || keep == 0 && answer.status == 502, "{}", answer.status);
            if answer.status == 502 {
                rig.settled().await;
                continue;
            }
            let (read, complete) = answer.end().await;
            assert!(!complete, "{}: a clean end after {read} of {keep} bytes", route.path);
            assert!(read <= keep, "{}: {read} bytes of {keep}", route.path);
            rig.settled().await;
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_breaks_with_its_head_is_an_error_and_no_silence() {
    use crate::common::{Client, Protocol};
    let accepting = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let refused = "HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    let refusing = Scripted::start(move |exchange| async move {
        exchange.last(refused).await;
        None
    })
    .await;
    for head in [sse_head(), "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", refused] {
        let decode = Scripted::start(move |mut exchange| async move {
            if exchange.request.text().contains("no-such-model") {
                exchange.write(json_answer(404, "{}")).await;
                return Some(exchange);
            }
            exchange.last(head).await;
            None
        })
        .await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut client = Client::connect(sidecar.address(), protocol).await;
            let ask = Ask::post("/v1/completions", "{}");
            for ask in [ask.clone().prefill(&accepting.host_port()), ask.clone(), Ask::get("/v1/models")] {
                client.send(ask).await.is_error(502, "decode_broke", "before its answer was complete");
            }
            let ask = ask.prefill(&refusing.host_port());
            client.send(ask).await.is_error(502, "prefill_broke", "before its answer was complete");
            // The client's connection has come to no harm.
            client.send(Ask::get("/health")).await.ok();
        }
        assert_eq!(sidecar.end().await.released, 2);
    }
}

#[tokio::test]
async fn a_passed_through_answer_cut_in_half_is_cut_for_the_client_too() {
    let rig = Rig::start().await;
    for stream in [false, true] {
        rig.decode.set_faults(once(Faults { reset_after_bytes: Some(40), ..Faults::default() }));
        let ask = Ask::post(APIS[0].path, APIS[0].body(stream));
        assert!(ask.try_send(rig.address()).await.is_err(), "stream={stream}");
    }
    rig.end().await;
}

#[tokio::test]
async fn an_http2_client_sees_the_cut_as_a_reset_of_its_stream_alone() {
    use crate::common::{Client, Opened, Protocol};
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.address(), Protocol::Http2).await;
    rig.decode.set_faults(once(Faults { reset_after_bytes: Some(300), ..Faults::default() }));
    let response = client.begin(rig.ask(APIS[0].path, APIS[0].body(true))).await.unwrap();
    assert!(Opened::new(response, None).whole().await.is_err());
    client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await.ok();
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn kv_lost_between_the_legs_is_told_in_the_decode_engines_words() {
    let rig = Rig::start().await;
    let lost = "KV load failed";
    for route in [APIS[0], APIS[2]] {
        for stream in [false, true] {
            // Decode is held up until prefill has forgotten everything.
            rig.decode.clear_requests();
            rig.decode.set_faults(once(Faults { delay_ms: 50, ..Faults::default() }));
            let ask = rig.ask(route.path, route.body(stream));
            let answer = tokio::spawn(ask.send(rig.address()));
            eventually("the decode leg is there", || rig.decode.requests().len() == 1).await;
            rig.prefill.restart();
            let answer = answer.await.unwrap();
            let text = answer.text();
            assert!(text.contains(lost), "{text}");
            if stream {
                // vLLM tells of it inside a 200, and so does the client's answer.
                assert_eq!(answer.status.as_u16(), 200);
                assert!(text.contains("data: {\"error\"") || text.contains("event: error"), "{text}");
            } else {
                assert_eq!(answer.status.as_u16(), 500);
            }
            rig.settled().await;
        }
    }
    let counts = rig.end().await;
    assert_eq!((counts.handed_out, counts.consumed), (4, 0));
}

#[tokio::test]
async fn kv_corrupted_on_its_way_shows_in_the_answer() {
    // The emulators' own guarantee, through the sidecar: tests that compare answers would see wrong KV.
    let rig = Rig::start().await;
    let ask = || rig.ask(APIS[1].path, APIS[1].body(false)).header("x-request-id", "a");
    let right = ask().send(rig.address()).await.ok();
    rig.prefill.set_faults(once(Faults { corrupt_kv: true, ..Faults::default() }));
    let wrong = ask().send(rig.address()).await.ok();
    let names = ["cached_tokens"];
    assert_ne!(content(&right, &names), content(&wrong, &names));
    assert_eq!(content(&right, &names), content(&ask().send(rig.address()).await.ok(), &names));
    rig.end().await;
}

#[tokio::test]
async fn a_decode_engine_that_closes_without_the_end_of_its_chunks_is_noticed() {
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let decode = Scripted::start(|mut exchange| async move {
        exchange.write(sse_head()).await;
        exchange.write(chunk("data: {}\n\n")).await;
        None
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    for ask in
        [Ask::post("/v1/completions", "{}").prefill(&prefill.host_port()), Ask::post("/v1/completions", "{}")]
    {
        let mut answer = ask.open(sidecar.address()).await.unwrap();
        answer.until("data: {}\n\n").await;
        assert!(answer.data().await.unwrap().is_err());
    }
    sidecar.end().await;
}

#[tokio::test]
async fn a_slow_engine_is_waited_for_when_no_limit_is_set() {
    let rig = Rig::start().await;
    let slow = Faults { delay_ms: 200, ..Faults::default() };
    rig.prefill.set_faults(once(slow.clone()));
    rig.decode.set_faults(once(Faults { drip_ms: Some(1), ..slow }));
    let body = APIS[1].value("text", 2, true).to_string();
    let started = Instant::now();
    let answer = rig.ask(APIS[1].path, body).send(rig.address()).await.ok();
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert!(started.elapsed() > Duration::from_millis(400), "the engines were slow");
    rig.end().await;
}
