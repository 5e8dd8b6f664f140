//! Request smuggling: what we and an engine might read differently must not become a second request there.

use crate::common::{Raw, Scripted, Sidecar, json_answer};

const HIDDEN: &str = "POST /hidden HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";

/// Sends `bytes` and reads until the sidecar closes. Returns its answer and the request lines that engines saw.
async fn reaches(bytes: &str) -> (String, Vec<String>) {
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &["--workers=1"]);
    let mut client = Raw::connect(sidecar.address()).await;
    client.write(bytes.replace("PREFILL", &prefill.host_port())).await;
    let answer = client.rest().await;
    sidecar.end().await;
    let lines = [prefill.requests(), decode.requests()].concat();
    let lines = lines.iter().map(|request| request.head.lines().next().unwrap().to_owned()).collect();
    (answer, lines)
}

#[tokio::test]
async fn a_request_hidden_in_a_body_stays_in_that_body() {
    let size = HIDDEN.len();
    for path in ["/v1/embeddings", "/v1/completions"] {
        for framing in [
            // Length before coding, and behind it.
            "content-length: 4\r\ntransfer-encoding: chunked\r\n".to_owned(),
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n".to_owned(),
            // Codings that one reader knows and another does not.
            format!("transfer-encoding: xchunked\r\ncontent-length: {size}\r\n"),
            format!("transfer-encoding: chunked, identity\r\ncontent-length: {size}\r\n"),
            format!(
                "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\ncontent-length: {size}\r\n"
            ),
            format!("transfer-encoding : chunked\r\ncontent-length: {size}\r\n"),
            format!("transfer-encoding:\x0bchunked\r\ncontent-length: {size}\r\n"),
            format!("x: y\ntransfer-encoding: chunked\r\ncontent-length: {size}\r\n"),
            // Lengths that differ.
            "content-length: 0\r\ncontent-length: 60\r\n".to_owned(),
            "content-length: 60\r\ncontent-length: 0\r\n".to_owned(),
            "content-length: 0, 60\r\n".to_owned(),
            "content-length: +60\r\n".to_owned(),
            "content-length: 0x3c\r\n".to_owned(),
            "content-length: -1\r\n".to_owned(),
            // The length is said to belong to one hop only.
            format!("connection: close, content-length\r\ncontent-length: {size}\r\n"),
            "connection: close, transfer-encoding\r\ntransfer-encoding: chunked\r\n".to_owned(),
        ] {
            let chunked = format!("{size:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
            for body in [chunked.as_str(), HIDDEN] {
                let bytes =
                    format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{framing}\r\n{body}");
                let (answer, lines) = reaches(&bytes).await;
                assert!(
                    lines.iter().all(|line| !line.contains("/hidden")) && lines.len() <= 1,
                    "{framing:?} {body:?}: {lines:?}"
                );
                assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{framing:?} {body:?}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn both_framings_at_once_are_read_as_chunks_and_sent_on_with_one() {
    let body = "{\"prompt\":1}";
    let (answer, lines) = reaches(&format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-prefiller-host-port: PREFILL\r\n\
         content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    ))
    .await;
    // Refusing is as good as reading it the one right way.
    let refused = answer.starts_with("HTTP/1.1 400 ");
    assert!(refused || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(lines.len(), if refused { 0 } else { 2 }, "{lines:?}");
}

#[tokio::test]
async fn header_values_cannot_start_a_line_of_their_own() {
    for value in ["a\rx-injected: 1", "a\nx-injected: 1", "a\0b"] {
        let (answer, lines) = reaches(&format!(
            "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: {value}\r\n\
             x-prefiller-host-port: PREFILL\r\ncontent-length: 2\r\n\r\n{{}}"
        ))
        .await;
        // A bare line feed ends a line for some readers; then it is a header of the client's own, which it may send.
        assert!(answer.starts_with("HTTP/1.1 400 ") || value.contains('\n'), "{value:?}: {answer}");
        assert!(lines.len() <= 2, "{lines:?}");
    }
}

#[tokio::test]
async fn what_comes_behind_a_refused_request_is_not_served() {
    // Its body was not read to the end: what looks like a second request is the rest of the first.
    let (answer, lines) = reaches(&format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-prefiller-host-port: PREFILL\r\ntransfer-encoding: chunked\r\n\r\n\
         zz\r\n{HIDDEN}"
    ))
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(lines.is_empty(), "{lines:?}");
}
