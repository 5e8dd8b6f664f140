//! The client's answer is the one that the decode engine would give alone, and its KV really came over the wire.

use crate::common::{APIS, Answer, Rig, Route, Setup, chunk, content, json_answer, prompt, within};
use kvferry_emulator::Config;
use serde_json::Value;

const ID: &str = "one-id-for-both";

/// What the decode engine answers on its own. Asked under the same id, since ids are made from it.
async fn alone(rig: &Rig, route: Route, body: &str) -> Answer {
    let ask = crate::common::Ask::post(route.path, body).header("x-request-id", ID);
    ask.send(rig.decode.addr()).await.ok()
}

/// Members of an answer that say how the prompt came to the engine, where the API gives the sidecar no say in them.
fn differing(route: Route) -> &'static [&'static str] {
    if route.label == "messages" { &["usage"] } else { &[] }
}

#[tokio::test]
async fn every_api_answers_as_the_decode_engine_alone_would_streamed_or_not() {
    let rig = Rig::start().await;
    for route in APIS {
        for stream in [false, true] {
            let body = route.body(stream);
            let expected = alone(&rig, route, &body).await;
            let before = rig.decode.state().totals;
            let ask = rig.ask(route.path, body).header("x-request-id", ID);
            let answer = ask.send(rig.address()).await.ok();
            let what = format!("{} stream={stream}", route.path);

            assert_eq!(answer.header("content-type"), expected.header("content-type"), "{what}");
            assert_eq!(content(&answer, differing(route)), content(&expected, differing(route)), "{what}");
            // Equal answers alone would also come from a decode engine that computed the prompt itself.
            let after = rig.decode.state().totals;
            let leg: Value =
                serde_json::from_str(&rig.decode.requests().pop().unwrap().body.unwrap()).unwrap();
            let blocks = leg["kv_transfer_params"]["remote_block_ids"][0].as_array().unwrap().len();
            assert_eq!(after.pulls, before.pulls + 1, "{what}");
            let bytes = (blocks * Config::default().block_bytes()) as u64;
            assert_eq!(after.pull_bytes, before.pull_bytes + bytes, "{what}");
            rig.settled().await;
        }
    }
    let counts = rig.end().await;
    assert_eq!((counts.handed_out, counts.consumed), (10, 10));
}

#[tokio::test]
async fn several_choices_take_one_prefill_and_come_back_complete() {
    let rig = Rig::start().await;
    for route in &APIS[..2] {
        for stream in [false, true] {
            let mut body = route.value(&prompt(40), 6, stream);
            body["n"] = 3.into();
            let body = body.to_string();
            let expected = alone(&rig, *route, &body).await;
            let ask = rig.ask(route.path, body).header("x-request-id", ID);
            let answer = ask.send(rig.address()).await.ok();
            assert_eq!(content(&answer, &[]), content(&expected, &[]), "{}", route.path);
        }
    }
    assert_eq!(rig.prefill.state().totals.prefills, 4);
    rig.end().await;
}

#[tokio::test]
async fn a_prompt_of_many_blocks_arrives_whole() {
    let rig = Rig::start().await;
    let body = APIS[1].value(&prompt(20_000), 8, false).to_string();
    let expected = alone(&rig, APIS[1], &body).await;
    let ask = rig.ask(APIS[1].path, body).header("x-request-id", ID);
    let answer = ask.send(rig.address()).await.ok();
    assert_eq!(content(&answer, &[]), content(&expected, &[]));
    assert!(rig.decode.state().totals.pull_bytes > 20_000 * 64);
    rig.end().await;
}

#[tokio::test]
async fn many_requests_at_once_each_get_their_own_answer() {
    let rig = Rig::start().await;
    let mut expected = Vec::new();
    let mut answers = Vec::new();
    for n in 0..24 {
        let route = APIS[n % APIS.len()];
        let body = route.value(&format!("request {n}{}", prompt(n * 7)), 9, n % 2 == 0).to_string();
        expected.push(content(&alone(&rig, route, &body).await, differing(route)));
        let ask = rig.ask(route.path, body).header("x-request-id", ID);
        answers.push(tokio::spawn(ask.send(rig.address())));
    }
    for (n, (answer, expected)) in answers.into_iter().zip(expected).enumerate() {
        let answer = within("an answer", answer).await.unwrap().ok();
        assert_eq!(content(&answer, differing(APIS[n % APIS.len()])), expected, "request {n}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_stream_is_passed_on_frame_by_frame_as_the_engine_makes_it() {
    // No timing: the engine makes its second frame only when the first has reached the client.
    use std::sync::Arc;
    use tokio::sync::Notify;

    use crate::common::{Opened, Scripted, Sidecar, sse_head};

    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let go_on = Arc::new(Notify::new());
    let reached = Arc::clone(&go_on);
    let frames = [
        "data: {\"choices\":[{\"text\":\"one\"}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"text\":\"two\"}],\"usage\":null}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":5,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n",
        "data: [DONE]\n\n",
    ];
    let decode = Scripted::start(move |mut exchange| {
        let reached = Arc::clone(&reached);
        async move {
            exchange.write(sse_head()).await;
            for frame in frames {
                exchange.write(chunk(frame)).await;
                reached.notified().await;
            }
            exchange.write(chunk("")).await;
            Some(exchange)
        }
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = crate::common::Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
    let mut answer: Opened = ask.open(sidecar.address()).await.unwrap();
    for frame in frames {
        assert_eq!(answer.until("\n\n").await, frame);
        go_on.notify_one();
    }
    assert!(answer.data().await.is_none());
    sidecar.end().await;
}

#[tokio::test]
async fn a_prefill_that_returns_no_kv_is_answered_by_the_decode_engine_alone() {
    let mut setup = Setup::default();
    // Nobody knows the name of the KV that this prefill keeps: only its lease can free it.
    setup.prefill.kv_lease = std::time::Duration::from_millis(200);
    let rig = setup.start().await;
    rig.prefill
        .set_faults(kvferry_emulator::Faults { drop_kv_params: true, ..kvferry_emulator::Faults::default() });
    let body = APIS[0].body(false);
    let expected = alone(&rig, APIS[0], &body).await;
    let ask = rig.ask(APIS[0].path, body.as_str()).header("x-request-id", ID);
    let answer = ask.send(rig.address()).await.ok();
    assert_eq!(content(&answer, &["usage"]), content(&expected, &["usage"]));
    let leg = rig.decode.requests().pop().unwrap().body.unwrap();
    assert_eq!(leg, body.replacen('{', "{\"kv_transfer_params\":null,", 1));
    let counts = rig.end().await;
    assert_eq!(counts.handed_out, 0);
}
