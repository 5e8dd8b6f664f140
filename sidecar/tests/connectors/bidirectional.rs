//! KV that goes back: what a decode engine offers in its answer reaches the prefill leg of the chat's next turn, once, and
//! nobody else's.

use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Role};
use serde_json::{Value, json};

use crate::common::{
    APIS, Answer, Ask, LEASE, Rig, Scripted, Sidecar, chunk, content, events, eventually, json_answer,
    prompt, sse_head,
};

const CHAT: &str = "/v1/chat/completions";
const FLAGS: [&str; 3] = ["--bidirectional-kv", "--pod-name=decode-0", "--pod-namespace=llm"];

/// base64 of `llm/decode-0-rank-0`.
const OUR_TOKEN: &str = "bGxtL2RlY29kZS0wLXJhbmstMA==";

/// base64 of `llm/decode-1-rank-0`.
const OTHER_TOKEN: &str = "bGxtL2RlY29kZS0xLXJhbmstMA==";

const PLAIN: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// What the decode engine offers, as no parser would write it.
const OFFER: &str = r#"{"do_remote_decode":true, "do_remote_prefill":false,"remote_block_ids":[[7 ,8]],"remote_engine_id":"d-1","remote_request_id":"chatcmpl-x","remote_host":"10.9.9.9","remote_port":5601,"remote_num_tokens":37,"remote_blocks_expiry_time":1234.50,"secret":1,"tp_size":1}"#;

/// What goes on of it.
const TAKEN: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":"d-1","remote_request_id":"chatcmpl-x","remote_host":"10.9.9.9","remote_port":5601,"remote_block_ids":[[7 ,8]],"remote_num_tokens":37,"remote_blocks_expiry_time":1234.50,"tp_size":1}"#;

const FIRST: &str = r#"{"model":"m","messages":[{"role":"user","content":"one"}]}"#;
const SECOND: &str = r#"{"model":"m","messages":[{"role":"user","content":"one"},{"role":"assistant","content":"the reply"},{"role":"user","content":"two"}]}"#;

fn whole() -> String {
    format!(
        r#"{{ "id":"x","choices":[{{"index":0,"message":{{"role":"assistant","content":"the reply","tool_calls":[]}},"finish_reason":"stop","stop_reason":null}}],"kv_transfer_params" : {OFFER} }}"#
    )
}

fn stream() -> [String; 5] {
    let event = |rest: &str| format!("data: {{\"id\":\"x\",\"choices\":[{rest}}}\n\n");
    [
        event(r#"{"index":0,"delta":{"role":"assistant","content":""}}]"#),
        event(r#"{"index":0,"delta":{"content":"the "}}]"#),
        event(r#"{"index":0,"delta":{"content":"reply"},"finish_reason":"stop"}]"#),
        event(&format!("],\"kv_transfer_params\":{OFFER}")),
        "data: [DONE]\n\n".to_owned(),
    ]
}

struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    async fn start(decode: Scripted, flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"x":1}}"#)).await;
        let sidecar = Sidecar::start(decode.port(), &[&FLAGS, flags].concat());
        Self { prefill, decode, sidecar }
    }

    async fn answering_whole(flags: &[&str]) -> Self {
        Self::start(Scripted::answering(json_answer(200, &whole())).await, flags).await
    }

    async fn send(&self, body: &str, token: Option<&str>) -> Answer {
        self.send_with(body, token.map(|token| ("x-session-token", token))).await
    }

    async fn send_with(&self, body: &str, header: Option<(&str, &str)>) -> Answer {
        let ask = Ask::post(CHAT, body).prefill(&self.prefill.host_port());
        let ask = header.into_iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        ask.send(self.sidecar.address()).await
    }

    /// What the last prefill leg was asked to do.
    fn asked(&self) -> String {
        let leg = self.prefill.requests().pop().unwrap().text();
        let start = "{\"kv_transfer_params\":";
        let end = leg.find(",\"stream\":false").unwrap();
        leg[start.len()..end].to_owned()
    }

    async fn end(self) {
        self.sidecar.end().await;
    }
}

#[tokio::test]
async fn the_next_turn_is_told_where_the_kv_is_once() {
    let rig = Scripts::answering_whole(&[]).await;
    let answer = rig.send(FIRST, None).await.ok();
    assert_eq!(answer.text(), whole(), "the client's answer is as it was");
    assert_eq!(rig.asked(), PLAIN);
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), TAKEN);
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), PLAIN, "blocks that were read are gone");
    assert!(
        rig.decode.requests().iter().all(|leg| leg.text().starts_with(r#"{"kv_transfer_params":{"x":1},"#))
    );
    rig.end().await;
}

#[tokio::test]
async fn an_offer_in_a_stream_is_captured_on_its_way_and_the_stream_is_untouched() {
    let decode = Scripted::start(|mut exchange| async {
        exchange.write(sse_head()).await;
        for event in stream() {
            // Cut in the middle of its event.
            let (one, other) = event.split_at(event.len() / 2);
            exchange.write(chunk(one)).await;
            exchange.write(chunk(other)).await;
        }
        exchange.write(chunk("")).await;
        Some(exchange)
    })
    .await;
    let rig = Scripts::start(decode, &[]).await;
    let body = |turn: &str| turn.replacen('{', "{\"stream\":true,", 1);
    assert_eq!(rig.send(&body(FIRST), None).await.ok().text(), stream().concat());
    // Streamed or not is no difference between chats.
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), TAKEN);
    rig.end().await;
}

#[tokio::test]
async fn a_chat_that_another_pod_served_or_that_went_another_way_is_told_nothing() {
    let rig = Scripts::answering_whole(&[]).await;
    let edited = |from: &str, to: &str| SECOND.replacen(from, to, 1);
    for (body, token) in [
        (SECOND.to_owned(), None),
        (SECOND.to_owned(), Some(OTHER_TOKEN)),
        (SECOND.to_owned(), Some("llm/decode-0-rank-0")),
        (edited("one", "One"), Some(OUR_TOKEN)),
        (edited("the reply", "a reply"), Some(OUR_TOKEN)),
        (edited("\"m\"", "\"other\""), Some(OUR_TOKEN)),
        (edited("\"m\"", "\"m\",\"cache_salt\":\"tenant\""), Some(OUR_TOKEN)),
        (edited("\"m\"", "\"m\",\"n\":2"), Some(OUR_TOKEN)),
        (edited("\"m\"", "\"m\",\"truncate_prompt_tokens\":9"), Some(OUR_TOKEN)),
    ] {
        rig.send(FIRST, None).await.ok();
        rig.send(&body, token).await.ok();
        assert_eq!(rig.asked(), PLAIN, "{body} {token:?}");
    }
    // Nothing of this has used the offer up.
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), TAKEN);
    rig.end().await;
}

#[tokio::test]
async fn a_second_attempt_computes_what_the_first_wanted_to_read() {
    let refusals = std::sync::atomic::AtomicUsize::new(0);
    let prefill = Scripted::start(move |mut exchange| {
        let offered = exchange.request.text().contains("d-1");
        let refuse = offered && refusals.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move {
            let (status, body) =
                if refuse { (503, "{}") } else { (200, r#"{"kv_transfer_params":{"x":1}}"#) };
            exchange.write(json_answer(status, body)).await;
            Some(exchange)
        }
    })
    .await;
    let decode = Scripted::answering(json_answer(200, &whole())).await;
    let retry = ["--prefill-max-retries=1", "--prefill-retry-backoff=1ms"];
    let sidecar = Sidecar::start(decode.port(), &[&FLAGS, &retry[..]].concat());
    let rig = Scripts { prefill, decode, sidecar };
    // Two turns, both offered: the second attempt must not fall back to the shorter one.
    let longer = SECOND
        .replace("]}", r#",{"role":"assistant","content":"the reply"},{"role":"user","content":"3"}]}"#);
    for turn in [FIRST, SECOND] {
        rig.send(turn, None).await.ok();
    }
    rig.send(&longer, Some(OUR_TOKEN)).await.ok();
    let legs = rig.prefill.requests();
    let offered: Vec<bool> = legs.iter().map(|leg| leg.text().contains("d-1")).collect();
    assert_eq!(offered, [false, false, true, false]);
    rig.end().await;
}

#[tokio::test]
async fn an_offer_of_a_former_life_of_the_engine_is_not_taken() {
    let lives = std::sync::atomic::AtomicUsize::new(0);
    let decode = Scripted::start(move |mut exchange| {
        let life = lives.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answer = whole().replace("d-1", if life == 0 { "d-0" } else { "d-1" });
        async move {
            exchange.write(json_answer(200, &answer)).await;
            Some(exchange)
        }
    })
    .await;
    let rig = Scripts::start(decode, &[]).await;
    rig.send(FIRST, None).await.ok();
    rig.send(&FIRST.replace("one", "another chat"), None).await.ok();
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), PLAIN);
    rig.end().await;
}

#[tokio::test]
async fn the_header_of_the_session_token_can_be_named() {
    let rig = Scripts::answering_whole(&["--bidirectional-session-header=X-My-Session"]).await;
    rig.send(FIRST, None).await.ok();
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), PLAIN);
    rig.send_with(SECOND, Some(("x-my-session", OUR_TOKEN))).await.ok();
    assert_eq!(rig.asked(), TAKEN);
    rig.end().await;
}

#[tokio::test]
async fn without_the_flag_an_offer_is_only_passed_on() {
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"x":1}}"#)).await;
    let decode = Scripted::answering(json_answer(200, &whole())).await;
    let sidecar = Sidecar::start(decode.port(), &["--pod-name=decode-0", "--pod-namespace=llm"]);
    let rig = Scripts { prefill, decode, sidecar };
    assert_eq!(rig.send(FIRST, None).await.ok().text(), whole());
    rig.send(SECOND, Some(OUR_TOKEN)).await.ok();
    assert_eq!(rig.asked(), PLAIN);
    rig.end().await;
}

#[tokio::test]
async fn engines_that_offer_serve_every_api_as_before() {
    let engine = Config { kv_lease: LEASE, ..Config::default() };
    let offering = Config { decoder_kv_ttl: Some(LEASE), ..engine.clone() };
    let alone = Emulator::start(offering.clone()).await.unwrap();
    let prefill = Emulator::start(engine).await.unwrap();
    let decode = Emulator::start(offering).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &FLAGS);
    let rig = Rig { prefill, decode, sidecar };
    for route in APIS {
        for stream in [false, true] {
            let ask = |ask: Ask| ask.header("x-request-id", "id").header("x-session-token", OUR_TOKEN);
            let expected = ask(Ask::post(route.path, route.body(stream))).send(alone.addr()).await.ok();
            let answer = ask(rig.ask(route.path, route.body(stream))).send(rig.address()).await.ok();
            let shown = |answer: &Answer| content(answer, &["usage", "kv_transfer_params"]);
            assert_eq!(shown(&answer), shown(&expected), "{} stream={stream}", route.path);
        }
    }
    // Its answers end at their limit, with a reply that a template may cut: none may be continued from.
    let seen: Vec<Value> = rig
        .prefill
        .requests()
        .iter()
        .map(|leg| serde_json::from_str(leg.body.as_ref().unwrap()).unwrap())
        .collect();
    assert!(seen.iter().all(|leg| leg["kv_transfer_params"]["remote_engine_id"] == json!(null)));
    // What decode engines keep is theirs to let go of.
    rig.decode.restart();
    rig.end().await;
}

/// The token with which replies of the emulated model end by themselves: a few blocks.
const END: usize = 40;

fn engine(role: Role) -> Config {
    Config { role, kv_lease: LEASE, stop_after: Some(END), ..Config::default() }
}

/// Emulated engines, of which decode keeps its KV for `ttl`.
async fn rig(ttl: Duration, flags: &[&str]) -> Rig {
    let prefill = Emulator::start(engine(Role::Prefill)).await.unwrap();
    let decode = Config { decoder_kv_ttl: Some(ttl), ..engine(Role::Decode) };
    let decode = Emulator::start(decode).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[&FLAGS, flags].concat());
    Rig { prefill, decode, sidecar }
}

/// A chat of which `turns` have been said, users' and replies in turn.
fn chat(turns: &[String], stream: bool) -> String {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages: Vec<Value> =
        roles.zip(turns).map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"model": "tiny", "max_tokens": 100, "stream": stream, "messages": messages}).to_string()
}

/// The reply in an answer, streamed or not.
fn reply(answer: &Answer) -> String {
    let text = |at: &str, value: &Value| value.pointer(at).and_then(Value::as_str).unwrap_or("").to_owned();
    if answer.header("content-type").starts_with("text/event-stream") {
        return events(&answer.text()).iter().map(|event| text("/choices/0/delta/content", event)).collect();
    }
    text("/choices/0/message/content", &answer.json())
}

/// Says one more thing in a chat; its answer goes behind what was said.
async fn say(rig: &Rig, turns: &mut Vec<String>, text: String, stream: bool) {
    let alone = Emulator::start(engine(Role::Both)).await.unwrap();
    turns.push(text);
    let expected = Ask::post(CHAT, chat(turns, stream)).send(alone.addr()).await.ok();
    let ask = rig.ask(CHAT, chat(turns, stream)).header("x-session-token", OUR_TOKEN);
    let answer = ask.send(rig.address()).await.ok();
    assert_eq!(reply(&answer), reply(&expected));
    turns.push(reply(&answer));
}

#[tokio::test]
async fn every_turn_of_a_chat_reads_the_one_before_and_frees_it() {
    let rig = rig(LEASE, &[]).await;
    let mut turns = Vec::new();
    for (turn, stream) in (0..).zip([false, true, true, false]) {
        say(&rig, &mut turns, prompt(30 + turn), stream).await;
        let totals = rig.prefill.state().totals;
        assert_eq!((totals.reuse_pulls, totals.reuse_expired), (turn as u64, 0));
        // Decode has read what prefill made, and keeps this turn alone.
        let totals = rig.decode.state().totals;
        assert_eq!((totals.pulls, totals.computed_prompts), (turn as u64 + 1, 0));
        eventually("what was read is freed", || rig.decode.state().leases.len() == 1).await;
        assert_eq!(rig.decode.state().totals.releases_after_read, turn as u64);
    }
    assert_eq!(rig.prefill.state().totals.computed_prompts, 1, "only the first turn from its beginning");
    rig.decode.restart();
    assert_eq!(rig.end().await.consumed, 4);
}

#[tokio::test]
async fn a_turn_that_nobody_continues_is_freed_when_its_time_is_up() {
    let rig = rig(Duration::from_millis(200), &[]).await;
    say(&rig, &mut Vec::new(), prompt(30), false).await;
    rig.settled().await;
    let totals = rig.decode.state().totals;
    assert_eq!((totals.expired, totals.releases_after_read), (1, 0));
    assert_eq!(rig.end().await.consumed, 1, "what decode keeps is in no account of ours");
}

#[tokio::test]
async fn a_turn_whose_time_is_almost_up_is_computed_by_prefill() {
    let rig = rig(Duration::from_secs(2), &[]).await;
    let mut turns = Vec::new();
    say(&rig, &mut turns, prompt(30), false).await;
    // Told of it, and it does not read what has less than 5 s left.
    say(&rig, &mut turns, prompt(10), false).await;
    let totals = rig.prefill.state().totals;
    assert_eq!((totals.reuse_expired, totals.reuse_pulls), (1, 0));
    rig.decode.restart();
    rig.end().await;
}

#[tokio::test]
async fn an_offer_older_than_the_flag_allows_is_not_passed_on() {
    let rig = rig(LEASE, &["--bidirectional-cache-ttl=1ms"]).await;
    let mut turns = Vec::new();
    say(&rig, &mut turns, prompt(30), false).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    say(&rig, &mut turns, prompt(10), false).await;
    let totals = rig.prefill.state().totals;
    assert_eq!((totals.reuse_expired, totals.reuse_pulls), (0, 0));
    assert_eq!(rig.decode.state().leases.len(), 2);
    rig.decode.restart();
    rig.end().await;
}
