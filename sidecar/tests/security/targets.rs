//! `--allow-target`: what routing headers may name without Kubernetes. Nothing is sent anywhere else.

use crate::child::engine;
use crate::common::{APIS, Answer, Ask, Client, Protocol, Rig, Scripted, Sidecar, json_answer};
use kvferry_emulator::Emulator;

const SOURCE: [&str; 2] = ["x-kv-cache-source-host-port", "x-llm-d-kv-cache-source-host-port"];

/// A rig in which only what `rules` allow, given the prefill engine's port, may be dialled.
async fn rig(rules: impl Fn(u16) -> String, flags: &[&str]) -> Rig {
    let (prefill, decode) = (engine().await, engine().await);
    let allow = format!("--allow-target={}", rules(prefill.addr().port()));
    let sidecar = Sidecar::start(decode.addr().port(), &[&[allow.as_str()], flags].concat());
    Rig { prefill, decode, sidecar }
}

async fn ask(rig: &Rig, target: &str) -> Answer {
    Ask::post(APIS[0].path, APIS[0].body(false)).prefill(target).send(rig.address()).await
}

/// As the sidecar that we replace says it.
fn is_denied(answer: &Answer) {
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(answer.text(), "Forbidden: prefill target not allowed by SSRF protection");
    assert!(answer.header("content-type").starts_with("text/plain"), "{}", answer.header("content-type"));
    assert_eq!(answer.header("x-kvferry-error"), "target_denied");
    assert_eq!(answer.header("x-should-retry"), "false");
}

fn nothing_was_sent(engines: &[&Emulator]) {
    for engine in engines {
        assert!(engine.requests().is_empty());
    }
}

#[tokio::test]
async fn a_listed_host_is_dialled_on_the_listed_port_only() {
    let rig = rig(|port| format!("127.0.0.1:{port}"), &[]).await;
    let other = engine().await;
    ask(&rig, &rig.prefill.host_port()).await.ok();
    rig.decode.clear_requests();
    is_denied(&ask(&rig, &other.host_port()).await);
    // Not even the decode engine next door.
    is_denied(&ask(&rig, &rig.decode.host_port()).await);
    nothing_was_sent(&[&other, &rig.decode]);
    rig.end().await;
}

#[tokio::test]
async fn a_network_is_dialled_on_all_ports_or_on_one() {
    let rig = rig(|_| "127.0.0.0/8".to_owned(), &[]).await;
    let other = engine().await;
    ask(&rig, &rig.prefill.host_port()).await.ok();
    ask(&rig, &other.host_port()).await.ok();
    is_denied(&ask(&rig, "10.0.0.7:8000").await);
    rig.end().await;
    crate::common::eventually("the other engine is empty", || other.state().idle()).await;

    let rig = self::rig(|port| format!("10.0.0.0/8,127.0.0.0/8:{port}"), &[]).await;
    ask(&rig, &rig.prefill.host_port()).await.ok();
    other.clear_requests();
    is_denied(&ask(&rig, &other.host_port()).await);
    nothing_was_sent(&[&other]);
    rig.end().await;
}

#[tokio::test]
async fn another_way_to_write_a_host_opens_no_door() {
    let rig = rig(|port| format!("10.0.0.0/8,localhost:{port}"), &[]).await;
    let port = rig.prefill.addr().port();
    for host in ["localhost", "LOCALHOST", "http://localhost"] {
        ask(&rig, &format!("{host}:{port}")).await.ok();
    }
    rig.prefill.clear_requests();
    rig.decode.clear_requests();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost.",
        "localhost.localdomain",
        "10.0.0.1.nip.io",
    ] {
        is_denied(&ask(&rig, &format!("{host}:{port}")).await);
    }
    for value in ["10.0.0.1", "10.0.0.1@127.0.0.1:80", "10.0.0.1:80#@127.0.0.1:80", "https://10.0.0.1:80"] {
        ask(&rig, value).await.is_error(400, "bad_prefill_target", value);
    }
    nothing_was_sent(&[&rig.prefill, &rig.decode]);
    rig.end().await;
}

#[tokio::test]
async fn an_address_is_the_same_in_every_notation() {
    let rig = rig(|port| format!("127.0.0.1:{port}"), &[]).await;
    let port = rig.prefill.addr().port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:0001]"] {
        ask(&rig, &format!("{host}:{port}")).await.ok();
    }
    rig.end().await;
}

#[tokio::test]
async fn every_api_streamed_or_not_over_either_protocol_is_refused_the_same() {
    let rig = rig(|_| "10.0.0.0/8".to_owned(), &[]).await;
    for route in APIS {
        for stream in [false, true] {
            let ask = rig.ask(route.path, route.body(stream));
            is_denied(&ask.clone().send(rig.address()).await);
            let mut two = Client::connect(rig.address(), Protocol::Http2).await;
            is_denied(&two.send(ask).await);
        }
    }
    // Before the body is looked at: who may not go there need not say more.
    is_denied(&rig.ask(APIS[0].path, "{not json").send(rig.address()).await);
    nothing_was_sent(&[&rig.prefill, &rig.decode]);
    rig.end().await;
}

#[tokio::test]
async fn requests_without_a_target_are_served_whatever_the_list_says() {
    let rig = rig(|_| "10.0.0.0/8".to_owned(), &[]).await;
    for ask in [
        Ask::post(APIS[0].path, APIS[0].body(true)),
        Ask::post(APIS[0].path, APIS[0].body(true)).prefill(""),
        Ask::get("/v1/models"),
        // The header means nothing here, and is no reason to refuse.
        Ask::get("/v1/models").prefill("127.0.0.1:1"),
    ] {
        ask.send(rig.address()).await.ok();
    }
    rig.end().await;
}

#[tokio::test]
async fn candidates_that_are_not_allowed_are_no_candidates() {
    let policy = ["--prefill-failure-policy=retry-other"];
    let rig = rig(|port| format!("127.0.0.1:{port},127.0.0.1:1"), &policy).await;
    let other = engine().await;
    let (right, denied) = (rig.prefill.host_port(), other.host_port());
    // The first allowed one refuses connections, the next may not be asked, the last serves.
    ask(&rig, &format!("127.0.0.1:1,{denied},{right}")).await.ok();
    nothing_was_sent(&[&other]);
    // The primary decides: others are for when it fails, not for when it was never allowed.
    rig.prefill.clear_requests();
    is_denied(&ask(&rig, &format!("{denied},{right}")).await);
    nothing_was_sent(&[&other, &rig.prefill]);
    rig.end().await;
}

#[tokio::test]
async fn a_kv_source_that_is_not_allowed_is_as_good_as_none() {
    let (prefill, decode, source) = (engine().await, engine().await, engine().await);
    let sources = source.host_port();
    for (allow, expected) in
        [(format!("{},{sources}", prefill.host_port()), true), (prefill.host_port(), false)]
    {
        let allow = format!("--allow-target={allow}");
        let sidecar = Sidecar::start(decode.addr().port(), &["--enable-p2p-pull", &allow]);
        for name in SOURCE {
            for target in ["", &prefill.host_port()] {
                decode.clear_requests();
                prefill.clear_requests();
                let body = APIS[0].body(false);
                let ask = Ask::post(APIS[0].path, body.as_str()).prefill(target).header(name, &sources);
                ask.send(sidecar.address()).await.ok();
                // With a handoff it is prefill that pulls.
                let pulls = if target.is_empty() { &decode } else { &prefill };
                let leg = pulls.requests().pop().unwrap();
                let named = leg.body.as_ref().unwrap().contains("remote_kv_source");
                assert_eq!(named, expected, "{name} {target}");
                if !expected && target.is_empty() {
                    assert_eq!(leg.body.as_ref().unwrap(), &body, "untouched");
                }
                let legs = [prefill.requests(), decode.requests()].concat();
                assert!(legs.iter().all(|leg| leg.header_values(name).is_empty()));
            }
        }
        crate::child::empty([&prefill, &decode]).await;
        sidecar.end().await;
    }
    nothing_was_sent(&[&source]);
}

#[tokio::test]
async fn encoders_that_are_not_allowed_are_no_encoders() {
    const IMAGE: &str = r#"{"type":"image_url","image_url":{"url":"http://a/i.png"}}"#;
    let body = format!(r#"{{"messages":[{{"role":"user","content":[{IMAGE},{IMAGE}]}}],"max_tokens":5}}"#);
    let answering = |answer: &'static str| Scripted::answering(json_answer(200, answer));
    let (one, two) = (answering("{}").await, answering("{}").await);
    let decode = answering(r#"{"done":1}"#).await;
    let both = format!("{},{}", one.host_port(), two.host_port());
    for (allow, asked) in [
        (both.clone(), [1, 1]),
        (two.host_port(), [0, 2]),
        // With nobody left the prompt is computed whole, from the body as it came.
        ("10.0.0.0/8".to_owned(), [0, 0]),
    ] {
        let flags = ["--ec-connector=ec-example".to_owned(), format!("--allow-target={allow}")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let sidecar = Sidecar::start(decode.port(), &flags);
        let before = [one.requests().len(), two.requests().len()];
        for name in ["x-encoder-hosts-ports", "x-llm-d-encoder-hosts-ports"] {
            let ask = Ask::post(APIS[0].path, body.as_str()).header(name, &both);
            assert_eq!(ask.send(sidecar.address()).await.ok().text(), r#"{"done":1}"#);
            if asked == [0, 0] {
                assert_eq!(decode.requests().pop().unwrap().text(), body);
            }
        }
        let after = [one.requests().len(), two.requests().len()];
        assert_eq!([after[0] - before[0], after[1] - before[1]], asked.map(|count| 2 * count), "{allow}");
        sidecar.end().await;
    }
}
