//! The release move: what is sent for KV that nobody will read, and when it counts as taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::common::{Ask, Received, Scripted, Sidecar, chunk, eventually, json_answer, sse_head};

const PARAMS: &str = r#"{"remote_block_ids": [[1]], "big":123456789012345678901234567890}"#;

async fn prefill() -> Scripted {
    Scripted::answering(json_answer(200, &format!("{{\"kv_transfer_params\":{PARAMS}}}"))).await
}

/// A decode engine that gives `first` to the decode leg, and to releases what `then` says for the nth of them.
async fn decode(first: Vec<u8>, then: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Scripted {
    let (first, then, count) = (Arc::new(first), Arc::new(then), Arc::new(AtomicUsize::new(0)));
    Scripted::start(move |mut exchange| {
        let (first, then, count) = (Arc::clone(&first), Arc::clone(&then), Arc::clone(&count));
        async move {
            match count.fetch_add(1, Relaxed) {
                0 => exchange.write(&*first).await,
                n => exchange.write(json_answer(then(n), "{}")).await,
            }
            Some(exchange)
        }
    })
    .await
}

fn is_release(request: &Received) {
    assert!(request.head.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{}", request.head);
    let body = request.text();
    // Verbatim, or the engines would not find what they are to free.
    assert!(body.contains(&format!("\"kv_transfer_params\":{PARAMS}")), "{body}");
    // It must never be able to start work: no model of that name is served anywhere.
    assert!(body.contains("no-such-model"), "{body}");
}

fn ask(prefill: &Scripted) -> Ask {
    Ask::post("/v1/chat/completions", "{}")
        .prefill(&prefill.host_port())
        .header("authorization", "Bearer key")
        .header("x-request-id", "mine")
}

#[tokio::test]
async fn an_error_told_inside_a_success_is_passed_on_and_the_kv_released() {
    for first in [
        "data: {\"error\":{\"message\":\"KV load failed\"}}\n\n",
        "data: {\"object\":\"error\",\"message\":\"KV load failed\"}\n\n",
        "event: error\ndata: {\"type\":\"error\"}\n\n",
        "data: {\"type\":\"error\",\"code\":1}\n\n",
    ] {
        let prefill = prefill().await;
        let frames = [first, "data: [DONE]\n\n"];
        let stream = [sse_head(), &frames.map(chunk).concat(), &chunk("")].concat();
        let decode = decode(stream.into_bytes(), |_| 404).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        let answer = ask(&prefill).send(sidecar.address()).await.ok();
        assert_eq!(answer.text(), frames.concat());
        let counts = sidecar.end().await;
        assert_eq!((counts.released, counts.consumed), (1, 0), "{first}");
        let requests = decode.requests();
        assert_eq!(requests.len(), 2);
        is_release(&requests[1]);
        assert_eq!(requests[1].header("authorization"), Some("Bearer key"), "the engine may ask for it");
        assert_eq!(requests[1].header("x-request-id"), Some("mine"));
    }
}

/// The network cuts where it likes: what an event says is known only when its line is whole.
#[tokio::test]
async fn an_error_told_in_pieces_is_an_error_all_the_same() {
    for first in [
        "data: {\"error\":{\"message\":\"KV load failed\"}}\n\n",
        "event: error\ndata: {\"type\":\"error\"}\n\n",
    ] {
        for size in [1, 3, 8] {
            let prefill = prefill().await;
            let pieces: Vec<&str> =
                first.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            let stream: String = pieces.into_iter().map(chunk).collect();
            let stream = [sse_head(), &stream, &chunk("data: [DONE]\n\n"), &chunk("")].concat();
            let decode = decode(stream.into_bytes(), |_| 404).await;
            let sidecar = Sidecar::start(decode.port(), &[]);
            let answer = ask(&prefill).send(sidecar.address()).await.ok();
            assert_eq!(answer.text(), [first, "data: [DONE]\n\n"].concat());
            let counts = sidecar.end().await;
            assert_eq!((counts.released, counts.consumed), (1, 0), "{first} in pieces of {size}");
            is_release(&decode.requests()[1]);
        }
    }
}

#[tokio::test]
async fn a_stream_without_any_data_did_not_read_the_kv() {
    for silent in [chunk(""), [chunk(": still here\n\n"), chunk("")].concat()] {
        let prefill = prefill().await;
        let decode = decode([sse_head(), &silent].concat().into_bytes(), |_| 404).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        ask(&prefill).send(sidecar.address()).await.ok();
        assert_eq!(sidecar.end().await.released, 1, "{silent:?}");
        is_release(&decode.requests()[1]);
    }
}

#[tokio::test]
async fn a_release_is_repeated_until_the_engine_refuses_it_by_the_models_name() {
    // Anything but 404 or 400 means that the request did not get as far as the engine's clean-up.
    let prefill = prefill().await;
    let decode = decode(json_answer(500, "{}"), |n| [503, 200, 404][n - 1]).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    assert_eq!(ask(&prefill).send(sidecar.address()).await.status.as_u16(), 500);
    let counts = sidecar.end().await;
    assert_eq!((counts.released, counts.expired), (1, 0));
    let requests = decode.requests();
    assert_eq!(requests.len(), 4);
    requests[1..].iter().for_each(is_release);
}

#[tokio::test]
async fn a_decode_engine_that_takes_no_release_is_left_alone_after_four_attempts() {
    let prefill = prefill().await;
    let decode = decode(json_answer(500, "{}"), |_| 500).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    ask(&prefill).send(sidecar.address()).await;
    let counts = sidecar.end().await;
    assert_eq!((counts.released, counts.expired), (0, 1));
    assert_eq!(decode.requests().len(), 5);
}

#[tokio::test]
async fn nothing_is_released_that_was_read_or_never_handed_out() {
    for (prefill_says, leg) in [
        (PARAMS, json_answer(200, "{}")),
        (PARAMS, [sse_head(), &chunk("data: {}\n\n"), &chunk("")].concat().into_bytes()),
        ("null", json_answer(500, "{}")),
    ] {
        let prefill =
            Scripted::answering(json_answer(200, &format!("{{\"kv_transfer_params\":{prefill_says}}}")))
                .await;
        let decode = decode(leg, |_| 404).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        ask(&prefill).send(sidecar.address()).await;
        let counts = sidecar.end().await;
        assert_eq!(counts.released, 0);
        assert_eq!(decode.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_release_does_not_overtake_the_decode_leg_it_belongs_to() {
    // Released first and scheduled later, a decode engine could read blocks that are somebody else's by then. Engines
    // need a moment to notice that a client left. On a busy machine this one may need longer than any release waits, so
    // one handoff of several must come out right.
    let (noticed, in_order) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (notice, count) = (Arc::clone(&noticed), Arc::clone(&in_order));
    let decode = Scripted::start(move |mut exchange| {
        let (notice, count) = (Arc::clone(&notice), Arc::clone(&count));
        async move {
            if exchange.request.head.starts_with("POST /v1/chat/") {
                exchange.left().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                notice.store(true, Relaxed);
                return None;
            }
            count.fetch_add(usize::from(notice.load(Relaxed)), Relaxed);
            exchange.write(json_answer(404, "{}")).await;
            Some(exchange)
        }
    })
    .await;
    let prefill = prefill().await;
    let sidecar = Sidecar::start(decode.port(), &["--request-timeout=100ms"]);
    let mut handoffs = 0;
    while in_order.load(Relaxed) == 0 {
        assert!(handoffs < 10, "every release overtook its leg");
        noticed.store(false, Relaxed);
        ask(&prefill).send(sidecar.address()).await.is_error(504, "request_timeout", "in decode");
        handoffs += 1;
        eventually("the KV is released", || sidecar.ledger().released == handoffs).await;
    }
    is_release(&decode.requests()[1]);
    sidecar.end().await;
}
