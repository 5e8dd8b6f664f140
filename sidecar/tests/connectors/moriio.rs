//! `nixlv2` with MoRI-IO's WRITE mode: the bodies of both dispatches, and which rank serves a leg. What its legs side by
//! side do when something fails is in [`crate::overlapping`].

use kvferry_emulator::{Config, Emulator, Faults, Role, Speeds};
use serde_json::{Value, json};

use crate::common::{
    APIS, Ask, LEASE, Received, Rig, Scripted, Sidecar, chunk, content, eventually, json_answer, sse_head,
};

const CHAT: &str = "/v1/chat/completions";

/// Hashes to rank 2 of 8.
const ID: &str = "abc";

const WRITE: &str = "--moriio-write-mode";
const POD: &str = "--moriio-local-pod-ip=10.9.9.9";
const BOTH_AT_ONCE: &str = "--moriio-parallel-dispatch";

/// A decode engine that says yes to everything but releases.
async fn agreeing() -> Scripted {
    Scripted::start(|mut exchange| async {
        let release = exchange.request.text().contains("kvferry-release");
        exchange.write(json_answer(if release { 404 } else { 200 }, "{}")).await;
        Some(exchange)
    })
    .await
}

struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    /// `answer`: of the prefill engine.
    async fn start(answer: &str, flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, answer)).await;
        let decode = agreeing().await;
        let sidecar = Sidecar::start(decode.port(), flags);
        Self { prefill, decode, sidecar }
    }

    fn ask(&self, body: &str) -> Ask {
        Ask::post(CHAT, body).prefill(&self.prefill.host_port()).header("x-request-id", ID)
    }

    /// Sends a request that works; returns both legs.
    async fn legs(self, body: &str) -> (Received, Received) {
        self.ask(body).send(self.sidecar.address()).await.ok();
        let (prefill, decode) = (self.prefill.requests(), self.decode.requests());
        assert_eq!((prefill.len(), decode.len()), (1, 1));
        for leg in [&prefill[0], &decode[0]] {
            assert_eq!(leg.header("x-request-id"), Some(ID));
        }
        self.sidecar.end().await;
        (prefill[0].clone(), decode[0].clone())
    }
}

fn params(leg: &Received) -> Value {
    serde_json::from_str::<Value>(&leg.text()).unwrap()["kv_transfer_params"].clone()
}

fn rank_header(leg: &Received) -> Option<&str> {
    leg.header("x-data-parallel-rank")
}

/// The id that both legs of one request name their transfer by.
fn transfer_id(leg: &Received) -> String {
    let id = params(leg)["transfer_id"].as_str().unwrap().to_owned();
    assert_eq!((&id[..2], id.len()), ("tx", 38), "{id}");
    id
}

#[tokio::test]
async fn prefill_is_told_where_to_write_and_decode_what_prefill_returned() {
    let returned = r#"{"do_remote_prefill":true,"remote_block_ids":[[1, 2]],"big":9007199254740993}"#;
    let answer = format!(r#"{{"kv_transfer_params":{returned},"usage":{{}}}}"#);
    let ports = ["--moriio-decode-notify-port=7001", "--moriio-decode-handshake-port=7002"];
    let rig = Scripts::start(&answer, &[&[WRITE, POD], &ports[..]].concat()).await;
    let (prefill, decode) = rig.legs(r#"{"min_tokens":2,"max_tokens": 9 }"#).await;
    let id = transfer_id(&prefill);
    assert_eq!(
        prefill.text(),
        format!(
            r#"{{"kv_transfer_params":{{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":"10.9.9.9","remote_port":null,"remote_notify_port":7001,"remote_dp_rank":0,"remote_dp_rank_override":true,"remote_handshake_port":7002,"transfer_id":"{id}","tp_size":1,"remote_dp_size":1}},"stream":false,"max_completion_tokens":1,"max_tokens": 1 }}"#
        )
    );
    assert_eq!(
        decode.text(),
        format!(
            r#"{{"kv_transfer_params":{{"remote_dp_rank":0,"remote_dp_rank_override":true,"transfer_id":"{id}","remote_notify_port":7001,"remote_handshake_port":7002,"remote_dp_size":1,"do_remote_prefill":true,"remote_block_ids":[[1, 2]],"big":9007199254740993}},"min_tokens":2,"max_tokens": 9 }}"#
        )
    );
    assert_eq!((rank_header(&prefill), rank_header(&decode)), (None, None));
}

#[tokio::test]
async fn what_prefill_says_of_itself_is_not_overwritten() {
    let said = json!({"do_remote_prefill": true, "transfer_id": "theirs", "remote_notify_port": 1,
        "remote_handshake_port": 2, "remote_dp_size": 3, "remote_hosts": ["10.0.0.7"], "remote_dp_size_local": 4});
    let answer = json!({ "kv_transfer_params": said }).to_string();
    let flags = [WRITE, POD, "--moriio-remote-hosts=127.0.0.1", "--moriio-dp-size-local=1"];
    let (_, decode) = Scripts::start(&answer, &flags).await.legs("{}").await;
    let mut expected = said;
    expected["remote_dp_rank"] = 0.into();
    expected["remote_dp_rank_override"] = true.into();
    assert_eq!(params(&decode), expected);
}

#[tokio::test]
async fn both_legs_are_pinned_to_the_rank_that_prefill_says_or_else_to_the_hash() {
    for (said, rank) in [
        (r#""remote_dp_rank":5"#, 5),
        (r#""remote_dp_rank":0"#, 0),
        (r#""other":1"#, 2),
        (r#""remote_dp_rank":-1"#, 2),
        (r#""remote_dp_rank":8"#, 2),
        (r#""remote_dp_rank":1.5"#, 2),
        (r#""remote_dp_rank":"3""#, 2),
        (r#""remote_dp_rank":null"#, 2),
    ] {
        let answer = format!(r#"{{"kv_transfer_params":{{"do_remote_prefill":true,{said}}}}}"#);
        let rig = Scripts::start(&answer, &[WRITE, POD, "--moriio-dp-size=8"]).await;
        let (prefill, decode) = rig.legs("{}").await;
        assert_eq!((rank_header(&prefill), &params(&prefill)["remote_dp_rank"]), (Some("2"), &json!(2)));
        assert_eq!(params(&prefill)["remote_dp_size"], 8);
        let pinned = params(&decode);
        assert_eq!(rank_header(&decode), Some(rank.to_string().as_str()), "{said}");
        assert_eq!(
            (&pinned["remote_dp_rank"], &pinned["remote_dp_rank_override"]),
            (&json!(rank), &json!(true))
        );
        assert_eq!((&pinned["is_request_leader"], &pinned["remote_dp_size"]), (&json!(true), &json!(8)));
    }
}

#[tokio::test]
async fn the_header_counts_ranks_of_the_pod_and_kv_metadata_those_of_the_group() {
    // Two pods of four on either side; the prefill engine is the second.
    let flags = [
        WRITE,
        POD,
        "--moriio-dp-size=8",
        "--moriio-dp-size-local=4",
        "--moriio-remote-hosts=10.0.0.1,127.0.0.1",
        "--moriio-decode-hosts=10.9.9.8,10.9.9.9",
    ];
    for (said, rank) in [(r#""remote_dp_rank":7"#, 7), (r#""x":1"#, 6)] {
        let answer = format!(r#"{{"kv_transfer_params":{{"do_remote_prefill":true,{said}}}}}"#);
        let (prefill, decode) = Scripts::start(&answer, &flags).await.legs("{}").await;
        let told = params(&prefill);
        assert_eq!((rank_header(&prefill), &told["remote_dp_rank"]), (Some("2"), &json!(2)));
        assert_eq!(
            (&told["remote_hosts"], &told["remote_dp_size_local"]),
            (&json!(["10.9.9.8", "10.9.9.9"]), &json!(4))
        );
        let told = params(&decode);
        assert_eq!(rank_header(&decode), Some((rank % 4).to_string().as_str()), "{said}");
        assert_eq!((&told["remote_dp_rank"], &told["remote_dp_size_local"]), (&json!(rank), &json!(4)));
        assert_eq!(told["remote_hosts"], json!(["10.0.0.1", "127.0.0.1"]));
    }
}

#[tokio::test]
async fn a_rank_that_nobody_knows_is_an_error_and_the_kv_is_released() {
    let flags = [
        WRITE,
        POD,
        "--moriio-dp-size=8",
        "--moriio-dp-size-local=4",
        "--moriio-remote-hosts=10.0.0.1,10.0.0.2",
    ];
    let returned = r#"{"kv_transfer_params":{"do_remote_prefill":true,"remote_host":"10.0.0.3","remote_notify_port":7}}"#;
    let rig = Scripts::start(returned, &flags).await;
    let answer = rig.ask("{}").send(rig.sidecar.address()).await;
    answer.is_error(502, "prefill_bootstrap_failed", "127.0.0.1 is none of --moriio-remote-hosts");
    eventually("the KV is released", || rig.decode.requests().len() == 1).await;
    let release = params(&rig.decode.requests()[0]);
    // Where prefill listens, by its own word.
    assert_eq!((&release["remote_host"], &release["remote_notify_port"]), (&json!("10.0.0.3"), &json!(7)));
    assert_eq!(release["transfer_id"], transfer_id(&rig.prefill.requests()[0]));
    assert_eq!(release["do_remote_prefill"], true);
    assert_eq!(rig.sidecar.end().await.released, 1);
}

#[tokio::test]
async fn without_write_mode_the_prefill_leg_has_the_rank_and_nothing_else_changes() {
    let answer = r#"{"kv_transfer_params":{"remote_dp_rank":5}}"#;
    let (prefill, decode) = Scripts::start(answer, &["--moriio-dp-size=8"]).await.legs("{}").await;
    assert_eq!((rank_header(&prefill), rank_header(&decode)), (Some("2"), None));
    assert_eq!(params(&prefill)["remote_host"], Value::Null);
    assert_eq!(params(&prefill).get("transfer_id"), None);
    assert_eq!(params(&decode), json!({"remote_dp_rank": 5}));
}

#[tokio::test]
async fn in_parallel_decode_is_told_who_writes_before_prefill_has_answered() {
    let flags = [
        WRITE,
        POD,
        BOTH_AT_ONCE,
        "--moriio-dp-size=8",
        "--moriio-dp-size-local=4",
        "--moriio-tp-size=2",
        "--moriio-remote-hosts=10.0.0.1,10.0.0.2",
        "--moriio-decode-hosts=10.9.9.8,10.9.9.9",
        "--moriio-prefill-notify-port=7003",
        "--moriio-prefill-handshake-port=7004",
    ];
    // Cached tokens of prefill are not shown: the number would come too late for an answer that has begun.
    let answer = r#"{"usage":{"prompt_tokens_details":{"cached_tokens":5}},"kv_transfer_params":{"x":1}}"#;
    let rig = Scripts::start(answer, &flags).await;
    let (prefill, decode) = rig.legs(r#"{"min_tokens":2,"stream":true}"#).await;
    let id = transfer_id(&prefill);
    assert_eq!(
        params(&decode),
        json!({"do_remote_prefill": true, "do_remote_decode": false, "remote_engine_id": "127.0.0.1:7004",
            "remote_block_ids": [], "remote_host": "127.0.0.1", "remote_port": 7004, "remote_notify_port": 7003,
            "remote_dp_rank": 2, "remote_dp_rank_override": true, "remote_handshake_port": 7004,
            "transfer_id": id, "tp_size": 2, "remote_dp_size": 4, "is_request_leader": true,
            "remote_hosts": ["127.0.0.1"], "remote_dp_size_local": 4})
    );
    assert!(decode.text().ends_with(r#","min_tokens":2,"stream":true}"#));
    let told = params(&prefill);
    assert_eq!((&told["remote_dp_rank"], &told["remote_dp_size"]), (&json!(2), &json!(8)));
    assert_eq!(
        (&told["remote_hosts"], &told["remote_host"]),
        (&json!(["10.9.9.8", "10.9.9.9"]), &json!("10.9.9.9"))
    );
    assert!(!prefill.text().contains("min_tokens") && prefill.text().contains("\"stream\":false"));
    assert_eq!((rank_header(&prefill), rank_header(&decode)), (Some("2"), Some("2")));
}

#[tokio::test]
async fn the_old_limits_of_this_mode_are_four() {
    let flags = [WRITE, POD, BOTH_AT_ONCE, "--prefill-limits=compat"];
    let (prefill, _) = Scripts::start("{}", &flags).await.legs(r#"{"min_tokens":2}"#).await;
    let body: Value = serde_json::from_str(&prefill.text()).unwrap();
    for limit in ["max_tokens", "max_completion_tokens", "min_tokens", "max_output_tokens"] {
        assert_eq!(body[limit], 1, "{limit}");
    }
}

#[tokio::test]
async fn an_event_stream_is_untouched_once_prefill_was_accepted() {
    let events = [": hello\n\n", "data: {\"usage\":{\"prompt_tokens\":1}}\n\n", "data: [DO", "NE]\n\n"];
    let prefill = Scripted::answering(json_answer(200, r#"{"usage":{}}"#)).await;
    let decode = Scripted::start(move |mut exchange| async move {
        exchange.write(sse_head()).await;
        for event in events {
            exchange.write(chunk(event)).await;
        }
        exchange.write(chunk("")).await;
        Some(exchange)
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[WRITE, POD, BOTH_AT_ONCE]);
    let ask = Ask::post(CHAT, "{}").prefill(&prefill.host_port());
    assert_eq!(ask.send(sidecar.address()).await.ok().text(), events.concat());
    assert_eq!(sidecar.end().await.consumed, 1);
}

#[tokio::test]
async fn two_legs_that_hang_end_within_the_modes_own_limit() {
    for hang in [true, false] {
        let prefill = Scripted::start(|mut exchange| async move {
            exchange.left().await;
            None
        })
        .await;
        let decode = Scripted::start(move |mut exchange| async move {
            if exchange.request.text().contains("kvferry-release") {
                exchange.write(json_answer(404, "{}")).await;
                return Some(exchange);
            }
            if !hang {
                exchange.write(json_answer(200, "{}")).await;
            }
            exchange.left().await;
            None
        })
        .await;
        let flags = [WRITE, POD, BOTH_AT_ONCE, "--moriio-parallel-decode-wait-timeout=100ms"];
        let sidecar = Sidecar::start(decode.port(), &flags);
        let answer = Ask::post(CHAT, "{}").prefill(&prefill.host_port()).send(sidecar.address()).await;
        answer.is_error(504, "prefill_timeout", "MoRI-IO parallel-dispatch KV-wait timeout");
        eventually("the KV is released, in case there is any", || decode.requests().len() == 2).await;
        assert_eq!(sidecar.end().await.released, 1);
    }
}

/// Engines that write, one leg after the other.
async fn serial() -> Rig {
    let engine = |role| Config { role, kv_lease: LEASE, rendezvous_timeout: LEASE, ..Config::default() };
    let prefill = Emulator::start(engine(Role::Prefill)).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let flags = [
        WRITE.to_owned(),
        "--moriio-local-pod-ip=127.0.0.1".to_owned(),
        "--moriio-dp-size=2".to_owned(),
        format!("--moriio-decode-notify-port={}", decode.notify_port()),
        format!("--moriio-prefill-handshake-port={}", prefill.kv_port()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let sidecar = Sidecar::start(decode.addr().port(), &flags);
    Rig { prefill, decode, sidecar }
}

#[tokio::test]
async fn every_api_answers_as_one_engine_alone_would() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    let rig = serial().await;
    for route in APIS {
        for stream in [false, true] {
            let body = route.body(stream);
            let ask = Ask::post(route.path, body.clone()).header("x-request-id", ID);
            let expected = content(&ask.send(alone.addr()).await.ok(), &["usage"]);
            let answer = rig.ask(route.path, body).header("x-request-id", ID).send(rig.address()).await.ok();
            assert_eq!(content(&answer, &["usage"]), expected, "{} stream={stream}", route.path);
        }
    }
    rig.settled().await;
    let totals = rig.decode.state().totals;
    assert_eq!((totals.pulls, totals.computed_prompts), (10, 0));
    assert_eq!(rig.end().await.consumed, 10);
}

#[tokio::test]
async fn kv_that_is_not_wanted_any_more_is_released_before_its_lease_ends() {
    let rig = serial().await;
    // Prefill has answered, decode refuses.
    let refuse = Faults { status: Some(503), path: Some(CHAT.into()), times: Some(1), ..Faults::default() };
    rig.decode.set_faults(refuse);
    let answer = rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await;
    assert_eq!(answer.status, 503);
    rig.settled().await;
    // Prefill's answer breaks off: nobody heard of the KV, but it has a name.
    rig.prefill.set_faults(Faults { reset_after_bytes: Some(20), times: Some(1), ..Faults::default() });
    rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await.is_error(502, "prefill_broke", "");
    rig.settled().await;
    // The client leaves in the middle of prefill.
    rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let client = tokio::spawn(rig.ask(CHAT, APIS[0].body(true)).try_send(rig.address()));
    eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
    client.abort();
    rig.settled().await;
    let totals = rig.prefill.state().totals;
    assert_eq!((totals.releases_without_read, totals.expired), (2, 0));
    rig.end().await;
}
