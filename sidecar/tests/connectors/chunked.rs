//! Chunked decode: one answer out of many requests, whatever happens between two of them.

use std::sync::Arc;
use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Speeds};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::answering::{answering, broken_json, silent};
use crate::common::{
    APIS, Answer, Ask, Dice, LONG_GRACE, Received, Rig, Scripted, Sidecar, chunk, events, eventually,
    json_answer, prompt, sse_head, within,
};

const FLAG: &str = "--decode-chunk-size=10";
const CHAT: &str = APIS[0].path;
const KV: &str = r#"{"id":12345678901234567890}"#;

/// A chunk's answer.
fn said(text: &str, finish: &str, tokens: u64) -> Vec<u8> {
    json_answer(200, &body(text, finish, tokens))
}

fn body(text: &str, finish: &str, tokens: u64) -> String {
    json!({"id": "chat-1", "object": "chat.completion", "created": 17, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "tool_calls": []},
            "logprobs": null, "finish_reason": finish, "stop_reason": null}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5 + tokens, "completion_tokens": tokens}})
    .to_string()
}

/// A client's request, with these members besides.
fn wants(members: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{members}}}"#)
}

/// The text that a later chunk is to go on from.
fn continued(request: &Received) -> Value {
    let body: Value = serde_json::from_str(&request.text()).unwrap();
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2, "one message that grows: {body}");
    assert_eq!(
        (&body["continue_final_message"], &body["add_generation_prompt"]),
        (&true.into(), &false.into())
    );
    assert_eq!(body.get("kv_transfer_params"), None, "KV is read once");
    assert_eq!(messages[1]["role"], "assistant");
    messages[1]["content"].clone()
}

/// A request that no prefill precedes.
fn alone(body: impl Into<Vec<u8>>) -> Ask {
    Ask::post(CHAT, body)
}

/// Engines written down, and a sidecar between them.
struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    /// `chunks`: what the decode engine answers, in order; the last for ever.
    async fn of(chunks: Vec<Vec<u8>>) -> Self {
        Self::start(answering(move |n, _| chunks[n.min(chunks.len() - 1)].clone()).await, &[]).await
    }

    async fn start(decode: Scripted, flags: &[&str]) -> Self {
        let prefill = format!(
            r#"{{"kv_transfer_params":{KV},"usage":{{"prompt_tokens_details":{{"cached_tokens":3}}}}}}"#
        );
        let prefill = Scripted::answering(json_answer(200, &prefill)).await;
        let sidecar = Sidecar::start(decode.port(), &[&[FLAG], flags].concat());
        Self { prefill, decode, sidecar }
    }

    fn disaggregated(&self, body: impl Into<Vec<u8>>) -> Ask {
        alone(body).prefill(&self.prefill.host_port())
    }

    /// Ends a test in which the KV of this many requests was read.
    async fn end(self, consumed: u64) {
        let counts = self.sidecar.end().await;
        assert_eq!((counts.consumed, counts.released, counts.expired), (consumed, 0, 0));
    }
}

#[tokio::test]
async fn an_answer_that_fits_into_one_chunk_is_asked_for_as_it_is() {
    for members in [r#","max_tokens":10"#, r#","max_completion_tokens":3,"max_tokens":500"#] {
        let scripts = Scripts::of(vec![json_answer(200, "{ }")]).await;
        let answer = alone(wants(members)).send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.text(), "{ }");
        assert_eq!(scripts.decode.requests()[0].text(), wants(members));
        scripts.end(0).await;
    }
}

#[tokio::test]
async fn chunks_are_merged_into_one_message_with_one_usage() {
    let scripts =
        Scripts::of(vec![said("one", "length", 10), said(" two", "length", 10), said(" end", "length", 5)])
            .await;
    let ask = scripts.disaggregated(wants(r#","max_tokens":25,"z":1.50"#)).header("x-request-id", "mine");
    let answer = ask.header("authorization", "Bearer key").send(scripts.sidecar.address()).await.ok();
    let mut expected: Value = serde_json::from_str(&body("one two end", "length", 25)).unwrap();
    expected["usage"]["prompt_tokens_details"] = json!({"cached_tokens": 3});
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("content-type"), "application/json");

    let requests = scripts.decode.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(
        requests[0].text(),
        wants(r#","max_tokens":10,"z":1.50"#).replacen(
            '{',
            &format!(r#"{{"stream":false,"max_completion_tokens":10,"kv_transfer_params":{KV},"#),
            1
        )
    );
    assert_eq!((continued(&requests[1]), continued(&requests[2])), ("one".into(), "one two".into()));
    for (request, limit) in requests.iter().zip([10, 10, 5]) {
        let body: Value = serde_json::from_str(&request.text()).unwrap();
        assert_eq!((&body["max_tokens"], &body["max_completion_tokens"]), (&limit.into(), &limit.into()));
        assert_eq!(body["stream"], false);
        assert!(request.text().contains(r#""z":1.50"#));
        assert_eq!(request.header("x-request-id"), Some("mine"));
        assert_eq!(request.header("authorization"), Some("Bearer key"));
    }
    scripts.end(1).await;
}

#[tokio::test]
async fn an_answer_ends_when_the_engine_says_so_or_has_nothing_more() {
    for (chunks, text, finish, tokens, asked) in [
        (vec![said("one", "stop", 4)], "one", "stop", 4, 1),
        (vec![said("one", "length", 10), said("!", "stop", 1)], "one!", "stop", 11, 2),
        (vec![said("one", "length", 10), said("", "length", 0)], "one", "length", 10, 2),
        (vec![said("one", "length", 10), said("", "stop", 1)], "one", "stop", 11, 2),
    ] {
        let scripts = Scripts::of(chunks).await;
        let answer = alone(wants("")).send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.json(), serde_json::from_str::<Value>(&body(text, finish, tokens)).unwrap());
        assert_eq!(scripts.decode.requests().len(), asked);
        scripts.end(0).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_events_gets_one_stream_with_one_end() {
    for usage in [false, true] {
        let scripts =
            Scripts::of(vec![said("one", "length", 10), said(" t\"wo", "length", 10), said("!", "stop", 1)])
                .await;
        let options = if usage { r#","stream_options":{"include_usage":true}"# } else { "" };
        let ask = scripts.disaggregated(wants(&format!(r#","stream":true{options}"#)));
        let answer = ask.send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert!(!answer.headers.contains_key("content-length"));
        let event = |choices: Value| json!({"id": "chat-1", "object": "chat.completion.chunk", "created": 17, "model": "m", "choices": choices});
        let delta = |delta: Value| {
            event(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]))
        };
        let mut expected = vec![
            delta(json!({"role": "assistant", "content": "one"})),
            delta(json!({"content": " t\"wo"})),
            event(
                json!([{"index": 0, "delta": {"content": "!"}, "logprobs": null, "finish_reason": "stop", "stop_reason": null}]),
            ),
        ];
        if usage {
            let mut last = event(json!([]));
            last["usage"] = json!({"prompt_tokens": 5, "total_tokens": 26, "completion_tokens": 21,
                "prompt_tokens_details": {"cached_tokens": 3}});
            expected.push(last);
        }
        expected.push("[DONE]".into());
        assert_eq!(events(&answer.text()), expected);
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        assert!(scripts.decode.requests().iter().all(|request| request.text().contains(r#""stream":false"#)));
        scripts.end(1).await;
    }
}

#[tokio::test]
async fn an_event_goes_out_before_the_next_chunk_is_there() {
    let (scripts, go_on) = gated(&[]).await;
    go_on.add_permits(1);
    let mut answer =
        scripts.disaggregated(wants(r#","stream":true"#)).open(scripts.sidecar.address()).await.unwrap();
    for text in ["\"0\"", "\"1\"", "\"2\""] {
        assert!(answer.until("\n\n").await.contains(text));
        go_on.add_permits(1);
        // The KV is read with the first chunk, however long the answer grows.
        let counts = scripts.sidecar.ledger();
        assert_eq!((counts.consumed, counts.outstanding()), (1, 0));
    }
    drop(answer);
    scripts.end(1).await;
}

/// A decode engine that makes a chunk, its number, for each permit; and one that never ends.
async fn gated(flags: &[&str]) -> (Scripts, Arc<Semaphore>) {
    let go_on = Arc::new(Semaphore::new(0));
    let (wait, count) = (Arc::clone(&go_on), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let decode = Scripted::start(move |mut exchange| {
        let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
        async move {
            tokio::select! {
                permit = wait.acquire() => permit.unwrap().forget(),
                () = exchange.left() => return None,
            }
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            exchange.write(said(&n.to_string(), "length", 10)).await;
            Some(exchange)
        }
    })
    .await;
    (Scripts::start(decode, flags).await, go_on)
}

#[tokio::test]
async fn a_client_that_leaves_ends_it_between_chunks_and_within_one() {
    for stream in [false, true] {
        let (scripts, go_on) = gated(&[]).await;
        let ask = scripts.disaggregated(wants(&format!(r#","stream":{stream}"#)));
        let client = tokio::spawn(ask.try_send(scripts.sidecar.address()));
        go_on.add_permits(2);
        eventually("the third chunk is asked for", || scripts.decode.requests().len() == 3).await;
        client.abort();
        eventually("the sidecar noticed", || scripts.sidecar.connections() == 0).await;
        // Nothing goes on for nobody: what could, finds no one to ask.
        go_on.add_permits(5);
        tokio::task::yield_now().await;
        assert_eq!(scripts.decode.requests().len(), 3);
        scripts.end(1).await;
    }
    // Before anything was produced the KV is given back.
    let decode = {
        let (left, leaves) = (Arc::new(Semaphore::new(0)), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        Scripted::start(move |mut exchange| {
            let (left, leaves) = (Arc::clone(&left), Arc::clone(&leaves));
            async move {
                if leaves.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                    exchange.left().await;
                    left.add_permits(1);
                    return None;
                }
                exchange.write(json_answer(404, "{}")).await;
                Some(exchange)
            }
        })
        .await
    };
    let scripts = Scripts::start(decode, &[]).await;
    let client = tokio::spawn(scripts.disaggregated(wants("")).try_send(scripts.sidecar.address()));
    eventually("the first chunk is asked for", || scripts.decode.requests().len() == 1).await;
    client.abort();
    eventually("the KV is released", || scripts.decode.requests().len() == 2).await;
    assert!(scripts.decode.requests()[1].text().contains(KV));
    assert_eq!(scripts.sidecar.end().await.released, 1);
}

#[tokio::test]
async fn a_refused_chunk_is_told_as_the_engine_told_it() {
    let refusal = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-type: application/json\r\ncontent-length: 37\r\n\r\n{\"error\":{\"message\":\"busy\",\"code\":503}}";
    let refusal = refusal.replace("37", &"{\"error\":{\"message\":\"busy\",\"code\":503}}".len().to_string());
    for first in [true, false] {
        let chunks = if first {
            vec![refusal.clone().into_bytes()]
        } else {
            vec![said("one", "length", 10), refusal.clone().into_bytes()]
        };
        let scripts = Scripts::of(chunks).await;
        let answer = alone(wants("")).send(scripts.sidecar.address()).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "7"));
        assert_eq!(answer.json()["error"]["message"], "busy");
        scripts.end(0).await;
    }
    let pretty = json_answer(500, "{\"error\": {\n  \"message\": \"busy\",\r\n  \"code\": 503\n}}");
    for refusal in [refusal.into_bytes(), pretty] {
        let scripts = Scripts::of(vec![said("one", "length", 10), refusal]).await;
        let answer =
            scripts.disaggregated(wants(r#","stream":true"#)).send(scripts.sidecar.address()).await.ok();
        let events = events(&answer.text());
        assert_eq!(events.len(), 3);
        assert_eq!(events[1], json!({"error": {"message": "busy", "code": 503}}));
        assert_eq!(events[2], "[DONE]");
        scripts.end(1).await;
    }
}

#[tokio::test]
async fn an_engine_that_dies_between_chunks_is_a_typed_error_whole_or_in_the_stream() {
    for second in [broken_json("{"), b"garbage\r\n\r\n".to_vec(), json_answer(200, "{}")] {
        for stream in [false, true] {
            let second = second.clone();
            let decode = dying(said("one", "length", 10), second).await;
            let scripts = Scripts::start(decode, &[]).await;
            let ask = scripts.disaggregated(wants(&format!(r#","stream":{stream}"#)));
            let answer = ask.send(scripts.sidecar.address()).await;
            if stream {
                let events = events(&answer.ok().text());
                assert_eq!(events[0]["choices"][0]["delta"]["content"], "one");
                assert_eq!(
                    (&events[1]["error"]["type"], &events[1]["error"]["code"]),
                    (&"BadGateway".into(), &502.into())
                );
                assert_eq!(events[2], "[DONE]");
            } else {
                answer.is_error(502, "decode_broke", "decode engine localhost:");
            }
            scripts.end(1).await;
        }
    }
}

/// Gives the first request one answer and the second another, and closes the connection after that.
async fn dying(first: Vec<u8>, second: Vec<u8>) -> Scripted {
    let answers = Arc::new(std::sync::Mutex::new(vec![second, first]));
    Scripted::start(move |mut exchange| {
        let (said, last) = {
            let mut answers = answers.lock().unwrap();
            (answers.pop(), answers.is_empty())
        };
        async move {
            exchange.write(said?).await;
            (!last).then_some(exchange)
        }
    })
    .await
}

#[tokio::test]
async fn what_chunks_would_lose_is_decoded_in_one_piece() {
    for members in [
        r#","tools":[{"type":"function"}],"stream":true"#,
        r#","n":2"#,
        r#","logprobs":true"#,
        r#","stop":["a"]"#,
        r#","response_format":{"type":"json_object"}"#,
    ] {
        let scripts = Scripts::of(vec![json_answer(200, "{ }")]).await;
        alone(wants(members)).send(scripts.sidecar.address()).await.ok();
        scripts.disaggregated(wants(members)).send(scripts.sidecar.address()).await.ok();
        let requests = scripts.decode.requests();
        assert_eq!(requests[0].text(), wants(members));
        let leg = wants(members).replacen('{', &format!(r#"{{"kv_transfer_params":{KV},"#), 1);
        assert_eq!((requests[1].text(), requests.len()), (leg, 2));
        scripts.end(1).await;
    }
    // Nor is any other API's answer cut.
    let scripts = Scripts::of(vec![json_answer(200, "{ }")]).await;
    for route in &APIS[1..] {
        Ask::post(route.path, route.body(false)).send(scripts.sidecar.address()).await.ok();
        assert_eq!(scripts.decode.requests().pop().unwrap().text(), route.body(false));
    }
    scripts.end(0).await;
}

#[tokio::test]
async fn an_answer_that_turns_out_to_be_more_than_text_is_asked_for_once_more_in_one_piece() {
    let thinking = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning":"so"},"finish_reason":"length"}]}"#;
    for stream in [false, true] {
        let whole = if stream {
            [sse_head(), &chunk("data: 1\n\n"), &chunk("")].concat().into_bytes()
        } else {
            json_answer(200, r#"{"whole":1}"#)
        };
        let scripts = Scripts::of(vec![json_answer(200, thinking), whole]).await;
        let body = wants(&format!(r#","max_tokens":90,"stream":{stream}"#));
        let answer = scripts.disaggregated(body.as_str()).send(scripts.sidecar.address()).await.ok();
        assert_eq!(answer.text(), if stream { "data: 1\n\n" } else { r#"{"whole":1}"# });
        let requests = scripts.decode.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].text(), body, "as the client asked, and without KV that was read");
        scripts.end(1).await;
    }
    // Complete in one chunk, nothing is lost.
    let done = thinking.replace("length", "stop");
    let scripts = Scripts::of(vec![json_answer(200, &done)]).await;
    assert_eq!(alone(wants("")).send(scripts.sidecar.address()).await.ok().text(), done);
    let answer = alone(wants(r#","stream":true"#)).send(scripts.sidecar.address()).await.ok();
    assert_eq!(events(&answer.text())[0]["choices"][0]["delta"]["reasoning"], "so");
    scripts.end(0).await;
}

#[tokio::test]
async fn an_answer_that_reaches_the_end_of_the_context_ends_there_as_any_other() {
    let full =
        json_answer(400, r#"{"error":{"message":"This model's maximum context length is 64 tokens."}}"#);
    for (last, text, tokens) in
        [(said("!", "length", 4), "one!", 14), (said("!", "stop", 4), "one!", 14), (full.clone(), "one", 10)]
    {
        let scripts = Scripts::of(vec![said("one", "length", 10), full.clone(), last]).await;
        let answer = alone(wants("")).send(scripts.sidecar.address()).await.ok().json();
        assert_eq!(answer["choices"][0]["message"]["content"], text);
        assert_eq!(answer["usage"]["completion_tokens"], tokens);
        // The third leaves it to the engine how much there is room for, and is the last.
        let requests = scripts.decode.requests();
        assert_eq!((continued(&requests[2]), requests.len()), ("one".into(), 3));
        assert!(!requests[2].text().contains("max_"), "{}", requests[2].text());
        scripts.end(0).await;
    }
}

#[tokio::test]
async fn the_limits_of_a_request_hold_for_every_chunk() {
    for (flag, code) in
        [("--request-timeout=150ms", "request_timeout"), ("--decode-stall-timeout=150ms", "decode_stalled")]
    {
        for stream in [false, true] {
            let (scripts, go_on) = gated(&[flag]).await;
            go_on.add_permits(1);
            let ask = scripts.disaggregated(wants(&format!(r#","stream":{stream}"#)));
            let answer = ask.send(scripts.sidecar.address()).await;
            if stream {
                let events = events(&answer.ok().text());
                assert_eq!((&events[1]["error"]["code"], &events[2]), (&504.into(), &"[DONE]".into()));
            } else {
                answer.is_error(504, code, "150 ms");
            }
            scripts.end(1).await;
        }
    }
    let (decode, mut leaves) = silent().await;
    let scripts = Scripts::start(decode, &["--request-timeout=100ms"]).await;
    let answer = alone(wants("")).send(scripts.sidecar.address()).await;
    answer.is_error(504, "request_timeout", "in decode");
    within("the chunk is cancelled", leaves.recv()).await.unwrap();
    scripts.end(0).await;
}

#[tokio::test]
async fn what_is_no_chat_completion_passes_as_it_is() {
    for answer in ["{}", "no JSON", r#"{"choices":[]}"#] {
        let scripts = Scripts::of(vec![json_answer(200, answer)]).await;
        assert_eq!(alone(wants("")).send(scripts.sidecar.address()).await.ok().text(), answer);
        scripts.end(0).await;
    }
}

/// What an engine answers in one piece: text, finish reason, tokens.
async fn in_one_piece(body: &str) -> (String, Value, Value) {
    let engine = Emulator::start(Config::default()).await.unwrap();
    told(&Ask::post(CHAT, body).send(engine.addr()).await.ok())
}

/// The same of any answer. Usage only where a stream was asked for it.
fn told(answer: &Answer) -> (String, Value, Value) {
    if !answer.header("content-type").starts_with("text/event-stream") {
        let body = answer.json();
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap().to_owned();
        return (text, choice["finish_reason"].clone(), body["usage"]["completion_tokens"].clone());
    }
    let events = events(&answer.text());
    let choices = || events.iter().filter_map(|event| event["choices"].get(0));
    let text = choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let mut reasons =
        choices().map(|choice| choice["finish_reason"].clone()).filter(|reason| !reason.is_null());
    let usage = events.iter().find_map(|event| event["usage"].get("completion_tokens"));
    let told = (text, reasons.next().unwrap(), usage.cloned().unwrap_or_default());
    assert_eq!(reasons.next(), None, "one end");
    told
}

#[tokio::test]
async fn chunks_joined_are_the_answer_in_one_piece_token_for_token() {
    let rig = Rig::with(&["--decode-chunk-size=7"]).await;
    for tokens in [8, 14, 40] {
        for stream in [false, true] {
            let mut body = APIS[0].value(&prompt(60), tokens, stream);
            if stream {
                body["stream_options"] = json!({"include_usage": true});
            }
            let body = body.to_string();
            let expected = in_one_piece(&body).await;
            for prefill in [false, true] {
                let before = rig.decode.requests().len();
                let mut ask = Ask::post(CHAT, body.as_str());
                if prefill {
                    ask = ask.prefill(&rig.prefill.host_port());
                }
                assert_eq!(
                    told(&ask.send(rig.address()).await.ok()),
                    expected,
                    "{tokens} {stream} {prefill}"
                );
                assert_eq!(rig.decode.requests().len() - before, tokens.div_ceil(7));
                rig.settled().await;
            }
        }
    }
    let counts = rig.end().await;
    assert_eq!((counts.handed_out, counts.consumed), (6, 6));
}

#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    let rig = Rig::with(&["--decode-chunk-size=3", LONG_GRACE]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 1, ..Speeds::default() });
    let mut dice = Dice::new(20_261_122);
    for n in 0..60 {
        let body = APIS[0].value(&prompt(40), 12, n % 2 == 0).to_string();
        let client = tokio::spawn(rig.ask(CHAT, body).try_send(rig.address()));
        tokio::time::sleep(Duration::from_micros(dice.below(25_000))).await;
        client.abort();
    }
    let counts = rig.end().await;
    assert_eq!(counts.expired, 0);
}
