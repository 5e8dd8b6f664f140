//! `--first-token-forwarding`: the client has prefill's token while decode has not begun, reads the same as without it,
//! and whatever fails afterwards is seen by the client and leaves no KV behind.

use serde_json::{Value, json};

use crate::common::{
    APIS, Ask, Exchange, Opened, Rig, Route, Scripted, Sidecar, chunk, content, events, eventually,
    json_answer, prompt, reserve_port, sse_head, without,
};
use kvferry_emulator::{Config, Emulator, Faults};

const FLAG: &str = "--first-token-forwarding";

const COMPLETIONS: Route = APIS[1];
const GENERATE: Route = APIS[4];

/// A request for which forwarding is exact.
fn greedy(route: Route, tokens: usize) -> Value {
    let mut body = route.value(&prompt(80), tokens, true);
    let sampling = if route == GENERATE { &mut body["sampling_params"] } else { &mut body };
    sampling["temperature"] = 0.into();
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// The events without those of the decode engine's own second.
fn said(answer: &crate::common::Answer) -> Value {
    content(answer, &[])
}

#[tokio::test]
async fn the_client_reads_the_same_with_and_without_it() {
    for route in [COMPLETIONS, GENERATE] {
        let (plain, ahead) = (Rig::start().await, Rig::with(&[FLAG]).await);
        for tokens in [2, 3, 12] {
            let body = greedy(route, tokens).to_string();
            let ask = |rig: &Rig| rig.ask(route.path, body.as_str()).header("x-request-id", "r-1");
            let ordinary = ask(&plain).send(plain.address()).await.ok();
            let forwarded = ask(&ahead).send(ahead.address()).await.ok();
            let (ordinary, forwarded) = (said(&ordinary), said(&forwarded));
            if route == COMPLETIONS {
                assert_eq!(forwarded, ordinary);
            } else {
                // The emulator leaves out of an event what it has nothing to say about.
                let bare = |value| {
                    without(
                        value,
                        &[
                            "usage",
                            "output_mode",
                            "routed_experts",
                            "sampling_mask",
                            "weight_versions",
                            "stop_reason",
                            "logprobs",
                            "finish_reason",
                        ],
                    )
                };
                assert_eq!(bare(forwarded), bare(ordinary));
            }
        }
        // Decode was asked for the same in the same way.
        let decode =
            |rig: &Rig| rig.decode.requests().iter().map(|request| request.path.clone()).collect::<Vec<_>>();
        assert_eq!(decode(&ahead), decode(&plain));
        assert_eq!((plain.end().await.consumed, ahead.end().await.consumed), (3, 3));
    }
}

async fn opened(rig: &Rig, body: &Value) -> (Opened, String) {
    let mut answer = rig.ask(COMPLETIONS.path, body.to_string()).open(rig.address()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    let first = answer.until("\n\n").await;
    (answer, first)
}

#[tokio::test]
async fn the_first_token_is_there_while_decode_has_not_answered() {
    let rig = Rig::with(&[FLAG]).await;
    let body = greedy(COMPLETIONS, 5);
    rig.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let (answer, first) = opened(&rig, &body).await;
    eventually("decode was asked", || rig.decode.requests().len() == 1).await;
    assert_eq!(rig.sidecar.ledger().outstanding(), 1);
    // The client leaves in the middle of the handoff: its KV goes back.
    drop(answer);
    rig.settled().await;
    assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
    let whole = rig.ask(COMPLETIONS.path, body.to_string()).send(rig.address()).await.ok();
    assert_eq!(
        without(events(&first)[0].clone(), &["id", "created"]),
        without(events(&whole.text())[0].clone(), &["id", "created"])
    );
    let counts = rig.end().await;
    assert_eq!((counts.released, counts.consumed), (1, 1));
}

#[tokio::test]
async fn a_decode_leg_that_fails_behind_the_first_token_breaks_the_answer_off() {
    let failures = [
        Faults { status: Some(503), ..Faults::default() },
        Faults { reset_before: true, ..Faults::default() },
        Faults { garbage: true, ..Faults::default() },
        Faults { not_json: true, ..Faults::default() },
        Faults { reset_after_bytes: Some(10), ..Faults::default() },
    ];
    for faults in failures {
        let rig = Rig::with(&[FLAG]).await;
        rig.decode.set_faults(Faults { times: Some(1), ..faults.clone() });
        let (mut answer, first) = opened(&rig, &greedy(COMPLETIONS, 5)).await;
        assert!(!events(&first)[0]["choices"][0]["text"].as_str().unwrap().is_empty());
        let (_, complete) = answer.end().await;
        assert!(!complete, "{faults:?}");
        rig.settled().await;
        let counts = rig.end().await;
        assert_eq!((counts.handed_out, counts.expired), (1, 0), "{faults:?}");
    }
}

#[tokio::test]
async fn without_a_decode_engine_the_answer_breaks_off_behind_the_first_token() {
    let (port, _reserved) = reserve_port();
    let prefill = Emulator::start(Config::default()).await.unwrap();
    let sidecar = Sidecar::start(port, &[FLAG]);
    let ask = Ask::post(COMPLETIONS.path, greedy(COMPLETIONS, 5).to_string()).prefill(&prefill.host_port());
    let mut answer = ask.open(sidecar.address()).await.unwrap();
    answer.until("\n\n").await;
    assert!(!answer.end().await.1);
    let counts = sidecar.end().await;
    assert_eq!((counts.handed_out, counts.expired), (1, 1));
}

#[tokio::test]
async fn a_decode_engine_that_is_silent_behind_the_first_token_is_given_up() {
    for flag in ["--decode-stall-timeout=100ms", "--request-timeout=400ms"] {
        let rig = Rig::with(&[FLAG, flag]).await;
        rig.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
        let (mut answer, _) = opened(&rig, &greedy(COMPLETIONS, 5)).await;
        assert!(!answer.end().await.1);
        rig.settled().await;
        assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
        rig.end().await;
    }
}

#[tokio::test]
async fn what_is_not_exact_is_answered_by_decode_alone() {
    let rig = Rig::with(&[FLAG]).await;
    let sampled = COMPLETIONS.value("text", 5, true);
    let whole = without(greedy(COMPLETIONS, 5), &["stream", "stream_options"]);
    let chat = APIS[0].value("text", 5, true);
    for (path, body) in [(COMPLETIONS.path, sampled), (COMPLETIONS.path, whole), (APIS[0].path, chat)] {
        rig.decode.set_faults(Faults { status: Some(503), times: Some(1), ..Faults::default() });
        let answer = rig.ask(path, body.to_string()).send(rig.address()).await;
        assert_eq!(answer.status, 503, "{body}");
        rig.settled().await;
    }
    assert_eq!(rig.end().await.released, 3);
}

/// A completion's event.
fn event(text: &str, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish});
    let body =
        json!({"id": "cmpl-1", "object": "text_completion", "created": 2, "model": "m", "choices": [choice]});
    format!("data: {body}\n\n")
}

const USAGE: &str = r#"data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":4,"total_tokens":7,"completion_tokens":3}}"#;

/// A prefill engine that answers " one" and holds nothing.
async fn prefill_says_one(covered: usize) -> Scripted {
    let body = json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": " one", "finish_reason": "length", "token_ids": [9], "prompt_token_ids": [5, 6, 7]}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        "kv_transfer_params": {"do_remote_prefill": true, "remote_num_tokens": covered}});
    Scripted::answering(json_answer(200, &body.to_string())).await
}

async fn stream(mut exchange: Exchange, parts: &[String]) -> Option<Exchange> {
    exchange.write(sse_head()).await;
    for part in parts {
        exchange.write(chunk(part)).await;
    }
    exchange.write(chunk("")).await;
    Some(exchange)
}

#[tokio::test]
async fn an_answer_goes_on_behind_the_token_that_was_sent_when_decode_chose_another() {
    let prefill = prefill_says_one(3).await;
    let decode = Scripted::start(|exchange: Exchange| async move {
        let ending = [format!("{USAGE}\n\n"), "data: [DONE]\n\n".to_owned()];
        let parts = if exchange.request.text().contains("[5,6,7,9]") {
            vec![event(" two", None), event(" three", Some("length"))]
        } else {
            vec![event(" other", None), event(" words", None)]
        };
        stream(exchange, &[parts, ending.to_vec()].concat()).await
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let body = r#"{"model":"m","prompt":"five six seven","max_tokens":8,"temperature":0,"stream":true,"stream_options":{"include_usage":true},"user":"u"}"#;
    let answer =
        Ask::post(COMPLETIONS.path, body).prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
    let events = events(&answer.text());
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, " one two three");
    // The token counts as the answer's, not as the prompt's.
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(3), &json!(4)));
    assert_eq!(events.last().unwrap(), "[DONE]");
    let legs = decode.requests();
    assert_eq!(legs.len(), 2);
    assert!(
        legs[0].text().contains(r#""kv_transfer_params":{"do_remote_prefill":true,"remote_num_tokens":3}"#)
    );
    assert_eq!(
        legs[1].text(),
        body.replace(r#""five six seven""#, "[5,6,7,9]").replace(r#""max_tokens":8"#, r#""max_tokens":7"#)
    );
    assert_eq!(legs[0].header("x-request-id"), legs[1].header("x-request-id"));
    assert!(prefill.requests()[0].text().contains(r#""return_token_ids":true"#));
    assert_eq!(sidecar.end().await.consumed, 1);
}

#[tokio::test]
async fn an_answer_that_nobody_can_go_on_with_breaks_off() {
    let prefill = prefill_says_one(3).await;
    let decode = Scripted::start(|mut exchange: Exchange| async move {
        if exchange.request.text().contains("[5,6,7,9]") || exchange.request.text().contains("no-such-model")
        {
            exchange.write(json_answer(404, "{}")).await;
            return Some(exchange);
        }
        stream(exchange, &[event(" other", None)]).await
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let body = r#"{"prompt":"five six seven","max_tokens":8,"temperature":0,"stream":true}"#;
    let ask = Ask::post(COMPLETIONS.path, body).prefill(&prefill.host_port());
    let mut answer = ask.open(sidecar.address()).await.unwrap();
    assert!(answer.until("\n\n").await.contains(" one"));
    assert!(!answer.end().await.1);
    assert_eq!(sidecar.end().await.released, 1);
}

#[tokio::test]
async fn kv_that_decode_could_not_pull_is_told_behind_the_first_token_and_given_back() {
    const ERROR: &str = "data: {\"error\":{\"message\":\"the KV could not be pulled\",\"code\":500}}\n\n";
    let prefill = prefill_says_one(3).await;
    let decode = Scripted::start(|mut exchange: Exchange| async move {
        if exchange.request.text().contains("no-such-model") {
            exchange.write(json_answer(404, "{}")).await;
            return Some(exchange);
        }
        stream(exchange, &[ERROR.to_owned(), "data: [DONE]\n\n".to_owned()]).await
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let body = r#"{"prompt":"five six seven","max_tokens":8,"temperature":0,"stream":true}"#;
    let answer =
        Ask::post(COMPLETIONS.path, body).prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
    let (first, rest) = answer.text().split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(first.contains(" one"));
    assert_eq!(rest, format!("{ERROR}data: [DONE]\n\n"));
    assert_eq!(sidecar.end().await.released, 1);
}

#[tokio::test]
async fn a_prefill_that_stopped_short_of_the_prompts_end_has_no_first_token() {
    let prefill = prefill_says_one(2).await;
    let decode = Scripted::start(|exchange: Exchange| async move {
        stream(exchange, &[event(" two", Some("length")), "data: [DONE]\n\n".to_owned()]).await
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let body = r#"{"prompt":"five six seven","max_tokens":8,"temperature":0,"stream":true}"#;
    let answer =
        Ask::post(COMPLETIONS.path, body).prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
    assert_eq!(answer.text(), event(" two", Some("length")) + "data: [DONE]\n\n");
    sidecar.end().await;
}
