//! sglang's pair: both legs carry a room, the decode leg fetches what the prefill leg offers there, and a leg
//! whose other leg does not come ends in an error.

mod common;

use std::time::Duration;

use common::{Leg, SOON, eventually, get, output, post, prompt, refused, request, routes, send, start};
use http::{Method, StatusCode};
use kvferry_emulator::{Config, Connector, Emulator, Faults, Role, Speeds};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

async fn pair(patience: Duration) -> (Emulator, Emulator) {
    let config = |role| Config { role, rendezvous_timeout: patience, ..Config::default() };
    (start(config(Role::Prefill)).await, start(config(Role::Decode)).await)
}

async fn patient_pair() -> (Emulator, Emulator) {
    pair(Config::default().rendezvous_timeout).await
}

/// `body` as both legs get it.
fn leg(body: &Value, prefill: &Emulator, room: u64) -> Value {
    let mut leg = body.clone();
    leg["bootstrap_host"] = "127.0.0.1".into();
    leg["bootstrap_port"] = prefill.bootstrap_port().into();
    leg["bootstrap_room"] = room.into();
    leg
}

#[tokio::test]
async fn a_pair_answers_like_one_engine_on_every_route_whichever_leg_is_first() {
    let (p, d) = patient_pair().await;
    let alone = start(Config::default()).await;
    let native =
        ("/generate", json!({"text": "one two three four", "sampling_params": {"max_new_tokens": 9}}));
    let rooms = [(1, false), (2, true), (3, false), (u64::MAX, true)];
    for (path, body) in routes().into_iter().chain([native]) {
        let expected = output(&post(alone.addr(), path, &body).await);
        for (room, stream) in rooms {
            let mut leg = leg(&body, &p, room);
            leg["stream"] = stream.into();
            let (first, second) = if room % 2 == 0 { (&p, &d) } else { (&d, &p) };
            let early = Leg::send(first.addr(), path, &leg);
            eventually("the first leg waits", || !first.state().idle()).await;
            let late = post(second.addr(), path, &leg).await;
            let early = early.answer().await;
            let (prefill, decode) = if room % 2 == 0 { (early, late) } else { (late, early) };
            assert_eq!(output(&decode), expected, "{path} room {room}");
            assert_eq!(prefill.status, StatusCode::OK, "{}", prefill.text());
            eventually("both idle", || p.state().idle() && d.state().idle()).await;
        }
    }
    assert_eq!(d.state().totals.computed_prompts, 0);
    assert_eq!((p.state().totals.prefills, p.state().totals.expired), (24, 0));
}

#[tokio::test]
async fn a_prefill_leg_answers_one_token_after_its_kv_was_fetched() {
    let (p, d) = patient_pair().await;
    let leg = leg(&prompt(), &p, 7);
    let prefill = Leg::send(p.addr(), PATH, &leg);
    eventually("the room is open", || p.state().blocks.held.leased == 1).await;
    assert!(!prefill.answered());
    assert_eq!(p.state().leases[0].request_id, "7");
    let decode = post(d.addr(), PATH, &leg).await.json();
    let prefill = prefill.answer().await.json();
    assert_eq!(prefill["usage"]["completion_tokens"], 1);
    let first = prefill["choices"][0]["text"].as_str().unwrap();
    assert!(decode["choices"][0]["text"].as_str().unwrap().starts_with(first));
    assert!(prefill["kv_transfer_params"].is_null());
    assert!(p.state().idle());
}

#[tokio::test]
async fn a_prefill_leg_without_a_decode_leg_ends_in_an_error_and_frees() {
    let (p, _d) = pair(SOON).await;
    refused(&post(p.addr(), PATH, &leg(&prompt(), &p, 7)).await, "no decode engine came to room 7");
    assert!(p.state().idle());
    assert_eq!((p.state().totals.expired, p.state().totals.prefills), (1, 0));
    let mut streamed = leg(&prompt(), &p, 7);
    streamed["stream"] = true.into();
    let text = post(p.addr(), PATH, &streamed).await.text();
    assert!(text.contains("no decode engine came") && !text.contains("\"text\""), "{text}");
}

#[tokio::test]
async fn a_decode_leg_without_a_prefill_leg_ends_in_an_error_and_frees() {
    let (p, d) = pair(SOON).await;
    refused(&post(d.addr(), PATH, &leg(&prompt(), &p, 7)).await, "nothing came from the other engine");
    assert!(d.state().idle());
    assert_eq!((d.state().totals.pull_refused, d.state().totals.computed_prompts), (1, 0));
}

#[tokio::test]
async fn legs_in_different_rooms_do_not_meet() {
    let (p, d) = pair(SOON).await;
    let prefill = Leg::send(p.addr(), PATH, &leg(&prompt(), &p, 7));
    refused(&post(d.addr(), PATH, &leg(&prompt(), &p, 8)).await, "nothing came");
    refused(&prefill.answer().await, "no decode engine came");
}

#[tokio::test]
async fn a_wrong_host_or_port_is_an_error() {
    let (p, d) = patient_pair().await;
    for (field, wrong) in [
        ("bootstrap_port", json!(p.kv_port())),
        ("bootstrap_port", json!(p.addr().port())),
        ("bootstrap_port", json!(1)),
        ("bootstrap_host", json!("127.0.0.2")),
        ("bootstrap_port", Value::Null),
        ("bootstrap_host", json!("")),
        ("bootstrap_room", json!("seven")),
        ("bootstrap_room", Value::Null),
    ] {
        let mut leg = leg(&prompt(), &p, 7);
        leg[field] = wrong.clone();
        refused(&post(d.addr(), PATH, &leg).await, "KV load failed");
        assert!(d.state().idle(), "{field} {wrong}");
    }
    assert_eq!(d.state().totals.computed_prompts, 0);
}

#[tokio::test]
async fn a_room_is_for_one_pair() {
    let (p, d) = patient_pair().await;
    let first = Leg::send(p.addr(), PATH, &leg(&prompt(), &p, 7));
    eventually("the room is open", || p.state().blocks.held.leased == 1).await;
    refused(&post(p.addr(), PATH, &leg(&prompt(), &p, 7)).await, "in use by another request");
    post(d.addr(), PATH, &leg(&prompt(), &p, 7)).await;
    assert_eq!(first.answer().await.status, StatusCode::OK);
}

#[tokio::test]
async fn kv_of_another_prompt_or_with_a_flipped_bit_gives_another_answer_and_short_kv_an_error() {
    let (p, d) = patient_pair().await;
    let expected = output(&post(d.addr(), PATH, &prompt()).await);
    let mut other = prompt();
    other["prompt"] = "the quick brown fox jumps over the lazy cat".into();
    let prefill = Leg::send(p.addr(), PATH, &leg(&other, &p, 1));
    assert_ne!(output(&post(d.addr(), PATH, &leg(&prompt(), &p, 1)).await), expected);
    assert_eq!(prefill.answer().await.status, StatusCode::OK);

    p.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    let prefill = Leg::send(p.addr(), PATH, &leg(&prompt(), &p, 2));
    assert_ne!(output(&post(d.addr(), PATH, &leg(&prompt(), &p, 2)).await), expected);
    assert_eq!(prefill.answer().await.status, StatusCode::OK);

    other["prompt"] = "short".into();
    let prefill = Leg::send(p.addr(), PATH, &leg(&other, &p, 3));
    let mut long = prompt();
    long["prompt"] = (0..100).collect::<Vec<u32>>().into();
    refused(&post(d.addr(), PATH, &leg(&long, &p, 3)).await, "needs 7 blocks, 1 are on offer");
    // The offer stands: it was the wrong reader.
    eventually("it is on offer again", || p.state().blocks.held.leased == 1).await;
    prefill.leave();
}

#[tokio::test]
async fn a_client_that_leaves_either_leg_frees_that_side_only() {
    let (p, d) = patient_pair().await;
    let decode = Leg::send(d.addr(), PATH, &leg(&prompt(), &p, 7));
    eventually("decode waits", || d.state().requests.waiting == 1 && d.state().blocks.held.running > 0).await;
    decode.leave();
    eventually("decode is free", || d.state().idle()).await;

    let prefill = Leg::send(p.addr(), PATH, &leg(&prompt(), &p, 7));
    eventually("the room is open", || p.state().blocks.held.leased == 1).await;
    prefill.leave();
    eventually("prefill is free", || p.state().idle()).await;
    assert_eq!((p.state().totals.aborted, d.state().totals.aborted), (1, 1));

    // Neither departure spoils the room for a later pair.
    let prefill = Leg::send(p.addr(), PATH, &leg(&prompt(), &p, 7));
    let expected = output(&post(d.addr(), PATH, &prompt()).await);
    assert_eq!(output(&post(d.addr(), PATH, &leg(&prompt(), &p, 7)).await), expected);
    assert_eq!(prefill.answer().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_decode_leg_that_leaves_during_the_transfer_leaves_the_kv_for_another() {
    let (p, d) = patient_pair().await;
    let mut body = prompt();
    body["prompt"] = (0..320).collect::<Vec<u32>>().into();
    let prefill = Leg::send(p.addr(), PATH, &leg(&body, &p, 7));
    p.set_speeds(Speeds { transfer_rate: 4096, ..Speeds::default() });
    let decode = Leg::send(d.addr(), PATH, &leg(&body, &p, 7));
    eventually("the transfer runs", || p.state().requests.running == 1 && p.state().leases.is_empty()).await;
    decode.leave();
    eventually("it is on offer again", || p.state().blocks.held.leased == 20).await;
    p.set_speeds(Speeds::default());
    assert_eq!(post(d.addr(), PATH, &leg(&body, &p, 7)).await.status, StatusCode::OK);
    assert_eq!(prefill.answer().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_restart_of_the_prefill_engine_ends_a_waiting_decode_leg() {
    let (p, d) = patient_pair().await;
    let decode = Leg::send(d.addr(), PATH, &leg(&prompt(), &p, 7));
    eventually("decode waits at the prefill engine", || {
        p.requests().iter().any(|seen| seen.path == "/route")
    })
    .await;
    p.restart();
    refused(&decode.answer().await, "KV load failed");
    assert!(d.state().idle());
}

#[tokio::test]
async fn an_abort_by_rid_ends_a_waiting_leg() {
    let (p, d) = patient_pair().await;
    for (engine, rid) in [(&p, "p1"), (&d, "d1")] {
        let mut leg = leg(&json!({"text": "hello there", "sampling_params": {}}), &p, 7);
        leg["rid"] = rid.into();
        let waiting = Leg::send(engine.addr(), "/generate", &leg);
        eventually("the leg waits", || !engine.state().idle()).await;
        assert_eq!(
            post(engine.addr(), "/abort_request", &json!({"rid": "other"})).await.status,
            StatusCode::OK
        );
        assert!(!waiting.answered());
        assert_eq!(post(engine.addr(), "/abort_request", &json!({"rid": rid})).await.status, StatusCode::OK);
        let answer = waiting.answer().await.json();
        assert_eq!(answer["meta_info"]["finish_reason"]["type"], "abort", "{answer}");
        assert_eq!((&answer["meta_info"]["id"], &answer["text"]), (&json!(rid), &json!("")));
        eventually("all free", || engine.state().idle()).await;
    }
    let wrong = post(p.addr(), "/abort_request", &json!({"request_id": "x"})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_engine_for_sglang_refuses_requests_without_a_room_and_others_roles_refuse_rooms() {
    let strict = Config { role: Role::Decode, connector: Some(Connector::Sglang), ..Config::default() };
    let d = start(strict).await;
    refused(&post(d.addr(), PATH, &prompt()).await, "no bootstrap_room");
    let both = start(Config::default()).await;
    refused(&post(both.addr(), PATH, &leg(&prompt(), &both, 7)).await, "role prefill or decode");
    let nixl =
        start(Config { connector: Some(Connector::Nixl), role: Role::Decode, ..Config::default() }).await;
    refused(&post(nixl.addr(), PATH, &leg(&prompt(), &both, 7)).await, "speaks nixl, the request sglang");
}

#[tokio::test]
async fn the_native_route_streams_everything_so_far() {
    let engine = start(Config::default()).await;
    let mut body = json!({"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 3}, "rid": "mine"});
    let whole = post(engine.addr(), "/generate", &body).await.json();
    assert_eq!(whole["output_ids"].as_array().unwrap().len(), 3);
    let meta = &whole["meta_info"];
    assert_eq!(meta["finish_reason"], json!({"type": "length", "length": 3}));
    assert_eq!((&meta["prompt_tokens"], &meta["completion_tokens"]), (&json!(3), &json!(3)));
    assert_eq!((&meta["cached_tokens"], &meta["id"]), (&json!(0), &json!("mine")));
    body["stream"] = true.into();
    let text = post(engine.addr(), "/generate", &body).await.text();
    let frames: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!((frames.len(), frames[3]), (4, "[DONE]"));
    let last: Value = serde_json::from_str(frames[2]).unwrap();
    assert_eq!((&last["text"], &last["output_ids"]), (&whole["text"], &whole["output_ids"]));
    let first: Value = serde_json::from_str(frames[0]).unwrap();
    assert!(first["meta_info"]["finish_reason"].is_null());
    assert!(whole["text"].as_str().unwrap().starts_with(first["text"].as_str().unwrap()));
    for wrong in [json!({}), json!({"text": "a", "input_ids": [1]}), json!({"text": ["a"]})] {
        assert_eq!(post(engine.addr(), "/generate", &wrong).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn the_bootstrap_server_answers_what_it_knows_and_nothing_else() {
    let engine = start(Config::default()).await;
    let bootstrap = (engine.addr().ip(), engine.bootstrap_port()).into();
    let route = get(bootstrap, "/route?engine_rank=0").await.json();
    assert_eq!((&route["rank_ip"], &route["rank_port"]), (&json!("127.0.0.1"), &json!(engine.kv_port())));
    assert_eq!(get(bootstrap, "/health").await.status, StatusCode::OK);
    assert_eq!(get(bootstrap, "/emulator/state").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(bootstrap, "/v1/models").await.status, StatusCode::NOT_FOUND);
    let posted = send(bootstrap, request(Method::POST, "/query", "{}")).await.unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    engine.set_faults(Faults { status: Some(503), path: Some("/route".into()), ..Faults::default() });
    assert_eq!(get(bootstrap, "/route").await.status, StatusCode::SERVICE_UNAVAILABLE);
}
