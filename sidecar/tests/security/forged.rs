//! Routing headers say where requests go, so no engine may see one: whatever the route, the method, the protocol, and
//! whether they were used.

use crate::common::{APIS, Ask, Client, Protocol, Raw, Rig, Scripted, Sidecar};
use kvferry_emulator::SeenRequest;

const ROUTING: [&str; 8] = [
    "x-prefiller-host-port",
    "x-llm-d-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-llm-d-encoder-hosts-ports",
    "x-kv-cache-source-host-port",
    "x-llm-d-kv-cache-source-host-port",
    "x-data-parallel-host-port",
    "x-speculative-prefill",
];

/// Every routing header twice, in values that are none or lead nowhere; but the prefill target is `target`.
fn forged(mut ask: Ask, target: &str) -> Ask {
    for name in ROUTING {
        let prefiller = name.contains("prefiller");
        for value in ["127.0.0.1:9", "{}"] {
            ask = ask.header(name, if prefiller { target } else { value });
        }
    }
    ask
}

fn clean(requests: &[SeenRequest]) {
    for request in requests {
        for (name, value) in &request.headers {
            let routing = ROUTING.iter().any(|routing| name.eq_ignore_ascii_case(routing));
            assert!(!routing, "{name}: {value} reached {} {}", request.method, request.path);
        }
    }
}

#[tokio::test]
async fn no_method_route_or_protocol_lets_one_through() {
    let rig = Rig::start().await;
    let target = rig.prefill.host_port();
    let mut expected = (0, 0);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut client = Client::connect(rig.address(), protocol).await;
        for route in APIS {
            for stream in [false, true] {
                let ask = || Ask::post(route.path, route.body(stream));
                client.send(forged(ask(), &target)).await.ok();
                client.send(forged(ask(), "")).await.ok();
                expected = (expected.0 + 1, expected.1 + 2);
            }
            client.send(forged(Ask::get(route.path), &target)).await;
            client.send(forged(Ask::post(&format!("{}/x", route.path), "{}"), &target)).await;
            expected.1 += 2;
        }
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
            client.send(forged(Ask::new(method, "/emulator/echo?a=b", ""), &target)).await.ok();
            expected.1 += 1;
        }
        for path in ["/v1/models", "/v1/embeddings", "/metrics", "/tokenize", "/nope"] {
            client.send(forged(Ask::get(path), &target)).await;
            expected.1 += 1;
        }
    }
    let (prefill, decode) = (rig.prefill.requests(), rig.decode.requests());
    assert_eq!((prefill.len(), decode.len()), expected);
    clean(&prefill);
    clean(&decode);
    rig.end().await;
}

#[tokio::test]
async fn an_upgrade_takes_none_along() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n";
    let decode = Scripted::answering(switching).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let mut client = Raw::connect(sidecar.address()).await;
    let lines = ROUTING.map(|name| format!("{name}: 127.0.0.1:9\r\n")).concat();
    let head = "GET /realtime HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo/1\r\n";
    client.write(format!("{head}{lines}\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    drop(client);
    let seen = &decode.requests()[0];
    assert_eq!(seen.header("upgrade"), Some("echo/1"));
    for name in ROUTING {
        assert_eq!(seen.header(name), None, "{name}");
    }
    sidecar.end().await;
}

#[tokio::test]
async fn capitals_and_blanks_hide_none() {
    let rig = Rig::start().await;
    for method in ["GET /emulator/echo", "POST /v1/chat/completions", "POST /v1//completions"] {
        let mut client = Raw::connect(rig.address()).await;
        let lines = ROUTING.map(|name| format!("{}:\t 127.0.0.1:9 \r\n", name.to_uppercase())).concat();
        // No target: what they name must not be dialled either.
        let lines = lines.replace("PREFILLER-HOST-PORT:\t 127.0.0.1:9 ", "PREFILLER-HOST-PORT:\t ");
        let head = format!(
            "{method} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n{lines}\r\n{{}}"
        );
        client.write(head).await;
        client.rest().await;
    }
    let seen = rig.decode.requests();
    assert_eq!(seen.len(), 3);
    clean(&seen);
    rig.end().await;
}

#[tokio::test]
async fn a_header_named_as_hop_by_hop_is_still_read_and_removed() {
    // Whoever could make the sidecar overlook the scheduler's header could choose the target by the other spelling.
    let rig = Rig::start().await;
    let ask = rig
        .ask(APIS[0].path, APIS[0].body(false))
        .header("connection", "x-prefiller-host-port, x-llm-d-prefiller-host-port, keep-alive")
        .header("x-llm-d-prefiller-host-port", "127.0.0.1:9");
    ask.send(rig.address()).await.ok();
    assert_eq!(rig.prefill.requests().len(), 1);
    clean(&rig.prefill.requests());
    clean(&rig.decode.requests());
    rig.end().await;
}
