//! SGLang's pairing: what both legs carry, its own route, and what its streamed prefill answers mean.

use std::collections::BTreeSet;

use kvferry_emulator::{Config, Emulator, Role};
use serde_json::{Value, json};

use crate::common::{Ask, LEASE, Rig, Scripted, Sidecar, chunk, eventually, json_answer, prompt, sse_head};
use crate::hosts::own_host;

const FLAG: &str = "--kv-connector=sglang";
const NATIVE: &str = "/generate";

async fn rig() -> Rig {
    let engine = |role| Config { role, rendezvous_timeout: LEASE, ..Config::default() };
    let prefill = Config { host: own_host(), bootstrap_port: 8998, ..engine(Role::Prefill) };
    let prefill = Emulator::start(prefill).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[FLAG]);
    Rig { prefill, decode, sidecar }
}

#[tokio::test]
async fn both_legs_carry_the_clients_body_and_one_room() {
    let prefill = Scripted::answering(json_answer(200, "{}")).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let rest = concat!(
        r#""stream" : true,"stream_options":{"include_usage":true},"max_tokens": 900 ,"n":2,"min_tokens":3,"#,
        r#""routed_dp_rank":3,"disagg_prefill_dp_rank": 1,"seed":123456789012345678901234567890 }"#
    );
    let mut rooms = BTreeSet::new();
    for n in 1..=8 {
        let ask = Ask::post("/v1/chat/completions", format!("{{{rest}"));
        ask.prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
        eventually("both legs were sent", || prefill.requests().len() == n && decode.requests().len() == n)
            .await;
        let (one, other) = (prefill.requests()[n - 1].clone(), decode.requests()[n - 1].clone());
        assert_eq!(one.text(), other.text());
        assert_eq!(one.header("x-request-id"), other.header("x-request-id"));
        let leg: Value = serde_json::from_str(&one.text()).unwrap();
        assert_eq!((&leg["bootstrap_host"], &leg["bootstrap_port"]), (&json!("127.0.0.1"), &json!(8998)));
        let room = leg["bootstrap_room"].as_i64().unwrap();
        let added =
            format!(r#"{{"bootstrap_host":"127.0.0.1","bootstrap_port":8998,"bootstrap_room":{room},"#);
        assert_eq!(one.text(), added + rest);
        assert!(room > 0 && rooms.insert(room), "room {room}");
    }
    sidecar.end().await;
}

#[tokio::test]
async fn a_clients_own_room_is_replaced() {
    // Else a client could meet another request's legs.
    let prefill = Scripted::answering(json_answer(200, "{}")).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let body = r#"{"bootstrap_room":7,"a":1,"bootstrap_host":"evil","bootstrap\u005fport":1}"#;
    let ask = Ask::post(NATIVE, body).prefill(&prefill.host_port());
    ask.send(sidecar.address()).await.ok();
    eventually("prefill was asked", || prefill.requests().len() == 1).await;
    let leg = prefill.requests()[0].text();
    let room = serde_json::from_str::<Value>(&leg).unwrap()["bootstrap_room"].clone();
    let expected = format!(
        r#"{{"bootstrap_room":{room},"a":1,"bootstrap_host":"127.0.0.1","bootstrap\u005fport":8998}}"#
    );
    assert_eq!((leg.as_str(), decode.requests()[0].text()), (expected.as_str(), expected.clone()));
    assert_ne!(room, 7);
    sidecar.end().await;
}

#[tokio::test]
async fn sglangs_own_route_is_served_like_the_others() {
    let rig = rig().await;
    let alone = Emulator::start(Config::default()).await.unwrap();
    for stream in [false, true] {
        let body = json!({"text": prompt(80), "sampling_params": {"max_new_tokens": 9}, "rid": "mine",
            "stream": stream});
        let expected = Ask::post(NATIVE, body.to_string()).send(alone.addr()).await.ok();
        let answer = rig.ask(NATIVE, body.to_string()).send(rig.address()).await.ok();
        let text = |answer: &str| {
            let last = answer.lines().rfind(|line| line.contains("output_ids")).unwrap().to_owned();
            let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
            (last["text"].clone(), last["output_ids"].clone())
        };
        assert_eq!(text(&answer.text()), text(&expected.text()));
        rig.settled().await;
    }
    assert_eq!((rig.decode.state().totals.pulls, rig.decode.state().totals.computed_prompts), (2, 0));
    rig.end().await;
}

#[tokio::test]
async fn a_streamed_prefill_answer_counts_when_it_is_complete() {
    for (events, error) in [
        (vec!["data: {\"text\":\"a\"}\n\n", "data: [DONE]\n\n"], None),
        // As SGLang tells of a failed transfer when its head is out already.
        (
            vec!["data: {\"error\": {\"message\": \"KV transfer failed\"}}\n\n", "data: [DONE]\n\n"],
            Some("KV transfer failed"),
        ),
    ] {
        let prefill = Scripted::start(move |mut exchange| {
            let events = events.clone();
            async move {
                exchange.write(sse_head()).await;
                for event in events {
                    exchange.write(chunk(event)).await;
                }
                exchange.write(chunk("")).await;
                Some(exchange)
            }
        })
        .await;
        let decode = Scripted::answering(json_answer(200, r#"{"from":"decode"}"#)).await;
        let sidecar = Sidecar::start(decode.port(), &[FLAG]);
        let ask = Ask::post(NATIVE, r#"{"stream":true}"#).prefill(&prefill.host_port());
        let answer = ask.send(sidecar.address()).await;
        match error {
            None => assert_eq!(answer.ok().text(), r#"{"from":"decode"}"#),
            Some(error) => answer.is_error(502, "prefill_error_in_answer", error),
        }
        sidecar.end().await;
    }
}

#[tokio::test]
async fn a_prefill_answer_need_not_be_json() {
    let prefill = Scripted::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let decode = Scripted::answering(json_answer(200, r#"{"from":"decode"}"#)).await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let ask = Ask::post(NATIVE, "{}").prefill(&prefill.host_port());
    assert_eq!(ask.send(sidecar.address()).await.ok().text(), r#"{"from":"decode"}"#);
    sidecar.end().await;
}
