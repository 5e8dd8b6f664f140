//! Cached tokens in the answer: what prefill found in its cache, not what decode found in the KV it was given.

use crate::common::{
    APIS, Ask, Opened, Rig, Route, Scripted, Sidecar, chunk, events, json_answer, prompt, sse_head,
};
use serde_json::Value;

/// Where an API's answer tells its cached tokens.
fn place(route: Route) -> &'static str {
    match route.label {
        "responses" => "/usage/input_tokens_details/cached_tokens",
        "messages" => "/usage/cache_read_input_tokens",
        _ => "/usage/prompt_tokens_details/cached_tokens",
    }
}

/// A request that asks for usage wherever that must be asked for.
fn body(route: Route, stream: bool) -> String {
    let mut body = route.value(&prompt(100), 5, stream);
    if stream && !matches!(route.label, "messages" | "responses") {
        body["stream_options"] = serde_json::json!({"include_usage": true});
    }
    body.to_string()
}

/// The number in an answer, streamed or not.
async fn cached(rig: &Rig, route: Route, stream: bool, to_prefill: bool) -> u64 {
    let answer = if to_prefill {
        Ask::post(route.path, body(route, stream)).send(rig.prefill.addr()).await
    } else {
        rig.ask(route.path, body(route, stream)).send(rig.address()).await
    }
    .ok();
    let frames = if stream { events(&answer.text()) } else { vec![answer.json()] };
    let numbers: Vec<u64> = frames
        .iter()
        .filter_map(|frame| frame.get("response").unwrap_or(frame).pointer(place(route)))
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(numbers.len(), 1, "{}", answer.text());
    numbers[0]
}

#[tokio::test]
async fn the_client_sees_how_much_prefill_had_cached() {
    for route in APIS.into_iter().filter(|route| route.label != "messages") {
        for stream in [false, true] {
            let rig = Rig::start().await;
            // Decode reports the whole prompt as cached; a cold prefill's zero must overwrite that.
            assert_eq!(cached(&rig, route, stream, false).await, 0, "{} cold", route.path);
            let warm = cached(&rig, route, stream, false).await;
            assert!(warm > 0, "{} warm", route.path);
            assert_eq!(warm, cached(&rig, route, stream, true).await, "{}", route.path);
            rig.end().await;
        }
    }
}

#[tokio::test]
async fn usage_of_messages_is_left_as_the_decode_engine_wrote_it() {
    let rig = Rig::start().await;
    for stream in [false, true] {
        let answer = rig.ask(APIS[2].path, body(APIS[2], stream)).send(rig.address()).await.ok();
        // All of the prompt but its last token came from elsewhere, as far as the decode engine knows.
        assert!(answer.text().contains("\"input_tokens\":1,"), "{}", answer.text());
        assert!(!answer.text().contains("prompt_tokens_details"));
    }
    rig.end().await;
}

/// Sends a request through scripted engines: what decode's `answer` becomes when prefill had 48 tokens cached.
async fn rewritten(path: &str, answer: Vec<u8>) -> crate::common::Answer {
    let usage = if path == "/v1/responses" { "input_tokens_details" } else { "prompt_tokens_details" };
    let said = format!(r#"{{"kv_transfer_params":{{"a":1}},"usage":{{"{usage}":{{"cached_tokens":48}}}}}}"#);
    let prefill = Scripted::answering(json_answer(200, &said)).await;
    let decode = Scripted::answering(answer).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post(path, r#"{"stream":true}"#).prefill(&prefill.host_port());
    let answer = ask.send(sidecar.address()).await;
    sidecar.end().await;
    answer
}

#[tokio::test]
async fn only_the_number_changes_in_a_whole_answer() {
    let chat = "/v1/chat/completions";
    let responses = "/v1/responses";
    for (path, body, expected) in [
        (
            chat,
            "{ \"z\":1.0e0,\"usage\" : {\"prompt_tokens_details\":{\"cached_tokens\" : 63, \"a\":null}},\"a\":\"<&>\\u00e9\" }\n",
            "{ \"z\":1.0e0,\"usage\" : {\"prompt_tokens_details\":{\"cached_tokens\" : 48, \"a\":null}},\"a\":\"<&>\\u00e9\" }\n",
        ),
        (
            chat,
            r#"{"usage":{"prompt_tokens":64,"prompt_tokens_details":null}}"#,
            r#"{"usage":{"prompt_tokens":64,"prompt_tokens_details":{"cached_tokens":48}}}"#,
        ),
        (
            chat,
            r#"{"usage":{"total_tokens":64}}"#,
            r#"{"usage":{"prompt_tokens_details":{"cached_tokens":48},"total_tokens":64}}"#,
        ),
        (chat, r#"{"usage":null,"choices":[]}"#, r#"{"usage":null,"choices":[]}"#),
        (chat, "not JSON at all", "not JSON at all"),
        (
            responses,
            r#"{"usage":{"input_tokens_details":{"cached_tokens":63}}}"#,
            r#"{"usage":{"input_tokens_details":{"cached_tokens":48}}}"#,
        ),
        // Not a field of ours to add.
        (responses, r#"{"usage":{"input_tokens":64}}"#, r#"{"usage":{"input_tokens":64}}"#),
        (
            "/v1/messages",
            r#"{"usage":{"input_tokens":1,"cache_read_input_tokens":63}}"#,
            r#"{"usage":{"input_tokens":1,"cache_read_input_tokens":63}}"#,
        ),
    ] {
        let answer = rewritten(path, json_answer(200, body)).await.ok();
        assert_eq!(answer.text(), expected, "{path}");
        assert_eq!(answer.header("content-length"), expected.len().to_string());
    }
}

#[tokio::test]
async fn every_frame_with_usage_is_corrected_and_no_other_byte_of_the_stream() {
    // Usage in every frame, as `continuous_usage_stats` has it; line ends, comments and names as other engines write.
    let frame = |cached: u32| {
        format!(
            "data: {{\"choices\":[{{\"text\":\"\\u00e9 <b>\"}}], \"usage\":{{\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}}}\n\n"
        )
    };
    let stream = |cached: u32| {
        format!(
            "{first}: comment \"usage\"\n\nevent: x\ndata:{{\"usage\":null}}\r\n\r\n{second}data: \"usage\"\n\ndata: {{\"usage\" broken\n\n{third}data: [DONE]\n\n",
            first = frame(cached),
            second = frame(cached),
            third = frame(cached)
        )
    };
    let (sent, expected) = (stream(63), stream(48));
    // Split anywhere, also inside a frame: each byte alone, then in pieces of several sizes.
    for size in [1, 7, 64, 10_000] {
        let mut answer = sse_head().to_owned();
        for piece in sent.as_bytes().chunks(size) {
            answer.push_str(&chunk(std::str::from_utf8(piece).unwrap()));
        }
        answer.push_str(&chunk(""));
        let answer = rewritten("/v1/chat/completions", answer.into_bytes()).await.ok();
        assert_eq!(answer.text(), expected, "in pieces of {size}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_line_comes_through_with_that_line_corrected() {
    let part = r#"data: {"usage":{"prompt_tokens_details":{"cached_tokens":63}}}"#;
    let answer = format!("{}{}{}", sse_head(), chunk(part), chunk(""));
    let answer = rewritten("/v1/completions", answer.into_bytes()).await.ok();
    assert_eq!(answer.text(), part.replace("63", "48"));
}

#[tokio::test]
async fn frames_longer_than_what_is_held_still_come_through() {
    let long = format!("data: {{\"logprobs\":\"{}\",\"usage\":1}}\n\n", "x".repeat(1_000_000));
    let mut answer = sse_head().to_owned();
    for piece in long.as_bytes().chunks(50_000) {
        answer.push_str(&chunk(std::str::from_utf8(piece).unwrap()));
    }
    answer.push_str(&chunk("data: [DONE]\n\n"));
    answer.push_str(&chunk(""));
    let answer = rewritten("/v1/completions", answer.into_bytes()).await.ok();
    assert!(answer.text() == format!("{long}data: [DONE]\n\n"));
}

#[tokio::test]
async fn gzip_of_an_engine_does_not_stand_in_the_way() {
    use kvferry_emulator::Faults;
    let rig = Rig::start().await;
    let gzip = || Faults { gzip: true, ..Faults::default() };
    for route in APIS {
        for stream in [false, true] {
            let plain = rig
                .ask(route.path, body(route, stream))
                .header("x-request-id", "a")
                .send(rig.address())
                .await
                .ok();
            rig.prefill.set_faults(gzip());
            rig.decode.set_faults(gzip());
            let ask = rig.ask(route.path, body(route, stream)).header("x-request-id", "a");
            let answer: Opened = ask.header("accept-encoding", "gzip").open(rig.address()).await.unwrap();
            let answer = inflated(answer.whole().await.unwrap());
            let names = ["created", "created_at", "cached_tokens"];
            let (answer, plain) =
                [&answer, &plain].map(|answer| crate::common::content(answer, &names)).into();
            assert_eq!(answer, plain, "{} stream={stream}", route.path);
            rig.prefill.set_faults(Faults::default());
            rig.decode.set_faults(Faults::default());
        }
    }
    rig.end().await;
}

/// What a client that asked for gzip makes of an answer.
fn inflated(mut answer: crate::common::Answer) -> crate::common::Answer {
    use std::io::Read;
    if answer.header("content-encoding") == "gzip" {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&answer.body[..]).read_to_end(&mut plain).unwrap();
        answer.body = plain.into();
    }
    answer.ok()
}
