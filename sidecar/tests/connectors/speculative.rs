//! Speculative prefill: after a turn of a chat, the engine that prefilled it gets what is known of the next, and nobody
//! waits for that, sees it, or holds KV because of it.

use std::sync::Arc;

use kvferry_emulator::{Config, Emulator, Role, Speeds};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::answering::answering;
use crate::common::{
    Answer, Ask, Exchange, LEASE, PATIENCE, Received, Rig, Scripted, Sidecar, chunk, events, eventually,
    json_answer, prompt, sse_head, within,
};
use crate::hosts::own_host;

const CHAT: &str = "/v1/chat/completions";
const FLAG: &str = "--enable-speculative-prefill";
const HEADER: &str = "x-speculative-prefill";
const OUTCOMES: [&str; 4] = ["sent", "skipped_busy", "skipped_large", "failed"];

const TURN: &str =
    r#"{"model":"m","stream":true,"max_completion_tokens":50,"messages":[{"role":"user","content":"one"}]}"#;
const NEXT: &str = r#"{"model":"m","messages":[{"role":"user","content":"one"},{"role":"assistant","content":"the reply"},{"role":"user","content":" "}],"max_tokens":1,"max_completion_tokens":1,"stream":false}"#;
const PREFILLED: &str = r#"{"kv_transfer_params":{"x":1}}"#;

fn whole(text: &str, finish: &str) -> String {
    let text = Value::from(text);
    format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},"finish_reason":"{finish}"}}]}}"#
    )
}

fn event(delta: &str, finish: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n")
}

fn count(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.counted(&format!("speculative_prefill_total{{outcome=\"{outcome}\"}}"))
}

async fn counts(sidecar: &Sidecar, outcome: &str, number: u64) {
    eventually(outcome, || count(sidecar, outcome) == number).await;
}

/// Engines written down, and a sidecar between them.
struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    fn start(prefill: Scripted, decode: Scripted, flags: &[&str]) -> Self {
        let sidecar = Sidecar::start(decode.port(), flags);
        Self { prefill, decode, sidecar }
    }

    async fn answering(answer: impl Into<Vec<u8>>, flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, PREFILLED)).await;
        Self::start(prefill, Scripted::answering(answer).await, flags)
    }

    fn ask(&self, body: &str) -> Ask {
        Ask::post(CHAT, body).prefill(&self.prefill.host_port()).header(HEADER, "true")
    }

    async fn send(&self, body: &str) -> Answer {
        self.ask(body).send(self.sidecar.address()).await
    }

    /// The requests that were made ahead.
    fn ahead(&self) -> Vec<Received> {
        let all = [self.prefill.requests(), self.decode.requests()].concat();
        all.into_iter().filter(|leg| leg.text().contains(r#""content":" "}"#)).collect()
    }

    /// Ends a test in which no turn was followed by anything.
    async fn end_without_any(mut self) {
        // What ran behind an answer has ended when the sidecar has.
        self.sidecar.stop(PATIENCE).await;
        assert_eq!(OUTCOMES.map(|outcome| count(&self.sidecar, outcome)), [0; 4]);
        assert!(self.ahead().is_empty());
    }
}

#[tokio::test]
async fn what_is_known_of_the_next_turn_goes_to_its_prefill_engine_as_a_plain_request() {
    let stream: String = [
        event(r#"{"role":"assistant","content":""}"#, "null"),
        event(r#"{"content":"the "}"#, "null"),
        event(r#"{"content":"reply"}"#, "\"stop\""),
        "data: [DONE]\n\n".to_owned(),
    ]
    .iter()
    .map(|event| chunk(event))
    .collect();
    let stream = format!("{}{stream}{}", sse_head(), chunk(""));
    for answer in [json_answer(200, &whole("the reply", "stop")), stream.into_bytes()] {
        let rig = Scripts::answering(answer, &[FLAG]).await;
        let ask = rig.ask(TURN).header("x-request-id", "id").header("authorization", "Bearer x");
        ask.send(rig.sidecar.address()).await.ok();
        counts(&rig.sidecar, "sent", 1).await;
        let seen = rig.prefill.requests();
        assert_eq!(seen[1].text(), NEXT);
        assert_eq!(
            (seen[0].header("x-request-id"), seen[1].header("x-request-id")),
            (Some("id"), Some("id-next"))
        );
        assert_eq!(seen[1].header("authorization"), Some("Bearer x"));
        assert!(
            [rig.prefill.requests(), rig.decode.requests()]
                .concat()
                .iter()
                .all(|leg| { leg.header(HEADER).is_none() && leg.header("x-prefiller-host-port").is_none() })
        );
        assert_eq!((seen.len(), rig.decode.requests().len()), (2, 1));
        assert_eq!(rig.sidecar.end().await.handed_out, 1, "what was made ahead is in no account");
    }
}

#[tokio::test]
async fn an_answer_made_of_chunks_is_one_reply() {
    for stream in [true, false] {
        let chunks = [whole("the ", "length"), whole("reply", "stop"), whole("x", "stop")];
        let decode = answering(move |n, _| json_answer(200, &chunks[n])).await;
        let prefill = Scripted::answering(json_answer(200, PREFILLED)).await;
        let rig = Scripts::start(prefill, decode, &[FLAG, "--decode-chunk-size=10"]);
        rig.send(&TURN.replace("true", &stream.to_string())).await.ok();
        counts(&rig.sidecar, "sent", 1).await;
        assert_eq!((rig.prefill.requests()[1].text().as_str(), rig.decode.requests().len()), (NEXT, 2));
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn without_a_prefill_engine_it_goes_to_the_decode_engine() {
    let rig = Scripts::answering(json_answer(200, &whole("the reply", "stop")), &[FLAG]).await;
    let ask = Ask::post(CHAT, TURN).header(HEADER, "TRUE");
    ask.send(rig.sidecar.address()).await.ok();
    counts(&rig.sidecar, "sent", 1).await;
    let texts: Vec<String> = rig.decode.requests().iter().map(Received::text).collect();
    assert_eq!(texts, [TURN, NEXT]);
    assert!(rig.prefill.requests().is_empty());
    assert!(rig.decode.requests().iter().all(|leg| leg.header(HEADER).is_none()));
    rig.sidecar.end().await;
}

#[tokio::test]
async fn after_a_failover_it_goes_to_who_prefilled_the_turn() {
    let broken = Scripted::answering(json_answer(500, "{}")).await;
    for (policy, local) in [("retry-other", false), ("local", true)] {
        let flags = [FLAG, &format!("--prefill-failure-policy={policy}"), "--prefill-local-ratio=1"];
        let rig = Scripts::answering(json_answer(200, &whole("the reply", "stop")), &flags).await;
        let other = rig.prefill.host_port();
        let targets = if local { broken.host_port() } else { format!("{},{other}", broken.host_port()) };
        Ask::post(CHAT, TURN).prefill(&targets).header(HEADER, "true").send(rig.sidecar.address()).await.ok();
        counts(&rig.sidecar, "sent", 1).await;
        let of = |engine: &Scripted| engine.requests().iter().filter(|leg| leg.text() == NEXT).count();
        let expected = if local { (0, 0, 1) } else { (0, 1, 0) };
        assert_eq!((of(&broken), of(&rig.prefill), of(&rig.decode)), expected, "{policy}");
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn nothing_is_sent_unless_both_the_flag_and_the_header_say_so() {
    let answer = json_answer(200, &whole("the reply", "stop"));
    for (flags, value) in [(&[][..], Some("true")), (&[FLAG], Some("false")), (&[FLAG], None)] {
        let rig = Scripts::answering(answer.clone(), flags).await;
        for prefill in [true, false] {
            let mut ask = Ask::post(CHAT, TURN);
            if prefill {
                ask = ask.prefill(&rig.prefill.host_port());
            }
            if let Some(value) = value {
                ask = ask.header(HEADER, value);
            }
            ask.send(rig.sidecar.address()).await.ok();
        }
        assert!(rig.decode.requests().iter().all(|leg| leg.header(HEADER).is_none()));
        rig.end_without_any().await;
    }
}

#[tokio::test]
async fn no_other_route_is_followed_and_none_lets_the_header_through() {
    let rig = Scripts::answering(json_answer(200, &whole("the reply", "stop")), &[FLAG]).await;
    for path in ["/v1/completions", "/v1/messages", "/v1/embeddings"] {
        let ask = Ask::post(path, TURN).prefill(&rig.prefill.host_port()).header(HEADER, "true");
        ask.send(rig.sidecar.address()).await.ok();
    }
    Ask::get("/v1/models").header(HEADER, "true").send(rig.sidecar.address()).await.ok();
    let seen = [rig.prefill.requests(), rig.decode.requests()].concat();
    assert!(seen.len() >= 6 && seen.iter().all(|leg| leg.header(HEADER).is_none()));
    rig.end_without_any().await;
}

#[tokio::test]
async fn an_answer_that_failed_was_cut_or_is_more_than_text_has_no_next_turn() {
    let stop = whole("the reply", "stop");
    let broken = format!("{}{}", sse_head(), chunk(&event(r#"{"content":"the reply"}"#, "\"stop\"")));
    let told = chunk(&event(r#"{"content":"a"}"#, "\"stop\""))
        + &chunk("data: {\"error\":{\"message\":\"m\"}}\n\n")
        + &chunk("");
    for answer in [
        json_answer(500, &stop),
        json_answer(400, &stop),
        json_answer(200, &whole("the reply", "length")),
        json_answer(200, &whole("", "stop")),
        json_answer(200, &stop.replace(r#""content""#, r#""tool_calls":[{"id":"x"}],"content""#)),
        json_answer(200, &whole("the reply", "tool_calls")),
        json_answer(200, "{}"),
        format!("{}{told}", sse_head()).into_bytes(),
        broken.into_bytes(),
    ] {
        let cut = !answer.ends_with(b"}") && !answer.ends_with(b"0\r\n\r\n");
        let decode = Scripted::start(move |mut exchange| {
            let answer = answer.clone();
            async move {
                exchange.write(answer).await;
                (!cut).then_some(exchange)
            }
        })
        .await;
        let prefill = Scripted::answering(json_answer(200, PREFILLED)).await;
        let rig = Scripts::start(prefill, decode, &[FLAG]);
        let answer = rig.ask(TURN).try_send(rig.sidecar.address()).await;
        assert_eq!(answer.is_err(), cut);
        rig.end_without_any().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_has_no_next_turn() {
    let decode = Scripted::start(|mut exchange| async move {
        exchange.write(sse_head()).await;
        exchange.write(chunk(&event(r#"{"content":"the reply"}"#, "\"stop\""))).await;
        exchange.left().await;
        None
    })
    .await;
    let prefill = Scripted::answering(json_answer(200, PREFILLED)).await;
    let rig = Scripts::start(prefill, decode, &[FLAG]);
    let mut answer = rig.ask(TURN).open(rig.sidecar.address()).await.unwrap();
    answer.until("the reply").await;
    drop(answer);
    eventually("its connection is closed", || rig.sidecar.connections() == 0).await;
    rig.end_without_any().await;
}

#[tokio::test]
async fn an_answer_too_long_to_keep_is_counted_and_reaches_its_client_whole() {
    let long = whole(&"x".repeat(1100 * 1024), "stop");
    let rig = Scripts::answering(json_answer(200, &long), &[FLAG]).await;
    let answer = rig.send(TURN).await.ok();
    assert!(answer.body == long.as_bytes());
    counts(&rig.sidecar, "skipped_large", 1).await;
    assert!(rig.ahead().is_empty());
    rig.sidecar.end().await;
}

/// A prefill engine that keeps what is made ahead until told.
async fn holding(told: &Arc<Notify>) -> Scripted {
    let told = Arc::clone(told);
    Scripted::start(move |mut exchange| {
        let told = Arc::clone(&told);
        async move {
            if exchange.request.text() == NEXT {
                told.notified().await;
            }
            exchange.write(json_answer(200, PREFILLED)).await;
            Some(exchange)
        }
    })
    .await
}

#[tokio::test]
async fn one_at_a_time_is_made_ahead_and_no_client_waits_for_it() {
    let told = Arc::new(Notify::new());
    let decode = Scripted::answering(json_answer(200, &whole("the reply", "stop"))).await;
    let rig = Scripts::start(holding(&told).await, decode, &[FLAG, "--workers=3"]);
    rig.send(TURN).await.ok();
    eventually("it is sent", || rig.ahead().len() == 1).await;
    for busy in 1..=3 {
        rig.send(TURN).await.ok();
        counts(&rig.sidecar, "skipped_busy", busy).await;
    }
    told.notify_one();
    counts(&rig.sidecar, "sent", 1).await;
    rig.send(TURN).await.ok();
    told.notify_one();
    counts(&rig.sidecar, "sent", 2).await;
    assert_eq!(OUTCOMES.map(|outcome| count(&rig.sidecar, outcome)), [2, 3, 0, 0]);
    assert_eq!(rig.ahead().len(), 2);
    rig.sidecar.end().await;
}

#[tokio::test]
async fn one_that_its_engine_refuses_is_counted_and_makes_room() {
    let prefill = answering(|n, _| json_answer(if n % 2 == 1 { 503 } else { 200 }, PREFILLED)).await;
    let decode = Scripted::answering(json_answer(200, &whole("the reply", "stop"))).await;
    let rig = Scripts::start(prefill, decode, &[FLAG]);
    for failed in 1..=2 {
        rig.send(TURN).await.ok();
        counts(&rig.sidecar, "failed", failed).await;
    }
    rig.sidecar.end().await;
}

#[tokio::test]
async fn a_sidecar_that_stops_waits_for_none() {
    let told = Arc::new(Notify::new());
    let decode = Scripted::answering(json_answer(200, &whole("the reply", "stop"))).await;
    let mut rig = Scripts::start(holding(&told).await, decode, &[FLAG]);
    rig.send(TURN).await.ok();
    eventually("it is sent", || rig.ahead().len() == 1).await;
    rig.sidecar.stop(LEASE).await;
    assert_eq!(count(&rig.sidecar, "failed"), 1);
}

/// Tokens of a block of the emulated engines.
const BLOCK: usize = 16;

/// The token with which replies of the emulated model end by themselves: a few blocks.
const END: usize = 40;

fn engine(role: Role) -> Config {
    Config { role, kv_lease: LEASE, stop_after: Some(END), ..Config::default() }
}

async fn emulated(flags: &[&str]) -> Rig {
    let prefill = Emulator::start(engine(Role::Prefill)).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), flags);
    Rig { prefill, decode, sidecar }
}

fn chat(turns: &[String], stream: bool) -> String {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages: Vec<Value> =
        roles.zip(turns).map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"model": "tiny", "max_tokens": 100, "stream": stream, "messages": messages,
        "stream_options": if stream { json!({"include_usage": true}) } else { json!(null) }})
    .to_string()
}

/// The reply in an answer, and how many of its prompt's tokens were cached.
fn reply(answer: &Answer) -> (String, u64) {
    let text = |at: &str, value: &Value| value.pointer(at).and_then(Value::as_str).unwrap_or("").to_owned();
    let cached =
        |value: &Value| value.pointer("/usage/prompt_tokens_details/cached_tokens").and_then(Value::as_u64);
    if answer.header("content-type").starts_with("text/event-stream") {
        let events = events(&answer.text());
        let said = events.iter().map(|event| text("/choices/0/delta/content", event)).collect();
        return (said, events.iter().find_map(cached).unwrap());
    }
    let answer = answer.json();
    (text("/choices/0/message/content", &answer), cached(&answer).unwrap())
}

/// Says two turns, the second once `between` has ended. Returns how many tokens of the second's prompt prefill had cached.
async fn second_turn(rig: &Rig, stream: bool, between: impl Future<Output = ()>) -> u64 {
    let say = async |turns: &[String]| {
        let ask = rig.ask(CHAT, chat(turns, stream)).header(HEADER, "true");
        reply(&ask.send(rig.address()).await.ok())
    };
    let first = prompt(40);
    let (said, _) = say(std::slice::from_ref(&first)).await;
    between.await;
    say(&[first, said, prompt(20)]).await.1
}

#[tokio::test]
async fn the_next_turn_finds_the_answer_cached_where_it_is_prefilled() {
    // Also of an answer that prefill has begun, and of one that is watched by another.
    let ways = [&[][..], &["--first-token-forwarding"], &["--bidirectional-kv"]];
    for (way, stream) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let off = emulated(way).await;
        let before = second_turn(&off, stream, async {}).await;
        assert_eq!(off.end().await.consumed, 2);
        let on = emulated(&[&[FLAG], way].concat()).await;
        let cached = second_turn(&on, stream, counts(&on.sidecar, "sent", 1)).await;
        // All of its blocks that are full: it begins and ends within others.
        let more = cached.checked_sub(before).unwrap();
        assert!(
            more >= (END - BLOCK) as u64,
            "{way:?} stream={stream}: {before} tokens cached, then {more} more"
        );
        counts(&on.sidecar, "sent", 2).await;
        assert_eq!(on.decode.state().totals.computed_prompts, 0);
        assert_eq!(on.end().await.handed_out, 2, "what was made ahead left nothing behind");
    }
}

#[tokio::test]
async fn a_client_that_leaves_emulated_engines_leaves_nothing_there() {
    let slow = Speeds { itl_ms: 50, ..Speeds::default() };
    let prefill = Emulator::start(engine(Role::Prefill)).await.unwrap();
    let decode = Emulator::start(Config { speeds: slow, ..engine(Role::Decode) }).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[FLAG]);
    let mut rig = Rig { prefill, decode, sidecar };
    let ask = rig.ask(CHAT, chat(&[prompt(40)], true)).header(HEADER, "true");
    let mut answer = ask.open(rig.address()).await.unwrap();
    answer.data().await.unwrap().unwrap();
    drop(answer);
    rig.settled().await;
    rig.sidecar.stop(PATIENCE).await;
    assert_eq!(OUTCOMES.map(|outcome| count(&rig.sidecar, outcome)), [0; 4]);
    assert!(rig.prefill.state().idle() && rig.decode.state().idle());
}

#[tokio::test]
async fn sglang_engines_meet_for_it_in_a_room_of_its_own() {
    let engine = |role| Config { rendezvous_timeout: LEASE, ..engine(role) };
    let prefill = Config { host: own_host(), bootstrap_port: 8998, ..engine(Role::Prefill) };
    let prefill = Emulator::start(prefill).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[FLAG, "--kv-connector=sglang"]);
    let rig = Rig { prefill, decode, sidecar };
    let ask = rig.ask(CHAT, chat(&[prompt(40)], false)).header(HEADER, "true");
    ask.send(rig.address()).await.ok();
    counts(&rig.sidecar, "sent", 1).await;
    let legs = |engine: &Emulator| -> Vec<Value> {
        let chats = engine.requests().into_iter().filter(|leg| leg.path == CHAT);
        chats.map(|leg| serde_json::from_str(leg.body.as_ref().unwrap()).unwrap()).collect()
    };
    let (prefill, decode) = (legs(&rig.prefill), legs(&rig.decode));
    assert_eq!((prefill.len(), decode.len()), (2, 2));
    assert_eq!(prefill[1], decode[1]);
    assert_eq!((&prefill[1]["max_tokens"], &prefill[1]["messages"][2]["content"]), (&json!(1), &json!(" ")));
    assert_ne!(prefill[0]["bootstrap_room"], prefill[1]["bootstrap_room"]);
    assert_eq!((rig.decode.state().totals.pulls, rig.decode.state().totals.computed_prompts), (2, 0));
    rig.end().await;
}

#[tokio::test]
async fn sglang_legs_go_down_together() {
    let (there, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let is_ahead = |exchange: &Exchange| exchange.request.text().contains(r#""content":" "}"#);
    let prefill = Scripted::start({
        let there = Arc::clone(&there);
        move |mut exchange| {
            let there = Arc::clone(&there);
            async move {
                if is_ahead(&exchange) {
                    there.notified().await;
                    exchange.write(json_answer(500, "{}")).await;
                } else {
                    exchange.write(json_answer(200, "{}")).await;
                }
                Some(exchange)
            }
        }
    })
    .await;
    let decode = Scripted::start({
        let gone = Arc::clone(&gone);
        move |mut exchange| {
            let (there, gone) = (Arc::clone(&there), Arc::clone(&gone));
            async move {
                if is_ahead(&exchange) {
                    there.notify_one();
                    exchange.left().await;
                    gone.notify_one();
                    return None;
                }
                exchange.write(json_answer(200, &whole("the reply", "stop"))).await;
                Some(exchange)
            }
        }
    })
    .await;
    let rig = Scripts::start(prefill, decode, &[FLAG, "--kv-connector=sglang"]);
    rig.send(TURN).await.ok();
    counts(&rig.sidecar, "failed", 1).await;
    within("the decode engine is let go", gone.notified()).await;
    rig.sidecar.end().await;
}

#[tokio::test]
async fn an_answer_in_a_coding_passes_unread() {
    let coded = json_answer(200, &whole("the reply", "stop"));
    let coded = String::from_utf8(coded).unwrap().replace("\r\n\r\n", "\r\ncontent-encoding: br\r\n\r\n");
    let rig = Scripts::answering(coded, &[FLAG]).await;
    Ask::post(CHAT, TURN).header(HEADER, "true").send(rig.sidecar.address()).await.ok();
    rig.end_without_any().await;
}

#[tokio::test]
async fn what_an_encoder_prepared_is_there_for_one_prefill() {
    let encoder = Scripted::answering(json_answer(200, "{}")).await;
    let rig = Scripts::answering(
        json_answer(200, &whole("the reply", "stop")),
        &[FLAG, "--ec-connector=ec-example"],
    )
    .await;
    let ask = rig.ask(TURN).header("x-encoder-hosts-ports", &encoder.host_port());
    ask.send(rig.sidecar.address()).await.ok();
    rig.end_without_any().await;
}
