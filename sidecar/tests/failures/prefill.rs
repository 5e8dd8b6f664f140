//! The prefill leg fails: nothing is sent to decode, and there is no silent local prefill.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{APIS, Ask, Client, Protocol, Rig, Scripted, Setup, Sidecar, json_answer, reserve_port};
use kvferry_emulator::{Config, Emulator, Faults};

#[tokio::test]
async fn an_error_of_the_prefill_engine_is_passed_on_as_it_is() {
    let rig = Rig::start().await;
    for status in [400, 401, 404, 409, 413, 422, 429, 500, 502, 503, 504] {
        let body = format!("{{\"error\": {{\"code\": {status} }} }} \n");
        rig.prefill.set_faults(Faults {
            status: Some(status),
            body: Some(body.clone()),
            headers: BTreeMap::from([("retry-after".into(), "7".into()), ("x-odd".into(), "v".into())]),
            ..Faults::default()
        });
        for stream in [false, true] {
            let answer = rig.ask(APIS[0].path, APIS[0].body(stream)).send(rig.address()).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (status, body.clone()));
            assert_eq!((answer.header("retry-after"), answer.header("x-odd")), ("7", "v"));
            assert_eq!(answer.header("x-emulator-role"), rig.prefill.state().role);
            assert_eq!(answer.header("x-kvferry-error"), "", "it is not the sidecar's error");
        }
    }
    assert!(rig.decode.requests().is_empty());
    assert_eq!(rig.end().await.handed_out, 0);
}

#[tokio::test]
async fn a_redirect_of_the_prefill_engine_is_no_success() {
    let moved = "HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let prefill = Scripted::answering(moved).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
    let answer = ask.send(sidecar.address()).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (307, "/elsewhere"));
    assert!(decode.requests().is_empty());
    sidecar.end().await;
}

#[tokio::test]
async fn a_prefill_engine_that_cannot_be_reached_is_named() {
    let rig = Rig::with(&["--connect-timeout=5s"]).await;
    let (port, _reserved) = reserve_port();
    // A label longer than the name system allows: it cannot resolve, and no name server need be asked.
    let no_host = format!("{}.invalid:8000", "no-such-host-".repeat(6));
    for (target, why) in [(format!("127.0.0.1:{port}"), "connection refused"), (no_host, "does not resolve")]
    {
        let ask = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&target);
        let answer = ask.send(rig.address()).await;
        answer.is_error(502, "prefill_unreachable", &target);
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_answer_that_breaks_off_or_is_no_http_is_the_prefill_engines_fault() {
    let rig = Rig::start().await;
    for faults in
        [Faults { reset_before: true, ..Faults::default() }, Faults { garbage: true, ..Faults::default() }]
    {
        rig.prefill.set_faults(faults);
        let answer = rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await;
        answer.is_error(502, "prefill_broke", &format!("prefill engine {}", rig.prefill.host_port()));
    }
    rig.prefill.set_faults(Faults::default());
    rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await.ok();
    assert_eq!(rig.decode.requests().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_answer_cut_inside_its_body_is_an_error_not_a_cut_connection() {
    let mut setup = Setup::default();
    // The handle was lost with the rest of the body: only the lease can free this KV.
    setup.prefill.kv_lease = Duration::from_millis(200);
    let rig = setup.start().await;
    rig.prefill.set_faults(Faults { reset_after_bytes: Some(20), times: Some(1), ..Faults::default() });
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    let answer = client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await;
    answer.is_error(502, "prefill_broke", "before its answer was complete");
    assert!(rig.decode.requests().is_empty());
    // The same client connection goes on.
    client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await.ok();
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_success_that_is_no_json_object_is_the_prefill_engines_fault_not_the_clients() {
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    for said in [
        "",
        "this is not JSON",
        "<html>",
        "[1]",
        "null",
        "\"x\"",
        "{\"a\":",
        "{\"a\":1}}",
        "{\"a\":\"\u{1}\"}",
    ] {
        let prefill = Scripted::answering(json_answer(200, said)).await;
        let ask = Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
        let answer = ask.send(sidecar.address()).await;
        answer.is_error(502, "prefill_answer_invalid", &prefill.host_port());
    }
    // Compressed, but not really.
    let lie = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}";
    let prefill = Scripted::answering(lie).await;
    let ask = Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
    ask.send(sidecar.address()).await.is_error(502, "prefill_answer_invalid", "gzip");
    assert!(decode.requests().is_empty());
    sidecar.end().await;
}

#[tokio::test]
async fn a_prefill_engine_that_streams_although_told_not_to_is_refused() {
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\ndata: {}\n";
    let prefill = Scripted::answering(events).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
    ask.send(sidecar.address()).await.is_error(502, "prefill_answer_invalid", &prefill.host_port());
    sidecar.end().await;
}

#[tokio::test]
async fn the_next_request_works_when_a_dead_prefill_engine_is_back() {
    let rig = Rig::start().await;
    let (port, kv_port) = (rig.prefill.addr().port(), rig.prefill.kv_port());
    rig.ask(APIS[1].path, APIS[1].body(false)).send(rig.address()).await.ok();
    rig.prefill.set_faults(Faults { crash: true, ..Faults::default() });
    let answer = rig.ask(APIS[1].path, APIS[1].body(false)).send(rig.address()).await;
    assert_eq!(answer.status.as_u16(), 502);
    let answer = rig.ask(APIS[1].path, APIS[1].body(false)).send(rig.address()).await;
    answer.is_error(502, "prefill_unreachable", "connection refused");

    let again = Config { port, kv_port, ..Config::default() };
    let Rig { prefill, decode, sidecar } = rig;
    prefill.wait();
    let prefill = Emulator::start(again).await.unwrap();
    let rig = Rig { prefill, decode, sidecar };
    rig.ask(APIS[1].path, APIS[1].body(false)).send(rig.address()).await.ok();
    rig.end().await;
}
