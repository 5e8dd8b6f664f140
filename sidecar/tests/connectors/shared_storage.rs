//! `shared-storage`: two legs that know nothing of each other, and the decode engine asked first by clients that say how
//! much must be cached.

use std::sync::Arc;
use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Faults, Role, SharedStore, Speeds};
use tokio::sync::Notify;

use crate::answering::{answering, broken_json, silent, stream};
use crate::common::{
    APIS, Ask, Dice, Rig, Scripted, Setup, Sidecar, chunk, content, eventually, json_answer, prompt,
    reserve_port, sse_head, within,
};

const FLAG: &str = "--kv-connector=shared-storage";
const CHAT: &str = APIS[0].path;

/// What an engine says that has too little of the prompt.
const DECLINES: &str =
    r#"{"choices":[{"index":0,"message":{"content":""},"finish_reason":"cache_threshold"}]}"#;
const DECLINES_EVENT: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"cache_threshold\"}]}\n\n";

/// A client that wants the decode engine asked first.
fn asks_first(stream: bool) -> String {
    format!(r#"{{"messages":[],"cache_hit_threshold":0.80,"max_tokens":50,"stream":{stream}}}"#)
}

/// Engines written down, and a sidecar between them.
struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    async fn start(decode: Scripted, flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, r#"{"choices":[]}"#)).await;
        let sidecar = Sidecar::start(decode.port(), &[&[FLAG], flags].concat());
        Self { prefill, decode, sidecar }
    }

    fn ask(&self, body: impl Into<Vec<u8>>) -> Ask {
        Ask::post(CHAT, body).prefill(&self.prefill.host_port())
    }

    async fn end(self) {
        assert_eq!(self.sidecar.end().await.handed_out, 0);
    }
}

/// A decode engine that declines the first request it gets and answers all others with `then`.
async fn declining(first: Vec<u8>, then: &str) -> Scripted {
    let then = json_answer(200, then);
    answering(move |n, _| if n == 0 { first.clone() } else { then.clone() }).await
}

#[tokio::test]
async fn prefill_is_kept_to_one_token_and_decode_gets_the_request_with_a_threshold_of_0() {
    for (path, body, prefill, decode) in [
        (
            CHAT,
            r#"{"messages":[{"role":"user","content":"x"}],"max_completion_tokens":50,"stream":true,"stream_options":{"a":1},"big":12345678901234567890}"#,
            r#"{"cache_hit_threshold":0,"max_tokens":1,"messages":[{"role":"user","content":"x"}],"max_completion_tokens":1,"stream":false,"big":12345678901234567890}"#,
            r#"{"cache_hit_threshold":0,"messages":[{"role":"user","content":"x"}],"max_completion_tokens":50,"stream":true,"stream_options":{"a":1},"big":12345678901234567890}"#,
        ),
        (
            CHAT,
            r#"{"messages":[],"min_tokens":5}"#,
            r#"{"cache_hit_threshold":0,"stream":false,"max_tokens":1,"max_completion_tokens":1,"messages":[]}"#,
            r#"{"cache_hit_threshold":0,"messages":[],"min_tokens":5}"#,
        ),
        (
            "/v1/completions",
            r#"{"prompt":"x","max_tokens":9}"#,
            r#"{"cache_hit_threshold":0,"stream":false,"prompt":"x","max_tokens":1}"#,
            r#"{"cache_hit_threshold":0,"prompt":"x","max_tokens":9}"#,
        ),
    ] {
        let scripts = Scripts::start(Scripted::answering(json_answer(200, "{}")).await, &[]).await;
        let ask = Ask::post(path, body).prefill(&scripts.prefill.host_port());
        assert_eq!(ask.send(scripts.sidecar.address()).await.ok().text(), "{}");
        let (legs, decodes) = (scripts.prefill.requests(), scripts.decode.requests());
        assert_eq!((legs.len(), decodes.len()), (1, 1));
        assert_eq!((legs[0].text(), decodes[0].text()), (prefill.to_owned(), decode.to_owned()));
        assert_eq!(legs[0].header("x-request-id"), decodes[0].header("x-request-id"));
        assert!(legs[0].header("x-request-id").is_some());
        scripts.end().await;
    }
}

#[tokio::test]
async fn the_answer_is_the_decode_engines_and_a_prefill_error_passes_with_its_headers() {
    let rig = Setup { flags: vec![FLAG], ..Setup::default() }.start().await;
    for stream in [false, true] {
        let body = APIS[0].body(stream);
        let expected =
            Ask::post(CHAT, body.as_str()).header("x-request-id", "one").send(rig.decode.addr()).await.ok();
        let answer = rig.ask(CHAT, body).header("x-request-id", "one").send(rig.address()).await.ok();
        assert_eq!(content(&answer, &["usage"]), content(&expected, &["usage"]));
    }
    rig.prefill.set_faults(Faults { status: Some(429), ..Faults::default() });
    let before = rig.decode.requests().len();
    let answer = rig.ask(CHAT, APIS[0].body(false)).send(rig.address()).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(rig.decode.requests().len(), before);
    rig.end().await;
}

#[tokio::test]
async fn a_decode_engine_that_has_enough_answers_without_any_prefill() {
    let events = [
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
        "data: {\"choices\":[]}\n\n",
        ": x\n\n",
        "data: [DONE]\n\n",
    ];
    for (said, streamed, expected) in [
        (
            json_answer(200, r#"{"choices":[{"finish_reason":"stop"}]}"#),
            false,
            r#"{"choices":[{"finish_reason":"stop"}]}"#.to_owned(),
        ),
        (stream(&events), true, events.concat()),
        (stream(&events[..1]), true, events[0].to_owned()),
        // What is no JSON is the engine's own answer all the same.
        (json_answer(200, "so long"), false, "so long".to_owned()),
        (json_answer(200, ""), false, String::new()),
        (stream(&["data: \u{FEFF}\n\n", "garbage"]), true, "data: \u{FEFF}\n\ngarbage".to_owned()),
        // Asked for events, answered in one piece; and a text about thresholds.
        (
            json_answer(200, r#"{"choices":[{"text":"cache_threshold"}]}"#),
            true,
            r#"{"choices":[{"text":"cache_threshold"}]}"#.to_owned(),
        ),
    ] {
        let scripts = Scripts::start(Scripted::answering(said).await, &[]).await;
        let answer = scripts.ask(asks_first(streamed)).send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.text(), expected);
        let requests = scripts.decode.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].text(), asks_first(streamed), "the decode engine gets the client's own body");
        assert!(scripts.prefill.requests().is_empty());
        scripts.end().await;
    }
}

#[tokio::test]
async fn a_decode_engine_that_declines_leaves_the_request_to_prefill_and_no_trace_in_the_answer() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </first>\r\n\r\n";
    let first = format!(
        "{early}HTTP/1.1 200 OK\r\nx-first: 1\r\nset-cookie: a=b\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{DECLINES}",
        DECLINES.len()
    );
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n";
    for (first, streamed) in [
        (first.into_bytes(), false),
        (json_answer(200, DECLINES), true),
        (stream(&[DECLINES_EVENT, "data: [DONE]\n\n"]), true),
        (stream(&[role, DECLINES_EVENT]), true),
        (stream(&[": waiting\n\n", ": waiting\n\n", role, DECLINES_EVENT]), true),
        // Cut where the network likes.
        (stream(&[&DECLINES_EVENT[..30], &DECLINES_EVENT[30..70], &DECLINES_EVENT[70..]]), true),
    ] {
        let scripts = Scripts::start(declining(first, r#"{"second":2}"#).await, &[]).await;
        let answer = scripts.ask(asks_first(streamed)).send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.text(), r#"{"second":2}"#);
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(!answer.headers.contains_key("x-first") && !answer.headers.contains_key("set-cookie"));
        let requests = scripts.decode.requests();
        let prefills = scripts.prefill.requests();
        assert_eq!((requests.len(), prefills.len()), (2, 1));
        assert_eq!(requests[0].text(), asks_first(streamed));
        assert_eq!(requests[1].text(), asks_first(streamed).replace("0.80", "0"));
        assert!(prefills[0].text().contains(r#""cache_hit_threshold":0,"max_tokens":1"#));
        assert_eq!(requests[0].header("x-request-id"), prefills[0].header("x-request-id"));
        scripts.end().await;
    }
}

#[tokio::test]
async fn a_stream_flows_as_soon_as_it_is_known_to_be_one() {
    // No timing: each event is made only when those before it have reached the client.
    let go_on = Arc::new(Notify::new());
    let reached = Arc::clone(&go_on);
    let decode = Scripted::start(move |mut exchange| {
        let reached = Arc::clone(&reached);
        async move {
            exchange.write([sse_head(), &chunk("data: 1\n\n"), &chunk("data: 2\n\n")].concat()).await;
            for event in ["data: 3\n\n", "data: [DONE]\n\n"] {
                reached.notified().await;
                exchange.write(chunk(event)).await;
            }
            exchange.write(chunk("")).await;
            Some(exchange)
        }
    })
    .await;
    let scripts = Scripts::start(decode, &[]).await;
    let mut answer = scripts.ask(asks_first(true)).open(scripts.sidecar.address()).await.unwrap();
    assert_eq!(answer.until("2\n\n").await, "data: 1\n\ndata: 2\n\n");
    go_on.notify_one();
    assert_eq!(answer.until("3\n\n").await, "data: 3\n\n");
    go_on.notify_one();
    assert_eq!(answer.until("\n\n").await, "data: [DONE]\n\n");
    assert!(answer.data().await.is_none());
    scripts.end().await;
}

#[tokio::test]
async fn an_error_of_the_engine_that_is_asked_first_passes_and_nothing_follows() {
    for streamed in [false, true] {
        let said = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{\"error\":\"b\"}";
        let scripts = Scripts::start(Scripted::answering(said).await, &[]).await;
        let answer = scripts.ask(asks_first(streamed)).send(scripts.sidecar.address()).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "7"));
        assert_eq!(answer.text(), r#"{"error":"b"}"#);
        assert!(scripts.prefill.requests().is_empty());
        scripts.end().await;
    }
    let prefill = Scripted::answering(json_answer(200, "{}")).await;
    let (port, _socket) = reserve_port();
    let sidecar = Sidecar::start(port, &[FLAG]);
    let answer =
        Ask::post(CHAT, asks_first(false)).prefill(&prefill.host_port()).send(sidecar.address()).await;
    answer.is_error(503, "decode_unreachable", "The decode node is not ready.");
    assert!(prefill.requests().is_empty());
    sidecar.end().await;
}

#[tokio::test]
async fn an_engine_that_resets_half_way_harms_its_own_request_only() {
    let held = [sse_head(), &chunk("data: {\"choices\":[]}\n\n")].concat().into_bytes();
    let flowing = [sse_head(), &chunk("data: 1\n\n"), &chunk("data: 2\n\n"), &chunk("data: 3\n\n")].concat();
    for said in [broken_json("{\"choices\":"), broken_json(""), held, b"HTTP/1.1 200 O".to_vec()] {
        let decode = dying(said).await;
        let scripts = Scripts::start(decode, &[]).await;
        let answer = scripts.ask(asks_first(true)).send(scripts.sidecar.address()).await;
        answer.is_error(502, "decode_broke", "decode engine localhost:");
        assert!(scripts.prefill.requests().is_empty());
        assert_eq!(scripts.ask(asks_first(false)).send(scripts.sidecar.address()).await.ok().text(), "{}");
        scripts.end().await;
    }
    // What flowed already is cut off, and the client sees that it was.
    let scripts = Scripts::start(dying(flowing.into_bytes()).await, &[]).await;
    let mut answer = scripts.ask(asks_first(true)).open(scripts.sidecar.address()).await.unwrap();
    assert_eq!(answer.end().await, (27, false));
    assert_eq!(scripts.ask(asks_first(false)).send(scripts.sidecar.address()).await.ok().text(), "{}");
    scripts.end().await;
}

/// Says this to its first request and closes the connection; later requests are answered.
async fn dying(said: Vec<u8>) -> Scripted {
    let first = Arc::new(std::sync::Mutex::new(Some(said)));
    Scripted::start(move |mut exchange| {
        let said = first.lock().unwrap().take();
        async move {
            if let Some(said) = said {
                exchange.write(said).await;
                return None;
            }
            exchange.write(json_answer(200, "{}")).await;
            Some(exchange)
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_takes_every_stage_with_it() {
    // While the decode engine is asked first: before its answer, and while that is held.
    for held in
        ["", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{", sse_head()]
    {
        let (left, mut leaves) = tokio::sync::mpsc::unbounded_channel();
        let decode = Scripted::start(move |mut exchange| {
            let left = left.clone();
            async move {
                exchange.write(held).await;
                exchange.left().await;
                left.send(()).unwrap();
                None
            }
        })
        .await;
        let scripts = Scripts::start(decode, &[]).await;
        let client = tokio::spawn(scripts.ask(asks_first(true)).try_send(scripts.sidecar.address()));
        eventually("decode was asked", || scripts.decode.requests().len() == 1).await;
        client.abort();
        within("decode is cancelled", leaves.recv()).await.unwrap();
        assert!(scripts.prefill.requests().is_empty());
        scripts.end().await;
    }
    // While prefill runs: no answer of it could name KV, so it is not waited for.
    let (prefill, mut leaves) = silent().await;
    let decode = declining(json_answer(200, DECLINES), "{}").await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG, "--prefill-cancel-grace=60s"]);
    let ask = Ask::post(CHAT, asks_first(false)).prefill(&prefill.host_port());
    let client = tokio::spawn(ask.try_send(sidecar.address()));
    eventually("prefill was asked", || prefill.requests().len() == 1).await;
    client.abort();
    within("prefill is cancelled", leaves.recv()).await.unwrap();
    assert_eq!(decode.requests().len(), 1);
    sidecar.end().await;
}

#[tokio::test]
async fn the_limits_of_a_request_hold_while_the_decode_engine_is_asked_first() {
    for (flag, code, message) in [
        ("--request-timeout=100ms", "request_timeout", "100 ms (--request-timeout)"),
        ("--decode-stall-timeout=100ms", "decode_stalled", "100 ms (--decode-stall-timeout)"),
    ] {
        let (decode, mut leaves) = silent().await;
        let scripts = Scripts::start(decode, &[flag]).await;
        let answer = scripts.ask(asks_first(false)).send(scripts.sidecar.address()).await;
        answer.is_error(504, code, message);
        within("decode is cancelled", leaves.recv()).await.unwrap();
        assert!(scripts.prefill.requests().is_empty());
        scripts.end().await;
    }
    // And when what it gave way to takes the rest of the time.
    let (prefill, mut leaves) = silent().await;
    let decode = declining(json_answer(200, DECLINES), "{}").await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG, "--request-timeout=100ms"]);
    let ask = Ask::post(CHAT, asks_first(false)).prefill(&prefill.host_port());
    ask.send(sidecar.address()).await.is_error(
        504,
        "request_timeout",
        "100 ms (--request-timeout), waiting for prefill",
    );
    within("prefill is cancelled", leaves.recv()).await.unwrap();
    sidecar.end().await;
}

#[tokio::test]
async fn without_a_prefill_target_the_threshold_is_the_decode_engines_own_affair() {
    let scripts = Scripts::start(Scripted::answering(json_answer(200, DECLINES)).await, &[]).await;
    let answer = Ask::post(CHAT, asks_first(false)).send(scripts.sidecar.address()).await.ok();
    assert_eq!(answer.text(), DECLINES);
    assert_eq!(scripts.decode.requests()[0].text(), asks_first(false));
    scripts.end().await;
}

/// Engines that share a store: what prefill computes is there, and only there, for decode.
async fn sharing() -> Rig {
    let store = SharedStore::in_memory();
    let config = |role| Config { role, shared_store: Some(store.clone()), ..Config::default() };
    let (prefill, decode) = (config(Role::Prefill), config(Role::Decode));
    Setup { flags: vec![FLAG], prefill, decode }.start().await
}

#[tokio::test]
async fn decode_computes_nothing_that_prefill_left_in_the_store() {
    let rig = sharing().await;
    for (n, stream) in [false, true].into_iter().enumerate() {
        let body = APIS[0].value(&prompt(90 + n), 12, stream).to_string();
        let answer =
            rig.ask(CHAT, body.as_str()).header("x-request-id", "one").send(rig.address()).await.ok();
        assert_eq!(content(&answer, &["usage"]), alone(&body).await);
        let decode = rig.decode.state().totals;
        assert!(decode.store_loaded > 0);
        assert_eq!(decode.computed_prompts, 0);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_prompt_is_prefilled_only_if_too_little_of_it_is_in_the_store() {
    let rig = sharing().await;
    for (n, stream) in [false, true].into_iter().enumerate() {
        let mut body = APIS[0].value(&format!("prompt {n}{}", prompt(90)), 12, stream);
        body["cache_hit_threshold"] = 0.8.into();
        let body = body.to_string();
        let expected = alone(&body.replace("\"cache_hit_threshold\":0.8,", "")).await;
        // The first time the decode engine declines; later the store has it all.
        for prefills in [1, 1, 1] {
            let answer =
                rig.ask(CHAT, body.as_str()).header("x-request-id", "one").send(rig.address()).await.ok();
            assert_eq!(content(&answer, &["usage"]), expected);
            assert_eq!(rig.prefill.requests().len(), n + prefills);
            assert_eq!(rig.decode.state().totals.declined, n as u64 + 1);
        }
        assert_eq!(rig.decode.state().totals.computed_prompts, 0);
    }
    rig.end().await;
}

/// What an engine answers that does it all.
async fn alone(body: &str) -> serde_json::Value {
    let engine = Emulator::start(Config::default()).await.unwrap();
    content(&Ask::post(CHAT, body).header("x-request-id", "one").send(engine.addr()).await.ok(), &["usage"])
}

#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    let rig = sharing().await;
    rig.prefill.set_faults(Faults { delay_ms: 3, ..Faults::default() });
    rig.decode.set_speeds(Speeds { itl_ms: 1, ..Speeds::default() });
    let mut dice = Dice::new(20_261_121);
    for n in 0..60 {
        let mut body = APIS[0].value(&format!("prompt {}{}", n % 20, prompt(60)), 8, n % 2 == 0);
        body["cache_hit_threshold"] = 0.8.into();
        let client = tokio::spawn(rig.ask(CHAT, body.to_string()).try_send(rig.address()));
        tokio::time::sleep(Duration::from_micros(dice.below(15_000))).await;
        client.abort();
    }
    rig.end().await;
}

#[tokio::test]
async fn real_blocks_are_free_again_when_clients_leave_while_prefill_computes() {
    let rig: Rig = Setup { flags: vec![FLAG], ..Setup::default() }.start().await;
    rig.prefill.set_speeds(Speeds { prefill_rate: 20, ..Speeds::default() });
    let client = tokio::spawn(rig.ask(CHAT, APIS[0].body(true)).try_send(rig.address()));
    eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
    client.abort();
    eventually("prefill is aborted", || rig.prefill.state().totals.aborted == 1).await;
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}
