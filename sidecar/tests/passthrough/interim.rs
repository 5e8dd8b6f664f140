//! What happens around a response: early hints, `100-continue`, leaving HTTP.

use std::sync::Arc;

use crate::common::{APIS, Raw, Rig, Scripted, Sidecar, chunk, json_answer, sse_head};
use tokio::sync::Notify;

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nlink: </b>\r\n\r\n";

/// A request that names `prefill`, if it is given.
fn request(path: &str, prefill: Option<&str>) -> String {
    let routing = prefill.map_or(String::new(), |target| format!("x-prefiller-host-port: {target}\r\n"));
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\n{routing}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    )
}

#[tokio::test]
async fn early_hints_arrive_before_there_is_an_answer() {
    // No timing: the engine answers only when its hints have reached the client.
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let prefill = prefill.host_port();
    for (path, target) in [("/v1/completions", None), ("/v1/completions", Some(prefill.as_str()))] {
        for stream in [false, true] {
            let go_on = Arc::new(Notify::new());
            let reached = Arc::clone(&go_on);
            let decode = Scripted::start(move |mut exchange| {
                let reached = Arc::clone(&reached);
                async move {
                    exchange.write(HINTS).await;
                    reached.notified().await;
                    if stream {
                        exchange.write(sse_head()).await;
                        exchange.write(chunk("data: x\n\n")).await;
                        exchange.write(chunk("")).await;
                    } else {
                        exchange.write(json_answer(200, r#"{"x":1}"#)).await;
                    }
                    Some(exchange)
                }
            })
            .await;
            let sidecar = Sidecar::start(decode.port(), &[]);
            let mut client = Raw::connect(sidecar.address()).await;
            // Twice on one connection: hints must not fall into the response before.
            for _ in 0..2 {
                client.write(request(path, target)).await;
                let hints = client.head().await;
                assert!(hints.starts_with("HTTP/1.1 103 "), "{hints}");
                assert!(hints.contains("link: </style.css>; rel=preload\r\nlink: </b>\r\n"), "{hints}");
                go_on.notify_one();
                assert!(client.head().await.starts_with("HTTP/1.1 200 "));
                client.until(if stream { "0\r\n\r\n" } else { "{\"x\":1}" }).await;
            }
            drop(client);
            sidecar.end().await;
        }
    }
}

#[tokio::test]
async fn hints_of_an_engine_that_writes_everything_at_once_leave_the_answer_whole() {
    let rig = Rig::start().await;
    rig.decode
        .set_faults(kvferry_emulator::Faults { early_hints: true, ..kvferry_emulator::Faults::default() });
    for stream in [false, true] {
        let body = APIS[0].body(stream);
        let mut client = Raw::connect(rig.address()).await;
        client
            .write(format!(
                "POST {} HTTP/1.1\r\nhost: a\r\nx-prefiller-host-port: {}\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                APIS[0].path,
                rig.prefill.host_port(),
                body.len()
            ))
            .await;
        let all = client.rest().await;
        // Whether the hints still make it is a matter of who writes first; that nothing is torn is not.
        let answer = all.split_once("HTTP/1.1 200 OK\r\n").expect("an answer").1;
        assert!(answer.contains("\r\n\r\n"), "{all}");
        assert!(if stream { answer.ends_with("0\r\n\r\n") } else { answer.ends_with('}') }, "{all}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let rig = Rig::start().await;
    for target in [None, Some(rig.prefill.host_port())] {
        let body = APIS[1].body(false);
        let routing = target.map_or(String::new(), |target| format!("x-prefiller-host-port: {target}\r\n"));
        let mut client = Raw::connect(rig.address()).await;
        client
            .write(format!(
                "POST {} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n{routing}content-length: {}\r\n\r\n",
                APIS[1].path,
                body.len()
            ))
            .await;
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write(body).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        assert!(rig.decode.requests().pop().unwrap().header_values("expect").is_empty());
    }
    rig.end().await;
}

#[tokio::test]
async fn an_upgrade_joins_the_two_connections() {
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    client
        .write(
            "GET /emulator/upgrade HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo/1\r\n\
             x-prefiller-host-port: 127.0.0.1:9\r\n\r\n",
        )
        .await;
    let head = client.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: echo/1\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    for message in ["hello", "\u{0}\u{1}binary\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        client.write(message).await;
        assert_eq!(client.until(message).await, message);
    }
    // A client that says no more still hears what is on its way, and then the end.
    client.write("last").await;
    client.finish_writing().await;
    assert_eq!(client.rest().await, "last");
    rig.end().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    for _ in 0..2 {
        client
            .write("GET /nope HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 404 "));
        client.until("}}").await;
    }
    drop(client);
    rig.end().await;
}
