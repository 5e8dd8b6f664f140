//! ATOM's pairing: the rank in both bodies, and what decode is told of prefill's KV.

use serde_json::Value;

use crate::common::{Ask, Received, Scripted, Sidecar, json_answer};

const CHAT: &str = "/v1/chat/completions";
const RETURNED: &str = r#"{"kv_transfer_params":{"dp_rank":2,"big":1e400,"first_token_id":7,"remote_host":"h"},
    "usage":{"prompt_tokens_details":{"cached_tokens":48}}}"#;

fn rank(leg: &Received) -> Value {
    serde_json::from_str::<Value>(&leg.text()).unwrap()["data_parallel_rank"].clone()
}

#[tokio::test]
async fn both_legs_name_one_rank_and_decode_gets_the_kv_in_its_own_words() {
    let prefill = Scripted::answering(json_answer(200, RETURNED)).await;
    let usage = r#"{"usage":{"prompt_tokens_details":{"cached_tokens":63}}}"#;
    let decode = Scripted::answering(json_answer(200, usage)).await;
    let sidecar = Sidecar::start(decode.port(), &["--kv-connector=atom"]);
    let body = r#"{"max_tokens": 900 ,"data_parallel_rank":9,"stream":false,"a":1.0}"#;
    let answer = Ask::post(CHAT, body).prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
    assert_eq!(answer.text(), usage.replace("63", "48"), "what prefill had cached");
    let (one, other) = (&prefill.requests()[0], &decode.requests()[0]);
    let keep = r#"{"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false},"#;
    let capped = body.replace(" 900 ", " 1 ").replace("rank\":9", "rank\":0");
    assert_eq!(one.text(), capped.replacen('{', &format!("{keep}\"max_completion_tokens\":1,"), 1));
    let fetch = r#"{"kv_transfer_params":{"remote_dp_rank":2,"dp_rank":2,"big":1e400,"remote_host":"h"},"#;
    assert_eq!(other.text(), body.replace("rank\":9", "rank\":0").replacen('{', fetch, 1));
    assert_eq!((one.header("x-request-id"), rank(one)), (other.header("x-request-id"), 0.into()));
    assert_eq!(sidecar.end().await.consumed, 1);
}

#[tokio::test]
async fn kv_that_nobody_fetched_is_left_to_the_engines_own_limit_and_counted() {
    let prefill = Scripted::answering(json_answer(200, RETURNED)).await;
    let decode = Scripted::answering(json_answer(500, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &["--kv-connector=atom"]);
    let answer = Ask::post(CHAT, "{}").prefill(&prefill.host_port()).send(sidecar.address()).await;
    assert_eq!(answer.status.as_u16(), 500);
    let counts = sidecar.end().await;
    assert_eq!((counts.released, counts.expired), (0, 1));
    assert_eq!(decode.requests().len(), 1, "no request is known that would free it");
}
