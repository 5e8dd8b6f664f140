//! The encoder stage: who is asked for what, what comes of the answers, and that one failure ends it all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kvferry_emulator::{Config, Emulator, Faults, Role, SharedStore};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::answering::{answering, broken_json, silent};
use crate::common::{
    APIS, Ask, LEASE, Rig, Scripted, Setup, Sidecar, content, eventually, json_answer, reserve_port, within,
};

const EXAMPLE: &str = "--ec-connector=ec-example";
const NIXL: &str = "--ec-connector=ec-nixl";
const ENCODERS: &str = "x-encoder-hosts-ports";
const CHAT: &str = APIS[0].path;

const IMAGE: &str = r#"{"type":"image_url","image_url":{"url":"http://a/i.png","detail":1.50}}"#;
const AUDIO: &str = r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#;

/// A conversation with these parts in one message.
fn chat(parts: &[&str]) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":[{}]}}],"max_tokens":50}}"#, parts.join(","))
}

/// What follows the encoders gets this, if they said nothing of their embeddings.
fn encoded(body: &str) -> String {
    body.replacen('{', r#"{"cache_hit_threshold":0,"#, 1)
}

/// Engines written down: two encoders, and what comes after them.
struct Scripts {
    encoders: Vec<Scripted>,
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    async fn start(encoders: Vec<Scripted>, flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
        let decode = Scripted::answering(json_answer(200, r#"{"done":1}"#)).await;
        let sidecar = Sidecar::start(decode.port(), flags);
        Self { encoders, prefill, decode, sidecar }
    }

    async fn two(flags: &[&str]) -> Self {
        let answer = json_answer(200, "{}");
        let encoders = vec![Scripted::answering(answer.clone()).await, Scripted::answering(answer).await];
        Self::start(encoders, flags).await
    }

    fn hosts(&self) -> String {
        let hosts: Vec<String> = self.encoders.iter().map(Scripted::host_port).collect();
        hosts.join(",")
    }

    /// A request for all encoders.
    fn ask(&self, body: impl Into<Vec<u8>>) -> Ask {
        Ask::post(CHAT, body).header(ENCODERS, &self.hosts())
    }

    /// How many requests each encoder got.
    fn asked(&self) -> Vec<usize> {
        self.encoders.iter().map(|encoder| encoder.requests().len()).collect()
    }

    async fn end(self) {
        self.sidecar.end().await;
    }
}

#[tokio::test]
async fn the_header_names_who_encodes_and_no_engine_sees_it() {
    for (names, parts, expected) in [
        (&["0"][..], 1, [1, 0]),
        (&["0", "1"], 3, [2, 1]),
        (&["1", "0"], 3, [1, 2]),
        // What is no target is left out; with nothing left the prompt is computed whole.
        (&["no port", "1"], 2, [0, 2]),
        (&["no port", ""], 2, [0, 0]),
        (&[], 2, [0, 0]),
    ] {
        for lines in [false, true] {
            for old in [false, true] {
                let scripts = Scripts::two(&[EXAMPLE]).await;
                let name = if old { ENCODERS } else { "x-llm-d-encoder-hosts-ports" };
                let names: Vec<String> = names
                    .iter()
                    .map(|name| match *name {
                        "0" => scripts.encoders[0].host_port(),
                        "1" => format!(" {} ", scripts.encoders[1].host_port()),
                        other => other.to_owned(),
                    })
                    .collect();
                let values = if lines { names.clone() } else { vec![names.join(",")] };
                let body = chat(&vec![IMAGE; parts]);
                let ask =
                    values.iter().fold(Ask::post(CHAT, body.as_str()), |ask, value| ask.header(name, value));
                assert_eq!(ask.send(scripts.sidecar.address()).await.ok().text(), r#"{"done":1}"#);
                assert_eq!(scripts.asked(), expected, "{names:?} in lines: {lines}");
                let leg = scripts.decode.requests().pop().unwrap();
                let used = expected != [0, 0];
                assert_eq!(leg.text(), if used { encoded(&body) } else { body });
                for request in scripts.encoders.iter().flat_map(Scripted::requests).chain([leg]) {
                    assert!(!request.head.contains("encoder-hosts"), "{}", request.head);
                }
                scripts.end().await;
            }
        }
    }
}

#[tokio::test]
async fn encoders_that_are_not_allowed_are_left_out_and_without_any_the_prompt_is_computed_whole() {
    let allowed = Scripted::answering(json_answer(200, "{}")).await;
    let denied = Scripted::answering(json_answer(200, "{}")).await;
    let target = format!("--allow-target={}", allowed.host_port());
    let scripts = Scripts::start(vec![allowed, denied], &[EXAMPLE, &target]).await;
    scripts.ask(chat(&[IMAGE, IMAGE])).send(scripts.sidecar.address()).await.ok();
    assert_eq!(scripts.asked(), [2, 0]);
    let ask = Ask::post(CHAT, chat(&[IMAGE])).header(ENCODERS, &scripts.encoders[1].host_port());
    ask.send(scripts.sidecar.address()).await.ok();
    assert_eq!(scripts.asked(), [2, 0]);
    assert_eq!(scripts.decode.requests().pop().unwrap().text(), chat(&[IMAGE]));
    scripts.end().await;
}

#[tokio::test]
async fn without_an_encoder_connector_the_header_means_nothing() {
    let scripts = Scripts::two(&[]).await;
    scripts.ask(chat(&[IMAGE])).send(scripts.sidecar.address()).await.ok();
    assert_eq!(scripts.asked(), [0, 0]);
    let leg = scripts.decode.requests().pop().unwrap();
    assert_eq!(leg.text(), chat(&[IMAGE]));
    assert_eq!(leg.header(ENCODERS), None);
    scripts.end().await;
}

#[tokio::test]
async fn an_encoder_gets_one_part_and_of_the_headers_only_the_right_to_ask() {
    let scripts = Scripts::two(&[EXAMPLE]).await;
    let body = r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"},IMAGE]},{"role":"user","content":[AUDIO,IMAGE]}],"max_tokens":50,"stream":true,"big":12345678901234567890}"#;
    let body = body.replace("IMAGE", IMAGE).replace("AUDIO", AUDIO);
    let ask = scripts.ask(body.as_str()).header("authorization", "Bearer key").header("cookie", "c=1");
    ask.header("x-request-id", "mine").send(scripts.sidecar.address()).await.ok();
    let mut requests: Vec<_> = scripts.encoders.iter().flat_map(Scripted::requests).collect();
    requests.sort_by_key(|request| request.header("x-request-id").map(str::to_owned));
    for ((index, request), part) in requests.iter().enumerate().zip([IMAGE, AUDIO, IMAGE]) {
        assert!(request.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(
            request.text(),
            format!(
                r#"{{"max_completion_tokens":1,"model":"m","messages":[{{"role":"user","content":[{part}]}}],"max_tokens":1,"stream":false,"big":12345678901234567890}}"#
            )
        );
        let mut names: Vec<&str> =
            request.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept-encoding", "authorization", "content-length", "content-type", "host", "x-request-id"]
        );
        assert_eq!(request.header("x-request-id"), Some(&*format!("mine-enc-{index}")));
        assert_eq!(request.header("authorization"), Some("Bearer key"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("host"), Some(&*scripts.encoders[index % 2].host_port()));
    }
    assert_eq!(requests.len(), 3);
    let leg = scripts.decode.requests().pop().unwrap();
    assert_eq!(leg.text(), encoded(&body), "what follows is untouched but for the threshold");
    assert_eq!((leg.header("x-request-id"), leg.header("cookie")), (Some("mine"), Some("c=1")));
    scripts.end().await;
}

#[tokio::test]
async fn images_of_the_responses_api_are_encoded_by_that_api() {
    let scripts = Scripts::two(&[EXAMPLE]).await;
    let image = r#"{"type":"input_image","image_url":"http://a/i.png"}"#;
    let body = format!(
        r#"{{"input":[{{"role":"user","content":[{image}]}},{{"type":"function_call_output","call_id":"c","output":[{image}]}}]}}"#
    );
    let ask = Ask::post("/v1/responses", body.as_str()).header(ENCODERS, &scripts.hosts());
    ask.send(scripts.sidecar.address()).await.ok();
    assert_eq!(scripts.asked(), [1, 1]);
    for encoder in &scripts.encoders {
        let request = encoder.requests().pop().unwrap();
        assert!(request.head.starts_with("POST /v1/responses HTTP/1.1\r\n"), "{}", request.head);
        let body: Value = serde_json::from_str(&request.text()).unwrap();
        assert_eq!(body["input"][0]["content"][0], serde_json::from_str::<Value>(image).unwrap());
        assert_eq!((&body["max_output_tokens"], &body["store"]), (&1.into(), &false.into()));
    }
    assert_eq!(scripts.decode.requests().pop().unwrap().text(), encoded(&body));
    scripts.end().await;
}

#[tokio::test]
async fn a_prompt_without_parts_asks_no_encoder_and_goes_on_as_if_it_had() {
    let text = r#"{"type":"text","text":"x"}"#;
    for (path, body) in [
        (CHAT, chat(&[text])),
        (CHAT, r#"{"messages":[{"role":"user","content":"x"}],"cache_hit_threshold":0.5}"#.to_owned()),
        (CHAT, r#"{"messages":"malformed"}"#.to_owned()),
        ("/v1/completions", r#"{"prompt":"x"}"#.to_owned()),
        ("/v1/messages", r#"{"messages":[]}"#.to_owned()),
    ] {
        let scripts = Scripts::two(&[NIXL]).await;
        Ask::post(path, body.as_str())
            .header(ENCODERS, &scripts.hosts())
            .send(scripts.sidecar.address())
            .await
            .ok();
        assert_eq!(scripts.asked(), [0, 0]);
        let leg: Value = serde_json::from_str(&scripts.decode.requests().pop().unwrap().text()).unwrap();
        let mut expected: Value = serde_json::from_str(&body).unwrap();
        expected["cache_hit_threshold"] = 0.into();
        assert_eq!(leg, expected);
        scripts.end().await;
    }
}

#[tokio::test]
async fn what_encoders_say_of_their_embeddings_goes_into_the_request() {
    const A: &str = r#"{"usage":{},"ec_transfer_params":{"a":{"size":12345678901234567890,"z":[1.50]}}}"#;
    const B: &str = r#"{"ec_transfer_params":{"b":{"port":7}}}"#;
    for (answers, own, expected) in [
        ([A, B], "", Some(r#"{"a":{"size":12345678901234567890,"z":[1.50]},"b":{"port":7}}"#)),
        ([A, "{}"], "", Some(r#"{"a":{"size":12345678901234567890,"z":[1.50]}}"#)),
        (["{}", r#"{"ec_transfer_params":null}"#], "", None),
        (["{}", r#"{"ec_transfer_params":{}}"#], "", None),
        (["{}", B], r#","ec_transfer_params":{"own":1,"b":0}"#, Some(r#"{"own":1,"b":{"port":7}}"#)),
        (["{}", "{}"], r#","ec_transfer_params":{ "own":1}"#, Some(r#"{ "own":1}"#)),
    ] {
        let encoders = vec![
            Scripted::answering(json_answer(200, answers[0])).await,
            Scripted::answering(json_answer(200, answers[1])).await,
        ];
        let scripts = Scripts::start(encoders, &[NIXL]).await;
        let body = chat(&[IMAGE, AUDIO]).replace(r#","max_tokens":50"#, own);
        scripts.ask(body.as_str()).send(scripts.sidecar.address()).await.ok();
        let leg = scripts.decode.requests().pop().unwrap().text();
        match expected {
            None => assert!(!leg.contains("ec_transfer_params"), "{leg}"),
            Some(expected) => {
                assert!(leg.contains(&format!(r#""ec_transfer_params":{expected}"#)), "{leg}");
                assert_eq!(leg.matches("ec_transfer_params").count(), 1);
            }
        }
        scripts.end().await;
    }
    // With shared storage they are found by content: whatever an encoder answers is of no interest.
    for answer in [B, "no JSON"] {
        let scripts =
            Scripts::start(vec![Scripted::answering(json_answer(200, answer)).await], &[EXAMPLE]).await;
        scripts.ask(chat(&[IMAGE])).send(scripts.sidecar.address()).await.ok();
        assert_eq!(scripts.decode.requests().pop().unwrap().text(), encoded(&chat(&[IMAGE])));
        scripts.end().await;
    }
}

#[tokio::test]
async fn with_a_prefill_target_the_request_goes_on_through_the_connector() {
    let encoders = vec![Scripted::answering(json_answer(200, r#"{"ec_transfer_params":{"a":1}}"#)).await];
    let scripts = Scripts::start(encoders, &[NIXL]).await;
    let ask = scripts.ask(chat(&[IMAGE])).prefill(&scripts.prefill.host_port());
    ask.header("x-kv-cache-source-host-port", "127.0.0.1:1").send(scripts.sidecar.address()).await.ok();
    let (prefill, decode) = (scripts.prefill.requests(), scripts.decode.requests());
    assert_eq!((scripts.asked(), prefill.len(), decode.len()), (vec![1], 1, 1));
    for leg in [&prefill[0], &decode[0]] {
        assert!(leg.text().contains(r#""cache_hit_threshold":0"#), "{}", leg.text());
        assert!(leg.text().contains(r#""ec_transfer_params":{"a":1}"#), "{}", leg.text());
        assert!(!leg.text().contains("remote_kv_source"));
    }
    assert!(decode[0].text().contains(r#""kv_transfer_params":{"a":1}"#));
    assert_eq!(prefill[0].header("x-request-id"), decode[0].header("x-request-id"));
    let encoder = scripts.encoders[0].requests().pop().unwrap();
    let id = prefill[0].header("x-request-id").unwrap();
    assert_eq!(encoder.header("x-request-id"), Some(&*format!("{id}-enc-0")));
    scripts.end().await;
}

#[tokio::test]
async fn an_encoded_request_always_prefills_with_shared_storage() {
    // The threshold that encoding sets is one at which no engine declines: to ask first would mean never to prefill.
    let scripts = Scripts::two(&[EXAMPLE, "--kv-connector=shared-storage"]).await;
    let body = chat(&[IMAGE]).replace(r#","max_tokens""#, r#","cache_hit_threshold":0.5,"max_tokens""#);
    scripts.ask(body).prefill(&scripts.prefill.host_port()).send(scripts.sidecar.address()).await.ok();
    assert_eq!((scripts.prefill.requests().len(), scripts.decode.requests().len()), (1, 1));
    scripts.end().await;
}

/// Two encoders, and engines that need not encode themselves.
struct Stages {
    encoders: [Emulator; 2],
    rig: Rig,
}

impl Stages {
    async fn start(flag: &'static str, store: Option<&SharedStore>) -> Self {
        let config =
            |role| Config { role, kv_lease: LEASE, encoder_store: store.cloned(), ..Config::default() };
        let encoder = || Emulator::start(config(Role::Encode));
        let encoders = [encoder().await.unwrap(), encoder().await.unwrap()];
        let (prefill, decode) = (config(Role::Prefill), config(Role::Decode));
        let rig = Setup { flags: vec![flag], prefill, decode }.start().await;
        Self { encoders, rig }
    }

    fn ask(&self, path: &str, body: impl Into<Vec<u8>>) -> Ask {
        let [one, other] = &self.encoders;
        Ask::post(path, body).header(ENCODERS, &format!("{},{}", one.host_port(), other.host_port()))
    }

    async fn end(self) {
        for encoder in &self.encoders {
            eventually("no encoder holds anything", || encoder.state().idle()).await;
        }
        self.rig.end().await;
    }
}

/// Each part has bytes of its own, and the answer depends on all of them: it is right only if they came from where they
/// were made.
#[tokio::test]
async fn emulated_engines_serve_a_prompt_whose_parts_were_encoded_elsewhere() {
    let image = r#"{"type":"input_image","image_url":"http://a/i.png"}"#;
    let responses = format!(
        r#"{{"input":[{{"role":"user","content":[{{"type":"input_text","text":"what is it?"}},{image}]}}],"max_output_tokens":9}}"#
    );
    let store = SharedStore::in_memory();
    for (flag, store) in [(NIXL, None), (EXAMPLE, Some(&store))] {
        let alone = Emulator::start(Config::default()).await.unwrap();
        for (path, body, parts) in [
            (CHAT, chat(&[IMAGE, AUDIO]), 2),
            (CHAT, chat(&[IMAGE, AUDIO, IMAGE]), 2),
            ("/v1/responses", responses.clone(), 1),
        ] {
            let stages = Stages::start(flag, store).await;
            let direct =
                Ask::post(path, body.as_str()).header("x-request-id", "one").send(alone.addr()).await.ok();
            for prefill in [false, true] {
                let mut ask = stages.ask(path, body.as_str()).header("x-request-id", "one");
                if prefill {
                    ask = ask.prefill(&stages.rig.prefill.host_port());
                }
                let answer = ask.send(stages.rig.address()).await.ok();
                assert_eq!(content(&answer, &["usage"]), content(&direct, &["usage"]), "{flag} {path}");
                let (prefills, decodes) =
                    (stages.rig.prefill.state().totals, stages.rig.decode.state().totals);
                assert_eq!((prefills.encoded_here, decodes.encoded_here), (0, 0));
                let used = if prefill { prefills } else { decodes };
                assert_eq!(used.encoder_fetched + used.encoder_loaded, parts, "{flag} {path} {prefill}");
            }
            stages.end().await;
        }
    }
}

#[tokio::test]
async fn an_encoder_that_fails_keeps_the_prompt_from_everybody_else() {
    let stages = Stages::start(EXAMPLE, Some(&SharedStore::in_memory())).await;
    stages.encoders[1].set_faults(Faults { status: Some(500), ..Faults::default() });
    let ask = stages.ask(CHAT, chat(&[IMAGE, AUDIO])).prefill(&stages.rig.prefill.host_port());
    ask.send(stages.rig.address()).await.is_error(502, "encode_failed", "answered 500");
    assert!(stages.rig.prefill.requests().is_empty() && stages.rig.decode.requests().is_empty());
    stages.end().await;
}

#[tokio::test]
async fn the_first_failure_cancels_the_others_and_is_told() {
    let (port, _socket) = reserve_port();
    for (flag, said, message) in [
        (EXAMPLE, Some(json_answer(400, r#"{"error":"no image"}"#)), "it answered 400"),
        (EXAMPLE, Some(broken_json("{")), "encoder 127.0.0.1:"),
        (EXAMPLE, None, "connection refused"),
        (NIXL, Some(json_answer(200, "no JSON")), "its answer is no JSON object"),
        (NIXL, Some(json_answer(200, "[]")), "its answer is no JSON object"),
    ] {
        let (hanging, mut leaves) = silent().await;
        let failing = match &said {
            None => format!("127.0.0.1:{port}"),
            Some(_) => String::new(),
        };
        let said = Arc::new(said);
        let other = {
            let said = Arc::clone(&said);
            Scripted::start(move |mut exchange| {
                let said = Arc::clone(&said);
                async move {
                    exchange.write(said.as_deref().unwrap_or_default()).await;
                    None
                }
            })
            .await
        };
        let failing = if failing.is_empty() { other.host_port() } else { failing };
        let scripts = Scripts::start(vec![hanging], &[flag]).await;
        let encoders = format!("{},{failing}", scripts.hosts());
        let ask = Ask::post(CHAT, chat(&[IMAGE, IMAGE])).header(ENCODERS, &encoders);
        let answer = ask.prefill(&scripts.prefill.host_port()).send(scripts.sidecar.address()).await;
        answer.is_error(502, "encode_failed", message);
        within("the other encoder is cancelled", async {
            if scripts.asked() == [1] {
                leaves.recv().await.unwrap();
            }
        })
        .await;
        assert!(scripts.prefill.requests().is_empty() && scripts.decode.requests().is_empty());
        scripts.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_all_encoders_with_it() {
    let (one, mut first) = silent().await;
    let (other, mut second) = silent().await;
    let scripts = Scripts::start(vec![one, other], &[EXAMPLE]).await;
    let client = tokio::spawn(scripts.ask(chat(&[IMAGE, IMAGE])).try_send(scripts.sidecar.address()));
    eventually("both encoders were asked", || scripts.asked() == [1, 1]).await;
    client.abort();
    within("one encoder is cancelled", first.recv()).await.unwrap();
    within("the other encoder is cancelled", second.recv()).await.unwrap();
    assert!(scripts.decode.requests().is_empty());
    scripts.end().await;
}

#[tokio::test]
async fn encoders_have_as_long_as_a_prefill_and_the_request_has_altogether() {
    for flag in ["--request-timeout=100ms", "--prefill-timeout=100ms"] {
        let (hanging, mut leaves) = silent().await;
        let scripts = Scripts::start(vec![hanging], &[EXAMPLE, flag]).await;
        let answer = scripts.ask(chat(&[IMAGE])).send(scripts.sidecar.address()).await;
        answer.is_error(504, "encode_timeout", "the encoders did not finish within");
        within("the encoder is cancelled", leaves.recv()).await.unwrap();
        scripts.end().await;
    }
}

#[tokio::test]
async fn a_prompt_of_many_parts_is_encoded_a_bounded_number_at_a_time() {
    const PARTS: usize = 75;
    const AT_ONCE: usize = 32;
    let go_on = Arc::new(Semaphore::new(0));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let encoder = {
        let (go_on, running, most) = (Arc::clone(&go_on), Arc::clone(&running), Arc::clone(&most));
        Scripted::start(move |mut exchange| {
            let (go_on, running, most) = (Arc::clone(&go_on), Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                go_on.acquire().await.unwrap().forget();
                running.fetch_sub(1, Relaxed);
                exchange.write(json_answer(200, "{}")).await;
                Some(exchange)
            }
        })
        .await
    };
    let scripts = Scripts::start(vec![encoder], &[EXAMPLE]).await;
    let client = tokio::spawn(scripts.ask(chat(&vec![IMAGE; PARTS])).send(scripts.sidecar.address()));
    eventually("as many run as may", || scripts.asked() == [AT_ONCE]).await;
    go_on.add_permits(PARTS);
    within("the answer", client).await.unwrap().ok();
    assert_eq!((scripts.asked(), most.load(Relaxed)), (vec![PARTS], AT_ONCE));
    scripts.end().await;
}

#[tokio::test]
async fn parts_are_matched_to_what_their_encoder_said_however_slow_it_was() {
    // Both encoders know the same part; the answer for the later part counts, though it came first.
    let slow = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&slow);
    let first = Scripted::start(move |mut exchange| {
        let wait = Arc::clone(&wait);
        async move {
            wait.acquire().await.unwrap().forget();
            exchange.write(json_answer(200, r#"{"ec_transfer_params":{"x":1}}"#)).await;
            Some(exchange)
        }
    })
    .await;
    let second = answering(move |_, _| json_answer(200, r#"{"ec_transfer_params":{"x":2}}"#)).await;
    let scripts = Scripts::start(vec![first, second], &[NIXL]).await;
    let client = tokio::spawn(scripts.ask(chat(&[IMAGE, AUDIO])).send(scripts.sidecar.address()));
    eventually("both were asked", || scripts.asked() == [1, 1]).await;
    slow.add_permits(1);
    within("the answer", client).await.unwrap().ok();
    assert!(scripts.decode.requests()[0].text().contains(r#""ec_transfer_params":{"x":2}"#));
    scripts.end().await;
}
