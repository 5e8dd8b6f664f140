//! Connections are kept on both sides, and one that the other side has closed costs nobody an answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::common::{
    APIS, Ask, Client, Protocol, Received, Rig, Scripted, Sidecar, chunk, json_answer, sse_head,
};

const PARAMS: &str = r#"{"kv_transfer_params":{"a":1}}"#;

fn used(engine: &Scripted) -> usize {
    engine.requests().iter().map(|request| request.connection).collect::<HashSet<_>>().len()
}

#[tokio::test]
async fn a_client_connection_serves_one_request_after_the_other() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    for n in 0..4 {
        for route in APIS {
            client.send(rig.ask(route.path, route.body(n % 2 == 0))).await.ok();
            client.send(Ask::post(route.path, route.body(n % 2 == 1))).await.ok();
        }
        client.send(Ask::get("/v1/models")).await.ok();
        client.send(Ask::get("/health")).await.ok();
        client.send(rig.ask(APIS[0].path, "{")).await.is_error(400, "malformed_body", "invalid JSON");
    }
    assert!(!client.is_closed());
    rig.end().await;
}

#[tokio::test]
async fn one_connection_to_each_engine_is_enough_for_one_client() {
    let prefill = Scripted::answering(json_answer(200, PARAMS)).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &["--workers=1"]);
    for n in 0..10 {
        let ask = Ask::post("/v1/completions", "{}");
        let ask = if n % 3 == 0 { ask } else { ask.prefill(&prefill.host_port()) };
        ask.send(sidecar.address()).await.ok();
    }
    assert_eq!((prefill.requests().len(), used(&prefill)), (6, 1));
    assert_eq!((decode.requests().len(), used(&decode)), (10, 1));
    sidecar.end().await;
}

#[tokio::test]
async fn a_connection_is_kept_after_every_kind_of_answer() {
    // Announced length or chunks, held back or passed on: the end of each must be noticed.
    let prefill = Scripted::answering(json_answer(200, PARAMS)).await;
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\ndata: {}\n";
    let chunked = [sse_head(), &chunk("data: {}\n\n"), &chunk("")].concat();
    for answer in [json_answer(200, "{}"), json_answer(422, "{}"), events.into(), chunked.into_bytes()] {
        let decode = Scripted::answering(answer.clone()).await;
        let sidecar = Sidecar::start(decode.port(), &["--workers=1"]);
        for route in APIS {
            let ask = Ask::post(route.path, "{}");
            ask.clone().send(sidecar.address()).await;
            ask.prefill(&prefill.host_port()).send(sidecar.address()).await;
        }
        sidecar.end().await;
        let answers = |request: &&Received| !request.text().contains("no-such-model");
        let connections: HashSet<_> =
            decode.requests().iter().filter(answers).map(|request| request.connection).collect();
        assert_eq!(connections.len(), 1, "{}", String::from_utf8(answer).unwrap());
    }
}

#[tokio::test]
async fn an_engine_that_closes_after_every_answer_loses_none() {
    // The close is not announced: it may be noticed before, while or after the next request is sent.
    async fn closing(answer: &'static str) -> Scripted {
        Scripted::start(move |mut exchange| async move {
            exchange.write(json_answer(200, answer)).await;
            None
        })
        .await
    }
    let (prefill, decode) = (closing(PARAMS).await, closing(r#"{"said":1}"#).await);
    let sidecar = Sidecar::start(decode.port(), &["--workers=1"]);
    let mut client = Client::connect(sidecar.address(), Protocol::Http1).await;
    for n in 0..60 {
        let ask = match n % 3 {
            0 => Ask::get("/v1/models"),
            1 => Ask::post("/v1/completions", r#"{"with":"a body"}"#),
            _ => Ask::post("/v1/completions", "{}").prefill(&prefill.host_port()),
        };
        let answer = client.send(ask).await.ok();
        assert_eq!(answer.text(), r#"{"said":1}"#, "request {n}");
    }
    sidecar.end().await;
}

/// An engine that closes a connection when a second request has come on it, without a word.
async fn closing_on_the_second() -> Scripted {
    let used = Arc::new(Mutex::new(HashSet::new()));
    Scripted::start(move |mut exchange| {
        let first = used.lock().unwrap().insert(exchange.request.connection);
        async move {
            if !first {
                return None;
            }
            exchange.write(json_answer(200, r#"{"said":1}"#)).await;
            Some(exchange)
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_met_the_end_of_a_kept_connection_is_repeated_if_that_does_no_harm() {
    let small = "x".repeat(64 * 1024);
    let large = "x".repeat(64 * 1024 + 1);
    for (method, path, body, repeated) in [
        ("POST", "/v1/completions", small.as_str(), true),
        ("POST", "/v1/chat/completions", "{}", true),
        ("POST", "/v1/completions", "", true),
        ("PUT", "/x", "{}", true),
        ("DELETE", "/x", "", true),
        ("GET", "/v1/models", "", true),
        // The engine may have done it: it loads something twice, say.
        ("POST", "/v1/load_lora_adapter", "{}", false),
        ("POST", "/sleep", "", false),
        ("PATCH", "/x", "{}", false),
        // Not kept for a second try.
        ("POST", "/v1/completions", large.as_str(), false),
    ] {
        let engine = closing_on_the_second().await;
        let sidecar = Sidecar::start(engine.port(), &["--workers=1"]);
        let mut client = Client::connect(sidecar.address(), Protocol::Http1).await;
        client.send(Ask::get("/v1/models")).await.ok();
        let answer = client.send(Ask::new(method, path, body)).await;
        if repeated {
            assert_eq!(answer.ok().text(), r#"{"said":1}"#);
        } else {
            answer.is_error(502, "decode_broke", "before its answer was complete");
        }
        let requests = engine.requests();
        let seen: Vec<_> = requests[1..].iter().map(|request| (request.connection, request.text())).collect();
        let expected = [(0, body.to_owned()), (1, body.to_owned())];
        assert_eq!(seen, expected[..=usize::from(repeated)], "{method} {path}");
        sidecar.end().await;
    }
}

#[tokio::test]
async fn a_small_body_that_stops_arriving_is_told_and_never_sent() {
    let rig = Rig::with(&["--body-timeout=100ms"]).await;
    let mut client = crate::common::Raw::connect(rig.address()).await;
    client.write("POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nhalf").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_stalled"), "{answer}");
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn requests_go_on_after_both_engines_restarted() {
    // A restart resets every kept connection.
    let rig = Rig::with(&["--workers=1"]).await;
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    for _ in 0..10 {
        client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await.ok();
        client.send(Ask::post(APIS[1].path, APIS[1].body(false))).await.ok();
        rig.prefill.restart();
        rig.decode.restart();
    }
    rig.end().await;
}

#[tokio::test]
async fn an_engine_that_says_close_is_not_asked_on_that_connection_again() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let decode = Scripted::answering(answer).await;
    let sidecar = Sidecar::start(decode.port(), &["--workers=1"]);
    for _ in 0..3 {
        Ask::get("/v1/models").send(sidecar.address()).await.ok();
    }
    assert_eq!(used(&decode), 3);
    sidecar.end().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::start().await;
    let mut client = crate::common::Raw::connect(rig.address()).await;
    let request =
        |n| format!("POST /emulator/echo?n={n} HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nbody {n}");
    client.write((0..5).map(request).collect::<Vec<_>>().concat()).await;
    for n in 0..5 {
        client.head().await;
        assert!(client.until(&format!("\"body\":\"body {n}\"}}")).await.contains(&format!("?n={n}")));
    }
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn clients_of_both_address_families_are_served() {
    let rig = Rig::start().await;
    let port = rig.address().port();
    for (address, name) in [(format!("127.0.0.1:{port}"), "127.0.0.1"), (format!("[::1]:{port}"), "::1")] {
        if name == "::1" && std::net::TcpListener::bind("[::1]:0").is_err() {
            // Nothing to try on a machine without IPv6.
            continue;
        }
        Ask::get("/v1/models").send(address.parse().unwrap()).await.ok();
        assert_eq!(rig.decode.requests().pop().unwrap().header_values("x-forwarded-for"), [name]);
    }
    rig.end().await;
}

#[tokio::test]
async fn the_first_bytes_of_a_connection_may_come_one_by_one() {
    // They decide which protocol is spoken, and `POST` begins like HTTP/2's preface.
    let rig = Rig::start().await;
    for request in
        ["POST /emulator/echo HTTP/1.1", "PROPFIND /emulator/echo HTTP/1.1", "GET /emulator/echo HTTP/1.1"]
    {
        let mut client = crate::common::Raw::connect(rig.address()).await;
        for byte in request.as_bytes() {
            client.write([*byte]).await;
            tokio::task::yield_now().await;
        }
        client.write("\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(client.rest().await.starts_with("HTTP/1.1 200 "), "{request}");
    }
    let mut client = crate::common::Raw::connect(rig.address()).await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.write([*byte]).await;
        tokio::task::yield_now().await;
    }
    // An empty frame of settings, and the server's own in return.
    client.write([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(client.bytes(4).await[3], 4);
    drop(client);
    rig.end().await;
}
